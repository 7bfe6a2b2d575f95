//! A member: a disk that stays, and a process on it that comes and goes.
//!
//! ```text
//!  Request, Frame, Tick ─▶ LaneThreads::push ─▶ Round ─▶ frames, replies to clients, forwarded replies
//!                                                 │
//!                                        WalDone, CheckpointDone  (each takes virtual time)
//!
//!  a newer map (membership) ─▶ heard ─▶ writing ─▶ MapStored: on the disk, lanes adopt it  (a crash before leaves the old or the new)
//! ```
//!
//! The process does what the node does: it sends a request on to the leader it knows, puts all of a round's messages to
//! a peer into one frame, and answers what it was asked. Everything it works with is dropped with it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use annulus_core::codec::frame::{self, Forward, FrameWriter, HEADER_BYTES, Item};
use annulus_core::codec::message::{Body, PeerMessage};
use annulus_core::id::{ClusterId, GroupId, MemberId, RequestId, Ticket};
use annulus_core::lane::{Input, Lane, LeaderChange, Operation, Output, Refusal, Reply, Request};
use annulus_core::map::Map;
use annulus_core::partition::Consistency;
use annulus_core::replica::{Replica, Settings};
use annulus_core::time::Instant;
use annulus_node::storage::{self, Identity, IdentityFile, LaneState, Options};
use bytes::Bytes;

use super::admin::{AdminRequest, Eviction};
use super::client::{member_id, scan_all};
use super::disk::SimulatedDisk;
use super::events::{ClientEvent, ClientRequest, Event, NodeEvent};
use super::faults::Fault;
use super::lane::{Error, LaneThreads, WalDone};
use super::locks::all_locks;
use super::network::Fate;
use super::scenario::Scenario;
use super::txns::shell::Shell;
use super::world::{Environment, Has, Probed, members_index};

/// How long after a full disk the WAL thread tries again, in microseconds.
const FULL_DISK_PAUSE_US: u64 = 200_000;

/// Every so many ticks a member tells the others which map it has, as if all its links had broken: rarely, so that in
/// between it is the reports that tell who has an old one.
const HELLO_TICKS: u64 = 100;

/// Longest time that the disk takes for one piece of work, however slow it is, in microseconds.
pub(super) const LONGEST_DISK_WORK_US: u64 = 2_000_000;

/// The clock of a member: begins anywhere and runs at a rate of its own.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// What it shows at `since`.
    base_us: u64,
    since: u64,
    /// Its microseconds per 1000 of the real ones.
    rate_per_mille: u64,
}

impl Clock {
    /// What it shows.
    pub fn at(&self, now: u64) -> Instant {
        Instant(self.base_us + (now - self.since) * self.rate_per_mille / 1000)
    }

    /// How long it takes in real time until this much has passed on it.
    fn real_us(&self, passed: Duration) -> u64 {
        u64::try_from(passed.as_micros()).expect("short") * 1000 / self.rate_per_mille + 1
    }
}

/// A member.
pub struct Member {
    /// Its number.
    pub index: usize,
    /// Its name among people.
    pub name: String,
    /// Whether there ever was such a member.
    pub born: bool,
    /// Whether its volume is away, so that it can't start.
    pub gone: bool,
    /// Whether another has taken its name.
    pub replaced: bool,
    /// Its copy of the newest map, on the disk; may be some versions old.
    pub map: Option<Arc<Map>>,
    /// Its disk.
    pub disk: SimulatedDisk,
    /// Its process, while there is one.
    pub process: Option<Process>,
    /// Counts its processes.
    pub life: u64,
    /// It stands still until then.
    pub paused_until: u64,
    /// After a pause, how much later what came from each source is looked at.
    pub source_lag_us: Vec<u64>,
    /// How many times longer its disk takes.
    pub disk_factor: u64,
    /// Steps towards the ends of transactions that it takes by themselves, in 1000.
    pub hasty: u32,
    pub(super) clock: Clock,
}

