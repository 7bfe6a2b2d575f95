//! What a client makes of the operator's calls when things go wrong, against nodes that do as they are told.

use std::time::Duration;

use crate::fake::{CLUSTER, Fake, Turn, answer, member, ring};
use annulus_client::admin::{Admin, Members, Step};
use annulus_client::{Client, MemberState};
use serde_json::{Value, json};

const ID: &str = "000000000000000a";

fn admin(fakes: &[&Fake]) -> Admin {
    let client = Client::builder(["127.0.0.1:1"]).deadline(Duration::from_secs(5)).build().unwrap();
    client.admin_at(fakes.iter().map(|fake| fake.address.as_str())).unwrap()
}

fn changed(epoch: u64) -> Turn {
    Turn::Json(200, json!({"epoch": epoch, "joined": [ID], "leaving": [], "updated": []}))
}

fn nobody() -> Members {
    Members { epoch: Some(12), members: Vec::new() }
}

/// States the members against this script; tells how it ended and how many requests it took.
async fn put(script: Vec<Turn>) -> (Result<u64, &'static str>, usize) {
    let fake = Fake::start(script).await;
    let changed = admin(&[&fake]).with_deadline(Duration::from_secs(1)).put_members(&nobody()).await;
    (changed.map(|changed| changed.epoch).map_err(|error| error.kind()), fake.seen().len())
}

fn header(fake: &Fake, name: &str) -> Option<String> {
    let headers = fake.seen().into_iter().next_back().unwrap().headers;
    headers.into_iter().find(|(header, _)| header == name).map(|(_, value)| value)
}

fn plan(addresses: &[&str]) -> Value {
    let members = addresses.iter().zip(1..).map(|(address, number)| {
        let mut member = member(&format!("{number:016x}"), &format!("node-{number}"), "draining", address);
        member.as_object_mut().unwrap().extend([
            ("replicas".to_owned(), json!(4)),
            ("leads".to_owned(), json!(2)),
            ("epoch".to_owned(), Value::Null),
            ("heard_ms".to_owned(), json!(30)),
        ]);
        member
    });
    json!({
        "epoch": 13, "settled": false, "moves_left": 1, "moves_under_way": 1, "bytes_left": 100, "bytes_per_second": 50,
        "seconds_left": null, "members": members.collect::<Vec<_>>(),
        "moves": [
            {"group": 7, "partition": 6, "from": null, "to": "0000000000000001", "step": "copying", "bytes": 5,
             "bytes_sent": 1, "gate": {"name": "catching-up", "member": "0000000000000001", "message": "node-1 is behind"}},
            {"group": 0, "partition": null, "from": ID, "to": null, "step": "pondering", "gate": null, "bytes": 0,
             "bytes_sent": 0},
        ],
    })
}

#[tokio::test]
async fn a_change_says_what_is_wanted_and_carries_the_fence_if_there_is_one() {
    let epoch = || Turn::Json(200, json!({"epoch": 14}));
    let fake = Fake::start([changed(13), epoch(), epoch(), epoch()]).await;
    let admin = admin(&[&fake]);
    let done = admin.put_members(&nobody()).await.unwrap();
    assert_eq!((done.epoch, done.joined[0].to_string().as_str()), (13, ID));
    assert_eq!(serde_json::from_slice::<Value>(&fake.seen()[0].body).unwrap(), json!({"epoch": 12, "members": []}));
    assert_eq!(header(&fake, "annulus-operator-fence"), None);
    let admin = admin.with_fence(Some(7));
    assert_eq!(admin.drain("node-1").await.unwrap(), 14);
    assert_eq!(header(&fake, "annulus-operator-fence").as_deref(), Some("7"));
    admin.undrain("a/b c").await.unwrap();
    admin.remove(ID).await.unwrap();
    let seen: Vec<String> = fake.seen().iter().map(|seen| format!("{} {}", seen.method, seen.path)).collect();
    assert_eq!(
        seen[1..],
        [
            "POST /admin/v1/members/node-1/drain",
            "DELETE /admin/v1/members/a%2Fb%20c/drain",
            "DELETE /admin/v1/members/000000000000000a"
        ]
    );
}

#[tokio::test]
async fn what_is_wanted_is_stated_again_until_the_answer_comes() {
    assert_eq!(put(vec![Turn::Break, changed(13)]).await, (Ok(13), 2));
    assert_eq!(put(vec![answer(504), answer(503), changed(13)]).await, (Ok(13), 3));
    assert_eq!(put(vec![Turn::Hang, changed(13)]).await, (Ok(13), 2));
    // The map may have been changed by the first attempt itself.
    let stale = || Turn::Json(409, json!({"type": "https://annulus.dev/problems/map-changed", "current": 13}));
    assert_eq!(put(vec![Turn::Break, stale()]).await, (Err("outcome-unknown"), 2));
    assert_eq!(put(vec![stale()]).await, (Err("conflict"), 1));
    assert_eq!(put(vec![answer(422)]).await, (Err("refused"), 1));
    assert_eq!(put(vec![Turn::Json(200, json!({}))]).await, (Err("outcome-unknown"), 1));
    assert_eq!(put([vec![Turn::Break], vec![answer(503); 200]].concat()).await.0, Err("outcome-unknown"));
    assert_eq!(put(vec![answer(503); 200]).await.0, Err("unavailable"));
}

