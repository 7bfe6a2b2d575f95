//! What must hold of the ring: of every map that any member has applied, of every configuration that a replica acts on,
//! and of where everything is in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use annulus_core::id::{GroupId, MemberId};
use annulus_core::map::history::Event as Past;
use annulus_core::map::{Map, Reason, Reports, command, planner};
use annulus_core::replica::Replica;
use annulus_core::state::{State, TableId};
use annulus_core::time::Instant;

use super::faults::{Counters, Fault};
use super::node::Member;
use super::world::members_index;

/// Generations of a group's table that are looked at: no run gets as far.
const GENERATIONS: u32 = 60;

/// What a run has broken.
#[derive(Debug, thiserror::Error)]
pub enum Violation {
    /// A command of an operator took effect after one of a newer operator was done.
    #[error("a command under fence {fence} was done, and had been asked after one under {highest} was done")]
    OldOperatorObeyed {
        /// The command's fence.
        fence: u64,
        /// The highest that was known to be in force.
        highest: u64,
    },
    /// A command was answered with something else.
    #[error("a command was answered with {0}")]
    WrongAnswer(String),
    /// Two maps have one epoch.
    #[error("two maps have epoch {0}")]
    TwoMaps(u64),
    /// The fence fell.
    #[error("the fence fell from {before} to {after} with map {epoch}")]
    FenceFell {
        /// The map's epoch.
        epoch: u64,
        /// The fence before.
        before: u64,
        /// The fence in this map.
        after: u64,
    },
    /// Two members have led one group in one term.
    #[error("members {0} and {1} have both led {2} in term {3}")]
    TwoLeaders(usize, usize, GroupId, u64),
    /// A replica that lacks what is committed could be elected.
    #[error(
        "{group}: member {member} could be elected by {by:?}, with a log that ends at {last}, when {committed} is committed"
    )]
    Forgetful {
        /// The group.
        group: GroupId,
        /// Whose replica could lead.
        member: MemberId,
        /// Who would vote for it.
        by: Vec<u64>,
        /// Where its log ends.
        last: u64,
        /// What is known to be committed.
        committed: u64,
    },
    /// A group has other voters than the map says, although nothing of it moves.
    #[error(
        "{group} has the voters {voters:?} at entry {applied}, and map {epoch} says {wanted:?} and moves nothing of it"
    )]
    Astray {
        /// The group.
        group: GroupId,
        /// Who votes, or is about to.
        voters: Vec<u64>,
        /// The last entry that was applied then.
        applied: u64,
        /// The map's epoch.
        epoch: u64,
        /// Who should vote.
        wanted: Vec<u64>,
    },
    /// All voters of a group are there, and it would never have a leader again if one of them were lost.
    #[error("{group}: without member {lost} nobody could be elected, by what the others know: {others}")]
    Fragile {
        /// The group.
        group: GroupId,
        /// Who must not be lost.
        lost: u64,
        /// How the others stand.
        others: String,
    },
    /// The map's history does not tell how the map came about.
    #[error("the history of the map has a gap, or gives no reason: {0}")]
    History(String),
}

/// What was seen of the ring so far.
#[derive(Debug, Default)]
pub struct Ring {
    maps: BTreeMap<u64, Arc<Map>>,
    leaders: BTreeMap<(GroupId, u64), usize>,
    /// For each group, the last entry that any replica has applied, and who votes since then.
    configurations: BTreeMap<GroupId, (u64, Vec<u64>)>,
}

impl Ring {
    /// A member has applied this map.
    pub fn observe(&mut self, map: &Arc<Map>, counters: &mut Counters) -> Result<(), Violation> {
        map.check();
        if let Some(known) = self.maps.get(&map.epoch) {
            return if known == map { Ok(()) } else { Err(Violation::TwoMaps(map.epoch)) };
        }
        let (before, after) = (self.maps.range(..map.epoch).next_back(), self.maps.range(map.epoch..).next());
        let (low, high) = (before.map_or(0, |(_, map)| map.fence), after.map_or(u64::MAX, |(_, map)| map.fence));
        if !(low..=high).contains(&map.fence) {
            return Err(Violation::FenceFell { epoch: map.epoch, before: low, after: map.fence });
        }
        if let Some((_, before)) = before {
            count(before, map, counters);
        }
        self.maps.insert(map.epoch, Arc::clone(map));
        Ok(())
    }

    /// A member leads a group.
    pub fn lead(&mut self, group: GroupId, term: u64, member: usize) -> Result<(), Violation> {
        let first = *self.leaders.entry((group, term)).or_insert(member);
        if first == member { Ok(()) } else { Err(Violation::TwoLeaders(first, member, group, term)) }
    }

