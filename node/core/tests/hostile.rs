//! A lane among peers that say anything: nothing that comes over a link may make it panic, or contradict itself.
//!
//! Messages are drawn from small numbers, so that many of them fit what the lane has. Peers that lie can make a group
//! lose what it holds, and an entry or a snapshot that is not one stops the lane (with an error); neither is judged
//! here. `ANNULUS_HOSTILE_CASES` is how many runs there are (default 256).

mod values;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use annulus_core::codec::message::{Body, Chunk, PeerMessage, Stream};
use annulus_core::id::{ClusterId, GroupId, MemberId, RequestId};
use annulus_core::lane::{Input, Lane, LogBudget, LogPosition, Operation, Request, Writes};
use annulus_core::map::change::Entry as MapEntry;
use annulus_core::map::{self, Desired, GroupReport, Intent, Map, Member, MemberState, Report, Reports, planner};
use annulus_core::partition::{Command, Consistency, Entry, Key};
use annulus_core::replica::{Configuration, Configure, Error, Settings};
use annulus_core::state::MemoryState;
use annulus_core::time::Instant;
use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::test_runner::Config;
use raft::eraftpb::{ConfState, Entry as LogEntry, Message, MessageType};

#[allow(clippy::disallowed_methods, reason = "a test asks how long it is to run; the core does not")]
fn cases() -> Config {
    let cases = std::env::var("ANNULUS_HOSTILE_CASES").ok().and_then(|cases| cases.parse().ok());
    Config::with_cases(cases.unwrap_or(256))
}

/// One thing that happens to the lane.
#[derive(Debug, Clone)]
enum Event {
    Peer(u64, PeerMessage),
    Ticks(u64),
    Persist(usize),
    Write(u8),
    Read(Consistency),
    /// The lane is given the map that comes of this command, or that the map group's replica here has.
    Map(map::Command),
    /// A command to the map group, or a question.
    Ask(Operation),
    Evict(bool),
    Checkpoint,
    EndRound,
    Restart,
}

/// Mostly small, sometimes as large as can be.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![20 => 0u64..7, 1 => Just(u64::MAX), 1 => Just(1 << 61), 1 => any::<u64>()]
}

fn log_entries() -> impl Strategy<Value = Vec<LogEntry>> {
    let small = || (1u64..6).prop_map(|number| MemberId::new(number).expect("not 0"));
    let configure = || {
        let step = values::configure_among(small());
        step.prop_map(|configure| Configure { epoch: configure.epoch % 4, ..configure })
    };
    let data = prop_oneof![
        3 => Just(Bytes::new()),
        3 => Just(Entry { clock_ms: 5, command: Command::Expire }.encode()),
        2 => configure().prop_map(|step| Entry { clock_ms: 5, command: Command::Configure(step) }.encode()),
        1 => configure().prop_map(|step| MapEntry::Configure(step).encode()),
        1 => values::map_change().prop_map(|mut change| {
            change.base = 1;
            MapEntry::Change(change).encode()
        }),
    ];
    let follow_on = (number(), number(), vec(data.clone(), 0..4)).prop_map(|(index, term, data)| {
        let entries = data.into_iter().zip(0..).map(|(data, offset)| LogEntry {
            index: index.wrapping_add(offset),
            term,
            data,
            ..LogEntry::default()
        });
        entries.collect()
    });
    let any = vec((number(), number(), data), 0..3).prop_map(|entries| {
        let entries = entries.into_iter();
        entries.map(|(index, term, data)| LogEntry { index, term, data, ..LogEntry::default() }).collect()
    });
    prop_oneof![3 => follow_on, 1 => any]
}

fn raft_message() -> impl Strategy<Value = Message> {
    let context = prop_oneof![
        Just(Bytes::new()),
        Just(Bytes::from_static(raft::CAMPAIGN_TRANSFER)),
        (1u64..3).prop_map(|number| Bytes::copy_from_slice(&number.to_be_bytes()))
    ];
    let numbers = (number(), number(), number(), number(), number(), number());
    let request = prop_oneof![9 => Just(0), 1 => number()];
    (values::kind(), numbers, request, any::<bool>(), log_entries(), context).prop_map(
        |(kind, (term, log_term, index, commit, commit_term, hint), request, reject, mut entries, context)| {
            // Often the entries are those after the index.
            if log_term % 2 == 0 {
                entries.iter_mut().zip(1..).for_each(|(entry, offset)| entry.index = index.wrapping_add(offset));
            }
            let mut message = Message { term, log_term, index, commit, commit_term, ..Message::default() };
            message.set_msg_type(kind);
            message.reject_hint = hint;
            message.request_snapshot = request;
            message.reject = reject;
            message.entries = entries.into();
            message.context = context;
            message
        },
    )
}

