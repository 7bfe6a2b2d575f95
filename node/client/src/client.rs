//! The calls that a [`Client`] offers, and how one is made.

use std::sync::Arc;
use std::time::Duration;

use annulus_core::partition::{Consistency, Key, MAX_IDEMPOTENCY_KEY_BYTES, MAX_VALUE_BYTES};
use bytes::Bytes;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use tokio::time::Instant;

use crate::admin::Admin;
use crate::call::Call;
use crate::directory::{Directory, Place};
use crate::lock::{self, Fence};
use crate::node::Nodes;
use crate::options::{consistency_text, ttl_text};
use crate::room::Room;
use crate::transport::{Answer, MAX_ANSWER_BYTES, Message, Transport};
use crate::txn;
use crate::verdict::Safety;
use crate::{
    Condition, DeleteOptions, Error, GetOptions, Item, Page, Pages, Problem, PutOptions, Result, Ring, Scan, Version,
    Written,
};

/// What stands in a path or a query as it is; everything else is percent-encoded.
pub(crate) const PLAIN: &AsciiSet = &SEGMENT.remove(b'/');
/// What stands in one segment of a path as it is.
pub(crate) const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A client of one store. Clones share connections and what is known of the ring.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    transport: Transport,
    directory: Directory,
    deadline: Duration,
    max_attempts: u32,
}

/// Makes a [`Client`].
#[derive(Debug, Clone)]
pub struct Builder {
    endpoints: Vec<String>,
    deadline: Duration,
    max_attempts: u32,
}

impl Builder {
    /// How long a call may take, retries included, unless it says otherwise (10 s).
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How many requests a call may send (64). With 1 nothing is ever retried.
    pub fn max_attempts(mut self, max_attempts: u32) -> Self {
        self.max_attempts = max_attempts.max(1);
        self
    }

    /// The client. Nothing is sent before its first call.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] when there is no endpoint, or one is not `host:port`.
    pub fn build(self) -> Result<Client> {
        let seeds = self.endpoints.iter().map(|text| endpoint(text)).collect::<Result<Vec<_>>>()?;
        if seeds.is_empty() {
            return Err(invalid("endpoints", "", "name at least one node, such as 127.0.0.1:7070"));
        }
        let transport = Transport::new();
        let directory = Directory::new(transport.clone(), seeds);
        let shared = Shared { transport, directory, deadline: self.deadline, max_attempts: self.max_attempts };
        Ok(Client { shared: Arc::new(shared) })
    }
}

