//! Accounts that clients move money between, each transfer a transaction under an id of its own, so that one whose answer was lost
//! can be asked for again. Whoever audits reads all accounts at one moment.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ::http::Method;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{Answer, Http, until};

/// How many accounts there are, and what is in each of them at first.
const ACCOUNTS: u64 = 12;
const OPENING: i64 = 1000;
/// How many clients move money, and how many audit.
const MOVERS: usize = 6;
const AUDITORS: usize = 2;
/// How long a client leaves a store alone that has failed it.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a transfer may take to be settled, whatever was done to the store.
const PATIENCE: Duration = Duration::from_secs(60);

/// The clients of a bank.
pub struct Bank {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    clients: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    addresses: Vec<String>,
    numbers: AtomicU64,
    done: AtomicU64,
    audits: AtomicU64,
    /// By transfer: from where, to where, how much; those that were told to be done.
    transfers: Mutex<BTreeMap<String, (u64, u64, i64)>>,
    /// When an audit was last answered, and the longest time between two.
    answered: Mutex<Option<Instant>>,
    longest_gap: Mutex<Duration>,
}

fn account(number: u64) -> String {
    format!("bank/{number:02}")
}

impl Bank {
    /// Opens the accounts through the members at these client addresses, and begins.
    pub async fn open(addresses: Vec<String>) -> Self {
        let http = Http::default();
        for number in 0..ACCOUNTS {
            let put = http.put(&addresses[0], &account(number), OPENING.to_string()).await.expect("an answer");
            assert_eq!(put.status, 201, "{}", put.text());
        }
        let shared = Arc::new(Shared { addresses, ..Shared::default() });
        let (stop, stopped) = watch::channel(false);
        let mut clients = JoinSet::new();
        for number in 0..MOVERS {
            clients.spawn(move_money(Arc::clone(&shared), number, stopped.clone()));
        }
        for number in 0..AUDITORS {
            clients.spawn(audit(Arc::clone(&shared), number, stopped.clone()));
        }
        Self { shared, stop, clients }
    }

    /// Waits until so many more transfers are done, and some audits were answered.
    pub async fn more(&self, count: u64) {
        let (done, audits) = (self.shared.done.load(Ordering::Relaxed), self.shared.audits.load(Ordering::Relaxed));
        until("the bank goes on", PATIENCE, async || {
            let more = self.shared.done.load(Ordering::Relaxed) >= done + count;
            (more && self.shared.audits.load(Ordering::Relaxed) >= audits + 3).then_some(())
        })
        .await;
    }

