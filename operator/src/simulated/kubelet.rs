//! The rest of the cluster, a transition at a time: nodes run pods, volumes are made, deletions finish, garbage goes.

use std::collections::{BTreeMap, BTreeSet};

use annulus_crds::quantity;
use serde_json::{Value, json};

use super::error::Error;
use super::resources::{Key, Kind};
use super::rules::{CLAIM_PROTECTION, claim_bytes, is_deleting, label};
use super::scheduler::{claims_of, items, node_of};
use super::verbs::{Deletion, Part, Patch, Writer, text};
use super::{Cluster, Server};

const KUBELET: Writer<'static> = Writer { manager: "kubelet", part: Part::All };
const CONTROLLER: Writer<'static> = Writer { manager: "kube-controller-manager", part: Part::All };
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// More steps than anything takes to come to rest.
const STEPS_TO_SETTLE: usize = 1000;

/// How a node does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NodeState {
    /// Well.
    #[default]
    Running,
    /// Its pods run, and the API server hears nothing of it.
    Cut,
    /// Its pods do not run, and the API server hears nothing of it.
    Dead,
}

/// A volume that was made for a claim.
#[derive(Clone, Debug)]
pub(super) struct Volume {
    claim_uid: String,
    name: String,
    pub(super) node: String,
    pub(super) zone: String,
    pub(super) by_zone: bool,
    /// How often it lost what was on it.
    emptied: u64,
}

/// Says of a pod, by its name, whether it is ready.
type ReadyCheck = Box<dyn FnMut(&str) -> bool + Send>;

/// What is not in the API: the nodes' and volumes' own state.
#[derive(Default)]
pub(super) struct Machines {
    ready: Option<ReadyCheck>,
    nodes: BTreeMap<String, NodeState>,
    /// Images that can't be pulled.
    missing_images: BTreeSet<String>,
    /// Pods that no node takes, with the reason.
    pub(super) refused: BTreeMap<String, String>,
    /// Pods that do not end.
    stuck: BTreeSet<String>,
    volumes: BTreeMap<(String, String), Volume>,
    volumes_made: u64,
    addresses: u64,
}

impl Machines {
    fn node(&self, name: &str) -> NodeState {
        self.nodes.get(name).copied().unwrap_or_default()
    }
}

impl Cluster {
    /// Moves all that is not the operator on by one transition each, and says how many changes that made.
    pub fn step(&self) -> u64 {
        let running = self.lock().running();
        // The test's check runs without the lock: it may look at the cluster.
        let check = self.lock().machines.ready.take();
        let answers: BTreeMap<String, bool> = match check {
            Some(mut check) => {
                let answers = running.into_iter().map(|name| (name.clone(), check(&name))).collect();
                self.lock().machines.ready.get_or_insert(check);
                answers
            }
            None => running.into_iter().map(|name| (name, true)).collect(),
        };
        let mut server = self.lock();
        let before = server.store.version();
        server.tend_nodes();
        server.run_pods(&answers);
        server.schedule();
        server.tend_claims();
        server.collect_garbage();
        server.store.version() - before
    }

    /// Steps until nothing changes any more.
    ///
    /// # Panics
    ///
    /// If it never comes to rest.
    pub fn settle(&self) {
        for _ in 0..STEPS_TO_SETTLE {
            if self.step() == 0 {
                return;
            }
        }
        panic!("the simulated cluster did not come to rest in {STEPS_TO_SETTLE} steps");
    }

    /// Says from now on which running pods are ready, by their names. Without it, all are.
    pub fn set_ready(&self, check: impl FnMut(&str) -> bool + Send + 'static) {
        self.lock().machines.ready = Some(Box::new(check));
    }

    /// Has a node do well, be cut off, or be dead.
    pub fn set_node(&self, name: &str, state: NodeState) {
        self.lock().machines.nodes.insert(name.to_owned(), state);
    }

