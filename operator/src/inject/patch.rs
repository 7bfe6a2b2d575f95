//! The sidecar, and the steps by which it gets into a pod. Pure: a pod and what is known of its cluster in, steps out.
//!
//! ```text
//!  pod ─ asked ─▶ cluster ─ found? ─▶ judged ─┬─▶ untouched: not asked for, or all there
//!                                             ├─▶ refused, with the reason
//!                                             └─▶ steps: variables, volume, sidecar, marks
//! ```
//!
//! It never changes or takes away what a pod has: each step adds. A pod that has its sidecar gets no second one, but containers that
//! came in since get the variable.

use annulus_crds::inject::{CONTAINER, INJECT, SIDECAR, VERSION};
use serde::Serialize;
use serde_json::{Value, json};

use super::pod::{Container, ENDPOINT, Pod, Spec};
use super::request::{Missing, Options, Refusal, Rules, options, own_port, quoted};
use crate::resources::{CLIENT_PORT, pod::USER};

/// Where the sidecar keeps its locks, on a volume of its own in memory.
const STATE: &str = "/run/annulus";
/// Room for twice the longest file that it keeps there, as one is written beside the other. It takes what it has, which is a few hundred
/// bytes for each lock.
const STATE_SIZE: &str = "16Mi";
/// What a sidecar runs.
const COMMAND: [&str; 2] = ["/annulus", "sidecar"];

/// What is known of the cluster that a pod names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// It is there.
    Here,
    /// It is being deleted.
    Leaving,
    /// There is none of this name in the namespace.
    Missing,
}

/// What becomes of a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It stays as it is.
    Untouched(Option<String>),
    /// It may not be made.
    Refused(Refusal),
    /// It is made with these additions.
    Patched(Vec<Addition>),
}

/// One step of a JSON patch (RFC 6902): an addition, since nothing else is ever done to a pod.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Addition {
    op: &'static str,
    /// Where, as a JSON pointer.
    pub path: String,
    /// What.
    pub value: Value,
}

impl Addition {
    fn new(path: impl Into<String>, value: Value) -> Self {
        Self { op: "add", path: path.into(), value }
    }
}

/// What becomes of a pod that asks for the sidecar of this cluster.
pub fn judged(rules: &Rules, namespace: &str, pod: &Pod, cluster: &str, found: Found) -> Outcome {
    let (Some(metadata), Some(spec)) = (&pod.metadata, &pod.spec) else {
        return Outcome::Refused(Refusal("the pod has no metadata or no spec".to_owned()));
    };
    match injected(rules, pod, spec, cluster) {
        Ok(true) => return completed(pod, spec),
        Ok(false) => {}
        Err(refusal) => return Outcome::Refused(refusal),
    }
    if let Some(why) = absence(namespace, cluster, found) {
        return match rules.missing {
            Missing::Refuse => Outcome::Refused(Refusal(why)),
            Missing::Allow => Outcome::Untouched(Some(format!("{why}; the pod starts without its sidecar"))),
        };
    }
    let options = match checked(rules, pod, spec) {
        Ok(options) => options,
        Err(refusal) => return Outcome::Refused(refusal),
    };
    let mut steps = variables(spec, options.port);
    steps.push(listed("/spec/volumes", spec.volumes.is_some().then_some("-"), volume()));
    let sidecar = sidecar(rules, namespace, cluster, &options);
    steps.push(listed("/spec/initContainers", spec.init_containers.is_some().then_some("0"), sidecar));
    steps.push(mark("/metadata/labels", metadata.labels.is_some(), SIDECAR, cluster));
    steps.push(mark("/metadata/annotations", metadata.annotations.is_some(), VERSION, &rules.version));
    Outcome::Patched(steps)
}

fn absence(namespace: &str, cluster: &str, found: Found) -> Option<String> {
    match found {
        Found::Here => None,
        Found::Leaving => Some(format!(
            "{INJECT} names the StorageCluster {cluster}, which is being deleted in namespace {namespace}"
        )),
        Found::Missing => Some(format!(
            "{INJECT} names the StorageCluster {cluster}, and there is none of that name in namespace {namespace} (kubectl get \
             storageclusters --namespace {namespace})"
        )),
    }
}