impl Client {
    /// Begins to make a client of the store that these endpoints (`host:port`, client port) belong to. One is enough;
    /// more of them are asked when the first does not answer.
    pub fn builder<I, S>(endpoints: I) -> Builder
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        let endpoints = endpoints.into_iter().map(Into::into).collect();
        Builder { endpoints, deadline: Duration::from_secs(10), max_attempts: 64 }
    }

    /// Puts a value under a key, whatever was there before.
    pub async fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Result<Written> {
        self.put_with(key, value, &PutOptions::default()).await
    }

    /// Puts a value under a key. The value may have up to 1 MiB, or what the store is configured for.
    pub async fn put_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Bytes>,
        options: &PutOptions,
    ) -> Result<Written> {
        let key = key_of(key.as_ref())?;
        let value = value.into();
        if value.len() > MAX_VALUE_BYTES {
            let reason = format!("it has {} bytes, and no store takes more than {MAX_VALUE_BYTES}", value.len());
            return Err(invalid("value of", &String::from_utf8_lossy(key.bytes()), &reason));
        }
        let query = options.ttl.map(|ttl| format!("?ttl={}", ttl_text(ttl))).unwrap_or_default();
        let mut headers = write_headers(options.condition, options.idempotency_key.as_deref(), options.fence.as_ref())?;
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        let message = Message { method: Method::PUT, path: key_path(&key, &query)?, headers, body: value };
        let safety = safety(options.condition, options.idempotency_key.is_some());
        let answer = self.run(Place::Leader(key.bytes()), message, safety, options.deadline).await?;
        let created = match answer.status {
            StatusCode::CREATED => true,
            StatusCode::NO_CONTENT | StatusCode::OK => false,
            _ => return Err(write_refusal(&answer)),
        };
        let version = version(&answer).ok_or_else(|| strange_write(&answer))?;
        Ok(Written { version, created })
    }

    /// The value under a key; `None`: there is no such key.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Item>> {
        self.get_with(key, &GetOptions::default()).await
    }

    /// The value under a key; `None`: there is no such key.
    pub async fn get_with(&self, key: impl AsRef<[u8]>, options: &GetOptions) -> Result<Option<Item>> {
        let key = key_of(key.as_ref())?;
        let query = options.consistency.map(|consistency| format!("?consistency={}", consistency_text(consistency)));
        let path = key_path(&key, &query.unwrap_or_default())?;
        let message = Message { method: Method::GET, path, headers: HeaderMap::new(), body: Bytes::new() };
        let place = match options.consistency {
            Some(Consistency::Stale) => Place::Holder(key.bytes()),
            _ => Place::Leader(key.bytes()),
        };
        let answer = self.run(place, message, Safety::Read, options.deadline).await?;
        match answer.status {
            StatusCode::OK => {
                let version = version(&answer).ok_or_else(|| strange_read("a value without a version"))?;
                Ok(Some(Item { value: answer.body, version }))
            }
            // A page that is not there is not a key that is not there: a node says which by its problem type.
            StatusCode::NOT_FOUND if answer.problem().r#type.is_empty() => Err(strange_read("404 of something else")),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(read_refusal(&answer)),
        }
    }

    /// Deletes a key; tells whether it was there.
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.delete_with(key, &DeleteOptions::default()).await
    }

    /// Deletes a key; tells whether it was there.
    pub async fn delete_with(&self, key: impl AsRef<[u8]>, options: &DeleteOptions) -> Result<bool> {
        let key = key_of(key.as_ref())?;
        let headers = write_headers(options.condition, options.idempotency_key.as_deref(), options.fence.as_ref())?;
        let message = Message { method: Method::DELETE, path: key_path(&key, "")?, headers, body: Bytes::new() };
        let safety = safety(options.condition, options.idempotency_key.is_some());
        let answer = self.run(Place::Leader(key.bytes()), message, safety, options.deadline).await?;
        match answer.status {
            StatusCode::NO_CONTENT | StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(write_refusal(&answer)),
        }
    }

    /// One page of keys in order. [`Page::cursor`] leads to the next.
    pub async fn scan(&self, scan: &Scan) -> Result<Page> {
        let encode = |bytes: &[u8]| percent_encode(bytes, PLAIN).to_string();
        let mut path = format!("/v1/kv?prefix={}&values={}", encode(&scan.prefix), scan.values);
        if let Some(limit) = scan.limit {
            path.push_str(&format!("&limit={limit}"));
        }
        if let Some(cursor) = &scan.cursor {
            path.push_str(&format!("&cursor={}", encode(cursor.as_bytes())));
        }
        if let Some(consistency) = scan.consistency {
            path.push_str(&format!("&consistency={}", consistency_text(consistency)));
        }
        let message =
            Message { method: Method::GET, path: path_of(path)?, headers: HeaderMap::new(), body: Bytes::new() };
        let answer = self.run(Place::Anybody, message, Safety::Read, scan.deadline).await?;
        match answer.status {
            StatusCode::OK => Page::read(&answer.body, scan.values).map_err(|reason| strange_read(&reason)),
            _ => Err(read_refusal(&answer)),
        }
    }

    /// All keys with a prefix, page by page.
    pub fn pages(&self, scan: Scan) -> Pages {
        Pages::new(self.clone(), scan)
    }

    /// Values under keys as they all were at one moment, in the order of the keys; `None`: there is no such key. Up to 128
    /// different keys, with 4 MiB of values.
    pub async fn get_many<K: AsRef<[u8]>>(&self, keys: impl IntoIterator<Item = K>) -> Result<Vec<Option<Item>>> {
        let keys = keys.into_iter().map(|key| Bytes::copy_from_slice(key.as_ref())).collect();
        txn::get_many(self, keys).await
    }

    /// Begins a transaction.
    pub fn txn(&self) -> txn::Request {
        txn::Request::new(self.clone())
    }

    /// A transaction that stands in JSON as the store takes it: `{"id":…,"if":[…],"then":[…],"else":[…]}`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] when it is no JSON, or a field stands there twice or is not known. The rest is for the store to
    /// say.
    pub fn txn_from_json(&self, json: &[u8]) -> Result<txn::Request> {
        txn::Request::from_json(self.clone(), json)
    }

    /// What became of a transaction; `None`: the store does not know of it, because it has not happened or is longer ago than
    /// ten minutes (two, if its id begins with `~`). That, and that it was aborted, may still change while somebody is at it: for its own time, and two
    /// seconds.
    pub async fn txn_fate(&self, id: &str) -> Result<Option<txn::Fate>> {
        txn::fate(self, id).await
    }

    /// The transactions that are open now, the oldest first, up to so many (1 to 1000; `None`: as many as the store thinks
    /// right).
    pub async fn txns(&self, limit: Option<u32>) -> Result<txn::Opens> {
        txn::open(self, limit).await
    }

    /// Begins to ask for a lock, whose name has 1 to 512 bytes.
    pub fn lock(&self, name: impl AsRef<[u8]>) -> lock::Request {
        lock::Request::new(self.clone(), name.as_ref())
    }

    /// Who holds a lock and who waits for it; `None`: nobody does.
    pub async fn lock_info(&self, name: impl AsRef<[u8]>) -> Result<Option<lock::View>> {
        lock::view(self, name.as_ref()).await
    }

    /// One page of the locks that somebody holds, in the order of their names. [`lock::Page::cursor`] leads to the next.
    pub async fn locks(&self, scan: &lock::Scan) -> Result<lock::Page> {
        lock::page(self, scan).await
    }

    /// All locks with a prefix that somebody holds, page by page.
    pub fn lock_pages(&self, scan: lock::Scan) -> lock::Pages {
        lock::Pages::new(self.clone(), scan)
    }

    /// The ring as far as this client knows it: asked for when there is none, or when an answer told of a newer one.
    pub async fn ring(&self) -> Result<Arc<Ring>> {
        let deadline = Instant::now() + self.shared.deadline;
        let table = self.shared.directory.table(deadline).await?;
        Ok(Arc::clone(&table.ring))
    }

    /// The ring as the store tells it now.
    pub async fn fresh_ring(&self) -> Result<Arc<Ring>> {
        let deadline = Instant::now() + self.shared.deadline;
        let table = self.shared.directory.table(deadline).await?;
        let fresh = self.shared.directory.refresh(&table, deadline).await?;
        let reason = || "no member told its ring in time".to_owned();
        let fresh = fresh.ok_or_else(|| Error::Unavailable { reason: reason(), overloaded: false, attempts: 1 })?;
        Ok(Arc::clone(&fresh.ring))
    }

    /// For changes of the store's members, at the admin addresses that its ring tells.
    ///
    /// # Errors
    ///
    /// [`Error::UnexpectedAnswer`] when the ring tells none, as that of an older node does.
    pub async fn admin(&self) -> Result<Admin> {
        let ring = self.ring().await?;
        let told: Vec<&str> = ring.members.iter().filter_map(|member| member.admin_address.as_deref()).collect();
        if told.is_empty() {
            return Err(strange_read("the ring tells no admin addresses; the members run an older version"));
        }
        self.admin_at(told)
    }

    /// For changes of a store's members, at these admin addresses (`host:port`).
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] when there is none, or one is not `host:port`.
    pub fn admin_at<'a>(&self, addresses: impl IntoIterator<Item = &'a str>) -> Result<Admin> {
        let addresses = addresses.into_iter().map(endpoint).collect::<Result<Vec<_>>>()?;
        if addresses.is_empty() {
            return Err(invalid("admin addresses", "", "name at least one, such as 127.0.0.1:7170"));
        }
        Ok(Admin::new(self.shared.transport.clone(), addresses, self.shared.deadline))
    }

    /// For questions to single nodes, over this client's connections.
    pub fn nodes(&self) -> Nodes {
        Nodes::new(self.shared.transport.clone())
    }

    /// How long a call may take unless it says otherwise.
    pub(crate) fn deadline(&self) -> Duration {
        self.shared.deadline
    }

    /// How many requests a call may send.
    pub(crate) fn max_attempts(&self) -> u32 {
        self.shared.max_attempts
    }

    pub(crate) async fn run(
        &self,
        place: Place<'_>,
        message: Message,
        safety: Safety,
        deadline: Option<Duration>,
    ) -> Result<Answer> {
        let time = deadline.unwrap_or(self.shared.deadline);
        let (max_attempts, room) = (self.shared.max_attempts, Room::uncounted(MAX_ANSWER_BYTES));
        self.make(Call { place, message, complete: None, safety, time, patience: None, max_attempts, room }).await
    }

    pub(crate) async fn make(&self, call: Call<'_>) -> Result<Answer> {
        call.run(&self.shared.transport, &self.shared.directory).await
    }

    /// As [`Client::make`], for somebody who reads answers himself (see [`Call::relay`]).
    pub(crate) async fn relay(&self, call: Call<'_>) -> Result<Answer> {
        call.relay(&self.shared.transport, &self.shared.directory).await
    }

    /// What is known of the ring and of who answers.
    pub(crate) fn directory(&self) -> &Directory {
        &self.shared.directory
    }
}

