//! The load that runs as a pod, as a process' task: what it tells, and what it makes of a store that is well.

use std::time::Duration;

use annulus_tests::processes::{Filling, Http, Phase, Progress, Shape, Store, Verdict, Wish, serve, until};
use tokio::net::TcpListener;

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_load_that_is_asked_over_http_tells_how_it_goes_and_how_it_ended() {
    let mut store = Store::of(3).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a machine has free ports");
    let address = listener.local_addr().expect("a listener has an address").to_string();
    let shape =
        Shape { addresses: store.addresses(&[0]), each_member: false, watches: true, pause: Duration::from_millis(5) };
    tokio::spawn(serve(listener, Wish { shape, filling: Filling { keys: 700, value_bytes: 100 } }));
    let http = Http::default();
    let progress = async || {
        let answer = http.get(&address, "/progress").await.ok()?;
        serde_json::from_slice::<Progress>(&answer.body).ok()
    };

    until("a good part is written and read", PATIENCE, async || {
        progress().await.filter(|it| it.acknowledged > 200 && it.reads > 200 && it.watched_calls > 50)
    })
    .await;
    let before = http.get(&address, "/reset").await.expect("it answers").json();
    assert_eq!((before["phase"].as_str(), before["filled"].as_u64()), (Some("loading"), Some(700)));

    // Whoever knew only a member that has left has learnt of the others.
    store.add_node("node-4", "").await;
    let epoch = store.put(&[1, 2, 3]).await;
    store.until_settled(epoch).await;
    store.end(0).await;
    let now = progress().await.expect("it answers").acknowledged;
    let after = until("it goes on", PATIENCE, async || progress().await.filter(|it| it.acknowledged > now + 100)).await;
    assert_eq!((after.phase, after.failed_again), (Phase::Loading, 0), "{after:?}");

    let verdict = until("it is judged", PATIENCE, async || {
        let answer = http.get(&address, "/stop").await.ok().filter(|answer| answer.status == 200)?;
        serde_json::from_slice::<Verdict>(&answer.body).ok()
    })
    .await;
    assert!(verdict.is_clean(), "{verdict:?}");
    assert_eq!(verdict.filled, 700);
    assert!(verdict.acknowledged as u64 > now, "{verdict:?}");
    assert_eq!(progress().await.expect("it answers").phase, Phase::Ended);
}
