//! The lane thread: drains the inbox, steps the core, does what the output says.
//!
//! ```text
//!  inbox ──▶ step, step, step … ─▶ take_output ─▶ writes to the WAL thread, frames to peers, replies to I/O threads
//!  events ─▶ (persisted, checkpointed)                    └─ now and then: freeze, rotate, checkpoint
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use annulus_core::codec::frame::{FrameWriter, Item};
use annulus_core::codec::message::PeerMessage;
use annulus_core::id::{GroupId, MemberId, RequestId};
use annulus_core::lane::{Durable, Input, Lane, Operation, Output, Pressure, Request};
use annulus_core::map::Map;
use annulus_core::replica::{self, Replica, Settings};
use annulus_core::time::Instant;
use crossbeam_channel::{Receiver, Sender, bounded};
use slab::Slab;
use tokio::sync::{mpsc, oneshot};

use super::checkpoint::CheckpointThread;
use super::replies::thread_of;
use super::wal::{WalCommand, WalThread};
use super::{Clock, LaneGauges, Links, ReplyBatch, ReplyQueue, Shared};
use crate::storage::{Checkpointed, Error as StorageError, Haste, IdentityFile, LaneState, OpenedLane};

/// Most requests and peer batches that wait for a lane.
const INBOX: usize = 8192;
/// Most inputs of one round.
const INPUTS_PER_ROUND: usize = 1024;
/// Most rounds whose writes are not durable yet; then the lane only waits for the disk.
const ROUNDS_IN_FLIGHT: usize = 64;
/// While snapshots are sent the lane looks this often whether more may be.
const STREAM_PAUSE: Duration = Duration::from_millis(2);
/// A frame is sent off when it has this many bytes; the rest of the round goes into another.
const FRAME_BYTES: usize = 1024 * 1024;

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
#[derive(Debug, Clone, Copy)]
pub enum ReplyTo {
    /// An I/O thread of this node, under this number (which names the thread).
    Local(u64),
    /// Another member, under its number.
    Peer(MemberId, u64),
}

/// What a lane's own helpers tell it.
#[derive(Debug)]
pub(super) enum LaneEvent {
    Persisted(Vec<Durable>),
    Checkpointed(Checkpointed),
    DiskFull(bool),
    Failed(Box<StorageError>),
}

/// The lane's inbox has no room: nothing was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the lane's inbox is full")]
pub struct InboxFull;

/// The way into a lane, for every other thread.
#[derive(Debug, Clone)]
pub struct LaneHandle {
    inbox: Sender<LaneInput>,
}

impl LaneHandle {
    /// Hands an input to the lane, if its inbox has room.
    pub fn send(&self, input: LaneInput) -> Result<(), InboxFull> {
        self.inbox.try_send(input).map_err(|_| InboxFull)
    }
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
    /// The lane that the map group is in; `None` for that lane itself.
    pub map_lane: Option<LaneHandle>,
    /// Most bytes of snapshots that it sends in a second.
    pub move_bytes_per_second: u64,
    /// A checkpoint is due when the overlay has this many bytes…
    pub overlay_max_bytes: usize,
    /// …or when it is this old.
    pub overlay_max_age: Duration,
}

