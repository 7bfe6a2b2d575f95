//! One lock: `POST /v1/locks/{name}` to hold it, `…/renew` to hold it for longer, `DELETE` to let it go.
//!
//! ```text
//! POST ─▶ parse ─▶ room to wait ─▶ Router ─┬─▶ 200 token
//!                                          ├─▶ 423 held     the wait, if there was one, is over
//!         the client goes away, ───────────┤
//!         or this member stops             └─▶ the future is dropped: its place leaves the queue
//! ```
//!
//! A wait may last a day. Of all the edge's bounds it takes a connection or a stream, and one of `max_lock_waits`; its body
//! is let go before it waits. It never asks twice: who wants to find its place again asks with the same `Idempotency-Key`.

use std::time::Duration;

use annulus_core::id::GroupId;
use annulus_core::lane::{Operation, Reply};
use annulus_core::partition::lock::{
    self, Acquire, Command, MAX_DESCRIPTION_BYTES, MAX_HOLDERS, MAX_NAME_BYTES, MAX_OWNER_BYTES, MAX_TTL_MS,
    MAX_WAIT_MS, MAX_WAITING, MIN_TTL_MS, Mode, Name, Outcome,
};
use bytes::Bytes;
use http::request::Parts;
use http::{Method, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use rand::Rng;
use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};

use super::admin::from_json;
use super::edge::{Edge, json};
use super::headers::{Headers, declared_length};
use super::limits::Reservation;
use super::problem::{Kind, Problem};
use super::route::Route;
use super::{Response, body, kv, lock_view, query};
use crate::router::Router;

/// Largest body of a request for a lock, in bytes: every field at its longest, each byte written as `\u00XX`.
const MAX_BODY_BYTES: usize = 16 * 1024;

/// Answers a request for one lock.
pub(super) async fn answer<R: Router>(
    edge: &Edge<R>,
    route: Route,
    parts: &Parts,
    headers: &Headers<'_>,
    body: Incoming,
) -> Result<Response, Problem> {
    let name = query::lock_name(route.parameter(parts.uri.path()))?;
    let group = edge.map()?.partition_of(name.bytes()).group();
    if parts.method == Method::POST || parts.method == Method::DELETE {
        headers.no_condition()?;
    }
    let answer = match (route, &parts.method) {
        (Route::LockRenew, _) => renew(edge, group, name, parts, body).await,
        (_, &Method::POST) => acquire(edge, group, name, parts, headers, body).await,
        (_, &Method::DELETE) => release(edge, group, name, parts).await,
        _ => lock_view::get(edge, group, name, parts).await,
    };
    edge.tell_leader(group, answer)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    owner: String,
    ttl_ms: Number,
    wait_ms: Option<Number>,
    mode: Option<String>,
    description: Option<String>,
}

#[derive(Serialize)]
struct Granted {
    token: u64,
    owner: String,
    mode: &'static str,
    ttl_ms: u64,
    valid_ms: u64,
}

async fn acquire<R: Router>(
    edge: &Edge<R>,
    group: GroupId,
    name: Name,
    parts: &Parts,
    headers: &Headers<'_>,
    body: Incoming,
) -> Result<Response, Problem> {
    let timeout = timeout(edge, parts)?;
    let wish: Wish = read(edge, parts, body).await?;
    let ttl_ms = ttl_ms(&wish.ttl_ms)?;
    let wait_ms = wish.wait_ms.as_ref().map_or(Ok(0), wait_ms)?;
    let mode = mode(wish.mode.as_deref())?;
    let owner = owner(wish.owner)?;
    let description = description(wish.description.unwrap_or_default())?;
    let _room = room_to_wait(edge, wait_ms)?;
    let acquire = Acquire {
        name,
        owner: Bytes::copy_from_slice(owner.as_bytes()),
        request: headers.idempotency_key.map_or_else(new_request, Bytes::copy_from_slice),
        description,
        mode,
        ttl_ms,
        wait_ms,
    };
    assert!(acquire.is_valid(), "every part of it was checked");
    let command = Operation::Lock(Command::Acquire(acquire));
    let asking = edge.router.submit(group, command, timeout + Duration::from_millis(wait_ms));
    let reply = match wait_ms {
        0 => asking.await,
        // A stop lets open requests end, and this one would not for long: better it asks another member now.
        _ => tokio::select! {
            reply = asking => reply,
            () = edge.stopped() => return Err(stopping()),
        },
    };
    match reply {
        Reply::Lock(Outcome::Granted { token, valid_ms }) => {
            let granted = Granted { token, owner, mode: lock_view::mode(mode), ttl_ms, valid_ms };
            Ok(json(serde_json::to_vec(&granted).expect("strings and numbers always serialise")))
        }
        reply => Err(refused(&reply)),
    }
}

