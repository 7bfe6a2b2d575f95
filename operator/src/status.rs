//! What the resource says of itself: a pure function of what was observed and planned.
//!
//! Nothing in it changes by itself: a status that says the same is not written, so that no write makes the next round begin.

use std::collections::BTreeMap;

use annulus_client::admin::PlannedMember;
use annulus_client::{MemberState, state_text};
use annulus_crds::StorageClusterStatus;
use annulus_crds::storage_cluster::{MemberStatus, PlanStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use crate::inject::sidecars;
use crate::model::{Member, Observed, Told, TroubleKind};
use crate::plan::{Action, Passes, Plan, Step, at_risk, is_heard, last_ordinal};
use crate::validate::Problem;

/// The status after a round.
pub fn status(
    observed: &Observed,
    plan: &Plan,
    problems: &[Problem],
    failure: Option<&str>,
    before: &StorageClusterStatus,
) -> StorageClusterStatus {
    let told = observed.told();
    let members = members(observed, told, before);
    let ready = members.iter().filter(|member| member.ready && told.is_some()).count();
    let replicas = observed.members.values().filter(|member| !member.is_retired()).count();
    let epoch = told.map(|told| i64::try_from(told.plan.epoch).unwrap_or(i64::MAX));
    let mut status = StorageClusterStatus {
        observed_generation: observed.cluster.generation,
        phase: phase(observed, plan, problems, failure).to_owned(),
        replicas: i32::try_from(replicas).unwrap_or(i32::MAX),
        ready_replicas: i32::try_from(ready).unwrap_or(i32::MAX),
        selector: crate::resources::selector_text(&observed.cluster.name),
        cluster_id: before.cluster_id.clone().or_else(|| told.map(|_| observed.cluster.uid.clone())),
        map_epoch: epoch.or(before.map_epoch),
        ring: match told {
            None => "Unknown",
            Some(told) if told.plan.settled => "Balanced",
            Some(_) => "Moving",
        }
        .to_owned(),
        image: Some(observed.cluster.image.clone()),
        last_ordinal: i64::try_from(numbered(plan, failure).max(last_ordinal(observed))).unwrap_or(i64::MAX),
        members,
        plan: plan_status(plan, told, failure),
        sidecars: sidecars::status(&observed.sidecars, sidecars::VERSION),
        conditions: Vec::new(),
    };
    status.conditions = conditions(observed, plan, problems, failure, &status, before);
    status
}

/// The highest number that members were made with in this round: what is written here is not to take back what was written down
/// before they were made.
fn numbered(plan: &Plan, failure: Option<&str>) -> u64 {
    let made = plan.actions.iter().filter_map(|action| match action {
        Action::CreateVolume { ordinal, .. } => Some(*ordinal),
        _ => None,
    });
    made.max().filter(|_| failure.is_none()).unwrap_or_default()
}

fn phase(observed: &Observed, plan: &Plan, problems: &[Problem], failure: Option<&str>) -> &'static str {
    if observed.cluster.deleting {
        return "Deleting";
    }
    if observed.cluster.spec.paused {
        return "Paused";
    }
    if failure.is_some() {
        return "Failing";
    }
    let Some(told) = observed.told() else {
        return if observed.was_made() { "Unreachable" } else { "Creating" };
    };
    let wanted = usize::try_from(observed.cluster.spec.replicas).unwrap_or_default();
    let stay = told.plan.members.iter().filter(|member| member.state != MemberState::Leaving).count();
    let rolls = observed
        .members
        .values()
        .any(|member| member.pod.as_ref().is_some_and(|pod| pod.template != observed.cluster.template));
    if !plan.replacing.is_empty() {
        "Replacing"
    } else if stay != wanted {
        "Scaling"
    } else if !told.plan.settled {
        "Moving"
    } else if rolls {
        "Rolling"
    } else if !problems.is_empty() {
        "Invalid"
    } else if !plan.is_empty() {
        "Mending"
    } else if plan.wait.is_some() {
        "Waiting"
    } else {
        "Running"
    }
}

fn members(observed: &Observed, told: Option<&Told>, before: &StorageClusterStatus) -> Vec<MemberStatus> {
    let mut in_map: BTreeMap<&str, &PlannedMember> = BTreeMap::new();
    for member in told.iter().flat_map(|told| &told.plan.members) {
        // One that takes another's place has its name; the one that stays is the one that people mean.
        let known = in_map.entry(&member.name).or_insert(member);
        if known.state == MemberState::Leaving {
            *known = member;
        }
    }
    let there = observed.members.iter().filter(|(_, member)| !member.is_retired()).map(|(name, _)| name.as_str());
    // While nobody can tell the map, its members are those that it had: also those of which nothing is left.
    let may_be_gone = told.is_none() && !observed.cluster.deleting;
    let remembered = before.members.iter().filter(|known| may_be_gone && !known.id.is_empty() && known.state != "Left");
    let remembered = remembered.map(|known| known.name.as_str());
    let mut names: Vec<&str> = there.chain(in_map.keys().copied()).chain(remembered).collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(|name| member(observed, name, in_map.get(name).copied(), told.is_some(), before)).collect()
}