/// What a member is while it runs.
pub struct Process {
    /// Its lanes.
    pub lanes: Vec<LaneThreads>,
    /// The map that it acts on: the newest that is on its disk.
    pub map: Option<Arc<Map>>,
    /// A newer one that is being written.
    pub(super) writing: Option<Arc<Map>>,
    /// The newest that it has heard of meanwhile.
    pub(super) heard: Option<Arc<Map>>,
    /// Bootstraps that wait until the first map is written.
    pub(super) bootstraps: Vec<u64>,
    /// That it hands its leaders over, if it does.
    pub(super) eviction: Option<Eviction>,
    /// Which of the member's processes it is.
    pub(super) life: u64,
    requests: u64,
    waiting: BTreeMap<RequestId, Waiting>,
    pub(super) forwards: u64,
    /// Requests sent on to other members.
    pub(super) forwarded: BTreeMap<u64, Forwarded>,
    /// By group.
    pub(super) leaders: Vec<Option<MemberId>>,
    /// By group.
    seen: Vec<Seen>,
    ticks: u64,
    /// The transactions that it makes happen.
    pub shell: Shell,
}

/// A request that a lane has and has not answered yet.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    reply_to: ReplyTo,
    group: GroupId,
    asked: Instant,
    deadline: Instant,
    /// Whether it may wait for a lock: then it ends when its client is gone.
    is_cancellable: bool,
}

/// A request that was sent on to another member.
#[derive(Debug, Clone, Copy)]
pub(super) struct Forwarded {
    pub(super) reply_to: ReplyTo,
    pub(super) group: GroupId,
    pub(super) to: MemberId,
    /// See [`Waiting`].
    pub(super) is_cancellable: bool,
}

/// What was seen of a replica when it was last looked at.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    /// The last index that was applied.
    applied: u64,
    /// Counts the group's replicas of this process.
    replica: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplyTo {
    Client { client: usize, attempt: u64 },
    Shell { asking: u64, attempt: usize },
    Member { peer: usize, ticket: Ticket },
    Probe { group: GroupId },
}

/// What a frame carries.
#[derive(Debug, Clone, Copy)]
pub(super) enum Carries {
    /// Messages between replicas, which bear being doubled.
    Messages,
    /// A client's request, which comes once or not at all, as over a connection.
    Forward,
    /// The answer to one. It may find another process than the one that has asked.
    Forwarded,
}

impl Member {
    /// A member with an empty disk.
    pub fn new(index: usize, scenario: &Scenario) -> Self {
        Self {
            index,
            name: format!("member-{index}"),
            born: !scenario.is_unmade && index < scenario.members + scenario.spares,
            gone: false,
            replaced: false,
            map: None,
            disk: SimulatedDisk::default(),
            process: None,
            life: 0,
            paused_until: 0,
            source_lag_us: vec![0; scenario.slots() + 1],
            disk_factor: 1,
            hasty: scenario.txns.hasty,
            clock: Clock { base_us: 0, since: 0, rate_per_mille: 1000 },
        }
    }

    /// Its id.
    pub fn id(&self) -> MemberId {
        member_id(self.index)
    }

    /// Lets its clock run at another rate from now on.
    pub fn set_rate(&mut self, now: u64, rate_per_mille: u64) {
        self.clock = Clock { base_us: self.clock.at(now).0, since: now, rate_per_mille };
    }

