//! A StorageCluster as these verbs see it, and which one is meant.
//!
//! Its spec is read field by field: the resource may be of a newer version than this program, which must be able to show it
//! all the same.

use std::collections::BTreeSet;

use annulus_crds::storage_cluster::MemberStatus;
use annulus_crds::{StorageClusterStatus, annotations};
use kube::ResourceExt;
use kube::core::DynamicObject;
use serde::Serialize;
use serde_json::Value;

use crate::exit::Failure;

/// A cluster, as far as people are told of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Cluster {
    pub(super) namespace: String,
    pub(super) name: String,
    /// The version of the resource: another one means that something about it has changed.
    #[serde(skip)]
    pub(super) version: String,
    pub(super) generation: i64,
    pub(super) deleting: bool,
    pub(super) paused: bool,
    /// How many members it should have.
    pub(super) replicas: i64,
    pub(super) replication_factor: i64,
    /// Members that are to be drained, by name.
    pub(super) drain: BTreeSet<String>,
    /// `None`: the operator has not looked at it yet.
    pub(super) status: Option<StorageClusterStatus>,
}

impl Cluster {
    /// Reads a resource.
    pub(super) fn read(object: &DynamicObject) -> Result<Self, Failure> {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        let spec = &object.data["spec"];
        let number = |field: &str, default| spec[field].as_i64().unwrap_or(default);
        let status = match &object.data["status"] {
            Value::Null => None,
            status => Some(serde_json::from_value(status.clone()).map_err(|error| {
                Failure::Refused(format!(
                    "the status of StorageCluster {namespace}/{name} can't be read: {error}.\n  It may be that of a newer \
                     operator: update this program."
                ))
            })?),
        };
        Ok(Self {
            version: object.resource_version().unwrap_or_default(),
            generation: object.metadata.generation.unwrap_or_default(),
            deleting: object.metadata.deletion_timestamp.is_some(),
            paused: spec["paused"].as_bool().unwrap_or_default(),
            // As the schema fills them in.
            replicas: number("replicas", 3),
            replication_factor: number("replicationFactor", 3),
            drain: names(object.annotations().get(annotations::DRAIN).map_or("", String::as_str)),
            status,
            namespace,
            name,
        })
    }

    /// The members that the operator knows.
    pub(super) fn members(&self) -> &[MemberStatus] {
        self.status.as_ref().map_or(&[], |status| &status.members)
    }

    /// Whether one of these is its member, or was told to be drained.
    pub(super) fn has_any(&self, members: &[String]) -> bool {
        members.iter().any(|name| self.drain.contains(name) || self.members().iter().any(|member| member.name == *name))
    }
}

/// Names that are separated by commas.
pub(super) fn names(text: &str) -> BTreeSet<String> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// The one that is meant where none was named.
pub(super) fn only(mut clusters: Vec<Cluster>, namespace: &str) -> Result<Cluster, Failure> {
    match (clusters.pop(), clusters.len()) {
        (None, _) => Err(Failure::Refused(format!(
            "there is no StorageCluster in namespace `{namespace}`.\n  -n names another namespace; `kubectl get storageclusters -A` \
             lists those of all."
        ))),
        (Some(cluster), 0) => Ok(cluster),
        (Some(last), _) => {
            clusters.push(last);
            let names = listed(&clusters);
            Err(Failure::Usage(format!(
                "there are {} StorageClusters in namespace `{namespace}`: {names}. Name one of them.",
                clusters.len()
            )))
        }
    }
}

/// The one that has these members: their names are those of pods, so that no two clusters have the same.
pub(super) fn with_members(
    mut clusters: Vec<Cluster>,
    members: &[String],
    namespace: &str,
) -> Result<Cluster, Failure> {
    if clusters.len() < 2 {
        // What it does not have is told by name later.
        return only(clusters, namespace);
    }
    let all = listed(&clusters);
    clusters.retain(|cluster| cluster.has_any(members));
    match clusters.len() {
        1 => only(clusters, namespace),
        0 => Err(Failure::Refused(format!(
            "no StorageCluster in namespace `{namespace}` has a member {}; there are {all}. Nothing was changed.",
            members.join(" or ")
        ))),
        _ => Err(Failure::Usage(format!(
            "these are members of several StorageClusters ({}); give the command once for each. Nothing was changed.",
            listed(&clusters)
        ))),
    }
}

