//! Transactions, driven: the core says what to ask of which group (`annulus_core::txn`), and this asks.
//!
//! ```text
//!  http/txn ─▶ run ─▶ Coordinator ──asks──▶ drive ──Router──▶ leaders
//!               ▲         │   answer as soon as there is one; what is left is done in the background
//!               └─────────┘
//!  lanes ─ abandoned ─▶ Recoveries ─▶ Recovery ──asks──▶ drive
//!                                        steps towards an end ─▶ Settler: with what the same group can close
//! ```
//!
//! Nothing here decides anything, but whether a transaction looks first: that is by how those before it fared. A client that goes
//! away leaves its transaction to go on to its end.

mod drive;
mod recoveries;
mod settler;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use annulus_core::id::PartitionId;
use annulus_core::lane::Refusal;
use annulus_core::map::Map;
use annulus_core::partition::Key;
use annulus_core::partition::txn::{Decision, Name, Pointer};
use annulus_core::txn::{Answer, Coordinator, Failure, Recovery, Seen, Snapshot, Transaction};
use rand::Rng;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::metrics::{Metrics, TxnKind, TxnOutcome};
use crate::router::Router;
use drive::drive;
use settler::Settler;

pub use recoveries::{Found, recover_abandoned};

/// Most transactions that one I/O thread has under way, those in the background counted.
const MAX_RUNNING: usize = 8192;
/// When so many of 1024 (the last ones counting most, an eighth each) took more than one attempt, or failed a condition, the next ones
/// look before they hold anything.
const CONTENDED: u32 = 300;
/// A transaction that takes longer is told of in the log.
const SLOW: Duration = Duration::from_secs(1);

/// The transactions of one I/O thread.
pub struct Transactions<R> {
    router: Rc<R>,
    settler: Rc<Settler<R>>,
    running: Rc<Cell<usize>>,
    /// How many of the last transactions with conditions over several partitions met others: of 1024, the last ones counting most.
    contention: Rc<Cell<u32>>,
    metrics: Arc<Metrics>,
}

impl<R> Clone for Transactions<R> {
    fn clone(&self) -> Self {
        let (router, settler) = (Rc::clone(&self.router), Rc::clone(&self.settler));
        let (running, contention) = (Rc::clone(&self.running), Rc::clone(&self.contention));
        Self { router, settler, running, contention, metrics: Arc::clone(&self.metrics) }
    }
}

