//! What the operator counts, for `/metrics`.

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

use crate::queue::Key;

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

/// What the operator counts.
pub struct Metrics {
    registry: Mutex<Registry>,
    reconciles: Counter,
    errors: Counter,
    duration: Histogram,
    leads: Gauge,
    conditions: Family<Condition, Gauge>,
    members: Family<Cluster, Gauge>,
    ready: Family<Cluster, Gauge>,
    moves: Family<Cluster, Gauge>,
    rolled: Family<Cluster, Counter>,
}

/// The conditions that every cluster has.
const CONDITIONS: [&str; 6] =
    ["Available", "Progressing", "Degraded", "RingBalanced", "QuorumAtRisk", "ScaleDownBlocked"];

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Mutex::new(Registry::with_prefix("annulus_operator")),
            reconciles: Counter::default(),
            errors: Counter::default(),
            duration: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            leads: Gauge::default(),
            conditions: Family::default(),
            members: Family::default(),
            ready: Family::default(),
            moves: Family::default(),
            rolled: Family::default(),
        };
        let mut registry = metrics.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.register("reconciles", "Rounds that were made", metrics.reconciles.clone());
        registry.register("reconcile_errors", "Rounds that failed", metrics.errors.clone());
        registry.register("reconcile_duration_seconds", "How long rounds took", metrics.duration.clone());
        registry.register("is_leader", "Whether this operator holds the lease", metrics.leads.clone());
        registry.register("cluster_condition", "Conditions of clusters: 1 where one holds", metrics.conditions.clone());
        registry.register("cluster_members", "Members that clusters have", metrics.members.clone());
        registry.register("cluster_ready_members", "Those that are in the ring and caught up", metrics.ready.clone());
        registry.register("cluster_moves_left", "Replicas that are still to be moved", metrics.moves.clone());
        registry.register("cluster_rolled", "Members that were rolled", metrics.rolled.clone());
        drop(registry);
        metrics
    }
}

impl Metrics {
    /// A round took this long.
    pub fn round(&self, took: Duration, failed: bool) {
        self.reconciles.inc();
        self.errors.inc_by(u64::from(failed));
        self.duration.observe(took.as_secs_f64());
    }

    /// Whether this operator holds the lease.
    pub fn set_leads(&self, leads: bool) {
        self.leads.set(i64::from(leads));
    }

    /// What a cluster's status says.
    pub fn tell(&self, (namespace, cluster): &Key, status: &StorageClusterStatus) {
        let (namespace, cluster) = (namespace.clone(), cluster.clone());
        for name in CONDITIONS {
            let holds = status.conditions.iter().any(|it| it.type_ == name && it.status == "True");
            let labels =
                Condition { namespace: namespace.clone(), cluster: cluster.clone(), condition: name.to_owned() };
            self.conditions.get_or_create(&labels).set(i64::from(holds));
        }
        let labels = Cluster { namespace, cluster };
        let rolls = status.plan.as_ref().is_some_and(|plan| plan.step == "RollMember");
        self.rolled.get_or_create(&labels).inc_by(u64::from(rolls));
        self.members.get_or_create(&labels).set(i64::from(status.replicas));
        self.ready.get_or_create(&labels).set(i64::from(status.ready_replicas));
        self.moves.get_or_create(&labels).set(status.plan.as_ref().map_or(0, |plan| plan.moves_left));
    }

    /// A cluster is gone.
    pub fn forget(&self, (namespace, cluster): &Key) {
        let (namespace, cluster) = (namespace.clone(), cluster.clone());
        for condition in CONDITIONS {
            let condition = condition.to_owned();
            self.conditions.remove(&Condition { namespace: namespace.clone(), cluster: cluster.clone(), condition });
        }
        let labels = Cluster { namespace, cluster };
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
