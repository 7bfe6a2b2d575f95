//! The next step of the moves: which have ended, which may begin, and what the others wait for. Pure: the map and what its
//! leader has heard go in, the next map comes out.
//!
//! It never decides where replicas go (that is [`super::command::retarget`]'s), and never lets more than one voter of a
//! group change at a time. Asked about a settled map it answers nothing.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::change::Reason;
use super::command::{lead_meanwhile, same};
use super::plan::{Gate, GateKind};
use super::{Map, Member, MemberState, Move, Reports};
use crate::bugs::{Bug, planted};
use crate::id::{GroupId, MemberId};
use crate::replica::Configuration;
use crate::time::Instant;

/// Most moves that a member takes part in at once on each side: as the one that receives, or the one that sends.
pub const MOVES_PER_MEMBER: usize = 2;
/// Most moves under way at once.
pub const MOVES_AT_ONCE: usize = 64;

/// The next map, if anything has ended or may begin.
pub fn next(map: &Map, reports: &Reports, now: Instant) -> Option<(Map, Reason)> {
    if map.is_settled() {
        return None;
    }
    let mut next = map.clone();
    let (finished, cancelled) = end_moves(&mut next, reports, now);
    let message = grow_up_and_go(&mut next);
    let started = begin_moves(&mut next, reports, now);
    lead_meanwhile(&mut next);
    (next != *map).then_some((next, Reason::Moves { started, finished, cancelled, message }))
}

/// Ends the moves whose group has a final configuration that it decided under the move's epoch or a later one. What that
/// configuration is, the map now says, whatever was meant.
fn end_moves(map: &mut Map, reports: &Reports, now: Instant) -> (u32, u32) {
    let (mut finished, mut cancelled) = (0, 0);
    for (group, moving) in map.moves.clone() {
        let Some((_, report)) = reports.group(now, group) else { continue };
        let Some(voters) = final_voters(map, group, &moving, &report.configuration) else { continue };
        let target = map.target(group).to_vec();
        let before = map.group(group).map(|(voters, _)| voters.to_vec()).unwrap_or_default();
        let unchanged = same(&voters, &before);
        if unchanged && !moving.cancelled {
            // It has not begun: whoever leads the group next may still begin it.
            continue;
        }
        cancelled += u32::from(unchanged);
        finished += u32::from(!unchanged);
        let arrived = same(&voters, &target);
        let in_order = |voters: Vec<MemberId>| {
            let (mut known, rest): (Vec<_>, Vec<_>) = voters.into_iter().partition(|id| target.contains(id));
            known.sort_by_key(|id| target.iter().position(|other| other == id));
            known.into_iter().chain(rest).collect::<Vec<_>>()
        };
        match group.partition() {
            None => map.map_voters = in_order(voters),
            Some(partition) => {
                let assignment = &mut map.assignments[partition.0 as usize];
                // A move that came through after all leads away from what was right where it was.
                let target = map.targets.remove(&partition).unwrap_or_else(|| assignment.clone());
                assignment.replicas = in_order(voters);
                if arrived {
                    *assignment = target;
                } else {
                    if !assignment.replicas.contains(&assignment.leader) {
                        assignment.leader = assignment.replicas[0];
                    }
                    map.targets.insert(partition, target);
                }
            }
        }
        map.moves.remove(&group);
    }
    (finished, cancelled)
}

/// The voters that the group has come to, if that is final.
pub(super) fn final_voters(
    map: &Map,
    group: GroupId,
    moving: &Move,
    configuration: &Configuration,
) -> Option<Vec<MemberId>> {
    let is_fenced = configuration.epoch >= moving.epoch || planted(Bug::MoveEndedByStaleReport);
    let state = &configuration.state;
    let is_joint = !state.voters_outgoing.is_empty() && !planted(Bug::OldReplicaDroppedInJoint);
    if !is_fenced || is_joint || !state.learners.is_empty() || !state.learners_next.is_empty() {
        return None;
    }
    let voters: Option<Vec<MemberId>> =
        state.voters.iter().map(|id| MemberId::new(*id).filter(|id| map.member(*id).is_some())).collect();
    let is_whole = |voters: &Vec<MemberId>| group == GroupId::MAP || voters.len() == map.replication_factor;
    voters.filter(|voters| !voters.is_empty() && is_whole(voters))
}

