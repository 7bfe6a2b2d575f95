//! Finds where a `host:port` is, anew each time: a pod keeps its name and changes its address.
//!
//! The system's own lookup blocks a thread, and takes half a minute when no name server answers. Those who wait for it give
//! up sooner and ask again; so that this does not pile up, a name is looked up once at a time, whoever asks for it, and only
//! so many names are. Nothing is kept of a lookup that has ended.
//!
//! ```text
//!   resolve("a:1") ─┬─▶ nobody looks it up: a place, a blocking thread ─▶ getaddrinfo ─▶ to all who wait
//!   resolve("a:1") ─┘   somebody does: wait for that one                    └▶ forgotten before it is told
//! ```

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

/// Most names that are looked up at once: the threads that may block (512 of each runtime) are for others too.
const PLACES: usize = 128;

/// What a lookup finds. Its error is told to several, so it is text.
type Found = Result<Vec<SocketAddr>, String>;
/// How names are looked up.
type Lookup = fn(&str) -> io::Result<Vec<SocketAddr>>;

/// The lookups of this process: its threads block for all of it.
static NAMES: LazyLock<Names> =
    LazyLock::new(|| Names::new(PLACES, |address| Ok(address.to_socket_addrs()?.collect())));

/// Connects to a `host:port`, wherever it is now.
pub(crate) async fn connect(address: &str, within: Duration) -> io::Result<TcpStream> {
    let connecting = async {
        let found = NAMES.resolve(address).await?;
        TcpStream::connect(&found[..]).await
    };
    timeout(within, connecting).await?
}

/// The lookups under way.
struct Names {
    running: Arc<Mutex<HashMap<String, watch::Receiver<Option<Found>>>>>,
    places: Arc<Semaphore>,
    look_up: Lookup,
}

impl Names {
    fn new(places: usize, look_up: Lookup) -> Self {
        Self { running: Arc::default(), places: Arc::new(Semaphore::new(places)), look_up }
    }

    /// Where this `host:port` is. Takes as long as the system does: whoever waits bounds it.
    async fn resolve(&self, address: &str) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = address.parse() {
            return Ok(vec![address]);
        }
        let mut told = loop {
            if let Some(told) = self.told(address) {
                break told;
            }
            let place = Arc::clone(&self.places).acquire_owned().await.map_err(io::Error::other)?;
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            if running.contains_key(address) {
                continue;
            }
            let (tell, told) = watch::channel(None);
            running.insert(address.to_owned(), told.clone());
            drop(running);
            let (name, running, look_up) = (address.to_owned(), Arc::clone(&self.running), self.look_up);
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

    /// The lookup of this address that is under way.
    fn told(&self, address: &str) -> Option<watch::Receiver<Option<Found>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).get(address).cloned()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use tokio::net::TcpListener;

    use super::*;

    /// Enough for whatever is quick; what hangs, hangs until it is let go.
    const SOON: Duration = Duration::from_millis(50);
    const PATIENCE: Duration = Duration::from_secs(20);

    fn block_on<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
    }

    #[test]
    fn a_name_is_looked_up_anew_each_time() {
        static LOOKUPS: AtomicUsize = AtomicUsize::new(0);
        let moving: Lookup = |_| {
            let number = LOOKUPS.fetch_add(1, Ordering::Relaxed);
            Ok(vec![SocketAddr::from(([10, 0, 0, u8::try_from(number).unwrap()], 1))])
        };
        block_on(async {
            let names = Names::new(1, moving);
            for expected in ["10.0.0.0:1", "10.0.0.1:1", "10.0.0.2:1"] {
                assert_eq!(names.resolve("pod:1").await.unwrap(), [expected.parse().unwrap()]);
            }
            assert_eq!(names.resolve("10.9.9.9:1").await.unwrap(), ["10.9.9.9:1".parse().unwrap()]);
            assert_eq!(LOOKUPS.load(Ordering::Relaxed), 3, "an address is no name");
        });
    }

    #[test]
    fn a_lookup_that_hangs_takes_one_place_however_often_it_is_asked_for_and_no_thread_of_the_runtime() {
        static LOOKUPS: AtomicUsize = AtomicUsize::new(0);
        type Gate = (Mutex<SyncSender<()>>, Mutex<Receiver<()>>);
        static GATE: LazyLock<Gate> = LazyLock::new(|| {
            let (open, wait) = sync_channel(2);
            (Mutex::new(open), Mutex::new(wait))
        });
        let hanging: Lookup = |address| {
            if address == "hangs:1" {
                LOOKUPS.fetch_add(1, Ordering::Relaxed);
                GATE.1.lock().unwrap().recv_timeout(PATIENCE).map_err(io::Error::other)?;
            }
            Ok(vec![SocketAddr::from(([10, 0, 0, 1], 1))])
        };
        block_on(async {
            let names = Names::new(2, hanging);
            for _ in 0..5 {
                assert!(timeout(SOON, names.resolve("hangs:1")).await.is_err());
            }
            // The other place is free all the time.
            assert!(timeout(PATIENCE, names.resolve("fine:1")).await.unwrap().is_ok());
            let waiting = async { tokio::join!(names.resolve("hangs:1"), names.resolve("hangs:1")) };
            let open = async { GATE.0.lock().unwrap().send(()).unwrap() };
            let ((one, other), ()) = tokio::join!(waiting, open);
            assert!(one.is_ok() && other.is_ok());
            assert_eq!(LOOKUPS.load(Ordering::Relaxed), 1);
        });
    }

    #[test]
    fn a_name_that_there_is_none_of_is_told_and_one_that_there_is_is_connected_to() {
        block_on(async {
            let error = connect("nobody.invalid:1", PATIENCE).await.unwrap_err();
            assert!(error.to_string().contains("`nobody.invalid:1` is not found"), "{error}");
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            connect(&format!("localhost:{port}"), PATIENCE).await.unwrap();
            assert!(connect("no port", PATIENCE).await.is_err());
        });
    }
}
