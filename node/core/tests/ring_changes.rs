//! Whole changes of a ring: commands over random stores, the planner, and a model of the groups that carries its moves out
//! (`groups`), with reports that come late, twice, in another order or never, and leaders that act on old maps.
//!
//! `ANNULUS_CHANGES_CASES` is how many stores each property is tried on (default 100).

mod groups;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use annulus_core::id::{ClusterId, GroupId, MemberId};
use annulus_core::map::change::Change;
use annulus_core::map::plan::{Plan, Step};
use annulus_core::map::{
    Command, Desired, Intent, Map, Member, MemberState, Reason, Report, Reports, command, planner,
};
use annulus_core::ring::solver;
use annulus_core::time::Instant;
use groups::Groups;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

const TICK: Duration = Duration::from_millis(100);
/// Rounds after which a ring that does not settle is given up.
const MOST_ROUNDS: usize = 3000;
const ZONES: u64 = 4;

/// What is done to the members.
#[derive(Debug, Clone)]
enum Act {
    Join { zone: u64, weight: u32 },
    Leave(Index),
    Weight(Index, u32),
    Zone(Index, u64),
    Address(Index),
    Drain(Index),
    Undrain(Index),
    Remove(Index),
}

fn weights() -> impl Strategy<Value = u32> {
    prop_oneof![3 => Just(100u32), 1 => Just(200u32), 1 => 1..=1000u32]
}

fn act() -> impl Strategy<Value = Act> {
    let one = any::<Index>;
    prop_oneof![
        4 => (0..ZONES, weights()).prop_map(|(zone, weight)| Act::Join { zone, weight }),
        3 => one().prop_map(Act::Leave),
        2 => (one(), weights()).prop_map(|(at, weight)| Act::Weight(at, weight)),
        1 => (one(), 0..ZONES).prop_map(|(at, zone)| Act::Zone(at, zone)),
        1 => one().prop_map(Act::Address),
        2 => one().prop_map(Act::Drain),
        2 => one().prop_map(Act::Undrain),
        1 => one().prop_map(Act::Remove),
    ]
}

fn desired(member: &Member) -> Desired {
    let Member { id, name, zone, weight, state: _, client_address, peer_address, admin_address } = member.clone();
    Desired { id, name, zone, weight, client_address, peer_address, admin_address }
}

fn member(number: u64, zone: u64, zones: u64, weight: u32) -> Member {
    Member {
        id: MemberId::new(number).expect("counted from 1"),
        name: format!("m{number}"),
        zone: if zones == 0 { String::new() } else { format!("z{}", zone % zones) },
        weight,
        state: MemberState::Active,
        client_address: format!("m{number}:1"),
        peer_address: format!("m{number}:2"),
        admin_address: format!("m{number}:3"),
    }
}

/// The leader of the map group, all groups, and what is on its way to it.
struct Store {
    map: Map,
    /// What each member has of the map; leaders act on that.
    known: BTreeMap<MemberId, Map>,
    groups: Groups,
    reports: Reports,
    on_their_way: Vec<(MemberId, Report)>,
    now: Instant,
    joined: u64,
    zones: u64,
    /// Voters that came, over all groups.
    moved: usize,
}

impl Store {
    fn new(map: Map, zones: u64) -> Self {
        let now = Instant(1_000_000_000);
        let known = map.members.iter().map(|member| (member.id, map.clone())).collect();
        let (groups, reports) = (Groups::of(&map), Reports::new(now, TICK));
        let joined = map.members.len() as u64;
        Self { map, known, groups, reports, on_their_way: Vec::new(), now, joined, zones, moved: 0 }
    }

    /// The command that comes of an act, if there is one.
    fn command(&mut self, act: &Act) -> Option<Command> {
        let stays: Vec<&Member> = self.map.members.iter().filter(|it| it.state != MemberState::Leaving).collect();
        let mut members: Vec<Desired> = stays.iter().map(|member| desired(member)).collect();
        let zone = |zone: u64| if self.zones == 0 { String::new() } else { format!("z{}", zone % self.zones) };
        let any = |at: &Index| at.get(&self.map.members).id;
        match act {
            Act::Join { zone, weight } => {
                self.joined += 1;
                members.push(desired(&member(self.joined, *zone, self.zones, *weight)));
            }
            Act::Leave(at) => drop(members.remove(at.index(members.len()))),
            Act::Weight(at, weight) => at.get_mut(&mut members).weight = *weight,
            Act::Zone(at, to) => at.get_mut(&mut members).zone = zone(*to),
            Act::Address(at) => at.get_mut(&mut members).client_address += "0",
            Act::Drain(at) => return Some(Command::Drain(any(at))),
            Act::Undrain(at) => return Some(Command::Undrain(any(at))),
            Act::Remove(at) => return Some(Command::Remove(any(at))),
        }
        Some(Command::Members(members)).filter(|_| !stays.is_empty())
    }

