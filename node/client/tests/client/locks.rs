//! What a client does with locks when things go wrong, against nodes that do as they are told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::fake::{CLUSTER, Fake, Seen, Turn, answer, ring, versioned};
use annulus_client::lock::{Lock, Loss, Mode, Scan};
use annulus_client::{Client, Error, PutOptions};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::timeout;

/// Nothing here should take longer, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(30);
const DEADLINE: Duration = Duration::from_secs(2);

fn client(fakes: &[&Fake]) -> Client {
    Client::builder(fakes.iter().map(|fake| fake.address.clone())).deadline(DEADLINE).build().unwrap()
}

/// A grant, or what a renewal is answered.
fn valid(token: u64, valid_ms: u64) -> Value {
    json!({"token": token, "owner": "me", "mode": "exclusive", "ttl_ms": valid_ms, "valid_ms": valid_ms})
}

fn granted(token: u64, valid_ms: u64) -> Turn {
    Turn::Json(200, valid(token, valid_ms))
}

fn refused(status: u16, kind: &str) -> Turn {
    let holder = json!({"token": 6, "owner": "other", "description": "nightly"});
    let kind = format!("https://annulus.dev/problems/{kind}");
    Turn::Json(status, json!({"type": kind, "holder": holder, "waiting": 2}))
}

fn held() -> Turn {
    refused(423, "lock-held")
}

fn not_held() -> Turn {
    refused(409, "lock-not-held")
}

fn body(seen: &Seen) -> Value {
    serde_json::from_slice(&seen.body).unwrap()
}

fn key(seen: &Seen) -> &str {
    &seen.headers.iter().find(|(name, _)| name == "idempotency-key").unwrap().1
}

/// Waits until a condition holds that no event tells of.
async fn until(holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, wait).await.expect("waited too long");
}

async fn lost(lock: &Lock) -> Loss {
    timeout(PATIENCE, lock.lost()).await.expect("it is never lost")
}

#[tokio::test]
async fn a_lock_says_what_it_wants_and_is_given_up_by_its_token() {
    let fake = Fake::start([granted(7, 10_000), answer(204)]).await;
    let request = client(&[&fake]).lock("a/b c").owner("me").description("nightly").shared();
    let lock = request.ttl(Duration::from_secs(10)).wait(Duration::from_secs(10)).acquire().await.unwrap();
    assert_eq!((lock.token(), lock.owner(), lock.mode(), lock.is_held()), (7, "me", Mode::Shared, true));
    assert_eq!(lock.fence().to_string(), "a%2Fb%20c=7");
    lock.release().await.unwrap();
    let seen = fake.seen();
    let mut wish = body(&seen[0]);
    let wait_ms = wish["wait_ms"].take().as_u64().unwrap();
    assert!((9_000..=10_000).contains(&wait_ms), "{wait_ms}");
    let expected =
        json!({"owner": "me", "description": "nightly", "mode": "shared", "ttl_ms": 10_000, "wait_ms": null});
    assert_eq!((seen[0].method.as_str(), seen[0].path.as_str(), wish), ("POST", "/v1/locks/a%2Fb%20c", expected));
    assert_eq!((seen[1].method.as_str(), seen[1].path.as_str()), ("DELETE", "/v1/locks/a%2Fb%20c?token=7"));
}

#[tokio::test]
async fn a_lease_counts_from_when_its_request_was_sent_however_late_it_is_answered() {
    let say = Arc::new(Notify::new());
    let fake = Fake::start([Turn::Late(Arc::clone(&say), valid(7, 100_000))]).await;
    let acquiring = tokio::spawn(client(&[&fake]).lock("l").ttl(Duration::from_secs(100)).acquire());
    until(|| !fake.seen().is_empty()).await;
    // It was sent before this, and is answered a while after.
    let seen = Instant::now();
    until(|| seen.elapsed() > Duration::from_millis(50)).await;
    say.notify_one();
    let lock = acquiring.await.unwrap().unwrap();
    let (left, passed) = (lock.valid_for(), seen.elapsed());
    assert!(left + passed <= Duration::from_secs(99) + Duration::from_millis(5), "{left:?} {passed:?}");
    assert!(left > Duration::from_secs(90), "{left:?}");
}