    /// Kills a node: its pods stay in the API and do not run.
    pub fn kill_node(&self, name: &str) {
        self.set_node(name, NodeState::Dead);
    }

    /// Cuts a node off: its pods run, and the API server hears nothing of them.
    pub fn cut_node(&self, name: &str) {
        self.set_node(name, NodeState::Cut);
    }

    /// Has a node be well again.
    pub fn restore_node(&self, name: &str) {
        self.set_node(name, NodeState::Running);
    }

    /// Lets no new pod on a node, or lets them again.
    pub fn cordon(&self, name: &str, cordoned: bool) -> Result<(), Error> {
        let patch = json!({"spec": {"unschedulable": if cordoned { json!(true) } else { Value::Null }}});
        self.patch::<k8s_openapi::api::core::v1::Node>("", name, &patch).map(|_| ())
    }

    /// Has no node take a pod, for a reason in the scheduler's words, such as `Insufficient memory`. `None`: they take it again.
    pub fn refuse_pod(&self, pod: &str, reason: Option<&str>) {
        let mut server = self.lock();
        match reason {
            Some(reason) => server.machines.refused.insert(pod.to_owned(), reason.to_owned()),
            None => server.machines.refused.remove(pod),
        };
    }

    /// Has an image be there to pull, or not.
    pub fn set_image(&self, image: &str, is_there: bool) {
        let mut server = self.lock();
        if is_there {
            server.machines.missing_images.remove(image);
        } else {
            server.machines.missing_images.insert(image.to_owned());
        }
    }

    /// Has a pod not end when it is deleted, or end again.
    pub fn hold_pod(&self, pod: &str, held: bool) {
        let mut server = self.lock();
        if held {
            server.machines.stuck.insert(pod.to_owned());
        } else {
            server.machines.stuck.remove(pod);
        }
    }

    /// Has a pod's first container die and start again; until the next step it is not ready.
    pub fn crash_pod(&self, namespace: &str, pod: &str) -> Result<(), Error> {
        let key = Key::new(Kind::pods(), namespace, pod);
        let mut server = self.lock();
        let mut status = server.store.entry(&key)?.object["status"].clone();
        if let Some(container) = status["containerStatuses"].get_mut(0) {
            container["restartCount"] = json!(container["restartCount"].as_i64().unwrap_or(0) + 1);
            container["ready"] = json!(false);
            container["lastState"] = json!({"terminated": {"exitCode": 137, "reason": "Error"}});
        }
        server.set_condition(&mut status, json!({"type": "Ready", "status": "False", "reason": "ContainersNotReady"}));
        server.write_own(&key, &json!({"status": status}), KUBELET);
        Ok(())
    }

    /// Whether a pod's processes run: what a member of that name would answer at all.
    pub fn is_running(&self, namespace: &str, pod: &str) -> bool {
        let server = self.lock();
        server.store.get(&Key::new(Kind::pods(), namespace, pod)).is_some_and(|pod| {
            pod["status"]["phase"] == "Running" && server.machines.node(node_of(pod)) != NodeState::Dead
        })
    }

    /// Takes the volume of a claim away. The claim stays, and says so.
    pub fn lose_volume(&self, namespace: &str, claim: &str) -> Result<(), Error> {
        let key = Key::new(Kind::claims(), namespace, claim);
        let mut server = self.lock();
        server.store.entry(&key)?;
        server.machines.volumes.remove(&(namespace.to_owned(), claim.to_owned()));
        server.write_own(&key, &json!({"status": {"phase": "Lost"}}), CONTROLLER);
        Ok(())
    }

    /// Takes away what is on a volume, and leaves the volume: [`Cluster::volume`] is another one then, and the API shows nothing.
    pub fn empty_volume(&self, namespace: &str, claim: &str) {
        let mut server = self.lock();
        if let Some(volume) = server.machines.volumes.get_mut(&(namespace.to_owned(), claim.to_owned())) {
            volume.emptied += 1;
        }
    }

