//! Locks under faults: see [`Contest`].

use std::time::{Duration, Instant};

use ::http::Method;
use annulus_tests::processes::{Contest, Dev, Http, tell, until};
use serde_json::json;

/// How long a member is stopped: six times as long as a lease could last.
const PAUSE: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(30);

async fn ended(what: &str, contest: Contest) {
    let (granted, refused) = contest.end().await;
    tell(format!("{what}: {granted} grants, {refused} writes of former holders refused"));
    assert!(refused > 0, "former holders tried to write");
}

#[tokio::test]
async fn nobody_holds_a_lock_with_another_while_members_are_killed() {
    let mut dev = Dev::ready().await;
    let contest = Contest::begin(dev.addresses());
    contest.more(60).await;
    for place in 0..3 {
        let killed = dev.kill(place);
        contest.more(30).await;
        dev.until_back(place, killed).await;
        contest.more(30).await;
    }
    ended("members killed in turn", contest).await;
}

#[tokio::test]
async fn nobody_holds_a_lock_with_another_while_members_are_stopped_for_longer_than_a_lease() {
    let mut dev = Dev::ready().await;
    let contest = Contest::begin(dev.addresses());
    contest.more(60).await;
    for place in 0..3 {
        let stopped_at = Instant::now();
        dev.pause(place);
        until("the stop is long", PATIENCE, async || (stopped_at.elapsed() >= PAUSE).then_some(())).await;
        dev.resume(place);
        contest.more(30).await;
    }
    dev.until_ready().await;
    ended("members stopped in turn", contest).await;
}

/// A client that dies while it waits leaves the queue, so that the lock does not go to nobody.
#[tokio::test]
async fn a_client_that_goes_away_while_it_waits_is_passed_over() {
    let dev = Dev::ready().await;
    let http = Http::default();
    let acquire = |owner: &str, wait_ms: u64| {
        let body = json!({"owner": owner, "ttl_ms": 60_000, "wait_ms": wait_ms}).to_string();
        let (http, address) = (http.clone(), dev.address(0));
        async move { http.send(Method::POST, &address, "/v1/locks/queue", &[], body).await.expect("an answer") }
    };
    let waiting = async || {
        let view = http.get(&dev.address(1), "/v1/locks/queue").await.ok()?;
        (view.status == 200).then(|| view.json()["waiting_count"].as_u64())?
    };
    let first = acquire("first", 0).await.json()["token"].as_u64().expect("a token");
    let gone = tokio::spawn(acquire("gone", 60_000));
    until("it waits", PATIENCE, async || (waiting().await == Some(1)).then_some(())).await;
    let third = tokio::spawn(acquire("third", 60_000));
    until("both wait", PATIENCE, async || (waiting().await == Some(2)).then_some(())).await;
    gone.abort();
    until("one has left", PATIENCE, async || (waiting().await == Some(1)).then_some(())).await;
    let began = Instant::now();
    let path = format!("/v1/locks/queue?token={first}");
    let released = http.send(Method::DELETE, &dev.address(2), &path, &[], "").await.expect("an answer");
    assert_eq!(released.status, 204);
    let granted = third.await.expect("it does not panic");
    assert_eq!((granted.status, granted.json()["owner"].as_str()), (200, Some("third")));
    tell(format!("the next in the queue had the lock {:.1?} after it was given back", began.elapsed()));
}
