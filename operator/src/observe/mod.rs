//! Reads all that is known of a cluster: what Kubernetes has of it, what its nodes answer, what its store says.
//!
//! Never changes anything. What it can't read is absent in what it returns, never guessed; only Kubernetes' own objects must be
//! readable, or there is nothing to go by.

mod kubernetes;
mod trouble;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use annulus_crds::{StorageCluster, annotations};
use futures_util::stream::{self, StreamExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ListParams};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::caches::Caches;
use crate::inject::sidecars;
use crate::model::{Cluster, Member, Observed, Store};
use crate::resources::{self, ADMIN_PORT, CLIENT_PORT, Facts};
use crate::stores::{NodeAddress, Stores};
use crate::validate::{self, Problem};

/// How long a node may take to say who it is.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How many nodes of a cluster are asked at once.
const ASKED_AT_ONCE: usize = 16;

/// Why a cluster could not be observed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server did not tell.
    #[error("{what} in namespace {namespace} can't be listed")]
    List {
        /// What was asked for.
        what: &'static str,
        /// Where.
        namespace: String,
        /// Why not.
        source: Box<kube::Error>,
    },
    /// The resource is not as the API server would have let it be.
    #[error("the resource has no {0}")]
    Incomplete(&'static str),
}

/// Where pods and volumes are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// What the watches have seen last.
    Cached,
    /// What the API server says now.
    Live,
}

/// Everything that is known of a cluster, and what is wrong with its spec.
pub async fn observe(
    client: &kube::Client,
    caches: &Caches,
    stores: &dyn Stores,
    defaults: &Defaults,
    resource: &StorageCluster,
    freshness: Freshness,
) -> Result<(Observed, Vec<Problem>), Error> {
    let mut cluster = cluster(resource, defaults)?;
    let (pods, volumes) = found(client, caches, &cluster, freshness).await?;
    let (mut members, taken) = kubernetes::members(&cluster, caches, &pods, &volumes);
    cluster.image = image(&cluster, resource, defaults, &members, &pods);
    let store = if cluster.is_ending(&members) {
        // Whatever they say, they are stopped; and a store that is dead would only be waited for.
        Store::None
    } else {
        ask(stores, &mut members).await;
        store(stores, &cluster, &members).await
    };
    let mut problems = validate::settle(&mut cluster.spec, &members, &store);
    cluster.template = resources::template::digest(&facts(&cluster, resource));
    let sidecars = sidecars::of(&caches.sidecars, &cluster.namespace, &cluster.name);
    let (refused, now_s) = (Vec::new(), defaults.now_s());
    let observed = Observed { cluster, members, taken, store, sidecars, refused, now_s };
    problems.extend(validate::names(&observed));
    Ok((observed, problems))
}

/// What the operator was started with that a cluster may fall back on.
#[derive(Clone)]
pub struct Defaults {
    /// The image of members whose cluster names none.
    pub node_image: String,
    /// The time; tests stop it.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

impl Defaults {
    fn now_s(&self) -> i64 {
        (self.clock)().as_second()
    }
}

/// What objects are made of.
pub fn facts(cluster: &Cluster, resource: &StorageCluster) -> Facts {
    Facts {
        namespace: cluster.namespace.clone(),
        name: cluster.name.clone(),
        uid: cluster.uid.clone(),
        spec: cluster.spec.clone(),
        image: cluster.image.clone(),
        restarted_at: resource.annotations().get(annotations::RESTARTED_AT).cloned(),
    }
}

fn cluster(resource: &StorageCluster, defaults: &Defaults) -> Result<Cluster, Error> {
    let uid = resource.uid().ok_or(Error::Incomplete("UID"))?;
    let named = |annotation: &str| {
        let text = resource.annotations().get(annotation).map(String::as_str).unwrap_or_default();
        text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    let mut cluster = Cluster {
        namespace: resource.namespace().ok_or(Error::Incomplete("namespace"))?,
        name: resource.name_any(),
        id: uid.parse().map_err(|_| Error::Incomplete("UID that is a UUID"))?,
        uid,
        generation: resource.metadata.generation.unwrap_or_default(),
        spec: resource.spec.clone(),
        image: defaults.node_image.clone(),
        template: String::new(),
        drain: named(annotations::DRAIN).into_iter().collect(),
        remove: named(annotations::REMOVE),
        deleting: resource.metadata.deletion_timestamp.is_some(),
        last_ordinal: 0,
        was_made: false,
        known: BTreeMap::new(),
    };
    cluster.remember(&resource.status.clone().unwrap_or_default());
    Ok(cluster)
}

/// The image: the one that is named, else the one that the cluster began with, so that a newer operator rolls nobody.
fn image(
    cluster: &Cluster,
    resource: &StorageCluster,
    defaults: &Defaults,
    members: &BTreeMap<String, Member>,
    pods: &[Arc<Pod>],
) -> String {
    if let Some(image) = &resource.spec.image {
        return image.clone();
    }
    let is_marked = |member: &Member| member.volume.as_ref().is_some_and(|volume| volume.mark.is_some());
    // Before there is a store nothing has begun: where the operator was started with the wrong image, the right one mends it.
    if !cluster.was_made && !members.values().any(is_marked) {
        return defaults.node_image.clone();
    }
    let begun_with = resource.status.as_ref().and_then(|status| status.image.clone());
    let running = || {
        let ours = pods.iter().filter(|pod| members.contains_key(&pod.name_any()));
        ours.filter_map(|pod| pod.spec.as_ref()?.containers.first()?.image.clone()).min()
    };
    begun_with.or_else(running).unwrap_or_else(|| defaults.node_image.clone())
}

type Found = (Vec<Arc<Pod>>, Vec<Arc<PersistentVolumeClaim>>);

async fn found(
    client: &kube::Client,
    caches: &Caches,
    cluster: &Cluster,
    freshness: Freshness,
) -> Result<Found, Error> {
    let namespace = cluster.namespace.clone();
    if freshness == Freshness::Cached {
        let is_here = |meta: &kube::api::ObjectMeta| {
            meta.namespace.as_deref() == Some(&*namespace) && kubernetes::instance(meta) == Some(cluster.name.as_str())
        };
        let pods = caches.pods.state().into_iter().filter(|pod| is_here(&pod.metadata));
        let volumes = caches.volumes.state().into_iter().filter(|volume| is_here(&volume.metadata));
        return Ok((pods.collect(), volumes.collect()));
    }
    let selected = ListParams::default().labels(&resources::selector_text(&cluster.name));
    let failed = |what| {
        let namespace = namespace.clone();
        move |source| Error::List { what, namespace, source: Box::new(source) }
    };
    let pods = Api::<Pod>::namespaced(client.clone(), &namespace).list(&selected).await.map_err(failed("pods"))?;
    let volumes = Api::<PersistentVolumeClaim>::namespaced(client.clone(), &namespace);
    let volumes = volumes.list(&selected).await.map_err(failed("persistent volume claims"))?;
    let (mut pods, mut volumes): Found =
        (pods.items.into_iter().map(Arc::new).collect(), volumes.items.into_iter().map(Arc::new).collect());
    let names = names(cluster, &pods, &volumes);
    pods.extend(unlisted(client, &namespace, &names, &pods).await.map_err(failed("pods"))?);
    volumes.extend(unlisted(client, &namespace, &names, &volumes).await.map_err(failed("persistent volume claims"))?);
    Ok((pods, volumes))
}

/// The names of all members that are known of.
fn names(cluster: &Cluster, pods: &[Arc<Pod>], volumes: &[Arc<PersistentVolumeClaim>]) -> BTreeSet<String> {
    let listed = pods.iter().map(|pod| pod.name_any()).chain(volumes.iter().map(|volume| volume.name_any()));
    let prefix = format!("{}-", cluster.name);
    // What stands in a status may have been written by anybody.
    let is_name = |name: &String| {
        name.strip_prefix(&prefix).is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_alphanumeric()))
    };
    cluster.known.keys().cloned().chain(listed).filter(is_name).collect()
}

