//! The operator's process: the real rounds one after the other, which can be killed at any moment, or stand still and go on.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as Polled, Poll, Waker};
use std::time::Duration;

use annulus_operator::caches::Caches;
use annulus_operator::observe::Defaults;
use annulus_operator::reconcile::{Context, chain, reconcile};
use annulus_operator::simulated::{Cluster, Session};
use annulus_operator::stores::Stores;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::events::{Recorder, Reporter};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::stores::Line;

const ROUND_LIMIT: Duration = Duration::from_secs(120);
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// What operators hear of without asking.
pub struct Heard {
    caches: Mutex<Caches>,
    changed: Notify,
    /// What rounds came to that nobody has written down yet.
    said: Mutex<Vec<String>>,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Heard {
    /// These are the caches at first.
    pub fn new(caches: Caches) -> Self {
        Self { caches: Mutex::new(caches), changed: Notify::new(), said: Mutex::default() }
    }

    /// The watches have seen something.
    pub fn show(&self, caches: Caches, is_news: bool) {
        *lock(&self.caches) = caches;
        if is_news {
            self.changed.notify_waiters();
        }
    }

    /// What was said since this was asked last.
    pub fn take_said(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.said))
    }
}

/// A process that may stand still.
#[derive(Default)]
struct Gate(Mutex<(bool, Option<Waker>)>);

impl Gate {
    fn set_closed(&self, closed: bool) {
        let mut gate = lock(&self.0);
        gate.0 = closed;
        if !closed && let Some(waker) = gate.1.take() {
            waker.wake();
        }
    }

    fn stops(&self, context: &Polled<'_>) -> bool {
        let mut gate = lock(&self.0);
        if gate.0 {
            gate.1 = Some(context.waker().clone());
        }
        gate.0
    }
}

/// An operator's process.
pub struct Process {
    /// Its way to the API server.
    pub session: Session,
    /// The generation of its lease.
    pub fence: u64,
    gate: Arc<Gate>,
    task: JoinHandle<()>,
}

impl Process {
    /// Starts one.
    pub fn start(cluster: &Cluster, line: &Arc<Line>, heard: &Arc<Heard>, fence: u64) -> Self {
        let session = cluster.session();
        let gate = Arc::new(Gate::default());
        let client = session.client();
        let clock = cluster.clone();
        let now = move || Timestamp::from_second(clock.now_seconds()).expect("a time");
        let context = Context {
            recorder: Recorder::new(client.clone(), Reporter { controller: "annulus-operator".into(), instance: None }),
            client,
            caches: lock(&heard.caches).clone(),
            stores: Arc::clone(line) as Arc<dyn Stores>,
            defaults: Defaults { node_image: "annulus/node:1".to_owned(), clock: Arc::new(now) },
            fence,
            metrics: Arc::default(),
        };
        let (heard, stops) = (Arc::clone(heard), Arc::clone(&gate));
        let task = tokio::spawn(async move {
            let mut work = pin!(operate(context, &heard));
            poll_fn(|polled| if stops.stops(polled) { Poll::Pending } else { work.as_mut().poll(polled) }).await;
        });
        Self { session, fence, gate, task }
    }

    /// It dies.
    pub fn kill(&self) {
        self.session.cut();
        self.task.abort();
    }

    /// It stands still, or goes on.
    pub fn pause(&self, is_paused: bool) {
        self.gate.set_closed(is_paused);
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// Whether it ended since something in it panicked. Only for one that has ended.
    pub async fn has_panicked(self) -> bool {
        self.task.await.is_err_and(|error| error.is_panic())
    }
}

/// Round after round, until a newer operator has spoken.
async fn operate(mut context: Context, heard: &Heard) {
    let mut failures = 0;
    loop {
        context.caches = lock(&heard.caches).clone();
        let Some(resource) = context.caches.clusters.state().first().cloned() else {
            sleep(FIRST_RETRY).await;
            continue;
        };
        match timeout(ROUND_LIMIT, reconcile(&context, &resource)).await {
            Ok(Ok(round)) => {
                failures = 0;
                // What is heard of meanwhile makes the next round, a little later.
                if timeout(round.again, heard.changed.notified()).await.is_ok() {
                    sleep(Duration::from_millis(50)).await;
                }
                continue;
            }
            Ok(Err(error)) => {
                lock(&heard.said).push(format!("the round under fence {} failed: {}", context.fence, chain(&error)));
                if error.is_fenced() {
                    return;
                }
            }
            Err(_) => lock(&heard.said).push("the round took too long".to_owned()),
        }
        failures = (failures + 1).min(8);
        sleep(FIRST_RETRY.saturating_mul(1 << (failures - 1)).min(LAST_RETRY)).await;
    }
}
