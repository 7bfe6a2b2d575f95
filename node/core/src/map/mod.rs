//! The map: the versioned statement of who the members are, which of them hold which partition, and what is moving.
//!
//! ```text
//!  command ─▶ command::next ───┐                          ┌─▶ map (one record, the epoch rises by one)
//!                              ├─▶ Change ─entry─▶ machine ┼─▶ history (the last changes and their reasons)
//!  reports ─▶ planner::next ───┘   of group 0             └─▶ every member: who holds what, and what to do about it
//! ```
//!
//! It is the whole state of group 0 (the map group). Every member keeps a copy of the newest map it has seen; the epoch
//! tells which of two is newer. A store's first map is made by [`Map::bootstrap`], a pure function: asked twice with the
//! same members it makes the same bytes, so that a bootstrap that was cut short can be repeated. Every later one is an
//! older one with a [`Change`], worked out by the map group's leader alone and replicated as such, so that no two
//! versions of the program ever work out different maps.
//!
//! **What a move is.** [`Move`] says that a group's configuration is to change by one voter. The group's own leader
//! carries it out (see `replica::configure`) and reports how its configuration stands; the planner records that here
//! when the group has fenced off everything that was decided under an older epoch.

pub mod change;
mod codec;
pub mod command;
pub mod history;
pub mod machine;
pub mod plan;
pub mod planner;
pub mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;

use crate::id::{ClusterId, GroupId, MemberId, PartitionId};
use crate::ring::{self, solver};

pub use change::{Change, Reason};
pub use command::{Command, Desired, Intent, Refusal};
pub use machine::RECORD_KEY;
pub use report::{GroupReport, Report, Reports};

/// Most members a map can hold.
pub const MAX_MEMBERS: usize = 1000;
/// Most partitions a ring can be cut into. The fewest is 1; always a power of two.
pub const MAX_PARTITIONS: u32 = 4096;
/// Most copies of a partition.
pub const MAX_REPLICATION_FACTOR: usize = 7;
/// Most voters of the map group.
pub const MAX_MAP_VOTERS: usize = 5;

/// The versioned statement of members and assignments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    /// The store that this is the map of.
    pub cluster: ClusterId,
    /// Rises by one with every change.
    pub epoch: u64,
    /// How many copies each partition has.
    pub replication_factor: usize,
    /// The highest operator fence that any change carried; an older one is refused.
    pub fence: u64,
    /// All members, by rising id.
    pub members: Vec<Member>,
    /// For each partition who holds it; as many as there are partitions.
    pub assignments: Vec<Assignment>,
    /// Who votes in the map group, preferred leader first.
    pub map_voters: Vec<MemberId>,
    /// Who is to hold a partition in the end, for those where that is somebody else than now.
    pub targets: BTreeMap<PartitionId, Assignment>,
    /// Who is to vote in the map group in the end.
    pub map_target: Vec<MemberId>,
    /// The groups whose configuration is changing.
    pub moves: BTreeMap<GroupId, Move>,
}

/// A member as the map knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its identity.
    pub id: MemberId,
    /// Its name among people: unique among those that do not leave.
    pub name: String,
    /// The zone it runs in; empty when zones are not told apart.
    pub zone: String,
    /// Its share of the partitions relative to others (1 to 1000; 100 is ordinary).
    pub weight: u32,
    /// Where it is in its life.
    pub state: MemberState,
    /// `host:port` for clients.
    pub client_address: String,
    /// `host:port` for other members.
    pub peer_address: String,
    /// `host:port` for the operator.
    pub admin_address: String,
}

/// Where a member is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberState {
    /// It receives its first replicas.
    Joining,
    /// It holds replicas.
    Active,
    /// Its replicas move away; then it is no member any more.
    Leaving,
    /// Its replicas move away; it stays a member.
    Draining,
}

/// Who holds a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The members that hold a replica, in ring order of preference.
    pub replicas: Vec<MemberId>,
    /// The one of them that should lead.
    pub leader: MemberId,
}

/// One change of a group's configuration: a voter comes, a voter goes, or both at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// Who becomes a voter.
    pub add: Option<MemberId>,
    /// Who is no voter any more.
    pub remove: Option<MemberId>,
    /// It is not wanted any more: whatever is not done yet is undone.
    pub cancelled: bool,
    /// The map's epoch when this was last said. What the group has decided under an older one does not end the move.
    pub epoch: u64,
}

