//! One test's part of the cluster: a namespace, and what is told of it when the test fails.

use std::time::{Duration, Instant};

use annulus_tests::processes::tell;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::command;
use crate::kubernetes::{Kubernetes, SYSTEM};
use crate::wait::until;

/// How long a namespace may take to go.
const NAMESPACE_PATIENCE: Duration = Duration::from_secs(180);
/// How long each question after a failure may take.
const DUMP_PATIENCE: Duration = Duration::from_secs(20);

/// A namespace with the operator in reach.
pub(crate) struct Scenario {
    /// The cluster around it.
    pub(crate) kubernetes: Kubernetes,
    /// The namespace.
    pub(crate) namespace: String,
    began: Instant,
}

impl Scenario {
    /// Installs the operator if need be, and makes the namespace anew; nothing where there is no Kubernetes.
    pub(crate) async fn begin(name: &str) -> Option<Self> {
        let kubernetes = Kubernetes::found().await?;
        let scenario = Self { kubernetes, namespace: format!("annulus-e2e-{name}"), began: Instant::now() };
        scenario.kubernetes.install(&[]).await;
        // One that failed before may have left it.
        scenario.delete_namespace().await;
        let policy = "pod-security.kubernetes.io/enforce";
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": scenario.namespace, "labels": {policy: "restricted"}},
        });
        scenario.kubernetes.kubectl(&["create", "-f", "-"], &namespace.to_string()).await;
        Some(scenario)
    }

    /// Ends: the namespace has to go, whatever is in it.
    pub(crate) async fn end(self) {
        let took = self.began.elapsed();
        let began = Instant::now();
        self.delete_namespace().await;
        tell(format!("{}: {took:.1?}, and {:.1?} for its namespace to go", self.namespace, began.elapsed()));
    }

    async fn delete_namespace(&self) {
        let words = ["delete", "namespace", &self.namespace, "--ignore-not-found", "--wait=false"];
        self.kubernetes.kubectl(&words, "").await;
        let path = format!("/api/v1/namespaces/{}", self.namespace);
        until("the namespace goes", NAMESPACE_PATIENCE, async || self.kubernetes.is_gone(&path).await).await;
    }

    /// Makes an object in this namespace.
    pub(crate) async fn create(&self, object: &Value) {
        self.kubernetes.kubectl(&["create", "--namespace", &self.namespace, "-f", "-"], &object.to_string()).await;
    }

    /// Reads an object of this namespace, or a list.
    pub(crate) async fn get(&self, what: &str) -> Result<Value, String> {
        self.kubernetes.get(&format!("/api/v1/namespaces/{}/{what}", self.namespace)).await
    }

    /// A cluster of this namespace, which need not be there yet.
    pub(crate) fn cluster(&self, name: &str) -> Cluster<'_> {
        Cluster { scenario: self, name: name.to_owned() }
    }

    /// How long this has been going on, for what takes a while.
    pub(crate) fn tell(&self, what: &str, since: Instant) {
        tell(format!("{}: {what}: {:.1?}", self.namespace, since.elapsed()));
    }
}

impl Drop for Scenario {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let namespace = self.namespace.as_str();
        let here = |words: &[&str]| {
            tell(format!("--- kubectl {} --namespace {namespace}", words.join(" ")));
            let words: Vec<&str> = words.iter().copied().chain(["--namespace", namespace]).collect();
            command::run_now("kubectl", &words, DUMP_PATIENCE);
        };
        here(&["get", "storageclusters", "--output", "yaml"]);
        here(&["get", "pods,persistentvolumeclaims,poddisruptionbudgets", "--output", "wide"]);
        here(&["get", "events", "--sort-by", ".lastTimestamp"]);
        here(&["logs", "--selector", "app.kubernetes.io/component=member", "--tail", "15", "--prefix"]);
        here(&["logs", "load", "--tail", "30"]);
        tell("--- the operator");
        let selector = "app.kubernetes.io/name=annulus-operator";
        for words in [
            ["get", "pods", "--selector", selector, "--output", "wide"],
            ["logs", "--prefix", "--selector", selector, "--tail", "80"],
        ] {
            let words: Vec<&str> = words.into_iter().chain(["--namespace", SYSTEM]).collect();
            command::run_now("kubectl", &words, DUMP_PATIENCE);
        }
        // The next one needs the room.
        command::run_now("kubectl", &["delete", "namespace", namespace, "--wait=false"], DUMP_PATIENCE);
    }
}
