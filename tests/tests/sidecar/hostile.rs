//! What can be sent to a sidecar that is no request: each has an answer or an end, and the sidecar goes on.

use std::time::Duration;

use annulus_tests::processes::{Dev, Http, Sidecar, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(30);

/// Sends bytes, and reads until the other side closes or an answer is whole.
async fn said_to(address: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    // It may have closed before it has read all.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = timeout(PATIENCE, stream.read(&mut buffer)).await.expect("it answers or closes") {
        answer.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn what_is_no_request_is_refused_and_the_next_one_is_served() {
    let dev = Dev::ready().await;
    let sidecar = Sidecar::of(dev.addresses(), "pod-1").await;
    let address = sidecar.address();
    let close = "Connection: close\r\n";
    let huge = format!("GET /v1/kv/a HTTP/1.1\r\nHost: x\r\nX-Huge: {}\r\n\r\n", "h".repeat(100_000));
    let long = format!("PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", 100 << 20);
    let chunked = format!(
        "POST /v1/txn HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        format!("100000\r\n{}\r\n", "c".repeat(1 << 20)).repeat(4)
    );
    for (bytes, begins) in [
        ("nonsense\r\n\r\n".to_owned(), "HTTP/1.1 400"),
        ("\0\x01\x02\x03".repeat(100), ""),
        (huge, "HTTP/1.1 431"),
        (format!("GET /v1/kv/a HTTP/1.1\r\n{close}\r\n"), "HTTP/1.1 400"),
        (format!("GET /v1/kv/a HTTP/1.1\r\nHost: x\r\nHost: y\r\n{close}\r\n"), "HTTP/1.1 400"),
        (long, "HTTP/1.1 413"),
        (chunked, "HTTP/1.1 413"),
        (
            format!("PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n{close}\r\nzz\r\n"),
            "HTTP/1.1 400",
        ),
        (format!("BREW /v1/kv/a HTTP/1.1\r\nHost: x\r\n{close}\r\n"), "HTTP/1.1 405"),
        (format!("GET http://elsewhere/v1/kv/none HTTP/1.1\r\nHost: x\r\n{close}\r\n"), "HTTP/1.1 404"),
        (format!("CONNECT elsewhere:80 HTTP/1.1\r\nHost: x\r\n{close}\r\n"), "HTTP/1.1 404"),
        (format!("GET /v1/kv/a HTTP/1.1\r\nHost: x\r\nAnnulus-Fance: 1\r\n{close}\r\n"), "HTTP/1.1 400"),
    ] {
        let answer = said_to(&address, bytes.as_bytes()).await;
        let shown: String = bytes.chars().take(80).collect();
        assert!(answer.starts_with(begins), "{shown:?}: {answer}");
        assert_eq!(Http::default().put(&address, "a", "x").await.expect("an answer").status / 100, 2);
    }
}

#[tokio::test]
async fn who_sends_slowly_is_closed_in_time_and_who_is_slow_to_read_holds_up_nobody() {
    let dev = Dev::ready().await;
    let sidecar = Sidecar::of(dev.addresses(), "pod-1").await;
    let (address, http) = (sidecar.address(), Http::default());
    http.put(&address, "large", "v".repeat(1 << 20)).await.expect("an answer");
    let mut readers = Vec::new();
    for _ in 0..20 {
        let mut reader = TcpStream::connect(&address).await.expect("it listens");
        reader.write_all(&b"GET /v1/kv/large HTTP/1.1\r\nHost: x\r\n\r\n".repeat(50)).await.expect("it is sent");
        readers.push(reader);
    }
    let mut slow = TcpStream::connect(&address).await.expect("it listens");
    slow.write_all(b"GET /v1/kv/a HTTP/1.1\r\nHos").await.expect("it is sent");
    let closed = tokio::spawn(async move {
        let mut unread = [0; 100];
        timeout(PATIENCE, slow.read(&mut unread)).await.expect("it is closed in time")
    });
    while !closed.is_finished() {
        assert_eq!(http.get(&address, "/v1/kv/none").await.expect("an answer").status, 404);
    }
    assert!(matches!(closed.await.expect("it does not panic"), Ok(0) | Err(_)));
}

#[tokio::test]
async fn ten_thousand_connections_are_bounded_and_the_status_port_answers_meanwhile() {
    let dev = Dev::ready().await;
    let sidecar = Sidecar::of(dev.addresses(), "pod-1").await;
    let mut open = Vec::new();
    let mut refused = 0;
    for number in 0..10_000 {
        let mut stream = TcpStream::connect(sidecar.address()).await.expect("it listens");
        if open.len() < 1500 {
            open.push(stream);
        } else {
            let mut answer = [0; 12];
            timeout(PATIENCE, stream.read_exact(&mut answer))
                .await
                .expect("it is turned away")
                .expect("with an answer");
            assert_eq!(&answer, b"HTTP/1.1 503", "{number}");
            refused += 1;
        }
    }
    assert_eq!(refused, 8500);
    let metrics = Http::default().get(&sidecar.status_address(), "/metrics").await.expect("an answer").text();
    assert!(metrics.contains("annulus_sidecar_connections 1024"), "{metrics}");
    drop(open);
    let is_served =
        async || Http::default().get(&sidecar.address(), "/healthz").await.ok().filter(|answer| answer.status == 200);
    until("there is room again", PATIENCE, is_served).await;
}
