//! One key: `PUT`, `GET`, `HEAD` and `DELETE` of `/v1/kv/{key}`.

use std::time::Duration;

use annulus_core::id::GroupId;
use annulus_core::lane::{Operation, Refusal, Reply};
use annulus_core::partition::{Change, Item, Key, Outcome, Write};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderValue};
use http::request::Parts;
use http::{Method, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::condition::{self, Known};
use super::edge::Edge;
use super::fence::{self, Claim};
use super::headers::{Headers, declared_length};
use super::problem::{Kind, Problem};
use super::route::KEY_PREFIX;
use super::{Response, body, query};
use crate::router::Router;

/// Answers a request for one key.
pub(super) async fn answer<R: Router>(
    edge: &Edge<R>,
    parts: &Parts,
    headers: &Headers<'_>,
    body: Incoming,
) -> Result<Response, Problem> {
    let key = query::key(parts.uri.path().strip_prefix(KEY_PREFIX).unwrap_or(""))?;
    let group = edge.map()?.partition_of(key.bytes()).group();
    let answer = match parts.method {
        Method::PUT => put(edge, group, key, parts, headers, body).await,
        Method::DELETE => delete(edge, group, key, parts, headers).await,
        _ => get(edge, group, key, parts, headers).await,
    };
    edge.tell_leader(group, answer)
}

async fn get<R: Router>(
    edge: &Edge<R>,
    group: GroupId,
    key: Key,
    parts: &Parts,
    headers: &Headers<'_>,
) -> Result<Response, Problem> {
    let [consistency, timeout] = query::parameters(parts.uri.query(), ["consistency", "timeout"])?;
    let consistency = query::consistency(consistency)?;
    let timeout = edge.timeout(timeout)?;
    let known = condition::of_read(headers.if_match, headers.if_none_match)?;
    match edge.router.submit(group, Operation::Get { key, consistency }, timeout).await {
        Reply::Get(Some(item)) => found(edge, item, &known, parts.method == Method::HEAD),
        Reply::Get(None) => Err(not_found()),
        reply => Err(unanswered(&reply)),
    }
}

async fn put<R: Router>(
    edge: &Edge<R>,
    group: GroupId,
    key: Key,
    parts: &Parts,
    headers: &Headers<'_>,
    body: Incoming,
) -> Result<Response, Problem> {
    let [ttl, timeout] = query::parameters(parts.uri.query(), ["ttl", "timeout"])?;
    let ttl_ms = ttl.map(query::ttl_ms).transpose()?;
    let timeout = edge.timeout(timeout)?;
    let condition = condition::of_write(headers.if_match, headers.if_none_match)?;
    let claim = headers.fence.map(Claim::read).transpose()?;
    // Held until the write is answered: until then the value is somewhere in this process.
    let (value, _reservation) =
        body::read(body, declared_length(parts), edge.resources.limits.max_value_bytes, &edge.resources).await?;
    let idempotency_key = headers.idempotency_key.map(Bytes::copy_from_slice);
    let write = Write { key, condition, change: Change::Put { value, ttl_ms }, idempotency_key, fence: None };
    fenced(edge, group, write, claim, timeout).await
}

async fn delete<R: Router>(
    edge: &Edge<R>,
    group: GroupId,
    key: Key,
    parts: &Parts,
    headers: &Headers<'_>,
) -> Result<Response, Problem> {
    let [timeout] = query::parameters(parts.uri.query(), ["timeout"])?;
    let timeout = edge.timeout(timeout)?;
    let condition = condition::of_write(headers.if_match, headers.if_none_match)?;
    let claim = headers.fence.map(Claim::read).transpose()?;
    let idempotency_key = headers.idempotency_key.map(Bytes::copy_from_slice);
    let write = Write { key, condition, change: Change::Delete, idempotency_key, fence: None };
    fenced(edge, group, write, claim, timeout).await
}

/// Has a write done under the lock that it claims, if it claims one.
async fn fenced<R: Router>(
    edge: &Edge<R>,
    group: GroupId,
    write: Write,
    claim: Option<Claim>,
    timeout: Duration,
) -> Result<Response, Problem> {
    let deadline = Instant::now() + timeout;
    let fence = fence::of_write(edge, claim, write.idempotency_key.is_some(), deadline).await?;
    let write = Write { fence: fence.clone(), ..write };
    // What was asked of the lock's partition has taken of the time.
    let left = if fence.is_some() { fence::left(deadline) } else { timeout };
    match (edge.router.submit(group, Operation::Write(write), left).await, fence) {
        (Reply::Write(Outcome::StaleFence { newest }), Some(fence)) => Err(fence::refused(&fence, newest)),
        (Reply::Write(Outcome::TooManyFences), Some(_)) => Err(fence::too_many()),
        (reply, _) => written(reply),
    }
}

fn found<R: Router>(edge: &Edge<R>, item: Item, known: &Known, head: bool) -> Result<Response, Problem> {
    let etag = etag(item.version);
    if known.has(item.version) {
        let mut response = empty(StatusCode::NOT_MODIFIED);
        response.headers_mut().insert(ETAG, etag);
        return Ok(response);
    }
    let length = item.value.len();
    let body = if head { Bytes::new() } else { edge.resources.hold_answer(item.value)? };
    let mut response = Response::new(Full::new(body));
    let headers = response.headers_mut();
    headers.reserve(4);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(ETAG, etag);
    if head {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(response)
}

fn written(reply: Reply) -> Result<Response, Problem> {
    match reply {
        Reply::Write(Outcome::Written { version, created }) => {
            let mut response = empty(if created { StatusCode::CREATED } else { StatusCode::NO_CONTENT });
            response.headers_mut().insert(ETAG, etag(version));
            Ok(response)
        }
        Reply::Write(Outcome::Deleted) => Ok(empty(StatusCode::NO_CONTENT)),
        Reply::Write(Outcome::NotFound) => Err(not_found()),
        Reply::Write(Outcome::ConditionFailed { current: Some(version) }) => {
            Err(Problem::new(Kind::ConditionFailed, format!("the key has version {version}; nothing was changed"))
                .current_version(version))
        }
        Reply::Write(Outcome::ConditionFailed { current: None }) => {
            Err(Problem::new(Kind::ConditionFailed, "the key does not exist; nothing was changed"))
        }
        Reply::Write(Outcome::IdempotencyConflict) => Err(Problem::new(
            Kind::IdempotencyConflict,
            "this `Idempotency-Key` came with another write before; nothing was changed",
        )),
        reply => Err(unanswered(&reply)),
    }
}

/// The problem behind a reply that is not the answer to what was asked of keys.
pub(super) fn unanswered(reply: &Reply) -> Problem {
    no_answer(reply, "key", "read the key, or repeat the write with its `Idempotency-Key`")
}

/// The problem behind a reply of a partition that is not the answer to what was asked. `what` it is the partition of, and
/// what to do `then` if nobody knows whether something was changed.
pub(super) fn no_answer(reply: &Reply, what: &str, then: &str) -> Problem {
    match reply {
        Reply::OutcomeUnknown => {
            let detail = format!("the leader was lost or did not answer in time; {then}");
            Problem::new(Kind::OutcomeUnknown, detail)
        }
        Reply::Refused(Refusal::NoReplica) => Problem::temporary(
            Kind::NoLeader,
            "this node is not a member of its store any more, and can't reach it; ask a member; nothing was changed",
        ),
        Reply::Refused(Refusal::NotLeader { .. }) => {
            let detail =
                format!("no leader of the partition of the {what} could be reached in time; nothing was changed");
            Problem::temporary(Kind::NoLeader, detail)
        }
        Reply::Refused(Refusal::TimedOut) => {
            let detail = format!("the partition of the {what} did not answer in time; nothing was changed");
            Problem::temporary(Kind::TimedOut, detail)
        }
        Reply::Refused(Refusal::Busy) => {
            let detail = format!("the partition of the {what} has more waiting than it can take; nothing was changed");
            Problem::temporary(Kind::Overloaded, detail)
        }
        Reply::Refused(Refusal::DiskFull) => Problem::temporary(
            Kind::DiskFull,
            "a member that must store this has no room on its disk; nothing was changed",
        ),
        _ => Problem::new(Kind::Internal, "the answer was for another kind of request"),
    }
}

/// The entity tag of a version.
pub(super) fn etag(version: u64) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from(format!("\"{version}\""))).expect("digits and quotes are visible ASCII")
}

fn not_found() -> Problem {
    Problem::new(Kind::KeyNotFound, "there is no such key")
}

fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = status;
    response
}
