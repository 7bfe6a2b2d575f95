//! The records of a partition's table. The first byte of a record's key tells its kind.
//!
//! ```text
//! 0x00                               meta         see `Meta`
//! 0x01 key                           value        version:u8 key_version:u64 deadline_ms:option<u64> value[..]
//! 0x02 length:u32be key name         idempotency  version:u8 deadline_ms:u64 digest[32] outcome
//! 0x03 deadline_ms:u64be record_key     expiry of a value        (empty)
//! 0x04 deadline_ms:u64be record_key     expiry of an idempotency record  (empty)
//! 0x05 name                          lock         see `lock::codec`
//! 0x06 deadline_ms:u64be record_key     when a lock is looked at  (empty)
//! 0x07 lock's name                   fence        version:u8 token:u64 deadline_ms:u64
//! 0x08 deadline_ms:u64be record_key     expiry of a fence  (empty)
//! 0x09 length:u8 name coordinator:u64be attempt:u32be  open transaction      see `txn::record`
//! 0x0a length:u8 name coordinator:u64be attempt:u32be  finished transaction  see `txn::record`
//! 0x0b deadline_ms:u64be record_key     expiry of a finished transaction  (empty; for a made-up name its record, instead of 0x0a)
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::codec::{read_outcome, write_outcome};
use super::command::{Item, Outcome};
use super::txn;
use crate::codec::{Reader, Result, Writer};

pub(super) const META: u8 = 0;
pub(super) const VALUE: u8 = 1;
pub(super) const IDEMPOTENCY: u8 = 2;
pub(super) const VALUE_EXPIRY: u8 = 3;
pub(super) const IDEMPOTENCY_EXPIRY: u8 = 4;
pub(super) const LOCK: u8 = 5;
pub(super) const LOCK_EXPIRY: u8 = 6;
pub(super) const FENCE: u8 = 7;
pub(super) const FENCE_EXPIRY: u8 = 8;
pub(super) const OPEN_TXN: u8 = 9;
pub(super) const FINISHED_TXN: u8 = 10;
pub(super) const FINISHED_TXN_EXPIRY: u8 = 11;

/// The kinds of records that say when something is over.
pub(super) const EXPIRIES: [u8; 5] = [VALUE_EXPIRY, IDEMPOTENCY_EXPIRY, LOCK_EXPIRY, FENCE_EXPIRY, FINISHED_TXN_EXPIRY];

const VERSION: u8 = 1;
const META_VERSION: u8 = 3;

/// What the machine remembers beside its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Meta {
    /// The highest clock that any applied entry carried.
    pub(super) clock_ms: u64,
    /// How many idempotency records there are.
    pub(super) idempotency_records: u64,
    /// Bytes of all keys and values.
    pub(super) bytes: u64,
    /// Since when every lease lasts at least one whole term, on the partition's clock.
    pub(super) leases_from_ms: u64,
    /// How many locks there are.
    pub(super) locks: u64,
    /// How many wait for one.
    pub(super) waiting: u64,
    /// How many fences there are.
    pub(super) fences: u64,
    /// How many finished transactions there are.
    pub(super) finished: u64,
    /// How many values have gone away, by whatever means: an absent key was absent all the time if this has not changed.
    pub(super) deletions: u64,
}

/// A stored value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) item: Item,
    /// When it goes away, on the partition's clock.
    pub(super) deadline_ms: Option<u64>,
}

/// A write that was done under a client's name for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Idempotency {
    pub(super) deadline_ms: u64,
    /// SHA-256 of the write, so that another write under the same name is noticed.
    pub(super) digest: [u8; 32],
    pub(super) outcome: Outcome,
}

pub(super) fn value_key(key: &[u8]) -> Bytes {
    kind_key(VALUE, key)
}

pub(super) fn idempotency_key(key: &[u8], name: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(5 + key.len() + name.len());
    bytes.put_u8(IDEMPOTENCY);
    bytes.put_u32(u32::try_from(key.len()).expect("keys are short"));
    bytes.put_slice(key);
    bytes.put_slice(name);
    bytes.freeze()
}

pub(super) fn lock_key(name: &[u8]) -> Bytes {
    kind_key(LOCK, name)
}

pub(super) fn fence_key(lock: &[u8]) -> Bytes {
    kind_key(FENCE, lock)
}

/// What the keys of all attempts at a transaction begin with.
pub(super) fn txn_prefix(kind: u8, name: &txn::Name) -> BytesMut {
    let name = name.bytes();
    let mut bytes = BytesMut::with_capacity(14 + name.len());
    bytes.put_u8(kind);
    bytes.put_u8(u8::try_from(name.len()).expect("names are short"));
    bytes.put_slice(name);
    bytes
}

