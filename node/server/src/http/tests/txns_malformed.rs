//! Bodies of `POST /v1/txn` that are refused, and that nothing is done of them.

use serde_json::json;

use super::*;

/// Every refusal of these bodies must have this kind, and none may reach a partition.
async fn refused(server: &Server, status: u16, slug: &str, body: &Value) -> Value {
    let answer = server.ask("POST /v1/txn", &[], body.to_string().as_bytes()).await;
    assert!(server.fake.asked.borrow().is_empty(), "{body}");
    answer.problem(status, slug)
}

fn put(key: &str) -> Value {
    json!({"put": {"key": key, "value": "v"}})
}

#[test]
fn json_that_is_no_transaction_is_400_and_says_where() {
    client_port(async |server| {
        for (body, says) in [
            ("", "EOF"),
            ("[]", "invalid"),
            ("{\"then\":[", "EOF"),
            (r#"{"than":[]}"#, "`than`"),
            (r#"{"then":[],"then":[]}"#, "duplicate field `then`"),
            (r#"{"then":[{"put":{"key":"a","value":"v","ttl":1}}]}"#, "`ttl`"),
            (r#"{"then":[{"put":{"key":"a","key":"b","value":"v"}}]}"#, "duplicate field `key`"),
            (r#"{"then":[{"put":{"key":"a","value":"v"},"put":{"key":"b","value":"v"}}]}"#, "duplicate field `put`"),
            (r#"{"if":[{"key":"a","exists":1}]}"#, "boolean"),
            (r#"{"then":{}}"#, "a list"),
            (r#"{"id":7,"then":[]}"#, "string"),
            (r#"{"then":[]} x"#, "trailing"),
            (r#"{"then":[{"get":{"key":"\ud800"}}]}"#, "hex escape"),
        ] {
            let problem = server.ask("POST /v1/txn", &[], body.as_bytes()).await.problem(400, "invalid-json");
            assert!(problem["detail"].as_str().unwrap().contains(says), "{body}: {problem}");
            assert!(problem["line"].is_u64() && problem["column"].is_u64(), "{problem}");
        }
        let deep = format!("{{\"then\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        server.ask("POST /v1/txn", &[], deep.as_bytes()).await.problem(400, "invalid-json");
        for nothing in [json!({}), json!({"id": "t"}), json!({"if": [], "then": [], "else": []})] {
            refused(&server, 400, "invalid-json", &nothing).await;
        }
    });
}

#[test]
fn an_operation_or_a_condition_that_is_not_exactly_one_is_400_with_its_place() {
    client_port(async |server| {
        let get = json!({"get": {"key": "a"}});
        let key = |check: &str, value: Value| json!({"key": "a", check: value});
        let mut two = key("version", json!(1));
        two["exists"] = json!(true);
        for (list, item, place) in [
            ("then", json!({}), "then[1]"),
            ("then", json!({"put": {"key": "b", "value": "v"}, "delete": {"key": "b"}}), "then[1]"),
            ("else", json!({"put": {"key": "b"}}), "else[1]"),
            ("else", json!({"put": {"value": "b"}}), "else[1]"),
            ("else", json!({"get": {}}), "else[1]"),
            ("then", json!({"delete": {"key": "b", "key_base64": "Yg=="}}), "then[1]"),
            ("then", json!({"get": {"key_base64": "Yg"}}), "then[1]"),
            ("then", json!({"put": {"key": "b", "value_base64": "%%"}}), "then[1]"),
        ] {
            let problem = refused(&server, 400, "invalid-json", &json!({list: [get, item]})).await;
            assert_eq!(problem["place"], place, "{problem}");
            assert!(problem["detail"].as_str().unwrap().contains(&format!("`{place}")), "{problem}");
        }
        for condition in [
            json!({}),
            json!({"key": "a"}),
            two,
            json!({"exists": true}),
            json!({"key": "a", "value": "v", "value_base64": "dg=="}),
            json!({"key": "a", "version": 1, "token": 7}),
            json!({"lock": "l"}),
            json!({"lock": "l", "token": 7, "key": "a"}),
            json!({"lock": "l", "lock_base64": "bA==", "token": 7}),
            json!({"lock": "l", "token": -7}),
            key("version", json!(-1)),
            key("version", json!(1.5)),
            key("version", json!(1e300)),
            key("version", json!(null)),
        ] {
            let problem = refused(&server, 400, "invalid-json", &json!({"if": [condition], "then": [get]})).await;
            assert_eq!(problem["place"], "if[0]", "{problem}");
        }
        let number = json!({"if": [{"key": "a", "version": u64::MAX}], "then": [get]});
        let answer = server.ask("POST /v1/txn", &[], number.to_string().as_bytes()).await;
        assert_eq!(answer.json()["committed"], false);
    });
}

#[test]
fn keys_locks_and_ids_that_cannot_be_are_400() {
    client_port(async |server| {
        for (item, slug) in [("", "empty-key"), (&"k".repeat(4097)[..], "key-too-long")] {
            for (body, place) in [
                (json!({"then": [put("a"), put(item)]}), "then[1]"),
                (json!({"else": [{"get": {"key": item}}]}), "else[0]"),
                (json!({"if": [{"key": item, "exists": true}]}), "if[0]"),
            ] {
                let problem = refused(&server, 400, slug, &body).await;
                assert_eq!((&problem["place"], &problem["limit"]), (&json!(place), &json!(4096)));
            }
        }
        for lock in ["", &"l".repeat(513)] {
            let problem =
                refused(&server, 400, "invalid-lock-name", &json!({"if": [{"lock": lock, "token": 1}]})).await;
            assert_eq!(problem["place"], "if[0]");
        }
        for id in ["", "~a", "a b", "a/b", "é", &"x".repeat(65)] {
            let problem = refused(&server, 400, "invalid-txn-id", &json!({"id": id, "then": [put("a")]})).await;
            assert_eq!((&problem["field"], &problem["limit"]), (&json!("id"), &json!(64)));
        }
    });
}

#[test]
fn the_same_key_twice_in_a_list_is_400_with_both_places() {
    client_port(async |server| {
        let get = |key: &str| json!({"get": {"key": key}});
        for (body, places) in [
            (json!({"then": [put("a"), get("b"), get("a")]}), ["then[0]", "then[2]"]),
            (
                json!({"then": [put("a")], "else": [get("b"), {"delete": {"key_base64": "Yg=="}}]}),
                ["else[0]", "else[1]"],
            ),
            (
                json!({"if": [{"key": "a", "exists": true}, {"lock": "a", "token": 1}, {"key": "a", "version": 1}]}),
                ["if[0]", "if[2]"],
            ),
            (json!({"if": [{"lock": "a", "token": 2}, {"lock": "a", "token": 1}]}), ["if[0]", "if[1]"]),
        ] {
            let problem = refused(&server, 400, "txn-key-twice", &body).await;
            assert_eq!(problem["places"], json!(places), "{problem}");
        }
        let body = json!({"if": [{"key": "a", "exists": false}], "then": [put("a")], "else": [put("a")]});
        assert_eq!(server.ask("POST /v1/txn", &[], body.to_string().as_bytes()).await.status, 200);
    });
}

#[test]
fn a_transaction_that_is_too_large_is_refused_with_the_limit() {
    client_port(async |server| {
        let puts = |count: usize| (0..count).map(|n| put(&format!("k{n}"))).collect::<Vec<_>>();
        let body = json!({"if": [{"key": "a", "exists": true}], "then": puts(100), "else": puts(28)});
        let problem = refused(&server, 400, "txn-too-large", &body).await;
        assert_eq!((&problem["limit"], &problem["found"]), (&json!(128), &json!(129)));
        let many = format!("{{\"then\":[{}{{}}]}}", "{},".repeat(600_000));
        let problem = server.ask("POST /v1/txn", &[], many.as_bytes()).await.problem(400, "txn-too-large");
        assert_eq!(problem["found"], 600_001);
        let half = "x".repeat(1 << 19);
        let body = json!({"then": [{"put": {"key": "a", "value": half}}, {"put": {"key": "b", "value": half}}]});
        let problem = refused(&server, 400, "txn-too-large", &body).await;
        assert_eq!((&problem["limit"], &problem["found"]), (&json!(1 << 20), &json!((1 << 20) + 2)));
        let mut client = server.connect().await;
        client.send(b"POST /v1/txn HTTP/1.1\r\nHost: a\r\nContent-Length: 2097153\r\n\r\n").await;
        assert_eq!(client.answer().await.problem(413, "body-too-large")["limit"], 2 << 20);
        client.closed().await;
        let full = json!({"then": puts(128)});
        assert_eq!(server.ask("POST /v1/txn", &[], full.to_string().as_bytes()).await.status, 200);
    });
}

#[test]
fn a_value_above_the_limit_is_413_and_a_time_to_live_out_of_range_422() {
    let limits = Limits { max_value_bytes: 10, ..Limits::default() };
    with_limits(Port::Client, limits, async |server| {
        let body = json!({"then": [put("a"), {"put": {"key": "b", "value": "x".repeat(11)}}]});
        let problem = refused(&server, 413, "body-too-large", &body).await;
        assert_eq!((&problem["place"], &problem["limit"]), (&json!("then[1]"), &json!(10)));
        for ttl_ms in [json!(0), json!(-1), json!(1.5), json!(315_360_000_001_u64), json!(18_446_744_073_709_551_616.0)]
        {
            let body = json!({"then": [{"put": {"key": "a", "value": "v", "ttl_ms": ttl_ms}}]});
            let problem = refused(&server, 422, "invalid-ttl", &body).await;
            assert_eq!((&problem["place"], &problem["minimum_ms"]), (&json!("then[0]"), &json!(1)));
            assert_eq!(problem["maximum_ms"], 315_360_000_000_u64);
        }
    });
}

#[test]
fn headers_and_parameters_that_mean_nothing_to_a_transaction_are_400() {
    client_port(async |server| {
        let body = json!({"then": [put("a")]}).to_string();
        for (header, slug) in [
            ("If-Match: \"1\"", "invalid-condition"),
            ("If-None-Match: *", "invalid-condition"),
            ("Idempotency-Key: a", "invalid-header"),
            ("Annulus-Fence: a", "invalid-header"),
            ("Annulus-Operator-Fence: 1", "invalid-header"),
        ] {
            server.ask("POST /v1/txn", &[header], body.as_bytes()).await.problem(400, slug);
        }
        server.ask("POST /v1/txn?timeout=0s", &[], body.as_bytes()).await.problem(400, "invalid-parameter");
        server.ask("POST /v1/txn?ttl=1s", &[], body.as_bytes()).await.problem(400, "unknown-parameter");
        for request in ["GET /v1/txn", "PUT /v1/txn", "POST /v1/txn/a", "DELETE /v1/txn/a", "POST /v1/txns"] {
            let answer = server.ask(request, &[], b"").await;
            answer.problem(405, "method-not-allowed");
        }
        for request in ["GET /v1/txn/a", "GET /v1/txns"] {
            server.ask(request, &["Annulus-Fence: a=7"], b"").await.problem(400, "invalid-header");
        }
        assert!(server.fake.asked.borrow().is_empty());
        let there_is = server.get("/v1/transaction").await.problem(404, "unknown-path");
        assert!(there_is["detail"].as_str().unwrap().contains("/v1/txn, /v1/txn/{id}, /v1/txns"), "{there_is}");
    });
    admin_port(async |server| {
        server.get("/v1/txns").await.problem(404, "unknown-path");
    });
}
