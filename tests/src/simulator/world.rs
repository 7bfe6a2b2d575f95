//! One run: the store, its clients, its network and what goes wrong, from the first start to the last comparison.
//!
//! ```text
//!  Faulty ──no more faults, all healed──▶ Settling ──every key read and written, clients done──▶ Reading
//!                                           │ too long: not live                                   │
//!                                           ▼                                                      ▼
//!                                         broken ◀──too long: replicas differ── Converging ◀── every key read again,
//!                                                   or keep what has expired       │              and put to expire
//!                                                                                  ▼
//!                                                                        the history is judged
//! ```

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use annulus_core::id::{GroupId, MemberId};
use annulus_core::map::{Desired, Map, Member as MapMember, MemberState};
use annulus_core::partition::lock::View as LockView;
use annulus_core::partition::{Consistency, Outcome, Page};
use annulus_core::replica::Replica;
use annulus_core::state::State;
use sha2::{Digest, Sha256};

use super::admin::{ADMIN_CLIENT, AdminAnswer};
use super::checks::{self, Monotone, Violation};
use super::client::{Client, Order, page_contents};
use super::dice::Dice;
use super::disk::Kindness;
use super::events::{ClientEvent, Event, Events, NodeEvent};
use super::faults::{Counters, Fault, FaultEvent};
use super::history::{History, StaleRead, WriteId};
use super::lane;
use super::locks;
use super::locks::locker::{Locker, Shared};
use super::locks::record::Record;
use super::locks::sightings::Sightings;
use super::network::Network;
use super::node::{CLUSTER, Member};
use super::operator::{Fences, Operator, Slot, View};
use super::ring_checks::{self, Ring};
use super::scenario::{Profile, Scenario};
use super::trace::Trace;
use super::txns;
use super::txns::record::Record as TxnRecord;
use super::txns::trader::{self, Trader};
use super::work::Work;

/// How long after everything is healed every key must have been read and written, and how long after that all replicas
/// must be the same, in microseconds.
const SETTLED_WITHIN_US: u64 = 10_000_000;
/// How long after everything is healed the ring must be as it was asked for last, in microseconds.
const RING_SETTLED_WITHIN_US: u64 = 60_000_000;
/// How long after the last client has let go of the locks each of them must have been taken and given back, in
/// microseconds.
const LOCKS_FREED_WITHIN_US: u64 = 30_000_000;
/// How long after all clients are done nothing of a transaction may be left, in microseconds.
const TXNS_ENDED_WITHIN_US: u64 = 15_000_000;
/// How many operators change the ring.
const OPERATORS: usize = 2;
/// The last write of every key lets it expire after this long.
const LAST_TTL_MS: u64 = 200;
/// What the keys of a partition's value records begin with (see `docs/storage.md`).
const VALUE_RECORD: u8 = 1;
/// What the keys of its locks' records begin with.
const LOCK_RECORD: u8 = 5;
/// How often all replicas are looked at, in microseconds.
const PROBE_EVERY_US: u64 = 150_000;
/// How often it is looked whether the next phase is due, in microseconds.
const PHASE_EVERY_US: u64 = 50_000;

/// What all parts of a run share.
pub struct Environment {
    /// The clock and what is still to happen.
    pub events: Events,
    /// Chance.
    pub dice: Dice,
    /// What has happened.
    pub trace: Trace,
    /// What carries messages.
    pub network: Network,
    /// What has gone wrong.
    pub counters: Counters,
    /// What replicas have shown and nobody has judged yet.
    pub probed: Vec<Probed>,
    /// Who has been elected (group, term, member) and nobody has taken note yet.
    pub elected: Vec<(GroupId, u64, usize)>,
    /// Maps that members have applied and nobody has judged yet.
    pub maps: Vec<Arc<Map>>,
    /// What an operator was answered and has not taken note of yet.
    pub answers: Vec<(u64, AdminAnswer)>,
    /// What members have done.
    pub work: Work,
}

impl Environment {
    /// That of a run that has not begun, and leaves no trace.
    pub fn new(scenario: &Scenario, dice: Dice) -> Self {
        Self {
            events: Events::default(),
            network: Network::new(scenario.latency_us),
            dice,
            trace: Trace::silent(),
            counters: Counters::default(),
            probed: Vec::new(),
            elected: Vec::new(),
            maps: Vec::new(),
            answers: Vec::new(),
            work: Work::default(),
        }
    }
}