/// How a group's configuration is to stand, by the map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Who is to vote.
    pub voters: BTreeSet<MemberId>,
    /// Who votes when nothing of the move has happened.
    pub before: BTreeSet<MemberId>,
    /// The move under way, if there is one.
    pub moving: Option<Move>,
    /// Who should lead.
    pub leader: MemberId,
    /// The epoch of the map that says so.
    pub epoch: u64,
}

/// Why no map can be made of what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a power of two, or out of range.
    #[error("partitions is {0}; it must be a power of two from 1 to {MAX_PARTITIONS}")]
    Partitions(u32),
    /// Out of range, or more than there are members.
    #[error(
        "replication_factor is {factor} with {members} members; it must be from 1 to {MAX_REPLICATION_FACTOR} and at most the number of members"
    )]
    ReplicationFactor {
        /// What was asked.
        factor: usize,
        /// How many members there are.
        members: usize,
    },
    /// None, or too many.
    #[error("{0} members were named; a store has 1 to {MAX_MEMBERS}")]
    MemberCount(usize),
    /// Two members share an id, a name or an address.
    #[error("two members have the same {what} `{value}`")]
    Duplicate {
        /// What they share.
        what: &'static str,
        /// Its value.
        value: String,
    },
    /// A field of a member can't be what it is.
    #[error("member `{member}`: {reason}")]
    Member {
        /// The member's name.
        member: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// Zones are told apart for some members and not for others.
    #[error(
        "member `{without}` names no zone, and `{with}` is in zone `{zone}`; name a zone for each member, or for none"
    )]
    ZoneMissing {
        /// A member without a zone.
        without: String,
        /// A member with one.
        with: String,
        /// That zone.
        zone: String,
    },
}

impl Map {
    /// The first map of a store.
    pub fn bootstrap(
        cluster: ClusterId,
        partitions: u32,
        replication_factor: usize,
        mut members: Vec<Member>,
    ) -> Result<Self, Error> {
        if !partitions.is_power_of_two() || partitions > MAX_PARTITIONS {
            return Err(Error::Partitions(partitions));
        }
        if members.is_empty() || members.len() > MAX_MEMBERS {
            return Err(Error::MemberCount(members.len()));
        }
        if !(1..=MAX_REPLICATION_FACTOR.min(members.len())).contains(&replication_factor) {
            return Err(Error::ReplicationFactor { factor: replication_factor, members: members.len() });
        }
        members.sort_by_key(|member| member.id);
        check_members(&members)?;
        let candidates: Vec<solver::Candidate> = members.iter().map(Member::candidate).collect();
        let placement = solver::place(&vec![Vec::new(); partitions as usize], &candidates, replication_factor);
        let assignments = placement
            .replicas
            .into_iter()
            .zip(placement.leaders)
            .map(|(replicas, leader)| Assignment { replicas, leader })
            .collect();
        let map_voters = solver::spread(&candidates, MAX_MAP_VOTERS);
        Ok(Self {
            cluster,
            epoch: 1,
            replication_factor,
            fence: 0,
            members,
            assignments,
            map_target: map_voters.clone(),
            map_voters,
            targets: BTreeMap::new(),
            moves: BTreeMap::new(),
        })
    }

    /// How many partitions the ring is cut into.
    pub fn partitions(&self) -> u32 {
        u32::try_from(self.assignments.len()).expect("MAX_PARTITIONS fits")
    }

    /// The partition that a key lies in.
    pub fn partition_of(&self, key: &[u8]) -> PartitionId {
        ring::partition_of(key, self.partitions())
    }

    /// The member with this id.
    pub fn member(&self, id: MemberId) -> Option<&Member> {
        self.members.binary_search_by_key(&id, |member| member.id).ok().map(|at| &self.members[at])
    }

