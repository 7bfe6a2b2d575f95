//! `/v1/txn` and `/v1/txns`.

use annulus_core::partition::txn::{
    Action, Command, Decision, Id, Name, Outcome as TxnOutcome, Part, Prepare, Settle, Settled,
};
use annulus_core::partition::{Fence, Key, Many};
use serde_json::json;

use super::txn_machine::keys_apart;
use super::*;

impl Server {
    async fn txn(&self, body: &Value) -> Answer {
        self.ask("POST /v1/txn", &[], body.to_string().as_bytes()).await
    }

    /// The groups that were asked for transactions since the last time.
    fn take_asked(&self) -> Vec<Operation> {
        self.fake.asked.take().into_iter().map(|(_, operation, _)| operation).collect()
    }

    /// The fence of the last part that was asked of a partition.
    fn last_part_fence(&self) -> Option<Fence> {
        let asked = self.fake.asked.borrow();
        let part = asked.iter().rev().find_map(|(_, operation, _)| match operation {
            Operation::Txn(Command::Alone(alone)) => Some(&alone.part),
            Operation::Txn(Command::Prepare(prepare)) => Some(&prepare.part),
            _ => None,
        });
        part.expect("a part was asked").fence.clone()
    }

    /// Waits until what is left of transactions is done.
    async fn at_rest(&self) {
        let mut tick = tokio::time::interval(Duration::from_millis(1));
        while self.fake.txns.open() > 0 {
            tick.tick().await;
        }
    }

    /// Prepares a put of each key under this name, as a coordinator that is gone then. The first key's partition decides.
    fn abandon(&self, name: &str, keys: &[String], prepared: usize) -> Vec<GroupId> {
        let key = |key: &String| Key::new(Bytes::copy_from_slice(key.as_bytes())).unwrap();
        let partitions: Vec<_> = keys.iter().map(|key| map().partition_of(key.as_bytes())).collect();
        let id = Id { name: Name::new(Bytes::copy_from_slice(name.as_bytes())).unwrap(), coordinator: 1, attempt: 0 };
        for (at, text) in keys.iter().enumerate().take(prepared) {
            let put = Action::Put { key: key(text), value: Bytes::from_static(b"new"), ttl_ms: None };
            let prepare = Prepare {
                id: id.clone(),
                priority: 1,
                digest: [1; 32],
                anchor: partitions[0],
                participants: if at == 0 { partitions.clone() } else { Vec::new() },
                without_else: true,
                is_patient: false,
                part: Part { then: vec![put], ..Part::default() },
            };
            let outcome = self.fake.txns.command(partitions[at].group(), Command::Prepare(prepare));
            assert!(matches!(outcome, TxnOutcome::Prepared(_)), "{outcome:?}");
        }
        partitions.iter().map(|partition| partition.group()).collect()
    }
}

#[test]
fn keys_of_several_partitions_change_together_and_the_results_come_in_order() {
    client_port(async |server| {
        let [a, b, c] = &keys_apart(3)[..] else { panic!("three") };
        let body = json!({
            "id": "t-1",
            "if": [{"key": a, "exists": false}],
            "then": [{"put": {"key": c, "value": "1"}}, {"get": {"key": b}}, {"delete": {"key": a}}],
            "else": [{"get": {"key": c}}, {"delete": {"key": b}}],
        });
        let answer = server.txn(&body).await;
        assert_eq!((answer.status, answer.header("annulus-epoch")), (200, Some("5")));
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let results = json!([{"version": 1}, {"key": b, "version": null, "value": null}, {"deleted": false}]);
        assert_eq!(answer.json(), json!({"id": "t-1", "committed": true, "results": results}));
        server.at_rest().await;
        assert_eq!(server.fake.txns.value(c).as_deref(), Some("1"));

        let body = json!({
            "if": [{"key": c, "value": "2"}],
            "then": [{"put": {"key": a, "value": "x"}}],
            "else": [{"get": {"key": c}}, {"put": {"key_base64": "/w==", "value_base64": "/g=="}}, {"delete": {"key": b}}],
        });
        let json = server.txn(&body).await.json();
        assert!(json["id"].as_str().unwrap().starts_with('~') && json["id"].as_str().unwrap().len() == 33, "{json}");
        assert_eq!(json["committed"], false);
        assert_eq!(json["results"][0], json!({"key": c, "version": 1, "value": "1"}));
        assert_eq!(json["results"][2], json!({"deleted": false}));
        server.at_rest().await;
        assert_eq!(server.fake.txns.value(a), None);
        let read = server.txn(&json!({"then": [{"get": {"key_base64": "/w=="}}]})).await.json();
        assert_eq!(read["results"][0]["key_base64"], "/w==");
        assert_eq!(read["results"][0]["value_base64"], "/g==");
        assert_eq!(read["results"][0].get("value"), None);
    });
}