/// Recovers the lane and starts its threads. `failed` is called on a lane thread when the lane can't go on; it ends the
/// process.
pub fn spawn(setup: LaneSetup, failed: Box<dyn Fn(&LaneFailure) + Send>) -> Result<LaneHandle, replica::Error> {
    let (inbox, inputs) = bounded(INBOX);
    // Room for every event that can be under way: the WAL thread never waits for the lane, so the lane may wait for it.
    let (event_sender, events) = bounded(ROUNDS_IN_FLIGHT * 2 + 8);
    let (wal, commands) = bounded(ROUNDS_IN_FLIGHT + 8);
    let (checkpoints, frozen) = bounded(1);
    let now = setup.clock.now();
    let OpenedLane { state, wal: files, checkpointer, replay, .. } = setup.opened;
    let haste = checkpointer.haste();
    let mut lane = Lane::recover(setup.settings.clone(), state, replay, now)?;
    lane.limit_moves(setup.move_bytes_per_second);
    if let Some(map) = &setup.map {
        let (shared, number) = (&setup.shared, setup.lane as usize);
        lane.adopt(map, |group| shared.lane_of(group) == number, now)?;
    }
    let wal_thread = WalThread {
        lane: setup.lane,
        wal: files,
        identity: setup.identity,
        commands,
        checkpoints,
        events: event_sender.clone(),
    };
    let checkpoint_thread =
        CheckpointThread { lane: setup.lane, checkpointer, frozen, wal: wal.clone(), events: event_sender };
    let thread = LaneThread {
        number: setup.lane,
        lane,
        inputs,
        events,
        wal,
        waiting: Slab::new(),
        bootstraps: VecDeque::new(),
        next_tick: now + setup.settings.tick(),
        tick: setup.settings.tick(),
        overlay_since: now,
        checkpointing: false,
        behind: false,
        haste,
        overlay_max_bytes: setup.overlay_max_bytes,
        overlay_max_age: setup.overlay_max_age,
        shared: setup.shared,
        clock: setup.clock,
        links: setup.links,
        replies: setup.replies,
        maps: setup.maps,
        map_lane: setup.map_lane,
        frames: BTreeMap::new(),
    };
    let name = |what: &str| format!("{what}-{}", setup.lane);
    start(name("wal"), move || wal_thread.run());
    start(name("checkpoint"), move || checkpoint_thread.run());
    start(name("lane"), move || {
        if let Err(error) = thread.run() {
            failed(&error);
        }
    });
    Ok(LaneHandle { inbox })
}

fn start(name: String, body: impl FnOnce() + Send + 'static) {
    thread::Builder::new().name(name).spawn(body).expect("the system has room for a few threads");
}

struct LaneThread {
    number: u32,
    lane: Lane<LaneState>,
    inputs: Receiver<LaneInput>,
    events: Receiver<LaneEvent>,
    wal: Sender<WalCommand>,
    /// Who waits for which request.
    waiting: Slab<ReplyTo>,
    /// Bootstraps that wait for a round to be durable.
    bootstraps: VecDeque<(u64, oneshot::Sender<()>)>,
    next_tick: Instant,
    tick: Duration,
    /// Since when the active overlay holds something.
    overlay_since: Instant,
    checkpointing: bool,
    /// The overlay has got three quarters full while the one before was written down: the next checkpoint follows at once.
    behind: bool,
    haste: Haste,
    overlay_max_bytes: usize,
    overlay_max_age: Duration,
    shared: Arc<Shared>,
    clock: Clock,
    links: Links,
    replies: Vec<ReplyQueue>,
    maps: mpsc::Sender<Arc<Map>>,
    map_lane: Option<LaneHandle>,
    /// The frames of the round that is being sent off.
    frames: BTreeMap<MemberId, FrameWriter>,
}

/// What the lane thread woke up for.
enum Woken {
    Input(LaneInput),
    Event(LaneEvent),
    Tick,
    Closed,
}

impl LaneThread {
    fn run(mut self) -> Result<(), LaneFailure> {
        loop {
            let woken = self.wait();
            // The inputs come before the clock: a read must be judged by a time at which it had arrived.
            let mut inputs = Vec::new();
            let mut events = Vec::new();
            match woken {
                Woken::Input(input) => inputs.push(input),
                Woken::Event(event) => events.push(event),
                Woken::Tick => {}
                Woken::Closed => return Ok(()),
            }
            events.extend(self.events.try_iter());
            if self.lane.rounds_in_flight() < ROUNDS_IN_FLIGHT {
                inputs.extend(self.inputs.try_iter().take(INPUTS_PER_ROUND));
            }
            let now = self.clock.now();
            self.round(now, inputs, events)?;
        }
    }

    fn wait(&self) -> Woken {
        let mut until_tick = self.next_tick.since(self.clock.now());
        if self.lane.is_streaming() {
            until_tick = until_tick.min(STREAM_PAUSE);
        }
        if self.lane.rounds_in_flight() >= ROUNDS_IN_FLIGHT {
            return self.events.recv_timeout(until_tick).map_or(Woken::Tick, Woken::Event);
        }
        crossbeam_channel::select! {
            recv(self.events) -> event => event.map_or(Woken::Closed, Woken::Event),
            recv(self.inputs) -> input => input.map_or(Woken::Closed, Woken::Input),
            default(until_tick) => Woken::Tick,
        }
    }

