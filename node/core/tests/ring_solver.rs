//! The placement solver against a solver written apart: no change of the ring moves more replicas than it must.
//!
//! `ANNULUS_RING_CASES` is how many random rings each property is tried on (default 200).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use annulus_core::id::MemberId;
use annulus_core::ring::solver::{Candidate, Placement, place};
use proptest::prelude::*;
use proptest::sample::Index;

const ZONES: u64 = 5;

fn candidate(id: u64, zone: u64, weight: u32) -> Candidate {
    Candidate { id: MemberId::new(id).expect("ids begin at 1"), zone: format!("zone-{zone}"), weight }
}

/// Equal members, put into the zones in turn.
fn equal_members(count: u64, zones: u64) -> Vec<Candidate> {
    (1..=count).map(|id| candidate(id, id % zones, 100)).collect()
}

fn bootstrap(partitions: usize, candidates: &[Candidate], replication_factor: usize) -> Placement {
    place(&vec![Vec::new(); partitions], candidates, replication_factor)
}

/// How many replicas are with members that did not hold them before.
fn moves(before: &[Vec<MemberId>], after: &[Vec<MemberId>]) -> usize {
    let pairs = before.iter().zip(after);
    pairs.map(|(before, after)| after.iter().filter(|member| !before.contains(member)).count()).sum()
}

/// How often each member is named.
fn counts<'a>(members: impl Iterator<Item = &'a MemberId>) -> BTreeMap<MemberId, usize> {
    let mut counts = BTreeMap::new();
    members.for_each(|member| *counts.entry(*member).or_default() += 1);
    counts
}

/// How many members each zone has.
fn zone_sizes(candidates: &[Candidate]) -> BTreeMap<&str, usize> {
    let mut sizes = BTreeMap::new();
    candidates.iter().for_each(|candidate| *sizes.entry(candidate.zone.as_str()).or_default() += 1);
    sizes
}

/// The most replicas of one partition that a zone may have to take.
fn most_per_zone(candidates: &[Candidate], replication_factor: usize) -> usize {
    let sizes = zone_sizes(candidates);
    if sizes.len() >= replication_factor {
        return 1;
    }
    let room = |most: usize| sizes.values().map(|size| *size.min(&most)).sum::<usize>();
    (1..).find(|most| room(*most) >= replication_factor).expect("RF <= candidates")
}

/// The rules, counted anew from the answer alone.
fn check(placement: &Placement, candidates: &[Candidate], replication_factor: usize) {
    placement.check(candidates, replication_factor);
    let zone_of: BTreeMap<MemberId, &str> =
        candidates.iter().map(|candidate| (candidate.id, candidate.zone.as_str())).collect();
    let most = most_per_zone(candidates, replication_factor);
    for replicas in &placement.replicas {
        assert_eq!(replicas.iter().collect::<BTreeSet<_>>().len(), replication_factor);
        for member in replicas {
            let in_zone = replicas.iter().filter(|other| zone_of[other] == zone_of[member]).count();
            assert!(in_zone <= most, "{in_zone} replicas in one zone");
        }
    }
    let (held, led) = (counts(placement.replicas.iter().flatten()), counts(placement.leaders.iter()));
    for (member, held) in held {
        let led = led.get(&member).copied().unwrap_or(0);
        assert!((held / replication_factor..=held.div_ceil(replication_factor)).contains(&led));
    }
}

/// The fewest replicas that must move to give everyone as many as `after` does, by successive shortest paths
/// (Bellman and Ford) in the plain graph: source, partitions, zones in partitions, members, sink.
fn fewest_moves(
    before: &[Vec<MemberId>],
    after: &[Vec<MemberId>],
    candidates: &[Candidate],
    replication_factor: usize,
) -> usize {
    let quotas = counts(after.iter().flatten());
    let zones: Vec<&str> = zone_sizes(candidates).into_keys().collect();
    let most = most_per_zone(candidates, replication_factor);
    let (source, sink) = (0, 1);
    let partition_node = |partition: usize| 2 + partition;
    let zone_node = |partition: usize, zone: usize| 2 + before.len() + partition * zones.len() + zone;
    let member_node = |member: usize| 2 + before.len() * (1 + zones.len()) + member;

    let mut flow = Flow::new(member_node(candidates.len()));
    for (partition, before) in before.iter().enumerate() {
        flow.edge(source, partition_node(partition), replication_factor, 0);
        for zone in 0..zones.len() {
            flow.edge(partition_node(partition), zone_node(partition, zone), most, 0);
        }
        for (member, candidate) in candidates.iter().enumerate() {
            let zone = zones.iter().position(|name| *name == candidate.zone).expect("its zone is listed");
            let cost = i64::from(!before.contains(&candidate.id));
            flow.edge(zone_node(partition, zone), member_node(member), 1, cost);
        }
    }
    for (member, candidate) in candidates.iter().enumerate() {
        flow.edge(member_node(member), sink, quotas.get(&candidate.id).copied().unwrap_or(0), 0);
    }
    let (amount, cost) = flow.run(source, sink);
    assert_eq!(amount, before.len() * replication_factor, "the quotas can be met");
    usize::try_from(cost).expect("moves are not negative")
}

