//! A cluster whose store answers: mend what is missing, then state who should be a member, then drains, then clear away who has
//! left, then roll.

use annulus_client::MemberState;
use annulus_client::admin::PlannedMember;
use annulus_crds::annotations;
use annulus_crds::storage_cluster::WhenScaled;

use super::create::{discard, foreign, is_empty};
use super::membership::{self, Membership};
use super::{
    Action, Gate, Plan, Step, Wait, going, hindrance, is_heard, make_new, replace, roll, stranded, upkeep,
    why_new_is_silent,
};
use crate::model::{Member, Observed, Pod, Told, Volume};

pub(super) fn plan(observed: &Observed, told: &Told) -> Plan {
    let gone = replace::gone(observed, told);
    let membership = Membership::decide(observed, told, &gone.replaced);
    let mut plan = Plan { replacing: gone.replaced.iter().cloned().collect(), ..Plan::default() };
    mark(observed, told, &mut plan.actions);
    mend(observed, &membership, &mut plan.actions);
    make_new(observed, membership.missing, &mut plan.actions);

    let mut waits = Vec::new();
    let stated = membership.step(observed, told);
    // Whoever may hold something again may be needed by what comes next.
    plan.step = undrain(observed, told);
    if plan.step.is_none() {
        plan.step = stated.step;
    }
    let drains = drain(observed, told);
    waits.extend(stated.held.into_iter().chain(drains.as_ref().err().cloned()));
    plan.leave_held = waits.first().cloned();
    plan.step = plan.step.or_else(|| drains.unwrap_or_default());
    plan.step = plan.step.or_else(|| clear_away(observed, &membership, &mut plan.actions));
    if plan.step.is_none() {
        match roll::step(observed, told, !gone.replaced.is_empty()) {
            Ok(step) => plan.step = step,
            Err(wait) => waits.push(wait),
        }
    }
    waits.extend(gone.wait);
    waits.extend(membership.foreign.iter().map(|name| foreign(name, observed)));
    waits.extend(membership.unneeded.iter().filter_map(|name| stopping(observed, &membership, name)));
    waits.extend(membership.silent.iter().map(|name| why_new_is_silent(observed, name)));
    waits.extend(moves(told));
    waits.extend(membership::staying(told).into_iter().find_map(|member| unwell(observed, member)));
    plan.evictable = evictable(observed, told, &plan);
    plan.wait = if plan.step.is_some() { None } else { waits.into_iter().next() };
    plan
}

/// Claims of members of the map say so themselves. It comes first, since what follows may take something away, and a status can
/// be lost.
fn mark(observed: &Observed, told: &Told, actions: &mut Vec<Action>) {
    let stays = |member: &PlannedMember| member.state != MemberState::Leaving;
    for member in &told.plan.members {
        let has_heir = told.plan.members.iter().any(|other| other.name == member.name && stays(other));
        let Some(there) = observed.members.get(&member.name).filter(|there| there.has_volume()) else { continue };
        let is_marked = |volume: &Volume| volume.mark.as_deref() == Some(&*member.id.to_string());
        // One that takes its own place as another member, having lost all, shares a claim with the one that it was.
        if (stays(member) || !has_heir) && !there.volume.as_ref().is_some_and(is_marked) {
            actions.push(Action::MarkVolume { member: member.name.clone(), id: member.id });
        }
    }
}

/// Pods and volumes of everybody who is a member, or is to become one.
fn mend(observed: &Observed, membership: &Membership, actions: &mut Vec<Action>) {
    for name in &membership.kept {
        let is_fresh = membership.fresh.contains(name);
        upkeep(observed, name, is_fresh, actions);
    }
}

/// Somebody who was drained, and is not to be any more.
fn undrain(observed: &Observed, told: &Told) -> Option<Step> {
    let is_refused = observed.refused(Step::UNDRAIN).next().is_some();
    let ends = |member: &&PlannedMember| {
        member.state == MemberState::Draining && !observed.cluster.drain.contains(&member.name) && !is_refused
    };
    told.plan.members.iter().find(ends).map(|member| Step::Undrain { member: member.name.clone() })
}

/// The annotation says who is to be empty; the store is told of one at a time, and only if enough others are left.
fn drain(observed: &Observed, told: &Told) -> Result<Option<Step>, Wait> {
    let holds = |member: &&PlannedMember| matches!(member.state, MemberState::Active | MemberState::Joining);
    let holders: Vec<&PlannedMember> = told.plan.members.iter().filter(holds).collect();
    let Some(member) = holders.iter().find(|member| observed.cluster.drain.contains(&member.name)) else {
        return Ok(None);
    };
    let factor = usize::try_from(told.ring.replication_factor).unwrap_or(usize::MAX);
    if holders.len() <= factor {
        let message = format!(
            "{} is to be drained, and every key needs {factor} members: add one first, or take the annotation {} back",
            member.name,
            annotations::DRAIN
        );
        return Err(Wait::new(Gate::DrainRefused, Some(&member.name), message));
    }
    if let Some(refused) = observed.refused(Step::DRAIN).next() {
        return Err(Wait::refused(refused, &[&member.name], "is to be drained"));
    }
    Ok(Some(Step::Drain { member: member.name.clone() }))
}

