//! A lane's rounds: drain the inbox, step the core, do what the output says.
//!
//! ```text
//!  events (persisted, checkpointed, …) ─▶ step first
//!  inbox ─────────────────────────────────▶ step, step … ─▶ take_output ─▶ writes to the WAL thread, frames to peers,
//!  clock ─────────────────────────────────────▶ tick, if one is due        replies to I/O threads
//! ```
//!
//! They run on whichever thread has the lane (`super::driver`). After a round on the lane's own thread come the pieces of
//! snapshots that are due.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use annulus_core::codec::frame::{FrameWriter, Item};
use annulus_core::codec::message::PeerMessage;
use annulus_core::id::{GroupId, MemberId, RequestId};
use annulus_core::lane::{Input, Lane, Output, Pressure, Request};
use annulus_core::map::Map;
use annulus_core::replica::Replica;
use annulus_core::time::Instant;
use crossbeam_channel::{Receiver, Sender};
use slab::Slab;
use tokio::sync::{mpsc, oneshot};

use super::driver::LaneHandle;
use super::inbox::Inbox;
use super::lane::{LaneEvent, LaneFailure, LaneInput, ROUNDS_IN_FLIGHT, ReplyTo};
use super::replies::thread_of;
use super::wal::WalCommand;
use super::{Clock, LaneGauges, Links, ReplyBatch, ReplyQueue, Shared};
use crate::storage::{Frozen, Haste, LaneState};
use crate::transactions::Found;

/// While snapshots are sent the lane's own thread looks by itself whether more may be, but not more often than this.
const STREAM_PAUSE: Duration = Duration::from_millis(2);
/// A frame is sent off when it has this many bytes; the rest of the round goes into another.
const FRAME_BYTES: usize = 1024 * 1024;

/// A lane and all that its rounds touch. Whoever has it runs the next round.
pub(super) struct Rounds {
    pub(super) number: u32,
    pub(super) lane: Lane<LaneState>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) events: Receiver<LaneEvent>,
    pub(super) wal: Sender<WalCommand>,
    /// Who waits for which request.
    pub(super) waiting: Slab<ReplyTo>,
    /// The requests among them that wait for locks: whoever waits may go away.
    pub(super) cancellable: HashMap<ReplyTo, RequestId>,
    /// The last round that has written something.
    pub(super) written: u64,
    /// Bootstraps that wait for a round to be durable.
    pub(super) bootstraps: VecDeque<(u64, oneshot::Sender<()>)>,
    pub(super) next_tick: Instant,
    pub(super) tick: Duration,
    /// Since when the active overlay holds something.
    pub(super) overlay_since: Instant,
    pub(super) checkpointing: bool,
    /// As of the last round.
    pub(super) checkpoint_due: bool,
    /// The overlay has got three quarters full while the one before was written down: the next checkpoint follows at once.
    pub(super) behind: bool,
    pub(super) haste: Haste,
    pub(super) overlay_max_bytes: usize,
    pub(super) overlay_max_age: Duration,
    pub(super) shared: Arc<Shared>,
    pub(super) clock: Clock,
    pub(super) links: Links,
    pub(super) replies: Vec<ReplyQueue>,
    pub(super) maps: mpsc::Sender<Arc<Map>>,
    pub(super) abandoned: mpsc::Sender<Vec<Found>>,
    pub(super) map_lane: Option<LaneHandle>,
    /// The frames of the round that is being sent off.
    pub(super) frames: BTreeMap<MemberId, FrameWriter>,
    /// An overlay that redb has by now. To drop it may take long, so the lane's own thread does, without the lane.
    pub(super) spent: Option<Frozen>,
    /// When the lane's own thread looks for something to do at the latest.
    pub(super) own_thread_looks_at: Instant,
}

/// Who runs a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RoundThread {
    /// The lane's own thread, which may take long.
    Own,
    /// Another that has something for the lane.
    Other,
}

