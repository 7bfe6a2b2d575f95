//! A lane: some of a member's groups, driven as one.
//!
//! ```text
//!           ┌──────────────────────── Lane ────────────────────────┐
//!  Input ──▶│ step ─▶ Replica (Raft) ─▶ committed entries ─▶ machine │──▶ take_output ─▶ Output
//!           └──────────────────────────────────────────────────────┘
//!  many inputs                                                         one round: see `output`
//! ```
//!
//! A round is: any number of [`Lane::step`], then one [`Lane::take_output`]. Between two rounds [`Lane::send_snapshots`] reads
//! the next pieces of the snapshots that are being sent. The lane never waits, never sends and never writes: its shell does, in
//! the order that the types of `output` leave it. Lanes share nothing.

mod held;
mod log_budget;
mod output;
mod pace;
mod request;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::codec::message::{Body, PeerMessage};
use crate::id::{GroupId, MemberId, RequestId};
use crate::map::report::REPORT_EVERY;
use crate::map::{self, Map, Report};
use crate::partition::{lock, txn};
use crate::replica::{Configuration, Error, GroupRecord, Life, Recovering, Replica, Round, Settings};
use crate::state::{State, TableId};
use crate::time::Instant;

use held::Held;

pub use log_budget::LogBudget;
pub use output::{Durable, GroupWrite, Installed, LeaderChange, LogPosition, Output, Staged, Writes};
pub use pace::{HIGHEST_RATE, Pace, UNPACED};
pub use request::{Changed, MAX_TXNS_LISTED, Operation, Refusal, Reply, Request};

/// A shell that was away for longer than this many ticks does not make up for all of them.
const MOST_TICKS_AT_ONCE: u32 = 20;
/// Where the log of a group that was just made begins. Not 0: a replica that has nothing at all is at 0, and needs a
/// snapshot even from a leader whose log is whole.
const FIRST_POSITION: LogPosition = LogPosition { index: 1, term: 1 };

/// One thing that a lane is told.
#[derive(Debug)]
pub enum Input {
    /// A client's request.
    Request(Request),
    /// A message from a replica on another member.
    Peer {
        /// That member.
        from: MemberId,
        /// The message.
        message: PeerMessage,
    },
    /// Time has passed. At least every tick (see [`Settings::tick`]); more often does no harm.
    Tick,
    /// Writes that the lane gave out are durable.
    Persisted(Durable),
    /// A link to this member is down.
    Unreachable(MemberId),
    /// The client of a request that was not answered yet is gone. A request that waits for a lock leaves the queue.
    Cancel {
        /// The group that it is for.
        group: GroupId,
        /// The request.
        request: RequestId,
    },
}

/// How far behind the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Pressure {
    /// Not at all.
    #[default]
    None,
    /// Pieces of snapshots wait until it has fallen.
    HoldSnapshots,
    /// Clients' writes are turned away, too.
    RefuseWrites,
    /// Leaders' entries are turned away, too; they come again.
    RefuseEntries,
}

/// Some of a member's groups, driven as one.
pub struct Lane<S> {
    settings: Settings,
    state: S,
    /// By group number; groups of other lanes and members are `None`.
    replicas: Vec<Option<Replica>>,
    /// Groups that `take_output` must look at, and whether each is in the list.
    dirty: Vec<GroupId>,
    is_dirty: Vec<bool>,
    last_tick: Instant,
    /// Counts the ticks.
    ticks: u64,
    round: Round,
    number: u64,
    /// Rounds whose writes are not durable yet.
    in_flight: VecDeque<InFlight>,
    pressure: Pressure,
    /// Pieces of snapshots that wait for it to fall.
    held: Held,
    disk_full: bool,
    /// The newest map that this lane was given.
    map: Option<Arc<Map>>,
    /// What replicas that were dropped had promised.
    graves: BTreeMap<GroupId, GroupRecord>,
    /// Whether this member takes no leadership.
    evicted: bool,
    /// Members that were found to have an older map.
    outdated: Vec<MemberId>,
    /// Whether a piece of a snapshot may go as soon as the pace allows it.
    has_pieces: bool,
}

/// A round whose writes are not durable yet, and what waits for them.
struct InFlight {
    number: u64,
    gated: Vec<(MemberId, PeerMessage)>,
    readies: Vec<(GroupId, Option<u64>)>,
}

