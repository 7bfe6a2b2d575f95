//! A Kubernetes API server in memory, and the rest of a cluster around it, for tests.
//!
//! The operator's own code runs against it through a real `kube::Client`: the server takes HTTP requests and keeps what makes
//! an API server hard to write for — resource versions, conflicts, server-side apply with its owners of fields, finalizers,
//! watches that end, fields that may not change. Around it, [`Cluster::step`] plays scheduler, volume provisioner, kubelet and
//! garbage collector, one transition at a time. Faults are given as [`Rule`]s.
//!
//! ```text
//!   kube::Client ── service ── request ──▶ faults ──▶ verbs ── rules, apply ──▶ store ──▶ watch ──▶ kube::Client
//!                                                       ▲
//!                      tests ── typed ──────────────────┤
//!                      step ─── kubelet, scheduler ─────┘
//! ```
//!
//! It never reads a clock and has no randomness but its seed's: the same calls give the same objects, byte by byte. It knows no
//! schemas: it neither prunes unknown fields nor checks what a custom resource's schema would.

mod apply;
mod caches;
mod error;
mod faults;
mod kubelet;
mod request;
mod resources;
mod rules;
mod scheduler;
mod service;
mod store;
mod typed;
mod verbs;
mod watch;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch as signal;

pub use error::Error;
pub use faults::{Fault, Rule, RuleId};
pub use kubelet::NodeState;
pub use request::Verb;
pub use resources::{Key, Kind, Resource};
pub use typed::ClassOptions;
pub use watch::{WatchDelay, WatchEnd};

use faults::Faults;
use kubelet::Machines;
use store::Store;

/// A write that a client asked for and the server did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Which session asked, counted from 0.
    pub session: usize,
    /// What it asked.
    pub verb: Verb,
    /// The resource, such as `pods` or `storageclusters.annulus.dev`.
    pub resource: String,
    /// The subresource; empty: the object itself.
    pub subresource: String,
    /// The namespace; empty: none.
    pub namespace: String,
    /// The object's name.
    pub name: String,
    /// Whether anything changed.
    pub changed: bool,
}

impl fmt::Display for Write {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?} {}", self.verb, self.resource)?;
        if !self.subresource.is_empty() {
            write!(formatter, "/{}", self.subresource)?;
        }
        write!(formatter, " {}/{}", self.namespace, self.name)?;
        if self.changed { Ok(()) } else { write!(formatter, " (no change)") }
    }
}

/// What the server knows of one client.
struct SessionState {
    is_cut: bool,
    /// How many more of its changes are done before it is cut.
    changes_left: Option<u64>,
    changes: u64,
    cut: signal::Sender<bool>,
}

/// All that there is.
struct Server {
    store: Store,
    faults: Faults,
    sessions: Vec<SessionState>,
    writes: Vec<Write>,
    /// How many requests there were, by verb and resource.
    requests: BTreeMap<String, u64>,
    delay: WatchDelay,
    /// How often all watches were ended, and how the last time.
    watch_ends: u64,
    watch_end: WatchEnd,
    bookmarks: u64,
    machines: Machines,
}

/// No call of ours panics halfway through a change, so a poisoned lock holds sound data; the test that panicked fails anyway.
fn lock(server: &Mutex<Server>) -> MutexGuard<'_, Server> {
    server.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A simulated cluster. Clones are the same cluster.
#[derive(Clone)]
pub struct Cluster {
    server: Arc<Mutex<Server>>,
}

impl Cluster {
    /// A cluster without nodes. All that is random in it follows from the seed.
    pub fn new(seed: u64) -> Self {
        let server = Server {
            store: Store::new(seed),
            faults: Faults::default(),
            sessions: Vec::new(),
            writes: Vec::new(),
            requests: BTreeMap::new(),
            delay: WatchDelay::None,
            watch_ends: 0,
            watch_end: WatchEnd::Closed,
            bookmarks: 0,
            machines: Machines::default(),
        };
        Self { server: Arc::new(Mutex::new(server)) }
    }

    /// A cluster of nodes `node-1` and so on, in zones `a`, `b` and `c` in turn, with a default storage class `local` whose
    /// volumes stay on their node and can grow.
    pub fn with_nodes(seed: u64, nodes: usize) -> Self {
        let cluster = Self::new(seed);
        for node in 0..nodes {
            cluster.add_node(&format!("node-{}", node + 1), ["a", "b", "c"][node % 3]);
        }
        cluster.add_storage_class("local", &ClassOptions { is_default: true, can_grow: true, by_zone: false });
        cluster
    }

