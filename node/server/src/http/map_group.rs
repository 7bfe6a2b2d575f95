//! Asks the map group, and says what stands in the way when it refuses.

use annulus_core::id::GroupId;
use annulus_core::lane::{self, Changed, Operation, Reply};
use annulus_core::map::{Command, Intent, Refusal};
use serde_json::Value;

use super::edge::Edge;
use super::headers::Headers;
use super::problem::{Kind, Problem};
use crate::router::Router;

/// Asks the leader of the map group, wherever it is.
pub(super) async fn ask<R: Router>(edge: &Edge<R>, operation: Operation) -> Result<Reply, Problem> {
    // Before bootstrap there is nobody to ask.
    drop(edge.map()?);
    Ok(edge.router.submit(GroupId::MAP, operation, edge.timeout(None)?).await)
}

/// Has the map changed.
pub(super) async fn change<R: Router>(
    edge: &Edge<R>,
    headers: &Headers<'_>,
    epoch: Option<u64>,
    command: Command,
) -> Result<Changed, Problem> {
    let intent = Intent { fence: headers.operator_fence()?, epoch, command };
    match ask(edge, Operation::ChangeMap(intent)).await? {
        Reply::Changed(Ok(changed)) => Ok(changed),
        Reply::Changed(Err(refusal)) => Err(refused(&refusal)),
        reply => Err(unanswered(&reply)),
    }
}

/// The problem behind a reply of the map group that is not the answer to what was asked.
pub(super) fn unanswered(reply: &Reply) -> Problem {
    use lane::Refusal::{Busy, DiskFull, NoReplica, NotLeader, TimedOut};
    match reply {
        Reply::OutcomeUnknown => Problem::new(
            Kind::OutcomeUnknown,
            "the leader of the map was lost or did not answer in time; look at `GET /admin/v1/plan` for what the map is \
             now, or ask for the same again: what has happened already changes nothing",
        ),
        Reply::Refused(NoReplica) => Problem::temporary(
            Kind::NoLeader,
            "this node is not a member of its store any more, and can't reach the map's leader; ask a member; nothing was changed",
        ),
        Reply::Refused(NotLeader { .. }) => Problem::temporary(
            Kind::NoLeader,
            "no leader of the map could be reached in time, which needs a majority of the members that vote on it; \
             nothing was changed",
        ),
        Reply::Refused(TimedOut) => {
            Problem::temporary(Kind::TimedOut, "the leader of the map did not answer in time; nothing was changed")
        }
        Reply::Refused(Busy) => {
            Problem::temporary(Kind::Overloaded, "the map has more waiting than it can take; nothing was changed")
        }
        Reply::Refused(DiskFull) => Problem::temporary(
            Kind::DiskFull,
            "a member that must store the map has no room on its disk; nothing was changed",
        ),
        _ => Problem::new(Kind::Internal, "the answer was for another kind of request"),
    }
}

fn refused(refusal: &Refusal) -> Problem {
    let detail = format!("{refusal}; nothing was changed");
    match refusal {
        Refusal::StaleFence { given, highest } => {
            Problem::new(Kind::StaleFence, detail).with("given", *given).with("highest", *highest)
        }
        Refusal::MapChanged { given, current } => {
            Problem::new(Kind::MapChanged, detail).with("given", *given).with("current", *current)
        }
        Refusal::ChangeInProgress => Problem::temporary(Kind::ChangeInProgress, detail),
        Refusal::UnknownMember(member) => Problem::new(Kind::UnknownMember, detail).with("member", member.to_string()),
        Refusal::TooFewMembers { left, factor } => {
            Problem::new(Kind::TooFewMembers, detail).with("left", *left).with("replication_factor", *factor)
        }
        Refusal::HoldsReplicas { member, groups, count } => {
            let problem = Problem::new(Kind::MemberHoldsReplicas, detail).with("member", member.to_string());
            with_groups(problem, groups, *count)
        }
        Refusal::QuorumAtRisk { groups, count } => {
            with_groups(Problem::new(Kind::QuorumAtRisk, detail), groups, *count)
        }
        Refusal::Invalid(_) => Problem::new(Kind::InvalidMembers, detail),
    }
}

/// `partitions` names some, `map_group` says whether the map group is among them, and `groups` counts all.
fn with_groups(problem: Problem, groups: &[GroupId], count: usize) -> Problem {
    let partitions = groups.iter().filter_map(|group| group.partition());
    let partitions: Vec<Value> = partitions.map(|partition| partition.0.into()).collect();
    problem.with("partitions", partitions).with("map_group", groups.contains(&GroupId::MAP)).with("groups", count)
}