/// How safe it is to repeat a write (see [`PutOptions`]).
fn safety(condition: Condition, named: bool) -> Safety {
    match condition {
        _ if named => Safety::Named,
        Condition::Version(_) => Safety::Guarded,
        Condition::Always | Condition::Exists | Condition::Absent => Safety::Once,
    }
}

fn write_headers(condition: Condition, idempotency_key: Option<&str>, fence: Option<&Fence>) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    match condition {
        Condition::Always => {}
        Condition::Exists => drop(headers.insert(header::IF_MATCH, HeaderValue::from_static("*"))),
        Condition::Absent => drop(headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static("*"))),
        Condition::Version(version) => {
            let etag = HeaderValue::try_from(format!("\"{version}\"")).expect("digits in quotes");
            headers.insert(header::IF_MATCH, etag);
        }
    }
    if let Some(name) = idempotency_key {
        name_request(&mut headers, name)?;
    }
    if let Some(fence) = fence {
        headers.insert(HeaderName::from_static("annulus-fence"), fence_header(fence));
    }
    Ok(headers)
}

pub(crate) fn fence_header(fence: &Fence) -> HeaderValue {
    HeaderValue::try_from(fence.to_string()).expect("a percent-encoded name and a number")
}

/// Adds the name under which a request is remembered.
pub(crate) fn name_request(headers: &mut HeaderMap, name: &str) -> Result<()> {
    let visible = name.bytes().all(|byte| byte.is_ascii_graphic());
    let value = HeaderValue::try_from(name).ok();
    let value = value.filter(|_| visible && !name.is_empty() && name.len() <= MAX_IDEMPOTENCY_KEY_BYTES);
    let reason = || format!("it must be 1 to {MAX_IDEMPOTENCY_KEY_BYTES} visible ASCII characters");
    let value = value.ok_or_else(|| invalid("idempotency key", name, &reason()))?;
    headers.insert(HeaderName::from_static("idempotency-key"), value);
    Ok(())
}

