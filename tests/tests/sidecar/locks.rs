//! Locks that a sidecar keeps.

use std::time::{Duration, Instant};

use ::http::Method;
use annulus_tests::processes::{Answer, Dev, Http, Sidecar, annulus, problem, tell, until};
use serde_json::{Value, json};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(30);

/// What an application does.
struct Application<'a> {
    http: Http,
    sidecar: &'a Sidecar,
}

impl Application<'_> {
    async fn lock(&self, name: &str, ttl_ms: u64) -> u64 {
        let body = json!({"ttl_ms": ttl_ms}).to_string();
        let answer = self.ask(Method::POST, &format!("/v1/locks/{name}"), &[], body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["token"].as_u64().expect("a token")
    }

    async fn write(&self, key: &str, lock: &str, value: &str) -> Answer {
        self.ask(Method::PUT, &format!("/v1/kv/{key}"), &[("annulus-lock", lock)], value.to_owned()).await
    }

    async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)], body: String) -> Answer {
        self.http.send(method, &self.sidecar.address(), path, headers, body).await.expect("an answer")
    }
}

fn of(sidecar: &Sidecar) -> Application<'_> {
    Application { http: Http::default(), sidecar }
}

/// Who holds a lock, as a member says.
async fn holder(dev: &Dev, name: &str) -> Option<Value> {
    let answer = Http::default().get(&dev.address(2), &format!("/v1/locks/{name}")).await.ok()?;
    (answer.status == 200).then(|| answer.json()["holders"][0].clone())
}

/// Waits until so much time has passed.
async fn pass(time: Duration) {
    let until_then = Instant::now() + time;
    until("time passes", PATIENCE, async || (Instant::now() >= until_then).then_some(())).await;
}

#[tokio::test]
async fn locks_are_kept_beyond_their_leases_and_over_the_death_of_every_member() {
    let mut dev = Dev::ready().await;
    let sidecar = Sidecar::of(dev.addresses(), "pod-1").await;
    let application = of(&sidecar);
    let mut tokens = Vec::new();
    for lock in 0..20 {
        tokens.push(application.lock(&format!("kept-{lock}"), 4000).await);
    }
    let version = async |lock: usize, value: &str| {
        let answer = application.write(&format!("under-{lock}"), &format!("kept-{lock}"), value).await;
        assert!(matches!(answer.status, 201 | 204), "{}: {}", answer.status, answer.text());
    };
    pass(Duration::from_secs(5)).await;
    for place in 0..3 {
        let killed = dev.kill(place);
        for lock in 0..20 {
            version(lock, "while it is dead").await;
        }
        pass(Duration::from_secs(5)).await;
        dev.until_back(place, killed).await;
    }
    for (lock, token) in tokens.iter().enumerate() {
        version(lock, "at the end").await;
        let holder = holder(&dev, &format!("kept-{lock}")).await.expect("it is held");
        assert_eq!((&holder["token"], &holder["owner"]), (&json!(token), &json!("pod-1")));
    }
    let metrics = Http::default().get(&sidecar.status_address(), "/metrics").await.expect("an answer").text();
    assert!(
        metrics.contains("annulus_sidecar_locks_held 20") && metrics.contains("annulus_sidecar_locks_lost_total 0")
    );
}

