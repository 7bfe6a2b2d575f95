//! `/openapi.json`: that of a member, and what a sidecar adds to it.

use bytes::Bytes;
use http::{Method, Response, StatusCode, header};
use serde_json::{Value, json};

use super::Body;
use super::edge::Edge;
use super::problem::Problem;
use super::relay::{Sending, message, response, time};
use super::route::{Port, Route};
use crate::directory::Place;
use crate::verdict::Safety;

const ABOUT: &str = "This is a sidecar: it sends each request to the leader of its key, repeats what is safe to repeat, and gives each \
    write an Idempotency-Key that has none. It keeps the locks that are taken through it: it renews them until they are given up or \
    the pod ends, and tells by `lock-lost` of one that it could not keep.";
const LOCK: &str = "The lock of this pod under which the write is done, percent-encoded; in the place of Annulus-Fence, whose token \
    the sidecar knows. 409 `lock-lost`: it was held, and is not any more; 409 `lock-not-held`: the pod does not hold it, or a process \
    with an `owner` of its own does.";
const OWNER: &str = " Without one the lock is the pod's: who asks once more gets what is held already, with the same token, and \
    Annulus-Lock stands for it.";

/// Answers with the description of what this port takes.
pub(super) async fn answer(edge: &Edge, mut parts: http::request::Parts) -> Result<Response<Body>, Problem> {
    let _place = edge.resources.admit(Route::OpenApi)?;
    let time = time(edge, parts.uri.query());
    // HEAD is told how long that is which GET gets.
    parts.method = Method::GET;
    let message = message(parts, Bytes::new())?;
    let sending = Sending { place: Place::Anybody, message, safety: Safety::Read, time, is_timed: false };
    let mut answer = sending.answer(edge).await?;
    if answer.status == StatusCode::OK
        && let Ok(mut description) = serde_json::from_slice(&answer.body)
    {
        extend(&mut description);
        answer.body = Bytes::from(description.to_string());
        answer.headers.remove(header::CONTENT_LENGTH);
    }
    Ok(response(answer))
}

/// Makes a member's description a sidecar's. Of one that is built otherwise than it is known, what is not found stays as it is.
fn extend(description: &mut Value) {
    if let Some(Value::String(about)) = description.pointer_mut("/info/description") {
        *about = format!("{ABOUT} {about}");
    }
    if let Some(paths) = description.get_mut("paths").and_then(Value::as_object_mut) {
        paths.retain(|path, _| Route::of(Port::Application, path) != Route::Unknown);
        for operation in paths.values_mut().filter_map(Value::as_object_mut).flat_map(|path| path.values_mut()) {
            offer_lock(operation);
        }
    }
    let Some(wish) = description.pointer_mut("/components/schemas/LockWish") else { return };
    if let Some(required) = wish.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|field| field != "owner");
    }
    if let Some(owner) = wish.pointer_mut("/properties/owner").and_then(Value::as_object_mut) {
        let about = owner.get("description").and_then(Value::as_str).unwrap_or_default().to_owned();
        owner.insert("description".to_owned(), json!((about + OWNER).trim()));
    }
}

/// Whatever takes a fence takes the name of a lock in its place.
fn offer_lock(operation: &mut Value) {
    let Some(parameters) = operation.get_mut("parameters").and_then(Value::as_array_mut) else { return };
    let is_fence = |parameter: &Value| {
        parameter["name"] == "Annulus-Fence" || parameter["$ref"] == "#/components/parameters/Fence"
    };
    if parameters.iter().any(is_fence) {
        parameters.push(json!({
            "name": "Annulus-Lock", "in": "header", "description": LOCK, "schema": {"type": "string", "minLength": 1},
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_members_description_tells_of_locks_and_of_no_admin() {
        let mut description = serde_json::from_str(include_str!("../../../server/src/http/openapi.json")).unwrap();
        extend(&mut description);
        let paths = description["paths"].as_object().unwrap();
        assert!(
            paths.contains_key("/v1/kv/{key}") && paths.keys().all(|path| !path.starts_with("/admin")),
            "{paths:?}"
        );
        let takes_lock = |path: &str, method: &str| {
            let parameters = description["paths"][path][method]["parameters"].as_array();
            parameters.is_some_and(|all| all.iter().any(|parameter| parameter["name"] == "Annulus-Lock"))
        };
        for (path, method) in [("/v1/kv/{key}", "put"), ("/v1/kv/{key}", "delete"), ("/v1/txn", "post")] {
            assert!(takes_lock(path, method), "{method} {path}");
        }
        assert!(!takes_lock("/v1/kv/{key}", "get") && !takes_lock("/v1/locks/{name}", "post"));
        let wish = &description["components"]["schemas"]["LockWish"];
        assert_eq!(wish["required"], json!(["ttl_ms"]));
        assert!(wish["properties"]["owner"]["description"].as_str().unwrap().contains("the lock is the pod's"));
        assert!(description["info"]["description"].as_str().unwrap().starts_with("This is a sidecar"));
    }

    #[test]
    fn of_one_that_is_built_otherwise_nothing_is_lost() {
        for other in [json!([]), json!({"paths": {"/v1/kv/{key}": {"put": 7}}, "components": {"schemas": 1}})] {
            let mut extended = other.clone();
            extend(&mut extended);
            assert_eq!(extended, other);
        }
    }
}