    /// Starts a process. `first` is the first map of the store, which only those know that it was made with.
    pub fn start(&mut self, scenario: &Scenario, first: &Arc<Map>, env: &mut Environment) -> Result<(), Error> {
        self.life += 1;
        self.clock = Clock { base_us: env.dice.below(1 << 40), since: env.events.now(), ..self.clock };
        let disk = self.disk.begin_session();
        let identity = match IdentityFile::open(Arc::clone(&disk))? {
            Some(identity) => identity,
            None => {
                let identity = Identity::new(self.id(), self.name.clone(), scenario.lanes);
                IdentityFile::create(Arc::clone(&disk), identity)?
            }
        };
        let identity = Arc::new(identity);
        let settings = Settings {
            member: self.id(),
            seed: env.dice.number(),
            election_timeout: scenario.election_timeout,
            max_uncommitted_bytes: 4 << 20,
            log_budget: scenario.log_budget,
        };
        let now = self.clock.at(env.events.now());
        let options = Options { cache_bytes: 256 << 10, wal_step_bytes: 16 << 10, wal_spares: 2 };
        if self.map.is_none() && !scenario.is_unmade && self.index < scenario.members {
            self.map = Some(Arc::clone(first));
        }
        let mut lanes = Vec::new();
        for number in 0..scenario.lanes {
            let mark = identity.get().marks[number as usize];
            let opened = storage::open_lane(&disk, number, mark, &options)?;
            identity.set_mark(number, opened.mark)?;
            let mut lane = Lane::recover(settings.clone(), opened.state, opened.replay, now)?;
            let mine = |group: GroupId| group.0 % scenario.lanes == number;
            match &self.map {
                Some(map) if map.epoch == 1 => lane.bootstrap(map, mine, now)?,
                Some(map) => lane.adopt(map, mine, now)?,
                None => {}
            }
            let (threads, number) = ((opened.wal, opened.checkpointer), (number, scenario.lanes));
            lanes.push(LaneThreads::new(number, lane, threads, Arc::clone(&identity), scenario.limits, now));
        }
        let groups = first.partitions() as usize + 1;
        self.process = Some(Process::new(lanes, self.map.clone(), self.life, groups));
        let (member, life) = (self.index, self.life);
        env.trace.record(env.events.now(), format_args!("member {member} starts its life {life}"));
        for number in 0..self.lanes().len() {
            let output = self.lanes()[number].end_round(now)?;
            self.put_out(number, output, env);
        }
        for number in 0..self.lanes().len() {
            self.set_going(number, scenario, env);
        }
        self.write_map(scenario, env);
        self.say_hello(env);
        self.tick_later(&settings, env);
        Ok(())
    }

    /// The lane that a group is in, while there is a process.
    pub fn lane(&self, group: GroupId) -> Option<&Lane<LaneState>> {
        let lanes = &self.process.as_ref()?.lanes;
        Some(&lanes[group.0 as usize % lanes.len()].lane)
    }

    /// Its replica of a group, while there is a process.
    pub fn replica(&self, group: GroupId) -> Option<&Replica> {
        self.lane(group)?.replica(group)
    }

    pub(super) fn lanes(&mut self) -> &mut Vec<LaneThreads> {
        &mut self.process.as_mut().expect("it runs").lanes
    }

    fn tick_later(&self, settings: &Settings, env: &mut Environment) {
        env.events.after(self.clock.real_us(settings.tick()), self.event(NodeEvent::Tick));
    }

    /// What its clock shows.
    pub fn clock_at(&self, now: u64) -> Instant {
        self.clock.at(now)
    }

    pub(super) fn event(&self, what: NodeEvent) -> Event {
        Event::Node { member: self.index, life: Some(self.life), what }
    }

    /// Something happens to its process.
    pub fn handle(&mut self, what: NodeEvent, scenario: &Scenario, env: &mut Environment) -> Result<(), Error> {
        let now = self.clock.at(env.events.now());
        match what {
            NodeEvent::Tick => {
                let tick = scenario.election_timeout / 10;
                env.events.after(self.clock.real_us(tick), self.event(NodeEvent::Tick));
                self.lanes().iter_mut().for_each(|lane| lane.push(Input::Tick));
                let process = self.process.as_mut().expect("it runs");
                process.ticks += 1;
                if process.ticks.is_multiple_of(HELLO_TICKS) {
                    self.say_hello(env);
                }
                self.tend_eviction(env);
            }
            NodeEvent::MapStored => self.follow_map(env),
            NodeEvent::Round { lane } => {
                env.work.rounds += 1;
                let output = self.lanes()[lane].round(now)?;
                env.counters.add(Fault::LeasesExtended, self.lanes()[lane].take_extensions());
                self.put_out(lane, output, env);
                self.check(lane, scenario)?;
            }
            NodeEvent::WalDone { lane } => self.wal_done(lane, scenario, env)?,
            NodeEvent::CheckpointDone { lane } => {
                self.lanes()[lane].checkpoint_done()?;
                let disk = self.disk.fingerprint();
                let member = self.index;
                env.trace
                    .record(env.events.now(), format_args!("member {member} lane {lane}: checkpoint, disk {disk:x?}"));
            }
            NodeEvent::Unreachable { peer } => {
                let peer = member_id(peer);
                self.lanes().iter_mut().for_each(|lane| lane.push(Input::Unreachable(peer)));
                self.link_lost(peer, env);
            }
            NodeEvent::Frame { from, bytes } => self.frame(now, from, bytes, env),
            NodeEvent::Request(request) => self.request(now, request, env),
            NodeEvent::Demand(demand) => self.demanded(demand, env),
            NodeEvent::Shell(what) => self.shell_event(what, env),
            NodeEvent::HangUp { client, attempt } => self.hung_up(client, attempt, env),
            NodeEvent::Admin(AdminRequest { number, asks }) => self.admin(number, asks, env),
        }
        self.write_map(scenario, env);
        for lane in 0..self.lanes().len() {
            self.set_going(lane, scenario, env);
        }
        Ok(())
    }

