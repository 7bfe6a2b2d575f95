//! `/v1/locks`.

use annulus_core::lane::{Operation, Refusal, Reply};
use annulus_core::partition::Consistency;
use annulus_core::partition::lock::{Acquire, Command, Mode, Name, Outcome as LockOutcome};
use hyper_util::rt::TokioIo;
use serde_json::json;

use super::*;
use crate::http::server::LocalExecutor;

/// Waits until this holds.
async fn until(holds: impl Fn() -> bool) {
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    while !holds() {
        tick.tick().await;
    }
}

impl Server {
    async fn acquire(&self, name: &str, body: Value) -> Answer {
        self.ask(&format!("POST /v1/locks/{name}"), &[], body.to_string().as_bytes()).await
    }

    async fn renew(&self, name: &str, body: Value) -> Answer {
        self.ask(&format!("POST /v1/locks/{name}/renew"), &[], body.to_string().as_bytes()).await
    }

    fn last_acquire(&self) -> (GroupId, Acquire, Duration) {
        let asked = self.fake.asked.borrow();
        let Some((group, Operation::Lock(Command::Acquire(wish)), timeout)) = asked.last() else {
            panic!("no wish: {asked:?}")
        };
        (*group, wish.clone(), *timeout)
    }

    fn waiting(&self, name: &str) -> u32 {
        let name = Name::new(Bytes::copy_from_slice(name.as_bytes())).unwrap();
        self.fake.locks.view(&name).map_or(0, |view| view.waiting_count)
    }
}

#[test]
fn a_lock_is_acquired_looked_at_renewed_and_released() {
    client_port(async |server| {
        let granted = server.acquire("a", json!({"owner": "pod-1", "ttl_ms": 10000, "description": "night"})).await;
        assert_eq!((granted.status, granted.header("annulus-epoch")), (200, Some("5")));
        let expected = json!({"token": 7, "owner": "pod-1", "mode": "exclusive", "ttl_ms": 10000, "valid_ms": 10000});
        assert_eq!(granted.json(), expected);
        server.fake.locks.clock_ms.set(3000);
        let shown = server.get("/v1/locks/a").await;
        assert_eq!((shown.status, shown.header("content-type")), (200, Some("application/json")));
        let holder = json!({
            "token": 7, "owner": "pod-1", "description": "night", "mode": "exclusive", "ttl_ms": 10000,
            "held_ms": 2000, "left_ms": 8000,
        });
        assert_eq!(shown.json(), json!({"name": "a", "holders": [holder], "waiting": [], "waiting_count": 0}));
        let head = server.ask("HEAD /v1/locks/a", &[], b"").await;
        assert_eq!((head.status, head.header("content-length")), (200, shown.header("content-length")));
        let renewed = server.renew("a", json!({"token": 7, "ttl_ms": 20000})).await;
        assert_eq!((renewed.status, renewed.json()), (200, json!({"token": 7, "ttl_ms": 20000, "valid_ms": 20000})));
        let released = server.ask("DELETE /v1/locks/a?token=7", &[], b"").await;
        assert_eq!((released.status, released.body.len(), released.header("annulus-epoch")), (204, 0, Some("5")));
        server.get("/v1/locks/a").await.problem(404, "lock-not-found");
        assert_eq!(server.ask("HEAD /v1/locks/a", &[], b"").await.status, 404);
    });
}