/// Members that have all they were to get are active; members that leave and hold nothing are gone.
fn grow_up_and_go(map: &mut Map) -> String {
    let mut told = Vec::new();
    let lacks = |map: &Map, id: MemberId| {
        map.targets.iter().any(|(partition, target)| {
            target.replicas.contains(&id) && !map.assignments[partition.0 as usize].replicas.contains(&id)
        })
    };
    for at in 0..map.members.len() {
        if map.members[at].state == MemberState::Joining && !lacks(map, map.members[at].id) {
            map.members[at].state = MemberState::Active;
            told.push(format!("{} is active", map.members[at].name));
        }
    }
    let gone: Vec<Member> = map
        .members
        .iter()
        .filter(|member| member.state == MemberState::Leaving && is_idle(map, member.id))
        .cloned()
        .collect();
    for member in gone {
        map.members.retain(|other| other.id != member.id);
        told.push(format!("{} is gone", member.name));
    }
    told.join(", ")
}

fn is_idle(map: &Map, id: MemberId) -> bool {
    let to_come = map.map_target.contains(&id) || map.targets.values().any(|target| target.replicas.contains(&id));
    !to_come && map.groups_of(id).is_empty()
}

/// Begins as many moves as may be under way at once.
fn begin_moves(map: &mut Map, reports: &Reports, now: Instant) -> u32 {
    let mut slots = Slots::of(map, reports, now);
    let mut started = 0;
    for group in in_order_of_need(map, reports, now) {
        if map.moves.contains_key(&group) {
            continue;
        }
        let voters = map.group(group).map_or(&[][..], |(voters, _)| voters);
        let Some((add, remove)) = next_move(map, voters, map.target(group)) else { continue };
        if gate(map, group, add, remove, reports, now).is_some() || !slots.take(add, sender(reports, now, group)) {
            continue;
        }
        map.moves.insert(group, Move { add, remove, cancelled: false, epoch: map.epoch + 1 });
        started += 1;
    }
    started
}

/// Groups that have lost a voter come first, then the map group, then those that somebody waits for to leave.
fn in_order_of_need(map: &Map, reports: &Reports, now: Instant) -> Vec<GroupId> {
    let mut astray: Vec<GroupId> = map.groups_astray().collect();
    astray.sort_by_cached_key(|group| {
        let hurt = reports.group(now, *group).is_some_and(|(_, report)| !report.behind.is_empty());
        let voters = map.group(*group).map_or(&[][..], |(voters, _)| voters);
        let left = voters.iter().any(|id| map.member(*id).is_some_and(|member| !member.stays()));
        (!hurt, *group != GroupId::MAP, !left, *group)
    });
    astray
}

/// Who comes and who goes next in a group that is not where it is to be: so that it is spread over as many zones as it can
/// be on the way.
pub(super) fn next_move(
    map: &Map,
    voters: &[MemberId],
    target: &[MemberId],
) -> Option<(Option<MemberId>, Option<MemberId>)> {
    let going: Vec<MemberId> = voters.iter().copied().filter(|id| !target.contains(id)).collect();
    let coming = target.iter().copied().filter(|id| !voters.contains(id));
    let mut pairs = coming.map(|add| (Some(add), who_goes(map, voters, &going, add)));
    let first = pairs.next().or_else(|| going.first().map(|remove| (None, Some(*remove))))?;
    let spread = |pair: &(Option<MemberId>, Option<MemberId>)| pair_spread(map, voters, pair.0, pair.1);
    Some(pairs.fold(first, |best, pair| if spread(&pair) > spread(&best) { pair } else { best }))
}

/// Who of `going` is to go when `add` comes.
pub(super) fn who_goes(map: &Map, voters: &[MemberId], going: &[MemberId], add: MemberId) -> Option<MemberId> {
    let first = going.first().copied()?;
    let spread = |remove: MemberId| pair_spread(map, voters, Some(add), Some(remove));
    Some(going[1..].iter().fold(first, |best, id| if spread(*id) > spread(best) { *id } else { best }))
}

