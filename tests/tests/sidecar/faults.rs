//! Members die while an application works, which has nothing but the sidecar.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ::http::Method;
use annulus_tests::processes::{Dev, Http, Sidecar, tell, until};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(60);

/// One application: it counts in a key of its own, and moves each count to another key in a transaction. Every request must
/// succeed, and nothing that was acknowledged may be gone.
async fn work(http: Http, address: String, name: String, stop: Arc<AtomicBool>, done: Arc<AtomicU64>) -> Duration {
    let mut longest = Duration::ZERO;
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        count += 1;
        let began = Instant::now();
        let put = http.put(&address, &format!("{name}/a"), format!("{count}")).await.expect("an answer");
        assert!(matches!(put.status, 201 | 204), "{}: {}", put.status, put.text());
        let got = http.get(&address, &format!("/v1/kv/{name}/a")).await.expect("an answer");
        assert_eq!((got.status, got.text()), (200, format!("{count}")));
        let txn = json!({
            "if": [{"key": format!("{name}/a"), "value": format!("{count}")}],
            "then": [{"put": {"key": format!("{name}/b"), "value": format!("{count}")}}],
        });
        let moved = http.send(Method::POST, &address, "/v1/txn", &[], txn.to_string()).await.expect("an answer");
        assert_eq!((moved.status, &moved.json()["committed"]), (200, &json!(true)), "{}", moved.text());
        longest = longest.max(began.elapsed());
        done.fetch_add(1, Ordering::Relaxed);
    }
    longest
}

#[tokio::test]
async fn an_application_notices_nothing_but_a_delay_when_each_member_is_killed_in_turn() {
    let mut dev = Dev::ready().await;
    let sidecar = Sidecar::of(dev.addresses(), "pod-1").await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let workers: Vec<_> = (0..8)
        .map(|worker| {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            tokio::spawn(work(Http::default(), sidecar.address(), format!("worker-{worker}"), stop, done))
        })
        .collect();
    let more = async |rounds: u64| {
        let from = done.load(Ordering::Relaxed);
        let is_done = async || {
            assert!(workers.iter().all(|worker| !worker.is_finished()), "every request succeeds");
            (done.load(Ordering::Relaxed) >= from + rounds).then_some(())
        };
        until("the application goes on", PATIENCE, is_done).await;
    };
    more(50).await;
    for place in 0..3 {
        let killed = dev.kill(place);
        more(50).await;
        dev.until_back(place, killed).await;
        more(50).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut longest = Duration::ZERO;
    for worker in workers {
        longest = longest.max(worker.await.expect("every request succeeds"));
    }
    let done = done.load(Ordering::Relaxed);
    tell(format!(
        "three members killed in turn: {done} rounds of three requests, none failed, the longest took {longest:.1?}"
    ));
}

#[tokio::test]
async fn a_store_that_is_gone_is_an_answer_in_the_time_that_was_asked_for() {
    let mut dev = Dev::ready().await;
    let sidecar = Sidecar::of(dev.addresses(), "pod-1").await;
    let http = Http::default();
    http.put(&sidecar.address(), "a", "x").await.expect("an answer");
    dev.kill_everything();
    let began = Instant::now();
    let get = http.get(&sidecar.address(), "/v1/kv/a?timeout=500ms").await.expect("an answer");
    let took = began.elapsed();
    assert_eq!((get.status, get.header("retry-after")), (503, "1"), "{}", get.text());
    assert!(get.json()["type"].as_str().is_some_and(|kind| kind.ends_with("/no-leader")), "{}", get.text());
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert_eq!(http.get(&sidecar.address(), "/healthz").await.expect("an answer").status, 200);
    let is_not_ready = async || {
        let ready = http.get(&sidecar.status_address(), "/readyz").await.expect("an answer");
        (ready.status == 503).then_some(())
    };
    until("it says that it is not ready", PATIENCE, is_not_ready).await;
    dev.start();
    dev.until_ready().await;
    let is_back = async || (http.get(&sidecar.address(), "/v1/kv/a").await.ok()?.status == 200).then_some(());
    until("the store is back", PATIENCE, is_back).await;
}
