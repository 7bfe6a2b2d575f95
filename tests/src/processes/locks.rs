//! Clients that fight for locks, each write of a holder under its token. Some are slow to notice that their lease is over: their
//! writes must not get through once a later holder has written.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ::http::Method;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{Http, until};

/// How many locks there are, and how many clients fight for each.
const LOCKS: usize = 3;
const CLIENTS: usize = 4;
/// The lease of a lock.
const TTL: Duration = Duration::from_millis(1500);
/// How long a client waits for a lock before it asks again.
const WAIT: Duration = Duration::from_secs(5);
/// How long a client leaves a store alone that has failed it.
const PAUSE: Duration = Duration::from_millis(20);
/// How long the locks may be out of reach, whatever was done to the store.
const PATIENCE: Duration = Duration::from_secs(60);

/// The clients of some locks.
pub struct Contest {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    clients: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    addresses: Vec<String>,
    granted: AtomicU64,
    refused: AtomicU64,
    /// By lock: every write that was acknowledged, by the version that it made and the token that it carried.
    writes: Vec<Mutex<Vec<(u64, u64)>>>,
    /// By lock: from when to when a holder was sure to hold it, and its token. Whoever hears of its grant when the lease is over never
    /// was: its answer may have waited in a stopped member until another one held the lock.
    held: Vec<Mutex<Vec<(Instant, Instant, u64)>>>,
}

impl Contest {
    /// Begins, through the members at these client addresses.
    pub fn begin(addresses: Vec<String>) -> Self {
        let lists = || (0..LOCKS).map(|_| Mutex::default()).collect();
        let shared = Arc::new(Shared {
            addresses,
            writes: lists(),
            held: (0..LOCKS).map(|_| Mutex::default()).collect(),
            ..Shared::default()
        });
        let (stop, stopped) = watch::channel(false);
        let mut clients = JoinSet::new();
        for number in 0..LOCKS * CLIENTS {
            clients.spawn(compete(Arc::clone(&shared), number, stopped.clone()));
        }
        Self { shared, stop, clients }
    }

    /// Waits until locks were granted so many times more.
    pub async fn more(&self, count: u64) {
        let granted = self.shared.granted.load(Ordering::Relaxed);
        until("locks are granted", PATIENCE, async || {
            (self.shared.granted.load(Ordering::Relaxed) >= granted + count).then_some(())
        })
        .await;
    }

    /// Ends it and judges what was seen. Returns how often a lock was granted, and how many writes of former holders were
    /// refused.
    pub async fn end(mut self) -> (u64, u64) {
        self.stop.send_replace(true);
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("no client of a lock panics");
        }
        for lock in 0..LOCKS {
            let mut writes = self.shared.writes[lock].lock().unwrap_or_else(PoisonError::into_inner);
            writes.sort_unstable();
            let falls = writes.windows(2).find(|pair| pair[0].1 > pair[1].1);
            assert_eq!(falls, None, "lock {lock}: a write with an older token came after one with a newer");
            let mut held = self.shared.held[lock].lock().unwrap_or_else(PoisonError::into_inner);
            held.sort_unstable();
            let overlap = held.windows(2).find(|pair| pair[0].1 > pair[1].0);
            assert_eq!(overlap, None, "lock {lock}: two were sure to hold it at the same time");
            let tokens = held.windows(2).find(|pair| pair[0].2 >= pair[1].2);
            assert_eq!(tokens, None, "lock {lock}: tokens rise from holder to holder");
        }
        (self.shared.granted.load(Ordering::Relaxed), self.shared.refused.load(Ordering::Relaxed))
    }
}

async fn compete(shared: Arc<Shared>, number: usize, stopped: watch::Receiver<bool>) {
    let http = Http::default();
    let lock = number % LOCKS;
    let mut turn = number;
    while !*stopped.borrow() {
        turn += 1;
        let Some((token, sure_until, granted_at)) = acquire(&shared, &http, lock, number, turn).await else {
            sleep(PAUSE).await;
            continue;
        };
        shared.granted.fetch_add(1, Ordering::Relaxed);
        // One in five is stopped until its lease is long over, and goes on as if nothing had been.
        let is_slow = turn.is_multiple_of(5);
        write(&shared, &http, lock, token, turn).await;
        let released_at = if is_slow {
            sleep(TTL * 2).await;
            for _ in 0..3 {
                write(&shared, &http, lock, token, turn).await;
            }
            sure_until
        } else {
            let released_at = Instant::now().min(sure_until);
            let path = format!("/v1/locks/contest-{lock}?token={token}");
            // If nobody answers, the lease ends by itself.
            let address = &shared.addresses[turn % shared.addresses.len()];
            let _ = http.send(Method::DELETE, address, &path, &[], "").await;
            released_at
        };
        if granted_at < sure_until {
            shared.held[lock].lock().unwrap_or_else(PoisonError::into_inner).push((granted_at, released_at, token));
        }
    }
}

/// The token, until when the lease lasts for sure, and when the grant was heard of.
async fn acquire(
    shared: &Shared,
    http: &Http,
    lock: usize,
    number: usize,
    turn: usize,
) -> Option<(u64, Instant, Instant)> {
    let name = format!("wish-{number}-{turn}");
    let wait_ms = if turn.is_multiple_of(3) { 0 } else { WAIT.as_millis() };
    let body = json!({"owner": format!("client-{number}"), "ttl_ms": TTL.as_millis(), "wait_ms": wait_ms});
    let path = format!("/v1/locks/contest-{lock}?timeout=2s");
    for attempt in 0..4 {
        let address = &shared.addresses[(turn + attempt) % shared.addresses.len()];
        let sent = Instant::now();
        let headers = [("content-type", "application/json"), ("idempotency-key", name.as_str())];
        let Ok(answer) = http.send(Method::POST, address, &path, &headers, body.to_string()).await else { continue };
        match answer.status {
            200 => {
                let answer = answer.json();
                let token = answer["token"].as_u64().expect("a token");
                let valid = Duration::from_millis(answer["valid_ms"].as_u64().expect("how long it is valid"));
                return Some((token, sent + valid, Instant::now()));
            }
            423 => return None,
            429 | 503 | 504 => sleep(PAUSE).await,
            status => panic!("{status} {}", answer.text()),
        }
    }
    None
}

async fn write(shared: &Shared, http: &Http, lock: usize, token: u64, turn: usize) {
    let fence = format!("contest-{lock}={token}");
    let path = format!("/v1/kv/contest/{lock}?timeout=2s");
    let address = &shared.addresses[turn % shared.addresses.len()];
    let headers = [("annulus-fence", fence.as_str())];
    let Ok(answer) = http.send(Method::PUT, address, &path, &headers, token.to_string()).await else { return };
    match answer.status {
        201 | 204 => {
            let version = answer.version().expect("a version");
            shared.writes[lock].lock().unwrap_or_else(PoisonError::into_inner).push((version, token));
        }
        409 => drop(shared.refused.fetch_add(1, Ordering::Relaxed)),
        429 | 503 | 504 => {}
        status => panic!("{status} {}", answer.text()),
    }
}
