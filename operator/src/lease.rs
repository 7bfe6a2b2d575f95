//! One operator acts at a time: whoever holds the Lease.
//!
//! ```text
//!  standing by ──free, given up, or unchanged for its duration──▶ holding ──renewed every third of it──┐
//!      ▲                                                           │  ▲───────────────────────────────┘
//!      └───────────── the process ends ◀── not renewed in time ────┘
//! ```
//!
//! Whether a lease has run out is judged by how long it has not changed, by this process's own clock: clocks of two machines are
//! never compared. A holder that can't renew in time ends its process, so that nothing of it goes on; what it has sent by then is
//! refused by the nodes, since every call carries the generation of the lease.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::time::{Instant, sleep, timeout};

/// For how long a lease counts after it was renewed.
pub const DURATION: Duration = Duration::from_secs(15);
const RENEW_EVERY: Duration = Duration::from_secs(5);
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// A holder that has not renewed for this long ends.
const GIVE_UP_AFTER: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_secs(2);
const CALL_LIMIT: Duration = Duration::from_secs(5);
/// A lease that was deleted and made anew counts its holders from 0: its creation stands in front.
const GENERATION_BITS: u32 = 20;

/// The Lease of one operator.
#[derive(Clone)]
pub struct Leases {
    api: Api<Lease>,
    name: String,
    identity: String,
}

/// What a held lease is.
#[derive(Debug, Clone)]
pub struct Held {
    lease: Lease,
    /// Rises with every holder, also over the deletion of the Lease.
    pub generation: u64,
}

impl Leases {
    /// The lease of this name, for a holder of this name.
    pub fn new(api: Api<Lease>, name: String, identity: String) -> Self {
        Self { api, name, identity }
    }

    /// Waits until the lease is this process's.
    pub async fn acquire(&self) -> Held {
        let mut watched: Option<(String, Instant)> = None;
        loop {
            match timeout(CALL_LIMIT, self.look(&mut watched)).await {
                Ok(Ok(Some(held))) => return held,
                Ok(Ok(None)) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, lease = self.name, "the lease can't be read or taken; it is tried again")
                }
                Err(_) => tracing::warn!(lease = self.name, "the API server does not answer; the lease is tried again"),
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Takes the lease if it is free. `watched` is what was seen of it last, and since when.
    async fn look(&self, watched: &mut Option<(String, Instant)>) -> kube::Result<Option<Held>> {
        let Some(lease) = self.api.get_opt(&self.name).await? else {
            let lease = Lease {
                metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
                spec: Some(self.spec(0)),
            };
            return self.api.create(&PostParams::default(), &lease).await.map(|lease| Some(Held::of(lease)));
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.unwrap_or_default();
        let version = lease.resource_version().unwrap_or_default();
        let since = match watched {
            Some((known, since)) if *known == version => *since,
            _ => {
                *watched = Some((version, Instant::now()));
                Instant::now()
            }
        };
        let lasts = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let lasts = lasts.map_or(DURATION, Duration::from_secs);
        if !holder.is_empty() && since.elapsed() < lasts {
            return Ok(None);
        }
        tracing::info!(lease = self.name, before = holder, "the lease is free, and is taken");
        let transitions = spec.lease_transitions.unwrap_or_default().saturating_add(1);
        let taken = Lease { spec: Some(self.spec(transitions)), ..lease };
        // The version in it makes sure that only one of those who see it free gets it.
        match self.api.replace(&self.name, &PostParams::default(), &taken).await {
            Ok(lease) => Ok(Some(Held::of(lease))),
            Err(kube::Error::Api(status)) if status.is_conflict() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn spec(&self, transitions: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: Some(MicroTime(Timestamp::now())),
            renew_time: Some(MicroTime(Timestamp::now())),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }

    /// Renews the lease; ends when it is lost.
    pub async fn keep(&self, held: &mut Held) -> String {
        let mut renewed = Instant::now();
        loop {
            // One that failed is tried again soon.
            let age = renewed.elapsed();
            sleep(if age < RENEW_EVERY { RENEW_EVERY - age } else { RETRY_EVERY }).await;
            let sent = Instant::now();
            let mut lease = held.lease.clone();
            if let Some(spec) = &mut lease.spec {
                spec.renew_time = Some(MicroTime(Timestamp::now()));
            }
            let left = GIVE_UP_AFTER.saturating_sub(renewed.elapsed());
            let asked =
                timeout(CALL_LIMIT.min(left), self.api.replace(&self.name, &PostParams::default(), &lease)).await;
            match asked {
                Ok(Ok(lease)) => (held.lease, renewed) = (lease, sent),
                Ok(Err(kube::Error::Api(status))) if status.is_conflict() || status.is_not_found() => {
                    // Our own renewal whose answer was lost looks the same as somebody else's.
                    match timeout(CALL_LIMIT, self.api.get(&self.name)).await {
                        Ok(Ok(now)) if self.is_same(held, &now) => held.lease = now,
                        _ => return format!("the lease {} is somebody else's now", self.name),
                    }
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, lease = self.name, "the lease could not be renewed; it is tried again")
                }
                Err(_) => tracing::warn!(
                    lease = self.name,
                    "the API server did not answer in time; the renewal is tried again"
                ),
            }
            if renewed.elapsed() >= GIVE_UP_AFTER {
                return format!("the lease {} could not be renewed for {} s", self.name, renewed.elapsed().as_secs());
            }
        }
    }

    fn is_same(&self, held: &Held, now: &Lease) -> bool {
        let spec = now.spec.clone().unwrap_or_default();
        Held::of(now.clone()).generation == held.generation && spec.holder_identity.as_deref() == Some(&*self.identity)
    }

    /// Gives the lease up, so that the next one need not wait.
    pub async fn release(&self, held: Held) {
        let mut lease = held.lease;
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = None;
        }
        let given = timeout(CALL_LIMIT, self.api.replace(&self.name, &PostParams::default(), &lease)).await;
        if !matches!(given, Ok(Ok(_))) {
            tracing::info!(lease = self.name, "the lease was not given up; it ends by itself");
        }
    }
}

impl Held {
    fn of(lease: Lease) -> Self {
        let transitions = lease.spec.as_ref().and_then(|spec| spec.lease_transitions).unwrap_or_default();
        let made = lease.creation_timestamp().map_or(0, |time| time.0.as_second());
        let made = u64::try_from(made).unwrap_or_default() << GENERATION_BITS;
        Self { generation: made + u64::try_from(transitions).unwrap_or_default() + 1, lease }
    }
}
