//! A store on an application's localhost: the whole client API, sent on to the leaders, and locks that are kept.
//!
//! ```text
//!  application ─HTTP, loopback─▶ server ─▶ edge ─┬─▶ relay ───▶ Client ─▶ leader
//!                                                │     ▲ Annulus-Fence of a lock that is kept
//!                                                └─▶ locks: keeper ◀─renewing─▶ POST /v1/renewals
//!                                                                 └─▶ saved: a file that outlives a crash
//! ```
//!
//! What comes in goes out as it is, but for what makes it safe to send twice: an `Idempotency-Key` for a write, an `id` for a
//! transaction. So a lost member, leader or answer costs the application a short delay. What the store answers comes back as it
//! is.
//!
//! A lock that is taken through it is kept until the application gives it up or the sidecar ends: renewed in the background,
//! also while the application that asked for it is restarted. A request that names no `owner` is made in the name of the sidecar, and
//! so of its pod: what the pod holds already is answered with the same token, so that an application that was started again goes on
//! where it was. One with an `Idempotency-Key` is a wish of its own under that name, and waits also for what the pod holds.
//! Processes of one pod that are to exclude each other name owners.
//!
//! What it never does: repeat a write that could then happen twice; say of a lock that it is held when it is not; listen for
//! the application on anything but loopback.

mod body;
mod edge;
mod limits;
mod locks;
mod memory;
mod metrics;
mod openapi;
mod probes;
mod problem;
mod relay;
mod route;
mod server;
mod stream;
mod txn;

use std::fs::{File, TryLockError};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::Client;
use edge::Edge;
use limits::{Limits, Resources};
use locks::Locks;
pub use memory::{MIN_MEMORY, default_memory};
use metrics::Metrics;
use route::Port;
use server::Listener;

/// The body of an answer.
type Body = Full<Bytes>;

/// How a sidecar is to be.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the application finds it: a loopback address.
    pub listen: SocketAddr,
    /// A Unix socket where it finds it besides. Its mode is 0666: whoever reaches its directory may use it.
    pub unix_socket: Option<PathBuf>,
    /// Where `/healthz`, `/readyz`, `/metrics` and `/sidecar/locks` are, and nothing else. `[::]` is every address, of both
    /// kinds.
    pub status_listen: Option<SocketAddr>,
    /// The file that names the locks that are kept, for the next process if this one crashes.
    pub state: Option<PathBuf>,
    /// By which name locks are held for which the application names no owner: 1 to 255 bytes.
    pub owner: String,
    /// How many bytes the bodies of requests and answers may take at once, all together: [`MIN_MEMORY`] at least. There is
    /// [`default_memory`].
    pub memory: usize,
}

/// Why a sidecar can't begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Anybody could reach the application's store there.
    #[error(
        "{0} is not a loopback address, such as 127.0.0.1:7070: whoever reaches a sidecar has its application's locks"
    )]
    NotLoopback(SocketAddr),
    /// It can't be listened there.
    #[error("{at} can't be listened on: {error}")]
    Listen {
        /// Where.
        at: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// Another sidecar keeps its locks in that file, or there is no place for it.
    #[error("{at} can't be used for the locks: {why}")]
    State {
        /// The file.
        at: PathBuf,
        /// Why.
        why: String,
    },
    /// Somebody serves that socket.
    #[error("{0} is the socket of another process that answers")]
    SocketInUse(PathBuf),
}

/// Why a sidecar has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Told,
    /// Another store was found at the addresses of its own.
    OtherStore,
}

/// A sidecar that listens, and serves when it is [`run`](Sidecar::run).
#[derive(Debug)]
pub struct Sidecar {
    edge: Arc<Edge>,
    ports: Vec<(Listener, Port)>,
    socket: Option<PathBuf>,
    address: SocketAddr,
    /// Held for as long as it runs.
    _state_lock: Option<File>,
}

