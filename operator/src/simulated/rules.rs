//! What the server knows of particular resources: defaults, what is checked, and what may not change.

use annulus_crds::quantity;
use serde_json::{Value, json};

use super::error::Error;
use super::resources::{Key, Kind};
use super::verbs::text;

/// Keeps a claim as long as a pod uses it.
pub(super) const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
/// How long a pod may take to end, if it does not say.
const GRACE_SECONDS: i64 = 30;

pub(super) fn check_name(key: &Key) -> Result<(), Error> {
    let is_service = key.kind == Kind::services();
    let most = if is_service { 63 } else { 253 };
    let allowed = |letter: char| {
        letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-' || (letter == '.' && !is_service)
    };
    let ends_well = |letter: Option<char>| letter.is_some_and(|letter| letter.is_ascii_alphanumeric());
    let name = &key.name;
    let starts_well = !is_service || name.starts_with(|letter: char| letter.is_ascii_lowercase());
    if name.len() > most
        || !name.chars().all(allowed)
        || !starts_well
        || !ends_well(name.chars().next())
        || !ends_well(name.chars().last())
    {
        return Err(Error::invalid(key.kind, name, format!("metadata.name: Invalid value: \"{name}\"")));
    }
    if key.kind.resource().namespaced && key.namespace.is_empty() {
        return Err(Error::BadRequest("an empty namespace may not be set during creation".to_owned()));
    }
    Ok(())
}

fn fill(object: &mut Value, defaults: &[(&str, Value)]) {
    let Some(map) = object.as_object_mut() else { return };
    for (field, value) in defaults {
        map.entry(*field).or_insert_with(|| value.clone());
    }
}

fn items<'a>(object: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    object.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten()
}

/// Fills in what the writer left out. It is a part of what the real server fills in: enough that an object read back is not the
/// one that was written.
pub(super) fn default(key: &Key, object: &mut Value) {
    let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    if key.kind == Kind::pods() {
        fill(
            spec,
            &[
                ("restartPolicy", json!("Always")),
                ("terminationGracePeriodSeconds", json!(GRACE_SECONDS)),
                ("dnsPolicy", json!("ClusterFirst")),
                ("schedulerName", json!("default-scheduler")),
                ("serviceAccountName", json!("default")),
                ("enableServiceLinks", json!(true)),
                ("securityContext", json!({})),
            ],
        );
        for field in ["containers", "initContainers"] {
            for container in items(spec, field) {
                fill(
                    container,
                    &[
                        ("imagePullPolicy", json!("IfNotPresent")),
                        ("terminationMessagePath", json!("/dev/termination-log")),
                        ("terminationMessagePolicy", json!("File")),
                        ("resources", json!({})),
                    ],
                );
                items(container, "ports").for_each(|port| fill(port, &[("protocol", json!("TCP"))]));
            }
        }
    } else if key.kind == Kind::claims() {
        fill(spec, &[("volumeMode", json!("Filesystem"))]);
    } else if key.kind == Kind::services() {
        fill(
            spec,
            &[
                ("type", json!("ClusterIP")),
                ("sessionAffinity", json!("None")),
                ("internalTrafficPolicy", json!("Cluster")),
            ],
        );
        for port in items(spec, "ports") {
            let number = port["port"].clone();
            fill(port, &[("protocol", json!("TCP")), ("targetPort", number)]);
        }
    }
}

/// What the server does to a new object.
pub(super) fn admit(key: &Key, object: &mut Value, version: u64) {
    default(key, object);
    if key.kind == Kind::pods() {
        fill(object, &[("status", json!({"phase": "Pending", "qosClass": "BestEffort"}))]);
    } else if key.kind == Kind::claims() {
        fill(object, &[("status", json!({"phase": "Pending"}))]);
        let metadata = &mut object["metadata"];
        fill(metadata, &[("finalizers", json!([]))]);
        if let Some(finalizers) = metadata["finalizers"].as_array_mut()
            && !finalizers.iter().any(|finalizer| finalizer == CLAIM_PROTECTION)
        {
            finalizers.push(json!(CLAIM_PROTECTION));
        }
    } else if key.kind == Kind::services() {
        fill(object, &[("status", json!({"loadBalancer": {}}))]);
        let address = format!("10.96.{}.{}", version / 256 % 256, version % 256);
        if let Some(spec) = object.get_mut("spec") {
            fill(spec, &[("clusterIP", json!(address))]);
        }
    }
}

