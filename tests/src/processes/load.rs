//! Clients that put and get in a closed loop and write down what they were told, until they are told to stop.
//!
//! One writer and one reader ask each member over plain HTTP, whatever that member has to do for it, and one of each goes
//! through our own client; where members come and go ([`Shape::each_member`]) all go through our own client. Half of the puts overwrite a few hot keys that all clients share; the other half make keys
//! that are written once. A load that is [watched](Load::watched) also has one more client of our own for each hot key,
//! which asks for nothing else: so it is told for how long a key could not be had.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use annulus_client::{Client, Error};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{Dev, Failure, Fate, History, Http, Seen, until};

/// How many keys everybody writes.
const HOT_KEYS: usize = 8;
/// What all keys of the load begin with.
const PREFIX: &str = "load/";
/// How long a client leaves a store alone that has failed it.
const PAUSE: Duration = Duration::from_millis(10);
/// How long the store may take to acknowledge more, whatever was done to it just now.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many keys a page of the last listing has.
const PAGE: usize = 500;

/// How long a call through our client may take.
const DEADLINE: Duration = Duration::from_secs(3);
/// How long whoever watches one key waits between two calls.
const WATCH_PAUSE: Duration = Duration::from_millis(5);

/// How many clients of our own there are where nobody asks single members.
const CLIENTS: usize = 3;

/// What a load is like.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Client addresses of members, or one that leads to any of them.
    pub addresses: Vec<String>,
    /// Whether each of these addresses is asked itself, beside our own client. What is at an address of a member that has left
    /// answers nothing.
    pub each_member: bool,
    /// Whether each hot key is watched.
    pub watches: bool,
    /// How long each client waits between two calls.
    pub pause: Duration,
}

/// The load on a store.
pub struct Load {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    clients: JoinSet<()>,
    addresses: Vec<String>,
}

struct Shared {
    began: Instant,
    pause: Duration,
    history: Mutex<History>,
    acknowledged: AtomicU64,
    answered_reads: AtomicU64,
    calls: Mutex<Calls>,
}

/// How the calls through our client ended.
#[derive(Debug, Clone, Default)]
pub struct Calls {
    /// How many there were, the repeated ones not counted.
    pub made: u64,
    /// How those ended that failed.
    pub failed: Vec<String>,
    /// How the repetition of one ended that failed too.
    pub failed_again: Vec<String>,
    /// For each watched key, the longest time from one call that was answered to the next.
    pub gaps: BTreeMap<String, Duration>,
}

impl Calls {
    /// The longest gap of any key.
    pub fn longest_gap(&self) -> Duration {
        self.gaps.values().copied().max().unwrap_or_default()
    }
}

/// How a client comes to the store.
#[derive(Clone)]
enum Door {
    Member(Http, String),
    Client(Client),
}

impl Load {
    /// Begins on a store that `dev` has started.
    pub fn begin(dev: &Dev) -> Self {
        Self::on(dev.addresses())
    }

    /// Begins on the members at these client addresses.
    pub fn on(addresses: Vec<String>) -> Self {
        Self::shaped(Shape { addresses, each_member: true, watches: false, pause: Duration::ZERO })
    }

    /// Begins on the members at these client addresses, and watches each hot key.
    pub fn watched(addresses: Vec<String>) -> Self {
        Self::shaped(Shape { addresses, each_member: true, watches: true, pause: Duration::ZERO })
    }

    /// Begins a load that is like this.
    pub fn shaped(shape: Shape) -> Self {
        let Shape { addresses, each_member, watches, pause } = shape;
        let shared = Arc::new(Shared {
            began: Instant::now(),
            pause,
            history: Mutex::default(),
            acknowledged: AtomicU64::new(0),
            answered_reads: AtomicU64::new(0),
            calls: Mutex::default(),
        });
        let doors: Vec<Door> = if each_member {
            let members = addresses.iter().map(|address| Door::Member(Http::default(), address.clone()));
            members.chain([Door::Client(client(&addresses))]).collect()
        } else {
            (0..CLIENTS).map(|_| Door::Client(client(&addresses))).collect()
        };
        let (stop, stopped) = watch::channel(false);
        let mut clients = JoinSet::new();
        for (number, door) in doors.into_iter().enumerate() {
            clients.spawn(write(Arc::clone(&shared), door.clone(), number, stopped.clone()));
            clients.spawn(read(Arc::clone(&shared), door, number, stopped.clone()));
        }
        if watches {
            let door = Door::Client(client(&addresses));
            for key in Self::hot_keys() {
                clients.spawn(watch_key(Arc::clone(&shared), door.clone(), key, stopped.clone()));
            }
        }
        Self { shared, stop, clients, addresses }
    }

    /// How many puts have been acknowledged, and how many reads answered.
    pub fn counts(&self) -> (u64, u64) {
        let acknowledged = self.shared.acknowledged.load(Ordering::Relaxed);
        (acknowledged, self.shared.answered_reads.load(Ordering::Relaxed))
    }

