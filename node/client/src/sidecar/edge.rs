//! From a request to its answer: the service of every connection.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue};
use http::request::Parts;
use http::{HeaderName, Method, Request, Response, Version};
use hyper::body::{Body as _, Incoming};
use tokio::sync::watch;
use tokio::time::Instant;

use super::limits::Resources;
use super::locks::{self, Locks};
use super::metrics::{Counts, Metrics};
use super::problem::{Kind, Problem};
use super::route::{Port, Route};
use super::stream::Connection;
use super::{Body, openapi, probes, relay};
use crate::Client;

/// Names the lock under which a write is done, for the sidecar to say with which token.
pub(super) const LOCK_HEADER: HeaderName = HeaderName::from_static("annulus-lock");

/// What all connections share.
#[derive(Debug)]
pub(super) struct Edge {
    pub(super) client: Client,
    pub(super) locks: Arc<Locks>,
    pub(super) resources: Resources,
    pub(super) metrics: Arc<Metrics>,
    /// When a leader answered last.
    reached: Mutex<Option<Instant>>,
    /// Held while the store is asked whether it can be reached.
    pub(super) probing: tokio::sync::Mutex<()>,
    stopping: watch::Sender<bool>,
}

/// A request that is being answered, or that nobody waits for any more.
struct Open<'a>(&'a Connection);

impl<'a> Open<'a> {
    fn new(connection: &'a Connection) -> Self {
        connection.take_up();
        Self(connection)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.answered();
    }
}

impl Edge {
    pub(super) fn new(client: Client, locks: Arc<Locks>, resources: Resources, metrics: Arc<Metrics>) -> Self {
        let (reached, probing, stopping) = (Mutex::default(), tokio::sync::Mutex::default(), watch::Sender::new(false));
        Self { client, locks, resources, metrics, reached, probing, stopping }
    }

    /// Answers one request of a connection.
    pub(super) async fn serve(
        &self,
        port: Port,
        connection: &Connection,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Infallible> {
        let started = Instant::now();
        let _open = Open::new(connection);
        let (parts, body) = request.into_parts();
        let (is_head, version) = (parts.method == Method::HEAD, parts.version);
        let route = Route::of(port, parts.uri.path());
        // A body that nobody reads: if it is still being sent, the connection can't be used again.
        let has_body = !body.is_end_stream();
        let mut response = self.answer(port, route, parts, body).await.unwrap_or_else(|problem| {
            if has_body {
                connection.linger();
            }
            let closes = problem.closes() && version < Version::HTTP_2;
            let mut response = problem.into_response();
            if closes {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            response
        });
        if *self.stopping.borrow() && version < Version::HTTP_2 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if is_head {
            strip_body(&mut response);
        }
        self.metrics.observe(route, response.status().as_u16(), started.elapsed());
        Ok(response)
    }

    async fn answer(&self, port: Port, route: Route, parts: Parts, body: Incoming) -> Result<Response<Body>, Problem> {
        check_host(&parts)?;
        if route == Route::Unknown {
            return Err(unknown_path(port, parts.uri.path()));
        }
        if !route.takes(&parts.method) {
            let methods = route.methods();
            let detail = format!("`{}` is not a method of this path; it takes {methods}", parts.method);
            return Err(Problem::new(Kind::MethodNotAllowed, detail).allow(methods));
        }
        if parts.headers.contains_key(LOCK_HEADER) && !route.is_fenced(&parts.method) {
            let detail = "`Annulus-Lock` means something on `PUT` and `DELETE` of a key and on `POST /v1/txn` only";
            return Err(Problem::new(Kind::InvalidHeader, detail).with("header", LOCK_HEADER.as_str()));
        }
        match (route, &parts.method) {
            (Route::Health, _) => Ok(probes::health()),
            (Route::Ready, _) => probes::ready(self).await,
            (Route::Metrics, _) => probes::metrics(self),
            (Route::Kept, _) => probes::kept(self),
            (Route::OpenApi, _) => openapi::answer(self, parts).await,
            (Route::Lock, &Method::POST) => locks::acquire(self, parts, body).await,
            (Route::LockRenew, _) => locks::renew_one(self, parts, body).await,
            (Route::Renewals, _) => locks::renew_many(self, parts, body).await,
            (Route::Lock, &Method::DELETE) => locks::release(self, parts).await,
            (Route::NewTxn, _) => relay::txn(self, parts, body).await,
            (Route::Key, &Method::PUT | &Method::DELETE) => relay::write(self, parts, body).await,
            _ => relay::read(self, route, parts).await,
        }
    }

    /// From now on each answer over HTTP/1.1 is the last of its connection, and nobody waits for a lock.
    pub(super) fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Waits until the sidecar is to end.
    pub(super) async fn stopped(&self) {
        // The sender is here: it does not go meanwhile.
        let _ = self.stopping.subscribe().wait_for(|stop| *stop).await;
    }

    /// Takes note that a leader has answered.
    pub(super) fn reached(&self) {
        *self.reached.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether a leader has answered within this time.
    pub(super) fn reached_within(&self, time: Duration) -> bool {
        let reached = *self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        reached.is_some_and(|reached| reached.elapsed() < time)
    }

    /// What is counted, at the moment.
    pub(super) fn counts(&self) -> Counts {
        Counts {
            in_flight: self.resources.in_flight.used(),
            lock_waits: self.resources.lock_waits.used(),
            connections: self.resources.connections.used(),
            locks: self.locks.count(),
            lost: self.locks.losses(),
            retries: self.client.directory().retries(),
        }
    }
}

/// HTTP/1.1 has `Host` once.
fn check_host(parts: &Parts) -> Result<(), Problem> {
    let hosts = parts.headers.get_all(HOST).iter().count();
    let named = hosts > 0 || parts.uri.authority().is_some() || parts.version < Version::HTTP_11;
    if hosts > 1 || !named {
        let fault = if named { "it has `Host` more than once" } else { "it has no `Host`" };
        return Err(Problem::new(Kind::MalformedRequest, format!("the request is refused: {fault}")).closing());
    }
    Ok(())
}

fn unknown_path(port: Port, path: &str) -> Problem {
    let shown: String = path.chars().take(200).collect();
    let there_is = match port {
        Port::Application => {
            "/v1/kv/{key}, /v1/kv?prefix=, /v1/locks/{name}, /v1/locks/{name}/renew, /v1/locks?prefix= (a `/` in the name of \
             a lock is written %2F), /v1/renewals, /v1/txn, /v1/txn/{id}, /v1/txns, /v1/ring, /healthz, /readyz, /metrics; \
             /openapi.json describes them"
        }
        Port::Status => "/healthz, /readyz, /metrics, /sidecar/locks",
    };
    Problem::new(Kind::UnknownPath, format!("there is no `{shown}` on this port of the sidecar; there are {there_is}"))
}

/// An answer of 200 with this body.
pub(super) fn content(content_type: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// `HEAD` gets the headers that `GET` would, the length of the body included.
fn strip_body(response: &mut Response<Body>) {
    let body = std::mem::take(response.body_mut());
    let length = body.size_hint().exact().unwrap_or(0);
    if !response.headers().contains_key(CONTENT_LENGTH) && length > 0 {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
}
