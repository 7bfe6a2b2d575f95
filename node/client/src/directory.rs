//! Whom to ask: the newest ring known, who was said to lead since, the endpoints given, and which addresses did not answer
//! lately.
//!
//! A ring is fetched by one caller at a time; the others go on with the ring they have, or take the one just fetched.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::transport::{Answer, Message, Transport};
use crate::{ClusterId, Error, MemberId, Ring};

/// How long the fetch of a ring may take at one address.
const FETCH_TIMEOUT: Duration = Duration::from_millis(1000);
/// How much longer the other endpoints get to tell their cluster once one has told its ring.
const GRACE: Duration = Duration::from_millis(200);
/// Two fetches of the ring are at least this far apart.
const FETCH_INTERVAL: Duration = Duration::from_millis(20);
/// For how long an address that did not answer is asked last: this, doubled with each failure in a row up to 64 times.
const DOWN_INTERVAL: Duration = Duration::from_millis(125);

/// A ring with its addresses parsed.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) ring: Arc<Ring>,
    /// Its cluster, as requests say which store they are for.
    pub(crate) cluster: HeaderValue,
    /// The members' client addresses, in the ring's order; `None` for one that is no address.
    addresses: Vec<Option<Authority>>,
    /// For each partition the members to ask, best first, as places in `addresses`.
    preferences: Vec<Vec<usize>>,
    /// For each partition who was said to lead it since the ring was fetched.
    told: Vec<Told>,
    /// Counts the tables of one directory: tells a waiting refresher that another has done the work.
    generation: u64,
}

/// Who was said to lead a partition, as a place in the ring; nobody by default.
#[derive(Debug, Default)]
struct Told(AtomicUsize);

impl Told {
    fn get(&self) -> Option<usize> {
        self.0.load(Ordering::Relaxed).checked_sub(1)
    }

