//! What the operator counts, for `/metrics`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use annulus_crds::StorageClusterStatus;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::inject::sidecars::{self, ByVersion};
use crate::process::Process;
use crate::queue::Key;
use crate::requests::Requests;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Cluster {
    namespace: String,
    cluster: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Condition {
    namespace: String,
    cluster: String,
    condition: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Waits {
    namespace: String,
    cluster: String,
    gate: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Sidecars {
    namespace: String,
    cluster: String,
    version: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Injection {
    outcome: &'static str,
}

/// What the operator counts.
pub struct Metrics {
    registry: Mutex<Registry>,
    reconciles: Counter,
    errors: Family<Cluster, Counter>,
    duration: Histogram,
    leads: Gauge,
    requests: Requests,
    conditions: Family<Condition, Gauge>,
    members: Family<Cluster, Gauge>,
    ready: Family<Cluster, Gauge>,
    moves: Family<Cluster, Gauge>,
    waits: Family<Waits, Gauge>,
    /// What is told in `waits`.
    gates: Mutex<BTreeMap<Key, String>>,
    rolled: Family<Cluster, Counter>,
    sidecars: Family<Sidecars, Gauge>,
    outdated: Family<Cluster, Gauge>,
    /// What is told in `sidecars`.
    versions: Mutex<BTreeMap<Key, ByVersion>>,
    injections: Family<Injection, Counter>,
}

/// The conditions that every cluster has.
const CONDITIONS: [&str; 6] =
    ["Available", "Progressing", "Degraded", "RingBalanced", "QuorumAtRisk", "ScaleDownBlocked"];

/// Reasons for which a store is not available although nothing is wrong with it.
const NOT_MISSED: [&str; 2] = ["NotMade", "Deleting"];

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Mutex::new(Registry::default()),
            reconciles: Counter::default(),
            errors: Family::default(),
            duration: Histogram::new(exponential_buckets(0.001, 2.0, 18)),
            leads: Gauge::default(),
            requests: Requests::default(),
            conditions: Family::default(),
            members: Family::default(),
            ready: Family::default(),
            moves: Family::default(),
            waits: Family::default(),
            gates: Mutex::default(),
            rolled: Family::default(),
            sidecars: Family::default(),
            outdated: Family::default(),
            versions: Mutex::default(),
            injections: Family::default(),
        };
        let mut whole = metrics.registry.lock().unwrap_or_else(PoisonError::into_inner);
        whole.register_collector(Box::new(Process));
        let registry = whole.sub_registry_with_prefix("annulus_operator");
        registry.register("reconciles", "Rounds that were made", metrics.reconciles.clone());
        registry.register("reconcile_errors", "Rounds that failed", metrics.errors.clone());
        registry.register("reconcile_duration_seconds", "How long rounds took", metrics.duration.clone());
        registry.register("is_leader", "Whether this operator holds the lease", metrics.leads.clone());
        registry.register("api_requests", "What was asked of the API server", metrics.requests.clone());
        registry.register("cluster_condition", "Conditions of clusters: 1 where one holds", metrics.conditions.clone());
        registry.register("cluster_members", "Members that clusters have", metrics.members.clone());
        registry.register("cluster_ready_members", "Those that are in the ring and caught up", metrics.ready.clone());
        registry.register("cluster_moves_left", "Replicas that are still to be moved", metrics.moves.clone());
        registry.register("cluster_waits", "What the next step of a cluster waits for: 1", metrics.waits.clone());
        registry.register("cluster_rolled", "Members that were rolled", metrics.rolled.clone());
        registry.register("sidecars", "Pods with a sidecar, by its version", metrics.sidecars.clone());
        let outdated = "Those whose sidecar is two minor versions or more behind the operator";
        registry.register("sidecars_outdated", outdated, metrics.outdated.clone());
        registry.register("injections", "Pods that the webhook was asked about", metrics.injections.clone());
        drop(whole);
        metrics
    }
}

impl Metrics {
    /// A round for a cluster took this long.
    pub fn round(&self, (namespace, cluster): &Key, took: Duration, failed: bool) {
        self.reconciles.inc();
        let labels = Cluster { namespace: namespace.clone(), cluster: cluster.clone() };
        self.errors.get_or_create(&labels).inc_by(u64::from(failed));
        self.duration.observe(took.as_secs_f64());
    }

    /// Whether this operator holds the lease.
    pub fn set_leads(&self, leads: bool) {
        self.leads.set(i64::from(leads));
    }

    /// What was asked of the API server.
    pub fn requests(&self) -> Requests {
        self.requests.clone()
    }

    /// What a cluster's status says.
    pub fn tell(&self, key: &Key, status: &StorageClusterStatus) {
        self.set_gate(key, status.plan.as_ref().map(|plan| plan.gate.as_str()).unwrap_or_default());
        let (namespace, cluster) = key.clone();
        for name in CONDITIONS {
            let holds = status.conditions.iter().any(|it| it.type_ == name && it.status == "True");
            let labels =
                Condition { namespace: namespace.clone(), cluster: cluster.clone(), condition: name.to_owned() };
            // Nobody misses a store that is still being made, or that is to go: no alarm is to come of it.
            let is_missed = !status.conditions.iter().any(|it| it.type_ == name && NOT_MISSED.contains(&&*it.reason));
            if is_missed {
                self.conditions.get_or_create(&labels).set(i64::from(holds));
            } else {
                self.conditions.remove(&labels);
            }
        }
        let labels = Cluster { namespace, cluster };
        let failed = status.phase == "Failing";
        let rolls = !failed && status.plan.as_ref().is_some_and(|plan| plan.step == "RollMember");
        self.rolled.get_or_create(&labels).inc_by(u64::from(rolls));
        self.members.get_or_create(&labels).set(i64::from(status.replicas));
        self.ready.get_or_create(&labels).set(i64::from(status.ready_replicas));
        self.moves.get_or_create(&labels).set(status.plan.as_ref().map_or(0, |plan| plan.moves_left));
    }

    /// The sidecars of a cluster, and how many of them are too old.
    pub fn tell_sidecars(&self, key: &Key, counts: &ByVersion) {
        let mut known = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        let (namespace, cluster) = key;
        let labels = |version: &String| {
            let (namespace, cluster) = key.clone();
            Sidecars { namespace, cluster, version: version.clone() }
        };
        let before = known.remove(key).unwrap_or_default();
        for gone in before.keys().filter(|version| !counts.contains_key(*version)) {
            self.sidecars.remove(&labels(gone));
        }
        for (version, count) in counts {
            self.sidecars.get_or_create(&labels(version)).set(i64::from(*count));
        }
        let of_cluster = Cluster { namespace: namespace.clone(), cluster: cluster.clone() };
        match sidecars::status(counts, sidecars::VERSION) {
            None => drop(self.outdated.remove(&of_cluster)),
            Some(status) => {
                self.outdated.get_or_create(&of_cluster).set(i64::from(status.outdated));
                known.insert(key.clone(), counts.clone());
            }
        }
    }

    /// What became of a pod: `patched`, `untouched`, `refused`, or `failed` and `malformed`, where nothing could be said.
    pub fn injected(&self, outcome: &'static str) {
        self.injections.get_or_create(&Injection { outcome }).inc();
    }

    /// At most one gate of a cluster is told at a time.
    fn set_gate(&self, key: &Key, gate: &str) {
        let mut known = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        let labels = |gate: &str| {
            let (namespace, cluster) = key.clone();
            Waits { namespace, cluster, gate: gate.to_owned() }
        };
        if let Some(before) = known.remove(key) {
            self.waits.remove(&labels(&before));
        }
        if !gate.is_empty() {
            self.waits.get_or_create(&labels(gate)).set(1);
            known.insert(key.clone(), gate.to_owned());
        }
    }

    /// A cluster is gone.
    pub fn forget(&self, key: &Key) {
        self.set_gate(key, "");
        self.tell_sidecars(key, &ByVersion::new());
        let (namespace, cluster) = key.clone();
        for condition in CONDITIONS {
            let condition = condition.to_owned();
            self.conditions.remove(&Condition { namespace: namespace.clone(), cluster: cluster.clone(), condition });
        }
        let labels = Cluster { namespace, cluster };
        self.errors.remove(&labels);
        self.members.remove(&labels);
        self.ready.remove(&labels);
        self.moves.remove(&labels);
        self.rolled.remove(&labels);
    }

    /// All of it in the text format of OpenMetrics.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a string fails only if an encoder does, and these are plain numbers.
        let _ = encode(&mut text, &registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use annulus_crds::storage_cluster::PlanStatus;

    use super::*;

    fn waiting(gate: &str) -> StorageClusterStatus {
        let plan = PlanStatus { gate: gate.to_owned(), ..PlanStatus::default() };
        StorageClusterStatus { plan: Some(plan), ..StorageClusterStatus::default() }
    }

    #[test]
    fn one_gate_is_told_at_a_time_and_nothing_of_a_cluster_that_is_gone() {
        let (metrics, key) = (Metrics::default(), ("a".to_owned(), "demo".to_owned()));
        metrics.tell(&key, &waiting("DiskSpace"));
        metrics.tell(&key, &waiting("MassFailure"));
        metrics.round(&key, Duration::from_secs(1), true);
        let text = metrics.encode();
        let gate = r#"annulus_operator_cluster_waits{namespace="a",cluster="demo",gate="MassFailure"} 1"#;
        assert!(text.contains(gate) && !text.contains("DiskSpace"), "{text}");
        assert!(text.contains(r#"annulus_operator_reconcile_errors_total{namespace="a",cluster="demo"} 1"#), "{text}");
        metrics.forget(&key);
        let text = metrics.encode();
        assert!(!text.contains("demo"), "{text}");
    }

    /// What `charts/annulus-operator` alerts on has to be within the histogram.
    #[test]
    fn a_round_that_takes_as_long_as_one_may_is_told_from_a_slow_one() {
        let metrics = Metrics::default();
        let key = ("a".to_owned(), "demo".to_owned());
        metrics.round(&key, Duration::from_secs(21), false);
        let text = metrics.encode();
        let at_most = |limit: &str| format!(r#"reconcile_duration_seconds_bucket{{le="{limit}"}} "#);
        assert!(text.contains(&(at_most("16.384") + "0")) && text.contains(&(at_most("131.072") + "1")), "{text}");
    }
}
