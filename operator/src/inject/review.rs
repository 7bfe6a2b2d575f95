//! `AdmissionReview` of `admission.k8s.io/v1`: what the API server asks, and what it is answered.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::patch::Outcome;
use super::pod::Pod;

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// What the API server asks about one pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// By which it knows the answer.
    pub uid: String,
    /// Where the pod is to be.
    pub namespace: String,
    /// The pod; `None`: none is made, and there is nothing to say.
    pub new_pod: Option<Pod>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    kind: String,
    request: Option<Asked>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    uid: String,
    operation: String,
    #[serde(default)]
    namespace: String,
    kind: Kind,
    #[serde(default)]
    sub_resource: String,
    object: Option<Pod>,
}

#[derive(Deserialize)]
struct Kind {
    group: String,
    version: String,
    kind: String,
}

/// Reads a review; else says what is wrong with it.
pub fn read(body: &[u8]) -> Result<Request, String> {
    let review: Review =
        serde_json::from_slice(body).map_err(|error| format!("this is no AdmissionReview: {error}"))?;
    if review.api_version != API_VERSION || review.kind != KIND {
        let (version, kind) = (super::request::quoted(&review.api_version), super::request::quoted(&review.kind));
        return Err(format!("this is a {kind} of {version}; {KIND} of {API_VERSION} is understood"));
    }
    let asked = review.request.ok_or_else(|| "the AdmissionReview has no request".to_owned())?;
    let is_pod = asked.kind.group.is_empty() && asked.kind.version == "v1" && asked.kind.kind == "Pod";
    if !is_pod {
        return Err(
            "the request is not about a Pod of v1: rules of the webhook have to name pods of v1 alone".to_owned()
        );
    }
    // What runs is never changed: its containers can't be.
    let is_new = asked.operation == "CREATE" && asked.sub_resource.is_empty();
    if is_new && (asked.object.is_none() || asked.namespace.is_empty()) {
        return Err("the request is to create a pod, and has no object or no namespace".to_owned());
    }
    Ok(Request { uid: asked.uid, namespace: asked.namespace, new_pod: asked.object.filter(|_| is_new) })
}

/// The answer.
pub fn answer(uid: &str, outcome: &Outcome) -> Value {
    let mut response = json!({"uid": uid, "allowed": true});
    match outcome {
        Outcome::Untouched(None) => {}
        Outcome::Untouched(Some(warning)) => response["warnings"] = json!([warning]),
        Outcome::Refused(refusal) => {
            response["allowed"] = json!(false);
            response["status"] = json!({
                "status": "Failure", "code": 403, "reason": "Forbidden", "message": refusal.to_string(),
            });
        }
        Outcome::Patched(steps) => {
            response["patchType"] = json!("JSONPatch");
            response["patch"] = json!(STANDARD.encode(json!(steps).to_string()));
        }
    }
    json!({"apiVersion": API_VERSION, "kind": KIND, "response": response})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inject::request::Refusal;

    fn review(change: impl FnOnce(&mut Value)) -> Result<Request, String> {
        let mut review = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "7", "operation": "CREATE", "namespace": "shop", "dryRun": true,
                "kind": {"group": "", "version": "v1", "kind": "Pod"},
                "resource": {"group": "", "version": "v1", "resource": "pods"},
                "object": {"metadata": {}, "spec": {}}, "oldObject": null,
            },
        });
        change(&mut review);
        read(review.to_string().as_bytes())
    }

    #[test]
    fn only_pods_that_are_made_are_looked_at() {
        assert!(review(|_| {}).unwrap().new_pod.is_some());
        for (field, value) in [("operation", "UPDATE"), ("operation", "DELETE"), ("subResource", "ephemeralcontainers")]
        {
            let request = review(|review| review["request"][field] = json!(value)).unwrap();
            assert_eq!((request.uid.as_str(), request.new_pod), ("7", None), "{field} {value}");
        }
        let deleted = review(|review| {
            review["request"]["operation"] = json!("DELETE");
            review["request"]["object"] = Value::Null;
        });
        assert_eq!(deleted.unwrap().new_pod, None);
    }

    #[test]
    fn what_is_no_review_of_a_pod_is_told_what_it_lacks() {
        for body in ["", "{", "[]", "null", "{\"kind\": 7}", "\u{0}"] {
            assert!(read(body.as_bytes()).unwrap_err().contains("no AdmissionReview"), "{body}");
        }
        assert!(read(&[0xff, 0xfe]).unwrap_err().contains("no AdmissionReview"));
        let cases: [(&str, Value, &str); 8] = [
            ("/apiVersion", json!("admission.k8s.io/v1beta1"), "is understood"),
            ("/kind", json!("Pod"), "is understood"),
            ("/request", Value::Null, "no request"),
            ("/request/kind/kind", json!("Deployment"), "not about a Pod"),
            ("/request/kind/group", json!("apps"), "not about a Pod"),
            ("/request/object", Value::Null, "no object"),
            ("/request/namespace", json!(""), "no namespace"),
            ("/request/object/spec", json!([]), "spec: invalid type"),
        ];
        for (path, value, said) in cases {
            let told = review(|review| *review.pointer_mut(path).unwrap() = value).unwrap_err();
            assert!(told.contains(said), "{path}: {told}");
        }
    }

    #[test]
    fn the_answer_names_the_request_and_says_why() {
        let refused = answer("7", &Outcome::Refused(Refusal("for this reason".to_owned())));
        assert_eq!(refused["response"]["allowed"], false);
        assert_eq!(refused["response"]["status"]["message"], "for this reason");
        let warned = answer("7", &Outcome::Untouched(Some("note".to_owned())));
        assert_eq!(warned["response"], json!({"uid": "7", "allowed": true, "warnings": ["note"]}));
        assert_eq!(answer("7", &Outcome::Untouched(None))["response"], json!({"uid": "7", "allowed": true}));
    }
}
