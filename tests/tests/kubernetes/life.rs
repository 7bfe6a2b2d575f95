//! A store's life under load: nobody who asks it has to know of any of it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use annulus_tests::processes::tell;
use serde_json::{Value, json};

use crate::cluster::{Cluster, IMAGE, OTHER_IMAGE, PATIENCE, condition, list, number, text};
use crate::kubernetes::{SYSTEM, that_can_run};
use crate::load::Load;
use crate::scenario::Scenario;
use crate::wait::{holds, until};

/// The bar for a new store of three, from the request on; what is asserted is [`CREATE_BOUND`], for slow machines.
const CREATE_TARGET: Duration = Duration::from_secs(15);
const CREATE_BOUND: Duration = Duration::from_secs(60);
/// How many keys it is filled with.
const KEYS: usize = 10_000;
/// How long replicas may take to move, with pods that start and stop.
const MOVE_PATIENCE: Duration = Duration::from_secs(180);
/// How many moves are left in the middle of a change, at least.
const MIDDLE: i64 = 4;

#[tokio::test]
async fn a_store_is_made_filled_grown_shrunk_turned_back_rolled_and_mended_under_load() {
    let Some(scenario) = Scenario::begin("life").await else { return };
    let demo = scenario.cluster("demo");
    create(&demo).await;
    let load = Load::begin(&demo, KEYS).await;
    grow(&demo, &load).await;
    turn_back(&demo, &load).await;
    shrink_while_the_operator_is_killed(&demo, &load).await;
    roll(&demo, &load).await;
    roll_to_an_image_that_is_not_there(&demo, &load).await;
    lose_a_volume(&demo, &load).await;
    load.end().await;
    scenario.end().await;
}

async fn create(demo: &Cluster<'_>) {
    let began = Instant::now();
    // Moves that take some seconds, so that there is a middle of them.
    demo.create(3, &json!({"settings": {"maxMoveRate": "1MiB"}})).await;
    let resource = demo.until("it is available", PATIENCE, |it| condition(it, "Available").0 == "True").await;
    let took = began.elapsed();
    demo.scenario.tell("three members are available, of a target of 15 s", began);
    assert!(took <= CREATE_BOUND, "it took {took:?}");
    if took > CREATE_TARGET {
        tell(format!("the target of {CREATE_TARGET:?} was missed"));
    }
    demo.until_settled(3, PATIENCE).await;
    let zones = |values: &[Value], pointer: &str| {
        let zones = values.iter().map(|it| text(it, pointer).to_owned());
        zones.filter(|zone| !zone.is_empty()).collect::<BTreeSet<_>>()
    };
    let nodes = demo.scenario.kubernetes.get("/api/v1/nodes").await.expect("nodes are listed");
    let there = zones(&that_can_run(&nodes), "/metadata/labels/topology.kubernetes.io~1zone");
    let used = zones(list(&resource, "/status/members"), "/zone");
    tell(format!("zones: {used:?} of {there:?}"));
    assert_eq!(used.len(), there.len().min(3), "members are in different zones as far as there are any");
}

async fn grow(demo: &Cluster<'_>, load: &Load<'_>) {
    let began = Instant::now();
    demo.scale(5).await;
    demo.until_settled(5, MOVE_PATIENCE).await;
    demo.scenario.tell("three grew to five", began);
    load.undisturbed("three grew to five").await;
}

/// Waits until the store is in the middle of a change.
async fn middle(demo: &Cluster<'_>, members: i64) -> Value {
    demo.until("it is in the middle of its moves", MOVE_PATIENCE, |resource| {
        let is_heard = number(resource, "/status/observedGeneration") == number(resource, "/metadata/generation");
        let moves_left = number(resource, "/status/plan/movesLeft");
        is_heard && moves_left >= MIDDLE && number(resource, "/spec/replicas") == members
    })
    .await
}

/// Who was told to leave turns back, and nobody new is made.
async fn turn_back(demo: &Cluster<'_>, load: &Load<'_>) {
    let (pods, began) = (demo.pods_now().await, Instant::now());
    demo.scale(3).await;
    let resource = middle(demo, 3).await;
    tell(format!("turned back with {} moves left", number(&resource, "/status/plan/movesLeft")));
    demo.scale(5).await;
    demo.until_settled(5, MOVE_PATIENCE).await;
    demo.scenario.tell("five began to shrink and turned back", began);
    assert_eq!(demo.pods_now().await, pods, "whoever turned back is the same pod as before");
    load.undisturbed("five began to shrink and turned back").await;
}