#[test]
fn one_partition_does_all_of_it_at_once() {
    client_port(async |server| {
        let body = json!({"then": [{"put": {"key": "a", "value": "1", "ttl_ms": 1000}}, {"get": {"key": "a2"}}]});
        let one = map().partition_of(b"a");
        let other = (0..).map(|n| format!("a{n}")).find(|key| map().partition_of(key.as_bytes()) == one).unwrap();
        let body = json!(body.to_string().replace("a2", &other)).as_str().unwrap().parse::<Value>().unwrap();
        let json = server.txn(&body).await.json();
        assert_eq!(json["results"], json!([{"version": 1}, {"key": other, "version": null, "value": null}]));
        let [Operation::Txn(Command::Alone(alone))] = &server.take_asked()[..] else { panic!("one command") };
        assert!(matches!(&alone.part.then[0], Action::Put { ttl_ms: Some(1000), .. }));
        // A condition that fails, and nothing else to do.
        let failed = server.txn(&json!({"if": [{"key": "a", "version": 7}]})).await.json();
        assert_eq!((&failed["committed"], &failed["results"]), (&json!(false), &json!([])));
        let held = server.txn(&json!({"if": [{"key": "a", "version": 1}]})).await.json();
        assert_eq!((&held["committed"], &held["results"]), (&json!(true), &json!([])));
    });
}

#[test]
fn under_its_id_it_is_done_once_and_told_the_same_again() {
    client_port(async |server| {
        let [a, b] = &keys_apart(2)[..] else { panic!("two") };
        let body = json!({"id": "t", "then": [{"put": {"key": a, "value": "1"}}, {"put": {"key": b, "value": "1"}}]});
        let first = server.txn(&body).await;
        for _ in 0..2 {
            server.at_rest().await;
            let again = server.txn(&body).await;
            assert_eq!((again.status, &again.body), (200, &first.body));
        }
        // What was asked under an id stays its own, also over several partitions, and after it is known everywhere.
        let other = json!({"id": "t", "then": [{"put": {"key": a, "value": "9"}}, {"put": {"key": b, "value": "9"}}]});
        for _ in 0..2 {
            server.txn(&other).await.problem(409, "idempotency-conflict");
            server.at_rest().await;
        }
        assert_eq!(server.fake.txns.value(b).as_deref(), Some("1"));
        server.txn(&json!({"id": "one", "then": [{"put": {"key": a, "value": "2"}}]})).await;
        let other = json!({"id": "one", "then": [{"put": {"key": a, "value": "3"}}]});
        let problem = server.txn(&other).await.problem(409, "idempotency-conflict");
        assert!(problem["detail"].as_str().unwrap().contains("`id`"), "{problem}");
        assert_eq!(server.fake.txns.value(a).as_deref(), Some("2"));
        // That a condition did not hold is told again, though it holds by now: another try of it may still be on its way.
        let absent =
            json!({"id": "f", "if": [{"key": a, "exists": false}], "then": [{"put": {"key": b, "value": "8"}}]});
        let alone =
            json!({"id": "g", "if": [{"key": a, "exists": false}], "then": [{"put": {"key": a, "value": "8"}}]});
        for round in 0..2 {
            for body in [&absent, &alone] {
                let failed = server.txn(body).await.json();
                assert_eq!((&failed["committed"], &failed["results"]), (&json!(false), &json!([])), "round {round}");
            }
            server.at_rest().await;
            server.txn(&json!({"then": [{"delete": {"key": a}}]})).await;
        }
        assert_eq!(server.fake.txns.value(b).as_deref(), Some("1"));
        // Another id is another transaction.
        let body = json!({"id": "u", "then": body["then"]});
        let again = server.txn(&body).await.json();
        assert!(again["results"][0]["version"].as_u64() > first.json()["results"][0]["version"].as_u64(), "{again}");
    });
}