#[tokio::test]
async fn a_removal_whose_fate_is_unknown_is_not_repeated() {
    let fake = Fake::start([answer(503), Turn::Break, changed(13)]).await;
    assert_eq!(admin(&[&fake]).remove("node-1").await.unwrap_err().kind(), "outcome-unknown");
    assert_eq!(fake.seen().len(), 2);
}

#[tokio::test]
async fn a_refusal_keeps_all_that_the_store_tells() {
    let holds = json!({
        "type": "https://annulus.dev/problems/member-holds-replicas", "status": 409, "detail": "node-1 holds 2 replicas",
        "member": ID, "partitions": [3, 5],
    });
    let fake = Fake::start([Turn::Json(409, holds)]).await;
    let annulus_client::Error::Conflict(problem) = admin(&[&fake]).remove("node-1").await.unwrap_err() else {
        panic!()
    };
    assert_eq!((problem.kind(), &problem.other["partitions"]), ("member-holds-replicas", &json!([3, 5])));
}

#[tokio::test]
async fn another_member_is_asked_when_one_is_dead_and_the_plan_tells_where_they_are_now() {
    let (one, two, new) = (Fake::start([]).await, Fake::start([changed(13)]).await, Fake::start([changed(14)]).await);
    one.set_plans([plan(&[&one.address, &new.address])]);
    let all = admin(&[&one, &two]);
    let told = all.plan().await.unwrap();
    assert_eq!((told.members[0].state, told.members[0].heard_ms), (MemberState::Draining, Some(30)));
    assert_eq!((told.moves[0].step, told.moves[1].step), (Step::Copying, Step::Other));
    assert_eq!(told.moves[0].gate.as_ref().unwrap().message, "node-1 is behind");
    assert_eq!((told.seconds_left, told.moves[0].from), (None, None));
    drop(one);
    // `two` is no member any more.
    assert_eq!(all.put_members(&nobody()).await.unwrap().epoch, 14);
    assert_eq!((two.seen().len(), new.seen().len()), (0, 1));
}

#[tokio::test]
async fn the_history_is_a_list_of_changes_and_a_ring_for_each() {
    let event = json!({"epoch": 13, "first_epoch": 12, "at": "2026-11-25T03:00:00Z", "fence": 0, "reason": "members",
                       "message": "node-4 joins"});
    let ring: Value = serde_json::from_str(&ring(CLUSTER, 13, &["h:1"], 0)).unwrap();
    let fake = Fake::start([Turn::Json(200, json!({"events": [event]})), Turn::Json(200, ring), answer(404)]).await;
    let admin = admin(&[&fake]);
    let events = admin.history().await.unwrap();
    assert_eq!((events[0].first_epoch, events[0].message.as_str()), (12, "node-4 joins"));
    assert_eq!(admin.ring_at(13).await.unwrap().epoch, 13);
    assert_eq!(admin.ring_at(1).await.unwrap_err().kind(), "refused");
    assert_eq!(fake.seen()[1].path, "/admin/v1/history?epoch=13");
}

#[tokio::test]
async fn the_admin_addresses_are_those_of_the_ring() {
    let fake = Fake::start([Turn::Json(200, json!({"epoch": 2}))]).await;
    let client = Client::builder([fake.address.clone()]).build().unwrap();
    assert_eq!(client.admin().await.unwrap().drain("node-1").await.unwrap(), 2);
    assert!(client.admin_at([]).is_err() && client.admin_at(["no-port"]).is_err());
}

#[tokio::test]
async fn a_member_is_evicted_for_as_long_as_asked_and_says_what_it_still_leads() {
    let fake =
        Fake::start([Turn::Json(200, json!({"leaders_left": 0, "seconds": 0.12})), answer(200), Turn::Break]).await;
    let nodes = Client::builder([fake.address.clone()]).build().unwrap().nodes();
    let evicted = nodes.evict(&fake.address, Some(Duration::from_secs(60))).await.unwrap();
    assert_eq!((evicted.leaders_left, fake.seen()[0].path.as_str()), (0, "/admin/v1/leaders/evict?for=60s"));
    nodes.end_eviction(&fake.address).await.unwrap();
    assert_eq!(nodes.evict(&fake.address, None).await.unwrap_err().kind(), "outcome-unknown");
}

#[tokio::test]
async fn a_status_tells_where_the_node_is_and_an_older_one_tells_less() {
    let full = json!({
        "id": ID, "name": "node-1", "cluster": null, "zone": "a", "weight": 100, "client_address": "h:1",
        "peer_address": "h:2", "admin_address": "h:3", "epoch": 7, "moves_in": 2, "evicted": true, "ready": false,
    });
    let fake = Fake::start([
        Turn::Json(200, full.clone()),
        Turn::Json(200, json!({"id": ID, "name": "n", "cluster": CLUSTER})),
    ])
    .await;
    let nodes = Client::builder([fake.address.clone()]).build().unwrap().nodes();
    let status = nodes.status(&fake.address).await.unwrap();
    assert_eq!((status.weight, status.admin_address.as_deref(), status.evicted), (Some(100), Some("h:3"), true));
    assert_eq!(serde_json::to_value(&status).unwrap(), full);
    let older = nodes.status(&fake.address).await.unwrap();
    assert_eq!((older.weight, older.moves_in, older.cluster.unwrap().to_string().as_str()), (None, None, CLUSTER));
}