    /// All groups, the map group first.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> + use<> {
        (0..=self.partitions()).map(GroupId)
    }

    /// The voters of a group, and who should lead it. `None` for a group that the map does not know.
    pub fn group(&self, group: GroupId) -> Option<(&[MemberId], MemberId)> {
        match group.partition() {
            None => {
                let stays = self.map_voters.iter().find(|id| self.map_target.contains(id));
                Some((&self.map_voters, *stays.or(self.map_voters.first())?))
            }
            Some(partition) => {
                let assignment = self.assignments.get(partition.0 as usize)?;
                Some((&assignment.replicas, assignment.leader))
            }
        }
    }

    /// Who is to vote in a group in the end.
    pub fn target(&self, group: GroupId) -> &[MemberId] {
        let target = group.partition().and_then(|partition| self.targets.get(&partition));
        match (group.partition(), target) {
            (None, _) => &self.map_target,
            (Some(_), Some(target)) => &target.replicas,
            (Some(partition), None) => &self.assignments[partition.0 as usize].replicas,
        }
    }

    /// Whether a member is to have a replica of a group: as a voter, or because it becomes one.
    pub fn holds(&self, member: MemberId, group: GroupId) -> bool {
        self.group(group).is_some_and(|(voters, _)| voters.contains(&member))
            || self.moves.get(&group).is_some_and(|moving| moving.add == Some(member))
    }

    /// The groups that a member is to have a replica of.
    pub fn groups_of(&self, member: MemberId) -> Vec<GroupId> {
        self.groups().filter(|group| self.holds(member, *group)).collect()
    }

    /// How many partitions a member holds as a voter.
    pub fn held_by(&self, member: MemberId) -> usize {
        self.assignments.iter().filter(|assignment| assignment.replicas.contains(&member)).count()
    }

    /// How a group's configuration is to stand.
    pub fn wanted(&self, group: GroupId) -> Option<Wanted> {
        let (voters, leader) = self.group(group)?;
        let before: BTreeSet<MemberId> = voters.iter().copied().collect();
        let moving = self.moves.get(&group).copied();
        let mut voters = before.clone();
        if let Some(moving) = moving.filter(|moving| !moving.cancelled) {
            voters.extend(moving.add);
            if let Some(member) = moving.remove {
                voters.remove(&member);
            }
        }
        Some(Wanted { voters, before, moving, leader, epoch: self.epoch })
    }

    /// Whether nothing is left to be done: every group is where it is to be, and nobody is about to come or go.
    pub fn is_settled(&self) -> bool {
        let passing = |member: &Member| matches!(member.state, MemberState::Joining | MemberState::Leaving);
        self.moves.is_empty() && self.groups_astray().next().is_none() && !self.members.iter().any(passing)
    }

    /// The groups whose voters are not the ones that they are to have in the end.
    pub fn groups_astray(&self) -> impl Iterator<Item = GroupId> + '_ {
        let set = |ids: &[MemberId]| ids.iter().copied().collect::<BTreeSet<_>>();
        let map_astray = set(&self.map_voters) != set(&self.map_target);
        let partitions = self.targets.iter().filter(move |(partition, target)| {
            set(&self.assignments[partition.0 as usize].replicas) != set(&target.replicas)
        });
        map_astray.then_some(GroupId::MAP).into_iter().chain(partitions.map(|(partition, _)| partition.group()))
    }

    /// The members that may hold replicas in the end.
    pub fn candidates(&self) -> Vec<solver::Candidate> {
        self.members.iter().filter(|member| member.stays()).map(Member::candidate).collect()
    }

    /// Panics when the map breaks one of its own rules.
    pub fn check(&self) {
        assert_eq!(self.broken_rule(), None);
    }

    /// The first of its own rules that the map breaks. A map from another member or from the disk that breaks one is
    /// none: everything that looks at a map relies on them.
    pub(crate) fn broken_rule(&self) -> Option<&'static str> {
        let is_member = |id: &MemberId| self.member(*id).is_some();
        let partitions = self.assignments.len();
        let rules = [
            (!self.members.is_empty() && self.members.len() <= 2 * MAX_MEMBERS, "there are members, and not too many"),
            (self.members.is_sorted_by(|a, b| a.id < b.id), "members are sorted and distinct"),
            (check_members(&self.members).is_ok(), "each member has what a member must have"),
            (partitions.is_power_of_two() && partitions <= MAX_PARTITIONS as usize, "partitions are a power of two"),
            ((1..=MAX_REPLICATION_FACTOR).contains(&self.replication_factor), "the replication factor is in range"),
            ((1..=MAX_MAP_VOTERS).contains(&self.map_voters.len()), "the map has voters, and not too many"),
            ((1..=MAX_MAP_VOTERS).contains(&self.map_target.len()), "the map will have voters, and not too many"),
            (distinct(&self.map_voters) && self.map_voters.iter().all(is_member), "the map's voters are members"),
            (distinct(&self.map_target) && self.map_target.iter().all(is_member), "the map's voters to be are members"),
            (self.targets.keys().all(|partition| (partition.0 as usize) < partitions), "targets are of partitions"),
        ];
        let broken = rules.into_iter().find(|(holds, _)| !holds).map(|(_, rule)| rule);
        let assignments = self.assignments.iter().chain(self.targets.values());
        let broken =
            broken.or_else(|| assignments.into_iter().find_map(|assignment| self.broken_assignment(assignment)));
        broken.or_else(|| self.moves.iter().find_map(|(group, moving)| self.broken_move(*group, moving)))
    }

    fn broken_assignment(&self, Assignment { replicas, leader }: &Assignment) -> Option<&'static str> {
        if replicas.len() != self.replication_factor || !distinct(replicas) {
            return Some("each partition has as many distinct members as the replication factor says");
        }
        if !replicas.iter().all(|id| self.member(*id).is_some()) {
            return Some("replicas are on members");
        }
        (!replicas.contains(leader)).then_some("the leader holds a replica")
    }

    fn broken_move(&self, group: GroupId, moving: &Move) -> Option<&'static str> {
        let Some((voters, _)) = self.group(group) else { return Some("moves are of groups") };
        let comes = moving.add.is_none_or(|id| self.member(id).is_some() && !voters.contains(&id));
        let goes = moving.remove.is_none_or(|id| voters.contains(&id));
        let keeps_factor = group == GroupId::MAP || (moving.add.is_some() && moving.remove.is_some());
        let rules = [
            (comes, "who comes is a member and no voter yet"),
            (goes, "who goes is a voter"),
            (moving.add.is_some() || moving.remove.is_some(), "a move moves something"),
            (keeps_factor, "a partition keeps its number of copies"),
            (moving.epoch <= self.epoch, "a move is of this epoch or an earlier one"),
        ];
        rules.into_iter().find(|(holds, _)| !holds).map(|(_, rule)| rule)
    }
}