pub(super) fn txn_key(kind: u8, id: &txn::Id) -> Bytes {
    let mut bytes = txn_prefix(kind, &id.name);
    bytes.put_u64(id.coordinator);
    bytes.put_u32(id.attempt);
    bytes.freeze()
}

/// The attempt that the key of a record names.
pub(super) fn split_txn_key(key: &[u8]) -> Result<txn::Id> {
    let mut reader = Reader::new(Bytes::copy_from_slice(key), "key of a transaction");
    reader.u8()?;
    let length = usize::from(reader.u8()?);
    let name = reader.raw(length)?;
    let name = txn::Name::new(name).map_err(|_| reader.out_of_range())?;
    let (mut coordinator, mut attempt) = (reader.raw(8)?, reader.raw(4)?);
    reader.end()?;
    Ok(txn::Id { name, coordinator: coordinator.get_u64(), attempt: attempt.get_u32() })
}

fn kind_key(kind: u8, name: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(1 + name.len());
    bytes.put_u8(kind);
    bytes.put_slice(name);
    bytes.freeze()
}

pub(super) fn expiry_key(kind: u8, deadline_ms: u64, record_key: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(9 + record_key.len());
    bytes.put_u8(kind);
    bytes.put_u64(deadline_ms);
    bytes.put_slice(record_key);
    bytes.freeze()
}

/// Takes an expiry key apart: the deadline, and the key of the record that expires.
pub(super) fn split_expiry_key(key: &[u8]) -> Option<(u64, Bytes)> {
    let deadline = key.get(1..9)?.try_into().ok()?;
    Some((u64::from_be_bytes(deadline), Bytes::copy_from_slice(&key[9..])))
}

impl Meta {
    pub(super) fn encode(self) -> Bytes {
        let Self { clock_ms, idempotency_records, bytes, leases_from_ms, locks, waiting, fences, finished, deletions } =
            self;
        let mut writer = Writer::with_capacity(73);
        writer.u8(META_VERSION);
        let counts = [locks, waiting, fences, finished, deletions];
        for number in [clock_ms, idempotency_records, bytes, leases_from_ms].into_iter().chain(counts) {
            writer.u64(number);
        }
        writer.finish()
    }

    /// Reads the byte form; tells whether the bytes are counted in it, as they are since version 2.
    pub(super) fn decode(bytes: Bytes) -> Result<(Self, bool)> {
        let mut reader = Reader::new(bytes, "partition meta");
        let version = reader.version(META_VERSION)?;
        let mut meta = Self { clock_ms: reader.u64()?, idempotency_records: reader.u64()?, ..Self::default() };
        if version > 1 {
            meta.bytes = reader.u64()?;
        }
        if version > 2 {
            meta.leases_from_ms = reader.u64()?;
            meta.locks = reader.u64()?;
            meta.waiting = reader.u64()?;
            meta.fences = reader.u64()?;
            meta.finished = reader.u64()?;
            meta.deletions = reader.u64()?;
        }
        reader.end()?;
        Ok((meta, version > 1))
    }
}

/// Most bytes of a [`Value`]'s record before the value: the format's version, the value's, and when it goes away.
const HEAD_BYTES: usize = 1 + 8 + 1 + 8;

impl Value {
    pub(super) fn encode(version: u64, deadline_ms: Option<u64>, value: &[u8]) -> Bytes {
        let mut writer = Writer::with_capacity(HEAD_BYTES + value.len());
        writer.u8(VERSION);
        writer.u64(version);
        writer.option(deadline_ms, Writer::u64);
        writer.raw(value);
        writer.finish()
    }

    /// As much of a record as says everything but the value.
    pub(super) fn head(record: &[u8]) -> &[u8] {
        &record[..record.len().min(HEAD_BYTES)]
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Self> {
        let mut reader = versioned(bytes, "value")?;
        let version = reader.u64()?;
        let deadline_ms = reader.option(Reader::u64)?;
        let value = reader.raw(reader.remaining())?;
        Ok(Self { item: Item { version, value }, deadline_ms })
    }
}

impl Idempotency {
    pub(super) fn encode(&self) -> Bytes {
        let mut writer = Writer::with_capacity(64);
        writer.u8(VERSION);
        writer.u64(self.deadline_ms);
        writer.raw(&self.digest);
        write_outcome(&mut writer, self.outcome);
        writer.finish()
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Self> {
        let mut reader = versioned(bytes, "idempotency record")?;
        let deadline_ms = reader.u64()?;
        let digest = reader.raw(32)?;
        let record = Self {
            deadline_ms,
            digest: digest[..].try_into().map_err(|_| reader.out_of_range())?,
            outcome: read_outcome(&mut reader)?,
        };
        reader.end()?;
        Ok(record)
    }
}

/// The highest token of a lock that a write to this partition has carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FenceRecord {
    pub(super) token: u64,
    /// When it is forgotten.
    pub(super) deadline_ms: u64,
}

impl FenceRecord {
    pub(super) fn encode(self) -> Bytes {
        let mut writer = Writer::with_capacity(17);
        writer.u8(VERSION);
        writer.u64(self.token);
        writer.u64(self.deadline_ms);
        writer.finish()
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Self> {
        let mut reader = versioned(bytes, "fence")?;
        let record = Self { token: reader.u64()?, deadline_ms: reader.u64()? };
        reader.end()?;
        Ok(record)
    }
}

fn versioned(bytes: Bytes, what: &'static str) -> Result<Reader> {
    let mut reader = Reader::new(bytes, what);
    reader.version(VERSION)?;
    Ok(reader)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            any::<(u64, bool)>().prop_map(|(version, created)| Outcome::Written { version, created }),
            any::<Option<u64>>().prop_map(|current| Outcome::ConditionFailed { current }),
            Just(Outcome::Deleted),
            Just(Outcome::NotFound),
        ]
    }

