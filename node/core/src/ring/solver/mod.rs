//! Placement: which members hold which partition. A pure function of the previous assignments and the members.
//!
//! It never looks at the map, the network or a clock, and asked twice it answers the same, in whatever order the
//! members are listed. Four steps, one module each:
//!
//! ```text
//! members, zones, weights ──▶ quota    how many replicas each member holds, to the unit
//! previous assignments ─────▶ keep     what may stay: every replica that fits its quota and its zone
//!                             fill     the holes, by augmenting paths that move as few replicas as can be
//!                             leaders  who should lead each partition, a share of what each holds
//! ```
//!
//! **Zones.** `per_zone`, the most replicas of one partition in one zone, is the least number with which every
//! partition finds its replication factor: 1 while there are as many zones as copies; with fewer zones (or zones with
//! fewer members than that asks of them) as even a spread as the members allow.
//!
//! **Why quotas can always be met.** A member's quota is at most P and a zone's at most P × `per_zone`, and together
//! they are P × RF. Giving each partition `quota / P` of every member respects every limit, if replicas could be cut in
//! pieces; the limits are nested (member in zone in partition), so there is a solution in whole replicas too.
//!
//! **Why the fewest moves.** Shedding what is over quota and filling each hole by the path with the fewest
//! displacements is not always least: a short path may push a kept replica away where a longer one would not (it moved
//! 13 replicas where 12 do when one member of a small ring changed its zone). So paths are searched by the replicas
//! that they move first (min-cost flow, see `fill`), and only then by displacements and ring preference. With quotas
//! given, no assignment moves less; `tests/ring_solver.rs` proves it against a solver written apart.

mod fill;
mod keep;
mod leaders;
mod preference;
mod quota;

use std::collections::BTreeSet;

use crate::id::MemberId;
use keep::Holdings;
use preference::Ring;

/// A member that may hold replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its identity; its tokens on the ring follow from it.
    pub id: MemberId,
    /// Its zone; members with the same zone (also the empty one) share a fate.
    pub zone: String,
    /// Its share relative to others, at least 1.
    pub weight: u32,
}

/// Who holds each partition, and who should lead it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// For each partition its members, in the ring's order of preference.
    pub replicas: Vec<Vec<MemberId>>,
    /// For each partition the member that should lead it.
    pub leaders: Vec<MemberId>,
}

/// Places every partition on `replication_factor` members, moving as little as possible from `previous` (an empty list
/// for a partition that nobody holds yet). Members of `previous` that are not candidates lose what they hold.
///
/// # Panics
///
/// When the candidates are fewer than the replication factor or that is 0, when two have the same id or one has no
/// weight, or when `previous` does not have a power of two of partitions: the caller has checked all of that.
pub fn place(previous: &[Vec<MemberId>], candidates: &[Candidate], replication_factor: usize) -> Placement {
    let problem = Problem::new(previous, candidates, replication_factor);
    let mut holdings = Holdings::keep(&problem);
    fill::fill(&problem, &mut holdings);
    holdings.check(&problem);
    let replicas = holdings.into_replicas(&problem);
    let leaders = leaders::choose(&replicas, problem.members.len(), replication_factor);
    let id = |member: usize| problem.members[member];
    Placement {
        replicas: replicas.iter().map(|members| members.iter().map(|member| id(*member)).collect()).collect(),
        leaders: leaders.into_iter().map(id).collect(),
    }
}

/// The members that vote in the map group: the largest odd number that is at most `most` and at most the candidates,
/// spread over as many zones as possible, most preferred first.
///
/// Odd, because one voter more makes a quorum larger without letting one more fail: of two members one votes. The
/// choice is by a hash of the ids, so that a member that joins or leaves seldom changes more than one voter.
pub fn spread(candidates: &[Candidate], most: usize) -> Vec<MemberId> {
    let fits = candidates.len().min(most);
    let voters = if fits.is_multiple_of(2) { fits.saturating_sub(1) } else { fits };
    let mut by_token: Vec<(u64, &Candidate)> =
        candidates.iter().map(|candidate| (preference::token(candidate.id, 0), candidate)).collect();
    by_token.sort_by_key(|(token, candidate)| (*token, candidate.id));
    // A member's turn is how many of its zone come before it: nobody is second in a zone before every zone had a first.
    let turn = |at: usize| by_token[..at].iter().filter(|(_, other)| other.zone == by_token[at].1.zone).count();
    let mut order: Vec<usize> = (0..by_token.len()).collect();
    order.sort_by_cached_key(|at| (turn(*at), *at));
    order.into_iter().take(voters).map(|at| by_token[at].1.id).collect()
}

