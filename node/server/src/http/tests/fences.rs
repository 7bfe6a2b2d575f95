//! `Annulus-Fence` on writes.

use annulus_core::lane::{Operation, Refusal, Reply};
use annulus_core::partition::{Consistency, Fence, Outcome};
use serde_json::json;

use super::*;

impl Server {
    /// Has the lock acquired for a second; its token.
    async fn lock(&self, name: &str) -> u64 {
        let body = r#"{"owner": "p", "ttl_ms": 1000}"#;
        let answer = self.ask(&format!("POST /v1/locks/{name}"), &[], body.as_bytes()).await;
        answer.json()["token"].as_u64().unwrap()
    }

    async fn fenced(&self, headers: &[&str]) -> Answer {
        self.ask("PUT /v1/kv/k", headers, b"v").await
    }

    fn last_fence(&self) -> Option<Fence> {
        let asked = self.fake.asked.borrow();
        let Some((_, Operation::Write(write), _)) = asked.last() else { panic!("no write: {asked:?}") };
        write.fence.clone()
    }

    /// How often the locks were asked who holds them.
    fn looks(&self) -> usize {
        let asked = self.fake.asked.borrow();
        asked.iter().filter(|(_, operation, _)| matches!(operation, Operation::ReadLock { .. })).count()
    }
}

#[test]
fn a_write_under_a_lock_that_is_held_is_done_and_the_lock_is_asked_about_once() {
    client_port(async |server| {
        let token = server.lock("jobs%2F%3d").await;
        let fence = format!("Annulus-Fence: jobs%2F%3D={token}");
        assert_eq!(server.fenced(&[&fence]).await.status, 201);
        let asked = server.fake.asked.borrow().clone();
        let (group, look, timeout) = &asked[asked.len() - 2];
        assert_eq!(*group, map().partition_of(b"jobs/=").group());
        assert_eq!(look.consistency(), Some(Consistency::Linearizable));
        assert!(*timeout <= Duration::from_secs(5) && asked.last().unwrap().2 <= *timeout, "it is one timeout");
        let carried = server.last_fence().unwrap();
        assert_eq!((&carried.lock.bytes()[..], carried.token, carried.is_held), (&b"jobs/="[..], token, true));
        assert_eq!(server.fenced(&[&fence]).await.status, 204);
        assert_eq!(server.ask("DELETE /v1/kv/k", &[&fence], b"").await.status, 204);
        assert!(server.last_fence().unwrap().is_held);
        assert_eq!(server.looks(), 1);
        assert_eq!(server.fenced(&[]).await.status, 201);
        assert_eq!(server.last_fence(), None);
    });
}

#[test]
fn a_token_that_does_not_hold_its_lock_is_409_and_nothing_is_asked_of_the_key() {
    client_port(async |server| {
        // Never granted, and nobody else holds it.
        let problem = server.fenced(&["Annulus-Fence: a=7"]).await.problem(409, "stale-token");
        assert_eq!((&problem["lock"], &problem["token"], problem.get("holder_token")), (&json!("a"), &json!(7), None));
        assert!(problem["detail"].as_str().unwrap().ends_with("nothing was changed"), "{problem}");
        let (ours, theirs) = (server.lock("a").await, server.lock("b%ff").await);
        // Another lock's.
        let problem = server.fenced(&[&format!("Annulus-Fence: a={theirs}")]).await.problem(409, "stale-token");
        assert_eq!((&problem["token"], &problem["holder_token"]), (&json!(theirs), &json!(ours)));
        let problem = server.fenced(&[&format!("Annulus-Fence: b%ff={ours}")]).await.problem(409, "stale-token");
        assert_eq!((&problem["lock_base64"], problem.get("lock")), (&json!("Yv8="), None));
        // One that is over.
        server.fake.locks.pass(1000);
        server.fenced(&[&format!("Annulus-Fence: a={ours}")]).await.problem(409, "stale-token");
        let asked = server.fake.asked.borrow();
        assert!(!asked.iter().any(|(_, operation, _)| matches!(operation, Operation::Write(_))));
    });
}

#[test]
fn what_is_not_held_is_asked_again_each_time() {
    client_port(async |server| {
        server.fenced(&["Annulus-Fence: a=7"]).await.problem(409, "stale-token");
        assert_eq!(server.lock("a").await, 7);
        assert_eq!(server.fenced(&["Annulus-Fence: a=7"]).await.status, 201);
        assert_eq!(server.looks(), 2);
    });
}

