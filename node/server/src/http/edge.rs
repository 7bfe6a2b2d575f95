//! From a request to its answer: the service of every connection.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use annulus_core::id::{ClusterId, GroupId};
use annulus_core::map::Map;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Version};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use tokio::sync::watch;

use super::fence::Believed;
use super::guard::Connection;
use super::headers::{CLUSTER, Headers};
use super::limits::Resources;
use super::problem::{Kind, Problem};
use super::route::{Port, Route};
use super::{
    EPOCH_HEADER, LEADER_HEADER, Response, admin, evict, history, kv, lock, lock_view, members, openapi, plan, probes,
    query, renewals, ring, scan, txn, txn_view,
};
use crate::router::Router;
use crate::transactions::Transactions;

/// One port of one I/O thread.
pub(super) struct Edge<R> {
    pub(super) port: Port,
    pub(super) router: Rc<R>,
    pub(super) resources: Arc<Resources>,
    /// The header for the epoch seen last.
    epoch: RefCell<(u64, HeaderValue)>,
    /// The store that this member is of, as it was seen last, and as text.
    cluster: RefCell<(Option<ClusterId>, String)>,
    /// Who was found to hold a lock.
    pub(super) believed: RefCell<Believed>,
    pub(super) transactions: Transactions<R>,
    shutdown: watch::Receiver<bool>,
}

impl<R: Router> Edge<R> {
    /// The map, or why there is none.
    pub(super) fn map(&self) -> Result<Arc<Map>, Problem> {
        self.router.map().ok_or_else(|| {
            let detail = "the store has not been bootstrapped, or this member has not heard of it yet";
            Problem::temporary(Kind::NotBootstrapped, detail)
        })
    }

    /// Waits until the port is to be served no more.
    pub(super) async fn stopped(&self) {
        // Nobody is left to stop it: as good as a stop.
        let _ = self.shutdown.clone().wait_for(|stop| *stop).await;
    }

    /// Tells whoever asks again about something of this group whom to ask at once.
    pub(super) fn tell_leader(&self, group: GroupId, answer: Result<Response, Problem>) -> Result<Response, Problem> {
        let Some(leader) = self.router.other_leader(group) else { return answer };
        let value = HeaderValue::try_from(leader.to_string()).expect("an id is made of hexadecimal digits");
        match answer {
            Ok(mut response) => {
                response.headers_mut().insert(LEADER_HEADER, value);
                Ok(response)
            }
            Err(problem) => Err(problem.header(LEADER_HEADER, value)),
        }
    }

    /// How long a request waits for its answer.
    pub(super) fn timeout(&self, parameter: Option<&str>) -> Result<Duration, Problem> {
        let limits = &self.resources.limits;
        parameter.map_or(Ok(limits.default_timeout), |value| query::duration("timeout", value, limits.max_timeout))
    }
}