impl Placement {
    /// Panics when the placement breaks one of its rules: RF distinct members hold each partition, no more of them in
    /// one zone than must be (one, while there are as many zones as copies), every member holds exactly its quota,
    /// and leaders hold what they lead.
    pub fn check(&self, candidates: &[Candidate], replication_factor: usize) {
        // Quotas give spare units to whoever holds most, so the quotas of a settled placement are what it holds.
        let problem = Problem::new(&self.replicas, candidates, replication_factor);
        Holdings::keep(&problem).check(&problem);
        assert_eq!(self.leaders.len(), self.replicas.len(), "each partition has a leader");
        for (replicas, leader) in self.replicas.iter().zip(&self.leaders) {
            assert_eq!(replicas.len(), replication_factor, "each partition has RF replicas");
            assert!(replicas.contains(leader), "the leader holds a replica");
        }
    }
}

/// What is asked, in dense numbers: members by rising id, zones by name, partitions from 0.
struct Problem {
    replication_factor: usize,
    /// How many partitions there are.
    partitions: usize,
    /// How many zones there are.
    zones: usize,
    /// Most replicas of one partition in one zone.
    per_zone: usize,
    members: Vec<MemberId>,
    /// The zone of each member.
    zone_of: Vec<usize>,
    /// How many replicas each member holds in the end.
    quotas: Vec<usize>,
    /// For each partition the members that held it before and may go on, in ring order.
    before: Vec<Vec<usize>>,
    /// For each partition how many replicas it has lost because their members are no longer there.
    gone: Vec<usize>,
    ring: Ring,
}

impl Problem {
    fn new(previous: &[Vec<MemberId>], candidates: &[Candidate], replication_factor: usize) -> Self {
        assert!((1..=candidates.len()).contains(&replication_factor), "1 <= RF <= candidates");
        let mut sorted: Vec<&Candidate> = candidates.iter().collect();
        sorted.sort_by_key(|candidate| candidate.id);
        assert!(sorted.is_sorted_by(|a, b| a.id < b.id), "candidates are distinct");
        let members: Vec<MemberId> = sorted.iter().map(|candidate| candidate.id).collect();
        let names: Vec<&str> =
            candidates.iter().map(|candidate| candidate.zone.as_str()).collect::<BTreeSet<_>>().into_iter().collect();
        let zone_of: Vec<usize> = sorted
            .iter()
            .map(|candidate| names.binary_search(&candidate.zone.as_str()).expect("the zone is its own member's"))
            .collect();

        let ring = Ring::new(&members, previous.len());
        let mut before = Vec::with_capacity(previous.len());
        let mut gone = Vec::with_capacity(previous.len());
        for (partition, holders) in previous.iter().enumerate() {
            let mut stay: Vec<usize> = holders.iter().filter_map(|id| members.binary_search(id).ok()).collect();
            stay.sort_by_cached_key(|member| ring.rank(partition, *member));
            gone.push(holders.len() - stay.len());
            stay.dedup();
            before.push(stay);
        }

        let mut held = vec![0; members.len()];
        before.iter().flatten().for_each(|member| held[*member] += 1);
        let shares: Vec<quota::Share> = (0..members.len())
            .map(|member| quota::Share { zone: zone_of[member], weight: sorted[member].weight, held: held[member] })
            .collect();
        let (per_zone, quotas) = quota::quotas(&shares, names.len(), previous.len(), replication_factor);
        let (partitions, zones) = (previous.len(), names.len());
        Self { replication_factor, partitions, zones, per_zone, members, zone_of, quotas, before, gone, ring }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(id: u64, zone: &str) -> Candidate {
        Candidate { id: MemberId::new(id).unwrap(), zone: zone.to_owned(), weight: 100 }
    }

    #[test]
    fn map_voters_are_an_odd_number_in_as_many_zones_as_possible() {
        for (members, voters) in [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (6, 5), (100, 5)] {
            let candidates: Vec<_> = (1..=members).map(|id| candidate(id, "")).collect();
            assert_eq!(spread(&candidates, 5).len(), voters, "{members} members");
        }
        let mut candidates: Vec<_> = (1..=20).map(|id| candidate(id, "a")).collect();
        candidates.extend([candidate(21, "b"), candidate(22, "c"), candidate(23, "c")]);
        let zone = |id: &MemberId| candidates.iter().find(|candidate| candidate.id == *id).unwrap().zone.clone();
        let mut zones: Vec<String> = spread(&candidates, 5).iter().map(zone).collect();
        assert_eq!(zones[..3].iter().collect::<BTreeSet<_>>().len(), 3, "no zone twice before each once");
        zones.sort();
        assert_eq!(zones, ["a", "a", "b", "c", "c"]);
    }

    #[test]
    fn map_voters_do_not_depend_on_the_order_of_the_members_and_seldom_on_one_that_leaves() {
        let candidates: Vec<_> = (1..=50).map(|id| candidate(id, ["a", "b", "c"][id as usize % 3])).collect();
        let voters = spread(&candidates, 5);
        assert_eq!(spread(&candidates.iter().rev().cloned().collect::<Vec<_>>(), 5), voters);
        for leaving in &candidates {
            let rest: Vec<_> = candidates.iter().filter(|other| *other != leaving).cloned().collect();
            let stayed = spread(&rest, 5).iter().filter(|id| voters.contains(id)).count();
            assert_eq!(stayed, if voters.contains(&leaving.id) { 4 } else { 5 });
        }
    }
}