impl Member {
    fn candidate(&self) -> solver::Candidate {
        solver::Candidate { id: self.id, zone: self.zone.clone(), weight: self.weight }
    }

    /// Whether it may hold replicas in the end.
    pub fn stays(&self) -> bool {
        matches!(self.state, MemberState::Joining | MemberState::Active)
    }
}

fn distinct(ids: &[MemberId]) -> bool {
    ids.iter().collect::<BTreeSet<_>>().len() == ids.len()
}

/// What must hold of the members of one map. A member that leaves may share its name and its addresses with the one that
/// takes its place.
fn check_members(members: &[Member]) -> Result<(), Error> {
    type Field = (&'static str, fn(&Member) -> String);
    let fields: [Field; 5] = [
        ("id", |member| member.id.to_string()),
        ("name", |member| member.name.clone()),
        ("client address", |member| member.client_address.clone()),
        ("peer address", |member| member.peer_address.clone()),
        ("admin address", |member| member.admin_address.clone()),
    ];
    for (what, field) in fields {
        let mut seen = BTreeSet::new();
        for member in members {
            let value = field(member);
            if value.is_empty() || value.len() > 255 {
                return Err(Error::Member {
                    member: member.name.clone(),
                    reason: "its name and each of its addresses must have 1 to 255 bytes",
                });
            }
            let may_share = member.state == MemberState::Leaving && what != "id";
            if !may_share && !seen.insert(value.clone()) {
                return Err(Error::Duplicate { what, value });
            }
        }
    }
    let bad = members.iter().find(|member| !(1..=1000).contains(&member.weight));
    if let Some(member) = bad {
        return Err(Error::Member { member: member.name.clone(), reason: "its weight must be from 1 to 1000" });
    }
    let bad = members.iter().find(|member| member.zone.len() > 255);
    bad.map_or(Ok(()), |member| {
        Err(Error::Member { member: member.name.clone(), reason: "its zone must have at most 255 bytes" })
    })
}

/// Refuses names that could be taken for something else, and addresses that nobody could be reached at. Only when they are
/// asked for: a map that has them is read all the same.
fn check_texts(members: &[Member]) -> Result<(), Error> {
    for member in members {
        let is_plain = |text: &str| !text.chars().any(|letter| letter.is_control() || letter.is_whitespace());
        let reason = if !is_plain(&member.name) || member.name.contains('/') || member.name.parse::<MemberId>().is_ok()
        {
            "its name must have no space, no `/` and no control character, and must not look like a member id"
        } else if member.zone.chars().any(char::is_control) {
            "its zone must have no control character"
        } else if !is_address(&member.client_address) {
            "its client address must be `host:port`, a name or an address that others can reach it at"
        } else if !is_address(&member.peer_address) {
            "its peer address must be `host:port`, a name or an address that others can reach it at"
        } else if !is_address(&member.admin_address) {
            "its admin address must be `host:port`, a name or an address that others can reach it at"
        } else {
            continue;
        };
        return Err(Error::Member { member: member.name.clone(), reason });
    }
    Ok(())
}

/// Whether this is `host:port`; `[address]:port` for IPv6. An address that only means "all of this machine" is none.
fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0);
    let is_host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok_and(|address| !address.is_unspecified()),
        None => {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
            !host.is_empty() && host.bytes().all(allowed) && host != "0.0.0.0"
        }
    };
    is_port && is_host
}