impl Rounds {
    /// Takes what has come, steps the core with it, and does what its output says.
    pub(super) fn round(&mut self, thread: RoundThread) -> Result<(), LaneFailure> {
        let events: Vec<LaneEvent> = self.events.try_iter().collect();
        let inputs = if self.takes_inputs() { self.inbox.take() } else { Vec::new() };
        // The inputs come before the clock: a read must be judged by a time at which it had arrived.
        let now = self.clock.now();
        for event in events {
            self.event(now, event)?;
        }
        let mut bootstraps = Vec::new();
        for input in inputs {
            self.input(now, input, &mut bootstraps)?;
        }
        let ticked = now >= self.next_tick;
        if ticked {
            self.lane.tell_wall_clock(Clock::wall_ms());
            self.lane.step(now, Input::Tick)?;
            self.next_tick = now + self.tick;
            self.tell_gauges(now);
            self.tell_map();
        }
        self.relieve_or_refuse();
        let output = self.lane.take_output(now)?;
        if let Some(writes) = &output.writes {
            self.written = writes.round();
        }
        self.dispatch(output);
        if thread == RoundThread::Own && self.lane.sends_snapshots_in(now).is_some_and(|wait| wait.is_zero()) {
            for (to, piece) in self.lane.send_snapshots(now)? {
                self.push(to, &Item::Group(piece));
            }
            self.send_frames();
        }
        for done in bootstraps {
            if self.lane.rounds_in_flight() == 0 {
                // Everything was there already, and is durable.
                let _ = done.send(());
            } else {
                self.bootstraps.push_back((self.written, done));
            }
        }
        self.look_for_checkpoint(now);
        Ok(())
    }

    /// Whether another round takes inputs; if not, the lane waits for the disk.
    pub(super) fn takes_inputs(&self) -> bool {
        self.lane.rounds_in_flight() < ROUNDS_IN_FLIGHT
    }

    /// Whether another round finds room for what it hands to the WAL thread. Only rounds hand it anything, but for a
    /// checkpoint's end.
    pub(super) fn has_room(&self) -> bool {
        self.wal.len() < ROUNDS_IN_FLIGHT
    }

    /// Whether there is something to do that takes long, or is due by itself: sending snapshots, a checkpoint, its remains.
    pub(super) fn has_long_work(&self) -> bool {
        let piece_is_due = self.lane.sends_snapshots_in(self.clock.now()).is_some_and(|wait| wait.is_zero());
        piece_is_due || self.checkpoint_due || self.spent.is_some()
    }

    /// Whether there is something to do that takes long before the lane's own thread looks by itself.
    pub(super) fn has_long_work_soon(&self) -> bool {
        let now = self.clock.now();
        let soon = |wait| now + wait + STREAM_PAUSE < self.own_thread_looks_at;
        self.has_long_work() || self.lane.sends_snapshots_in(now).is_some_and(soon)
    }

