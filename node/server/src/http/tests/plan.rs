//! What is about to happen to the ring.

use annulus_core::map::plan::{Gate, GateKind, Heard, Plan, Planned, Step};

use super::*;

fn planned(step: Step, gate: Option<GateKind>) -> Planned {
    let gate = gate.map(|kind| Gate { kind, member: Some(member(3)) });
    Planned { group: GroupId(7), from: Some(member(2)), to: Some(member(3)), step, gate, bytes: 1000, sent: 10 }
}

#[test]
fn the_plan_tells_what_moves_and_how_every_member_is() {
    admin_port(async |server| {
        let heard = |number, ago_ms| Heard { member: member(number), ago_ms, epoch: 4, leads: 2 };
        let waits = Some(Gate { kind: GateKind::NotKnownYet, member: None });
        let of_map = Planned { group: GroupId::MAP, from: None, gate: waits, ..planned(Step::Adding, None) };
        server.fake.script(Reply::Plan(Plan {
            epoch: 5,
            settled: false,
            moves_left: 57,
            moves_under_way: 2,
            bytes_left: 1_500_000,
            bytes_per_second: 1_000_000,
            moves: vec![planned(Step::Copying, Some(GateKind::CatchingUp)), of_map],
            members: vec![heard(1, Some(20)), heard(2, None)],
        }));
        let plan = server.get("/admin/v1/plan").await.json();
        for (field, value) in
            [("epoch", 5), ("moves_left", 57), ("moves_under_way", 2), ("bytes_left", 1_500_000), ("seconds_left", 2)]
        {
            assert_eq!(plan[field], value, "{field}");
        }
        assert_eq!((&plan["settled"], &plan["bytes_per_second"]), (&false.into(), &1_000_000.into()));
        let (two, three) = ("0000000000000002", "0000000000000003");
        assert_eq!(
            plan["moves"],
            serde_json::json!([
                {
                    "group": 7, "partition": 6, "from": two, "to": three, "step": "copying", "bytes": 1000,
                    "bytes_sent": 10, "gate": {
                        "name": "catching-up", "member": three, "message": "node-3 has not got all of partition 6 yet",
                    },
                },
                {
                    "group": 0, "partition": null, "from": null, "to": three, "step": "adding", "bytes": 1000,
                    "bytes_sent": 10, "gate": {
                        "name": "not-known-yet", "member": null,
                        "message": "the leader of the map is new, and has not heard of everybody yet",
                    },
                },
            ])
        );
        assert_eq!(
            plan["members"][0],
            serde_json::json!({
                "id": "0000000000000001", "name": "node-1", "zone": "a", "weight": 100, "state": "active",
                "replicas": 9, "leads": 2, "epoch": 4, "heard_ms": 20, "client_address": "10.0.0.1:7070",
                "peer_address": "10.0.0.1:7270", "admin_address": "10.0.0.1:7170",
            })
        );
        for (at, leads) in [(1, 2), (2, 0)] {
            let never = &plan["members"][at];
            assert_eq!(
                (&never["epoch"], &never["heard_ms"], &never["leads"]),
                (&Value::Null, &Value::Null, &leads.into())
            );
        }
    });
}

#[test]
fn every_step_and_every_gate_has_a_name() {
    admin_port(async |server| {
        let steps = [
            (Step::Waiting, "waiting"),
            (Step::Adding, "adding"),
            (Step::Copying, "copying"),
            (Step::Switching, "switching"),
            (Step::Cancelling, "cancelling"),
            (Step::Recording, "recording"),
        ];
        let gates = [
            (GateKind::MoveSlots, "move-slots"),
            (GateKind::MemberUnreachable, "member-unreachable"),
            (GateKind::NoLeader, "no-leader"),
            (GateKind::NoQuorum, "no-quorum"),
            (GateKind::CatchingUp, "catching-up"),
            (GateKind::LeaderMoving, "leader-moving"),
            (GateKind::NotKnownYet, "not-known-yet"),
        ];
        let by_step = steps.iter().map(|(step, _)| planned(*step, None));
        let by_gate = gates.iter().map(|(gate, _)| planned(Step::Waiting, Some(*gate)));
        let moves = by_step.chain(by_gate).collect();
        server.fake.script(Reply::Plan(Plan { epoch: 5, moves_left: 13, moves, ..Plan::default() }));
        let plan = server.get("/admin/v1/plan").await.json();
        assert_eq!(plan["seconds_left"], Value::Null);
        let moves = plan["moves"].as_array().unwrap();
        let names: Vec<_> = moves[..6].iter().map(|told| told["step"].as_str().unwrap()).collect();
        assert_eq!(names, steps.map(|(_, name)| name));
        let names: Vec<_> = moves[6..].iter().map(|told| told["gate"]["name"].as_str().unwrap()).collect();
        assert_eq!(names, gates.map(|(_, name)| name));
        assert!(moves[6..].iter().all(|told| !told["gate"]["message"].as_str().unwrap().is_empty()));
    });
}

#[test]
fn members_that_this_member_has_not_heard_of_yet_are_read_from_the_leader() {
    admin_port(async |server| {
        let mut newer = map();
        newer.epoch = 6;
        newer.members[2].name = "node-3b".to_owned();
        server.fake.script(Reply::Plan(Plan { epoch: 6, settled: true, ..Plan::default() }));
        server.fake.script(Reply::Map(newer.encode()));
        let plan = server.get("/admin/v1/plan").await.json();
        assert_eq!((&plan["epoch"], &plan["settled"], &plan["seconds_left"]), (&6.into(), &true.into(), &0.into()));
        assert_eq!(plan["members"][2]["name"], "node-3b");
        server.fake.script(Reply::Plan(Plan { epoch: 6, ..Plan::default() }));
        server.fake.script(Reply::Map(Bytes::from_static(b"\x07")));
        server.get("/admin/v1/plan").await.problem(500, "internal");
    });
}

#[test]
fn a_plan_that_nobody_gives_is_503_and_one_that_is_wrongly_asked_for_400_or_405() {
    admin_port(async |server| {
        for (refusal, slug) in [
            (Refusal::NotLeader { leader: None }, "no-leader"),
            (Refusal::NoReplica, "no-leader"),
            (Refusal::TimedOut, "timed-out"),
        ] {
            server.fake.script(Reply::Refused(refusal));
            let answer = server.get("/admin/v1/plan").await;
            assert!(answer.problem(503, slug)["detail"].as_str().unwrap().contains("the map"), "{answer:?}");
            assert_eq!(answer.header("retry-after"), Some("1"));
        }
        server.fake.script(Reply::OutcomeUnknown);
        server.get("/admin/v1/plan").await.problem(504, "outcome-unknown");
        server.get("/admin/v1/plan?limit=1").await.problem(400, "unknown-parameter");
        let answer = server.ask("POST /admin/v1/plan", &[], b"").await;
        answer.problem(405, "method-not-allowed");
        assert_eq!(answer.header("allow"), Some("GET, HEAD"));
        *server.fake.map.borrow_mut() = None;
        for path in ["/admin/v1/plan", "/admin/v1/history"] {
            server.get(path).await.problem(503, "not-bootstrapped");
        }
    });
}
