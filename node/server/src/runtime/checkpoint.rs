//! The checkpoint thread of a lane: writes one frozen overlay after the other to redb.

use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};

use super::driver::Events;
use super::lane::LaneEvent;
use super::wal::WalCommand;
use crate::storage::{Checkpointer, Frozen, Segment};

/// How far the thread stands back, on the system's scale from -20 to 19.
const NICENESS: i32 = 10;

pub(super) struct CheckpointThread {
    pub(super) lane: u32,
    pub(super) checkpointer: Checkpointer,
    pub(super) frozen: Receiver<(Frozen, Segment)>,
    pub(super) wal: Sender<WalCommand>,
    pub(super) events: Events,
}

impl CheckpointThread {
    /// Runs for as long as the process, or until a checkpoint fails: redb can't be used after that, so the lane ends.
    pub(super) fn run(mut self) {
        // Folding millions of records takes a processor for a while; whoever answers clients goes first. Where the system
        // does not allow it, it takes its turn like everybody else.
        let _ = rustix::process::setpriority_process(None, NICENESS);
        while let Ok((frozen, segment)) = self.frozen.recv() {
            let (bytes, began) = (frozen.bytes(), Instant::now());
            match self.checkpointer.write(frozen, segment) {
                Ok(checkpointed) => {
                    let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                    tracing::debug!(lane = self.lane, bytes, millis, "checkpoint");
                    // The WAL thread writes the mark and drops the WAL behind it, then tells the lane.
                    let _ = self.wal.send(WalCommand::Checkpointed(checkpointed));
                }
                Err(error) => {
                    self.events.send(LaneEvent::Failed(Box::new(error)));
                    return;
                }
            }
        }
    }
}
