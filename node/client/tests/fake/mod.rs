//! A node that does as it is told: it answers each request with the next line of its script; its ring, and its plan if it
//! has one, it tells whoever asks. Its clients and its operator find it at one address.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// The cluster that a fake node belongs to unless told otherwise.
pub(crate) const CLUSTER: &str = "00010203-0405-0607-0809-0a0b0c0d0e0f";

/// How the next request for a key ends.
#[derive(Debug, Clone)]
pub(crate) enum Turn {
    /// With this status, headers and body.
    Answer(u16, Vec<(&'static str, String)>, &'static str),
    /// With this status and this JSON.
    Json(u16, serde_json::Value),
    /// The request is read, then the connection breaks.
    Break,
    /// Nothing comes back, ever.
    Hang,
    /// This JSON comes back with status 200, once the test says so.
    Late(Arc<Notify>, serde_json::Value),
}

/// An answer without headers or body.
pub(crate) fn answer(status: u16) -> Turn {
    Turn::Answer(status, Vec::new(), "")
}

/// An answer with a version.
pub(crate) fn versioned(status: u16, version: u64) -> Turn {
    Turn::Answer(status, vec![("etag", format!("\"{version}\""))], "")
}

/// A request as it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
}

#[derive(Debug)]
struct Shared {
    script: VecDeque<Turn>,
    seen: Vec<Seen>,
    ring: String,
    rings_told: usize,
    /// What `/admin/v1/plan` answers, one after the other; the last one stays. None: the script answers.
    plans: VecDeque<serde_json::Value>,
}

/// A fake node; ends when dropped.
#[derive(Debug)]
pub(crate) struct Fake {
    pub(crate) address: String,
    shared: Arc<Mutex<Shared>>,
    serving: JoinHandle<()>,
}

impl Fake {
    /// Starts a node that leads everything in a ring of its own.
    pub(crate) async fn start(script: impl IntoIterator<Item = Turn>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Mutex::new(Shared {
            script: script.into_iter().collect(),
            seen: Vec::new(),
            ring: ring(CLUSTER, 1, &[&address], 0),
            rings_told: 0,
            plans: VecDeque::new(),
        }));
        let serving = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Self { address, shared, serving }
    }

    /// Tells this ring from now on.
    pub(crate) fn set_ring(&self, ring: String) {
        self.shared.lock().unwrap().ring = ring;
    }

    /// Tells these plans from now on, one after the other, then the last one for ever.
    pub(crate) fn set_plans(&self, plans: impl IntoIterator<Item = serde_json::Value>) {
        self.shared.lock().unwrap().plans = plans.into_iter().collect();
    }

    /// The requests that the script has answered so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.lock().unwrap().seen.clone()
    }

    /// How often the ring was asked for.
    pub(crate) fn rings_told(&self) -> usize {
        self.shared.lock().unwrap().rings_told
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// A member that clients, members and the operator find at one address.
pub(crate) fn member(id: &str, name: &str, state: &str, address: &str) -> serde_json::Value {
    serde_json::json!({
        "id": id, "name": name, "zone": "", "state": state, "client_address": address, "weight": 100,
        "peer_address": address, "admin_address": address,
    })
}

/// A ring of one partition that every member holds, led by the member at the place `leader`.
pub(crate) fn ring(cluster: &str, epoch: u64, addresses: &[&str], leader: usize) -> String {
    let id = |place: usize| format!("{:016x}", place + 1);
    let members = addresses.iter().enumerate().map(|(place, address)| {
        let name = format!("node-{}", place + 1);
        member(&id(place), &name, "active", address)
    });
    let replicas: Vec<String> = (0..addresses.len()).map(id).collect();
    serde_json::json!({
        "cluster": cluster, "epoch": epoch, "partitions": 1, "replication_factor": addresses.len(),
        "members": members.collect::<Vec<_>>(),
        "assignments": [{"partition": 0, "replicas": replicas, "leader": id(leader)}], "moves": [],
    })
    .to_string()
}

async fn serve(listener: TcpListener, shared: Arc<Mutex<Shared>>) {
    // Connections end with the set that holds them.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let shared = Arc::clone(&shared);
        let service = service_fn(move |request| respond(Arc::clone(&shared), request));
        connections.spawn(async move {
            // A connection that breaks is what some scripts ask for.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn respond(
    shared: Arc<Mutex<Shared>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let turn = {
        let mut shared = shared.lock().unwrap();
        if parts.uri.path() == "/v1/ring" {
            shared.rings_told += 1;
            return Ok(Response::new(Full::from(shared.ring.clone())));
        }
        if parts.uri.path() == "/admin/v1/plan" && !shared.plans.is_empty() {
            let plan = shared.plans[0].to_string();
            if shared.plans.len() > 1 {
                shared.plans.pop_front();
            }
            return Ok(Response::new(Full::from(plan)));
        }
        let headers = parts.headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
        let path = parts.uri.path_and_query().unwrap().to_string();
        shared.seen.push(Seen { method: parts.method.to_string(), path, headers: headers.collect(), body });
        shared.script.pop_front().unwrap_or_else(|| answer(418))
    };
    match turn {
        Turn::Answer(status, headers, body) => {
            let mut response = Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            Ok(response.body(Full::from(body)).unwrap())
        }
        Turn::Json(status, body) => Ok(Response::builder().status(status).body(Full::from(body.to_string())).unwrap()),
        Turn::Break => Err(std::io::Error::other("as told")),
        Turn::Late(say, body) => {
            say.notified().await;
            Ok(Response::new(Full::from(body.to_string())))
        }
        Turn::Hang => match std::future::pending::<Infallible>().await {},
    }
}
