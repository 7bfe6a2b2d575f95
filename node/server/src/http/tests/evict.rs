//! Handing leaders over.

use super::*;

#[test]
fn leaders_are_handed_over_for_so_long_or_until_it_is_ended() {
    admin_port(async |server| {
        for (query, expected) in [("", 30_000), ("?for=1ms", 1), ("?for=10m", 600_000)] {
            let answer = server.ask(&format!("POST /admin/v1/leaders/evict{query}"), &[], b"").await;
            assert_eq!((answer.status, &answer.json()["leaders_left"]), (200, &3.into()));
            assert!(answer.json()["seconds"].as_f64().unwrap() < 5.0);
            assert_eq!(server.fake.evicted.get(), Some(Duration::from_millis(expected)));
            assert_eq!(server.get("/admin/v1/status").await.json()["evicted"], true);
        }
        let ended = server.ask("DELETE /admin/v1/leaders/evict", &[], b"").await;
        assert_eq!((ended.status, ended.json()), (200, serde_json::json!({})));
        assert_eq!(server.fake.evicted.get(), None);
    });
}

#[test]
fn an_eviction_that_is_wrongly_asked_for_begins_and_ends_nothing() {
    admin_port(async |server| {
        for value in ["0s", "30", "601s", "11m", "-1s", "", "%zz", "18446744073709551615d"] {
            let answer = server.ask(&format!("POST /admin/v1/leaders/evict?for={value}"), &[], b"").await;
            assert_eq!(answer.problem(400, "invalid-parameter")["parameter"], "for", "{value}");
        }
        server.ask("POST /admin/v1/leaders/evict?for=1s&for=1s", &[], b"").await.problem(400, "invalid-parameter");
        server.ask("POST /admin/v1/leaders/evict?four=1s", &[], b"").await.problem(400, "unknown-parameter");
        server.ask("DELETE /admin/v1/leaders/evict?for=1s", &[], b"").await.problem(400, "unknown-parameter");
        assert_eq!(server.fake.evicted.get(), None);
        let answer = server.get("/admin/v1/leaders/evict").await;
        answer.problem(405, "method-not-allowed");
        assert_eq!(answer.header("allow"), Some("POST, DELETE"));
    });
}