    /// Its process dies. A map that was being written is on the disk by then, or is not.
    pub fn end(&mut self, env: &mut Environment) -> Option<Process> {
        let mut process = self.process.take()?;
        if let Some(map) = process.writing.take().filter(|_| env.dice.chance(500)) {
            self.map = Some(map);
        }
        Some(process)
    }

    /// Lets the lane's threads do what there is to do.
    fn set_going(&mut self, number: usize, scenario: &Scenario, env: &mut Environment) {
        let lane = &mut self.lanes()[number];
        if lane.ask_for_round() {
            let delay = env.dice.within(10..=80);
            env.events.after(delay, self.event(NodeEvent::Round { lane: number }));
        }
        let lane = &mut self.lanes()[number];
        if lane.begin_wal_work() {
            let delay = self.disk_time(scenario.sync_us.clone(), env);
            env.events.after(delay, self.event(NodeEvent::WalDone { lane: number }));
        }
    }

    /// How long work of the disk takes that ordinarily takes as long as this.
    fn disk_time(&self, ordinary_us: RangeInclusive<u64>, env: &mut Environment) -> u64 {
        (env.dice.within(ordinary_us) * self.disk_factor).min(LONGEST_DISK_WORK_US)
    }

    fn wal_done(&mut self, number: usize, scenario: &Scenario, env: &mut Environment) -> Result<(), Error> {
        let done = self.lanes()[number].wal_done()?;
        let disk = self.disk.fingerprint();
        let member = self.index;
        env.trace.record(env.events.now(), format_args!("member {member} lane {number}: {done:?}, disk {disk:x?}"));
        env.work.syncs += u64::from(done == WalDone::Persisted);
        match done {
            WalDone::Rotated => {
                let delay = self.disk_time(scenario.checkpoint_us.clone(), env);
                env.events.after(delay, self.event(NodeEvent::CheckpointDone { lane: number }));
            }
            WalDone::Full => {
                env.events.after(FULL_DISK_PAUSE_US, self.event(NodeEvent::WalDone { lane: number }));
            }
            WalDone::Persisted | WalDone::Checkpointed => {}
        }
        Ok(())
    }

    /// Panics when the lane contradicts itself or a replica has gone back.
    fn check(&mut self, number: usize, scenario: &Scenario) -> Result<(), Error> {
        if scenario.check_every == 0 {
            return Ok(());
        }
        let process = self.process.as_mut().expect("it runs");
        let lanes = process.lanes.len();
        let lane = &process.lanes[number];
        for (at, seen) in process.seen.iter_mut().enumerate().filter(|(at, _)| at % lanes == number) {
            match lane.lane.replica(group_id(at)).filter(|replica| !replica.is_blank()) {
                Some(replica) => {
                    assert!(seen.applied <= replica.applied().index, "{}: what was applied stays", replica.group());
                    seen.applied = replica.applied().index;
                }
                // It was dropped: what comes in its place is another.
                None => *seen = Seen { applied: 0, replica: seen.replica + 1 },
            }
        }
        // At each tick a lane answers what has waited for too long; some of its ticks may come a little early.
        let answered_by = lane.ticked() - 2 * (scenario.election_timeout / 10);
        let of_lane = process.waiting.values().filter(|waiting| waiting.group.0 as usize % lanes == number);
        // What has come while the lane only waited for the disk is answered at its next tick.
        let taken = lane.took_before_tick();
        let late = of_lane.into_iter().find(|waiting| waiting.deadline < answered_by && waiting.asked <= taken);
        assert!(late.is_none(), "every request is answered by its deadline: {late:?} at {:?}", lane.ticked());
        if lane.rounds().is_multiple_of(scenario.check_every) {
            lane.lane.check()?;
        }
        Ok(())
    }

