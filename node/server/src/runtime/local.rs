//! The lanes as one I/O thread sees them.
//!
//! Everything that one look at the sockets has brought is put in first; then the rounds are run. Their answers are written
//! before the thread looks at its sockets again.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use annulus_core::codec::message::{Body, PeerMessage};
use annulus_core::lane::Operation;
use tokio::sync::Notify;

use super::driver::{InboxFull, LaneHandle};
use super::lane::LaneInput;

/// The lanes, for the tasks of one I/O thread.
#[derive(Debug, Clone)]
pub struct LocalLanes {
    inner: Rc<Inner>,
}

#[derive(Debug)]
struct Inner {
    lanes: Arc<[LaneHandle]>,
    /// By lane: whether something was put in since its last round here.
    due: Box<[Cell<bool>]>,
    any: Notify,
}

impl LocalLanes {
    /// For the thread that this is called on, inside its runtime.
    pub fn start(lanes: Arc<[LaneHandle]>) -> Self {
        let due = lanes.iter().map(|_| Cell::new(false)).collect();
        let inner = Rc::new(Inner { lanes, due, any: Notify::new() });
        tokio::task::spawn_local(drive(Rc::clone(&inner)));
        Self { inner }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.inner.lanes.len()
    }

    /// Hands an input to a lane, if its inbox has room.
    pub fn send(&self, lane: usize, input: LaneInput) -> Result<(), InboxFull> {
        let handle = &self.inner.lanes[lane];
        if !is_quick(&input) {
            return handle.send(input);
        }
        handle.put(input)?;
        if !self.inner.due[lane].replace(true) {
            // The task comes after all those that were ready before it.
            self.inner.any.notify_one();
        }
        Ok(())
    }
}

async fn drive(inner: Rc<Inner>) {
    loop {
        inner.any.notified().await;
        for (lane, due) in inner.lanes.iter().zip(&inner.due) {
            if due.take() {
                lane.drive();
            }
        }
    }
}

/// Whether stepping this takes about as long as waking another thread up. What may take longer keeps no I/O thread from its
/// sockets.
fn is_quick(input: &LaneInput) -> bool {
    match input {
        LaneInput::Request { operation, .. } => matches!(operation, Operation::Get { .. } | Operation::Write(_)),
        LaneInput::Peer { messages, .. } => messages.len() <= MESSAGES && messages.iter().all(is_quick_message),
        LaneInput::Unreachable(_) | LaneInput::Bootstrap(..) | LaneInput::Adopt(_) | LaneInput::Evict(_) => false,
    }
}

/// Most messages of one frame that are stepped on an I/O thread.
const MESSAGES: usize = 32;

fn is_quick_message(message: &PeerMessage) -> bool {
    matches!(message.body, Body::Raft { .. })
}
