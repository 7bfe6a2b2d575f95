//! Steps that end transactions, to the leaders of their groups. They wait there for company, so each goes at once; that a
//! transaction can be closed is told with the next step for its group, or after a while.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use annulus_core::id::GroupId;
use annulus_core::lane::{Operation, Reply};
use annulus_core::partition::txn::{ABANDONED_AFTER_MS, Command, Id, Outcome, Settle};
use tokio::time::sleep;

use crate::router::Router;

/// Most steps in one request.
const MAX_STEPS: usize = 256;
/// How long it may take until a group is told that a transaction can be closed.
const CLOSED_WITHIN: Duration = Duration::from_millis(250);
/// How long its answer is waited for, which nobody needs.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

const _: () =
    assert!(CLOSED_WITHIN.as_millis() * 2 < ABANDONED_AFTER_MS as u128, "what is to be closed is not abandoned");

/// The steps of one I/O thread.
pub(super) struct Settler<R> {
    router: Rc<R>,
    /// By group: what can be closed. Not empty while [`Settler::tell_closable`] is to come.
    closable: RefCell<HashMap<GroupId, Vec<Settle>>>,
}

impl<R: Router + 'static> Settler<R> {
    pub(super) fn new(router: Rc<R>) -> Self {
        Self { router, closable: RefCell::default() }
    }

    /// Takes a step in a group. The answer is that to an operation with this step alone.
    pub(super) fn settle(
        settler: &Rc<Self>,
        group: GroupId,
        step: Settle,
        timeout: Duration,
    ) -> impl Future<Output = Reply> + use<R> {
        let mut steps = vec![step];
        steps.append(&mut settler.take_closable(group));
        let router = Rc::clone(&settler.router);
        async move {
            match router.submit(group, Operation::Txn(Command::Settle(steps)), timeout).await {
                Reply::Txn(Outcome::Settled(mut settled)) => {
                    settled.truncate(1);
                    Reply::Txn(Outcome::Settled(settled))
                }
                reply => reply,
            }
        }
    }

    /// Has a group close a transaction, at some time. If that is lost, the group finds it abandoned.
    pub(super) fn close_later(settler: &Rc<Self>, group: GroupId, id: Id) {
        let mut closable = settler.closable.borrow_mut();
        if closable.is_empty() {
            tokio::task::spawn_local(Rc::clone(settler).tell_closable());
        }
        closable.entry(group).or_default().push(Settle::Close { id });
    }

    /// Tells every group what it can close, if it was not told meanwhile.
    async fn tell_closable(self: Rc<Self>) {
        sleep(CLOSED_WITHIN).await;
        let closable = std::mem::take(&mut *self.closable.borrow_mut());
        let told = closable.into_iter().flat_map(|(group, steps)| {
            let parts: Vec<Vec<Settle>> = steps.chunks(MAX_STEPS).map(<[Settle]>::to_vec).collect();
            parts.into_iter().map(move |steps| (group, steps))
        });
        let told =
            told.map(|(group, steps)| self.router.submit(group, Operation::Txn(Command::Settle(steps)), CLOSE_TIMEOUT));
        futures_util::future::join_all(told).await;
    }

    /// What a group can close that is told something now anyway; an empty entry stays.
    fn take_closable(&self, group: GroupId) -> Vec<Settle> {
        let mut closable = self.closable.borrow_mut();
        let Some(steps) = closable.get_mut(&group) else { return Vec::new() };
        steps.split_off(steps.len() - steps.len().min(MAX_STEPS - 1))
    }
}
