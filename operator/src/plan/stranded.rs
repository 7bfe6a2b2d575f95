//! New members on nodes that went down before they ever served. Nobody in the store waits for them or replaces them, so they would
//! be waited for without end.

use super::{Gate, Wait};
use crate::model::{Member, Observed};

/// Whether one that never was a member is of no use any more: it is on a node that has been down for long enough, or its volume is
/// gone or going. Another one is made then, under another name.
pub(super) fn is_given_up(observed: &Observed, name: &str, member: &Member) -> bool {
    member.volume.as_ref().is_some_and(|volume| volume.is_deleting || volume.is_lost)
        || is_stranded_for_good(observed, name, member)
}

/// Whether its node has been down for long enough without a word from it. It holds nothing then, for certain: no status has ever
/// known its identity, and this one has known its name all the while; its claim does not say that it was a member, and it has not
/// said so itself.
pub(super) fn is_stranded_for_good(observed: &Observed, name: &str, member: &Member) -> bool {
    let replacement = &observed.cluster.spec.replacement;
    let Some(known) = observed.cluster.known.get(name) else { return false };
    let is_marked = member.volume.as_ref().is_some_and(|volume| volume.mark.is_some());
    let after_s = i64::from(replacement.after_seconds);
    let is_over = known.unheard_since_s.is_some_and(|since_s| observed.now_s.saturating_sub(since_s) >= after_s);
    replacement.max_concurrent > 0 && is_over && known.id.is_none() && !is_marked && member.is_stranded()
}

/// Why one that never was a member is waited for, if it is stranded.
pub(super) fn why(observed: &Observed, name: &str) -> Option<Wait> {
    let member = observed.members.get(name).filter(|member| member.is_stranded())?;
    let node = member.pod.as_ref().and_then(|pod| pod.node.as_deref()).unwrap_or_default();
    let replacement = &observed.cluster.spec.replacement;
    let otherwise = if replacement.max_concurrent > 0 {
        format!(
            "when that has lasted for {} s (spec.replacement.afterSeconds), another member is made in its place",
            replacement.after_seconds
        )
    } else {
        "no other is made in its place by itself, since spec.replacement.maxConcurrent is 0".to_owned()
    };
    let message = format!(
        "pod {name} is on node {node}, which is down, and has never been in the store: bring the node back, or delete the pod \
         and the claim {name}; {otherwise}"
    );
    Some(Wait::new(Gate::NodeDown, Some(name), message))
}
