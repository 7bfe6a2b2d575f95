//! `/healthz`, `/readyz` and `/metrics` of the operator itself.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::metrics::Metrics;
use crate::watches::Troubles;

/// More connections than any kubelet and Prometheus make.
const CONNECTIONS: usize = 64;
/// A connection is served for this long, whatever it does.
const CONNECTION_LIMIT: Duration = Duration::from_secs(120);
const HEADER_LIMIT: Duration = Duration::from_secs(5);

/// What is told.
#[derive(Clone)]
pub struct Health {
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What hinders the watches.
    pub troubles: Troubles,
}

/// Answers on this address until the process ends.
pub async fn serve(address: SocketAddr, health: Health) -> std::io::Result<()> {
    let listener = bind(address).await?;
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return Ok(()) };
        let Ok((stream, _)) = listener.accept().await else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let health = health.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = answer(&health, &request);
                async move { Ok::<_, Infallible>(answer) }
            });
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEADER_LIMIT);
            // A client that hangs up or is too slow has nothing to be told.
            let _ = timeout(CONNECTION_LIMIT, http.serve_connection(TokioIo::new(stream), service)).await;
            drop(permit);
        });
    }
}

/// `[::]` stands for both kinds of addresses; where the machine has only the older kind, for that one.
pub(crate) async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let is_any = address.ip() == IpAddr::from(Ipv6Addr::UNSPECIFIED);
    match TcpListener::bind(address).await {
        Err(error) if is_any && error.kind() != std::io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    }
}

fn answer(health: &Health, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n".to_owned());
    }
    match request.uri().path() {
        "/healthz" => text(StatusCode::OK, "ok\n".to_owned()),
        "/readyz" => {
            let troubles = health.troubles.told();
            if troubles.is_empty() {
                text(StatusCode::OK, "ready\n".to_owned())
            } else {
                text(StatusCode::SERVICE_UNAVAILABLE, troubles.join("\n") + "\n")
            }
        }
        "/metrics" => {
            let mut answer = text(StatusCode::OK, health.metrics.encode());
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
            answer
        }
        _ => text(StatusCode::NOT_FOUND, "there are /healthz, /readyz and /metrics\n".to_owned()),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