fn member(
    observed: &Observed,
    name: &str,
    in_map: Option<&PlannedMember>,
    knows_map: bool,
    before: &StorageClusterStatus,
) -> MemberStatus {
    let empty = Member::default();
    let there = observed.members.get(name).unwrap_or(&empty);
    let known = before.members.iter().find(|member| member.name == name);
    let pod = there.pod.as_ref();
    let silent_since = || known.and_then(|known| known.unheard_since.clone());
    let was_member =
        known.is_some_and(|known| !known.id.is_empty()) || there.volume.as_ref().is_some_and(|it| it.mark.is_some());
    let unheard = match in_map {
        Some(member) => Some(!is_heard(member)),
        // Nobody listens for one that is not in the store yet.
        None if !was_member => Some(there.is_stranded()),
        None => knows_map.then_some(false),
    };
    let now = Timestamp::from_second(observed.now_s).map(|now| now.to_string()).ok();
    MemberStatus {
        name: name.to_owned(),
        // Whoever once was in the map is not forgotten when it leaves: its volume is not an empty one.
        id: in_map
            .map(|member| member.id.to_string())
            .or_else(|| known.map(|known| known.id.clone()))
            .unwrap_or_default(),
        zone: in_map
            .map(|member| member.zone.clone())
            .filter(|zone| !zone.is_empty())
            .or_else(|| pod.and_then(|pod| pod.zone.clone()))
            .unwrap_or_default(),
        node: pod.and_then(|pod| pod.node.clone()).unwrap_or_default(),
        state: state(in_map, there, knows_map, known).to_owned(),
        version: there
            .answer
            .as_ref()
            .and_then(|answer| answer.other.get("version")?.as_str())
            .unwrap_or_default()
            .to_owned(),
        ready: there.is_ready(),
        replicas: in_map.map_or(0, |member| i64::try_from(member.replicas).unwrap_or(i64::MAX)),
        leaders: in_map.map_or(0, |member| i64::try_from(member.leads).unwrap_or(i64::MAX)),
        message: hindrance(there).map(|(_, text)| text.to_owned()).unwrap_or_default(),
        unheard_since: match unheard {
            Some(true) => silent_since().or(now),
            Some(false) => None,
            None => silent_since(),
        },
    }
}

/// What is said of a member whose claim somebody deletes.
const GOES: &str = "its claim is being deleted, and what it holds is gone when its pod ends: another member takes its place; keep its pod until then";

/// Whether somebody deletes the claim of one that is in the store.
fn goes(there: &Member) -> bool {
    there.is_in_a_store() && there.volume.as_ref().is_some_and(|volume| volume.is_deleting)
}

/// What hinders a member: a reason, and the same in words. A pod that no node takes for want of its volume is told by the volume.
fn hindrance(there: &Member) -> Option<(&'static str, &str)> {
    if goes(there) {
        return Some(("VolumeDeleting", GOES));
    }
    let of_volume = there.volume.as_ref().and_then(|volume| volume.trouble.as_deref());
    let of_volume = of_volume.map(|text| ("VolumeNotBound", text));
    match there.pod.as_ref().and_then(|pod| pod.trouble.as_ref()) {
        Some(trouble) if trouble.kind != TroubleKind::Unschedulable => Some((trouble.kind.name(), &trouble.text)),
        Some(trouble) => of_volume.or(Some((trouble.kind.name(), &trouble.text))),
        None => of_volume,
    }
}

fn state(
    in_map: Option<&PlannedMember>,
    there: &Member,
    knows_map: bool,
    known: Option<&MemberStatus>,
) -> &'static str {
    match in_map {
        Some(member) if !is_heard(member) && member.state != MemberState::Leaving => "Unreachable",
        Some(member) => match state_text(member.state) {
            "joining" => "Joining",
            "leaving" => "Leaving",
            "draining" if member.replicas == 0 => "Drained",
            "draining" => "Draining",
            _ => "Active",
        },
        None if known.is_some_and(|known| known.state == "Left") => "Left",
        None if !knows_map && known.is_some_and(|known| !known.id.is_empty()) => "Unreachable",
        None if known.is_some_and(|known| !known.id.is_empty()) => "Left",
        None if there.answer.is_some() => "Joining",
        None => "Creating",
    }
}