impl<S: State> Lane<S> {
    /// The lane as its disk has it: the state of the last checkpoint, and the rounds of the WAL in order.
    pub fn recover(
        settings: Settings,
        mut state: S,
        replay: impl IntoIterator<Item = Vec<GroupWrite>>,
        now: Instant,
    ) -> Result<Self, Error> {
        let mut recovering = Vec::new();
        for (group, record) in group_records(&state)? {
            *slot(&mut recovering, group) = Some(Recovering::new(group, Some(record)));
        }
        for write in replay.into_iter().flatten() {
            if write.group.0 > map::MAX_PARTITIONS {
                let source = crate::codec::Error::OutOfRange { what: "group number" };
                return Err(Error::Damaged { group: write.group, source });
            }
            let replica = slot(&mut recovering, write.group);
            replica.get_or_insert_with(|| Recovering::new(write.group, None)).replay(write, &mut state)?;
        }
        let mut lane = Self {
            settings,
            state,
            replicas: Vec::new(),
            dirty: Vec::new(),
            is_dirty: Vec::new(),
            last_tick: now,
            ticks: 0,
            round: Round::default(),
            number: 0,
            in_flight: VecDeque::new(),
            pressure: Pressure::None,
            held: Held::default(),
            disk_full: false,
            map: None,
            graves: BTreeMap::new(),
            evicted: false,
            outdated: Vec::new(),
            has_pieces: false,
        };
        for recovered in recovering.into_iter().flatten() {
            match recovered.grave() {
                Some(grave) => drop(lane.graves.insert(recovered.group(), grave)),
                None => lane.add(recovered, Life::Recovered, now)?,
            }
        }
        lane.round.map_changed = lane.replica(GroupId::MAP).is_some_and(|replica| replica.map().is_some());
        Ok(lane)
    }

    fn add(&mut self, recovered: Recovering, life: Life, now: Instant) -> Result<(), Error> {
        let mut replica = Replica::new(self.settings.clone(), recovered, life, &self.state, now)?;
        replica.evict(self.evicted);
        let group = replica.group();
        *slot(&mut self.replicas, group) = Some(replica);
        self.mark(group);
        Ok(())
    }

    /// Makes the replicas that the first map of a store gives this member, of those groups that `mine` says are this
    /// lane's. Those that are there already, or were and are not any more, are left alone, so that this can be repeated.
    /// Then take the output.
    pub fn bootstrap(&mut self, map: &Arc<Map>, mine: impl Fn(GroupId) -> bool, now: Instant) -> Result<(), Error> {
        assert_eq!(map.epoch, 1, "only the first map of a store makes replicas that may vote at once");
        for group in map.groups_of(self.settings.member).into_iter().filter(|group| mine(*group)) {
            if self.replica(group).is_some() || self.graves.contains_key(&group) {
                continue;
            }
            let (voters, leader) = map.group(group).expect("the map knows the groups that it gives out");
            let write = first_write(group, voters, map);
            let mut recovering = Recovering::new(group, None);
            recovering.replay(write.clone(), &mut self.state)?;
            self.round.writes.push(write);
            self.round.readies.push((group, None));
            self.add(recovering, Life::New, now)?;
            let round = self.number + 1;
            self.replica_mut(group).expect("just added").begins_in(round);
            if leader == self.settings.member {
                self.replica_mut(group).expect("just added").be_eager(now);
            }
        }
        self.adopt(map, mine, now)
    }

