//! What members have had to do, counted: how much work an operation is does not depend on the machine that counts.

use std::fmt;
use std::ops::Sub;

/// What members have had to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Rounds of lanes.
    pub rounds: u64,
    /// Messages between replicas that were sent.
    pub messages: u64,
    /// Frames that were sent: each holds all messages of a round to one peer.
    pub frames: u64,
    /// Bytes of these frames.
    pub frame_bytes: u64,
    /// Syncs of the WAL.
    pub syncs: u64,
    /// Bytes written to disks: the WAL, and what checkpoints write.
    pub disk_bytes: u64,
}

/// [`Work`] for each operation.
#[derive(Debug, Clone, Copy)]
pub struct PerOperation {
    /// Rounds of lanes.
    pub rounds: f64,
    /// Messages between replicas.
    pub messages: f64,
    /// Frames.
    pub frames: f64,
    /// Bytes of frames.
    pub frame_bytes: f64,
    /// Syncs of the WAL.
    pub syncs: f64,
    /// Bytes written to disks.
    pub disk_bytes: f64,
}

impl Work {
    /// Shared among so many operations.
    pub fn per(&self, operations: u64) -> PerOperation {
        let share = |work: u64| work as f64 / operations as f64;
        PerOperation {
            rounds: share(self.rounds),
            messages: share(self.messages),
            frames: share(self.frames),
            frame_bytes: share(self.frame_bytes),
            syncs: share(self.syncs),
            disk_bytes: share(self.disk_bytes),
        }
    }
}

impl Sub for Work {
    type Output = Self;

    /// What was done since `before`.
    fn sub(self, before: Self) -> Self {
        Self {
            rounds: self.rounds - before.rounds,
            messages: self.messages - before.messages,
            frames: self.frames - before.frames,
            frame_bytes: self.frame_bytes - before.frame_bytes,
            syncs: self.syncs - before.syncs,
            disk_bytes: self.disk_bytes - before.disk_bytes,
        }
    }
}

impl fmt::Display for PerOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, messages, frames, frame_bytes, syncs, disk_bytes } = self;
        write!(
            f,
            "{rounds:.3} rounds, {messages:.3} messages in {frames:.3} frames of {frame_bytes:.0} bytes, {syncs:.3} syncs, \
             {disk_bytes:.0} bytes to disks"
        )
    }
}
