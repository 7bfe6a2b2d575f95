//! Locks as records of a partition: what commands and the clock do to them.
//!
//! A lock has one record, and one expiry record for when something at it is over next. Renewing a lease does not move the
//! latter: when its time comes and nothing is over yet, it is put where something will be.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::codec::{read_lock, write_lock};
use super::{Acquire, Applied, Command, Lock, MAX_DESCRIPTION_BYTES, Name, Outcome, Settled, View};
use crate::codec::{Reader, Writer};
use crate::partition::command::Scan;
use crate::partition::machine::{Error, MAX_PAGE_BYTES, Partition};
use crate::partition::record::{LOCK, LOCK_EXPIRY, expiry_key, lock_key};
use crate::state::State;

/// Most locks that one page holds: each may be long.
const MAX_PAGE_LOCKS: usize = 100;

impl Partition {
    /// Applies a command at `index`.
    pub(in crate::partition) fn lock(
        &mut self,
        state: &mut dyn State,
        index: u64,
        command: &Command,
    ) -> Result<Applied, Error> {
        let key = lock_key(command.name().bytes());
        let found = self.read_lock(state, &key)?;
        if let Command::Release { token, .. } | Command::Leave { token, .. } = command
            && found.as_ref().is_some_and(|lock| lock.is_held_by(*token))
            && self.pins_lock(command.name().bytes()).is_some()
        {
            let (name, settled) = (command.name().clone(), Vec::new());
            return Ok(Applied { name, outcome: Outcome::Pinned, settled });
        }
        let before = found.as_ref().map(Lock::waiting);
        let mut lock = found.unwrap_or_default();
        let mut settled = Vec::new();
        let clock_ms = self.meta.clock_ms;
        let outcome = match command {
            Command::Acquire(wish) => lock.acquire(index, clock_ms, wish),
            Command::Renew { token, ttl_ms, .. } => lock.renew(*token, clock_ms, *ttl_ms),
            Command::Release { token, .. } => lock.release(*token, clock_ms, &mut settled),
            Command::Leave { token, asked, .. } => lock.leave(*token, *asked, clock_ms, &mut settled),
        };
        let changed = !matches!(
            outcome,
            Outcome::Held { .. } | Outcome::Full | Outcome::RequestConflict | Outcome::NotHeld { .. } | Outcome::Pinned
        );
        if changed {
            self.put_lock(state, key, lock, before);
        }
        Ok(Applied { name: command.name().clone(), outcome, settled })
    }

    /// Ends what is over at the lock with this record, whose expiry record has just been taken away. `later_ms`: nothing is
    /// over before then, whatever the clock says.
    pub(in crate::partition) fn expire_lock(
        &mut self,
        state: &mut dyn State,
        key: Bytes,
        later_ms: Option<u64>,
        settled: &mut Vec<Settled>,
    ) -> Result<(), Error> {
        let Some(mut lock) = self.read_lock(state, &key)? else { return Ok(()) };
        let before = Some(lock.waiting());
        lock.looks_at_ms = None;
        match later_ms {
            None => lock.expire(self.meta.clock_ms, self.meta.leases_from_ms, settled),
            Some(later_ms) => lock.put_off_until(later_ms),
        }
        self.put_lock(state, key, lock, before);
        Ok(())
    }

    /// Writes a lock, or takes it away if nobody is at it. `before`: how many waited, if there was a record.
    fn put_lock(&mut self, state: &mut dyn State, key: Bytes, mut lock: Lock, before: Option<usize>) {
        self.meta.locks -= u64::from(before.is_some());
        self.meta.waiting -= before.unwrap_or(0) as u64;
        let next = lock.next_deadline_ms(self.meta.leases_from_ms);
        if let Some(looks_at) = lock.looks_at_ms
            && next.is_none_or(|next| next < looks_at)
        {
            state.delete(self.table, expiry_key(LOCK_EXPIRY, looks_at, &key));
            lock.looks_at_ms = None;
        }
        let Some(next) = next else {
            state.delete(self.table, key);
            return;
        };
        self.meta.locks += 1;
        self.meta.waiting += lock.waiting() as u64;
        if lock.looks_at_ms.is_none() {
            lock.looks_at_ms = Some(next);
            state.put(self.table, expiry_key(LOCK_EXPIRY, next, &key), Bytes::new());
            self.next_expiry_ms = self.next_expiry_ms.min(next);
        }
        let mut writer = Writer::with_capacity(128 * (1 + lock.holders.len() + lock.waiting.len()));
        write_lock(&mut writer, &lock);
        state.put(self.table, key, writer.finish());
    }