#[tokio::test]
async fn a_lock_is_asked_for_again_under_the_same_name_when_its_answer_was_lost() {
    for lost in [Turn::Break, answer(504), answer(500), Turn::Answer(200, vec![], "")] {
        let fake = Fake::start([lost.clone(), answer(503), Turn::Break, granted(7, 10_000)]).await;
        let lock = client(&[&fake]).lock("l").acquire().await.unwrap_or_else(|error| panic!("{lost:?} {error}"));
        let seen = fake.seen();
        assert_eq!((lock.token(), seen.len()), (7, 4));
        assert!(seen.iter().all(|one| key(one) == key(&seen[0]) && one.method == "POST"), "{seen:?}");
    }
}

#[tokio::test]
async fn a_wait_outlasts_a_lost_leader_and_says_how_long_is_left() {
    let (one, two) = (Fake::start([Turn::Break]).await, Fake::start([answer(503), granted(7, 10_000)]).await);
    for fake in [&one, &two] {
        fake.set_ring(ring(CLUSTER, 1, &[&one.address, &two.address], 0));
    }
    let client = client(&[&one, &two]);
    client.ring().await.unwrap();
    two.set_ring(ring(CLUSTER, 2, &[&one.address, &two.address], 1));
    one.set_ring(ring(CLUSTER, 2, &[&one.address, &two.address], 1));
    let lock = client.lock("l").wait(Duration::from_secs(10)).acquire().await.unwrap();
    assert_eq!(lock.token(), 7);
    let (first, then) = (&one.seen()[0], two.seen());
    assert!(then.iter().all(|seen| key(seen) == key(first)));
    let wait = |seen: &Seen| body(seen)["wait_ms"].as_u64().unwrap();
    assert!(wait(first) > wait(&then[0]) && wait(&then[0]) > wait(&then[1]), "{first:?} {then:?}");
}

#[tokio::test]
async fn a_lock_that_others_hold_names_them_and_is_not_asked_for_again() {
    let fake = Fake::start([held(), held()]).await;
    let client = client(&[&fake]);
    let error = client.lock("l").acquire().await.unwrap_err();
    let words = "the lock is held by `other` (nightly) with token 6; 2 wait for it";
    assert_eq!((error.kind(), error.to_string().as_str()), ("lock-held", words));
    assert!(matches!(client.lock("l").wait(Duration::from_secs(5)).acquire().await, Err(Error::LockHeld(_))));
    assert_eq!((&body(&fake.seen()[0])["wait_ms"], fake.seen().len()), (&json!(0), 2));
}

#[tokio::test]
async fn who_waits_for_ever_asks_again_when_a_wait_is_over() {
    let fake = Fake::start([held(), refused(429, "lock-queue-full"), granted(8, 10_000)]).await;
    let lock = client(&[&fake]).lock("l").wait_forever().acquire().await.unwrap();
    assert_eq!((lock.token(), &body(&fake.seen()[0])["wait_ms"]), (8, &json!(12_000)));
}

#[tokio::test]
async fn who_waits_for_long_keeps_its_place_by_asking_again_while_the_older_request_still_waits() {
    for newest in [false, true] {
        let say = Arc::new(Notify::new());
        let mut script = [Turn::Hang, Turn::Hang];
        script[usize::from(newest)] = Turn::Late(Arc::clone(&say), valid(7, 10_000));
        let fake = Fake::start(script).await;
        let client = Client::builder([fake.address.clone()]).deadline(Duration::from_millis(500)).build().unwrap();
        let acquiring = tokio::spawn(client.lock("l").wait_forever().acquire());
        until(|| fake.seen().len() == 2).await;
        say.notify_one();
        let lock = timeout(PATIENCE, acquiring).await.unwrap().unwrap().unwrap();
        let seen = fake.seen();
        assert_eq!((lock.token(), key(&seen[0])), (7, key(&seen[1])));
        assert_eq!(fake.rings_told(), 2, "a leader that hangs is found out by asking others");
    }
}

