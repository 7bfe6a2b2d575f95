//! The Kubernetes API of Annulus, `annulus.dev/v1alpha1`: the types of its custom resources, and the names of everything else
//! that people and programs may rely on.
//!
//! The types are the source. What stands in `storagecluster.yaml` beside this crate, and in the chart `annulus-crds`, is made of
//! them (`cargo run -p annulus-crds`), and a test holds the two together. Rules that span fields are CEL in the schema, so that
//! the API server refuses what could never work; the operator asks them once more, because a schema can be old.

pub mod inject;
pub mod quantity;
mod schema;
pub mod storage_cluster;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

pub use storage_cluster::{StorageCluster, StorageClusterSpec, StorageClusterStatus};

/// The API group.
pub const GROUP: &str = "annulus.dev";

/// Labels that the operator puts on what it makes.
pub mod labels {
    /// The application: always [`APP`].
    pub const NAME: &str = "app.kubernetes.io/name";
    /// The name of the cluster.
    pub const INSTANCE: &str = "app.kubernetes.io/instance";
    /// Who made it: always [`MANAGER`].
    pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
    /// What it is for in the cluster.
    pub const COMPONENT: &str = "app.kubernetes.io/component";
    /// The name of the member that it belongs to.
    pub const MEMBER: &str = "annulus.dev/member";
    /// The value of [`NAME`].
    pub const APP: &str = "annulus";
    /// The value of [`MANAGED_BY`].
    pub const MANAGER: &str = "annulus-operator";
}

/// Annotations.
pub mod annotations {
    /// On a cluster: names of members, separated by commas, whose replicas are to move away while they stay members.
    pub const DRAIN: &str = "annulus.dev/drain";
    /// On a cluster: names of members, separated by commas, that leave first when it shrinks.
    pub const REMOVE: &str = "annulus.dev/remove";
    /// On a cluster: any text; another text rolls all members, one after the other.
    pub const RESTARTED_AT: &str = "annulus.dev/restarted-at";
    /// On a pod: a digest of all in the cluster's spec that a pod is made of.
    pub const TEMPLATE: &str = "annulus.dev/template";
    /// On a volume: its member has left, and it is only kept.
    pub const RETIRED: &str = "annulus.dev/retired";
    /// On a volume: the identity of the member of the store that it belongs to, or last belonged to. It tells such a volume from
    /// one that never held anything, also when the cluster's status is lost.
    pub const MEMBER_ID: &str = "annulus.dev/member-id";
    /// On the operator's Lease: the highest generation that a holder of it had. It never goes down.
    pub const GENERATION: &str = "annulus.dev/generation";
    /// On a volume and a pod: which of the cluster's members it is, counted from 1 and never used twice.
    pub const ORDINAL: &str = "annulus.dev/ordinal";
}

/// The finalizer on a cluster.
pub const FINALIZER: &str = "annulus.dev/cluster";

/// The annotation by which Helm leaves a resource where it is when its release is uninstalled. A definition takes all
/// resources of its kind along.
const KEEP: &str = "helm.sh/resource-policy";

/// The manifests of all custom resources, as YAML documents, by their files in this crate's folder.
pub fn manifests() -> Vec<(&'static str, String)> {
    vec![("storagecluster.yaml", yaml(&schema::tidied(StorageCluster::crd())))]
}

/// The same as templates of the chart `annulus-crds`, by their files in the repository. They are templates because Helm never
/// upgrades what lies in a chart's `crds/`.
pub fn chart_templates() -> Vec<(&'static str, String)> {
    let mut crd = schema::tidied(StorageCluster::crd());
    crd.metadata.annotations.get_or_insert_default().insert(KEEP.to_owned(), "keep".to_owned());
    let template = yaml(&crd);
    assert!(!template.contains("{{"), "Helm would take this for a call: a description has two braces");
    vec![("charts/annulus-crds/templates/storageclusters.yaml", template)]
}

fn yaml(crd: &CustomResourceDefinition) -> String {
    serde_yaml::to_string(crd).expect("a manifest is plain data")
}
