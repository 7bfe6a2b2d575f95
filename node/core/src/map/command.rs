//! What the operator, or a person, may ask of the map, and the next map that comes of it. Pure: a map in, a map out.
//!
//! ```text
//!  Intent ─▶ fence? epoch? ─▶ members as asked ─▶ would it lose data? ─▶ retarget: solver, moves, leaders ─▶ next map
//!               │                                      │
//!               └──────────────▶ Refusal ◀─────────────┘         nothing was changed
//! ```
//!
//! A command says how things should be, never what to do: asked twice it changes nothing the second time, and asked for
//! the opposite in the middle of its moves it turns them back.

use std::collections::{BTreeMap, BTreeSet};

use super::change::Reason;
use super::planner::who_goes;
use super::{
    Assignment, Error, MAX_MAP_VOTERS, MAX_MEMBERS, Map, Member, MemberState, Reports, check_members, check_texts,
    check_zones,
};
use crate::bugs::{Bug, planted};
use crate::id::{GroupId, MemberId, PartitionId};
use crate::ring::solver;
use crate::time::Instant;

/// Most partitions that a refusal names.
pub const MAX_NAMED: usize = 16;

/// A command with what comes along with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// Who speaks: the operator's lease generation; 0 for a person. An older one than was seen before is refused.
    pub fence: u64,
    /// The map's epoch that the command was worked out from, if that matters.
    pub epoch: Option<u64>,
    /// What is asked.
    pub command: Command,
}

/// What is asked of the map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// These are to be the members: others join, those not named leave.
    Members(Vec<Desired>),
    /// Everything is to move away from this member.
    Drain(MemberId),
    /// Not any more.
    Undrain(MemberId),
    /// This member, which holds nothing, is no member any more: DELETE, and `annulus members remove --now`. (Without `--now`
    /// that states the others as the members, and the member leaves when it holds nothing.)
    Remove(MemberId),
}

/// A member as it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// Its identity.
    pub id: MemberId,
    /// Its name among people.
    pub name: String,
    /// The zone it runs in; empty when zones are not told apart.
    pub zone: String,
    /// Its share of the partitions relative to others (1 to 1000).
    pub weight: u32,
    /// `host:port` for clients.
    pub client_address: String,
    /// `host:port` for other members.
    pub peer_address: String,
    /// `host:port` for the operator.
    pub admin_address: String,
}

/// Why nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A newer operator has spoken.
    #[error(
        "the operator fence {given} is older than {highest}, the highest seen: another operator has taken over (a person \
         who means to act in its place gives {highest})"
    )]
    StaleFence {
        /// What came along.
        given: u64,
        /// The highest seen.
        highest: u64,
    },
    /// The map is not the one that the command was worked out from.
    #[error("the map has epoch {current}, and the change was meant for epoch {given}; read the map again")]
    MapChanged {
        /// What came along.
        given: u64,
        /// The epoch now.
        current: u64,
    },
    /// Another command waits to be agreed on.
    #[error("another change waits to be agreed on at this moment; look at the plan, and ask again")]
    ChangeInProgress,
    /// There is no such member.
    #[error("there is no member {0}")]
    UnknownMember(MemberId),
    /// Fewer members would be left than a partition has copies.
    #[error(
        "{left} members would be left to hold replicas, and each partition has {factor} copies; add a member first"
    )]
    TooFewMembers {
        /// How many would be left.
        left: usize,
        /// Copies of each partition.
        factor: usize,
    },
    /// The member holds replicas.
    #[error(
        "member {member} still holds {count} replicas (of {}); drain it, and wait until the plan is settled",
        named(.groups, *.count)
    )]
    HoldsReplicas {
        /// The member.
        member: MemberId,
        /// Some of the groups.
        groups: Vec<GroupId>,
        /// How many groups there are.
        count: usize,
    },
    /// Partitions have no quorum without the members that are to go.
    #[error(
        "{count} partitions ({}) have no quorum now, and members that are to leave hold copies that may be the only \
         ones with the newest data; bring a majority of their members back first",
        named(.groups, *.count)
    )]
    QuorumAtRisk {
        /// Some of the groups.
        groups: Vec<GroupId>,
        /// How many groups there are.
        count: usize,
    },
    /// The members can't be such, and why.
    #[error("{0}")]
    Invalid(String),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Invalid(error.to_string())
    }
}

fn named(groups: &[GroupId], count: usize) -> String {
    let names: Vec<String> = groups.iter().map(ToString::to_string).collect();
    let more = count - groups.len();
    let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("{}{rest}", names.join(", "))
}

