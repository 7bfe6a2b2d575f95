//! Fences: the highest token of each lock that a write to this partition has carried. A write with an older one changes
//! nothing, whoever sends it, and however late it comes.
//!
//! The record is kept for [`FENCE_KEPT_MS`] after the last write that carried the lock's token, and there are never more
//! than [`MAX_FENCES`].

use bytes::Bytes;

use super::lock::Name;
use super::machine::{Error, Partition};
use super::record::{FENCE_EXPIRY, FenceRecord, expiry_key, fence_key};
use crate::bugs::{Bug, planted};
use crate::state::State;

/// How long a fence is remembered after the last write that carried it: a day, on the partition's clock. A holder that was
/// stopped for longer than this finds no fence in its way; its edge still asks whether it holds the lock.
pub const FENCE_KEPT_MS: u64 = 24 * 3600 * 1000;
/// A fence that is used again is remembered for longer when so much of its time has passed.
const FENCE_RENEWED_AFTER_MS: u64 = 3600 * 1000;
/// Most fences that one partition remembers; with one more, writes that carry it are turned away.
pub const MAX_FENCES: u64 = 16 * 1024;

/// A lock's token, carried by a write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fence {
    /// The lock.
    pub lock: Name,
    /// The token.
    pub token: u64,
    /// Whether the lock's own partition has said that this token holds it. If not, the write is not done: it was done
    /// before, under its idempotency key, or never is.
    pub is_held: bool,
}

/// What a fence says of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Passed {
    /// It may go on.
    Yes,
    /// It is not the newest: the token that is, as far as anybody knows here.
    Stale(Option<u64>),
    /// There is no room to remember it.
    Full,
}

impl Partition {
    /// Lets a write with this fence pass, and remembers its token.
    pub(super) fn pass_fence(&mut self, state: &mut dyn State, fence: &Fence) -> Result<Passed, Error> {
        let key = fence_key(fence.lock.bytes());
        let known = state.get(self.table, &key)?.map(FenceRecord::decode).transpose();
        let known = known.map_err(|source| self.damaged(source))?;
        let deadline_ms = self.meta.clock_ms.saturating_add(FENCE_KEPT_MS);
        if !fence.is_held {
            return Ok(Passed::Stale(known.map(|known| known.token)));
        }
        match known {
            Some(known) if known.token > fence.token && !self.forgets(&known) => {
                return Ok(Passed::Stale(Some(known.token)));
            }
            Some(known) => {
                let is_fresh = known.deadline_ms.saturating_add(FENCE_RENEWED_AFTER_MS) >= deadline_ms;
                if known.token == fence.token && is_fresh {
                    return Ok(Passed::Yes);
                }
                state.delete(self.table, expiry_key(FENCE_EXPIRY, known.deadline_ms, &key));
            }
            None if self.meta.fences >= MAX_FENCES => return Ok(Passed::Full),
            None => self.meta.fences += 1,
        }
        state.put(self.table, expiry_key(FENCE_EXPIRY, deadline_ms, &key), Bytes::new());
        state.put(self.table, key, FenceRecord { token: fence.token, deadline_ms }.encode());
        self.next_expiry_ms = self.next_expiry_ms.min(deadline_ms);
        Ok(Passed::Yes)
    }

    fn forgets(&self, known: &FenceRecord) -> bool {
        planted(Bug::FenceOnlyInMemory) && known.deadline_ms <= self.loaded_ms.saturating_add(FENCE_KEPT_MS)
    }
}
