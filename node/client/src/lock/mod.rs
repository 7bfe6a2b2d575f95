//! Locks: asked for, held and renewed, given up; and who else holds which.
//!
//! ```text
//!  Request::acquire ──▶ Lock ──release, drop──▶ free for the next
//!    again under the      │ renewed in the background, at a third of its lease
//!    same name until      └──its time is over, the store says so──▶ lost, for good
//!    its wait is over
//! ```
//!
//! A lock is a lease: it is held until a time, and renewed before that. Time is counted on this machine's monotonic clock
//! from when the request was *sent* that the store answered, and the store counts from when it took it; a hundredth of
//! each lease is given away besides, for clocks that run at different rates. So [`Lock::is_held`] says no before anybody
//! else can get the lock, also in a process that was stopped meanwhile: on Linux the clock goes on then. It stands still
//! while the whole machine sleeps, or a virtual one is paused; one that wakes from that takes its lock for held for as
//! long as it was when it fell asleep. And a process that has just looked may be stopped before it acts.
//!
//! What holds also then is the [`Fence`]: a write that carries it does not write over a later holder's.
//!
//! ```no_run
//! # async fn example(client: annulus_client::Client) -> Result<(), annulus_client::Error> {
//! use annulus_client::PutOptions;
//! let lock = client.lock("jobs/nightly").wait_forever().acquire().await?;
//! let options = PutOptions { fence: Some(lock.fence()), ..PutOptions::default() };
//! client.put_with("jobs/nightly/last", "begun", &options).await?;
//! lock.release().await?;
//! # Ok(())
//! # }
//! ```

mod acquire;
mod fence;
mod lease;
mod list;

use std::sync::Arc;
use std::time::Duration;

use annulus_core::partition::lock::Name;
pub use annulus_core::partition::lock::{MAX_DESCRIPTION_BYTES, MAX_NAME_BYTES, MAX_OWNER_BYTES, Mode};
pub use annulus_core::partition::lock::{MAX_TTL_MS, MIN_TTL_MS};
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use percent_encoding::percent_encode;
use serde::Deserialize;
use serde_json::json;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::client::{SEGMENT, invalid, path_of, strange_write, write_refusal};
use crate::directory::Place as Asked;
use crate::options::millis;
use crate::transport::{Answer, Message};
use crate::verdict::Safety;
use crate::{Client, Error, Result};
pub use acquire::Request;
pub(crate) use acquire::{Granted, Refused};
pub use fence::{Fence, ParseFenceError};
use lease::Lease;
pub use lease::Loss;
pub(crate) use lease::ends;
pub use list::{Held, Holder, Page, Pages, Place, Scan, View, mode_text};
pub(crate) use list::{mode_of, page, view};

/// The longest pause after a renewal that failed; a short lease has shorter ones.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// A lock that this process holds.
///
/// It is renewed by a task of the runtime in which it was acquired, so that runtime must go on running. When it is
/// dropped, it is given up in the background, if a Tokio runtime is there and goes on; else it is free when its lease
/// ends. [`Lock::release`] does it here and now.
#[derive(Debug)]
pub struct Lock {
    holding: Arc<Holding>,
    renewing: JoinHandle<()>,
    is_released: bool,
}

#[derive(Debug)]
struct Holding {
    client: Client,
    name: Name,
    token: u64,
    owner: String,
    mode: Mode,
    ttl: Duration,
    lease: Lease,
}

impl Lock {
    fn new(holding: Holding) -> Self {
        let holding = Arc::new(holding);
        let renewing = tokio::spawn(renew(Arc::clone(&holding)));
        Self { holding, renewing, is_released: false }
    }

    /// Its name.
    pub fn name(&self) -> &Bytes {
        self.holding.name.bytes()
    }

    /// Its token: higher than that of whoever held the lock before.
    pub fn token(&self) -> u64 {
        self.holding.token
    }

    /// By which name it is held.
    pub fn owner(&self) -> &str {
        &self.holding.owner
    }

    /// Whether others may share it.
    pub fn mode(&self) -> Mode {
        self.holding.mode
    }

    /// What a write carries that is made under this lock.
    pub fn fence(&self) -> Fence {
        Fence::new(self.holding.name.clone(), self.holding.token)
    }

    /// Whether it is held still. Once it is not, it never is again.
    pub fn is_held(&self) -> bool {
        self.loss().is_none()
    }

    /// Why it is held no more; `None`: it is.
    pub fn loss(&self) -> Option<Loss> {
        self.holding.lease.loss(Instant::now())
    }