fn peer_message() -> impl Strategy<Value = PeerMessage> {
    let stream = || {
        (number(), number(), number(), 0u32..2).prop_map(|(term, index, at, attempt)| Stream {
            term,
            position: LogPosition { index, term: at },
            attempt,
        })
    };
    let ids = || prop_oneof![3 => Just(vec![1, 2, 3]), 1 => vec(0u64..5, 0..4)];
    let conf_state = (ids(), vec(0u64..5, 0..2), vec(0u64..5, 0..2), any::<bool>());
    let conf_state = conf_state.prop_map(|(voters, learners, outgoing, auto_leave)| ConfState {
        voters,
        learners,
        voters_outgoing: outgoing,
        auto_leave,
        ..ConfState::default()
    });
    let configuration = (conf_state, 0u64..4).prop_map(|(state, epoch)| Configuration { state, epoch });
    let chunk = (stream(), 0u32..3, option::of(configuration)).prop_map(|(stream, number, last)| Chunk {
        stream,
        number,
        records: Vec::new(),
        last,
    });
    let body = prop_oneof![
        8 => (raft_message(), number()).prop_map(|(message, stamp)| Body::Raft { message, stamp }),
        2 => chunk.prop_map(Body::Chunk),
        1 => (stream(), 0u32..4).prop_map(|(stream, next)| Body::ChunkAck { stream, next }),
        1 => values::report().prop_map(Body::Report),
        2 => report().prop_map(Body::Report),
    ];
    (0u32..3, body).prop_map(|(group, body)| PeerMessage { group: GroupId(group), body })
}

/// A report that fits what the map says, more or less.
fn report() -> impl Strategy<Value = Report> {
    let ids = || vec(1u64..6, 0..5);
    let configuration = (ids(), ids(), vec(1u64..6, 0..2), 0u64..5);
    let configuration = configuration.prop_map(|(voters, voters_outgoing, learners, epoch)| {
        let state = ConfState { voters, voters_outgoing, learners, ..ConfState::default() };
        Configuration { state, epoch }
    });
    let group =
        (0u32..3, number(), configuration, vec((1u64..6).prop_map(|id| MemberId::new(id).expect("not 0")), 0..3));
    let group = group.prop_map(|(group, term, configuration, behind)| GroupReport {
        group: GroupId(group),
        term,
        configuration,
        behind,
        bytes: term,
        sent: Some(term),
    });
    (number(), vec(group, 0..3)).prop_map(|(epoch, groups)| Report { epoch, groups })
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => (1u64..5, peer_message()).prop_map(|(from, message)| Event::Peer(from, message)),
        2 => (1u64..25).prop_map(Event::Ticks),
        2 => (1usize..4).prop_map(Event::Persist),
        2 => any::<u8>().prop_map(Event::Write),
        1 => Just(Event::Read(Consistency::Linearizable)),
        1 => Just(Event::Read(Consistency::Quorum)),
        1 => Just(Event::Checkpoint),
        1 => command().prop_map(Event::Map),
        1 => command().prop_map(|command| Event::Ask(Operation::ChangeMap(Intent { fence: 0, epoch: None, command }))),
        1 => prop_oneof![Just(Operation::ReadPlan), Just(Operation::ReadHistory { epoch: None })].prop_map(Event::Ask),
        1 => any::<bool>().prop_map(Event::Evict),
        6 => Just(Event::EndRound),
        1 => Just(Event::Restart),
    ]
}

fn command() -> impl Strategy<Value = map::Command> {
    let one = || (1u64..6).prop_map(|id| MemberId::new(id).expect("not 0"));
    let members = prop::collection::btree_set(1u64..6, 1..6).prop_map(|ids| {
        let desired = ids.into_iter().map(|number| Desired {
            id: MemberId::new(number).expect("not 0"),
            name: format!("m{number}"),
            zone: String::new(),
            weight: 100,
            client_address: format!("m{number}:1"),
            peer_address: format!("m{number}:2"),
            admin_address: format!("m{number}:3"),
        });
        map::Command::Members(desired.collect())
    });
    prop_oneof![
        3 => members,
        1 => one().prop_map(map::Command::Drain),
        1 => one().prop_map(map::Command::Undrain),
        1 => one().prop_map(map::Command::Remove),
    ]
}

fn map(members: u64) -> Map {
    let members = (1..=members).map(|number| Member {
        id: MemberId::new(number).expect("not 0"),
        name: format!("m{number}"),
        zone: String::new(),
        weight: 100,
        state: MemberState::Active,
        client_address: format!("m{number}:1"),
        peer_address: format!("m{number}:2"),
        admin_address: format!("m{number}:3"),
    });
    let members: Vec<_> = members.collect();
    Map::bootstrap(ClusterId([7; 16]), 1, members.len(), members).expect("members that can be")
}

struct Victim {
    lane: Lane<MemoryState>,
    settings: Settings,
    now: Instant,
    /// The newest map that the lane was given.
    map: Arc<Map>,
    waiting: VecDeque<Writes>,
    wal: Vec<Vec<annulus_core::lane::GroupWrite>>,
    requests: u64,
}

impl Victim {
    fn new(members: u64) -> Self {
        let settings = Settings {
            member: MemberId::new(1).expect("not 0"),
            seed: 1,
            election_timeout: Duration::from_millis(1000),
            max_uncommitted_bytes: 1 << 20,
            log_budget: LogBudget::default(),
        };
        let now = Instant(1_000_000);
        let mut lane = Lane::recover(settings.clone(), MemoryState::default(), [], now).expect("an empty disk");
        let map = Arc::new(map(members));
        lane.bootstrap(&map, |_| true, now).expect("a first map can be used");
        Self { lane, settings, now, map, waiting: VecDeque::new(), wal: Vec::new(), requests: 0 }
    }

