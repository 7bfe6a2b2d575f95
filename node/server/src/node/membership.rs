//! What cluster this member belongs to, how it comes to belong to one, and how it follows the map.
//!
//! ```text
//!   no map ──first map of an operator or of a peer──▶ map file ─▶ replicas durable ─▶ cluster in the identity ─▶ member
//!          ──a later map that names this member─────▶ map file ─▶ cluster in the identity ─▶ blank replicas ─────▶ member
//!
//!   member ──newer map (own map group, peer)──▶ map file ─▶ routers and links see it, lanes adopt it
//!              └─ this member leads the map group: to all members
//! ```
//!
//! Each step of the first can be repeated: a crash in between leaves a member that has no cluster yet and takes the same
//! map again, but no other first one, because its replicas may have been made from it. No lane acts on a map that is not
//! in the file: a member that came back with an older one would drop what it has got since.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use annulus_core::codec::frame::{FrameWriter, Item};
use annulus_core::id::{GroupId, MemberId};
use annulus_core::map::Map;
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep};

use super::disk_space::disk_space;
use super::map_file;
use crate::config::Config;
use crate::router::{BootstrapError, DiskSpace, NodeStatus};
use crate::runtime::{Clock, LaneGauges, LaneHandle, LaneInput, Links, Shared};
use crate::storage::{Disk, IdentityFile};

/// How long a lane that is too busy for a new map is left alone.
const BUSY_PAUSE: Duration = Duration::from_millis(5);
/// How long an eviction waits for the leaders to go, and for how long it waits when none goes.
const EVICTION_PATIENCE: Duration = Duration::from_secs(5);
const EVICTION_STALLS_AFTER: Duration = Duration::from_millis(600);
/// How often it is looked how many are left.
const EVICTION_LOOK: Duration = Duration::from_millis(10);

/// What cluster this member belongs to.
#[derive(Clone)]
pub struct Membership {
    inner: Arc<Inner>,
}

struct Inner {
    disk: Arc<dyn Disk>,
    identity: Arc<IdentityFile>,
    about: About,
    shared: Arc<Shared>,
    links: Links,
    lanes: Vec<LaneHandle>,
    joining: Mutex<()>,
    /// Tells the node that there is a map now.
    joined: watch::Sender<bool>,
    stopping: AtomicBool,
    /// Counts evictions, so that the end of one does not end a later one; 0 while none is in force.
    eviction: AtomicU64,
    evictions: AtomicU64,
}

/// What the configuration says of this member.
#[derive(Debug, Clone)]
pub(super) struct About {
    name: String,
    /// Empty: the map says it.
    zone: String,
    weight: u32,
    client_address: String,
    peer_address: String,
    admin_address: String,
    data: PathBuf,
}

impl About {
    /// The zone that this member runs in: the one that it is configured with, else the one that the map says. A pod can't
    /// know its zone before it is scheduled, so that its operator tells it with the map.
    fn zone(&self, map: Option<&Map>, member: MemberId) -> String {
        let told = map.filter(|_| self.zone.is_empty()).and_then(|map| map.member(member));
        told.map_or_else(|| self.zone.clone(), |told| told.zone.clone())
    }