    proptest! {
        #[test]
        fn records_are_read_back_as_they_were_written(
            numbers: [u64; 10],
            deadline_ms: Option<u64>,
            value in vec(any::<u8>(), 0..40),
            digest: [u8; 32],
            outcome in outcome(),
        ) {
            let [version, clock_ms, idempotency_records, bytes, leases_from_ms, locks, waiting, fences, finished, deletions] =
                numbers;
            let meta = Meta {
                clock_ms, idempotency_records, bytes, leases_from_ms, locks, waiting, fences, finished, deletions,
            };
            let fence = FenceRecord { token: version, deadline_ms: bytes };
            prop_assert_eq!(FenceRecord::decode(fence.encode()), Ok(fence));
            prop_assert_eq!(Meta::decode(meta.encode()), Ok((meta, true)));
            let item = Item { version, value: value.into() };
            let bytes = Value::encode(version, deadline_ms, &item.value);
            prop_assert_eq!(Value::decode(bytes), Ok(Value { item, deadline_ms }));
            let known = Idempotency { deadline_ms: clock_ms, digest, outcome };
            prop_assert_eq!(Idempotency::decode(known.encode()), Ok(known));
        }

        /// As version 1 wrote it: `version:u8 clock_ms:u64 idempotency_records:u64`.
        #[test]
        fn what_is_remembered_in_version_1_is_read_without_a_count_of_bytes(clock_ms: u64, idempotency_records: u64) {
            let bytes = [&[1][..], &clock_ms.to_le_bytes(), &idempotency_records.to_le_bytes()].concat();
            let meta = Meta { clock_ms, idempotency_records, ..Meta::default() };
            prop_assert_eq!(Meta::decode(bytes.into()), Ok((meta, false)));
        }

        /// As version 2 wrote it: `version:u8 clock_ms:u64 idempotency_records:u64 bytes:u64`.
        #[test]
        fn what_is_remembered_in_version_2_knows_of_no_locks(clock_ms: u64, idempotency_records: u64, count: u64) {
            let numbers = [clock_ms, idempotency_records, count].map(u64::to_le_bytes).concat();
            let meta = Meta { clock_ms, idempotency_records, bytes: count, ..Meta::default() };
            prop_assert_eq!(Meta::decode([&[2][..], &numbers].concat().into()), Ok((meta, true)));
        }

        #[test]
        fn no_bytes_make_reading_a_record_panic(bytes in vec(prop_oneof![Just(1u8), any::<u8>()], 0..80)) {
            let bytes = Bytes::from(bytes);
            let _ = (Meta::decode(bytes.clone()), Value::decode(bytes.clone()), Idempotency::decode(bytes.clone()));
            let _ = (split_expiry_key(&bytes), FenceRecord::decode(bytes.clone()));
        }

        #[test]
        fn expiries_are_in_order_of_their_deadlines(a: u64, b: u64, key in vec(any::<u8>(), 0..9), other in vec(any::<u8>(), 0..9)) {
            let (first, second) = (expiry_key(VALUE_EXPIRY, a, &key), expiry_key(VALUE_EXPIRY, b, &other));
            prop_assert_eq!(split_expiry_key(&first), Some((a, Bytes::from(key))));
            prop_assert!(a == b || (a < b) == (first < second));
        }

        /// A key and a name never make the record of another key and name.
        #[test]
        fn an_idempotency_record_belongs_to_one_key_and_name(
            key in vec(0u8..3, 1..4),
            name in vec(0u8..3, 1..4),
            other_key in vec(0u8..3, 1..4),
            other_name in vec(0u8..3, 1..4),
        ) {
            let same = key == other_key && name == other_name;
            prop_assert_eq!(idempotency_key(&key, &name) == idempotency_key(&other_key, &other_name), same);
        }
    }
}
