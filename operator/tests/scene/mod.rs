//! The operator's rounds against a simulated API server and a simulated store, a second at a time.

#![allow(dead_code, reason = "each test uses some of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use annulus_client::admin::{Changed, Members};
use annulus_client::node::{Bootstrap, Status};
use annulus_client::{ClusterId, MemberId};
use annulus_crds::{StorageCluster, StorageClusterStatus};
use annulus_operator::caches::{Cache, Caches};
use annulus_operator::metrics::Metrics;
use annulus_operator::model::Told;
use annulus_operator::observe::Defaults;
use annulus_operator::reconcile::{Context, Error, Round, reconcile};
use annulus_operator::simulated::{Cluster, Session};
use annulus_operator::stores::{self, NodeAddress, Stores};
use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::{reflector, watcher};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::world::store::Store;

pub const NAMESPACE: &str = "default";
pub const NAME: &str = "demo";
const MANAGED: &str = "app.kubernetes.io/managed-by";

/// The nodes of all pods, and the store that they make.
pub struct Nodes {
    cluster: Cluster,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    store: Option<Store>,
    /// Who is on a volume, by what is on it.
    disks: BTreeMap<String, (MemberId, bool)>,
    made: u64,
    /// How often nodes and the store were asked something.
    asked: u64,
}

impl Nodes {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// How often nodes and the store were asked something until now.
    pub fn asked(&self) -> u64 {
        self.lock().asked
    }

    /// Members that run, by the names of their pods.
    fn running(&self) -> BTreeMap<String, (MemberId, bool)> {
        let mut inner = self.lock();
        let mut running = BTreeMap::new();
        for pod in self.cluster.list::<Pod>(Some(NAMESPACE)) {
            let name = pod.name_any();
            let Some(volume) = self.cluster.volume(NAMESPACE, &name) else { continue };
            if self.cluster.is_running(NAMESPACE, &name) {
                inner.made += 1;
                let id = MemberId::new(1000 + inner.made).unwrap();
                running.insert(name, *inner.disks.entry(volume).or_insert((id, false)));
            }
        }
        running
    }

    fn up(&self) -> BTreeSet<MemberId> {
        self.running().into_values().map(|(id, _)| id).collect()
    }

    /// Whether a pod is in the ring.
    pub fn is_ready(&self, pod: &str) -> bool {
        let Some((id, is_member)) = self.running().get(pod).copied() else { return false };
        is_member && self.lock().store.as_ref().is_some_and(|store| store.map.member(id).is_some())
    }

    fn round(&self) {
        let up = self.up();
        let mut inner = self.lock();
        let Inner { store, disks, .. } = &mut *inner;
        let Some(store) = store else { return };
        let members = up.iter().copied().filter(|id| store.map.member(*id).is_some()).collect();
        store.round(&members);
        for (id, is_member) in disks.values_mut() {
            *is_member |= up.contains(id) && store.map.member(*id).is_some();
        }
    }

    /// Whether what is on a volume is held nowhere else: some group counts on it.
    pub fn is_needed(&self, volume: &str) -> bool {
        let inner = self.lock();
        let id = inner.disks.get(volume).map(|(id, _)| *id);
        id.is_some_and(|id| inner.store.as_ref().is_some_and(|store| store.holds(id)))
    }

    fn change(&self, change: impl FnOnce(&mut Store) -> Result<(), stores::Error>) -> Result<(), stores::Error> {
        let up = self.up();
        let mut inner = self.lock();
        let store = inner.store.as_mut().ok_or_else(|| stores::Error::Unreachable("there is no store".to_owned()))?;
        store.told(&up)?;
        change(store)
    }
}