#[tokio::test]
async fn what_became_of_a_wish_is_unknown_when_its_last_answer_was_lost_and_not_otherwise() {
    for (turn, kind) in [(Turn::Break, "outcome-unknown"), (answer(503), "unavailable"), (held(), "lock-held")] {
        let fake = Fake::start([turn.clone()].into_iter().chain(vec![answer(503); 100])).await;
        let client = Client::builder([fake.address.clone()]).deadline(Duration::from_millis(300)).build().unwrap();
        assert_eq!(client.lock("l").acquire().await.unwrap_err().kind(), kind, "{turn:?}");
    }
    let nobody = Client::builder(["127.0.0.1:1"]).deadline(Duration::from_millis(300)).build().unwrap();
    assert_eq!(nobody.lock("l").wait_forever().acquire().await.unwrap_err().kind(), "unavailable");
}

#[tokio::test]
async fn what_the_store_will_never_grant_is_asked_once_and_what_can_not_be_is_not_sent() {
    for (turn, kind) in [(refused(409, "idempotency-conflict"), "conflict"), (refused(422, "invalid-ttl"), "refused")] {
        let fake = Fake::start([turn]).await;
        assert_eq!(client(&[&fake]).lock("l").wait_forever().acquire().await.unwrap_err().kind(), kind);
        assert_eq!(fake.seen().len(), 1);
    }
    let fake = Fake::start([]).await;
    let client = client(&[&fake]);
    let good = || client.lock("l");
    for request in [
        client.lock(""),
        client.lock(vec![b'l'; 513]),
        good().owner(""),
        good().owner("o".repeat(256)),
        good().description("d".repeat(256)),
        good().ttl(Duration::from_millis(499)),
        good().ttl(Duration::from_secs(86_401)),
        good().idempotency_key("with space"),
    ] {
        assert_eq!(request.acquire().await.unwrap_err().kind(), "invalid-option");
    }
    assert_eq!(fake.rings_told(), 0);
}

#[tokio::test]
async fn a_lock_is_renewed_before_its_lease_is_over_through_lost_answers() {
    let fake = Fake::start([granted(7, 900), Turn::Break, answer(503), granted(7, 60_000)]).await;
    let lock = client(&[&fake]).lock("l").ttl(Duration::from_millis(900)).acquire().await.unwrap();
    until(|| lock.valid_for() > Duration::from_secs(30)).await;
    assert!(lock.is_held());
    let seen = fake.seen();
    assert_eq!((seen.len(), body(&seen[3])), (4, json!({"token": 7, "ttl_ms": 900})));
    assert!(seen[1..].iter().all(|seen| seen.path == "/v1/locks/l/renew"));
}

#[tokio::test]
async fn a_lock_is_lost_at_once_when_its_renewal_is_refused() {
    let fake = Fake::start([granted(7, 1500), not_held()]).await;
    let lock = client(&[&fake]).lock("l").ttl(Duration::from_millis(1500)).acquire().await.unwrap();
    let begun = Instant::now();
    assert!(matches!(lost(&lock).await, Loss::Refused(_)));
    assert!(begun.elapsed() < Duration::from_millis(1400) && !lock.is_held() && lock.valid_for().is_zero());
}

#[tokio::test]
async fn a_lock_is_lost_when_its_lease_is_over_and_nobody_has_answered() {
    let fake = Fake::start([granted(7, 500)].into_iter().chain(vec![Turn::Hang; 100])).await;
    let begun = Instant::now();
    let lock = client(&[&fake]).lock("l").ttl(Duration::from_millis(500)).acquire().await.unwrap();
    let loss = lost(&lock).await;
    assert!(begun.elapsed() >= Duration::from_millis(495) && !lock.is_held());
    let Loss::RanOut(Some(trouble)) = loss else { panic!("{loss}") };
    assert!(trouble.contains("no answer in time"), "{trouble}");
}