/// How well a group is spread when one has come and another gone: over how many zones, with how few in the fullest, and
/// whether the two are of the same zone.
fn pair_spread(
    map: &Map,
    voters: &[MemberId],
    add: Option<MemberId>,
    remove: Option<MemberId>,
) -> (usize, Reverse<usize>, bool) {
    let zone = |id: MemberId| map.member(id).map_or("", |member| member.zone.as_str());
    let stay = voters.iter().copied().filter(|id| Some(*id) != remove);
    let zones: Vec<&str> = stay.chain(add).map(zone).collect();
    let in_zone = |of: &str| zones.iter().filter(|zone| **zone == of).count();
    let distinct = (0..zones.len()).filter(|at| !zones[..*at].contains(&zones[*at])).count();
    let fullest = zones.iter().map(|zone| in_zone(zone)).max().unwrap_or_default();
    (distinct, Reverse(fullest), add.map(zone) == remove.map(zone))
}

fn sender(reports: &Reports, now: Instant, group: GroupId) -> Option<MemberId> {
    reports.group(now, group).map(|(leader, _)| leader)
}

/// What a move that has not begun waits for, apart from its turn.
pub(super) fn gate(
    map: &Map,
    group: GroupId,
    add: Option<MemberId>,
    remove: Option<MemberId>,
    reports: &Reports,
    now: Instant,
) -> Option<Gate> {
    let gate = |kind, member| Some(Gate { kind, member });
    if group != GroupId::MAP && reports.group(now, group).is_none() {
        let kind = if reports.is_informed(now) { GateKind::NoLeader } else { GateKind::NotKnownYet };
        return gate(kind, None);
    }
    if let Some(add) = add.filter(|add| !reports.is_there(now, *add)) {
        return gate(GateKind::MemberUnreachable, Some(add));
    }
    // Without the one that goes, and whoever else does not answer, a majority must be left, the one that comes included.
    let answering = reports.answering(now, map, group);
    let voters = map.group(group).map_or(0, |(voters, _)| voters.len());
    let stays =
        answering.map(|ids| ids.into_iter().filter(|id| Some(*id) != remove).count() + usize::from(add.is_some()));
    let voters_after = voters + usize::from(add.is_some()) - usize::from(remove.is_some());
    if stays.is_some_and(|stays| stays <= voters_after / 2) {
        return gate(GateKind::NoQuorum, None);
    }
    None
}

/// How many more moves each member may take part in.
pub(super) struct Slots {
    receiving: BTreeMap<MemberId, usize>,
    sending: BTreeMap<MemberId, usize>,
    left: usize,
}

impl Slots {
    pub(super) fn of(map: &Map, reports: &Reports, now: Instant) -> Self {
        let mut slots = Self { receiving: BTreeMap::new(), sending: BTreeMap::new(), left: MOVES_AT_ONCE };
        for (group, moving) in &map.moves {
            // Whoever sends to a member that is not there sends nothing, and may begin something else meanwhile.
            let sends = moving.add.is_none_or(|add| reports.is_there(now, add));
            slots.count(moving.add, sender(reports, now, *group).filter(|_| sends));
        }
        slots
    }

    fn count(&mut self, receiver: Option<MemberId>, sender: Option<MemberId>) {
        self.left = self.left.saturating_sub(1);
        receiver.inspect(|id| *self.receiving.entry(*id).or_default() += 1);
        sender.filter(|_| receiver.is_some()).inspect(|id| *self.sending.entry(*id).or_default() += 1);
    }