/// Whether a pod has its sidecar, as when it is looked at once more, or applied as it was exported. One that has something in its
/// place is refused.
fn injected(rules: &Rules, pod: &Pod, spec: &Spec, cluster: &str) -> Result<bool, Refusal> {
    let is_named = |container: &&Container| container.name == CONTAINER;
    if spec.containers.0.iter().any(|container| is_named(&container)) {
        return Err(Refusal(format!(
            "the pod has a container of its own that is called {CONTAINER}: that is the sidecar's name; give yours another"
        )));
    }
    let mut there = spec.init_containers().iter().filter(is_named);
    let volumes = spec.volumes.clone().unwrap_or_default();
    let Some(sidecar) = there.next() else {
        if volumes.named > 0 {
            return Err(Refusal(format!(
                "the pod has a volume of its own that is called {CONTAINER}: that is the name of the sidecar's; give yours another"
            )));
        }
        return Ok(false);
    };
    let foreign = |why: &str| {
        Err(Refusal(format!(
            "the pod has an init container {CONTAINER} that is not as the operator puts it in: {why}. Take out the container, the \
             volume {CONTAINER} and the label {SIDECAR}, and they are put in anew"
        )))
    };
    let command = sidecar.command.first.iter().map(String::as_str);
    if there.next().is_some() {
        return foreign("there are several");
    }
    if sidecar.restart_policy != "Always" || !command.eq(COMMAND) {
        return foreign("it runs something else");
    }
    if !rules.allows_image && repository(&sidecar.image) != repository(&rules.image) {
        return foreign(&format!("its image is {}, and sidecars are {}", quoted(&sidecar.image), rules.image));
    }
    if volumes.named != 1 || !volumes.is_empty_dir {
        return foreign("its volume is missing, or another");
    }
    match pod.label(SIDECAR) {
        Some(label) if label == cluster => Ok(true),
        Some(label) => foreign(&format!("it is for the cluster {}, and the pod asks for {cluster}", quoted(label))),
        None => foreign("the label is missing"),
    }
}

/// An image without its tag and digest.
fn repository(image: &str) -> &str {
    let named = image.split('@').next().unwrap_or_default();
    match named.rsplit_once(':') {
        // What follows a registry's port has a slash in it.
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => named,
    }
}

/// A pod that has its sidecar: containers that others have put in since get the variable.
fn completed(pod: &Pod, spec: &Spec) -> Outcome {
    match own_port(pod) {
        Err(refusal) => Outcome::Refused(refusal),
        Ok(port) => match variables(spec, port) {
            steps if steps.is_empty() => Outcome::Untouched(None),
            steps => Outcome::Patched(steps),
        },
    }
}

/// How the sidecar is to be, where the pod leaves room for it.
fn checked(rules: &Rules, pod: &Pod, spec: &Spec) -> Result<Options, Refusal> {
    let options = options(rules, pod)?;
    for container in spec.containers.0.iter().chain(spec.init_containers()) {
        for port in container.ports.0.iter().filter(|port| port.protocol.is_empty() || port.protocol == "TCP") {
            let taken = [port.container, if spec.host_network { port.host } else { 0 }];
            for (ours, what, key) in [
                (options.port, "for the store", annulus_crds::inject::PORT),
                (options.status_port, "for probes", annulus_crds::inject::STATUS_PORT),
            ] {
                if taken.contains(&i64::from(ours)) {
                    return Err(Refusal(format!(
                        "container {} listens at port {ours}, which the sidecar needs {what}: give the sidecar another by the pod's \
                         annotation {key}",
                        quoted(&container.name)
                    )));
                }
            }
        }
    }
    // Names of Services are not found otherwise, and the sidecar would never find the store.
    let finds_names = match spec.dns_policy.as_str() {
        "Default" => false,
        "" | "ClusterFirst" => !spec.host_network,
        _ => true,
    };
    if !finds_names {
        return Err(Refusal(format!(
            "the pod asks its node for names ({}), where no Service has one, so that a sidecar would not find the store: set \
             dnsPolicy to {}",
            if spec.host_network { "hostNetwork" } else { "dnsPolicy" },
            if spec.host_network { "ClusterFirstWithHostNet" } else { "ClusterFirst" }
        )));
    }
    if spec.dns_policy == "None" && spec.dns.searches.0.is_empty() {
        return Err(Refusal(
            "the pod asks for names by itself (dnsPolicy: None) and has no dnsConfig.searches, so that a sidecar would not find the \
             store, whose name ends in .svc: add the cluster's domain there (mostly cluster.local), or set dnsPolicy to ClusterFirst"
                .to_owned(),
        ));
    }
    Ok(options)
}

