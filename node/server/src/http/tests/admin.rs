//! The admin port.

use super::*;

fn body() -> Value {
    let members = (1..=3).map(|number| {
        serde_json::json!({
            "id": member(number).to_string(), "name": format!("node-{number}"), "zone": "a", "weight": 100,
            "client_address": format!("10.0.0.{number}:7070"), "peer_address": format!("10.0.0.{number}:7270"),
            "admin_address": format!("10.0.0.{number}:7170"),
        })
    });
    let members: Vec<_> = members.collect();
    serde_json::json!({"cluster": CLUSTER.to_string(), "partitions": 8, "replication_factor": 3, "members": members})
}

async fn bootstrap(server: &Server, body: &str) -> Answer {
    server.ask("POST /admin/v1/bootstrap", &[], body.as_bytes()).await
}

#[test]
fn the_status_tells_how_the_member_is() {
    admin_port(async |server| {
        let status = server.get("/admin/v1/status").await.json();
        assert_eq!(
            status,
            serde_json::json!({
                "id": "0000000000000001", "name": "node-1", "zone": "a", "weight": 100, "client_address": "10.0.0.1:7070",
                "peer_address": "10.0.0.1:7270", "admin_address": "10.0.0.1:7170", "version": env!("CARGO_PKG_VERSION"),
                "cluster": CLUSTER.to_string(), "epoch": 5, "ready": true, "not_ready": [], "lanes": 2, "replicas": 9,
                "leaders": 3, "moves_in": 2, "evicted": false, "disk_bytes_free": 3_221_225_472_u64,
                "disk_bytes_total": 10_737_418_240_u64, "data_bytes": 1_073_741_824_u64, "uptime_seconds": 60,
            })
        );
        *server.fake.map.borrow_mut() = None;
        assert_eq!(server.get("/admin/v1/status").await.json()["cluster"], Value::Null);
        server.get("/v1/kv/a").await.problem(404, "unknown-path");
    });
}

#[test]
fn a_member_that_asks_another_who_it_is_reads_it_from_that_ones_status() {
    admin_port(async |server| {
        let address = server.address.to_string();
        let ask = || crate::router::identify::ask(&address, Duration::from_secs(10));
        let expected = Identified {
            id: member(1),
            name: "node-1".to_owned(),
            zone: "a".to_owned(),
            cluster: Some(CLUSTER),
            peer_address: Some("10.0.0.1:7270".to_owned()),
        };
        assert_eq!(ask().await, Ok(expected.clone()));
        *server.fake.map.borrow_mut() = None;
        assert_eq!(ask().await, Ok(Identified { cluster: None, ..expected }));
    });
}

#[test]
fn a_bootstrap_may_be_repeated_but_not_with_other_content() {
    admin_port(async |server| {
        for _ in 0..2 {
            let answer = bootstrap(&server, &body().to_string()).await;
            assert_eq!(answer.json(), serde_json::json!({"cluster": CLUSTER.to_string(), "epoch": 1}));
        }
        let mut other = body();
        other["cluster"] = "00000000-0000-0000-0000-000000000009".into();
        let problem = bootstrap(&server, &other.to_string()).await.problem(409, "bootstrap-conflict");
        assert_eq!(problem["ours"], CLUSTER.to_string());
        assert_eq!(problem["theirs"], "00000000-0000-0000-0000-000000000009");
    });
}

#[test]
fn a_bootstrap_without_this_member_or_with_impossible_numbers_is_422() {
    admin_port(async |server| {
        let mut without = body();
        without["members"].as_array_mut().unwrap().remove(0);
        without["replication_factor"] = 2.into();
        let problem = bootstrap(&server, &without.to_string()).await.problem(422, "invalid-bootstrap");
        assert_eq!(problem["member"], "0000000000000001");
        for (field, value) in [("partitions", 100), ("partitions", 0), ("replication_factor", 4)] {
            let mut impossible = body();
            impossible[field] = value.into();
            let problem = bootstrap(&server, &impossible.to_string()).await.problem(422, "invalid-bootstrap");
            assert!(problem["detail"].as_str().unwrap().contains(field), "{problem}");
        }
    });
}

#[test]
fn json_that_is_wrong_is_400_naming_the_field_and_the_place() {
    admin_port(async |server| {
        let good = body().to_string();
        for (json, expected) in [
            (good[..40].to_owned(), "EOF while parsing"),
            (format!("{good}x"), "trailing characters"),
            (String::new(), "EOF while parsing"),
            ("[".repeat(10_000), "invalid type: sequence"),
            (format!("{{\"cluster\":{}", "[".repeat(10_000)), "invalid type: sequence"),
            (
                good.replacen("\"partitions\"", "\"partition\"", 1),
                "unknown field `partition`, expected one of `cluster`",
            ),
            (good.replacen('{', "{\"partitions\":8,", 1), "duplicate field `partitions`"),
            (good.replacen("\"zone\":\"a\"", "\"zone\":\"a\",\"rack\":1", 1), "unknown field `rack`"),
            (good.replacen("\"partitions\":8", "\"partitions\":-8", 1), "invalid value: integer `-8`, expected u32"),
            (good.replacen("0000000000000001", "1", 1), "`1` is not a member id"),
            (good.replacen("07070707", "7", 1), "is not a cluster id"),
        ] {
            let problem = bootstrap(&server, &json).await.problem(400, "invalid-json");
            assert!(problem["detail"].as_str().unwrap().contains(expected), "{problem}\n{expected}");
            assert!(problem["line"].as_u64().is_some() && problem["column"].as_u64().is_some());
        }
        assert!(server.fake.first_map.borrow().is_none());
    });
}

#[test]
fn the_body_of_a_bootstrap_is_bounded_and_its_method_is_post() {
    admin_port(async |server| {
        let mut client = server.connect().await;
        client.send(b"POST /admin/v1/bootstrap HTTP/1.1\r\nHost: a\r\nContent-Length: 1048577\r\n\r\n").await;
        assert_eq!(client.answer().await.problem(413, "body-too-large")["limit"], 1_048_576);
        server.get("/admin/v1/bootstrap").await.problem(405, "method-not-allowed");
    });
}
