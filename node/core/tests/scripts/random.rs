//! Random schedules of the same members that the scripts drive: whatever is delivered, lost, repeated, synced or not,
//! whoever crashes or stands still, reads see what was acknowledged before they were asked, what was refused never
//! happens, and in the end all members hold the same. Time passes for all members alike, though not all hear of it.
//!
//! `ANNULUS_SCHEDULES` is how many are tried (default 64). The simulator of the whole node goes much further.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::time::Duration;

use annulus_core::id::{GroupId, MemberId};
use annulus_core::lane::{Operation, Refusal, Reply};
use annulus_core::partition::{Change, Condition, Consistency, Key, Outcome, Write};
use annulus_core::state::State;
use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::Config;

use crate::lane::three_members;
use crate::world::World;

/// Every member holds the one partition.
const GROUP: GroupId = GroupId(1);
/// A dozen such values are more than a log keeps, so that followers that lag need a snapshot.
const LARGE: usize = 1_500_000;

#[derive(Debug, Clone)]
enum Event {
    /// So many tenths of a second pass; bit `n` says whether member `n` hears of it, and tick by tick or at once.
    Time(u8, u8, bool),
    Deliver(u64, u64, usize),
    Drop(u64, u64, usize),
    Copy(u64, u64),
    Persist(u64, usize),
    /// Everything that is on its way arrives, and everything becomes durable, but for this member.
    SettleWithout(u64),
    Put(u64),
    PutLarge(u64),
    Get(u64, Consistency),
    Checkpoint(u64, u8),
    Crash(u64),
    Restart(u64),
    Cut(u64),
    Heal,
    Prefer(u64),
    /// This member stands still while the others go on without it and write; then it gets so many messages, and is read.
    Overtake(u64, u8, usize),
}

fn event() -> impl Strategy<Value = Event> {
    let one = || 1u64..4;
    let link = || (one(), one());
    prop_oneof![
        8 => (1u8..13, any::<u8>(), any::<bool>()).prop_map(|(tenths, who, at_once)| Event::Time(tenths, who, at_once)),
        10 => (link(), 1usize..4).prop_map(|((from, to), most)| Event::Deliver(from, to, most)),
        2 => (link(), 1usize..3).prop_map(|((from, to), most)| Event::Drop(from, to, most)),
        2 => link().prop_map(|(from, to)| Event::Copy(from, to)),
        6 => (one(), 1usize..4).prop_map(|(member, most)| Event::Persist(member, most)),
        8 => (0u64..4).prop_map(Event::SettleWithout),
        8 => one().prop_map(Event::Put),
        2 => one().prop_map(Event::PutLarge),
        4 => one().prop_map(|member| Event::Get(member, Consistency::Linearizable)),
        2 => one().prop_map(|member| Event::Get(member, Consistency::Quorum)),
        4 => (one(), 0u8..4).prop_map(|(member, step)| Event::Checkpoint(member, step)),
        1 => one().prop_map(Event::Crash),
        3 => one().prop_map(Event::Restart),
        1 => one().prop_map(Event::Cut),
        2 => Just(Event::Heal),
        1 => one().prop_map(Event::Prefer),
        3 => (one(), 1u8..25, 0usize..3).prop_map(|(member, tenths, most)| Event::Overtake(member, tenths, most)),
    ]
}

/// What clients asked and were told about one register.
#[derive(Default)]
struct History {
    /// The version that every later answer must show or pass.
    floor: u64,
    /// For each request that waits, the floor when it was asked.
    asked: BTreeMap<u64, u64>,
    /// What was written under each version.
    values: BTreeMap<u64, Bytes>,
    refused: BTreeSet<Bytes>,
    writes: BTreeMap<u64, Bytes>,
}

impl History {
    fn answered(&mut self, request: u64, reply: &Reply) {
        let floor = self.asked.remove(&request).expect("each request is answered once");
        match reply {
            Reply::Write(Outcome::Written { version, .. }) => {
                assert!(*version > floor, "request {request}: version {version} after {floor} was seen");
                let value = self.writes[&request].clone();
                self.saw(*version, value);
            }
            Reply::Get(item) => {
                let version = item.as_ref().map_or(0, |item| item.version);
                assert!(version >= floor, "request {request} read version {version} after {floor} was seen");
                if let Some(item) = item {
                    self.saw(version, item.value.clone());
                }
            }
            Reply::Refused(Refusal::TimedOut) | Reply::OutcomeUnknown => {}
            Reply::Refused(_) => self.refused.extend(self.writes.get(&request).cloned()),
            other => panic!("request {request} was answered {other:?}"),
        }
    }

    fn saw(&mut self, version: u64, value: Bytes) {
        self.floor = self.floor.max(version);
        assert!(!self.refused.contains(&value), "what was refused never happens");
        let known = self.values.entry(version).or_insert_with(|| value.clone());
        assert_eq!(*known, value, "version {version} is one value");
    }
}

struct Run {
    world: World,
    history: History,
    requests: u64,
}

impl Run {
    fn ask(&mut self, member: u64, operation: Operation) {
        self.requests += 1;
        self.history.asked.insert(self.requests, self.history.floor);
        if let Operation::Write(Write { change: Change::Put { value, .. }, .. }) = &operation {
            self.history.writes.insert(self.requests, value.clone());
        }
        if self.world.request(member, GROUP, operation, Duration::from_secs(3)).is_none() {
            self.history.asked.remove(&self.requests);
        }
    }

