//! The map: the first one of a store, what commands and the planner make of it, and how groups follow.
//!
//! ```text
//! bootstrap members=5 zones=3 partitions=8 factor=3
//! members              who they are
//! assignments          who holds each partition, the preferred leader first
//! group map|p0         the voters of a group, and who should lead it
//! holds N              the groups of member N
//! find KEY             the partition that a key lies in
//! map                  all that is moving, and where to
//! change WHAT…         a command to the map group (see `lane`): its refusal, or the reason of the change
//! pass D               time passes
//! hear N [epoch=E]     a report of member N, which leads nothing; of all members: `hear all`
//! report p0 [voters=1,2,3] [outgoing=1,2,4] [learns=4] [epoch=E] [term=T] [leader=N] [behind=3] [sent=BYTES]
//!                      a report of a group's leader; what is not given is as the group stands
//! lead p0 N            the group has another leader
//! act p0|all [STALE]   the leaders take a step by the newest map, or by the one of epoch STALE
//! step                 the planner's step, if there is one
//! plan                 what is about to happen
//! settle               everybody acts, reports and plans until nothing is left to be done
//! listen               nothing was heard so far, as for a new leader of the map group
//! history              map-at E
//! ```

use std::time::Duration;

use annulus_core::id::{ClusterId, GroupId, MemberId, PartitionId};
use annulus_core::map::change::Change;
use annulus_core::map::machine::Machine;
use annulus_core::map::plan::Plan;
use annulus_core::map::{Desired, GroupReport, Map, Member, MemberState, Reason, Report, Reports, command, planner};
use annulus_core::state::{MemoryState, State, TableId};
use annulus_core::time::Instant;
use raft::eraftpb::ConfState;

use crate::arguments::{self, Arguments, Result};
use crate::groups::Groups;
use crate::trace::ids;
use crate::{lane, script, trace};

/// Steps after which a ring that does not settle is given up.
const MOST_STEPS: usize = 1000;
const TICK: Duration = Duration::from_millis(100);
const TABLE: TableId = TableId { group: GroupId::MAP, generation: 1 };

#[derive(Default)]
pub struct Player {
    store: Option<Store>,
}

/// The map group's leader, and the groups of its store.
struct Store {
    map: Map,
    /// All maps so far, for leaders that are behind.
    maps: Vec<Map>,
    machine: Machine,
    state: MemoryState,
    groups: Groups,
    reports: Reports,
    now: Instant,
}

/// A member called `m1`, `m2`, …
pub fn member(number: u64, zones: u64) -> Member {
    Member {
        id: MemberId::new(number).expect("members are counted from 1"),
        name: format!("m{number}"),
        zone: if zones == 0 { String::new() } else { format!("z{}", (number - 1) % zones + 1) },
        weight: 100,
        state: MemberState::Active,
        client_address: format!("m{number}:7070"),
        peer_address: format!("m{number}:7270"),
        admin_address: format!("m{number}:7170"),
    }
}

/// The same member, as a command names it.
pub fn desired(number: u64, zones: u64) -> Desired {
    let Member { id, name, zone, weight, state: _, client_address, peer_address, admin_address } =
        member(number, zones);
    Desired { id, name, zone, weight, client_address, peer_address, admin_address }
}

/// `map`, `p0`, `p1`, …
pub fn group(name: &str) -> GroupId {
    let number = name.strip_prefix('p').and_then(|number| number.parse().ok());
    number.map_or(GroupId::MAP, |number| PartitionId(number).group())
}

fn bootstrap(arguments: &mut Arguments) -> Result<Map> {
    let mut number = |name: &str| -> Result<u64> {
        arguments.option(name).unwrap_or("0").parse().map_err(|_| format!("`{name}` is not a number"))
    };
    let (members, zones) = (number("members")?, number("zones")?);
    let (partitions, factor) = (number("partitions")? as u32, number("factor")? as usize);
    let members = (1..=members).map(|id| member(id, zones)).collect();
    Map::bootstrap(ClusterId(*b"a script's store"), partitions, factor, members).map_err(|error| error.to_string())
}

