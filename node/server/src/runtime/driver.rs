//! Who runs a lane's rounds: whoever has something for it and finds it free.
//!
//! ```text
//!  I/O thread ──put──▶ inbox ─┐            few inputs: the I/O thread runs the round itself, and wakes nobody up
//!  WAL thread ─────▶ events ──┴─▶ Driver ─ many, or the lane is taken: the lane's own thread does
//!                                          ticks, snapshots, checkpoints: always that thread
//! ```
//!
//! To wake a thread up and be woken up by it costs more than a small round does, and the less load there is, the fewer
//! requests share that cost. So small batches are stepped where they are, and large ones are handed over.
//!
//! Rounds never run side by side, and no input is left behind: whoever puts something in looks for the lane afterwards, and
//! whoever has had the lane looks for inputs after he has let go of it.

use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, TryLockError, Weak};
use std::thread::{self, Thread};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

use super::lane::{LaneEvent, LaneFailure, LaneInput};
use super::rounds::Rounds;

/// More inputs than this are left to the lane's thread: then a wake-up costs each of them little, and whoever brought
/// them has more to do than to step them.
const INPUTS_IN_PASSING: usize = 32;

/// What is called on the thread that was in a round when the lane could not go on. It must end the process.
pub type OnFailure = Box<dyn Fn(&LaneFailure) + Send + Sync>;

/// A lane, for all threads that may run its rounds.
pub(super) struct Driver {
    rounds: Mutex<Rounds>,
    inbox: Receiver<LaneInput>,
    events: Receiver<LaneEvent>,
    /// Whether a round would take inputs, as of the last one.
    takes_inputs: AtomicBool,
    thread: OnceLock<Thread>,
    on_failure: OnFailure,
}

impl Driver {
    pub(super) fn new(rounds: Rounds, on_failure: OnFailure) -> Self {
        Self {
            inbox: rounds.inputs.clone(),
            events: rounds.events.clone(),
            rounds: Mutex::new(rounds),
            takes_inputs: AtomicBool::new(true),
            thread: OnceLock::new(),
            on_failure,
        }
    }

    /// The lane's own thread; ends when nobody has a handle of the lane any more.
    pub(super) fn run(driver: &Weak<Self>) {
        while let Some(driver) = driver.upgrade() {
            driver.thread.get_or_init(thread::current);
            let rest = driver.round_of_thread();
            let rest = if driver.has_work() { Duration::ZERO } else { rest };
            drop(driver);
            if !rest.is_zero() {
                thread::park_timeout(rest);
            }
        }
    }

    /// Returns how long nothing needs to be done if nothing comes.
    fn round_of_thread(&self) -> Duration {
        let mut rounds = self.rounds.lock().expect("a panic in a round ends the process");
        self.round(&mut rounds);
        if rounds.is_checkpoint_due() {
            rounds.checkpoint();
        }
        rounds.rest()
    }

    fn round(&self, rounds: &mut MutexGuard<'_, Rounds>) {
        if let Err(failure) = rounds.round() {
            (self.on_failure)(&failure);
        }
        self.takes_inputs.store(rounds.takes_inputs(), Ordering::Relaxed);
    }

    /// Runs a round on this thread, if the lane is free and there is little to do; else sees to it that its own thread does.
    pub(super) fn drive(&self) {
        if !self.has_work() {
            return;
        }
        if self.inbox.len() > INPUTS_IN_PASSING {
            return self.wake();
        }
        let leave = match self.rounds.try_lock() {
            Ok(mut rounds) if !rounds.is_streaming() => {
                self.round(&mut rounds);
                rounds.is_checkpoint_due()
            }
            Ok(_) => true,
            // Whoever is in a round looks afterwards whether there is more to do.
            Err(TryLockError::WouldBlock) => return,
            Err(TryLockError::Poisoned(_)) => panic!("a panic in a round ends the process"),
        };
        if leave || self.has_work() {
            self.wake();
        }
    }

    /// Whether a round would find something to do. What was put in before is seen, and so is what was put in by whoever found
    /// the lane taken until just now.
    fn has_work(&self) -> bool {
        // Pairs with the fence of the other side: one puts in and looks for the lane, the other lets go of the lane and looks
        // for inputs. One of them sees what the other has done.
        fence(Ordering::SeqCst);
        !self.events.is_empty() || self.takes_inputs.load(Ordering::Relaxed) && !self.inbox.is_empty()
    }

    /// Has the lane's thread run a round.
    fn wake(&self) {
        // Before the thread is known it is about to begin with a round.
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

/// The way into a lane, for every other thread.
#[derive(Clone)]
pub struct LaneHandle {
    inbox: Sender<LaneInput>,
    driver: Arc<Driver>,
}

impl std::fmt::Debug for LaneHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LaneHandle").field("inbox", &self.inbox.len()).finish_non_exhaustive()
    }
}

/// The lane's inbox has no room: nothing was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the lane's inbox is full")]
pub struct InboxFull;

impl LaneHandle {
    pub(super) fn new(inbox: Sender<LaneInput>, driver: Arc<Driver>) -> Self {
        Self { inbox, driver }
    }

    /// Hands an input to the lane, if its inbox has room, and wakes its thread up.
    pub fn send(&self, input: LaneInput) -> Result<(), InboxFull> {
        self.put(input)?;
        self.driver.wake();
        Ok(())
    }

    /// Puts an input into the lane's inbox, if it has room. Call [`Self::drive`] afterwards.
    pub(super) fn put(&self, input: LaneInput) -> Result<(), InboxFull> {
        self.inbox.try_send(input).map_err(|_| InboxFull)
    }

    /// Has what was put in stepped: here, if there is little of it.
    pub(super) fn drive(&self) {
        self.driver.drive();
    }
}

/// The way in for the lane's own helpers. It has room for every event that can be under way.
#[derive(Clone)]
pub(super) struct Events {
    pub(super) queue: Sender<LaneEvent>,
    pub(super) driver: Weak<Driver>,
}

impl Events {
    /// Tells the lane, and wakes its thread up.
    pub(super) fn send(&self, event: LaneEvent) {
        // Nobody hears it when the node is gone.
        let _ = self.queue.send(event);
        if let Some(driver) = self.driver.upgrade() {
            driver.wake();
        }
    }

    /// Tells the lane, and runs the round that follows from it here, if the lane is free.
    pub(super) fn send_and_drive(&self, event: LaneEvent) {
        let _ = self.queue.send(event);
        if let Some(driver) = self.driver.upgrade() {
            driver.drive();
        }
    }
}