/// The map that comes of what is asked, and why it changes; the map as it is when there is nothing to do.
pub fn next(map: &Map, intent: &Intent, reports: &Reports, now: Instant) -> Result<(Map, Reason), Refusal> {
    if intent.fence < map.fence {
        return Err(Refusal::StaleFence { given: intent.fence, highest: map.fence });
    }
    if let Some(given) = intent.epoch.filter(|given| *given != map.epoch) {
        return Err(Refusal::MapChanged { given, current: map.epoch });
    }
    let mut next = Map { fence: intent.fence, ..map.clone() };
    let reason = match &intent.command {
        Command::Members(desired) => desire(&mut next, desired)?,
        Command::Drain(id) => Reason::Drain(set_state(&mut next, *id, MemberState::Draining)?),
        Command::Undrain(id) => {
            let drains = next.member(*id).is_some_and(|member| member.state == MemberState::Draining);
            let state =
                if drains { MemberState::Active } else { next.member(*id).map_or(MemberState::Active, |m| m.state) };
            Reason::Undrain(set_state(&mut next, *id, state)?)
        }
        Command::Remove(id) => Reason::Remove(remove(&mut next, *id)?),
    };
    if next.members == map.members {
        return Ok((next, reason));
    }
    let left = next.candidates().len();
    if left < next.replication_factor {
        return Err(Refusal::TooFewMembers { left, factor: next.replication_factor });
    }
    check_quorums(map, &next, reports, now)?;
    // A new address moves nothing; worked out anew in the middle of moves, the targets could be others that are as good.
    if next.candidates() != map.candidates() {
        retarget(&mut next);
    }
    Ok((next, reason))
}

/// Whether these could be all members of a store, whatever its map is.
pub fn check_desired(desired: &[Desired]) -> Result<(), Error> {
    if desired.is_empty() || desired.len() > MAX_MEMBERS {
        return Err(Error::MemberCount(desired.len()));
    }
    let as_members: Vec<Member> = desired.iter().map(|desired| desired.member(MemberState::Active)).collect();
    check_members(&as_members)?;
    check_texts(&as_members)?;
    check_zones(&as_members)
}

/// Makes the members those that are desired.
fn desire(map: &mut Map, desired: &[Desired]) -> Result<Reason, Refusal> {
    check_desired(desired)?;
    let wanted: BTreeMap<MemberId, &Desired> = desired.iter().map(|desired| (desired.id, desired)).collect();
    let (mut joined, mut leaving, mut updated) = (Vec::new(), Vec::new(), Vec::new());
    for member in &mut map.members {
        let before = member.clone();
        match wanted.get(&member.id) {
            None => member.state = MemberState::Leaving,
            Some(desired) => {
                let state = if member.state == MemberState::Leaving { MemberState::Active } else { member.state };
                *member = desired.member(state);
            }
        }
        if before.state != MemberState::Leaving && member.state == MemberState::Leaving {
            leaving.push(member.name.clone());
        } else if before != *member {
            updated.push(member.name.clone());
        }
    }
    for (id, desired) in &wanted {
        if map.member(*id).is_none() {
            joined.push(desired.name.clone());
            let at = map.members.partition_point(|member| member.id < *id);
            map.members.insert(at, desired.member(MemberState::Joining));
        }
    }
    if map.members.len() > 2 * MAX_MEMBERS {
        return Err(Error::MemberCount(map.members.len()).into());
    }
    check_members(&map.members)?;
    let told = [(joined, ["joins", "join"]), (leaving, ["leaves", "leave"]), (updated, ["is changed", "are changed"])];
    let told = told.into_iter().filter(|(names, _)| !names.is_empty());
    let told: Vec<String> = told.map(|(names, what)| tell(&names, what)).collect();
    // A change all the same if the fence is a new one.
    Ok(Reason::Members(if told.is_empty() { "as they are".to_owned() } else { told.join("; ") }))
}

/// `node-4 joins`, `node-4, node-5 join`, `node-4, … and 3 more join`.
fn tell(names: &[String], [one, many]: [&str; 2]) -> String {
    const SHOWN: usize = 10;
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    let what = if names.len() == 1 { one } else { many };
    let more = names.len().saturating_sub(SHOWN);
    if more == 0 { format!("{shown} {what}") } else { format!("{shown} and {more} more {what}") }
}

impl Desired {
    fn member(&self, state: MemberState) -> Member {
        Member {
            id: self.id,
            name: self.name.clone(),
            zone: self.zone.clone(),
            weight: self.weight,
            state,
            client_address: self.client_address.clone(),
            peer_address: self.peer_address.clone(),
            admin_address: self.admin_address.clone(),
        }
    }
}

