//! What is not there is named, with what to do, and what is mended goes on; and what is not ours is left alone.

use std::time::Instant;

use serde_json::{Value, json};

use crate::cluster::{Cluster, IMAGE, PATIENCE, condition, text};
use crate::scenario::Scenario;
use crate::wait::until;

/// A label that no node has.
const NOWHERE: &str = "annulus.dev/nowhere";
/// A storage class that is not there; then it is.
const MISSING_CLASS: &str = "annulus-e2e-missing";

#[tokio::test]
async fn what_is_missing_is_named_with_the_remedy_and_what_is_mended_goes_on() {
    let Some(scenario) = Scenario::begin("broken").await else { return };
    let words = ["delete", "storageclass", MISSING_CLASS, "--ignore-not-found"];
    scenario.kubernetes.kubectl(&words, "").await;
    let began = Instant::now();
    let (image, place, class) = (scenario.cluster("image"), scenario.cluster("place"), scenario.cluster("class"));
    let unknown = json!({"image": "registry.invalid/annulus/node:none", "imagePullPolicy": "IfNotPresent"});
    image.create(1, &unknown).await;
    place.create(1, &json!({"podTemplate": {"nodeSelector": {NOWHERE: "true"}}})).await;
    class.create(1, &json!({"storage": {"storageClassName": MISSING_CLASS}})).await;

    said(&image, "ImageUnavailable", &["can't get its image", "correct spec.image"]).await;
    said(&place, "Unschedulable", &["can't be placed"]).await;
    said(&class, "VolumeNotBound", &[&format!("storage class {MISSING_CLASS}, which does not exist")]).await;

    image.change(&json!({"image": IMAGE})).await;
    place.change(&json!({"podTemplate": {"nodeSelector": {NOWHERE: null}}})).await;
    make_class(&scenario).await;
    for cluster in [&image, &place, &class] {
        cluster.until_settled(1, PATIENCE).await;
        cluster.delete().await;
    }
    scenario.kubernetes.kubectl(&words, "").await;
    scenario.tell("an image, a place and a storage class were missing, and then there", began);
    scenario.end().await;
}

/// Waits until a condition says all of this for this reason, and names the member that it is about.
async fn said(cluster: &Cluster<'_>, reason: &str, parts: &[&str]) {
    let told = |resource: &Value| {
        let messages = ["Degraded", "Progressing"].map(|kind| condition(resource, kind).2.to_owned());
        messages.into_iter().find(|message| parts.iter().all(|part| message.contains(part)))
    };
    let what = format!("it says {parts:?}");
    let is_said = |resource: &Value| told(resource).is_some() && condition(resource, "Degraded").1 == reason;
    let resource = cluster.until(&what, PATIENCE, is_said).await;
    let message = told(&resource).unwrap_or_default();
    let member = text(&resource, "/status/members/0/name");
    assert!(!member.is_empty() && message.contains(member), "{message} names {member}");
    let (progressing, reason, why) = condition(&resource, "Progressing");
    assert!(progressing == "False" && !reason.is_empty() && !why.is_empty(), "{progressing} {reason}: {why}");
    assert_eq!(condition(&resource, "Available").0, "False");
}

/// The default storage class once more, under the name that was missing.
async fn make_class(scenario: &Scenario) {
    let classes = scenario.kubernetes.get("/apis/storage.k8s.io/v1/storageclasses").await.expect("classes are listed");
    let is_default = |class: &&Value| {
        let name = "/metadata/annotations/storageclass.kubernetes.io~1is-default-class";
        text(class, name) == "true"
    };
    let mut class = classes["items"].as_array().and_then(|all| all.iter().find(is_default)).cloned();
    let class = class.as_mut().expect("the cluster has a default storage class");
    class["metadata"] = json!({"name": MISSING_CLASS});
    (class["apiVersion"], class["kind"]) = (json!("storage.k8s.io/v1"), json!("StorageClass"));
    scenario.create(class).await;
}

#[tokio::test]
async fn clusters_beside_each_other_and_what_looks_like_theirs_are_left_alone() {
    let Some(scenario) = Scenario::begin("neighbours").await else { return };
    let (one, two) = (scenario.cluster("one"), scenario.cluster("two"));
    let strangers = strangers(&scenario).await;
    one.create(1, &json!({})).await;
    two.create(1, &json!({})).await;
    one.until_settled(1, PATIENCE).await;
    two.until_settled(1, PATIENCE).await;

    one.put("neighbour", "one").await;
    assert_eq!(two.value("neighbour").await, None, "two clusters are two stores");
    assert_eq!(one.value("neighbour").await.as_deref(), Some("one"));
    one.delete().await;
    two.until_settled(1, PATIENCE).await;
    for (what, uid) in &strangers {
        let now = scenario.get(what).await.unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(text(&now, "/metadata/uid"), uid, "{what} is the same as before");
        assert!(now["metadata"]["deletionTimestamp"].is_null(), "nobody deletes {what}");
        assert!(now["metadata"]["ownerReferences"].is_null(), "nobody adopts {what}");
    }
    // A claim waits for its pod, and that one runs nowhere.
    let words = ["delete", "pod,persistentvolumeclaim", "one-zzzzz", "--namespace", &scenario.namespace];
    scenario.kubernetes.kubectl(&words, "").await;
    scenario.end().await;
}

/// A pod and a claim with all the labels that ours have, which somebody else made; and what tells them from others of their name.
async fn strangers(scenario: &Scenario) -> Vec<(String, String)> {
    let name = "one-zzzzz";
    let metadata = json!({"name": name, "annotations": {"annulus.dev/ordinal": "1"}, "labels": {
        "app.kubernetes.io/name": "annulus", "app.kubernetes.io/instance": "one", "app.kubernetes.io/component": "member",
        "app.kubernetes.io/managed-by": "annulus-operator", "annulus.dev/member": name,
    }});
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata,
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "64Mi"}}},
    });
    scenario.create(&claim).await;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": metadata,
        "spec": {
            "nodeSelector": {NOWHERE: "true"},
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "stranger", "image": IMAGE, "imagePullPolicy": "Never",
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    });
    scenario.create(&pod).await;
    let mut strangers = Vec::new();
    for what in [format!("pods/{name}"), format!("persistentvolumeclaims/{name}")] {
        let object = until("what was made is there", PATIENCE, async || scenario.get(&what).await).await;
        strangers.push((what, text(&object, "/metadata/uid").to_owned()));
    }
    strangers
}
