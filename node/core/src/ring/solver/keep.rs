//! Who holds what, and what of the previous assignments may stay.

use sha2::{Digest, Sha256};

use super::Problem;
use crate::ring::first_eight;

/// Who holds what, seen from both sides.
pub(super) struct Holdings {
    /// For each partition its members.
    members_of: Vec<Vec<usize>>,
    /// For each member its partitions.
    partitions_of: Vec<Vec<usize>>,
    /// For each partition and zone how many members of the zone hold it.
    in_zone: Vec<u16>,
    zones: usize,
}

impl Holdings {
    /// Keeps every replica that fits its quota and the zone rule. Fewer than could be kept may remain where the two
    /// meet; filling the holes begins by putting that right.
    pub(super) fn keep(problem: &Problem) -> Self {
        let mut holdings = Self {
            members_of: vec![Vec::new(); problem.partitions],
            partitions_of: vec![Vec::new(); problem.members.len()],
            in_zone: vec![0; problem.partitions * problem.zones],
            zones: problem.zones,
        };
        for (partition, members) in problem.before.iter().enumerate() {
            members.iter().for_each(|member| holdings.add(problem, partition, *member));
        }
        let mut lost = problem.gone.clone();
        holdings.shed_crowded(problem, &mut lost);
        holdings.shed_over_quota(problem, &mut lost);
        holdings
    }

    /// Sheds what is too many of one partition in a zone, or in all.
    fn shed_crowded(&mut self, problem: &Problem, lost: &mut [usize]) {
        for (partition, lost) in lost.iter_mut().enumerate() {
            while let Some(member) = self.most_crowded(problem, partition) {
                self.remove(problem, partition, member);
                *lost += 1;
            }
        }
    }

    /// The member that a partition should lose because it has too many: the one furthest above its quota, then the one
    /// that the ring prefers least.
    fn most_crowded(&self, problem: &Problem, partition: usize) -> Option<usize> {
        let members = &self.members_of[partition];
        let too_many = members.len() > problem.replication_factor;
        let crowded = |member: &usize| self.in_zone(partition, problem.zone_of[*member]) > problem.per_zone;
        let over = |member: usize| self.partitions_of[member].len() as i64 - problem.quotas[member] as i64;
        let any_crowded = members.iter().any(crowded);
        let may_go = members.iter().copied().filter(|member| if any_crowded { crowded(member) } else { too_many });
        may_go.max_by_key(|member| (over(*member), problem.ring.rank(partition, *member)))
    }

    /// Sheds what is above quota: first of partitions that have lost nothing in this change, then by SHA-256.
    fn shed_over_quota(&mut self, problem: &Problem, lost: &mut [usize]) {
        for member in 0..problem.members.len() {
            let excess = self.partitions_of[member].len().saturating_sub(problem.quotas[member]);
            if excess == 0 {
                continue;
            }
            let mut partitions = self.partitions_of[member].clone();
            let id = problem.members[member].get().to_be_bytes();
            partitions.sort_by_cached_key(|partition| {
                let digest = Sha256::new().chain_update(id).chain_update((*partition as u32).to_be_bytes()).finalize();
                (lost[*partition], first_eight(&digest), *partition)
            });
            for partition in partitions.into_iter().take(excess) {
                self.remove(problem, partition, member);
                lost[partition] += 1;
            }
        }
    }

    pub(super) fn members_of(&self, partition: usize) -> &[usize] {
        &self.members_of[partition]
    }

    pub(super) fn partitions_of(&self, member: usize) -> &[usize] {
        &self.partitions_of[member]
    }

    /// How many members of the zone hold the partition.
    pub(super) fn in_zone(&self, partition: usize, zone: usize) -> usize {
        usize::from(self.in_zone[partition * self.zones + zone])
    }

    pub(super) fn has_room(&self, problem: &Problem, member: usize) -> bool {
        self.partitions_of[member].len() < problem.quotas[member]
    }

    pub(super) fn add(&mut self, problem: &Problem, partition: usize, member: usize) {
        self.members_of[partition].push(member);
        self.partitions_of[member].push(partition);
        self.in_zone[partition * self.zones + problem.zone_of[member]] += 1;
    }

    pub(super) fn remove(&mut self, problem: &Problem, partition: usize, member: usize) {
        self.members_of[partition].retain(|other| *other != member);
        let partitions = &mut self.partitions_of[member];
        let at = partitions.iter().position(|other| *other == partition).expect("the member holds the partition");
        partitions.swap_remove(at);
        self.in_zone[partition * self.zones + problem.zone_of[member]] -= 1;
    }

    /// Panics when a rule is broken: RF distinct members, no zone with more than it may, every quota met exactly.
    pub(super) fn check(&self, problem: &Problem) {
        for (partition, members) in self.members_of.iter().enumerate() {
            assert_eq!(members.len(), problem.replication_factor, "partition {partition} has RF replicas");
            for (at, member) in members.iter().enumerate() {
                assert!(!members[..at].contains(member), "partition {partition} has distinct members");
                let in_zone = self.in_zone(partition, problem.zone_of[*member]);
                assert!(in_zone <= problem.per_zone, "partition {partition} is not crowded into one zone");
            }
        }
        for (member, partitions) in self.partitions_of.iter().enumerate() {
            assert_eq!(partitions.len(), problem.quotas[member], "{} holds its quota", problem.members[member]);
        }
    }

    /// For each partition its members in ring order.
    pub(super) fn into_replicas(mut self, problem: &Problem) -> Vec<Vec<usize>> {
        for (partition, members) in self.members_of.iter_mut().enumerate() {
            members.sort_by_cached_key(|member| problem.ring.rank(partition, *member));
        }
        self.members_of
    }
}
