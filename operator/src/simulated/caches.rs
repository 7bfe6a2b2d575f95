//! What the operator's watches would have seen, without watches: for tests that play the watches themselves.

use annulus_crds::{inject, labels};
use k8s_openapi::api::core::v1::Pod;
use kube::api::PartialObjectMeta;
use kube::runtime::{reflector, watcher};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Cluster;
use crate::caches::{Cache, Caches};
use crate::inject::sidecars;

impl Cluster {
    /// What the operator's watches of a namespace would have seen by now.
    pub fn caches(&self, namespace: &str) -> Caches {
        let namespace = Some(namespace);
        let pods = self.list::<Pod>(namespace);
        let marked = pods.iter().filter(|pod| pod.labels().contains_key(inject::SIDECAR));
        let marks = marked.map(|pod| {
            let mut pod = PartialObjectMeta { metadata: pod.metadata.clone(), ..PartialObjectMeta::default() };
            sidecars::shorten(&mut pod);
            pod
        });
        Caches {
            clusters: self.cached(namespace, |_| true),
            sidecars: cache(marks),
            pods: cache(pods.iter().filter(|pod| is_managed(*pod)).cloned()),
            volumes: self.cached(namespace, is_managed),
            services: self.cached(namespace, is_managed),
            budgets: self.cached(namespace, is_managed),
            policies: self.cached(namespace, is_managed),
            nodes: self.cached(None, |_| true),
            classes: self.cached(None, |_| true),
        }
    }

    fn cached<K>(&self, namespace: Option<&str>, wanted: impl Fn(&K) -> bool) -> Cache<K>
    where
        K: Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        cache(self.list::<K>(namespace).into_iter().filter(wanted))
    }
}

fn cache<K>(objects: impl Iterator<Item = K>) -> Cache<K>
where
    K: Resource<DynamicType = ()> + Clone + Send + Sync + 'static,
{
    let (reader, mut writer) = reflector::store();
    writer.apply_watcher_event(&watcher::Event::Init);
    for object in objects {
        writer.apply_watcher_event(&watcher::Event::InitApply(object));
    }
    writer.apply_watcher_event(&watcher::Event::InitDone);
    Cache::new(vec![reader])
}

fn is_managed<K: Resource>(object: &K) -> bool {
    object.labels().get(labels::MANAGED_BY).is_some_and(|by| by == labels::MANAGER)
}
