//! Finds where a host is, anew for each connection: a pod keeps its name and changes its address.
//!
//! The system's own lookup blocks a thread, and takes half a minute when no name server answers. A connection waits for it
//! as long as it may take itself; then nothing was sent, which is known. So that what is given up does not pile up, a name
//! is looked up once at a time, whoever asks for it, and only so many names are. Nothing is kept of a lookup that has ended.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::client::legacy::connect::dns::Name;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

/// Most names that are looked up at once.
const PLACES: usize = 64;

/// What a lookup finds. Its error is told to several, so it is text.
type Found = Result<Vec<SocketAddr>, String>;
/// How a host is looked up.
type Lookup = fn(&str) -> io::Result<Vec<SocketAddr>>;

/// Looks names up for a connector. Clones share their lookups.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    running: Arc<Mutex<HashMap<String, watch::Receiver<Option<Found>>>>>,
    places: Arc<Semaphore>,
    look_up: Lookup,
    within: Duration,
}

impl Names {
    /// Looks names up as the system does; each may take so long.
    pub(crate) fn new(within: Duration) -> Self {
        // The connector puts the port in the place of this one.
        Self::with(within, |host| Ok((host, 0).to_socket_addrs()?.collect()))
    }

    fn with(within: Duration, look_up: Lookup) -> Self {
        Self { running: Arc::default(), places: Arc::new(Semaphore::new(PLACES)), look_up, within }
    }

    async fn resolve(self, host: String) -> io::Result<Vec<SocketAddr>> {
        timeout(self.within, self.look_up_once(&host)).await.map_err(|_| {
            let reason = format!("no name server told within {:?} where `{host}` is", self.within);
            io::Error::new(io::ErrorKind::TimedOut, reason)
        })?
    }

    async fn look_up_once(&self, host: &str) -> io::Result<Vec<SocketAddr>> {
        let mut told = loop {
            if let Some(told) = self.told(host) {
                break told;
            }
            let place = Arc::clone(&self.places).acquire_owned().await.map_err(io::Error::other)?;
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            if running.contains_key(host) {
                continue;
            }
            let (tell, told) = watch::channel(None);
            running.insert(host.to_owned(), told.clone());
            drop(running);
            let (name, running, look_up) = (host.to_owned(), Arc::clone(&self.running), self.look_up);
            tokio::task::spawn_blocking(move || {
                let found = look_up(&name).map_err(|error| format!("`{name}` is not found: {error}"));
                // Before it is told: whoever asks from now on does not get what was found before.
                running.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
                tell.send_replace(Some(found));
                drop(place);
            });
            break told;
        };
        let found = told.wait_for(Option::is_some).await.map(|found| found.clone());
        let found = found.map_err(io::Error::other)?.expect("it was waited for");
        found.map_err(io::Error::other)
    }

    fn told(&self, host: &str) -> Option<watch::Receiver<Option<Found>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).get(host).cloned()
    }
}

impl tower_service::Service<Name> for Names {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let names = self.clone();
        Box::pin(async move { Ok(names.resolve(name.as_str().to_owned()).await?.into_iter()) })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    const SOON: Duration = Duration::from_millis(50);
    const PATIENCE: Duration = Duration::from_secs(20);

    async fn resolve(names: &Names, host: &str) -> io::Result<Vec<SocketAddr>> {
        names.clone().resolve(host.to_owned()).await
    }

    #[tokio::test]
    async fn a_name_is_looked_up_anew_for_each_connection() {
        static MOVES: AtomicU8 = AtomicU8::new(0);
        let names = Names::with(PATIENCE, |_| Ok(vec![([10, 0, 0, MOVES.fetch_add(1, Ordering::Relaxed)], 0).into()]));
        for expected in ["10.0.0.0:0", "10.0.0.1:0"] {
            assert_eq!(resolve(&names, "pod").await.unwrap(), [expected.parse().unwrap()]);
        }
        let error = resolve(&Names::new(PATIENCE), "nobody.invalid").await.unwrap_err();
        assert!(error.to_string().contains("`nobody.invalid` is not found"), "{error}");
    }

    #[tokio::test]
    async fn a_lookup_that_hangs_is_given_up_in_time_and_not_begun_once_more() {
        static LOOKUPS: AtomicUsize = AtomicUsize::new(0);
        type Gate = (Mutex<SyncSender<()>>, Mutex<Receiver<()>>);
        static GATE: LazyLock<Gate> = LazyLock::new(|| {
            let (open, wait) = sync_channel(2);
            (Mutex::new(open), Mutex::new(wait))
        });
        let names = Names::with(SOON, |_| {
            LOOKUPS.fetch_add(1, Ordering::Relaxed);
            GATE.1.lock().unwrap().recv_timeout(PATIENCE).map_err(io::Error::other)?;
            Ok(vec![([10, 0, 0, 1], 0).into()])
        });
        for _ in 0..5 {
            let error = resolve(&names, "hangs").await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        }
        GATE.0.lock().unwrap().send(()).unwrap();
        let patient = Names { within: PATIENCE, ..names };
        GATE.0.lock().unwrap().send(()).unwrap();
        assert!(resolve(&patient, "hangs").await.is_ok());
        assert!((1..=2).contains(&LOOKUPS.load(Ordering::Relaxed)));
    }
}
