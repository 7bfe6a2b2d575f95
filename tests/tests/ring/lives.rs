//! What can become of a member beside joining and leaving in peace.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use annulus_client::MemberState;
use annulus_client::admin::{Plan, PlannedMember};
use annulus_tests::processes::{Load, Store, until};
use http::Method;
use serde_json::{Value, json};

/// How long what is not a move may take.
const PATIENCE: Duration = Duration::from_secs(30);

fn named<'a>(plan: &'a Plan, name: &str) -> Vec<&'a PlannedMember> {
    plan.members.iter().filter(|member| member.name == name).collect()
}

#[tokio::test]
async fn a_member_is_drained_in_mid_move_and_taken_back_and_one_that_leaves_may_come_back() {
    let mut store = Store::slow(4).await;
    let load = Load::on(store.addresses(&[0, 1, 2, 3]));
    load.more(100).await;
    store.add_node("node-5", "").await;
    let all = [0, 1, 2, 3, 4];
    let epoch = store.put(&all).await;
    let moves = store.plan(epoch).await.moves_left;
    let plan = store.until_moves_left(epoch, moves / 2).await;
    assert!(!plan.settled, "this should have been in mid-move");
    let epoch = store.drain("node-2").await;
    let plan = store.until_settled(epoch).await;
    let [drained] = named(&plan, "node-2")[..] else { panic!("it stays a member: {plan:?}") };
    assert_eq!((drained.state, drained.replicas, drained.leads), (MemberState::Draining, 0, 0));
    assert_eq!(store.drain("node-2").await, plan.epoch, "it is drained already");
    store.until_balanced(&[0, 2, 3, 4]).await;

    let epoch = store.undrain("node-2").await;
    let plan = store.plan(epoch).await;
    let epoch = store.drain("node-3").await;
    store.until_moves_left(epoch, plan.moves_left / 2).await;
    let epoch = store.undrain("node-3").await;
    store.until_settled(epoch).await;
    store.until_balanced(&all).await;

    let epoch = store.put(&[0, 1, 2, 3]).await;
    let moves = store.plan(epoch).await.moves_left;
    let plan = store.until_moves_left(epoch, moves / 2).await;
    let [leaving] = named(&plan, "node-5")[..] else { panic!("this should have been in mid-move: {plan:?}") };
    assert_eq!(leaving.state, MemberState::Leaving);
    let epoch = store.put(&all).await;
    let plan = store.until_settled(epoch).await;
    assert!(plan.members.len() == 5 && plan.members.iter().all(|member| member.state == MemberState::Active));
    store.until_balanced(&all).await;
    store.check_filling(1).await;
    load.more(100).await;
    assert_eq!(load.end().await.violations(), []);
}

#[tokio::test]
async fn a_dead_member_is_replaced_by_one_of_its_name_and_its_old_volume_changes_nothing() {
    let mut store = Store::slow(3).await;
    let load = Load::on(store.addresses(&[0, 1]));
    load.more(100).await;
    store.kill(2);
    let new = store.add_node("node-3", "").await;
    let epoch = store.put(&[0, 1, new]).await;
    let plan = store.until_settled(epoch).await;
    let [member] = named(&plan, "node-3")[..] else { panic!("one has that name: {plan:?}") };
    assert_eq!((plan.members.len(), member.id.to_string()), (3, store.spec(new).id.clone()));
    store.until_ready(new).await;
    load.more(100).await;

    let epoch = store.plan(0).await.epoch;
    store.start(2);
    store.until_known(2).await;
    until("the old volume's node says that it was removed", PATIENCE, async || {
        store.ready_text(2).await.contains("this member was removed from its store").then_some(())
    })
    .await;
    assert!(store.log(2).contains("this member was removed from its store"), "its log says so too");
    until("it gives up what it held", PATIENCE, async || (store.replicas(2).await == Some(0)).then_some(())).await;
    load.more(200).await;
    let plan = store.plan(epoch).await;
    assert_eq!((plan.epoch, plan.settled, plan.members.len()), (epoch, true, 3));
    store.check_filling(new).await;
    assert_eq!(load.end_at(&store.addresses(&[0, 1, new])).await.violations(), []);
}