impl Stores for Nodes {
    fn status(&self, address: String) -> BoxFuture<'_, Result<Status, stores::Error>> {
        self.lock().asked += 1;
        Box::pin(async move {
            let ip = address.split(':').next().unwrap_or_default();
            let pods = self.cluster.list::<Pod>(Some(NAMESPACE)).into_iter();
            let mut named =
                pods.filter(|pod| pod.status.as_ref().and_then(|status| status.pod_ip.as_deref()) == Some(ip));
            let name = named.next().map(|pod| pod.name_any()).unwrap_or_default();
            let (id, is_member) =
                self.running().get(&name).copied().ok_or_else(|| stores::Error::Unreachable(address.clone()))?;
            let cluster = self.lock().store.as_ref().map(|store| store.map.cluster.to_string()).filter(|_| is_member);
            Ok(serde_json::from_value(json!({"id": id.to_string(), "name": name, "cluster": cluster, "version": "1"}))
                .unwrap())
        })
    }

    fn told(&self, _: ClusterId, _: Vec<NodeAddress>) -> BoxFuture<'_, Result<Told, stores::Error>> {
        self.lock().asked += 1;
        Box::pin(async move {
            let up = self.up();
            let inner = self.lock();
            inner.store.as_ref().ok_or_else(|| stores::Error::Unreachable("there is no store".to_owned()))?.told(&up)
        })
    }

    fn bootstrap(&self, _: String, bootstrap: Bootstrap) -> BoxFuture<'_, Result<(), stores::Error>> {
        Box::pin(async move {
            let mut inner = self.lock();
            assert!(inner.store.is_none(), "a store is made once");
            let store = Store::bootstrap(&bootstrap)?;
            for (id, is_member) in inner.disks.values_mut() {
                *is_member |= store.map.member(*id).is_some();
            }
            inner.store = Some(store);
            Ok(())
        })
    }

    fn set_members(
        &self,
        _: Vec<NodeAddress>,
        fence: u64,
        members: Members,
    ) -> BoxFuture<'_, Result<Changed, stores::Error>> {
        Box::pin(async move {
            self.change(|store| store.set_members(fence, &members))?;
            Ok(Changed { epoch: 0, joined: Vec::new(), leaving: Vec::new(), updated: Vec::new() })
        })
    }

    fn drain(
        &self,
        _: Vec<NodeAddress>,
        fence: u64,
        member: String,
        drains: bool,
    ) -> BoxFuture<'_, Result<(), stores::Error>> {
        Box::pin(async move { self.change(|store| store.drain(fence, &member, drains)) })
    }

    fn evict(&self, _: String) -> BoxFuture<'_, Result<u64, stores::Error>> {
        Box::pin(async move { Ok(0) })
    }
}

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
        let nodes = Arc::new(Nodes { cluster: cluster.clone(), inner: Mutex::default() });
        let readiness = Arc::clone(&nodes);
        cluster.set_ready(move |pod| readiness.is_ready(pod));
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
        let now = Caches {
            clusters: cached(&self.cluster, Some(NAMESPACE), |_: &StorageCluster| true),
            pods: cached(&self.cluster, Some(NAMESPACE), is_managed::<Pod>),
            volumes: cached(&self.cluster, Some(NAMESPACE), is_managed::<PersistentVolumeClaim>),
            services: cached(&self.cluster, Some(NAMESPACE), is_managed::<Service>),
            budgets: cached(&self.cluster, Some(NAMESPACE), is_managed::<PodDisruptionBudget>),
            policies: cached(&self.cluster, Some(NAMESPACE), is_managed::<NetworkPolicy>),
            nodes: cached(&self.cluster, None, |_: &Node| true),
            classes: cached(&self.cluster, None, |_: &StorageClass| true),
        };
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

fn is_managed<K: Resource>(object: &K) -> bool {
    object.labels().get(MANAGED).is_some_and(|by| by == "annulus-operator")
}

fn cached<K>(cluster: &Cluster, namespace: Option<&str>, wanted: impl Fn(&K) -> bool) -> Cache<K>
where
    K: Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    let (reader, mut writer) = reflector::store();
    writer.apply_watcher_event(&watcher::Event::Init);
    for object in cluster.list::<K>(namespace).into_iter().filter(wanted) {
        writer.apply_watcher_event(&watcher::Event::InitApply(object));
    }
    writer.apply_watcher_event(&watcher::Event::InitDone);
    Cache::new(vec![reader])
}
