//! What of Kubernetes' objects must not leave their cluster in a report.

use serde_json::{Value, json};

/// Put in the place of what is left out.
const REDACTED: &str = "(left out of the report)";
/// Variables that begin with this are settings of members, and no secrets.
const OURS: &str = "ANNULUS_";
/// The object as it was applied last: all that is redacted stands in it once more, as text.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Takes out of an object what may be secret, and what only takes room:
///
/// - values of variables in any `env`, unless their names begin with `ANNULUS_`;
/// - the annotation that holds the object as it was last applied, and `managedFields`.
pub(super) fn redact(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::Object(fields) => {
            fields.remove("managedFields");
            if let Some(Value::Object(annotations)) = fields.get_mut("annotations") {
                annotations.remove(LAST_APPLIED);
            }
            for (name, field) in fields.iter_mut() {
                match field {
                    Value::Array(variables) if name == "env" => variables.iter_mut().for_each(variable),
                    field => redact(field),
                }
            }
        }
        _ => {}
    }
}

/// Leaves out the value of a variable. Where it comes from (`valueFrom`) is only a name, and stays.
fn variable(variable: &mut Value) {
    let Value::Object(fields) = variable else {
        *variable = json!(REDACTED);
        return;
    };
    let is_ours = fields.get("name").and_then(Value::as_str).is_some_and(|name| name.starts_with(OURS));
    if !is_ours && let Some(value) = fields.get_mut("value") {
        *value = json!(REDACTED);
    }
}

/// What of a node is told: where it is, and whether members can run on it.
pub(super) fn node(node: &Value, zone_key: &str) -> Value {
    let keeps =
        |key: &str| key == zone_key || key == "kubernetes.io/hostname" || key.starts_with("topology.kubernetes.io/");
    let labels = node["metadata"]["labels"].as_object().into_iter().flatten();
    let labels: serde_json::Map<String, Value> =
        labels.filter(|(key, _)| keeps(key)).map(|(key, value)| (key.clone(), value.clone())).collect();
    let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
    let conditions: Vec<Value> = conditions
        .map(|condition| json!({"type": condition["type"], "status": condition["status"], "reason": condition["reason"]}))
        .collect();
    json!({
        "name": node["metadata"]["name"], "labels": labels, "unschedulable": node["spec"]["unschedulable"],
        "taints": node["spec"]["taints"], "conditions": conditions,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_variables_are_left_out_unless_they_are_ours() {
        let mut pod = json!({
            "metadata": {"name": "demo-a", "managedFields": [1], "annotations": {
                LAST_APPLIED: "{\"env\": \"hunter2\"}", "annulus.dev/ordinal": "1",
            }},
            "spec": {
                "containers": [{"name": "node", "env": [
                    {"name": "ANNULUS_NAME", "value": "demo-a"},
                    {"name": "PASSWORD", "value": "hunter2"},
                    {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "token"}}},
                    {"name": "NOT_ANNULUS_", "value": "hunter2"},
                    {"value": "hunter2"},
                    "hunter2",
                ]}],
                "initContainers": [{"env": [{"name": "A", "value": "hunter2"}]}],
            },
        });
        redact(&mut pod);
        let text = pod.to_string();
        assert!(!text.contains("hunter2") && !text.contains("managedFields"), "{text}");
        let env = &pod["spec"]["containers"][0]["env"];
        assert_eq!(env[0]["value"], "demo-a");
        assert_eq!(env[1], json!({"name": "PASSWORD", "value": REDACTED}));
        assert_eq!(env[2]["valueFrom"]["secretKeyRef"]["name"], "s");
        assert_eq!(pod["metadata"]["annotations"], json!({"annulus.dev/ordinal": "1"}));
    }

    #[test]
    fn a_list_and_a_cluster_with_variables_of_its_own_are_redacted_too() {
        let mut list = json!({"items": [
            {"spec": {"podTemplate": {"env": [{"name": "KEY", "value": "hunter2"}]}}},
            {"metadata": {"annotations": {LAST_APPLIED: "hunter2"}}, "spec": {"env": {"not": "a list"}}},
        ]});
        redact(&mut list);
        assert!(!list.to_string().contains("hunter2"), "{list}");
        assert_eq!(list["items"][1]["spec"]["env"]["not"], "a list");
    }

    #[test]
    fn of_a_node_only_its_place_and_its_state_are_told() {
        let told = node(
            &json!({
                "metadata": {"name": "n1", "labels": {
                    "topology.kubernetes.io/zone": "a", "kubernetes.io/hostname": "n1", "rack": "7", "customer": "x",
                }},
                "spec": {"providerID": "secret", "taints": [{"key": "t", "effect": "NoSchedule"}]},
                "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "r", "message": "m"}], "images": [1]},
            }),
            "rack",
        );
        assert_eq!(
            told["labels"],
            json!({"topology.kubernetes.io/zone": "a", "kubernetes.io/hostname": "n1", "rack": "7"})
        );
        assert_eq!(told["conditions"], json!([{"type": "Ready", "status": "True", "reason": "r"}]));
        assert!(told.get("status").is_none() && !told.to_string().contains("secret"), "{told}");
    }
}