    fn ask(&mut self, command: Command) -> Result<bool, command::Refusal> {
        let intent = Intent { fence: self.map.fence, epoch: None, command };
        let (next, reason) = command::next(&self.map, &intent, &self.reports, self.now)?;
        let changed = self.change(&next, reason);
        let again = command::next(&self.map, &intent, &self.reports, self.now);
        if !matches!(intent.command, Command::Remove(_)) {
            let (again, reason) = again.expect("what was just asked can be asked again");
            assert_eq!(Change::between(&self.map, &again, reason, 0), None, "asked again, nothing changes");
        }
        Ok(changed)
    }

    fn change(&mut self, next: &Map, reason: Reason) -> bool {
        let Some(change) = Change::between(&self.map, next, reason, 0) else { return false };
        let after = change.apply(&self.map).expect("a change that was worked out can be applied");
        after.check();
        check_step(&self.map, &after);
        let came = |(before, after): (&[MemberId], &[MemberId])| after.iter().filter(|id| !before.contains(id)).count();
        let groups = after.groups().filter(|group| *group != GroupId::MAP);
        let voters = |map: &Map, group| map.group(group).expect("a group of the map").0.to_vec();
        self.moved += groups.map(|group| came((&voters(&self.map, group), &voters(&after, group)))).sum::<usize>();
        self.map = after;
        true
    }

    /// Some leaders act on the map that they have, and report; some reports arrive; the planner looks at them.
    fn round(&mut self, chance: &mut Chance) {
        self.now = self.now + Duration::from_millis(if chance.is(8) { 2500 } else { 300 });
        for member in self.map.members.clone() {
            if !chance.is(3) {
                self.known.insert(member.id, self.map.clone());
            }
        }
        for group in self.map.groups().collect::<Vec<_>>() {
            let leader = self.groups.groups[&group].leader;
            let Some(known) = self.known.get(&leader) else { continue };
            if !chance.is(2) {
                self.groups.act(group, known);
            }
        }
        for (id, known) in &self.known {
            let led = self.map.groups().map(|group| self.groups.report(group)).filter(|(leader, _)| leader == id);
            let groups = led.map(|(_, report)| report).filter(|_| !chance.is(4)).collect();
            self.on_their_way.push((*id, Report { epoch: known.epoch, groups }));
        }
        while !self.on_their_way.is_empty() && !chance.is(12) {
            let at = chance.below(self.on_their_way.len());
            let (from, report) = self.on_their_way[at].clone();
            if !chance.is(6) {
                self.on_their_way.swap_remove(at);
            }
            if !chance.is(6) && self.map.member(from).is_some() {
                self.reports.take(self.now, from, report);
            }
        }
        self.on_their_way.truncate(64);
        if chance.is(40) {
            self.reports = Reports::new(self.now, TICK);
        }
        self.plan();
    }

    fn plan(&mut self) {
        let plan = Plan::of(&self.map, &self.reports, self.now);
        assert_eq!(plan.moves_under_way as usize, self.map.moves.len());
        for planned in &plan.moves {
            assert!(planned.step != Step::Waiting || planned.gate.is_some(), "{planned:?} waits for something");
        }
        assert!(!self.map.is_settled() || plan.moves.is_empty(), "a settled ring has no plan: {plan:?}");
        if let Some((next, reason)) = planner::next(&self.map, &self.reports, self.now) {
            assert!(!self.map.is_settled(), "nothing happens to a settled ring");
            assert!(self.change(&next, reason));
        }
    }

    fn settle(&mut self, chance: &mut Chance) {
        for _ in 0..MOST_ROUNDS {
            if self.map.is_settled() {
                return;
            }
            self.round(chance);
        }
        panic!("the ring does not settle: {:#?}", Plan::of(&self.map, &self.reports, self.now));
    }

    /// What must hold of a ring that has come to rest.
    fn check_settled(&mut self) {
        let map = &self.map;
        assert!(map.targets.is_empty() && map.moves.is_empty());
        let candidates = map.candidates();
        let held: Vec<Vec<MemberId>> = map.assignments.iter().map(|assignment| assignment.replicas.clone()).collect();
        let placed = solver::place(&held, &candidates, map.replication_factor);
        let sets = |lists: &[Vec<MemberId>]| {
            lists.iter().map(|ids| ids.iter().copied().collect()).collect::<Vec<BTreeSet<_>>>()
        };
        assert_eq!(sets(&placed.replicas), sets(&held), "everything is where the solver wants it");
        let leaders: Vec<MemberId> = map.assignments.iter().map(|assignment| assignment.leader).collect();
        assert_eq!(placed.leaders, leaders, "the leaders are those that the solver wants");
        let of = |ids: &[MemberId]| ids.iter().copied().collect::<BTreeSet<_>>();
        assert_eq!(of(&map.map_voters), of(&solver::spread(&candidates, 5)));
        for candidate in &candidates {
            let held = map.held_by(candidate.id);
            let led = leaders.iter().filter(|leader| **leader == candidate.id).count();
            let (least, most) = (held / map.replication_factor, held.div_ceil(map.replication_factor));
            assert!((least..=most).contains(&led), "{} leads {led} of {held}", candidate.id);
        }
        for group in map.groups() {
            let it = &self.groups.groups[&group];
            assert_eq!(it.voters, of(map.group(group).expect("a group of the map").0), "{group}");
            assert!(it.outgoing.is_empty() && it.learners.is_empty(), "{group}");
        }
        assert!(planner::next(map, &self.reports, self.now).is_none());
        let mut again = map.clone();
        command::retarget(&mut again);
        assert_eq!(again, *map, "working the targets out again changes nothing");
    }
}

