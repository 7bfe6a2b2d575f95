//! What has expired goes: by an `Expire` entry, at the clock that the entry carries, and in no other way.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::command::Key;
use super::lock;
use super::machine::{Error, Partition};
use super::record::{
    EXPIRIES, FENCE_EXPIRY, FINISHED_TXN_EXPIRY, IDEMPOTENCY_EXPIRY, LOCK_EXPIRY, VALUE_EXPIRY, Value, expiry_key,
    split_expiry_key,
};
use crate::state::State;

/// Most records that one `Expire` entry lets go.
pub const MAX_EXPIRED_PER_ENTRY: usize = 256;
/// What an open transaction holds is looked at again after so long.
const HELD_UP_MS: u64 = 200;

impl Partition {
    /// Lets go of what is over by the clock. Tells what became of those who wait for locks.
    pub(super) fn expire(&mut self, state: &mut dyn State) -> Result<Vec<lock::Settled>, Error> {
        let mut room = MAX_EXPIRED_PER_ENTRY;
        let mut settled = Vec::new();
        for kind in [LOCK_EXPIRY, VALUE_EXPIRY, IDEMPOTENCY_EXPIRY, FENCE_EXPIRY, FINISHED_TXN_EXPIRY] {
            let due = self.due(state, kind, room)?;
            room -= due.len();
            for (expiry, record) in due {
                let deadline_ms = split_expiry_key(&expiry).map_or(0, |(deadline_ms, _)| deadline_ms);
                state.delete(self.table, expiry);
                match kind {
                    // Its record stays for as long as anybody is at it.
                    LOCK_EXPIRY => {
                        let later_ms = self.pins_lock(&record[1..]).map(|_| self.meta.clock_ms + HELD_UP_MS);
                        self.expire_lock(state, record, later_ms, &mut settled)?;
                        continue;
                    }
                    VALUE_EXPIRY if self.is_held_up(&record) => {
                        self.put_off(state, record)?;
                        continue;
                    }
                    VALUE_EXPIRY => {
                        self.meta.bytes -= self.size_of(state, &record)?;
                        self.meta.deletions += 1;
                    }
                    IDEMPOTENCY_EXPIRY => self.meta.idempotency_records -= 1,
                    FENCE_EXPIRY => self.meta.fences -= 1,
                    _ => {
                        self.forget_finished(state, deadline_ms, record)?;
                        continue;
                    }
                }
                state.delete(self.table, record);
            }
        }
        self.find_next_expiry(state)?;
        Ok(settled)
    }

    /// Whether an open transaction holds the key of this value.
    fn is_held_up(&self, record_key: &[u8]) -> bool {
        let key = Key::new(Bytes::copy_from_slice(&record_key[1..]));
        key.is_ok_and(|key| self.holds_key(&key).is_some())
    }

    /// A value goes a little later than it would have.
    fn put_off(&mut self, state: &mut dyn State, record_key: Bytes) -> Result<(), Error> {
        let record = state.get(self.table, &record_key)?.map(Value::decode).transpose();
        let Some(Value { item, .. }) = record.map_err(|source| self.damaged(source))? else { return Ok(()) };
        let deadline_ms = self.meta.clock_ms + HELD_UP_MS;
        state.put(self.table, expiry_key(VALUE_EXPIRY, deadline_ms, &record_key), Bytes::new());
        state.put(self.table, record_key, Value::encode(item.version, Some(deadline_ms), &item.value));
        Ok(())
    }

    /// The keys of the first `most` expiries whose time has come, each with the key of what expires.
    fn due(&self, state: &dyn State, kind: u8, most: usize) -> Result<Vec<(Bytes, Bytes)>, Error> {
        let mut due = Vec::new();
        state.range(self.table, &[kind], Some(&[kind + 1]), &mut |key, _| match split_expiry_key(key) {
            Some((deadline, record)) if deadline <= self.meta.clock_ms && due.len() < most => {
                due.push((Bytes::copy_from_slice(key), record));
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Break(()),
        })?;
        Ok(due)
    }

    pub(super) fn forget_oldest_idempotency(&mut self, state: &mut dyn State) -> Result<(), Error> {
        let mut oldest = None;
        state.range(self.table, &[IDEMPOTENCY_EXPIRY], Some(&[IDEMPOTENCY_EXPIRY + 1]), &mut |key, _| {
            oldest = split_expiry_key(key).map(|(_, record)| (Bytes::copy_from_slice(key), record));
            ControlFlow::Break(())
        })?;
        if let Some((expiry, record)) = oldest {
            state.delete(self.table, expiry);
            state.delete(self.table, record);
            self.meta.idempotency_records -= 1;
        }
        Ok(())
    }

    pub(super) fn find_next_expiry(&mut self, state: &dyn State) -> Result<(), Error> {
        self.next_expiry_ms = u64::MAX;
        for kind in EXPIRIES {
            let next = &mut self.next_expiry_ms;
            state.range(self.table, &[kind], Some(&[kind + 1]), &mut |key, _| {
                if let Some((deadline, _)) = split_expiry_key(key) {
                    *next = (*next).min(deadline);
                }
                ControlFlow::Break(())
            })?;
        }
        Ok(())
    }

    /// Bytes of the key and the value in a value record.
    fn size_of(&self, state: &dyn State, record_key: &[u8]) -> Result<u64, Error> {
        let record = state.get(self.table, record_key)?.map(Value::decode).transpose();
        let record = record.map_err(|source| self.damaged(source))?;
        Ok(record.map_or(0, |value| (record_key.len() - 1 + value.item.value.len()) as u64))
    }
}
