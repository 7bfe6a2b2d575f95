//! What a lane is made of, what it is asked, and how its threads are started.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use annulus_core::codec::message::PeerMessage;
use annulus_core::id::{GroupId, MemberId, Ticket};
use annulus_core::lane::{Durable, Lane, Operation};
use annulus_core::map::Map;
use annulus_core::replica::{self, Settings};
use annulus_core::time::Instant;
use crossbeam_channel::bounded;
use slab::Slab;
use tokio::sync::{mpsc, oneshot};

use super::checkpoint::CheckpointThread;
use super::driver::{Driver, Events, LaneHandle, OnFailure};
use super::inbox::Inbox;
use super::rounds::Rounds;
use super::wal::WalThread;
use super::{Clock, Links, ReplyQueue, Shared};
use crate::storage::{Checkpointed, Error as StorageError, IdentityFile, OpenedLane};
use crate::transactions::Found;

/// With so many rounds whose writes are not durable yet no inputs are taken. (Ticks may still write a little.)
pub(super) const ROUNDS_IN_FLIGHT: usize = 64;

/// What a lane is asked.
#[derive(Debug)]
pub enum LaneInput {
    /// A client's request.
    Request {
        /// The group it is for.
        group: GroupId,
        /// What is asked.
        operation: Operation,
        /// When waiting ends.
        deadline: Instant,
        /// Who waits.
        reply_to: ReplyTo,
    },
    /// What one frame from a member holds for this lane.
    Peer {
        /// That member.
        from: MemberId,
        /// The messages.
        messages: Vec<PeerMessage>,
    },
    /// Nobody waits for the answer to this request any more.
    Cancel {
        /// The group that it was for.
        group: GroupId,
        /// Who waited.
        reply_to: ReplyTo,
    },
    /// The link to this member is down.
    Unreachable(MemberId),
    /// Make the replicas of the first map; answers when they are durable.
    Bootstrap(Arc<Map>, oneshot::Sender<()>),
    /// A newer map: make and drop replicas, and follow it.
    Adopt(Arc<Map>),
    /// Hand all leaderships over and take none, or not any more.
    Evict(bool),
}

/// Who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReplyTo {
    /// An I/O thread of this node, under this number (which names the thread).
    Local(u64),
    /// Another member, under its name for the request.
    Peer(MemberId, Ticket),
}

/// What a lane's own helpers tell it.
#[derive(Debug)]
pub(super) enum LaneEvent {
    Persisted(Vec<Durable>),
    Checkpointed(Checkpointed),
    DiskFull(bool),
    Failed(Box<StorageError>),
}

/// What a lane is made of.
pub struct LaneSetup {
    /// Its number.
    pub lane: u32,
    /// What the core is told.
    pub settings: Settings,
    /// What its disk holds.
    pub opened: OpenedLane,
    /// The map, if the member has one.
    pub map: Option<Arc<Map>>,
    /// The volume's identity.
    pub identity: Arc<IdentityFile>,
    /// What all threads look at.
    pub shared: Arc<Shared>,
    /// The node's clock.
    pub clock: Clock,
    /// The ways to other members.
    pub links: Links,
    /// The ways to the I/O threads, by number.
    pub replies: Vec<ReplyQueue>,
    /// Where new maps are looked at.
    pub maps: mpsc::Sender<Arc<Map>>,
    /// Where abandoned transactions are brought to their end.
    pub abandoned: mpsc::Sender<Vec<Found>>,
    /// The lane that the map group is in; `None` for that lane itself.
    pub map_lane: Option<LaneHandle>,
    /// Most bytes of snapshots that it sends in a second.
    pub move_bytes_per_second: u64,
    /// A checkpoint is due when the overlay has this many bytes…
    pub overlay_max_bytes: usize,
    /// …or when it is this old.
    pub overlay_max_age: Duration,
}

/// Recovers the lane and starts its threads.
pub fn spawn(setup: LaneSetup, on_failure: OnFailure) -> Result<LaneHandle, replica::Error> {
    let inbox = Arc::new(Inbox::new());
    // Room for every event that can be under way: the WAL thread never waits for the lane, so the lane may wait for it.
    let (event_sender, events) = bounded(ROUNDS_IN_FLIGHT * 2 + 8);
    let (wal, commands) = bounded(ROUNDS_IN_FLIGHT + 8);
    let (checkpoints, frozen) = bounded(1);
    let now = setup.clock.now();
    let OpenedLane { state, wal: files, checkpointer, replay, .. } = setup.opened;
    let mut lane = Lane::recover(setup.settings.clone(), state, replay, now)?;
    lane.limit_moves(setup.move_bytes_per_second);
    if let Some(map) = &setup.map {
        let (shared, number) = (&setup.shared, setup.lane as usize);
        lane.adopt(map, |group| shared.lane_of(group) == number, now)?;
    }
    let rounds = Rounds {
        number: setup.lane,
        lane,
        inbox: Arc::clone(&inbox),
        events,
        wal: wal.clone(),
        waiting: Slab::new(),
        cancellable: HashMap::new(),
        written: 0,
        bootstraps: VecDeque::new(),
        next_tick: now + setup.settings.tick(),
        tick: setup.settings.tick(),
        overlay_since: now,
        checkpointing: false,
        checkpoint_due: false,
        behind: false,
        haste: checkpointer.haste(),
        overlay_max_bytes: setup.overlay_max_bytes,
        overlay_max_age: setup.overlay_max_age,
        shared: setup.shared,
        clock: setup.clock,
        links: setup.links,
        replies: setup.replies,
        maps: setup.maps,
        abandoned: setup.abandoned,
        map_lane: setup.map_lane,
        frames: BTreeMap::new(),
        spent: None,
        own_thread_looks_at: now,
    };
    let driver = Arc::new(Driver::new(rounds, on_failure));
    let weak = Arc::downgrade(&driver);
    let events = Events { queue: event_sender, driver: weak.clone() };
    let (number, identity) = (setup.lane, setup.identity);
    let wal_thread = WalThread { lane: number, wal: files, identity, commands, checkpoints, events: events.clone() };
    let checkpoint_thread = CheckpointThread { lane: number, checkpointer, frozen, wal, events };
    let name = |what: &str| format!("{what}-{number}");
    start(name("wal"), move || wal_thread.run());
    start(name("checkpoint"), move || checkpoint_thread.run());
    start(name("lane"), move || Driver::run(&weak));
    Ok(LaneHandle::new(driver))
}

fn start(name: String, body: impl FnOnce() + Send + 'static) {
    thread::Builder::new().name(name).spawn(body).expect("the system has room for a few threads");
}

/// Why a lane can't go on.
#[derive(Debug, thiserror::Error)]
pub enum LaneFailure {
    /// The core says so.
    #[error("the replicas of this member can't go on: {0}")]
    Replica(#[from] replica::Error),
    /// The disk does.
    #[error("the disk of this member can't be used: {}", describe(.0))]
    Storage(Box<StorageError>),
}

fn describe(error: &StorageError) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}
