//! Steps that end transactions, together: those for one group wait while others of it are under way, and then go as one entry.
//! That a transaction can be forgotten is told with the next steps for its group, or after a while.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use annulus_core::id::GroupId;
use annulus_core::lane::{Operation, Refusal, Reply};
use annulus_core::partition::txn::{Command, Id, Outcome, Settle};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::router::Router;

/// Most steps in one entry.
const MAX_STEPS: usize = 256;

/// How long it may take until a group is told that a transaction can be forgotten. After a second it would take it for abandoned.
const FORGOTTEN_WITHIN: Duration = Duration::from_millis(250);
/// How long its answer is waited for, which nobody needs.
const FORGET_TIMEOUT: Duration = Duration::from_secs(1);

/// The steps of one I/O thread.
pub(super) struct Settler<R> {
    router: Rc<R>,
    /// By group with steps under way: those that wait.
    groups: RefCell<HashMap<GroupId, Vec<Waiting>>>,
    /// By group: what can be forgotten. Not empty while [`Settler::tell_forgotten`] is to come.
    forgotten: RefCell<HashMap<GroupId, Vec<Settle>>>,
}

struct Waiting {
    step: Settle,
    timeout: Duration,
    answer: oneshot::Sender<Reply>,
}

impl<R: Router + 'static> Settler<R> {
    pub(super) fn new(router: Rc<R>) -> Self {
        Self { router, groups: RefCell::default(), forgotten: RefCell::default() }
    }

    /// Takes a step in a group, at once or with others. The answer is that to an operation with this step alone.
    pub(super) fn settle(
        settler: &Rc<Self>,
        group: GroupId,
        step: Settle,
        timeout: Duration,
    ) -> impl Future<Output = Reply> + use<R> {
        let (answer, receiver) = oneshot::channel();
        let waiting = Waiting { step, timeout, answer };
        let mut groups = settler.groups.borrow_mut();
        match groups.get_mut(&group) {
            Some(queue) => queue.push(waiting),
            None => {
                groups.insert(group, Vec::new());
                tokio::task::spawn_local(Rc::clone(settler).send_all(group, vec![waiting]));
            }
        }
        async move { receiver.await.unwrap_or(Reply::Refused(Refusal::TimedOut)) }
    }

    /// Has a group forget a transaction, at some time. If that is lost, the group finds it abandoned.
    pub(super) fn forget(settler: &Rc<Self>, group: GroupId, id: Id) {
        let mut forgotten = settler.forgotten.borrow_mut();
        if forgotten.is_empty() {
            tokio::task::spawn_local(Rc::clone(settler).tell_forgotten());
        }
        forgotten.entry(group).or_default().push(Settle::Forget { id });
    }

    /// Tells every group what it can forget, if it was not told meanwhile.
    async fn tell_forgotten(self: Rc<Self>) {
        sleep(FORGOTTEN_WITHIN).await;
        let forgotten = std::mem::take(&mut *self.forgotten.borrow_mut());
        let told = forgotten.into_iter().flat_map(|(group, steps)| {
            let parts: Vec<Vec<Settle>> = steps.chunks(MAX_STEPS).map(<[Settle]>::to_vec).collect();
            parts.into_iter().map(move |steps| (group, steps))
        });
        let told = told
            .map(|(group, steps)| self.router.submit(group, Operation::Txn(Command::Settle(steps)), FORGET_TIMEOUT));
        futures_util::future::join_all(told).await;
    }

    /// What a group can forget that is told of it now anyway; an empty entry stays.
    fn forgotten_by(&self, group: GroupId) -> Vec<Settle> {
        let mut forgotten = self.forgotten.borrow_mut();
        let Some(steps) = forgotten.get_mut(&group) else { return Vec::new() };
        steps.split_off(steps.len() - steps.len().min(MAX_STEPS))
    }

    /// Sends steps, and then those that have come meanwhile, until none have.
    async fn send_all(self: Rc<Self>, group: GroupId, mut batch: Vec<Waiting>) {
        while !batch.is_empty() {
            let timeout = batch.iter().map(|waiting| waiting.timeout).max().unwrap_or_default();
            let mut steps: Vec<Settle> = batch.iter().map(|waiting| waiting.step.clone()).collect();
            steps.append(&mut self.forgotten_by(group));
            let reply = self.router.submit(group, Operation::Txn(Command::Settle(steps)), timeout).await;
            let mut settled = match reply {
                Reply::Txn(Outcome::Settled(settled)) if settled.len() >= batch.len() => Ok(settled.into_iter()),
                reply => Err(reply),
            };
            for waiting in batch {
                let reply = match &mut settled {
                    Ok(settled) => Reply::Txn(Outcome::Settled(settled.next().into_iter().collect())),
                    Err(reply) => reply.clone(),
                };
                // Whoever waited may be gone.
                let _ = waiting.answer.send(reply);
            }
            batch = self.next(group);
        }
    }

    /// Those that have come for a group; with none, the next one goes at once.
    fn next(&self, group: GroupId) -> Vec<Waiting> {
        let mut groups = self.groups.borrow_mut();
        let queue = groups.get_mut(&group).expect("it stays while steps are under way");
        let rest = queue.split_off(queue.len().min(MAX_STEPS));
        let batch = std::mem::replace(queue, rest);
        if batch.is_empty() {
            groups.remove(&group);
        }
        batch
    }
}
