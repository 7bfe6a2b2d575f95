//! `/v1/kv/{key}`.

use annulus_core::lane::{Operation, Refusal, Reply};
use annulus_core::partition::{Change, Condition, Consistency, Outcome, Write};

use super::*;

/// The write that the store was asked for last.
fn last_write(server: &Server) -> Write {
    let asked = server.fake.asked.borrow();
    let Some((_, Operation::Write(write), _)) = asked.last() else { panic!("no write: {asked:?}") };
    write.clone()
}

#[test]
fn a_key_is_created_read_replaced_and_deleted() {
    client_port(async |server| {
        let mut client = server.connect().await;
        let created = client.ask("PUT /v1/kv/a/b", &[], b"one").await;
        assert_eq!((created.status, created.header("etag")), (201, Some("\"17\"")));
        assert_eq!(created.header("annulus-epoch"), Some("5"));
        let replaced = client.ask("PUT /v1/kv/a/b", &[], b"two").await;
        assert_eq!((replaced.status, replaced.header("etag")), (204, Some("\"18\"")));
        let read = client.ask("GET /v1/kv/a/b", &[], b"").await;
        assert_eq!((read.status, read.header("etag"), &read.body[..]), (200, Some("\"18\""), &b"two"[..]));
        assert_eq!(read.header("content-type"), Some("application/octet-stream"));
        let head = client.ask("HEAD /v1/kv/a/b", &[], b"").await;
        assert_eq!((head.status, head.header("content-length"), head.header("etag")), (200, Some("3"), Some("\"18\"")));
        assert_eq!(client.ask("DELETE /v1/kv/a/b", &[], b"").await.status, 204);
        client.ask("DELETE /v1/kv/a/b", &[], b"").await.problem(404, "key-not-found");
        client.ask("GET /v1/kv/a/b", &[], b"").await.problem(404, "key-not-found");
        assert_eq!(client.ask("HEAD /v1/kv/a/b", &[], b"").await.status, 404);
    });
}

#[test]
fn a_member_that_does_not_lead_says_who_does() {
    client_port(async |server| {
        assert_eq!(server.ask("PUT /v1/kv/a", &[], b"v").await.header("annulus-leader"), None);
        server.fake.elsewhere.set(Some(member(3)));
        for (request, status) in
            [("PUT /v1/kv/a", 204), ("GET /v1/kv/a", 200), ("HEAD /v1/kv/a", 200), ("GET /v1/kv/b", 404)]
        {
            let answer = server.ask(request, &[], b"v").await;
            assert_eq!(
                (answer.status, answer.header("annulus-leader")),
                (status, Some("0000000000000003")),
                "{request}"
            );
        }
    });
}

#[test]
fn a_write_takes_its_conditions_time_to_live_name_and_timeout_along() {
    client_port(async |server| {
        let headers = ["If-None-Match: *", "Idempotency-Key: order-1"];
        assert_eq!(server.ask("PUT /v1/kv/a?ttl=30s&timeout=2s", &headers, b"v").await.status, 201);
        let write = last_write(&server);
        assert_eq!(write.condition, Condition::Absent);
        assert_eq!(write.change, Change::Put { value: Bytes::from_static(b"v"), ttl_ms: Some(30_000) });
        assert_eq!(write.idempotency_key.as_deref(), Some(&b"order-1"[..]));
        let (group, _, timeout) = server.fake.asked.borrow().last().cloned().unwrap();
        assert_eq!((group, timeout), (map().partition_of(b"a").group(), Duration::from_secs(2)));
        assert_eq!(server.ask("DELETE /v1/kv/a", &["If-Match: \"17\""], b"").await.status, 204);
        assert_eq!(last_write(&server).condition, Condition::Version(17));
        assert_eq!(server.fake.asked.borrow().last().unwrap().2, Duration::from_secs(5));
    });
}