    fn put(&mut self, member: u64, bytes: usize) {
        let mut value = format!("{} ", self.requests + 1).into_bytes();
        value.resize(value.len().max(bytes), b'.');
        let change = Change::Put { value: value.into(), ttl_ms: None };
        self.ask(
            member,
            Operation::Write(Write {
                key: key(),
                condition: Condition::Always,
                change,
                idempotency_key: None,
                fence: None,
            }),
        );
    }

    fn happen(&mut self, event: Event) {
        let world = &mut self.world;
        match event {
            Event::Time(tenths, who, at_once) => self.pass(tenths, who, at_once),
            Event::Deliver(from, to, most) => drop(world.deliver(from, to, most)),
            Event::Drop(from, to, most) => {
                let link = world.links.entry((from, to)).or_default();
                link.drain(..most.min(link.len()));
            }
            Event::Copy(from, to) => {
                let link = world.links.entry((from, to)).or_default();
                link.extend(link.front().cloned());
            }
            Event::Persist(member, most) => drop(world.persist(member, most)),
            Event::SettleWithout(member) => world.stabilize_without(Some(member)),
            Event::Put(member) => self.put(member, 0),
            Event::PutLarge(member) => self.put(member, LARGE),
            Event::Get(member, consistency) => self.ask(member, Operation::Get { key: key(), consistency }),
            Event::Checkpoint(member, 0) => world.begin_checkpoint(member),
            Event::Checkpoint(member, step) => {
                if let Some(member) = world.members.get_mut(&member) {
                    let disk = &mut member.disk;
                    let _ = if step == 1 {
                        disk.finish_checkpoint()
                    } else {
                        disk.finish_checkpoint().and_then(|()| disk.drop_wal())
                    };
                }
            }
            Event::Crash(member) => world.crash(member),
            Event::Restart(member) => {
                if world.members[&member].lane.is_none() {
                    world.restart(member);
                }
            }
            Event::Cut(member) => world.isolate(member),
            Event::Heal => world.cut.clear(),
            Event::Overtake(member, tenths, most) => self.overtake(member, tenths, most),
            Event::Prefer(member) => world.prefer(MemberId::new(member).expect("not 0")),
        }
        for (request, reply) in std::mem::take(&mut self.world.replies) {
            self.history.answered(request, &reply);
        }
        self.world.take_trace();
    }

    fn overtake(&mut self, member: u64, tenths: u8, most: usize) {
        for _ in 0..tenths {
            self.happen(Event::Time(1, !(1 << member), false));
            self.happen(Event::SettleWithout(member));
        }
        let others: Vec<u64> = self.world.numbers().into_iter().filter(|other| *other != member).collect();
        for other in &others {
            self.happen(Event::Put(*other));
            self.happen(Event::SettleWithout(member));
        }
        for other in others {
            self.happen(Event::Deliver(other, member, most));
        }
        self.happen(Event::Get(member, Consistency::Linearizable));
    }

    fn pass(&mut self, tenths: u8, who: u8, at_once: bool) {
        let tick = self.world.tick();
        for _ in 0..tenths {
            for member in self.world.numbers() {
                let hears = who & (1 << member) != 0 && !at_once;
                self.world.pass(member, tick, hears);
            }
        }
        for member in self.world.numbers() {
            if who & (1 << member) != 0 && at_once {
                self.world.pass(member, Duration::ZERO, true);
            }
        }
    }

    /// All is well for a while: everybody is up, and everybody holds the same.
    fn end(mut self) {
        self.happen(Event::Heal);
        for member in self.world.numbers() {
            self.happen(Event::Restart(member));
        }
        for _ in 0..150 {
            self.happen(Event::Time(1, u8::MAX, false));
            self.happen(Event::SettleWithout(0));
        }
        for member in self.world.numbers() {
            self.put(member, 0);
            self.happen(Event::SettleWithout(0));
            self.happen(Event::Time(4, u8::MAX, false));
            self.happen(Event::SettleWithout(0));
        }
        let states: Vec<_> = self
            .world
            .members
            .values()
            .map(|member| {
                let lane = member.lane.as_ref().expect("everybody is up");
                let replica = lane.replica(GROUP).expect("everybody has the partition");
                let mut records = Vec::new();
                let mut visit = |key: &[u8], value: &[u8]| {
                    records.push((key.to_vec(), value.to_vec()));
                    ControlFlow::Continue(())
                };
                lane.state().range(replica.table(), &[], None, &mut visit).expect("a state in memory can be read");
                (replica.applied(), replica.term(), records)
            })
            .collect();
        assert!(states.iter().all(|state| *state == states[0]), "all members hold the same");
        let (applied, term, _) = states[0];
        assert_eq!(applied.term, term, "there is a leader, and it commits");
        assert!(self.history.asked.is_empty() || self.history.asked.keys().all(|request| *request < self.requests));
    }
}

fn key() -> Key {
    Key::new(Bytes::from_static(b"register")).expect("not empty")
}

#[allow(clippy::disallowed_methods, reason = "a test asks how long it is to run; the core does not")]
fn cases() -> Config {
    let cases = std::env::var("ANNULUS_SCHEDULES").ok().and_then(|cases| cases.parse().ok());
    Config { failure_persistence: None, ..Config::with_cases(cases.unwrap_or(64)) }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn reads_see_what_was_acknowledged_and_members_agree_in_the_end(events in vec(event(), 0..300)) {
        let mut world = three_members();
        world.quiet = true;
        world.numbers().into_iter().for_each(|member| world.bootstrap(member));
        world.stabilize();
        let mut run = Run { world, history: History::default(), requests: 0 };
        events.into_iter().for_each(|event| run.happen(event));
        run.end();
    }
}
