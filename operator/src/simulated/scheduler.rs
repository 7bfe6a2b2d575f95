//! Which node a pod goes to, and in what words the real scheduler says that there is none.

use std::collections::BTreeMap;
use std::sync::Arc;

use annulus_crds::labels::INSTANCE;
use serde_json::{Value, json};

use super::Server;
use super::resources::{Key, Kind};
use super::rules::{is_deleting, label};
use super::verbs::{Part, Writer, text};

const SCHEDULER: Writer<'static> = Writer { manager: "kube-scheduler", part: Part::All };
const ZONE: &str = "topology.kubernetes.io/zone";

/// What the scheduler knows when it looks at a pod.
struct Scene {
    nodes: Vec<Arc<Value>>,
    /// Pods that have a node, with its name.
    placed: Vec<(Arc<Value>, String)>,
}

impl Server {
    /// Gives each pod that has no node one, or says why there is none.
    pub(super) fn schedule(&mut self) {
        for (key, pod) in self.store.list(Kind::pods(), None) {
            if !node_of(&pod).is_empty() || is_deleting(&pod) {
                continue;
            }
            let scene = self.scene();
            let chosen = match self.machines.refused.get(&key.name) {
                Some(reason) => Err(unavailable(&BTreeMap::from([(reason.clone(), scene.nodes.len())]), &scene)),
                None => self.check_claims(&key, &pod, &scene).and_then(|()| self.choose(&key, &pod, &scene)),
            };
            let (condition, node) = match chosen {
                Ok(node) => (json!({"type": "PodScheduled", "status": "True"}), Some(node)),
                Err(message) => (
                    json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}),
                    None,
                ),
            };
            let mut status = pod["status"].clone();
            self.set_condition(&mut status, condition);
            let mut patch = json!({"status": status});
            if let Some(node) = &node {
                self.bind_claims(&key, &pod, node);
                patch["spec"] = json!({"nodeName": text(node, "name")});
            }
            self.write_own(&key, &patch, SCHEDULER);
        }
    }

    fn scene(&self) -> Scene {
        let nodes = self.store.list(Kind::nodes(), None).into_iter().map(|(_, node)| node).collect();
        let placed = self
            .store
            .list(Kind::pods(), None)
            .into_iter()
            .map(|(_, pod)| (Arc::clone(&pod), node_of(&pod).to_owned()))
            .filter(|(_, node)| !node.is_empty())
            .collect();
        Scene { nodes, placed }
    }

    fn check_claims(&self, key: &Key, pod: &Value, scene: &Scene) -> Result<(), String> {
        let all = format!("0/{} nodes are available", scene.nodes.len());
        for name in claims_of(pod) {
            let Some(claim) = self.store.get(&Key::new(Kind::claims(), &key.namespace, name)) else {
                return Err(format!(
                    "{all}: persistentvolumeclaim \"{name}\" not found. preemption: {all}: {} Preemption is not helpful \
                     for scheduling.",
                    scene.nodes.len()
                ));
            };
            if is_deleting(claim) {
                return Err(format!("{all}: persistentvolumeclaim \"{name}\" is being deleted."));
            }
            if claim["status"]["phase"] == "Lost" {
                let volume = claim["spec"]["volumeName"].as_str().unwrap_or_default();
                return Err(format!(
                    "{all}: persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{volume}\"."
                ));
            }
            let class = claim["spec"]["storageClassName"].as_str().unwrap_or_default();
            let is_bound = claim["status"]["phase"] == "Bound";
            if !is_bound && self.store.get(&Key::new(Kind::classes(), "", class)).is_none() {
                return Err(format!(
                    "{all}: pod has unbound immediate PersistentVolumeClaims. preemption: {all}: {} Preemption is not \
                     helpful for scheduling.",
                    scene.nodes.len()
                ));
            }
        }
        Ok(())
    }

    fn choose(&self, key: &Key, pod: &Value, scene: &Scene) -> Result<Arc<Value>, String> {
        let mut reasons = BTreeMap::new();
        let mut fitting = Vec::new();
        for node in &scene.nodes {
            match self.obstacle(key, pod, node, scene) {
                Some(reason) => *reasons.entry(reason).or_insert(0) += 1,
                None => fitting.push(node),
            }
        }
        let like =
            |other: &Value| text(other, "namespace") == key.namespace && label(other, INSTANCE) == label(pod, INSTANCE);
        let crowd = |node: &Value| {
            let on = |name: &str| scene.nodes.iter().find(|node| text(node, "name") == name);
            let alike = || scene.placed.iter().filter(|(other, _)| like(other));
            let in_zone =
                alike().filter(|(_, at)| on(at).is_some_and(|at| label(at, ZONE) == label(node, ZONE))).count();
            let on_node = alike().filter(|(_, at)| *at == text(node, "name")).count();
            (in_zone, on_node, text(node, "name").to_owned())
        };
        match fitting.into_iter().min_by_key(|node| crowd(node)) {
            Some(node) => Ok(Arc::clone(node)),
            None => Err(unavailable(&reasons, scene)),
        }
    }

    /// Why a pod can't go to a node: the first reason, in the scheduler's order.
    fn obstacle(&self, key: &Key, pod: &Value, node: &Value, scene: &Scene) -> Option<String> {
        if node["spec"]["unschedulable"] == true {
            return Some("node(s) were unschedulable".to_owned());
        }
        if let Some(taint) = items(&node["spec"]["taints"]).find(|taint| !tolerates(pod, taint)) {
            let part = |field: &str| taint[field].as_str().unwrap_or_default().to_owned();
            return Some(format!("node(s) had untolerated taint {{{}: {}}}", part("key"), part("value")));
        }
        if !selects(pod, node) {
            return Some("node(s) didn't match Pod's node affinity/selector".to_owned());
        }
        let room = node["status"]["allocatable"]["pods"].as_str().and_then(|pods| pods.parse().ok()).unwrap_or(110);
        if scene.placed.iter().filter(|(_, at)| *at == text(node, "name")).count() >= room {
            return Some("Too many pods".to_owned());
        }
        let elsewhere = |claim: &&str| {
            self.volume_of(&key.namespace, claim).is_some_and(|volume| {
                if volume.by_zone { label(node, ZONE) != Some(&volume.zone) } else { volume.node != text(node, "name") }
            })
        };
        if claims_of(pod).iter().any(elsewhere) {
            return Some("node(s) had volume node affinity conflict".to_owned());
        }
        if !keeps_even(pod, node, scene) {
            return Some("node(s) didn't match pod topology spread constraints".to_owned());
        }
        if !keeps_apart(pod, node, scene) {
            return Some("node(s) didn't match pod anti-affinity rules".to_owned());
        }
        None
    }
}