    /// Takes a newer map: drops the replicas that this member is not to have any more (unless the group has already acted on
    /// a newer one: then the map that says so is still to come), makes those that it is to have, and
    /// tells the others how their groups should stand. A map that is not newer is passed over. Then take the output.
    ///
    /// The shell must have the map on disk before: a member that acts on a map must never come back with an older one, or it
    /// would drop what it has got since.
    ///
    /// A replica that is made here is blank. If an earlier one was dropped it gives no vote before its group's leader has told
    /// it of the group, and it remembers what the earlier one had promised.
    pub fn adopt(&mut self, map: &Arc<Map>, mine: impl Fn(GroupId) -> bool, now: Instant) -> Result<(), Error> {
        let is_newer = self.map.as_ref().is_none_or(|known| known.epoch < map.epoch);
        if !is_newer {
            return Ok(());
        }
        self.map = Some(Arc::clone(map));
        let me = self.settings.member;
        let is_over = |replica: &&Replica| !map.holds(me, replica.group()) && replica.configuration().epoch < map.epoch;
        for group in self.replicas().filter(is_over).map(Replica::group).collect::<Vec<_>>() {
            self.bury(group);
        }
        for group in map.groups_of(me).into_iter().filter(|group| mine(*group)) {
            if self.replica(group).is_some() {
                continue;
            }
            let grave = self.graves.remove(&group);
            self.add(Recovering::new(group, grave), Life::Recovered, now)?;
            let round = self.number + 1;
            self.replica_mut(group).expect("just added").begins_blank_in(round);
        }
        for replica in self.replicas.iter_mut().flatten() {
            replica.follow(map);
            mark(&mut self.dirty, &mut self.is_dirty, replica.group());
        }
        Ok(())
    }

    /// Ends a replica; whoever waits for an answer of it gets one.
    fn bury(&mut self, group: GroupId) {
        let Some(mut replica) = self.replicas[group.0 as usize].take() else { return };
        self.held.forget(group);
        replica.abandon(&mut self.round);
        // Whoever sends requests on by what it has heard of leaders would go on sending them here.
        self.round.leaders.push(LeaderChange { group, leader: None, term: replica.term() });
        let (write, grave) = replica.bury(&mut self.state);
        self.round.writes.push(write);
        self.round.readies.push((group, None));
        self.graves.insert(group, grave);
    }

    /// The newest map that this lane was given.
    pub fn map(&self) -> Option<&Arc<Map>> {
        self.map.as_ref()
    }

    /// Hands all leaderships over and takes none, or not any more. Then take the output.
    pub fn evict(&mut self, evicted: bool) {
        self.evicted = evicted;
        for replica in self.replicas.iter_mut().flatten() {
            replica.evict(evicted);
            mark(&mut self.dirty, &mut self.is_dirty, replica.group());
        }
    }

    /// What time it is among people, in milliseconds since 1970: written beside changes of the map, and never decided by.
    pub fn tell_wall_clock(&mut self, wall_ms: u64) {
        if let Some(replica) = self.replica_mut(GroupId::MAP) {
            replica.tell_wall_clock(wall_ms);
        }
    }

    /// Tells the map group how groups that are led here stand: all of them, or only these, if any of them is led here.
    fn report(&mut self, now: Instant, only: Option<&[GroupId]>) -> Result<(), Error> {
        let Some(map) = self.map.clone() else { return Ok(()) };
        let tells = |replica: &Replica| replica.leads() && replica.is_established();
        let told = |replica: &&Replica| tells(replica) && only.is_none_or(|groups| groups.contains(&replica.group()));
        let groups: Vec<_> = self.replicas().filter(told).map(|replica| replica.report(now)).collect();
        if only.is_some() && groups.is_empty() {
            return Ok(());
        }
        let report = Report { epoch: map.epoch, groups };
        let (me, adding) = (self.settings.member, map.moves.get(&GroupId::MAP).and_then(|moving| moving.add));
        for to in map.map_voters.iter().copied().chain(adding) {
            let message = PeerMessage { group: GroupId::MAP, body: Body::Report(report.clone()) };
            match self.replica_mut(GroupId::MAP) {
                Some(_) if to == me => self.peer(now, me, message)?,
                _ => self.round.sends.push((to, message)),
            }
        }
        Ok(())
    }

    /// Takes one input. `now` must have been read after the input had arrived: a read is judged by it. After an error the
    /// lane is not to be used again: what it holds of the round is incomplete.
    pub fn step(&mut self, now: Instant, input: Input) -> Result<(), Error> {
        match input {
            Input::Request(request) => self.request(now, request),
            Input::Peer { from, message } => self.peer(now, from, message),
            Input::Tick => self.tick(now),
            Input::Persisted(durable) => {
                self.persisted(&durable);
                Ok(())
            }
            Input::Cancel { group, request } => {
                let Some(replica) = self.replicas.get_mut(group.0 as usize).and_then(Option::as_mut) else {
                    return Ok(());
                };
                replica.cancel(request, &mut self.round);
                self.mark(group);
                Ok(())
            }
            Input::Unreachable(member) => {
                self.replicas.iter_mut().flatten().for_each(|replica| replica.unreachable(member));
                Ok(())
            }
        }
    }

