//! Members are killed, stopped and cut short under load. Each test ends with a look at everything that any client was told:
//! nothing that was acknowledged is lost, no read is stale, and every member tells the same.

use std::time::{Duration, Instant};

use annulus_client::{Client, MemberId};
use annulus_tests::processes::{Dev, History, Http, Load, tell, until};

/// How long a new leader may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a member is stopped: six times as long as a lease could last.
const PAUSE: Duration = Duration::from_secs(3);

fn assert_true(what: &str, history: &History) {
    assert_eq!(history.violations(), []);
    let (acknowledged, unknown) = history.counts();
    tell(format!("{what}: {acknowledged} writes acknowledged, {unknown} of unknown fate, all accounted for"));
}

#[tokio::test]
async fn members_killed_under_load_come_back_and_nothing_acknowledged_is_lost() {
    let mut dev = Dev::ready().await;
    let load = Load::begin(&dev);
    load.more(200).await;
    for place in 0..3 {
        let killed = dev.kill(place);
        load.more(100).await;
        dev.until_back(place, killed).await;
        load.more(100).await;
    }
    assert_true("three members killed in turn", &load.end().await);
    assert!(dev.output().contains("node-1 (pid "), "dev says who died: {}", dev.output());
}

#[tokio::test]
async fn everything_killed_at_once_under_load_starts_again_with_all_that_was_acknowledged() {
    let mut dev = Dev::ready().await;
    let load = Load::begin(&dev);
    for _ in 0..2 {
        load.more(300).await;
        dev.kill_everything();
        dev.start();
        dev.until_ready().await;
    }
    load.more(100).await;
    assert_true("everything killed twice", &load.end().await);
}

/// The stopped member wakes up as a leader who knows of nothing, with questions waiting at its door.
#[tokio::test]
async fn a_leader_that_wakes_from_a_long_stop_answers_no_read_from_the_past() {
    let mut dev = Dev::ready().await;
    let mut load = Load::begin(&dev);
    load.more(200).await;
    let (place, led) = leader_of_most(&dev).await;
    let member = dev.members().swap_remove(place);
    let id = member.id.parse().expect("dev.json has member ids");

    let stopped_at = Instant::now();
    dev.pause(place);
    let other = dev.address((place + 1) % 3);
    until("others lead what the stopped member led", PATIENCE, async || {
        (led_by(&other, id).await == Some(0)).then_some(())
    })
    .await;
    load.more(200).await;
    until("the stop is long", PATIENCE, async || (stopped_at.elapsed() >= PAUSE).then_some(())).await;
    let http = Http::default();
    for key in Load::hot_keys().iter().cycle().take(64) {
        load.ask(&http, &member.client_address, key);
    }
    // A put that begins after these questions is answered before they are: then they have all been sent.
    load.more(20).await;
    dev.resume(place);
    load.more(200).await;
    dev.until_ready().await;
    assert_true(&format!("a leader of {led} hot keys stopped for {PAUSE:?}"), &load.end().await);
}

/// Its connections stay open, and nothing comes on them.
#[tokio::test]
async fn a_member_that_hangs_is_passed_by_whoever_is_asked() {
    let mut dev = Dev::new().await;
    dev.set_members(5);
    dev.start();
    dev.until_ready().await;
    let http = Http::default();
    let keys: Vec<String> = (0..64).map(|number| format!("key-{number}")).collect();
    for key in &keys {
        let put = http.put(&dev.address(0), key, "value").await.expect("an answer");
        assert_eq!(put.status, 201, "{}", put.text());
    }
    dev.pause(4);
    let began = Instant::now();
    for place in 0..4 {
        for key in &keys {
            let path = format!("/v1/kv/{key}?timeout=1s");
            until("every key is read through every member", PATIENCE, async || {
                let got = http.get(&dev.address(place), &path).await.ok()?;
                (got.status == 200).then_some(())
            })
            .await;
        }
    }
    let took = began.elapsed();
    tell(format!("with one of five members stopped all keys were read through each of the others within {took:.1?}"));
    assert!(took < PATIENCE, "{took:?}");
    dev.resume(4);
    dev.until_ready().await;
}

/// The place of the member that leads most of the hot keys, and how many it leads.
async fn leader_of_most(dev: &Dev) -> (usize, usize) {
    let mut leaders = Vec::new();
    for (place, member) in dev.members().iter().enumerate() {
        let id = member.id.parse().expect("dev.json has member ids");
        let led = until("hot keys have leaders", PATIENCE, async || led_by(&member.client_address, id).await).await;
        leaders.push((led, place));
    }
    let (led, place) = leaders.into_iter().max().expect("there are members");
    assert!(led > 0, "somebody leads {:?}", Load::hot_keys());
    (place, led)
}

/// How many hot keys `leader` leads, as the member at `address` knows it; `None` while it knows no leader for one of them.
async fn led_by(address: &str, leader: MemberId) -> Option<usize> {
    let client = Client::builder([address]).build().expect("the address is one");
    let ring = client.ring().await.ok()?;
    let leaders = Load::hot_keys().into_iter().map(|key| ring.assignment_of(key.as_bytes()).leader);
    let leaders = leaders.collect::<Option<Vec<_>>>()?;
    Some(leaders.into_iter().filter(|id| *id == leader).count())
}