fn key_of(bytes: &[u8]) -> Result<Key> {
    Ok(Key::new(Bytes::copy_from_slice(bytes))?)
}

fn key_path(key: &Key, query: &str) -> Result<PathAndQuery> {
    path_of(format!("/v1/kv/{}{query}", percent_encode(key.bytes(), PLAIN)))
}

/// Fails only when the path is longer than HTTP's types allow (64 KiB).
pub(crate) fn path_of(text: String) -> Result<PathAndQuery> {
    PathAndQuery::try_from(text).map_err(|error| invalid("prefix or cursor", "…", &error.to_string()))
}

/// Reads `host:port` and `http://host:port`.
pub(crate) fn endpoint(text: &str) -> Result<Authority> {
    let error = |reason: &str| invalid("endpoint", text, reason);
    if text.starts_with("https://") {
        return Err(error("TLS is not supported yet; give it as http://host:port or host:port"));
    }
    let rest = text.strip_prefix("http://").unwrap_or(text);
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let authority: Authority = rest.parse().map_err(|_| error("it should be host:port, such as 127.0.0.1:7070"))?;
    match authority.port_u16() {
        Some(port) if port > 0 && !rest.contains('@') => Ok(authority),
        _ => Err(error("it should be host:port, such as 127.0.0.1:7070")),
    }
}

