//! What all threads of a node look at: who we are, the map, who leads what.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use annulus_core::id::{GroupId, MemberId};
use annulus_core::lane::LeaderChange;
use annulus_core::map::{MAX_PARTITIONS, Map};
use tokio::sync::watch;

/// What all threads of a node look at.
#[derive(Debug)]
pub struct Shared {
    /// This member.
    pub member: MemberId,
    /// Which of its processes this is: see [`annulus_core::id::Ticket`].
    pub life: u64,
    /// How many lanes it has. Group `g` is in lane `g % lanes`.
    pub lanes: usize,
    map: watch::Sender<Option<Arc<Map>>>,
    /// By group: the leader's member id, 0 for none known. Lanes say it of the groups that they have; of the others it
    /// is learnt from the answers of members that were asked.
    leaders: Box<[AtomicU64]>,
    /// By lane.
    pub gauges: Box<[LaneGauges]>,
}

/// What a lane says about itself, for status and metrics.
#[derive(Debug, Default)]
pub struct LaneGauges {
    /// Groups with a replica here that votes.
    pub replicas: AtomicUsize,
    /// Groups with a replica here that is still to get what the others have.
    pub moves_in: AtomicUsize,
    /// Bytes of snapshots a second that may be sent from here.
    pub move_rate: AtomicU64,
    /// Whether clients' writes were heard of here lately.
    pub hears_writes: AtomicBool,
    /// Groups led here.
    pub leaders: AtomicUsize,
    /// Groups with a voting replica here that have a leader and have applied something of its term.
    pub settled: AtomicUsize,
    /// Locks that are held, of groups led here.
    pub locks: AtomicU64,
    /// How many wait for those.
    pub lock_waiters: AtomicU64,
    /// Transactions that are open in partitions led here.
    pub open_txns: AtomicU64,
    /// For how many whole seconds the oldest of those has been.
    pub oldest_txn_seconds: AtomicU64,
    /// Bytes in the active overlay.
    pub overlay_bytes: AtomicUsize,
    /// Bytes that the logs take in memory.
    pub log_bytes: AtomicUsize,
    /// Snapshots that were begun anew because the log after them was gone.
    pub snapshots_overtaken: AtomicU64,
    /// Rounds that had something to write.
    pub written_rounds: AtomicU64,
    /// Syncs of the WAL.
    pub syncs: AtomicU64,
    /// Checkpoints that have become durable.
    pub checkpoints: AtomicU64,
}

impl Shared {
    /// A member that knows nothing yet.
    pub fn new(member: MemberId, life: u64, lanes: usize) -> Self {
        Self {
            member,
            life,
            lanes,
            map: watch::Sender::new(None),
            leaders: (0..=MAX_PARTITIONS).map(|_| AtomicU64::new(0)).collect(),
            gauges: (0..lanes).map(|_| LaneGauges::default()).collect(),
        }
    }

    /// The newest map.
    pub fn map(&self) -> Option<Arc<Map>> {
        self.map.borrow().clone()
    }

    /// Takes over a map, if it is newer than the one that is known. Returns whether it was.
    pub fn set_map(&self, map: Arc<Map>) -> bool {
        self.map.send_if_modified(|known| {
            let is_newer = known.as_ref().is_none_or(|known| known.epoch < map.epoch);
            if is_newer {
                *known = Some(map);
            }
            is_newer
        })
    }

    /// Tells of each map that is taken over.
    pub fn map_changes(&self) -> watch::Receiver<Option<Arc<Map>>> {
        self.map.subscribe()
    }

    /// The lane that a group is in.
    pub fn lane_of(&self, group: GroupId) -> usize {
        group.0 as usize % self.lanes
    }

    /// Who leads a group, as last heard.
    pub fn leader(&self, group: GroupId) -> Option<MemberId> {
        MemberId::new(self.leaders.get(group.0 as usize)?.load(Ordering::Relaxed))
    }

    /// A lane has seen a leader come or go.
    pub fn note_leader(&self, change: LeaderChange) {
        if let Some(leader) = self.leaders.get(change.group.0 as usize) {
            leader.store(change.leader.map_or(0, MemberId::get), Ordering::Relaxed);
        }
    }

    /// A member that was asked has said who leads a group, or that it does not lead it itself. Lanes know better: what
    /// one of them has said since stands.
    pub fn hint_leader(&self, group: GroupId, asked: MemberId, hint: Option<MemberId>) {
        let Some(leader) = self.leaders.get(group.0 as usize) else { return };
        let hint = hint.map_or(0, MemberId::get);
        let known = leader.load(Ordering::Relaxed);
        if known == asked.get() || known == 0 {
            // Lost to a newer word: then that stands.
            let _ = leader.compare_exchange(known, hint, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}
