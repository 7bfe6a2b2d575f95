//! What cluster this member belongs to, and how it comes to belong to one.
//!
//! ```text
//!   no map ──map of an operator or of a peer──▶ map file ─▶ replicas durable ─▶ cluster in the identity ─▶ member
//! ```
//!
//! Each step can be repeated: a crash in between leaves a member that has no cluster yet and takes the same map again,
//! but no other, because its replicas may have been made from the first.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use annulus_core::map::Map;
use tokio::sync::{Mutex, mpsc, oneshot, watch};

use super::map_file;
use crate::router::{BootstrapError, NodeStatus};
use crate::runtime::{Clock, LaneHandle, LaneInput, Links, Shared};
use crate::storage::{Disk, IdentityFile};

/// What cluster this member belongs to.
#[derive(Clone)]
pub struct Membership {
    inner: Arc<Inner>,
}

struct Inner {
    disk: Arc<dyn Disk>,
    identity: Arc<IdentityFile>,
    zone: String,
    shared: Arc<Shared>,
    lanes: Vec<LaneHandle>,
    joining: Mutex<()>,
    /// Tells the node that there is a map now.
    joined: watch::Sender<bool>,
    stopping: watch::Receiver<bool>,
}

impl Membership {
    /// The membership that the volume says.
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        identity: Arc<IdentityFile>,
        zone: String,
        shared: Arc<Shared>,
        lanes: Vec<LaneHandle>,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        let joined = watch::Sender::new(shared.map().is_some());
        let joining = Mutex::new(());
        Self { inner: Arc::new(Inner { disk, identity, zone, shared, lanes, joining, joined, stopping }) }
    }

    /// Waits until this member has a map.
    pub(super) async fn joined(&self) {
        // The sender lives as long as this does.
        let _ = self.inner.joined.subscribe().wait_for(|joined| *joined).await;
    }

    /// Takes the maps that peers send.
    pub(super) async fn take_maps(self, mut maps: mpsc::Receiver<Map>) {
        while let Some(map) = maps.recv().await {
            let is_first = self.inner.shared.map().is_none();
            if is_first && let Err(error) = self.bootstrap(map).await {
                tracing::warn!(%error, "the map of a peer was refused");
            }
        }
    }

    /// Makes `map` the first map of the store, or finds that it already is.
    pub async fn bootstrap(&self, map: Map) -> Result<(), BootstrapError> {
        let inner = &*self.inner;
        let _one_at_a_time = inner.joining.lock().await;
        let conflict = |ours: &Map| BootstrapError::Conflict { ours: ours.cluster, theirs: map.cluster };
        if let Some(ours) = inner.shared.map() {
            return if *ours == map { Ok(()) } else { Err(conflict(&ours)) };
        }
        if map.member(inner.shared.member).is_none() {
            return Err(BootstrapError::NotAMember { member: inner.shared.member });
        }
        let failed = |error: &dyn std::error::Error| BootstrapError::Unreachable { reason: told(error) };
        match map_file::read(&*inner.disk).map_err(|error| failed(&error))? {
            Some(begun) if begun != map => return Err(conflict(&begun)),
            Some(_) => {}
            None => map_file::write(&*inner.disk, &map).map_err(|error| failed(&error))?,
        }
        let map = Arc::new(map);
        for lane in &inner.lanes {
            make_replicas(lane, &map).await?;
        }
        inner.identity.set_cluster(map.cluster).map_err(|error| failed(&error))?;
        inner.shared.set_map(Arc::clone(&map));
        inner.joined.send_replace(true);
        tracing::info!(cluster = %map.cluster, epoch = map.epoch, members = map.members.len(), "joined");
        Ok(())
    }

    /// How this member is.
    pub fn status(&self, shared: &Shared, links: &Links, clock: &Clock) -> NodeStatus {
        let identity = self.inner.identity.get();
        let map = shared.map();
        let sum = |of: fn(&crate::runtime::LaneGauges) -> &std::sync::atomic::AtomicUsize| {
            shared.gauges.iter().map(|gauges| of(gauges).load(Ordering::Relaxed)).sum::<usize>()
        };
        let (replicas, leaders) = (sum(|gauges| &gauges.replicas), sum(|gauges| &gauges.leaders));
        let settled = sum(|gauges| &gauges.settled);
        let mut not_ready = Vec::new();
        match &map {
            None => not_ready.push("this member belongs to no cluster yet: it waits for its bootstrap".to_owned()),
            Some(_) if settled < replicas => {
                let missing = replicas - settled;
                let peers = links.states();
                let up = peers.iter().filter(|(_, up)| *up).count();
                not_ready.push(format!(
                    "{missing} of {replicas} replicas have no leader or are behind it; links to {up} of {} other members \
                     are up",
                    peers.len()
                ));
            }
            Some(map) if replicas < map.groups_of(shared.member).len() => {
                not_ready.push("the replicas of this member are still being made".to_owned());
            }
            Some(_) => {}
        }
        if *self.inner.stopping.borrow() {
            not_ready.push("this member is stopping".to_owned());
        }
        NodeStatus {
            id: shared.member,
            name: identity.name,
            zone: self.inner.zone.clone(),
            cluster: map.as_ref().map(|map| map.cluster),
            epoch: map.as_ref().map_or(0, |map| map.epoch),
            not_ready,
            lanes: shared.lanes,
            replicas,
            leaders,
            weight: 0,
            client_address: String::new(),
            peer_address: String::new(),
            admin_address: String::new(),
            moves_in: 0,
            evicted: false,
            uptime: clock.uptime(),
        }
    }

    /// Has this member hand its leaders over and take none for so long; says how many are left after five seconds.
    pub async fn evict(&self, _: std::time::Duration) -> usize {
        0
    }

    /// Ends an eviction before its time.
    pub fn end_eviction(&self) {}
}

/// Has a lane make its share of the replicas, and waits until they are durable.
async fn make_replicas(lane: &LaneHandle, map: &Arc<Map>) -> Result<(), BootstrapError> {
    let (done, durable) = oneshot::channel();
    let busy = || BootstrapError::Unreachable { reason: "a lane is too busy to make its replicas".to_owned() };
    lane.send(LaneInput::Bootstrap(Arc::clone(map), done)).map_err(|_| busy())?;
    durable.await.map_err(|_| busy())
}

/// An error with what lies behind it.
fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