    fn request(&mut self, now: Instant, request: Request) -> Result<(), Error> {
        let refused = match request.operation {
            Operation::Write(_) | Operation::Lock(_) | Operation::Txn(_) if self.disk_full => Some(Refusal::DiskFull),
            Operation::Lock(lock::Command::Acquire(_)) if self.pressure >= Pressure::RefuseWrites => {
                Some(Refusal::Busy)
            }
            Operation::Write(_) if self.pressure >= Pressure::RefuseWrites => Some(Refusal::Busy),
            // Those that end something are let through: they make room.
            Operation::Txn(txn::Command::Alone(_) | txn::Command::Prepare(_))
                if self.pressure >= Pressure::RefuseWrites =>
            {
                Some(Refusal::Busy)
            }
            _ => None,
        };
        let group = request.group;
        let Some(replica) = self.replicas.get_mut(group.0 as usize).and_then(Option::as_mut) else {
            self.round.replies.push((request.id, Reply::Refused(Refusal::NoReplica)));
            return Ok(());
        };
        if let Some(refusal) = refused {
            self.round.replies.push((request.id, Reply::Refused(refusal)));
            return Ok(());
        }
        replica.request(now, request, &self.state, &mut self.round)?;
        self.mark(group);
        Ok(())
    }

    fn peer(&mut self, now: Instant, from: MemberId, message: PeerMessage) -> Result<(), Error> {
        let group = message.group;
        let entries = match &message.body {
            Body::Raft { message, .. } => !message.entries.is_empty(),
            Body::Chunk(_) => false,
            Body::ChunkAck { .. } | Body::Report(_) => false,
        };
        let is_stranger = self.map.as_ref().is_some_and(|map| map.member(from).is_none());
        if is_stranger {
            return Ok(());
        }
        if let (Body::Report(report), Some(map)) = (&message.body, &self.map)
            && report.epoch < map.epoch
            && !self.outdated.contains(&from)
        {
            self.outdated.push(from);
        }
        if entries && self.pressure >= Pressure::RefuseEntries {
            return Ok(());
        }
        // A message for a group that is not here: the sender has a newer map, and will say so.
        let Some(replica) = self.replicas.get_mut(group.0 as usize).and_then(Option::as_mut) else { return Ok(()) };
        let body = match message.body {
            Body::Chunk(chunk) if self.pressure >= Pressure::HoldSnapshots => {
                self.held.push(from, group, chunk);
                return Ok(());
            }
            body => body,
        };
        replica.step(now, from, body, &mut self.state, &mut self.round)?;
        self.mark(group);
        Ok(())
    }

    fn tick(&mut self, now: Instant) -> Result<(), Error> {
        let tick = self.settings.tick();
        let mut ticks = 0;
        while self.last_tick + tick <= now && ticks < MOST_TICKS_AT_ONCE {
            self.last_tick = self.last_tick + tick;
            ticks += 1;
        }
        if ticks == MOST_TICKS_AT_ONCE {
            self.last_tick = now;
        }
        self.round.pace.tick(now);
        if ticks == 0 {
            return Ok(());
        }
        let first = self.ticks + 1;
        self.ticks += u64::from(ticks);
        let Self { replicas, round, dirty, is_dirty, .. } = self;
        for replica in replicas.iter_mut().flatten() {
            replica.tick(now, first, ticks, round);
            if replica.has_ready() || replica.is_moving() {
                mark(dirty, is_dirty, replica.group());
            }
        }
        let every = report_ticks(&self.settings);
        if self.ticks / every != (first - 1) / every {
            self.report(now, None)?;
        }
        Ok(())
    }

    fn persisted(&mut self, durable: &Durable) {
        while let Some(done) = self.in_flight.pop_front_if(|round| round.number <= durable.round) {
            for (group, ready) in done.readies {
                if let Some(replica) = self.replicas[group.0 as usize].as_mut() {
                    replica.persisted(done.number, ready);
                    mark(&mut self.dirty, &mut self.is_dirty, group);
                }
            }
            self.round.sends.extend(done.gated);
        }
    }

