//! Steps that end transactions, together: those for one group wait while others of it are under way, and then go as one entry.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use annulus_core::id::GroupId;
use annulus_core::lane::{Operation, Refusal, Reply};
use annulus_core::partition::txn::{Command, Outcome, Settle};
use tokio::sync::oneshot;

use crate::router::Router;

/// Most steps in one entry.
const MAX_STEPS: usize = 256;

/// The steps of one I/O thread.
pub(super) struct Settler<R> {
    router: Rc<R>,
    /// By group with steps under way: those that wait.
    groups: RefCell<HashMap<GroupId, Vec<Waiting>>>,
}

struct Waiting {
    step: Settle,
    timeout: Duration,
    answer: oneshot::Sender<Reply>,
}

impl<R: Router + 'static> Settler<R> {
    pub(super) fn new(router: Rc<R>) -> Self {
        Self { router, groups: RefCell::default() }
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

    /// Sends steps, and then those that have come meanwhile, until none have.
    async fn send_all(self: Rc<Self>, group: GroupId, mut batch: Vec<Waiting>) {
        while !batch.is_empty() {
            let timeout = batch.iter().map(|waiting| waiting.timeout).max().unwrap_or_default();
            let steps = batch.iter().map(|waiting| waiting.step.clone()).collect();
            let reply = self.router.submit(group, Operation::Txn(Command::Settle(steps)), timeout).await;
            let mut settled = match reply {
                Reply::Txn(Outcome::Settled(settled)) if settled.len() == batch.len() => Ok(settled.into_iter()),
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
