//! Fills the holes by augmenting paths, moving as few replicas as can be.
//!
//! A hole is a replica that a partition lacks. Either the partition takes a member with room, or it takes a full one
//! that gives up another partition, which then has the hole:
//!
//! ```text
//!  hole ─▶ partition ─▶ zone with room ─▶ member with room: done
//!              ▲        in the partition ─▶ full member
//!              │              ▲                │ gives up another partition
//!              └── its zone has room again ────┘ and leaves room in its own zone there
//! ```
//!
//! A partition that takes a member which did not hold it before moves one replica; giving such a one up again takes
//! that move back. Everything else moves nothing. So the fewest moves are a min-cost flow, found by the primal-dual
//! method (Ford and Fulkerson): every node has a *price*, never more than the moves it takes to get from there to a
//! member with room. A step is *tight* when it costs what the price falls by. A breadth-first search along tight steps
//! finds paths that are cheapest, of these the one with the fewest displacements, of these the one that the ring
//! prefers. What the failed searches of a round have seen is dead for the rest of it; then its price rises by one.
//!
//! At the start only previous replicas are held, so no step takes a move back, and price 0 is right everywhere. The
//! first round (price 0) goes through previous replicas alone and ends with as many kept as possible.

use std::collections::VecDeque;

use super::Problem;
use super::keep::Holdings;
use super::preference::OpenRing;

/// Fills every hole.
pub(super) fn fill(problem: &Problem, holdings: &mut Holdings) {
    let mut holes = Vec::new();
    for partition in 0..problem.partitions {
        let missing = problem.replication_factor - holdings.members_of(partition).len();
        holes.extend(std::iter::repeat_n(partition, missing));
    }
    let mut search = Search::new(problem, holdings);
    let mut rounds = 0;
    while !holes.is_empty() {
        // Each round raises the price of every remaining hole, and no path moves more than there is.
        assert!(rounds <= problem.partitions * problem.replication_factor, "quotas can be met");
        rounds += 1;
        holes.retain(|hole| !search.fill_one(*hole));
        search.raise_prices();
    }
}

/// No node: where a path began.
const NONE: usize = usize::MAX;
/// Seen in a failed search of this round.
const DEAD: u32 = u32::MAX;

/// The nodes of the graph in one row: partitions, then the zones in each partition, then members.
struct Nodes {
    partitions: usize,
    zones: usize,
    price: Vec<u16>,
    /// The search that saw it last.
    seen: Vec<u32>,
    /// The node that this search reached it from.
    from: Vec<usize>,
}

impl Nodes {
    fn new(problem: &Problem) -> Self {
        let (partitions, zones) = (problem.partitions, problem.zones);
        let count = partitions + partitions * zones + problem.members.len();
        Self { partitions, zones, price: vec![0; count], seen: vec![0; count], from: vec![0; count] }
    }

    /// The node of a zone in a partition. A partition's own node has the partition's number.
    fn zone(&self, partition: usize, zone: usize) -> usize {
        self.partitions + partition * self.zones + zone
    }

    fn member(&self, member: usize) -> usize {
        self.partitions + self.partitions * self.zones + member
    }

    /// The partition of a zone's node.
    fn partition_of_zone(&self, node: usize) -> usize {
        (node - self.partitions) / self.zones
    }
}

/// A partition that a search came to.
struct Arrival {
    partition: usize,
    /// The zone of the member that it gives up, in which it may take another. None for the hole itself.
    zone: Option<usize>,
    /// Whether it may also take members of its zones that have room, and no path came here before for that.
    whole: bool,
    price: u16,
}

struct Search<'a> {
    problem: &'a Problem,
    holdings: &'a mut Holdings,
    /// The members with room.
    open: OpenRing<'a>,
    /// How many of them are in each zone.
    open_in_zone: Vec<usize>,
    nodes: Nodes,
    /// The number of this search.
    run: u32,
    /// The nodes that it has seen.
    trail: Vec<usize>,
    /// The nodes that failed searches of this round have seen.
    dead: Vec<usize>,
    /// The members to look at next.
    queue: VecDeque<usize>,
    /// The full members that it has not reached, those first that the hole prefers. None until they are needed.
    unreached: Option<Vec<usize>>,
}