    /// Ends the round: everything that is to be done because of the inputs since the last one.
    pub fn take_output(&mut self, now: Instant) -> Result<Output, Error> {
        let number = self.number + 1;
        while self.pressure < Pressure::HoldSnapshots
            && let Some((from, message)) = self.held.pop()
        {
            self.peer(now, from, message)?;
        }
        loop {
            while let Some(group) = self.dirty.pop() {
                self.is_dirty[group.0 as usize] = false;
                if let Some(replica) = self.replicas.get_mut(group.0 as usize).and_then(Option::as_mut) {
                    replica.drain(now, number, &mut self.state, &mut self.round)?;
                }
            }
            let moved = std::mem::take(&mut self.round.moved);
            if moved.is_empty() {
                break;
            }
            self.report(now, Some(&moved))?;
        }
        let Round {
            mut sends,
            gated,
            replies,
            writes,
            readies,
            leaders,
            moved: _,
            abandoned,
            map_changed,
            pace,
            snapshots,
        } = std::mem::take(&mut self.round);
        self.round.pace = pace;
        self.has_pieces |= snapshots;
        let map = self.replica(GroupId::MAP).filter(|_| map_changed).and_then(Replica::map).cloned();
        let writes = if writes.is_empty() {
            match self.in_flight.back_mut() {
                Some(round) => round.gated.extend(gated),
                None => sends.extend(gated),
            }
            None
        } else {
            self.number = number;
            self.in_flight.push_back(InFlight { number, gated, readies });
            Some(Writes { round: number, groups: writes })
        };
        let mut outdated = std::mem::take(&mut self.outdated);
        outdated.retain(|member| *member != self.settings.member);
        Ok(Output { sends, replies, writes, leaders, map, outdated, abandoned })
    }

    /// Brings the state up to date for a checkpoint, and returns what the WAL segment that begins with it must hold
    /// first. Call it right after `take_output`, then freeze the state, before anything else is stepped.
    ///
    /// The base must be durable before the frozen state is: a snapshot may be installed in the state whose round is not
    /// durable yet, and a state that is ahead of its WAL can't be told from a WAL that has lost its end.
    pub fn begin_checkpoint(&mut self) -> Vec<GroupWrite> {
        assert!(self.dirty.is_empty() && self.round.writes.is_empty(), "a checkpoint begins between two rounds");
        let Self { replicas, state, settings, .. } = self;
        let needs: Vec<usize> = replicas.iter().flatten().map(Replica::log_bytes_needed).collect();
        let share = settings.log_budget.share(needs.clone());
        let replicas = replicas.iter_mut().flatten().zip(needs);
        replicas
            .map(|(replica, need)| {
                replica.record(state);
                replica.base(share(need))
            })
            .collect()
    }

    /// What may be sent by now of snapshots, of the one that is wanted for longest first: the sooner one is whole, the less log
    /// must be kept for it, and the sooner another has its turn. Call it between two rounds, and send what it returns like an
    /// output's sends. It reads the records that are sent, so it takes longer than a step.
    pub fn send_snapshots(&mut self, now: Instant) -> Result<Vec<(MemberId, PeerMessage)>, Error> {
        self.round.pace.tick(now);
        let mut wanted: Vec<_> = self.replicas().flat_map(Replica::wanted_snapshots).collect();
        wanted.sort_unstable();
        let Self { replicas, state, round, .. } = self;
        let (mut sends, mut has_pieces) = (Vec::new(), false);
        for (_, group, to) in wanted {
            let replica = replicas[group.0 as usize].as_mut().expect("it was just asked");
            has_pieces |= replica.take_pieces(now, to, state, &mut round.pace, &mut sends)?;
        }
        self.has_pieces = has_pieces;
        Ok(sends)
    }

    /// How long until [`Self::send_snapshots`] has something to send, if nothing comes; `None`: until something comes.
    pub fn sends_snapshots_in(&self, now: Instant) -> Option<Duration> {
        self.has_pieces.then(|| self.round.pace.wait(now))
    }

    /// Never sends snapshots faster than this many bytes a second.
    pub fn limit_moves(&mut self, bytes_per_second: u64) {
        self.round.pace.set_limit(bytes_per_second);
    }

    /// How many bytes of snapshots a second may be sent now.
    pub fn move_rate(&self) -> u64 {
        self.round.pace.rate()
    }

    /// How many snapshots from here were begun anew because the log that would have followed was not kept for so long.
    pub fn snapshots_overtaken(&self) -> u64 {
        self.round.pace.times_overtaken()
    }

