//! Transactions, as one partition sees them: it prepares its part, and later hears what became of the whole.
//!
//! ```text
//!              conflict, stale fence, …: nothing is kept
//!            ┌───────────────────────────────▶
//!  Prepare ──┤                    Resolve (the anchor has decided), Decide: abort
//!            └─▶ open: prepared ──────────────────────────────────▶ finished, for a while
//!                   │  its keys are held                                ▲
//!                   └── Decide: commit ─▶ open: decided ── Close, Resolve
//!                                         (until every participant is)
//!  Alone ─────────────────────────────────────────────────────────▶ finished: all of it is in this partition
//!  Probe, or an abort, of one that is not known ──────────────────▶ finished: aborted. A Prepare that comes later is refused.
//! ```
//!
//! A prepared transaction holds its keys: those that one of its branches writes exclusively, those that it only reads
//! shared, and with them the locks that its conditions name. What is held can't be changed by anybody else, nor expire; what is
//! held exclusively can't be read, for whoever coordinates may have told its client already.
//!
//! Who holds what follows from the open transactions and is kept in memory; `holds` is that table. `apply` is what the
//! entries do, `settle` how transactions end, `finished` what is known afterwards, `record` what is stored, and `codec` the byte
//! forms of commands. A condition is about one key or one lock: what is held is named, so a key that is not there yet can be, but not all
//! that begin alike. How a transaction gets from here to there over all
//! of its partitions is in [`crate::txn`].

mod apply;
pub mod codec;
mod finished;
mod holds;
mod record;
mod settle;

use bytes::Bytes;

use super::command::{Item, Key};
use super::fence::Fence;
use super::lock;
use crate::id::PartitionId;

pub(super) use finished::Deadlines;
pub(super) use holds::Holds;
pub use holds::{Blocker, Thing, things};

/// Longest name of a transaction, in bytes. The shortest is one byte.
pub const MAX_NAME_BYTES: usize = 64;
/// Most operations and conditions of one transaction.
pub const MAX_OPERATIONS: usize = 128;
/// Most bytes of the keys and values of one transaction.
pub const MAX_BYTES: usize = 1024 * 1024;
/// Most bytes of values that the reads of one transaction may have in one partition.
pub const MAX_READ_BYTES: usize = 4 * 1024 * 1024;
/// Most transactions that are open in one partition.
pub const MAX_OPEN: usize = 4096;
/// A transaction that is open for so long is taken for abandoned. Whoever began it may be slow only: then it learns from the
/// anchor what has become of it.
pub const ABANDONED_AFTER_MS: u64 = 1000;
/// How long it is known what became of a transaction, on the partition's clock…
pub const KEPT_MS: u64 = 10 * 60 * 1000;
/// …and if its name was made up. It is longer than any transaction has time: nobody commits one after its deadline, so nobody
/// can be misled by what is not known any more.
pub const MADE_UP_KEPT_MS: u64 = 2 * 60 * 1000;
/// Most finished transactions that one partition knows of: with one more the one that would be forgotten next goes. But never
/// an attempt that the partition has refused before it came: its Prepare may still be on its way, for as long as its transaction has
/// time.
pub const MAX_FINISHED: u64 = 128 * 1024;
/// Results are kept with the decision if they have no more bytes than this, so that whoever asks again is told them.
pub const MAX_KEPT_RESULTS_BYTES: usize = 4096;

/// One attempt at a transaction.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Id {
    /// The transaction's name: its client's, or one that nobody else has.
    pub name: Name,
    /// Whoever makes it, by a random number: nobody ends or goes on with another's attempt as if it were his own.
    pub coordinator: u64,
    /// Which of his attempts this is, from 0. Of all attempts at a transaction at most one is committed.
    pub attempt: u32,
}

/// The name of a transaction: 1 to [`MAX_NAME_BYTES`] bytes, letters, digits, `-`, `_`, `.` and `~`. One that a client gives
/// does not begin with `~`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Name(Bytes);

/// Why bytes are not the name of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the id of a transaction has 1 to {MAX_NAME_BYTES} letters, digits, `-`, `_`, `.` or `~`")]
pub struct NameError;

impl Name {
    /// The name with these bytes.
    pub fn new(bytes: Bytes) -> Result<Self, NameError> {
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(byte);
        let fits = (1..=MAX_NAME_BYTES).contains(&bytes.len()) && bytes.iter().all(is_plain);
        if fits { Ok(Self(bytes)) } else { Err(NameError) }
    }

    /// A name that nobody else has, made of so much chance: `~` and 32 hexadecimal digits.
    pub fn made_up(chance: u128) -> Self {
        Self(format!("~{chance:032x}").into())
    }

    /// Whether it was made up for one request: then nobody but whoever has made it up tries that transaction.
    pub fn is_made_up(&self) -> bool {
        self.0[0] == b'~'
    }

