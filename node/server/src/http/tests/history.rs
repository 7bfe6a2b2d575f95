//! The last changes of the map.

use annulus_core::map::Reason;
use annulus_core::map::history::Event;

use super::*;

fn event(epoch: u64, reason: Reason) -> Event {
    Event { first_epoch: epoch, epoch, at_ms: 0, fence: 0, reason }
}

#[test]
fn each_change_is_told_with_its_reason_and_its_time() {
    admin_port(async |server| {
        let moves =
            |message: &str| Reason::Moves { started: 3, finished: 2, cancelled: 1, message: message.to_owned() };
        let events = vec![
            Event { first_epoch: 8, ..event(9, moves("")) },
            event(7, moves("node-4 is active")),
            event(6, Reason::Remove("node-4".to_owned())),
            event(5, Reason::Undrain("node-3".to_owned())),
            event(4, Reason::Drain("node-3".to_owned())),
            Event { at_ms: 1_795_575_600_000, fence: 7, ..event(3, Reason::Members("node-4 joins".to_owned())) },
            Event { at_ms: u64::MAX, ..event(1, Reason::Bootstrap) },
        ];
        server.fake.script(Reply::History(events));
        let history = server.get("/admin/v1/history").await.json();
        let told = |epoch: u64, reason: &str, message: &str| {
            serde_json::json!({
                "epoch": epoch, "first_epoch": epoch, "at": null, "fence": 0, "reason": reason, "message": message,
            })
        };
        let mut expected = [
            told(9, "moves", "moves: 3 begun, 2 finished, 1 cancelled"),
            told(7, "moves", "moves: 3 begun, 2 finished, 1 cancelled; node-4 is active"),
            told(6, "remove", "node-4 was removed"),
            told(5, "undrain", "node-3 is not to be drained any more"),
            told(4, "drain", "node-3 is to be drained"),
            told(3, "members", "node-4 joins"),
            told(1, "bootstrap", "the store was made"),
        ];
        expected[0]["first_epoch"] = 8.into();
        expected[5]["at"] = "2026-11-25T03:00:00Z".into();
        expected[5]["fence"] = 7.into();
        assert_eq!(history, serde_json::json!({"events": expected}));
        let asked = server.fake.asked.borrow();
        assert_eq!((asked[0].0, &asked[0].1), (GroupId::MAP, &Operation::ReadHistory { epoch: None }));
    });
}

#[test]
fn the_ring_of_an_epoch_is_the_ring_with_its_preferred_leaders() {
    admin_port(async |server| {
        let mut past = map();
        past.epoch = 3;
        past.assignments[0].leader = member(2);
        server.fake.script(Reply::PastMap(Some(past.encode())));
        let ring = server.get("/admin/v1/history?epoch=3").await.json();
        assert_eq!((&ring["epoch"], &ring["partitions"]), (&3.into(), &8.into()));
        assert_eq!(ring["members"][0]["weight"], 100);
        assert_eq!(ring["assignments"][0]["leader"], "0000000000000002");
        assert_eq!(ring["assignments"][1]["leader"], "0000000000000001");
        server.fake.script(Reply::PastMap(None));
        let problem = server.get("/admin/v1/history?epoch=0").await.problem(404, "unknown-epoch");
        assert_eq!(problem["epoch"], 0);
        let asked = server.fake.asked.borrow();
        let epochs: Vec<_> = asked.iter().map(|(_, operation, _)| operation.clone()).collect();
        assert_eq!(epochs, [3, 0].map(|epoch| Operation::ReadHistory { epoch: Some(epoch) }));
    });
}

#[test]
fn an_epoch_that_is_none_is_400_and_nobody_is_asked() {
    admin_port(async |server| {
        for value in ["", "-1", "+1", "0x3", "3.0", "1e3", "18446744073709551616", "AAAABQAAAAM=", "3%00", "latest"] {
            let problem =
                server.get(&format!("/admin/v1/history?epoch={value}")).await.problem(400, "invalid-parameter");
            assert_eq!(problem["parameter"], "epoch", "{value}");
        }
        server.get("/admin/v1/history?epoch=3&epoch=3").await.problem(400, "invalid-parameter");
        server.get("/admin/v1/history?cursor=3").await.problem(400, "unknown-parameter");
        let answer = server.ask("DELETE /admin/v1/history", &[], b"").await;
        answer.problem(405, "method-not-allowed");
        assert_eq!(answer.header("allow"), Some("GET, HEAD"));
        assert!(server.fake.asked.borrow().is_empty());
    });
}

#[test]
fn a_past_map_that_can_not_be_read_or_an_answer_to_something_else_is_our_own_error() {
    admin_port(async |server| {
        let whole = map().encode();
        server.fake.script(Reply::PastMap(Some(whole.slice(..whole.len() - 1))));
        server.get("/admin/v1/history?epoch=3").await.problem(500, "internal");
        server.fake.script(Reply::History(Vec::new()));
        server.get("/admin/v1/history?epoch=3").await.problem(500, "internal");
        server.fake.script(Reply::PastMap(None));
        server.get("/admin/v1/history").await.problem(500, "internal");
    });
}
