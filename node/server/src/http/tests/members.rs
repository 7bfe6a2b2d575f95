//! Who the members are to be.

use annulus_core::map::{Command, Intent, Refusal as MapRefusal};

use super::*;

/// The three members that there are, and as many more as make `count`, as a request names them.
fn named(count: u64) -> Value {
    let members = (1..=count).map(|number| {
        serde_json::json!({
            "id": member(number).to_string(), "name": format!("node-{number}"), "zone": "a", "weight": 100,
            "client_address": format!("10.0.0.{number}:7070"), "peer_address": format!("10.0.0.{number}:7270"),
            "admin_address": format!("10.0.0.{number}:7170"),
        })
    });
    serde_json::json!({"members": members.collect::<Vec<_>>()})
}

/// A node that is what `named` says.
fn node(number: u64) -> Identified {
    Identified {
        id: member(number),
        name: format!("node-{number}"),
        zone: "a".to_owned(),
        cluster: None,
        peer_address: None,
    }
}

impl Server {
    fn start(&self, number: u64, node: Identified) {
        self.fake.nodes.borrow_mut().insert(format!("10.0.0.{number}:7170"), node);
    }

    async fn put(&self, body: &Value) -> Answer {
        self.ask("PUT /admin/v1/members", &[], body.to_string().as_bytes()).await
    }

