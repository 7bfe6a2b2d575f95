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
//! refused by the nodes, since every change of a store carries the generation of the lease.
//!
//! The generation never goes down. It is counted from when the Lease was made and from its holders, and the highest there was is
//! written down in it, so that nobody who sets the count of holders back takes the operator's word away from it.

use std::collections::BTreeMap;
use std::time::Duration;

use annulus_crds::annotations;
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
/// By how much this process's clock may be behind that of the API server, of which ages of Leases are.
const CLOCKS_DIFFER_S: i64 = 365 * 24 * 60 * 60;

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
            // When it was made is part of its generation, so that is written down with the first renewal.
            let lease = Lease {
                metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
                spec: Some(self.spec(0)),
            };
            let made = self.api.create(&PostParams::default(), &lease).await?;
            return Ok(Some(Held { generation: counted(&made), lease: made }));
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
        let transitions = spec.lease_transitions.unwrap_or_default().max(0).saturating_add(1);
        let before = recorded(&lease);
        let mut taken = Lease { spec: Some(self.spec(transitions)), ..lease };
        let generation = counted(&taken).max(before.saturating_add(1));
        record(&mut taken, generation);
        // The version in it makes sure that only one of those who see it free gets it.
        match self.api.replace(&self.name, &PostParams::default(), &taken).await {
            Ok(lease) => Ok(Some(Held { lease, generation })),
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
            record(&mut lease, held.generation);
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

    /// Whether the lease is still this process's. Another holder has another name, or has written a higher generation down; a lower
    /// one, or none, was set back by hand, and the next renewal puts it right.
    fn is_same(&self, held: &Held, now: &Lease) -> bool {
        let holder = now.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
        let is_lease = now.uid() == held.lease.uid();
        is_lease && holder == Some(&*self.identity) && recorded(now) <= held.generation
    }

    /// Gives the lease up, so that the next one need not wait.
    pub async fn release(&self, held: Held) {
        let mut lease = held.lease;
        record(&mut lease, held.generation);
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = None;
        }
        let given = timeout(CALL_LIMIT, self.api.replace(&self.name, &PostParams::default(), &lease)).await;
        if !matches!(given, Ok(Ok(_))) {
            tracing::info!(lease = self.name, "the lease was not given up; it ends by itself");
        }
    }
}

/// The generation by the age of a Lease and the number of its holders.
fn counted(lease: &Lease) -> u64 {
    let transitions = lease.spec.as_ref().and_then(|spec| spec.lease_transitions).unwrap_or_default();
    let made = lease.creation_timestamp().map_or(0, |time| time.0.as_second());
    // A count that somebody wrote must not reach beyond the age: a Lease that is made anew would stay below it.
    let holders = u64::try_from(transitions).unwrap_or_default().min((1 << GENERATION_BITS) - 2);
    since(made) + holders + 1
}

/// The first generation of a Lease that was made then, in seconds since 1970.
fn since(made_s: i64) -> u64 {
    u64::try_from(made_s).unwrap_or_default() << GENERATION_BITS
}

/// The highest generation that is written down in a Lease; 0: none, as an operator of before this was written leaves it. One that
/// no Lease could have by now was written by hand, and does not count: no store would take anything smaller ever again.
fn recorded(lease: &Lease) -> u64 {
    let most = since(Timestamp::now().as_second().saturating_add(CLOCKS_DIFFER_S));
    let written = lease.annotations().get(annotations::GENERATION).and_then(|text| text.parse().ok());
    written.filter(|generation| *generation < most).unwrap_or_default()
}

fn record(lease: &mut Lease, generation: u64) {
    let all = lease.metadata.annotations.get_or_insert_with(BTreeMap::new);
    all.insert(annotations::GENERATION.to_owned(), generation.to_string());
}

/// What to do about a store that refuses a generation as an old one, though this process holds the lease.
pub fn outspoken(namespace: &str, name: &str, generation: u64) -> String {
    format!(
        "a store has heard of a newer operator than this one, whose lease {namespace}/{name} is of generation {generation}: see the \
         round that failed before this. Either another operator with a lease of its own looks after the same namespace: \
         uninstall one of the two. Or that lease was set back by hand: then delete it, and the next one counts from now \
         (kubectl delete lease {name} --namespace {namespace})"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::simulated::Cluster;

    const NAME: &str = "annulus-operator";

    fn leases(cluster: &Cluster, identity: &str) -> Leases {
        Leases::new(Api::namespaced(cluster.client(), "default"), NAME.to_owned(), identity.to_owned())
    }

    fn set(cluster: &Cluster, change: &Value) {
        cluster.patch::<Lease>("default", NAME, change).unwrap();
    }

    /// Keeps the lease for so long; says why it was lost before that.
    async fn keep(leases: &Leases, held: &mut Held, seconds: u64) -> Option<String> {
        timeout(Duration::from_secs(seconds), leases.keep(held)).await.ok()
    }

    #[tokio::test(start_paused = true)]
    async fn the_generation_rises_with_every_holder_whatever_count_of_them_somebody_writes() {
        let cluster = Cluster::new(1);
        let mut last = 0;
        for (number, count) in [(1, json!(9)), (2, json!(0)), (3, json!(-5)), (4, Value::Null), (5, json!(i32::MAX))] {
            let leases = leases(&cluster, &format!("operator-{number}"));
            let mut held = leases.acquire().await;
            assert!(held.generation > last, "{} after {last}", held.generation);
            last = held.generation;
            assert_eq!(keep(&leases, &mut held, 20).await, None);
            leases.release(held).await;
            set(&cluster, &json!({"spec": {"leaseTransitions": count}}));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_whose_lease_is_set_back_goes_on_and_puts_it_right() {
        let cluster = Cluster::new(1);
        let leases = leases(&cluster, "operator-1");
        let mut held = leases.acquire().await;
        let generation = held.generation;
        for change in [
            json!({"spec": {"leaseTransitions": -1}}),
            json!({"metadata": {"annotations": null}}),
            json!({"metadata": {"annotations": {(annotations::GENERATION): "1"}}}),
            json!({"metadata": {"annotations": {(annotations::GENERATION): "much"}}}),
            json!({"metadata": {"annotations": {(annotations::GENERATION): u64::MAX.to_string()}}}),
        ] {
            set(&cluster, &change);
            assert_eq!(keep(&leases, &mut held, 20).await, None, "{change}");
            let now = cluster.get::<Lease>("default", NAME).unwrap();
            assert_eq!((held.generation, recorded(&now)), (generation, generation), "{change}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_ends_when_the_lease_is_somebody_elses_or_another_one() {
        for is_named in [true, false] {
            let cluster = Cluster::new(1);
            let leases = leases(&cluster, "operator-1");
            let mut held = leases.acquire().await;
            let newer = (held.generation + 1).to_string();
            set(
                &cluster,
                &match is_named {
                    true => json!({"spec": {"holderIdentity": "operator-2"}}),
                    false => json!({"metadata": {"annotations": {(annotations::GENERATION): newer}}}),
                },
            );
            assert!(keep(&leases, &mut held, 20).await.is_some(), "{is_named}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_was_deleted_and_made_anew_is_of_a_higher_generation() {
        let cluster = Cluster::new(1);
        let leases = leases(&cluster, "operator-1");
        let mut held = leases.acquire().await;
        set(&cluster, &json!({"spec": {"leaseTransitions": 500}}));
        cluster.advance(1);
        cluster.remove::<Lease>("default", NAME).unwrap();
        assert!(keep(&leases, &mut held, 20).await.is_some());
        assert!(leases.acquire().await.generation > held.generation + 500);
    }
}