    /// Asks every replica for all that it has, past the network.
    pub fn probe(&mut self, scenario: &Scenario, env: &mut Environment) {
        let now = self.clock.at(env.events.now());
        let process = self.process.as_mut().expect("it runs");
        let groups: Vec<GroupId> = process.seen.iter().enumerate().skip(1).map(|(at, _)| group_id(at)).collect();
        for group in groups {
            let consistency = Consistency::Stale;
            let keys = Operation::Scan { scan: scan_all(), consistency };
            let locks = Operation::ListLocks { scan: all_locks(), consistency };
            for operation in [keys, locks] {
                process.ask_lane(now, group, 1000, operation, ReplyTo::Probe { group });
            }
        }
        for number in 0..self.lanes().len() {
            self.set_going(number, scenario, env);
        }
    }

    fn frame(&mut self, now: Instant, from: usize, bytes: Bytes, env: &mut Environment) {
        let header = bytes[..HEADER_BYTES].try_into().expect("a frame has a header");
        let (length, checksum) = frame::read_header(header).expect("frames are sent whole");
        assert_eq!(length, bytes.len() - HEADER_BYTES, "frames are sent whole");
        let items = frame::read_payload(bytes.slice(HEADER_BYTES..), checksum).expect("frames can be read");
        for item in items {
            let process = self.process.as_mut().expect("it runs");
            match item {
                Item::Group(message) => {
                    let lane = process.lane_of(message.group);
                    lane.push(Input::Peer { from: member_id(from), message });
                }
                Item::Forward(Forward { ticket, group, timeout_ms, operation }) => {
                    let reply_to = ReplyTo::Member { peer: from, ticket };
                    process.count_waits(group, &operation, env);
                    process.ask_lane(now, group, timeout_ms, operation, reply_to);
                }
                Item::Forwarded { ticket, reply } => {
                    let number = ticket.number_in(process.life);
                    if let Some(forwarded) = number.and_then(|number| process.forwarded.remove(&number)) {
                        match forwarded.reply_to {
                            ReplyTo::Shell { asking, attempt } => self.asked_answered(asking, attempt, reply, env),
                            ReplyTo::Client { client, attempt } => {
                                process.learn(forwarded, &reply);
                                answer(client, attempt, reply, env);
                            }
                            ReplyTo::Member { .. } | ReplyTo::Probe { .. } => {
                                unreachable!("what is sent on is its own")
                            }
                        }
                    }
                }
                Item::Cancel { ticket, .. } => process.cancel(ReplyTo::Member { peer: from, ticket }, env),
                Item::Hello(hello) => self.greeted(from, hello, env),
                Item::Map(map) => {
                    let map = Map::decode(map).expect("maps are sent whole");
                    self.take_map(&Arc::new(map), env);
                }
            }
        }
    }

    /// Where a client's request goes: see the node's own router.
    fn request(&mut self, now: Instant, request: ClientRequest, env: &mut Environment) {
        let own = self.id();
        let process = self.process.as_mut().expect("it runs");
        let ClientRequest { client, attempt, group, timeout_ms, forward, operation } = request;
        let Some((replicas, preferred)) = process.map.as_ref().and_then(|map| map.group(group)) else {
            return answer(client, attempt, Reply::Refused(Refusal::NoReplica), env);
        };
        let here = replicas.contains(&own);
        let is_stale = operation.consistency() == Some(Consistency::Stale);
        let leader = process.leaders[group.0 as usize];
        let to = match leader {
            _ if here && (is_stale || !forward) => None,
            Some(leader) => Some(leader),
            None if here => None,
            None if env.dice.chance(500) => Some(preferred),
            None => Some(*env.dice.pick(replicas)),
        };
        let Some(to) = to.filter(|to| *to != own) else {
            process.count_waits(group, &operation, env);
            process.ask_lane(now, group, timeout_ms, operation, ReplyTo::Client { client, attempt });
            return;
        };
        process.forwards += 1;
        let number = process.forwards;
        let is_cancellable = operation.waits_for_lock();
        let reply_to = ReplyTo::Client { client, attempt };
        process.forwarded.insert(number, Forwarded { reply_to, group, to, is_cancellable });
        let mut writer = FrameWriter::default();
        let ticket = Ticket { life: process.life, number };
        writer.push(&Item::Forward(Forward { ticket, group, timeout_ms, operation }));
        self.send(members_index(to), writer, Carries::Forward, env);
    }

