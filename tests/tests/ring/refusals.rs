//! Changes that are refused, and say why: the map stays as it is.

use annulus_tests::processes::{Answer, Store, problem, until};
use futures_util::future::join_all;
use http::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const MEMBERS: &str = "/admin/v1/members";

/// How long what is not a move may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// After so long without a report a member or a leader counts as not there.
const MISSED_AFTER: Duration = Duration::from_secs(3);

/// States members; they are refused for this reason, and the map is as it was.
async fn refused(store: &Store, body: &Value, status: u16, kind: &str) -> Value {
    let before = store.plan(0).await.epoch;
    let answer = store.change(Method::PUT, MEMBERS, None, body).await;
    is_problem(&answer, status, kind);
    assert_eq!(store.plan(before).await.epoch, before, "a refused change changes nothing");
    answer.json()
}

fn is_problem(answer: &Answer, status: u16, kind: &str) {
    assert_eq!((answer.status, &*problem(answer)), (status, kind), "{}", answer.text());
    assert_eq!(answer.header("content-type"), "application/problem+json");
}

#[tokio::test]
async fn statements_that_make_no_sense_are_refused_whole() {
    let mut store = Store::of(3).await;
    let new = store.add_node("node-4", "").await;
    let good = store.members(&[0, 1, 2, new]);
    let with = |field: &str, value: &Value| {
        let mut body = good.clone();
        body["members"][3][field] = value.clone();
        body
    };
    for field in ["id", "name", "client_address", "peer_address", "admin_address"] {
        let twice = with(field, &good["members"][0][field]);
        refused(&store, &twice, 422, "invalid-members").await;
    }
    refused(&store, &with("zone", &json!("a")), 422, "invalid-members").await;
    refused(&store, &with("weight", &json!(0)), 422, "invalid-members").await;
    refused(&store, &json!({"members": []}), 422, "invalid-members").await;
    let member = |number: u32| {
        json!({"id": format!("{:016x}", number + 1), "name": format!("n-{number}"), "zone": "", "weight": 100,
               "client_address": format!("h{number}:1"), "peer_address": format!("h{number}:2"),
               "admin_address": format!("h{number}:3")})
    };
    let many: Vec<Value> = (0..1001).map(member).collect();
    refused(&store, &json!({"members": many}), 422, "invalid-members").await;
    let answer = store.ask(0, Method::PUT, MEMBERS, None, "{".to_owned()).await;
    is_problem(&answer, 400, "invalid-json");

    let mut old = good.clone();
    old["epoch"] = json!(store.plan(0).await.epoch + 1);
    let told = refused(&store, &old, 409, "map-changed").await;
    assert_eq!(told["current"], store.plan(0).await.epoch);
    assert_eq!(store.replicas(new).await, Some(0), "the new node was left alone");
}

#[tokio::test]
async fn who_is_not_there_or_belongs_to_another_store_does_not_join() {
    let store = Store::of(3).await;
    let other = store.other().await;
    let mut body = store.members(&[0, 1, 2]);
    body["members"].as_array_mut().expect("a list").push(other.members(&[0])["members"][0].clone());
    body["members"][3]["name"] = json!("node-4");
    let told = refused(&store, &body, 409, "member-mismatch").await;
    assert_eq!(told["name"], "node-4", "{told}");
    body["members"][3]["name"] = json!("node-1");
    body["members"][0]["name"] = json!("node-4");

    let mut body = store.members(&[0, 1, 2]);
    let mut nobody = other.members(&[0])["members"][0].clone();
    (nobody["name"], nobody["id"]) = (json!("node-4"), json!("00000000000000aa"));
    for (field, port) in [("client_address", 1), ("peer_address", 2), ("admin_address", 3)] {
        nobody[field] = json!(format!("127.0.0.1:{port}"));
    }
    body["members"].as_array_mut().expect("a list").push(nobody);
    let told = refused(&store, &body, 409, "member-mismatch").await;
    assert_eq!(told["admin_address"], "127.0.0.1:3", "{told}");
    assert_eq!(other.plan(0).await.members.len(), 1, "nor did the other store change");
}

#[tokio::test]
async fn an_operator_that_was_superseded_is_refused_whatever_became_of_the_store_since() {
    let mut store = Store::of(4).await;
    let drain = "/admin/v1/members/node-4/drain";
    let change = async |store: &Store, method, fence| store.change(method, drain, Some(fence), &Value::Null).await;
    assert_eq!(change(&store, Method::POST, 7).await.status, 200);
    let epoch = store.plan(0).await.epoch;
    store.until_settled(epoch).await;
    let stale = async |store: &Store| {
        let before = store.plan(0).await.epoch;
        let answer = change(store, Method::DELETE, 6).await;
        is_problem(&answer, 409, "stale-fence");
        let told = answer.json();
        assert_eq!((&told["given"], &told["highest"]), (&json!(6), &json!(7)));
        let answer = store.change(Method::PUT, MEMBERS, None, &store.members(&[0, 1, 2, 3])).await;
        is_problem(&answer, 409, "stale-fence");
        assert_eq!(store.plan(before).await.epoch, before);
    };
    stale(&store).await;

    let leader = until("somebody leads the map group", PATIENCE, async || store.map_leader().await).await;
    store.kill(leader);
    stale(&store).await;
    store.start(leader);
    store.until_ready(leader).await;

    for place in 0..4 {
        store.kill(place);
    }
    (0..4).for_each(|place| store.start(place));
    for place in 0..4 {
        store.until_ready(place).await;
    }
    stale(&store).await;
    assert_eq!(change(&store, Method::DELETE, 8).await.status, 200);
    let answer = change(&store, Method::POST, 7).await;
    is_problem(&answer, 409, "stale-fence");
}

