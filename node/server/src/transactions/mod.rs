//! Transactions, driven: the core says what to ask of which group (`annulus_core::txn`), and this asks.
//!
//! ```text
//!  http/txn ─▶ run ─▶ Coordinator ──asks──▶ drive ──Router──▶ leaders
//!               ▲         │   answer as soon as there is one; what is left is done in the background
//!               └─────────┘
//!  lanes ─ abandoned ─▶ Recoveries ─▶ Recovery ──asks──▶ drive
//!                                        steps towards an end ─▶ Settler: one entry for all that wait for the same group
//! ```
//!
//! Nothing here decides anything. A client that goes away leaves its transaction to go on to its end.

mod drive;
mod recoveries;
mod settler;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use annulus_core::id::PartitionId;
use annulus_core::lane::Refusal;
use annulus_core::map::Map;
use annulus_core::partition::Key;
use annulus_core::partition::txn::{Decision, Pointer};
use annulus_core::txn::{Answer, Coordinator, Failure, Recovery, Seen, Snapshot, Transaction};
use rand::Rng;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::router::Router;
use drive::drive;
use settler::Settler;

pub use recoveries::{Found, recover_abandoned};

/// Most transactions that one I/O thread has under way, those in the background counted.
const MAX_RUNNING: usize = 8192;

/// The transactions of one I/O thread.
pub struct Transactions<R> {
    router: Rc<R>,
    settler: Rc<Settler<R>>,
    running: Rc<Cell<usize>>,
}

impl<R> Clone for Transactions<R> {
    fn clone(&self) -> Self {
        let Self { router, settler, running } = self;
        Self { router: Rc::clone(router), settler: Rc::clone(settler), running: Rc::clone(running) }
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
    pub fn new(router: Rc<R>) -> Self {
        let settler = Rc::new(Settler::new(Rc::clone(&router)));
        Self { router, settler, running: Rc::default() }
    }

    fn begin(&self) -> Option<Running> {
        if self.running.get() >= MAX_RUNNING {
            return None;
        }
        self.running.set(self.running.get() + 1);
        Some(Running(Rc::clone(&self.running)))
    }

    /// Makes a transaction happen within this time. `priority`: microseconds since 1970, or about that.
    pub async fn run(&self, map: &Map, transaction: Transaction, priority: u64, timeout: Duration) -> Outcome {
        let number = rand::rng().next_u64();
        let coordinator = Coordinator::new(transaction, partition_of(map), number, priority);
        let partitions = coordinator.participants();
        let refused = || Outcome { answer: Answer::Failed(Failure::Refused(Refusal::Busy)), attempts: 0, partitions };
        let Some(running) = self.begin() else { return refused() };
        let (sender, receiver) = oneshot::channel();
        let deadline = Instant::now() + timeout;
        let driving = drive(Rc::clone(&self.router), Rc::clone(&self.settler), coordinator, deadline, sender);
        // It goes on when its client is gone, or has its answer.
        tokio::task::spawn_local(async move {
            driving.await;
            drop(running);
        });
        match receiver.await {
            Ok((answer, coordinator_attempts)) => Outcome { answer, attempts: coordinator_attempts, partitions },
            Err(_) => Outcome { answer: Answer::Unknown, attempts: 0, partitions },
        }
    }

    /// Some keys as they were at one moment.
    pub async fn snapshot(&self, map: &Map, keys: Vec<Key>, timeout: Duration) -> Seen {
        let Some(_running) = self.begin() else { return Seen::Refused(Refusal::Busy) };
        let (sender, receiver) = oneshot::channel();
        let snapshot = Snapshot::new(keys, partition_of(map));
        let deadline = Instant::now() + timeout;
        drive(Rc::clone(&self.router), Rc::clone(&self.settler), snapshot, deadline, sender).await;
        receiver.await.map_or(Seen::Refused(Refusal::TimedOut), |(seen, _)| seen)
    }

    /// Brings an attempt that was found in a partition to its end. `None`: its anchor could not be asked in time.
    pub async fn recover(&self, pointer: Pointer, found_in: PartitionId, timeout: Duration) -> Option<Decision> {
        let (sender, receiver) = oneshot::channel();
        let recovery = Recovery::new(pointer, found_in);
        let deadline = Instant::now() + timeout;
        drive(Rc::clone(&self.router), Rc::clone(&self.settler), recovery, deadline, sender).await;
        receiver.await.ok().and_then(|(decision, _)| decision)
    }
}

fn partition_of(map: &Map) -> impl Fn(&[u8]) -> PartitionId + '_ {
    |key| map.partition_of(key)
}
