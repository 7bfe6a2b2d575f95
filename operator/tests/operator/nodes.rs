//! The nodes of all pods of a simulated cluster, and the simulated store that they make.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use annulus_client::admin::{Changed, Members};
use annulus_client::node::{Bootstrap, Status};
use annulus_client::{ClusterId, MemberId};
use annulus_operator::model::Told;
use annulus_operator::simulated::Cluster;
use annulus_operator::stores::{self, NodeAddress, Stores};
use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::json;

use crate::store::Store;

pub const NAMESPACE: &str = "default";

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
    /// Those of a cluster.
    pub fn new(cluster: &Cluster) -> Arc<Self> {
        let nodes = Arc::new(Self { cluster: cluster.clone(), inner: Mutex::default() });
        let readiness = Arc::clone(&nodes);
        cluster.set_ready(move |pod| readiness.is_ready(pod));
        nodes
    }

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

    /// A second passes.
    pub fn round(&self) {
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
