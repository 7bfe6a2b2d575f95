//! Clients that put and get in a closed loop and write down what they were told, until they are told to stop.
//!
//! One writer and one reader ask each member over plain HTTP, whatever that member has to do for it, and one of each goes
//! through our own client. Half of the puts overwrite a few hot keys that all clients share; the other half make keys
//! that are written once.

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

/// The load on a store.
pub struct Load {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    clients: JoinSet<()>,
    addresses: Vec<String>,
}

struct Shared {
    began: Instant,
    history: Mutex<History>,
    acknowledged: AtomicU64,
    answered_reads: AtomicU64,
}

/// How a client comes to the store.
#[derive(Clone)]
enum Door {
    Member(Http, String),
    Client(Client),
}

impl Load {
    /// Begins.
    pub fn begin(dev: &Dev) -> Self {
        let shared = Arc::new(Shared {
            began: Instant::now(),
            history: Mutex::default(),
            acknowledged: AtomicU64::new(0),
            answered_reads: AtomicU64::new(0),
        });
        let addresses = dev.addresses();
        let client = Client::builder(addresses.clone()).deadline(Duration::from_secs(3)).build();
        let doors = addresses.iter().map(|address| Door::Member(Http::default(), address.clone()));
        let doors = doors.chain([Door::Client(client.expect("the addresses are addresses"))]);
        let (stop, stopped) = watch::channel(false);
        let mut clients = JoinSet::new();
        for (number, door) in doors.enumerate() {
            clients.spawn(write(Arc::clone(&shared), door.clone(), number, stopped.clone()));
            clients.spawn(read(Arc::clone(&shared), door, number, stopped.clone()));
        }
        Self { shared, stop, clients, addresses }
    }

    /// Waits until this many more puts have been acknowledged, and as many reads answered.
    pub async fn more(&self, count: u64) {
        let now = || {
            let acknowledged = self.shared.acknowledged.load(Ordering::Relaxed);
            (acknowledged, self.shared.answered_reads.load(Ordering::Relaxed))
        };
        let (puts, reads) = now();
        until("the store serves on", PATIENCE, async || {
            let (puts_now, reads_now) = now();
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
    pub async fn end(mut self) -> History {
        self.stop.send_replace(true);
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("a client does not panic");
        }
        for address in &self.addresses {
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

    /// Puts once; whether the store did not fail.
    async fn put(&self, door: &Door, key: &str) -> bool {
        let put = self.history().invoke(key, self.now());
        let fate = door.put(key, put).await;
        let now = self.now();
        self.history().settle(put, now, fate);
        let acknowledged = matches!(fate, Fate::Acknowledged(_));
        if acknowledged {
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        acknowledged
    }

    /// Gets once; `None` when the store failed.
    async fn get(&self, door: &Door, key: &str) -> Option<()> {
        let invoked = self.now();
        let seen = door.get(key).await?;
        let returned = self.now();
        self.history().read(key, (invoked, returned), seen, door.name());
        self.answered_reads.fetch_add(1, Ordering::Relaxed);
        Some(())
    }
}

impl Door {
    fn name(&self) -> &str {
        match self {
            Self::Member(_, address) => address,
            Self::Client(_) => "our client",
        }
    }

    async fn put(&self, key: &str, put: usize) -> Fate {
        let value = format!("put {put}");
        match self {
            Self::Member(http, address) => match http.put(address, key, value).await {
                Ok(answer) if matches!(answer.status, 200 | 201 | 204) => {
                    Fate::Acknowledged(answer.version().expect("a put is answered with its version"))
                }
                // These promise that nothing was changed.
                Ok(answer) if matches!(answer.status, 429 | 503) => Fate::Refused,
                Ok(answer) if answer.status == 504 => Fate::Unknown,
                Ok(answer) => panic!("{key}: a put is not answered with {}: {}", answer.status, answer.text()),
                Err(Failure::NotSent(_)) => Fate::Refused,
                Err(Failure::Unknown(_)) => Fate::Unknown,
            },
            Self::Client(client) => match client.put(key, value).await {
                Ok(written) => Fate::Acknowledged(written.version.0),
                Err(Error::Unavailable { .. }) => Fate::Refused,
                Err(Error::OutcomeUnknown { .. }) => Fate::Unknown,
                Err(error) => panic!("{key}: a put does not end with {error}"),
            },
        }
    }

    /// What there is; the outer `None` when the store failed.
    async fn get(&self, key: &str) -> Option<Option<Seen>> {
        match self {
            Self::Member(http, address) => {
                let answer = http.get(address, &format!("/v1/kv/{key}")).await.ok()?;
                match answer.status {
                    200 => Some(Some(seen(&answer.text(), answer.version()))),
                    404 => Some(None),
                    429 | 503 | 504 => None,
                    status => panic!("{key}: a get is not answered with {status}: {}", answer.text()),
                }
            }
            Self::Client(client) => match client.get(key).await {
                Ok(item) => {
                    let text = |item: annulus_client::Item| {
                        (String::from_utf8_lossy(&item.value).into_owned(), item.version.0)
                    };
                    Some(item.map(text).map(|(value, version)| seen(&value, Some(version))))
                }
                Err(Error::Unavailable { .. }) => None,
                Err(error) => panic!("{key}: a get does not end with {error}"),
            },
        }
    }
}

async fn write(shared: Arc<Shared>, door: Door, writer: usize, stopped: watch::Receiver<bool>) {
    for round in 0.. {
        let key = if round % 2 == 0 { hot_key(round / 2 + writer) } else { format!("{PREFIX}{writer}/{round:06}") };
        let done = shared.put(&door, &key).await;
        if *stopped.borrow() {
            return;
        }
        if !done {
            sleep(PAUSE).await;
        }
    }
}

async fn read(shared: Arc<Shared>, door: Door, reader: usize, stopped: watch::Receiver<bool>) {
    for round in reader.. {
        let answered = shared.get(&door, &hot_key(round)).await;
        if *stopped.borrow() {
            return;
        }
        if answered.is_none() {
            sleep(PAUSE).await;
        }
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