    /// Whether one more move may begin; then it is counted.
    pub(super) fn take(&mut self, receiver: Option<MemberId>, sender: Option<MemberId>) -> bool {
        let busy = |counts: &BTreeMap<MemberId, usize>, id: Option<MemberId>| {
            id.is_some_and(|id| counts.get(&id).copied().unwrap_or_default() >= MOVES_PER_MEMBER)
        };
        if self.left == 0 || busy(&self.receiving, receiver) || (receiver.is_some() && busy(&self.sending, sender)) {
            return false;
        }
        self.count(receiver, sender);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{bootstrap, members};
    use super::super::{MemberState, Report, command};
    use super::*;
    use crate::map::plan::Plan;
    use crate::map::report::REPORT_EVERY;
    use crate::replica::Configuration;

    fn id(number: u64) -> MemberId {
        MemberId::new(number).unwrap()
    }

    /// Members 1 to 6, of which 1 drains.
    fn draining() -> Map {
        let mut map = bootstrap(members(6)).unwrap();
        map.members[0].state = MemberState::Draining;
        command::retarget(&mut map);
        map.epoch += 1;
        map
    }

    /// Everybody reports that nothing has moved; each group is led by whom the map prefers.
    fn heard(map: &Map, now: Instant) -> Reports {
        let mut reports = Reports::new(now, REPORT_EVERY);
        for member in &map.members {
            let led = map.groups().filter(|group| map.group(*group).unwrap().1 == member.id);
            let groups = led.map(|group| {
                let voters = map.group(group).unwrap().0.iter().map(|id| id.get()).collect();
                let state = raft::eraftpb::ConfState { voters, ..Default::default() };
                let configuration = Configuration { state, epoch: 1 };
                let (behind, bytes, sent) = (Vec::new(), 0, None);
                super::super::GroupReport { group, term: 2, configuration, behind, bytes, sent }
            });
            reports.take(now, member.id, Report { epoch: map.epoch, groups: groups.collect() });
        }
        reports
    }

    #[test]
    fn nothing_happens_to_a_settled_map() {
        let map = bootstrap(members(6)).unwrap();
        assert_eq!(next(&map, &heard(&map, Instant(0)), Instant(0)), None);
        assert!(Plan::of(&map, &heard(&map, Instant(0)), Instant(0)).settled);
    }

    #[test]
    fn no_member_takes_part_in_more_moves_than_it_may() {
        let map = draining();
        let (reports, now) = (heard(&map, Instant(0)), Instant(0));
        let (planned, reason) = next(&map, &reports, now).unwrap();
        assert_eq!(
            reason,
            Reason::Moves {
                started: u32::try_from(planned.moves.len()).unwrap(),
                finished: 0,
                cancelled: 0,
                message: String::new()
            }
        );
        let mut sides: BTreeMap<(bool, MemberId), usize> = BTreeMap::new();
        for (group, moving) in &planned.moves {
            assert_eq!((moving.remove, moving.epoch), (Some(id(1)), map.epoch + 1));
            *sides.entry((true, moving.add.unwrap())).or_default() += 1;
            *sides.entry((false, reports.group(now, *group).unwrap().0)).or_default() += 1;
        }
        assert!(sides.values().all(|count| *count <= MOVES_PER_MEMBER), "{sides:?}");
        assert_eq!(next(&Map { epoch: map.epoch + 1, ..planned }, &reports, now), None, "all slots are taken");
    }

    #[test]
    fn groups_that_have_lost_a_voter_come_first_then_the_map_group() {
        let map = draining();
        let now = Instant(0);
        let mut reports = heard(&map, now);
        let hurt = *map.targets.last_key_value().unwrap().0;
        let (leader, mut report) = reports.group(now, hurt.group()).map(|(id, report)| (id, report.clone())).unwrap();
        report.behind = vec![id(1)];
        reports.take(now, leader, Report { epoch: map.epoch, groups: vec![report] });
        assert_eq!(in_order_of_need(&map, &reports, now)[..2], [hurt.group(), GroupId::MAP]);
    }

    #[test]
    fn who_comes_takes_the_place_of_one_in_its_zone_or_of_whoever_is_missed_least() {
        // Zones by number: 1 2 0 1 2 0.
        let map = bootstrap(members(6)).unwrap();
        let step = |voters: &[u64], target: &[u64]| {
            let ids = |ids: &[u64]| ids.iter().copied().map(id).collect::<Vec<_>>();
            next_move(&map, &ids(voters), &ids(target))
                .map(|(add, remove)| (add.map(MemberId::get), remove.map(MemberId::get)))
        };
        assert_eq!(step(&[1, 2, 3], &[4, 5, 3]), Some((Some(4), Some(1))));
        assert_eq!(step(&[1, 2, 3], &[5, 4, 3]), Some((Some(5), Some(2))));
        assert_eq!(step(&[1, 4, 3], &[1, 2, 3]), Some((Some(2), Some(4))));
        assert_eq!(step(&[1, 2], &[1]), Some((None, Some(2))));
        assert_eq!(step(&[1], &[1, 2]), Some((Some(2), None)));
        assert_eq!(step(&[1, 2], &[2, 1]), None);
    }
}
