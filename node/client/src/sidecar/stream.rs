//! A connection as hyper reads and writes it, with the deadlines that hyper has not: for a request head from its first byte,
//! for a connection that is idle, and for an application that does not read its answer.
//!
//! When hyper is done the stream comes back through [`Connection::stream`], so that one who is still sending can be let down
//! gently: closing a socket with unread bytes resets it, and the answer that says why would be lost.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, Sleep, sleep_until};

use super::limits::Limits;

/// What a connection is made of.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// What the service of a connection and its stream know of each other.
#[derive(Debug)]
pub(super) struct Connection {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// HTTP/2 frames its messages itself, and bytes that come may be no request at all.
    is_http1: bool,
    in_flight: u64,
    /// Bytes have come since the last answer: the next head has begun.
    is_mid_head: bool,
    /// When the head began, or the connection fell idle.
    since: Instant,
    lingers: bool,
    returned: Option<Stream>,
}

impl Connection {
    pub(super) fn new(is_http1: bool) -> Arc<Self> {
        let since = Instant::now();
        let state = State { is_http1, in_flight: 0, is_mid_head: false, since, lingers: false, returned: None };
        Arc::new(Self { state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next request is taken up.
    pub(super) fn take_up(&self) {
        let mut state = self.state();
        state.in_flight += 1;
        state.is_mid_head = false;
    }

    /// A request has its answer, or nobody waits for it any more.
    pub(super) fn answered(&self) {
        let mut state = self.state();
        state.in_flight = state.in_flight.saturating_sub(1);
        state.since = Instant::now();
    }

    /// The connection ends after an answer that leaves the request's body unread.
    pub(super) fn linger(&self) {
        self.state().lingers = true;
    }

    /// The stream, after hyper has dropped it, if its application is to be let down gently.
    pub(super) fn stream(&self) -> Option<Stream> {
        let mut state = self.state();
        state.returned.take().filter(|_| state.lingers)
    }

    /// When the wait for more bytes ends; `None` while a body or an answer is due, whose deadlines are elsewhere.
    fn read_deadline(&self, limits: &Limits) -> Option<Instant> {
        let state = self.state();
        let patience = if state.is_mid_head { limits.header_timeout } else { limits.idle_timeout };
        (state.in_flight == 0).then(|| state.since + patience)
    }

    fn came(&self) {
        let mut state = self.state();
        // The clock of a head starts with its first byte, and no later byte of the same head sets it back.
        if state.in_flight == 0 && !state.is_mid_head {
            (state.is_mid_head, state.since) = (state.is_http1, Instant::now());
        }
    }
}

/// A stream with its deadlines.
#[derive(Debug)]
pub(super) struct Guard {
    stream: Option<Stream>,
    /// Bytes that were read to tell HTTP/1 from HTTP/2, still to be read by hyper.
    replay: Vec<u8>,
    connection: Arc<Connection>,
    limits: Limits,
    read_timer: Option<Pin<Box<Sleep>>>,
    write_timer: Option<Pin<Box<Sleep>>>,
}

impl Guard {
    pub(super) fn new(stream: Stream, replay: Vec<u8>, connection: Arc<Connection>, limits: Limits) -> Self {
        Self { stream: Some(stream), replay, connection, limits, read_timer: None, write_timer: None }
    }

    fn stream(&mut self) -> Pin<&mut Stream> {
        Pin::new(self.stream.as_mut().expect("taken only when dropped"))
    }

    fn poll_read_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let deadline = self.connection.read_deadline(&self.limits);
        // hyper does not ask again when an answer is out and the connection falls idle. So the timer runs without a
        // deadline too, and an idle connection is found at the latest after twice the idle timeout.
        let look_at = deadline.unwrap_or_else(|| Instant::now() + self.limits.idle_timeout);
        let timer = self.read_timer.get_or_insert_with(|| Box::pin(sleep_until(look_at)));
        // A deadline that moved away is noticed when the timer fires; only a nearer one must be set at once.
        if timer.deadline() > look_at {
            timer.as_mut().reset(look_at);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if deadline.is_some_and(|deadline| deadline <= timer.deadline()) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            timer.as_mut().reset(look_at);
        }
        Poll::Pending
    }

    /// Passes the outcome of a write on, and ends a write that has been pending for too long.
    fn watch_write<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.write_timer = None;
            return outcome;
        }
        let timeout = self.limits.write_timeout;
        let timer = self.write_timer.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + timeout)));
        timer.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.connection.state().returned = self.stream.take();
    }
}

impl AsyncRead for Guard {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.replay.is_empty() {
            match self.stream().poll_read(cx, buf) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return self.poll_read_deadline(cx),
            }
        } else {
            let here = self.replay.len().min(buf.remaining());
            buf.put_slice(&self.replay[..here]);
            self.replay.drain(..here);
        }
        self.connection.came();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guard {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = self.stream().poll_write(cx, buf);
        self.watch_write(cx, outcome)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = self.stream().poll_write_vectored(cx, bufs);
        self.watch_write(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

macro_rules! either {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream.get_mut() {
            Stream::Tcp($inner) => {
                let $inner = Pin::new($inner);
                $call
            }
            Stream::Unix($inner) => {
                let $inner = Pin::new($inner);
                $call
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self, inner => inner.poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, inner => inner.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, inner => inner.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, inner => inner.poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, inner => inner.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