pub(crate) fn invalid(what: &'static str, value: &str, reason: &str) -> Error {
    Error::InvalidOption { what, value: value.to_owned(), reason: reason.to_owned() }
}

fn version(answer: &Answer) -> Option<Version> {
    answer.headers.get(header::ETAG)?.to_str().ok()?.parse().ok()
}

/// What an answer to a write means that is not success.
pub(crate) fn write_refusal(answer: &Answer) -> Error {
    match answer.status {
        StatusCode::PRECONDITION_FAILED => Error::ConditionFailed { current: version(answer) },
        StatusCode::CONFLICT => match Box::new(answer.problem()) {
            problem if problem.kind() == "stale-token" => Error::StaleToken(problem),
            problem => Error::Conflict(problem),
        },
        StatusCode::INSUFFICIENT_STORAGE => {
            Error::Unavailable { reason: answer.problem().to_string(), overloaded: true, attempts: 1 }
        }
        status if status.is_client_error() => refused(answer.problem()),
        _ => strange_write(answer),
    }
}

/// A status that no node gives to a write: who knows what it did.
pub(crate) fn strange_write(answer: &Answer) -> Error {
    Error::OutcomeUnknown { reason: format!("not an answer that Annulus gives to a write: {}", answer.problem()) }
}

pub(crate) fn read_refusal(answer: &Answer) -> Error {
    if answer.status.is_client_error() {
        refused(answer.problem())
    } else {
        strange_read(&answer.problem().to_string())
    }
}

fn refused(problem: Problem) -> Error {
    Error::Refused(Box::new(problem))
}

pub(crate) fn strange_read(reason: &str) -> Error {
    Error::UnexpectedAnswer { reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        for text in ["127.0.0.1:7070", "http://node-1.annulus:7070", "http://[::1]:7070/"] {
            assert!(endpoint(text).is_ok(), "{text}");
        }
        for text in ["", "127.0.0.1", "https://a:1", "a:0", "a:99999", "http://a:1/path", "user@a:1", "a b:1"] {
            assert!(endpoint(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_byte_of_a_key_reaches_the_path_unchanged() {
        let path = |key: &[u8]| key_path(&key_of(key).unwrap(), "").unwrap().to_string();
        assert_eq!(path(b"a/../b"), "/v1/kv/a/../b");
        assert_eq!(path(b"/"), "/v1/kv//");
        assert_eq!(path(b"a b?c#d%2F\0\xff"), "/v1/kv/a%20b%3Fc%23d%252F%00%FF");
        assert!(matches!(key_of(b""), Err(Error::InvalidKey(_))));
        assert_eq!(path(&[0xff; 4096]).len(), 7 + 3 * 4096);
    }

    #[test]
    fn only_a_name_or_a_version_makes_a_write_repeatable() {
        assert_eq!(safety(Condition::Always, false), Safety::Once);
        assert_eq!(safety(Condition::Absent, false), Safety::Once);
        assert_eq!(safety(Condition::Exists, false), Safety::Once);
        assert_eq!(safety(Condition::Version(Version(3)), false), Safety::Guarded);
        assert_eq!(safety(Condition::Version(Version(3)), true), Safety::Named);
        assert_eq!(safety(Condition::Always, true), Safety::Named);
    }
}
