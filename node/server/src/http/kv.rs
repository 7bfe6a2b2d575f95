//! One key: `PUT`, `GET`, `HEAD` and `DELETE` of `/v1/kv/{key}`.

use annulus_core::id::{GroupId, MemberId};
use annulus_core::lane::{Operation, Refusal, Reply};
use annulus_core::partition::{Change, Item, Key, Outcome, Write};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderValue};
use http::request::Parts;
use http::{Method, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;

use super::condition::{self, Known};
use super::edge::Edge;
use super::headers::{Headers, declared_length};
use super::problem::{Kind, Problem};
use super::route::KEY_PREFIX;
use super::{LEADER_HEADER, Response, body, query};
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
    match edge.router.other_leader(group) {
        None => answer,
        Some(leader) => tell_leader(answer, leader),
    }
}

/// Tells whoever asks again whom to ask at once.
fn tell_leader(answer: Result<Response, Problem>, leader: MemberId) -> Result<Response, Problem> {
    let value = HeaderValue::try_from(leader.to_string()).expect("an id is made of hexadecimal digits");
    match answer {
        Ok(mut response) => {
            response.headers_mut().insert(LEADER_HEADER, value);
            Ok(response)
        }
        Err(problem) => Err(problem.header(LEADER_HEADER, value)),
    }
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
    // Held until the write is answered: until then the value is somewhere in this process.
    let (value, _reservation) =
        body::read(body, declared_length(parts), edge.resources.limits.max_value_bytes, &edge.resources).await?;
    let idempotency_key = headers.idempotency_key.map(Bytes::copy_from_slice);
    let write = Write { key, condition, change: Change::Put { value, ttl_ms }, idempotency_key, fence: None };
    written(edge.router.submit(group, Operation::Write(write), timeout).await)
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
    let idempotency_key = headers.idempotency_key.map(Bytes::copy_from_slice);
    let write = Write { key, condition, change: Change::Delete, idempotency_key, fence: None };
    written(edge.router.submit(group, Operation::Write(write), timeout).await)
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

/// The problem behind a reply that is not the answer to what was asked.
pub(super) fn unanswered(reply: &Reply) -> Problem {
    match reply {
        Reply::OutcomeUnknown => Problem::new(
            Kind::OutcomeUnknown,
            "the leader was lost or did not answer in time; read the key, or repeat the write with its `Idempotency-Key`",
        ),
        Reply::Refused(Refusal::NoReplica) => Problem::temporary(
            Kind::NoLeader,
            "this node is not a member of its store any more, and can't reach it; ask a member; nothing was changed",
        ),
        Reply::Refused(Refusal::NotLeader { .. }) => Problem::temporary(
            Kind::NoLeader,
            "no leader of the key's partition could be reached in time; nothing was changed",
        ),
        Reply::Refused(Refusal::TimedOut) => {
            Problem::temporary(Kind::TimedOut, "the partition did not answer in time; nothing was changed")
        }
        Reply::Refused(Refusal::Busy) => Problem::temporary(
            Kind::Overloaded,
            "the key's partition has more waiting than it can take; nothing was changed",
        ),
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
