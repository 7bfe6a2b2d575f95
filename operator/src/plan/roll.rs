//! Members are made anew, one after the other, when what their pods are made of has changed.

use annulus_client::admin::PlannedMember;

use super::membership::staying;
use super::quorum::lost_without;
use super::{Gate, Step, Wait, hindrance, is_heard, is_outdated};
use crate::model::{Member, Observed, Told};

/// The next member to roll, if any is to be: those that are not ready anyway first, then by number.
pub(super) fn next<'a>(observed: &'a Observed, told: &'a Told) -> Option<(&'a PlannedMember, &'a Member)> {
    let members = told.plan.members.iter().filter_map(|member| Some((member, observed.members.get(&member.name)?)));
    let outdated = members.filter(|(_, there)| is_outdated(observed, there) && there.has_pod() && there.has_volume());
    outdated.min_by_key(|(member, there)| (there.is_ready() && is_heard(member), member.leads > 0, there.ordinal))
}

/// Rolls the next one, or says what it waits for. While somebody is being replaced nobody who may vote is taken away: it may be
/// what the new one is to be filled from.
pub(super) fn step(observed: &Observed, told: &Told, is_replacing: bool) -> Result<Option<Step>, Wait> {
    let Some((victim, there)) = next(observed, told) else { return Ok(None) };
    let Some(pod) = &there.pod else { return Ok(None) };
    let may_vote = there.is_ready() || is_heard(victim);
    if is_replacing && may_vote {
        return Ok(None);
    }
    let is_there =
        |member: &PlannedMember| is_heard(member) && observed.members.get(&member.name).is_some_and(Member::is_ready);
    // One that does not serve is not waited for, or a pod that can never start would block the change that mends it. It may vote
    // all the same, as long as its peers hear it.
    if there.is_ready() {
        if !told.plan.settled {
            let message = format!(
                "{} is rolled when all replicas are where they should be; {} are still to be moved",
                victim.name, told.plan.moves_left
            );
            return Err(Wait::new(Gate::MovesUnderWay, Some(&victim.name), message));
        }
        others_are_well(observed, told, victim)?;
        none_is_made_wrong(observed, told)?;
    }
    if told.ring.epoch < told.plan.epoch {
        let message = format!("nobody has told yet who holds what in the map of epoch {}", told.plan.epoch);
        return Err(Wait::new(Gate::MovesUnderWay, Some(&victim.name), message));
    }
    if let Some(partition) = lost_without(told, victim.id, is_there).filter(|_| may_vote) {
        let message = format!(
            "partition {partition} would have no quorum without {}; the other members that hold it have to be ready first",
            victim.name
        );
        return Err(Wait::new(Gate::QuorumAtRisk, Some(&victim.name), message));
    }
    Ok(Some(Step::Roll { member: victim.name.clone(), uid: pod.uid.clone() }))
}

/// What a pod of one that is not in the store yet already shows need not be tried on one that serves.
fn none_is_made_wrong(observed: &Observed, told: &Told) -> Result<(), Wait> {
    let is_fresh = |name: &String| told.plan.members.iter().all(|member| member.name != *name);
    let mut pods =
        observed.members.iter().filter(|(name, _)| is_fresh(name)).filter_map(|(_, there)| there.pod.as_ref());
    let wrong = pods.find(|pod| pod.is_made_wrong() && pod.template == observed.cluster.template);
    match wrong.and_then(|pod| pod.trouble.as_ref()) {
        Some(trouble) => Err(Wait::new(Gate::PodNotReady, None, format!("{}; nobody is rolled to that", trouble.text))),
        None => Ok(()),
    }
}

/// Everybody else is there: ready by its own word, and heard and up to date by its peers'.
fn others_are_well(observed: &Observed, told: &Told, victim: &PlannedMember) -> Result<(), Wait> {
    for other in staying(told).into_iter().filter(|other| other.id != victim.id) {
        let there = observed.members.get(&other.name);
        if !there.is_some_and(Member::is_ready) {
            let new = there.is_some_and(|there| !is_outdated(observed, there));
            let why = there.and_then(|there| there.pod.as_ref()).and_then(hindrance).map(str::to_owned);
            let why = why.unwrap_or_else(|| format!("pod {} is not ready", other.name));
            let what = if new { "the roll stops there until it is" } else { "the roll goes on when it is" };
            return Err(Wait::new(Gate::MemberNotReady, Some(&other.name), format!("{why}; {what}")));
        }
        if !is_heard(other) || other.epoch != Some(told.plan.epoch) {
            let message =
                format!("{} is not heard by its peers, or goes by an older map than {}", other.name, told.plan.epoch);
            return Err(Wait::new(Gate::MemberBehind, Some(&other.name), message));
        }
    }
    Ok(())
}
