//! What a lane wants done, and the types that force the order in which it is done.
//!
//! ```text
//! Lane::take_output ─▶ Output { sends, replies, writes, leaders, map, outdated }
//!                                  │        │       │
//!                       may go now ┘────────┘       ▼
//!                                            append + fdatasync
//!                                                   │ Writes::into_durable(self)
//!                                                   ▼
//!                         Lane::step(Input::Persisted(Durable)) ─▶ the messages and replies that waited for it
//! ```
//!
//! Acknowledgements and votes stay inside the lane until it is handed the [`Durable`] of the round that they speak of.
//! A `Durable` can be had only by giving up the [`Writes`] it proves, so no shell can send one early by mistake.

use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::{Entry, HardState};

use crate::codec::message::PeerMessage;
use crate::id::{GroupId, MemberId, RequestId};
use crate::lane::Reply;
use crate::map::Map;
use crate::partition::txn::Pointer;
use crate::replica::{Configuration, Tombstone};

/// What one round of a lane wants done. The parts may be done in any order or at once.
#[derive(Debug, Default)]
pub struct Output {
    /// Messages that may leave now: a leader's appends and heartbeats, and whatever earlier rounds have made durable.
    pub sends: Vec<(MemberId, PeerMessage)>,
    /// Answers that may leave now.
    pub replies: Vec<(RequestId, Reply)>,
    /// Must become durable, after the writes of all rounds before; then the proof goes back into the lane.
    pub writes: Option<Writes>,
    /// Groups whose leader, as this member sees it, has changed.
    pub leaders: Vec<LeaderChange>,
    /// The newest map, when the map group's replica in this lane has applied one, or was recovered with one. To be handed
    /// to all lanes of this member ([`crate::lane::Lane::adopt`]) and to all other members.
    pub map: Option<Arc<Map>>,
    /// Members that have an older map than this lane: they should be sent it.
    pub outdated: Vec<MemberId>,
    /// Transactions that nobody seems to end, each with the group that it was found in: somebody should
    /// ([`crate::txn::Recovery`]). They are told of again at each tick for as long as they are open.
    pub abandoned: Vec<(GroupId, Pointer)>,
}

/// A group's leader as this member now sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaderChange {
    /// The group.
    pub group: GroupId,
    /// Who leads it; `None` while nobody is known to.
    pub leader: Option<MemberId>,
    /// In which term.
    pub term: u64,
}

/// The writes of one round, for the WAL. Not cloneable: there is one proof to be had for each.
#[derive(Debug)]
pub struct Writes {
    pub(crate) round: u64,
    pub(crate) groups: Vec<GroupWrite>,
}

/// Proof that the writes of a round, and of every round before it, are durable.
#[derive(Debug)]
pub struct Durable {
    pub(crate) round: u64,
}

impl Durable {
    /// The number of the round that is durable.
    pub fn round(&self) -> u64 {
        self.round
    }
}

impl Writes {
    /// What is to be written.
    pub fn groups(&self) -> &[GroupWrite] {
        &self.groups
    }

    /// The number of the round; consecutive writes have rising numbers.
    pub fn round(&self) -> u64 {
        self.round
    }

    /// Gives the writes up for the proof that they are durable. Call it when they are, and never before.
    pub fn into_durable(self) -> Durable {
        Durable { round: self.round }
    }
}

/// What one round writes for one group. Applied in the order of the fields.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupWrite {
    /// The group.
    pub group: GroupId,
    /// The replica is no more; what it had promised is. Nothing else is written along with it.
    pub dropped: Option<Tombstone>,
    /// Records of a snapshot that is being received.
    pub staged: Vec<Staged>,
    /// A received snapshot takes the place of the group's state and log.
    pub installed: Option<Installed>,
    /// The log begins anew after this point, with nothing in it (a base record, see `docs/storage.md`).
    pub log_start: Option<LogPosition>,
    /// Term, vote and commit index.
    pub hard_state: Option<HardState>,
    /// Log entries; the first takes the place of whatever stood at its index and after.
    pub entries: Vec<Entry>,
}

impl GroupWrite {
    /// Nothing to write for this group yet.
    pub fn new(group: GroupId) -> Self {
        Self {
            group,
            dropped: None,
            staged: Vec::new(),
            installed: None,
            log_start: None,
            hard_state: None,
            entries: Vec::new(),
        }
    }
}

/// The index and term of a log entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogPosition {
    /// Its place in the log.
    pub index: u64,
    /// The term in which it was appended.
    pub term: u64,
}

/// Some records of a snapshot that is being received, on their way into the group's next generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staged {
    /// The generation that they are for.
    pub generation: u32,
    /// Whether whatever was staged before is dropped first.
    pub first: bool,
    /// The records, in key order.
    pub records: Vec<(Bytes, Bytes)>,
}

/// A received snapshot as it takes its place.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Installed {
    /// The generation that becomes the current one.
    pub generation: u32,
    /// The last entry that the snapshot holds.
    pub position: LogPosition,
    /// Who votes and who learns, as of that entry.
    pub configuration: Configuration,
}