    /// How calls through our client have ended since [`Load::take_calls`].
    pub fn calls(&self) -> Calls {
        self.shared.calls().clone()
    }

    /// How calls through our client have ended since this was asked last.
    pub fn take_calls(&self) -> Calls {
        std::mem::take(&mut *self.shared.calls())
    }

    /// Waits until this many more puts have been acknowledged, and as many reads answered.
    pub async fn more(&self, count: u64) {
        let (puts, reads) = self.counts();
        until("the store serves on", PATIENCE, async || {
            let (puts_now, reads_now) = self.counts();
            (puts_now >= puts + count && reads_now >= reads + count).then_some(())
        })
        .await;
    }

    /// The keys that everybody writes.
    pub fn hot_keys() -> Vec<String> {
        (0..HOT_KEYS).map(hot_key).collect()
    }

    /// Asks one member for a hot key, as one more of the load's readers. Ends when it is answered or has failed.
    pub fn ask(&mut self, http: &Http, address: &str, key: &str) {
        let (shared, key) = (Arc::clone(&self.shared), key.to_owned());
        let door = Door::Member(http.clone(), address.to_owned());
        self.clients.spawn(async move {
            // One that fails tells nothing.
            let _ = shared.get(&door, &key).await;
        });
    }

    /// Ends the load, and reads every key through every member. What everybody was told from first to last.
    pub async fn end(self) -> History {
        let addresses = self.addresses.clone();
        self.end_at(&addresses).await
    }

