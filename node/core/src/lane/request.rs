//! What the shell asks of a lane on behalf of a client, and the answers.

use bytes::Bytes;

use crate::id::{GroupId, MemberId, RequestId};
use crate::map::history::Event;
use crate::map::plan::Plan;
use crate::map::{self, Intent, Map};
use crate::partition::{Consistency, Item, Key, Many, Outcome, Page, Scan, Write, lock, txn};
use crate::time::Instant;

/// Most open transactions that one partition lists.
pub const MAX_TXNS_LISTED: usize = 256;

/// One client request for one group. The lane answers each exactly once, at the latest when its deadline has passed.
#[derive(Clone, PartialEq, Debug)]
pub struct Request {
    /// The shell's name for it.
    pub id: RequestId,
    /// The group it is for.
    pub group: GroupId,
    /// When waiting ends.
    pub deadline: Instant,
    /// What is asked.
    pub operation: Operation,
}

/// What is asked of a group.
#[derive(Clone, PartialEq, Debug)]
pub enum Operation {
    /// Change one key of a partition.
    Write(Write),
    /// Acquire, renew or release a lock of a partition.
    Lock(lock::Command),
    /// Do a transaction or a part of it, or hear what becomes of some.
    Txn(txn::Command),
    /// Read some keys of a partition at one moment.
    GetMany {
        /// The keys.
        keys: Vec<Key>,
        /// Who may answer.
        consistency: Consistency,
    },
    /// Read what a partition knows of a transaction.
    ReadTxn {
        /// Its name.
        name: txn::Name,
        /// Who may answer.
        consistency: Consistency,
    },
    /// Read which transactions are open in a partition, the oldest first, up to [`MAX_TXNS_LISTED`].
    ListTxns {
        /// Who may answer.
        consistency: Consistency,
    },
    /// Read one key of a partition.
    Get {
        /// The key.
        key: Key,
        /// Who may answer.
        consistency: Consistency,
    },
    /// Read one page of a partition's keys.
    Scan {
        /// Which keys.
        scan: Scan,
        /// Who may answer.
        consistency: Consistency,
    },
    /// Read one lock of a partition.
    ReadLock {
        /// Its name.
        name: lock::Name,
        /// Who may answer.
        consistency: Consistency,
    },
    /// Read one page of a partition's locks.
    ListLocks {
        /// Which names.
        scan: Scan,
        /// Who may answer.
        consistency: Consistency,
    },
    /// Read the map from the map group.
    ReadMap {
        /// Who may answer.
        consistency: Consistency,
    },
    /// Change the map.
    ChangeMap(Intent),
    /// Read what is about to happen to the ring, from the leader of the map group.
    ReadPlan,
    /// Read the last changes of the map, or the map as one of them left it.
    ReadHistory {
        /// The epoch of that map.
        epoch: Option<u64>,
    },
}

impl Operation {
    /// Who may answer, if this only reads.
    pub fn consistency(&self) -> Option<Consistency> {
        match self {
            Self::Write(_) | Self::Lock(_) | Self::Txn(_) | Self::ChangeMap(_) => None,
            Self::Get { consistency, .. }
            | Self::Scan { consistency, .. }
            | Self::ReadLock { consistency, .. }
            | Self::GetMany { consistency, .. }
            | Self::ReadTxn { consistency, .. }
            | Self::ListTxns { consistency }
            | Self::ListLocks { consistency, .. }
            | Self::ReadMap { consistency } => Some(*consistency),
            Self::ReadPlan | Self::ReadHistory { .. } => Some(Consistency::Linearizable),
        }
    }

    /// Whether it may change something: then an answer that is lost leaves open whether it has.
    pub fn is_write(&self) -> bool {
        self.consistency().is_none()
    }

    /// Whether its answer may take as long as somebody else holds a lock.
    pub fn waits_for_lock(&self) -> bool {
        matches!(self, Self::Lock(lock::Command::Acquire(wish)) if wish.wait_ms > 0)
    }

    /// Whether it may be asked again when it is not known what came of it: it has its effect once.
    pub fn is_repeatable(&self) -> bool {
        match self {
            Self::Lock(command) => matches!(command, lock::Command::Acquire(_) | lock::Command::Renew { .. }),
            // Whoever asks again is told what came of it; a coordinator gives its own number.
            Self::Txn(_) => true,
            _ => !self.is_write(),
        }
    }
}

/// The answer to a [`Request`].
#[derive(Clone, PartialEq, Debug)]
pub enum Reply {
    /// The write was applied; `Outcome` says what came of it.
    Write(Outcome),
    /// The command to a lock was applied, and if it had to wait that has an end.
    Lock(lock::Outcome),
    /// The lock, if anybody holds it.
    LockView(Option<lock::View>),
    /// A page of locks.
    Locks {
        /// Locks in the order of their names.
        locks: Vec<lock::View>,
        /// Whether there are more after the last one here.
        more: bool,
    },
    /// The command to a transaction was applied.
    Txn(txn::Outcome),
    /// Some keys at one moment.
    Many(Many),
    /// What the partition knows of a transaction, all its attempts.
    KnownTxn(Vec<txn::Known>),
    /// The open transactions.
    Txns(Vec<txn::View>),
    /// The key's value, if it is there.
    Get(Option<Item>),
    /// A page of keys.
    Scan(Page),
    /// The map, encoded (see [`crate::map::Map::decode`]).
    Map(Bytes),
    /// The map was changed, or why not.
    Changed(Result<Changed, map::Refusal>),
    /// What is about to happen to the ring.
    Plan(Plan),
    /// The last changes of the map, the newest first.
    History(Vec<Event>),
    /// The map as it was, encoded; `None` when that is not known any more.
    PastMap(Option<Bytes>),
    /// Nothing was done.
    Refused(Refusal),
    /// The write may or may not happen: the leader was lost or the deadline passed after it was proposed.
    OutcomeUnknown,
}

/// What came of a command to change the map.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changed {
    /// The epoch of the map that says so.
    pub epoch: u64,
    /// Members that join.
    pub joined: Vec<MemberId>,
    /// Members that leave, or are gone.
    pub leaving: Vec<MemberId>,
    /// Members that are changed in another way.
    pub updated: Vec<MemberId>,
}

impl Changed {
    /// What is different in `new`.
    pub fn between(old: &Map, new: &Map) -> Self {
        use crate::map::MemberState::Leaving;
        let mut changed = Self { epoch: new.epoch, ..Self::default() };
        for member in &new.members {
            match old.member(member.id) {
                None => changed.joined.push(member.id),
                Some(before) if before == member => {}
                Some(before) if before.state != Leaving && member.state == Leaving => changed.leaving.push(member.id),
                Some(_) => changed.updated.push(member.id),
            }
        }
        let gone = old.members.iter().filter(|member| new.member(member.id).is_none());
        changed.leaving.extend(gone.map(|member| member.id));
        changed
    }
}

/// Why a lane did nothing. Each may be tried again, elsewhere or later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// This member does not lead the group (or no longer does).
    NotLeader {
        /// Who does, as far as this member knows.
        leader: Option<MemberId>,
    },
    /// This member has no replica of the group.
    NoReplica,
    /// Too much is waiting already: the log, the overlay or the disk is behind.
    Busy,
    /// The disk is full.
    DiskFull,
    /// The deadline passed before the read could be answered.
    TimedOut,
}
