//! An application as its author writes it against the store on its localhost: plain HTTP, one URL, a lock by its name. It counts
//! under the lock, and judges what it sees: what is counted never goes back, no number is counted twice, and tokens only rise.
//!
//! ```text
//!  POST /v1/locks/NAME ─▶ token ─▶ GET NAME ─▶ PUT NAME {n + 1, token}   Annulus-Lock: NAME ─┐
//!        ▲                            ▲        PUT NAME/ledger/n + 1     If-None-Match: *    │
//!        └── the lock is lost: 409 ───┴────────────────────────────────────────◀─────────────┘
//! ```
//!
//! A holder that writes although another one holds the lock counts a number that is there already, and the ledger refuses it.

use std::time::Duration;

use ::http::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::sleep;

use super::{Answer, Http};

/// How long one request for the lock waits. With the 10 s that a sidecar looks for the store beyond that, it is less than [`Http`]
/// waits for an answer.
const WAIT_MS: u64 = 1_000;
/// The pause after something that failed.
const PAUSE: Duration = Duration::from_millis(50);

/// What is counted, as the store has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// How far it has come.
    pub n: u64,
    /// The token under which that was counted.
    pub token: u64,
}

/// Counts.
#[derive(Debug)]
pub struct Counter {
    /// `host:port` of the store on this localhost.
    pub endpoint: String,
    /// The key that is counted at, and the lock's name.
    pub name: String,
    /// The lease.
    pub ttl: Duration,
    /// How long it waits between two counts.
    pub pause: Duration,
    /// After how many counts of its own it is done; 0: never.
    pub times: u64,
}

/// Why a holder stops counting.
enum End {
    /// It is not the holder any more.
    Lost(String),
    /// It saw what can't be.
    Broken(String),
    /// It has counted as often as it was to.
    Done,
}

impl Counter {
    /// Counts until it is done.
    ///
    /// # Errors
    ///
    /// What it saw that can't be.
    pub async fn run(&self) -> Result<(), String> {
        let http = Http::default();
        let (mut seen, mut left) = (Count::default(), self.times);
        loop {
            let Some(token) = self.acquire(&http).await else {
                sleep(PAUSE).await;
                continue;
            };
            println!("{}", json!({"holds": self.name, "token": token}));
            match self.count(&http, token, &mut seen, &mut left).await {
                End::Lost(why) => println!("{}", json!({"lost": self.name, "token": token, "why": why})),
                End::Broken(what) => return Err(what),
                // The lock is left to whoever keeps it.
                End::Done => return Ok(()),
            }
        }
    }

    async fn acquire(&self, http: &Http) -> Option<u64> {
        let wish =
            json!({"ttl_ms": u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX), "wait_ms": WAIT_MS}).to_string();
        let path = format!("/v1/locks/{}", self.name);
        let answer = self.ask(http, Method::POST, &path, &[], &wish).await?;
        if answer.status != 200 {
            if answer.status != 423 {
                println!("{}", json!({"status": answer.status, "says": answer.text()}));
            }
            return None;
        }
        serde_json::from_slice::<serde_json::Value>(&answer.body).ok()?["token"].as_u64()
    }

    async fn count(&self, http: &Http, token: u64, seen: &mut Count, left: &mut u64) -> End {
        let key = format!("/v1/kv/{}", self.name);
        let under_lock = [("annulus-lock", self.name.as_str())];
        loop {
            let Some(now) = self.read(http, &key).await else { continue };
            if now.n < seen.n || now.token < seen.token {
                return End::Broken(format!("it went back from {seen:?} to {now:?}"));
            }
            *seen = now;
            if now.token > token {
                return End::Lost(format!("{now:?} is another's"));
            }
            let next = Count { n: now.n + 1, token };
            let body = json!(next).to_string();
            let Some(put) = self.ask(http, Method::PUT, &key, &under_lock, &body).await else { continue };
            match put.status {
                201 | 204 => {}
                409 => return End::Lost(put.text()),
                _ => {
                    println!("{}", json!({"status": put.status, "says": put.text()}));
                    sleep(PAUSE).await;
                    continue;
                }
            }
            if let Err(broken) = self.write_down(http, next).await {
                return End::Broken(broken);
            }
            if *left == 1 {
                return End::Done;
            }
            *left = left.saturating_sub(1);
            sleep(self.pause).await;
        }
    }

    async fn read(&self, http: &Http, key: &str) -> Option<Count> {
        let answer = self.ask(http, Method::GET, key, &[], "").await?;
        match answer.status {
            200 => serde_json::from_slice(&answer.body).ok(),
            404 => Some(Count::default()),
            status => {
                println!("{}", json!({"status": status, "says": answer.text()}));
                sleep(PAUSE).await;
                None
            }
        }
    }

    /// Each number is in the ledger once. Whoever counted it writes it down until that is answered.
    async fn write_down(&self, http: &Http, count: Count) -> Result<(), String> {
        let path = format!("/v1/kv/{}/ledger/{:08}", self.name, count.n);
        let body = count.token.to_string();
        for attempt in 0.. {
            let Some(put) = self.ask(http, Method::PUT, &path, &[("if-none-match", "*")], &body).await else {
                continue;
            };
            match put.status {
                201 => return Ok(()),
                // The first attempt may have done it.
                412 if attempt > 0 && self.is_ours(http, &path, &body).await => return Ok(()),
                412 => return Err(format!("{count:?} was counted twice")),
                status => {
                    println!("{}", json!({"status": status, "says": put.text()}));
                    sleep(PAUSE).await;
                }
            }
        }
        Ok(())
    }

    async fn is_ours(&self, http: &Http, path: &str, body: &str) -> bool {
        self.ask(http, Method::GET, path, &[], "").await.is_some_and(|answer| answer.text() == body)
    }

    async fn ask(
        &self,
        http: &Http,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Option<Answer> {
        match http.send(method, &self.endpoint, path, headers, body.to_owned()).await {
            Ok(answer) => Some(answer),
            Err(failure) => {
                println!("{}", json!({"path": path, "failed": failure.to_string()}));
                sleep(PAUSE).await;
                None
            }
        }
    }
}