fn plan_status(plan: &Plan, told: Option<&Told>, failure: Option<&str>) -> Option<PlanStatus> {
    let moves_left = told.map_or(0, |told| i64::try_from(told.plan.moves_left).unwrap_or(i64::MAX));
    let bytes_left = told.map_or(0, |told| two_digits(told.plan.bytes_left));
    let wait = plan.wait.as_ref();
    if plan.step.is_none() && wait.is_none() && failure.is_none() && moves_left == 0 {
        return None;
    }
    let member = plan.step.as_ref().and_then(Step::member).or(wait.and_then(|wait| wait.member.as_deref()));
    let message = match (failure, wait, &plan.step) {
        (Some(failure), ..) => failure.to_owned(),
        (None, Some(wait), _) => wait.message.clone(),
        (None, None, Some(step)) => said(step),
        (None, None, None) => String::new(),
    };
    Some(PlanStatus {
        step: plan.step.as_ref().map(Step::name).unwrap_or_default().to_owned(),
        member: member.unwrap_or_default().to_owned(),
        gate: wait.map(|wait| wait.gate.name()).unwrap_or_default().to_owned(),
        message,
        moves_left,
        bytes_left,
    })
}

/// A step in words.
pub fn said(step: &Step) -> String {
    match step {
        Step::Bootstrap { members } => format!("the store is made of {} members", members.len()),
        Step::SetMembers { change, .. } => format!("the store is told who its members are: {change}"),
        Step::Drain { member } => format!("everything moves away from {member}"),
        Step::Undrain { member } => format!("{member} may hold replicas again"),
        Step::Roll { member, .. } => format!("{member} hands its leaders over and is made anew"),
        Step::DiscardPod { member, .. } => format!("{member} is no member; its pod is deleted"),
        Step::DiscardVolume { member, .. } => format!("{member} is no member; its volume is deleted"),
        Step::StopPods { pods } => format!("{} pods are stopped: the cluster is being deleted", pods.len()),
        Step::Finish => "nothing is left of the cluster but volumes that are kept".to_owned(),
    }
}

/// A size that does not change with every byte.
fn two_digits(bytes: u64) -> i64 {
    let mut unit = 1_u64;
    while bytes / unit >= 100 {
        unit = unit.saturating_mul(10);
    }
    i64::try_from(bytes.div_ceil(unit).saturating_mul(unit)).unwrap_or(i64::MAX)
}

struct Says {
    kind: &'static str,
    holds: Option<bool>,
    reason: &'static str,
    message: String,
}

fn conditions(
    observed: &Observed,
    plan: &Plan,
    problems: &[Problem],
    failure: Option<&str>,
    status: &StorageClusterStatus,
    before: &StorageClusterStatus,
) -> Vec<Condition> {
    let told = observed.told();
    let (lost, last) = told.map(|told| at_risk(observed, told)).unwrap_or_default();
    let says = [
        available(observed, told, lost),
        progressing(plan, problems, failure),
        degraded(observed, status),
        match told {
            None => Says {
                kind: "RingBalanced",
                holds: None,
                reason: "Unknown",
                message: "the store can't be asked".into(),
            },
            Some(told) if told.plan.settled => Says {
                kind: "RingBalanced",
                holds: Some(true),
                reason: "Settled",
                message: "every replica is where it should be".into(),
            },
            Some(_) => Says {
                kind: "RingBalanced",
                holds: Some(false),
                reason: "Moving",
                message: "replicas are being moved".into(),
            },
        },
        quorum_at_risk(told, lost, last),
        blocked(plan, problems),
    ];
    let now = Time(Timestamp::from_second(observed.now_s).unwrap_or_default());
    says.into_iter().map(|says| condition(says, observed.cluster.generation, &now, before)).collect()
}