/// One that is under way.
struct Running(Rc<Cell<usize>>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// What came of a transaction, and what it took.
#[derive(Debug)]
pub struct Outcome {
    /// What came of it.
    pub answer: Answer,
    /// How many attempts were made.
    pub attempts: u32,
    /// How many partitions it touches.
    pub partitions: usize,
}

impl<R: Router + 'static> Transactions<R> {
    /// For the thread that this is called on.
    pub fn new(router: Rc<R>, metrics: Arc<Metrics>) -> Self {
        let settler = Rc::new(Settler::new(Rc::clone(&router)));
        Self { router, settler, running: Rc::default(), contention: Rc::default(), metrics }
    }

    fn begin(&self) -> Option<Running> {
        if self.running.get() >= MAX_RUNNING {
            return None;
        }
        self.running.set(self.running.get() + 1);
        Some(Running(Rc::clone(&self.running)))
    }

    /// Makes a transaction happen within this time. `priority`: microseconds since 1970, or about that. When its time is over
    /// it takes up to two seconds more to find out that it has done nothing.
    pub async fn run(&self, map: &Map, transaction: Transaction, priority: u64, timeout: Duration) -> Outcome {
        let (began, number) = (Instant::now(), rand::rng().next_u64());
        let name = transaction.name.clone();
        let has_conditions = !transaction.conditions.is_empty();
        let coordinator = Coordinator::new(transaction, partition_of(map), number, priority);
        let looks_first = self.contention.get() >= CONTENDED;
        let coordinator = if looks_first { coordinator.look_first() } else { coordinator };
        let partitions = coordinator.participants();
        let Some(running) = self.begin() else {
            let answer = Answer::Failed(Failure::Refused(Refusal::Busy));
            let outcome = Outcome { answer, attempts: 0, partitions };
            observe(&self.metrics, &name, &outcome, began);
            return outcome;
        };
        let (sender, receiver) = oneshot::channel();
        let driving = drive(Rc::clone(&self.router), Rc::clone(&self.settler), coordinator, began + timeout, sender);
        let (teller, told) = oneshot::channel();
        let (metrics, contention) = (Arc::clone(&self.metrics), Rc::clone(&self.contention));
        let telling = async move {
            let (answer, attempts) = receiver.await.unwrap_or((Answer::Unknown, 0));
            let outcome = Outcome { answer, attempts, partitions };
            if has_conditions && partitions > 1 {
                let met = attempts > 1 || matches!(outcome.answer, Answer::Committed { then: false, .. });
                contention.set(contention.get() * 7 / 8 + if met { 128 } else { 0 });
            }
            observe(&metrics, &name, &outcome, began);
            // Whoever asked may be gone.
            let _ = teller.send(outcome);
        };
        // It goes on when its client is gone, or has its answer.
        tokio::task::spawn_local(async move {
            tokio::join!(driving, telling);
            drop(running);
        });
        told.await.unwrap_or(Outcome { answer: Answer::Unknown, attempts: 0, partitions })
    }

    /// Some keys as they were at one moment.
    pub async fn snapshot(&self, map: &Map, keys: Vec<Key>, timeout: Duration) -> Seen {
        let began = Instant::now();
        let seen = match self.begin() {
            None => Seen::Refused(Refusal::Busy),
            Some(_running) => {
                let (sender, receiver) = oneshot::channel();
                let snapshot = Snapshot::new(keys, partition_of(map));
                let deadline = began + timeout;
                drive(Rc::clone(&self.router), Rc::clone(&self.settler), snapshot, deadline, sender).await;
                receiver.await.map_or(Seen::Refused(Refusal::TimedOut), |(seen, _)| seen)
            }
        };
        let outcome = match &seen {
            Seen::Items(_) => TxnOutcome::Committed,
            Seen::Changing => TxnOutcome::Conflict,
            Seen::ReadsTooMuch | Seen::Refused(_) => TxnOutcome::Failed,
        };
        self.metrics.txns.observe(TxnKind::Snapshot, outcome, 0, began.elapsed());
        seen
    }

    /// Brings an attempt that was found in a partition to its end. `None`: a partition could not be asked in time.
    pub async fn recover(&self, pointer: Pointer, found_in: PartitionId, timeout: Duration) -> Option<Decision> {
        let (sender, receiver) = oneshot::channel();
        let (name, anchor) = (pointer.id.name.clone(), pointer.anchor);
        let recovery = Recovery::new(pointer, found_in);
        let deadline = Instant::now() + timeout;
        drive(Rc::clone(&self.router), Rc::clone(&self.settler), recovery, deadline, sender).await;
        let decision = receiver.await.ok().and_then(|(decision, _)| decision);
        let decided = match decision {
            Some(Decision::Then) => "then",
            Some(Decision::Otherwise) => "else",
            Some(Decision::Abort) => "abort",
            None => "unknown",
        };
        self.metrics.txns.observe_recovery(decided);
        tracing::info!(transaction = %shown(&name), %found_in, %anchor, decided, "ended an abandoned transaction");
        decision
    }
}

/// Counts a transaction that has its answer, and tells of it if it was slow.
fn observe(metrics: &Metrics, name: &Name, outcome: &Outcome, began: Instant) {
    let Outcome { answer, attempts, partitions } = outcome;
    let came_of_it = match answer {
        Answer::Committed { then: true, .. } => TxnOutcome::Committed,
        Answer::Committed { then: false, .. } => TxnOutcome::ConditionFailed,
        Answer::Failed(Failure::Conflict) => TxnOutcome::Conflict,
        Answer::Failed(_) => TxnOutcome::Failed,
        Answer::Unknown => TxnOutcome::Unknown,
    };
    let kind = if *partitions == 1 { TxnKind::One } else { TxnKind::Several };
    let took = began.elapsed();
    metrics.txns.observe(kind, came_of_it, *attempts, took);
    if took > SLOW {
        let (outcome, took_ms) = (came_of_it.name(), took.as_millis() as u64);
        tracing::info!(transaction = %shown(name), partitions, attempts, took_ms, outcome, "a transaction was slow");
    }
}

/// A name as it is shown.
fn shown(name: &Name) -> impl std::fmt::Display + '_ {
    name.bytes().escape_ascii()
}

fn partition_of(map: &Map) -> impl Fn(&[u8]) -> PartitionId + '_ {
    |key| map.partition_of(key)
}