struct Flow {
    /// Where each edge goes, its room and its cost; an edge and its reverse are neighbours (number ^ 1).
    edges: Vec<(usize, usize, i64)>,
    out: Vec<Vec<usize>>,
}

impl Flow {
    fn new(nodes: usize) -> Self {
        Self { edges: Vec::new(), out: vec![Vec::new(); nodes] }
    }

    fn edge(&mut self, from: usize, to: usize, room: usize, cost: i64) {
        self.out[from].push(self.edges.len());
        self.edges.push((to, room, cost));
        self.out[to].push(self.edges.len());
        self.edges.push((from, 0, -cost));
    }

    /// The largest flow and its least cost.
    fn run(&mut self, source: usize, sink: usize) -> (usize, i64) {
        let (mut amount, mut total) = (0, 0);
        while let Some((distance, path)) = self.shortest_path(source, sink) {
            for edge in path {
                self.edges[edge].1 -= 1;
                self.edges[edge ^ 1].1 += 1;
            }
            amount += 1;
            total += distance;
        }
        (amount, total)
    }

    fn shortest_path(&self, source: usize, sink: usize) -> Option<(i64, Vec<usize>)> {
        let mut distance = vec![i64::MAX; self.out.len()];
        let mut reached_by = vec![None; self.out.len()];
        let mut queued = vec![false; self.out.len()];
        let mut queue = VecDeque::from([source]);
        distance[source] = 0;
        while let Some(node) = queue.pop_front() {
            queued[node] = false;
            for edge in &self.out[node] {
                let (to, room, cost) = self.edges[*edge];
                if room > 0 && distance[node] + cost < distance[to] {
                    distance[to] = distance[node] + cost;
                    reached_by[to] = Some(*edge);
                    if !std::mem::replace(&mut queued[to], true) {
                        queue.push_back(to);
                    }
                }
            }
        }
        let mut path = Vec::new();
        let mut node = sink;
        while node != source {
            let edge: usize = reached_by[node]?;
            path.push(edge);
            node = self.edges[edge ^ 1].0;
        }
        Some((distance[sink], path))
    }
}

#[derive(Debug, Clone)]
enum Change {
    Join { zone: u64, weight: u32 },
    Leave(Index),
    Weight(Index, u32),
    Zone(Index, u64),
}

impl Change {
    /// The members after the change. Nobody leaves when no more members are left than there are copies.
    fn apply(&self, members: &[Candidate], replication_factor: usize) -> Vec<Candidate> {
        let mut members = members.to_vec();
        match self {
            Self::Join { zone, weight } => {
                let newest = members.iter().map(|member| member.id.get()).max().unwrap_or(0);
                members.push(candidate(newest + 1, *zone, *weight));
            }
            Self::Leave(_) if members.len() == replication_factor => {}
            Self::Leave(at) => drop(members.remove(at.index(members.len()))),
            Self::Weight(at, weight) => at.get_mut(&mut members).weight = *weight,
            Self::Zone(at, zone) => at.get_mut(&mut members).zone = format!("zone-{zone}"),
        }
        members
    }
}

/// Mostly the ordinary weight, so that rings with equal members are tried often.
fn weights() -> impl Strategy<Value = u32> {
    prop_oneof![3 => Just(100u32), 1 => Just(200u32), 1 => 1..=1000u32]
}

fn changes() -> impl Strategy<Value = Change> {
    prop_oneof![
        (0..ZONES, weights()).prop_map(|(zone, weight)| Change::Join { zone, weight }),
        any::<Index>().prop_map(Change::Leave),
        (any::<Index>(), weights()).prop_map(|(at, weight)| Change::Weight(at, weight)),
        (any::<Index>(), 0..ZONES).prop_map(|(at, zone)| Change::Zone(at, zone)),
    ]
}