#[test]
fn a_wish_takes_its_name_its_wait_and_its_timeout_along() {
    client_port(async |server| {
        let body = json!({"owner": "p", "ttl_ms": 500, "wait_ms": 86400000, "mode": "shared"}).to_string();
        let request = "POST /v1/locks/jobs%2Fnightly%00%ff?timeout=2s";
        assert_eq!(server.ask(request, &["Idempotency-Key: turn-1"], body.as_bytes()).await.status, 200);
        let (group, wish, timeout) = server.last_acquire();
        let name = Name::new(Bytes::from_static(b"jobs/nightly\0\xff")).unwrap();
        assert_eq!((group, timeout), (map().partition_of(name.bytes()).group(), Duration::from_secs(86402)));
        let expected = Acquire {
            name,
            owner: Bytes::from_static(b"p"),
            request: Bytes::from_static(b"turn-1"),
            description: Bytes::new(),
            mode: Mode::Shared,
            ttl_ms: 500,
            wait_ms: 86_400_000,
        };
        assert_eq!(wish, expected);
        server.acquire("b", json!({"owner": "p", "ttl_ms": 86400000})).await;
        let (_, wish, timeout) = server.last_acquire();
        assert_eq!((wish.wait_ms, wish.mode, timeout), (0, Mode::Exclusive, Duration::from_secs(5)));
        server.acquire("c", json!({"owner": "p", "ttl_ms": 500})).await;
        let (_, other, _) = server.last_acquire();
        assert!(wish.request.len() >= 16 && wish.request != other.request, "a name of its own each time");
    });
}

#[test]
fn a_wish_said_again_under_its_name_gets_the_same_token_and_in_another_mode_a_conflict() {
    client_port(async |server| {
        let name = ["Idempotency-Key: turn-1"];
        let body = |mode: &str| json!({"owner": "p", "ttl_ms": 10000, "mode": mode}).to_string();
        for valid_ms in [10000, 6000] {
            let answer = server.ask("POST /v1/locks/a", &name, body("exclusive").as_bytes()).await;
            assert_eq!((answer.status, answer.json()["token"].clone()), (200, json!(7)));
            assert_eq!(answer.json()["valid_ms"], valid_ms);
            server.fake.locks.clock_ms.set(5000);
        }
        let conflict = server.ask("POST /v1/locks/a", &name, body("shared").as_bytes()).await;
        conflict.problem(409, "idempotency-conflict");
        // Without a name, and under another owner's, it is another wish.
        server.acquire("a", json!({"owner": "p", "ttl_ms": 10000})).await.problem(423, "lock-held");
        let other = json!({"owner": "q", "ttl_ms": 10000}).to_string();
        server.ask("POST /v1/locks/a", &name, other.as_bytes()).await.problem(423, "lock-held");
    });
}

#[test]
fn a_lock_that_is_held_is_423_with_its_holder() {
    client_port(async |server| {
        server.acquire("a", json!({"owner": "pod-1", "ttl_ms": 10000, "description": "night"})).await;
        let held = server.acquire("a", json!({"owner": "pod-2", "ttl_ms": 10000})).await.problem(423, "lock-held");
        assert_eq!(held["holder"], json!({"token": 7, "owner": "pod-1", "description": "night"}));
        assert_eq!(held["waiting"], 0);
        server.acquire("a", json!({"owner": "p", "ttl_ms": 500, "mode": "shared"})).await.problem(423, "lock-held");
        // One that waits, and is told so when its wait is over.
        let waiter = server.acquire("a", json!({"owner": "pod-3", "ttl_ms": 10000, "wait_ms": 2000}));
        let clock = async {
            until(|| server.waiting("a") == 1).await;
            let held = server.acquire("a", json!({"owner": "pod-2", "ttl_ms": 10000})).await.problem(423, "lock-held");
            assert_eq!(held["waiting"], 1);
            server.fake.locks.pass(2000);
        };
        let (waiter, ()) = tokio::join!(waiter, clock);
        assert_eq!(waiter.problem(423, "lock-held")["holder"]["owner"], "pod-1");
    });
}