#[test]
fn results_that_were_too_long_to_be_kept_are_null_the_second_time() {
    client_port(async |server| {
        let [a, b] = &keys_apart(2)[..] else { panic!("two") };
        let long = "x".repeat(5000);
        server.txn(&json!({"then": [{"put": {"key": a, "value": long}}]})).await;
        let body = json!({"id": "t", "then": [{"get": {"key": a}}, {"put": {"key": b, "value": "1"}}]});
        assert_eq!(server.txn(&body).await.json()["results"][0]["value"], long);
        server.at_rest().await;
        assert_eq!(server.txn(&body).await.json(), json!({"id": "t", "committed": true, "results": null}));
        let fate = server.get("/v1/txn/t").await.json();
        assert_eq!(fate, json!({"id": "t", "state": "committed", "committed": true, "results": null}));
    });
}

#[test]
fn what_only_reads_holds_nothing_unless_it_has_an_id() {
    client_port(async |server| {
        let [a, b] = &keys_apart(2)[..] else { panic!("two") };
        let reads = json!([{"get": {"key": a}}, {"get": {"key": b}}]);
        let json = server.txn(&json!({"then": reads})).await.json();
        let absent = |key| json!({"key": key, "version": null, "value": null});
        assert_eq!((&json["committed"], &json["results"]), (&json!(true), &json!([absent(a), absent(b)])));
        let asked = server.take_asked();
        assert!(asked.len() == 4 && asked.iter().all(|asked| matches!(asked, Operation::GetMany { .. })), "{asked:?}");
        server.get(&format!("/v1/txn/{}", json["id"].as_str().unwrap())).await.problem(404, "txn-not-found");
        server.take_asked();
        server.txn(&json!({"id": "r", "then": reads})).await.json();
        assert!(server.take_asked().iter().all(|asked| matches!(asked, Operation::Txn(_))));
        server.at_rest().await;
        assert_eq!(server.get("/v1/txn/r").await.json()["state"], "committed");
    });
}