/// Whoever is no member and is not to become one goes: its pod first, then its volume, or it is only kept.
fn clear_away(observed: &Observed, membership: &Membership, actions: &mut Vec<Action>) -> Option<Step> {
    let retains = observed.cluster.spec.volume_retention.when_scaled == WhenScaled::Retain;
    let mut step = None;
    for name in &membership.unneeded {
        let Some(member) = observed.members.get(name) else { continue };
        let is_fresh = membership.fresh.contains(name);
        // Nobody has ever looked into it: it may hold anything.
        let is_unknown = is_fresh && member.volume.as_ref().is_some_and(|volume| volume.is_bound);
        if member.pod.is_none() && ((retains && !is_fresh) || is_unknown) {
            if member.volume.as_ref().is_some_and(|volume| !volume.is_retired && !volume.is_deleting) {
                actions.push(Action::RetireVolume { member: name.clone() });
            }
            continue;
        }
        let holds_nothing = is_empty(member) || stranded::is_stranded_for_good(observed, name, member);
        step = step.or_else(|| discard(name, member, is_fresh && holds_nothing));
    }
    step
}

/// Somebody who is no member any more is on its way out.
fn stopping(observed: &Observed, membership: &Membership, name: &str) -> Option<Wait> {
    let member = observed.members.get(name)?;
    let what = match (&member.pod, &member.volume) {
        (Some(_), _) => "pod",
        (None, Some(volume)) if volume.is_deleting => "claim",
        (None, _) => return None,
    };
    let why = if membership.fresh.contains(name) { "is not needed" } else { "is no member any more" };
    let message = match &member.pod {
        Some(pod) => return Some(going(name, pod, format!("{name} {why}; its {what} is going"))),
        None => format!(
            "{name} {why}; its {what} is going, as soon as no pod uses it (`kubectl describe persistentvolumeclaim {name} \
             --namespace {}` tells which)",
            observed.cluster.namespace
        ),
    };
    Some(Wait::new(Gate::PodsStopping, Some(name), message))
}

/// A member that is not there: it comes back, is mended by somebody, or is replaced in its time.
fn unwell(observed: &Observed, member: &PlannedMember) -> Option<Wait> {
    let there = observed.members.get(&member.name);
    let pod = there.and_then(|there| there.pod.as_ref());
    let is_ready = there.is_some_and(Member::is_ready);
    let (gate, message) = match pod {
        Some(pod) if pod.node_is_down => (Gate::NodeDown, on_a_dead_node(observed, member, pod)),
        Some(pod) if pod.is_deleting => {
            return Some(going(&member.name, pod, format!("pod {} is stopping, and is made anew then", member.name)));
        }
        Some(_) if is_ready && is_heard(member) => return None,
        Some(_) if is_ready => (Gate::MemberBehind, format!("{} is not heard by its peers", member.name)),
        Some(pod) => {
            let why = hindrance(pod).map_or_else(|| format!("pod {} is not ready", member.name), str::to_owned);
            (Gate::MemberNotReady, why)
        }
        None => (Gate::PodNotReady, format!("{} has no pod", member.name)),
    };
    Some(Wait::new(gate, Some(&member.name), message))
}

/// Its node comes back, or another member takes its place, or nobody does.
fn on_a_dead_node(observed: &Observed, member: &PlannedMember, pod: &Pod) -> String {
    let (name, node) = (&member.name, pod.node.as_deref().unwrap_or_default());
    let replacement = &observed.cluster.spec.replacement;
    let then = if replacement.max_concurrent == 0 {
        "it is not replaced, for spec.replacement.maxConcurrent is 0".to_owned()
    } else {
        format!("it is replaced when it has not been heard of for {} s", replacement.after_seconds)
    };
    format!(
        "pod {name} is on node {node}, which is down: bring the node back, or delete it if it is gone for good; {then}"
    )
}

/// What the store itself still does.
fn moves(told: &Told) -> Option<Wait> {
    if told.plan.settled {
        return None;
    }
    let gate = told.plan.moves.iter().find_map(|planned| planned.gate.as_ref());
    let why = gate.map(|gate| format!("; the first waits: {}", gate.message)).unwrap_or_default();
    let message = format!("{} replicas are still to be moved{why}", told.plan.moves_left);
    Some(Wait::new(Gate::MovesUnderWay, None, message))
}

/// One pod may be evicted when nothing else goes on. With fewer than three replicas there is no moment at which one could go
/// without an outage; a node must be drainable all the same.
fn evictable(observed: &Observed, told: &Told, plan: &Plan) -> u32 {
    if told.ring.replication_factor < 3 {
        return 1;
    }
    let is_quiet = told.plan.settled && plan.step.is_none() && roll::next(observed, told).is_none();
    let staying = membership::staying(told);
    let is_there = |there: &Member| there.is_ready() && there.has_volume();
    let all_there =
        staying.iter().all(|member| is_heard(member) && observed.members.get(&member.name).is_some_and(is_there));
    u32::from(is_quiet && all_there)
}
