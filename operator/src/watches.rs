//! The watches: they keep the caches, and say which cluster has changed.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use annulus_crds::{StorageCluster, inject, labels};
use futures_util::stream::{BoxStream, StreamExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, PartialObjectMeta};
use kube::core::DeserializeGuard;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::caches::{Cache, Caches};
use crate::inject::sidecars;
use crate::queue::Key;

/// What hinders a watch, by the kind that it is of; empty: nothing.
#[derive(Debug, Clone, Default)]
pub struct Troubles(Arc<Mutex<std::collections::BTreeMap<&'static str, String>>>);

impl Troubles {
    /// All of them, in words.
    pub fn told(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Sets what hinders this; `None`: nothing does.
    pub fn set(&self, kind: &'static str, trouble: Option<String>) {
        let mut troubles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match trouble {
            None => drop(troubles.remove(kind)),
            Some(trouble) => {
                if troubles.get(kind) != Some(&trouble) {
                    tracing::warn!("{trouble}");
                }
                troubles.insert(kind, trouble);
            }
        }
    }
}

/// Starts all watches, in these namespaces or in all. Returns what they keep; `changed` hears of every cluster of which
/// something has changed.
pub fn start(
    client: &Client,
    namespaces: &BTreeSet<String>,
    changed: &mpsc::Sender<Key>,
    troubles: &Troubles,
) -> Caches {
    let watch = Watch { client, namespaces, changed, troubles };
    Caches {
        clusters: watch.clusters(),
        pods: watch.owned("pods"),
        volumes: watch.owned("persistentvolumeclaims"),
        services: watch.owned("services"),
        budgets: watch.owned("poddisruptionbudgets"),
        policies: watch.owned("networkpolicies"),
        sidecars: watch.sidecars(),
        nodes: watch.of_all("nodes", without_images),
        classes: watch.of_all("storageclasses", |_| {}),
    }
}

struct Watch<'a> {
    client: &'a Client,
    namespaces: &'a BTreeSet<String>,
    changed: &'a mpsc::Sender<Key>,
    troubles: &'a Troubles,
}

type Events<K> = BoxStream<'static, watcher::Result<watcher::Event<K>>>;

impl Watch<'_> {
    fn apis<K>(&self) -> Vec<Api<K>>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        if self.namespaces.is_empty() {
            return vec![Api::all(self.client.clone())];
        }
        self.namespaces.iter().map(|namespace| Api::namespaced(self.client.clone(), namespace)).collect()
    }

    /// Clusters. One that can't be read is told, and stops nobody else's watch.
    fn clusters(&self) -> Cache<StorageCluster> {
        let apis = self.apis::<DeserializeGuard<StorageCluster>>();
        let stores = apis.into_iter().map(|api| {
            let events = watcher(api, watcher::Config::default()).default_backoff();
            let events = events.filter_map(|event| std::future::ready(event.map(readable).transpose())).boxed();
            self.keep("storageclusters", events, |cluster: &StorageCluster| {
                cluster.namespace().map(|namespace| (namespace, cluster.name_any()))
            })
        });
        Cache::new(stores.collect())
    }

    /// Objects that the operator has made.
    fn owned<K>(&self, kind: &'static str) -> Cache<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + Sync
            + 'static,
    {
        let config = watcher::Config::default().labels(&format!("{}={}", labels::MANAGED_BY, labels::MANAGER));
        let stores = self.apis::<K>().into_iter().map(|api| {
            let events = watcher(api, config.clone()).default_backoff().boxed();
            self.keep(kind, events, |object: &K| {
                Some((object.namespace()?, object.labels().get(labels::INSTANCE)?.clone()))
            })
        });
        Cache::new(stores.collect())
    }

    /// Pods that have a sidecar and have not ended: their marks alone. How many there are is told with the next round.
    fn sidecars(&self) -> Cache<PartialObjectMeta<Pod>> {
        let config = watcher::Config::default().labels(inject::SIDECAR).fields(sidecars::RUNNING);
        let stores = self.apis::<PartialObjectMeta<Pod>>().into_iter().map(|api| {
            let events = watcher(api, config.clone()).default_backoff();
            let events = events.map(|event| event.map(|event| event.modify(sidecars::shorten))).boxed();
            self.keep("pods with sidecars", events, |_| None)
        });
        Cache::new(stores.collect())
    }

    /// Objects of the whole cluster. What changes about them is looked at in the next round of whom it concerns.
    fn of_all<K>(&self, kind: &'static str, shorten: fn(&mut K)) -> Cache<K>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let api = Api::<K>::all(self.client.clone());
        let events = watcher(api, watcher::Config::default()).default_backoff();
        let events = events.map(move |event| event.map(|event| event.modify(shorten))).boxed();
        Cache::new(vec![self.keep(kind, events, |_| None)])
    }

    fn keep<K>(
        &self,
        kind: &'static str,
        events: Events<K>,
        key: impl Fn(&K) -> Option<Key> + Send + 'static,
    ) -> Store<K>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
        K::DynamicType: Eq + Hash + Clone,
    {
        let (reader, writer) = reflector::store();
        let (changed, troubles) = (self.changed.clone(), self.troubles.clone());
        // Who wrote which field fills half of an object, and nobody here reads it.
        let events = events.map(|event| event.map(|event| event.modify(|object| object.managed_fields_mut().clear())));
        let mut events = Box::pin(reflector::reflector(writer, events));
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                let object = match event {
                    Ok(
                        watcher::Event::Apply(object)
                        | watcher::Event::InitApply(object)
                        | watcher::Event::Delete(object),
                    ) => object,
                    Ok(watcher::Event::Init) => continue,
                    Ok(watcher::Event::InitDone) => {
                        troubles.set(kind, None);
                        continue;
                    }
                    Err(error) => {
                        troubles.set(kind, Some(explained(kind, &error)));
                        continue;
                    }
                };
                troubles.set(kind, None);
                if let Some(key) = key(&object)
                    && changed.send(key).await.is_err()
                {
                    return;
                }
            }
        });
        reader
    }
}

