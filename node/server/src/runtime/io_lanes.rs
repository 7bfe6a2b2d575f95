//! The lanes as one I/O thread sees them.
//!
//! What one look at the sockets has brought is mostly put in first; then the rounds are run, and their answers are written
//! before the thread looks at its sockets again. (tokio looks in between when there is very much to do. Nothing relies on it.)

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::driver::LaneHandle;
use super::inbox::InboxFull;
use super::lane::LaneInput;

/// For how long an I/O thread runs the rounds of its lanes; what is still to do then is left to the lanes' own threads.
const PATIENCE: Duration = Duration::from_micros(200);

/// The lanes, for the tasks of one I/O thread.
#[derive(Debug, Clone)]
pub struct IoLanes {
    inner: Rc<Inner>,
}

#[derive(Debug)]
struct Inner {
    lanes: Arc<[LaneHandle]>,
    /// By lane: whether something was put in since its last round here.
    due: Box<[Cell<bool>]>,
    any: Notify,
}

impl IoLanes {
    /// For the thread that this is called on, inside its runtime.
    pub fn start(lanes: Arc<[LaneHandle]>) -> Self {
        let due = lanes.iter().map(|_| Cell::new(false)).collect();
        let inner = Rc::new(Inner { lanes, due, any: Notify::new() });
        tokio::task::spawn_local(drive_due(Rc::clone(&inner)));
        Self { inner }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.inner.lanes.len()
    }

    /// Hands an input to a lane, if its inbox has room.
    pub fn send(&self, lane: usize, input: LaneInput) -> Result<(), InboxFull> {
        let handle = &self.inner.lanes[lane];
        if !handle.put(input)? {
            handle.wake();
        } else if !self.inner.due[lane].replace(true) {
            // The task comes after all those that were ready before it.
            self.inner.any.notify_one();
        }
        Ok(())
    }
}

/// Runs the rounds of the lanes that something was put into.
async fn drive_due(inner: Rc<Inner>) {
    loop {
        inner.any.notified().await;
        let began = Instant::now();
        for (lane, due) in inner.lanes.iter().zip(&inner.due) {
            if !due.take() {
                continue;
            }
            // What one lane takes long for does not keep the others waiting.
            if began.elapsed() < PATIENCE { lane.drive() } else { lane.wake() }
        }
    }
}
