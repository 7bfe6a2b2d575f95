//! Start-up and shutdown, in order.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use annulus_core::id::MemberId;
use annulus_core::lane::LogBudget;
use annulus_core::map::Map;
use annulus_core::replica::Settings;
use rand::Rng;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::collector::NodeCollector;
use super::io::{IoThread, Work, local_runtime};
use super::membership::{About, Membership};
use super::{map_file, quarantine};
use crate::config::{Config, OnDamage};
use crate::http::{self, Limits, Port, Resources};
use crate::metrics::Metrics;
use crate::peers::{self, Peers};
use crate::router::{NodeParts, NodeRouter};
use crate::runtime::{self, Clock, IoLanes, LaneFailure, LaneHandle, LaneSetup, Links, ReplyQueue, Shared, Waiters};
use crate::storage::{self, Directory, Disk, Identity, IdentityFile};
use crate::transactions::{Found, Transactions, recover_abandoned};

/// Most bytes of proposals of one group that are not committed yet; beyond it writes are turned away.
const MAX_UNCOMMITTED_BYTES: u64 = 16 * 1024 * 1024;
/// For how long a member that stops takes no leadership: longer than any stop takes.
const STOPPING_LASTS: Duration = Duration::from_secs(3600);
/// How long what is still being written or looked up may take when everything else has ended.
const LAST_WRITES: Duration = Duration::from_secs(2);
/// Files and connections that are not clients': the WAL and the checkpoints, the links, the operator's connections.
const OWN_FILES: usize = 512;
/// Most maps from peers that wait to be looked at.
const MAPS: usize = 16;
/// Most batches of abandoned transactions that wait to be looked at.
const ABANDONED: usize = 16;

/// Why a member does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The volume can't be used.
    #[error("the volume can't be used")]
    Storage(#[from] storage::Error),
    /// The volume's directory can't be used.
    #[error("the data directory `{path}` can't be used")]
    Data {
        /// The directory.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The copy of the map can't be used.
    #[error(transparent)]
    MapFile(#[from] map_file::Error),
    /// The volume says that it is a member's whose map it does not have.
    #[error(
        "the volume in `{path}` belongs to cluster {cluster}, but its copy of the map is gone; let this member rejoin with an empty volume"
    )]
    MapGone {
        /// The directory.
        path: String,
        /// The cluster.
        cluster: annulus_core::id::ClusterId,
    },
    /// The copy of the map is of another cluster.
    #[error(
        "the volume in `{path}` is of member {member} of cluster {cluster}, but its copy of the map is of cluster {found}; \
         files of two volumes were mixed: put the right ones back, or let this member rejoin with an empty volume"
    )]
    OtherMap {
        /// The directory.
        path: String,
        /// The member, as the identity says.
        member: MemberId,
        /// The cluster, as the identity says.
        cluster: annulus_core::id::ClusterId,
        /// The cluster, as the map says.
        found: annulus_core::id::ClusterId,
    },
    /// The volume is another member's.
    #[error(
        "the volume in `{path}` is of member `{found}` (id {id}), and this is `{name}`; give each member its own volume"
    )]
    OtherMember {
        /// The directory.
        path: String,
        /// The name it was made with.
        found: String,
        /// Its member id.
        id: MemberId,
        /// The name that was given now.
        name: String,
    },
    /// What the disk holds does not fit together.
    #[error("the replicas can't be read back")]
    Replica(#[from] annulus_core::replica::Error),
    /// A port can't be listened on.
    #[error("cannot listen on {address} for {purpose}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What it is for.
        purpose: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// A thread or runtime can't be made.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
}

/// Runs a member until `stop` ends, then lets open requests end.
pub fn run(config: Config, stop: impl Future<Output = ()>) -> Result<(), Error> {
    let listeners = Listeners::bind(&config)?;
    let (data, on_damage) = (config.data.clone(), config.on_damage);
    let ended = Volume::open(&config).and_then(|volume| {
        let runtime = local_runtime().map_err(Error::Thread)?;
        let ended = runtime.block_on(serve(config, listeners, volume, stop));
        // The look-up of a name may hang for half a minute, and a map that is half written is written again.
        runtime.shutdown_timeout(LAST_WRITES);
        ended
    });
    if let Err(error) = &ended
        && error.is_damage()
    {
        damaged(&data, on_damage, &error.to_string());
    }
    ended
}

