//! What the watches have seen last. Reads of these cost the API server nothing; before anything is changed it is read anew.

use std::sync::Arc;

use annulus_crds::StorageCluster;
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Resource;
use kube::api::PartialObjectMeta;
use kube::runtime::reflector::{ObjectRef, Store};

/// What the watches have seen last.
#[derive(Clone)]
pub struct Caches {
    /// All clusters.
    pub clusters: Cache<StorageCluster>,
    /// Pods that are members'.
    pub pods: Cache<Pod>,
    /// Claims that are members'.
    pub volumes: Cache<PersistentVolumeClaim>,
    /// Services that are clusters'.
    pub services: Cache<Service>,
    /// Budgets that are clusters'.
    pub budgets: Cache<PodDisruptionBudget>,
    /// Network policies that are clusters'.
    pub policies: Cache<NetworkPolicy>,
    /// Pods that have a sidecar: their marks.
    pub sidecars: Cache<PartialObjectMeta<Pod>>,
    /// All nodes; empty when the operator may not see them.
    pub nodes: Cache<Node>,
    /// All storage classes; empty when the operator may not see them.
    pub classes: Cache<StorageClass>,
}

/// Objects of one kind, of all namespaces that are watched.
#[derive(Clone)]
pub struct Cache<K: 'static + Resource<DynamicType = ()> + Clone>(Vec<Store<K>>);

impl<K: 'static + Resource<DynamicType = ()> + Clone> Cache<K> {
    /// Of these watches, one for each namespace.
    pub fn new(stores: Vec<Store<K>>) -> Self {
        Self(stores)
    }

    /// One object.
    pub fn get(&self, key: &ObjectRef<K>) -> Option<Arc<K>> {
        self.0.iter().find_map(|store| store.get(key))
    }

    /// All of them.
    pub fn state(&self) -> Vec<Arc<K>> {
        self.0.iter().flat_map(Store::state).collect()
    }

    /// One of which this is true.
    pub fn find(&self, is_it: impl Fn(&K) -> bool) -> Option<Arc<K>> {
        self.0.iter().find_map(|store| store.find(&is_it))
    }

    /// Whether there is none, or none was seen yet.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Store::is_empty)
    }
}