/// The next operator goes on from what there is.
async fn shrink_while_the_operator_is_killed(demo: &Cluster<'_>, load: &Load<'_>) {
    let began = Instant::now();
    demo.scale(3).await;
    middle(demo, 3).await;
    let selector = ["--selector", "app.kubernetes.io/name=annulus-operator", "--namespace", SYSTEM];
    let words: Vec<&str> = ["delete", "pod", "--grace-period=0", "--force"].into_iter().chain(selector).collect();
    demo.scenario.kubernetes.kubectl(&words, "").await;
    demo.until_settled(3, MOVE_PATIENCE).await;
    demo.scenario.tell("five shrank to three while the operator was killed", began);
    let names = demo.names().await;
    assert_eq!(names.len(), 3);
    let what = "nothing is left of those that have left";
    until(what, PATIENCE, async || {
        let volumes = demo.volumes().await?;
        holds(volumes == names, || format!("volumes {volumes:?}, members {names:?}"))
    })
    .await;
    load.undisturbed("five shrank to three while the operator was killed").await;
}

async fn roll(demo: &Cluster<'_>, load: &Load<'_>) {
    let (before, began) = (demo.pods_now().await, Instant::now());
    demo.change(&json!({"image": OTHER_IMAGE})).await;
    let mut most_missing = 0;
    until("every pod runs the other image", MOVE_PATIENCE, async || {
        let pods = demo.pods().await?;
        most_missing = most_missing.max(3_usize.saturating_sub(pods.iter().filter(|pod| pod.is_ready).count()));
        let is_done = pods.len() == 3 && pods.iter().all(|pod| pod.image == OTHER_IMAGE);
        holds(is_done, || format!("{pods:#?}"))
    })
    .await;
    demo.until_settled(3, MOVE_PATIENCE).await;
    demo.scenario.tell("all members were rolled", began);
    assert!(most_missing <= 1, "{most_missing} members were missing at once");
    let after = demo.pods_now().await;
    assert!(before.iter().zip(&after).all(|(old, new)| old.name == new.name && old.uid != new.uid), "{after:#?}");
    load.undisturbed("all members were rolled").await;
}

/// It stops at the first, says what to do, and is mended by the image that was there.
async fn roll_to_an_image_that_is_not_there(demo: &Cluster<'_>, load: &Load<'_>) {
    let began = Instant::now();
    demo.change(&json!({"image": "annulus/node:there-is-none"})).await;
    let resource = demo
        .until("it says that the image can't be had", MOVE_PATIENCE, |it| {
            condition(it, "Degraded").2.contains("correct spec.image")
        })
        .await;
    let pods = demo.pods_now().await;
    let stuck: Vec<&str> = pods.iter().filter(|pod| !pod.is_ready).map(|pod| pod.name.as_str()).collect();
    assert_eq!(stuck.len(), 1, "the roll stops at the first: {pods:#?}");
    let message = condition(&resource, "Degraded").2;
    assert!(message.contains(stuck[0]), "{message} names {stuck:?}");
    assert_eq!(condition(&resource, "Available").0, "True");
    demo.change(&json!({"image": IMAGE})).await;
    demo.until_settled(3, MOVE_PATIENCE).await;
    demo.scenario.tell("a roll that stopped was mended", began);
    load.undisturbed("a roll that stopped was mended").await;
}

/// A volume that goes takes its member with it: another takes its place.
async fn lose_a_volume(demo: &Cluster<'_>, load: &Load<'_>) {
    let began = Instant::now();
    let before = demo.names().await;
    let victim = before.first().expect("it has members");
    let words = ["delete", "persistentvolumeclaim", victim, "--wait=false", "--namespace", &demo.scenario.namespace];
    demo.scenario.kubernetes.kubectl(&words, "").await;
    until("another member takes its place", MOVE_PATIENCE, async || {
        let names: BTreeSet<String> = demo.pods().await?.into_iter().map(|pod| pod.name).collect();
        holds(names.len() == 3 && !names.contains(victim), || format!("{names:?} without {victim}"))
    })
    .await;
    demo.until_settled(3, MOVE_PATIENCE).await;
    demo.scenario.tell("a member that had lost its volume was replaced", began);
    let after = demo.names().await;
    assert_eq!(before.intersection(&after).count(), 2, "the others stay: {before:?}, {after:?}");
    load.undisturbed("a member that had lost its volume was replaced").await;
}