/// The volume must not be used any more. What that means is up to the configuration.
fn damaged(data: &Path, on_damage: OnDamage, reason: &str) {
    if on_damage == OnDamage::Stop {
        return;
    }
    match quarantine::mark(data, reason) {
        Ok(()) => {
            tracing::error!(reason, "at its next start this member sets its volume aside, and begins anew as another")
        }
        Err(error) => tracing::error!(%error, reason, "the volume can't be marked as damaged"),
    }
}

impl Error {
    /// Whether the volume has lost or never had what it should have, so that it must not be voted from.
    fn is_damage(&self) -> bool {
        match self {
            Self::Storage(error) => error.is_damage(),
            Self::Replica(error) => is_damage(error),
            Self::MapFile(map_file::Error::Damaged { .. }) | Self::MapGone { .. } | Self::OtherMap { .. } => true,
            _ => false,
        }
    }
}

fn is_damage(error: &annulus_core::replica::Error) -> bool {
    use annulus_core::replica::Error;
    matches!(error, Error::Hole { .. } | Error::Forgotten { .. } | Error::Damaged { .. })
}

/// The ports, bound before anything else, so that a second process on the same ports touches no data.
struct Listeners {
    client: std::net::TcpListener,
    admin: std::net::TcpListener,
    peer: std::net::TcpListener,
}

impl Listeners {
    fn bind(config: &Config) -> Result<Self, Error> {
        let bind = |address: SocketAddr, purpose| {
            let listener = bind_any(address).and_then(|listener| {
                listener.set_nonblocking(true)?;
                Ok(listener)
            });
            listener.map_err(|source| Error::Listen { address, purpose, source })
        };
        Ok(Self {
            client: bind(config.client_listen, "clients")?,
            admin: bind(config.admin_listen, "the operator")?,
            peer: bind(config.peer_listen, "other members")?,
        })
    }
}

/// `[::]` stands for both kinds of addresses; where the machine has only the older kind, for that one.
fn bind_any(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let is_any = address.ip() == IpAddr::from(Ipv6Addr::UNSPECIFIED);
    match std::net::TcpListener::bind(address) {
        Err(error) if is_any && error.kind() != std::io::ErrorKind::AddrInUse => {
            std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port()))
        }
        bound => bound,
    }
}

/// The volume, locked and identified.
struct Volume {
    disk: Arc<dyn Disk>,
    identity: Arc<IdentityFile>,
    map: Option<Arc<Map>>,
}

impl Volume {
    fn open(config: &Config) -> Result<Self, Error> {
        let path = config.data.display().to_string();
        let unusable = |source| Error::Data { path: path.clone(), source };
        std::fs::create_dir_all(&config.data).map_err(unusable)?;
        let disk: Arc<dyn Disk> = Arc::new(Directory::open(&config.data)?);
        if let Some(reason) = quarantine::marked(&config.data).filter(|_| config.on_damage == OnDamage::Quarantine) {
            let folder = quarantine::set_aside(&config.data).map_err(unusable)?;
            let folder = folder.display();
            tracing::warn!(reason, %folder, "the damaged volume is set aside; this member begins anew, and waits to be added");
        }
        let identity = match IdentityFile::open(Arc::clone(&disk))? {
            Some(identity) => identity,
            None => IdentityFile::create(Arc::clone(&disk), new_identity(config))?,
        };
        let known = identity.get();
        if known.name != config.name {
            return Err(Error::OtherMember { path, found: known.name, id: known.member, name: config.name.clone() });
        }
        // A map without a cluster in the identity is of a bootstrap that was cut short: it will be asked for again.
        let map = match known.cluster {
            None => None,
            Some(cluster) => {
                let map = map_file::read(&*disk)?.ok_or_else(|| Error::MapGone { path: path.clone(), cluster })?;
                let member = known.member;
                if map.cluster != cluster {
                    return Err(Error::OtherMap { path, member, cluster, found: map.cluster });
                }
                if map.member(member).is_none() {
                    tracing::warn!(%member, "this member was removed from its store, and waits to be added again");
                }
                Some(map)
            }
        };
        Ok(Self { disk, identity: Arc::new(identity), map: map.map(Arc::new) })
    }
}

