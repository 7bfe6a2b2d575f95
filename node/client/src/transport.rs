//! One request over one connection, and how it ended. Knows HTTP; knows nothing of rings and retries.
//!
//! Connections are kept and used again. A kept connection may be closed by the other side just as a request is written
//! to it, and then the fate of that request is unknown; so idle ones are dropped long before a node does it (10 s).

use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::Full;
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::{Instant, timeout_at};

use crate::names::Names;
use crate::room::{Lack, Room, Unread};
use crate::{MemberId, Problem};

/// How long a connection may take to come about, once it is known where to, and how long it may take to know that.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an unused connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// The longest answer that is read. A node gives none that is nearly as long: a page ends after 1 MiB and the value that it is
/// in, and what a transaction reads is bounded, too.
pub(crate) const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// Says which store a request is for: another one at the same address refuses it.
const CLUSTER: HeaderName = HeaderName::from_static("annulus-cluster");

/// Sends requests.
#[derive(Debug, Clone)]
pub(crate) struct Transport {
    http: HyperClient<HttpConnector<Names>, Full<Bytes>>,
}

/// What is sent, whoever it goes to.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) method: Method,
    pub(crate) path: PathAndQuery,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// What came back.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// Empty if it was not read.
    pub(crate) body: Bytes,
    /// Why the body was not read, although it came.
    pub(crate) lack: Option<Lack>,
    /// When the message that it answers was sent, at the earliest.
    pub(crate) sent: Instant,
    /// Whether an earlier attempt of the same call may have happened.
    pub(crate) doubted: bool,
}

/// Why nothing came back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// There was no connection: nothing was sent.
    #[error("no connection ({0})")]
    Connect(String),
    /// The connection broke, or time ran out, after bytes may have been sent.
    #[error("{0}")]
    Broken(String),
}

impl Transport {
    pub(crate) fn new() -> Self {
        let mut connector = HttpConnector::new_with_resolver(Names::new(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let http = HyperClient::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build(connector);
        Self { http }
    }

    /// Sends a message and reads the whole answer, until `deadline`.
    pub(crate) async fn send(&self, to: &Authority, message: &Message, deadline: Instant) -> Result<Answer, Failure> {
        self.send_with(to, message, None, deadline, &Room::uncounted(MAX_ANSWER_BYTES)).await
    }

    /// As [`Transport::send`], for a member of this store, with so much room for the answer. One that there is no room for is an answer without a body.
    pub(crate) async fn send_with(
        &self,
        to: &Authority,
        message: &Message,
        cluster: Option<&HeaderValue>,
        deadline: Instant,
        room: &Room,
    ) -> Result<Answer, Failure> {
        let request = request(to, message, cluster)?;
        let sent = Instant::now();
        let response = match timeout_at(deadline, self.http.request(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) if error.is_connect() => return Err(Failure::Connect(root_cause(&error))),
            Ok(Err(error)) => return Err(Failure::Broken(format!("the connection broke ({})", root_cause(&error)))),
            Err(_) => return Err(Failure::Broken("no answer in time".to_owned())),
        };
        let (parts, body) = response.into_parts();
        let collected = timeout_at(deadline, room.collect(body)).await;
        let (body, lack) = match collected {
            Ok(Ok(body)) => (body, None),
            Ok(Err(Unread::Lack(lack))) => (Bytes::new(), Some(lack)),
            // What became of a write is told by the status alone, so that a body that broke off does not matter.
            _ if message.method != Method::GET => (Bytes::new(), None),
            Ok(Err(Unread::Broken(error))) => {
                return Err(Failure::Broken(format!("the answer broke off ({error})")));
            }
            Err(_) => return Err(Failure::Broken("the answer did not end in time".to_owned())),
        };
        Ok(Answer { status: parts.status, headers: parts.headers, body, lack, sent, doubted: false })
    }
}

fn request(to: &Authority, message: &Message, cluster: Option<&HeaderValue>) -> Result<Request<Full<Bytes>>, Failure> {
    let uri = Uri::builder().scheme(Scheme::HTTP).authority(to.clone()).path_and_query(message.path.clone());
    let uri = uri.build().map_err(|error| Failure::Connect(error.to_string()))?;
    let mut request = Request::new(Full::new(message.body.clone()));
    *request.method_mut() = message.method.clone();
    *request.uri_mut() = uri;
    *request.headers_mut() = message.headers.clone();
    if let Some(cluster) = cluster {
        request.headers_mut().entry(CLUSTER).or_insert_with(|| cluster.clone());
    }
    Ok(request)
}

/// The innermost cause: `Connection refused (os error 111)` rather than `client error (Connect)`.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

impl Answer {
    /// The epoch of the answering node's map.
    pub(crate) fn epoch(&self) -> Option<u64> {
        self.headers.get("annulus-epoch")?.to_str().ok()?.parse().ok()
    }

    /// Who leads the partition that was asked for, if it is not the node that answered.
    pub(crate) fn leader(&self) -> Option<MemberId> {
        self.headers.get("annulus-leader")?.to_str().ok()?.parse().ok()
    }

    /// How long the node asks to be left alone. (The form with a date is not used by Annulus.)
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        let seconds: u64 = self.headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
        Some(Duration::from_secs(seconds))
    }

    /// The problem that this answer tells.
    pub(crate) fn problem(&self) -> Problem {
        Problem::read(self.status.as_u16(), &self.body)
    }
}
