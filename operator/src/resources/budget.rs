//! How many members others may take down at once.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Facts;

/// Lets `allowed` of `members` be evicted at once, such as by the drain of a node. `members` are all whose pods there are.
///
/// It says how many must stay, and not how many may go. The latter is counted from the number of replicas in the spec, so while a
/// cluster shrinks from 5 to 3, "none may go" would let two go that still hold data.
///
/// A pod that is not ready counts as gone, and is evicted only while enough others are ready: its replicas may be votes that
/// a quorum needs.
pub fn budget(facts: &Facts, members: u32, allowed: u32) -> PodDisruptionBudget {
    let stay = i32::try_from(members.saturating_sub(allowed)).unwrap_or(i32::MAX);
    PodDisruptionBudget {
        metadata: facts.metadata(facts.name.clone()),
        spec: Some(PodDisruptionBudgetSpec {
            min_available: Some(IntOrString::Int(stay)),
            selector: Some(facts.label_selector()),
            unhealthy_pod_eviction_policy: Some("IfHealthyBudget".to_owned()),
            max_unavailable: None,
        }),
        status: None,
    }
}
