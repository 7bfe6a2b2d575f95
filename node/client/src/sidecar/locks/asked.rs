//! What the application asks of locks: each request goes to the store, and what the store says of a lock the keeper hears too.

use std::time::Duration;

use annulus_core::partition::lock::{
    MAX_DESCRIPTION_BYTES, MAX_OWNER_BYTES, MAX_RENEWALS_BODY_BYTES, MAX_TTL_MS, MAX_WAIT_MS, MIN_TTL_MS, Mode, Name,
};
use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::keeper::Grant;
use super::{Locks, renewing};
use crate::directory::Place;
use crate::lock::{Granted, Refused, Request, ends, mode_of, mode_text, path, post};
use crate::options::millis;
use crate::sidecar::edge::Edge;
use crate::sidecar::limits::MAX_LOCK_BODY_BYTES;
use crate::sidecar::problem::{Kind, Problem};
use crate::sidecar::relay::{IDEMPOTENCY_KEY, Sending, message, note, response, time};
use crate::sidecar::route::{self, Route};
use crate::sidecar::{Body, body};
use crate::text;
use crate::transport::Answer;
use crate::verdict::Safety;
use crate::{Client, Error};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    owner: Option<String>,
    ttl_ms: u64,
    wait_ms: Option<u64>,
    mode: Option<String>,
    description: Option<String>,
}

/// A wish that the store takes, as far as can be told here.
struct Wish {
    owner: String,
    /// Whether it is asked in the name of all that the sidecar is there for: by no owner of its own, and under no name.
    is_the_sidecars: bool,
    ttl: Duration,
    wait: Duration,
    mode: Mode,
    description: String,
    idempotency_key: Option<String>,
}

#[derive(Deserialize)]
struct WireGranted {
    token: u64,
    owner: String,
    mode: String,
    ttl_ms: u64,
    valid_ms: u64,
}

#[derive(Deserialize)]
struct Renewed {
    token: u64,
    ttl_ms: u64,
    valid_ms: u64,
}

/// Room for a lock that is being asked for.
struct Asking<'a>(&'a Locks);

impl<'a> Asking<'a> {
    fn begin(locks: &'a Locks) -> Result<Self, Problem> {
        if locks.with(|keeper, _| keeper.begin_asking()) {
            return Ok(Self(locks));
        }
        let limit = super::keeper::MAX_KEPT;
        let detail = format!("the sidecar keeps {limit} locks, and no more; give some up; nothing was changed");
        Err(Problem::temporary(Kind::TooManyLocks, detail).with("limit", limit))
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.with(|keeper, _| keeper.end_asking());
    }
}

impl Wish {
    /// `None`: the store will refuse it, and say why.
    fn read(parts: &Parts, body: &[u8], owner: &str) -> Option<Self> {
        let Wire { owner: asked, ttl_ms, wait_ms, mode, description } = serde_json::from_slice(body).ok()?;
        let names_no_owner = asked.is_none();
        let owner = asked.unwrap_or_else(|| owner.to_owned());
        let (wait_ms, description) = (wait_ms.unwrap_or(0), description.unwrap_or_default());
        let mode = mode.as_deref().map_or(Some(Mode::Exclusive), mode_of)?;
        let mut keys = parts.headers.get_all(IDEMPOTENCY_KEY).iter();
        let idempotency_key = match (keys.next(), keys.next()) {
            (None, _) => None,
            (Some(key), None) => Some(key.to_str().ok().filter(|key| is_name(key))?.to_owned()),
            (Some(_), Some(_)) => return None,
        };
        let is_the_sidecars = names_no_owner && idempotency_key.is_none();
        let has_condition = parts.headers.keys().any(|name| name.as_str().starts_with("if-"));
        let is_plain = route::without(parts.uri.query(), "timeout").is_empty()
            && route::is_timed(parts.uri.query())
            && !parts.headers.keys().any(|name| name.as_str().starts_with("annulus-"))
            && !has_condition;
        let fits = (MIN_TTL_MS..=MAX_TTL_MS).contains(&ttl_ms)
            && wait_ms <= MAX_WAIT_MS
            && (1..=MAX_OWNER_BYTES).contains(&owner.len())
            && description.len() <= MAX_DESCRIPTION_BYTES;
        let (ttl, wait) = (Duration::from_millis(ttl_ms), Duration::from_millis(wait_ms));
        (is_plain && fits).then_some(Self { owner, is_the_sidecars, ttl, wait, mode, description, idempotency_key })
    }

