//! The machine itself: entries in, records and outcomes out.

use std::ops::ControlFlow;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::codec::write_write;
use super::command::{Change, Condition, Item, Key, Many, Outcome, Page, Scan, Write};
use super::entry::{Command, Entry};
use super::fence::Passed;
use super::lock;
use super::record::{
    EXPIRIES, IDEMPOTENCY_EXPIRY, Idempotency, META, Meta, VALUE, VALUE_EXPIRY, Value, expiry_key, idempotency_key,
    split_expiry_key, value_key,
};
use super::txn;
use crate::codec;
use crate::replica::Configure;
use crate::state::{self, State, TableId};

/// How long the outcome of a write is kept under its idempotency key, on the partition's clock.
pub const IDEMPOTENCY_KEPT_MS: u64 = 10 * 60 * 1000;
/// Most idempotency records of one partition; the oldest goes when one more comes.
pub const MAX_IDEMPOTENCY_RECORDS: u64 = 16 * 1024;
/// Most bytes of keys and values in one scan page; a page holds at least one key.
pub const MAX_PAGE_BYTES: usize = 1024 * 1024;
/// So many bytes of values that a page of keys passes over count as one of its own.
const PASSED_OVER: usize = 32;

/// Why a committed entry could not be applied. The lane that meets this stops.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The records can't be read.
    #[error(transparent)]
    State(#[from] state::Error),
    /// A record or an entry is not what it should be.
    #[error("{group}: a stored record or entry is damaged", group = .table.group)]
    Damaged {
        /// Where it was met.
        table: TableId,
        /// What is wrong with it.
        #[source]
        source: codec::Error,
    },
}

/// What came of a committed entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// Nothing that anybody waits for.
    Nothing,
    /// A write was done, or found that it must not be.
    Write(Outcome),
    /// A command to a lock was done, or found that it must not be; and what became of others that wait for it.
    Lock(lock::Applied),
    /// A transaction, or a part of it, was done, or found that it must not be.
    Txn(txn::Applied),
    /// What has expired is gone; and what became of those that wait for locks.
    Expired(Vec<lock::Settled>),
    /// The replica is to do this.
    Configure(Configure),
}

/// One partition's machine. Its records are in the `State` that each call is given.
#[derive(Debug)]
pub struct Partition {
    pub(super) table: TableId,
    pub(super) meta: Meta,
    /// Nothing expires before this, on the partition's clock.
    pub(super) next_expiry_ms: u64,
    /// The clock as it was when the machine was made from its records.
    pub(super) loaded_ms: u64,
    /// What open transactions hold.
    pub(super) holds: txn::Holds,
    /// Where the finished transactions with made-up names are.
    pub(super) deadlines: txn::Deadlines,
    /// The expiry of the finished transaction that was forgotten last to make room; empty: none was.
    pub(super) oldest_finished: Bytes,
}

impl Partition {
    /// The machine whose records are in this table.
    pub fn load(state: &dyn State, table: TableId) -> Result<Self, Error> {
        let (meta, is_counted) = match state.get(table, &[META])? {
            None => (Meta::default(), false),
            Some(bytes) => Meta::decode(bytes).map_err(|source| Error::Damaged { table, source })?,
        };
        let mut partition = Self {
            table,
            meta,
            next_expiry_ms: u64::MAX,
            loaded_ms: meta.clock_ms,
            holds: txn::Holds::default(),
            deadlines: txn::Deadlines::default(),
            oldest_finished: Bytes::new(),
        };
        partition.holds = partition.load_holds(state)?;
        (partition.deadlines, _) = partition.load_deadlines(state)?;
        if !is_counted {
            partition.meta.bytes = partition.count_bytes(state)?;
        }
        partition.find_next_expiry(state)?;
        Ok(partition)
    }

