//! The digest that tells whether a pod is what its cluster's spec asks for.

use annulus_crds::StorageClusterSpec;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::Facts;
use super::pod::is_reserved_variable;

/// A digest of all that the user says about a pod. A pod with another one is rolled.
///
/// It is not a digest of the pod: a newer operator makes pods differently, and must not restart anything for that; its way
/// applies to a pod when the pod is made anew for another reason. So that it lasts, a field that says what it would say if it
/// were left out does not count, and neither does the order of fields.
pub fn digest(facts: &Facts) -> String {
    let mut said = said(facts);
    said.sort_all_objects();
    let digest = Sha256::digest(said.to_string());
    digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn said(facts: &Facts) -> Value {
    let (spec, left_out) = (fields(&facts.spec), fields(&without_anything()));
    let mut said = Map::new();
    for (field, value) in &spec {
        let value = unless_default(value, left_out.get(field));
        said.extend(value.map(|value| (field.to_owned(), value)));
    }
    said.insert("image".to_owned(), json!(facts.image));
    said.extend(facts.restarted_at.iter().map(|text| ("restartedAt".to_owned(), json!(text))));
    Value::Object(said)
}

/// The fields of a spec that a pod is made of, without variables that never reach one. What is not among them changes nothing in a
/// pod. The image is told apart. A new field of the spec has to be put on one of the two sides here.
fn fields(spec: &StorageClusterSpec) -> Map<String, Value> {
    let mut spec = spec.clone();
    spec.pod_template.env.retain(|variable| !is_reserved_variable(&variable.name));
    let StorageClusterSpec {
        image_pull_policy,
        resources,
        topology,
        pod_template,
        settings,
        image: _,
        replicas: _,
        replication_factor: _,
        partitions: _,
        storage: _,
        volume_retention: _,
        replacement: _,
        network_policy: _,
        deletion_protection: _,
        paused: _,
    } = &spec;
    let fields = json!({
        "imagePullPolicy": image_pull_policy, "resources": resources, "topology": topology,
        "podTemplate": pod_template, "settings": settings,
    });
    let Value::Object(mut fields) = fields else { unreachable!("it was written as an object") };
    // What a spec leaves out is absent there, too.
    fields.retain(|_, value| !value.is_null());
    fields
}

fn without_anything() -> StorageClusterSpec {
    serde_json::from_value(json!({})).expect("every field of a spec has a default")
}

/// What of a value is not as it is when it is left out. Only objects that stand in the default are looked into: inside of
/// Kubernetes' own types, to be empty and to be absent are two things.
fn unless_default(value: &Value, default: Option<&Value>) -> Option<Value> {
    match (value, default) {
        (value, Some(default)) if value == default => None,
        (Value::Object(fields), Some(Value::Object(defaults))) => {
            let differs =
                |(key, value): (&String, &Value)| Some((key.clone(), unless_default(value, defaults.get(key))?));
            let differing: Map<String, Value> = fields.iter().filter_map(differs).collect();
            (!differing.is_empty()).then_some(Value::Object(differing))
        }
        (Value::Object(fields), None) if fields.is_empty() => None,
        _ => Some(value.clone()),
    }
}

#[cfg(test)]
mod tests {
    use annulus_crds::storage_cluster::{PullPolicy, Spread, Storage, VolumeRetention, WhenDeleted, WhenScaled};
    use k8s_openapi::api::core::v1::{EnvVar, ResourceRequirements};

    use super::*;
    use crate::resources::tests::{default, full};

    fn changed(change: impl FnOnce(&mut Facts)) -> String {
        let mut facts = full();
        change(&mut facts);
        digest(&facts)
    }

    /// A change of these rolls every member of every cluster there is, when the operator is upgraded.
    #[test]
    fn the_digest_of_a_spec_is_the_same_in_every_release() {
        assert_eq!(digest(&default()), "a6208ecebda9b935");
        assert_eq!(digest(&full()), "9ad791dcba559f6a");
        assert_eq!(said(&default()), json!({ "image": "registry.example/annulus:1.0.0" }));
    }

    #[test]
    fn what_needs_no_restart_does_not_change_it() {
        let before = digest(&full());
        let changes: [fn(&mut Facts); 12] = [
            |facts| facts.spec.replicas = 9,
            |facts| facts.spec.replication_factor = 1,
            |facts| facts.spec.partitions = 4096,
            |facts| facts.spec.storage = Storage { size: "1Ti".to_owned(), storage_class_name: "other".to_owned() },
            |facts| {
                facts.spec.volume_retention =
                    VolumeRetention { when_scaled: WhenScaled::Retain, when_deleted: WhenDeleted::Retain };
            },
            |facts| facts.spec.replacement.after_seconds = 10,
            |facts| facts.spec.replacement.max_concurrent = 0,
            |facts| facts.spec.network_policy.enabled = false,
            |facts| facts.spec.deletion_protection = true,
            |facts| facts.spec.paused = true,
            // The image that counts is the one that was resolved.
            |facts| facts.spec.image = None,
            |facts| {
                let value = Some("somebody else".to_owned());
                facts.spec.pod_template.env.push(EnvVar { name: "ANNULUS_NAME".to_owned(), value, value_from: None });
            },
        ];
        for (number, change) in changes.into_iter().enumerate() {
            assert_eq!(changed(change), before, "change {number}");
        }
    }

    #[test]
    fn what_a_pod_is_made_of_changes_it() {
        let changes: [fn(&mut Facts); 15] = [
            |_| {},
            |facts| facts.image = "registry.example/annulus:1.0.1".to_owned(),
            |facts| facts.restarted_at = Some("later".to_owned()),
            |facts| facts.restarted_at = None,
            |facts| facts.spec.image_pull_policy = Some(PullPolicy::Never),
            |facts| facts.spec.resources = None,
            |facts| facts.spec.topology.zone_key = "rack".to_owned(),
            |facts| facts.spec.topology.spread = Spread::Preferred,
            |facts| facts.spec.settings.log_level = Some("debug".to_owned()),
            |facts| facts.spec.settings.log_level = None,
            |facts| facts.spec.pod_template.labels.clear(),
            |facts| facts.spec.pod_template.env.reverse(),
            |facts| facts.spec.pod_template.tolerations.clear(),
            |facts| facts.spec.pod_template.affinity = None,
            |facts| facts.spec.pod_template.priority_class_name = None,
        ];
        let digests: std::collections::BTreeSet<String> = changes.into_iter().map(changed).collect();
        assert_eq!(digests.len(), changes.len());
    }

    #[test]
    fn a_default_that_is_written_out_does_not_change_it() {
        let mut facts = default();
        facts.spec.resources = Some(ResourceRequirements::default());
        facts.spec.pod_template.affinity = Some(json!({}));
        assert_eq!(digest(&facts), digest(&default()));
    }

    /// As if a later release had added `newer`, to an object that has been changed and to one that has not.
    #[test]
    fn a_field_that_a_later_release_adds_does_not_change_it() {
        let later = json!({ "zoneKey": "zone", "spread": "Preferred", "newer": { "deep": 1 } });
        let same = json!({ "zoneKey": "rack", "spread": "Preferred", "newer": { "deep": 1 } });
        assert_eq!(unless_default(&later, Some(&later)), None);
        assert_eq!(unless_default(&same, Some(&later)), Some(json!({ "zoneKey": "rack" })));
        let used = json!({ "zoneKey": "zone", "spread": "Preferred", "newer": { "deep": 2 } });
        assert_eq!(unless_default(&used, Some(&later)), Some(json!({ "newer": { "deep": 2 } })));
    }
}