    /// A client is gone: whoever has its request is told, if the request is one that waits for a lock.
    fn hung_up(&mut self, client: usize, attempt: u64, env: &mut Environment) {
        let process = self.process.as_mut().expect("it runs");
        process.cancel(ReplyTo::Client { client, attempt }, env);
        let by = ReplyTo::Client { client, attempt };
        let is_it = |sent: &Forwarded| sent.reply_to == by && sent.is_cancellable;
        let number = process.forwarded.iter().find(|(_, sent)| is_it(sent)).map(|(number, _)| *number);
        let Some((number, sent)) = number.and_then(|number| process.forwarded.remove_entry(&number)) else { return };
        let mut writer = FrameWriter::default();
        writer.push(&Item::Cancel { ticket: Ticket { life: process.life, number }, group: sent.group });
        self.send(members_index(sent.to), writer, Carries::Forward, env);
    }

    fn put_out(&mut self, number: usize, output: Output, env: &mut Environment) {
        let mut frames: BTreeMap<usize, FrameWriter> = BTreeMap::new();
        let own = self.id();
        for (to, message) in output.sends {
            if to == own {
                // To the map group, whose replica here is in another lane.
                let lane = self.process.as_mut().expect("it runs").lane_of(message.group);
                lane.push(Input::Peer { from: own, message });
                continue;
            }
            let (now, from, to) = (env.events.now(), self.index, members_index(to));
            env.trace.record(now, format_args!("member {from} to {to}: {}", show(&message)));
            env.work.messages += 1;
            frames.entry(to).or_default().push(&Item::Group(message));
        }
        for (to, writer) in frames {
            self.send(to, writer, Carries::Messages, env);
        }
        if let Some(map) = output.map {
            env.maps.push(Arc::clone(&map));
            self.take_map(&map, env);
        }
        if let Some(map) = self.process.as_ref().and_then(|process| process.map.clone()) {
            for member in output.outdated {
                self.send_map(members_index(member), &map, env);
            }
        }
        let process = self.process.as_mut().expect("it runs");
        for change in output.leaders {
            process.leaders[change.group.0 as usize] = change.leader;
            let LeaderChange { group, leader, term } = change;
            if leader == Some(member_id(self.index)) {
                env.elected.push((group, term, self.index));
            }
            let member = self.index;
            env.trace.record(env.events.now(), format_args!("member {member} lane {number}: {change:?}"));
        }
        for (id, reply) in output.replies {
            self.reply(id, reply, env);
        }
        self.found_abandoned(output.abandoned, env);
    }

    fn reply(&mut self, id: RequestId, reply: Reply, env: &mut Environment) {
        let process = self.process.as_mut().expect("it runs");
        let waiting = process.waiting.remove(&id).expect("a lane answers each request once");
        match waiting.reply_to {
            ReplyTo::Client { client, attempt } => answer(client, attempt, reply, env),
            ReplyTo::Shell { asking, attempt } => self.asked_answered(asking, attempt, reply, env),
            ReplyTo::Member { peer, ticket } => {
                let mut writer = FrameWriter::default();
                writer.push(&Item::Forwarded { ticket, reply });
                self.send(peer, writer, Carries::Forwarded, env);
            }
            ReplyTo::Probe { group } => {
                let (member, life) = (self.index, (self.life, process.seen[group.0 as usize].replica));
                match reply {
                    Reply::Scan(page) => env.probed.push(Probed { member, life, group, has: Has::Keys(page) }),
                    Reply::Locks { locks, .. } => {
                        env.probed.push(Probed { member, life, group, has: Has::Locks(locks) })
                    }
                    Reply::Refused(Refusal::NoReplica) => {}
                    other => unreachable!("a stale scan was answered with {other:?}"),
                }
            }
        }
    }

    /// Puts a frame on its way. Returns what becomes of it.
    pub(super) fn send(&mut self, to: usize, writer: FrameWriter, carries: Carries, env: &mut Environment) -> Fate {
        let bytes = writer.finish();
        env.work.frames += 1;
        env.work.frame_bytes += bytes.len() as u64;
        let link = (self.index, to);
        let may_double = matches!(carries, Carries::Messages);
        let now = env.events.now();
        let fate = env.network.send(now, link, may_double, &mut env.dice, &mut env.counters);
        match &fate {
            Fate::Arrives(delays) => {
                for delay in delays {
                    let what = NodeEvent::Frame { from: self.index, bytes: bytes.clone() };
                    env.events.after(*delay, Event::Node { member: to, life: None, what });
                }
            }
            Fate::Lost => {}
            Fate::NoWay => {
                if env.dice.chance(50) {
                    env.events.after(1000, self.event(NodeEvent::Unreachable { peer: to }));
                }
            }
        }
        fate
    }
}

