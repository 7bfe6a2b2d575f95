//! `annulus dev` makes a store larger and smaller from one start to the next.

use std::fs;
use std::time::Duration;

use annulus_client::admin::Plan;
use annulus_tests::processes::{Dev, Http, Load, until};
use serde_json::Value;

/// How long the ring may take to settle.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long after Ctrl-C everything has to be over.
const END_PATIENCE: Duration = Duration::from_secs(15);

/// Waits until this many members are all that there are, and hold what they should.
async fn until_settled(dev: &Dev, members: usize) -> Plan {
    let (http, admin) = (Http::default(), format!("127.0.0.1:{}", dev.client_port() + 100));
    until("the ring settles with whom it should have", PATIENCE, async || {
        let answer = http.get(&admin, "/admin/v1/plan").await.ok().filter(|answer| answer.status == 200)?;
        let plan: Plan = serde_json::from_slice(&answer.body).expect("a plan can be read");
        (plan.settled && plan.members.len() == members && dev.members().len() == members).then_some(plan)
    })
    .await
}

async fn start_again(dev: &mut Dev, members: u16) {
    assert!(dev.interrupt(END_PATIENCE).await.success(), "{}", dev.output());
    dev.set_members(members);
    dev.start();
}

#[tokio::test]
async fn a_store_grows_and_shrinks_from_one_start_to_the_next() {
    let mut dev = Dev::ready().await;
    let load = Load::begin(&dev);
    load.more(100).await;
    start_again(&mut dev, 5).await;
    until_settled(&dev, 5).await;
    dev.until_ready().await;
    load.more(100).await;
    let four = dev.members().swap_remove(3);
    until("dev says that the ring has settled", PATIENCE, async || {
        dev.output().contains("The ring has settled").then_some(())
    })
    .await;

    start_again(&mut dev, 3).await;
    until_settled(&dev, 3).await;
    load.more(100).await;
    let left = dev.data().join("node-4").join(format!("left-{}", four.id));
    assert!(left.join("identity").exists(), "its volume is put aside");
    assert!(!four.data.exists());
    // Larger once more: the volume that was put aside is not used.
    start_again(&mut dev, 4).await;
    until_settled(&dev, 4).await;
    assert_ne!(dev.members()[3].id, four.id);
    load.more(100).await;
    assert_eq!(load.end().await.violations(), []);
}

#[tokio::test]
async fn zones_are_given_at_a_later_start() {
    let mut dev = Dev::ready().await;
    dev.set_zones(&["a", "b", "c"]);
    start_again(&mut dev, 4).await;
    let plan = until_settled(&dev, 4).await;
    let mut zones: Vec<(String, String)> = plan.members.into_iter().map(|member| (member.name, member.zone)).collect();
    zones.sort();
    let expected = [("node-1", "a"), ("node-2", "b"), ("node-3", "c"), ("node-4", "a")];
    assert_eq!(zones, expected.map(|(name, zone)| (name.to_owned(), zone.to_owned())));
    let ring = Http::default().get(&dev.address(0), "/v1/ring").await.expect("it answers").json();
    let ids: Vec<String> = dev.members().into_iter().map(|member| member.id).collect();
    for assignment in ring["assignments"].as_array().expect("a ring") {
        let held = |place: usize| {
            assignment["replicas"].as_array().is_some_and(|held| held.contains(&Value::from(&*ids[place])))
        };
        assert!(held(1) && held(2) && held(0) != held(3), "a replica in each zone: {assignment}");
    }
}

#[tokio::test]
async fn a_growth_that_is_cut_short_goes_on_at_the_next_start() {
    let mut dev = Dev::ready().await;
    let load = Load::begin(&dev);
    load.more(200).await;
    start_again(&mut dev, 5).await;
    let (http, admin) = (Http::default(), format!("127.0.0.1:{}", dev.client_port() + 100));
    until("moves are under way", PATIENCE, async || {
        let plan = http.get(&admin, "/admin/v1/plan").await.ok().filter(|answer| answer.status == 200)?.json();
        (plan["moves_under_way"].as_u64() > Some(0)).then_some(())
    })
    .await;
    start_again(&mut dev, 5).await;
    until_settled(&dev, 5).await;
    dev.until_ready().await;
    load.more(100).await;
    assert_eq!(load.end().await.violations(), []);
}

#[tokio::test]
async fn a_member_whose_data_was_deleted_comes_back_as_a_new_one() {
    let mut dev = Dev::ready().await;
    let load = Load::begin(&dev);
    load.more(100).await;
    let old = dev.members().swap_remove(1);
    assert!(dev.interrupt(END_PATIENCE).await.success());
    fs::remove_dir_all(&old.data).expect("it can be deleted");
    dev.start();
    dev.until_ready().await;
    let plan = until_settled(&dev, 3).await;
    let new = dev.members().swap_remove(1);
    assert!(new.id != old.id && plan.members.iter().any(|member| member.id.to_string() == new.id));
    load.more(100).await;
    assert_eq!(load.end().await.violations(), []);
}
