//! Where a member's pod may run, and for how long it stays where it is.

use annulus_crds::storage_cluster::Spread;
use k8s_openapi::api::core::v1::{
    Affinity, PodAffinityTerm, PodAntiAffinity, Toleration, TopologySpreadConstraint, WeightedPodAffinityTerm,
};

use super::{Facts, affinity};

/// The label of a node that is its own name.
const HOSTNAME: &str = "kubernetes.io/hostname";
/// Taints of a node that Kubernetes hears nothing good of.
const NODE_LOST: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

/// Spreads members evenly over zones, and over nodes.
pub(super) fn topology_spread(facts: &Facts) -> Vec<TopologySpreadConstraint> {
    let when_unsatisfiable = match facts.spec.topology.spread {
        Spread::Preferred => "ScheduleAnyway",
        Spread::Required => "DoNotSchedule",
    };
    let over = |key: &str, taints: Option<&str>| TopologySpreadConstraint {
        label_selector: Some(facts.label_selector()),
        max_skew: 1,
        topology_key: key.to_owned(),
        when_unsatisfiable: when_unsatisfiable.to_owned(),
        node_taints_policy: taints.map(str::to_owned),
        ..TopologySpreadConstraint::default()
    };
    let zone_key = &facts.spec.topology.zone_key;
    // A zone that has only nodes that a member may not run on must not hold up the members of all others.
    let mut constraints = vec![over(zone_key, Some("Honor"))];
    // Two constraints over one key are refused.
    if zone_key != HOSTNAME {
        constraints.push(over(HOSTNAME, None));
    }
    constraints
}

/// The user's affinity, and besides that members keep apart from each other: an even spread alone lets two share a node as soon as
/// every node has one. One that can't be read counts as none; such a spec is refused before it comes here.
pub(super) fn merged_affinity(facts: &Facts) -> Affinity {
    let given = facts.spec.pod_template.affinity.as_ref();
    let mut merged = given.and_then(|value| affinity::parse(value).ok()).unwrap_or_default();
    let apart = PodAffinityTerm {
        label_selector: Some(facts.label_selector()),
        topology_key: HOSTNAME.to_owned(),
        ..PodAffinityTerm::default()
    };
    let anti = merged.pod_anti_affinity.get_or_insert_with(PodAntiAffinity::default);
    match facts.spec.topology.spread {
        Spread::Preferred => anti
            .preferred_during_scheduling_ignored_during_execution
            .get_or_insert_default()
            .push(WeightedPodAffinityTerm { pod_affinity_term: apart, weight: 100 }),
        Spread::Required => {
            anti.required_during_scheduling_ignored_during_execution.get_or_insert_default().push(apart);
        }
    }
    merged
}

/// The user's tolerations, and that a pod stays on a node that Kubernetes has lost sight of.
///
/// Left out, Kubernetes would delete the pod after five minutes. That moves nothing: a dead node never confirms it, and a pod
/// that isn't gone is in the way of another of its name. It would only end a member that has been serving all along, as soon as the
/// node is heard of again. Whether a member is gone its peers know better, and it is the operator that replaces it. A node
/// that is deleted, or marked as out of service, lets go of its pods nonetheless, so that a volume can be attached elsewhere.
///
/// Who wants it otherwise gives a toleration of the same key with seconds: the shortest counts.
pub(super) fn tolerations(facts: &Facts) -> Vec<Toleration> {
    let given = &facts.spec.pod_template.tolerations;
    let missing =
        NODE_LOST.into_iter().filter(|key| !given.iter().any(|toleration| toleration.key.as_deref() == Some(key)));
    let staying = missing.map(|key| Toleration {
        key: Some(key.to_owned()),
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        ..Toleration::default()
    });
    given.iter().cloned().chain(staying).collect()
}
