//! The operator's rounds against a simulated API server and a simulated store, a second at a time.

use std::sync::Arc;

use annulus_crds::{StorageCluster, StorageClusterStatus};
use annulus_operator::caches::Caches;
use annulus_operator::metrics::Metrics;
use annulus_operator::observe::Defaults;
use annulus_operator::reconcile::{Context, Error, Round, reconcile};
use annulus_operator::simulated::{Cluster, Session};
use annulus_operator::stores::Stores;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::events::{Recorder, Reporter};
use serde_json::{Value, json};

use crate::nodes::{NAMESPACE, Nodes};

pub const NAME: &str = "demo";

/// A cluster, its nodes, and an operator that can be replaced.
pub struct Scene {
    pub cluster: Cluster,
    pub nodes: Arc<Nodes>,
    pub session: Session,
    pub fence: u64,
    /// What the operator's caches show is this many rounds old.
    pub lag: usize,
    past: Vec<Caches>,
}

impl Scene {
    pub fn new(seed: u64, spec: Value) -> Self {
        let cluster = Cluster::with_nodes(seed, 6);
        let resource = json!({
            "apiVersion": "annulus.dev/v1alpha1", "kind": "StorageCluster",
            "metadata": {"name": NAME, "namespace": NAMESPACE}, "spec": spec,
        });
        cluster.create::<StorageCluster>(&serde_json::from_value(resource).unwrap()).unwrap();
        let nodes = Nodes::new(&cluster);
        let session = cluster.session();
        Self { cluster, nodes, session, fence: 1, lag: 0, past: Vec::new() }
    }

    /// Another operator takes over.
    pub fn replace_operator(&mut self) {
        self.session.cut();
        self.session = self.cluster.session();
        self.fence += 1;
        self.past.clear();
    }

    pub fn resource(&self) -> Option<StorageCluster> {
        self.cluster.get(NAMESPACE, NAME)
    }

    pub fn status(&self) -> StorageClusterStatus {
        self.resource().and_then(|resource| resource.status).unwrap_or_default()
    }

    pub fn change(&self, spec: Value) {
        self.cluster.patch::<StorageCluster>(NAMESPACE, NAME, &json!({"spec": spec})).unwrap();
    }

    pub fn delete(&self) {
        self.cluster.delete::<StorageCluster>(NAMESPACE, NAME).unwrap();
    }

    pub fn pods(&self) -> Vec<Pod> {
        let mut pods = self.cluster.list::<Pod>(Some(NAMESPACE));
        pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        pods
    }

    pub fn claims(&self) -> Vec<PersistentVolumeClaim> {
        let mut claims = self.cluster.list::<PersistentVolumeClaim>(Some(NAMESPACE));
        claims.retain(|claim| claim.metadata.deletion_timestamp.is_none());
        claims
    }

    fn caches(&mut self) -> Caches {
        let now = self.cluster.caches(NAMESPACE);
        self.past.push(now);
        let excess = self.past.len().saturating_sub(self.lag + 1);
        self.past.drain(..excess);
        self.past[0].clone()
    }

    /// A second passes, and the operator has one round. `None`: it knows of no cluster.
    pub async fn round(&mut self) -> Option<Result<Round, Error>> {
        self.cluster.advance(1);
        let needed: Vec<String> = self.volumes();
        self.cluster.step();
        self.nodes.round();
        let caches = self.caches();
        let resource = caches.clusters.state().first().cloned()?;
        let client = self.session.client();
        let clock = self.cluster.clone();
        let context = Context {
            recorder: Recorder::new(client.clone(), Reporter { controller: "annulus-operator".into(), instance: None }),
            client,
            caches,
            stores: Arc::clone(&self.nodes) as Arc<dyn Stores>,
            defaults: Defaults {
                node_image: "annulus/node:1".to_owned(),
                clock: Arc::new(move || Timestamp::from_second(clock.now_seconds()).unwrap()),
            },
            fence: self.fence,
            metrics: Arc::new(Metrics::default()),
        };
        let ended = reconcile(&context, &resource).await;
        self.nothing_is_lost(&needed);
        Some(ended)
    }

    fn volumes(&self) -> Vec<String> {
        let claims = self.cluster.list::<PersistentVolumeClaim>(Some(NAMESPACE));
        claims
            .iter()
            .filter(|claim| claim.metadata.deletion_timestamp.is_none())
            .map(|claim| claim.name_any())
            .collect()
    }

    /// The operator has told nobody to delete a volume that the store counts on, unless all of it is to go.
    fn nothing_is_lost(&self, before: &[String]) {
        if self.resource().is_none_or(|resource| resource.metadata.deletion_timestamp.is_some()) {
            return;
        }
        let now = self.volumes();
        for name in before.iter().filter(|name| !now.contains(name)) {
            if let Some(volume) = self.cluster.volume(NAMESPACE, name) {
                assert!(!self.nodes.is_needed(&volume), "the volume of {name} was deleted, and the store counts on it");
            }
        }
    }

    /// Whether all is as the spec wants it, by the status.
    pub fn is_settled(&self) -> bool {
        let Some(resource) = self.resource() else { return true };
        let status = resource.status.clone().unwrap_or_default();
        status.observed_generation == resource.metadata.generation.unwrap_or_default()
            && status.phase == "Running"
            && status.ready_replicas == resource.spec.replicas
            && status.plan.is_none()
    }

    /// Rounds until all is settled. Errors are tried again, as the queue does.
    pub async fn settle(&mut self, most_rounds: usize) {
        let mut last = None;
        for _ in 0..most_rounds {
            last = self.round().await.map(|ended| ended.map(|round| round.acted));
            if self.is_settled() {
                return;
            }
        }
        let writes: Vec<String> = self.cluster.writes().iter().map(ToString::to_string).collect();
        panic!("it does not settle: {last:?}\n{:#?}\n{}", self.status(), writes.join("\n"));
    }

    /// What has come of it, without what may differ between two ways there: names, versions, times.
    pub fn outcome(&self) -> Value {
        let spec = |pod: &Pod| {
            let mut spec = serde_json::to_value(&pod.spec).unwrap();
            // Where it is and what it is called are as they came.
            for field in ["hostname", "nodeName", "volumes", "containers"] {
                spec.as_object_mut().unwrap().remove(field);
            }
            spec
        };
        let mut pods: Vec<Value> = self.pods().iter().map(spec).collect();
        pods.sort_by_key(ToString::to_string);
        let mut claims: Vec<Value> = self
            .claims()
            .iter()
            .map(|claim| {
                json!([claim.spec.as_ref().unwrap().resources, claim.annotations().contains_key("annulus.dev/retired")])
            })
            .collect();
        claims.sort_by_key(ToString::to_string);
        let status = self.status();
        let conditions: Vec<Value> =
            status.conditions.iter().map(|it| json!([it.type_, it.status, it.reason])).collect();
        json!({
            "exists": self.resource().is_some(), "pods": pods, "claims": claims, "conditions": conditions,
            "services": self.cluster.list::<Service>(Some(NAMESPACE)).iter().map(|it| json!([it.name_any(), it.spec.as_ref().unwrap().selector])).collect::<Vec<_>>(),
            "budgets": self.cluster.list::<PodDisruptionBudget>(Some(NAMESPACE)).iter().map(|it| json!(it.spec)).collect::<Vec<_>>(),
            "phase": status.phase, "replicas": status.replicas, "ready": status.ready_replicas, "ring": status.ring,
        })
    }
}