    fn round(&mut self, now: Instant, inputs: Vec<LaneInput>, events: Vec<LaneEvent>) -> Result<(), LaneFailure> {
        for event in events {
            self.event(now, event)?;
        }
        let mut bootstraps = Vec::new();
        for input in inputs {
            self.input(now, input, &mut bootstraps)?;
        }
        let ticked = now >= self.next_tick;
        if !ticked && self.lane.is_streaming() {
            self.lane.step(now, Input::Tick)?;
        }
        if ticked {
            self.lane.tell_wall_clock(Clock::wall_ms());
            self.lane.step(now, Input::Tick)?;
            self.next_tick = now + self.tick;
            self.tell_gauges(now);
            self.tell_map();
        }
        self.relieve_or_refuse();
        let output = self.lane.take_output(now)?;
        let written = output.writes.as_ref().map(annulus_core::lane::Writes::round);
        self.dispatch(output);
        for done in bootstraps {
            match written {
                Some(round) => self.bootstraps.push_back((round, done)),
                // Everything was there already; what was written before is behind us in the WAL's order.
                None => drop(done.send(())),
            }
        }
        self.checkpoint_if_due(now);
        Ok(())
    }

    fn event(&mut self, now: Instant, event: LaneEvent) -> Result<(), LaneFailure> {
        match event {
            LaneEvent::Persisted(proofs) => {
                self.gauges().syncs.fetch_add(1, Ordering::Relaxed);
                for proof in proofs {
                    while let Some((_, done)) = self.bootstraps.pop_front_if(|(round, _)| *round <= proof.round()) {
                        let _ = done.send(());
                    }
                    self.lane.step(now, Input::Persisted(proof))?;
                }
            }
            LaneEvent::Checkpointed(checkpointed) => {
                self.lane.state_mut().checkpointed(checkpointed);
                self.checkpointing = false;
                self.gauges().checkpoints.fetch_add(1, Ordering::Relaxed);
            }
            LaneEvent::DiskFull(full) => self.lane.set_disk_full(full),
            LaneEvent::Failed(error) => return Err(LaneFailure::Storage(error)),
        }
        Ok(())
    }

    fn input(
        &mut self,
        now: Instant,
        input: LaneInput,
        bootstraps: &mut Vec<oneshot::Sender<()>>,
    ) -> Result<(), LaneFailure> {
        match input {
            LaneInput::Request { group, operation, deadline, reply_to } => {
                let id = RequestId(self.waiting.insert(reply_to) as u64);
                self.lane.step(now, Input::Request(Request { id, group, deadline, operation }))?;
            }
            LaneInput::Peer { from, messages } => {
                for message in messages {
                    self.lane.step(now, Input::Peer { from, message })?;
                }
            }
            LaneInput::Unreachable(member) => self.lane.step(now, Input::Unreachable(member))?,
            LaneInput::Bootstrap(map, done) => {
                let shared = Arc::clone(&self.shared);
                let number = self.number as usize;
                self.lane.bootstrap(&map, |group| shared.lane_of(group) == number, now)?;
                bootstraps.push(done);
            }
            LaneInput::Adopt(map) => {
                let shared = Arc::clone(&self.shared);
                let number = self.number as usize;
                self.lane.adopt(&map, |group| shared.lane_of(group) == number, now)?;
            }
            LaneInput::Evict(evicted) => self.lane.evict(evicted),
        }
        Ok(())
    }

    /// While a second overlay fills before the first is down: from three quarters on snapshots wait, when it is full writes are
    /// turned away, and at twice that entries too.
    fn relieve_or_refuse(&mut self) {
        let bytes = self.lane.state().overlay_bytes();
        let pressure = if !self.checkpointing || bytes < self.overlay_max_bytes / 4 * 3 {
            Pressure::None
        } else if bytes < self.overlay_max_bytes {
            Pressure::HoldSnapshots
        } else if bytes < 2 * self.overlay_max_bytes {
            Pressure::RefuseWrites
        } else {
            Pressure::RefuseEntries
        };
        self.behind |= pressure != Pressure::None;
        self.lane.set_pressure(pressure);
    }

