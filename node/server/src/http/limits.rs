//! What the edge allows, and the counters that hold it to that: connections, requests that wait for locks, and
//! bytes of bodies in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use prometheus_client::metrics::gauge::Gauge;

use annulus_core::partition::DEFAULT_MAX_VALUE_BYTES;

use super::problem::{Kind, Problem};
use crate::metrics::Metrics;

/// Answers that are larger hold a reservation until they are sent; the many small ones are bounded by the connections.
const RESERVED_ANSWER_BYTES: usize = 64 * 1024;

/// What the edge allows. One for the process.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest value, in bytes.
    pub max_value_bytes: usize,
    /// Largest body of an admin request, in bytes.
    pub max_admin_body_bytes: usize,
    /// Most connections open on the client port.
    pub max_connections: usize,
    /// Most connections open on the admin port, which stays reachable when the client port is full.
    pub max_admin_connections: usize,
    /// Most requests that wait for locks at once. Each may take a connection for as long as a day, so this is well below
    /// `max_connections`: the others are for those who don't wait.
    pub max_lock_waits: usize,
    /// Most bytes of bodies, coming and going, held at once.
    pub max_bytes_in_flight: usize,
    /// Most bytes of keys and values in one page of a listing; one item is always given.
    pub max_page_bytes: usize,
    /// How long a request head may take to arrive.
    pub header_timeout: Duration,
    /// How long a body may take to arrive.
    pub body_timeout: Duration,
    /// How long a client may leave its answer unread.
    pub write_timeout: Duration,
    /// How long a connection may be idle.
    pub idle_timeout: Duration,
    /// How long a client that is being turned away has to read why.
    pub linger_timeout: Duration,
    /// How long open requests have to end when the node stops.
    pub shutdown_timeout: Duration,
    /// How long a request waits for its answer unless it says otherwise.
    pub default_timeout: Duration,
    /// How long a request may ask to wait.
    pub max_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_value_bytes: DEFAULT_MAX_VALUE_BYTES,
            max_admin_body_bytes: 1024 * 1024,
            max_connections: 4096,
            max_admin_connections: 64,
            max_lock_waits: 2048,
            max_bytes_in_flight: 256 * 1024 * 1024,
            max_page_bytes: 4 * 1024 * 1024,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(120),
            linger_timeout: Duration::from_secs(2),
            shutdown_timeout: Duration::from_secs(10),
            default_timeout: Duration::from_secs(5),
            max_timeout: Duration::from_secs(60),
        }
    }
}

impl From<&crate::config::Config> for Limits {
    fn from(config: &crate::config::Config) -> Self {
        Self {
            max_value_bytes: config.max_value_bytes.as_usize(),
            max_connections: config.max_connections.as_usize(),
            max_lock_waits: config.max_connections.as_usize().div_ceil(2),
            ..Self::default()
        }
    }
}

/// What all I/O threads of the process share.
#[derive(Debug)]
pub struct Resources {
    pub(super) limits: Limits,
    pub(super) metrics: Arc<Metrics>,
    pub(super) bytes: Arc<Quota>,
    pub(super) client_connections: Arc<Quota>,
    pub(super) admin_connections: Arc<Quota>,
    pub(super) lock_waits: Arc<Quota>,
    /// The node is about to stop.
    leaving: AtomicBool,
}

impl Resources {
    /// The resources of this process.
    pub fn new(limits: Limits, metrics: Arc<Metrics>) -> Arc<Self> {
        let http = &metrics.http;
        Arc::new(Self {
            bytes: Quota::new(limits.max_bytes_in_flight, http.bytes_in_flight.clone()),
            client_connections: Quota::new(limits.max_connections, http.client_connections.clone()),
            admin_connections: Quota::new(limits.max_admin_connections, http.admin_connections.clone()),
            lock_waits: Quota::new(limits.max_lock_waits, http.lock_waits.clone()),
            limits,
            metrics,
            leaving: AtomicBool::new(false),
        })
    }

    /// From now on each answer over HTTP/1.1 is the last of its connection: a client that was told so before the node stops
    /// sends nothing to a connection that is just being closed. HTTP/2 says it in time by itself.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Whether the node is about to stop.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Where everything is counted.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Takes room for so many bytes of a body, or tells the client to come back.
    pub(super) fn reserve_bytes(&self, bytes: usize) -> Result<Reservation, Problem> {
        self.bytes.take(bytes).ok_or_else(|| self.no_room())
    }

    /// The body of an answer; a large one holds a reservation until it is sent.
    pub(super) fn hold_answer(&self, body: Bytes) -> Result<Bytes, Problem> {
        if body.len() > RESERVED_ANSWER_BYTES { Ok(self.reserve_bytes(body.len())?.hold(body)) } else { Ok(body) }
    }

    /// The client is told to come back.
    pub(super) fn no_room(&self) -> Problem {
        let limit = self.limits.max_bytes_in_flight;
        Problem::temporary(Kind::Overloaded, format!("this member holds {limit} bytes of requests and answers already"))
            .with("limit", limit)
    }
}

/// So many of something, and no more. The count is the metric itself, so that the two can't differ.
#[derive(Debug)]
pub(super) struct Quota {
    limit: i64,
    used: Gauge<i64, AtomicI64>,
}

impl Quota {
    fn new(limit: usize, used: Gauge<i64, AtomicI64>) -> Arc<Self> {
        Arc::new(Self { limit: i64::try_from(limit).unwrap_or(i64::MAX), used })
    }

    /// Takes `amount`, unless that would be too much.
    pub(super) fn take(self: &Arc<Self>, amount: usize) -> Option<Reservation> {
        let mut reservation = Reservation { quota: Arc::clone(self), amount: 0 };
        reservation.grow(amount).then_some(reservation)
    }
}

/// A part of a [`Quota`], given back when dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    quota: Arc<Quota>,
    amount: i64,
}

impl Reservation {
    /// Takes `more`; `false` and nothing taken if that would be too much.
    pub(super) fn grow(&mut self, more: usize) -> bool {
        let Ok(more) = i64::try_from(more) else { return false };
        let used = self.quota.used.inner();
        let before = used.fetch_add(more, Ordering::Relaxed);
        let fits = before.checked_add(more).is_some_and(|after| after <= self.quota.limit);
        if fits {
            self.amount += more;
        } else {
            used.fetch_sub(more, Ordering::Relaxed);
        }
        fits
    }

    /// The bytes, with the reservation given back when the last of them is dropped.
    pub(super) fn hold(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Held { bytes, _reservation: self })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.quota.used.inner().fetch_sub(self.amount, Ordering::Relaxed);
    }
}

struct Held {
    bytes: Bytes,
    _reservation: Reservation,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_never_overdrawn_and_gets_everything_back() {
        let quota = Quota::new(10, Gauge::default());
        let mut first = quota.take(6).unwrap();
        assert!(quota.take(5).is_none());
        assert!(!first.grow(5) && first.grow(4));
        let bytes = first.hold(Bytes::from_static(b"value"));
        assert_eq!((quota.used.get(), &bytes[..]), (10, &b"value"[..]));
        drop(bytes);
        assert_eq!(quota.used.get(), 0);
    }
}
