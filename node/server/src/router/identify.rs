//! Asks a node that is to become a member who it is: one `GET /admin/v1/status`, with every size and time bounded, since
//! whatever listens at that address may be anything.

use std::pin::pin;
use std::time::Duration;

use annulus_core::id::{ClusterId, MemberId};
use bytes::Bytes;
use http::header::{CONNECTION, HOST};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;

use super::Identified;
use crate::names;

/// How long it has for the whole answer.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(2);
/// Most bytes of the answer's head, and of its body.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
const PATH: &str = "/admin/v1/status";

/// Whatever else the status says is left alone: the node may be of a newer version.
#[derive(Deserialize)]
struct Status {
    id: String,
    name: String,
    zone: String,
    cluster: Option<String>,
    peer_address: Option<String>,
}

/// Who the node at this `host:port` says it is, or what stood in the way.
pub(crate) async fn ask(admin_address: &str, timeout: Duration) -> Result<Identified, String> {
    let answer = tokio::time::timeout(timeout, get_status(admin_address, timeout)).await;
    let body = answer.map_err(|_| format!("it did not answer within {}ms", timeout.as_millis()))??;
    read(&body)
}

async fn get_status(admin_address: &str, timeout: Duration) -> Result<Bytes, String> {
    let request = Request::get(PATH).header(HOST, admin_address).header(CONNECTION, "close");
    let request = request.body(Empty::<Bytes>::new()).map_err(|_| "its admin address is not `host:port`".to_owned())?;
    let stream =
        names::connect(admin_address, timeout).await.map_err(|error| format!("it can't be reached: {error}"))?;
    let broken = |error: &dyn std::error::Error| format!("it can't be talked to: {}", told(error));
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_ANSWER_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(&error))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        if response.status() != StatusCode::OK {
            return Err(format!("it answers `GET {PATH}` with {}", response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        body.map(|body| body.to_bytes()).map_err(|error| broken(&*error))
    };
    // The connection is driven here and not by a task of its own, so that it ends with this request. How it ended, the
    // exchange is told.
    let mut connection = pin!(async {
        let _ = connection.await;
        std::future::pending::<()>().await;
    });
    tokio::select! {
        body = exchange => body,
        () = &mut connection => unreachable!("it stays pending after its end"),
    }
}

fn read(body: &[u8]) -> Result<Identified, String> {
    let status: Status = serde_json::from_slice(body)
        .map_err(|error| format!("what it answers is not the status of a member: {error}"))?;
    let id: MemberId = status.id.parse().map_err(|error| format!("its status names no member: {error}"))?;
    let cluster: Option<Result<ClusterId, _>> = status.cluster.map(|cluster| cluster.parse());
    let cluster = cluster.transpose().map_err(|error| format!("its status names no cluster: {error}"))?;
    Ok(Identified { id, name: status.name, zone: status.zone, cluster, peer_address: status.peer_address })
}

fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// What is made of this answer; `None`: the node accepts and says nothing.
    fn asked(answer: Option<Vec<u8>>) -> Result<Identified, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let timeout = Duration::from_millis(if answer.is_some() { 10_000 } else { 50 });
            let serve = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 1024];
                let read = stream.read(&mut head).await.unwrap();
                assert!(head[..read].starts_with(b"GET /admin/v1/status HTTP/1.1\r\n"));
                match answer {
                    // The one who asks may have had enough before the end.
                    Some(answer) => drop(stream.write_all(&answer).await),
                    None => drop(stream.read(&mut head).await),
                }
            };
            let (said, ()) = tokio::join!(ask(&address, timeout), serve);
            said
        })
    }

    fn ok(body: &str) -> Option<Vec<u8>> {
        Some(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes())
    }

    #[test]
    fn a_node_says_who_it_is_and_what_else_it_says_is_left_alone() {
        let fresh = r#"{"id":"0000000000000004","name":"node-4","zone":"b","cluster":null,"more":[1]}"#;
        let expected = Identified {
            id: MemberId::new(4).unwrap(),
            name: "node-4".to_owned(),
            zone: "b".to_owned(),
            cluster: None,
            peer_address: None,
        };
        assert_eq!(asked(ok(fresh)), Ok(expected.clone()));
        let taken = fresh.replace("null", "\"07070707-0707-0707-0707-070707070707\"");
        assert_eq!(asked(ok(&taken)), Ok(Identified { cluster: Some(ClusterId([7; 16])), ..expected }));
    }

    #[test]
    fn what_is_no_member_is_told_apart_by_what_it_does() {
        let endless = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n".iter().copied();
        for (answer, expected) in [
            (None, "did not answer within 50ms"),
            (Some(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec()), "with 404 Not Found"),
            (Some(b"SSH-2.0-OpenSSH\r\n".to_vec()), "can't be talked to"),
            (Some(Vec::new()), "can't be talked to"),
            (Some(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{".to_vec()), "can't be talked to"),
            (Some(endless.chain(vec![b' '; 200_000]).collect()), "length limit exceeded"),
            (ok("<html>"), "not the status of a member"),
            (ok(r#"{"id":"4","name":"","zone":"","cluster":null}"#), "`4` is not a member id"),
            (ok(r#"{"id":"0000000000000004","name":"","zone":"","cluster":"x"}"#), "is not a cluster id"),
        ] {
            let told = asked(answer).unwrap_err();
            assert!(told.contains(expected), "{told}\n{expected}");
        }
    }

    #[test]
    fn an_address_that_nobody_listens_at_or_that_is_none_is_told() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for (address, expected) in [("127.0.0.1:1", "can't be reached"), ("a\nb:1", "not `host:port`")] {
            let told = runtime.block_on(ask(address, TIMEOUT)).unwrap_err();
            assert!(told.contains(expected), "{told}");
        }
    }
}