#[test]
fn a_snapshot_of_what_changes_all_the_time_is_taken_with_a_hold_on_the_keys() {
    client_port(async |server| {
        let [a, b] = &keys_apart(2)[..] else { panic!("two") };
        let item = |version| Some(Item { version, value: Bytes::from_static(b"v") });
        for version in 0..16 {
            server.fake.script(Reply::Many(Many { items: vec![item(version)], deletions: 0 }));
        }
        let json = server.txn(&json!({"then": [{"get": {"key": a}}, {"get": {"key": b}}]})).await.json();
        assert_eq!(json["committed"], true);
        let asked = server.take_asked();
        assert_eq!(asked.iter().filter(|asked| matches!(asked, Operation::GetMany { .. })).count(), 16);
        assert_eq!(asked.iter().filter(|asked| matches!(asked, Operation::Txn(Command::Prepare(_)))).count(), 2);
        let text = server.resources.metrics.encode().unwrap();
        assert!(text.contains(r#"annulus_txns_total{outcome="conflict",kind="snapshot"} 1"#), "{text}");
        assert!(text.contains(r#"annulus_txns_total{outcome="committed",kind="several"} 1"#), "{text}");
        server.fake.script(Reply::Refused(Refusal::NotLeader { leader: None }));
        server.txn(&json!({"then": [{"get": {"key": a}}]})).await.problem(503, "no-leader");
        let item = Item { version: 1, value: vec![b'x'; (4 << 20) + 1].into() };
        server.fake.script(Reply::Many(Many { items: vec![Some(item)], deletions: 0 }));
        let problem = server.txn(&json!({"then": [{"get": {"key": a}}]})).await.problem(422, "txn-reads-too-much");
        assert_eq!(problem["limit"], 4 << 20);
    });
}

#[test]
fn a_lock_that_is_named_in_if_must_be_held_with_its_token() {
    client_port(async |server| {
        let token = server.fake.txns.lock("jobs");
        for (asked, committed) in [(token, true), (token + 1, false)] {
            let body = json!({"if": [{"lock": "jobs", "token": asked}], "then": [{"put": {"key": "k", "value": "1"}}]});
            assert_eq!(server.txn(&body).await.json()["committed"], committed);
        }
        let body = json!({"if": [{"lock_base64": "am9icw==", "token": token}]});
        assert_eq!(server.txn(&body).await.json()["committed"], true);
    });
}

#[test]
fn a_fence_goes_with_the_writes_of_a_transaction() {
    client_port(async |server| {
        let granted = server.ask("POST /v1/locks/l", &[], br#"{"owner": "p", "ttl_ms": 1000}"#).await.json();
        let token = granted["token"].as_u64().unwrap();
        let fence = format!("Annulus-Fence: l={token}");
        let ask =
            async |fence: &str, body: &Value| server.ask("POST /v1/txn", &[fence], body.to_string().as_bytes()).await;
        let put = |id: Option<&str>| json!({"id": id, "then": [{"put": {"key": "k", "value": "1"}}]});
        let done = ask(&fence, &put(Some("one"))).await;
        assert_eq!(done.status, 200);
        let carried = server.last_part_fence().unwrap();
        assert_eq!((&carried.lock.bytes()[..], carried.token, carried.is_held), (&b"l"[..], token, true));
        // A token that never was: without an id nothing is asked of the partitions.
        server.take_asked();
        let problem = ask("Annulus-Fence: l=99", &put(None)).await.problem(409, "stale-token");
        assert_eq!((&problem["lock"], &problem["token"]), (&json!("l"), &json!(99)));
        assert!(server.take_asked().iter().all(|asked| matches!(asked, Operation::ReadLock { .. })));
        // With one it was done before, or never is.
        let again = ask("Annulus-Fence: l=99", &put(Some("one"))).await;
        assert_eq!((again.status, again.body), (200, done.body));
        assert!(!server.last_part_fence().unwrap().is_held);
        ask("Annulus-Fence: l=99", &put(Some("two"))).await.problem(409, "stale-token");
        let reads = json!({"then": [{"get": {"key": "k"}}]});
        let problem = ask(&fence, &reads).await.problem(400, "invalid-header");
        assert_eq!(problem["header"], "annulus-fence");
        ask("Annulus-Fence: l", &put(None)).await.problem(400, "invalid-header");
    });
}

#[test]
fn what_partitions_refuse_has_a_problem_of_its_own() {
    client_port(async |server| {
        let body = json!({"then": [{"put": {"key": "a", "value": "1"}}]});
        for (reply, status, slug, retry) in [
            (Reply::Txn(TxnOutcome::TooManyFences), 429, "too-many-fences", Some("60")),
            (Reply::Txn(TxnOutcome::TooManyOpen), 429, "overloaded", Some("1")),
            (Reply::Txn(TxnOutcome::ReadsTooMuch), 422, "txn-reads-too-much", None),
            (Reply::Txn(TxnOutcome::NameConflict), 409, "idempotency-conflict", None),
            (Reply::Refused(Refusal::Busy), 429, "overloaded", Some("1")),
            (Reply::Refused(Refusal::DiskFull), 507, "disk-full", Some("1")),
            (Reply::Refused(Refusal::TimedOut), 503, "timed-out", Some("1")),
            (Reply::Refused(Refusal::NotLeader { leader: None }), 503, "no-leader", Some("1")),
            (Reply::Refused(Refusal::NoReplica), 503, "no-leader", Some("1")),
        ] {
            server.fake.script(reply);
            let answer = server.txn(&body).await;
            let problem = answer.problem(status, slug);
            assert!(problem["detail"].as_str().unwrap().ends_with("nothing was changed"), "{problem}");
            assert_eq!(answer.header("retry-after"), retry, "{problem}");
        }
        assert_eq!(server.fake.txns.value("a"), None);
        *server.fake.map.borrow_mut() = None;
        server.txn(&body).await.problem(503, "not-bootstrapped");
        server.get("/v1/txn/a").await.problem(503, "not-bootstrapped");
        server.get("/v1/txns").await.problem(503, "not-bootstrapped");
    });
}

#[test]
fn an_outcome_that_is_not_known_is_504_with_the_id_that_settles_it() {
    client_port(async |server| {
        for id in [json!("mine"), json!(null)] {
            server.fake.script(Reply::OutcomeUnknown);
            let body = json!({"id": id, "then": [{"put": {"key": "a", "value": "1"}}]});
            let problem = server.txn(&body).await.problem(504, "outcome-unknown");
            let told = problem["id"].as_str().unwrap();
            assert!(if id.is_null() { told.starts_with('~') } else { told == "mine" }, "{problem}");
            assert!(problem["detail"].as_str().unwrap().contains(&format!("`GET /v1/txn/{told}`")), "{problem}");
        }
        let text = server.resources.metrics.encode().unwrap();
        assert!(text.contains(r#"annulus_txns_total{outcome="unknown",kind="one"} 2"#), "{text}");
    });
}

#[test]
fn one_that_others_are_in_the_way_of_is_409_when_its_time_is_over_and_nothing_is_left_of_it() {
    client_port(async |server| {
        let keys = keys_apart(2);
        server.abandon("old", &keys, 2);
        let body = json!({"then": [{"put": {"key": keys[0], "value": "1"}}, {"put": {"key": keys[1], "value": "1"}}]});
        let answer = server.ask("POST /v1/txn?timeout=50ms", &[], body.to_string().as_bytes()).await;
        answer.problem(409, "txn-conflict");
        assert_eq!(answer.header("retry-after"), Some("1"));
        assert_eq!(server.fake.txns.open(), 2);
        let text = server.resources.metrics.encode().unwrap();
        assert!(text.contains(r#"annulus_txns_total{outcome="conflict",kind="several"} 1"#), "{text}");
    });
}

#[test]
fn a_client_that_goes_away_leaves_its_transaction_to_go_on() {
    client_port(async |server| {
        let keys = keys_apart(2);
        let groups = server.abandon("old", &keys, 2);
        let mut client = server.connect().await;
        let body = json!({"then": [{"put": {"key": keys[0], "value": "1"}}, {"put": {"key": keys[1], "value": "1"}}]});
        let body = body.to_string();
        let head = format!("POST /v1/txn HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
        client.send(&[head.as_bytes(), body.as_bytes()].concat()).await;
        let mut tick = tokio::time::interval(Duration::from_millis(1));
        while server.fake.asked.borrow().is_empty() {
            tick.tick().await;
        }
        drop(client);
        while server.resources.metrics.http.client_connections.get() > 0 {
            tick.tick().await;
        }
        // The one in its way ends.
        let id = Id { name: Name::new(Bytes::from_static(b"old")).unwrap(), coordinator: 1, attempt: 0 };
        for group in groups {
            let abort = Settle::Decide { id: id.clone(), decision: Decision::Abort, results: None };
            let settled = server.fake.txns.command(group, Command::Settle(vec![abort]));
            assert_eq!(settled, TxnOutcome::Settled(vec![Settled::Decided(Decision::Abort)]));
        }
        while server.fake.txns.value(&keys[0]).as_deref() != Some("1") {
            tick.tick().await;
        }
        server.at_rest().await;
        assert_eq!(server.fake.txns.value(&keys[1]).as_deref(), Some("1"));
    });
}

#[test]
fn what_became_of_a_transaction_is_found_wherever_it_was() {
    client_port(async |server| {
        let [a, b] = &keys_apart(2)[..] else { panic!("two") };
        let then = json!([{"put": {"key": a, "value": "1"}}, {"get": {"key": b}}, {"get": {"key": "none"}}]);
        server.txn(&json!({"id": "t.~_-", "then": then})).await;
        let answer = server.get("/v1/txn/t.%7E_-").await;
        assert_eq!((answer.status, answer.header("annulus-epoch")), (200, Some("5")));
        let absent = json!({"version": null, "value": null});
        let results = json!([{"version": 1}, absent, absent]);
        let expected = json!({"id": "t.~_-", "state": "committed", "committed": true, "results": results});
        assert_eq!(answer.json(), expected);
        let body = json!({"id": "u", "if": [{"key": a, "exists": false}], "else": [{"get": {"key": a}}]});
        server.txn(&body).await;
        let results = json!([{"version": 1, "value": "1"}]);
        let expected = json!({"id": "u", "state": "committed", "committed": false, "results": results});
        assert_eq!(server.get("/v1/txn/u").await.json(), expected);
        let head = server.ask("HEAD /v1/txn/u", &[], b"").await;
        assert_eq!((head.status, head.body.len()), (200, 0));
        let problem = server.get("/v1/txn/other").await.problem(404, "txn-not-found");
        assert!(problem["detail"].as_str().unwrap().contains("10 minutes"), "{problem}");
        for id in ["", "a%2Fb", "%20", &"x".repeat(65)] {
            let problem = server.get(&format!("/v1/txn/{id}")).await.problem(400, "invalid-txn-id");
            assert_eq!(problem["limit"], 64);
        }
        server.get("/v1/txn/%zz").await.problem(400, "invalid-percent-encoding");
        server.get("/v1/txn/a?x=1").await.problem(400, "unknown-parameter");
    });
}

#[test]
fn an_attempt_that_was_abandoned_is_brought_to_its_end_by_whoever_asks() {
    client_port(async |server| {
        let keys = keys_apart(3);
        server.abandon("all", &keys[..2], 2);
        server.fake.txns.clock_ms.set(1000);
        let fate = server.get("/v1/txn/all").await.json();
        assert_eq!((&fate["state"], &fate["committed"]), (&json!("committed"), &json!(true)));
        assert_eq!(server.fake.txns.value(&keys[1]).as_deref(), Some("new"));
        server.at_rest().await;
        // One partition never was asked.
        server.abandon("some", &keys, 2);
        server.fake.txns.clock_ms.set(2000);
        let fate = server.get("/v1/txn/some").await.json();
        assert_eq!(fate, json!({"id": "some", "state": "aborted"}));
        assert_eq!((server.fake.txns.open(), server.fake.txns.value(&keys[2])), (0, None));
        let text = server.resources.metrics.encode().unwrap();
        for line in [
            r#"annulus_txn_recoveries_total{decision="then"} 1"#,
            r#"annulus_txn_recoveries_total{decision="abort"} 1"#,
        ] {
            assert!(text.contains(line), "{text}");
        }
    });
}

#[test]
fn one_that_is_young_is_given_time_and_is_pending_if_that_is_not_enough() {
    client_port(async |server| {
        let keys = keys_apart(2);
        let groups = server.abandon("young", &keys, 2);
        let fate = server.get("/v1/txn/young?timeout=100ms").await.json();
        assert_eq!(fate, json!({"id": "young", "state": "pending"}));
        assert_eq!(server.fake.txns.open(), 2);
        // Meanwhile its coordinator goes on.
        let (asked, ()) = tokio::join!(server.get("/v1/txn/young"), async {
            let mut tick = tokio::time::interval(Duration::from_millis(1));
            let before = server.fake.asked.borrow().len();
            while server.fake.asked.borrow().len() < before + PARTITIONS as usize {
                tick.tick().await;
            }
            let name = Name::new(Bytes::from_static(b"young")).unwrap();
            let id = Id { name, coordinator: 1, attempt: 0 };
            let decide = Settle::Decide { id, decision: Decision::Then, results: None };
            server.fake.txns.command(groups[0], Command::Settle(vec![decide]));
        });
        assert_eq!(asked.json()["state"], "committed");
    });
}

#[test]
fn a_partition_that_cannot_be_asked_leaves_open_what_became_of_one_unless_another_says_it_is_committed() {
    client_port(async |server| {
        let keys = keys_apart(3);
        server.txn(&json!({"id": "t", "then": [{"put": {"key": keys[0], "value": "1"}}]})).await;
        let cut = map().partition_of(keys[2].as_bytes()).group();
        server.fake.txns.cut.borrow_mut().push(cut);
        assert_eq!(server.get("/v1/txn/t").await.json()["state"], "committed");
        let problem = server.get("/v1/txn/u").await.problem(503, "no-leader");
        assert!(problem["detail"].as_str().unwrap().contains("transaction"), "{problem}");
        server.get("/v1/txns").await.problem(503, "no-leader");
    });
}

#[test]
fn open_transactions_are_listed_the_oldest_first() {
    client_port(async |server| {
        assert_eq!(server.get("/v1/txns").await.json(), json!({"items": [], "more": false}));
        let keys = keys_apart(4);
        server.abandon("first", &keys[..2], 2);
        server.fake.txns.clock_ms.set(300);
        let groups = server.abandon("second", &keys[2..], 2);
        let name = Name::new(Bytes::from_static(b"second")).unwrap();
        let decide =
            Settle::Decide { id: Id { name, coordinator: 1, attempt: 0 }, decision: Decision::Then, results: None };
        server.fake.txns.command(groups[0], Command::Settle(vec![decide]));
        server.fake.txns.clock_ms.set(500);
        let answer = server.get("/v1/txns").await;
        assert_eq!(answer.header("annulus-epoch"), Some("5"));
        let at: Vec<u32> = keys.iter().map(|key| map().partition_of(key.as_bytes()).0).collect();
        let item = |id: &str, at: usize, anchor: u32, state: &str, age_ms: u64, keys: u32, participants: &[u32]| {
            json!({
                "id": id, "attempt": 0, "partition": at, "anchor": anchor, "state": state, "age_ms": age_ms,
                "keys": keys, "participants": participants,
            })
        };
        let expected = json!([
            item("first", at[0] as usize, at[0], "prepared", 500, 1, &at[..2]),
            item("first", at[1] as usize, at[0], "prepared", 500, 1, &[]),
            item("second", at[2] as usize, at[2], "committed", 200, 0, &at[2..]),
            item("second", at[3] as usize, at[2], "prepared", 200, 1, &[]),
        ]);
        assert_eq!(answer.json(), json!({"items": expected, "more": false}));
        let first = server.get("/v1/txns?limit=1").await.json();
        assert_eq!(first, json!({"items": [expected[0]], "more": true}));
        server.get("/v1/txns?limit=0").await.problem(400, "invalid-parameter");
        server.get("/v1/txns?prefix=a").await.problem(400, "unknown-parameter");
    });
}

#[test]
fn what_is_committed_is_told_even_when_there_is_no_room_for_answers() {
    let limits = Limits { max_bytes_in_flight: 200_000, ..Limits::default() };
    with_limits(Port::Client, limits, async |server| {
        for part in ["a", "b", "c"] {
            let body = json!({"then": [{"put": {"key": part, "value": "x".repeat(100_000)}}]});
            assert_eq!(server.txn(&body).await.status, 200);
        }
        let gets = json!([{"get": {"key": "a"}}, {"get": {"key": "b"}}, {"get": {"key": "c"}}]);
        server.txn(&json!({"then": gets})).await.problem(429, "overloaded");
        let answer = server.txn(&json!({"id": "t", "then": gets})).await;
        assert_eq!((answer.status, answer.json()["results"].as_array().unwrap().len()), (200, 3));
        assert_eq!(server.resources.metrics.http.bytes_in_flight.get(), 0);
    });
}