/// The variable for every container that does not set it itself. It stands first, so that others may refer to it.
fn variables(spec: &Spec, port: u16) -> Vec<Addition> {
    let all = [("containers", spec.containers.0.as_slice()), ("initContainers", spec.init_containers())];
    let mut steps = Vec::new();
    for (field, containers) in all {
        for (index, container) in containers.iter().enumerate().filter(|(_, container)| container.name != CONTAINER) {
            let path = format!("/spec/{field}/{index}/env");
            let variable = json!({"name": ENDPOINT, "value": format!("http://127.0.0.1:{port}")});
            match &container.env {
                Some(environment) if environment.has_endpoint => {}
                there => steps.push(listed(&path, there.is_some().then_some("0"), variable)),
            }
        }
    }
    steps
}

/// An element of a list: at a place of one that is there, else in a new one.
fn listed(path: &str, place: Option<&str>, element: Value) -> Addition {
    match place {
        Some(place) => Addition::new(format!("{path}/{place}"), element),
        None => Addition::new(path, json!([element])),
    }
}

fn mark(path: &str, is_there: bool, key: &str, value: &str) -> Addition {
    if is_there {
        Addition::new(format!("{path}/{}", key.replace('~', "~0").replace('/', "~1")), json!(value))
    } else {
        Addition::new(path, json!({key: value}))
    }
}

fn volume() -> Value {
    json!({"name": CONTAINER, "emptyDir": {"medium": "Memory", "sizeLimit": STATE_SIZE}})
}

/// The sidecar. It is ready when it runs, whether the store can be reached or not: else an outage of the store would take every
/// application out of its Services.
fn sidecar(rules: &Rules, namespace: &str, cluster: &str, options: &Options) -> Value {
    let listen = format!("127.0.0.1:{}", options.port);
    let mut limits = json!({"memory": options.memory_limit});
    if let Some(cpu) = &options.cpu_limit {
        limits["cpu"] = json!(cpu);
    }
    let mut container = json!({
        "name": CONTAINER,
        "image": options.image,
        "command": COMMAND,
        "args": [
            "--listen", listen,
            "--endpoint", format!("{cluster}.{namespace}.svc:{CLIENT_PORT}"),
            "--status-listen", format!("[::]:{}", options.status_port),
            "--state", format!("{STATE}/locks"),
            "--owner", "$(POD_NAME)",
        ],
        "restartPolicy": "Always",
        "env": [
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}},
            {"name": "ANNULUS_LOG_FORMAT", "value": "json"},
        ],
        "ports": [
            {"name": "annulus", "containerPort": options.port, "protocol": "TCP"},
            {"name": "annulus-status", "containerPort": options.status_port, "protocol": "TCP"},
        ],
        "resources": {
            "requests": {"cpu": options.cpu, "memory": options.memory},
            "limits": limits,
        },
        "volumeMounts": [{"name": CONTAINER, "mountPath": STATE}],
        // The next container starts when this has ended: an application finds the port open.
        "lifecycle": {"postStart": {"exec": {"command": [COMMAND[0], COMMAND[1], "--check", "--listen", listen]}}},
        // On the pod's own loopback: the status port can be kept busy by whoever reaches the pod.
        "livenessProbe": {
            "exec": {"command": [COMMAND[0], COMMAND[1], "--check", "--listen", listen]},
            "periodSeconds": 20, "timeoutSeconds": 15, "failureThreshold": 3,
        },
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER,
            "allowPrivilegeEscalation": false, "privileged": false, "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    });
    if let Some(policy) = &rules.pull_policy {
        container["imagePullPolicy"] = json!(policy);
    }
    container
}
