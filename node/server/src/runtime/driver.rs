//! Who runs a lane's rounds: whoever has something for it and finds it free.
//!
//! ```text
//!  I/O thread ──put──▶ inbox ─┐            little to do: that thread runs the round itself, and wakes nobody up
//!  WAL thread ─────▶ events ──┴─▶ Driver ─ much, or the lane is taken: the lane's own thread does
//! ```
//!
//! To wake a thread up and be woken up by it costs more than a small round does, and the less load there is, the fewer
//! requests share that cost. So small batches are stepped where they are, and large ones are handed over. Whoever runs a round
//! ticks if a tick is due; the lane's own thread sees to it that one comes in time. That thread alone reads the pieces of
//! snapshots that are sent, begins checkpoints and drops what they leave behind, and waits for the WAL thread when that has
//! fallen far behind.
//!
//! Rounds never run side by side, and no input is left behind: whoever puts something in looks for the lane afterwards, and
//! whoever has had the lane looks for inputs after he has let go of it.

use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, OnceLock, TryLockError, Weak};
use std::thread::{self, Thread};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

use super::inbox::{Inbox, InboxFull};
use super::lane::{LaneEvent, LaneFailure, LaneInput};
use super::rounds::{RoundThread, Rounds};

/// What is called on the thread that was in a round when the lane could not go on. It ends the process, or this does.
pub type OnFailure = Box<dyn Fn(&LaneFailure) + Send + Sync>;

/// A lane, for all threads that may run its rounds.
pub(super) struct Driver {
    rounds: Mutex<Rounds>,
    inbox: Arc<Inbox>,
    events: Receiver<LaneEvent>,
    /// Whether a round would take inputs, as of the last one.
    takes_inputs: AtomicBool,
    thread: OnceLock<Thread>,
    on_failure: OnFailure,
}

impl Driver {
    pub(super) fn new(rounds: Rounds, on_failure: OnFailure) -> Self {
        Self {
            inbox: Arc::clone(&rounds.inbox),
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
            let idle = driver.own_thread_round();
            let idle = if driver.has_work() { Duration::ZERO } else { idle };
            drop(driver);
            if !idle.is_zero() {
                thread::park_timeout(idle);
            }
        }
    }

    /// Returns how long nothing needs to be done if nothing comes.
    fn own_thread_round(&self) -> Duration {
        let mut rounds = self.rounds.lock().expect("a panic in a round ends the process");
        self.run_round(&mut rounds, RoundThread::Own);
        rounds.checkpoint_if_due();
        let (spent, idle) = (rounds.spent.take(), rounds.idle_for());
        drop(rounds);
        drop(spent);
        idle
    }

    fn run_round(&self, rounds: &mut Rounds, thread: RoundThread) {
        if let Err(failure) = rounds.round(thread) {
            (self.on_failure)(&failure);
            std::process::abort();
        }
        self.takes_inputs.store(rounds.takes_inputs(), Ordering::Relaxed);
    }

    /// Runs a round on this thread, if the lane is free and there is little to do; else sees to it that its own thread does.
    pub(super) fn drive(&self) {
        if !self.has_work() {
            return;
        }
        if !self.inbox.is_light() {
            return self.wake();
        }
        let leave = match self.rounds.try_lock() {
            Ok(rounds) if rounds.has_long_work() || !rounds.has_room() => true,
            Ok(mut rounds) => {
                self.run_round(&mut rounds, RoundThread::Other);
                rounds.has_long_work_soon()
            }
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
    pub(super) fn wake(&self) {
        // Before the thread is known it is about to begin with a round.
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

/// The way into a lane, for every other thread.
#[derive(Clone)]
pub struct LaneHandle {
    driver: Arc<Driver>,
}

impl std::fmt::Debug for LaneHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LaneHandle").field("inbox", &self.driver.inbox.len()).finish_non_exhaustive()
    }
}

impl LaneHandle {
    pub(super) fn new(driver: Arc<Driver>) -> Self {
        Self { driver }
    }

    /// Hands an input to the lane, if its inbox has room, and wakes its thread up.
    pub fn send(&self, input: LaneInput) -> Result<(), InboxFull> {
        self.put(input)?;
        self.driver.wake();
        Ok(())
    }

    /// Puts an input into the lane's inbox, if it has room. Returns whether it is light; call [`Self::drive`] or
    /// [`Self::wake`] afterwards.
    pub(super) fn put(&self, input: LaneInput) -> Result<bool, InboxFull> {
        self.driver.inbox.put(input)
    }

    /// Has what was put in stepped: here, if there is little of it.
    pub(super) fn drive(&self) {
        self.driver.drive();
    }

    /// Has what was put in stepped by the lane's own thread.
    pub(super) fn wake(&self) {
        self.driver.wake();
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

#[cfg(test)]
mod tests;