    fn lock(&self) -> MutexGuard<'_, Server> {
        lock(&self.server)
    }

    /// A new client, as a new process of the operator has one.
    pub fn session(&self) -> Session {
        let mut server = self.lock();
        let (cut, _) = signal::channel(false);
        server.sessions.push(SessionState { is_cut: false, changes_left: None, changes: 0, cut });
        Session { server: Arc::clone(&self.server), number: server.sessions.len() - 1 }
    }

    /// A client of a session of its own. It has to be called in a tokio runtime, as all that makes a `kube::Client`.
    pub fn client(&self) -> kube::Client {
        self.session().client()
    }

    /// Has a fault happen.
    pub fn inject(&self, rule: Rule) -> RuleId {
        self.lock().faults.inject(rule)
    }

    /// Has a fault not happen any more.
    pub fn lift(&self, id: RuleId) {
        self.lock().faults.lift(id);
    }

    /// Has no fault happen any more. Watches are told of changes at once.
    pub fn lift_all(&self) {
        self.lock().faults.lift_all();
        self.delay_watches(WatchDelay::None);
    }

    /// How often a fault happened, by [`Fault::name`]; also `end-watches`, `expire` and `cut`.
    pub fn faults_counted(&self, name: &str) -> u64 {
        self.lock().faults.counted(name)
    }

    /// Ends all watches that are open.
    pub fn end_watches(&self, how: WatchEnd) {
        let mut server = self.lock();
        server.watch_ends += 1;
        server.watch_end = how;
        server.faults.count("end-watches");
        server.store.wake();
    }

    /// Forgets all changes until now: whoever has not seen them gets a 410, and has to list again.
    pub fn forget_history(&self) {
        let mut server = self.lock();
        server.store.forget();
        server.faults.count("expire");
        server.store.wake();
    }

    /// How late watchers are told of changes from now on.
    pub fn delay_watches(&self, delay: WatchDelay) {
        let mut server = self.lock();
        server.delay = delay;
        server.store.wake();
    }

    /// Tells watchers of no further change until the delay is another one.
    pub fn hold_watches(&self) {
        let version = self.version();
        self.delay_watches(WatchDelay::HeldAt(version));
    }

    /// Sends a bookmark to all watches that take them.
    pub fn send_bookmarks(&self) {
        let mut server = self.lock();
        server.bookmarks += 1;
        server.store.wake();
    }

    /// The newest resource version: it rises with each change of any object.
    pub fn version(&self) -> u64 {
        self.lock().store.version()
    }

    /// The time, in seconds since 1970.
    pub fn now_seconds(&self) -> i64 {
        self.lock().store.now_seconds()
    }

    /// Moves the time on.
    pub fn advance(&self, seconds: i64) {
        let mut server = self.lock();
        let now = server.store.now_seconds() + seconds;
        server.store.set_now(now);
    }

    /// All writes of clients that the server did, oldest first. What tests and the simulated nodes write is not among them.
    pub fn writes(&self) -> Vec<Write> {
        self.lock().writes.clone()
    }

    /// The same, and forgets them.
    pub fn take_writes(&self) -> Vec<Write> {
        std::mem::take(&mut self.lock().writes)
    }

    /// How many requests of clients there were since this was asked last, by verb and resource: `List pods: 3`.
    pub fn take_requests(&self) -> BTreeMap<String, u64> {
        std::mem::take(&mut self.lock().requests)
    }

    /// How many writes there were of each resource: `pods: 3`.
    pub fn write_counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for write in &self.lock().writes {
            *counts.entry(write.resource.clone()).or_default() += 1;
        }
        counts
    }
}

/// One client's connection. It can be cut, as when its process dies, while others go on.
#[derive(Clone)]
pub struct Session {
    server: Arc<Mutex<Server>>,
    number: usize,
}

impl Session {
    /// A client whose requests are this session's. It has to be called in a tokio runtime.
    pub fn client(&self) -> kube::Client {
        kube::Client::new(service::ApiService::new(self.clone()), "default")
    }

    /// Its number, as it stands in [`Write::session`].
    pub fn number(&self) -> usize {
        self.number
    }

    /// Fails all further requests, and breaks its watches.
    pub fn cut(&self) {
        lock(&self.server).cut(self.number);
    }

    /// Cuts the session right after its next so many changes. The last one is done and answered.
    pub fn cut_after(&self, changes: u64) {
        let mut server = lock(&self.server);
        if changes == 0 {
            server.cut(self.number);
        } else {
            server.sessions[self.number].changes_left = Some(changes);
        }
    }

    /// How many changes it has made.
    pub fn changes(&self) -> u64 {
        lock(&self.server).sessions[self.number].changes
    }

    /// Whether it is cut.
    pub fn is_cut(&self) -> bool {
        lock(&self.server).sessions[self.number].is_cut
    }

    /// Comes back when the session is cut.
    pub async fn until_cut(&self) {
        let mut cut = lock(&self.server).sessions[self.number].cut.subscribe();
        // The sender lives as long as the server, which we hold.
        let _ = cut.wait_for(|cut| *cut).await;
    }
}

impl Server {
    fn cut(&mut self, session: usize) {
        let session = &mut self.sessions[session];
        if !session.is_cut {
            session.is_cut = true;
            session.cut.send_replace(true);
            self.faults.count("cut");
            self.store.wake();
        }
    }

    /// Notes a write that was done, and cuts the session if that was its last one.
    fn wrote(&mut self, write: Write) {
        let number = write.session;
        let changed = write.changed;
        self.writes.push(write);
        if !changed {
            return;
        }
        let session = &mut self.sessions[number];
        session.changes += 1;
        if let Some(left) = &mut session.changes_left {
            *left -= 1;
            if *left == 0 {
                self.cut(number);
            }
        }
    }
}
