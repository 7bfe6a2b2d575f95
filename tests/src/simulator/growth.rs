//! What an operation costs in stores of different sizes: clients in proportion to the members, each with one request
//! under way to the leader of its key, nothing that goes wrong, and all that the members do counted.
//!
//! ```text
//!  elect ─▶ every group has a leader ─▶ warm up ─▶ count: so many operations ─▶ Growth
//! ```

use std::time::Duration;

use annulus_core::id::GroupId;
use annulus_core::lane::{Operation, Reply};
use annulus_core::partition::{Change, Condition, Consistency, Key, Write};
use annulus_core::replica::Replica;
use bytes::Bytes;

use super::dice::Dice;
use super::events::{ClientEvent, ClientRequest, Event, NodeEvent};
use super::lane;
use super::node::Member;
use super::scenario::Scenario;
use super::work::Work;
use super::world::{self, Environment};

/// Clients for each member.
const CLIENTS: usize = 43;
/// Keys for each member.
const KEYS: u64 = 2000;
/// Bytes of a value.
const VALUE_BYTES: usize = 256;
/// How long elections may take, in microseconds.
const ELECTED_WITHIN_US: u64 = 20_000_000;
/// How long a client waits that was turned away, in microseconds.
const TURNED_AWAY_US: u64 = 1_000;

/// What clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// Linearizable reads.
    Get,
    /// Unconditional puts.
    Put,
}

/// What was counted.
#[derive(Debug, Clone, Copy)]
pub struct Growth {
    /// Operations that were answered well.
    pub operations: u64,
    /// Requests that were answered otherwise.
    pub turned_away: u64,
    /// What the members have done for them.
    pub work: Work,
    /// How long the code of the members was at it, by the clock that was handed in.
    pub busy: Duration,
    /// How long it took on the simulator's clock.
    pub took: Duration,
}

/// Counts the work of so many operations. `clock` says how much processor time this thread has used; only
/// [`Growth::busy`] depends on it.
///
/// # Errors
/// When a member can't go on.
pub fn measure(
    members: usize,
    load: Load,
    operations: u64,
    clock: &dyn Fn() -> Duration,
) -> Result<Growth, lane::Error> {
    let mut store = Store::new(members, load, clock);
    store.start()?;
    store.serve(operations / 4)?;
    let (before, since) = (store.so_far(), store.env.events.now());
    store.serve(operations)?;
    let after = store.so_far();
    Ok(Growth {
        operations: after.operations - before.operations,
        turned_away: after.turned_away - before.turned_away,
        work: after.work - before.work,
        busy: after.busy - before.busy,
        took: Duration::from_micros(store.env.events.now() - since),
    })
}

struct Store<'a> {
    scenario: Scenario,
    load: Load,
    env: Environment,
    dice: Dice,
    members: Vec<Member>,
    /// Who leads, by group; filled when all have a leader.
    leaders: Vec<usize>,
    clock: &'a dyn Fn() -> Duration,
    done: u64,
    turned_away: u64,
    busy: Duration,
}

impl<'a> Store<'a> {
    fn new(members: usize, load: Load, clock: &'a dyn Fn() -> Duration) -> Self {
        let scenario = Scenario::quiet(members);
        let mut dice = Dice::new(members as u64);
        Self {
            env: Environment::new(&scenario, dice.fork()),
            members: (0..members).map(|index| Member::new(index, &scenario)).collect(),
            scenario,
            load,
            dice,
            leaders: Vec::new(),
            clock,
            done: 0,
            turned_away: 0,
            busy: Duration::ZERO,
        }
    }

    fn so_far(&self) -> Growth {
        let disk_bytes = self.members.iter().map(|member| member.disk.written()).sum();
        Growth {
            operations: self.done,
            turned_away: self.turned_away,
            work: Work { disk_bytes, ..self.env.work },
            busy: self.busy,
            took: Duration::ZERO,
        }
    }

    /// Starts all members, waits until every group has a leader, and lets every client ask for something.
    fn start(&mut self) -> Result<(), lane::Error> {
        let map = world::first_map(&self.scenario, &self.members);
        for member in &mut self.members {
            member.start(&self.scenario, &map, &mut self.env)?;
        }
        while self.leaders.is_empty() {
            assert!(self.env.events.now() < ELECTED_WITHIN_US, "some group has no leader");
            self.one_event()?;
            let leads = |group: GroupId| {
                let leads = |member: &Member| member.replica(group).is_some_and(Replica::leads);
                self.members.iter().position(leads)
            };
            if self.env.elected.len() > self.scenario.partitions as usize {
                self.leaders = map.groups().map(leads).collect::<Option<_>>().unwrap_or_default();
            }
        }
        (0..CLIENTS * self.members.len()).for_each(|client| self.ask(client));
        Ok(())
    }

    /// Lets clients work until so many more operations are done.
    fn serve(&mut self, operations: u64) -> Result<(), lane::Error> {
        let until = self.done + operations;
        while self.done < until {
            self.one_event()?;
        }
        Ok(())
    }

    fn one_event(&mut self) -> Result<(), lane::Error> {
        let event = self.env.events.pop().expect("ticks never end");
        match event {
            Event::Node { member, life, what } => {
                let member = &mut self.members[member];
                if life.is_none_or(|life| life == member.life) {
                    let began = (self.clock)();
                    member.handle(what, &self.scenario, &mut self.env)?;
                    self.busy += (self.clock)() - began;
                }
                self.env.maps.clear();
            }
            Event::Client { client, what: ClientEvent::Answer { reply, .. } } => match reply {
                Reply::Write(_) | Reply::Get(_) => {
                    self.done += 1;
                    self.ask(client);
                }
                _ => {
                    self.turned_away += 1;
                    self.env.events.after(TURNED_AWAY_US, Event::Client { client, what: ClientEvent::Next });
                }
            },
            Event::Client { client, what: ClientEvent::Next } => self.ask(client),
            Event::Client { .. } | Event::Admin { .. } | Event::Fault(_) | Event::Probe | Event::Phase => {}
        }
        Ok(())
    }

    fn ask(&mut self, client: usize) {
        let number = self.dice.below(KEYS * self.members.len() as u64);
        let key = Key::new(Bytes::from(format!("bench-{number:08}"))).expect("a short key");
        let map = self.members[0].map.as_ref().expect("it has the first map");
        let group = map.partition_of(key.bytes()).group();
        let operation = match self.load {
            Load::Get => Operation::Get { key, consistency: Consistency::Linearizable },
            Load::Put => {
                let value = Bytes::from(vec![b'v'; VALUE_BYTES]);
                let change = Change::Put { value, ttl_ms: None };
                Operation::Write(Write {
                    key,
                    condition: Condition::Always,
                    change,
                    idempotency_key: None,
                    fence: None,
                })
            }
        };
        let request = ClientRequest { client, attempt: 0, group, timeout_ms: 10_000, forward: true, operation };
        let member = self.leaders[group.0 as usize];
        let (low, high) = self.scenario.latency_us;
        let delay = self.dice.within(low..=high);
        self.env.events.after(delay, Event::Node { member, life: None, what: NodeEvent::Request(request) });
    }
}