/// Says that there is no cluster of this name, and which there are.
pub(super) fn unknown(name: &str, clusters: &[Cluster], namespace: &str) -> Failure {
    let there = match clusters {
        [] => "there is none; -n names another namespace".to_owned(),
        clusters => format!("there are {}", listed(clusters)),
    };
    Failure::Refused(format!("there is no StorageCluster `{name}` in namespace `{namespace}`: {there}."))
}

fn listed(clusters: &[Cluster]) -> String {
    let mut names: Vec<&str> = clusters.iter().map(|cluster| cluster.name.as_str()).collect();
    names.sort_unstable();
    names.join(", ")
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    /// A cluster in namespace `shop`, made of what the API server would answer.
    pub(in crate::kube) fn cluster(name: &str, change: impl FnOnce(&mut Value)) -> Cluster {
        let mut object = json!({
            "apiVersion": "annulus.dev/v1alpha1", "kind": "StorageCluster",
            "metadata": {"name": name, "namespace": "shop", "generation": 2, "resourceVersion": "7"},
            "spec": {"replicas": 3, "replicationFactor": 3, "later": {"unknown": true}},
        });
        change(&mut object);
        Cluster::read(&serde_json::from_value(object).unwrap()).unwrap()
    }

    fn with(name: &str, members: &[&str]) -> Cluster {
        let members: Vec<Value> = members.iter().map(|name| json!({"name": name, "state": "Active"})).collect();
        cluster(name, |object| object["status"] = json!({"members": members}))
    }

    fn names_of(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_resource_of_a_newer_version_is_read_as_far_as_it_is_known() {
        let cluster = cluster("demo", |object| {
            object["metadata"]["annotations"] = json!({"annulus.dev/drain": "demo-b, demo-a,,"});
            object["spec"]["paused"] = json!(true);
            object["status"] = json!({"phase": "Paused", "later": 1});
        });
        assert_eq!(cluster.drain.iter().map(String::as_str).collect::<Vec<_>>(), ["demo-a", "demo-b"]);
        assert_eq!((cluster.generation, cluster.paused, cluster.replicas), (2, true, 3));
        assert_eq!(cluster.status.unwrap().phase, "Paused");
    }

    #[test]
    fn a_status_that_can_not_be_read_is_told() {
        let object = json!({"metadata": {"name": "demo", "namespace": "shop"}, "status": {"members": 3}});
        let text = Cluster::read(&serde_json::from_value(object).unwrap()).unwrap_err().to_string();
        assert!(text.contains("shop/demo") && text.contains("update this program"), "{text}");
    }

    #[test]
    fn the_only_cluster_need_not_be_named_and_of_several_all_are_told() {
        assert_eq!(only(vec![with("demo", &[])], "shop").unwrap().name, "demo");
        let none = only(Vec::new(), "shop").unwrap_err();
        assert!(matches!(none, Failure::Refused(_)) && none.to_string().contains("namespace `shop`"), "{none}");
        let several = only(vec![with("b", &[]), with("c", &[]), with("a", &[])], "shop").unwrap_err();
        assert!(matches!(several, Failure::Usage(_)), "{several}");
        assert!(several.to_string().contains("3 StorageClusters in namespace `shop`: a, b, c"), "{several}");
    }

    #[test]
    fn members_tell_which_cluster_is_meant() {
        let both = || vec![with("a", &["a-1", "a-2"]), with("b", &["b-1"])];
        let meant = |members: &[&str]| with_members(both(), &names_of(members), "shop");
        assert_eq!(meant(&["b-1"]).unwrap().name, "b");
        assert_eq!(meant(&["a-1", "a-2"]).unwrap().name, "a");
        assert!(meant(&["c-1"]).unwrap_err().to_string().contains("there are a, b"));
        assert!(meant(&["a-1", "b-1"]).unwrap_err().to_string().contains("several StorageClusters (a, b)"));
        assert_eq!(with_members(vec![with("a", &[])], &names_of(&["x"]), "shop").unwrap().name, "a");
    }

    #[test]
    fn a_cluster_that_is_not_there_is_told_with_those_that_are() {
        assert!(unknown("c", &[with("b", &[]), with("a", &[])], "shop").to_string().ends_with("there are a, b."));
        assert!(unknown("c", &[], "shop").to_string().contains("there is none"));
    }
}