    fn dispatch(&mut self, output: Output) {
        if let Some(writes) = output.writes {
            self.gauges().written_rounds.fetch_add(1, Ordering::Relaxed);
            // There is room: see `ROUNDS_IN_FLIGHT`. If the WAL thread is gone, it has said why.
            let _ = self.wal.send(WalCommand::Append(writes));
        }
        for (to, message) in output.sends {
            if to == self.shared.member {
                self.tell_own_map_group(message);
            } else {
                self.push(to, &Item::Group(message));
            }
        }
        if let Some(map) = output.map {
            // If there is no room it is said again at the next tick.
            let _ = self.maps.try_send(map);
        }
        if let Some(map) = self.shared.map().filter(|_| !output.outdated.is_empty()) {
            let encoded = map.encode();
            for member in output.outdated {
                self.push(member, &Item::Map(encoded.clone()));
            }
        }
        for change in output.leaders {
            self.shared.note_leader(change);
        }
        let mut batches: BTreeMap<usize, ReplyBatch> = BTreeMap::new();
        for (request, reply) in output.replies {
            let at = usize::try_from(request.0).expect("the lane names requests by their slot");
            match self.waiting.remove(at) {
                ReplyTo::Local(number) => batches.entry(thread_of(number)).or_default().push((number, reply)),
                ReplyTo::Peer(member, number) => self.push(member, &Item::Forwarded { number, reply }),
            }
        }
        for (thread, batch) in batches {
            self.replies[thread].send(batch);
        }
        for (member, frame) in std::mem::take(&mut self.frames) {
            self.links.send(member, frame.finish());
        }
    }

    /// What this lane says to the map group of its own member.
    fn tell_own_map_group(&self, message: PeerMessage) {
        if let Some(lane) = &self.map_lane {
            // No room: as if lost on the way.
            let _ = lane.send(LaneInput::Peer { from: self.shared.member, messages: vec![message] });
        }
    }

    /// The map group's replica may have applied a map that nobody had room to look at.
    fn tell_map(&self) {
        let Some(map) = self.lane.replica(GroupId::MAP).and_then(Replica::map) else { return };
        if self.shared.map().is_some_and(|known| known.epoch < map.epoch) {
            let _ = self.maps.try_send(Arc::clone(map));
        }
    }

    fn push(&mut self, to: MemberId, item: &Item) {
        let frame = self.frames.entry(to).or_default();
        frame.push(item);
        if frame.len() >= FRAME_BYTES {
            let full = std::mem::take(frame).finish();
            self.links.send(to, full);
            self.frames.remove(&to);
        }
    }

    fn checkpoint_if_due(&mut self, now: Instant) {
        let bytes = self.lane.state().overlay_bytes();
        if bytes == 0 {
            self.overlay_since = now;
        }
        let due =
            self.behind || bytes >= self.overlay_max_bytes || now.since(self.overlay_since) >= self.overlay_max_age;
        if bytes == 0 || !due || self.checkpointing {
            return;
        }
        let base = self.lane.begin_checkpoint();
        let frozen = self.lane.state_mut().freeze().expect("no other overlay is frozen");
        // In the WAL's order the base comes before everything that is applied from now on.
        let _ = self.wal.send(WalCommand::Rotate(base, frozen));
        self.checkpointing = true;
        self.behind = false;
        self.overlay_since = now;
    }

    fn gauges(&self) -> &LaneGauges {
        &self.shared.gauges[self.number as usize]
    }

    fn tell_gauges(&self, now: Instant) {
        let (mut replicas, mut moves_in, mut leaders, mut settled) = (0, 0, 0, 0);
        for replica in self.lane.replicas() {
            if !replica.is_voter() {
                moves_in += 1;
                continue;
            }
            replicas += 1;
            leaders += usize::from(replica.leads());
            settled += usize::from(replica.leader().is_some() && replica.applied().term == replica.term());
        }
        let gauges = self.gauges();
        gauges.hears_writes.store(!self.lane.is_alone(now), Ordering::Relaxed);
        // Lanes share the disk.
        self.haste.set(self.shared.gauges.iter().all(|lane| !lane.hears_writes.load(Ordering::Relaxed)));
        gauges.move_rate.store(self.lane.move_rate(), Ordering::Relaxed);
        gauges.moves_in.store(moves_in, Ordering::Relaxed);
        gauges.replicas.store(replicas, Ordering::Relaxed);
        gauges.leaders.store(leaders, Ordering::Relaxed);
        gauges.settled.store(settled, Ordering::Relaxed);
        gauges.overlay_bytes.store(self.lane.state().overlay_bytes(), Ordering::Relaxed);
    }
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
