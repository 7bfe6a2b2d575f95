//! What a report is made of: asked for one after the other, members a few at a time.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io;

use annulus_crds::labels;
use futures_util::stream::{self, StreamExt};
use k8s_openapi::api::core::v1::{Event, Node, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use kube::api::{Api, ListParams, LogParams};
use kube::core::DynamicObject;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::connect::{Asked, Server, within};
use super::report::{Archive, Entry};
use super::{proxy, redact};

/// The container that a member runs in.
const CONTAINER: &str = "node";
/// Lines of each log, from its end.
const LOG_LINES: i64 = 10_000;
/// Bytes of each log at most.
const LOG_BYTES: i64 = 32 * 1024 * 1024;
/// Objects that are asked for at once.
const PAGE: u32 = 500;
/// Most objects of a kind.
const MOST: usize = 10_000;
/// Members that are asked at once.
const AT_ONCE: usize = 8;
/// What members answer at their port for the operator, and the file that it becomes.
const ANSWERS: [(&str, &str); 3] =
    [("metrics.txt", "metrics"), ("status.json", "admin/v1/status"), ("plan.json", "admin/v1/plan")];

/// Reads everything into an archive. What can't be read is noted there; only writing may fail.
pub(super) async fn collect(
    server: &Server,
    cluster: &Cluster,
    object: &DynamicObject,
    archive: &mut Archive,
) -> io::Result<()> {
    let client = &server.client;
    archive.add(versions(server).await)?;
    archive.add(Entry::object("storagecluster.yaml", object))?;
    let ours = ListParams::default().labels(&format!(
        "{}={},{}={}",
        labels::MANAGED_BY,
        labels::MANAGER,
        labels::INSTANCE,
        cluster.name
    ));
    let namespace = &server.namespace;
    let pods = list(Api::<Pod>::namespaced(client.clone(), namespace), &ours).await;
    archive.add(listed("pods.yaml", &pods))?;
    let pods = pods.unwrap_or_default();
    let volumes = list(Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace), &ours).await;
    archive.add(listed("persistentvolumeclaims.yaml", &volumes))?;
    let services = list(Api::<Service>::namespaced(client.clone(), namespace), &ours).await;
    archive.add(listed("services.yaml", &services))?;
    let budgets = list(Api::<PodDisruptionBudget>::namespaced(client.clone(), namespace), &ours).await;
    archive.add(listed("poddisruptionbudgets.yaml", &budgets))?;
    let policies = list(Api::<NetworkPolicy>::namespaced(client.clone(), namespace), &ours).await;
    archive.add(listed("networkpolicies.yaml", &policies))?;
    let events = list(Api::<Event>::namespaced(client.clone(), namespace), &ListParams::default()).await;
    let events = events.map(|mut events| {
        events.retain(|event| is_about(event.involved_object.name.as_deref(), &cluster.name));
        events
    });
    archive.add(listed("events.yaml", &events))?;
    archive.add(nodes(server, object, &pods).await)?;
    operator(server, archive).await?;
    members(server, cluster, &pods, archive).await
}

async fn versions(server: &Server) -> Entry {
    let version = within(server.client.apiserver_version()).await;
    let version = version.map(|version| {
        format!("annulus {}\nKubernetes {} ({})\n", env!("CARGO_PKG_VERSION"), version.git_version, version.platform)
    });
    Entry::of("versions.txt", version)
}

/// Whether an event is about the cluster, or something that was made for it.
fn is_about(name: Option<&str>, cluster: &str) -> bool {
    let rest = name.and_then(|name| name.strip_prefix(cluster));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// All objects of a kind, or as many as a report has room for.
async fn list<K>(api: Api<K>, parameters: &ListParams) -> Result<Vec<K>, Asked>
where
    K: Clone + DeserializeOwned + Debug,
{
    let mut parameters = parameters.clone().limit(PAGE);
    let mut objects = Vec::new();
    loop {
        let page = within(api.list(&parameters)).await?;
        objects.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) if objects.len() < MOST => parameters = parameters.continue_token(&token),
            _ => return Ok(objects),
        }
    }
}

fn listed(name: &str, objects: &Result<Vec<impl Serialize>, Asked>) -> Entry {
    match objects {
        Ok(objects) => Entry::object(name, &json!({"items": objects})),
        Err(error) => Entry::Missing { name: name.to_owned(), why: error.to_string() },
    }
}

/// The nodes that members run on: their places, and whether they are well.
async fn nodes(server: &Server, object: &DynamicObject, pods: &[Pod]) -> Entry {
    let name = "nodes.yaml";
    let used = pods.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.clone()).collect::<BTreeSet<_>>();
    let zone_key = object.data["spec"]["topology"]["zoneKey"].as_str().unwrap_or("topology.kubernetes.io/zone");
    let nodes = list(Api::<Node>::all(server.client.clone()), &ListParams::default()).await;
    let told = nodes.map(|nodes| {
        let used = nodes.iter().filter(|node| used.contains(&node.name_any()));
        let told = used.filter_map(|node| Some(redact::node(&serde_json::to_value(node).ok()?, zone_key)));
        told.collect::<Vec<Value>>()
    });
    listed(name, &told)
}