    fn set(&self, place: usize) {
        self.0.store(place + 1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
pub(crate) struct Directory {
    transport: Transport,
    seeds: Vec<Authority>,
    table: RwLock<Option<Arc<Table>>>,
    /// When the last fetch ended; held while fetching.
    fetching: tokio::sync::Mutex<Option<Instant>>,
    newest_epoch: AtomicU64,
    /// Who told of that epoch, and so has that ring.
    teller: Mutex<Option<Authority>>,
    down: Mutex<HashMap<Authority, Down>>,
    turn: AtomicUsize,
    /// Requests that were sent because an earlier one of the same call did not bring an answer.
    retries: AtomicU64,
    /// Whether another store was found where this one was.
    is_foreign: watch::Sender<bool>,
}

#[derive(Debug, Clone, Copy)]
struct Down {
    failures: u32,
    until: Instant,
}

/// What a call wants of the one it asks.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place<'a> {
    /// The leader of the key's partition; else whoever holds it; else anybody, who forwards.
    Leader(&'a [u8]),
    /// Any of those who hold the key, in turn.
    Holder(&'a [u8]),
    /// Anybody, in turn.
    Anybody,
}

impl Directory {
    pub(crate) fn new(transport: Transport, seeds: Vec<Authority>) -> Self {
        Self {
            transport,
            seeds,
            table: RwLock::new(None),
            fetching: tokio::sync::Mutex::new(None),
            newest_epoch: AtomicU64::new(0),
            teller: Mutex::new(None),
            down: Mutex::new(HashMap::new()),
            turn: AtomicUsize::new(0),
            retries: AtomicU64::new(0),
            is_foreign: watch::Sender::new(false),
        }
    }

    /// The ring to go by. Fetches it if there is none yet, or if an answer told of a newer one.
    pub(crate) async fn table(&self, deadline: Instant) -> Result<Arc<Table>, Error> {
        match self.current() {
            Some(table) if table.ring.epoch >= self.newest_epoch.load(Ordering::Relaxed) => Ok(table),
            Some(table) => {
                // The ring at hand still leads to an answer, so nobody waits for the newer one.
                let Ok(mut last) = self.fetching.try_lock() else { return Ok(table) };
                if last.is_some_and(|last| last.elapsed() < FETCH_INTERVAL) {
                    return Ok(table);
                }
                Ok(self.fetch_anywhere(&table, deadline, &mut last).await?.unwrap_or(table))
            }
            None => self.discover(deadline).await,
        }
    }

    /// Takes note of the epoch that an answer from this address carried.
    pub(crate) fn saw_epoch(&self, epoch: u64, address: &Authority) {
        if self.newest_epoch.fetch_max(epoch, Ordering::Relaxed) < epoch {
            *self.teller.lock().unwrap_or_else(PoisonError::into_inner) = Some(address.clone());
        }
    }

    /// Fetches the ring once more, unless somebody else has just done so; `None` when nobody could tell it.
    pub(crate) async fn refresh(&self, old: &Table, deadline: Instant) -> Result<Option<Arc<Table>>, Error> {
        let mut last = self.fetching.lock().await;
        if let Some(table) = self.current().filter(|table| table.generation > old.generation) {
            return Ok(Some(table));
        }
        if let Some(last) = *last {
            sleep_until(deadline.min(last + FETCH_INTERVAL)).await;
        }
        self.fetch_anywhere(old, deadline, &mut last).await
    }

    /// Fetches the ring from the first who can tell it: whoever told of a newer one, then anybody.
    async fn fetch_anywhere(
        &self,
        old: &Table,
        deadline: Instant,
        last: &mut Option<Instant>,
    ) -> Result<Option<Arc<Table>>, Error> {
        let mut asked = Vec::new();
        let mut teller = self.teller.lock().unwrap_or_else(PoisonError::into_inner).take();
        while let Some(address) = teller.take().or_else(|| self.pick(Some(old), Place::Anybody, &asked)) {
            let limit = deadline.min(Instant::now() + FETCH_TIMEOUT);
            let fetched = fetch(&self.transport, &address, limit).await;
            *last = Some(Instant::now());
            match fetched {
                Ok(ring) if ring.cluster != old.ring.cluster => {
                    self.is_foreign.send_replace(true);
                    let known = (self.seeds[0].to_string(), old.ring.cluster);
                    let other = (address.to_string(), ring.cluster);
                    return Err(Error::TwoClusters { first: Box::new(known), second: Box::new(other) });
                }
                Ok(ring) => return Ok(Some(self.install(ring))),
                Err(_) if Instant::now() >= deadline => return Ok(None),
                Err(_) => self.mark_down(&address),
            }
            asked.push(address);
        }
        Ok(None)
    }

    /// The first fetch: every endpoint is asked, so that endpoints of two clusters are found out.
    async fn discover(&self, deadline: Instant) -> Result<Arc<Table>, Error> {
        let mut last = self.fetching.lock().await;
        if let Some(table) = self.current() {
            return Ok(table);
        }
        let mut fetches = JoinSet::new();
        for seed in self.seeds.clone() {
            let transport = self.transport.clone();
            let limit = deadline.min(Instant::now() + 2 * FETCH_TIMEOUT);
            fetches.spawn(async move { (fetch(&transport, &seed, limit).await, seed) });
        }
        let mut newest: Option<(Authority, Ring)> = None;
        let mut failures = Vec::new();
        let mut until = deadline;
        while let Ok(Some(Ok((fetched, seed)))) = timeout_at(until, fetches.join_next()).await {
            let ring = match fetched {
                Ok(ring) => ring,
                Err(reason) => {
                    failures.push(format!("{seed}: {reason}"));
                    continue;
                }
            };
            if newest.is_none() {
                until = deadline.min(Instant::now() + GRACE);
            }
            if let Some((other, known)) = newest.as_ref().filter(|(_, known)| known.cluster != ring.cluster) {
                return Err(two_clusters(&self.seeds, (other, known.cluster), (&seed, ring.cluster)));
            }
            if newest.as_ref().is_none_or(|(_, known)| known.epoch < ring.epoch) {
                newest = Some((seed, ring));
            }
        }
        *last = Some(Instant::now());
        match newest {
            Some((_, ring)) => Ok(self.install(ring)),
            None if failures.is_empty() => Err(unavailable("no endpoint answered in time".to_owned(), &self.seeds)),
            None => Err(unavailable(failures.join("; "), &self.seeds)),
        }
    }

    /// Waits until another store is found where this one was: it was made anew, or its addresses are another's by now.
    pub(crate) async fn foreign(&self) {
        // The sender is here: it does not go meanwhile.
        let _ = self.is_foreign.subscribe().wait_for(|is_foreign| *is_foreign).await;
    }

    /// Whom to ask next: the best whom `asked` does not name; those who did not answer lately come last.
    pub(crate) fn pick(&self, table: Option<&Table>, place: Place<'_>, asked: &[Authority]) -> Option<Authority> {
        let turn = match place {
            Place::Leader(_) => 0,
            Place::Holder(_) | Place::Anybody => self.turn.fetch_add(1, Ordering::Relaxed),
        };
        let down = self.down();
        let now = Instant::now();
        let is_down = |address: &Authority| !down.is_empty() && down.get(address).is_some_and(|down| down.until > now);
        let mut fallback = None;
        for address in candidates(table, place, turn).chain(&self.seeds) {
            if asked.contains(address) {
                continue;
            }
            if !is_down(address) {
                return Some(address.clone());
            }
            fallback.get_or_insert(address);
        }
        fallback.cloned()
    }

    /// Notes that an address did not answer.
    pub(crate) fn mark_down(&self, address: &Authority) {
        let mut down = self.down();
        let failures = down.get(address).map_or(0, |down| down.failures);
        let until = Instant::now() + DOWN_INTERVAL * 2_u32.pow(failures.min(6));
        down.insert(address.clone(), Down { failures: failures + 1, until });
    }

    /// Notes that an address answered.
    pub(crate) fn mark_up(&self, address: &Authority) {
        let mut down = self.down();
        if !down.is_empty() {
            down.remove(address);
        }
    }

    /// Counts one request that is not the first of its call.
    pub(crate) fn count_retry(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// How many requests were not the first of their calls.
    pub(crate) fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// The ring at hand, if there is one.
    pub(crate) fn current(&self) -> Option<Arc<Table>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn down(&self) -> MutexGuard<'_, HashMap<Authority, Down>> {
        self.down.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a ring the current one, unless it is older than that (the node that told it may lag behind).
    fn install(&self, ring: Ring) -> Arc<Table> {
        let mut current = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let ring = match current.as_ref() {
            Some(table) if table.ring.epoch > ring.epoch => Arc::clone(&table.ring),
            _ => Arc::new(ring),
        };
        let generation = current.as_ref().map_or(0, |table| table.generation + 1);
        // An answer may tell of an epoch that nobody can be found to tell the ring of: don't ask for it for ever.
        self.newest_epoch.store(ring.epoch, Ordering::Relaxed);
        let table = Table::new(ring, generation);
        if let Some(old) = current.as_ref().filter(|old| old.ring.epoch == table.ring.epoch) {
            table.keep_told(old);
        }
        let table = Arc::new(table);
        *current = Some(Arc::clone(&table));
        table
    }
}

impl Table {
    fn new(ring: Arc<Ring>, generation: u64) -> Self {
        let place = |id| ring.members.iter().position(|member| member.id == id);
        let preferences = ring.assignments().iter().map(|assignment| {
            let followers = assignment.replicas.iter().filter(|id| Some(**id) != assignment.leader);
            assignment.leader.iter().chain(followers).filter_map(|id| place(*id)).collect()
        });
        let preferences: Vec<_> = preferences.collect();
        let told = preferences.iter().map(|_| Told::default()).collect();
        let addresses = ring.members.iter().map(|member| member.client_address.parse().ok()).collect();
        let cluster = HeaderValue::try_from(ring.cluster.to_string()).expect("digits and hyphens");
        Self { cluster, addresses, preferences, told, ring, generation }
    }

    /// Takes note of who leads the key's partition: a leader may change without a new ring, and not every node knows of all.
    pub(crate) fn saw_leader(&self, key: &[u8], leader: MemberId) {
        if let Some(place) = self.ring.members.iter().position(|member| member.id == leader) {
            self.told[self.ring.partition_of(key).0 as usize].set(place);
        }
    }

    /// Whoever told this ring may not know of all leaders: what was said of the others before still holds, as far as is known.
    fn keep_told(&self, old: &Self) {
        for (at, assignment) in self.ring.assignments().iter().enumerate().filter(|(_, known)| known.leader.is_none()) {
            debug_assert_eq!(assignment.replicas, old.ring.assignments()[at].replicas, "the epoch is the same");
            if let Some(place) = old.told[at].get() {
                self.told[at].set(place);
            }
        }
    }

    /// Who was said to lead a partition since the ring was fetched.
    fn told_leader(&self, partition: usize) -> Option<&Authority> {
        self.addresses[self.told[partition].get()?].as_ref()
    }

    /// The address of the member that leads the key's partition, as far as is known.
    pub(crate) fn leader_address(&self, key: &[u8]) -> Option<&Authority> {
        let partition = self.ring.partition_of(key).0 as usize;
        self.told_leader(partition).or_else(|| {
            self.ring.assignments()[partition].leader?;
            self.addresses[*self.preferences[partition].first()?].as_ref()
        })
    }
}

/// The members in the order in which they should be asked; the later half of the list may repeat the first.
fn candidates<'a>(table: Option<&'a Table>, place: Place<'_>, turn: usize) -> impl Iterator<Item = &'a Authority> {
    let partition = |table: &Table, key| table.ring.partition_of(key).0 as usize;
    let (told, preferred, everybody): (_, &[usize], &[Option<Authority>]) = match (table, place) {
        (None, _) => (None, &[], &[]),
        (Some(table), Place::Anybody) => (None, &[], &table.addresses),
        (Some(table), Place::Leader(key)) => {
            let partition = partition(table, key);
            (table.told_leader(partition), &table.preferences[partition], &table.addresses)
        }
        (Some(table), Place::Holder(key)) => (None, &table.preferences[partition(table, key)], &table.addresses),
    };
    let preferred = rotated(preferred, turn).filter_map(|place| everybody[*place].as_ref());
    told.into_iter().chain(preferred).chain(rotated(everybody, turn).flatten())
}

fn rotated<T>(list: &[T], turn: usize) -> impl Iterator<Item = &T> {
    let (before, from) = list.split_at(if list.is_empty() { 0 } else { turn % list.len() });
    from.iter().chain(before)
}

/// Asks one address for its ring.
pub(crate) async fn fetch(transport: &Transport, address: &Authority, deadline: Instant) -> Result<Ring, String> {
    let message = Message {
        method: Method::GET,
        path: PathAndQuery::from_static("/v1/ring"),
        headers: HeaderMap::new(),
        body: bytes::Bytes::new(),
    };
    let answer: Answer = transport.send(address, &message, deadline).await.map_err(|failure| failure.to_string())?;
    if answer.status != StatusCode::OK {
        return Err(answer.problem().to_string());
    }
    serde_json::from_slice(&answer.body).map_err(|error| format!("what it calls its ring is none: {error}"))
}

/// Names the two in the order in which they were given.
fn two_clusters(seeds: &[Authority], a: (&Authority, ClusterId), b: (&Authority, ClusterId)) -> Error {
    let place = |address: &Authority| seeds.iter().position(|seed| seed == address);
    let (first, second) = if place(a.0) <= place(b.0) { (a, b) } else { (b, a) };
    let named = |(address, cluster): (&Authority, ClusterId)| Box::new((address.to_string(), cluster));
    Error::TwoClusters { first: named(first), second: named(second) }
}

fn unavailable(reason: String, seeds: &[Authority]) -> Error {
    let attempts = u32::try_from(seeds.len()).unwrap_or(u32::MAX);
    Error::Unavailable { reason, overloaded: false, attempts }
}