    /// Its bytes, which are ASCII.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }
}

/// Where more about an attempt is known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pointer {
    /// The attempt.
    pub id: Id,
    /// The partition where it is decided: the first of those that it touches.
    pub anchor: PartitionId,
}

/// What must hold of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Condition {
    /// The key.
    pub key: Key,
    /// What must hold.
    pub check: Check,
}

/// What must hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Check {
    /// The key is there with this version.
    Version(u64),
    /// The key is there, or is not.
    Exists(bool),
    /// The key is there with this value.
    Value(Bytes),
}

impl Check {
    /// Whether it holds of a key that stands so.
    pub fn holds_of(&self, item: Option<&Item>) -> bool {
        match self {
            Self::Version(version) => item.is_some_and(|item| item.version == *version),
            Self::Exists(exists) => item.is_some() == *exists,
            Self::Value(value) => item.is_some_and(|item| item.value == *value),
        }
    }
}

/// A lock that must be held.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LockHeld {
    /// The lock.
    pub lock: lock::Name,
    /// The token that must hold it.
    pub token: u64,
}

/// One operation of a branch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// The key gets this value.
    Put {
        /// The key.
        key: Key,
        /// The value.
        value: Bytes,
        /// It goes away by itself after this long; `None`: it stays.
        ttl_ms: Option<u64>,
    },
    /// The key goes away.
    Delete {
        /// The key.
        key: Key,
    },
    /// The key is read.
    Get {
        /// The key.
        key: Key,
    },
}

impl Action {
    /// The key that it is about.
    pub fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete { key } | Self::Get { key } => key,
        }
    }

    /// Whether it changes the key.
    pub fn is_write(&self) -> bool {
        !matches!(self, Self::Get { .. })
    }
}

/// What a transaction has to do with one partition.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Part {
    /// What must hold of its keys.
    pub conditions: Vec<Condition>,
    /// Which of its locks must be held.
    pub locks: Vec<LockHeld>,
    /// What is done if all conditions of the whole transaction hold…
    pub then: Vec<Action>,
    /// …and what if one does not.
    pub otherwise: Vec<Action>,
    /// The lock under which it writes.
    pub fence: Option<Fence>,
}

impl Part {
    /// Bytes of its keys, names and values.
    pub fn bytes(&self) -> usize {
        let conditions = self.conditions.iter().map(|condition| {
            let value = if let Check::Value(value) = &condition.check { value.len() } else { 0 };
            condition.key.bytes().len() + value
        });
        let locks = self.locks.iter().map(|held| held.lock.bytes().len());
        let actions = self.then.iter().chain(&self.otherwise).map(|action| {
            let value = if let Action::Put { value, .. } = action { value.len() } else { 0 };
            action.key().bytes().len() + value
        });
        conditions.chain(locks).chain(actions).sum()
    }

    /// The operations of a branch.
    pub fn branch(&self, decision: Decision) -> &[Action] {
        match decision {
            Decision::Then => &self.then,
            Decision::Otherwise => &self.otherwise,
            Decision::Abort => &[],
        }
    }
}

/// What is decided of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// It is committed, and all conditions held.
    Then,
    /// It is committed, and a condition did not hold.
    Otherwise,
    /// It has done nothing and never will.
    Abort,
}

/// An attempt that is to be made, and one partition's part in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Prepare {
    /// The attempt.
    pub id: Id,
    /// When the transaction was first tried, as a number that need not be exact: of two in each other's way the one with the
    /// lower waits for the other, and the one with the higher gives way.
    pub priority: u64,
    /// SHA-256 of the whole transaction: the same name for another is noticed.
    pub digest: [u8; 32],
    /// The partition where it is decided.
    pub anchor: PartitionId,
    /// For the anchor: all partitions that it touches, in order. For others: none.
    pub participants: Vec<PartitionId>,
    /// Whether nothing is to be done anywhere if a condition does not hold. Such a one is not prepared if its name is made up,
    /// and holds nothing here otherwise.
    pub without_else: bool,
    /// Whether it waits for whoever is in its way, also for older ones: its transaction holds nothing anywhere.
    pub is_patient: bool,
    /// What is to be done here.
    pub part: Part,
}

impl Prepare {
    /// Whether a condition that does not hold is all that anybody wants to know of it: nobody asks again by a name that was made
    /// up, so nothing is kept of it.
    pub fn fails_fast(&self) -> bool {
        self.without_else && self.id.name.is_made_up()
    }
}

impl Alone {
    /// As [`Prepare::fails_fast`].
    pub fn fails_fast(&self) -> bool {
        self.part.otherwise.is_empty() && self.id.name.is_made_up()
    }
}