#[tokio::test]
async fn who_stood_still_for_longer_than_the_lease_is_told_that_the_lock_is_lost_and_writes_nothing() {
    let dev = Dev::ready().await;
    let sidecar = Sidecar::of(dev.addresses(), "pod-1").await;
    let application = of(&sidecar);
    let token = application.lock("mine", 1000).await;
    assert_eq!(application.write("result", "mine", "first").await.status, 201);
    sidecar.pause();
    let body = json!({"owner": "another", "ttl_ms": 60_000, "wait_ms": 20_000}).to_string();
    let http = Http::default();
    let taken = http.send(Method::POST, &dev.address(1), "/v1/locks/mine", &[], body).await.expect("an answer");
    let newer = taken.json()["token"].as_u64().expect("the lease of who stands still ends");
    assert!(newer > token);
    let fence = format!("mine={newer}");
    let headers = [("annulus-fence", fence.as_str())];
    let written =
        http.send(Method::PUT, &dev.address(1), "/v1/kv/result", &headers, "second").await.expect("an answer");
    assert_eq!(written.status, 204);
    sidecar.resume();
    let refused = application.write("result", "mine", "third").await;
    assert_eq!((refused.status, problem(&refused).as_str()), (409, "lock-lost"), "{}", refused.text());
    let told = refused.json();
    assert_eq!((&told["lock"], &told["token"]), (&json!("mine"), &json!(token)));
    assert!(told["lost_ms_ago"].is_u64() && told["why"].as_str().is_some_and(|why| !why.is_empty()), "{told}");
    let txn = json!({"then": [{"put": {"key": "result", "value": "third"}}]}).to_string();
    let refused = application.ask(Method::POST, "/v1/txn", &[("annulus-lock", "mine")], txn).await;
    assert_eq!((refused.status, problem(&refused).as_str()), (409, "lock-lost"));
    assert_eq!(http.get(&dev.address(0), "/v1/kv/result").await.expect("an answer").text(), "second");
}

#[tokio::test]
async fn a_write_names_a_lock_that_is_held_here_or_is_refused() {
    let dev = Dev::ready().await;
    let sidecar = Sidecar::of(dev.addresses(), "pod-1").await;
    let application = of(&sidecar);
    let refused = application.write("k", "a%2Fb", "x").await;
    assert_eq!((refused.status, problem(&refused).as_str()), (409, "lock-not-held"));
    let token = application.lock("a%2Fb", 60_000).await;
    assert_eq!(application.write("k", "a%2Fb", "x").await.status, 201);
    let both = [("annulus-lock", "a%2Fb"), ("annulus-fence", "a%2Fb=1")];
    let put = async |headers: &[(&str, &str)]| application.ask(Method::PUT, "/v1/kv/k", headers, "x".to_owned()).await;
    for headers in [&both[..], &[("annulus-lock", "%zz")], &[("annulus-lock", "a"), ("annulus-lock", "b")]] {
        let refused = put(headers).await;
        assert_eq!((refused.status, problem(&refused).as_str()), (400, "invalid-header"), "{headers:?}");
    }
    assert_eq!(problem(&put(&[("annulus-lock", "")]).await), "invalid-lock-name");
    let read = application.ask(Method::GET, "/v1/kv/k", &[("annulus-lock", "a%2Fb")], String::new()).await;
    assert_eq!(problem(&read), "invalid-header");
    let body = json!({"token": token, "ttl_ms": 90_000}).to_string();
    assert_eq!(application.ask(Method::POST, "/v1/locks/a%2Fb/renew", &[], body).await.status, 200);
    let kept = Http::default().get(&sidecar.status_address(), "/sidecar/locks").await.expect("an answer").json();
    assert_eq!(kept["locks"][0]["ttl_ms"], 90_000, "the application's renewal counts");
    let path = format!("/v1/locks/a%2Fb?token={token}");
    assert_eq!(application.ask(Method::DELETE, &path, &[], String::new()).await.status, 204);
    let refused = application.write("k", "a%2Fb", "x").await;
    assert_eq!((refused.status, problem(&refused).as_str()), (409, "lock-not-held"), "it was given up");
    assert!(holder(&dev, "a%2Fb").await.is_none());
}