    /// Which data a claim stands for: two answers are alike as long as nothing was lost.
    pub fn volume(&self, namespace: &str, claim: &str) -> Option<String> {
        let server = self.lock();
        server.volume_of(namespace, claim).map(|volume| format!("{}+{}", volume.name, volume.emptied))
    }
}

impl Server {
    /// A change that the cluster itself makes. If the object is gone, there is nothing to change.
    pub(super) fn write_own(&mut self, key: &Key, patch: &Value, writer: Writer<'_>) {
        let _ = self.store.update(key, Patch::Merge(patch), writer);
    }

    /// Names of the pods that run on nodes that can say so.
    fn running(&self) -> Vec<String> {
        self.store
            .list(Kind::pods(), None)
            .into_iter()
            .filter(|(_, pod)| pod["status"]["phase"] == "Running")
            .filter(|(_, pod)| self.machines.node(node_of(pod)) == NodeState::Running)
            .map(|(key, _)| key.name)
            .collect()
    }

    /// Sets a condition; its time moves only if its status does.
    pub(super) fn set_condition(&self, status: &mut Value, mut condition: Value) {
        if !status["conditions"].is_array() {
            status["conditions"] = json!([]);
        }
        let Some(conditions) = status["conditions"].as_array_mut() else { return };
        let old = conditions.iter_mut().find(|old| old["type"] == condition["type"]);
        condition["lastTransitionTime"] = match &old {
            Some(old) if old["status"] == condition["status"] => old["lastTransitionTime"].clone(),
            _ => json!(self.store.now()),
        };
        match old {
            Some(old) => *old = condition,
            None => conditions.push(condition),
        }
    }