fn new_identity(config: &Config) -> Identity {
    let mut random = rand::rng();
    let member = std::iter::repeat_with(|| random.next_u64()).find_map(MemberId::new).expect("not all draws are 0");
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let lanes = config.lanes.map_or((cores / 2).max(1), |lanes| lanes.as_usize());
    let lanes = u32::try_from(lanes).expect("the configuration bounds it");
    Identity::new(member, config.name.clone(), lanes)
}

async fn serve(
    config: Config,
    listeners: Listeners,
    volume: Volume,
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let identity = volume.identity.get();
    tracing::info!(
        member = %identity.member, name = identity.name, zone = config.zone, lanes = identity.lanes, "starting"
    );
    let shared = Arc::new(Shared::new(identity.member, rand::rng().next_u64(), identity.lanes as usize));
    if let Some(map) = &volume.map {
        shared.set_map(Arc::clone(map));
    }
    let (stopping, stop_seen) = watch::channel(false);
    let (waiters, replies, io) = start_io().await?;
    let (links, clock) = (Links::default(), Clock::default());
    let (map_sender, maps) = mpsc::channel(MAPS);
    let (abandoned_sender, abandoned) = mpsc::channel(ABANDONED);
    let ways = (&replies[..], &map_sender, &abandoned_sender);
    let lanes = spawn_lanes(&config, &volume, &shared, &links, clock, ways)?;
    let about = About::from(&config);
    let membership =
        Membership::new(volume.disk, volume.identity, about.clone(), Arc::clone(&shared), links.clone(), lanes.clone());
    let lanes: Arc<[LaneHandle]> = lanes.into();
    let local = IoLanes::start(Arc::clone(&lanes));
    let peers = Peers { shared: Arc::clone(&shared), lanes: local.clone(), replies, links, clock, maps: map_sender };
    let parts = NodeParts { shared, lanes, links: peers.links.clone(), clock, membership: membership.clone() };
    let resources = resources(&config, &parts, about);
    let (leaving, stop_delay) = (Arc::clone(&resources), config.stop_delay.get());
    let router = Rc::new(NodeRouter { parts: parts.clone(), waiters, lanes: local });
    tokio::task::spawn_local(peers::serve(listener(listeners.peer)?, peers.clone()));
    tokio::task::spawn_local(parts.membership.clone().take_maps(maps));
    tokio::task::spawn_local(link_up(parts.membership.clone(), peers));
    let transactions = Transactions::new(Rc::clone(&router), Arc::clone(resources.metrics()));
    tokio::task::spawn_local(recover_abandoned(transactions, abandoned));
    let mut threads = Vec::new();
    for thread in io {
        let listener = listeners.client.try_clone().map_err(Error::Thread)?;
        let (parts, resources, stop) = (parts.clone(), Arc::clone(&resources), stop_seen.clone());
        threads.push(thread.serve(Work { listener, parts, resources, stop }));
    }
    let client = listener(listeners.client)?;
    let admin = listener(listeners.admin)?;
    let serving = async {
        tokio::join!(
            http::serve(client, Port::Client, Rc::clone(&router), Arc::clone(&resources), stop_seen.clone()),
            http::serve(admin, Port::Admin, router, Arc::clone(&resources), stop_seen),
        )
    };
    let stopped = async {
        stop.await;
        membership.stop();
        leaving.leave();
        let (left, ()) = tokio::join!(membership.evict(STOPPING_LASTS), sleep(stop_delay));
        tracing::info!(leaders_left = left, "stopping: open requests may end");
        stopping.send_replace(true);
    };
    tokio::join!(serving, stopped);
    for thread in threads {
        // A thread that panicked has said so itself.
        let _ = thread.join();
    }
    tracing::info!("stopped");
    Ok(())
}

/// The waiters of this thread, the other I/O threads, and where each of them all hears of answers.
async fn start_io() -> Result<(Waiters, Vec<ReplyQueue>, Vec<IoThread>), Error> {
    let (waiters, first_queue) = Waiters::start(0);
    let (mut replies, mut io) = (vec![first_queue], Vec::new());
    for number in 1..io_threads() {
        let (thread, queue) = IoThread::spawn(number).await.map_err(Error::Thread)?;
        replies.push(queue);
        io.push(thread);
    }
    Ok((waiters, replies, io))
}