    /// Ends the load as [`Load::end`] does, and reads through the members at these client addresses: those that are left.
    pub async fn end_at(mut self, addresses: &[String]) -> History {
        self.stop.send_replace(true);
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("a client does not panic");
        }
        for address in addresses {
            self.list(address).await;
            let door = Door::Member(Http::default(), address.clone());
            for key in Self::hot_keys() {
                let answered = until("a quiet store answers", PATIENCE, async || self.shared.get(&door, &key).await);
                answered.await;
            }
        }
        self.shared.history().clone()
    }

    /// Reads every key by listing them through one member.
    async fn list(&self, address: &str) {
        let http = Http::default();
        let began = self.shared.now();
        let mut found = BTreeMap::new();
        let mut cursor = String::new();
        loop {
            let path = format!("/v1/kv?prefix={PREFIX}&values=true&limit={PAGE}{cursor}");
            let page = until("a quiet store lists its keys", PATIENCE, async || {
                http.get(address, &path).await.ok().filter(|answer| answer.status == 200)
            });
            let page = page.await.json();
            for item in page["items"].as_array().expect("a page has items") {
                let key = item["key"].as_str().expect("the load's keys are text").to_owned();
                let seen = seen(item["value"].as_str().unwrap_or_default(), item["version"].as_u64());
                assert!(found.insert(key, seen).is_none(), "a key is listed twice: {item}");
            }
            match page["cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        let asked = (began, self.shared.now());
        let mut history = self.shared.history();
        let mut keys = history.keys();
        keys.extend(found.keys().cloned());
        for key in keys {
            history.read(&key, asked, found.get(&key).copied(), &format!("a listing by {address}"));
        }
    }
}

impl Shared {
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts, and through our client once more if that failed; whether the store did not fail.
    async fn put(&self, door: &Door, key: &str) -> bool {
        let Err(first) = self.put_once(door, key).await else { return true };
        if !matches!(door, Door::Client(_)) {
            return false;
        }
        let second = self.put_once(door, key).await;
        self.failed(format!("a put of {key}: {first}"), second.as_ref().err());
        second.is_ok()
    }

    /// Gets, and through our client once more if that failed; `None` when the store failed.
    async fn get(&self, door: &Door, key: &str) -> Option<()> {
        let Err(first) = self.get_once(door, key).await else { return Some(()) };
        if !matches!(door, Door::Client(_)) {
            return None;
        }
        let second = self.get_once(door, key).await;
        self.failed(format!("a get of {key}: {first}"), second.as_ref().err());
        second.ok()
    }

    fn failed(&self, first: String, second: Option<&String>) {
        let now = self.now();
        let mut calls = self.calls();
        if let Some(second) = second {
            calls.failed_again.push(format!("{now:?}: {first}, and again: {second}"));
        }
        calls.failed.push(format!("{now:?}: {first}"));
    }

    async fn put_once(&self, door: &Door, key: &str) -> Result<(), String> {
        let put = self.history().invoke(key, self.now());
        let (fate, told) = door.put(key, put).await;
        let now = self.now();
        self.history().settle(put, now, fate);
        let acknowledged = matches!(fate, Fate::Acknowledged(_));
        if acknowledged {
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        if acknowledged { Ok(()) } else { Err(told) }
    }

    async fn get_once(&self, door: &Door, key: &str) -> Result<(), String> {
        let invoked = self.now();
        let seen = door.get(key).await?;
        let returned = self.now();
        self.history().read(key, (invoked, returned), seen, door.name());
        self.answered_reads.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

impl Door {
    fn name(&self) -> &str {
        match self {
            Self::Member(_, address) => address,
            Self::Client(_) => "our client",
        }
    }

    /// Puts; what became of it, and what was told instead of an acknowledgement.
    async fn put(&self, key: &str, put: usize) -> (Fate, String) {
        let value = format!("put {put}");
        match self {
            Self::Member(http, address) => match http.put(address, key, value).await {
                Ok(answer) if matches!(answer.status, 200 | 201 | 204) => {
                    (Fate::Acknowledged(answer.version().expect("a put is answered with its version")), String::new())
                }
                // These promise that nothing was changed.
                Ok(answer) if matches!(answer.status, 429 | 503) => (Fate::Refused, answer.text()),
                Ok(answer) if answer.status == 504 => (Fate::Unknown, answer.text()),
                Ok(answer) => panic!("{key}: a put is not answered with {}: {}", answer.status, answer.text()),
                Err(failure @ Failure::NotSent(_)) => (Fate::Refused, failure.to_string()),
                Err(failure @ Failure::Unknown(_)) => (Fate::Unknown, failure.to_string()),
            },
            Self::Client(client) => match client.put(key, value).await {
                Ok(written) => (Fate::Acknowledged(written.version.0), String::new()),
                Err(error @ Error::Unavailable { .. }) => (Fate::Refused, error.to_string()),
                Err(error @ Error::OutcomeUnknown { .. }) => (Fate::Unknown, error.to_string()),
                Err(error) => panic!("{key}: a put does not end with {error}"),
            },
        }
    }

    /// What there is, or how the store failed.
    async fn get(&self, key: &str) -> Result<Option<Seen>, String> {
        match self {
            Self::Member(http, address) => {
                let answer =
                    http.get(address, &format!("/v1/kv/{key}")).await.map_err(|failure| failure.to_string())?;
                match answer.status {
                    200 => Ok(Some(seen(&answer.text(), answer.version()))),
                    404 => Ok(None),
                    429 | 503 | 504 => Err(answer.text()),
                    status => panic!("{key}: a get is not answered with {status}: {}", answer.text()),
                }
            }
            Self::Client(client) => match client.get(key).await {
                Ok(item) => {
                    let text = |item: annulus_client::Item| {
                        (String::from_utf8_lossy(&item.value).into_owned(), item.version.0)
                    };
                    Ok(item.map(text).map(|(value, version)| seen(&value, Some(version))))
                }
                Err(error @ Error::Unavailable { .. }) => Err(error.to_string()),
                Err(error) => panic!("{key}: a get does not end with {error}"),
            },
        }
    }
}

fn client(addresses: &[String]) -> Client {
    let client = Client::builder(addresses.to_vec()).deadline(DEADLINE).build();
    client.expect("the addresses are addresses")
}

async fn write(shared: Arc<Shared>, door: Door, writer: usize, stopped: watch::Receiver<bool>) {
    for round in 0.. {
        let key = if round % 2 == 0 { hot_key(round / 2 + writer) } else { format!("{PREFIX}{writer}/{round:06}") };
        let done = shared.put(&door, &key).await;
        if *stopped.borrow() {
            return;
        }
        rest(&shared, done).await;
    }
}

async fn read(shared: Arc<Shared>, door: Door, reader: usize, stopped: watch::Receiver<bool>) {
    for round in reader.. {
        let answered = shared.get(&door, &hot_key(round)).await;
        if *stopped.borrow() {
            return;
        }
        rest(&shared, answered.is_some()).await;
    }
}

/// Waits for the next call: a store that has failed is left alone for a while.
async fn rest(shared: &Shared, answered: bool) {
    let pause = if answered { shared.pause } else { shared.pause.max(PAUSE) };
    if !pause.is_zero() {
        sleep(pause).await;
    }
}

/// Puts and gets one key in turn, and takes note of how long it could not be had.
async fn watch_key(shared: Arc<Shared>, door: Door, key: String, stopped: watch::Receiver<bool>) {
    let mut answered_at = shared.now();
    for round in 0_u64.. {
        let done = if round % 2 == 0 { shared.put(&door, &key).await } else { shared.get(&door, &key).await.is_some() };
        if done {
            let now = shared.now();
            let mut calls = shared.calls();
            calls.made += 1;
            let longest = calls.gaps.entry(key.clone()).or_default();
            *longest = (*longest).max(now.saturating_sub(answered_at));
            answered_at = now;
        }
        if *stopped.borrow() {
            return;
        }
        sleep(shared.pause.max(WATCH_PAUSE)).await;
    }
}

fn hot_key(number: usize) -> String {
    format!("{PREFIX}hot/{}", number % HOT_KEYS)
}

/// What was read; a value that is from no put is from one that does not exist.
fn seen(value: &str, version: Option<u64>) -> Seen {
    let put = value.strip_prefix("put ").and_then(|number| number.parse().ok());
    Seen { put: put.unwrap_or(usize::MAX), version: version.expect("a value comes with its version") }
}
