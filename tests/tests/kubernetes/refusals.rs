//! What the API server refuses, whoever asks, and that it says why.

use std::time::Duration;

use annulus_tests::processes::tell;
use serde_json::{Value, json};

use crate::cluster::{merge, small};
use crate::scenario::Scenario;
use crate::wait::{holds, until};

/// How long a policy that was just installed may take to count.
const POLICY_PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn what_could_never_work_is_refused_with_the_reason() {
    let Some(scenario) = Scenario::begin("refusals").await else { return };
    new_ones(&scenario).await;
    changes(&scenario).await;
    protected(&scenario).await;
    scenario.end().await;
}

/// Changes to a small cluster that make it one that can't be, and a part of what is said then.
async fn new_ones(scenario: &Scenario) {
    let refused: &[(Value, &str)] = &[
        (json!({"spec": {"replicas": 0}}), "spec.replicas"),
        (json!({"spec": {"replicas": -1}}), "spec.replicas"),
        (json!({"spec": {"replicas": 1_000_000}}), "spec.replicas"),
        (json!({"spec": {"replicas": "three"}}), "spec.replicas"),
        (json!({"spec": {"replicationFactor": 5}}), "replicas is below replicationFactor"),
        (json!({"spec": {"replicationFactor": 2}}), "replicationFactor has to be odd"),
        (json!({"spec": {"partitions": 100}}), "partitions has to be a power of two"),
        (json!({"spec": {"storage": {"size": "1Mi"}}}), "storage.size has to be 64Mi at least"),
        (json!({"spec": {"storage": {"size": "much"}}}), "spec.storage.size"),
        (json!({"spec": {"replacement": {"afterSeconds": 1}}}), "spec.replacement.afterSeconds"),
        (json!({"spec": {"colour": "red"}}), "unknown field \"spec.colour\""),
        (json!({"metadata": {"name": "a".repeat(41)}}), "metadata.name has more than 40 characters"),
        (json!({"metadata": {"name": "1st"}}), "metadata.name has to begin with a letter"),
    ];
    for (change, reason) in refused {
        let mut resource = small("bad", 3);
        merge(&mut resource, change);
        let words = ["create", "--dry-run=server", "--namespace", &scenario.namespace, "-f", "-"];
        let told = scenario.kubernetes.refused(&words, &resource.to_string()).await;
        assert!(told.contains(reason), "{change} is refused with `{reason}`, not {told}");
    }
    tell(format!("{} resources that can't be were refused", refused.len()));
}

async fn changes(scenario: &Scenario) {
    let fixed = scenario.cluster("fixed");
    // Paused: what is refused is refused before the operator sees anything.
    fixed.create(3, &json!({"paused": true})).await;
    let refused: &[(Value, &str)] = &[
        (json!({"replicas": 2}), "replicas is below replicationFactor"),
        (json!({"replicationFactor": 1}), "replicationFactor can't be changed"),
        (json!({"partitions": 32}), "partitions can't be changed"),
        (json!({"storage": {"size": "64Mi"}}), "storage.size can't shrink"),
        (json!({"storage": {"storageClassName": "another"}}), "storage.storageClassName can't be changed"),
    ];
    for (change, reason) in refused {
        let told = fixed.try_change(change).await.err().map(|failed| failed.text);
        let told = told.unwrap_or_else(|| panic!("{change} was not refused"));
        assert!(told.contains(reason), "{change} is refused with `{reason}`, not {told}");
    }
    let words = ["scale", "storagecluster/fixed", "--replicas=1", "--namespace", &scenario.namespace];
    let told = scenario.kubernetes.refused(&words, "").await;
    assert!(told.contains("replicas is below replicationFactor"), "{told}");
    fixed.change(&json!({"storage": {"size": "1Gi"}})).await;
    fixed.delete().await;
}

/// A protected cluster can't be deleted, and the answer says how to lift that.
async fn protected(scenario: &Scenario) {
    let safe = scenario.cluster("safe");
    safe.create(1, &json!({"paused": true, "deletionProtection": true})).await;
    let words = ["delete", "storagecluster", "safe", "--dry-run=server", "--namespace", &scenario.namespace];
    until("a protected cluster can't be deleted", POLICY_PATIENCE, async || {
        match scenario.kubernetes.try_kubectl(&words, "").await {
            Ok(done) => Err(done),
            Err(failed) => holds(
                failed.text.contains("is protected from deletion") && failed.text.contains("kubectl patch"),
                || failed.to_string(),
            ),
        }
    })
    .await;
    safe.change(&json!({"deletionProtection": false})).await;
    safe.delete().await;
}
