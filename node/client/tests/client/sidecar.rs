//! What a sidecar does about memory, before a node that answers as it is told.

use std::net::SocketAddr;
use std::time::Duration;

use annulus_client::Client;
use annulus_client::sidecar::{Config, MIN_MEMORY, Sidecar};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::fake::{Fake, Turn};

const PATIENCE: Duration = Duration::from_secs(20);

/// A sidecar of a node with this script; it serves until the test ends.
async fn sidecar(fake: &Fake) -> SocketAddr {
    let client = Client::builder([fake.address.clone()]).deadline(Duration::from_secs(5)).build().unwrap();
    let (listen, owner) = ("127.0.0.1:0".parse().unwrap(), "pod-1".to_owned());
    let config = Config { listen, unix_socket: None, status_listen: None, state: None, owner, memory: MIN_MEMORY };
    let sidecar = Sidecar::bind(client, config).await.unwrap();
    let address = sidecar.address();
    tokio::spawn(sidecar.run(std::future::pending()));
    address
}

/// Sends bytes, and what comes back until the connection ends.
async fn send(at: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}

async fn get(at: SocketAddr) -> String {
    send(at, "GET /v1/kv/a HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await
}

/// Waits until so many requests are in flight.
async fn in_flight(at: SocketAddr, count: u64) {
    let line = format!("\nannulus_sidecar_in_flight {count}\n");
    let is_so = async {
        while !send(at, "GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.contains(&line) {
            yield_now().await;
        }
    };
    timeout(PATIENCE, is_so).await.unwrap();
}

fn long(bytes: usize) -> Turn {
    Turn::Json(200, Value::String("x".repeat(bytes)))
}

#[tokio::test]
async fn an_answer_that_is_longer_than_all_of_the_memory_is_told_as_such_and_asked_for_once() {
    let fake = Fake::start([long(MIN_MEMORY), long(7)]).await;
    let sidecar = sidecar(&fake).await;
    let answer = get(sidecar).await;
    assert!(answer.starts_with("HTTP/1.1 502") && answer.contains("problems/answer-too-long"), "{answer}");
    assert_eq!(fake.seen().len(), 1);
    assert!(get(sidecar).await.ends_with("\"xxxxxxx\""), "the member is asked as before");
}

#[tokio::test]
async fn requests_and_answers_share_one_memory_and_who_gets_none_is_told_to_come_back() {
    let most = MIN_MEMORY / 3 * 2;
    let fake = Fake::start([long(most), long(most)]).await;
    let sidecar = sidecar(&fake).await;
    // A request that has begun takes all that it says it has.
    let mut begun = TcpStream::connect(sidecar).await.unwrap();
    let head = format!("PUT /v1/kv/b HTTP/1.1\r\nhost: a\r\ncontent-length: {most}\r\n\r\n");
    begun.write_all(head.as_bytes()).await.unwrap();
    begun.write_all(&[b'x'; 100]).await.unwrap();
    // Until the sidecar reads it, a request beside it would find room.
    in_flight(sidecar, 1).await;
    let answer = get(sidecar).await;
    assert!(answer.starts_with("HTTP/1.1 429") && answer.contains("problems/overloaded"), "{answer}");
    assert!(answer.contains("retry-after: 1") && answer.contains("memory"), "{answer}");
    let put = format!("PUT /v1/kv/c HTTP/1.1\r\nhost: a\r\ncontent-length: {most}\r\nconnection: close\r\n\r\n");
    assert!(send(sidecar, &put).await.starts_with("HTTP/1.1 429"), "a request finds none either");
    drop(begun);
    in_flight(sidecar, 0).await;
    assert!(get(sidecar).await.starts_with("HTTP/1.1 200"), "all of it was given back");
}