    fn read_lock(&self, state: &dyn State, key: &[u8]) -> Result<Option<Lock>, Error> {
        let Some(bytes) = state.get(self.table, key)? else { return Ok(None) };
        let mut reader = Reader::new(bytes, "lock");
        let lock = read_lock(&mut reader).and_then(|lock| reader.end().map(|()| lock));
        lock.map(Some).map_err(|source| self.damaged(source))
    }

    /// Whether this token holds this lock.
    pub fn holds_lock(&self, state: &dyn State, name: &Name, token: u64) -> Result<bool, Error> {
        Ok(self.read_lock(state, &lock_key(name.bytes()))?.is_some_and(|lock| lock.is_held_by(token)))
    }

    /// A lock at this clock, as of everything applied.
    pub fn view_lock(&self, state: &dyn State, name: &Name, clock_ms: u64) -> Result<Option<View>, Error> {
        let lock = self.read_lock(state, &lock_key(name.bytes()))?;
        Ok(lock.map(|lock| lock.view(name.clone(), clock_ms, self.meta.leases_from_ms)))
    }

    /// One page of locks in the order of their names, as of everything applied, and whether there are more. (Values are not
    /// looked at.)
    pub fn list_locks(&self, state: &dyn State, scan: &Scan, clock_ms: u64) -> Result<(Vec<View>, bool), Error> {
        let from = scan.after.as_ref().filter(|after| after[..] > scan.prefix[..]);
        let from = lock_key(from.unwrap_or(&scan.prefix));
        let most = MAX_PAGE_LOCKS.min(scan.limit as usize);
        let (mut views, mut bytes, mut more, mut damaged) = (Vec::new(), 0, false, None);
        state.range(self.table, &from, Some(&[LOCK + 1]), &mut |key, record| {
            let name = &key[1..];
            if !name.starts_with(&scan.prefix) {
                return ControlFlow::Break(());
            }
            if scan.after.as_ref().is_some_and(|after| name <= &after[..]) {
                return ControlFlow::Continue(());
            }
            if views.len() >= most || bytes >= MAX_PAGE_BYTES {
                more = true;
                return ControlFlow::Break(());
            }
            bytes += record.len();
            let mut reader = Reader::new(Bytes::copy_from_slice(record), "lock");
            match (read_lock(&mut reader), Name::new(Bytes::copy_from_slice(name))) {
                (Ok(lock), Ok(name)) => {
                    views.push(lock.view(name, clock_ms, self.meta.leases_from_ms));
                    ControlFlow::Continue(())
                }
                (read, _) => {
                    damaged = Some(read.err().unwrap_or_else(|| reader.out_of_range()));
                    ControlFlow::Break(())
                }
            }
        })?;
        damaged.map_or(Ok((views, more)), |source| Err(self.damaged(source)))
    }

    /// Panics when the locks contradict themselves, or what is remembered of them.
    pub(in crate::partition) fn check_locks(&self, state: &dyn State) -> Result<(), Error> {
        let mut keys = Vec::new();
        state.range(self.table, &[LOCK], Some(&[LOCK + 1]), &mut |key, _| {
            keys.push(Bytes::copy_from_slice(key));
            ControlFlow::Continue(())
        })?;
        let mut waiting = 0;
        for key in &keys {
            let lock = self.read_lock(state, key)?.expect("it was just there");
            lock.check();
            waiting += lock.waiting() as u64;
            let looks_at = lock.looks_at_ms.expect("checked");
            let expiry = state.get(self.table, &expiry_key(LOCK_EXPIRY, looks_at, key))?;
            assert!(expiry.is_some(), "a lock is looked at when it says");
        }
        assert_eq!(keys.len() as u64, self.meta.locks, "locks are counted");
        assert_eq!(waiting, self.meta.waiting, "those who wait are counted");
        Ok(())
    }
}

impl Acquire {
    /// Whether every part of it has a length and a value that it can have.
    pub fn is_valid(&self) -> bool {
        (1..=super::MAX_OWNER_BYTES).contains(&self.owner.len())
            && (1..=super::MAX_REQUEST_BYTES).contains(&self.request.len())
            && self.description.len() <= MAX_DESCRIPTION_BYTES
            && is_ttl(self.ttl_ms)
            && self.wait_ms <= super::MAX_WAIT_MS
    }
}

/// Whether a lease may be this long.
pub(super) fn is_ttl(ttl_ms: u64) -> bool {
    (super::MIN_TTL_MS..=super::MAX_TTL_MS).contains(&ttl_ms)
}