/// What one replica has.
#[derive(Debug)]
pub struct Probed {
    /// Its member.
    pub member: usize,
    /// Which of its processes, and which of that one's replicas.
    pub life: (u64, u64),
    /// Its group.
    pub group: GroupId,
    /// Some of what it has.
    pub has: Has,
}

/// Some of what a replica has.
#[derive(Debug)]
pub enum Has {
    /// All its keys.
    Keys(Page),
    /// All its locks.
    Locks(Vec<LockView>),
}

/// What a run has shown to be broken.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// A check found it.
    #[error(transparent)]
    Check(#[from] Violation),
    /// A check of the ring found it.
    #[error(transparent)]
    Ring(#[from] ring_checks::Violation),
    /// A check of the locks found it.
    #[error(transparent)]
    Locks(#[from] locks::checks::Violation),
    /// A check of the transactions found it.
    #[error(transparent)]
    Txns(#[from] txns::checks::Violation),
    /// The ring was not as it was asked for.
    #[error("{0} s after everything was healed the ring was not as it was asked for: {1}")]
    RingNotSettled(u64, String),
    /// A member could not go on.
    #[error("member {member} stopped: {}", chain(source))]
    Stopped {
        /// The member.
        member: usize,
        /// Why.
        source: lane::Error,
    },
    /// An assertion failed.
    #[error("panicked: {0}")]
    Panicked(String),
    /// Something cannot be what it is.
    #[error("{0}")]
    Nonsense(&'static str),
    /// An idempotent write was answered in two ways.
    #[error("write {write} was answered with {first:?}, and with {second:?} when it was repeated")]
    RepeatedOtherwise {
        /// The write.
        write: WriteId,
        /// The first answer.
        first: Outcome,
        /// The second answer.
        second: Outcome,
    },
    /// Keys could not be read or written although nothing was wrong any more.
    #[error("{0} s after everything was healed some keys could not be read or written")]
    NotLive(u64),
    /// Locks could not be had although nobody wanted them any more.
    #[error("{0} s after everybody had let go of the locks not each of them could be taken and given back")]
    LocksNotFreed(u64),
    /// Transactions were left open although nobody was at them any more.
    #[error("{0} s after all clients were done transactions were left: {1}")]
    TxnsNotEnded(u64, String),
    /// Replicas of one group stayed different, or kept keys that should have expired.
    #[error("the replicas of {group} stay different, or keep what has expired: {replicas}")]
    Different {
        /// The group.
        group: GroupId,
        /// What each has.
        replicas: String,
    },
}

fn chain(error: &lane::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// What a run has given.
#[derive(Debug)]
pub struct Report {
    /// Everything that happened.
    pub trace: Trace,
    /// What went wrong on purpose.
    pub counters: Counters,
    /// How many reads and writes were answered.
    pub answered: usize,
    /// What was broken, if anything was.
    pub broken: Option<Broken>,
}

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Faulty,
    Settling,
    Reading,
    Converging,
}

/// One run.
pub(super) struct World {
    pub(super) scenario: Scenario,
    /// The first map.
    first: Arc<Map>,
    /// The newest map that any member has applied.
    pub(super) map: Arc<Map>,
    pub(super) env: Environment,
    pub(super) members: Vec<Member>,
    clients: Vec<Client>,
    operators: Vec<Operator>,
    lockers: Vec<Locker>,
    pub(super) traders: Vec<Trader>,
    fences: Fences,
    ring: Ring,
    history: History,
    monotone: Monotone,
    locks: Record,
    sightings: Sightings,
    pub(super) txns: TxnRecord,
    /// By when nothing of a transaction may be left.
    txns_end: u64,
    pub(super) phase: Phase,
    pub(super) phase_ends: u64,
    /// By when the ring must be as it was asked for last.
    ring_ends: u64,
    /// Which members were last seen to lead groups in joint configurations.
    pub(super) joint: BTreeSet<(usize, GroupId)>,
}

/// Runs one seed to its end.
pub fn run(seed: u64, profile: Profile) -> Report {
    let mut dice = Dice::new(seed);
    let scenario = Scenario::draw(&mut dice, profile);
    let mut world = World::new(format_args!("seed {seed}, {profile:?}"), scenario, dice);
    let ended = guarded(|| world.run());
    world.report(ended.err())
}

/// Takes a panic for what is broken.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, Broken>) -> Result<T, Broken> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(Broken::Panicked(text.unwrap_or("with something that is no text").to_owned()))
    })
}

/// What a member would be in the map.
fn desired(member: &Member, scenario: &Scenario) -> Desired {
    let index = member.index;
    Desired {
        id: member.id(),
        name: member.name.clone(),
        zone: if scenario.zones == 0 { String::new() } else { format!("zone-{}", index % scenario.zones) },
        weight: 100,
        client_address: format!("client-{index}:1"),
        peer_address: format!("peer-{index}:1"),
        admin_address: format!("admin-{index}:1"),
    }
}

/// The map that the members begin with.
pub(super) fn first_map(scenario: &Scenario, members: &[Member]) -> Arc<Map> {
    let named = members[..scenario.members].iter().map(|member| {
        let Desired { id, name, zone, weight, client_address, peer_address, admin_address } = desired(member, scenario);
        let state = MemberState::Active;
        MapMember { id, name, zone, weight, state, client_address, peer_address, admin_address }
    });
    let map = Map::bootstrap(CLUSTER, scenario.partitions, scenario.replication, named.collect());
    let mut map = map.expect("the scenario makes sense");
    map.check();
    if scenario.is_unmade {
        // Only how many partitions there are is known: that of the store is newer.
        map.epoch = 0;
    }
    Arc::new(map)
}

/// The number of a member in the simulator.
pub fn members_index(member: MemberId) -> usize {
    usize::try_from(member.get() - 1).expect("few members")
}

impl World {
    pub(super) fn new(title: std::fmt::Arguments<'_>, scenario: Scenario, mut dice: Dice) -> Self {
        let members: Vec<Member> = (0..scenario.slots()).map(|index| Member::new(index, &scenario)).collect();
        let map = first_map(&scenario, &members);
        // The last client does only as it is told.
        let clients = (0..=scenario.clients).map(|number| Client::new(number, scenario.keys, dice.fork())).collect();
        let operators = 0..if scenario.command_gap_us.is_some() { OPERATORS } else { 0 };
        let operators: Vec<Operator> =
            operators.map(|number| Operator::new(scenario.clients + 1 + number, dice.fork())).collect();
        // As with the clients, the last does only as it is told.
        let first = scenario.clients + 1 + operators.len();
        let lockers = first..if scenario.locks.lockers == 0 { first } else { first + scenario.locks.lockers + 1 };
        let lockers: Vec<Locker> = lockers.map(|number| Locker::new(number, dice.fork())).collect();
        // And so with these.
        let first = first + lockers.len();
        let traders = first..if scenario.txns.traders == 0 { first } else { first + scenario.txns.traders + 1 };
        let traders = traders.map(|number| Trader::new(number, &scenario, dice.fork())).collect();
        let txns = TxnRecord { accounts: scenario.txns.accounts, ..TxnRecord::default() };
        let mut env = Environment { trace: Trace::default(), ..Environment::new(&scenario, dice) };
        env.trace.record(0, format_args!("{title}: {scenario:?}"));
        Self {
            phase_ends: scenario.faulty_us,
            scenario,
            first: Arc::clone(&map),
            map,
            env,
            members,
            clients,
            operators,
            lockers,
            traders,
            fences: Fences::default(),
            ring: Ring::default(),
            ring_ends: 0,
            joint: BTreeSet::new(),
            history: History::default(),
            monotone: Monotone::default(),
            locks: Record::default(),
            sightings: Sightings::default(),
            txns,
            txns_end: 0,
            phase: Phase::Faulty,
        }
    }

    fn run(&mut self) -> Result<(), Broken> {
        self.set_out()?;
        while let Some(event) = self.env.events.pop() {
            if self.handle(event)? {
                return self.judge();
            }
        }
        unreachable!("ticks never end")
    }

    /// What was found.
    pub(super) fn report(mut self, broken: Option<Broken>) -> Report {
        if let Some(broken) = &broken {
            self.env.trace.record(self.env.events.now(), format_args!("BROKEN: {broken}"));
        }
        let answered = self.history.reads.len() + self.history.writes.iter().filter(|w| w.answer.is_some()).count();
        let answered = answered + self.locks.answered() + self.txns.answered();
        Report { trace: self.env.trace, counters: self.env.counters, answered, broken }
    }

    /// Starts the members, and lets clients, faults and checks begin.
    pub(super) fn set_out(&mut self) -> Result<(), Broken> {
        for member in 0..self.members.len() {
            self.start(member)?;
        }
        let orders = self.clients.len() - 1;
        self.clients[orders].free = false;
        for client in 0..orders {
            self.env.events.after(300_000, Event::Client { client, what: ClientEvent::Next });
        }
        for operator in 0..self.operators.len() {
            let client = orders + 1 + operator;
            self.env.events.after(1_000_000, Event::Client { client, what: ClientEvent::Next });
        }
        if let Some(last) = self.lockers.last_mut() {
            last.free = false;
        }
        let first = orders + 1 + self.operators.len();
        if let Some(last) = self.traders.last_mut() {
            last.free = false;
        }
        for client in first..first + self.lockers.len() + self.traders.len() {
            self.env.events.after(300_000, Event::Client { client, what: ClientEvent::Next });
        }
        self.env.events.after(500_000, Event::Fault(FaultEvent::Draw));
        self.env.events.after(PROBE_EVERY_US, Event::Probe);
        self.env.events.after(PHASE_EVERY_US, Event::Phase);
        Ok(())
    }

    /// Judges everything that clients were told.
    pub(super) fn judge(&mut self) -> Result<(), Broken> {
        let found = locks::checks::places_found_again(&self.locks, &self.sightings);
        self.env.counters.add(Fault::PlaceFoundAgain, found);
        let versions = checks::check_history(&self.history, self.scenario.keys)?;
        locks::checks::check(&self.locks, &self.sightings, &self.history, &versions, &self.map)?;
        txns::checks::check(&self.txns)?;
        Ok(txns::checks::check_keys(&self.txns, &versions)?)
    }

    /// Lets one thing happen. Returns whether it was the last.
    pub(super) fn handle(&mut self, event: Event) -> Result<bool, Broken> {
        match event {
            Event::Node { member, life, what } => self.node_event(member, life, what)?,
            Event::Client { client: ADMIN_CLIENT, what } => {
                if let ClientEvent::Answer { attempt, reply } = what {
                    self.env.answers.push((attempt, AdminAnswer::Reply(reply)));
                }
            }
            Event::Admin { number, answer } => self.env.answers.push((number, answer)),
            Event::Client { client, what } if client >= self.clients.len() + self.operators.len() => {
                self.user_event(client - self.clients.len() - self.operators.len(), what)?;
            }
            Event::Client { client, what } if client >= self.clients.len() => self.operator_event(client, what)?,
            Event::Client { client, what } => {
                let world: (&Scenario, &Map) = (&self.scenario, &self.map);
                self.clients[client].handle(what, world, &mut self.env, &mut self.history)?;
            }
            Event::Fault(fault) => self.fault_event(fault)?,
            Event::Probe => {
                self.env.events.after(PROBE_EVERY_US, Event::Probe);
                let now = self.env.events.now();
                for member in self.members.iter_mut().filter(|m| m.process.is_some() && m.paused_until <= now) {
                    member.probe(&self.scenario, &mut self.env);
                }
                ring_checks::check_elections(&self.members, &self.map)?;
                ring_checks::check_survival(&self.members, &self.map)?;
            }
            Event::Phase => {
                self.env.events.after(PHASE_EVERY_US, Event::Phase);
                return self.next_phase();
            }
        }
        Ok(false)
    }

    fn node_event(&mut self, index: usize, life: Option<u64>, what: NodeEvent) -> Result<(), Broken> {
        let now = self.env.events.now();
        let member = &mut self.members[index];
        if member.process.is_none() || life.is_some_and(|life| life != member.life) {
            return Ok(());
        }
        if member.paused_until > now {
            let source = match &what {
                NodeEvent::Frame { from, .. } => *from,
                NodeEvent::Request(_) => self.scenario.slots(),
                _ => index,
            };
            // What waits is read one after the other, from each source at its own pace.
            member.source_lag_us[source] += self.env.dice.below(300);
            let delay = member.paused_until - now + member.source_lag_us[source];
            self.env.events.after(delay, Event::Node { member: index, life, what });
            return Ok(());
        }
        let result = member.handle(what, &self.scenario, &mut self.env);
        self.after_disk_work(index, result)?;
        self.silence_in_joint(index);
        self.judge_ring()?;
        self.ring.check_configurations(&self.members[index], &self.map)?;
        self.judge_probed()
    }

    /// A process that has lost power is gone; one that has stopped for another reason is broken.
    fn after_disk_work(&mut self, index: usize, result: Result<(), lane::Error>) -> Result<(), Broken> {
        if self.members[index].disk.is_off() {
            self.env.counters.add(Fault::CrashInDiskOperation, 1);
            self.crash(index);
            return Ok(());
        }
        match result {
            Ok(()) => Ok(()),
            // redb can't go on after a full disk: the process ends and starts again when there is room.
            Err(lane::Error::Storage(error)) if error.is_disk_full() => {
                self.env.trace.record(self.env.events.now(), format_args!("member {index} stops: {error}"));
                self.crash(index);
                Ok(())
            }
            Err(source) => Err(Broken::Stopped { member: index, source }),
        }
    }

    /// One of the operators does something, by the map of some member.
    fn operator_event(&mut self, client: usize, what: ClientEvent) -> Result<(), Broken> {
        let slots = self.slots();
        let operator = &mut self.operators[client - self.clients.len()];
        if self.phase == Phase::Faulty {
            let known = self.members.iter().filter_map(|member| member.process.as_ref()?.map.clone());
            let known: Vec<Arc<Map>> = known.collect();
            let is_old = !known.is_empty() && self.env.dice.chance(300);
            let map = if is_old { Arc::clone(self.env.dice.pick(&known)) } else { Arc::clone(&self.map) };
            let view = View { scenario: &self.scenario, map: &map, slots: &slots };
            operator.handle(what, &view, &mut self.fences, &mut self.env)?;
        } else if client == self.clients.len() {
            let view = View { scenario: &self.scenario, map: &self.map, slots: &slots };
            operator.handle(what, &view, &mut self.fences, &mut self.env)?;
        }
        Ok(())
    }

    /// One of the clients that use locks or transactions does something.
    fn user_event(&mut self, number: usize, what: ClientEvent) -> Result<(), Broken> {
        let Self { scenario, map, locks, txns, history, env, .. } = self;
        if let Some(number) = number.checked_sub(self.lockers.len()) {
            let record = txns;
            return self.traders[number].handle(what, &mut trader::Shared { scenario, map, record, history, env });
        }
        self.lockers[number].handle(what, &mut Shared { scenario, map, record: locks, history, env })
    }

    /// The number of the first client that uses transactions.
    pub(super) fn first_trader(&self) -> usize {
        self.clients.len() + self.operators.len() + self.lockers.len()
    }

    fn slots(&self) -> Vec<Slot> {
        let born = self.members.iter().filter(|member| member.born);
        let slot = |member: &Member| Slot {
            index: member.index,
            desired: desired(member, &self.scenario),
            is_fit: !member.gone && !member.replaced,
        };
        born.map(slot).collect()
    }

    fn judge_ring(&mut self) -> Result<(), Broken> {
        for map in std::mem::take(&mut self.env.maps) {
            self.ring.observe(&map, &mut self.env.counters)?;
            if map.epoch > self.map.epoch {
                let before = std::mem::replace(&mut self.map, map);
                self.hit_after_move(&before);
            }
        }
        let elected = std::mem::take(&mut self.env.elected);
        for (group, term, member) in &elected {
            self.ring.lead(*group, *term, *member)?;
        }
        if !elected.is_empty() && self.phase == Phase::Faulty {
            self.crash_after_election();
        }
        Ok(())
    }

    fn judge_probed(&mut self) -> Result<(), Broken> {
        let now = self.env.events.now();
        for Probed { member, life, group, has } in std::mem::take(&mut self.env.probed) {
            let page = match has {
                Has::Keys(page) => page,
                Has::Locks(views) => {
                    views.iter().try_for_each(|view| self.sightings.observe(now, member, life, view))?;
                    continue;
                }
            };
            for (key, seen) in page_contents(&page, &self.scenario, &self.map, group)? {
                self.monotone.observe(member, life, key, seen.map(|seen| seen.version))?;
                self.history.stale.push(StaleRead { key, returned: now, seen });
            }
        }
        Ok(())
    }

    pub(super) fn start(&mut self, index: usize) -> Result<(), Broken> {
        let member = &mut self.members[index];
        if member.process.is_some() || member.gone || !member.born {
            return Ok(());
        }
        let result = member.start(&self.scenario, &self.first, &mut self.env);
        self.after_disk_work(index, result)
    }

    /// The process is gone, and with it the power or not; it comes back soon.
    pub(super) fn crash(&mut self, index: usize) {
        let kindness = *self.env.dice.pick(&[Kindness::KeepsAll, Kindness::LosesAll, Kindness::Mixed, Kindness::Mixed]);
        self.end(index, kindness);
        let down = self.env.dice.within(self.scenario.down_us.clone());
        self.env.events.after(down, Event::Fault(FaultEvent::Start { member: index }));
    }

    /// The process is gone, and of what was not synced what its disk says.
    pub(super) fn end(&mut self, index: usize, kindness: Kindness) {
        self.count_crash(index);
        let member = &mut self.members[index];
        if let Some(process) = member.end(&mut self.env) {
            let (disk, dice) = (&member.disk, &mut self.env.dice);
            for lane in process.lanes {
                lane.die_at_work(|| disk.lose_power_after(dice.below(8) * dice.below(8)));
            }
        }
        member.disk.cut_power();
        member.paused_until = 0;
        let losses = member.disk.settle(kindness, &mut self.env.dice);
        let now = self.env.events.now();
        self.env.trace.record(now, format_args!("member {index} dies, its disk {kindness:?}: {losses:?}"));
        self.env.counters.add(Fault::WriteLost, losses.lost);
        self.env.counters.add(Fault::WriteTorn, losses.torn);
        self.env.counters.add(Fault::NameLost, losses.names);
    }

    fn count_crash(&mut self, index: usize) {
        let leads = |group: GroupId| self.members[index].replica(group).is_some_and(Replica::leads);
        let (leads_map, leads_moving) = (leads(GroupId::MAP), self.map.moves.keys().any(|group| leads(*group)));
        let coordinators = self.members[index].process.as_ref().map_or(0, |process| process.shell.coordinators());
        self.env.counters.add(Fault::CoordinatorCrashed, coordinators);
        self.env.counters.add(Fault::MapLeaderCrashed, u64::from(leads_map && self.map.epoch > 1));
        self.env.counters.add(Fault::MovingLeaderCrashed, u64::from(leads_moving));
    }

    /// What is not yet as it was asked for, if anything is.
    fn ring_unsettled(&self) -> Option<String> {
        let operator = self.operators.first()?;
        let asking = (!operator.has_arrived(&self.map)).then(|| format!("map {} is not the goal", self.map.epoch));
        let unsettled = asking.or_else(|| ring_checks::unsettled(&self.members, &self.map));
        unsettled.or_else(|| (!operator.has_read(&self.map)).then(|| "the history was not read".to_owned()))
    }

    /// Goes on to the next phase if it is due. Returns whether there is none any more.
    fn next_phase(&mut self) -> Result<bool, Broken> {
        let now = self.env.events.now();
        match self.phase {
            Phase::Faulty if now >= self.phase_ends => {
                self.heal()?;
                self.clients.iter_mut().for_each(|client| client.free = false);
                self.lockers.iter_mut().for_each(|locker| locker.free = false);
                self.traders.iter_mut().for_each(|trader| trader.free = false);
                let keys = 0..self.scenario.keys;
                self.order(keys.flat_map(|key| [Order::Read(key, Consistency::Linearizable), Order::Put(key, None)]));
                self.set_goal();
                self.enter(Phase::Settling);
                self.ring_ends = now + RING_SETTLED_WITHIN_US;
            }
            Phase::Settling if self.are_idle() => {
                if let Some(unsettled) = self.ring_unsettled() {
                    let seconds = RING_SETTLED_WITHIN_US / 1_000_000;
                    let late = now >= self.ring_ends;
                    return if late { Err(Broken::RingNotSettled(seconds, unsettled)) } else { Ok(false) };
                }
                if let Some(history) = self.operators.first().and_then(|operator| operator.history.as_ref()) {
                    ring_checks::check_history(history, &self.map)?;
                }
                let reads = [Consistency::Linearizable, Consistency::Quorum];
                let keys = 0..self.scenario.keys;
                let each = keys.flat_map(|key| reads.map(|consistency| Order::Read(key, consistency)));
                self.order(each);
                self.order_locks();
                self.order_txns(trader::Order::Look);
                self.enter(Phase::Reading);
                self.txns_end = now + TXNS_ENDED_WITHIN_US;
                self.phase_ends = now + LOCKS_FREED_WITHIN_US;
            }
            Phase::Reading if self.are_idle() => {
                if let Some(left) = self.txns_left() {
                    let seconds = TXNS_ENDED_WITHIN_US / 1_000_000;
                    return if now >= self.txns_end { Err(Broken::TxnsNotEnded(seconds, left)) } else { Ok(false) };
                }
                self.check_known()?;
                self.order_txns(trader::Order::Clear);
                self.order((0..self.scenario.keys).map(|key| Order::Put(key, Some(LAST_TTL_MS))));
                self.enter(Phase::Converging);
            }
            Phase::Converging if self.are_idle() && self.differing().is_none() => {
                return Ok(true);
            }
            Phase::Faulty => {}
            _ if now < self.phase_ends => {}
            Phase::Converging => {
                if let Some((group, replicas)) = self.differing() {
                    return Err(Broken::Different { group, replicas });
                }
                return Err(Broken::NotLive(SETTLED_WITHIN_US / 1_000_000));
            }
            Phase::Reading if !self.lockers.iter().all(Locker::is_idle) => {
                return Err(Broken::LocksNotFreed(LOCKS_FREED_WITHIN_US / 1_000_000));
            }
            _ => return Err(Broken::NotLive(SETTLED_WITHIN_US / 1_000_000)),
        }
        Ok(false)
    }

    /// The first operator asks for what the ring is to be in the end.
    fn set_goal(&mut self) {
        let mut goal: Vec<Desired> = self.slots().into_iter().filter(|s| s.is_fit).map(|s| s.desired).collect();
        if self.operators.is_empty() {
            return;
        }
        while goal.len() > self.scenario.replication && self.env.dice.chance(500) {
            goal.remove(self.env.dice.index(goal.len()));
        }
        self.operators[0].aim(goal, &mut self.fences, &mut self.env);
    }

    fn enter(&mut self, phase: Phase) {
        let now = self.env.events.now();
        self.env.trace.record(now, format_args!("phase {phase:?}"));
        self.phase = phase;
        self.phase_ends = now + SETTLED_WITHIN_US;
    }

    fn order(&mut self, orders: impl Iterator<Item = Order>) {
        let client = self.clients.len() - 1;
        self.clients[client].orders.extend(orders);
        self.env.events.after(1000, Event::Client { client, what: ClientEvent::Next });
    }

    /// Each lock must be to be had, now that nobody wants it any more.
    fn order_locks(&mut self) {
        let client = self.clients.len() + self.operators.len() + self.lockers.len() - 1;
        if let Some(last) = self.lockers.last_mut() {
            last.orders.extend(0..self.scenario.locks.locks);
            self.env.events.after(1000, Event::Client { client, what: ClientEvent::Next });
        }
    }

    fn are_idle(&self) -> bool {
        let are_idle = self.clients.iter().all(Client::is_idle) && self.lockers.iter().all(Locker::is_idle);
        are_idle && self.traders.iter().all(Trader::is_idle)
    }

    /// A group whose replicas differ or still hold keys or locks, and how.
    fn differing(&self) -> Option<(GroupId, String)> {
        let digests = |group: GroupId| -> Vec<Option<Digested>> {
            let (voters, _) = self.map.group(group).expect("a group of the map");
            voters.iter().map(|voter| digest(&self.members[members_index(*voter)], group)).collect()
        };
        let same = |digests: &[Option<Digested>]| match &digests[0] {
            Some(first) => first.keys == 0 && digests.iter().all(|digest| digest.as_ref() == Some(first)),
            None => false,
        };
        let groups = (0..=self.map.partitions()).map(GroupId);
        let differing = groups.map(|group| (group, digests(group))).find(|(_, digests)| !same(digests));
        differing.map(|(group, digests)| (group, format!("{digests:?}")))
    }
}

/// What a replica has.
#[derive(Debug, PartialEq, Eq)]
struct Digested {
    /// The last entry that it holds.
    applied: u64,
    /// The hash of all its records.
    records: String,
    /// How many keys and locks it has.
    keys: usize,
}

fn digest(member: &Member, group: GroupId) -> Option<Digested> {
    let lane = member.lane(group)?;
    let replica = lane.replica(group)?;
    let (mut hash, mut keys) = (Sha256::new(), 0);
    let read = lane.state().range(replica.table(), &[], None, &mut |key, value| {
        keys += usize::from(group != GroupId::MAP && [VALUE_RECORD, LOCK_RECORD].contains(&key[0]));
        for bytes in [key, value] {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        }
        std::ops::ControlFlow::Continue(())
    });
    read.expect("the disk is whole");
    let records = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Some(Digested { applied: replica.applied().index, records, keys })
}