#[test]
fn who_waits_gets_the_lock_when_it_is_released_and_who_shares_it_does_not_wait() {
    client_port(async |server| {
        server.acquire("a", json!({"owner": "pod-1", "ttl_ms": 10000})).await;
        let wish = |mode: &str| json!({"owner": "pod-2", "ttl_ms": 9000, "wait_ms": 60000, "mode": mode});
        let release = async {
            until(|| server.waiting("a") == 2).await;
            assert_eq!(server.resources.metrics.http.lock_waits.get(), 2);
            let shown = server.get("/v1/locks/a").await.json();
            let waiting = json!({
                "token": 8, "owner": "pod-2", "description": "", "mode": "shared", "ttl_ms": 9000, "waited_ms": 0,
                "left_ms": 60000,
            });
            assert_eq!((&shown["waiting"][0], &shown["waiting_count"]), (&waiting, &json!(2)));
            server.ask("DELETE /v1/locks/a?token=7", &[], b"").await
        };
        let (first, second, released) =
            tokio::join!(server.acquire("a", wish("shared")), server.acquire("a", wish("shared")), release);
        assert_eq!(released.status, 204);
        for (answer, token) in [(first, 8), (second, 9)] {
            let json = answer.json();
            assert_eq!(
                (&json["token"], &json["mode"], &json["valid_ms"]),
                (&json!(token), &json!("shared"), &json!(9000))
            );
        }
        assert_eq!(server.resources.metrics.http.lock_waits.get(), 0);
    });
}

#[test]
fn what_does_not_hold_the_lock_renews_and_releases_nothing() {
    client_port(async |server| {
        for answer in [
            server.renew("a", json!({"token": 7, "ttl_ms": 10000})).await,
            server.ask("DELETE /v1/locks/a?token=7", &[], b"").await,
        ] {
            let problem = answer.problem(409, "lock-not-held");
            assert_eq!((&problem["holder"], &problem["token"]), (&Value::Null, &json!(7)));
        }
        let token = |answer: Answer| answer.json()["token"].as_u64().unwrap();
        let ours = token(server.acquire("a", json!({"owner": "ours", "ttl_ms": 10000})).await);
        let theirs = token(server.acquire("b", json!({"owner": "theirs", "ttl_ms": 10000})).await);
        for answer in [
            server.renew("a", json!({"token": theirs, "ttl_ms": 10000})).await,
            server.ask(&format!("DELETE /v1/locks/a?token={theirs}"), &[], b"").await,
        ] {
            let problem = answer.problem(409, "lock-not-held");
            assert_eq!(problem["holder"], json!({"token": ours, "owner": "ours", "description": ""}));
        }
        assert_eq!(server.get("/v1/locks/a").await.json()["holders"][0]["token"], ours);
    });
}

#[test]
fn what_a_wish_cannot_be_is_refused_with_the_field_and_its_bounds() {
    client_port(async |server| {
        let ttl = |ttl: Value| json!({"owner": "p", "ttl_ms": ttl});
        for ttl_ms in [json!(499), json!(0), json!(-1), json!(86400001), json!(1000.5), json!(18446744073709551615_u64)]
        {
            for answer in [
                server.acquire("a", ttl(ttl_ms.clone())).await,
                server.renew("a", json!({"token": 7, "ttl_ms": ttl_ms})).await,
            ] {
                let problem = answer.problem(422, "invalid-ttl");
                let bounds = (&problem["field"], &problem["minimum_ms"], &problem["maximum_ms"]);
                assert_eq!(bounds, (&json!("ttl_ms"), &json!(500), &json!(86400000)));
            }
        }
        for wait_ms in [json!(-1), json!(86400001), json!(0.5)] {
            let answer = server.acquire("a", json!({"owner": "p", "ttl_ms": 1000, "wait_ms": wait_ms})).await;
            let problem = answer.problem(422, "invalid-wait");
            assert_eq!((&problem["field"], &problem["maximum_ms"]), (&json!("wait_ms"), &json!(86400000)));
        }
        for mode in ["", "Shared", "read"] {
            let problem = server.acquire("a", json!({"owner": "p", "ttl_ms": 1000, "mode": mode})).await;
            let problem = problem.problem(422, "invalid-lock-mode");
            assert_eq!((&problem["field"], &problem["modes"]), (&json!("mode"), &json!(["exclusive", "shared"])));
        }
        for owner in [String::new(), "o".repeat(256)] {
            let problem =
                server.acquire("a", json!({"owner": owner, "ttl_ms": 1000})).await.problem(422, "invalid-owner");
            assert_eq!((&problem["field"], &problem["limit"]), (&json!("owner"), &json!(255)));
        }
        let long = json!({"owner": "p", "ttl_ms": 1000, "description": "d".repeat(256)});
        let problem = server.acquire("a", long).await.problem(422, "invalid-description");
        assert_eq!((&problem["field"], &problem["limit"]), (&json!("description"), &json!(255)));
        assert!(server.fake.asked.borrow().is_empty());
    });
}

