//! The Kubernetes objects of a cluster, made of what its spec says: values from values. Nothing here asks a server, reads a
//! clock or fails; what could be wrong in a spec is refused before (see [`affinity::parse`]).
//!
//! ```text
//!             ┌─ for each member ─▶ Pod, PersistentVolumeClaim      both named as the member is
//!  Facts ─────┤
//!             └─ once ────────────▶ Service {cluster}               clients; members that are ready
//!                                   Service {cluster}-members       the members' own addresses, ready or not
//!                                   PodDisruptionBudget {cluster}
//!                                   NetworkPolicy {cluster}         if asked for
//! ```
//!
//! All of them are applied on the server's side, so what is not said here is left as it is there. An owner reference is on all
//! but volumes, which the operator itself deletes when they may go.

pub mod affinity;
pub mod budget;
mod name;
pub mod network_policy;
pub mod pod;
mod scheduling;
pub mod services;
pub mod template;
#[cfg(test)]
mod tests;
pub mod volume;

use std::collections::BTreeMap;

use annulus_crds::{StorageCluster, StorageClusterSpec, annotations, labels};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::Resource;

pub use name::{last_of_names, member_name, new_members, was_made};

/// The port that clients reach a member at.
pub const CLIENT_PORT: i32 = 7070;
/// The port that the operator reaches a member at.
pub const ADMIN_PORT: i32 = 7071;
/// The port that other members reach a member at.
pub const PEER_PORT: i32 = 7072;

/// Who applies what. Each concern has a manager of its own, so that applying one never takes away what another has said.
pub mod field_managers {
    /// Pods and volumes.
    pub const MEMBERS: &str = "annulus-operator/members";
    /// Services, the disruption budget, and the network policy.
    pub const ACCESS: &str = "annulus-operator/access";
    /// The status of a cluster.
    pub const STATUS: &str = "annulus-operator/status";
    /// The finalizer on a cluster.
    pub const FINALIZER: &str = "annulus-operator/finalizer";
}

/// The component that pods and volumes are of, and that selectors ask for.
const MEMBER_COMPONENT: &str = "member";

/// What a cluster's objects are made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// The namespace of the cluster.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its identity in Kubernetes.
    pub uid: String,
    /// What is asked for.
    pub spec: StorageClusterSpec,
    /// The image that members run, also where the spec leaves it out.
    pub image: String,
    /// The value of [`annotations::RESTARTED_AT`].
    pub restarted_at: Option<String>,
}

/// A member, by its name and its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberName {
    /// The name of the member, its pod and its volume.
    pub name: String,
    /// Which of the cluster's members it is, counted from 1.
    pub ordinal: u64,
}

/// The labels that the pods and volumes of a cluster's members have, and no others.
fn selector(cluster: &str) -> BTreeMap<String, String> {
    owned([(labels::NAME, labels::APP), (labels::INSTANCE, cluster), (labels::COMPONENT, MEMBER_COMPONENT)])
}

/// The same as text, for lists and for the scale subresource.
pub fn selector_text(cluster: &str) -> String {
    let pairs: Vec<String> = selector(cluster).iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(",")
}

/// The labels of every object of a cluster.
fn cluster_labels(cluster: &str) -> BTreeMap<String, String> {
    owned([(labels::NAME, labels::APP), (labels::INSTANCE, cluster), (labels::MANAGED_BY, labels::MANAGER)])
}

/// The labels of a member's pod and volume.
pub fn member_labels(cluster: &str, member: &str) -> BTreeMap<String, String> {
    let mut all = cluster_labels(cluster);
    all.extend(owned([(labels::COMPONENT, MEMBER_COMPONENT), (labels::MEMBER, member)]));
    all
}

/// Where a member of a cluster is reached at one of its ports: a name, so that it stays when its pod comes back elsewhere.
pub fn member_address(cluster: &str, namespace: &str, member: &str, port: i32) -> String {
    format!("{member}.{cluster}-members.{namespace}.svc:{port}")
}

impl Facts {
    /// The name of the Service that gives each member its own address.
    pub fn members_service(&self) -> String {
        format!("{}-members", self.name)
    }

    /// Where a member is reached at one of its ports, by its name, as long as it lives.
    pub fn address(&self, member: &str, port: i32) -> String {
        member_address(&self.name, &self.namespace, member, port)
    }

    /// The labels of every object of this cluster.
    pub fn labels(&self) -> BTreeMap<String, String> {
        cluster_labels(&self.name)
    }

    /// The labels of a member's pod and volume.
    pub fn member_labels(&self, member: &str) -> BTreeMap<String, String> {
        member_labels(&self.name, member)
    }

    /// The labels that the pods and volumes of this cluster's members have, and no others.
    pub fn selector(&self) -> BTreeMap<String, String> {
        selector(&self.name)
    }

    /// The reference that has Kubernetes delete an object after its cluster.
    pub fn owner(&self) -> OwnerReference {
        OwnerReference {
            api_version: StorageCluster::api_version(&()).into_owned(),
            kind: StorageCluster::kind(&()).into_owned(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }

    fn label_selector(&self) -> LabelSelector {
        LabelSelector { match_labels: Some(self.selector()), match_expressions: None }
    }

    /// The metadata of an object that the whole cluster has one of.
    fn metadata(&self, name: String) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: Some(self.namespace.clone()),
            labels: Some(self.labels()),
            owner_references: Some(vec![self.owner()]),
            ..ObjectMeta::default()
        }
    }

    /// The metadata of a member's pod or volume, without an owner.
    fn member_metadata(&self, member: &MemberName) -> ObjectMeta {
        ObjectMeta {
            name: Some(member.name.clone()),
            namespace: Some(self.namespace.clone()),
            labels: Some(self.member_labels(&member.name)),
            annotations: Some(BTreeMap::from([(annotations::ORDINAL.to_owned(), member.ordinal.to_string())])),
            ..ObjectMeta::default()
        }
    }
}

fn owned<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// A list as Kubernetes has it: left out rather than empty.
fn unless_empty<T>(list: Vec<T>) -> Option<Vec<T>> {
    if list.is_empty() { None } else { Some(list) }
}