#[tokio::test]
async fn a_lock_that_is_not_held_when_it_is_given_up_again_was_given_up_the_first_time() {
    let release = async |script: Vec<Turn>| {
        let fake = Fake::start([granted(7, 60_000)].into_iter().chain(script)).await;
        let lock = client(&[&fake]).lock("l").ttl(Duration::from_secs(60)).acquire().await.unwrap();
        lock.release().await.map_err(|error| error.kind())
    };
    assert_eq!(release(vec![answer(503), answer(204)]).await, Ok(()));
    assert_eq!(release(vec![Turn::Break, not_held()]).await, Ok(()));
    assert_eq!(release(vec![answer(504), answer(204)]).await, Ok(()));
    assert_eq!(release(vec![not_held()]).await, Err("lock-not-held"));
    assert_eq!(release(vec![Turn::Break; 100]).await, Err("outcome-unknown"));
    assert_eq!(release(vec![answer(503); 100]).await, Err("unavailable"));
}

#[tokio::test]
async fn a_lock_that_is_dropped_is_given_up_in_the_background() {
    let fake = Fake::start([granted(7, 60_000), answer(204)]).await;
    let lock = client(&[&fake]).lock("l").ttl(Duration::from_secs(60)).acquire().await.unwrap();
    drop(lock);
    until(|| fake.seen().len() == 2).await;
    assert_eq!(fake.seen()[1].path, "/v1/locks/l?token=7");
}

#[tokio::test]
async fn a_write_carries_its_fence_and_a_stale_one_is_told_as_such() {
    let stale = || refused(409, "stale-token");
    let fake = Fake::start([versioned(201, 1), stale(), stale(), Turn::Break, stale()]).await;
    let client = client(&[&fake]);
    let fence = Some("jobs/nightly=7".parse().unwrap());
    let options = PutOptions { fence: fence.clone(), ..PutOptions::default() };
    client.put_with("k", "v", &options).await.unwrap();
    let carried = ("annulus-fence".to_owned(), "jobs%2Fnightly=7".to_owned());
    assert!(fake.seen()[0].headers.contains(&carried));
    assert_eq!(client.put_with("k", "v", &options).await.unwrap_err().kind(), "stale-token");
    let delete = annulus_client::DeleteOptions { fence, ..Default::default() };
    assert!(matches!(client.delete_with("k", &delete).await, Err(Error::StaleToken(_))));
    // Without a name the first attempt may have happened, and the write is not sent again.
    assert_eq!(client.put_with("k", "v", &options).await.unwrap_err().kind(), "outcome-unknown");
    assert_eq!(fake.seen().len(), 4);
}

#[tokio::test]
async fn locks_are_looked_at_one_by_one_and_in_pages() {
    let place = json!({"token": 7, "owner": "me", "description": "", "mode": "shared", "ttl_ms": 10_000, "held_ms": 5,
                       "left_ms": 9000});
    let lock = |name: &str| json!({"name": name, "holders": [place], "waiting": [], "waiting_count": 0});
    let fake = Fake::start([
        Turn::Json(200, lock("a/b")),
        refused(404, "lock-not-found"),
        answer(404),
        Turn::Json(200, json!({"items": [lock("a/b")], "cursor": "c+1"})),
        Turn::Break,
        Turn::Json(200, json!({"items": [lock("a/c")], "cursor": null})),
    ])
    .await;
    let client = client(&[&fake]);
    let view = client.lock_info("a/b").await.unwrap().unwrap();
    assert_eq!((view.holders[0].token, view.holders[0].left), (7, Duration::from_secs(9)));
    assert_eq!(client.lock_info("a/b").await.unwrap(), None);
    assert_eq!(client.lock_info("a/b").await.unwrap_err().kind(), "unexpected-answer");
    let mut pages = client.lock_pages(Scan { prefix: "a/".into(), limit: Some(1), ..Scan::default() });
    let mut names = Vec::new();
    while let Some(page) = pages.next().await.unwrap() {
        names.extend(page.locks.into_iter().map(|lock| lock.name));
    }
    assert_eq!(names, ["a/b", "a/c"]);
    let paths: Vec<String> = fake.seen().into_iter().map(|seen| seen.path).collect();
    assert_eq!((paths[0].as_str(), paths[3].as_str()), ("/v1/locks/a%2Fb", "/v1/locks?prefix=a/&limit=1"));
    assert_eq!(paths[5], "/v1/locks?prefix=a/&limit=1&cursor=c%2B1");
}
