//! What a client does with transactions when things go wrong, against nodes that do as they are told.

use std::time::Duration;

use crate::fake::{Fake, Seen, Turn, answer};
use annulus_client::lock::Fence;
use annulus_client::txn::{Done, Fate, Operation, Outcome, Request, Verb};
use annulus_client::{Client, Error, Item, Version};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(2);

fn client(fake: &Fake) -> Client {
    Client::builder([fake.address.clone()]).deadline(DEADLINE).build().unwrap()
}

fn done(committed: bool) -> Turn {
    Turn::Json(200, json!({"id": "a", "committed": committed, "results": [{"version": 9}]}))
}

fn problem(status: u16, kind: &str) -> Turn {
    Turn::Json(status, json!({"type": format!("https://annulus.dev/problems/{kind}"), "detail": "no"}))
}

fn body(seen: &Seen) -> Value {
    serde_json::from_slice(&seen.body).unwrap()
}

/// A transfer against this script; how it ended, and what was sent.
async fn transfer(script: Vec<Turn>, more: impl FnOnce(Request) -> Request) -> (Result<Done, Error>, Vec<Seen>) {
    let fake = Fake::start(script).await;
    let request = client(&fake).txn().if_version("a", Version(5)).put("a", "70").put("b", "30");
    let ended = more(request).send().await;
    (ended, fake.seen())
}

#[tokio::test]
async fn a_transaction_says_all_that_it_wants_and_reads_what_came_of_it() {
    let results = json!([{"version": 9}, {"version": 9}, {"deleted": true},
                         {"key": "d", "version": 4, "value": "x"}, {"key": "e", "version": null, "value": null}]);
    let fake = Fake::start([Turn::Json(200, json!({"id": "t-1", "committed": true, "results": results}))]).await;
    let held: Fence = "jobs%2Fnightly=7".parse().unwrap();
    let request =
        client(&fake).txn().id("t-1").if_version("a", Version(5)).if_exists("b", false).if_value(b"\xff", "v");
    let request = request.if_held(held.clone()).put("a", b"\xff").put_ttl("b", "30", Duration::from_millis(1500));
    let request = request.delete("c").get("d").get("e").or_else(|branch| branch.get("a").put("z", "1")).fence(held);
    let wanted = [(Verb::Get, "a"), (Verb::Put, "z")].map(|(verb, key)| Operation { verb, key: key.into() });
    assert_eq!((request.operations(true).len(), request.operations(false)), (5, wanted.to_vec()));
    let done = request.send().await.unwrap();
    let expected = json!({
        "id": "t-1",
        "if": [{"key": "a", "version": 5}, {"key": "b", "exists": false}, {"key_base64": "/w==", "value": "v"},
               {"lock": "jobs/nightly", "token": 7}],
        "then": [{"put": {"key": "a", "value_base64": "/w=="}}, {"put": {"key": "b", "value": "30", "ttl_ms": 1500}},
                 {"delete": {"key": "c"}}, {"get": {"key": "d"}}, {"get": {"key": "e"}}],
        "else": [{"get": {"key": "a"}}, {"put": {"key": "z", "value": "1"}}],
    });
    let seen = &fake.seen()[0];
    assert_eq!((seen.method.as_str(), body(seen)), ("POST", expected));
    // Of 2 s an attempt gets one, of which half is for its last words.
    let ms = seen.path.strip_prefix("/v1/txn?timeout=").and_then(|rest| rest.strip_suffix("ms")).unwrap();
    assert!((300..=501).contains(&ms.parse::<u64>().unwrap()), "{ms}");
    assert!(seen.headers.contains(&("annulus-fence".to_owned(), "jobs%2Fnightly=7".to_owned())), "{seen:?}");
    let item = Item { value: "x".into(), version: Version(4) };
    let put = Outcome::Put(Version(9));
    let results = vec![put.clone(), put, Outcome::Deleted(true), Outcome::Got(Some(item)), Outcome::Got(None)];
    assert_eq!(done, Done { id: "t-1".into(), committed: true, results: Some(results) });
}

#[tokio::test]
async fn a_transaction_is_sent_again_under_its_id_when_its_answer_was_lost() {
    for lost in [Turn::Break, answer(504), answer(500), Turn::Answer(200, vec![], ""), problem(409, "txn-conflict")] {
        let script = vec![lost.clone(), answer(503), Turn::Break, done(true)];
        let (ended, seen) = transfer(script, |request| request).await;
        assert!(ended.unwrap_or_else(|error| panic!("{lost:?} {error}")).committed);
        let id = body(&seen[0])["id"].as_str().unwrap().to_owned();
        assert!(id.starts_with("txn-") && id.len() == 36, "{id}");
        assert!(seen.len() == 4 && seen.iter().all(|one| body(one)["id"] == id.as_str()), "{seen:?}");
    }
}