impl<'a> Search<'a> {
    fn new(problem: &'a Problem, holdings: &'a mut Holdings) -> Self {
        let mut open = OpenRing::new(&problem.ring);
        let mut open_in_zone = vec![0; problem.zones];
        for member in 0..problem.members.len() {
            if holdings.has_room(problem, member) {
                open_in_zone[problem.zone_of[member]] += 1;
            } else {
                open.close(member);
            }
        }
        Self {
            problem,
            holdings,
            open,
            open_in_zone,
            nodes: Nodes::new(problem),
            run: 0,
            trail: Vec::new(),
            dead: Vec::new(),
            queue: VecDeque::new(),
            unreached: None,
        }
    }

    /// Fills one hole of the partition, if there is a path at today's price.
    fn fill_one(&mut self, hole: usize) -> bool {
        self.run += 1;
        self.queue.clear();
        self.trail.clear();
        self.unreached = None;
        if !self.see(hole, NONE) {
            return false;
        }
        let price = self.nodes.price[hole];
        if self.arrive(&Arrival { partition: hole, zone: None, whole: true, price }, hole) {
            return true;
        }
        while let Some(member) = self.queue.pop_front() {
            for at in 0..self.holdings.partitions_of(member).len() {
                let partition = self.holdings.partitions_of(member)[at];
                let arrival = self.give_up(member, partition);
                if arrival.is_some_and(|arrival| self.arrive(&arrival, hole)) {
                    return true;
                }
            }
        }
        self.trail.iter().for_each(|node| self.nodes.seen[*node] = DEAD);
        self.dead.append(&mut self.trail);
        false
    }

    /// Ends a round. From the dead no member with room can be reached at today's price.
    fn raise_prices(&mut self) {
        for node in self.dead.drain(..) {
            self.nodes.price[node] += 1;
            self.nodes.seen[node] = 0;
        }
    }

    /// Notes that the search reached a node; false if it had before, or if the node is dead.
    fn see(&mut self, node: usize, from: usize) -> bool {
        if self.nodes.seen[node] == DEAD || self.nodes.seen[node] == self.run {
            return false;
        }
        self.nodes.seen[node] = self.run;
        self.nodes.from[node] = from;
        self.trail.push(node);
        true
    }

    /// The step from a full member to a partition that it may give up, if that step is tight and new.
    fn give_up(&mut self, member: usize, partition: usize) -> Option<Arrival> {
        let zone = self.problem.zone_of[member];
        let (from, node) = (self.nodes.member(member), self.nodes.zone(partition, zone));
        let moves_back = u16::from(!self.problem.before[partition].contains(&member));
        let price = self.nodes.price[node];
        if price != self.nodes.price[from] + moves_back || !self.see(node, from) {
            return None;
        }
        let whole = self.nodes.price[partition] == price && self.see(partition, node);
        Some(Arrival { partition, zone: Some(zone), whole, price })
    }

    /// Looks on from a partition. True if a path ended there, and was taken.
    fn arrive(&mut self, arrival: &Arrival, hole: usize) -> bool {
        if let Some(member) = self.member_with_room(arrival) {
            self.take_path(arrival, member);
            return true;
        }
        self.reach_full_members(arrival, hole);
        false
    }

    /// The most preferred member with room that the partition may take in a tight step. Such a member's price is 0, so
    /// the step costs the partition's price: nothing for a member that held it before, one move for any other.
    fn member_with_room(&mut self, arrival: &Arrival) -> Option<usize> {
        let Self { problem, holdings, nodes, open, open_in_zone, .. } = self;
        let partition = arrival.partition;
        let fits = |member: usize| {
            arrival.allows(nodes, problem, holdings, problem.zone_of[member])
                && !holdings.members_of(partition).contains(&member)
        };
        match arrival.price {
            0 => {
                let mut before = problem.before[partition].iter().copied();
                before.find(|member| holdings.has_room(problem, *member) && fits(*member))
            }
            1 => {
                let zone_with_room =
                    |zone: usize| open_in_zone[zone] > 0 && arrival.allows(nodes, problem, holdings, zone);
                (0..problem.zones).any(zone_with_room).then(|| open.first(partition, fits)).flatten()
            }
            _ => None,
        }
    }

