//! The webhook's own server: HTTPS, with a certificate that is swapped while it serves.
//!
//! Whoever reaches its port may ask; what it answers tells no more than whether a StorageCluster of a name exists. What one client may take is
//! bounded: connections, their time, and the memory of all bodies together.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, ServerConfig};

use super::lookups::Lookups;
use super::patch::Outcome;
use super::review;
use crate::health;
use crate::metrics::Metrics;
use crate::reconcile::chain;

/// Where reviews are sent to.
pub const PATH: &str = "/inject";
/// The API server takes no larger request itself.
const MOST_BYTES: usize = 3 * 1024 * 1024;
/// All bodies that are read at once, in KiB.
const ROOM_KIB: usize = 9 * 1024;
/// More connections than all API servers of a cluster keep.
const CONNECTIONS: usize = 128;
/// What a client that has not asked anything yet has for the handshake and for its first request.
const FIRST_LIMIT: Duration = Duration::from_secs(10);
/// Longer than API servers keep an idle connection, 90 s: so that none is closed under a request.
const IDLE_LIMIT: Duration = Duration::from_secs(120);
/// The API server gives up after `timeoutSeconds: 5`, and had better hear why before.
const ANSWER_LIMIT: Duration = Duration::from_secs(4);

/// What is served; clones are the same.
#[derive(Clone, Default)]
pub struct Certificate(Arc<RwLock<Option<Arc<CertifiedKey>>>>);

impl Certificate {
    /// Serves this from the next connection on. Both are in PEM; the certificate may be followed by those that vouch for it.
    pub fn set(&self, certificates: &[u8], key: &[u8]) -> Result<(), String> {
        let read = CertificateDer::pem_slice_iter(certificates).collect::<Result<Vec<_>, _>>();
        let certificates = read.map_err(|error| format!("the certificate can't be read: {error}"))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("the key can't be read: {error}"))?;
        let made = CertifiedKey::from_der(certificates, key, &ring::default_provider());
        let made = made.map_err(|error| format!("the certificate can't be served: {error}"))?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(made));
        Ok(())
    }

    /// Whether there is any.
    pub fn is_set(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({})", if self.is_set() { "set" } else { "none" })
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What answers reviews.
pub struct Webhook {
    lookups: Lookups,
    metrics: Arc<Metrics>,
    room: Semaphore,
}

impl Webhook {
    /// One that looks things up this way.
    pub fn new(lookups: Lookups, metrics: Arc<Metrics>) -> Self {
        Self { lookups, metrics, room: Semaphore::new(ROOM_KIB) }
    }
}

/// Listens here.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    health::bind(address).await
}

/// Answers until the process ends.
pub async fn serve(
    listener: TcpListener,
    certificate: Certificate,
    webhook: Arc<Webhook>,
) -> Result<(), rustls::Error> {
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let mut config =
        builder.with_safe_default_protocol_versions()?.with_no_client_auth().with_cert_resolver(Arc::new(certificate));
    // One request at a time on a connection: what is bounded is connections.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return Ok(()) };
        let Ok((stream, _)) = listener.accept().await else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (acceptor, webhook) = (acceptor.clone(), Arc::clone(&webhook));
        tokio::spawn(async move {
            connection(stream, acceptor, webhook).await;
            drop(permit);
        });
    }
}

/// A client that hangs up or is too slow has nothing to be told.
async fn connection(stream: TcpStream, acceptor: TlsAcceptor, webhook: Arc<Webhook>) {
    let has_asked = AtomicBool::new(false);
    let served = async {
        let Ok(stream) = acceptor.accept(stream).await else { return };
        let service = service_fn(|request| {
            has_asked.store(true, Ordering::Relaxed);
            let webhook = Arc::clone(&webhook);
            async move { Ok::<_, Infallible>(bounded(&webhook, request).await) }
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(IDLE_LIMIT);
        let _ = http.serve_connection(TokioIo::new(stream), service).await;
    };
    let silent = async {
        sleep(FIRST_LIMIT).await;
        if has_asked.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = served => {}
        () = silent => {}
    }
}

async fn bounded(webhook: &Webhook, request: Request<Incoming>) -> Response<Full<Bytes>> {
    match timeout(ANSWER_LIMIT, answer(webhook, request)).await {
        Ok(answer) => answer,
        Err(_) => {
            webhook.metrics.injected("failed");
            let limit = ANSWER_LIMIT.as_secs();
            let why = format!("there was no answer within {limit} s: the request or the API server was too slow");
            text(StatusCode::GATEWAY_TIMEOUT, &why)
        }
    }
}

async fn answer<B>(webhook: &Webhook, request: Request<B>) -> Response<Full<Bytes>>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if request.uri().path() != PATH {
        return text(StatusCode::NOT_FOUND, "AdmissionReviews are sent to /inject");
    }
    if request.method() != Method::POST {
        return text(StatusCode::METHOD_NOT_ALLOWED, "AdmissionReviews are sent by POST");
    }
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.split(';').next().map(str::trim) != Some("application/json") {
        return text(StatusCode::UNSUPPORTED_MEDIA_TYPE, "an AdmissionReview is application/json");
    }
    let too_large = || text(StatusCode::PAYLOAD_TOO_LARGE, "an AdmissionReview has at most 3 MiB here");
    let told = request.body().size_hint().upper().and_then(|bytes| usize::try_from(bytes).ok());
    let bytes = told.unwrap_or(MOST_BYTES);
    if told.is_some_and(|bytes| bytes > MOST_BYTES) {
        return too_large();
    }
    // Whoever does not find room waits for as long as there is time for an answer.
    let kib = u32::try_from(bytes.min(MOST_BYTES).div_ceil(1024)).unwrap_or(u32::MAX);
    let Ok(_room) = webhook.room.acquire_many(kib).await else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "the operator is ending");
    };
    let body = match Limited::new(request.into_body(), MOST_BYTES).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => return too_large(),
        Err(_) => return text(StatusCode::BAD_REQUEST, "the request ended before its body did"),
    };
    reviewed(webhook, &body).await
}

async fn reviewed(webhook: &Webhook, body: &[u8]) -> Response<Full<Bytes>> {
    let request = match review::read(body) {
        Ok(request) => request,
        Err(why) => {
            webhook.metrics.injected("malformed");
            return text(StatusCode::BAD_REQUEST, &why);
        }
    };
    let outcome = match &request.new_pod {
        None => Ok(Outcome::Untouched(None)),
        Some(pod) => webhook.lookups.outcome(&request.namespace, pod).await,
    };
    match outcome {
        Ok(outcome) => {
            let (name, why) = match &outcome {
                Outcome::Untouched(why) => ("untouched", why.clone().unwrap_or_default()),
                Outcome::Refused(refusal) => ("refused", refusal.to_string()),
                Outcome::Patched(_) => ("patched", String::new()),
            };
            webhook.metrics.injected(name);
            if !why.is_empty() {
                tracing::info!(namespace = request.namespace, outcome = name, "a pod gets no sidecar: {why}");
            }
            let mut response =
                Response::new(Full::new(Bytes::from(review::answer(&request.uid, &outcome).to_string())));
            response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
            response
        }
        // By the webhook's failurePolicy, which is what it is for.
        Err(error) => {
            webhook.metrics.injected("failed");
            let why = chain(&error);
            tracing::warn!(namespace = request.namespace, error = why, "whether a pod gets a sidecar can't be told");
            text(StatusCode::INTERNAL_SERVER_ERROR, &why)
        }
    }
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