impl<R: Router + 'static> Edge<R> {
    pub(super) fn new(port: Port, router: Rc<R>, resources: Arc<Resources>, shutdown: watch::Receiver<bool>) -> Self {
        let epoch = RefCell::new((0, HeaderValue::from(0)));
        let transactions = Transactions::new(Rc::clone(&router), Arc::clone(&resources.metrics));
        let (believed, cluster) = (RefCell::default(), RefCell::default());
        Self { port, router, resources, epoch, cluster, believed, transactions, shutdown }
    }

    /// Answers one request of a connection.
    pub(super) async fn serve(
        &self,
        connection: &Connection,
        request: Request<Incoming>,
    ) -> Result<Response, Infallible> {
        let started = Instant::now();
        let (parts, body) = request.into_parts();
        let fault = connection.take_up();
        let route = Route::of(self.port, parts.uri.path());
        // A body that nobody reads: if the client is still sending it, the connection can't be used again.
        let has_body = !body.is_end_stream();
        let answer = match Headers::read(&parts, fault) {
            Ok(headers) => self.answer(route, &parts, &headers, body).await,
            Err(problem) => Err(problem),
        };
        let mut response = answer.unwrap_or_else(|problem| {
            if has_body {
                connection.linger();
            }
            let closes = problem.closes() && parts.version < Version::HTTP_2;
            let mut response = problem.into_response();
            if closes {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            response
        });
        if self.resources.is_leaving() && parts.version < Version::HTTP_2 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if parts.method == Method::HEAD {
            strip_body(&mut response);
        }
        if route.is_v1() {
            response.headers_mut().insert(EPOCH_HEADER, self.epoch_header());
        }
        let row = (route as usize, route.entry().name);
        self.resources.metrics.http.observe(row, &parts.method, response.status().as_u16(), started.elapsed());
        connection.answered();
        Ok(response)
    }

    async fn answer(
        &self,
        route: Route,
        parts: &http::request::Parts,
        headers: &Headers<'_>,
        body: Incoming,
    ) -> Result<Response, Problem> {
        if route == Route::Unknown {
            return Err(self.unknown_path(parts.uri.path()));
        }
        if !route.takes(&parts.method) {
            let methods = route.entry().methods;
            let detail = format!("`{}` is not a method of this path; it takes {methods}", parts.method);
            return Err(Problem::new(Kind::MethodNotAllowed, detail).allow(methods));
        }
        if self.port == Port::Client {
            headers.no_operator_fence()?;
        }
        if let Some(meant) = headers.cluster {
            self.is_meant(meant)?;
        }
        let is_fenced =
            route == Route::NewTxn || (route == Route::Key && [Method::PUT, Method::DELETE].contains(&parts.method));
        if !is_fenced {
            headers.no_fence()?;
        }
        match route {
            Route::Key => kv::answer(self, parts, headers, body).await,
            Route::List => scan::answer(self, parts.uri.query()).await,
            Route::Lock | Route::LockRenew => lock::answer(self, route, parts, headers, body).await,
            Route::Locks => lock_view::list(self, parts.uri.query()).await,
            Route::Renewals => renewals::post(self, parts, headers, body).await,
            Route::NewTxn => txn::post(self, parts, headers, body).await,
            Route::Txn => txn_view::get(self, parts).await,
            Route::Txns => txn_view::list(self, parts.uri.query()).await,
            Route::AdminBootstrap => admin::bootstrap(self, parts, body).await,
            Route::AdminMembers => members::put(self, parts, headers, body).await,
            Route::AdminMember => members::remove(self, parts, headers).await,
            Route::AdminDrain => members::drain(self, parts, headers).await,
            Route::AdminHistory => history::answer(self, parts.uri.query()).await,
            Route::AdminEvict => evict::answer(self, parts).await,
            Route::AdminPlan => plan::answer(self, parts.uri.query()).await,
            Route::Ring | Route::Health | Route::Ready | Route::Metrics | Route::OpenApi | Route::AdminStatus => {
                let [] = query::parameters(parts.uri.query(), [])?;
                match route {
                    Route::Ring => ring::answer(self),
                    Route::Ready => probes::ready(self),
                    Route::Metrics => probes::metrics(self),
                    Route::OpenApi => Ok(openapi::answer()),
                    Route::AdminStatus => Ok(admin::status(self)),
                    _ => Ok(probes::health()),
                }
            }
            Route::Unknown => unreachable!("answered above"),
        }
    }

    /// Refuses what is meant for another store. A member of none yet is nobody's.
    fn is_meant(&self, meant: &[u8]) -> Result<(), Problem> {
        let Some(cluster) = self.router.map().map(|map| map.cluster) else { return Ok(()) };
        let mut own = self.cluster.borrow_mut();
        if own.0 != Some(cluster) {
            *own = (Some(cluster), cluster.to_string());
        }
        if own.1.as_bytes().eq_ignore_ascii_case(meant) {
            return Ok(());
        }
        let meant =
            std::str::from_utf8(meant).ok().and_then(|text| text.parse::<ClusterId>().ok()).ok_or_else(|| {
                let detail = "`Annulus-Cluster` must be the id of a store, as `GET /v1/ring` tells it";
                Problem::new(Kind::InvalidHeader, detail).with("header", CLUSTER)
            })?;
        if meant == cluster {
            return Ok(());
        }
        let detail = format!(
            "this member is of store {cluster}, and the request is for {meant}; nothing was changed; read the ring again"
        );
        Err(Problem::new(Kind::WrongCluster, detail).with("cluster", cluster.to_string()))
    }

    fn unknown_path(&self, path: &str) -> Problem {
        let shown: String = path.chars().take(200).collect();
        let there_is = match self.port {
            Port::Client => {
                "/v1/kv/{key}, /v1/kv?prefix=, /v1/locks/{name}, /v1/locks/{name}/renew, /v1/locks?prefix= (a `/` in the \
                 name of a lock is written %2F), /v1/renewals, /v1/txn, /v1/txn/{id}, /v1/txns, /v1/ring, /healthz, /readyz, /metrics"
            }
            Port::Admin => {
                "/admin/v1/status, /admin/v1/bootstrap, /admin/v1/members, /admin/v1/members/{id}, \
                 /admin/v1/members/{id}/drain, /admin/v1/plan, /admin/v1/history, /admin/v1/leaders/evict, /healthz, \
                 /readyz, /metrics"
            }
        };
        let detail = format!("there is no `{shown}` on this port; there are {there_is}; /openapi.json describes them");
        Problem::new(Kind::UnknownPath, detail)
    }

    fn epoch_header(&self) -> HeaderValue {
        let epoch = self.router.map().map_or(0, |map| map.epoch);
        let mut last = self.epoch.borrow_mut();
        if last.0 != epoch {
            *last = (epoch, HeaderValue::from(epoch));
        }
        last.1.clone()
    }
}

/// An answer of 200 with JSON.
pub(super) fn json(body: Vec<u8>) -> Response {
    content("application/json", Bytes::from(body))
}

/// An answer of 200 with this body.
pub(super) fn content(content_type: &'static str, body: Bytes) -> Response {
    let mut response = Response::new(Full::new(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// In JSON, bytes that are UTF-8 stand as they are; any others in base64, under another name.
pub(super) fn text_or_base64(bytes: &[u8]) -> (Option<&str>, Option<String>) {
    std::str::from_utf8(bytes).map_or_else(|_| (None, Some(STANDARD.encode(bytes))), |text| (Some(text), None))
}

/// `HEAD` gets the headers that `GET` would, the length of the body included.
fn strip_body(response: &mut Response) {
    let body = std::mem::take(response.body_mut());
    let length = body.size_hint().exact().unwrap_or(0);
    let has_length = response.headers().contains_key(CONTENT_LENGTH);
    if !has_length && length > 0 {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
}