fn condition(says: Says, generation: i64, now: &Time, before: &StorageClusterStatus) -> Condition {
    let status = match says.holds {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    let known = before.conditions.iter().find(|known| known.type_ == says.kind && known.status == status);
    Condition {
        type_: says.kind.to_owned(),
        status: status.to_owned(),
        reason: says.reason.to_owned(),
        message: says.message,
        observed_generation: Some(generation),
        last_transition_time: known.map_or_else(|| now.clone(), |known| known.last_transition_time.clone()),
    }
}

fn available(observed: &Observed, told: Option<&Told>, lost: usize) -> Says {
    let (holds, reason, message) = match told {
        None if observed.is_ending() => (Some(false), "Deleting", "the cluster is being deleted".to_owned()),
        None if observed.was_made() => (Some(false), "Unreachable", "no member can tell the map".to_owned()),
        None => (Some(false), "NotMade", "the store is being made".to_owned()),
        Some(_) if lost > 0 => (Some(false), "QuorumLost", format!("{lost} partitions have no quorum")),
        Some(told) => {
            let is_ready = |member: &&PlannedMember| observed.members.get(&member.name).is_some_and(Member::is_ready);
            let ready = told.plan.members.iter().filter(is_ready).count();
            if ready == 0 {
                (Some(false), "NoneReady", "no member is ready".to_owned())
            } else {
                (Some(true), "Serving", "every partition has a quorum".to_owned())
            }
        }
    };
    Says { kind: "Available", holds, reason, message }
}

/// A store with one replica of everything is always at risk. It was asked for, and no member can be brought back that would change
/// it, so the condition says it and does not hold: an alert that never ends is one that nobody reads.
fn quorum_at_risk(told: Option<&Told>, lost: usize, last: usize) -> Says {
    let kind = "QuorumAtRisk";
    let Some(told) = told else {
        return Says { kind, holds: None, reason: "Unknown", message: "the store can't be asked".to_owned() };
    };
    let (holds, reason, message) = match (lost, last) {
        (0, 0) if told.ring.replication_factor == 1 => (
            false,
            "SingleReplica",
            "replicationFactor is 1: each partition is lost with its only member; it can't be raised, so what has to survive that \
             belongs into a new cluster with 3"
                .to_owned(),
        ),
        (0, 0) => (false, "Enough", "every partition can lose a replica".to_owned()),
        (0, last) => (
            true,
            "NoneToSpare",
            format!("{last} partitions can lose no further replica; bring back the members that are missing or not ready"),
        ),
        (lost, _) => (
            true,
            "QuorumLost",
            format!("{lost} partitions have no quorum and can't be read or written; bring back the members that are missing"),
        ),
    };
    Says { kind, holds: Some(holds), reason, message }
}

fn progressing(plan: &Plan, problems: &[Problem], failure: Option<&str>) -> Says {
    let kind = "Progressing";
    if let Some(failure) = failure {
        return Says { kind, holds: Some(false), reason: "Failed", message: failure.to_owned() };
    }
    if let Some(step) = &plan.step {
        return Says { kind, holds: Some(true), reason: step.name(), message: said(step) };
    }
    if let Some(problem) = problems.first() {
        let message = format!("{}: {}", problem.field, problem.message);
        return Says { kind, holds: Some(false), reason: "InvalidSpec", message };
    }
    match &plan.wait {
        Some(wait) => {
            let is_under_way = wait.gate.passes() == Passes::Soon;
            Says { kind, holds: Some(is_under_way), reason: wait.gate.name(), message: wait.message.clone() }
        }
        None => Says { kind, holds: Some(false), reason: "Settled", message: "there is nothing to do".to_owned() },
    }
}

fn degraded(observed: &Observed, status: &StorageClusterStatus) -> Says {
    let kind = "Degraded";
    let stays = |member: &MemberStatus| !observed.members.get(&member.name).is_some_and(goes);
    let well = |member: &&MemberStatus| {
        member.state == "Left" || (member.ready && member.state != "Unreachable" && stays(member))
    };
    let unwell: Vec<&MemberStatus> = status.members.iter().filter(|member| !well(member)).collect();
    let there = status.members.iter().filter(|member| member.state != "Left").count();
    let wanted = usize::try_from(observed.cluster.spec.replicas).unwrap_or_default();
    let Some(first) = unwell.first() else {
        if there < wanted && !observed.cluster.deleting {
            let message = format!("there are {there} of {wanted} members");
            return Says { kind, holds: Some(true), reason: "MembersMissing", message };
        }
        return Says { kind, holds: Some(false), reason: "AllWell", message: "every member is ready".to_owned() };
    };
    let told_of = unwell.iter().find(|member| !member.message.is_empty()).unwrap_or(first);
    let why = if told_of.message.is_empty() {
        format!("{} is {}", told_of.name, told_of.state)
    } else {
        told_of.message.clone()
    };
    let message = format!("{} of {} members are not ready: {why}", unwell.len(), status.members.len());
    let reason = match observed.members.get(&told_of.name).and_then(hindrance) {
        Some((reason, _)) => reason,
        None if observed.told().is_none() && !observed.was_made() => "Creating",
        None => "MemberNotReady",
    };
    Says { kind, holds: Some(true), reason, message }
}

fn blocked(plan: &Plan, problems: &[Problem]) -> Says {
    let kind = "ScaleDownBlocked";
    if let Some(problem) = problems.iter().find(|problem| problem.blocks_scale_down) {
        let message = format!("{}: {}", problem.field, problem.message);
        return Says { kind, holds: Some(true), reason: "ReplicationFactor", message };
    }
    match &plan.leave_held {
        Some(wait) => Says { kind, holds: Some(true), reason: wait.gate.name(), message: wait.message.clone() },
        None => Says {
            kind,
            holds: Some(false),
            reason: "Free",
            message: "nothing holds up that the cluster becomes smaller".to_owned(),
        },
    }
}