    /// How long it is held from now on, even if it can't be renewed; zero when it is lost.
    pub fn valid_for(&self) -> Duration {
        self.holding.lease.left(Instant::now())
    }

    /// Waits until it is lost, and says why. May be dropped and called again.
    pub async fn lost(&self) -> Loss {
        self.holding.lease.lost().await
    }

    /// Gives it up. Sent again when it is not known what became of it; that it is not held any more then is as good.
    ///
    /// # Errors
    ///
    /// [`Error::LockNotHeld`] when it was lost before; [`Error::OutcomeUnknown`] and [`Error::Unavailable`] when the store
    /// does not answer: then it is free when its lease ends.
    pub async fn release(mut self) -> Result<()> {
        self.renewing.abort();
        let released = self.holding.release().await;
        self.is_released = true;
        released
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.renewing.abort();
        if self.is_released || matches!(self.loss(), Some(Loss::Refused(_))) {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            let holding = Arc::clone(&self.holding);
            // Nobody is left who could be told how it ended.
            runtime.spawn(async move { drop(holding.release().await) });
        }
    }
}

/// Renews a lock until it is lost.
async fn renew(holding: Arc<Holding>) {
    let Holding { lease, ttl, .. } = &*holding;
    let pause = (*ttl / 20).min(LONGEST_PAUSE);
    loop {
        let left = lease.left(Instant::now());
        if left.is_zero() {
            return;
        }
        // At a third of the lease. One that was shortened by the wait for it is renewed at once.
        let begin = left.saturating_sub(*ttl / 3 * 2);
        if !begin.is_zero() {
            sleep(begin).await;
            continue;
        }
        match holding.renewed(left).await {
            Ok(ends) => lease.extend(Instant::now(), ends),
            Err(Error::LockNotHeld(problem)) => return lease.refuse(problem.to_string()),
            Err(error) => {
                lease.note(error.to_string());
                sleep(pause).await;
            }
        }
    }
}

#[derive(Deserialize)]
struct Renewed {
    valid_ms: u64,
}

impl Holding {
    /// Renews it once, within this time; tells when it ends then.
    async fn renewed(&self, within: Duration) -> Result<Instant> {
        let body = json!({"token": self.token, "ttl_ms": millis(self.ttl)});
        let message = post(path(&self.name, "/renew")?, Bytes::from(body.to_string()));
        // One that was not answered may be sent again: it does the same once more. What is left when a call has failed is
        // for another one, which knows why.
        let within = within.min(self.ttl / 3).min(self.client.deadline());
        let answer =
            self.client.run(Asked::Leader(self.name.bytes()), message, Safety::Idempotent, Some(within)).await?;
        if answer.status != StatusCode::OK {
            return Err(refusal(&answer));
        }
        let renewed: Renewed = serde_json::from_slice(&answer.body).map_err(|_| strange_write(&answer))?;
        Ok(ends(answer.sent, Duration::from_millis(renewed.valid_ms)))
    }

    async fn release(&self) -> Result<()> {
        let path = path(&self.name, &format!("?token={}", self.token))?;
        let message = Message { method: Method::DELETE, path, headers: HeaderMap::new(), body: Bytes::new() };
        let answer = self.client.run(Asked::Leader(self.name.bytes()), message, Safety::Idempotent, None).await?;
        match refusal(&answer) {
            _ if answer.status.is_success() => Ok(()),
            // The first attempt gave it up, or its lease is over by now.
            Error::LockNotHeld(_) if answer.doubted => Ok(()),
            error => Err(error),
        }
    }
}

/// What an answer means that is not success.
fn refusal(answer: &Answer) -> Error {
    match answer.status {
        StatusCode::LOCKED => Error::LockHeld(Box::new(Held::read(&answer.problem()))),
        StatusCode::CONFLICT if problem_is(answer, "lock-not-held") => Error::LockNotHeld(Box::new(answer.problem())),
        _ => write_refusal(answer),
    }
}

fn problem_is(answer: &Answer, kind: &str) -> bool {
    answer.problem().kind() == kind
}

fn name_of(name: &[u8]) -> Result<Name> {
    let lossy = || String::from_utf8_lossy(name).into_owned();
    Name::new(Bytes::copy_from_slice(name)).map_err(|error| invalid("lock", &lossy(), &error.to_string()))
}

pub(crate) fn path(name: &Name, rest: &str) -> Result<PathAndQuery> {
    path_of(format!("/v1/locks/{}{rest}", percent_encode(name.bytes(), SEGMENT)))
}

pub(crate) fn post(path: PathAndQuery, body: Bytes) -> Message {
    let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
    Message { method: Method::POST, path, headers, body }
}
