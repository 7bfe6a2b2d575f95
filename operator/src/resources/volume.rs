//! The volumes of members.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{Facts, MemberName};

/// The claim of a member's volume. Nobody owns it: a volume goes because the operator has seen that it may, and never because some
/// other object went.
pub fn volume(facts: &Facts, member: &MemberName) -> PersistentVolumeClaim {
    let storage = &facts.spec.storage;
    let mut metadata = facts.member_metadata(member);
    metadata.owner_references = None;
    let requests = BTreeMap::from([("storage".to_owned(), Quantity(storage.size.clone()))]);
    PersistentVolumeClaim {
        metadata,
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            resources: Some(VolumeResourceRequirements { requests: Some(requests), limits: None }),
            // An empty class would mean "no class" to Kubernetes, and turn the cluster's default off.
            storage_class_name: Some(storage.storage_class_name.clone()).filter(|class| !class.is_empty()),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}
