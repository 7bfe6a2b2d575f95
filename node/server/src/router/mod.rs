//! The seam between the HTTP edge and the rest of the node.
//!
//! The edge turns bytes into an [`Operation`] for one group and hands it to a [`Router`], which knows where the group's
//! leader is. The edge passes on who leads; it decides nothing by it.

mod begun;
pub(crate) mod identify;
mod local;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use annulus_core::id::{ClusterId, GroupId, MemberId};
use annulus_core::lane::{Operation, Reply};
use annulus_core::map::Map;

pub use local::{NodeParts, NodeRouter};

/// Takes requests to where they are answered. One per I/O thread: its futures stay on the thread that made them.
pub trait Router {
    /// Takes the operation to the group's leader, here or elsewhere, and answers when `timeout` has passed at the latest,
    /// or, if the answer was lost on its way, within half a second after that.
    ///
    /// The edge drops the future when its client goes away; a write that was handed on may still happen then.
    fn submit(&self, group: GroupId, operation: Operation, timeout: Duration) -> impl Future<Output = Reply>;

    /// The newest map that this member knows; `None` before bootstrap.
    fn map(&self) -> Option<Arc<Map>>;

    /// Who leads a group, as far as this member knows.
    fn leader(&self, group: GroupId) -> Option<MemberId>;

    /// Who leads a group, as far as this member knows, if it is another one.
    fn other_leader(&self, group: GroupId) -> Option<MemberId>;

    /// How this member is.
    fn status(&self) -> NodeStatus;

    /// Makes `map` the first map of the store, or finds that it already is.
    fn bootstrap(&self, map: Map) -> impl Future<Output = Result<(), BootstrapError>>;

    /// Asks the node at this `host:port` who it is. Answers within two seconds; the error says what stood in the way, for
    /// people.
    fn identify(&self, admin_address: &str) -> impl Future<Output = Result<Identified, String>>;

    /// Has this member hand its leaders over and take none for so long. Waits up to five seconds for them to go, and says
    /// how many are left.
    fn evict(&self, lasts: Duration) -> impl Future<Output = usize>;

    /// Ends an eviction before its time; nothing when there is none.
    fn end_eviction(&self);
}

/// Who a node says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identified {
    /// Its identity.
    pub id: MemberId,
    /// Its name among people.
    pub name: String,
    /// The zone it runs in; empty when it does not know, or zones are not told apart.
    pub zone: String,
    /// The store that it belongs to; `None` when it belongs to none yet.
    pub cluster: Option<ClusterId>,
    /// Where other members reach it; `None`: it does not tell.
    pub peer_address: Option<String>,
}

/// How a member is, for its operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatus {
    /// Its identity.
    pub id: MemberId,
    /// Its name among people.
    pub name: String,
    /// The zone it runs in: the one that it is configured with, else the one that the map says; empty when there is none.
    pub zone: String,
    /// Its share of the partitions relative to others, as it is configured.
    pub weight: u32,
    /// Where clients reach it, as it is configured.
    pub client_address: String,
    /// Where other members reach it, as it is configured.
    pub peer_address: String,
    /// Where the operator reaches it, as it is configured.
    pub admin_address: String,
    /// The store that it belongs to; `None` before bootstrap.
    pub cluster: Option<ClusterId>,
    /// Epoch of the newest map that it knows; 0 before bootstrap.
    pub epoch: u64,
    /// Why it is not ready: one sentence for each reason, none when it is.
    pub not_ready: Vec<String>,
    /// How many lanes it has.
    pub lanes: usize,
    /// How many groups it holds a voting replica of.
    pub replicas: usize,
    /// How many groups it has a replica of that is still to get what the others have.
    pub moves_in: usize,
    /// How many groups it leads.
    pub leaders: usize,
    /// Whether it hands its leaders over and takes none.
    pub evicted: bool,
    /// The room on the disk that its volume is on; `None` when the system does not tell.
    pub disk: Option<DiskSpace>,
    /// How long the process has been running.
    pub uptime: Duration,
}

/// The room on the disk that a volume is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    /// Bytes that may still be written by this process.
    pub free_bytes: u64,
    /// Bytes that there are in all.
    pub total_bytes: u64,
    /// Bytes that the volume's own files take.
    pub data_bytes: u64,
}

/// Why a map did not become the first map of the store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BootstrapError {
    /// This member already has a map, and it is another one. The two ids are the same when only the content differs.
    #[error("this member belongs to cluster {ours}, whose first map is not the one asked for (cluster {theirs})")]
    Conflict {
        /// The cluster that this member belongs to.
        ours: ClusterId,
        /// The cluster that was asked for.
        theirs: ClusterId,
    },
    /// The map does not name this member.
    #[error("the member asked, {member}, is not among the members named")]
    NotAMember {
        /// This member.
        member: MemberId,
    },
    /// The member asked is configured with another zone than the map says.
    #[error("the member asked, {member}, is configured with zone `{configured}`, and the request names `{asked}`")]
    OtherZone {
        /// This member.
        member: MemberId,
        /// As it is configured.
        configured: String,
        /// As the map says.
        asked: String,
    },
    /// Another member that the map names belongs to another store.
    #[error("the member `{name}` belongs to cluster {theirs} already, and the request begins cluster {asked}")]
    Taken {
        /// The other member's name.
        name: String,
        /// The cluster that it belongs to.
        theirs: ClusterId,
        /// The cluster that was asked for.
        asked: ClusterId,
    },
    /// The map could not be made durable or could not be agreed on in time. It may be asked for again.
    #[error("the map could not be agreed on: {reason}")]
    Unreachable {
        /// What stood in the way.
        reason: String,
    },
}