/// The scheduler's words: `0/3 nodes are available: 1 Too many pods, 2 node(s) were unschedulable. preemption: …`.
fn unavailable(reasons: &BTreeMap<String, usize>, scene: &Scene) -> String {
    let all = scene.nodes.len();
    if all == 0 {
        return "no nodes available to schedule pods".to_owned();
    }
    let mut words: Vec<String> = reasons.iter().map(|(reason, nodes)| format!("{nodes} {reason}")).collect();
    words.sort();
    let is_crowded = |reason: &String| reason.starts_with("Insufficient") || reason == "Too many pods";
    let crowded: usize = reasons.iter().filter(|(reason, _)| is_crowded(reason)).map(|(_, nodes)| nodes).sum();
    let mut preemption = Vec::new();
    if crowded > 0 {
        preemption.push(format!("{crowded} No preemption victims found for incoming pod"));
    }
    if crowded < all {
        preemption.push(format!("{} Preemption is not helpful for scheduling", all - crowded));
    }
    format!(
        "0/{all} nodes are available: {}. preemption: 0/{all} nodes are available: {}.",
        words.join(", "),
        preemption.join(", ")
    )
}

pub(super) fn node_of(pod: &Value) -> &str {
    pod["spec"]["nodeName"].as_str().unwrap_or_default()
}