fn set_state(map: &mut Map, id: MemberId, state: MemberState) -> Result<String, Refusal> {
    let member = map.members.iter_mut().find(|member| member.id == id).ok_or(Refusal::UnknownMember(id))?;
    // A member that leaves drains already.
    if member.state != MemberState::Leaving {
        member.state = state;
    }
    Ok(member.name.clone())
}

fn remove(map: &mut Map, id: MemberId) -> Result<String, Refusal> {
    let name = map.member(id).ok_or(Refusal::UnknownMember(id))?.name.clone();
    let groups = map.groups_of(id);
    if !groups.is_empty() {
        let count = groups.len();
        return Err(Refusal::HoldsReplicas { member: id, groups: groups.into_iter().take(MAX_NAMED).collect(), count });
    }
    map.members.retain(|member| member.id != id);
    Ok(name)
}

/// Refuses to let members go of groups that have no quorum now: what they hold may be the newest that there is.
fn check_quorums(before: &Map, next: &Map, reports: &Reports, now: Instant) -> Result<(), Refusal> {
    let goes = |id: &MemberId| {
        let stayed = before.member(*id).is_some_and(Member::stays);
        stayed && !next.member(*id).is_some_and(Member::stays)
    };
    if !reports.is_informed(now) {
        // A new leader has not heard of everybody yet. The planner's gate holds back each move that could cost a quorum.
        return Ok(());
    }
    let at_risk: Vec<GroupId> = before
        .groups()
        .filter(|group| before.group(*group).is_some_and(|(voters, _)| voters.iter().any(goes)))
        .filter(|group| *group != GroupId::MAP && reports.group(now, *group).is_none())
        .collect();
    let count = at_risk.len();
    if count == 0 {
        return Ok(());
    }
    Err(Refusal::QuorumAtRisk { groups: at_risk.into_iter().take(MAX_NAMED).collect(), count })
}

/// Works out anew who is to hold what in the end, and turns the moves under way towards that.
pub fn retarget(map: &mut Map) {
    let candidates = map.candidates();
    let previous: Vec<Vec<MemberId>> = map.assignments.iter().map(|assignment| assignment.replicas.clone()).collect();
    let placement = solver::place(&previous, &candidates, map.replication_factor);
    map.targets.clear();
    let targets = placement.replicas.into_iter().zip(placement.leaders);
    for (partition, (replicas, leader)) in (0..).map(PartitionId).zip(targets) {
        let forgotten = planted(Bug::DrainForgetsPartition) && partition.0 == 0;
        let assignment = &mut map.assignments[partition.0 as usize];
        let target = Assignment { replicas, leader };
        if same(&assignment.replicas, &target.replicas) {
            *assignment = target;
        } else if !forgotten {
            map.targets.insert(partition, target);
        }
    }
    map.map_target = solver::spread(&candidates, MAX_MAP_VOTERS);
    if same(&map.map_voters, &map.map_target) {
        map.map_voters.clone_from(&map.map_target);
    }
    redirect_moves(map);
    lead_meanwhile(map);
}

/// Whether two lists have the same members.
pub(super) fn same(a: &[MemberId], b: &[MemberId]) -> bool {
    a.len() == b.len() && a.iter().all(|id| b.contains(id))
}

/// Lets each move under way go on if it leads to the target, or cancels it.
fn redirect_moves(map: &mut Map) {
    let mut moves = std::mem::take(&mut map.moves);
    for (group, moving) in &mut moves {
        let (voters, target) = (map.group(*group).expect("moves are of groups").0, map.target(*group));
        let comes = moving.add.is_none_or(|id| target.contains(&id));
        let goes = |id: &MemberId| voters.contains(id) && !target.contains(id);
        let mut wanted = *moving;
        if comes && moving.remove.is_some() {
            // The same if that is as good as any; else somebody else, or nobody.
            let mut going: Vec<MemberId> = voters.iter().copied().filter(goes).collect();
            going.sort_by_key(|id| Some(*id) != moving.remove);
            wanted.remove = match moving.add {
                Some(add) => who_goes(map, voters, &going, add),
                None => going.first().copied(),
            };
        }
        let useful = comes
            && wanted.remove.is_none_or(|id| goes(&id))
            && (wanted.add.is_some() || wanted.remove.is_some())
            && (*group == GroupId::MAP || wanted.remove.is_some());
        wanted.cancelled = !useful;
        if !useful {
            wanted.remove = moving.remove;
        }
        if wanted != *moving {
            *moving = super::Move { epoch: map.epoch + 1, ..wanted };
        }
    }
    map.moves = moves;
}

