//! Plain HTTP to one member, without any of our own client's cleverness: what `curl` would see.

use std::time::Duration;

use ::http::{HeaderMap, Method, Request};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::timeout;

/// How long a member may take to answer: longer than a member itself lets a request wait.
const PATIENCE: Duration = Duration::from_secs(15);

/// Asks members.
#[derive(Debug, Clone)]
pub struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
}

/// What a member answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// Why a member did not answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    /// There was no connection, so nothing was sent.
    #[error("no connection: {0}")]
    NotSent(String),
    /// It may have been received.
    #[error("no answer: {0}")]
    Unknown(String),
}

impl Default for Http {
    fn default() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self { client: Client::builder(TokioExecutor::new()).build(connector) }
    }
}

impl Http {
    /// Sends a request to `address` (`host:port`) and reads the whole answer.
    pub async fn send(
        &self,
        method: Method,
        address: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Answer, Failure> {
        let mut request = Request::builder().method(method).uri(format!("http://{address}{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).expect("tests make requests that can be made");
        let exchange = async {
            let response = self.client.request(request).await.map_err(|error| {
                if error.is_connect() {
                    Failure::NotSent(error.to_string())
                } else {
                    Failure::Unknown(error.to_string())
                }
            })?;
            let (parts, body) = response.into_parts();
            let body = body.collect().await.map_err(|error| Failure::Unknown(error.to_string()))?.to_bytes();
            Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body })
        };
        timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err(Failure::Unknown(format!("none in {PATIENCE:?}"))))
    }

    /// Gets a path.
    pub async fn get(&self, address: &str, path: &str) -> Result<Answer, Failure> {
        self.send(Method::GET, address, path, &[], Bytes::new()).await
    }

    /// Puts a value under a key that needs no encoding.
    pub async fn put(&self, address: &str, key: &str, value: impl Into<Bytes>) -> Result<Answer, Failure> {
        self.send(Method::PUT, address, &format!("/v1/kv/{key}"), &[], value).await
    }

    /// Whether the member is ready.
    pub async fn ready(&self, client_address: &str) -> bool {
        self.get(client_address, "/readyz").await.is_ok_and(|answer| answer.status == 200)
    }
}

impl Answer {
    /// A header's text; empty without one.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The version in the `ETag`.
    pub fn version(&self) -> Option<u64> {
        self.header("etag").strip_prefix('"')?.strip_suffix('"')?.parse().ok()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.text()))
    }
}