    /// What the metrics say of this member.
    pub(super) fn labels(&self, map: Option<&Map>, member: MemberId) -> [(&'static str, String); 4] {
        [
            ("member", member.to_string()),
            ("name", self.name.clone()),
            ("zone", self.zone(map, member)),
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ]
    }

    /// The room on the disk of the volume.
    pub(super) fn disk(&self) -> Option<DiskSpace> {
        disk_space(&self.data)
    }
}

impl From<&Config> for About {
    fn from(config: &Config) -> Self {
        Self {
            name: config.name.clone(),
            zone: config.zone.clone(),
            weight: u32::try_from(config.weight.get()).expect("the configuration bounds it"),
            client_address: config.client_advertise.to_string(),
            peer_address: config.peer_advertise.to_string(),
            admin_address: config.admin_advertise.to_string(),
            data: config.data.clone(),
        }
    }
}

impl Membership {
    /// The membership that the volume says.
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        identity: Arc<IdentityFile>,
        about: About,
        shared: Arc<Shared>,
        links: Links,
        lanes: Vec<LaneHandle>,
    ) -> Self {
        let joined = watch::Sender::new(shared.map().is_some());
        let inner = Inner {
            disk,
            identity,
            about,
            shared,
            links,
            lanes,
            joining: Mutex::new(()),
            joined,
            stopping: AtomicBool::new(false),
            eviction: AtomicU64::new(0),
            evictions: AtomicU64::new(0),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Waits until this member has a map.
    pub(super) async fn joined(&self) {
        // The sender lives as long as this does.
        let _ = self.inner.joined.subscribe().wait_for(|joined| *joined).await;
    }

    /// Takes the maps that peers and the own map group send, the newest of those that have piled up.
    pub(super) async fn take_maps(self, mut maps: mpsc::Receiver<Arc<Map>>) {
        while let Some(mut map) = maps.recv().await {
            while let Ok(next) = maps.try_recv() {
                // One of another cluster takes nobody's place, however new it is.
                let is_ours = |map: &Map| self.inner.shared.map().is_none_or(|known| known.cluster == map.cluster);
                if !is_ours(&map) || (is_ours(&next) && next.epoch > map.epoch) {
                    map = next;
                }
            }
            match self.inner.shared.map() {
                Some(known) if known.cluster != map.cluster => {
                    tracing::warn!(ours = %known.cluster, theirs = %map.cluster, "a map of another cluster is passed over");
                }
                Some(known) if known.epoch >= map.epoch => {}
                Some(known) => self.follow(&known, map).await,
                None => {
                    let epoch = map.epoch;
                    if let Err(error) = self.join(map).await {
                        tracing::warn!(%error, epoch, "the map of a peer was refused");
                    }
                }
            }
        }
    }

    /// Follows a newer map.
    async fn follow(&self, known: &Map, map: Arc<Map>) {
        let inner = &*self.inner;
        self.spread(known, &map);
        if let Err(error) = self.write(&map).await {
            tracing::error!(
                error,
                epoch = map.epoch,
                "the newest map can't be written, and is not followed before it is"
            );
            return;
        }
        inner.shared.set_map(Arc::clone(&map));
        for lane in &inner.lanes {
            adopt(lane, &map).await;
        }
        let me = inner.shared.member;
        if known.member(me).is_some() && map.member(me).is_none() {
            tracing::warn!(epoch = map.epoch, "this member was removed from its store");
        }
        if map.member(me).is_some_and(|told| known.member(me).is_none_or(|before| before.zone != told.zone)) {
            self.tell_zone(&map);
        }
        tracing::debug!(epoch = map.epoch, moves = map.moves.len(), "map");
    }

    async fn write(&self, map: &Arc<Map>) -> Result<(), String> {
        let (disk, map) = (Arc::clone(&self.inner.disk), Arc::clone(map));
        let written = tokio::task::spawn_blocking(move || map_file::write(&*disk, &map)).await;
        written.map_err(|error| error.to_string())?.map_err(|error| told(&error))
    }

    /// Whoever leads the map group sends a new map to all that it is about, those that it leaves out included.
    fn spread(&self, known: &Map, map: &Map) {
        let inner = &*self.inner;
        if inner.shared.leader(GroupId::MAP) != Some(inner.shared.member) {
            return;
        }
        let mut frame = FrameWriter::default();
        frame.push(&Item::Map(map.encode()));
        let frame = frame.finish();
        let gone = known.members.iter().filter(|member| map.member(member.id).is_none());
        for member in map.members.iter().chain(gone).filter(|member| member.id != inner.shared.member) {
            // Whoever is not reached asks by its next report, or hears it when its link is up again.
            let _ = inner.links.send(member.id, frame.clone());
        }
    }

    /// Takes a first map from a peer: that of a new store, or that of one which this member is to join.
    async fn join(&self, map: Arc<Map>) -> Result<(), BootstrapError> {
        if map.epoch == 1 {
            return self.begin((*map).clone()).await;
        }
        let inner = &*self.inner;
        let _one_at_a_time = inner.joining.lock().await;
        let failed = |error: &dyn std::error::Error| BootstrapError::Unreachable { reason: told(error) };
        self.check_first(&map)?;
        map_file::write(&*inner.disk, &map).map_err(|error| failed(&error))?;
        inner.identity.set_cluster(map.cluster).map_err(|error| failed(&error))?;
        for lane in &inner.lanes {
            adopt(lane, &map).await;
        }
        self.is_member_now(map);
        Ok(())
    }

    /// A map that is to be the first of this member must name it, and must not be of another cluster than one that was
    /// begun with.
    fn check_first(&self, map: &Map) -> Result<(), BootstrapError> {
        let inner = &*self.inner;
        if map.member(inner.shared.member).is_none() {
            return Err(BootstrapError::NotAMember { member: inner.shared.member });
        }
        let begun = map_file::read(&*inner.disk);
        let begun = begun.map_err(|error| BootstrapError::Unreachable { reason: told(&error) })?;
        let is_other = |begun: &Map| begun.cluster != map.cluster || (map.epoch == 1 && begun != map);
        match begun.filter(is_other) {
            Some(begun) => Err(BootstrapError::Conflict { ours: begun.cluster, theirs: map.cluster }),
            None => Ok(()),
        }
    }

    /// Makes `map`, which an operator has stated, the first map of the store, or finds that it was.
    pub async fn bootstrap(&self, map: Map) -> Result<(), BootstrapError> {
        let (configured, member) = (&self.inner.about.zone, self.inner.shared.member);
        let asked = map.member(member).map(|told| &told.zone);
        match asked.filter(|asked| !configured.is_empty() && *asked != configured) {
            Some(asked) => {
                Err(BootstrapError::OtherZone { member, configured: configured.clone(), asked: asked.clone() })
            }
            None => self.begin(map).await,
        }
    }

    async fn begin(&self, map: Map) -> Result<(), BootstrapError> {
        let inner = &*self.inner;
        let _one_at_a_time = inner.joining.lock().await;
        if let Some(ours) = inner.shared.map() {
            // A store that has changed since was made from a map that nobody has any more.
            let is_the_same = if ours.epoch == 1 { *ours == map } else { ours.cluster == map.cluster };
            let conflict = BootstrapError::Conflict { ours: ours.cluster, theirs: map.cluster };
            return if is_the_same { Ok(()) } else { Err(conflict) };
        }
        self.check_first(&map)?;
        let failed = |error: &dyn std::error::Error| BootstrapError::Unreachable { reason: told(error) };
        map_file::write(&*inner.disk, &map).map_err(|error| failed(&error))?;
        let map = Arc::new(map);
        for lane in &inner.lanes {
            make_replicas(lane, &map).await?;
        }
        inner.identity.set_cluster(map.cluster).map_err(|error| failed(&error))?;
        self.is_member_now(map);
        Ok(())
    }

    fn is_member_now(&self, map: Arc<Map>) {
        tracing::info!(cluster = %map.cluster, epoch = map.epoch, members = map.members.len(), "joined");
        self.tell_zone(&map);
        self.inner.shared.set_map(map);
        self.inner.joined.send_replace(true);
    }

    /// Says in the log which zone a map puts this member in.
    fn tell_zone(&self, map: &Map) {
        let (configured, member) = (&self.inner.about.zone, self.inner.shared.member);
        let Some(told) = map.member(member) else { return };
        if configured.is_empty() || *configured == told.zone {
            tracing::info!(zone = told.zone, epoch = map.epoch, "this member's zone");
        } else {
            tracing::warn!(
                configured,
                zone = told.zone,
                "replicas are placed by the zone that the map says, and this member is configured with another"
            );
        }
    }

    /// Who reaches this member where, by the newest map.
    pub(super) fn map_changes(&self) -> watch::Receiver<Option<Arc<Map>>> {
        self.inner.shared.map_changes()
    }

    /// From now on this member is not ready: it is about to stop.
    pub(super) fn stop(&self) {
        self.inner.stopping.store(true, Ordering::Relaxed);
    }

    /// Hands the leaders of this member over and takes none for this long. Waits until they are gone, or none goes any
    /// more; returns how many are left.
    pub async fn evict(&self, lasts: Duration) -> usize {
        let inner = &*self.inner;
        let number = inner.evictions.fetch_add(1, Ordering::Relaxed) + 1;
        inner.eviction.store(number, Ordering::Relaxed);
        self.tell_lanes(true).await;
        let this = self.clone();
        tokio::task::spawn_local(async move {
            sleep(lasts).await;
            if this.inner.eviction.load(Ordering::Relaxed) == number {
                this.end_eviction();
            }
        });
        let (deadline, mut moved_at) = (Instant::now() + EVICTION_PATIENCE, Instant::now());
        let mut left = self.led();
        while left > 0 && Instant::now() < deadline && moved_at.elapsed() < EVICTION_STALLS_AFTER {
            sleep(EVICTION_LOOK).await;
            let now = self.led();
            if now < left {
                moved_at = Instant::now();
            }
            left = now;
        }
        left
    }

    /// This member may lead again.
    pub fn end_eviction(&self) {
        if self.inner.eviction.swap(0, Ordering::Relaxed) != 0 && !self.inner.stopping.load(Ordering::Relaxed) {
            let this = self.clone();
            tokio::task::spawn_local(async move { this.tell_lanes(false).await });
        }
    }

    async fn tell_lanes(&self, evicted: bool) {
        for lane in &self.inner.lanes {
            while lane.send(LaneInput::Evict(evicted)).is_err() {
                sleep(BUSY_PAUSE).await;
            }
        }
    }

    fn led(&self) -> usize {
        self.inner.shared.gauges.iter().map(|gauges| gauges.leaders.load(Ordering::Relaxed)).sum()
    }

    /// How this member is.
    pub fn status(&self, shared: &Shared, links: &Links, clock: &Clock) -> NodeStatus {
        let inner = &*self.inner;
        let identity = inner.identity.get();
        let map = shared.map();
        let sum = |of: fn(&LaneGauges) -> &AtomicUsize| {
            shared.gauges.iter().map(|gauges| of(gauges).load(Ordering::Relaxed)).sum::<usize>()
        };
        let (replicas, settled) = (sum(|gauges| &gauges.replicas), sum(|gauges| &gauges.settled));
        let mut not_ready: Vec<String> =
            why_not_ready(map.as_deref(), shared.member, replicas, settled, links).into_iter().collect();
        if inner.stopping.load(Ordering::Relaxed) {
            not_ready.push("this member is stopping".to_owned());
        }
        let about = inner.about.clone();
        NodeStatus {
            id: shared.member,
            name: identity.name,
            zone: about.zone(map.as_deref(), shared.member),
            disk: about.disk(),
            weight: about.weight,
            client_address: about.client_address,
            peer_address: about.peer_address,
            admin_address: about.admin_address,
            cluster: map.as_ref().map(|map| map.cluster),
            epoch: map.as_ref().map_or(0, |map| map.epoch),
            not_ready,
            lanes: shared.lanes,
            replicas,
            moves_in: sum(|gauges| &gauges.moves_in),
            leaders: sum(|gauges| &gauges.leaders),
            evicted: inner.eviction.load(Ordering::Relaxed) != 0,
            uptime: clock.uptime(),
        }
    }
}

fn why_not_ready(
    map: Option<&Map>,
    member: MemberId,
    replicas: usize,
    settled: usize,
    links: &Links,
) -> Option<String> {
    let Some(map) = map else {
        return Some("this member belongs to no cluster yet: it waits for its bootstrap, or to be added".to_owned());
    };
    if map.member(member).is_none() {
        return Some("this member was removed from its store".to_owned());
    }
    if settled < replicas {
        let missing = replicas - settled;
        let peers = links.states();
        let up = peers.iter().filter(|(_, up)| *up).count();
        return Some(format!(
            "{missing} of {replicas} replicas have no leader or are behind it; links to {up} of {} other members are up",
            peers.len()
        ));
    }
    let votes =
        map.groups().filter(|group| map.group(*group).is_some_and(|(voters, _)| voters.contains(&member))).count();
    if replicas < votes {
        return Some(format!("{} of {votes} replicas of this member are still being made", votes - replicas));
    }
    let is_joining = map.member(member).is_some_and(|member| member.state == annulus_core::map::MemberState::Joining);
    is_joining.then(|| "this member joins, and is still to get its replicas".to_owned())
}

/// Has a lane follow a map. A lane without room takes it a little later; a lane that is gone ends the process itself.
async fn adopt(lane: &LaneHandle, map: &Arc<Map>) {
    while lane.send(LaneInput::Adopt(Arc::clone(map))).is_err() {
        sleep(BUSY_PAUSE).await;
    }
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