/// Says who should lead the partitions whose leader to be does not hold them yet: whoever does already if that stays, else
/// the one that stays and leads least.
pub(super) fn lead_meanwhile(map: &mut Map) {
    let mut led: BTreeMap<MemberId, usize> = BTreeMap::new();
    let mut open = Vec::new();
    for (at, assignment) in map.assignments.iter_mut().enumerate() {
        let Some(target) = map.targets.get(&PartitionId(at as u32)) else {
            *led.entry(assignment.leader).or_default() += 1;
            continue;
        };
        if assignment.replicas.contains(&target.leader) {
            assignment.leader = target.leader;
        } else if !target.replicas.contains(&assignment.leader) || !assignment.replicas.contains(&assignment.leader) {
            open.push(at);
            continue;
        }
        *led.entry(assignment.leader).or_default() += 1;
    }
    for at in open {
        let target: BTreeSet<MemberId> = map.targets[&PartitionId(at as u32)].replicas.iter().copied().collect();
        let assignment = &mut map.assignments[at];
        let (staying, going): (Vec<_>, Vec<_>) =
            assignment.replicas.iter().copied().partition(|id| target.contains(id));
        let from = if staying.is_empty() { going } else { staying };
        let least = from.into_iter().min_by_key(|id| (led.get(id).copied().unwrap_or_default(), *id));
        assignment.leader = least.expect("a partition has replicas");
        *led.entry(assignment.leader).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{bootstrap, members};
    use super::super::{MAX_PARTITIONS, Move};
    use super::*;

    fn made(count: u64) -> Map {
        bootstrap(members(count)).unwrap()
    }

    fn id(number: u64) -> MemberId {
        MemberId::new(number).unwrap()
    }

    fn ask(map: &Map, command: Command) -> Result<Map, Refusal> {
        let intent = Intent { fence: map.fence, epoch: None, command };
        next(map, &intent, &Reports::new(Instant(0), std::time::Duration::ZERO), Instant(0)).map(|(map, _)| map)
    }

    fn desired(map: &Map) -> Vec<Desired> {
        let members = map.members.iter().cloned();
        let desired =
            members.map(|Member { id, name, zone, weight, client_address, peer_address, admin_address, .. }| Desired {
                id,
                name,
                zone,
                weight,
                client_address,
                peer_address,
                admin_address,
            });
        desired.collect()
    }

    #[test]
    fn a_drain_that_is_taken_back_leaves_the_map_as_it_was() {
        let before = made(5);
        for member in 1..=5 {
            let drained = ask(&before, Command::Drain(id(member))).unwrap();
            assert!(drained.targets.values().all(|target| !target.replicas.contains(&id(member))));
            assert!(!drained.map_target.contains(&id(member)));
            assert_eq!(ask(&drained, Command::Drain(id(member))).unwrap(), drained, "asked again");
            assert_eq!(ask(&drained, Command::Undrain(id(member))).unwrap(), before);
        }
    }

    #[test]
    fn a_new_address_in_the_middle_of_moves_turns_none_of_them() {
        let mut map = ask(&made(5), Command::Drain(id(2))).unwrap();
        let (partition, target) = map.targets.first_key_value().map(|(at, target)| (*at, target.clone())).unwrap();
        let held = &map.assignments[partition.0 as usize].replicas;
        let add = target.replicas.iter().copied().find(|id| !held.contains(id));
        map.moves.insert(partition.group(), Move { add, remove: Some(id(2)), cancelled: false, epoch: 1 });
        let mut members = desired(&map);
        members[0].client_address.insert(0, '0');
        let after = ask(&map, Command::Members(members)).unwrap();
        assert_eq!((&after.targets, &after.moves, &after.assignments), (&map.targets, &map.moves, &map.assignments));
    }

    #[test]
    fn a_member_that_leaves_may_share_its_name_with_the_one_that_takes_its_place() {
        let before = made(4);
        let mut members = desired(&before);
        members[3].id = id(9);
        let after = ask(&before, Command::Members(members.clone())).unwrap();
        after.check();
        assert_eq!(after.member(id(4)).unwrap().state, MemberState::Leaving);
        assert_eq!(after.member(id(9)).unwrap().state, MemberState::Joining);
        // It can't come back while the other has its name.
        members.push(desired(&before).remove(3));
        assert!(matches!(ask(&after, Command::Members(members)), Err(Refusal::Invalid(_))));
    }

    #[test]
    fn a_refusal_names_a_few_groups_and_counts_all() {
        let map = Map::bootstrap(crate::id::ClusterId([1; 16]), MAX_PARTITIONS, 3, members(3)).unwrap();
        let refused = ask(&map, Command::Remove(id(1))).unwrap_err();
        let Refusal::HoldsReplicas { groups, count, .. } = &refused else { panic!("{refused}") };
        assert_eq!((groups.len(), *count), (MAX_NAMED, MAX_PARTITIONS as usize + 1));
        assert!(refused.to_string().contains("and 4081 more"), "{refused}");
    }
}