    fn request(&self, client: &Client, name: &Name, time: Duration) -> Request {
        let request = client.lock(name.bytes()).owner(&self.owner).description(&self.description);
        let request = request.ttl(self.ttl).wait(self.wait).deadline(time);
        let request = if self.mode == Mode::Shared { request.shared() } else { request };
        self.idempotency_key.iter().fold(request, |request, key| request.idempotency_key(key))
    }
}

fn is_name(key: &str) -> bool {
    (1..=255).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Answers a wish for a lock.
pub(in crate::sidecar) async fn acquire(edge: &Edge, parts: Parts, body: Incoming) -> Result<Response<Body>, Problem> {
    let place = edge.resources.admit(Route::Lock)?;
    let (body, room) = body::read(body, MAX_LOCK_BODY_BYTES, &edge.resources).await?;
    let locks = &*edge.locks;
    let named = named(Route::Lock, &parts);
    let (Some(name), Some(wish)) = (named, Wish::read(&parts, &body, locks.owner())) else {
        return acquire_as_it_is(edge, parts, body).await;
    };
    drop((body, room));
    if let Some(held) = held_already(edge, &name, &wish, time(edge, parts.uri.query())).await? {
        return Ok(held);
    }
    let _room = Asking::begin(locks)?;
    // Those who wait leave room for the others.
    let _place = if wish.wait.is_zero() { (Some(place), None) } else { (None, Some(edge.resources.admit_wait()?)) };
    let request = wish.request(&edge.client, &name, time(edge, parts.uri.query()));
    let asked = tokio::select! {
        asked = request.granted() => asked,
        () = edge.stopped(), if !wish.wait.is_zero() => {
            let detail = "the sidecar is stopping, and nobody waits for locks any more; nothing was changed";
            return Err(Problem::temporary(Kind::NotReady, detail));
        }
    };
    match asked {
        Ok(Granted { token, ends, answer }) => {
            let Wish { owner, ttl, mode, .. } = wish;
            note(edge, &answer);
            locks.granted(Grant { name, token, mode, owner, ttl }, ends).await;
            Ok(response(answer))
        }
        Err(Refused { answer: Some(answer), .. }) => {
            note(edge, &answer);
            Ok(response(*answer))
        }
        Err(Refused { error, answer: None }) => Err(error.into()),
    }
}

/// Whoever asks in the sidecar's own name has what it keeps already, with the same token: one that was started again would else wait
/// for itself. The store is asked whether that is so still.
async fn held_already(
    edge: &Edge,
    name: &Name,
    wish: &Wish,
    time: Duration,
) -> Result<Option<Response<Body>>, Problem> {
    let held = |keeper: &mut super::Keeper, now| keeper.held_by(now, name, &wish.owner, wish.mode);
    let Some(token) = edge.locks.with(held).filter(|_| wish.is_the_sidecars) else { return Ok(None) };
    let body = json!({"token": token, "ttl_ms": millis(wish.ttl)});
    let message = post(path(name, "/renew")?, Bytes::from(body.to_string()));
    let (place, safety) = (Place::Leader(name.bytes()), Safety::Idempotent);
    let mut answer = Sending { place, message, safety, time, is_timed: false }.answer(edge).await?;
    note(edge, &answer);
    heed(&edge.locks, name, &answer);
    let Ok(Renewed { token, ttl_ms, valid_ms }) = serde_json::from_slice(&answer.body) else { return Ok(None) };
    let granted = json!({
        "token": token, "owner": wish.owner, "mode": mode_text(wish.mode), "ttl_ms": ttl_ms, "valid_ms": valid_ms,
    });
    answer.body = Bytes::from(granted.to_string());
    answer.headers.remove(http::header::CONTENT_LENGTH);
    Ok(Some(response(answer)))
}

/// The store refuses it for what is wrong with it, and not for want of an owner.
fn with_owner(body: Bytes, owner: &str) -> Bytes {
    let Ok(serde_json::Value::Object(mut wish)) = serde_json::from_slice(&body) else { return body };
    if wish.contains_key("owner") {
        return body;
    }
    wish.insert("owner".to_owned(), json!(owner));
    Bytes::from(serde_json::Value::Object(wish).to_string())
}

/// Sends a wish on that the store will refuse, as far as can be told here. If it does not, the lock is kept all the same.
async fn acquire_as_it_is(edge: &Edge, parts: Parts, body: Bytes) -> Result<Response<Body>, Problem> {
    let named = named(Route::Lock, &parts);
    let time = time(edge, parts.uri.query());
    let message = message(parts, with_owner(body, edge.locks.owner()))?;
    let _room = Asking::begin(&edge.locks)?;
    let place = named.as_ref().map_or(Place::Anybody, |name| Place::Leader(name.bytes()));
    let answer = Sending { place, message, safety: Safety::Once, time, is_timed: false }.answer(edge).await?;
    if let (StatusCode::OK, Some(name)) = (answer.status, named)
        && let Ok(granted) = serde_json::from_slice::<WireGranted>(&answer.body)
    {
        let WireGranted { token, owner, mode, ttl_ms, valid_ms } = granted;
        let mode = mode_of(&mode).unwrap_or(Mode::Exclusive);
        let grant = Grant { name, token, mode, owner, ttl: Duration::from_millis(ttl_ms) };
        edge.locks.granted(grant, ends(answer.sent, Duration::from_millis(valid_ms))).await;
    }
    Ok(response(answer))
}

/// Answers a wish of the application to renew a lock itself.
pub(in crate::sidecar) async fn renew_one(
    edge: &Edge,
    parts: Parts,
    body: Incoming,
) -> Result<Response<Body>, Problem> {
    let _place = edge.resources.admit(Route::LockRenew)?;
    let (body, _room) = body::read(body, MAX_LOCK_BODY_BYTES, &edge.resources).await?;
    let named = named(Route::LockRenew, &parts);
    let time = time(edge, parts.uri.query());
    let message = message(parts, body)?;
    let place = named.as_ref().map_or(Place::Anybody, |name| Place::Leader(name.bytes()));
    let answer = Sending { place, message, safety: Safety::Idempotent, time, is_timed: false }.answer(edge).await?;
    note(edge, &answer);
    if let Some(name) = named {
        heed(&edge.locks, &name, &answer);
    }
    Ok(response(answer))
}

/// Has the keeper hear what came of a renewal of one lock.
fn heed(locks: &Locks, name: &Name, answer: &Answer) {
    if answer.status == StatusCode::OK {
        let Ok(Renewed { token, ttl_ms, valid_ms }) = serde_json::from_slice(&answer.body) else { return };
        let ends = ends(answer.sent, Duration::from_millis(valid_ms));
        let ttl = Duration::from_millis(ttl_ms);
        locks.with(|keeper, now| keeper.renewed(now, name, token, Some(ttl), ends));
        locks.poke.notify_one();
    } else {
        heed_refusal(locks, name, &answer.problem());
    }
}

fn heed_refusal(locks: &Locks, name: &Name, problem: &crate::Problem) {
    let token = problem.other.get("token").and_then(serde_json::Value::as_u64);
    if let ("lock-not-held", Some(token)) = (problem.kind(), token) {
        locks.refused(name, token, &problem.detail);
    }
}

/// Answers a wish of the application to renew many locks itself.
pub(in crate::sidecar) async fn renew_many(
    edge: &Edge,
    parts: Parts,
    body: Incoming,
) -> Result<Response<Body>, Problem> {
    let _place = edge.resources.admit(Route::Renewals)?;
    let (body, _room) = body::read(body, MAX_RENEWALS_BODY_BYTES, &edge.resources).await?;
    let time = time(edge, parts.uri.query());
    let message = message(parts, body)?;
    let (place, safety) = (Place::Anybody, Safety::Idempotent);
    let answer = Sending { place, message, safety, time, is_timed: false }.answer(edge).await?;
    for one in renewing::read_all(&answer.body).into_iter().flatten() {
        let name = text::read(one.name, one.name_base64).and_then(|name| Name::new(Bytes::from(name)).ok());
        match (name, one.ttl_ms, one.valid_ms, one.problem) {
            (Some(name), Some(ttl_ms), Some(valid_ms), _) => {
                let ends = ends(answer.sent, Duration::from_millis(valid_ms));
                let ttl = Some(Duration::from_millis(ttl_ms));
                edge.locks.with(|keeper, now| keeper.renewed(now, &name, one.token, ttl, ends));
            }
            (Some(name), _, _, Some(problem)) => heed_refusal(&edge.locks, &name, &problem),
            _ => {}
        }
    }
    edge.locks.poke.notify_one();
    Ok(response(answer))
}

/// Answers a wish of the application to give a lock up.
pub(in crate::sidecar) async fn release(edge: &Edge, parts: Parts) -> Result<Response<Body>, Problem> {
    let _place = edge.resources.admit(Route::Lock)?;
    let named = named(Route::Lock, &parts);
    let query = parts.uri.query();
    let token: Option<u64> = route::parameter(query, "token").and_then(|token| token.parse().ok());
    let time = time(edge, query);
    let message = message(parts, Bytes::new())?;
    let place = named.as_ref().map_or(Place::Anybody, |name| Place::Leader(name.bytes()));
    let (Some(name), Some(token)) = (named.clone(), token) else {
        // The store will refuse it.
        let answer = Sending { place, message, safety: Safety::Once, time, is_timed: false }.answer(edge).await?;
        return Ok(response(answer));
    };
    let locks = &edge.locks;
    let was_kept = locks.with(|keeper, _| {
        keeper.leave(&name, token, true);
        keeper.has(&name, token)
    });
    let asked = Sending { place, message, safety: Safety::Idempotent, time, is_timed: false }.answer(edge).await;
    let stays = |keeper: &mut super::Keeper, _: Instant| keeper.leave(&name, token, false);
    let mut answer = match asked {
        Ok(answer) => answer,
        Err(error) => {
            // One that may have been given up is not renewed any more, and is lost in time.
            if !matches!(error, Error::OutcomeUnknown { .. }) {
                locks.with(stays);
                locks.poke.notify_one();
            }
            return Err(error.into());
        }
    };
    note(edge, &answer);
    let is_not_held = answer.status == StatusCode::CONFLICT && answer.problem().kind() == "lock-not-held";
    if answer.status.is_success() || is_not_held && answer.doubted && was_kept {
        locks.with(|keeper, _| keeper.released(&name, token));
        locks.wait_saved().await;
        if is_not_held {
            // The first attempt gave it up, and its answer was lost.
            answer.status = StatusCode::NO_CONTENT;
            answer.headers.remove(http::header::CONTENT_TYPE);
            answer.headers.remove(http::header::CONTENT_LENGTH);
            answer.body = Bytes::new();
        }
    } else if is_not_held {
        locks.refused(&name, token, &answer.problem().detail);
    } else {
        locks.with(stays);
        locks.poke.notify_one();
    }
    Ok(response(answer))
}

/// The lock that a path names; `None`: none that there can be.
fn named(route: Route, parts: &Parts) -> Option<Name> {
    let text = route.named(parts.uri.path());
    if route::is_broken(text) { None } else { Name::new(route::decoded(text)).ok() }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn read(request: Request<()>, body: &str) -> Option<Wish> {
        Wish::read(&request.into_parts().0, body.as_bytes(), "pod-1")
    }

    fn request(query: &str, header: Option<(&str, &str)>) -> Request<()> {
        let request = Request::post(format!("/v1/locks/a{query}"));
        header.into_iter().fold(request, |request, (name, value)| request.header(name, value)).body(()).unwrap()
    }

    #[test]
    fn a_wish_without_an_owner_is_the_sidecars() {
        let wish = read(request("?timeout=2s", None), r#"{"ttl_ms":1000}"#).unwrap();
        assert_eq!((wish.owner.as_str(), wish.ttl, wish.wait), ("pod-1", Duration::from_secs(1), Duration::ZERO));
        assert!(wish.is_the_sidecars);
        assert!(!read(request("", Some(("idempotency-key", "k"))), r#"{"ttl_ms":1000}"#).unwrap().is_the_sidecars);
        let body = r#"{"owner":"me","ttl_ms":1000,"wait_ms":5,"mode":"shared","description":"d"}"#;
        let wish = read(request("", Some(("idempotency-key", "k"))), body).unwrap();
        assert_eq!((wish.owner.as_str(), wish.mode, wish.idempotency_key.as_deref()), ("me", Mode::Shared, Some("k")));
    }

    #[test]
    fn what_the_store_would_refuse_is_left_to_the_store() {
        let body = r#"{"ttl_ms":1000}"#;
        for (request, body) in [
            (request("", None), ""),
            (request("", None), r#"{"ttl_ms":499}"#),
            (request("", None), r#"{"ttl_ms":1000.5}"#),
            (request("", None), r#"{"ttl_ms":1000,"wait_ms":86400001}"#),
            (request("", None), r#"{"ttl_ms":1000,"mode":"mine"}"#),
            (request("", None), r#"{"ttl_ms":1000,"owner":""}"#),
            (request("", None), r#"{"ttl_ms":1000,"more":1}"#),
            (request("?wait=1", None), body),
            (request("?timeout=61s", None), body),
            (request("", Some(("annulus-fence", "a=1"))), body),
            (request("", Some(("if-match", "*"))), body),
            (request("", Some(("idempotency-key", "a b"))), body),
        ] {
            assert!(read(request, body).is_none(), "{body}");
        }
    }
}