/// A node without the list of all its images, which is most of it.
fn without_images(node: &mut Node) {
    if let Some(status) = &mut node.status {
        (status.images, status.volumes_attached, status.volumes_in_use) = (None, None, None);
    }
}

/// An event without what could not be read.
fn readable(event: watcher::Event<DeserializeGuard<StorageCluster>>) -> Option<watcher::Event<StorageCluster>> {
    let read = |guard: DeserializeGuard<StorageCluster>| match guard.0 {
        Ok(cluster) => Some(cluster),
        Err(invalid) => {
            let name = invalid.metadata.name.unwrap_or_default();
            let namespace = invalid.metadata.namespace.unwrap_or_default();
            tracing::warn!(
                namespace,
                name,
                error = invalid.error,
                "this StorageCluster can't be read, and is left alone: it may be of a newer version; correct it, or update the operator"
            );
            None
        }
    };
    Some(match event {
        watcher::Event::Apply(object) => watcher::Event::Apply(read(object)?),
        watcher::Event::Delete(object) => watcher::Event::Delete(read(object)?),
        watcher::Event::InitApply(object) => watcher::Event::InitApply(read(object)?),
        watcher::Event::Init => watcher::Event::Init,
        watcher::Event::InitDone => watcher::Event::InitDone,
    })
}

/// Why a watch does not work, and what to do.
pub(crate) fn explained(kind: &str, error: &watcher::Error) -> String {
    let api = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => Some(status),
        watcher::Error::WatchError(status) => Some(status),
        _ => None,
    };
    match api.map(|status| status.code) {
        Some(404) if kind == "storageclusters" => {
            "the custom resource StorageCluster is not installed: install the chart annulus-crds".to_owned()
        }
        Some(403) => format!(
            "the operator may not list and watch {kind}: its role lacks that permission; install the chart annulus-operator of this version"
        ),
        _ => format!("{kind} can't be watched: {}", crate::reconcile::chain(error)),
    }
}
