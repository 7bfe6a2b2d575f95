//! What the shell asks of a lane on behalf of a client, and the answers.

use bytes::Bytes;

use crate::id::{GroupId, MemberId, RequestId};
use crate::partition::{Consistency, Item, Key, Outcome, Page, Scan, Write};
use crate::time::Instant;

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
    /// Read the map from the map group.
    ReadMap {
        /// Who may answer.
        consistency: Consistency,
    },
}

/// The answer to a [`Request`].
#[derive(Clone, PartialEq, Debug)]
pub enum Reply {
    /// The write was applied; `Outcome` says what came of it.
    Write(Outcome),
    /// The key's value, if it is there.
    Get(Option<Item>),
    /// A page of keys.
    Scan(Page),
    /// The map, encoded (see [`crate::map::Map::decode`]).
    Map(Bytes),
    /// Nothing was done.
    Refused(Refusal),
    /// The write may or may not happen: the leader was lost or the deadline passed after it was proposed.
    OutcomeUnknown,
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
