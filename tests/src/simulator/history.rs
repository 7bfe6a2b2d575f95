//! What clients asked and what they were told, in virtual time: the evidence that the checkers judge.
//!
//! A write that was never answered may or may not have happened, at any time since it was asked. A write that was
//! refused has certainly not happened: it is struck out, so that its value can never be read without being noticed.

use annulus_core::partition::{Condition, Outcome};
use bytes::{BufMut, Bytes, BytesMut};

/// Names a write. Every put writes a value that tells which write it is from.
pub type WriteId = u32;

/// A value as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Seen {
    /// The write that it is from.
    pub write: WriteId,
    /// Its version.
    pub version: u64,
}

/// What a write was to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Put this write's own value.
    Put {
        /// How long it may be there.
        ttl_ms: Option<u64>,
    },
    /// Delete the key.
    Delete,
}

/// The token of a lock, carried by a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence {
    /// The number of the lock.
    pub lock: usize,
    /// The token.
    pub token: u64,
}

/// A write.
#[derive(Debug, Clone)]
pub struct Write {
    /// The number of the key.
    pub key: usize,
    /// What had to hold.
    pub condition: Condition,
    /// What it was to do.
    pub change: Change,
    /// The lock that it was done under.
    pub fence: Option<Fence>,
    /// When it was asked for.
    pub invoked: u64,
    /// What came of it, and when that was known.
    pub answer: Option<(u64, Outcome)>,
    /// It was part of a transaction that was done: when that was told, and which version it has written.
    pub committed: Option<(u64, u64)>,
    /// It has certainly not happened.
    pub refused: bool,
}

/// A read that holds for a moment between its question and its answer.
#[derive(Debug, Clone, Copy)]
pub struct Read {
    /// The number of the key.
    pub key: usize,
    /// When it was asked.
    pub invoked: u64,
    /// When it was answered.
    pub returned: u64,
    /// What was there.
    pub seen: Option<Seen>,
}

/// A read of what one replica happened to have.
#[derive(Debug, Clone, Copy)]
pub struct StaleRead {
    /// The number of the key.
    pub key: usize,
    /// When it was answered.
    pub returned: u64,
    /// What was there.
    pub seen: Option<Seen>,
}

/// Everything that clients asked and were told.
#[derive(Debug, Default)]
pub struct History {
    /// All writes, by id.
    pub writes: Vec<Write>,
    /// All reads that were answered, scans taken apart.
    pub reads: Vec<Read>,
    /// All stale reads that were answered, scans taken apart.
    pub stale: Vec<StaleRead>,
}

impl History {
    /// A client asks for a write.
    pub fn invoke(
        &mut self,
        now: u64,
        key: usize,
        condition: Condition,
        change: Change,
        fence: Option<Fence>,
    ) -> WriteId {
        let id = u32::try_from(self.writes.len()).expect("few writes");
        self.writes.push(Write {
            key,
            condition,
            change,
            fence,
            invoked: now,
            answer: None,
            committed: None,
            refused: false,
        });
        id
    }

    /// The write was answered.
    pub fn answer(&mut self, id: WriteId, now: u64, outcome: Outcome) {
        self.writes[id as usize].answer = Some((now, outcome));
    }

    /// The put was part of a transaction that is done. Nobody was told whether there was anything before.
    pub fn commit(&mut self, id: WriteId, now: u64, version: u64) {
        self.writes[id as usize].committed = Some((now, version));
    }

    /// The write has certainly not happened and never will.
    pub fn refuse(&mut self, id: WriteId) {
        self.writes[id as usize].refused = true;
    }
}

/// The value that a write puts: it tells the write, and its own length.
pub fn value_of(write: WriteId, bytes: usize) -> Bytes {
    let mut value = BytesMut::with_capacity(8 + bytes);
    value.put_u32(write);
    value.put_u32(u32::try_from(bytes).expect("values are small"));
    value.put_bytes(filler(write), bytes);
    value.freeze()
}

/// The write that a value is from. `None` when no write has ever put it.
pub fn write_of(value: &Bytes) -> Option<WriteId> {
    let write = u32::from_be_bytes(value.get(..4)?.try_into().ok()?);
    let bytes = u32::from_be_bytes(value.get(4..8)?.try_into().ok()?);
    let rest = &value[8..];
    (rest.len() == bytes as usize && rest.iter().all(|byte| *byte == filler(write))).then_some(write)
}

fn filler(write: WriteId) -> u8 {
    u8::try_from(write % 251).expect("less than 251")
}
