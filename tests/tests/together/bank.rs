//! A bank under faults: see [`Bank`].

use std::time::{Duration, Instant};

use ::http::Method;
use annulus_tests::processes::{Bank, Dev, Http, tell, until};

/// How long a member is stopped: six times as long as a lease could last.
const PAUSE: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(30);
/// How long keys may be held by a transaction whose coordinator was killed.
const FREE_WITHIN: Duration = Duration::from_secs(2);

async fn closed(what: &str, bank: Bank) {
    let (transfers, audits) = bank.close().await;
    tell(format!("{what}: {transfers} transfers and {audits} audits, all accounted for"));
}

#[tokio::test]
async fn money_is_kept_while_members_are_killed() {
    let mut dev = Dev::ready().await;
    let bank = Bank::open(dev.addresses()).await;
    bank.more(100).await;
    for place in [0, 1, 2, 0, 1, 2] {
        let killed = dev.kill(place);
        bank.more(30).await;
        dev.until_back(place, killed).await;
        bank.more(30).await;
    }
    closed("members killed in turn", bank).await;
}

#[tokio::test]
async fn money_is_kept_while_everything_is_killed_at_once() {
    let mut dev = Dev::ready().await;
    let bank = Bank::open(dev.addresses()).await;
    for _ in 0..2 {
        bank.more(100).await;
        dev.kill_everything();
        dev.start();
        dev.until_ready().await;
    }
    bank.more(50).await;
    closed("everything killed twice", bank).await;
}

#[tokio::test]
async fn money_is_kept_while_members_are_stopped_for_longer_than_a_lease() {
    let mut dev = Dev::ready().await;
    let bank = Bank::open(dev.addresses()).await;
    bank.more(50).await;
    for place in 0..3 {
        let stopped_at = Instant::now();
        dev.pause(place);
        until("the stop is long", PATIENCE, async || (stopped_at.elapsed() >= PAUSE).then_some(())).await;
        dev.resume(place);
        bank.more(50).await;
    }
    dev.until_ready().await;
    closed("members stopped in turn", bank).await;
}

/// The member that is killed leads nothing: what is held is held by the transactions that it coordinated.
#[tokio::test]
async fn keys_that_a_killed_coordinator_held_are_free_again_soon() {
    let mut dev = Dev::ready().await;
    let members = dev.members();
    let http = Http::default();
    let evict = http.send(Method::POST, &members[2].admin_address, "/admin/v1/leaders/evict?for=60s", &[], "").await;
    assert_eq!(evict.expect("an answer").status, 200);
    let bank = Bank::open(dev.addresses()).await;
    bank.more(100).await;
    bank.take_longest_gap();
    let killed = dev.kill(2);
    bank.more(100).await;
    let gap = bank.take_longest_gap();
    tell(format!("a coordinator was killed: the accounts could not be read for {gap:.2?} at most"));
    assert!(gap <= FREE_WITHIN, "{gap:?}");
    dev.until_back(2, killed).await;
    closed("a coordinator killed", bank).await;
}