/// Refuses members of which some name a zone and some do not.
fn check_zones(members: &[Member]) -> Result<(), Error> {
    let without = members.iter().find(|member| member.zone.is_empty());
    let with = members.iter().find(|member| !member.zone.is_empty());
    without.zip(with).map_or(Ok(()), |(without, with)| {
        let (without, with, zone) = (without.name.clone(), with.name.clone(), with.zone.clone());
        Err(Error::ZoneMissing { without, with, zone })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId(*b"a store's number");

    fn member(id: u64) -> Member {
        Member {
            id: MemberId::new(id).unwrap(),
            name: format!("member-{id}"),
            zone: format!("zone-{}", id % 3),
            weight: 100,
            state: MemberState::Active,
            client_address: format!("host-{id}:7000"),
            peer_address: format!("host-{id}:7001"),
            admin_address: format!("host-{id}:7002"),
        }
    }

    pub(super) fn members(count: u64) -> Vec<Member> {
        (1..=count).map(member).collect()
    }

    pub(super) fn bootstrap(members: Vec<Member>) -> Result<Map, Error> {
        Map::bootstrap(CLUSTER, 16, 3, members)
    }

    #[test]
    fn an_address_is_a_host_and_a_port_that_can_be_reached() {
        for good in ["a:1", "node-1.annulus.default.svc:7070", "10.0.0.1:65535", "[fd00::1]:7070", "my_host:1"] {
            assert!(is_address(good), "{good}");
        }
        for bad in
            ["", "a", ":1", "a:", "a:0", "a:65536", "a:+1", "http://a:1", "a b:1", "0.0.0.0:1", "[::]:1", "fd00::1:1"]
        {
            assert!(!is_address(bad), "{bad}");
        }
    }

    #[test]
    fn a_name_or_a_zone_that_would_mislead_is_refused() {
        let refused = |change: fn(&mut Member)| {
            let mut members = members(3);
            change(&mut members[1]);
            check_texts(&members).unwrap_err().to_string()
        };
        for change in [
            (|member| member.name = "a/b".to_owned()) as fn(&mut Member),
            |member| member.name = "node 2".to_owned(),
            |member| member.name = "0000000000000001".to_owned(),
        ] {
            assert!(refused(change).contains("its name must have no space"));
        }
        assert!(refused(|member| member.zone = "a\n".to_owned()).contains("its zone must have no control"));
        assert!(refused(|member| member.peer_address = "abc".to_owned()).contains("its peer address must be"));
        assert_eq!(check_texts(&members(3)), Ok(()));
    }

    #[test]
    fn bootstrap_makes_the_same_bytes_again_however_the_members_are_listed() {
        let map = bootstrap(members(5)).unwrap();
        map.check();
        assert_eq!(bootstrap(members(5)).unwrap().encode(), map.encode());
        assert_eq!(bootstrap(members(5).into_iter().rev().collect()).unwrap().encode(), map.encode());
    }

    #[test]
    fn the_first_map_gives_every_partition_its_copies_and_every_member_its_share() {
        let map = bootstrap(members(6)).unwrap();
        assert_eq!((map.epoch, map.partitions(), map.assignments.len()), (1, 16, 16));
        for assignment in &map.assignments {
            let zones: BTreeSet<_> = assignment.replicas.iter().map(|id| &map.member(*id).unwrap().zone).collect();
            assert_eq!(zones.len(), 3, "one copy in each zone");
        }
        for member in &map.members {
            let groups = map.groups_of(member.id);
            assert_eq!(groups.iter().filter(|group| **group != GroupId::MAP).count(), 16 * 3 / 6);
            assert_eq!(groups.contains(&GroupId::MAP), map.map_voters.contains(&member.id));
        }
        assert_eq!(map.map_voters.len(), 5);
        assert_eq!(map.group(GroupId::MAP), Some((&map.map_voters[..], map.map_voters[0])));
        assert_eq!(map.group(GroupId(17)), None);
    }

    #[test]
    fn bootstrap_refuses_partitions_that_are_not_a_power_of_two_in_range() {
        for partitions in [0, 3, 8192] {
            let error = Map::bootstrap(CLUSTER, partitions, 1, members(1)).unwrap_err();
            assert_eq!(error, Error::Partitions(partitions));
        }
        for partitions in [1, MAX_PARTITIONS] {
            assert_eq!(Map::bootstrap(CLUSTER, partitions, 1, members(1)).unwrap().partitions(), partitions);
        }
    }

    #[test]
    fn bootstrap_refuses_more_copies_than_members_and_members_out_of_range() {
        for (factor, count) in [(0, 3), (4, 3), (8, 9)] {
            let error = Map::bootstrap(CLUSTER, 16, factor, members(count)).unwrap_err();
            assert_eq!(error, Error::ReplicationFactor { factor, members: count as usize });
        }
        assert_eq!(bootstrap(Vec::new()), Err(Error::MemberCount(0)));
        assert_eq!(bootstrap(members(1001)), Err(Error::MemberCount(1001)));
    }

    #[test]
    fn bootstrap_refuses_members_that_share_an_id_a_name_or_an_address() {
        type Share = fn(&mut Member, &Member);
        let shared: [(&str, Share); 5] = [
            ("id", |member, other| member.id = other.id),
            ("name", |member, other| member.name.clone_from(&other.name)),
            ("client address", |member, other| member.client_address.clone_from(&other.client_address)),
            ("peer address", |member, other| member.peer_address.clone_from(&other.peer_address)),
            ("admin address", |member, other| member.admin_address.clone_from(&other.admin_address)),
        ];
        for (expected, share) in shared {
            let mut members = members(4);
            let other = members[0].clone();
            share(&mut members[3], &other);
            assert!(matches!(bootstrap(members), Err(Error::Duplicate { what, .. }) if what == expected), "{expected}");
        }
    }

    #[test]
    fn bootstrap_refuses_a_member_without_a_name_or_with_a_weight_out_of_range() {
        let broken: [fn(&mut Member); 5] = [
            |member| member.name.clear(),
            |member| member.peer_address.clear(),
            |member| member.client_address = "a".repeat(256),
            |member| member.weight = 0,
            |member| member.weight = 1001,
        ];
        for (at, break_it) in broken.into_iter().enumerate() {
            let mut members = members(3);
            break_it(&mut members[1]);
            assert!(matches!(bootstrap(members), Err(Error::Member { .. })), "{at}");
        }
    }

    #[test]
    fn a_map_is_read_back_as_it_was_written() {
        let mut map = bootstrap(members(5)).unwrap();
        map.members[1].state = MemberState::Joining;
        map.members[2].state = MemberState::Leaving;
        map.members[3].zone.clear();
        assert_eq!(Map::decode(map.encode()), Ok(map));
    }

    #[test]
    fn bytes_that_are_not_a_whole_map_are_refused() {
        let bytes = bootstrap(members(3)).unwrap().encode();
        for length in 0..bytes.len() {
            assert!(Map::decode(bytes.slice(..length)).is_err(), "cut to {length}");
        }
        assert!(Map::decode([&bytes[..], b"x"].concat().into()).is_err(), "one byte too many");
        assert!(Map::decode([b"\x03", &bytes[1..]].concat().into()).is_err(), "an unknown version");
    }
}
