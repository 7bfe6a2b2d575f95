//! The locks of the store behind the edge, and its fenced writes: the real machine, one for all partitions, whose clock
//! stands still unless a test moves it.

use annulus_core::partition::lock::{Command, Name, Outcome, Settled, View};
use annulus_core::partition::{self, Applied, Entry, MAX_SCAN_KEYS, Partition};
use annulus_core::state::{MemoryState, TableId};
use tokio::sync::oneshot;

use super::*;

pub(super) struct LockMachine {
    machine: RefCell<(Partition, MemoryState)>,
    pub(super) clock_ms: Cell<u64>,
    index: Cell<u64>,
    /// By the token that each will have.
    waiting: RefCell<BTreeMap<u64, oneshot::Sender<Outcome>>>,
    /// How many have gone away while they waited.
    pub(super) left: Cell<usize>,
}

impl LockMachine {
    pub(super) fn new() -> Self {
        let state = MemoryState::default();
        let partition = Partition::load(&state, TableId { group: GroupId(1), generation: 0 }).unwrap();
        Self {
            machine: RefCell::new((partition, state)),
            clock_ms: Cell::new(1000),
            index: Cell::new(6),
            waiting: RefCell::default(),
            left: Cell::new(0),
        }
    }

    fn apply(&self, command: partition::Command) -> Applied {
        self.index.set(self.index.get() + 1);
        let entry = Entry { clock_ms: self.clock_ms.get(), command }.encode();
        let (partition, state) = &mut *self.machine.borrow_mut();
        partition.apply(state, self.index.get(), entry).unwrap()
    }

    /// Moves the clock, and ends what is over.
    pub(super) fn pass(&self, milliseconds: u64) {
        self.clock_ms.set(self.clock_ms.get() + milliseconds);
        let Applied::Expired(settled) = self.apply(partition::Command::Expire) else { panic!("an expiry expires") };
        self.settle(settled);
    }

    /// Does a write.
    pub(super) fn write(&self, write: &Write) -> partition::Outcome {
        let Applied::Write(outcome) = self.apply(partition::Command::Write(write.clone())) else {
            panic!("a write is written")
        };
        outcome
    }

    /// Does a command at once; one that must wait is told that it does.
    pub(super) fn command(&self, command: Command) -> Outcome {
        let Applied::Lock(applied) = self.apply(partition::Command::Lock(command)) else { panic!("a lock is locked") };
        self.settle(applied.settled);
        applied.outcome
    }

    fn settle(&self, settled: Vec<Settled>) {
        for one in settled {
            let (token, outcome) = match one {
                Settled::Granted { token, deadline_ms } => {
                    (token, Outcome::Granted { token, valid_ms: deadline_ms - self.clock_ms.get() })
                }
                Settled::Gone { token, held: Some((by, waiting)) } => (token, Outcome::Held { by, waiting }),
                Settled::Gone { .. } => continue,
            };
            let waits = self.waiting.borrow_mut().remove(&token);
            waits.map(|waits| waits.send(outcome));
        }
    }

    /// Does a command, and waits if it must. Dropped while it waits it leaves the queue, as the router's futures do.
    pub(super) async fn ask(&self, command: Command) -> Reply {
        let name = command.name().clone();
        let token = match self.command(command) {
            Outcome::Queued { token, .. } => token,
            outcome => return Reply::Lock(outcome),
        };
        let (answer, answered) = oneshot::channel();
        self.waiting.borrow_mut().insert(token, answer);
        let mut place = Place { locks: self, name, token, asked: self.index.get(), is_waiting: true };
        let outcome = answered.await.unwrap();
        place.is_waiting = false;
        Reply::Lock(outcome)
    }

    pub(super) fn view(&self, name: &Name) -> Option<View> {
        let (partition, state) = &*self.machine.borrow();
        partition.view_lock(state, name, self.clock_ms.get()).unwrap()
    }

    /// The locks after the place where a page begins.
    pub(super) fn list(&self, scan: &Scan) -> Vec<View> {
        let (partition, state) = &*self.machine.borrow();
        let mut scan = Scan { limit: MAX_SCAN_KEYS, ..scan.clone() };
        let mut locks = Vec::new();
        loop {
            let (page, more) = partition.list_locks(state, &scan, self.clock_ms.get()).unwrap();
            scan.after = page.last().map(|view| view.name.bytes().clone());
            locks.extend(page);
            if !more {
                return locks;
            }
        }
    }
}

struct Place<'a> {
    locks: &'a LockMachine,
    name: Name,
    token: u64,
    asked: u64,
    is_waiting: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.is_waiting {
            let (name, token, asked) = (self.name.clone(), self.token, self.asked);
            self.locks.left.set(self.locks.left.get() + 1);
            self.locks.command(Command::Leave { name, token, asked });
        }
    }
}
