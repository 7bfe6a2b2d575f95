//! Questions to a single node: is it alive, is it ready, who is it; the bootstrap of a new store; the eviction of its
//! leaders.
//!
//! Nothing here knows the ring or retries: who asks about one node wants to know about that one, now.

use std::time::Duration;

use annulus_core::id::{ClusterId, MemberId};
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::client::endpoint;
use crate::options::ttl_text;
use crate::transport::{Answer, Failure, Message, Transport};
use crate::{Error, Result, wire};

/// How long a node may take to answer.
const DEADLINE: Duration = Duration::from_secs(2);
/// How long a node may take for a bootstrap or an eviction.
const CHANGE_DEADLINE: Duration = Duration::from_secs(10);

/// Asks single nodes.
#[derive(Debug, Clone)]
pub struct Nodes {
    transport: Transport,
}

/// What a node tells of itself on its admin port.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Status {
    /// Its identity.
    #[serde(with = "wire::text")]
    pub id: MemberId,
    /// Its name among people.
    pub name: String,
    /// The store that it belongs to; `None` before the bootstrap, and before it has joined.
    #[serde(default, with = "wire::optional")]
    pub cluster: Option<ClusterId>,
    /// The zone it runs in: as it is configured, else as the map says; empty when there is none.
    #[serde(default)]
    pub zone: String,
    /// The weight that it is configured with; `None`: it does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// `host:port` for clients, as it is configured; `None`: it does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_address: Option<String>,
    /// `host:port` for other members, as it is configured; `None`: it does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_address: Option<String>,
    /// `host:port` for the operator, as it is configured; `None`: it does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_address: Option<String>,
    /// The epoch of the map that it goes by; 0: none.
    #[serde(default)]
    pub epoch: u64,
    /// How many replicas are on their way to it; `None`: it does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moves_in: Option<u64>,
    /// Whether it has handed its leaders over and takes none for a while.
    #[serde(default)]
    pub evicted: bool,
    /// Bytes that it may still write to the disk of its volume; `None`: it does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes_free: Option<u64>,
    /// Bytes that this disk has in all; `None`: it does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes_total: Option<u64>,
    /// Bytes that its own files take on it; `None`: it does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_bytes: Option<u64>,
    /// Everything else that it tells.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

/// The first statement of a store's members. Told twice with the same content it changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Bootstrap {
    /// The new store's identity, a UUID.
    pub cluster: String,
    /// How many partitions the ring is cut into: a power of two, never changed.
    pub partitions: u32,
    /// How many copies each partition has.
    pub replication_factor: u32,
    /// The members.
    pub members: Vec<MemberSpec>,
}

/// A member as the operator wants it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct MemberSpec {
    /// Its identity, 16 hexadecimal digits, as its status tells it.
    pub id: String,
    /// Its name among people.
    pub name: String,
    /// The zone it runs in; empty when zones are not told apart.
    pub zone: String,
    /// Its share of the partitions relative to others (1 to 1000; 100 is ordinary).
    pub weight: u32,
    /// `host:port` for clients.
    pub client_address: String,
    /// `host:port` for other members.
    pub peer_address: String,
    /// `host:port` for the operator.
    pub admin_address: String,
}

/// What came of an eviction.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Evicted {
    /// How many partitions the member still leads.
    pub leaders_left: u64,
    /// How long it took.
    pub seconds: f64,
}

impl Nodes {
    pub(crate) fn new(transport: Transport) -> Self {
        Self { transport }
    }

    /// Whether the node's process is alive (`/healthz` at its client address).
    pub async fn healthy(&self, client_address: &str) -> Result<bool> {
        Ok(self.get(client_address, "/healthz").await?.status == StatusCode::OK)
    }

    /// Whether the node has caught up and is in the ring (`/readyz` at its client address).
    pub async fn ready(&self, client_address: &str) -> Result<bool> {
        Ok(self.get(client_address, "/readyz").await?.status == StatusCode::OK)
    }