    /// How long the lane's own thread has nothing to do if nothing comes.
    pub(super) fn idle_for(&mut self) -> Duration {
        let now = self.clock.now();
        let until_tick = self.next_tick.since(now);
        let idle = match self.lane.sends_snapshots_in(now) {
            Some(wait) => until_tick.min(wait.max(STREAM_PAUSE)),
            None => until_tick,
        };
        self.own_thread_looks_at = now + idle;
        idle
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
                self.spent = Some(self.lane.state_mut().checkpointed(checkpointed));
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
                if operation.waits_for_lock() {
                    self.cancellable.insert(reply_to, id);
                }
                self.lane.step(now, Input::Request(Request { id, group, deadline, operation }))?;
            }
            LaneInput::Peer { from, messages } => {
                for message in messages {
                    self.lane.step(now, Input::Peer { from, message })?;
                }
            }
            LaneInput::Cancel { group, reply_to } => {
                // Not there: it was answered meanwhile.
                if let Some(&request) = self.cancellable.get(&reply_to) {
                    self.lane.step(now, Input::Cancel { group, request })?;
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
            // There is room, or this is the lane's own thread and may wait (`has_room`). If the WAL thread is gone, it has
            // said why.
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
        if !output.abandoned.is_empty() {
            // If there is no room they are told of again at the next tick.
            let _ = self.abandoned.try_send(output.abandoned);
        }
        for change in output.leaders {
            self.shared.note_leader(change);
        }
        let mut batches: BTreeMap<usize, ReplyBatch> = BTreeMap::new();
        for (request, reply) in output.replies {
            let at = usize::try_from(request.0).expect("the lane names requests by their slot");
            let reply_to = self.waiting.remove(at);
            if !self.cancellable.is_empty() {
                self.cancellable.remove(&reply_to);
            }
            match reply_to {
                ReplyTo::Local(number) => batches.entry(thread_of(number)).or_default().push((number, reply)),
                ReplyTo::Peer(member, ticket) => self.push(member, &Item::Forwarded { ticket, reply }),
            }
        }
        for (thread, batch) in batches {
            self.replies[thread].send(batch);
        }
        self.send_frames();
    }

    fn send_frames(&mut self) {
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

    /// Looks whether the overlay is full or old enough to be written down.
    fn look_for_checkpoint(&mut self, now: Instant) {
        let bytes = self.lane.state().overlay_bytes();
        if bytes == 0 {
            self.overlay_since = now;
        }
        let old = now.since(self.overlay_since) >= self.overlay_max_age;
        self.checkpoint_due =
            !self.checkpointing && bytes > 0 && (self.behind || bytes >= self.overlay_max_bytes || old);
    }

    /// Freezes the overlay and has it written down, if it is time.
    pub(super) fn checkpoint_if_due(&mut self) {
        if !std::mem::take(&mut self.checkpoint_due) {
            return;
        }
        let base = self.lane.begin_checkpoint();
        let frozen = self.lane.state_mut().freeze().expect("no other overlay is frozen");
        // In the WAL's order the base comes before everything that is applied from now on.
        let _ = self.wal.send(WalCommand::Rotate(base, frozen));
        self.checkpointing = true;
        self.behind = false;
        self.overlay_since = self.clock.now();
    }

    fn gauges(&self) -> &LaneGauges {
        &self.shared.gauges[self.number as usize]
    }

    fn tell_gauges(&self, now: Instant) {
        let (mut replicas, mut moves_in, mut leaders, mut settled, mut log_bytes) = (0, 0, 0, 0, 0);
        let (mut locks, mut lock_waiters) = (0, 0);
        let (mut open_txns, mut oldest_txn_ms) = (0, 0);
        for replica in self.lane.replicas() {
            log_bytes += replica.log_bytes();
            if !replica.is_voter() {
                moves_in += 1;
                continue;
            }
            replicas += 1;
            if replica.leads() {
                leaders += 1;
                let (held, waiting) = replica.locks();
                locks += held;
                lock_waiters += waiting;
                // A record that can't be read stops whoever needs it; a gauge does without.
                let (open, oldest_ms) = replica.open_txns(now, self.lane.state()).unwrap_or_default();
                open_txns += open as u64;
                oldest_txn_ms = oldest_ms.max(oldest_txn_ms);
            }
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
        gauges.locks.store(locks, Ordering::Relaxed);
        gauges.lock_waiters.store(lock_waiters, Ordering::Relaxed);
        gauges.open_txns.store(open_txns, Ordering::Relaxed);
        gauges.oldest_txn_seconds.store(oldest_txn_ms / 1000, Ordering::Relaxed);
        gauges.log_bytes.store(log_bytes, Ordering::Relaxed);
        gauges.snapshots_overtaken.store(self.lane.snapshots_overtaken(), Ordering::Relaxed);
        gauges.overlay_bytes.store(self.lane.state().overlay_bytes(), Ordering::Relaxed);
    }
}
