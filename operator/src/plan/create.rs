//! A cluster whose store does not answer: it is being made, or none of its members can be asked.

use super::{Gate, Plan, Step, Wait, make_new, stranded, upkeep, why_new_is_silent, why_silent};
use crate::addresses;
use crate::model::{Member, Observed, Store};

pub(super) fn plan(observed: &Observed) -> Plan {
    let mut plan = Plan::default();
    let exists = observed.was_made() || matches!(observed.store, Store::Unreachable { .. });
    let members: Vec<(&String, &Member)> = observed.members.iter().filter(|(_, member)| !member.is_retired()).collect();
    if exists {
        for (name, _) in &members {
            // Nobody's volume is made anew: what is gone is replaced, when the store can be asked.
            upkeep(observed, name, false, &mut plan.actions);
        }
        plan.wait = Some(why_unreachable(observed, &members));
        return plan;
    }
    let (given_up, members) = given_up(observed, members);
    for (name, _) in &members {
        upkeep(observed, name, true, &mut plan.actions);
    }
    let wanted = usize::try_from(observed.cluster.spec.replicas).unwrap_or_default();
    if members.len() < wanted {
        make_new(observed, wanted - members.len(), &mut plan.actions);
    }
    let next = given_up.iter().find_map(|(name, member)| discard(name, member, true));
    if next.is_some() {
        plan.step = next;
        return plan;
    }
    if let Some((name, member)) = surplus(&members, wanted) {
        plan.step = discard(name, member, is_empty(member));
        return plan;
    }
    bootstrap(observed, &members, wanted, &mut plan);
    plan
}

type Members<'a> = Vec<(&'a String, &'a Member)>;

/// Those that can't become members any more, and the others. As long as those that do not say that they are empty could be a
/// quorum of anything, the store might have been made of them just now, and been told of to nobody.
fn given_up<'a>(observed: &Observed, members: Members<'a>) -> (Members<'a>, Members<'a>) {
    let factor = usize::try_from(observed.cluster.spec.replication_factor).unwrap_or_default();
    let could_hold = members.iter().filter(|(_, member)| !is_empty(member)).count() > factor / 2;
    let is_given_up = |(name, member): &(&String, &Member)| {
        let is_going = member.volume.as_ref().is_some_and(|volume| volume.is_deleting);
        is_going || (!could_hold && stranded::is_given_up(observed, name, member))
    };
    members.into_iter().partition(is_given_up)
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
                plan.wait = Some(why_new_is_silent(observed, name));
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
pub(super) fn is_empty(member: &Member) -> bool {
    member.answer.as_ref().is_some_and(|answer| answer.cluster.is_none())
}

/// What is next to go of somebody who is no member: the pod, then the volume. That one holds nothing can only be told as long as its
/// pod is there: so its claim goes first, and Kubernetes keeps it until the pod is gone.
pub(super) fn discard(name: &str, member: &Member, holds_nothing: bool) -> Option<Step> {
    let volume = member.volume.as_ref().filter(|volume| holds_nothing && member.pod.is_some() && !volume.is_deleting);
    if let Some(volume) = volume {
        return Some(Step::DiscardVolume { member: name.to_owned(), uid: volume.uid.clone() });
    }
    match (&member.pod, &member.volume) {
        (Some(pod), _) if pod.is_deleting && (!pod.node_is_down || pod.is_let_go) => None,
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
    let gone = gone(observed);
    let answered: Vec<_> = members.iter().filter(|(_, member)| member.answer.is_some()).collect();
    let all_empty = answered.iter().all(|(_, member)| is_empty(member));
    if !members.is_empty() && answered.len() == members.len() && all_empty {
        let message = format!(
            "the store was made, and every member has come back with an empty volume: its data is gone{gone}. It is not made \
             anew under the same identity ({}); restore the volumes, or delete this resource and create it again",
            observed.cluster.id
        );
        return Wait::new(Gate::StoreLost, None, message);
    }
    if let Some((name, member)) = members.iter().find(|(_, member)| member.answer.is_none()) {
        let message = format!("no leader of the map answers; {}{gone}", why_silent(name, Some(member)).message);
        return Wait::new(Gate::StoreUnreachable, Some(name), message);
    }
    let reason = match &observed.store {
        Store::Unreachable { reason } => reason.as_str(),
        Store::None | Store::Known(_) => "no member that belongs to it answers",
    };
    Wait::new(Gate::StoreUnreachable, None, format!("the leader of the map can't be asked: {reason}{gone}"))
}

/// Most names in a message.
const NAMED: usize = 8;

/// A sentence on members that only the status knows.
fn gone(observed: &Observed) -> String {
    let was_member = observed.cluster.known.iter().filter(|(_, known)| known.id.is_some() && !known.has_left);
    let gone: Vec<&str> =
        was_member.map(|(name, _)| name.as_str()).filter(|name| !observed.members.contains_key(*name)).collect();
    if gone.is_empty() {
        return String::new();
    }
    let more = gone.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!(
        "; neither pod nor claim is left of {}{more}: restore those claims if there still are their volumes; who is gone is \
         replaced when a quorum of the others answers",
        gone.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ")
    )
}