/// Dials the other members, as soon as it is known who they are, and those that join later.
async fn link_up(membership: Membership, peers: Peers) {
    membership.joined().await;
    let mut maps = membership.map_changes();
    loop {
        let map = maps.borrow_and_update().clone();
        let members = map.iter().flat_map(|map| &map.members).map(|member| member.id);
        for member in members.filter(|id| *id != peers.shared.member && peers.links.to(*id).is_none()) {
            // Ends by itself when the map does not name the member any more.
            tokio::task::spawn_local(peers::dial(peers.clone(), member));
        }
        if maps.changed().await.is_err() {
            return;
        }
    }
}

fn listener(listener: std::net::TcpListener) -> Result<TcpListener, Error> {
    TcpListener::from_std(listener).map_err(Error::Thread)
}

fn io_threads() -> u16 {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    u16::try_from(cores / 2).unwrap_or(u16::MAX).max(1)
}

fn resources(config: &Config, parts: &NodeParts, about: About) -> Arc<Resources> {
    let metrics = Arc::new(Metrics::new());
    let collector = NodeCollector { shared: Arc::clone(&parts.shared), links: parts.links.clone(), about };
    metrics.register(|registry| registry.register_collector(Box::new(collector)));
    let mut limits = Limits::from(config);
    limits.max_connections = connections_that_fit(limits.max_connections);
    Resources::new(limits, metrics)
}

/// Lets the process have as many files open as the system allows, and says how many connections of clients that leaves room
/// for: with none left for a file of its own, the member would have to stop.
fn connections_that_fit(wanted: usize) -> usize {
    let allowed = getrlimit(Resource::Nofile).maximum;
    let raised = setrlimit(Resource::Nofile, Rlimit { current: allowed, maximum: allowed });
    let files = if raised.is_ok() { allowed } else { getrlimit(Resource::Nofile).current };
    let fit =
        files.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX)).saturating_sub(OWN_FILES).max(1);
    if fit < wanted {
        tracing::warn!(
            wanted,
            connections = fit,
            "the system lets this process open so few files that fewer clients can connect than configured; raise the limit \
             (ulimit -n)"
        );
    }
    wanted.min(fit)
}

fn spawn_lanes(
    config: &Config,
    volume: &Volume,
    shared: &Arc<Shared>,
    links: &Links,
    clock: Clock,
    (replies, maps, abandoned): (&[ReplyQueue], &mpsc::Sender<Arc<Map>>, &mpsc::Sender<Vec<Found>>),
) -> Result<Vec<LaneHandle>, Error> {
    let identity = volume.identity.get();
    let options = storage::Options { cache_bytes: config.cache_bytes.as_usize(), ..storage::Options::default() };
    let settings = Settings {
        member: identity.member,
        seed: rand::rng().next_u64(),
        election_timeout: config.election_timeout.get(),
        max_uncommitted_bytes: MAX_UNCOMMITTED_BYTES,
        log_budget: LogBudget::default(),
    };
    let mut lanes: Vec<LaneHandle> = Vec::new();
    for (lane, mark) in (0..identity.lanes).zip(&identity.marks) {
        let opened = storage::open_lane(&volume.disk, lane, *mark, &options)?;
        volume.identity.set_mark(lane, opened.mark)?;
        lanes.push(runtime::spawn(
            LaneSetup {
                lane,
                settings: settings.clone(),
                opened,
                map: volume.map.clone(),
                identity: Arc::clone(&volume.identity),
                shared: Arc::clone(shared),
                clock,
                links: links.clone(),
                replies: replies.to_vec(),
                maps: maps.clone(),
                abandoned: abandoned.clone(),
                map_lane: lanes.first().cloned(),
                move_bytes_per_second: config.max_move_rate.as_usize() as u64,
                overlay_max_bytes: config.overlay.max_bytes.as_usize(),
                overlay_max_age: config.overlay.max_age.get(),
            },
            Box::new({
                let (data, on_damage) = (config.data.clone(), config.on_damage);
                move |failure| lane_failed(&data, on_damage, failure)
            }),
        )?);
    }
    Ok(lanes)
}

/// A lane that can't go on must not be served from, nor vote: the process ends, and whoever runs it starts it again.
fn lane_failed(data: &Path, on_damage: OnDamage, failure: &LaneFailure) -> ! {
    let reason = failure.to_string();
    tracing::error!(reason, "a lane can't go on; the member stops");
    let lost = match failure {
        LaneFailure::Replica(error) => is_damage(error),
        LaneFailure::Storage(error) => error.is_damage(),
    };
    if lost {
        damaged(data, on_damage, &reason);
    }
    std::process::exit(70);
}