    /// The longest time from one answered audit to the next since this was last asked: for so long some account was held, or
    /// had no leader.
    pub fn take_longest_gap(&self) -> Duration {
        std::mem::take(&mut *self.shared.longest_gap.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends it, and holds every account against what was told. Returns how many transfers were done, and how many audits.
    pub async fn close(mut self) -> (u64, u64) {
        self.stop.send_replace(true);
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("no client of the bank panics");
        }
        let http = Http::default();
        let balances = until("the accounts can be read", PATIENCE, async || {
            read_all(&http, &self.shared.addresses[0]).await.map(|accounts| accounts.into_iter().map(|(at, _)| at))
        })
        .await;
        let mut expected = vec![OPENING; usize::try_from(ACCOUNTS).expect("few")];
        let transfers = self.shared.transfers.lock().unwrap_or_else(PoisonError::into_inner);
        for (from, to, amount) in transfers.values() {
            expected[usize::try_from(*from).expect("few")] -= amount;
            expected[usize::try_from(*to).expect("few")] += amount;
        }
        assert_eq!(balances.collect::<Vec<_>>(), expected, "the accounts hold what was told, no more and no less");
        (transfers.len() as u64, self.shared.audits.load(Ordering::Relaxed))
    }
}

/// All balances at one moment, each with its version; `None`: no answer, or a refusal.
async fn read_all(http: &Http, address: &str) -> Option<Vec<(i64, u64)>> {
    let gets: Vec<_> = (0..ACCOUNTS).map(|number| json!({"get": {"key": account(number)}})).collect();
    let answer = transact(http, address, &json!({ "then": gets })).await?;
    if answer.status != 200 {
        assert!(answer.status >= 429 || answer.status == 409, "{} {}", answer.status, answer.text());
        return None;
    }
    let read = |result: &Value| {
        let balance = result["value"].as_str().and_then(|text| text.parse().ok()).expect("an account has a balance");
        (balance, result["version"].as_u64().expect("an account has a version"))
    };
    Some(answer.json()["results"].as_array().expect("results").iter().map(read).collect())
}

async fn transact(http: &Http, address: &str, body: &Value) -> Option<Answer> {
    let headers = [("content-type", "application/json")];
    http.send(Method::POST, address, "/v1/txn?timeout=3s", &headers, body.to_string()).await.ok()
}

async fn audit(shared: Arc<Shared>, number: usize, stopped: watch::Receiver<bool>) {
    let http = Http::default();
    let mut turn = number;
    while !*stopped.borrow() {
        turn += 1;
        let address = &shared.addresses[turn % shared.addresses.len()];
        let Some(accounts) = read_all(&http, address).await else {
            sleep(PAUSE).await;
            continue;
        };
        let total: i64 = accounts.iter().map(|(balance, _)| balance).sum();
        assert_eq!(total, OPENING * i64::try_from(ACCOUNTS).expect("few"), "no money is made or lost: {accounts:?}");
        shared.audits.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let before = shared.answered.lock().unwrap_or_else(PoisonError::into_inner).replace(now);
        let gap = before.map_or(Duration::ZERO, |before| now.saturating_duration_since(before));
        let mut longest = shared.longest_gap.lock().unwrap_or_else(PoisonError::into_inner);
        *longest = (*longest).max(gap);
    }
}

async fn move_money(shared: Arc<Shared>, number: usize, stopped: watch::Receiver<bool>) {
    let http = Http::default();
    let mut turn = number;
    while !*stopped.borrow() {
        turn += 1;
        let address = &shared.addresses[turn % shared.addresses.len()];
        let Some(accounts) = read_all(&http, address).await else {
            sleep(PAUSE).await;
            continue;
        };
        let id = format!("transfer-{}", shared.numbers.fetch_add(1, Ordering::Relaxed));
        let from = (turn as u64 * 7 + number as u64) % ACCOUNTS;
        let to = (from + 1 + turn as u64 % (ACCOUNTS - 1)) % ACCOUNTS;
        let amount = i64::try_from(turn % 17).expect("small");
        let condition = |at: u64| json!({"key": account(at), "version": accounts[at as usize].1});
        let put = |at: u64, change: i64| {
            let balance = (accounts[at as usize].0 + change).to_string();
            json!({"put": {"key": account(at), "value": balance}})
        };
        let body = json!({
            "id": id,
            "if": [condition(from), condition(to)],
            "then": [put(from, -amount), put(to, amount)],
        });
        if settle(&http, &shared.addresses, turn, &body).await {
            let mut transfers = shared.transfers.lock().unwrap_or_else(PoisonError::into_inner);
            transfers.insert(id, (from, to, amount));
            shared.done.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Asks until it is known whether the transfer is done.
async fn settle(http: &Http, addresses: &[String], turn: usize, body: &Value) -> bool {
    let began = Instant::now();
    for attempt in 0.. {
        let address = &addresses[(turn + attempt) % addresses.len()];
        let answer = transact(http, address, body).await;
        match answer.as_ref().map(|answer| answer.status) {
            Some(200) => return answer.expect("just seen").json()["committed"] == true,
            // Nobody knows, or not yet: whoever is asked again by the same id finds out, and does it once.
            Some(409 | 429 | 503 | 504) | None => sleep(PAUSE).await,
            Some(status) => panic!("{status} {}", answer.expect("just seen").text()),
        }
        assert!(began.elapsed() < PATIENCE, "a transfer is not settled within {PATIENCE:?}: {answer:?}");
    }
    unreachable!("it asks for ever, or ends")
}