impl Store {
    fn new(map: Map) -> Self {
        let mut state = MemoryState::default();
        for (key, value) in Machine::first_records(&map) {
            state.put(TABLE, key, value);
        }
        let machine = Machine::load(&state, TABLE).expect("records that were just made");
        let now = Instant(1_000_000_000);
        let (groups, reports) = (Groups::of(&map), Reports::new(now, TICK));
        Self { maps: vec![map.clone()], map, machine, state, groups, reports, now }
    }

    /// Replicates what makes `next` of the map, and tells why.
    fn change(&mut self, next: &Map, reason: Reason) -> String {
        let told = trace::reason(&reason);
        let Some(change) = Change::between(&self.map, next, reason, 0) else {
            return format!("nothing changes ({told})");
        };
        let changed = self.machine.apply(&mut self.state, &change).expect("a state in memory");
        assert_eq!(changed.expect("a change of this map").epoch, self.map.epoch + 1);
        self.machine.check(&self.state).expect("a state in memory");
        let map = Map::clone(self.machine.map().expect("just applied"));
        assert_eq!(map, Map { epoch: self.map.epoch + 1, ..next.clone() }, "the change makes what was worked out");
        assert_eq!(Map::decode(map.encode()), Ok(map.clone()));
        self.map = map.clone();
        self.maps.push(map);
        format!("map {}: {told}", self.map.epoch)
    }

    fn hear(&mut self, from: MemberId, epoch: u64, groups: Vec<GroupReport>) {
        self.reports.take(self.now, from, Report { epoch, groups });
    }

    fn hear_all(&mut self) {
        for id in self.map.members.iter().map(|member| member.id).collect::<Vec<_>>() {
            let led = self.map.groups().map(|group| self.groups.report(group)).filter(|(leader, _)| *leader == id);
            let led = led.map(|(_, report)| report).collect();
            self.hear(id, self.map.epoch, led);
        }
    }

    fn report(&mut self, arguments: &mut Arguments) -> Result<()> {
        let (mut leader, mut report) = self.groups.report(group(arguments.need("a group")?));
        let list = |value: Option<&str>| -> Result<Option<Vec<u64>>> {
            let ids = value.map(arguments::members).transpose()?;
            Ok(ids.map(|ids| ids.into_iter().map(MemberId::get).collect()))
        };
        let ConfState { voters, voters_outgoing, learners, .. } = &mut report.configuration.state;
        for (name, ids) in [("voters", voters), ("outgoing", voters_outgoing), ("learns", learners)] {
            if let Some(given) = list(arguments.option(name))? {
                *ids = given;
            }
        }
        let epoch = arguments.option_number("epoch")?;
        report.configuration.epoch = epoch.unwrap_or(report.configuration.epoch);
        report.term = arguments.option_number("term")?.unwrap_or(report.term);
        report.behind = arguments.option("behind").map_or(Ok(Vec::new()), arguments::members)?;
        report.sent = arguments.option_number("sent")?;
        if let Some(given) = arguments.option("leader") {
            leader = arguments::member(given)?;
        }
        self.hear(leader, self.map.epoch, vec![report]);
        Ok(())
    }

    fn act(&mut self, arguments: &mut Arguments) -> Result<Vec<String>> {
        let who = arguments.need("a group, or all")?;
        let stale: Option<u64> = arguments.word().map(|epoch| epoch.parse().map_err(|_| "no epoch")).transpose()?;
        let map = match stale {
            None => self.map.clone(),
            Some(epoch) => self.maps.iter().find(|map| map.epoch == epoch).ok_or("there was no such map")?.clone(),
        };
        let groups: Vec<GroupId> = if who == "all" { map.groups().collect() } else { vec![group(who)] };
        let mut told = Vec::new();
        for group in groups {
            if self.groups.act(group, &map) {
                told.push(self.show(group));
            }
        }
        Ok(told)
    }

    fn show(&self, group: GroupId) -> String {
        let (leader, report) = self.groups.report(group);
        format!("{group}: {}, led by {}", trace::configuration(&report.configuration), leader.get())
    }

    fn step(&mut self) -> Option<String> {
        let (next, reason) = planner::next(&self.map, &self.reports, self.now)?;
        Some(self.change(&next, reason))
    }