#[test]
fn a_condition_that_does_not_hold_is_412_with_the_version_that_is_there() {
    client_port(async |server| {
        let version = server.fake.put("a", "v");
        let future = server.ask("PUT /v1/kv/a", &["If-Match: \"999\""], b"w").await;
        assert_eq!(future.header("etag"), Some(&*format!("\"{version}\"")));
        assert_eq!(future.problem(412, "condition-failed")["current_version"], version);
        let absent = server.ask("PUT /v1/kv/b", &["If-Match: *"], b"w").await;
        assert_eq!(absent.header("etag"), None);
        absent.problem(412, "condition-failed");
        server.ask("PUT /v1/kv/a", &["If-None-Match: *"], b"w").await.problem(412, "condition-failed");
        assert_eq!(server.fake.keys.borrow()[&b"a"[..]].value, "v");
    });
}

#[test]
fn a_condition_or_a_parameter_that_is_not_understood_is_never_dropped() {
    client_port(async |server| {
        server.ask("PUT /v1/kv/a", &["If-Match: 17"], b"v").await.problem(400, "invalid-condition");
        server.ask("GET /v1/kv/a", &["If-Match: \"17\""], b"").await.problem(400, "invalid-condition");
        server.ask("PUT /v1/kv/a", &["If-Match: \"1\"", "If-Match: \"2\""], b"v").await.problem(400, "invalid-header");
        let unknown = server.ask("PUT /v1/kv/a?tll=30s", &[], b"v").await.problem(400, "unknown-parameter");
        assert_eq!(unknown["parameter"], "tll");
        server.ask("PUT /v1/kv/a?consistency=stale", &[], b"v").await.problem(400, "unknown-parameter");
        server.ask("PUT /v1/kv/a?timeout=5", &[], b"v").await.problem(400, "invalid-parameter");
        server.get("/v1/kv/a?timeout=61s").await.problem(400, "invalid-parameter");
        server.get("/v1/kv/a?consistency=strong").await.problem(400, "invalid-parameter");
        let unknown = server.ask("PUT /v1/kv/a", &["Annulus-Lock: a=7"], b"v").await.problem(400, "invalid-header");
        assert_eq!(unknown["header"], "annulus-lock");
        let fence = server.ask("PUT /v1/kv/a", &["Annulus-Operator-Fence: 7"], b"v").await;
        assert_eq!(fence.problem(400, "invalid-header")["header"], "annulus-operator-fence");
        let long = format!("Idempotency-Key: {}", "k".repeat(256));
        server.ask("PUT /v1/kv/a", &[&long], b"v").await.problem(400, "invalid-header");
        assert!(server.fake.asked.borrow().is_empty());
    });
}

#[test]
fn a_read_is_304_when_the_client_has_the_version() {
    client_port(async |server| {
        let version = server.fake.put("a", "v");
        let header = format!("If-None-Match: \"1\", \"{version}\"");
        let unchanged = server.ask("GET /v1/kv/a", &[&header], b"").await;
        assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
        assert_eq!(unchanged.header("etag"), Some(&*format!("\"{version}\"")));
        assert_eq!(server.ask("GET /v1/kv/a", &["If-None-Match: \"1\""], b"").await.status, 200);
    });
}

#[test]
fn a_read_says_who_may_answer() {
    client_port(async |server| {
        for (path, expected) in [
            ("/v1/kv/a", Consistency::Linearizable),
            ("/v1/kv/a?consistency=linearizable", Consistency::Linearizable),
            ("/v1/kv/a?consistency=quorum", Consistency::Quorum),
            ("/v1/kv/a?consistency=stale", Consistency::Stale),
        ] {
            server.get(path).await;
            let asked = server.fake.asked.borrow();
            assert!(
                matches!(asked.last(), Some((_, Operation::Get { consistency, .. }, _)) if *consistency == expected)
            );
        }
    });
}

#[test]
fn keys_are_the_bytes_of_the_path_and_values_any_bytes() {
    client_port(async |server| {
        for (path, key) in [
            ("..", &b".."[..]),
            ("a/../b", b"a/../b"),
            ("a%2Fb", b"a/b"),
            ("%00", b"\0"),
            ("a//b/", b"a//b/"),
            ("%ff%FE", b"\xff\xfe"),
            ("a+b", b"a+b"),
        ] {
            let value: Vec<u8> = (0..=255).collect();
            assert_eq!(server.ask(&format!("PUT /v1/kv/{path}"), &[], &value).await.status, 201, "{path}");
            assert_eq!(server.fake.keys.borrow()[key].value, value, "{path}");
            assert_eq!(server.get(&format!("/v1/kv/{path}")).await.body, value, "{path}");
            server.fake.keys.borrow_mut().clear();
        }
    });
}