    /// Goes on to all full members that the partition may take in a tight step.
    fn reach_full_members(&mut self, arrival: &Arrival, hole: usize) {
        let (problem, partition) = (self.problem, arrival.partition);
        if arrival.whole {
            for zone in 0..problem.zones {
                if arrival.allows(&self.nodes, problem, self.holdings, zone) {
                    self.see(self.nodes.zone(partition, zone), partition);
                }
            }
        }
        for member in problem.before[partition].iter().copied() {
            if self.nodes.price[self.nodes.member(member)] == arrival.price && self.may_take(arrival, member) {
                self.reach(arrival, member);
            }
        }
        let Some(price) = arrival.price.checked_sub(1) else { return };
        let mut unreached = self.unreached.take().unwrap_or_else(|| self.full_members(hole));
        unreached.retain(|member| {
            let node = self.nodes.member(*member);
            let tight = self.nodes.price[node] == price && !problem.before[partition].contains(member);
            if tight && self.may_take(arrival, *member) {
                self.reach(arrival, *member);
            }
            self.nodes.seen[node] != self.run
        });
        self.unreached = Some(unreached);
    }

    fn may_take(&self, arrival: &Arrival, member: usize) -> bool {
        arrival.allows(&self.nodes, self.problem, self.holdings, self.problem.zone_of[member])
            && !self.holdings.has_room(self.problem, member)
            && !self.holdings.members_of(arrival.partition).contains(&member)
    }

    fn reach(&mut self, arrival: &Arrival, member: usize) {
        let from = self.nodes.zone(arrival.partition, self.problem.zone_of[member]);
        if self.see(self.nodes.member(member), from) {
            self.queue.push_back(member);
        }
    }

    /// The full members that are not dead, in the ring order of the hole.
    fn full_members(&self, hole: usize) -> Vec<usize> {
        let mut members: Vec<usize> = (0..self.problem.members.len())
            .filter(|member| !self.holdings.has_room(self.problem, *member))
            .filter(|member| self.nodes.seen[self.nodes.member(*member)] != DEAD)
            .collect();
        members.sort_by_cached_key(|member| self.problem.ring.rank(hole, *member));
        members
    }

    /// Gives the partition a member with room, and every partition on the way here the member that the path says.
    fn take_path(&mut self, arrival: &Arrival, last: usize) {
        let (problem, zone) = (self.problem, self.problem.zone_of[last]);
        let zone_node = self.nodes.zone(arrival.partition, zone);
        if arrival.zone != Some(zone) {
            self.nodes.from[zone_node] = arrival.partition;
        }
        let last_node = self.nodes.member(last);
        self.nodes.from[last_node] = zone_node;

        let mut member = last;
        loop {
            let zone_node = self.nodes.from[self.nodes.member(member)];
            let partition = self.nodes.partition_of_zone(zone_node);
            self.holdings.add(problem, partition, member);
            let mut giver = self.nodes.from[zone_node];
            if giver == partition {
                // The zone had room; which member is given up stands with the partition's own node.
                match self.nodes.from[partition] {
                    NONE => break,
                    given_up_zone => giver = self.nodes.from[given_up_zone],
                }
            }
            member = giver - self.nodes.member(0);
            self.holdings.remove(problem, partition, member);
        }
        if !self.holdings.has_room(problem, last) {
            self.open.close(last);
            self.open_in_zone[zone] -= 1;
        }
    }
}

impl Arrival {
    /// Whether the partition may take one more member of this zone, at no change of price.
    fn allows(&self, nodes: &Nodes, problem: &Problem, holdings: &Holdings, zone: usize) -> bool {
        self.zone == Some(zone)
            || self.whole
                && holdings.in_zone(self.partition, zone) < problem.per_zone
                && nodes.price[nodes.zone(self.partition, zone)] == self.price
    }
}
