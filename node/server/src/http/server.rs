//! Accepts connections, tells HTTP/1.1 from HTTP/2, and sees each connection to its end.

use std::future::Future;
use std::io::{self, Read, Write};
use std::rc::Rc;
use std::sync::Arc;

use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep, timeout, timeout_at};

use super::edge::Edge;
use super::guard::{Connection, Guard};
use super::limits::{Quota, Reservation, Resources};
use super::problem::{Kind, Problem};
use super::route::Port;
use crate::router::Router;

/// Longest request head in bytes: a key of 4 KiB takes 12 KiB percent-encoded, a prefix and a cursor as much again.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Most requests that one HTTP/2 connection has open.
const MAX_STREAMS: u32 = 256;
/// How often a silent HTTP/2 connection is asked whether it still lives.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// How long a connection is silent before the client's machine is asked whether it still lives, and how often then. Nine
/// questions without an answer end it: who waits for a lock over HTTP/1.1 says nothing for as long as a day, and a machine
/// that is gone must not keep its place for that long.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long accepting rests after it failed, mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What a client that will speak HTTP/2 says first; no HTTP/1 request begins with these bytes.
const HTTP2_PREFACE: &[u8] = b"PRI";

/// Serves one port on this thread until `shutdown` turns true or its sender is gone; then lets open requests end.
///
/// Must run inside a `LocalRuntime`, or a `LocalSet`. Several I/O threads each serve a listener of their own, bound to the
/// same address, with the same `resources`.
pub async fn serve<R: Router + 'static>(
    listener: TcpListener,
    port: Port,
    router: Rc<R>,
    resources: Arc<Resources>,
    shutdown: watch::Receiver<bool>,
) {
    let edge = Rc::new(Edge::new(port, router, Arc::clone(&resources), shutdown.clone()));
    let mut stop = shutdown.clone();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => match slots(&resources, port).take(1) {
                    Some(slot) => {
                        let connection = connection(Rc::clone(&edge), stream, slot, shutdown.clone());
                        connections.spawn_local(connection);
                    }
                    None => turn_away(stream, &resources, port),
                },
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let grace = resources.limits.shutdown_timeout;
    if timeout(grace, async { while connections.join_next().await.is_some() {} }).await.is_err() {
        tracing::warn!(connections = connections.len(), "connections were still open when the node stopped");
    }
}

fn slots(resources: &Resources, port: Port) -> &Arc<Quota> {
    match port {
        Port::Client => &resources.client_connections,
        Port::Admin => &resources.admin_connections,
    }
}

/// Says why and closes. It costs no task and no wait, so a flood of connections is turned away at the same price each.
fn turn_away(stream: TcpStream, resources: &Resources, port: Port) {
    resources.metrics.http.connections_refused.inc();
    let limit = match port {
        Port::Client => resources.limits.max_connections,
        Port::Admin => resources.limits.max_admin_connections,
    };
    let detail = format!("this member has {limit} connections open and takes no more");
    let body = Problem::new(Kind::TooManyConnections, detail).with("limit", limit).to_json();
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\
         retry-after: 1\r\nconnection: close\r\n\r\n",
        body.len()
    );
    // A new stream does not know yet that it is ready, so the socket itself is asked; it is in non-blocking mode.
    let Ok(mut stream) = stream.into_std() else { return };
    // What the client has already sent is read, because closing over unread bytes would destroy the answer.
    let mut unread = [0; 4096];
    while matches!(stream.read(&mut unread), Ok(1..)) {}
    // Best effort: the answer fits into an empty send buffer, or the client does without.
    let _ = stream.write(&[head.as_bytes(), &body].concat());
}

async fn connection<R: Router + 'static>(
    edge: Rc<Edge<R>>,
    mut stream: TcpStream,
    _slot: Reservation,
    shutdown: watch::Receiver<bool>,
) {
    let limits = edge.resources.limits.clone();
    // A reply is one write; waiting for more to send with it only adds to its latency.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_INTERVAL);
    if let Err(error) = SockRef::from(&stream).set_tcp_keepalive(&keepalive) {
        tracing::debug!(%error, "SO_KEEPALIVE could not be set");
    }
    let opening = match timeout(limits.header_timeout, opening(&mut stream)).await {
        Ok(Ok(opening)) => opening,
        Ok(Err(error)) => return tracing::debug!(%error, "a connection ended before its first request"),
        Err(_) => return tracing::debug!("a connection was closed because nothing came"),
    };
    let http1 = !opening.starts_with(HTTP2_PREFACE);
    let connection = Connection::new(http1);
    let guard = TokioIo::new(Guard::new(stream, opening, Rc::clone(&connection), limits.clone()));
    let ended = if http1 {
        run_http1(edge, guard, &connection, shutdown).await
    } else {
        run_http2(edge, guard, &connection, shutdown).await
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended with an error");
    }
    if let Some(stream) = connection.stream() {
        let_down(stream, limits.linger_timeout).await;
    }
}

/// The first bytes, as many as it takes to tell HTTP/1 from HTTP/2. `PRI` alone is enough: no method begins with it.
async fn opening(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
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

async fn run_http1<R: Router + 'static>(
    edge: Rc<Edge<R>>,
    guard: TokioIo<Guard>,
    connection: &Rc<Connection>,
    mut shutdown: watch::Receiver<bool>,
) -> hyper::Result<()> {
    let service = service_fn(|request| edge.serve(connection, request));
    let mut builder = http1::Builder::new();
    // The guard has the deadline for heads; hyper's would also close connections that are merely idle.
    builder.max_header_size(MAX_HEAD_BYTES).timer(TokioTimer::new()).header_read_timeout(None);
    let mut running = std::pin::pin!(builder.serve_connection(guard, service));
    tokio::select! {
        biased;
        ended = &mut running => return ended,
        _ = shutdown.wait_for(|stop| *stop) => {}
    }
    running.as_mut().graceful_shutdown();
    running.await
}

async fn run_http2<R: Router + 'static>(
    edge: Rc<Edge<R>>,
    guard: TokioIo<Guard>,
    connection: &Rc<Connection>,
    mut shutdown: watch::Receiver<bool>,
) -> hyper::Result<()> {
    let shared = Rc::clone(connection);
    let service = service_fn(move |request| {
        let (edge, connection) = (Rc::clone(&edge), Rc::clone(&shared));
        async move { edge.serve(&connection, request).await }
    });
    let mut builder = http2::Builder::new(LocalExecutor);
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
        _ = shutdown.wait_for(|stop| *stop) => {}
    }
    running.as_mut().graceful_shutdown();
    running.await
}

/// Reads and drops what the client is still sending, until it has read its answer and closes, or the time is over.
async fn let_down(mut stream: TcpStream, patience: Duration) {
    let until = Instant::now() + patience;
    let _ = stream.shutdown().await;
    let mut unread = [0; 8192];
    while matches!(timeout_at(until, stream.read(&mut unread)).await, Ok(Ok(1..))) {}
}

/// Spawns on the thread that asks: the futures of a connection never leave it.
#[derive(Clone, Copy)]
pub(super) struct LocalExecutor;

impl<F: Future + 'static> Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}