#[tokio::test]
async fn others_in_its_way_until_its_time_is_over_are_a_conflict_and_nothing_else() {
    let conflicts = || std::iter::repeat_n(problem(409, "txn-conflict"), 1000);
    let short = |request: Request| request.deadline(Duration::from_millis(300));
    let (ended, seen) = transfer(conflicts().collect(), short).await;
    let error = ended.unwrap_err();
    assert!(matches!(error, Error::TxnConflict { attempts, .. } if attempts as usize == seen.len()), "{error}");
    assert!(seen.len() > 2, "{seen:?}");
    // Whoever was asked first may still do it.
    let (ended, _) = transfer([Turn::Break].into_iter().chain(conflicts()).collect(), short).await;
    assert_eq!(ended.unwrap_err().kind(), "outcome-unknown");
    for (status, kind, expected) in [
        (409, "idempotency-conflict", "conflict"),
        (409, "stale-token", "stale-token"),
        (400, "txn-key-twice", "refused"),
        (422, "txn-reads-too-much", "refused"),
    ] {
        let (ended, seen) = transfer(vec![problem(status, kind)], |request| request).await;
        assert_eq!((ended.unwrap_err().kind(), seen.len()), (expected, 1));
        let (ended, _) = transfer(vec![Turn::Break, problem(status, kind)], |request| request.id("mine")).await;
        let error = ended.unwrap_err();
        assert!(error.kind() == "outcome-unknown" && error.to_string().contains("transaction mine"), "{error}");
    }
}

#[tokio::test]
async fn that_a_condition_does_not_hold_is_final_also_after_a_lost_answer() {
    // The store remembers it under the id, as it does what is done.
    let (ended, seen) = transfer(vec![Turn::Break, done(false)], |request| request).await;
    assert_eq!((ended.unwrap().committed, seen.len()), (false, 2));
    assert_eq!(body(&seen[0])["id"], body(&seen[1])["id"]);
}

#[tokio::test]
async fn many_keys_are_read_at_one_moment_in_the_order_in_which_they_were_asked_for() {
    let results = json!([{"key": "a", "version": 1, "value": "1"}, {"key": "b", "version": null, "value": null}]);
    let told = Turn::Json(200, json!({"id": "~1", "committed": true, "results": results}));
    let fake = Fake::start([Turn::Break, Turn::Answer(200, vec![], ""), told]).await;
    let items = client(&fake).get_many(["b", "a", "b"]).await.unwrap();
    let a = Some(Item { value: "1".into(), version: Version(1) });
    assert_eq!(items, [None, a, None]);
    // No id: nobody needs to remember it.
    assert_eq!(body(&fake.seen()[2]), json!({"then": [{"get": {"key": "a"}}, {"get": {"key": "b"}}]}));
    assert_eq!(client(&fake).get_many([""; 0]).await.unwrap(), []);
    let error = client(&fake).get_many((0..129).map(|number| number.to_string())).await.unwrap_err();
    assert!(error.to_string().contains("129"), "{error}");
}

#[tokio::test]
async fn what_became_of_a_transaction_is_told_and_which_are_open() {
    let committed = json!({"id": "t", "state": "committed", "committed": false, "results": [{"deleted": false}]});
    let item = json!({"id": "t", "attempt": 1, "partition": 3, "anchor": 2, "state": "prepared", "age_ms": 40, "keys": 2,
                      "participants": [2, 3]});
    let fake = Fake::start([
        Turn::Json(200, committed),
        Turn::Json(200, json!({"id": "t", "state": "aborted"})),
        Turn::Json(200, json!({"id": "t", "state": "pending"})),
        problem(404, "txn-not-found"),
        answer(404),
        Turn::Json(200, json!({"items": [item], "more": true})),
    ])
    .await;
    let client = client(&fake);
    let committed = Fate::Committed { then: false, results: Some(vec![Outcome::Deleted(false)]) };
    for fate in [Some(committed), Some(Fate::Aborted), Some(Fate::Pending), None] {
        assert_eq!(client.txn_fate("t").await.unwrap(), fate);
    }
    assert_eq!(client.txn_fate("t").await.unwrap_err().kind(), "unexpected-answer");
    assert_eq!(client.txn_fate("a/b").await.unwrap_err().kind(), "invalid-option");
    let open = client.txns(Some(5)).await.unwrap();
    assert!(open.more && open.items[0].participants == [2, 3] && open.items[0].keys == 2, "{open:?}");
    let paths: Vec<String> = fake.seen().into_iter().map(|seen| seen.path).collect();
    assert!(paths[0].starts_with("/v1/txn/t?timeout=") && paths[5] == "/v1/txns?limit=5", "{paths:?}");
}

#[tokio::test]
async fn what_can_not_be_a_transaction_is_not_sent() {
    let fake = Fake::start([]).await;
    let client = client(&fake);
    let request = || client.txn().put("a", "1");
    for (request, kind) in [
        (client.txn(), "invalid-option"),
        (request().id("~1"), "invalid-option"),
        (request().id("a b"), "invalid-option"),
        (request().get(""), "invalid-key"),
        (request().if_exists("", true), "invalid-key"),
        (request().or_else(|branch| branch.delete("")), "invalid-key"),
    ] {
        assert_eq!(request.send().await.unwrap_err().kind(), kind);
    }
    for wrong in ["", "[]", r#"{"then":[],"then":[]}"#, r#"{"if":[{"kye":"a"}]}"#, r#"{"id":5}"#] {
        assert!(client.txn_from_json(wrong.as_bytes()).is_err(), "{wrong}");
    }
    let json = r#"{"id":"mine","then":[{"put":{"key":"a","value":"1"}},{"get":{"key_base64":"/w=="}}]}"#;
    let request = client.txn_from_json(json.as_bytes()).unwrap();
    assert_eq!((request.name(), &request.operations(true)[1].key[..]), ("mine", &b"\xff"[..]));
    assert!(fake.seen().is_empty());
}
