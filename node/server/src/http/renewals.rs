//! `POST /v1/renewals`: many locks to be held for longer, by one request of whoever holds them all.
//!
//! ```text
//! POST ─▶ parse ─┬─▶ Router ─▶ renewed ──────────────┐
//!                ├─▶ Router ─▶ not held: its problem ┼─▶ 200, one answer for each, in their order
//!                └─▶ Router ─▶ …                     ┘
//! ```
//!
//! Each lock is an operation of its own, as if it had been asked for alone, and nothing is atomic over several. So a body
//! that can't be read is refused as a whole, and what the store says of one lock stands beside that one. They are all asked
//! at once, and one time is over for all of them.

use std::time::Duration;

use annulus_core::partition::lock::{MAX_RENEWALS, MAX_RENEWALS_BODY_BYTES, Name};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::future::join_all;
use http::request::Parts;
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};

use super::admin::from_json;
use super::edge::{Edge, content, text_or_base64};
use super::few::Few;
use super::headers::{Headers, declared_length};
use super::problem::{Kind, Problem};
use super::{Response, body, lock};
use crate::router::Router;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    locks: Few<Wanted, MAX_RENEWALS>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    name: Option<String>,
    name_base64: Option<String>,
    token: u64,
    ttl_ms: Number,
}

/// A lock to be renewed.
#[derive(Debug, PartialEq, Eq)]
struct Renewal {
    name: Name,
    token: u64,
    ttl_ms: u64,
}

#[derive(Serialize)]
struct Answered<'a> {
    locks: Vec<Shown<'a>>,
}

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_base64: Option<String>,
    token: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    valid_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Value>,
    /// Who leads the lock's partition, if it is not the member that answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    leader: Option<String>,
}

/// Answers a request for many locks.
pub(super) async fn post<R: Router>(
    edge: &Edge<R>,
    parts: &Parts,
    headers: &Headers<'_>,
    body: Incoming,
) -> Result<Response, Problem> {
    let timeout = lock::timeout(edge, parts)?;
    headers.no_condition()?;
    // Held until it is answered: the names are kept until then.
    let (body, _reservation) =
        body::read(body, declared_length(parts), MAX_RENEWALS_BODY_BYTES, &edge.resources).await?;
    let asked = read(&body)?;
    drop(body);
    let map = edge.map()?;
    let shown = join_all(asked.iter().map(|renewal| {
        let group = map.partition_of(renewal.name.bytes()).group();
        async move {
            let leader = edge.router.other_leader(group).map(|leader| leader.to_string());
            let renewed = lock::renewed(edge, group, renewal.name.clone(), renewal.token, renewal.ttl_ms, timeout);
            show(renewal, renewed.await, leader)
        }
    }));
    let written = serde_json::to_vec(&Answered { locks: shown.await }).expect("strings and numbers always serialise");
    Ok(content("application/json", edge.resources.hold_answer(Bytes::from(written))?))
}

fn show(renewal: &Renewal, renewed: Result<Duration, Problem>, leader: Option<String>) -> Shown<'_> {
    let (name, name_base64) = text_or_base64(renewal.name.bytes());
    let token = renewal.token;
    let (ttl_ms, valid_ms, problem) = match renewed {
        Ok(valid) => (Some(renewal.ttl_ms), Some(u64::try_from(valid.as_millis()).unwrap_or(u64::MAX)), None),
        Err(problem) => (None, None, Some(problem.to_value())),
    };
    Shown { name, name_base64, token, ttl_ms, valid_ms, problem, leader }
}

fn read(body: &[u8]) -> Result<Vec<Renewal>, Problem> {
    let Body { locks } = from_json(body)?;
    if !(1..=MAX_RENEWALS).contains(&locks.count) {
        let detail = format!("`locks` has {} locks; it must have 1 to {MAX_RENEWALS}", locks.count);
        let problem = Problem::new(Kind::InvalidJson, detail).with("field", "locks");
        return Err(problem.with("limit", MAX_RENEWALS).with("found", locks.count));
    }
    let numbered = locks.items.into_iter().enumerate();
    numbered.map(|(at, wanted)| renewal(&format!("locks[{at}]"), wanted)).collect()
}

fn renewal(place: &str, wanted: Wanted) -> Result<Renewal, Problem> {
    let wrong = |detail: String| Problem::new(Kind::InvalidJson, detail).with("place", place);
    let name = match (wanted.name, wanted.name_base64) {
        (Some(text), None) => Bytes::from(text),
        (None, Some(base64)) => STANDARD
            .decode(base64)
            .map(Bytes::from)
            .map_err(|error| wrong(format!("`{place}.name_base64` is not base64 with its padding: {error}")))?,
        _ => return Err(wrong(format!("`{place}` must have exactly one of `name` and `name_base64`"))),
    };
    let name = Name::new(name).map_err(|error| lock::invalid_name(error).with("place", place))?;
    let ttl_ms = lock::ttl_ms(&wanted.ttl_ms).map_err(|problem| problem.with("place", place))?;
    Ok(Renewal { name, token: wanted.token, ttl_ms })
}

#[cfg(test)]
mod tests {
    use annulus_core::partition::lock::MAX_NAME_BYTES;

    use super::*;

    #[test]
    fn as_many_of_the_longest_names_as_may_be_fit_into_a_body() {
        let longest = "\\u0001".repeat(MAX_NAME_BYTES);
        let lock = format!(r#"{{"name":"{longest}","token":{},"ttl_ms":86400000}}"#, u64::MAX);
        let body = format!(r#"{{"locks":[{}]}}"#, vec![lock; MAX_RENEWALS].join(","));
        assert!(body.len() <= MAX_RENEWALS_BODY_BYTES, "{}", body.len());
        assert_eq!(read(body.as_bytes()).unwrap().len(), MAX_RENEWALS);
    }
}