/// Partitions (8 to 64), members (1 to 12 in 1 to 5 zones), copies.
fn rings() -> impl Strategy<Value = (usize, Vec<Candidate>, usize)> {
    let members = proptest::collection::vec((0..ZONES, weights()), 1..=12);
    (3..=6u32, 1..=ZONES, members, 1..=5usize).prop_map(|(power, zones, members, replication_factor)| {
        let numbered = members.iter().zip(1..);
        let members: Vec<_> = numbered.map(|((zone, weight), id)| candidate(id, zone % zones, *weight)).collect();
        let replication_factor = replication_factor.min(members.len());
        (1 << power, members, replication_factor)
    })
}

#[allow(clippy::disallowed_methods, reason = "how many rings are tried is said from outside; the core never asks")]
fn config() -> ProptestConfig {
    let cases = std::env::var("ANNULUS_RING_CASES")
        .map_or(200, |cases| cases.parse().expect("ANNULUS_RING_CASES is a number of cases"));
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_join_leave_weight_or_zone_change_moves_as_few_replicas_as_can_be(
        (partitions, members, replication_factor) in rings(),
        changes in proptest::collection::vec(changes(), 1..=3),
    ) {
        let mut members = members;
        let mut placement = bootstrap(partitions, &members, replication_factor);
        check(&placement, &members, replication_factor);
        for change in changes {
            members = change.apply(&members, replication_factor);
            let next = place(&placement.replicas, &members, replication_factor);
            check(&next, &members, replication_factor);
            let fewest = fewest_moves(&placement.replicas, &next.replicas, &members, replication_factor);
            prop_assert_eq!(moves(&placement.replicas, &next.replicas), fewest, "{:?}", change);
            placement = next;
        }
    }

    /// Equal members in zones that can take as much as they ask: one of them comes, goes, or changes its zone, and replicas
    /// and leaders are spread to within one; exactly, if they divide.
    #[test]
    fn after_any_single_change_equal_members_hold_and_lead_the_same_to_within_one(
        power in 3..=7u32, count in 2..=24u64, zones in 1..=6u64, replication_factor in 1..=5usize, change in changes(),
    ) {
        let members = equal_members(count, zones);
        let replication_factor = replication_factor.min(members.len());
        let change = match change {
            Change::Join { .. } => Change::Join { zone: (count + 1) % zones, weight: 100 },
            // The weight of all members is another: as if nothing had changed.
            Change::Weight(at, _) => Change::Weight(at, 100),
            Change::Zone(at, zone) => Change::Zone(at, zone % zones),
            leave => leave,
        };
        let after = change.apply(&members, replication_factor);
        let most = most_per_zone(&after, replication_factor);
        let crowded = zone_sizes(&after).values().any(|size| size * replication_factor > most * after.len());
        if crowded {
            return Ok(());
        }
        let before = bootstrap(1 << power, &members, replication_factor);
        let placement = place(&before.replicas, &after, replication_factor);
        check(&placement, &after, replication_factor);
        for (named, total) in [
            (counts(placement.replicas.iter().flatten()), replication_factor << power),
            (counts(placement.leaders.iter()), 1 << power),
        ] {
            for member in &after {
                let named = named.get(&member.id).copied().unwrap_or(0);
                let fair = total / after.len()..=total.div_ceil(after.len());
                prop_assert!(fair.contains(&named), "{:?}: {} of {} among {}", change, named, total, after.len());
            }
        }
    }

    #[test]
    fn another_set_of_members_or_number_of_copies_moves_as_few_replicas_as_can_be(
        (partitions, members, replication_factor) in rings(),
        (_, others, other_factor) in rings(),
    ) {
        let before = bootstrap(partitions, &members, replication_factor);
        let after = place(&before.replicas, &others, other_factor);
        check(&after, &others, other_factor);
        let fewest = fewest_moves(&before.replicas, &after.replicas, &others, other_factor);
        prop_assert_eq!(moves(&before.replicas, &after.replicas), fewest);
    }

    #[test]
    fn planning_a_settled_ring_again_changes_nothing((partitions, members, replication_factor) in rings()) {
        let placement = bootstrap(partitions, &members, replication_factor);
        let reversed: Vec<Candidate> = members.iter().rev().cloned().collect();
        prop_assert_eq!(&place(&placement.replicas, &reversed, replication_factor), &placement);
    }

    #[test]
    fn equal_members_hold_and_lead_the_same_to_within_one(
        power in 0..=7u32, count in 1..=40u64, zones in 1..=8u64, replication_factor in 1..=7usize,
    ) {
        let members = equal_members(count, zones);
        let replication_factor = replication_factor.min(members.len());
        // A zone with more members than its copies of each partition are worth can't hold as much as its members ask.
        let most = most_per_zone(&members, replication_factor);
        let crowded = zone_sizes(&members).values().any(|size| size * replication_factor > most * members.len());
        if crowded {
            return Ok(());
        }
        let partitions = 1 << power;
        let placement = bootstrap(partitions, &members, replication_factor);
        check(&placement, &members, replication_factor);
        let held = counts(placement.replicas.iter().flatten());
        let total = partitions * replication_factor;
        for member in &members {
            let held = held.get(&member.id).copied().unwrap_or(0);
            prop_assert!((total / members.len()..=total.div_ceil(members.len())).contains(&held));
        }
    }
}