/// A wait takes one of the waits that this member allows, so that those who wait leave connections to the others.
fn room_to_wait<R: Router>(edge: &Edge<R>, wait_ms: u64) -> Result<Option<Reservation>, Problem> {
    if wait_ms == 0 {
        return Ok(None);
    }
    edge.resources.lock_waits.take(1).map(Some).ok_or_else(|| {
        let limit = edge.resources.limits.max_lock_waits;
        let detail = format!(
            "{limit} requests wait for locks at this member already, and it takes no more; ask another, or without \
             `wait_ms`; nothing was changed"
        );
        Problem::temporary(Kind::Overloaded, detail).with("limit", limit)
    })
}

fn stopping() -> Problem {
    let detail =
        "this member is stopping, and the request waits for the lock no more; ask another; nothing was changed";
    Problem::temporary(Kind::NotReady, detail)
}

/// A name for a request that has none: nobody else's, so that nobody finds its place by chance or by guessing.
fn new_request() -> Bytes {
    let mut random = rand::rng();
    Bytes::from(format!("{:016x}{:016x}", random.next_u64(), random.next_u64()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Renewal {
    token: u64,
    ttl_ms: Number,
}

#[derive(Serialize)]
struct Renewed {
    token: u64,
    ttl_ms: u64,
    valid_ms: u64,
}

async fn renew<R: Router>(
    edge: &Edge<R>,
    group: GroupId,
    name: Name,
    parts: &Parts,
    body: Incoming,
) -> Result<Response, Problem> {
    let timeout = timeout(edge, parts)?;
    let Renewal { token, ttl_ms: asked } = read(edge, parts, body).await?;
    let ttl_ms = ttl_ms(&asked)?;
    let valid = renewed(edge, group, name, token, ttl_ms, timeout).await?;
    let renewed = Renewed { token, ttl_ms, valid_ms: u64::try_from(valid.as_millis()).unwrap_or(u64::MAX) };
    Ok(json(serde_json::to_vec(&renewed).expect("numbers always serialise")))
}

/// Has a lease begin anew; for how long it is valid then.
pub(super) async fn renewed<R: Router>(
    edge: &Edge<R>,
    group: GroupId,
    name: Name,
    token: u64,
    ttl_ms: u64,
    timeout: Duration,
) -> Result<Duration, Problem> {
    let command = Operation::Lock(Command::Renew { name, token, ttl_ms });
    match edge.router.submit(group, command, timeout).await {
        Reply::Lock(Outcome::Renewed { valid_ms }) => Ok(Duration::from_millis(valid_ms)),
        reply => Err(refused(&reply).with("token", token)),
    }
}

async fn release<R: Router>(edge: &Edge<R>, group: GroupId, name: Name, parts: &Parts) -> Result<Response, Problem> {
    let [token, timeout] = query::parameters(parts.uri.query(), ["token", "timeout"])?;
    let token = query::token(token)?;
    let timeout = edge.timeout(timeout)?;
    match edge.router.submit(group, Operation::Lock(Command::Release { name, token }), timeout).await {
        Reply::Lock(Outcome::Released) => {
            let mut response = Response::new(Full::new(Bytes::new()));
            *response.status_mut() = StatusCode::NO_CONTENT;
            Ok(response)
        }
        reply => Err(refused(&reply).with("token", token)),
    }
}

/// How long a request for locks waits for its answer.
pub(super) fn timeout<R: Router>(edge: &Edge<R>, parts: &Parts) -> Result<Duration, Problem> {
    let [timeout] = query::parameters(parts.uri.query(), ["timeout"])?;
    edge.timeout(timeout)
}

/// What the body says. The room that it took is given back: nothing of it is kept but what is asked.
async fn read<R: Router, T: for<'a> Deserialize<'a>>(
    edge: &Edge<R>,
    parts: &Parts,
    body: Incoming,
) -> Result<T, Problem> {
    let (body, _reservation) = body::read(body, declared_length(parts), MAX_BODY_BYTES, &edge.resources).await?;
    from_json(&body)
}

/// A lease's length in its bounds.
pub(super) fn ttl_ms(asked: &Number) -> Result<u64, Problem> {
    milliseconds(asked, "ttl_ms", Kind::InvalidTtl, MIN_TTL_MS, MAX_TTL_MS)
}

fn wait_ms(asked: &Number) -> Result<u64, Problem> {
    milliseconds(asked, "wait_ms", Kind::InvalidWait, 0, MAX_WAIT_MS)
}

fn milliseconds(asked: &Number, field: &str, kind: Kind, minimum: u64, maximum: u64) -> Result<u64, Problem> {
    asked.as_u64().filter(|asked| (minimum..=maximum).contains(asked)).ok_or_else(|| {
        let detail =
            format!("`{field}` is {asked}; it must be a whole number of milliseconds from {minimum} to {maximum}");
        Problem::new(kind, detail).with("field", field).with("minimum_ms", minimum).with("maximum_ms", maximum)
    })
}

fn mode(asked: Option<&str>) -> Result<Mode, Problem> {
    match asked {
        None | Some("exclusive") => Ok(Mode::Exclusive),
        Some("shared") => Ok(Mode::Shared),
        Some(_) => {
            let modes = ["exclusive", "shared"];
            let problem = Problem::new(Kind::InvalidLockMode, "`mode` must be exclusive or shared");
            Err(problem.with("field", "mode").with("modes", Vec::from(modes)))
        }
    }
}

fn owner(asked: String) -> Result<String, Problem> {
    if (1..=MAX_OWNER_BYTES).contains(&asked.len()) {
        return Ok(asked);
    }
    let detail = format!("`owner` has {} bytes; it must have 1 to {MAX_OWNER_BYTES}", asked.len());
    Err(Problem::new(Kind::InvalidOwner, detail).with("field", "owner").with("limit", MAX_OWNER_BYTES))
}

fn description(asked: String) -> Result<Bytes, Problem> {
    if asked.len() <= MAX_DESCRIPTION_BYTES {
        return Ok(Bytes::from(asked));
    }
    let detail = format!("`description` has {} bytes; it must have at most {MAX_DESCRIPTION_BYTES}", asked.len());
    let problem = Problem::new(Kind::InvalidDescription, detail);
    Err(problem.with("field", "description").with("limit", MAX_DESCRIPTION_BYTES))
}

/// The problem with the name of a lock.
pub(super) fn invalid_name(error: lock::NameError) -> Problem {
    Problem::new(Kind::InvalidLockName, error.to_string()).with("limit", MAX_NAME_BYTES)
}

/// The problem behind a reply that is not what was asked for.
fn refused(reply: &Reply) -> Problem {
    match reply {
        Reply::Lock(Outcome::Held { by, waiting }) => {
            Problem::new(Kind::LockHeld, "somebody else holds the lock; nothing was changed")
                .with("holder", lock_view::holder(by))
                .with("waiting", *waiting)
        }
        Reply::Lock(Outcome::NotHeld { by }) => {
            let detail = "the lock is not held with this token, or not any more; nothing was changed";
            let holder = by.as_ref().map_or(Value::Null, lock_view::holder);
            Problem::new(Kind::LockNotHeld, detail).with("holder", holder)
        }
        Reply::Lock(Outcome::Full) => {
            let detail = format!(
                "{MAX_WAITING} wait for the lock already, or {MAX_HOLDERS} share it; nothing was changed; come back later"
            );
            Problem::temporary(Kind::LockQueueFull, detail)
                .with("waiting_limit", MAX_WAITING)
                .with("holders_limit", MAX_HOLDERS)
        }
        Reply::Lock(Outcome::RequestConflict) => Problem::new(
            Kind::IdempotencyConflict,
            "this owner's `Idempotency-Key` holds the lock or waits for it in another mode; nothing was changed",
        ),
        reply => unanswered(reply),
    }
}

/// The problem behind a reply that is not the answer to what was asked of a lock.
pub(super) fn unanswered(reply: &Reply) -> Problem {
    let then =
        "ask again with the same `owner` and `Idempotency-Key`, look at the lock, or wait until the lease is over";
    kv::no_answer(reply, "lock", then)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_wish_there_can_be_fits_into_a_body() {
        let longest = |bytes: usize| "\\u0001".repeat(bytes).len();
        let fields = longest(MAX_OWNER_BYTES) + longest(MAX_DESCRIPTION_BYTES) + 200;
        assert!(fields <= MAX_BODY_BYTES, "{fields}");
    }

    #[test]
    fn no_two_requests_without_a_name_get_the_same() {
        let names: std::collections::BTreeSet<_> = (0..1000).map(|_| new_request()).collect();
        assert!(names.len() == 1000 && names.iter().all(|name| name.len() == 32));
    }
}