/// What a list by labels does not show, and a member's name does: somebody has taken its labels off. Without it a member whose
/// claim only lost a label would count as one that has lost its data.
async fn unlisted<K>(
    client: &kube::Client,
    namespace: &str,
    names: &BTreeSet<String>,
    listed: &[Arc<K>],
) -> kube::Result<Vec<Arc<K>>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let listed: BTreeSet<String> = listed.iter().map(|object| object.name_any()).collect();
    let api = Api::<K>::namespaced(client.clone(), namespace);
    let names: Vec<String> = names.difference(&listed).cloned().collect();
    let reads = names.into_iter().map(|name| {
        let api = api.clone();
        async move { api.get_opt(&name).await }
    });
    let read: Vec<_> = stream::iter(reads).buffered(ASKED_AT_ONCE).collect().await;
    read.into_iter().filter_map(|object| object.map(|object| object.map(Arc::new)).transpose()).collect()
}

/// Asks every node that has an address who it is.
async fn ask(stores: &dyn Stores, members: &mut BTreeMap<String, Member>) {
    let asked: Vec<(String, String)> = members
        .iter()
        .filter_map(|(name, member)| {
            let pod = member.pod.as_ref().filter(|pod| !pod.has_ended)?;
            Some((name.clone(), address(pod.ip.as_ref()?, ADMIN_PORT)))
        })
        .collect();
    let answers = stream::iter(asked.into_iter().map(|(name, address)| async move {
        let answer = timeout(ANSWER_WITHIN, stores.status(address)).await;
        (name, answer.ok().and_then(Result::ok))
    }));
    let answers: Vec<_> = answers.buffer_unordered(ASKED_AT_ONCE).collect().await;
    for (name, answer) in answers {
        // Whoever answers under another name has taken over the address of a pod that is gone.
        let answer = answer.filter(|answer| answer.name == name);
        if let Some(member) = members.get_mut(&name) {
            member.answer = answer;
        }
    }
}

/// The nodes that belong to the store.
pub fn addresses(cluster: &Cluster, members: &BTreeMap<String, Member>) -> Vec<NodeAddress> {
    let ours =
        members.values().filter(|member| member.answer.as_ref().is_some_and(|it| it.cluster == Some(cluster.id)));
    let mut ours: Vec<&Member> = ours.collect();
    // One that is ready knows the leader; one that only starts may not.
    ours.sort_by_key(|member| member.pod.as_ref().is_none_or(|pod| !pod.is_ready));
    let ips = ours.into_iter().filter_map(|member| member.pod.as_ref()?.ip.clone());
    ips.map(|ip| NodeAddress { client: address(&ip, CLIENT_PORT), admin: address(&ip, ADMIN_PORT) }).collect()
}

/// `host:port` of an IP address of either kind.
pub fn address(ip: &str, port: i32) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

async fn store(stores: &dyn Stores, cluster: &Cluster, members: &BTreeMap<String, Member>) -> Store {
    let addresses = addresses(cluster, members);
    if addresses.is_empty() {
        return Store::None;
    }
    match stores.told(cluster.id, addresses).await {
        Ok(told) => Store::Known(Box::new(told)),
        Err(error) => Store::Unreachable { reason: error.to_string() },
    }
}

/// Names that somebody else's objects have.
type Taken = BTreeSet<String>;