#[test]
fn the_tenth_of_nine_members_takes_its_share_and_nothing_else_moves() {
    let members = equal_members(10, 1);
    let before = bootstrap(1024, &members[..9], 3);
    let after = place(&before.replicas, &members, 3);
    let taken = after.replicas.iter().filter(|replicas| replicas.contains(&members[9].id)).count();
    assert!((307..=308).contains(&taken));
    assert_eq!(moves(&before.replicas, &after.replicas), taken);
    for (before, after) in before.replicas.iter().zip(&after.replicas) {
        let lost = before.iter().filter(|member| !after.contains(member)).count();
        assert!(lost <= 1, "no partition loses more than one replica");
    }
}

#[test]
fn a_zone_for_each_copy_stays_full_when_its_members_go_and_come() {
    let members = equal_members(9, 3);
    let mut placement = bootstrap(128, &members, 3);
    for leaving in &members {
        let rest: Vec<Candidate> = members.iter().filter(|member| *member != leaving).cloned().collect();
        let without = place(&placement.replicas, &rest, 3);
        check(&without, &rest, 3);
        let held = counts(without.replicas.iter().flatten());
        assert_eq!(held.values().max(), Some(&64), "two members of the zone hold all of its 128");
        placement = place(&without.replicas, &members, 3);
        check(&placement, &members, 3);
        assert!(moves(&without.replicas, &placement.replicas) <= 43, "only the new member's share moves");
    }
}

/// Prints how long it took, and fails when that is more than this; with debug assertions only when it is far from that.
#[allow(clippy::disallowed_methods, reason = "a time is what is tested here; the core never looks at the clock")]
fn timed_within(bar: Duration, what: &str, work: impl FnOnce() -> Placement) -> Placement {
    let start = Instant::now();
    let placement = work();
    let elapsed = start.elapsed();
    println!("{what}: {elapsed:?}");
    let bar = if cfg!(debug_assertions) { Duration::from_secs(2) } else { bar };
    assert!(elapsed < bar, "{what} took {elapsed:?}");
    placement
}

/// Within 100 ms, which is what a ring of ten zones may take.
fn timed(what: &str, work: impl FnOnce() -> Placement) -> Placement {
    timed_within(Duration::from_millis(100), what, work)
}

#[test]
fn a_thousand_members_and_4096_partitions_are_placed_at_once() {
    let members = equal_members(1000, 10);
    let first = timed("bootstrap", || bootstrap(4096, &members[..999], 3));
    check(&first, &members[..999], 3);
    let joined = timed("join", || place(&first.replicas, &members, 3));
    check(&joined, &members, 3);
    let left = timed("leave", || place(&joined.replicas, &members[1..], 3));
    check(&left, &members[1..], 3);
    let nine_zones: Vec<Candidate> = members.iter().filter(|member| member.zone != "zone-0").cloned().collect();
    let fewer = timed("a zone leaves", || place(&joined.replicas, &nine_zones, 3));
    check(&fewer, &nine_zones, 3);
    let four = timed("a fourth copy", || place(&joined.replicas, &members, 4));
    check(&four, &members, 4);
    let halved: Vec<Candidate> =
        members.iter().map(|member| candidate(member.id.get(), member.id.get() % 5, 100)).collect();
    let rezoned = timed("ten zones become five", || place(&joined.replicas, &halved, 3));
    check(&rezoned, &halved, 3);
    for zones in [1, 3, 1000] {
        let bar = Duration::from_millis(500);
        timed_within(bar, &format!("bootstrap with zones: {zones}"), || {
            bootstrap(4096, &equal_members(1000, zones), 3)
        });
    }
    timed("bootstrap with members: 4", || bootstrap(4096, &equal_members(4, 4), 3));
}
