//! The connection as hyper reads and writes it, with the deadlines that hyper has not.
//!
//! - A request head must arrive within `header_timeout` of its first byte; an idle connection may stay for `idle_timeout`.
//!   (hyper's own header timeout makes no difference between the two, and takes a new timer for every request.)
//! - A client that does not read its answer for `write_timeout` is let go.
//! - The bytes of HTTP/1 pass [`Framing`] on their way in.
//!
//! One timer serves a connection's reads: it is armed for the nearest deadline and, when it fires, looked at again.
//! When hyper is done the stream comes back through [`Connection::stream`], so that a client that is still sending can be
//! let down gently: closing a socket with unread bytes resets it, and the client would lose the answer that says why.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::framing::{Fault, Framing};
use super::limits::Limits;

/// What the service of a connection and its stream know of each other.
pub(super) struct Connection {
    /// `None` on HTTP/2, which frames its messages itself.
    framing: Option<RefCell<Framing>>,
    taken_up: Cell<u64>,
    answered: Cell<u64>,
    /// The last time that something came or went.
    active_at: Cell<Instant>,
    linger: Cell<bool>,
    returned: Cell<Option<TcpStream>>,
}

impl Connection {
    pub(super) fn new(http1: bool) -> Rc<Self> {
        Rc::new(Self {
            framing: http1.then(|| RefCell::new(Framing::new())),
            taken_up: Cell::new(0),
            answered: Cell::new(0),
            active_at: Cell::new(Instant::now()),
            linger: Cell::new(false),
            returned: Cell::new(None),
        })
    }

    /// The next request is taken up; returns the fault of its head.
    pub(super) fn take_up(&self) -> Option<Fault> {
        self.taken_up.set(self.taken_up.get() + 1);
        self.framing.as_ref()?.borrow().fault(self.taken_up.get())
    }

    /// A request has its answer.
    pub(super) fn answered(&self) {
        self.answered.set(self.answered.get() + 1);
        self.active_at.set(Instant::now());
    }

    /// The connection ends after an answer that leaves the request's body unread.
    pub(super) fn linger(&self) {
        self.linger.set(true);
    }

    /// The stream, after hyper has dropped it, if its client is to be let down gently.
    pub(super) fn stream(&self) -> Option<TcpStream> {
        self.returned.take().filter(|_| self.linger.get())
    }

    /// When the wait for more bytes ends; `None` while a body or an answer is due, whose deadlines are elsewhere.
    fn read_deadline(&self, limits: &Limits) -> Option<Instant> {
        let framing = self.framing.as_ref()?.borrow();
        if framing.is_mid_head() {
            Some(self.active_at.get() + limits.header_timeout)
        } else if framing.heads() == self.answered.get() {
            Some(self.active_at.get() + limits.idle_timeout)
        } else {
            None
        }
    }

    fn scan(&self, bytes: &[u8]) {
        let Some(framing) = &self.framing else { return };
        let mut framing = framing.borrow_mut();
        let was_mid_head = framing.is_mid_head();
        framing.scan(bytes);
        // The clock of a head starts with its first byte, and no later byte of the same head sets it back.
        if framing.is_mid_head() && !was_mid_head {
            self.active_at.set(Instant::now());
        }
    }
}

/// A stream with its deadlines.
pub(super) struct Guard {
    stream: Option<TcpStream>,
    /// Bytes that were read to tell HTTP/1 from HTTP/2, still to be read by hyper.
    replay: Vec<u8>,
    connection: Rc<Connection>,
    limits: Limits,
    read_timer: Option<Pin<Box<Sleep>>>,
    write_timer: Option<Pin<Box<Sleep>>>,
}

impl Guard {
    pub(super) fn new(stream: TcpStream, replay: Vec<u8>, connection: Rc<Connection>, limits: Limits) -> Self {
        Self { stream: Some(stream), replay, connection, limits, read_timer: None, write_timer: None }
    }

    fn stream(&mut self) -> Pin<&mut TcpStream> {
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
        let timeout: Duration = self.limits.write_timeout;
        let timer = self.write_timer.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + timeout)));
        timer.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.connection.returned.set(self.stream.take());
    }
}

impl AsyncRead for Guard {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
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
        self.connection.scan(&buf.filled()[before..]);
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
        self.stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }
}
