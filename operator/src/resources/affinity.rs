//! The affinity that a user gives. The schema takes any object, so it is read here.

use k8s_openapi::api::core::v1::Affinity;
use serde_json::Value;

/// Why an object is not an affinity.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field holds another type than it should.
    #[error("podTemplate.affinity is not an affinity as a pod has it: {reason}")]
    Malformed {
        /// What was found, and what was expected.
        reason: String,
    },
    /// It has a field that an affinity has not.
    #[error("podTemplate.affinity{path} is not known; see `kubectl explain pod.spec.affinity` for what is")]
    Unknown {
        /// Where it stands, beginning with a dot.
        path: String,
    },
}

/// Reads an affinity, and refuses what would otherwise be lost without a word: a misspelt rule is no rule.
pub fn parse(value: &Value) -> Result<Affinity, Error> {
    let malformed = |error: serde_json::Error| Error::Malformed { reason: error.to_string() };
    let affinity: Affinity = serde_json::from_value(value.clone()).map_err(malformed)?;
    let kept = serde_json::to_value(&affinity).map_err(malformed)?;
    match lost(value, &kept) {
        Some(path) => Err(Error::Unknown { path }),
        None => Ok(affinity),
    }
}

/// Where `given` says something that `kept` does not. A null says nothing.
fn lost(given: &Value, kept: &Value) -> Option<String> {
    match (given, kept) {
        (Value::Null, _) => None,
        (Value::Object(given), Value::Object(kept)) => given.iter().find_map(|(key, value)| {
            let below = lost(value, kept.get(key).unwrap_or(&Value::Null))?;
            Some(format!(".{key}{below}"))
        }),
        (Value::Array(given), Value::Array(kept)) => given.iter().enumerate().find_map(|(index, value)| {
            let below = lost(value, kept.get(index).unwrap_or(&Value::Null))?;
            Some(format!("[{index}]{below}"))
        }),
        _ => (given != kept).then(String::new),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_affinity_is_read_whole() {
        let given = json!({
            "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [
                { "matchExpressions": [{ "key": "disk", "operator": "In", "values": ["fast"] }], "matchFields": null }
            ] } },
            "podAntiAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [
                { "weight": 5, "podAffinityTerm": { "topologyKey": "rack", "labelSelector": {} } }
            ] }
        });
        let affinity = parse(&given).unwrap();
        let weights = affinity.pod_anti_affinity.unwrap().preferred_during_scheduling_ignored_during_execution.unwrap();
        assert_eq!(weights[0].weight, 5);
        assert_eq!(parse(&json!({})).unwrap(), Affinity::default());
    }

    #[test]
    fn what_is_no_affinity_is_refused_with_its_place() {
        let misspelt = json!({ "podAntiAfinity": {} });
        assert!(
            parse(&misspelt).unwrap_err().to_string().starts_with("podTemplate.affinity.podAntiAfinity is not known")
        );
        let deep = json!({ "podAntiAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [
            { "weight": 5, "podAffinityTerm": { "topologyKey": "rack" } },
            { "weight": 5, "podAffinityTerm": { "topologykey": "rack" } }
        ] } });
        let place = ".podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[1].podAffinityTerm.topologykey";
        assert!(matches!(parse(&deep), Err(Error::Unknown { path }) if path == place));
        let list = parse(&json!({ "nodeAffinity": ["disk"] })).unwrap_err();
        assert!(matches!(&list, Error::Malformed { .. }), "{list}");
        assert!(parse(&json!(["disk"])).is_err());
    }
}