    fn end_round(&mut self) -> Result<(), Error> {
        let output = self.lane.take_output(self.now)?;
        self.lane.send_snapshots(self.now)?;
        self.waiting.extend(output.writes);
        self.lane.check()?;
        match output.map {
            Some(map) => {
                self.adopt(map)?;
                self.end_round()
            }
            None => Ok(()),
        }
    }

    fn adopt(&mut self, map: Arc<Map>) -> Result<(), Error> {
        self.lane.adopt(&map, |_| true, self.now)?;
        if self.map.epoch < map.epoch {
            self.map = map;
        }
        Ok(())
    }

    /// Somebody else has changed the map: what comes of this command, and of a step of the planner.
    fn change(&mut self, command: map::Command) -> Result<(), Error> {
        let (intent, reports) = (Intent { fence: self.map.fence, epoch: None, command }, Reports::default());
        let Ok((mut next, _)) = map::command::next(&self.map, &intent, &reports, self.now) else { return Ok(()) };
        next.epoch += 1;
        let mut reports = Reports::new(self.now, self.settings.tick());
        for member in &next.members {
            reports.take(self.now, member.id, Report { epoch: next.epoch, groups: Vec::new() });
        }
        if let Some((planned, _)) = planner::next(&next, &reports, self.now) {
            next = Map { epoch: next.epoch + 1, ..planned };
        }
        self.adopt(Arc::new(next))
    }

    fn request(&mut self, operation: Operation) -> Result<(), Error> {
        self.requests += 1;
        let deadline = self.now + Duration::from_secs(1);
        let is_about_map =
            matches!(operation, Operation::ChangeMap(_) | Operation::ReadPlan | Operation::ReadHistory { .. });
        let group = if is_about_map { GroupId::MAP } else { GroupId(1) };
        let request = Request { id: RequestId(self.requests), group, deadline, operation };
        self.lane.step(self.now, Input::Request(request))
    }

    fn happen(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::Peer(from, message) => {
                let from = MemberId::new(from).expect("not 0");
                self.lane.step(self.now, Input::Peer { from, message })
            }
            Event::Ticks(ticks) => {
                self.now = self.now + self.settings.tick() * u32::try_from(ticks).expect("few");
                self.lane.step(self.now, Input::Tick)
            }
            Event::Persist(count) => {
                for _ in 0..count {
                    let Some(writes) = self.waiting.pop_front() else { break };
                    self.wal.push(writes.groups().to_vec());
                    self.lane.step(self.now, Input::Persisted(writes.into_durable()))?;
                }
                Ok(())
            }
            Event::Write(byte) => {
                let line = [byte, 1];
                let key = Key::new(Bytes::copy_from_slice(&line)).expect("two bytes");
                let write = annulus_core::partition::Write {
                    key,
                    condition: annulus_core::partition::Condition::Always,
                    change: annulus_core::partition::Change::Put { value: Bytes::new(), ttl_ms: Some(100) },
                    idempotency_key: None,
                    fence: None,
                };
                self.request(Operation::Write(write))
            }
            Event::Read(consistency) => {
                let key = Key::new(Bytes::from_static(b"k")).expect("one byte");
                self.request(Operation::Get { key, consistency })
            }
            Event::Checkpoint => {
                self.end_round()?;
                let _ = self.lane.begin_checkpoint();
                Ok(())
            }
            Event::Map(command) => self.change(command),
            Event::Ask(operation) => self.request(operation),
            Event::Evict(evicted) => {
                self.lane.evict(evicted);
                Ok(())
            }
            Event::EndRound => self.end_round(),
            Event::Restart => {
                self.waiting.clear();
                let wal = self.wal.clone();
                self.lane = Lane::recover(self.settings.clone(), MemoryState::default(), wal, self.now)?;
                if self.map.epoch > 1 {
                    self.lane.adopt(&self.map, |_| true, self.now)?;
                }
                self.end_round()
            }
        }
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn nothing_that_a_peer_says_makes_a_lane_panic(members in 1u64..5, events in vec(event(), 0..120)) {
        let mut victim = Victim::new(members);
        for event in events {
            if victim.happen(event).is_err() {
                break;
            }
        }
    }
}

#[test]
fn a_member_that_has_less_than_it_acknowledged_stops_and_says_so() {
    let mut victim = Victim::new(3);
    let mut heartbeat = Message { term: 7, commit: 40, ..Message::default() };
    heartbeat.set_msg_type(MessageType::MsgHeartbeat);
    let group = GroupId(1);
    let message = PeerMessage { group, body: Body::Raft { message: heartbeat, stamp: 1 } };
    let stopped = victim.happen(Event::Peer(2, message));
    assert_eq!(stopped, Err(Error::Forgotten { group, acknowledged: 40, last: 1 }));
}
