//! Who holds which lock and who waits for it, for people: by the time it is read it may be over.

use std::fmt;
use std::time::Duration;

use annulus_core::partition::lock::Mode;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use percent_encoding::percent_encode;
use serde::Deserialize;

use super::{name_of, path, problem_is};
use crate::client::{PLAIN, path_of, read_refusal, strange_read};
use crate::directory::Place as Asked;
use crate::transport::Message;
use crate::verdict::Safety;
use crate::{Client, Problem, Result, text};

/// A lock, and who is at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Its name.
    pub name: Bytes,
    /// Who holds it: one, or some that share it.
    pub holders: Vec<Place>,
    /// The first of those that wait, in order.
    pub waiting: Vec<Place>,
    /// How many wait.
    pub waiting_count: u64,
}

/// One that holds a lock, or waits for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its token; for one that waits, the one that it will have.
    pub token: u64,
    /// Its name.
    pub owner: Bytes,
    /// What for; empty when it does not say.
    pub description: Bytes,
    /// Whether others may share it.
    pub mode: Mode,
    /// The lease that it asked for.
    pub ttl: Duration,
    /// How long it has held it, or waited.
    pub since: Duration,
    /// How long its lease, or its wait, still lasts at least.
    pub left: Duration,
}

/// Who stands in the way of one that would have a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its token.
    pub token: u64,
    /// Its name.
    pub owner: Bytes,
    /// What for; empty when it does not say.
    pub description: Bytes,
}

/// Why a lock is not to be had.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Held {
    /// Who holds it; `None`: the store does not say.
    pub by: Option<Holder>,
    /// How many wait for it.
    pub waiting: u64,
}

/// Which locks to list, and how.
#[derive(Debug, Clone, Default)]
pub struct Scan {
    /// Only locks whose names begin with this.
    pub prefix: Bytes,
    /// At most this many locks a page (1 to 1000); `None`: as many as the store thinks right.
    pub limit: Option<u32>,
    /// Where to go on: the cursor of the page before.
    pub cursor: Option<String>,
    /// How long one page may take, retries included; `None`: the client's own.
    pub deadline: Option<Duration>,
}

/// One page of locks in the order of their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The locks.
    pub locks: Vec<View>,
    /// Where the next page begins; `None`: this was the last.
    pub cursor: Option<String>,
}

/// Pages one after the other (see [`Client::lock_pages`]).
#[derive(Debug)]
pub struct Pages {
    client: Client,
    /// The next page; `None` after the last.
    scan: Option<Scan>,
}

impl Pages {
    pub(crate) fn new(client: Client, scan: Scan) -> Self {
        Self { client, scan: Some(scan) }
    }

    /// The next page; `None` after the last. After an error the same page is asked for again.
    pub async fn next(&mut self) -> Result<Option<Page>> {
        let Some(scan) = &mut self.scan else { return Ok(None) };
        let page = self.client.locks(scan).await?;
        match &page.cursor {
            Some(cursor) => scan.cursor = Some(cursor.clone()),
            None => self.scan = None,
        }
        Ok(Some(page))
    }
}

pub(crate) async fn view(client: &Client, name: &[u8]) -> Result<Option<View>> {
    let name = name_of(name)?;
    let message = get(path(&name, "")?);
    let answer = client.run(Asked::Leader(name.bytes()), message, Safety::Read, None).await?;
    match answer.status {
        StatusCode::OK => View::read(&answer.body).map(Some).map_err(|reason| strange_read(&reason)),
        StatusCode::NOT_FOUND if problem_is(&answer, "lock-not-found") => Ok(None),
        StatusCode::NOT_FOUND => Err(strange_read("404 of something else")),
        _ => Err(read_refusal(&answer)),
    }
}

pub(crate) async fn page(client: &Client, scan: &Scan) -> Result<Page> {
    let encode = |bytes: &[u8]| percent_encode(bytes, PLAIN).to_string();
    let mut path = format!("/v1/locks?prefix={}", encode(&scan.prefix));
    if let Some(limit) = scan.limit {
        path.push_str(&format!("&limit={limit}"));
    }
    if let Some(cursor) = &scan.cursor {
        path.push_str(&format!("&cursor={}", encode(cursor.as_bytes())));
    }
    let answer = client.run(Asked::Anybody, get(path_of(path)?), Safety::Read, scan.deadline).await?;
    match answer.status {
        StatusCode::OK => Page::read(&answer.body).map_err(|reason| strange_read(&reason)),
        _ => Err(read_refusal(&answer)),
    }
}

fn get(path: http::uri::PathAndQuery) -> Message {
    Message { method: Method::GET, path, headers: HeaderMap::new(), body: Bytes::new() }
}

#[derive(Deserialize)]
struct WirePage {
    items: Vec<WireView>,
    #[serde(default)]
    cursor: Option<String>,
}

#[derive(Deserialize)]
struct WireView {
    name: Option<String>,
    name_base64: Option<String>,
    holders: Vec<WirePlace>,
    waiting: Vec<WirePlace>,
    waiting_count: u64,
}

#[derive(Deserialize)]
struct WireHolder {
    token: u64,
    owner: Option<String>,
    owner_base64: Option<String>,
    description: Option<String>,
    description_base64: Option<String>,
}

#[derive(Deserialize)]
struct WirePlace {
    #[serde(flatten)]
    who: WireHolder,
    mode: String,
    ttl_ms: u64,
    #[serde(alias = "waited_ms")]
    held_ms: u64,
    left_ms: u64,
}