#[tokio::test]
async fn a_sidecar_that_is_killed_comes_back_with_its_locks_or_knows_that_they_are_lost() {
    let dev = Dev::ready().await;
    let mut sidecar = Sidecar::of(dev.addresses(), "pod-1").await;
    let (kept, lost) = (of(&sidecar).lock("kept", 20_000).await, of(&sidecar).lock("lost", 20_000).await);
    sidecar.kill();
    let http = Http::default();
    let path = format!("/v1/locks/lost?token={lost}");
    assert_eq!(http.send(Method::DELETE, &dev.address(0), &path, &[], "").await.expect("an answer").status, 204);
    sidecar.start();
    sidecar.until_healthy().await;
    assert_eq!(of(&sidecar).write("k", "kept", "x").await.status, 201, "it waits until the store has said so");
    let refused = of(&sidecar).write("k", "lost", "y").await;
    assert_eq!((refused.status, problem(&refused).as_str()), (409, "lock-lost"));
    assert_eq!(holder(&dev, "kept").await.expect("it is held")["token"], kept);
    sidecar.kill();
    std::fs::write(sidecar.state(), "{").expect("the file can be written");
    sidecar.start();
    sidecar.until_healthy().await;
    let refused = of(&sidecar).write("k", "kept", "z").await;
    assert_eq!((refused.status, problem(&refused).as_str()), (409, "lock-not-held"), "nothing is said to be held");
    assert!(sidecar.log().contains("can't be read"));
}

#[tokio::test]
async fn when_it_is_told_to_end_it_gives_up_its_locks_and_the_next_has_them_at_once() {
    let dev = Dev::ready().await;
    let mut sidecar = Sidecar::of(dev.addresses(), "pod-1").await;
    for lock in 0..50 {
        of(&sidecar).lock(&format!("l{lock}"), 60_000).await;
    }
    let next = Sidecar::of(dev.addresses(), "pod-2").await;
    let body = json!({"ttl_ms": 60_000, "wait_ms": 60_000}).to_string();
    let (http, address) = (Http::default(), next.address());
    let waiting = tokio::spawn(async move { http.send(Method::POST, &address, "/v1/locks/l7", &[], body).await });
    let waits = async || {
        let view = Http::default().get(&dev.address(0), "/v1/locks/l7").await.ok()?;
        (view.json()["waiting_count"] == 1).then_some(())
    };
    until("the next one waits", PATIENCE, waits).await;
    // One of its own that waits in the sidecar that ends: it is told so at once.
    let (http, address) = (Http::default(), sidecar.address());
    let body = json!({"owner": "worker", "ttl_ms": 60_000, "wait_ms": 60_000}).to_string();
    let own = tokio::spawn(async move { http.send(Method::POST, &address, "/v1/locks/l7", &[], body).await });
    let both_wait = async || {
        let view = Http::default().get(&dev.address(0), "/v1/locks/l7").await.ok()?;
        (view.json()["waiting_count"] == 2).then_some(())
    };
    until("its own application waits", PATIENCE, both_wait).await;
    let began = Instant::now();
    sidecar.terminate();
    let granted = waiting.await.expect("it does not panic").expect("an answer");
    let took = began.elapsed();
    assert_eq!((granted.status, &granted.json()["owner"]), (200, &json!("pod-2")));
    assert_eq!(own.await.expect("it does not panic").expect("an answer").status, 503);
    assert!(sidecar.until_ended().await.success());
    tell(format!("of 50 locks of a sidecar that was told to end, the next one had his after {took:.1?}"));
    assert!(took < Duration::from_secs(1), "{took:?}");
    for lock in (0..50).filter(|lock| *lock != 7) {
        assert!(holder(&dev, &format!("l{lock}")).await.is_none(), "l{lock}");
    }
    assert!(
        !std::fs::read_to_string(sidecar.state()).expect("it is there").contains("l1"),
        "the file names none any more"
    );
}

#[tokio::test]
async fn an_application_that_goes_away_while_it_waits_leaves_the_queue() {
    let dev = Dev::ready().await;
    let sidecar = Sidecar::of(dev.addresses(), "pod-1").await;
    of(&sidecar).lock("queue", 60_000).await;
    let body = json!({"owner": "worker", "ttl_ms": 60_000, "wait_ms": 60_000}).to_string();
    let (http, address) = (Http::default(), sidecar.address());
    let waiting = tokio::spawn(async move { http.send(Method::POST, &address, "/v1/locks/queue", &[], body).await });
    let count = async |expected: u64| {
        let is_so = async || {
            let view = Http::default().get(&dev.address(0), "/v1/locks/queue").await.ok()?;
            (view.json()["waiting_count"] == expected).then_some(())
        };
        until("so many wait", PATIENCE, is_so).await;
    };
    count(1).await;
    waiting.abort();
    count(0).await;
}