#[test]
fn a_body_that_is_not_what_it_should_be_is_400_and_names_what_is_wrong() {
    client_port(async |server| {
        for (body, named) in [
            ("", "EOF"),
            ("[]", "owner"),
            (r#"{"ttl_ms": 1000}"#, "`owner`"),
            (r#"{"owner": "p"}"#, "`ttl_ms`"),
            (r#"{"owner": "p", "ttl_ms": 1000, "wait": 5}"#, "`wait`"),
            (r#"{"owner": "p", "ttl_ms": 1000, "owner": "q"}"#, "`owner`"),
            (r#"{"owner": 7, "ttl_ms": 1000}"#, "integer `7`"),
            (r#"{"owner": "p", "ttl_ms": "1000"}"#, "string"),
            (r#"{"owner": "p", "ttl_ms": 1000, "mode": 1}"#, "integer `1`"),
            (r#"{"owner": "p", "ttl_ms": 1000} {}"#, "trailing"),
        ] {
            let problem = server.ask("POST /v1/locks/a", &[], body.as_bytes()).await.problem(400, "invalid-json");
            assert!(problem["detail"].as_str().unwrap().contains(named) || body == "[]", "{problem}");
        }
        for body in
            [json!({"token": -1, "ttl_ms": 1000}), json!({"token": "7", "ttl_ms": 1000}), json!({"ttl_ms": 1000})]
        {
            server.renew("a", body).await.problem(400, "invalid-json");
        }
        let large = format!(r#"{{"owner": "p", "ttl_ms": 1000, "description": "{}"}}"#, "d".repeat(17_000));
        let problem = server.ask("POST /v1/locks/a", &[], large.as_bytes()).await.problem(413, "body-too-large");
        assert_eq!(problem["limit"], 16384);
        assert!(server.fake.asked.borrow().is_empty());
    });
}

#[test]
fn names_parameters_and_headers_of_locks_are_read_strictly() {
    client_port(async |server| {
        let wish = br#"{"owner": "p", "ttl_ms": 1000}"#;
        assert_eq!(server.ask("POST /v1/locks/", &[], wish).await.problem(400, "invalid-lock-name")["limit"], 512);
        let long = "l".repeat(513);
        for request in [format!("POST /v1/locks/{long}"), format!("GET /v1/locks/{long}")] {
            assert_eq!(server.ask(&request, &[], wish).await.problem(400, "invalid-lock-name")["limit"], 512);
        }
        server.get("/v1/locks/%zz").await.problem(400, "invalid-percent-encoding");
        let problem = server.get("/v1/locks/a/b").await.problem(404, "unknown-path");
        assert!(problem["detail"].as_str().unwrap().contains("%2F"), "{problem}");
        for query in ["", "?token=", "?token=-7", "?token=x", "?token=7&token=7"] {
            let problem = server.ask(&format!("DELETE /v1/locks/a{query}"), &[], b"").await;
            assert_eq!(problem.problem(400, "invalid-parameter")["parameter"], "token");
        }
        server.ask("POST /v1/locks/a?wait_ms=5", &[], wish).await.problem(400, "unknown-parameter");
        server.ask("POST /v1/locks/a?timeout=61s", &[], wish).await.problem(400, "invalid-parameter");
        server.get("/v1/locks/a?consistency=strong").await.problem(400, "invalid-parameter");
        server.ask("POST /v1/locks/a", &["If-None-Match: *"], wish).await.problem(400, "invalid-condition");
        let fenced = server.ask("POST /v1/locks/a", &["Annulus-Fence: a=7"], wish).await;
        assert_eq!(fenced.problem(400, "invalid-header")["header"], "annulus-fence");
        let methods = server.ask("PUT /v1/locks/a", &[], wish).await;
        methods.problem(405, "method-not-allowed");
        assert_eq!(methods.header("allow"), Some("GET, HEAD, POST, DELETE"));
        server.get("/v1/locks/a/renew").await.problem(405, "method-not-allowed");
        assert!(server.fake.asked.borrow().is_empty());
    });
}

#[test]
fn each_refusal_of_a_lock_has_its_status_and_says_when_to_come_back() {
    client_port(async |server| {
        for (reply, status, slug, retry) in [
            (Reply::Refused(Refusal::Busy), 429, "overloaded", Some("1")),
            (Reply::Refused(Refusal::NotLeader { leader: None }), 503, "no-leader", Some("1")),
            (Reply::Refused(Refusal::NoReplica), 503, "no-leader", Some("1")),
            (Reply::Refused(Refusal::TimedOut), 503, "timed-out", Some("1")),
            (Reply::Refused(Refusal::DiskFull), 507, "disk-full", Some("1")),
            (Reply::OutcomeUnknown, 504, "outcome-unknown", None),
            (Reply::Lock(LockOutcome::Full), 429, "lock-queue-full", Some("1")),
            (Reply::Get(None), 500, "internal", None),
        ] {
            server.fake.elsewhere.set(Some(member(3)));
            for request in ["POST /v1/locks/a", "POST /v1/locks/a/renew", "DELETE /v1/locks/a?token=7"] {
                server.fake.script(reply.clone());
                let body = if request.ends_with("renew") {
                    r#"{"token": 7, "ttl_ms": 1000}"#
                } else {
                    r#"{"owner": "p", "ttl_ms": 1000}"#
                };
                let answer = server.ask(request, &[], body.as_bytes()).await;
                let problem = answer.problem(status, slug);
                assert_eq!(answer.header("retry-after"), retry, "{slug}");
                assert_eq!(answer.header("annulus-leader"), Some("0000000000000003"));
                if slug == "lock-queue-full" {
                    assert_eq!((&problem["waiting_limit"], &problem["holders_limit"]), (&json!(1024), &json!(1024)));
                }
            }
        }
        *server.fake.map.borrow_mut() = None;
        for request in ["GET /v1/locks/a", "GET /v1/locks", "DELETE /v1/locks/a?token=7"] {
            server.ask(request, &[], b"").await.problem(503, "not-bootstrapped");
        }
    });
}

#[test]
fn a_member_that_does_not_lead_a_lock_says_who_does() {
    client_port(async |server| {
        server.fake.elsewhere.set(Some(member(3)));
        let leader = Some("0000000000000003");
        let granted = server.acquire("a", json!({"owner": "p", "ttl_ms": 1000})).await;
        assert_eq!((granted.status, granted.header("annulus-leader")), (200, leader));
        assert_eq!(server.get("/v1/locks/a").await.header("annulus-leader"), leader);
        assert_eq!(server.get("/v1/locks/b").await.header("annulus-leader"), leader);
        let released = server.ask("DELETE /v1/locks/a?token=7", &[], b"").await;
        assert_eq!((released.status, released.header("annulus-leader")), (204, leader));
    });
}

#[test]
fn a_look_at_a_lock_says_who_may_answer() {
    client_port(async |server| {
        for (path, expected) in [
            ("/v1/locks/a", Consistency::Linearizable),
            ("/v1/locks/a?consistency=stale", Consistency::Stale),
            ("/v1/locks?consistency=quorum", Consistency::Quorum),
        ] {
            server.get(path).await;
            assert_eq!(server.fake.asked.borrow().last().unwrap().1.consistency(), Some(expected));
        }
    });
}

#[test]
fn every_lock_under_a_prefix_is_listed_once_and_in_order_however_small_the_pages() {
    client_port(async |server| {
        let names: Vec<String> = (0..150).map(|n| format!("a{n:03}")).collect();
        for name in names.iter().map(String::as_str).chain(["b", "%ff"]) {
            server.acquire(name, json!({"owner": "p", "ttl_ms": 1000})).await;
        }
        for page in [1, 7, 1000] {
            server.fake.page_keys.set(page);
            for (limit, pages) in [(1000, 1), (150, 1), (149, 2), (7, 22)] {
                let (mut listed, mut count, mut cursor) = (Vec::new(), 0, String::new());
                loop {
                    let json = server.get(&format!("/v1/locks?prefix=a&limit={limit}{cursor}")).await.json();
                    let items = json["items"].as_array().unwrap();
                    listed.extend(items.iter().map(|item| item["name"].as_str().unwrap().to_owned()));
                    count += 1;
                    match json["cursor"].as_str() {
                        Some(next) => cursor = format!("&cursor={next}"),
                        None => break,
                    }
                }
                assert_eq!((&listed, count), (&names, pages), "{page} {limit}");
            }
        }
        let last = server.get("/v1/locks?prefix=%ff").await.json();
        assert_eq!((&last["items"][0]["name_base64"], &last["cursor"]), (&json!("/w=="), &Value::Null));
        assert_eq!(last["items"][0]["holders"][0]["left_ms"], 1000);
        let cursor = server.get("/v1/locks?prefix=a&limit=1").await.json()["cursor"].as_str().unwrap().to_owned();
        server.get(&format!("/v1/kv?prefix=a&cursor={cursor}")).await.problem(400, "invalid-cursor");
        server.get(&format!("/v1/locks?prefix=b&cursor={cursor}")).await.problem(400, "invalid-cursor");
        server.get("/v1/locks?values=true").await.problem(400, "unknown-parameter");
        server.get("/v1/locks?limit=1001").await.problem(400, "invalid-parameter");
        assert_eq!(server.resources.metrics.http.bytes_in_flight.get(), 0);
    });
}

const WAITS: &str = r#"{"owner": "waits", "ttl_ms": 1000, "wait_ms": 3600000}"#;

#[test]
fn a_client_that_goes_away_while_it_waits_leaves_the_queue() {
    client_port(async |server| {
        server.acquire("a", json!({"owner": "holds", "ttl_ms": 1000})).await;
        let mut client = server.connect().await;
        client
            .send(
                format!("POST /v1/locks/a HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{WAITS}", WAITS.len())
                    .as_bytes(),
            )
            .await;
        until(|| server.waiting("a") == 1).await;
        drop(client);
        until(|| server.waiting("a") == 0 && server.fake.locks.left.get() == 1).await;
        let http = &server.resources.metrics.http;
        until(|| http.client_connections.get() == 0 && http.lock_waits.get() == 0).await;
    });
}

#[test]
fn a_stream_that_is_reset_while_it_waits_leaves_the_queue_and_so_does_a_lost_http2_connection() {
    client_port(async |server| {
        server.acquire("a", json!({"owner": "holds", "ttl_ms": 1000})).await;
        let stream = TcpStream::connect(server.address).await.unwrap().into_std().unwrap();
        let socket = stream.try_clone().unwrap();
        let stream = TcpStream::from_std(stream).unwrap();
        let handshake = hyper::client::conn::http2::handshake(LocalExecutor, TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.unwrap();
        spawn_local(connection);
        let request = || {
            let body = http_body_util::Full::new(Bytes::from_static(WAITS.as_bytes()));
            http::Request::post(format!("http://{}/v1/locks/a", server.address)).body(body).unwrap()
        };
        let (first, second) =
            (spawn_local(sender.send_request(request())), spawn_local(sender.send_request(request())));
        until(|| server.waiting("a") == 2).await;
        first.abort();
        until(|| server.waiting("a") == 1 && server.fake.locks.left.get() == 1).await;
        assert!(!second.is_finished(), "the connection and its other streams go on");
        socket.shutdown(std::net::Shutdown::Both).unwrap();
        until(|| server.waiting("a") == 0 && server.fake.locks.left.get() == 2).await;
    });
}

#[test]
fn no_deadline_of_the_edge_ends_a_wait() {
    let soon = Duration::from_millis(30);
    let limits = Limits {
        header_timeout: soon,
        body_timeout: soon,
        write_timeout: soon,
        idle_timeout: soon,
        linger_timeout: soon,
        ..Limits::default()
    };
    with_limits(Port::Client, limits, async |server| {
        server.acquire("a", json!({"owner": "holds", "ttl_ms": 1000})).await;
        let release = async {
            until(|| server.waiting("a") == 1).await;
            // Idle connections come and go ten times while it waits.
            for _ in 0..10 {
                let mut idle = server.connect().await;
                assert_eq!(idle.ask("GET /healthz", &[], b"").await.status, 200);
                idle.closed().await;
            }
            server.ask("DELETE /v1/locks/a?token=7", &[], b"").await;
        };
        let (granted, ()) = tokio::join!(server.ask("POST /v1/locks/a", &[], WAITS.as_bytes()), release);
        assert_eq!((granted.status, &granted.json()["token"]), (200, &json!(8)));
    });
}

#[test]
fn those_who_wait_leave_connections_to_the_others_and_hold_no_bytes() {
    let limits = Limits { max_connections: 4, max_lock_waits: 2, ..Limits::default() };
    with_limits(Port::Client, limits, async |server| {
        server.acquire("a", json!({"owner": "holds", "ttl_ms": 1000})).await;
        let others = async {
            until(|| server.waiting("a") == 2).await;
            assert_eq!(server.resources.metrics.http.bytes_in_flight.get(), 0);
            let turned_away = server.ask("POST /v1/locks/a", &[], WAITS.as_bytes()).await;
            assert_eq!(turned_away.problem(429, "overloaded")["limit"], 2);
            assert_eq!(turned_away.header("retry-after"), Some("1"));
            // Without a wait it may ask.
            server.acquire("a", json!({"owner": "p", "ttl_ms": 1000})).await.problem(423, "lock-held");
            server.fake.locks.pass(1000);
            server.fake.locks.pass(1000);
        };
        let wait = || server.ask("POST /v1/locks/a", &[], WAITS.as_bytes());
        let (first, second, ()) = tokio::join!(wait(), wait(), others);
        assert_eq!((first.status, second.status), (200, 200));
        assert_eq!(server.resources.metrics.http.lock_waits.get(), 0);
    });
}

#[test]
fn a_stop_ends_waits_at_once_and_says_that_another_member_may_be_asked() {
    client_port(async |server| {
        server.acquire("a", json!({"owner": "holds", "ttl_ms": 1000})).await;
        let stop = async {
            until(|| server.waiting("a") == 1).await;
            server.shutdown.send(true).unwrap();
        };
        let (ended, ()) = tokio::join!(server.ask("POST /v1/locks/a", &[], WAITS.as_bytes()), stop);
        ended.problem(503, "not-ready");
        assert_eq!(ended.header("retry-after"), Some("1"));
        assert_eq!((server.waiting("a"), server.fake.locks.left.get()), (0, 1));
        server.serving.await.unwrap();
    });
}