    /// A group's configuration is what the newest map says, unless the map moves something of it: a move has an end only
    /// when nobody can change the configuration any more by what an older map says. To be asked after each step of a member.
    pub fn check_configurations(&mut self, member: &Member, map: &Map) -> Result<(), Violation> {
        for group in map.groups() {
            let replica = member.replica(group).filter(|replica| !replica.is_blank());
            if let Some(replica) = replica {
                let (applied, voters) = self.configurations.entry(group).or_default();
                if *applied < replica.applied().index {
                    let state = &replica.configuration().state;
                    let all: BTreeSet<u64> = state.voters.iter().chain(&state.voters_outgoing).copied().collect();
                    (*applied, *voters) = (replica.applied().index, all.into_iter().collect());
                }
            }
            let Some((applied, voters)) = self.configurations.get(&group) else { continue };
            let mut wanted: Vec<u64> =
                map.group(group).map_or_else(Vec::new, |(voters, _)| voters.iter().map(|id| id.get()).collect());
            wanted.sort_unstable();
            if !map.moves.contains_key(&group) && wanted != *voters {
                let (voters, applied, epoch) = (voters.clone(), *applied, map.epoch);
                return Err(Violation::Astray { group, voters, applied, epoch, wanted });
            }
        }
        Ok(())
    }
}

/// Counts what is different.
fn count(before: &Map, after: &Map, counters: &mut Counters) {
    for (group, moving) in &after.moves {
        match before.moves.get(group) {
            None => counters.add(Fault::MoveStarted, 1),
            Some(known) => counters.add(Fault::MoveCancelled, u64::from(moving.cancelled && !known.cancelled)),
        }
    }
    let ended = before.moves.iter().filter(|(group, moving)| !after.moves.contains_key(group) && !moving.cancelled);
    counters.add(Fault::MoveFinished, ended.count() as u64);
    for member in after.members.iter().filter(|member| before.member(member.id).is_none()) {
        counters.add(Fault::MemberJoined, 1);
        let takes_name = before.members.iter().any(|other| other.name == member.name);
        counters.add(Fault::MemberReplaced, u64::from(takes_name));
    }
    let gone = before.members.iter().filter(|member| after.member(member.id).is_none());
    counters.add(Fault::MemberGone, gone.count() as u64);
}

/// The replicas of a group that run and may vote, by member.
fn voting(members: &[Member], group: GroupId) -> BTreeMap<u64, &Replica> {
    let replicas = members.iter().filter_map(|member| Some((member.id().get(), member.replica(group)?)));
    replicas.filter(|(_, replica)| replica.has_vote()).collect()
}

/// Who of those whom this replica would ask for their votes would give them, by what their logs hold; and whether that is
/// enough.
fn votes_for(replica: &Replica, replicas: &BTreeMap<u64, &Replica>) -> (Vec<u64>, bool) {
    let last = replica.last();
    let votes = |voter: &u64| {
        replicas.get(voter).is_some_and(|other| {
            let other = other.last();
            (other.term, other.index) <= (last.term, last.index)
        })
    };
    let state = &replica.configuration().state;
    let is_quorum = |voters: &[u64]| voters.iter().filter(|voter| votes(voter)).count() > voters.len() / 2;
    let is_enough = is_quorum(&state.voters) && (state.voters_outgoing.is_empty() || is_quorum(&state.voters_outgoing));
    let voters = state.voters.iter().chain(&state.voters_outgoing).copied();
    (voters.filter(votes).collect(), is_enough)
}

fn may_stand(id: u64, replica: &Replica) -> bool {
    let state = &replica.configuration().state;
    !replica.is_blank() && (state.voters.contains(&id) || state.voters_outgoing.contains(&id))
}

/// No replica that lacks an entry which is committed may be able to find the votes for its election: whatever messages are
/// lost and whoever stands still, it must not lead. Judged by what each replica that runs would do now.
pub fn check_elections(members: &[Member], map: &Map) -> Result<(), Violation> {
    map.groups().try_for_each(|group| {
        let replicas = voting(members, group);
        let committed = replicas.values().map(|replica| replica.committed()).max().unwrap_or_default();
        for (id, replica) in &replicas {
            let last = replica.last().index;
            if last >= committed || replica.applied().index < replica.committed() || !may_stand(*id, replica) {
                continue;
            }
            let (by, is_enough) = votes_for(replica, &replicas);
            if is_enough {
                let member = MemberId::new(*id).expect("ids are not 0");
                return Err(Violation::Forgetful { group, member, by, last, committed });
            }
        }
        Ok(())
    })
}

