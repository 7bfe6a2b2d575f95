//! What becomes of pods that ask for a sidecar: jobs that end, namespaces with a default, pods that can't have one, an operator that is
//! away, and certificates that are exchanged meanwhile.

use std::time::{Duration, Instant};

use annulus_tests::processes::tell;
use serde_json::{Value, json};

use crate::application::{SIDECAR, inject, template};
use crate::cluster::{Cluster, PATIENCE, list, merge, number, text};
use crate::kubernetes::SYSTEM;
use crate::scenario::Scenario;
use crate::sidecars::until_counted;
use crate::wait::{holds, until};

/// The bar for what a sidecar adds to the start of a pod.
const START_TARGET: Duration = Duration::from_secs(1);
/// What is asserted, for slow machines.
const START_BOUND: Duration = Duration::from_secs(15);
/// The Secret of the webhook's certificate.
const SECRET: &str = "annulus-operator-webhook";
/// How many pods are made while certificates are exchanged.
const PODS: usize = 12;

#[tokio::test]
async fn pods_get_a_sidecar_or_a_reason_and_none_is_broken_by_it() {
    let Some(scenario) = Scenario::begin("injection").await else { return };
    let store = scenario.cluster("demo");
    store.create(3, &json!({})).await;
    store.until_settled(3, PATIENCE).await;

    job_ends(&store).await;
    start(&store).await;
    namespace_has_a_default(&store).await;
    refused(&store).await;
    certificate_is_exchanged(&store).await;
    operator_is_away(&store).await;
    scenario.end().await;
}

fn pod(name: &str, words: &[&str], annotations: &Value) -> Value {
    let mut pod = template(name, words, annotations);
    merge(
        &mut pod,
        &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"restartPolicy": "Never"}}),
    );
    pod
}

fn has_sidecar(pod: &Value) -> bool {
    list(pod, "/spec/initContainers").iter().any(|it| text(it, "/name") == SIDECAR)
}

/// A job completes although its sidecar would run for ever, and so does a pod of its own; both give their lock up.
async fn job_ends(store: &Cluster<'_>) {
    let began = Instant::now();
    let scenario = store.scenario;
    let mut template = template("job", &["--times", "20"], &inject("demo"));
    merge(&mut template, &json!({"spec": {"restartPolicy": "Never"}}));
    scenario
        .create(&json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"},
            "spec": {"backoffLimit": 0, "template": template},
        }))
        .await;
    let path = format!("/apis/batch/v1/namespaces/{}/jobs/job", scenario.namespace);
    until("the job is done", PATIENCE, async || {
        let job = scenario.kubernetes.get(&path).await?;
        holds(number(&job, "/status/succeeded") == 1, || job["status"].to_string())
    })
    .await;
    scenario.tell("a job with a sidecar ended", began);
    scenario.create(&pod("alone", &["--times", "20", "--ttl-ms", "60000"], &inject("demo"))).await;
    until("the pod is done", PATIENCE, async || {
        let pod = scenario.get("pods/alone").await?;
        holds(text(&pod, "/status/phase") == "Succeeded", || pod["status"].to_string())
    })
    .await;
    // A lock of a minute that nobody gave up would be held still.
    let words = ["delete", "pod", "alone", "--namespace", &scenario.namespace];
    scenario.kubernetes.kubectl(&words, "").await;
    scenario.create(&pod("alone", &["--times", "1"], &inject("demo"))).await;
    let began = Instant::now();
    until("the next pod is done", PATIENCE, async || {
        let pod = scenario.get("pods/alone").await?;
        holds(text(&pod, "/status/phase") == "Succeeded", || pod["status"].to_string())
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(50), "the lock was given up when the pod before had ended");
}

/// How long it takes from a pod's being made to its container's start, without and with a sidecar.
async fn start(store: &Cluster<'_>) {
    let scenario = store.scenario;
    let mut took = Vec::new();
    for (name, annotations) in [("plain", json!({})), ("injected", inject("demo"))] {
        let mut pod = pod(name, &["--times", "1"], &annotations);
        merge(
            &mut pod,
            &json!({"spec": {"nodeName": scenario.kubernetes.safe_node(), "tolerations": [{"operator": "Exists"}]}}),
        );
        let began = Instant::now();
        scenario.create(&pod).await;
        until("the application has begun", PATIENCE, async || {
            let pod = scenario.get(&format!("pods/{name}")).await?;
            let state = pod.pointer("/status/containerStatuses/0/state").cloned().unwrap_or_default();
            holds(state.get("running").or(state.get("terminated")).is_some(), || pod["status"].to_string())
        })
        .await;
        took.push(began.elapsed());
    }
    let added = took[1].saturating_sub(took[0]);
    tell(format!(
        "{}: a pod's application began after {:.1?}, with a sidecar after {:.1?}",
        scenario.namespace, took[0], took[1]
    ));
    assert!(added < START_BOUND, "{added:?}");
    if added > START_TARGET {
        tell(format!("the target of {START_TARGET:?} more was missed"));
    }
}

