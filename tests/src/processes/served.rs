//! A load that is asked over HTTP how it goes: it runs as a pod beside the store, and whoever judges it does not.
//!
//! ```text
//!  filling ─▶ loading ──/stop──▶ ending ─▶ ended
//!              │ ▲
//!              └─┘ /reset
//! ```
//!
//! - `/progress` says how it goes.
//! - `/reset` forgets how calls have ended and how long keys could not be had: a new phase begins. It answers with what it forgets.
//! - `/stop` ends the load and has it judged; until the verdict is there it answers with 202.
//!
//! All of them answer to GET, too, for whoever can't send anything else. It serves until its process ends.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use annulus_client::{Client, Error};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::{Filling, Load, Shape, until};

/// More connections than whoever judges makes.
const CONNECTIONS: usize = 32;
/// A connection is served for this long, whatever it does.
const CONNECTION_LIMIT: Duration = Duration::from_secs(120);
/// How long a request's head may take.
const HEADER_LIMIT: Duration = Duration::from_secs(5);
/// How long to leave a system alone that gives no connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long the store may take to say who its members are.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many failures are told in words.
const TOLD: usize = 10;

/// What is wanted.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The load.
    pub shape: Shape,
    /// What is written before it.
    pub filling: Filling,
}

/// Where a load is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The filling is being written.
    Filling,
    /// Clients put and get.
    Loading,
    /// They have been told to stop, and what they saw is being judged.
    Ending,
    /// The verdict is there.
    Ended,
}

/// How a load goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Where it is in its life.
    pub phase: Phase,
    /// How many keys of the filling are written.
    pub filled: u64,
    /// How many puts were acknowledged since it began.
    pub acknowledged: u64,
    /// How many reads were answered since it began.
    pub reads: u64,
    /// How many calls by those who watch a key were answered since the last reset.
    pub watched_calls: u64,
    /// How many calls through our client failed since the last reset.
    pub failed: u64,
    /// How many of them failed once more when they were repeated.
    pub failed_again: u64,
    /// Some of the failures in words, those of repeated calls first.
    pub told: Vec<String>,
    /// The longest that a key could not be had since the last reset.
    pub longest_gap_ms: u64,
}

/// What came of a load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Why there is none: something else went wrong.
    pub failure: Option<String>,
    /// What can't be true of one register per key.
    pub violations: Vec<String>,
    /// Keys of the filling that are not there, or not as they were written.
    pub lost: Vec<String>,
    /// How many keys of the filling there should be.
    pub filled: u64,
    /// How many puts were acknowledged.
    pub acknowledged: usize,
    /// How many puts ended without anybody knowing their fate.
    pub unknown: usize,
}

/// Begins, and answers until the process ends.
///
/// # Errors
///
/// When the addresses of the shape are none.
pub async fn serve(listener: TcpListener, wish: Wish) -> Result<(), Error> {
    let client = Client::builder(wish.shape.addresses.clone()).build()?;
    let served = Arc::new(Served {
        wish,
        client,
        filled: Arc::default(),
        // What it was when the load was taken from here to be ended.
        last: Mutex::new(None),
        state: Mutex::new(State::Filling),
    });
    tokio::spawn(Arc::clone(&served).begin());
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return Ok(()) };
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let served = Arc::clone(&served);
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = Arc::clone(&served).answer(request.uri().path());
                async move { Ok::<_, Infallible>(answer) }
            });
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(HEADER_LIMIT);
            // A client that hangs up or is too slow has nothing to be told.
            let _ = timeout(CONNECTION_LIMIT, server.serve_connection(TokioIo::new(stream), service)).await;
            drop(permit);
        });
    }
}

struct Served {
    wish: Wish,
    client: Client,
    filled: Arc<AtomicU64>,
    last: Mutex<Option<Progress>>,
    state: Mutex<State>,
}

enum State {
    Filling,
    Loading(Load),
    Ending,
    Ended(Verdict),
}

impl Served {
    async fn begin(self: Arc<Self>) {
        self.wish.filling.write(&self.client, &self.filled).await;
        *self.state() = State::Loading(Load::shaped(self.wish.shape.clone()));
    }