impl Process {
    fn new(lanes: Vec<LaneThreads>, map: Option<Arc<Map>>, life: u64, groups: usize) -> Self {
        Self {
            lanes,
            map,
            writing: None,
            heard: None,
            bootstraps: Vec::new(),
            eviction: None,
            life,
            requests: 0,
            waiting: BTreeMap::new(),
            forwards: 0,
            forwarded: BTreeMap::new(),
            leaders: vec![None; groups],
            seen: vec![Seen::default(); groups],
            ticks: 0,
            shell: Shell::default(),
        }
    }

    /// Learns from a refusal who leads.
    fn learn(&mut self, forwarded: Forwarded, reply: &Reply) {
        let hint = match reply {
            Reply::Refused(Refusal::NotLeader { leader }) => *leader,
            Reply::Refused(Refusal::NoReplica) => None,
            _ => return,
        };
        let known = &mut self.leaders[forwarded.group.0 as usize];
        if known.is_none() || *known == Some(forwarded.to) {
            *known = hint.filter(|leader| *leader != forwarded.to);
        }
    }

    fn lane_of(&mut self, group: GroupId) -> &mut LaneThreads {
        let lanes = self.lanes.len();
        &mut self.lanes[group.0 as usize % lanes]
    }

    pub(super) fn ask_lane(
        &mut self,
        now: Instant,
        group: GroupId,
        timeout_ms: u32,
        operation: Operation,
        reply_to: ReplyTo,
    ) {
        self.requests += 1;
        let id = RequestId(self.requests);
        let deadline = now + Duration::from_millis(u64::from(timeout_ms));
        let is_cancellable = operation.waits_for_lock();
        self.waiting.insert(id, Waiting { reply_to, group, asked: now, deadline, is_cancellable });
        self.lane_of(group).push(Input::Request(Request { id, group, deadline, operation }));
    }

    /// Nobody waits for this answer any more. If there is no such request, it was answered meanwhile.
    fn cancel(&mut self, reply_to: ReplyTo, env: &mut Environment) {
        let is_it = |waiting: &Waiting| waiting.reply_to == reply_to && waiting.is_cancellable;
        let found = self.waiting.iter().find(|(_, waiting)| is_it(waiting));
        if let Some((request, group)) = found.map(|(request, waiting)| (*request, waiting.group)) {
            env.counters.add(Fault::WaitCancelled, 1);
            self.lane_of(group).push(Input::Cancel { group, request });
        }
    }
}

fn answer(client: usize, attempt: u64, reply: Reply, env: &mut Environment) {
    if let Fate::Arrives(delays) = env.network.send_client(&mut env.dice, &mut env.counters) {
        env.events.after(delays[0], Event::Client { client, what: ClientEvent::Answer { attempt, reply } });
    }
}

fn show(message: &PeerMessage) -> String {
    let group = message.group;
    match &message.body {
        Body::Raft { message, stamp } => format!(
            "{group} {:?} term {} index {} log term {} entries {} commit {} reject {} stamp {stamp}",
            message.get_msg_type(),
            message.term,
            message.index,
            message.log_term,
            message.entries.len(),
            message.commit,
            message.reject,
        ),
        Body::Chunk(chunk) => {
            format!("{group} chunk {} of {:?}, {} records", chunk.number, chunk.stream, chunk.records.len())
        }
        Body::ChunkAck { stream, next } => format!("{group} chunk {next} of {stream:?} is wanted"),
        Body::Report(report) => {
            let groups: Vec<GroupId> = report.groups.iter().map(|group| group.group).collect();
            format!("report at map {} of {groups:?}", report.epoch)
        }
    }
}

fn group_id(number: usize) -> GroupId {
    GroupId(u32::try_from(number).expect("few groups"))
}

/// The cluster that all runs are of.
pub const CLUSTER: ClusterId = ClusterId(*b"annulus, in test");
