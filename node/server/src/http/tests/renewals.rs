//! `/v1/renewals`.

use annulus_core::lane::{Operation, Refusal, Reply};
use annulus_core::partition::lock::{Command, Name};
use serde_json::json;

use super::*;

impl Server {
    async fn renew_all(&self, locks: Value) -> Answer {
        self.ask("POST /v1/renewals", &[], json!({"locks": locks}).to_string().as_bytes()).await
    }

    async fn hold(&self, name: &str) -> u64 {
        let body = json!({"owner": "p", "ttl_ms": 10000}).to_string();
        let answer = self.ask(&format!("POST /v1/locks/{name}"), &[], body.as_bytes()).await;
        answer.json()["token"].as_u64().unwrap()
    }
}

#[test]
fn each_lock_of_a_renewal_is_answered_for_itself_and_in_order() {
    client_port(async |server| {
        let (first, other) = (server.hold("a").await, server.hold("%ff%2F").await);
        server.fake.locks.clock_ms.set(5000);
        let answer = server
            .renew_all(json!([
                {"name": "a", "token": first, "ttl_ms": 20000},
                {"name": "nobody's", "token": 3, "ttl_ms": 10000},
                {"name_base64": "/y8=", "token": other, "ttl_ms": 9000},
                {"name": "a", "token": other, "ttl_ms": 10000},
            ]))
            .await;
        assert_eq!((answer.status, answer.header("annulus-epoch")), (200, Some("5")));
        let json = answer.json();
        assert_eq!(json["locks"].as_array().unwrap().len(), 4);
        assert_eq!(json["locks"][0], json!({"name": "a", "token": first, "ttl_ms": 20000, "valid_ms": 20000}));
        let renewed = json!({"name_base64": "/y8=", "token": other, "ttl_ms": 9000, "valid_ms": 9000});
        assert_eq!(json["locks"][2], renewed);
        for (at, name, token, holder) in [(1, "nobody's", 3, Value::Null), (3, "a", other, json!("p"))] {
            let lock = &json["locks"][at];
            assert_eq!((&lock["name"], &lock["token"], lock.get("valid_ms")), (&json!(name), &json!(token), None));
            let problem = &lock["problem"];
            assert_eq!(
                (&problem["status"], &problem["holder"].get("owner").cloned().unwrap_or_default()),
                (&json!(409), &holder)
            );
            assert!(problem["type"].as_str().unwrap().ends_with("/lock-not-held"), "{problem}");
        }
        assert_eq!(server.get("/v1/locks/a").await.json()["holders"][0]["left_ms"], 20000);
    });
}

#[test]
fn what_one_partition_cannot_do_says_nothing_of_the_others() {
    client_port(async |server| {
        let token = server.hold("c").await;
        server.fake.elsewhere.set(Some(member(2)));
        server.fake.script(Reply::Refused(Refusal::NotLeader { leader: None }));
        server.fake.script(Reply::OutcomeUnknown);
        let lock = |name: &str| json!({"name": name, "token": token, "ttl_ms": 10000});
        let answer = server.renew_all(json!([lock("a"), lock("b"), lock("c")])).await;
        let json = answer.json();
        let slug = |at: usize| json["locks"][at]["problem"]["type"].as_str().unwrap_or("").rsplit('/').next().unwrap();
        assert_eq!((answer.status, slug(0), slug(1), slug(2)), (200, "no-leader", "outcome-unknown", ""));
        assert_eq!(json["locks"][2]["leader"], member(2).to_string());
        assert_eq!(json["locks"][2]["valid_ms"], 10000);
    });
}

#[test]
fn all_locks_of_a_renewal_are_asked_at_once_in_their_partitions_with_one_timeout() {
    client_port(async |server| {
        server.fake.silent.set(true);
        let locks: Vec<_> = (0..256).map(|at| json!({"name": format!("l{at}"), "token": at, "ttl_ms": 500})).collect();
        let body = json!({"locks": locks}).to_string();
        let mut client = server.connect().await;
        let head =
            format!("POST /v1/renewals?timeout=3s HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", body.len());
        client.send(&[head.as_bytes(), body.as_bytes()].concat()).await;
        let mut tick = tokio::time::interval(Duration::from_millis(1));
        while server.fake.asked.borrow().len() < 256 {
            tick.tick().await;
        }
        for (at, (group, operation, timeout)) in server.fake.asked.borrow().iter().enumerate() {
            let name = Name::new(Bytes::from(format!("l{at}"))).unwrap();
            assert_eq!((*group, *timeout), (map().partition_of(name.bytes()).group(), Duration::from_secs(3)));
            let Operation::Lock(Command::Renew { name: asked, token, ttl_ms }) = operation else {
                panic!("{operation:?}")
            };
            assert_eq!((asked, *token, *ttl_ms), (&name, at as u64, 500));
        }
    });
}

#[test]
fn a_renewal_that_cannot_be_read_is_refused_as_a_whole_and_names_the_place() {
    client_port(async |server| {
        let lock = json!({"name": "a", "token": 1, "ttl_ms": 1000});
        for (bad, status, slug) in [
            (json!({"name": "a", "token": 1, "ttl_ms": 499}), 422, "invalid-ttl"),
            (json!({"name": "", "token": 1, "ttl_ms": 1000}), 400, "invalid-lock-name"),
            (json!({"name_base64": "%", "token": 1, "ttl_ms": 1000}), 400, "invalid-json"),
            (json!({"name": "a", "name_base64": "YQ==", "token": 1, "ttl_ms": 1000}), 400, "invalid-json"),
            (json!({"token": 1, "ttl_ms": 1000}), 400, "invalid-json"),
        ] {
            let problem = server.renew_all(json!([lock, bad])).await.problem(status, slug);
            assert_eq!(problem["place"], "locks[1]", "{problem}");
        }
        for bad in
            [json!({"name": "a", "ttl_ms": 1000}), json!({"name": "a", "token": 1, "ttl_ms": 1000, "wait_ms": 1})]
        {
            server.renew_all(json!([bad])).await.problem(400, "invalid-json");
        }
        for (count, found) in [(0, 0), (257, 257), (10_000, 10_000)] {
            let problem = server.renew_all(Value::from(vec![lock.clone(); count])).await.problem(400, "invalid-json");
            assert_eq!((&problem["limit"], &problem["found"]), (&json!(256), &json!(found)));
        }
        let large = json!([{"name": "n".repeat(1 << 20), "token": 1, "ttl_ms": 1000}]);
        assert_eq!(server.renew_all(large).await.problem(413, "body-too-large")["limit"], 1 << 20);
        let body = json!({"locks": [lock]}).to_string();
        server.ask("POST /v1/renewals", &["If-Match: *"], body.as_bytes()).await.problem(400, "invalid-condition");
        server.ask("POST /v1/renewals", &["Annulus-Fence: a=1"], body.as_bytes()).await.problem(400, "invalid-header");
        server.ask("POST /v1/renewals?wait=1", &[], body.as_bytes()).await.problem(400, "unknown-parameter");
        server.get("/v1/renewals").await.problem(405, "method-not-allowed");
        assert!(server.fake.asked.borrow().is_empty());
    });
}