#[test]
fn after_the_lock_has_passed_on_a_write_that_was_done_is_told_again_and_no_other_is_done() {
    client_port(async |server| {
        let old = server.lock("a").await;
        let fence = format!("Annulus-Fence: a={old}");
        let done = server.fenced(&[&fence, "Idempotency-Key: one"]).await;
        assert_eq!(done.status, 201);
        server.ask(&format!("DELETE /v1/locks/a?token={old}"), &[], b"").await;
        let new = server.lock("a").await;
        // Another I/O thread, which has not seen the token yet.
        let edge = server.another_thread().await;
        let again = edge.fenced(&[&fence, "Idempotency-Key: one"]).await;
        assert_eq!((again.status, again.header("etag")), (201, done.header("etag")));
        assert!(!edge.last_fence().unwrap().is_held);
        let problem = edge.fenced(&[&fence, "Idempotency-Key: two"]).await.problem(409, "stale-token");
        assert_eq!((&problem["token"], &problem["newest_token"]), (&json!(old), &json!(old)));
        let problem = edge.fenced(&[&fence]).await.problem(409, "stale-token");
        assert_eq!(problem["holder_token"], new);
        // This thread believes it still, and the partition knows better once the new holder has written.
        assert_eq!(server.fenced(&[&format!("Annulus-Fence: a={new}")]).await.status, 204);
        let problem = server.fenced(&[&fence]).await.problem(409, "stale-token");
        assert_eq!((&problem["token"], &problem["newest_token"]), (&json!(old), &json!(new)));
    });
}

#[test]
fn what_is_meant_for_another_store_is_refused_before_anything_is_done() {
    client_port(async |server| {
        let ring = server.ask("GET /v1/ring", &[], b"").await.json();
        let own = ring["cluster"].as_str().unwrap().to_owned();
        assert_eq!(server.ask("PUT /v1/kv/k", &[&format!("Annulus-Cluster: {own}")], b"x").await.status / 100, 2);
        let asked = server.fake.asked.borrow().len();
        let other = "Annulus-Cluster: 00010203-0405-0607-0809-0a0b0c0d0e0f";
        for request in ["PUT /v1/kv/k", "GET /v1/kv/k", "POST /v1/locks/a", "POST /v1/renewals", "GET /v1/ring"] {
            let problem = server.ask(request, &[other], b"x").await.problem(421, "wrong-cluster");
            assert_eq!(problem["cluster"], own, "{request}");
        }
        server.ask("PUT /v1/kv/k", &["Annulus-Cluster: mine"], b"x").await.problem(400, "invalid-header");
        assert_eq!(server.fake.asked.borrow().len(), asked, "nobody was asked anything");
    });
}

#[test]
fn a_fence_that_is_malformed_repeated_or_where_nothing_is_fenced_is_400() {
    client_port(async |server| {
        for fence in ["", "a", "a=", "=7", "a=x", "a=-7", "%zz=7", "a=7, b=8", "a==7"] {
            for request in ["PUT /v1/kv/k", "DELETE /v1/kv/k"] {
                let problem = server.ask(request, &[&format!("Annulus-Fence: {fence}")], b"").await;
                let problem = problem.problem(400, "invalid-header");
                assert_eq!(problem["header"], "annulus-fence");
                assert!(
                    problem["detail"].as_str().unwrap().contains("percent-encoded, `=` and its token"),
                    "{problem}"
                );
            }
        }
        let long = format!("Annulus-Fence: {}=7", "l".repeat(513));
        server.fenced(&[&long]).await.problem(400, "invalid-header");
        let twice = server.fenced(&["Annulus-Fence: a=7", "Annulus-Fence: a=7"]).await;
        assert_eq!(twice.problem(400, "invalid-header")["header"], "annulus-fence");
        for request in ["GET /v1/kv/k", "HEAD /v1/kv/k", "GET /v1/kv", "GET /v1/locks/a", "GET /v1/ring"] {
            assert_eq!(server.ask(request, &["Annulus-Fence: a=7"], b"").await.status, 400, "{request}");
        }
        assert!(server.fake.asked.borrow().is_empty());
    });
    admin_port(async |server| {
        let answer = server.ask("GET /admin/v1/status", &["Annulus-Fence: a=7"], b"").await;
        answer.problem(400, "invalid-header");
    });
}

#[test]
fn when_nobody_can_say_who_holds_the_lock_nothing_is_written() {
    client_port(async |server| {
        for (reply, status, slug) in [
            (Reply::Refused(Refusal::NotLeader { leader: None }), 503, "no-leader"),
            (Reply::Refused(Refusal::TimedOut), 503, "timed-out"),
            (Reply::Refused(Refusal::Busy), 429, "overloaded"),
            (Reply::Get(None), 500, "internal"),
        ] {
            server.fake.script(reply);
            let answer = server.fenced(&["Annulus-Fence: a=7", "Idempotency-Key: one"]).await;
            let problem = answer.problem(status, slug);
            assert!(status == 500 || problem["detail"].as_str().unwrap().contains("`Annulus-Fence`"), "{problem}");
        }
        let asked = server.fake.asked.borrow();
        assert!(!asked.iter().any(|(_, operation, _)| matches!(operation, Operation::Write(_))));
    });
}

#[test]
fn a_partition_without_room_for_one_more_fence_is_429() {
    client_port(async |server| {
        let fence = format!("Annulus-Fence: a={}", server.lock("a").await);
        assert_eq!(server.fenced(&[&fence]).await.status, 201);
        server.fake.script(Reply::Write(Outcome::TooManyFences));
        let answer = server.fenced(&[&fence]).await;
        assert_eq!(answer.problem(429, "too-many-fences")["limit"], 16384);
        assert_eq!(answer.header("retry-after"), Some("60"));
    });
}
