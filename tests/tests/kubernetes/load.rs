//! The load, as a pod beside the store.

use std::time::Duration;

use annulus_tests::processes::{Phase, Progress, Verdict, tell};
use http::Method;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::cluster::{CLIENT_PORT, Cluster, merge};
use crate::scenario::Scenario;
use crate::wait::{holds, until};

/// The pod's name, its image and its port.
const POD: &str = "load";
const IMAGE: &str = "annulus/load:dev";
const PORT: u16 = 7080;
/// How long the pod may take to start, to be filled, and to be judged.
const PATIENCE: Duration = Duration::from_secs(180);
/// How long the store may take to serve on, whatever was done to it just now.
const MORE_PATIENCE: Duration = Duration::from_secs(60);
/// The longest that a key may not be had while the operator does something on purpose. The bar on a quiet machine is 300 ms; a
/// cluster of many nodes on few processors is none, and what is asserted tells a broken store from that.
const BOUND: Duration = Duration::from_secs(5);

/// A load that runs.
pub(crate) struct Load<'a> {
    scenario: &'a Scenario,
}

impl<'a> Load<'a> {
    /// Fills a cluster with this many keys, and begins to put and get.
    pub(crate) async fn begin(cluster: &Cluster<'a>, keys: usize) -> Self {
        let scenario = cluster.scenario;
        let endpoint = format!("{}.{}.svc:{CLIENT_PORT}", cluster.name, scenario.namespace);
        let mut pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": POD},
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "terminationGracePeriodSeconds": 5,
                "securityContext": {
                    "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [{
                    "name": POD,
                    "image": IMAGE,
                    "imagePullPolicy": "Never",
                    "command": ["/annulus-load"],
                    "args": ["--endpoints", endpoint, "--client-only", "--fill", keys.to_string()],
                    "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}},
                    "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                }],
            },
        });
        merge(&mut pod, &json!({"spec": scenario.kubernetes.on_safe_node()}));
        scenario.create(&pod).await;
        let load = Self { scenario };
        until("the load is filled and begins", PATIENCE, async || {
            let progress = load.progress().await?;
            holds(progress.phase == Phase::Loading, || format!("{progress:?}"))
        })
        .await;
        load.more(100).await;
        load.reset().await;
        load
    }

    async fn ask<T: DeserializeOwned>(&self, path: &str) -> Result<T, String> {
        let at = (self.scenario.namespace.as_str(), POD, PORT);
        let answer = self.scenario.kubernetes.ask(Method::POST, at, path, &[], "").await?;
        if answer.status != 200 {
            return Err(format!("{path}: {}: {}", answer.status, answer.text()));
        }
        serde_json::from_slice(&answer.body).map_err(|error| format!("{path}: {error}: {}", answer.text()))
    }

    /// How it goes.
    pub(crate) async fn progress(&self) -> Result<Progress, String> {
        self.ask("/progress").await
    }

    /// Waits until this many more puts have been acknowledged, and as many reads answered.
    pub(crate) async fn more(&self, count: u64) {
        let before = until("the load answers", MORE_PATIENCE, async || self.progress().await).await;
        until("the store serves on", MORE_PATIENCE, async || {
            let now = self.progress().await?;
            let is_more = now.acknowledged >= before.acknowledged + count && now.reads >= before.reads + count;
            holds(is_more, || format!("{now:?}, from {before:?}"))
        })
        .await;
    }

    async fn reset(&self) -> Progress {
        until("the load answers", MORE_PATIENCE, async || self.ask::<Progress>("/reset").await).await
    }

    /// Ends a phase in which only the operator did something: nobody has missed anything for long.
    pub(crate) async fn undisturbed(&self, what: &str) {
        let progress = self.phase(what).await;
        assert_eq!(progress.failed_again, 0, "{what}: {:#?}", progress.told);
        let gap = Duration::from_millis(progress.longest_gap_ms);
        assert!(gap <= BOUND, "{what}: a key could not be had for {gap:?}: {:#?}", progress.told);
    }

    /// Ends a phase: the store serves on, and what was missed meanwhile is told.
    pub(crate) async fn phase(&self, what: &str) -> Progress {
        self.more(50).await;
        let progress = self.reset().await;
        tell(format!(
            "{}: {what}: of {} calls {} failed at first and {} again; the longest gap of a key was {} ms",
            self.scenario.namespace,
            progress.watched_calls,
            progress.failed,
            progress.failed_again,
            progress.longest_gap_ms
        ));
        progress
    }

    /// Ends it, and has it judged: nothing is lost, and nobody was lied to.
    pub(crate) async fn end(self) {
        let verdict: Verdict = until("the load is judged", PATIENCE, async || self.ask("/stop").await).await;
        tell(format!(
            "{}: {} puts acknowledged, {} of unknown fate, {} keys filled in",
            self.scenario.namespace, verdict.acknowledged, verdict.unknown, verdict.filled
        ));
        assert!(verdict.is_clean(), "{verdict:#?}");
    }
}