    /// Whether no client's write was heard of here lately.
    pub fn is_alone(&self, now: Instant) -> bool {
        self.round.pace.is_alone(now)
    }

    /// Says how far behind the disk is.
    pub fn set_pressure(&mut self, pressure: Pressure) {
        self.pressure = pressure;
    }

    /// Says whether the disk is full: then clients' writes are turned away with that reason.
    pub fn set_disk_full(&mut self, full: bool) {
        self.disk_full = full;
    }

    /// The state, for its shell to freeze.
    pub fn state_mut(&mut self) -> &mut S {
        &mut self.state
    }

    /// The state.
    pub fn state(&self) -> &S {
        &self.state
    }

    /// How many rounds' writes are not durable yet.
    pub fn rounds_in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// The replica of a group, if there is one here.
    pub fn replica(&self, group: GroupId) -> Option<&Replica> {
        self.replicas.get(group.0 as usize)?.as_ref()
    }

    /// All replicas, by rising group.
    pub fn replicas(&self) -> impl Iterator<Item = &Replica> {
        self.replicas.iter().flatten()
    }

    fn replica_mut(&mut self, group: GroupId) -> Option<&mut Replica> {
        self.replicas.get_mut(group.0 as usize)?.as_mut()
    }

    fn mark(&mut self, group: GroupId) {
        mark(&mut self.dirty, &mut self.is_dirty, group);
    }

    /// Panics when the lane or one of its replicas contradicts itself.
    pub fn check(&self) -> Result<(), Error> {
        assert!(self.in_flight.iter().map(|round| round.number).is_sorted(), "rounds are in order");
        self.held.check();
        self.replicas().try_for_each(|replica| replica.check(&self.state))
    }
}

fn mark(dirty: &mut Vec<GroupId>, is_dirty: &mut Vec<bool>, group: GroupId) {
    let at = group.0 as usize;
    if is_dirty.len() <= at {
        is_dirty.resize(at + 1, false);
    }
    if !std::mem::replace(&mut is_dirty[at], true) {
        dirty.push(group);
    }
}

/// Every so many ticks a lane tells the map group how all the groups that it leads stand: about once a second.
fn report_ticks(settings: &Settings) -> u64 {
    let ticks = REPORT_EVERY.as_millis() / settings.tick().as_millis().max(1);
    u64::try_from(ticks).map_or(1, |ticks| ticks.max(1))
}

fn slot<T>(slots: &mut Vec<Option<T>>, group: GroupId) -> &mut Option<T> {
    let at = group.0 as usize;
    if slots.len() <= at {
        slots.resize_with(at + 1, || None);
    }
    &mut slots[at]
}

fn group_records(state: &dyn State) -> Result<Vec<(GroupId, GroupRecord)>, Error> {
    let mut records = Vec::new();
    state.range(TableId::GROUPS, &[], None, &mut |key, value| {
        records.push((key.to_vec(), bytes::Bytes::copy_from_slice(value)));
        std::ops::ControlFlow::Continue(())
    })?;
    let read = |(key, value): (Vec<u8>, bytes::Bytes)| {
        let group = GroupRecord::group_of(&key).filter(|group| group.0 <= map::MAX_PARTITIONS);
        let damaged = |source| Error::Damaged { group: group.unwrap_or(TableId::GROUPS.group), source };
        let group = group.ok_or(damaged(crate::codec::Error::OutOfRange { what: "group number" }))?;
        Ok((group, GroupRecord::decode(value).map_err(damaged)?))
    };
    records.into_iter().map(read).collect()
}

/// A new group is a snapshot of nothing at its first position; the map group's holds the map.
fn first_write(group: GroupId, voters: &[MemberId], map: &Map) -> GroupWrite {
    let records = match group.partition() {
        None => map::machine::Machine::first_records(map),
        Some(_) => Vec::new(),
    };
    let mut write = GroupWrite::new(group);
    write.staged = vec![Staged { generation: 1, first: true, records }];
    let voters = voters.iter().map(|voter| voter.get()).collect();
    let state = raft::eraftpb::ConfState { voters, ..Default::default() };
    let configuration = Configuration { state, epoch: map.epoch };
    write.installed = Some(Installed { generation: 1, position: FIRST_POSITION, configuration });
    write
}