    /// The highest clock that any applied entry carried, in milliseconds.
    pub fn clock_ms(&self) -> u64 {
        self.meta.clock_ms
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> u64 {
        self.meta.bytes
    }

    /// When the next record expires, on the partition's clock; `u64::MAX`: never.
    pub fn next_expiry_ms(&self) -> u64 {
        self.next_expiry_ms
    }

    /// How many locks are held.
    pub fn locks(&self) -> u64 {
        self.meta.locks
    }

    /// How many wait for a lock.
    pub fn waiting(&self) -> u64 {
        self.meta.waiting
    }

    /// Applies the committed entry at `index`.
    pub fn apply(&mut self, state: &mut dyn State, index: u64, entry: Bytes) -> Result<Applied, Error> {
        let entry = Entry::decode(entry).map_err(|source| self.damaged(source))?;
        let before = self.meta;
        self.meta.clock_ms = self.meta.clock_ms.max(entry.clock_ms);
        let outcome = match entry.command {
            Command::Write(write) => Applied::Write(self.write(state, index, &write)?),
            Command::Lock(command) => Applied::Lock(self.lock(state, index, &command)?),
            Command::Txn(command) => Applied::Txn(self.txn(state, index, command)?),
            Command::Expire => Applied::Expired(self.expire(state)?),
            Command::ExtendLeases => {
                self.meta.leases_from_ms = self.meta.clock_ms;
                Applied::Nothing
            }
            Command::Configure(configure) => Applied::Configure(configure),
        };
        if self.meta != before {
            state.put(self.table, Bytes::from_static(&[META]), self.meta.encode());
        }
        Ok(outcome)
    }

    /// The value of a key, as of everything applied.
    pub fn get(&self, state: &dyn State, key: &Key) -> Result<Option<Item>, Error> {
        Ok(self.value(state, key)?.map(|value| value.item))
    }

    /// The values of some keys, as of everything applied. `None`: they have too many bytes.
    pub fn get_many(&self, state: &dyn State, keys: &[Key]) -> Result<Option<Many>, Error> {
        let (mut items, mut bytes) = (Vec::with_capacity(keys.len()), 0);
        for key in keys {
            let item = self.get(state, key)?;
            bytes += item.as_ref().map_or(0, |item| item.value.len());
            if bytes > txn::MAX_READ_BYTES {
                return Ok(None);
            }
            items.push(item);
        }
        Ok(Some(Many { items, deletions: self.meta.deletions }))
    }

    /// One page of keys in order, as of everything applied.
    pub fn scan(&self, state: &dyn State, scan: &Scan) -> Result<Page, Error> {
        let from = scan.after.as_ref().filter(|after| after[..] > scan.prefix[..]);
        let from = value_key(from.unwrap_or(&scan.prefix));
        let mut page = Page::default();
        let (mut bytes, mut damaged) = (0, None);
        state.range(self.table, &from, Some(&[VALUE + 1]), &mut |record_key, record| {
            let key = &record_key[1..];
            if !key.starts_with(&scan.prefix) {
                return ControlFlow::Break(());
            }
            if scan.after.as_ref().is_some_and(|after| key <= &after[..]) {
                return ControlFlow::Continue(());
            }
            if page.items.len() >= scan.limit as usize || bytes >= MAX_PAGE_BYTES {
                page.more = true;
                return ControlFlow::Break(());
            }
            let wanted = if scan.values { record } else { Value::head(record) };
            match Value::decode(Bytes::copy_from_slice(wanted)) {
                Ok(Value { mut item, .. }) => {
                    // To pass over a value costs something too: it was read.
                    bytes += key.len() + if scan.values { item.value.len() } else { record.len() / PASSED_OVER };
                    if !scan.values {
                        item.value = Bytes::new();
                    }
                    page.items.push((Bytes::copy_from_slice(key), item));
                    ControlFlow::Continue(())
                }
                Err(source) => {
                    damaged = Some(source);
                    ControlFlow::Break(())
                }
            }
        })?;
        damaged.map_or(Ok(page), |source| Err(self.damaged(source)))
    }

    /// Panics when the records contradict each other.
    pub fn check(&self, state: &dyn State) -> Result<(), Error> {
        let (mut idempotency_records, mut fences) = (0, 0);
        let mut first_expiry = u64::MAX;
        let mut missing = Vec::new();
        state.range(self.table, &[], None, &mut |key, value| {
            match key[0] {
                super::record::IDEMPOTENCY => idempotency_records += 1,
                super::record::FENCE => fences += 1,
                kind if EXPIRIES.contains(&kind) => {
                    let (deadline, record) = split_expiry_key(key).expect("expiry keys hold a deadline");
                    first_expiry = first_expiry.min(deadline);
                    // What became of a transaction with a made-up name stands here itself.
                    if value.is_empty() {
                        missing.push(record);
                    }
                }
                _ => {}
            }
            ControlFlow::Continue(())
        })?;
        for record in missing {
            assert!(state.get(self.table, &record)?.is_some(), "every expiry names a record that is there");
        }
        assert_eq!(idempotency_records, self.meta.idempotency_records, "idempotency records are counted");
        assert_eq!(fences, self.meta.fences, "fences are counted");
        self.check_locks(state)?;
        self.check_txns(state)?;
        assert_eq!(self.count_bytes(state)?, self.meta.bytes, "bytes are counted");
        assert!(self.next_expiry_ms <= first_expiry, "no expiry comes before the next one");
        Ok(())
    }

    fn write(&mut self, state: &mut dyn State, index: u64, write: &Write) -> Result<Outcome, Error> {
        let Some(name) = &write.idempotency_key else {
            return self.write_fenced(state, index, write);
        };
        let record_key = idempotency_key(write.key.bytes(), name);
        let digest = digest_of(write);
        if let Some(bytes) = state.get(self.table, &record_key)? {
            let known = Idempotency::decode(bytes).map_err(|source| self.damaged(source))?;
            return Ok(if known.digest == digest { known.outcome } else { Outcome::IdempotencyConflict });
        }
        let outcome = self.write_fenced(state, index, write)?;
        if matches!(outcome, Outcome::StaleFence { .. } | Outcome::TooManyFences | Outcome::Blocked) {
            return Ok(outcome);
        }
        if self.meta.idempotency_records >= MAX_IDEMPOTENCY_RECORDS {
            self.forget_oldest_idempotency(state)?;
        }
        let deadline_ms = self.meta.clock_ms.saturating_add(IDEMPOTENCY_KEPT_MS);
        state.put(self.table, expiry_key(IDEMPOTENCY_EXPIRY, deadline_ms, &record_key), Bytes::new());
        state.put(self.table, record_key, Idempotency { deadline_ms, digest, outcome }.encode());
        self.meta.idempotency_records += 1;
        self.next_expiry_ms = self.next_expiry_ms.min(deadline_ms);
        Ok(outcome)
    }

    fn write_fenced(&mut self, state: &mut dyn State, index: u64, write: &Write) -> Result<Outcome, Error> {
        if self.blocks_write(write).is_some() {
            return Ok(Outcome::Blocked);
        }
        let passed = write.fence.as_ref().map_or(Ok(Passed::Yes), |fence| self.pass_fence(state, fence))?;
        match passed {
            Passed::Yes => self.write_once(state, index, write),
            Passed::Stale(newest) => Ok(Outcome::StaleFence { newest }),
            Passed::Full => Ok(Outcome::TooManyFences),
        }
    }

    fn write_once(&mut self, state: &mut dyn State, index: u64, write: &Write) -> Result<Outcome, Error> {
        let current = self.value(state, &write.key)?;
        let version = current.as_ref().map(|value| value.item.version);
        let holds = match write.condition {
            Condition::Always => true,
            Condition::Exists => version.is_some(),
            Condition::Absent => version.is_none(),
            Condition::Version(wanted) => version == Some(wanted),
        };
        if !holds {
            return Ok(Outcome::ConditionFailed { current: version });
        }
        Ok(self.change_from(state, index, current, &write.key, &write.change))
    }

    /// Changes a key, which gets this index as its version.
    pub(super) fn change(
        &mut self,
        state: &mut dyn State,
        index: u64,
        key: &Key,
        change: &Change,
    ) -> Result<Outcome, Error> {
        let current = self.value(state, key)?;
        Ok(self.change_from(state, index, current, key, change))
    }

    fn change_from(
        &mut self,
        state: &mut dyn State,
        index: u64,
        current: Option<Value>,
        key: &Key,
        change: &Change,
    ) -> Outcome {
        let record_key = value_key(key.bytes());
        let size = |value: &Bytes| (key.bytes().len() + value.len()) as u64;
        self.meta.bytes -= current.as_ref().map_or(0, |value| size(&value.item.value));
        if let Some(deadline) = current.as_ref().and_then(|value| value.deadline_ms) {
            state.delete(self.table, expiry_key(VALUE_EXPIRY, deadline, &record_key));
        }
        match change {
            Change::Put { value, ttl_ms } => {
                let deadline_ms = ttl_ms.map(|ttl| self.meta.clock_ms.saturating_add(ttl));
                if let Some(deadline) = deadline_ms {
                    state.put(self.table, expiry_key(VALUE_EXPIRY, deadline, &record_key), Bytes::new());
                    self.next_expiry_ms = self.next_expiry_ms.min(deadline);
                }
                self.meta.bytes += size(value);
                state.put(self.table, record_key, Value::encode(index, deadline_ms, value));
                Outcome::Written { version: index, created: current.is_none() }
            }
            Change::Delete if current.is_none() => Outcome::NotFound,
            Change::Delete => {
                self.meta.deletions += 1;
                state.delete(self.table, record_key);
                Outcome::Deleted
            }
        }
    }

    fn count_bytes(&self, state: &dyn State) -> Result<u64, Error> {
        let (mut bytes, mut damaged) = (0, None);
        state.range(self.table, &[VALUE], Some(&[VALUE + 1]), &mut |key, record| match Value::decode(
            Bytes::copy_from_slice(record),
        ) {
            Ok(value) => {
                bytes += (key.len() - 1 + value.item.value.len()) as u64;
                ControlFlow::Continue(())
            }
            Err(source) => {
                damaged = Some(source);
                ControlFlow::Break(())
            }
        })?;
        damaged.map_or(Ok(bytes), |source| Err(self.damaged(source)))
    }

    fn value(&self, state: &dyn State, key: &Key) -> Result<Option<Value>, Error> {
        let record = state.get(self.table, &value_key(key.bytes()))?;
        record.map(Value::decode).transpose().map_err(|source| self.damaged(source))
    }

    pub(super) fn damaged(&self, source: codec::Error) -> Error {
        Error::Damaged { table: self.table, source }
    }
}

/// What tells a write from every other: SHA-256 of its byte form without the name the client gave it.
fn digest_of(write: &Write) -> [u8; 32] {
    let mut writer = codec::Writer::with_capacity(256);
    write_write(&mut writer, &Write { idempotency_key: None, fence: None, ..write.clone() });
    Sha256::digest(writer.finish()).into()
}