impl Sidecar {
    /// Listens, and reads what an earlier process has left. Must run inside a Tokio runtime.
    ///
    /// # Errors
    ///
    /// [`Error`] when it can't listen where it is to. A file that can't be read is told and moved aside, and no error.
    pub async fn bind(client: Client, config: Config) -> Result<Self, Error> {
        if !config.listen.ip().is_loopback() {
            return Err(Error::NotLoopback(config.listen));
        }
        let listener = listen(config.listen).await?;
        let address = listener.local_addr().unwrap_or(config.listen);
        let mut ports = vec![(Listener::Tcp(listener), Port::Application)];
        if let Some(path) = &config.unix_socket {
            ports.push((Listener::Unix(listen_unix(path).await?), Port::Application));
        }
        if let Some(status) = config.status_listen {
            ports.push((Listener::Tcp(listen(status).await?), Port::Status));
        }
        let state_lock = config.state.as_deref().map(lock_state).transpose()?;
        let metrics = Arc::new(Metrics::new());
        let locks = Locks::new(client.clone(), config.owner, config.state, Arc::clone(&metrics));
        let edge = Edge::new(
            client,
            locks,
            Resources::new(Limits { bytes: config.memory.max(MIN_MEMORY), ..Limits::default() }),
            metrics,
        );
        Ok(Self { edge: Arc::new(edge), ports, socket: config.unix_socket, address, _state_lock: state_lock })
    }

    /// Where the application finds it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` ends; then lets open requests end, gives up every lock, and is done. Each of the two takes 5 s at
    /// most. Ends by itself, too, when another store is found where its own was: whoever runs it begins anew then.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Ended {
        let (tell, told) = watch::channel(false);
        let mut serving = JoinSet::new();
        for (listener, port) in self.ports {
            serving.spawn(server::serve(listener, port, Arc::clone(&self.edge), told.clone()));
        }
        let mut keeping = JoinSet::new();
        keeping.spawn(locks::renew(Arc::clone(&self.edge.locks)));
        keeping.spawn(locks::save(Arc::clone(&self.edge.locks)));
        let ended = tokio::select! {
            () = stop => Ended::Told,
            () = self.edge.client.directory().foreign() => Ended::OtherStore,
        };
        if ended == Ended::OtherStore {
            self.edge
                .locks
                .lose_all("the store that it was taken of is not there any more: another one is in its place");
        }
        self.edge.stop();
        tell.send_replace(true);
        let grace = self.edge.resources.limits.shutdown_timeout;
        while serving.join_next().await.is_some() {}
        let released = timeout(grace, self.edge.locks.release_all()).await;
        let left = self.edge.locks.count();
        if released.is_err() || left > 0 {
            tracing::warn!(locks = left, "locks could not be given up in time; each is free when its lease ends");
        }
        self.edge.locks.save_now().await;
        if let Some(socket) = self.socket {
            // Whoever comes next removes it otherwise.
            let _ = std::fs::remove_file(socket);
        }
        ended
    }
}

/// `[::]` stands for both kinds of addresses; where the machine has only the older kind, for that one.
async fn listen(at: SocketAddr) -> Result<TcpListener, Error> {
    let is_any = at.ip() == IpAddr::from(Ipv6Addr::UNSPECIFIED);
    let bound = match TcpListener::bind(at).await {
        Err(error) if is_any && error.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, at.port())).await
        }
        bound => bound,
    };
    bound.map_err(|error| Error::Listen { at: at.to_string(), error })
}

/// Takes the file of locks for this process alone: two that kept the same locks would give up each other's. The file itself is
/// replaced with each write, so another one beside it is locked.
fn lock_state(state: &Path) -> Result<File, Error> {
    let failed = |why: String| Error::State { at: state.to_owned(), why };
    let mut beside = state.as_os_str().to_owned();
    beside.push(".lock");
    let file = File::options().write(true).create(true).truncate(false).open(&beside);
    let file = file.map_err(|error| failed(error.to_string()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(failed("another sidecar keeps its locks there; name another file".to_owned()))
        }
        Err(TryLockError::Error(error)) => Err(failed(error.to_string())),
    }
}

/// Listens on a socket that whoever reaches its directory may use (mode 0666): the containers of a pod run as different users. One that
/// was left behind by a process that is gone is replaced.
async fn listen_unix(path: &Path) -> Result<UnixListener, Error> {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    let failed = |error| Error::Listen { at: path.display().to_string(), error };
    if std::fs::symlink_metadata(path).is_ok_and(|there| there.file_type().is_socket()) {
        if UnixStream::connect(path).await.is_ok() {
            return Err(Error::SocketInUse(path.to_owned()));
        }
        std::fs::remove_file(path).map_err(failed)?;
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).map_err(failed)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn every_address_has_those_of_the_older_kind_too() {
        let listener = listen("[::]:0".parse().unwrap()).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        assert!(listen(SocketAddr::new(listener.local_addr().unwrap().ip(), port)).await.is_err(), "it is taken");
    }
}
