//! The sidecars that there are, as their pods' marks tell.

use std::collections::BTreeMap;

use annulus_crds::inject;
use annulus_crds::storage_cluster::SidecarsStatus;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{ObjectMeta, PartialObjectMeta};

use crate::caches::Cache;

/// The version of this operator, and of the sidecars that it puts into pods.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// A sidecar that is so many minor versions behind is to be replaced: an operator promises to get on with the one before.
const BEHIND: u64 = 2;
/// The pods that have not ended: those of a Job stay for long after that.
pub const RUNNING: &str = "status.phase!=Succeeded,status.phase!=Failed";
/// Longest version that is told as it is: whoever makes a pod may write there what he likes.
const LONGEST: usize = 32;
/// Versions of one cluster's sidecars that are told one by one.
const MOST_VERSIONS: usize = 16;

/// How many sidecars there are, by their version.
pub type ByVersion = BTreeMap<String, u32>;

/// The sidecars of a cluster.
pub fn of(pods: &Cache<PartialObjectMeta<Pod>>, namespace: &str, cluster: &str) -> ByVersion {
    let mut counts = ByVersion::new();
    for pod in pods.state() {
        let is_of = pod.labels().get(inject::SIDECAR).is_some_and(|name| name == cluster);
        if !is_of || pod.metadata.namespace.as_deref() != Some(namespace) {
            continue;
        }
        let version = pod.annotations().get(inject::VERSION).map(String::as_str).unwrap_or_default();
        let version = if numbers(version).is_some() && version.len() <= LONGEST { version } else { "unknown" };
        let is_told = counts.contains_key(version) || counts.len() < MOST_VERSIONS;
        *counts.entry(if is_told { version } else { "other" }.to_owned()).or_default() += 1;
    }
    counts
}

/// A pod's metadata without all that is not asked for here: there may be very many.
pub fn shorten(pod: &mut PartialObjectMeta<Pod>) {
    let all = std::mem::take(&mut pod.metadata);
    let only = |words: Option<BTreeMap<String, String>>, key: &str| {
        words.and_then(|mut words| Some(BTreeMap::from([(key.to_owned(), words.remove(key)?)])))
    };
    pod.metadata = ObjectMeta {
        name: all.name,
        namespace: all.namespace,
        uid: all.uid,
        resource_version: all.resource_version,
        labels: only(all.labels, inject::SIDECAR),
        annotations: only(all.annotations, inject::VERSION),
        ..ObjectMeta::default()
    };
}

/// What a cluster's status says of them; `None`: there is none.
pub fn status(counts: &ByVersion, own: &str) -> Option<SidecarsStatus> {
    let sum =
        |counts: &mut dyn Iterator<Item = u32>| i32::try_from(counts.fold(0, u32::saturating_add)).unwrap_or(i32::MAX);
    let total = sum(&mut counts.values().copied());
    let outdated = sum(&mut counts.iter().filter(|(version, _)| is_outdated(version, own)).map(|(_, count)| *count));
    (total > 0).then_some(SidecarsStatus { total, outdated })
}

/// Whether a sidecar of this version is too old for an operator of that one. What is no version is not judged.
pub fn is_outdated(version: &str, own: &str) -> bool {
    match (numbers(version), numbers(own)) {
        (Some((major, minor)), Some((own_major, own_minor))) => {
            major < own_major || (major == own_major && minor.saturating_add(BEHIND) <= own_minor)
        }
        _ => false,
    }
}

/// The major and the minor number of a version.
fn numbers(version: &str) -> Option<(u64, u64)> {
    let mut parts = version.split('.').map(|part| part.parse::<u64>().ok());
    Some((parts.next()??, parts.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sidecar_is_outdated_two_minor_versions_behind() {
        for (version, own, outdated) in [
            ("0.4.0", "0.4.0", false),
            ("0.3.9", "0.4.0", false),
            ("0.2.9", "0.4.0", true),
            ("0.5.0", "0.4.0", false),
            ("1.9.0", "2.0.0", true),
            ("2.0.0", "1.9.0", false),
            ("unknown", "9.9.9", false),
            ("", "9.9.9", false),
        ] {
            assert_eq!(is_outdated(version, own), outdated, "{version} {own}");
        }
    }

    #[test]
    fn the_status_counts_all_and_those_that_are_too_old() {
        let counts = ByVersion::from([("0.1.0".to_owned(), 2), ("0.4.0".to_owned(), 3), ("unknown".to_owned(), 1)]);
        assert_eq!(status(&counts, "0.4.0"), Some(SidecarsStatus { total: 6, outdated: 2 }));
        assert_eq!(status(&ByVersion::new(), "0.4.0"), None);
    }
}
