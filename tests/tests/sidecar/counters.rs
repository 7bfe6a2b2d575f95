//! Three applications that count under one lock, each beside a sidecar of its own, while sidecars and members stand still and die. And that
//! whoever judges them would see it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ::http::{Method, Request, Response};
use annulus_tests::processes::{Count, Counter, Dev, Http, Sidecar, tell, until};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

const NAME: &str = "counted";
const TTL: Duration = Duration::from_secs(2);
/// How long a sidecar stands still: longer than a lease.
const STILL: Duration = Duration::from_secs(4);
/// How long counting may rest, whatever was done: a lease, and what it takes to find a leader.
const PATIENCE: Duration = Duration::from_secs(30);

async fn counted(dev: &Dev) -> Option<Count> {
    for address in dev.addresses() {
        let Ok(answer) = Http::default().get(&address, &format!("/v1/kv/{NAME}")).await else { continue };
        if answer.status == 200 {
            return serde_json::from_slice(&answer.body).ok();
        }
    }
    None
}

/// Waits until it is counted on.
async fn counts_on(dev: &Dev) -> Count {
    let before = until("it is counted", PATIENCE, async || counted(dev).await).await;
    until("it is counted on", PATIENCE, async || counted(dev).await.filter(|now| now.n > before.n + 5)).await
}

/// Waits until it is counted by a later holder than this one.
async fn another_counts(dev: &Dev, before: &Count) {
    until("another one counts", PATIENCE, async || counted(dev).await.filter(|now| now.token > before.token)).await;
    counts_on(dev).await;
}

/// Which sidecar keeps the lock.
async fn keeper(sidecars: &[Sidecar]) -> usize {
    until("a sidecar keeps the lock", PATIENCE, async || {
        for (place, sidecar) in sidecars.iter().enumerate() {
            let Ok(kept) = Http::default().get(&sidecar.status_address(), "/sidecar/locks").await else { continue };
            if kept.json()["locks"].as_array().is_some_and(|locks| !locks.is_empty()) {
                return Some(place);
            }
        }
        None
    })
    .await
}

fn counter(endpoint: String) -> Counter {
    Counter { endpoint, name: NAME.to_owned(), ttl: TTL, pause: Duration::from_millis(10), times: 0 }
}

#[tokio::test]
async fn whatever_dies_or_stands_still_no_number_is_counted_twice() {
    let mut dev = Dev::ready().await;
    let mut sidecars = Vec::new();
    for pod in ["pod-1", "pod-2", "pod-3"] {
        sidecars.push(Sidecar::of(dev.addresses(), pod).await);
    }
    let mut applications = JoinSet::new();
    for sidecar in &sidecars {
        let counter = counter(sidecar.address());
        applications.spawn(async move { counter.run().await });
    }
    sidecars_stand_still_and_die(&dev, &mut sidecars).await;
    for place in 0..3 {
        let killed = dev.kill(place);
        counts_on(&dev).await;
        dev.until_back(place, killed).await;
        dev.pause(place);
        counts_on(&dev).await;
        dev.resume(place);
    }
    if let Some(broken) = applications.try_join_next() {
        panic!("{broken:?}");
    }
    let last = counts_on(&dev).await;
    applications.shutdown().await;
    judge_ledger(&dev, last).await;
    tell(format!("counted to {} under tokens up to {}", last.n, last.token));
}

async fn sidecars_stand_still_and_die(dev: &Dev, sidecars: &mut [Sidecar]) {
    // The one that keeps the lock stands still for longer than the lease, and goes on as if nothing had been.
    let before = counts_on(dev).await;
    let still = keeper(sidecars).await;
    sidecars[still].pause();
    let stopped_at = Instant::now();
    another_counts(dev, &before).await;
    until("the stop is long", PATIENCE, async || (stopped_at.elapsed() >= STILL).then_some(())).await;
    sidecars[still].resume();
    counts_on(dev).await;

    // It is killed and comes back with the lock.
    let killed = keeper(sidecars).await;
    sidecars[killed].kill();
    sidecars[killed].start();
    let before = counts_on(dev).await;

    // It ends as with its pod, and another takes over.
    let ended = keeper(sidecars).await;
    sidecars[ended].terminate();
    assert!(sidecars[ended].until_ended().await.success());
    another_counts(dev, &before).await;
    sidecars[ended].start();
}

/// Tokens only rise from number to number, and hardly any number is missing.
async fn judge_ledger(dev: &Dev, last: Count) {
    let entry = async |number: u64| {
        let path = format!("/v1/kv/{NAME}/ledger/{number:08}");
        let answer = Http::default().get(&dev.address(0), &path).await.expect("an answer");
        (answer.status == 200).then(|| answer.text().parse().expect("a token"))
    };
    let (mut before, mut holes) = (0, 0);
    for number in 1..=last.n {
        let Some(token) = entry(number).await else {
            holes += 1;
            continue;
        };
        assert!(token >= before, "{number} was counted under {token}, after {before}");
        before = token;
    }
    // What a sidecar had counted when it died or ended, and could not tell its application; and what was counted last.
    assert!(holes <= 3, "{holes} numbers are not in the ledger");
}

/// Where an application is told whatever the closure says, by method, path and how many requests there were before.
async fn told(says: impl Fn(&Method, &str, u64) -> (u16, String) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound").to_string();
    let (says, asked) = (Arc::new(says), Arc::new(AtomicU64::new(0)));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (says, asked) = (Arc::clone(&says), Arc::clone(&asked));
            let service = service_fn(move |request: Request<Incoming>| {
                let number = asked.fetch_add(1, Ordering::Relaxed);
                let (status, body) = says(request.method(), request.uri().path(), number);
                let response = Response::builder().status(status).body(body).expect("a status");
                async move { Ok::<_, Infallible>(response) }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

#[tokio::test]
async fn an_application_says_what_can_not_be() {
    let lock = |method: &Method, path: &str| (method == Method::POST && path.starts_with("/v1/locks/")).then_some(());
    let token = || (200, json!({"token": 7}).to_string());
    let count = |n: u64, token: u64| (200, json!({"n": n, "token": token}).to_string());

    let went_back = told(move |method, path, number| match lock(method, path) {
        Some(()) => token(),
        None if method == Method::GET => count(100 - number, 7),
        None => (201, String::new()),
    });
    let broken = counter(went_back.await).run().await.expect_err("it sees it");
    assert!(broken.contains("it went back"), "{broken}");

    let counted_twice = told(move |method, path, _| match lock(method, path) {
        Some(()) => token(),
        // What another one has written down.
        None if path.contains("/ledger/") && method == Method::GET => (200, "6".to_owned()),
        None if path.contains("/ledger/") => (412, String::new()),
        None if method == Method::GET => count(3, 7),
        None => (204, String::new()),
    });
    let broken = counter(counted_twice.await).run().await.expect_err("it sees it");
    assert!(broken.contains("counted twice"), "{broken}");
}