#[test]
fn keys_that_cannot_be_are_400_with_the_limit() {
    client_port(async |server| {
        assert_eq!(server.get("/v1/kv/").await.problem(400, "empty-key")["limit"], 4096);
        let long = format!("PUT /v1/kv/{}", "k".repeat(4097));
        assert_eq!(server.ask(&long, &[], b"v").await.problem(400, "key-too-long")["limit"], 4096);
        let longest = format!("PUT /v1/kv/{}", "%6b".repeat(4096));
        assert_eq!(server.ask(&longest, &[], b"v").await.status, 201);
        server.get("/v1/kv/%zz").await.problem(400, "invalid-percent-encoding");
    });
}

#[test]
fn a_time_to_live_out_of_range_is_422_with_the_range() {
    client_port(async |server| {
        for ttl in ["0s", "-1s", "18446744073709551616s", "NaN", "30", "3651d"] {
            let answer = server.ask(&format!("PUT /v1/kv/a?ttl={ttl}"), &[], b"v").await;
            let problem = answer.problem(422, "invalid-ttl");
            assert_eq!((&problem["minimum_ms"], &problem["maximum_ms"]), (&1.into(), &315_360_000_000_u64.into()));
        }
        assert!(server.fake.asked.borrow().is_empty());
    });
}

#[test]
fn each_refusal_has_its_status_and_says_when_to_come_back() {
    client_port(async |server| {
        for (reply, status, slug, retry) in [
            (Reply::Refused(Refusal::Busy), 429, "overloaded", Some("1")),
            (Reply::Refused(Refusal::NotLeader { leader: None }), 503, "no-leader", Some("1")),
            (Reply::Refused(Refusal::NoReplica), 503, "no-leader", Some("1")),
            (Reply::Refused(Refusal::TimedOut), 503, "timed-out", Some("1")),
            (Reply::Refused(Refusal::DiskFull), 507, "disk-full", Some("1")),
            (Reply::OutcomeUnknown, 504, "outcome-unknown", None),
            (Reply::Write(Outcome::IdempotencyConflict), 409, "idempotency-conflict", None),
            (Reply::Scan(Page::default()), 500, "internal", None),
        ] {
            server.fake.script(reply);
            let answer = server.ask("PUT /v1/kv/a", &[], b"v").await;
            answer.problem(status, slug);
            assert_eq!(answer.header("retry-after"), retry, "{slug}");
            assert_eq!(answer.header("annulus-epoch"), Some("5"));
        }
    });
}

#[test]
fn before_bootstrap_every_key_is_503() {
    client_port(async |server| {
        *server.fake.map.borrow_mut() = None;
        for request in ["GET /v1/kv/a", "PUT /v1/kv/a", "DELETE /v1/kv/a", "GET /v1/kv", "GET /v1/ring"] {
            let answer = server.ask(request, &[], b"").await;
            answer.problem(503, "not-bootstrapped");
            assert_eq!((answer.header("retry-after"), answer.header("annulus-epoch")), (Some("1"), Some("0")));
        }
    });
}

#[test]
fn values_come_in_one_piece_in_chunks_or_empty() {
    client_port(async |server| {
        let mut client = server.connect().await;
        client.send(b"PUT /v1/kv/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        client.send(b"3\r\none\r\n4;x=y\r\n-two\r\n").await;
        client.send(b"0\r\nTrailer: ignored\r\n\r\n").await;
        assert_eq!(client.answer().await.status, 201);
        assert_eq!(server.fake.keys.borrow()[&b"a"[..]].value, "one-two");
        assert_eq!(client.ask("PUT /v1/kv/a", &[], b"").await.status, 204);
        assert_eq!(server.fake.keys.borrow()[&b"a"[..]].value, "");
        let large = vec![b'x'; 1024 * 1024];
        assert_eq!(client.ask("PUT /v1/kv/a", &[], &large).await.status, 204);
        assert_eq!(client.ask("GET /v1/kv/a", &[], b"").await.body, large);
        assert_eq!(server.resources.metrics.http.bytes_in_flight.get(), 0);
    });
}