pub(super) fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// The claims that a pod uses.
pub(super) fn claims_of(pod: &Value) -> Vec<&str> {
    items(&pod["spec"]["volumes"]).filter_map(|volume| volume["persistentVolumeClaim"]["claimName"].as_str()).collect()
}

fn tolerates(pod: &Value, taint: &Value) -> bool {
    if taint["effect"] == "PreferNoSchedule" {
        return true;
    }
    items(&pod["spec"]["tolerations"]).any(|toleration| {
        let any_key = toleration["key"].is_null();
        let exists = toleration["operator"] == "Exists";
        (any_key || toleration["key"] == taint["key"])
            && (exists || (!any_key && toleration["value"].as_str() == taint["value"].as_str()))
            && (toleration["effect"].is_null() || toleration["effect"] == taint["effect"])
    })
}

/// Whether labels have all of `wanted`.
fn has_labels(object: &Value, wanted: &Value) -> bool {
    wanted.as_object().into_iter().flatten().all(|(name, value)| object["metadata"]["labels"].get(name) == Some(value))
}

/// Whether `value` is as an expression of a selector wants it.
fn meets(object: &Value, expression: &Value) -> bool {
    let value = label(object, expression["key"].as_str().unwrap_or_default());
    let listed = || value.is_some_and(|value| items(&expression["values"]).any(|wanted| wanted == value));
    match expression["operator"].as_str() {
        Some("In") => listed(),
        Some("NotIn") => !listed(),
        Some("Exists") => value.is_some(),
        Some("DoesNotExist") => value.is_none(),
        _ => false,
    }
}

fn is_selected(object: &Value, selector: &Value) -> bool {
    has_labels(object, &selector["matchLabels"])
        && items(&selector["matchExpressions"]).all(|expression| meets(object, expression))
}

fn selects(pod: &Value, node: &Value) -> bool {
    let required = &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let mut terms = items(&required["nodeSelectorTerms"]).peekable();
    let fits = |term: &Value| items(&term["matchExpressions"]).all(|expression| meets(node, expression));
    has_labels(node, &pod["spec"]["nodeSelector"]) && (terms.peek().is_none() || terms.any(fits))
}

/// Pods in the namespace of `pod` that a selector chooses, by the domain that they are in.
fn domains<'a>(pod: &Value, rule: &Value, scene: &'a Scene) -> BTreeMap<&'a str, i64> {
    let topology = rule["topologyKey"].as_str().unwrap_or_default();
    let mut counts: BTreeMap<&str, i64> = scene
        .nodes
        .iter()
        .filter(|node| selects(pod, node))
        .filter_map(|node| label(node, topology))
        .map(|domain| (domain, 0))
        .collect();
    for (other, at) in &scene.placed {
        let node = scene.nodes.iter().find(|node| text(node, "name") == at);
        let alike = text(other, "namespace") == text(pod, "namespace") && is_selected(other, &rule["labelSelector"]);
        if let Some(domain) = node.and_then(|node| label(node, topology))
            && alike
            && !is_deleting(other)
        {
            *counts.entry(domain).or_insert(0) += 1;
        }
    }
    counts
}

fn keeps_even(pod: &Value, node: &Value, scene: &Scene) -> bool {
    items(&pod["spec"]["topologySpreadConstraints"]).filter(|rule| rule["whenUnsatisfiable"] == "DoNotSchedule").all(
        |rule| {
            let counts = domains(pod, rule, scene);
            let fewest = counts.values().min().copied().unwrap_or(0);
            let domain = label(node, rule["topologyKey"].as_str().unwrap_or_default());
            let adds = i64::from(is_selected(pod, &rule["labelSelector"]));
            domain
                .and_then(|domain| counts.get(domain))
                .is_some_and(|there| there + adds - fewest <= rule["maxSkew"].as_i64().unwrap_or(1))
        },
    )
}

fn keeps_apart(pod: &Value, node: &Value, scene: &Scene) -> bool {
    let required = &pod["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    items(required).all(|rule| {
        let domain = label(node, rule["topologyKey"].as_str().unwrap_or_default());
        domain.and_then(|domain| domains(pod, rule, scene).get(domain).copied()).unwrap_or(0) == 0
    })
}