impl Page {
    fn read(body: &[u8]) -> std::result::Result<Self, String> {
        let wire: WirePage = serde_json::from_slice(body).map_err(|error| format!("not a page of locks: {error}"))?;
        let locks = wire.items.into_iter().map(View::try_from).collect::<std::result::Result<_, _>>()?;
        Ok(Self { locks, cursor: wire.cursor })
    }
}

impl View {
    fn read(body: &[u8]) -> std::result::Result<Self, String> {
        let wire: WireView = serde_json::from_slice(body).map_err(|error| format!("not a lock: {error}"))?;
        Self::try_from(wire)
    }
}

impl TryFrom<WireView> for View {
    type Error = String;

    fn try_from(wire: WireView) -> std::result::Result<Self, String> {
        let places = |wire: Vec<WirePlace>| wire.into_iter().map(Place::try_from).collect();
        let name = text::read(wire.name, wire.name_base64).ok_or("a lock's name is missing or not what it says")?;
        let (holders, waiting): (std::result::Result<_, String>, _) = (places(wire.holders), places(wire.waiting));
        Ok(Self { name: name.into(), holders: holders?, waiting: waiting?, waiting_count: wire.waiting_count })
    }
}

impl TryFrom<WireHolder> for Holder {
    type Error = String;

    fn try_from(wire: WireHolder) -> std::result::Result<Self, String> {
        let owner = text::read(wire.owner, wire.owner_base64).ok_or("an owner is missing or not what it says")?;
        let description = text::read(wire.description, wire.description_base64).unwrap_or_default();
        Ok(Self { token: wire.token, owner: owner.into(), description: description.into() })
    }
}

impl TryFrom<WirePlace> for Place {
    type Error = String;

    fn try_from(wire: WirePlace) -> std::result::Result<Self, String> {
        let Holder { token, owner, description } = wire.who.try_into()?;
        let mode = mode_of(&wire.mode).ok_or_else(|| format!("a mode `{}` that we do not know", wire.mode))?;
        let [ttl, since, left] = [wire.ttl_ms, wire.held_ms, wire.left_ms].map(Duration::from_millis);
        Ok(Self { token, owner, description, mode, ttl, since, left })
    }
}

impl Held {
    /// What a refusal tells of it.
    pub(super) fn read(problem: &Problem) -> Self {
        let holder = problem.other.get("holder").cloned();
        let holder = holder.and_then(|holder| serde_json::from_value::<WireHolder>(holder).ok());
        let waiting = problem.other.get("waiting").and_then(serde_json::Value::as_u64).unwrap_or_default();
        Self { by: holder.and_then(|holder| holder.try_into().ok()), waiting }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.by {
            Some(holder) => write!(f, "held by {holder}")?,
            None => write!(f, "held by another")?,
        }
        match self.waiting {
            0 => Ok(()),
            1 => write!(f, "; 1 waits for it"),
            waiting => write!(f, "; {waiting} wait for it"),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whoever named themselves with a line's end or an escape does not get to write on somebody else's terminal.
        let plain = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(char::is_control, "\u{fffd}");
        write!(f, "`{}`", plain(&self.owner))?;
        if !self.description.is_empty() {
            write!(f, " ({})", plain(&self.description))?;
        }
        write!(f, " with token {}", self.token)
    }
}

/// The name of a mode: `exclusive` or `shared`.
pub fn mode_text(mode: Mode) -> &'static str {
    match mode {
        Mode::Exclusive => "exclusive",
        Mode::Shared => "shared",
    }
}

/// The mode that has this name.
pub(crate) fn mode_of(text: &str) -> Option<Mode> {
    [Mode::Exclusive, Mode::Shared].into_iter().find(|mode| mode_text(*mode) == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_read_with_who_holds_it_and_who_waits() {
        let body = br#"{"name_base64":"/w==","holders":[{"token":7,"owner":"a","description":"d","mode":"shared",
            "ttl_ms":10000,"held_ms":5,"left_ms":9}],"waiting":[{"token":8,"owner_base64":"/w==","mode":"exclusive",
            "ttl_ms":500,"waited_ms":6,"left_ms":4}],"waiting_count":101}"#;
        let view = View::read(body).unwrap();
        let (holder, waiting) = (&view.holders[0], &view.waiting[0]);
        assert_eq!((&view.name[..], view.waiting_count, holder.mode), (&[0xff][..], 101, Mode::Shared));
        assert_eq!((holder.since, holder.left), (Duration::from_millis(5), Duration::from_millis(9)));
        assert_eq!((&waiting.owner[..], waiting.since, waiting.token), (&[0xff][..], Duration::from_millis(6), 8));
        assert!(View::read(br#"{"name":"a","holders":[],"waiting":[]}"#).is_err());
    }

    #[test]
    fn a_refusal_tells_who_is_in_the_way_as_far_as_the_store_says() {
        let body = br#"{"type":"lock-held","holder":{"token":7,"owner":"pod\n1","description":"nightly"},"waiting":2}"#;
        let held = Held::read(&Problem::read(423, body));
        assert_eq!(held.to_string(), "held by `pod\u{fffd}1` (nightly) with token 7; 2 wait for it");
        assert_eq!(Held::read(&Problem::read(423, b"")).to_string(), "held by another");
    }
}