#[tokio::test]
async fn members_that_are_needed_stay() {
    let store = Store::of(3).await;
    let before = store.plan(0).await.epoch;
    let answer = store.change(Method::DELETE, "/admin/v1/members/node-1", None, &Value::Null).await;
    is_problem(&answer, 409, "member-holds-replicas");
    let told = answer.json();
    assert!(told["partitions"].as_array().is_some_and(|named| !named.is_empty()), "{told}");
    assert_eq!((&told["member"], &told["groups"]), (&json!(store.spec(0).id), &json!(129)), "{told}");

    let answer = store.change(Method::POST, "/admin/v1/members/node-1/drain", None, &Value::Null).await;
    is_problem(&answer, 409, "too-few-members");
    let told = answer.json();
    assert_eq!((&told["left"], &told["replication_factor"]), (&json!(2), &json!(3)), "{told}");
    refused(&store, &store.members(&[0, 1]), 409, "too-few-members").await;
    for (method, path) in
        [(Method::POST, "/admin/v1/members/node-9/drain"), (Method::DELETE, "/admin/v1/members/node-9")]
    {
        let answer = store.change(method, path, None, &Value::Null).await;
        is_problem(&answer, 404, "unknown-member");
    }
    assert_eq!(store.plan(before).await.epoch, before);
}

#[tokio::test]
async fn nobody_leaves_while_a_quorum_is_gone() {
    let mut store = Store::of(5).await;
    // A store that was never changed is taken for one that is still being made while a partition has no leader.
    store.drain("node-1").await;
    let epoch = store.undrain("node-1").await;
    let before = store.until_settled(epoch).await.epoch;
    // Three of the five that hold the map are left, and of some partitions only one of three.
    let killed = [3, 4];
    killed.iter().for_each(|place| store.kill(*place));
    let wanted = [0, 1, 3, 4];
    // Before it is known that partitions have no leader, the change is taken, and each move waits.
    let killed_at = Instant::now();
    until("it is known who is missing", PATIENCE, async || {
        let plan = store.try_plan(before).await?;
        let limit = u64::try_from(MISSED_AFTER.as_millis()).expect("a short time");
        let missed = plan.members.iter().filter(|member| member.heard_ms.is_none_or(|ms| ms > limit));
        (missed.count() == killed.len() && killed_at.elapsed() > 2 * MISSED_AFTER).then_some(())
    })
    .await;
    let answer = store.change(Method::PUT, MEMBERS, None, &store.members(&wanted)).await;
    is_problem(&answer, 409, "quorum-at-risk");
    let told = answer.json();
    assert!(told["partitions"].as_array().is_some_and(|named| !named.is_empty()), "{told}");
    assert_eq!(store.plan(0).await.epoch, before);

    // All are back: now it may leave.
    for place in killed {
        store.start(place);
        store.until_ready(place).await;
    }
    let answer = until("a quorum of each is known to be there", PATIENCE, async || {
        let answer = store.change(Method::PUT, MEMBERS, None, &store.members(&wanted)).await;
        (problem(&answer) != "quorum-at-risk").then_some(answer)
    })
    .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let plan = store.until_settled(answer.json()["epoch"].as_u64().expect("an epoch")).await;
    assert!(plan.members.iter().all(|member| member.id.to_string() != store.spec(2).id));
}

#[tokio::test]
async fn of_changes_at_the_same_time_each_is_made_or_refused() {
    let store = Store::of(4).await;
    let before = store.plan(0).await.epoch;
    let drain = |place: usize| {
        let store = &store;
        async move {
            let path = format!("/admin/v1/members/node-{}/drain", place + 1);
            store.ask(place, Method::POST, &path, None, String::new()).await
        }
    };
    // Three of four have to stay: at most one of them may go.
    let answers = join_all((0..4).map(drain)).await;
    let made = answers.iter().filter(|answer| answer.status == 200).count();
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        assert_eq!(answer.status, 409, "{}", answer.text());
        assert!(["change-in-progress", "too-few-members"].contains(&&*problem(answer)), "{}", answer.text());
    }
    assert_eq!(made, 1, "{answers:?}");
    let plan = store.plan(before + 1).await;
    let draining = plan.members.iter().filter(|member| member.state == annulus_client::MemberState::Draining);
    assert_eq!(draining.count(), 1);
}
