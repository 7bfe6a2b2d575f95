//! Who is gone for good, and may be replaced by somebody new.

use std::collections::BTreeSet;

use annulus_client::MemberState;
use annulus_client::admin::PlannedMember;

use super::membership::staying;
use super::quorum::holders_of_lost;
use super::{Gate, Step, Wait, is_heard};
use crate::model::{Observed, Told};

/// Who is gone.
#[derive(Debug, Default)]
pub(super) struct Gone {
    /// Members whose places are to be taken by others, by name.
    pub(super) replaced: BTreeSet<String>,
    /// Why others that are gone are not replaced.
    pub(super) wait: Option<Wait>,
}

/// A member that has lost its volume is replaced at once, one that its peers have not heard of for long enough then; never more
/// at a time than the spec allows, and nobody when half of all are missing: that is no failure of members.
///
/// One that is lost while it joins has a place that is being filled already: if it waited for its turn, whoever leaves that place
/// would wait for it in vain.
pub(super) fn gone(observed: &Observed, told: &Told) -> Gone {
    let replacement = &observed.cluster.spec.replacement;
    let staying = staying(told);
    let missing = staying.iter().filter(|member| !is_heard(member)).count();
    let gone: Vec<&PlannedMember> = staying
        .iter()
        .copied()
        .filter(|member| has_lost_volume(observed, member) || is_silent(observed, member))
        .collect();
    let Some(first) = gone.first() else { return Gone::default() };
    if missing * 2 >= staying.len() {
        let message = format!(
            "{missing} of {} members are not heard by their peers; nobody is replaced while so many are missing: look at the \
             nodes and the network between them",
            staying.len()
        );
        return Gone {
            replaced: BTreeSet::new(),
            wait: Some(Wait::new(Gate::MassFailure, Some(&first.name), message)),
        };
    }
    let is_replaced = |member: &PlannedMember| !is_heard(member) || has_lost_volume(observed, member);
    let leaving = told.plan.members.iter().filter(|member| member.state == MemberState::Leaving && is_replaced(member));
    let allowed = usize::try_from(replacement.max_concurrent).unwrap_or_default();
    let allowed = allowed.saturating_sub(leaving.count());
    let (joining, mut settled): (Vec<&PlannedMember>, Vec<&PlannedMember>) =
        gone.into_iter().partition(|member| member.state == MemberState::Joining);
    // Whoever still serves, on a claim that is going, can wait for whoever does not.
    let serves = |member: &&PlannedMember| {
        is_heard(member) && observed.members.get(&member.name).is_some_and(|there| there.has_pod())
    };
    // So does whoever the store does not let go: nobody is to wait for a place that does not become free.
    let is_refused = observed.refused(Step::SET_MEMBERS).next().is_some();
    let stuck = if is_refused { holders_of_lost(observed, told) } else { BTreeSet::new() };
    settled.sort_by_key(|member| (stuck.contains(&member.id), serves(member)));
    let replaced = joining.iter().chain(settled.iter().take(allowed)).map(|member| member.name.clone()).collect();
    let wait = settled.get(allowed).map(|member| {
        let message = format!(
            "{} is gone, and spec.replacement.maxConcurrent is {}: it waits for its turn",
            member.name, replacement.max_concurrent
        );
        Wait::new(Gate::ReplacementBudget, Some(&member.name), message)
    });
    Gone { replaced, wait }
}

/// Its pod is already what the others are yet to be: if it does not come up, a new one would not either.
fn is_first_of_a_roll(observed: &Observed, template: &str) -> bool {
    let mut pods = observed.members.values().filter_map(|member| member.pod.as_ref());
    template == observed.cluster.template && pods.any(|pod| pod.template != observed.cluster.template)
}

/// Its claim is gone or going, or what was behind it.
fn has_lost_volume(observed: &Observed, member: &PlannedMember) -> bool {
    !observed.members.get(&member.name).is_some_and(|there| there.has_volume())
}

/// Nobody has heard of it for long enough, and another one in its place would do better.
fn is_silent(observed: &Observed, member: &PlannedMember) -> bool {
    let pod = observed.members.get(&member.name).and_then(|there| there.pod.as_ref());
    if pod.is_some_and(|pod| !pod.node_is_down && (pod.is_made_wrong() || is_first_of_a_roll(observed, &pod.template)))
    {
        return false;
    }
    let after_s = i64::from(observed.cluster.spec.replacement.after_seconds);
    match member.heard_ms {
        Some(ms) => ms >= u64::try_from(after_s).unwrap_or(u64::MAX).saturating_mul(1000),
        // The leader of the map has never heard of it, and may be new. The status tells since when that is so.
        None => {
            let since_s = observed.cluster.known.get(&member.name).and_then(|known| known.unheard_since_s);
            since_s.is_some_and(|since_s| observed.now_s.saturating_sub(since_s) >= after_s)
        }
    }
}