#[tokio::test]
async fn a_member_whose_volume_was_emptied_joins_as_another_in_its_own_place() {
    let mut store = Store::slow(3).await;
    let load = Load::on(store.addresses(&[0, 1, 2]));
    load.more(100).await;
    let old = store.spec(1).id.clone();
    store.kill(1);
    fs::remove_dir_all(store.data(1)).expect("a volume can be emptied");
    comes_back_as_another(&mut store, 1, &old).await;
    load.more(100).await;
    assert_eq!(load.end().await.violations(), []);
}

#[tokio::test]
async fn a_damaged_volume_is_set_aside_when_it_should_be_and_its_member_comes_back_as_another() {
    let mut store = Store::slow(3).await;
    let load = Load::on(store.addresses(&[0, 1, 2]));
    load.more(100).await;
    let old = store.spec(2).id.clone();
    store.end(2).await;
    flip_bits(&store.data(2).join("lane-0/state.redb"));

    // By itself it only refuses to start.
    store.start(2);
    assert!(!store.until_ended(2).await.success());
    assert!(!store.data(2).join("quarantine-1").exists() && !store.data(2).join("damaged").exists());

    store.set_environment(2, &[("ANNULUS_ON_DAMAGE", "quarantine")]);
    store.start(2);
    assert!(!store.until_ended(2).await.success());
    assert!(store.data(2).join("damaged").exists(), "the next start is told");
    comes_back_as_another(&mut store, 2, &old).await;
    assert!(store.data(2).join("quarantine-1/lane-0/state.redb").exists(), "nothing was deleted");
    load.more(100).await;
    assert_eq!(load.end().await.violations(), []);
}

/// Starts a member that has lost its volume, and lets it take its own place under its new id.
async fn comes_back_as_another(store: &mut Store, place: usize, old: &str) {
    store.start(place);
    store.until_known(place).await;
    let (new, name) = (store.spec(place).id.clone(), store.spec(place).name.clone());
    assert_ne!(new, old, "an empty volume is somebody else");
    let answer = store.change(Method::PUT, "/admin/v1/members", None, &store.members(&[0, 1, 2])).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let changed = answer.json();
    assert_eq!((&changed["joined"], &changed["leaving"]), (&json!([new]), &json!([old])));
    let plan = store.until_settled(changed["epoch"].as_u64().expect("it has an epoch")).await;
    let [member] = named(&plan, &name)[..] else { panic!("one has that name: {plan:?}") };
    assert_eq!((plan.members.len(), member.id.to_string(), member.replicas), (3, new, 129));
    store.until_ready(place).await;
    store.check_filling(place).await;
}

/// Flips a bit in each kilobyte of a file.
fn flip_bits(path: &Path) {
    let bytes = fs::read(path).expect("the file is there");
    let mut file = File::options().write(true).open(path).expect("the file can be written");
    for at in (100..bytes.len()).step_by(1024) {
        file.seek(SeekFrom::Start(at as u64)).expect("it is that long");
        file.write_all(&[bytes[at] ^ 0x10]).expect("the file can be written");
    }
    file.sync_all().expect("the file can be written");
}

#[tokio::test]
async fn a_member_that_changes_its_ports_keeps_all_that_it_holds() {
    let mut store = Store::of(3).await;
    let load = Load::on(store.addresses(&[0, 1]));
    load.more(100).await;
    let before = store.plan(0).await;
    assert!(before.settled);
    let held = |ring: &Value| -> Vec<Value> {
        ring["assignments"].as_array().expect("a ring").iter().map(|one| one["replicas"].clone()).collect()
    };
    let ring = held(&store.ring_json(0).await);
    store.end(2).await;
    store.change_ports(2);
    store.start(2);
    store.until_known(2).await;
    let answer = store.change(Method::PUT, "/admin/v1/members", None, &store.members(&[0, 1, 2])).await;
    let changed = answer.json();
    let lists = (&changed["joined"], &changed["leaving"], &changed["updated"]);
    assert_eq!(lists, (&json!([]), &json!([]), &json!([store.spec(2).id])), "{changed}");
    assert_eq!(changed["epoch"], before.epoch + 1);
    store.until_ready(2).await;
    let plan = store.until_settled(before.epoch + 1).await;
    assert_eq!((plan.epoch, plan.moves_left), (before.epoch + 1, 0));
    assert_eq!(named(&plan, "node-3")[0].client_address, store.spec(2).client_address);
    assert_eq!(held(&store.ring_json(0).await), ring, "nothing moves");
    store.until_balanced(&[0, 1, 2]).await;
    load.more(100).await;
    assert_eq!(load.end_at(&store.addresses(&[0, 1, 2])).await.violations(), []);
}
