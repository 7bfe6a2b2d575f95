//! Connections: how many, how long, HTTP/2, and what they hold.

use hyper_util::rt::TokioIo;

use super::*;
use crate::http::server::LocalExecutor;

#[test]
fn connections_beyond_the_limit_are_turned_away_until_one_closes() {
    let limits = Limits { max_connections: 2, ..Limits::default() };
    with_limits(Port::Client, limits, async |server| {
        let mut first = server.connect().await;
        let mut second = server.connect().await;
        assert_eq!(first.ask("GET /healthz", &[], b"").await.status, 200);
        assert_eq!(second.ask("GET /healthz", &[], b"").await.status, 200);
        let mut third = server.connect().await;
        let answer = third.answer().await;
        assert_eq!(answer.problem(503, "too-many-connections")["limit"], 2);
        third.closed().await;
        assert_eq!(server.resources.metrics.http.connections_refused.get(), 1);
        drop(first);
        // The server notices in its own time; until then it turns us away.
        loop {
            let mut client = server.connect().await;
            client.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await;
            if client.read().await && client.unread.starts_with(b"HTTP/1.1 200") {
                break;
            }
        }
    });
}

#[test]
fn an_idle_connection_is_closed_and_a_waiting_one_is_not() {
    let soon = Duration::from_millis(50);
    let limits = Limits { idle_timeout: soon, header_timeout: soon, ..Limits::default() };
    with_limits(Port::Client, limits, async |server| {
        let mut idle = server.connect().await;
        assert_eq!(idle.ask("GET /healthz", &[], b"").await.status, 200);
        server.fake.silent.set(true);
        let mut waiting = server.connect().await;
        waiting.send(b"GET /v1/kv/a HTTP/1.1\r\nHost: a\r\n\r\n").await;
        idle.closed().await;
        // Well past the idle timeout the answer is still waited for.
        let more = tokio::time::timeout(Duration::from_millis(200), waiting.read()).await;
        assert!(more.is_err(), "{more:?}");
    });
}

#[test]
fn a_client_that_does_not_read_its_answers_is_let_go() {
    let limits = Limits { write_timeout: Duration::from_millis(50), ..Limits::default() };
    with_limits(Port::Client, limits, async |server| {
        server.fake.put("a", vec![0; 1024 * 1024]);
        let mut client = server.connect().await;
        let requests = b"GET /v1/kv/a HTTP/1.1\r\nHost: a\r\n\r\n".repeat(64);
        client.send(&requests).await;
        let connections = &server.resources.metrics.http.client_connections;
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        while connections.get() > 0 || server.fake.asked.borrow().is_empty() {
            tick.tick().await;
        }
        assert_eq!(server.resources.metrics.http.bytes_in_flight.get(), 0);
    });
}

#[test]
fn bytes_in_flight_are_bounded_over_all_connections() {
    let limits = Limits { max_bytes_in_flight: 1000, ..Limits::default() };
    with_limits(Port::Client, limits, async |server| {
        server.fake.silent.set(true);
        let mut first = server.connect().await;
        first
            .send(&[&b"PUT /v1/kv/a HTTP/1.1\r\nHost: a\r\nContent-Length: 800\r\n\r\n"[..], &[0; 800]].concat())
            .await;
        let mut tick = tokio::time::interval(Duration::from_millis(1));
        while server.fake.asked.borrow().is_empty() {
            tick.tick().await;
        }
        let answer = server.ask("PUT /v1/kv/b", &[], &[0; 300]).await;
        assert_eq!(answer.problem(429, "overloaded")["limit"], 1000);
        assert_eq!(answer.header("retry-after"), Some("1"));
        drop(first);
        while server.resources.metrics.http.bytes_in_flight.get() > 0 {
            tick.tick().await;
        }
        server.fake.silent.set(false);
        assert_eq!(server.ask("PUT /v1/kv/b", &[], &[0; 300]).await.status, 201);
    });
}

#[test]
fn requests_that_come_together_are_answered_in_their_order() {
    client_port(async |server| {
        let mut client = server.connect().await;
        let requests: String = (0..50)
            .map(|n| format!("PUT /v1/kv/{n} HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nxGET /v1/kv/{n} HTTP/1.1\r\nHost: a\r\n\r\n"))
            .collect();
        client.send(requests.as_bytes()).await;
        for n in 0..50 {
            let put = client.answer().await;
            assert_eq!((put.status, put.header("etag")), (201, Some(&*format!("\"{}\"", 17 + n))));
            assert_eq!(client.answer().await.status, 200);
        }
    });
}

#[test]
fn http2_by_prior_knowledge_gets_the_same_answers() {
    client_port(async |server| {
        let stream = TcpStream::connect(server.address).await.unwrap();
        let handshake = hyper::client::conn::http2::handshake(LocalExecutor, TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.unwrap();
        let connection = spawn_local(connection);
        let body = http_body_util::Full::new(Bytes::from_static(b"value"));
        let request = http::Request::put(format!("http://{}/v1/kv/a%2Fb?ttl=1m", server.address)).body(body).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.headers()["etag"].to_str().unwrap()), (201, "\"17\""));
        assert_eq!(answer.headers()["annulus-epoch"], "5");
        let large = http_body_util::Full::new(Bytes::from(vec![0; 1_048_577]));
        let request = http::Request::put(format!("http://{}/v1/kv/c", server.address)).body(large).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status().as_u16(), 413);
        assert_eq!(server.fake.keys.borrow()[&b"a/b"[..]].value, "value");
        drop(sender);
        connection.await.unwrap().unwrap();
    });
}

#[test]
fn a_member_that_is_about_to_stop_answers_and_lets_connections_go() {
    client_port(async |server| {
        let mut client = server.connect().await;
        assert_eq!(client.ask("GET /healthz", &[], b"").await.header("connection"), None);
        server.resources.leave();
        let answer = client.ask("GET /healthz", &[], b"").await;
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
        client.closed().await;
    });
}

#[test]
fn a_stop_lets_open_requests_end_and_takes_no_new_connections() {
    client_port(async |server| {
        server.fake.put("a", "v");
        let mut idle = server.connect().await;
        assert_eq!(idle.ask("GET /v1/kv/a", &[], b"").await.status, 200);
        let mut open = server.connect().await;
        open.send(b"PUT /v1/kv/b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nva").await;
        let mut tick = tokio::time::interval(Duration::from_millis(1));
        while server.resources.metrics.http.bytes_in_flight.get() == 0 {
            tick.tick().await;
        }
        server.shutdown.send(true).unwrap();
        idle.closed().await;
        assert!(TcpStream::connect(server.address).await.is_err());
        open.send(b"lue").await;
        assert_eq!(open.answer().await.status, 201);
        open.closed().await;
        server.serving.await.unwrap();
    });
}