/// What must hold of every step from one map to the next.
fn check_step(before: &Map, after: &Map) {
    for group in after.groups() {
        let of = |map: &Map| map.group(group).expect("a group of the map").0.iter().copied().collect::<BTreeSet<_>>();
        let (old, new) = (of(before), of(after));
        assert!(new.difference(&old).count() <= 1 && old.difference(&new).count() <= 1, "{group}: {old:?} to {new:?}");
        let Some(partition) = group.partition() else { continue };
        assert_eq!(new.len(), after.replication_factor);
        let target: BTreeSet<MemberId> = after.target(partition.group()).iter().copied().collect();
        let spread = |ids: &BTreeSet<MemberId>| zones(after, ids);
        // What a group had done before it heard that something else is wanted may be worse than either.
        let as_meant = before.wanted(group).is_some_and(|wanted| wanted.voters == new);
        if old != new && as_meant {
            let least = spread(&old).min(spread(&target));
            assert!(spread(&new) >= least, "{group}: {old:?} to {new:?} on the way to {target:?} loses a zone");
        }
    }
}

/// In how many zones these members are.
fn zones(map: &Map, ids: &BTreeSet<MemberId>) -> usize {
    ids.iter().filter_map(|id| map.member(*id)).map(|member| &member.zone).collect::<BTreeSet<_>>().len()
}

/// Numbers that follow from a seed.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// Once in so many times.
    fn is(&mut self, times: u64) -> bool {
        self.next().is_multiple_of(times)
    }
}

fn stores() -> impl Strategy<Value = (Map, u64)> {
    (vec((0..ZONES, weights()), 1..8), 0..=ZONES, 0u32..5, 1usize..5).prop_map(|(members, zones, power, factor)| {
        let members: Vec<Member> =
            members.into_iter().zip(1..).map(|((zone, weight), number)| member(number, zone, zones, weight)).collect();
        let factor = factor.min(members.len());
        let map = Map::bootstrap(ClusterId([7; 16]), 1 << power, factor, members).expect("members that can be");
        (map, zones)
    })
}

#[allow(clippy::disallowed_methods, reason = "how many stores are tried is said from outside; the core never asks")]
fn config() -> ProptestConfig {
    let cases = std::env::var("ANNULUS_CHANGES_CASES")
        .map_or(100, |cases| cases.parse().expect("ANNULUS_CHANGES_CASES is a number of cases"));
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn whatever_is_asked_in_the_middle_of_whatever_the_ring_settles_where_the_solver_wants_it(
        (map, zones) in stores(),
        acts in vec((act(), 0usize..60), 0..8),
        seed: u64,
    ) {
        let mut chance = Chance(seed);
        let mut store = Store::new(map, zones);
        for (act, rounds) in acts {
            if let Some(command) = store.command(&act) {
                let _ = store.ask(command);
            }
            for _ in 0..rounds {
                store.round(&mut chance);
            }
        }
        store.settle(&mut chance);
        for _ in 0..20 {
            store.round(&mut chance);
        }
        store.check_settled();
    }

    /// However far a join has come, taking it back undoes what was done and no more.
    #[test]
    fn a_join_that_is_taken_back_moves_no_more_than_it_had_moved((map, zones) in stores(), rounds in 0usize..200, seed: u64) {
        let mut chance = Chance(seed);
        let mut store = Store::new(map, zones);
        let at_first: Vec<BTreeSet<MemberId>> = store.groups.groups.values().map(|it| it.voters.clone()).collect();
        let before: Vec<Desired> = store.map.members.iter().map(desired).collect();
        let join = store.command(&Act::Join { zone: seed % ZONES, weight: 100 }).expect("somebody joins");
        while store.ask(join.clone()).is_err() {
            // The store is still being made.
            store.round(&mut chance);
        }
        for _ in 0..rounds {
            store.round(&mut chance);
        }
        while store.ask(Command::Members(before.clone())).is_err() {
            // Some leader was not heard of: nobody may leave its group now.
            store.round(&mut chance);
        }
        let joiner = MemberId::new(store.joined).expect("counted from 1");
        // What has switched already, or does before its leader hears of it, is first recorded, then undone.
        let before_and_now = at_first.iter().zip(store.groups.groups.values()).skip(1);
        let switched: usize = before_and_now.map(|(before, now)| now.voters.difference(before).count()).sum();
        let under_way = store.map.moves.len();
        let switched = switched + under_way;
        let moved = store.moved;
        store.settle(&mut chance);
        store.check_settled();
        prop_assert!(store.map.member(joiner).is_none());
        prop_assert!(store.moved - moved <= 2 * switched, "{} had moved, then {} did", switched, store.moved - moved);
    }
}
