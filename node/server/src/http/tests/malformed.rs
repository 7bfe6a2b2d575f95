//! Messages that are wrong as messages, byte for byte.

use super::*;

/// Limits that make deadlines come soon.
fn impatient() -> Limits {
    let soon = Duration::from_millis(50);
    Limits { header_timeout: soon, body_timeout: soon, ..Limits::default() }
}

#[test]
fn a_body_that_is_declared_too_large_is_413_before_it_is_read() {
    client_port(async |server| {
        let mut client = server.connect().await;
        client.send(b"PUT /v1/kv/a HTTP/1.1\r\nHost: a\r\nContent-Length: 1048577\r\n\r\n").await;
        let answer = client.answer().await;
        assert_eq!(answer.problem(413, "body-too-large")["limit"], 1_048_576);
        assert_eq!(answer.header("connection"), Some("close"));
        client.closed().await;
        let mut patient = server.connect().await;
        patient
            .send(b"PUT /v1/kv/a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9999999\r\n\r\n")
            .await;
        patient.answer().await.problem(413, "body-too-large");
    });
}

#[test]
fn a_client_that_sends_its_large_body_all_the_same_still_reads_the_413() {
    client_port(async |server| {
        let answer = server.ask("PUT /v1/kv/a", &[], &vec![0; 1_500_000]).await;
        answer.problem(413, "body-too-large");
    });
}

#[test]
fn a_chunked_body_that_grows_too_large_is_413_and_the_connection_ends() {
    client_port(async |server| {
        let mut client = server.connect().await;
        client.send(b"PUT /v1/kv/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        for _ in 0..17 {
            let chunk = [&b"10000\r\n"[..], &[0; 65536], b"\r\n"].concat();
            client.send(&chunk).await;
        }
        let answer = client.answer().await;
        answer.problem(413, "body-too-large");
        assert_eq!(answer.header("connection"), Some("close"));
        client.closed().await;
        assert!(server.fake.asked.borrow().is_empty());
        assert_eq!(server.resources.metrics.http.bytes_in_flight.get(), 0);
    });
}

#[test]
fn ambiguous_lengths_are_400_and_the_connection_ends() {
    client_port(async |server| {
        for headers in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 5",
            "Content-Length: 5\r\nContent-Length: 5",
            "Transfer-Encoding: gzip, chunked",
        ] {
            let mut client = server.connect().await;
            let head = format!("PUT /v1/kv/a HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n");
            client.send(head.as_bytes()).await;
            client.send(b"0\r\n\r\nGET /v1/kv/b HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let answer = client.answer().await;
            answer.problem(400, "malformed-request");
            assert_eq!(answer.header("connection"), Some("close"), "{headers}");
            client.closed().await;
        }
        assert!(server.fake.asked.borrow().is_empty(), "no smuggled request came through");
    });
}

#[test]
fn a_fault_counts_for_its_own_request_only() {
    client_port(async |server| {
        let mut client = server.connect().await;
        let good = "PUT /v1/kv/a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx";
        let bad = "PUT /v1/kv/b HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx";
        client.send(format!("{good}{good}{bad}{good}").as_bytes()).await;
        assert_eq!(client.answer().await.status, 201);
        assert_eq!(client.answer().await.status, 204);
        client.answer().await.problem(400, "malformed-request");
        client.closed().await;
        assert_eq!(server.fake.asked.borrow().len(), 2);
    });
}

#[test]
fn lengths_that_are_no_numbers_or_differ_are_400() {
    client_port(async |server| {
        for headers in [
            "Content-Length: +5",
            "Content-Length: -5",
            "Content-Length: 0x5",
            "Content-Length: 5, 5",
            "Content-Length: 5\r\nContent-Length: 6",
            "Content-Length : 5",
            "Content-Length: 99999999999999999999",
        ] {
            let mut client = server.connect().await;
            client.send(format!("PUT /v1/kv/a HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\nvalue").as_bytes()).await;
            assert_eq!(client.answer().await.status, 400, "{headers}");
            client.closed().await;
        }
        assert!(server.fake.asked.borrow().is_empty());
    });
}

#[test]
fn a_request_without_a_host_or_with_two_is_400() {
    client_port(async |server| {
        for head in ["GET /v1/kv/a HTTP/1.1\r\n\r\n", "GET /v1/kv/a HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"] {
            let mut client = server.connect().await;
            client.send(head.as_bytes()).await;
            client.answer().await.problem(400, "malformed-request");
            client.closed().await;
        }
    });
}

#[test]
fn too_many_or_too_large_headers_are_431() {
    client_port(async |server| {
        let many: String = (0..200).map(|n| format!("X-{n}: 1\r\n")).collect();
        let large = format!("X-Large: {}\r\n", "x".repeat(70_000));
        for headers in [many, large] {
            let mut client = server.connect().await;
            client.send(format!("GET /v1/kv/a HTTP/1.1\r\nHost: a\r\n{headers}\r\n").as_bytes()).await;
            assert_eq!(client.answer().await.status, 431);
        }
    });
}

#[test]
fn a_head_that_trickles_is_closed_however_steadily_it_comes() {
    with_limits(Port::Client, impatient(), async |server| {
        let mut client = server.connect().await;
        // The first request is whole; the deadline is each head's own.
        assert_eq!(client.ask("GET /healthz", &[], b"").await.status, 200);
        client.send(b"GET /v1/kv/a HTTP/1.1\r\n").await;
        client.closed().await;
        let mut silent = server.connect().await;
        silent.closed().await;
        let mut trickle = server.connect().await;
        trickle.send(b"GET / HTTP/1.1\r\n").await;
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        while trickle.stream.write_all(b"X: 1\r\n").await.is_ok() {
            tick.tick().await;
        }
    });
}

#[test]
fn a_body_that_trickles_is_408() {
    with_limits(Port::Client, impatient(), async |server| {
        let mut client = server.connect().await;
        client.send(b"PUT /v1/kv/a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nva").await;
        let answer = client.answer().await;
        answer.problem(408, "body-timeout");
        assert_eq!(answer.header("connection"), Some("close"));
        client.closed().await;
        assert_eq!(server.resources.metrics.http.bytes_in_flight.get(), 0);
    });
}

#[test]
fn what_is_no_http_is_400_or_closed() {
    client_port(async |server| {
        for bytes in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b"hello\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"]
        {
            let mut client = server.connect().await;
            client.send(bytes).await;
            assert_eq!(client.answer().await.status, 400);
            client.closed().await;
        }
    });
}

#[test]
fn a_body_cut_short_changes_nothing() {
    client_port(async |server| {
        let mut client = server.connect().await;
        client.send(b"PUT /v1/kv/a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nva").await;
        client.stream.shutdown().await.unwrap();
        while client.read().await {}
        assert!(server.fake.asked.borrow().is_empty());
    });
}
