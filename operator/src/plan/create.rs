//! A cluster whose store does not answer: it is being made, or none of its members can be asked.

use super::{Gate, Plan, Step, Wait, make_new, upkeep, why_silent};
use crate::addresses;
use crate::model::{Member, Observed, Store};

pub(super) fn plan(observed: &Observed) -> Plan {
    let mut plan = Plan::default();
    let exists = observed.was_made() || matches!(observed.store, Store::Unreachable { .. });
    let members: Vec<(&String, &Member)> = observed.members.iter().filter(|(_, member)| !member.is_retired()).collect();
    for (name, _) in &members {
        // Of a store that exists nobody's volume is made anew: what is gone is replaced, when the store can be asked.
        upkeep(observed, name, !exists, &mut plan.actions);
    }
    if exists {
        plan.wait = Some(why_unreachable(observed, &members));
        return plan;
    }
    let wanted = usize::try_from(observed.cluster.spec.replicas).unwrap_or_default();
    if members.len() < wanted {
        make_new(observed, wanted - members.len(), &mut plan.actions);
    }
    if let Some((name, member)) = surplus(&members, wanted) {
        plan.step = discard(name, member, true);
        return plan;
    }
    bootstrap(observed, &members, wanted, &mut plan);
    plan
}

/// The store is made when all of its members answer, and none belongs to a store.
fn bootstrap(observed: &Observed, members: &[(&String, &Member)], wanted: usize, plan: &mut Plan) {
    let mut specs = Vec::new();
    for (name, member) in members {
        match &member.answer {
            Some(answer) if answer.cluster.is_some() => {
                plan.wait = Some(foreign(name, observed));
                return;
            }
            Some(answer) => specs.push(addresses::spec(&observed.cluster, name, answer.id, zone(member), None)),
            None => {
                plan.wait = Some(why_silent(name, Some(member)));
                return;
            }
        }
    }
    if specs.len() == wanted {
        plan.step = Some(Step::Bootstrap { members: specs });
    } else {
        plan.wait = Some(Wait::new(Gate::PodNotReady, None, "the members' pods are being made"));
    }
}

pub(super) fn zone(member: &Member) -> &str {
    member.pod.as_ref().and_then(|pod| pod.zone.as_deref()).unwrap_or_default()
}

pub(super) fn foreign(name: &str, observed: &Observed) -> Wait {
    let message = format!(
        "the volume of {name} belongs to another store than this one ({}); it is left alone: delete the pod and the claim \
         {name} if the other store needs it no more",
        observed.cluster.id
    );
    Wait::new(Gate::ForeignVolume, Some(name), message)
}

/// The last of those that are too many, before there is a store. Only one that says itself that it holds nothing may go.
fn surplus<'a>(members: &[(&'a String, &'a Member)], wanted: usize) -> Option<(&'a String, &'a Member)> {
    let last = members.iter().max_by_key(|(_, member)| member.ordinal).copied();
    last.filter(|(_, member)| {
        members.len() > wanted && (is_empty(member) || member.volume.as_ref().is_none_or(|it| it.is_deleting))
    })
}

/// Whether a node says that its volume belongs to no store.
fn is_empty(member: &Member) -> bool {
    member.answer.as_ref().is_some_and(|answer| answer.cluster.is_none())
}

/// What is next to go of somebody who is no member: the pod, then the volume. One that never was a member can only be asked whether
/// its volume is empty as long as its pod is there: so the claim goes first, and Kubernetes keeps it until the pod is gone.
pub(super) fn discard(name: &str, member: &Member, is_fresh: bool) -> Option<Step> {
    if let Some(volume) = member.volume.as_ref().filter(|volume| is_fresh && is_empty(member) && !volume.is_deleting) {
        return Some(Step::DiscardVolume { member: name.to_owned(), uid: volume.uid.clone() });
    }
    match (&member.pod, &member.volume) {
        (Some(pod), _) if pod.is_deleting && !pod.node_is_down => None,
        (Some(pod), _) => {
            Some(Step::DiscardPod { member: name.to_owned(), uid: pod.uid.clone(), at_once: pod.node_is_down })
        }
        (None, Some(volume)) if !volume.is_deleting => {
            Some(Step::DiscardVolume { member: name.to_owned(), uid: volume.uid.clone() })
        }
        (None, _) => None,
    }
}

fn why_unreachable(observed: &Observed, members: &[(&String, &Member)]) -> Wait {
    let answered: Vec<_> = members.iter().filter(|(_, member)| member.answer.is_some()).collect();
    let all_empty = answered.iter().all(|(_, member)| member.answer.as_ref().is_some_and(|it| it.cluster.is_none()));
    if !members.is_empty() && answered.len() == members.len() && all_empty {
        let message = format!(
            "the store was made, and every member has come back with an empty volume: its data is gone. It is not made anew \
             under the same identity ({}); restore the volumes, or delete this resource and create it again",
            observed.cluster.id
        );
        return Wait::new(Gate::StoreLost, None, message);
    }
    if let Some((name, member)) = members.iter().find(|(_, member)| member.answer.is_none()) {
        let wait = why_silent(name, Some(member));
        return Wait::new(
            Gate::StoreUnreachable,
            Some(name),
            format!("no leader of the map answers; {}", wait.message),
        );
    }
    let reason = match &observed.store {
        Store::Unreachable { reason } => reason.as_str(),
        Store::None | Store::Known(_) => "no member that belongs to it answers",
    };
    Wait::new(Gate::StoreUnreachable, None, format!("the leader of the map can't be asked: {reason}"))
}