    fn answer(self: Arc<Self>, path: &str) -> Response<Full<Bytes>> {
        match path {
            "/progress" => json(StatusCode::OK, &self.progress()),
            "/reset" => {
                let progress = self.progress();
                if let State::Loading(load) = &*self.state() {
                    load.take_calls();
                }
                json(StatusCode::OK, &progress)
            }
            "/stop" => self.stop(),
            _ => {
                let mut response = Response::new(Full::from("there are /progress, /reset and /stop\n"));
                *response.status_mut() = StatusCode::NOT_FOUND;
                response
            }
        }
    }

    fn progress(&self) -> Progress {
        let state = self.state();
        let phase = match &*state {
            State::Filling => Phase::Filling,
            State::Loading(_) => Phase::Loading,
            State::Ending => Phase::Ending,
            State::Ended(_) => Phase::Ended,
        };
        let filled = self.filled.load(Ordering::Relaxed);
        let State::Loading(load) = &*state else {
            let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
            return Progress { phase, ..last.unwrap_or_else(|| Progress::none(filled)) };
        };
        let ((acknowledged, reads), calls) = (load.counts(), load.calls());
        let told = calls.failed_again.iter().chain(&calls.failed).take(TOLD).cloned().collect();
        Progress {
            phase,
            filled,
            acknowledged,
            reads,
            watched_calls: calls.made,
            failed: calls.failed.len() as u64,
            failed_again: calls.failed_again.len() as u64,
            told,
            longest_gap_ms: u64::try_from(calls.longest_gap().as_millis()).unwrap_or(u64::MAX),
        }
    }

    fn stop(self: Arc<Self>) -> Response<Full<Bytes>> {
        let progress = self.progress();
        let mut state = self.state();
        match std::mem::replace(&mut *state, State::Ending) {
            State::Filling => {
                *state = State::Filling;
                json(StatusCode::CONFLICT, &progress)
            }
            State::Loading(load) => {
                *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress.clone());
                tokio::spawn(Arc::clone(&self).end(load));
                json(StatusCode::ACCEPTED, &progress)
            }
            State::Ending => json(StatusCode::ACCEPTED, &progress),
            State::Ended(verdict) => {
                *state = State::Ended(verdict.clone());
                json(StatusCode::OK, &verdict)
            }
        }
    }

    /// Ends the load and judges it. What goes wrong with that is a verdict, too.
    async fn end(self: Arc<Self>, load: Load) {
        let (judge, runtime) = (Arc::clone(&self), Handle::current());
        // On a thread of its own: it is long work, and what waits for conditions can't change threads.
        let judged = tokio::task::spawn_blocking(move || runtime.block_on(judge.judge(load))).await;
        let verdict = judged.unwrap_or_else(|error| {
            let panic = error.try_into_panic().ok();
            let text = panic.and_then(|panic| panic.downcast::<String>().ok()).map_or_else(String::new, |text| *text);
            Verdict::none(format!("the load could not be judged: {text}"))
        });
        *self.state() = State::Ended(verdict);
    }

    async fn judge(&self, load: Load) -> Verdict {
        let members = until("the store says who its members are", PATIENCE, async || {
            let ring = self.client.fresh_ring().await.ok()?;
            Some(ring.members.iter().map(|member| member.client_address.clone()).collect::<Vec<_>>())
        });
        let history = load.end_at(&members.await).await;
        let (acknowledged, unknown) = history.counts();
        Verdict {
            failure: None,
            violations: history.violations().iter().map(ToString::to_string).collect(),
            lost: self.wish.filling.lost(&self.client).await,
            filled: self.wish.filling.keys as u64,
            acknowledged,
            unknown,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress {
    fn none(filled: u64) -> Self {
        Self {
            phase: Phase::Filling,
            filled,
            acknowledged: 0,
            reads: 0,
            watched_calls: 0,
            failed: 0,
            failed_again: 0,
            told: Vec::new(),
            longest_gap_ms: 0,
        }
    }
}

impl Verdict {
    fn none(failure: String) -> Self {
        Self {
            failure: Some(failure),
            violations: Vec::new(),
            lost: Vec::new(),
            filled: 0,
            acknowledged: 0,
            unknown: 0,
        }
    }

    /// Whether nothing was lost, and nobody was lied to.
    pub fn is_clean(&self) -> bool {
        self.failure.is_none() && self.violations.is_empty() && self.lost.is_empty()
    }
}

fn json(status: StatusCode, body: &impl Serialize) -> Response<Full<Bytes>> {
    let body = serde_json::to_vec(body).expect("numbers and text can be written as JSON");
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}
