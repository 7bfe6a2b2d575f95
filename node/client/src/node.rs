//! Questions to a single node: is it alive, is it ready, who is it; and the bootstrap of a new store.
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
use crate::transport::{Answer, Message, Transport};
use crate::{Error, Result};

/// How long a node may take to answer.
const DEADLINE: Duration = Duration::from_secs(2);
/// How long a node may take for a bootstrap.
const BOOTSTRAP_DEADLINE: Duration = Duration::from_secs(10);

/// Asks single nodes.
#[derive(Debug, Clone)]
pub struct Nodes {
    transport: Transport,
}

/// What a node tells of itself on its admin port.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "WireStatus", into = "WireStatus")]
pub struct Status {
    /// Its identity.
    pub id: MemberId,
    /// Its name among people.
    pub name: String,
    /// The store that it belongs to; `None` before the bootstrap.
    pub cluster: Option<ClusterId>,
    /// Everything else that it tells.
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
    pub members: Vec<BootstrapMember>,
}

/// A member of a new store.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct BootstrapMember {
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
        let answer = self.send(admin_address, message, BOOTSTRAP_DEADLINE).await?;
        if answer.status.is_success() { Ok(()) } else { Err(refusal(&answer)) }
    }

    async fn get(&self, address: &str, path: &'static str) -> Result<Answer> {
        let path = PathAndQuery::from_static(path);
        let message = Message { method: Method::GET, path, headers: HeaderMap::new(), body: Bytes::new() };
        self.send(address, message, DEADLINE).await
    }

    async fn send(&self, address: &str, message: Message, within: Duration) -> Result<Answer> {
        let to = endpoint(address)?;
        let sent = self.transport.send(&to, &message, Instant::now() + within).await;
        sent.map_err(|failure| Error::Unavailable {
            reason: format!("{address}: {failure}"),
            overloaded: false,
            attempts: 1,
        })
    }
}

fn refusal(answer: &Answer) -> Error {
    let problem = answer.problem();
    match answer.status {
        StatusCode::CONFLICT => Error::Conflict(Box::new(problem)),
        status if status.is_client_error() => Error::Refused(Box::new(problem)),
        _ => Error::Unavailable { reason: problem.to_string(), overloaded: false, attempts: 1 },
    }
}

#[derive(Deserialize, Serialize, Clone)]
struct WireStatus {
    id: String,
    name: String,
    cluster: Option<String>,
    #[serde(flatten)]
    other: serde_json::Map<String, serde_json::Value>,
}

impl TryFrom<WireStatus> for Status {
    type Error = annulus_core::id::ParseError;

    fn try_from(wire: WireStatus) -> std::result::Result<Self, Self::Error> {
        let cluster = wire.cluster.map(|text| text.parse()).transpose()?;
        Ok(Self { id: wire.id.parse()?, name: wire.name, cluster, other: wire.other })
    }
}

impl From<Status> for WireStatus {
    fn from(status: Status) -> Self {
        let cluster = status.cluster.map(|cluster| cluster.to_string());
        Self { id: status.id.to_string(), name: status.name, cluster, other: status.other }
    }
}