#[tokio::test]
async fn an_application_that_is_started_again_has_what_its_pod_holds_and_another_owner_waits() {
    let dev = Dev::ready().await;
    let sidecar = Sidecar::of(dev.addresses(), "pod-1").await;
    let application = of(&sidecar);
    let token = application.lock("a", 60_000).await;
    assert_eq!(application.lock("a", 30_000).await, token, "whoever asks for the pod has it");
    let (owner, ttl_ms) = {
        let held = holder(&dev, "a").await.expect("it is held");
        (held["owner"].clone(), held["ttl_ms"].clone())
    };
    assert_eq!((owner, ttl_ms), (json!("pod-1"), json!(30_000)), "with the lease that was asked for last");
    for wish in [json!({"ttl_ms": 1000, "owner": "pod-1/worker"}), json!({"ttl_ms": 1000, "mode": "shared"})] {
        let asked = application.ask(Method::POST, "/v1/locks/a", &[], wish.to_string()).await;
        assert_eq!((asked.status, problem(&asked).as_str()), (423, "lock-held"), "{wish}");
    }
    // Lost behind its back: the next request takes the lock anew, and is no echo of what was.
    let path = format!("/v1/locks/a?token={token}");
    let released = Http::default().send(Method::DELETE, &dev.address(1), &path, &[], "").await.expect("an answer");
    assert_eq!(released.status, 204);
    assert!(application.lock("a", 30_000).await > token);
}

#[tokio::test]
async fn locks_of_a_store_that_was_made_anew_are_lost_and_the_sidecar_ends_to_serve_the_new_one() {
    let mut dev = Dev::ready().await;
    let mut sidecar = Sidecar::of(dev.addresses(), "pod-1").await;
    of(&sidecar).lock("a", 60_000).await;
    dev.interrupt(PATIENCE).await;
    std::fs::remove_dir_all(dev.data()).expect("its data can be removed");
    dev.start();
    dev.until_ready().await;
    // In a store that is as new as the other was, the token may well be the same.
    let (http, wish) = (Http::default(), json!({"owner": "pod-2", "ttl_ms": 60_000}).to_string());
    let taken = http.send(Method::POST, &dev.address(0), "/v1/locks/a", &[], wish).await.expect("an answer");
    assert_eq!(taken.status, 200, "{}", taken.text());
    let put = http.send(Method::PUT, &sidecar.address(), "/v1/kv/k", &[("annulus-lock", "a")], "x").await;
    // It may have found out by a renewal, and ended.
    assert!(put.is_err() || put.is_ok_and(|answer| answer.status >= 400));
    assert!(!sidecar.until_ended().await.success(), "whoever runs it starts it again");
    sidecar.start();
    sidecar.until_healthy().await;
    assert_eq!(of(&sidecar).write("k", "a", "x").await.status, 409);
    assert_eq!(holder(&dev, "a").await.expect("it is held")["owner"], "pod-2");
    of(&sidecar).lock("b", 60_000).await;
    assert_eq!(
        of(&sidecar).write("k", "b", "x").await.status,
        201,
        "it serves the new store, which has nothing of the old one"
    );
}

