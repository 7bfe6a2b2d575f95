//! Accepts connections, tells HTTP/1.1 from HTTP/2, and sees each connection to its end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::edge::Edge;
use super::limits::MAX_HEAD_BYTES;
use super::problem::{Kind, Problem};
use super::route::Port;
use super::stream::{Connection, Guard, Stream};
use crate::room::Reservation;

/// Most requests that one HTTP/2 connection has open.
const MAX_STREAMS: u32 = 256;
/// How often a silent HTTP/2 connection is asked whether it still lives.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// How long accepting rests after it failed, mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What a client that will speak HTTP/2 says first; no HTTP/1 request begins with these bytes.
const HTTP2_PREFACE: &[u8] = b"PRI";

/// Where connections come from.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // An answer is one write; waiting for more to send with it only adds to its latency.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "TCP_NODELAY could not be set");
                }
                Ok(Stream::Tcp(stream))
            }
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| Stream::Unix(stream)),
        }
    }
}

/// Serves one port until `stop` turns true; then lets open requests end, for as long as that may take.
pub(super) async fn serve(listener: Listener, port: Port, edge: Arc<Edge>, stop: watch::Receiver<bool>) {
    let mut stopped = stop.clone();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = told(&mut stopped) => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok(stream) => match edge.resources.slots(port).0.take(1) {
                    Some(slot) => {
                        connections.spawn(connection(Arc::clone(&edge), port, stream, slot, stop.clone()));
                    }
                    None => turn_away(stream, &edge, port),
                },
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let grace = edge.resources.limits.shutdown_timeout;
    if timeout(grace, async { while connections.join_next().await.is_some() {} }).await.is_err() {
        tracing::warn!(connections = connections.len(), "connections were still open when the sidecar stopped");
    }
}

/// Waits until it is said to stop. Nobody left to say so is as good.
async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Says why and closes. It costs no task and no wait, so a flood of connections is turned away at the same price each.
fn turn_away(stream: Stream, edge: &Edge, port: Port) {
    edge.metrics.connections_refused.inc();
    let limit = edge.resources.slots(port).1;
    let detail = format!("this sidecar has {limit} connections open and takes no more");
    let body = Problem::new(Kind::TooManyConnections, detail).with("limit", limit).to_json();
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\
         retry-after: 1\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let (head, mut unread) = ([head.as_bytes(), &body].concat(), [0; 4096]);
    // A new stream does not know yet that it is ready, so the socket itself is asked; it is in non-blocking mode. What has
    // already come is read, because closing over unread bytes would destroy the answer. Best effort: the answer fits into
    // an empty send buffer, or the application does without.
    match stream {
        Stream::Tcp(stream) => {
            let Ok(mut stream) = stream.into_std() else { return };
            while matches!(io::Read::read(&mut stream, &mut unread), Ok(1..)) {}
            let _ = io::Write::write(&mut stream, &head);
        }
        Stream::Unix(stream) => {
            let Ok(mut stream) = stream.into_std() else { return };
            while matches!(io::Read::read(&mut stream, &mut unread), Ok(1..)) {}
            let _ = io::Write::write(&mut stream, &head);
        }
    }
}

async fn connection(edge: Arc<Edge>, port: Port, mut stream: Stream, _slot: Reservation, stop: watch::Receiver<bool>) {
    let limits = edge.resources.limits.clone();
    let mut stopped = stop.clone();
    let opening = tokio::select! {
        biased;
        () = told(&mut stopped) => return,
        opening = timeout(limits.header_timeout, opening(&mut stream)) => opening,
    };
    let opening = match opening {
        Ok(Ok(opening)) => opening,
        Ok(Err(error)) => return tracing::debug!(%error, "a connection ended before its first request"),
        Err(_) => return tracing::debug!("a connection was closed because nothing came"),
    };
    let is_http1 = !opening.starts_with(HTTP2_PREFACE);
    let connection = Connection::new(is_http1);
    let guard = TokioIo::new(Guard::new(stream, opening, Arc::clone(&connection), limits.clone()));
    let ended = if is_http1 {
        run_http1(edge, port, guard, &connection, stop).await
    } else {
        run_http2(edge, port, guard, &connection, stop).await
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended with an error");
    }
    if let Some(stream) = connection.stream() {
        let_down(stream, limits.linger_timeout).await;
    }
}

/// The first bytes, as many as it takes to tell HTTP/1 from HTTP/2.
async fn opening(stream: &mut Stream) -> io::Result<Vec<u8>> {
    let mut first = [0; 1024];
    let mut filled = 0;
    loop {
        let read = stream.read(&mut first[filled..]).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += read;
        let opening = &first[..filled];
        if filled >= HTTP2_PREFACE.len() || !HTTP2_PREFACE.starts_with(opening) {
            return Ok(opening.to_vec());
        }
    }
}

async fn run_http1(
    edge: Arc<Edge>,
    port: Port,
    guard: TokioIo<Guard>,
    connection: &Arc<Connection>,
    mut stop: watch::Receiver<bool>,
) -> hyper::Result<()> {
    let service = service_fn(|request: Request<Incoming>| edge.serve(port, connection, request));
    let mut builder = http1::Builder::new();
    // The guard has the deadline for heads; hyper's would also close connections that are merely idle.
    builder.max_header_size(MAX_HEAD_BYTES).timer(TokioTimer::new()).header_read_timeout(None);
    let mut running = std::pin::pin!(builder.serve_connection(guard, service));
    tokio::select! {
        biased;
        ended = &mut running => return ended,
        () = told(&mut stop) => {}
    }
    running.as_mut().graceful_shutdown();
    running.await
}

async fn run_http2(
    edge: Arc<Edge>,
    port: Port,
    guard: TokioIo<Guard>,
    connection: &Arc<Connection>,
    mut stop: watch::Receiver<bool>,
) -> hyper::Result<()> {
    let shared = Arc::clone(connection);
    let service = service_fn(move |request: Request<Incoming>| {
        let (edge, connection) = (Arc::clone(&edge), Arc::clone(&shared));
        async move { edge.serve(port, &connection, request).await }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).expect("64 KiB fits"))
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_INTERVAL);
    let mut running = std::pin::pin!(builder.serve_connection(guard, service));
    tokio::select! {
        biased;
        ended = &mut running => return ended,
        () = told(&mut stop) => {}
    }
    running.as_mut().graceful_shutdown();
    running.await
}

/// Reads and drops what is still being sent, until its sender has read the answer and closes, or the time is over.
async fn let_down(mut stream: Stream, patience: Duration) {
    let until = Instant::now() + patience;
    let _ = stream.shutdown().await;
    let mut unread = [0; 8192];
    while matches!(timeout_at(until, stream.read(&mut unread)).await, Ok(Ok(1..))) {}
}