    fn settle(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        for _ in 0..MOST_STEPS {
            self.now = self.now + Duration::from_secs(1);
            let map = self.map.clone();
            let acted = map.groups().filter(|group| self.groups.act(*group, &map)).count();
            self.hear_all();
            let stepped = self.step();
            if acted == 0 && stepped.is_none() && self.reports.is_informed(self.now) {
                return told;
            }
            told.extend(stepped);
        }
        panic!("the ring does not settle");
    }

    fn look(&self, command: &str, arguments: &mut Arguments) -> Result<Vec<String>> {
        let map = &self.map;
        Ok(match command {
            "members" => map.members.iter().map(|m| format!("{} {} {}", m.id, m.name, m.zone)).collect(),
            "assignments" => {
                let assignments = map.assignments.iter().enumerate();
                assignments.map(|(p, a)| format!("p{p}: {}, led by {}", ids(&a.replicas), a.leader.get())).collect()
            }
            "group" => match map.group(group(arguments.need("a group")?)) {
                None => vec!["unknown".to_owned()],
                Some((voters, leader)) => vec![format!("{}, led by {}", ids(voters), leader.get())],
            },
            "holds" => {
                let groups: Vec<_> = map.groups_of(arguments.member()?).iter().map(ToString::to_string).collect();
                vec![groups.join(" ")]
            }
            "find" => vec![map.partition_of(arguments.key()?.bytes()).to_string()],
            "map" => trace::lines_of(map),
            "plan" => trace::plan(&Plan::of(map, &self.reports, self.now)),
            "history" => {
                let events = self.machine.events(&self.state).map_err(|error| error.to_string())?;
                events.iter().map(trace::event).collect()
            }
            "map-at" => {
                let epoch = arguments.number("an epoch")?;
                match self.machine.map_at(&self.state, epoch).map_err(|error| error.to_string())? {
                    None => vec!["that map is not known any more".to_owned()],
                    Some(bytes) => trace::lines_of(&Map::decode(bytes).map_err(|error| error.to_string())?),
                }
            }
            _ => return Err(format!("there is no command `{command}`")),
        })
    }
}

impl script::Player for Player {
    fn play(&mut self, line: &str) -> Result<Vec<String>> {
        let (command, mut arguments) = Arguments::new(line);
        if command == "bootstrap" {
            let made = bootstrap(&mut arguments);
            arguments.end()?;
            return Ok(match made {
                Err(error) => vec![error],
                Ok(map) => {
                    map.check();
                    assert_eq!(Map::decode(map.encode()), Ok(map.clone()));
                    let line = format!("epoch {}, map voters {}", map.epoch, ids(&map.map_voters));
                    self.store = Some(Store::new(map));
                    vec![line]
                }
            });
        }
        let store = self.store.as_mut().ok_or("there is no map yet")?;
        let output = match command {
            "change" => {
                let intent = lane::intent(&mut arguments)?;
                match command::next(&store.map, &intent, &store.reports, store.now) {
                    Ok((next, reason)) => vec![store.change(&next, reason)],
                    Err(refusal) => vec![format!("refused: {refusal}")],
                }
            }
            "pass" => {
                store.now = store.now + arguments.duration()?;
                Vec::new()
            }
            "hear" => {
                match arguments.need("a member, or all")? {
                    "all" => store.hear_all(),
                    name => {
                        let epoch = arguments.option_number("epoch")?.unwrap_or(store.map.epoch);
                        store.hear(arguments::member(name)?, epoch, Vec::new());
                    }
                }
                Vec::new()
            }
            "report" => store.report(&mut arguments).map(|()| Vec::new())?,
            "lead" => {
                let group = group(arguments.need("a group")?);
                let it = store.groups.groups.get_mut(&group).ok_or("there is no such group")?;
                (it.leader, it.term) = (arguments.member()?, it.term + 1);
                Vec::new()
            }
            "act" => store.act(&mut arguments)?,
            "step" => vec![store.step().unwrap_or("nothing".to_owned())],
            "settle" => store.settle(),
            "listen" => {
                store.reports = Reports::new(store.now, TICK);
                Vec::new()
            }
            _ => store.look(command, &mut arguments)?,
        };
        arguments.end()?;
        Ok(output)
    }
}