/// All of a transaction, if one partition has all of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Alone {
    /// The attempt.
    pub id: Id,
    /// SHA-256 of the transaction.
    pub digest: [u8; 32],
    /// What is to be done.
    pub part: Part,
}

/// What is asked of a partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// To do all of a transaction.
    Alone(Alone),
    /// To hold keys for it, and to say how they are.
    Prepare(Prepare),
    /// To say how it stands, and to refuse it from now on if it is not known.
    Probe(Id),
    /// To hear what becomes of some.
    Settle(Vec<Settle>),
}

/// One step towards the end of an attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Settle {
    /// It is decided: to the anchor, or to any if all of them have prepared. What is decided already stays so.
    Decide {
        /// The attempt.
        id: Id,
        /// What.
        decision: Decision,
        /// What its operations have come to, encoded, if that is short.
        results: Option<Bytes>,
    },
    /// To any but the anchor: the anchor has decided.
    Resolve {
        /// The attempt.
        id: Id,
        /// What.
        decision: Decision,
    },
    /// Everybody has heard: it is no longer open here. What became of it is kept, as of any that is finished.
    Close {
        /// The attempt.
        id: Id,
    },
}

impl Settle {
    /// The attempt that it is about.
    pub fn id(&self) -> &Id {
        match self {
            Self::Decide { id, .. } | Self::Resolve { id, .. } | Self::Close { id } => id,
        }
    }
}

/// What came of one operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Done {
    /// The key has this version now.
    Put(u64),
    /// Whether the key was there, and is not any more.
    Deleted(bool),
    /// What was read.
    Got(Option<Item>),
}

/// How a prepared attempt stands in one partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Prepared {
    /// Whether its conditions here hold.
    pub holds: bool,
    /// What comes of the operations of its branch here, if the conditions of the whole hold…
    pub then: Vec<Done>,
    /// …and if not.
    pub otherwise: Vec<Done>,
    /// At the anchor: all partitions that it touches.
    pub participants: Vec<PartitionId>,
}

/// What is known of a finished attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finished {
    /// The attempt.
    pub id: Id,
    /// What was decided.
    pub decision: Decision,
    /// What its operations have come to, encoded, if that was kept.
    pub results: Option<Bytes>,
    /// At the anchor, while it is not sure that all others know: all partitions that it touches. None otherwise.
    pub participants: Vec<PartitionId>,
}

/// What came of a [`Command`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is all done.
    Done {
        /// Which branch was.
        decision: Decision,
        /// What came of its operations.
        results: Vec<Done>,
    },
    /// It is prepared here.
    Prepared(Prepared),
    /// A condition does not hold, and so there is nothing to do.
    ConditionFailed,
    /// Keys are held by another. Nothing was kept.
    Blocked {
        /// By whom.
        by: Pointer,
        /// Whether this one is the older, and should try again without giving anything back.
        waits: bool,
    },
    /// This attempt, or another of the same transaction, is finished.
    Finished(Finished),
    /// Another attempt at the same transaction is under way.
    UnderWay(Pointer),
    /// The name was used for another transaction.
    NameConflict,
    /// A newer token of its fence was here, or it does not hold the lock.
    StaleFence {
        /// The newest token that was here.
        newest: Option<u64>,
    },
    /// The partition can't remember one more fence.
    TooManyFences,
    /// Too many are open here.
    TooManyOpen,
    /// What it reads has too many bytes.
    ReadsTooMuch,
    /// What came of each step.
    Settled(Vec<Settled>),
}

/// What came of a [`Settle`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Settled {
    /// This is decided, whatever was asked for.
    Decided(Decision),
    /// It is aborted, and that does not mean that the transaction has done nothing: this attempt at it is committed, or under
    /// way.
    Other {
        /// The other attempt.
        id: Id,
        /// What is decided of it, if that is known.
        decision: Option<Decision>,
    },
    /// It is done, here and for good.
    Done,
    /// It is not known: it was forgotten long ago.
    Unknown,
}

/// An open transaction, as it is shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct View {
    /// The attempt, and where it is decided.
    pub pointer: Pointer,
    /// All that it touches, if this is the anchor.
    pub participants: Vec<PartitionId>,
    /// What is decided, if it is.
    pub decision: Option<Decision>,
    /// How long ago it was prepared here, in milliseconds.
    pub age_ms: u64,
    /// How many keys and locks it holds here.
    pub keys: u32,
}

/// What a partition knows of an attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Known {
    /// It is open, and nobody has told this partition what is decided.
    Open(View),
    /// It is finished, or decided.
    Finished(Finished),
}

/// What an entry did to transactions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied {
    /// What came of the command.
    pub outcome: Outcome,
    /// What is not held any more by one who held it before: whoever waits for that may try again.
    pub released: Vec<Thing>,
}