#[tokio::test]
async fn a_file_of_locks_is_one_sidecars_and_of_one_store() {
    let dev = Dev::ready().await;
    let mut sidecar = Sidecar::of(dev.addresses(), "pod-1").await;
    of(&sidecar).lock("a", 60_000).await;
    let state = sidecar.state();
    let second = tokio::process::Command::from(annulus())
        .args(["sidecar", "--listen", "127.0.0.1:0", "--endpoint", &dev.address(0), "--state"])
        .arg(&state)
        .output();
    let second = timeout(PATIENCE, second).await.expect("it ends").expect("it can be started");
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && said.contains("another sidecar keeps its locks there"), "{said}");
    sidecar.kill();
    let text = std::fs::read_to_string(&state).expect("it is there");
    let mut file: Value = serde_json::from_str(&text).expect("it is JSON");
    file["cluster"] = json!("00010203-0405-0607-0809-0a0b0c0d0e0f");
    std::fs::write(&state, file.to_string()).expect("the file can be written");
    sidecar.start();
    sidecar.until_healthy().await;
    let refused = of(&sidecar).write("k", "a", "x").await;
    assert_eq!((refused.status, problem(&refused).as_str()), (409, "lock-lost"));
    assert!(refused.text().contains("it was taken of store 00010203"), "{}", refused.text());
}

#[tokio::test]
async fn what_stands_for_the_pod_is_not_what_one_of_its_processes_holds() {
    let dev = Dev::ready().await;
    let sidecar = Sidecar::of(dev.addresses(), "pod-1").await;
    let application = of(&sidecar);
    let wish = json!({"owner": "worker", "ttl_ms": 60_000}).to_string();
    assert_eq!(application.ask(Method::POST, "/v1/locks/a", &[], wish).await.status, 200);
    let refused = application.write("k", "a", "x").await;
    assert_eq!((refused.status, problem(&refused).as_str()), (409, "lock-not-held"));
    assert!(refused.text().contains("owner `worker`"), "{}", refused.text());
    let wish = application.ask(Method::POST, "/v1/locks/b", &[], json!({"ttl_ms": 10}).to_string()).await;
    assert!(wish.status == 422 || wish.status == 400, "{}", wish.text());
    assert!(wish.text().contains("ttl") && !wish.text().contains("missing"), "{}", wish.text());
}

#[tokio::test]
async fn as_many_locks_are_kept_as_may_be_and_one_more_is_refused_until_there_is_room() {
    const MOST: usize = 1024;
    let dev = Dev::ready().await;
    let mut sidecar = Sidecar::of(dev.addresses(), "pod-1").await;
    let ask = async |name: String| {
        let body = json!({"ttl_ms": 6000}).to_string();
        of(&sidecar).ask(Method::POST, &format!("/v1/locks/{name}"), &[], body).await
    };
    let mut first = 0;
    for lock in 0..MOST {
        let answer = ask(format!("many-{lock}")).await;
        assert_eq!(answer.status, 200, "{lock}: {}", answer.text());
        first = if lock == 0 { answer.json()["token"].as_u64().expect("a token") } else { first };
    }
    let refused = ask("one-more".to_owned()).await;
    assert_eq!((refused.status, problem(&refused).as_str()), (429, "too-many-locks"), "{}", refused.text());
    assert!(refused.text().contains("1024"), "it names the limit: {}", refused.text());
    assert!(holder(&dev, "one-more").await.is_none(), "nobody holds what nobody was given");
    // Longer than their lease: all of them are renewed, in as many requests as it takes.
    pass(Duration::from_secs(8)).await;
    let path = format!("/v1/locks/many-0?token={first}");
    assert_eq!(of(&sidecar).ask(Method::DELETE, &path, &[], String::new()).await.status, 204);
    assert_eq!(ask("one-more".to_owned()).await.status, 200);
    // The file names all of them to the next process.
    sidecar.kill();
    sidecar.start();
    sidecar.until_healthy().await;
    let kept = Http::default().get(&sidecar.status_address(), "/sidecar/locks").await.expect("an answer").json();
    assert_eq!(kept["locks"].as_array().map(Vec::len), Some(MOST));
    pass(Duration::from_secs(8)).await;
    let last = of(&sidecar).write("k", &format!("many-{}", MOST - 1), "x").await;
    assert_eq!(last.status, 201, "{}", last.text());
    sidecar.terminate();
    assert!(sidecar.until_ended().await.success());
    assert!(holder(&dev, "many-1").await.is_none() && holder(&dev, "many-1023").await.is_none());
}
