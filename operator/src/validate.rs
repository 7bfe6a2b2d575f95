//! What the spec asks for and can't have. The schema refuses most of it; a schema can be old, absent, or ignorant of what there is.
//!
//! Nothing stops for it: what can't be is replaced by what is, and told.

use std::collections::BTreeMap;

use annulus_crds::{StorageClusterSpec, quantity};

use crate::model::{Member, Observed, Store};
use crate::resources::{affinity, was_made};

/// Something in the spec that does not take effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The field.
    pub field: &'static str,
    /// What is wrong, what is done instead, and what to do.
    pub message: String,
    /// Whether it holds up that the cluster becomes smaller.
    pub blocks_scale_down: bool,
}

/// Replaces what can't be, and tells.
pub fn settle(spec: &mut StorageClusterSpec, members: &BTreeMap<String, Member>, store: &Store) -> Vec<Problem> {
    let mut problems = Vec::new();
    let is_too_large = spec.replicas > annulus_crds::storage_cluster::MAX_REPLICAS;
    let mut tell = |field, message: String| {
        problems.push(Problem { field, message, blocks_scale_down: field == "spec.replicas" && !is_too_large });
    };
    if let Store::Known(told) = store {
        let factor = i32::try_from(told.ring.replication_factor).unwrap_or(i32::MAX);
        if spec.replication_factor != factor {
            tell(
                "spec.replicationFactor",
                format!("the store was made with {factor}, which can't be changed; set it back to {factor}"),
            );
            spec.replication_factor = factor;
        }
        let partitions = i32::try_from(told.ring.partitions()).unwrap_or(i32::MAX);
        if spec.partitions != partitions {
            tell(
                "spec.partitions",
                format!("the store was made with {partitions}, which can't be changed; set it back to {partitions}"),
            );
            spec.partitions = partitions;
        }
    } else {
        if !(1..=7).contains(&spec.replication_factor) {
            tell("spec.replicationFactor", format!("{} is not from 1 to 7; it counts as 3", spec.replication_factor));
            spec.replication_factor = 3;
        }
        let is_power = u32::try_from(spec.partitions).is_ok_and(u32::is_power_of_two);
        if !is_power || spec.partitions > 4096 {
            tell("spec.partitions", format!("{} is no power of two from 1 to 4096; it counts as 128", spec.partitions));
            spec.partitions = 128;
        }
    }
    if spec.replicas < spec.replication_factor {
        let factor = spec.replication_factor;
        tell(
            "spec.replicas",
            format!(
                "{} is below replicationFactor: every key is on {factor} members; it counts as {factor}",
                spec.replicas
            ),
        );
        spec.replicas = factor;
    }
    if spec.replicas > annulus_crds::storage_cluster::MAX_REPLICAS {
        let most = annulus_crds::storage_cluster::MAX_REPLICAS;
        tell("spec.replicas", format!("{} is more than {most}; it counts as {most}", spec.replicas));
        spec.replicas = most;
    }
    storage(spec, members, &mut tell);
    if let Some(Err(error)) = spec.pod_template.affinity.as_ref().map(affinity::parse) {
        tell("spec.podTemplate.affinity", format!("it is no affinity of a pod ({error}); it is left out"));
        spec.pod_template.affinity = None;
    }
    problems
}

/// Names in annotations that no member has or ever had. A member that has left may still be named: that is how it came to leave.
pub fn names(observed: &Observed) -> Option<Problem> {
    let cluster = &observed.cluster;
    // The status tells who is in the map when the store does not.
    let last = observed.members.values().map(|member| member.ordinal).max().max(Some(cluster.last_ordinal));
    let is_known = |name: &str| {
        observed.members.contains_key(name)
            || cluster.known.contains_key(name)
            || was_made(&cluster.name, &cluster.uid, last.unwrap_or_default(), name)
    };
    let named = cluster.drain.iter().map(|name| ("annotation annulus.dev/drain", name));
    let named = named.chain(cluster.remove.iter().map(|name| ("annotation annulus.dev/remove", name)));
    let (field, name) = named.into_iter().find(|(_, name)| !is_known(name))?;
    let members = observed.members.iter().filter(|(_, member)| !member.is_retired());
    let members: Vec<&str> = members.map(|(name, _)| name.as_str()).collect();
    let message =
        format!("the cluster has no member {name:?}, and never had one; its members are {}", members.join(", "));
    Some(Problem { field, message, blocks_scale_down: false })
}

fn storage(
    spec: &mut StorageClusterSpec,
    members: &BTreeMap<String, Member>,
    tell: &mut impl FnMut(&'static str, String),
) {
    let volumes = || members.values().filter_map(|member| member.volume.as_ref()).filter(|volume| !volume.is_retired);
    let largest = volumes().map(|volume| volume.requested_bytes).max().unwrap_or_default();
    match quantity::bytes(&spec.storage.size) {
        None => {
            let size = if largest > 0 { largest.to_string() } else { "10Gi".to_owned() };
            tell("spec.storage.size", format!("`{}` is no size such as 10Gi; it counts as {size}", spec.storage.size));
            spec.storage.size = size;
        }
        Some(wanted) if wanted < largest => {
            tell(
                "spec.storage.size",
                format!(
                    "{} is less than volumes have ({largest} bytes), and volumes can't shrink; set it back, or make a new cluster",
                    spec.storage.size
                ),
            );
            spec.storage.size = largest.to_string();
        }
        Some(wanted) => {
            let stuck = volumes().any(|volume| volume.requested_bytes < wanted && volume.may_grow == Some(false));
            if stuck {
                tell(
                    "spec.storage.size",
                    format!(
                        "the storage class does not let volumes grow to {}: allow it there (allowVolumeExpansion); it can't be set back, and new members get the new size",
                        spec.storage.size
                    ),
                );
            }
        }
    }
}