    /// What the map group was asked last.
    fn intent(&self) -> Intent {
        match self.fake.asked.borrow().last() {
            Some((GroupId::MAP, Operation::ChangeMap(intent), _)) => intent.clone(),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_desired_members_go_to_the_map_group_with_fence_and_epoch() {
    admin_port(async |server| {
        server.start(4, node(4));
        server.start(5, Identified { cluster: Some(CLUSTER), ..node(5) });
        let changed =
            Changed { epoch: 13, joined: vec![member(4), member(5)], leaving: vec![member(1)], updated: vec![] };
        server.fake.script(Reply::Changed(Ok(changed)));
        let mut body = named(5);
        body["epoch"] = 12.into();
        body["members"].as_array_mut().unwrap().remove(0);
        let answer =
            server.ask("PUT /admin/v1/members", &["Annulus-Operator-Fence: 7"], body.to_string().as_bytes()).await;
        let (four, five) = ("0000000000000004", "0000000000000005");
        assert_eq!(
            answer.json(),
            serde_json::json!({"epoch": 13, "joined": [four, five], "leaving": ["0000000000000001"], "updated": []})
        );
        let intent = server.intent();
        assert_eq!((intent.fence, intent.epoch), (7, Some(12)));
        let Command::Members(desired) = intent.command else { panic!("{intent:?}") };
        assert_eq!(desired.len(), 4);
        assert_eq!((desired[2].id, desired[2].weight, &*desired[2].peer_address), (member(4), 100, "10.0.0.4:7270"));
    });
}

#[test]
fn members_that_the_map_has_are_not_asked_who_they_are() {
    admin_port(async |server| {
        assert_eq!(server.put(&named(3)).await.json()["epoch"], 6);
        assert_eq!((server.intent().fence, server.intent().epoch), (0, None));
        assert_eq!(server.fake.asking.get(), (0, 0));
    });
}

#[test]
fn many_new_members_are_asked_at_once_but_not_all() {
    admin_port(async |server| {
        (4..=1000).for_each(|number| server.start(number, node(number)));
        assert_eq!(server.put(&named(1000)).await.status, 200);
        assert_eq!(server.fake.asking.get(), (0, 64));
    });
}

#[test]
fn a_new_member_that_is_not_what_it_should_be_is_409_and_nothing_is_asked_of_the_map() {
    admin_port(async |server| {
        let problem = server.put(&named(4)).await.problem(409, "member-mismatch");
        assert_eq!((&problem["member"], &problem["name"]), (&"0000000000000004".into(), &"node-4".into()));
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("10.0.0.4:7170") && detail.contains("nobody listens there"), "{problem}");
        for (field, says, said) in [
            ("id", "0000000000000009", Identified { id: member(9), ..node(4) }),
            ("name", "node-9", Identified { name: "node-9".to_owned(), ..node(4) }),
            ("zone", "b", Identified { zone: "b".to_owned(), ..node(4) }),
        ] {
            server.start(4, said);
            let problem = server.put(&named(4)).await.problem(409, "member-mismatch");
            assert_eq!((&problem["member"], &problem["field"]), (&"0000000000000004".into(), &field.into()));
            assert_eq!(problem["says"], says);
            assert!(problem["detail"].as_str().unwrap().contains(&format!("its {field} is `{says}`")), "{problem}");
        }
        let theirs = ClusterId([9; 16]);
        server.start(4, Identified { cluster: Some(theirs), ..node(4) });
        let problem = server.put(&named(4)).await.problem(409, "member-mismatch");
        assert_eq!((&problem["ours"], &problem["theirs"]), (&CLUSTER.to_string().into(), &theirs.to_string().into()));
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(&CLUSTER.to_string()) && detail.contains(&theirs.to_string()), "{problem}");
        assert!(server.fake.asked.borrow().is_empty());
    });
}

#[test]
fn a_new_member_that_does_not_know_its_zone_takes_the_one_that_the_request_names() {
    admin_port(async |server| {
        server.start(4, Identified { zone: String::new(), ..node(4) });
        assert_eq!(server.put(&named(4)).await.status, 200);
        let Command::Members(desired) = server.intent().command else { panic!("{:?}", server.intent()) };
        assert_eq!((desired[3].id, &*desired[3].zone), (member(4), "a"));
    });
}

#[test]
fn a_member_that_moves_must_be_itself_where_it_is_to_be_unless_nobody_is_there_yet() {
    admin_port(async |server| {
        let mut body = named(3);
        body["members"][1]["peer_address"] = "10.0.0.9:7270".into();
        let said = Identified { cluster: Some(CLUSTER), ..node(2) };
        server.start(2, Identified { peer_address: Some("10.0.0.2:7270".to_owned()), ..said.clone() });
        let problem = server.put(&body).await.problem(409, "member-mismatch");
        assert_eq!((&problem["field"], &problem["says"]), (&"peer address".into(), &"10.0.0.2:7270".into()));
        server.start(2, Identified { id: member(3), ..said.clone() });
        let problem = server.put(&body).await.problem(409, "member-mismatch");
        assert_eq!(problem["field"], "id");
        server.fake.nodes.borrow_mut().clear();
        server.fake.script(Reply::Changed(Ok(Changed { epoch: 13, updated: vec![member(2)], ..Changed::default() })));
        assert_eq!(server.put(&body).await.status, 200);
    });
}

#[test]
fn members_that_can_not_be_are_422_before_anybody_is_asked() {
    admin_port(async |server| {
        let mut cases = vec![
            (serde_json::json!({"members": []}), "0 members were named"),
            (named(1001), "1001 members were named"),
        ];
        for (field, what) in [
            ("id", "id `0000000000000001`"),
            ("name", "name `node-1`"),
            ("client_address", "client address `10.0.0.1:7070`"),
            ("peer_address", "peer address `10.0.0.1:7270`"),
            ("admin_address", "admin address `10.0.0.1:7170`"),
        ] {
            let mut body = named(4);
            body["members"][3][field] = body["members"][0][field].clone();
            cases.push((body, what));
        }
        for (field, value, expected) in [
            ("weight", Value::from(0), "its weight must be from 1 to 1000"),
            ("weight", 1001.into(), "its weight must be from 1 to 1000"),
            ("name", "".into(), "must have 1 to 255 bytes"),
            ("peer_address", "a".repeat(256).into(), "must have 1 to 255 bytes"),
            ("zone", "z".repeat(256).into(), "its zone must have at most 255 bytes"),
            ("zone", "".into(), "member `node-4` names no zone"),
        ] {
            let mut body = named(4);
            body["members"][3][field] = value;
            cases.push((body, expected));
        }
        for (body, expected) in cases {
            let problem = server.put(&body).await.problem(422, "invalid-members");
            assert!(problem["detail"].as_str().unwrap().contains(expected), "{problem}\n{expected}");
        }
        assert_eq!(server.fake.asking.get(), (0, 0));
        assert!(server.fake.asked.borrow().is_empty());
    });
}

#[test]
fn json_that_is_wrong_is_400_naming_the_field_and_the_place() {
    admin_port(async |server| {
        let good = named(3).to_string();
        let with = |field: &str| good.replacen('{', &format!("{{{field},"), 1);
        for (json, expected) in [
            (good[..100].to_owned(), "EOF while parsing"),
            (String::new(), "EOF while parsing"),
            ("{}".to_owned(), "missing field `members`"),
            ("[".repeat(10_000), "invalid type: sequence"),
            (format!("{good}{good}"), "trailing characters"),
            (with("\"fence\":7"), "unknown field `fence`"),
            (with("\"epoch\":1,\"epoch\":1"), "duplicate field `epoch`"),
            (with("\"members\":[]"), "duplicate field `members`"),
            (with("\"epoch\":-1"), "invalid value: integer `-1`"),
            (with("\"epoch\":18446744073709551616"), "expected u64"),
            (with("\"epoch\":\"5\""), "invalid type: string"),
            (good.replacen("\"zone\":\"a\"", "\"zone\":\"a\",\"state\":\"active\"", 1), "unknown field `state`"),
            (good.replacen("\"zone\":\"a\"", "\"zone\":\"a\",\"zone\":\"a\"", 1), "duplicate field `zone`"),
            (good.replacen("\"zone\":\"a\",", "", 1).replacen(",\"zone\":\"a\"", "", 1), "missing field `zone`"),
            (good.replacen("0000000000000001", "0000000000000000", 1), "`0000000000000000` is not a member id"),
            (good.replacen("100", "4294967296", 1), "expected u32"),
        ] {
            let answer = server.ask("PUT /admin/v1/members", &[], json.as_bytes()).await;
            let problem = answer.problem(400, "invalid-json");
            assert!(problem["detail"].as_str().unwrap().contains(expected), "{problem}\n{expected}");
            assert!(problem["line"].as_u64().is_some() && problem["column"].as_u64().is_some());
        }
        assert!(server.fake.asked.borrow().is_empty());
    });
}

#[test]
fn a_body_that_is_too_large_or_ends_too_early_changes_nothing() {
    admin_port(async |server| {
        let mut client = server.connect().await;
        client.send(b"PUT /admin/v1/members HTTP/1.1\r\nHost: a\r\nContent-Length: 1048577\r\n\r\n").await;
        assert_eq!(client.answer().await.problem(413, "body-too-large")["limit"], 1_048_576);
        let mut cut = server.connect().await;
        let body = named(3).to_string();
        let head = format!("PUT /admin/v1/members HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
        cut.send(&[head.as_bytes(), &body.as_bytes()[..body.len() - 1]].concat()).await;
        cut.stream.shutdown().await.unwrap();
        cut.answer().await.problem(400, "malformed-request");
        assert!(server.fake.asked.borrow().is_empty());
        assert_eq!(server.resources.metrics.http.bytes_in_flight.get(), 0);
    });
}

#[test]
fn a_member_is_named_by_its_id_or_its_name() {
    admin_port(async |server| {
        let mut there_are = map();
        there_are.members[0].name = "node-3".to_owned();
        there_are.members[0].state = MemberState::Leaving;
        there_are.members[1].name = "a/b ü".to_owned();
        *server.fake.map.borrow_mut() = Some(Arc::new(there_are));
        for (request, command) in [
            ("POST /admin/v1/members/0000000000000002/drain", Command::Drain(member(2))),
            ("DELETE /admin/v1/members/0000000000000002/drain", Command::Undrain(member(2))),
            ("DELETE /admin/v1/members/0000000000000002", Command::Remove(member(2))),
            ("DELETE /admin/v1/members/a%2Fb%20%C3%BC", Command::Remove(member(2))),
            // Of two with one name, the one that stays.
            ("POST /admin/v1/members/node-3/drain", Command::Drain(member(3))),
            ("POST /admin/v1/members/0000000000000001/drain", Command::Drain(member(1))),
            // This member's map may be behind the leader's.
            ("DELETE /admin/v1/members/00000000000000AB", Command::Remove(member(0xab))),
        ] {
            let answer = server.ask(request, &["Annulus-Operator-Fence: 18446744073709551615"], b"").await;
            assert_eq!((answer.status, answer.json()), (200, serde_json::json!({"epoch": 6})), "{request}");
            let expected = Intent { fence: u64::MAX, epoch: None, command };
            assert_eq!(server.intent(), expected, "{request}");
        }
    });
}

#[test]
fn a_member_that_nobody_knows_is_404_and_a_path_that_is_none_says_so() {
    admin_port(async |server| {
        for name in ["node-9", "NODE-1", "1", "0000000000000000", "%7Bid%7D", ".."] {
            let answer = server.ask(&format!("DELETE /admin/v1/members/{name}"), &[], b"").await;
            let problem = answer.problem(404, "unknown-member");
            assert!(problem["detail"].as_str().unwrap().contains("epoch 5"), "{problem}");
        }
        server.ask("DELETE /admin/v1/members/%zz", &[], b"").await.problem(400, "invalid-percent-encoding");
        server.ask("POST /admin/v1/members/%ff/drain", &[], b"").await.problem(400, "invalid-percent-encoding");
        server.ask("POST /admin/v1/members/node-1/drain?for=1s", &[], b"").await.problem(400, "unknown-parameter");
        server.ask("DELETE /admin/v1/members/node-1?force=true", &[], b"").await.problem(400, "unknown-parameter");
        server.ask("PUT /admin/v1/members?dry=1", &[], b"{}").await.problem(400, "unknown-parameter");
        server.ask("DELETE /admin/v1/members/", &[], b"").await.problem(404, "unknown-path");
        assert!(server.fake.asked.borrow().is_empty());
    });
}

#[test]
fn every_refusal_is_a_problem_of_its_own_with_its_numbers() {
    admin_port(async |server| {
        let groups = vec![GroupId::MAP, GroupId(1), GroupId(8)];
        for (refusal, status, slug, fields) in [
            (
                MapRefusal::StaleFence { given: 3, highest: 7 },
                409,
                "stale-fence",
                serde_json::json!({"given": 3, "highest": 7}),
            ),
            (MapRefusal::MapChanged { given: 5, current: 6 }, 409, "map-changed", serde_json::json!({"current": 6})),
            (MapRefusal::ChangeInProgress, 409, "change-in-progress", serde_json::json!({})),
            (
                MapRefusal::UnknownMember(member(9)),
                404,
                "unknown-member",
                serde_json::json!({"member": "0000000000000009"}),
            ),
            (
                MapRefusal::TooFewMembers { left: 2, factor: 3 },
                409,
                "too-few-members",
                serde_json::json!({"left": 2, "replication_factor": 3}),
            ),
            (
                MapRefusal::HoldsReplicas { member: member(2), groups: groups.clone(), count: 20 },
                409,
                "member-holds-replicas",
                serde_json::json!({
                    "member": "0000000000000002", "partitions": [0, 7], "map_group": true, "groups": 20,
                }),
            ),
            (
                MapRefusal::QuorumAtRisk { groups: groups[1..].to_vec(), count: 2 },
                409,
                "quorum-at-risk",
                serde_json::json!({"partitions": [0, 7], "map_group": false, "groups": 2}),
            ),
            (MapRefusal::Invalid("it is wrong".to_owned()), 422, "invalid-members", serde_json::json!({})),
        ] {
            let expected = refusal.to_string();
            for request in
                ["PUT /admin/v1/members", "DELETE /admin/v1/members/node-2", "POST /admin/v1/members/node-2/drain"]
            {
                server.fake.script(Reply::Changed(Err(refusal.clone())));
                let problem = server.ask(request, &[], named(3).to_string().as_bytes()).await.problem(status, slug);
                for (field, value) in fields.as_object().unwrap() {
                    assert_eq!(&problem[field], value, "{problem}");
                }
                assert!(problem["detail"].as_str().unwrap().starts_with(&expected), "{problem}");
            }
        }
    });
}

#[test]
fn a_change_that_is_not_answered_is_told_as_what_it_is() {
    admin_port(async |server| {
        for (reply, status, slug) in [
            (Reply::OutcomeUnknown, 504, "outcome-unknown"),
            (Reply::Refused(Refusal::NotLeader { leader: None }), 503, "no-leader"),
            (Reply::Refused(Refusal::NoReplica), 503, "no-leader"),
            (Reply::Refused(Refusal::TimedOut), 503, "timed-out"),
            (Reply::Refused(Refusal::Busy), 429, "overloaded"),
            (Reply::Refused(Refusal::DiskFull), 507, "disk-full"),
            (Reply::Get(None), 500, "internal"),
        ] {
            server.fake.script(reply);
            let problem = server.put(&named(3)).await.problem(status, slug);
            assert!(!problem["detail"].as_str().unwrap().contains("key"), "{problem}");
        }
        *server.fake.map.borrow_mut() = None;
        server.put(&named(3)).await.problem(503, "not-bootstrapped");
        server.ask("DELETE /admin/v1/members/node-1", &[], b"").await.problem(503, "not-bootstrapped");
    });
}

#[test]
fn a_fence_that_is_no_number_is_400_and_not_taken_for_none() {
    admin_port(async |server| {
        let body = named(3).to_string();
        for value in ["", "-1", "+1", "7.0", "0x7", "7 8", "18446744073709551616", "seven", "\u{663}"] {
            let header = format!("Annulus-Operator-Fence: {value}");
            for request in
                ["PUT /admin/v1/members", "DELETE /admin/v1/members/node-1", "POST /admin/v1/members/node-1/drain"]
            {
                let problem = server.ask(request, &[&header], body.as_bytes()).await.problem(400, "invalid-header");
                assert_eq!(problem["header"], "annulus-operator-fence", "{value}");
            }
        }
        let twice = ["Annulus-Operator-Fence: 7", "Annulus-Operator-Fence: 7"];
        server.ask("PUT /admin/v1/members", &twice, body.as_bytes()).await.problem(400, "invalid-header");
        assert!(server.fake.asked.borrow().is_empty());
    });
}

#[test]
fn a_method_that_a_path_of_members_does_not_take_is_405_with_those_it_takes() {
    admin_port(async |server| {
        for (request, allow) in [
            ("GET /admin/v1/members", "PUT"),
            ("POST /admin/v1/members", "PUT"),
            ("PUT /admin/v1/members/node-1", "DELETE"),
            ("GET /admin/v1/members/node-1", "DELETE"),
            ("PUT /admin/v1/members/node-1/drain", "POST, DELETE"),
        ] {
            let answer = server.ask(request, &[], b"").await;
            answer.problem(405, "method-not-allowed");
            assert_eq!(answer.header("allow"), Some(allow), "{request}");
        }
    });
}
