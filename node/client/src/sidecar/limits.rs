//! What a sidecar allows, and the counters that hold it to that.

use std::time::Duration;

use annulus_core::partition::MAX_VALUE_BYTES;
use annulus_core::partition::txn::MAX_BYTES;

use super::memory::default_memory;
use super::problem::{Kind, Problem};
use super::route::{Port, Route};
use crate::room::{Quota, Reservation, Room};
use crate::transport::MAX_ANSWER_BYTES;

/// Largest body of a write of a key, in bytes. The store may be configured for less, and says so then.
pub(super) const MAX_KEY_BODY_BYTES: usize = MAX_VALUE_BYTES;
/// Largest body of a transaction: all that one may hold, in base64 or with some of it escaped.
pub(super) const MAX_TXN_BODY_BYTES: usize = 2 * MAX_BYTES;
/// Largest body of a request for a lock.
pub(super) const MAX_LOCK_BODY_BYTES: usize = 16 * 1024;
/// Longest request head in bytes, as a node has it.
pub(super) const MAX_HEAD_BYTES: usize = 64 * 1024;

/// What a sidecar allows.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    /// Most connections open on the application's port, or its socket.
    pub(super) connections: usize,
    /// Most connections open on the status port.
    pub(super) status_connections: usize,
    /// Most requests that are on their way to the store at once.
    pub(super) in_flight: usize,
    /// Most of these whose answers may have many values.
    pub(super) lists: usize,
    /// Most requests that wait for locks at once.
    pub(super) lock_waits: usize,
    /// Most bytes of bodies held at once, of requests and of answers.
    pub(super) bytes: usize,
    /// How long a request head may take to arrive.
    pub(super) header_timeout: Duration,
    /// How long a body may take to arrive.
    pub(super) body_timeout: Duration,
    /// How long an application may leave its answer unread.
    pub(super) write_timeout: Duration,
    /// How long a connection may be idle.
    pub(super) idle_timeout: Duration,
    /// How long an application that is being turned away has to read why.
    pub(super) linger_timeout: Duration,
    /// How long open requests have to end when the sidecar stops, and how long its locks have then to be given up.
    pub(super) shutdown_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            status_connections: 64,
            in_flight: 512,
            lists: 16,
            lock_waits: 512,
            bytes: default_memory(),
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(120),
            linger_timeout: Duration::from_secs(2),
            shutdown_timeout: Duration::from_secs(5),
        }
    }
}

/// What all connections share.
#[derive(Debug)]
pub(super) struct Resources {
    pub(super) limits: Limits,
    pub(super) connections: Quota,
    pub(super) status_connections: Quota,
    pub(super) in_flight: Quota,
    pub(super) lists: Quota,
    pub(super) lock_waits: Quota,
    pub(super) bytes: Quota,
}

impl Resources {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            connections: Quota::new(limits.connections),
            status_connections: Quota::new(limits.status_connections),
            in_flight: Quota::new(limits.in_flight),
            lists: Quota::new(limits.lists),
            lock_waits: Quota::new(limits.lock_waits),
            bytes: Quota::new(limits.bytes),
            limits,
        }
    }

    /// The connections of a port.
    pub(super) fn slots(&self, port: Port) -> (&Quota, usize) {
        match port {
            Port::Application => (&self.connections, self.limits.connections),
            Port::Status => (&self.status_connections, self.limits.status_connections),
        }
    }

    /// Takes a place among the requests that are on their way.
    pub(super) fn admit(&self, route: Route) -> Result<(Reservation, Option<Reservation>), Problem> {
        let place = take(&self.in_flight, self.limits.in_flight, "requests are on their way")?;
        let is_list = matches!(route, Route::List | Route::Locks | Route::Txns);
        let list = is_list.then(|| take(&self.lists, self.limits.lists, "lists are on their way"));
        Ok((place, list.transpose()?))
    }

    /// Takes a place among those who wait for a lock.
    pub(super) fn admit_wait(&self) -> Result<Reservation, Problem> {
        take(&self.lock_waits, self.limits.lock_waits, "requests wait for locks")
    }

    /// Room for the answer of one request, out of what all bodies may take.
    pub(super) fn room(&self) -> Room {
        Room::of(&self.bytes, MAX_ANSWER_BYTES)
    }

    /// Takes room for so many bytes of a body.
    pub(super) fn admit_bytes(&self, bytes: usize) -> Result<Reservation, Problem> {
        self.bytes.take(bytes).ok_or_else(|| {
            let limit = self.limits.bytes;
            let detail = format!(
                "requests and answers may take {limit} bytes of the sidecar's memory, and do; nothing was changed"
            );
            Problem::temporary(Kind::Overloaded, detail).with("limit", limit)
        })
    }
}

fn take(quota: &Quota, limit: usize, what: &str) -> Result<Reservation, Problem> {
    quota.take(1).ok_or_else(|| {
        let detail = format!("{limit} {what} through this sidecar already, and it takes no more; nothing was changed");
        Problem::temporary(Kind::Overloaded, detail).with("limit", limit)
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::header::RETRY_AFTER;
    use http_body_util::Full;

    use super::*;

    #[test]
    fn more_requests_than_there_is_room_for_are_told_to_come_back() {
        let resources = Resources::new(Limits { in_flight: 3, lists: 1, ..Limits::default() });
        let list = resources.admit(Route::List).unwrap();
        assert_eq!(resources.admit(Route::Locks).unwrap_err().kind(), Kind::Overloaded);
        let _key = (resources.admit(Route::Key).unwrap(), resources.admit(Route::Key).unwrap());
        assert_eq!(resources.admit(Route::Key).unwrap_err().kind(), Kind::Overloaded);
        drop(list);
        assert!(resources.admit(Route::List).is_ok());
    }

    #[tokio::test]
    async fn requests_and_answers_share_one_memory() {
        let resources = Resources::new(Limits { bytes: 100, ..Limits::default() });
        let room = resources.room();
        let answer = |bytes| room.collect(Full::new(Bytes::from(vec![0; bytes])));
        let request = resources.admit_bytes(60).unwrap();
        assert!(answer(41).await.is_err(), "the request takes it");
        let answered = answer(40).await.unwrap_or_default();
        let refused = resources.admit_bytes(1).unwrap_err();
        assert_eq!(refused.kind(), Kind::Overloaded);
        assert!(refused.into_response().headers().contains_key(RETRY_AFTER));
        drop((request, answered));
        assert!(answer(100).await.is_ok() && answer(101).await.is_err());
    }
}
