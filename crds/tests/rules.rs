//! The rules of the schema, tried without a cluster: what the API server would say of a resource.

use annulus_crds::StorageCluster;
use kube::core::cel::{validate_cel, validate_cel_update};
use serde_json::{Value, json};

fn cluster(spec: Value) -> StorageCluster {
    serde_json::from_value(json!({
        "apiVersion": "annulus.dev/v1alpha1", "kind": "StorageCluster", "metadata": {"name": "demo"}, "spec": spec,
    }))
    .unwrap()
}

/// What is refused about a resource by itself; empty: nothing.
fn created(spec: Value) -> String {
    validate_cel(&cluster(spec)).err().map(|errors| format!("{errors:?}")).unwrap_or_default()
}

fn changed(from: Value, to: Value) -> String {
    validate_cel_update(&cluster(to), &cluster(from)).err().map(|errors| format!("{errors:?}")).unwrap_or_default()
}

#[test]
fn an_empty_spec_is_a_store_of_three() {
    let spec = cluster(json!({})).spec;
    assert_eq!((spec.replicas, spec.replication_factor, spec.partitions, &*spec.storage.size), (3, 3, 128, "10Gi"));
    assert_eq!(created(json!({})), "");
}

#[test]
fn what_could_never_work_is_refused_with_its_reason() {
    for (spec, reason) in [
        (json!({"replicas": 2}), "below replicationFactor"),
        (json!({"replicas": 4, "replicationFactor": 4}), "odd"),
        (json!({"partitions": 100}), "power of two"),
        (json!({"storage": {"size": "1Mi"}}), "64Mi at least"),
    ] {
        let refusal = created(spec.clone());
        assert!(refusal.contains(reason), "{spec}: {refusal}");
    }
}

#[test]
fn what_members_are_made_of_stays() {
    let old = json!({"replicas": 5, "storage": {"size": "2Gi", "storageClassName": "fast"}});
    for (field, value, reason) in [
        ("replicationFactor", json!(5), "replicationFactor can't be changed"),
        ("partitions", json!(64), "partitions can't be changed"),
        ("storage", json!({"size": "1Gi", "storageClassName": "fast"}), "can't shrink"),
        ("storage", json!({"size": "2Gi"}), "storageClassName can't be changed"),
    ] {
        let mut new = old.clone();
        new[field] = value;
        let refusal = changed(old.clone(), new);
        assert!(refusal.contains(reason), "{field}: {refusal}");
    }
    for (field, value) in [
        ("storage", json!({"size": "2048Mi", "storageClassName": "fast"})),
        ("storage", json!({"size": "3Gi", "storageClassName": "fast"})),
        ("replicas", json!(3)),
        ("image", json!("annulus/node:2")),
        ("paused", json!(true)),
    ] {
        let mut new = old.clone();
        new[field] = value;
        assert_eq!(changed(old.clone(), new), "", "{field}");
    }
}

#[test]
fn names_that_no_service_could_have_are_refused() {
    for (name, reason) in [
        ("1st", "begin with a letter"),
        ("demo-members", "ends in -members"),
        ("a.b", "begin with a letter"),
        (&*"a".repeat(41), "40 characters"),
    ] {
        let mut cluster = cluster(json!({}));
        cluster.metadata.name = Some(name.to_owned());
        let refusal = format!("{:?}", validate_cel(&cluster).unwrap_err());
        assert!(refusal.contains(reason), "{name}: {refusal}");
    }
}