async fn namespace_has_a_default(store: &Cluster<'_>) {
    let scenario = store.scenario;
    let label = |value: &'static str| ["label", "namespace", scenario.namespace.as_str(), value, "--overwrite"];
    scenario.kubernetes.kubectl(&label("annulus.dev/inject=demo"), "").await;
    for (name, annotations, expected) in
        [("by-default", json!({}), true), ("opted-out", json!({"annulus.dev/inject": "false"}), false)]
    {
        until("the label is known to the webhook", PATIENCE, async || {
            let words = [
                "delete",
                "pod",
                name,
                "--ignore-not-found",
                "--namespace",
                &scenario.namespace,
                "--grace-period=0",
                "--force",
            ];
            scenario.kubernetes.kubectl(&words, "").await;
            scenario.create(&pod(name, &["--times", "1"], &annotations)).await;
            let made = scenario.get(&format!("pods/{name}")).await?;
            holds(has_sidecar(&made) == expected, || made["spec"].to_string())
        })
        .await;
    }
    // Members of the store itself have none.
    assert!(store.pods_now().await.len() == 3);
    let members =
        scenario.get("pods?labelSelector=app.kubernetes.io%2Fname%3Dannulus").await.expect("members are listed");
    assert!(list(&members, "/items").iter().all(|member| !has_sidecar(member)));
    scenario.kubernetes.kubectl(&label("annulus.dev/inject-"), "").await;
}

/// What can't be is refused with the reason.
async fn refused(store: &Cluster<'_>) {
    let scenario = store.scenario;
    let here = ["create", "--namespace", scenario.namespace.as_str(), "-f", "-"];
    let mut taken = pod("taken", &[], &inject("demo"));
    merge(
        &mut taken,
        &json!({"spec": {"initContainers": [{
            "name": "first", "image": "annulus/load:dev", "ports": [{"containerPort": 7070}],
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
        }]}}),
    );
    let mut imitated = pod("imitated", &[], &inject("demo"));
    merge(
        &mut imitated,
        &json!({"spec": {"initContainers": [{
            "name": SIDECAR, "image": "annulus/load:dev",
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
        }]}}),
    );
    let mut image = inject("demo");
    merge(&mut image, &json!({"annulus.dev/sidecar-image": "example.com/another"}));
    for (pod, reason) in [
        (pod("unknown", &[], &inject("nobody")), "nobody"),
        (pod("foreign", &[], &inject("other/demo")), "namespace"),
        (taken, "7070"),
        (imitated, SIDECAR),
        (pod("image", &[], &image), "sidecar-image"),
    ] {
        let said = scenario.kubernetes.refused(&here, &pod.to_string()).await;
        tell(format!("{}: {}", scenario.namespace, said.trim()));
        assert!(said.contains(reason), "{said} names {reason}");
    }
}

/// Pods are made all the while, and none is without its sidecar.
async fn certificate_is_exchanged(store: &Cluster<'_>) {
    let scenario = store.scenario;
    let began = Instant::now();
    let secret = format!("/api/v1/namespaces/{SYSTEM}/secrets/{SECRET}");
    let before =
        scenario.kubernetes.get(&secret).await.expect("the certificate is in a Secret")["metadata"]["uid"].take();
    for at in 0..PODS {
        if at == PODS / 4 {
            scenario.kubernetes.kubectl(&["delete", "secret", SECRET, "--namespace", SYSTEM], "").await;
        }
        let name = format!("during-{at}");
        scenario.create(&pod(&name, &["--times", "1"], &inject("demo"))).await;
        let made = scenario.get(&format!("pods/{name}")).await.expect("it was just made");
        assert!(has_sidecar(&made), "{name} has no sidecar");
        if at == PODS / 2 {
            until("there is another certificate", PATIENCE, async || {
                let now = scenario.kubernetes.get(&secret).await?;
                holds(now["metadata"]["uid"] != before, || "it is the same".to_owned())
            })
            .await;
        }
    }
    scenario.tell("the certificate was exchanged while pods were made", began);
}

/// By default nobody waits for an operator that is away: pods start, without a sidecar, and one that comes back counts those there are.
async fn operator_is_away(store: &Cluster<'_>) {
    let scenario = store.scenario;
    let scale = |count: &'static str| ["scale", "deployment", "annulus-operator", count, "--namespace", SYSTEM];
    scenario.kubernetes.kubectl(&scale("--replicas=0"), "").await;
    let operators =
        format!("/api/v1/namespaces/{SYSTEM}/pods?labelSelector=app.kubernetes.io%2Fname%3Dannulus-operator");
    until("the operator has gone", PATIENCE, async || {
        let found = scenario.kubernetes.get(&operators).await?;
        holds(list(&found, "/items").is_empty(), || found["items"].to_string())
    })
    .await;
    let began = Instant::now();
    scenario.create(&pod("meanwhile", &["--times", "1"], &inject("demo"))).await;
    let made = scenario.get("pods/meanwhile").await.expect("it was just made");
    assert!(!has_sidecar(&made), "nobody was there to give it one");
    scenario.tell("a pod was made without the operator", began);
    scenario.kubernetes.kubectl(&scale("--replicas=1"), "").await;
    until("pods get sidecars again", PATIENCE, async || {
        let words = [
            "delete",
            "pod",
            "again",
            "--ignore-not-found",
            "--namespace",
            &scenario.namespace,
            "--grace-period=0",
            "--force",
        ];
        scenario.kubernetes.kubectl(&words, "").await;
        scenario.create(&pod("again", &[], &inject("demo"))).await;
        let made = scenario.get("pods/again").await?;
        holds(has_sidecar(&made), || "not yet".to_owned())
    })
    .await;
    until("it runs", PATIENCE, async || {
        let pod = scenario.get("pods/again").await?;
        holds(text(&pod, "/status/phase") == "Running", || pod["status"].to_string())
    })
    .await;
    until_counted(store, 1).await;
}