    /// A node that is not heard of is marked, and its pods are not ready any more.
    fn tend_nodes(&mut self) {
        for (key, node) in self.store.list(Kind::nodes(), None) {
            let is_well = self.machines.node(&key.name) == NodeState::Running;
            let others = items(&node["spec"]["taints"]).filter(|taint| taint["key"] != UNREACHABLE).cloned();
            let mut taints: Vec<Value> = others.collect();
            let mut status = node["status"].clone();
            if is_well {
                self.set_condition(&mut status, json!({"type": "Ready", "status": "True", "reason": "KubeletReady"}));
            } else {
                taints.push(json!({"key": UNREACHABLE, "effect": "NoSchedule"}));
                let message = "Kubelet stopped posting node status.";
                let condition =
                    json!({"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "message": message});
                self.set_condition(&mut status, condition);
            }
            let taints = if taints.is_empty() { Value::Null } else { json!(taints) };
            self.write_own(&key, &json!({"spec": {"taints": taints}, "status": status}), CONTROLLER);
        }
        for (key, pod) in self.store.list(Kind::pods(), None) {
            let was_ready = items(&pod["status"]["conditions"])
                .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
            if was_ready && self.machines.node(node_of(&pod)) != NodeState::Running {
                let mut status = pod["status"].clone();
                self.set_condition(&mut status, json!({"type": "Ready", "status": "False", "reason": "NodeNotReady"}));
                self.write_own(&key, &json!({"status": status}), CONTROLLER);
            }
        }
    }

    fn run_pods(&mut self, answers: &BTreeMap<String, bool>) {
        for (key, pod) in self.store.list(Kind::pods(), None) {
            let node = node_of(&pod).to_owned();
            if node.is_empty() {
                continue;
            }
            if self.store.get(&Key::new(Kind::nodes(), "", &node)).is_none() {
                // What was on a node that is no more is collected without it.
                self.end_pod(&key);
                continue;
            }
            if self.machines.node(&node) != NodeState::Running {
                continue;
            }
            if is_deleting(&pod) {
                if !self.machines.stuck.contains(&key.name) {
                    self.end_pod(&key);
                }
                continue;
            }
            if ["Failed", "Succeeded"].iter().any(|phase| pod["status"]["phase"] == *phase) {
                continue;
            }
            let ready = answers.get(&key.name).copied().unwrap_or(false);
            let status = self.pod_status(&pod, ready);
            self.write_own(&key, &json!({"status": status}), KUBELET);
        }
    }

    fn end_pod(&mut self, key: &Key) {
        // It may wait for a finalizer, or be gone already.
        let _ = self.store.delete(key, &Deletion { grace_seconds: Some(0), ..Deletion::default() });
    }

    /// What the node says of a pod that it has.
    fn pod_status(&mut self, pod: &Value, ready: bool) -> Value {
        let mut status = pod["status"].clone();
        let was_running = status["phase"] == "Running";
        let containers: Vec<Value> = items(&pod["spec"]["containers"])
            .map(|container| self.container_status(&status, container, ready, was_running))
            .collect();
        let starts = was_running || containers.iter().all(|container| container["state"]["running"].is_object());
        if starts && !was_running {
            self.machines.addresses += 1;
            let address = format!("10.244.{}.{}", self.machines.addresses / 256, self.machines.addresses % 256);
            status["podIP"] = json!(address);
            status["podIPs"] = json!([{"ip": address}]);
            status["hostIP"] = json!("10.0.0.1");
        }
        if status["startTime"].is_null() {
            status["startTime"] = json!(self.store.now());
        }
        let all_ready = starts && containers.iter().all(|container| container["ready"] == true);
        status["phase"] = json!(if starts { "Running" } else { "Pending" });
        status["containerStatuses"] = json!(containers);
        self.set_condition(&mut status, json!({"type": "Initialized", "status": "True"}));
        for name in ["ContainersReady", "Ready"] {
            let mut condition = json!({"type": name, "status": if all_ready { "True" } else { "False" }});
            if !all_ready {
                condition["reason"] = json!("ContainersNotReady");
            }
            self.set_condition(&mut status, condition);
        }
        status
    }

    fn container_status(&self, status: &Value, container: &Value, ready: bool, was_running: bool) -> Value {
        let (name, image) = (&container["name"], &container["image"]);
        let mut said =
            items(&status["containerStatuses"]).find(|old| old["name"] == *name).cloned().unwrap_or(json!({}));
        let is_missing = image.as_str().is_some_and(|image| self.machines.missing_images.contains(image));
        let same_image = said["image"] == *image;
        said["name"] = name.clone();
        said["restartCount"] = json!(said["restartCount"].as_i64().unwrap_or(0));
        // What runs already needs no image, unless it is to run another one.
        let runs = !is_missing || (same_image && said["state"]["running"].is_object());
        if runs {
            if said["state"]["running"].is_null() || !same_image {
                said["state"] = json!({"running": {"startedAt": self.store.now()}});
            }
            let image = image.as_str().unwrap_or_default();
            said["imageID"] = json!(format!("{image}@sha256:simulated"));
        } else {
            let image = image.as_str().unwrap_or_default();
            let message = format!("Back-off pulling image \"{image}\": ErrImagePull: {image}: not found");
            said["state"] = json!({"waiting": {"reason": "ImagePullBackOff", "message": message}});
            said["imageID"] = json!("");
        }
        said["image"] = image.clone();
        said["started"] = json!(runs);
        said["ready"] = json!(runs && was_running && ready);
        said
    }

    pub(super) fn volume_of(&self, namespace: &str, claim: &str) -> Option<&Volume> {
        let object = self.store.get(&Key::new(Kind::claims(), namespace, claim))?;
        let volume = self.machines.volumes.get(&(namespace.to_owned(), claim.to_owned()))?;
        (volume.claim_uid == text(object, "uid")).then_some(volume)
    }

    /// Makes the volumes that a pod needs, on the node that it goes to.
    pub(super) fn bind_claims(&mut self, pod_key: &Key, pod: &Value, node: &Value) {
        for name in claims_of(pod) {
            let key = Key::new(Kind::claims(), &pod_key.namespace, name);
            let Some(claim) = self.store.get(&key).cloned() else { continue };
            if self.volume_of(&key.namespace, name).is_some() || claim["status"]["phase"] != "Pending" {
                continue;
            }
            let class = claim["spec"]["storageClassName"].as_str().unwrap_or_default();
            let class = self.store.get(&Key::new(Kind::classes(), "", class));
            let by_zone = class.is_some_and(|class| class["parameters"]["scope"] == "zone");
            self.machines.volumes_made += 1;
            let volume = Volume {
                claim_uid: text(&claim, "uid").to_owned(),
                name: format!("pvc-{}", self.machines.volumes_made),
                node: text(node, "name").to_owned(),
                zone: label(node, "topology.kubernetes.io/zone").unwrap_or_default().to_owned(),
                by_zone,
                emptied: 0,
            };
            let capacity = claim["spec"]["resources"]["requests"]["storage"].clone();
            let patch = json!({
                "metadata": {"annotations": {
                    "pv.kubernetes.io/bind-completed": "yes", "volume.kubernetes.io/selected-node": volume.node,
                }},
                "spec": {"volumeName": volume.name},
                "status": {
                    "phase": "Bound", "capacity": {"storage": capacity}, "accessModes": claim["spec"]["accessModes"],
                },
            });
            self.machines.volumes.insert((key.namespace.clone(), name.to_owned()), volume);
            self.write_own(&key, &patch, CONTROLLER);
        }
    }

    /// Grows volumes, and lets claims go that no pod uses.
    fn tend_claims(&mut self) {
        let used: BTreeSet<(String, String)> = self
            .store
            .list(Kind::pods(), None)
            .iter()
            .flat_map(|(key, pod)| {
                claims_of(pod).into_iter().map(|claim| (key.namespace.clone(), claim.to_owned())).collect::<Vec<_>>()
            })
            .collect();
        for (key, claim) in self.store.list(Kind::claims(), None) {
            let has = claim["status"]["capacity"]["storage"].as_str().and_then(quantity::bytes).unwrap_or(0);
            if claim["status"]["phase"] == "Bound" && claim_bytes(&claim) > has {
                let capacity = claim["spec"]["resources"]["requests"]["storage"].clone();
                self.write_own(&key, &json!({"status": {"capacity": {"storage": capacity}}}), CONTROLLER);
            }
            if is_deleting(&claim) && !used.contains(&(key.namespace.clone(), key.name.clone())) {
                let left: Vec<&Value> = items(&claim["metadata"]["finalizers"])
                    .filter(|finalizer| *finalizer != CLAIM_PROTECTION)
                    .collect();
                self.write_own(&key, &json!({"metadata": {"finalizers": left}}), CONTROLLER);
            }
        }
        let claims = self.store.list(Kind::claims(), None);
        let uids: BTreeSet<&str> = claims.iter().map(|(_, claim)| text(claim, "uid")).collect();
        self.machines.volumes.retain(|_, volume| uids.contains(volume.claim_uid.as_str()));
    }

    /// Deletes what has owners of which none is left.
    fn collect_garbage(&mut self) {
        let alive: BTreeSet<&str> = self.store.all().map(|(_, object)| text(object, "uid")).collect();
        let owners = |object: &Value| object["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
        let is_alive = |owner: &Value| owner["uid"].as_str().is_some_and(|uid| alive.contains(uid));
        let garbage: Vec<Key> = self
            .store
            .all()
            .filter(|(_, object)| !is_deleting(object) && !owners(object).is_empty())
            .filter(|(_, object)| !owners(object).iter().any(is_alive))
            .map(|(key, _)| key.clone())
            .collect();
        for key in garbage {
            // Each is still there: nothing was deleted since they were found.
            let _ = self.store.delete(&key, &Deletion::default());
        }
    }
}
