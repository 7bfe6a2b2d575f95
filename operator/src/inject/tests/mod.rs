//! What injection makes of pods.

mod certificates;
mod keeper;
mod pods;
mod properties;
mod server;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::patch::{Found, Outcome, judged};
use super::pod::Pod;
use super::request::{Asked, Missing, Rules, asked, by_default};

pub(super) const NAMESPACE: &str = "shop";

pub(super) fn rules() -> Rules {
    Rules {
        image: "registry.example:5000/annulus/node:0.4.0".to_owned(),
        pull_policy: Some("IfNotPresent".to_owned()),
        version: "0.4.0".to_owned(),
        allows_image: false,
        missing: Missing::Refuse,
        namespaces: BTreeSet::new(),
        own_namespace: "annulus-system".to_owned(),
    }
}

/// A pod with this annotation, and a container of these fields.
pub(super) fn pod(annotations: Value, container: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web-1", "annotations": annotations},
        "spec": {"containers": [{"name": "web", "image": "web:1"}]},
    });
    for (key, value) in container.as_object().unwrap() {
        pod["spec"]["containers"][0][key] = value.clone();
    }
    pod
}

pub(super) fn read(pod: &Value) -> Pod {
    serde_json::from_value(pod.clone()).unwrap()
}

/// What becomes of a pod, in a namespace whose label says this.
pub(super) fn outcome(rules: &Rules, pod: &Pod, label: Option<&str>, found: Found) -> Outcome {
    let asked = match asked(rules, NAMESPACE, pod) {
        Ok(Asked::NamespacesDefault) => by_default(label),
        asked => asked,
    };
    match asked {
        Ok(Asked::Nothing(warning)) => Outcome::Untouched(warning),
        Ok(Asked::Cluster(cluster)) => judged(rules, NAMESPACE, pod, &cluster, found),
        Ok(Asked::NamespacesDefault) => panic!("a default has no default"),
        Err(refusal) => Outcome::Refused(refusal),
    }
}

/// The pod as the API server would make it.
pub(super) fn patched(pod: &Value, outcome: &Outcome) -> Value {
    let Outcome::Patched(steps) = outcome else { panic!("{outcome:?}") };
    let mut patched = pod.clone();
    let steps: json_patch::Patch = serde_json::from_value(serde_json::to_value(steps).unwrap()).unwrap();
    json_patch::patch(&mut patched, &steps).unwrap_or_else(|error| panic!("{error}: {steps:?} on {pod}"));
    patched
}