    /// What a node tells of itself at its admin address.
    pub async fn status(&self, admin_address: &str) -> Result<Status> {
        let answer = self.get(admin_address, "/admin/v1/status").await?;
        if answer.status != StatusCode::OK {
            return Err(refusal(&answer));
        }
        serde_json::from_slice(&answer.body)
            .map_err(|error| Error::UnexpectedAnswer { reason: format!("{admin_address}: not a status: {error}") })
    }

    /// Makes a new store of members that belong to none yet, by telling one of them.
    pub async fn bootstrap(&self, admin_address: &str, bootstrap: &Bootstrap) -> Result<()> {
        let body = Bytes::from(serde_json::to_vec(bootstrap).expect("plain fields"));
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        let path = PathAndQuery::from_static("/admin/v1/bootstrap");
        let message = Message { method: Method::POST, path, headers, body };
        let answer = self.send(admin_address, message, CHANGE_DEADLINE).await?;
        if answer.status.is_success() { Ok(()) } else { Err(refusal(&answer)) }
    }

    /// Has a member hand its leaders over; it takes none for a while (30 s, or `period`, up to 10 min). Waits up to 5 s for
    /// the leaders to go.
    ///
    /// # Errors
    ///
    /// [`Error::OutcomeUnknown`] when the answer was lost; it may be repeated.
    pub async fn evict(&self, admin_address: &str, period: Option<Duration>) -> Result<Evicted> {
        let query = period.map(|period| format!("?for={}", ttl_text(period))).unwrap_or_default();
        let answer = self.change_eviction(admin_address, Method::POST, &query).await?;
        serde_json::from_slice(&answer.body)
            .map_err(|error| Error::OutcomeUnknown { reason: format!("{admin_address}: {error}") })
    }

    /// Lets a member take leaders again.
    ///
    /// # Errors
    ///
    /// As [`Nodes::evict`].
    pub async fn end_eviction(&self, admin_address: &str) -> Result<()> {
        self.change_eviction(admin_address, Method::DELETE, "").await.map(drop)
    }

    async fn change_eviction(&self, admin_address: &str, method: Method, query: &str) -> Result<Answer> {
        let to = endpoint(admin_address)?;
        let path = format!("/admin/v1/leaders/evict{query}");
        let path = PathAndQuery::try_from(path).expect("a path with at most a duration");
        let message = Message { method, path, headers: HeaderMap::new(), body: Bytes::new() };
        match self.transport.send(&to, &message, Instant::now() + CHANGE_DEADLINE).await {
            Ok(answer) if answer.status.is_success() => Ok(answer),
            Ok(answer) => Err(refusal(&answer)),
            Err(Failure::Broken(reason)) => Err(Error::OutcomeUnknown { reason: format!("{admin_address}: {reason}") }),
            Err(failure) => Err(unavailable(admin_address, &failure)),
        }
    }

    async fn get(&self, address: &str, path: &'static str) -> Result<Answer> {
        let path = PathAndQuery::from_static(path);
        let message = Message { method: Method::GET, path, headers: HeaderMap::new(), body: Bytes::new() };
        self.send(address, message, DEADLINE).await
    }

    async fn send(&self, address: &str, message: Message, within: Duration) -> Result<Answer> {
        let to = endpoint(address)?;
        let sent = self.transport.send(&to, &message, Instant::now() + within).await;
        sent.map_err(|failure| unavailable(address, &failure))
    }
}

fn unavailable(address: &str, failure: &Failure) -> Error {
    Error::Unavailable { reason: format!("{address}: {failure}"), overloaded: false, attempts: 1 }
}

fn refusal(answer: &Answer) -> Error {
    let problem = answer.problem();
    match answer.status {
        StatusCode::CONFLICT => Error::Conflict(Box::new(problem)),
        status if status.is_client_error() => Error::Refused(Box::new(problem)),
        _ => Error::Unavailable { reason: problem.to_string(), overloaded: false, attempts: 1 },
    }
}