/// Refuses what may not change.
pub(super) fn check_change(key: &Key, old: &Value, new: &Value, can_grow: bool) -> Result<(), Error> {
    let finalizers = |object: &Value| object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    if !old["metadata"]["deletionTimestamp"].is_null() {
        let before = finalizers(old);
        if finalizers(new).iter().any(|finalizer| !before.contains(finalizer)) {
            let why = "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted";
            return Err(Error::invalid(key.kind, &key.name, why));
        }
    }
    if key.kind == Kind::pods() && fixed_of_pod(&old["spec"]) != fixed_of_pod(&new["spec"]) {
        let why = "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,\
                   `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to \
                   existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
                   previously negative)";
        return Err(Error::invalid(key.kind, &key.name, why));
    }
    if key.kind == Kind::claims() {
        check_claim(key, old, new, can_grow)?;
    }
    if key.kind == Kind::budgets() && !new["spec"]["minAvailable"].is_null() && !new["spec"]["maxUnavailable"].is_null()
    {
        let why = "spec: Invalid value: minAvailable and maxUnavailable cannot be both set";
        return Err(Error::invalid(key.kind, &key.name, why));
    }
    let (before, after) = (&old["spec"]["clusterIP"], &new["spec"]["clusterIP"]);
    if key.kind == Kind::services() && !before.is_null() && before != after {
        return Err(Error::invalid(key.kind, &key.name, "spec.clusterIP: Invalid value: field is immutable"));
    }
    Ok(())
}

fn fixed_of_pod(spec: &Value) -> Value {
    let mut spec = spec.clone();
    for field in ["containers", "initContainers"] {
        for container in items(&mut spec, field) {
            container["image"] = Value::Null;
        }
    }
    if let Some(spec) = spec.as_object_mut() {
        spec.remove("activeDeadlineSeconds");
        spec.remove("tolerations");
    }
    spec
}

/// How large a claim asks to be.
pub(super) fn claim_bytes(claim: &Value) -> u64 {
    claim["spec"]["resources"]["requests"]["storage"].as_str().and_then(quantity::bytes).unwrap_or(0)
}

fn check_claim(key: &Key, old: &Value, new: &Value, can_grow: bool) -> Result<(), Error> {
    let fixed = |claim: &Value| {
        let mut spec = claim["spec"].clone();
        if let Some(requests) = spec["resources"].get_mut("requests").and_then(Value::as_object_mut) {
            requests.remove("storage");
        }
        spec
    };
    if fixed(old) != fixed(new) {
        let why = "spec: Forbidden: spec is immutable after creation except resources.requests and \
                   volumeAttributesClassName for bound claims";
        return Err(Error::invalid(key.kind, &key.name, why));
    }
    let (before, after) = (claim_bytes(old), claim_bytes(new));
    if before == after {
        return Ok(());
    }
    if old["status"]["phase"] != "Bound" {
        return Err(Error::invalid(
            key.kind,
            &key.name,
            "spec: Forbidden: spec is immutable after creation except resources.requests and \
             volumeAttributesClassName for bound claims",
        ));
    }
    if after < before {
        let why = "spec.resources.requests.storage: Forbidden: field can not be less than status.capacity";
        return Err(Error::invalid(key.kind, &key.name, why));
    }
    if !can_grow {
        return Err(Error::forbidden(
            key,
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must \
             support resize",
        ));
    }
    Ok(())
}

/// How long a deleted pod may still run: not at all if no node has it.
pub(super) fn pod_grace(pod: &Value, asked_seconds: Option<i64>) -> i64 {
    let has_node = pod["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty());
    let has_ended = ["Succeeded", "Failed"].iter().any(|phase| pod["status"]["phase"] == *phase);
    if !has_node || has_ended {
        return 0;
    }
    asked_seconds.or_else(|| pod["spec"]["terminationGracePeriodSeconds"].as_i64()).unwrap_or(GRACE_SECONDS)
}

/// The labels of an object.
pub(super) fn label<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object["metadata"]["labels"][name].as_str()
}

/// Whether an object is being deleted.
pub(super) fn is_deleting(object: &Value) -> bool {
    !text(object, "deletionTimestamp").is_empty()
}