/// Whichever voter of a group that is where it is to be is lost, the others can elect a leader by what they know, though
/// they never hear from the lost one again. Judged where all of them run, and have applied what they know to be committed.
pub fn check_survival(members: &[Member], map: &Map) -> Result<(), Violation> {
    for group in map.groups().filter(|group| !map.moves.contains_key(group)) {
        let voters = map.group(group).map_or(&[][..], |(voters, _)| voters);
        let replicas = voting(members, group);
        let is_idle = |voter: &MemberId| {
            replicas.get(&voter.get()).is_some_and(|replica| replica.applied().index >= replica.committed())
        };
        if voters.len() < 3 || !voters.iter().all(is_idle) {
            continue;
        }
        for lost in voters {
            let mut left = replicas.clone();
            left.remove(&lost.get());
            if !left.iter().any(|(id, replica)| may_stand(*id, replica) && votes_for(replica, &left).1) {
                let show = |(id, replica): (&u64, &&Replica)| {
                    format!("{id} is at {:?} with {:?}", replica.last(), replica.configuration().state)
                };
                let others: Vec<String> = left.iter().map(show).collect();
                return Err(Violation::Fragile { group, lost: lost.get(), others: others.join("; ") });
            }
        }
    }
    Ok(())
}

/// What is not yet as it is to be in the end, if anything is.
pub fn unsettled(members: &[Member], map: &Map) -> Option<String> {
    if !map.is_settled() {
        return Some(format!("map {} is not settled: {:?}, {:?}", map.epoch, map.moves, map.members));
    }
    let mut planned = map.clone();
    command::retarget(&mut planned);
    if planned != *map || planner::next(map, &Reports::default(), Instant(0)).is_some() {
        return Some(format!("map {} would be planned otherwise: {planned:?} and not {map:?}", map.epoch));
    }
    for member in members.iter().filter(|member| member.process.is_some()) {
        let known = member.process.as_ref().and_then(|process| process.map.as_ref());
        let runs = |id: MemberId| id != member.id() && members[members_index(id)].process.is_some();
        // One that was never let in has none; one that is let go hears of it only if it knows somebody who is still there.
        let hears = |known: &Map| known.members.iter().any(|other| map.member(other.id).is_some() && runs(other.id));
        let hears = map.member(member.id()).is_some() || known.is_some_and(|known| hears(known));
        if hears && known.is_none_or(|known| known.epoch != map.epoch) {
            return Some(format!("member {} has not heard of map {}", member.index, map.epoch));
        }
        let stray = map
            .groups()
            .filter(|_| hears)
            .find(|group| !map.holds(member.id(), *group) && holds_something(member, *group));
        if let Some(group) = stray {
            return Some(format!("member {} still has something of {group}", member.index));
        }
    }
    map.groups().find_map(|group| astray(members, map, group))
}

/// How a group's replicas differ from what the map says, if they do.
fn astray(members: &[Member], map: &Map, group: GroupId) -> Option<String> {
    let (voters, _) = map.group(group)?;
    let mut wanted: Vec<u64> = voters.iter().map(|id| id.get()).collect();
    wanted.sort_unstable();
    for voter in voters {
        let Some(replica) = members[members_index(*voter)].replica(group) else {
            return Some(format!("member {voter} has no replica of {group}"));
        };
        let state = &replica.configuration().state;
        let mut found = state.voters.clone();
        found.sort_unstable();
        let others = [&state.learners, &state.voters_outgoing, &state.learners_next];
        if found != wanted || others.iter().any(|ids| !ids.is_empty()) {
            return Some(format!("{group} on member {voter} has {state:?}, and the map says {wanted:?}"));
        }
    }
    None
}

fn holds_something(member: &Member, group: GroupId) -> bool {
    let Some(lane) = member.lane(group) else { return false };
    let has_records = |generation: u32| {
        let mut found = false;
        let read = lane.state().range(TableId { group, generation }, &[], None, &mut |_, _| {
            found = true;
            std::ops::ControlFlow::Break(())
        });
        read.expect("the disk is whole");
        found
    };
    lane.replica(group).is_some() || (0..GENERATIONS).any(has_records)
}

/// The history, newest first, tells of every epoch up to the map's, and why.
pub fn check_history(events: &[Past], map: &Map) -> Result<(), Violation> {
    let broken = |what: String| Err(Violation::History(what));
    let Some(newest) = events.first() else { return broken("it is empty".to_owned()) };
    if newest.epoch != map.epoch {
        return broken(format!("it ends at {}, and the map is {}", newest.epoch, map.epoch));
    }
    for pair in events.windows(2) {
        if pair[1].epoch + 1 != pair[0].first_epoch || pair[0].first_epoch > pair[0].epoch {
            return broken(format!("{:?} after {:?}", pair[0], pair[1]));
        }
    }
    let is_dumb = |event: &&Past| match &event.reason {
        Reason::Bootstrap => event.epoch != 1,
        Reason::Members(told) => told.is_empty() && event.fence == 0,
        Reason::Drain(told) | Reason::Undrain(told) | Reason::Remove(told) => told.is_empty(),
        Reason::Moves { started, finished, cancelled, message } => {
            started + finished + cancelled == 0 && message.is_empty()
        }
    };
    events.iter().find(is_dumb).map_or(Ok(()), |event| broken(format!("{event:?}")))
}
