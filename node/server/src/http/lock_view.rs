//! Locks as they are shown: `GET /v1/locks/{name}`, a page of them at `GET /v1/locks?prefix=`, and holders in problems.

use annulus_core::id::GroupId;
use annulus_core::lane::{Operation, Reply};
use annulus_core::partition::lock::{Holder, Mode, Name, PlaceView, View};
use bytes::Bytes;
use http::request::Parts;
use serde::Serialize;
use serde_json::Value;

use super::edge::{Edge, content, text_or_base64};
use super::listing::{self, Asked, Of};
use super::problem::{Kind, Problem};
use super::{Response, lock, query};
use crate::router::Router;

const LOCKS: Of<View> = Of {
    cursors: "annulus lock cursor",
    most: 100,
    operation: |scan, consistency| Operation::ListLocks { scan, consistency },
    part: |reply| match reply {
        Reply::Locks { locks, more } => {
            Ok((locks.into_iter().map(|view| (view.name.bytes().clone(), view)).collect(), more))
        }
        reply => Err(lock::unanswered(&reply)),
    },
    bytes: |view| {
        let places = view.holders.iter().chain(&view.waiting);
        places.map(|place| size_of::<PlaceView>() + place.owner.len() + place.description.len()).sum()
    },
};

/// Answers with one lock.
pub(super) async fn get<R: Router>(
    edge: &Edge<R>,
    group: GroupId,
    name: Name,
    parts: &Parts,
) -> Result<Response, Problem> {
    let [consistency, timeout] = query::parameters(parts.uri.query(), ["consistency", "timeout"])?;
    let consistency = query::consistency(consistency)?;
    let timeout = edge.timeout(timeout)?;
    match edge.router.submit(group, Operation::ReadLock { name, consistency }, timeout).await {
        Reply::LockView(Some(view)) => {
            let written = serde_json::to_vec(&show(&view)).expect("strings and numbers always serialise");
            Ok(content("application/json", edge.resources.hold_answer(Bytes::from(written))?))
        }
        Reply::LockView(None) => Err(Problem::new(Kind::LockNotFound, "nobody holds the lock")),
        reply => Err(lock::unanswered(&reply)),
    }
}

/// Answers with a page of locks.
pub(super) async fn list<R: Router>(edge: &Edge<R>, query: Option<&str>) -> Result<Response, Problem> {
    let parameters = query::parameters(query, ["prefix", "limit", "cursor", "consistency", "timeout"])?;
    let asked = Asked::read(edge, &LOCKS, parameters)?;
    let page = listing::page(edge, &LOCKS, &asked).await?;
    let written = page.write(|_, view| show(view))?;
    // What the page was made of is let go first; then the page itself is counted until the client has taken it.
    drop(page);
    listing::answer(edge, written)
}

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_base64: Option<String>,
    holders: Vec<HeldPlace<'a>>,
    waiting: Vec<WaitingPlace<'a>>,
    waiting_count: u32,
}

#[derive(Serialize)]
struct HeldPlace<'a> {
    #[serde(flatten)]
    place: Place<'a>,
    held_ms: u64,
    left_ms: u64,
}

#[derive(Serialize)]
struct WaitingPlace<'a> {
    #[serde(flatten)]
    place: Place<'a>,
    waited_ms: u64,
    left_ms: u64,
}

#[derive(Serialize)]
struct Place<'a> {
    #[serde(flatten)]
    who: Who<'a>,
    mode: &'static str,
    ttl_ms: u64,
}

#[derive(Serialize)]
struct Who<'a> {
    token: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description_base64: Option<String>,
}

fn show(view: &View) -> Shown<'_> {
    let (name, name_base64) = text_or_base64(view.name.bytes());
    let held = |place| HeldPlace { place: self::place(place), held_ms: place.since_ms, left_ms: place.left_ms };
    let waiting = |place| WaitingPlace { place: self::place(place), waited_ms: place.since_ms, left_ms: place.left_ms };
    Shown {
        name,
        name_base64,
        holders: view.holders.iter().map(held).collect(),
        waiting: view.waiting.iter().map(waiting).collect(),
        waiting_count: view.waiting_count,
    }
}

fn place(place: &PlaceView) -> Place<'_> {
    let who = who(place.token, &place.owner, &place.description);
    Place { who, mode: mode(place.mode), ttl_ms: place.ttl_ms }
}

fn who<'a>(token: u64, owner: &'a [u8], description: &'a [u8]) -> Who<'a> {
    let (owner, owner_base64) = text_or_base64(owner);
    let (description, description_base64) = text_or_base64(description);
    Who { token, owner, owner_base64, description, description_base64 }
}

/// A mode as it stands in JSON.
pub(super) fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Exclusive => "exclusive",
        Mode::Shared => "shared",
    }
}

/// Who holds a lock, as a problem tells it.
pub(super) fn holder(holder: &Holder) -> Value {
    let who = who(holder.token, &holder.owner, &holder.description);
    serde_json::to_value(who).expect("strings and numbers always serialise")
}
