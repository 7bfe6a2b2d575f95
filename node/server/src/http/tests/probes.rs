//! What is not about keys: probes, metrics, the ring, the description, and paths that are not there.

use super::*;

#[test]
fn health_and_readiness_are_told_on_both_ports() {
    for port in [Port::Client, Port::Admin] {
        with_limits(port, Limits::default(), async |server| {
            assert_eq!(server.get("/healthz").await.body, b"ok\n");
            assert_eq!(server.get("/readyz").await.status, 200);
            *server.fake.not_ready.borrow_mut() = vec!["not bootstrapped".to_owned(), "p3 is behind".to_owned()];
            let answer = server.get("/readyz").await;
            let problem = answer.problem(503, "not-ready");
            assert_eq!(problem["reasons"], serde_json::json!(["not bootstrapped", "p3 is behind"]));
            assert_eq!(problem["detail"], "not bootstrapped; p3 is behind");
            assert_eq!(server.get("/healthz").await.status, 200);
        });
    }
}

#[test]
fn metrics_are_openmetrics_and_count_the_requests() {
    client_port(async |server| {
        server.get("/v1/kv/a").await;
        let answer = server.get("/metrics").await;
        let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        assert_eq!((answer.status, answer.header("content-type")), (200, Some(content_type)));
        let text = String::from_utf8(answer.body).unwrap();
        assert!(text.contains(r#"annulus_http_requests_total{route="key",method="GET",status="4xx"} 1"#), "{text}");
        assert!(text.contains("annulus_http_client_connections"), "{text}");
    });
}

#[test]
fn the_ring_shows_members_assignments_and_leaders() {
    client_port(async |server| {
        let answer = server.get("/v1/ring").await;
        assert_eq!(answer.header("annulus-epoch"), Some("5"));
        let ring = answer.json();
        assert_eq!(ring["cluster"], CLUSTER.to_string());
        assert_eq!(
            (&ring["epoch"], &ring["partitions"], &ring["replication_factor"]),
            (&5.into(), &8.into(), &3.into())
        );
        assert_eq!(
            ring["members"][1],
            serde_json::json!({
                "id": "0000000000000002", "name": "node-2", "zone": "a", "state": "active",
                "client_address": "10.0.0.2:7070", "weight": 100, "peer_address": "10.0.0.2:7270",
                "admin_address": "10.0.0.2:7170",
            })
        );
        let replicas = ["0000000000000001", "0000000000000002", "0000000000000003"];
        assert_eq!(ring["assignments"].as_array().unwrap().len(), 8);
        assert_eq!(ring["assignments"][0], serde_json::json!({"partition": 0, "replicas": replicas, "leader": null}));
        assert_eq!(ring["assignments"][1]["leader"], "0000000000000001");
        assert_eq!(ring["moves"], serde_json::json!([]));
    });
}

#[test]
fn the_ring_tells_what_moves_and_where_each_member_is_in_its_life() {
    client_port(async |server| {
        let mut moving = map();
        let states = [MemberState::Joining, MemberState::Leaving, MemberState::Draining];
        moving.members.iter_mut().zip(states).for_each(|(member, state)| member.state = state);
        let swap = Move { add: Some(member(1)), remove: Some(member(2)), cancelled: false, epoch: 5 };
        moving.moves.insert(GroupId(7), swap);
        moving.moves.insert(GroupId::MAP, Move { add: None, cancelled: true, ..swap });
        *server.fake.map.borrow_mut() = Some(Arc::new(moving));
        let ring = server.get("/v1/ring").await.json();
        let states: Vec<_> = ring["members"].as_array().unwrap().iter().map(|member| &member["state"]).collect();
        assert_eq!(states, ["joining", "leaving", "draining"]);
        let (one, two) = ("0000000000000001", "0000000000000002");
        assert_eq!(
            ring["moves"],
            serde_json::json!([
                {"group": 0, "partition": null, "from": two, "to": null, "cancelled": true},
                {"group": 7, "partition": 6, "from": two, "to": one, "cancelled": false},
            ])
        );
    });
}

#[test]
fn an_unknown_path_says_where_to_look() {
    client_port(async |server| {
        for path in ["/", "/v1", "/v2/kv/a", "/v1/ring/", "/admin/v1/status", "/v1/kv2"] {
            let problem = server.get(path).await.problem(404, "unknown-path");
            assert!(problem["detail"].as_str().unwrap().contains("/openapi.json"), "{problem}");
        }
        server.get("/v1/ring?x=1").await.problem(400, "unknown-parameter");
    });
}

#[test]
fn a_method_that_a_path_does_not_take_is_405_with_those_it_takes() {
    client_port(async |server| {
        for (request, allow) in [
            ("POST /v1/kv/a", "GET, HEAD, PUT, DELETE"),
            ("PUT /v1/kv", "GET, HEAD"),
            ("BREW /v1/ring", "GET, HEAD"),
            ("DELETE /healthz", "GET, HEAD"),
        ] {
            let answer = server.ask(request, &[], b"").await;
            answer.problem(405, "method-not-allowed");
            assert_eq!(answer.header("allow"), Some(allow));
        }
    });
}

#[test]
fn the_description_is_served_and_head_has_its_length() {
    client_port(async |server| {
        let answer = server.get("/openapi.json").await;
        assert_eq!((answer.status, &answer.json()["openapi"]), (200, &"3.1.0".into()));
        let head = server.ask("HEAD /openapi.json", &[], b"").await;
        assert_eq!(head.header("content-length"), answer.header("content-length"));
    });
}
