//! `/healthz`, `/readyz`, `/metrics` and `/sidecar/locks`.

use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Response, StatusCode};
use serde::Serialize;
use tokio::time::timeout;

use super::Body;
use super::edge::{Edge, content};
use super::limits::MAX_KEY_BODY_BYTES;
use super::metrics::CONTENT_TYPE;
use super::problem::{Kind, Problem};
use crate::call::Call;
use crate::directory::Place;
use crate::lock::mode_text;
use crate::options::millis;
use crate::room::Room;
use crate::text::BytesAsText;
use crate::transport::Message;
use crate::verdict::Safety;

/// An answer of a leader is believed for so long.
const FRESH: Duration = Duration::from_secs(5);
/// How long a leader may take to answer a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// The key that a probe asks for. Whether it is there does not matter.
const PROBE_KEY: &[u8] = b"annulus/sidecar/probe";
const PROBE_PATH: &str = "/v1/kv/annulus/sidecar/probe";

/// The process answers, so it lives.
pub(super) fn health() -> Response<Body> {
    content("text/plain; charset=utf-8", Bytes::from_static(b"ok\n"))
}

/// Whether the ring is known and a leader has answered a moment ago, or does now.
pub(super) async fn ready(edge: &Edge) -> Result<Response<Body>, Problem> {
    let probed = timeout(PROBE_TIMEOUT, probe(edge)).await;
    match probed.unwrap_or_else(|_| Err("no leader answered in time".to_owned())) {
        Ok(()) => Ok(content("text/plain; charset=utf-8", Bytes::from_static(b"ready\n"))),
        Err(reason) => Err(Problem::temporary(Kind::NotReady, reason.clone()).with("reasons", vec![reason])),
    }
}

/// One at a time: whoever comes meanwhile takes its answer.
async fn probe(edge: &Edge) -> Result<(), String> {
    if edge.reached_within(FRESH) {
        return Ok(());
    }
    let _probing = edge.probing.lock().await;
    if edge.reached_within(FRESH) {
        return Ok(());
    }
    let path = PathAndQuery::from_static(PROBE_PATH);
    let call = Call {
        place: Place::Leader(PROBE_KEY),
        message: Message { method: Method::GET, path, headers: HeaderMap::new(), body: Bytes::new() },
        complete: None,
        safety: Safety::Read,
        time: PROBE_TIMEOUT,
        patience: None,
        max_attempts: edge.client.max_attempts(),
        room: Room::uncounted(MAX_KEY_BODY_BYTES),
    };
    let answer = edge.client.make(call).await.map_err(|error| error.to_string())?;
    if ![StatusCode::OK, StatusCode::NOT_FOUND].contains(&answer.status) {
        return Err(format!("a leader answered: {}", answer.problem()));
    }
    edge.reached();
    Ok(())
}

/// Everything that is counted.
pub(super) fn metrics(edge: &Edge) -> Result<Response<Body>, Problem> {
    let text = edge.metrics.encode(edge.counts());
    text.map(|text| content(CONTENT_TYPE, Bytes::from(text)))
        .map_err(|_| Problem::new(Kind::Internal, "the metrics could not be written"))
}

#[derive(Serialize)]
struct Kept {
    version: &'static str,
    owner: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<String>,
    locks: Vec<KeptLock>,
}

#[derive(Serialize)]
struct KeptLock {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_base64: Option<String>,
    token: u64,
    mode: &'static str,
    owner: String,
    ttl_ms: u64,
    left_ms: u64,
    /// `held`, or `unsure` in a new process that has not heard of it from the store yet.
    state: &'static str,
}

/// The locks that are kept, in the order of their names.
pub(super) fn kept(edge: &Edge) -> Result<Response<Body>, Problem> {
    let locks = edge.locks.shown().into_iter().map(|shown| {
        let name = BytesAsText::new(shown.grant.name.bytes());
        let (text, base64) = if name.base64 { (None, Some(name.text)) } else { (Some(name.text), None) };
        KeptLock {
            name: text,
            name_base64: base64,
            token: shown.grant.token,
            mode: mode_text(shown.grant.mode),
            owner: shown.grant.owner,
            ttl_ms: millis(shown.grant.ttl),
            left_ms: millis(shown.left),
            state: if shown.is_unsure { "unsure" } else { "held" },
        }
    });
    let kept = Kept {
        version: env!("CARGO_PKG_VERSION"),
        owner: edge.locks.owner().to_owned(),
        cluster: edge.client.directory().current().map(|table| table.ring.cluster.to_string()),
        locks: locks.collect(),
    };
    let body = serde_json::to_vec(&kept).map_err(|error| Problem::new(Kind::Internal, error.to_string()))?;
    Ok(content("application/json", Bytes::from(body)))
}
