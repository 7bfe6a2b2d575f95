//! Preferred leaders: each member leads its share of the partitions that it holds.
//!
//! A member that holds `n` replicas should lead `n / RF` partitions, rounded down or up. That can always be had: if
//! leadership could be cut in pieces each replica would have one RF-th of it. First everyone gets its share rounded
//! down, then the partitions left over are given to members that may have one more; an augmenting path never takes from
//! anyone, so both bounds hold. A partition takes the first in its ring order that has room, or the path that changes
//! the fewest others.

use std::collections::VecDeque;

/// For each partition which of its replicas should lead it.
pub(super) fn choose(replicas: &[Vec<usize>], members: usize, replication_factor: usize) -> Vec<usize> {
    let mut held = vec![0; members];
    replicas.iter().flatten().for_each(|member| held[*member] += 1);
    let rounded_down = held.iter().map(|held| held / replication_factor).collect();
    let rounded_up = held.iter().map(|held| held.div_ceil(replication_factor)).collect();

    let mut election =
        Election { replicas, room: Vec::new(), led: vec![Vec::new(); members], leader: vec![None; replicas.len()] };
    for room in [rounded_down, rounded_up] {
        election.room = room;
        election.round(members);
    }
    election.leader.into_iter().map(|leader| leader.expect("shares rounded up are enough for all")).collect()
}

struct Election<'a> {
    replicas: &'a [Vec<usize>],
    /// Most partitions that each member may lead.
    room: Vec<usize>,
    /// The partitions that each member leads.
    led: Vec<Vec<usize>>,
    leader: Vec<Option<usize>>,
}

impl Election<'_> {
    /// Gives a leader to every partition that can have one within the room.
    fn round(&mut self, members: usize) {
        // From a member that a failed search has seen, no room can be reached in this round any more: it stays seen.
        let mut seen = vec![false; members];
        for partition in 0..self.replicas.len() {
            if self.leader[partition].is_some() {
                continue;
            }
            let dead = seen.clone();
            if self.search(partition, &mut seen) {
                seen = dead;
            }
        }
    }

    fn search(&mut self, root: usize, seen: &mut [bool]) -> bool {
        let mut reached_from = vec![root; seen.len()];
        let mut queue = VecDeque::from([root]);
        while let Some(partition) = queue.pop_front() {
            for member in self.replicas[partition].iter().copied() {
                if std::mem::replace(&mut seen[member], true) {
                    continue;
                }
                reached_from[member] = partition;
                if self.led[member].len() < self.room[member] {
                    self.give(member, &reached_from);
                    return true;
                }
                queue.extend(&self.led[member]);
            }
        }
        false
    }

    /// Makes the member lead the partition that it was reached from, its leader so far the one before that, and so on.
    fn give(&mut self, mut member: usize, reached_from: &[usize]) {
        loop {
            let partition = reached_from[member];
            let displaced = self.leader[partition].replace(member);
            self.led[member].push(partition);
            let Some(displaced) = displaced else { return };
            self.led[displaced].retain(|led| *led != partition);
            member = displaced;
        }
    }
}