/// The operator's pods and logs, wherever it runs.
async fn operator(server: &Server, archive: &mut Archive) -> io::Result<()> {
    let theirs = ListParams::default().labels(&format!("{}={}", labels::NAME, labels::MANAGER));
    let pods = match list(Api::<Pod>::all(server.client.clone()), &theirs).await {
        Ok(pods) => pods,
        Err(error) => {
            let why = format!("pods of all namespaces can't be listed: {error}");
            return archive.add(Entry::Missing { name: "operator/".to_owned(), why });
        }
    };
    if pods.is_empty() {
        let why = format!("no pod is labelled {}={}", labels::NAME, labels::MANAGER);
        return archive.add(Entry::Missing { name: "operator/".to_owned(), why });
    }
    for pod in &pods {
        let namespace = pod.namespace().unwrap_or_default();
        let folder = format!("operator/{namespace}/{}", pod.name_any());
        archive.add(Entry::object(format!("{folder}/pod.yaml"), pod))?;
        for container in containers(pod) {
            for entry in logs(server, &namespace, pod, &container, &folder).await {
                archive.add(entry)?;
            }
        }
    }
    Ok(())
}

fn containers(pod: &Pod) -> Vec<String> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers.map(|container| container.name.clone()).collect()
}

/// What the members themselves tell, and their logs.
async fn members(server: &Server, cluster: &Cluster, pods: &[Pod], archive: &mut Archive) -> io::Result<()> {
    let names = pods.iter().map(ResourceExt::name_any).collect::<BTreeSet<_>>();
    for member in cluster.members().iter().filter(|member| !names.contains(&member.name)) {
        archive.add(Entry::Missing { name: format!("members/{}/", member.name), why: "it has no pod".to_owned() })?;
    }
    let mut told = stream::iter(pods).map(|pod| member(server, pod)).buffered(AT_ONCE);
    while let Some(entries) = told.next().await {
        for entry in entries {
            archive.add(entry)?;
        }
    }
    Ok(())
}

async fn member(server: &Server, pod: &Pod) -> Vec<Entry> {
    let name = pod.name_any();
    let folder = format!("members/{name}");
    let mut entries = logs(server, &server.namespace, pod, CONTAINER, &folder).await;
    for (file, path) in ANSWERS {
        entries.push(Entry::of(format!("{folder}/{file}"), proxy::get(server, &name, path).await));
    }
    entries
}

/// The log of a container, and that of the one before it if there was one.
async fn logs(server: &Server, namespace: &str, pod: &Pod, container: &str, folder: &str) -> Vec<Entry> {
    let api = Api::<Pod>::namespaced(server.client.clone(), namespace);
    let name = pod.name_any();
    let read = async |previous: bool| {
        let parameters = LogParams {
            container: Some(container.to_owned()),
            previous,
            tail_lines: Some(LOG_LINES),
            limit_bytes: Some(LOG_BYTES),
            ..LogParams::default()
        };
        within(api.logs(&name, &parameters)).await
    };
    let mut entries = vec![Entry::of(format!("{folder}/{container}.log"), read(false).await)];
    if restarts(pod, container) > 0 {
        entries.push(Entry::of(format!("{folder}/{container}.previous.log"), read(true).await));
    }
    entries
}

/// How often a container was started again.
fn restarts(pod: &Pod, container: &str) -> i32 {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses.filter(|status| status.name == container).map(|status| status.restart_count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_a_cluster_are_told_from_those_of_another() {
        for ours in ["demo", "demo-members", "demo-7f3a"] {
            assert!(is_about(Some(ours), "demo"), "{ours}");
        }
        for other in [Some("demonstration"), Some("other-demo"), Some(""), None] {
            assert!(!is_about(other, "demo"), "{other:?}");
        }
    }

    #[test]
    fn only_a_container_that_was_started_again_has_a_log_before_its_own() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "demo-a"},
            "spec": {"containers": [{"name": "node"}, {"name": "sidecar"}]},
            "status": {"containerStatuses": [
                {"name": "node", "restartCount": 2, "ready": true, "image": "", "imageID": ""},
                {"name": "sidecar", "restartCount": 0, "ready": true, "image": "", "imageID": ""},
            ]},
        }))
        .unwrap();
        assert_eq!(containers(&pod), ["node", "sidecar"]);
        assert_eq!((restarts(&pod, "node"), restarts(&pod, "sidecar"), restarts(&pod, "other")), (2, 0, 0));
    }
}
