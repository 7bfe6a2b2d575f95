//! What can be asked of a partition, and what it answers. Made once at the edge, where every limit is checked.

use bytes::Bytes;

use super::fence::Fence;

/// Longest key, in bytes. The shortest is one byte.
pub const MAX_KEY_BYTES: usize = 4096;
/// Largest value that any configuration may allow, in bytes; the default limit is [`DEFAULT_MAX_VALUE_BYTES`].
pub const MAX_VALUE_BYTES: usize = 8 * 1024 * 1024;
/// Largest value unless the configuration says otherwise, in bytes.
pub const DEFAULT_MAX_VALUE_BYTES: usize = 1024 * 1024;
/// Longest `Idempotency-Key`, in bytes.
pub const MAX_IDEMPOTENCY_KEY_BYTES: usize = 255;
/// Most keys that one scan page of one partition holds.
pub const MAX_SCAN_KEYS: u32 = 1000;
/// Longest time to live: 10 years, in milliseconds. The shortest is one millisecond.
pub const MAX_TTL_MS: u64 = 10 * 365 * 24 * 3600 * 1000;

/// A key: 1 to [`MAX_KEY_BYTES`] bytes, any bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key(Bytes);

/// Why bytes are not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No bytes at all.
    #[error("the key is empty; a key has 1 to {MAX_KEY_BYTES} bytes")]
    Empty,
    /// Too many bytes.
    #[error("the key has {0} bytes; a key has 1 to {MAX_KEY_BYTES} bytes")]
    TooLong(usize),
}

impl Key {
    /// The key with these bytes.
    pub fn new(bytes: Bytes) -> Result<Self, KeyError> {
        match bytes.len() {
            0 => Err(KeyError::Empty),
            n if n > MAX_KEY_BYTES => Err(KeyError::TooLong(n)),
            _ => Ok(Self(bytes)),
        }
    }

    /// The bytes of the key.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }
}

/// What must hold of the key for a write to happen. Versions are Raft indexes, so they always rise for a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Condition {
    /// Nothing.
    Always,
    /// The key is there (`If-Match: *`).
    Exists,
    /// The key is not there (`If-None-Match: *`).
    Absent,
    /// The key is there with exactly this version (`If-Match: "v"`).
    Version(u64),
}

/// A change to one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    /// The key that changes.
    pub key: Key,
    /// What must hold for it.
    pub condition: Condition,
    /// What becomes of it.
    pub change: Change,
    /// The client's name for this write: the same name with the same write answers the same and writes once.
    pub idempotency_key: Option<Bytes>,
    /// The lock under which it is done: nothing happens if a newer holder has written here.
    pub fence: Option<Fence>,
}

impl Write {
    /// Bytes that it is about.
    pub fn size(&self) -> usize {
        let value = match &self.change {
            Change::Put { value, .. } => value.len(),
            Change::Delete => 0,
        };
        self.key.bytes().len() + value + self.idempotency_key.as_ref().map_or(0, Bytes::len)
    }
}

/// What becomes of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// It gets this value.
    Put {
        /// The value.
        value: Bytes,
        /// It goes away by itself after this long, never earlier; `None`: it stays.
        ttl_ms: Option<u64>,
    },
    /// It goes away.
    Delete,
}

/// What came of a [`Write`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The value was written.
    Written {
        /// The key's new version.
        version: u64,
        /// Whether the key was absent before.
        created: bool,
    },
    /// The key was deleted.
    Deleted,
    /// There was no such key to delete. Nothing changed.
    NotFound,
    /// The condition did not hold. Nothing changed.
    ConditionFailed {
        /// The key's version now; `None`: there is no such key.
        current: Option<u64>,
    },
    /// The idempotency key was used for another write before. Nothing changed.
    IdempotencyConflict,
    /// The token does not hold the lock any more, or a write with a newer one was here. Nothing changed.
    StaleFence {
        /// The newest token that was here.
        newest: Option<u64>,
    },
    /// The partition can't remember one more fence. Nothing changed.
    TooManyFences,
    /// An open transaction holds the key. Nothing changed: try again.
    Blocked,
}

/// A key's value as read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    /// The Raft index at which it was last written.
    pub version: u64,
    /// The value.
    pub value: Bytes,
}

/// The values of some keys of one partition at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Many {
    /// The values, as far as they are there, in the order in which they were asked for.
    pub items: Vec<Option<Item>>,
    /// How many values have ever gone away in the partition: a key that is absent twice was absent all the time in between if
    /// this has not changed.
    pub deletions: u64,
}

/// Which replicas may answer a read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Consistency {
    /// The leader, under its lease; without a lease like `Quorum`.
    Linearizable,
    /// The leader, after a quorum has confirmed that it still is. Assumes nothing about clocks.
    Quorum,
    /// Any replica, from what it has applied so far.
    Stale,
}

/// A request for one page of one partition's keys, in key order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scan {
    /// Only keys that begin with this.
    pub prefix: Bytes,
    /// Only keys after this one.
    pub after: Option<Bytes>,
    /// At most this many keys (1 to [`MAX_SCAN_KEYS`]).
    pub limit: u32,
    /// Whether the values come too.
    pub values: bool,
}

/// One page of one partition's keys.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Page {
    /// Keys in order. The value is empty when values were not asked for.
    pub items: Vec<(Bytes, Item)>,
    /// Whether there are more keys after the last one here.
    pub more: bool,
}
