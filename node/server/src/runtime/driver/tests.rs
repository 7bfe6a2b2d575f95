//! One lane, driven by many threads at once, with hours between its ticks: an input that was left behind stays there.

use annulus_core::id::{ClusterId, GroupId, MemberId};
use annulus_core::lane::{LogBudget, Operation, Refusal, Reply};
use annulus_core::map::{Map, Member, MemberState};
use annulus_core::partition::{Change, Condition, Consistency, Key, Outcome, Scan, Write};
use annulus_core::replica::Settings;
use bytes::Bytes;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;
use tokio::time::timeout;

use super::super::{Clock, IoLanes, LaneSetup, Links, ReplyQueue, ReplyTo, Shared, Waiters, WaitsFor, spawn};
use super::*;
use crate::storage::{Directory, Disk, Identity, IdentityFile, Options, open_lane};

/// I/O threads that use the lane at once.
const THREADS: u16 = 3;
/// Bursts of requests that each sends, one after the other.
const BURSTS: usize = 3000;
/// Far more than a burst takes, and far less than an hour.
const LONG: Duration = Duration::from_secs(20);
const PARTITIONS: u32 = 4;

fn member() -> MemberId {
    MemberId::new(7).unwrap()
}

fn map() -> Map {
    let address = "127.0.0.1:1".to_owned();
    let only = Member {
        id: member(),
        name: "node-1".to_owned(),
        zone: String::new(),
        weight: 100,
        state: MemberState::Active,
        client_address: address.clone(),
        peer_address: address.clone(),
        admin_address: address,
    };
    Map::bootstrap(ClusterId([1; 16]), PARTITIONS, 1, vec![only]).unwrap()
}

/// A store of one member with one lane.
struct Store {
    lane: LaneHandle,
    clock: Clock,
    map: Arc<Map>,
    _directory: TempDir,
}

impl Store {
    /// Starts its lane; whoever serves has these queues. Small overlays make many checkpoints.
    fn start(replies: Vec<ReplyQueue>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(Directory::open(directory.path()).unwrap());
        let identity = Identity::new(member(), "node-1".to_owned(), 1);
        let identity = Arc::new(IdentityFile::create(Arc::clone(&disk), identity).unwrap());
        let opened = open_lane(&disk, 0, None, &Options::default()).unwrap();
        identity.set_mark(0, opened.mark).unwrap();
        let clock = Clock::default();
        let setup = LaneSetup {
            lane: 0,
            settings: Settings {
                member: member(),
                seed: 1,
                election_timeout: Duration::from_millis(200),
                max_uncommitted_bytes: 1 << 20,
                log_budget: LogBudget::default(),
            },
            opened,
            map: None,
            identity,
            shared: Arc::new(Shared::new(member(), 1, 1)),
            clock,
            links: Links::default(),
            replies,
            maps: mpsc::channel(4).0,
            abandoned: mpsc::channel(4).0,
            map_lane: None,
            move_bytes_per_second: 1 << 20,
            overlay_max_bytes: 256 << 10,
            overlay_max_age: Duration::from_secs(3600),
        };
        let lane = spawn(setup, Box::new(|failure| panic!("{failure}"))).unwrap();
        Self { lane, clock, map: Arc::new(map()), _directory: directory }
    }

    /// Makes it a store, and waits for leaders; from then on it ticks once an hour.
    async fn settle(&self, io: &Io) {
        let (done, is_done) = oneshot::channel();
        self.lane.send(LaneInput::Bootstrap(Arc::clone(&self.map), done)).unwrap();
        is_done.await.unwrap();
        for group in 1..=PARTITIONS {
            // Until there is a leader it is refused at once.
            let led = async { while !matches!(io.ask(GroupId(group), put("first", 1)).await, Reply::Write(_)) {} };
            timeout(LONG, led).await.expect("every group gets a leader");
        }
        let mut rounds = self.lane.driver.rounds.lock().unwrap();
        let hour = Duration::from_secs(3600);
        (rounds.tick, rounds.next_tick) = (hour, self.clock.now() + hour);
    }
}

/// What one I/O thread has.
#[derive(Clone)]
struct Io {
    waiters: Waiters,
    lanes: IoLanes,
    clock: Clock,
}

impl Io {
    async fn ask(&self, group: GroupId, operation: Operation) -> Reply {
        let until = tokio::time::Instant::now() + 2 * LONG;
        let waits_for = WaitsFor { is_write: operation.is_write(), forwarded_to: None, until };
        let (waiting, answer) = self.waiters.wait(waits_for);
        let reply_to = ReplyTo::Local(waiting.number());
        let deadline = self.clock.now() + 2 * LONG;
        self.lanes.send(0, LaneInput::Request { group, operation, deadline, reply_to }).unwrap();
        answer.await.unwrap()
    }
}

fn put(key: &str, bytes: usize) -> Operation {
    let key = Key::new(Bytes::copy_from_slice(key.as_bytes())).unwrap();
    let change = Change::Put { value: Bytes::from(vec![b'x'; bytes]), ttl_ms: None };
    Operation::Write(Write { key, condition: Condition::Always, change, idempotency_key: None, fence: None })
}

fn scan() -> Operation {
    let scan = Scan { prefix: Bytes::new(), after: None, limit: 10, values: false };
    Operation::Scan { scan, consistency: Consistency::Stale }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Of a burst, some by itself and some with others, with now and then something heavy between them, that no I/O thread
/// steps.
async fn burst(thread: u16, number: usize, io: &Io) {
    let size = [1, 1, 2, 1, 5, 1, 20, 60][number % 8];
    let mut tasks = Vec::new();
    for at in 0..size {
        let io = io.clone();
        let group = GroupId(1 + (number + at) as u32 % PARTITIONS);
        let operation = match (number + at) % 17 {
            0 => scan(),
            1 => put(&format!("large-{thread}-{at}"), 8 << 10),
            _ => put(&format!("key-{thread}-{at}"), 100),
        };
        tasks.push(tokio::task::spawn_local(async move { io.ask(group, operation).await }));
    }
    for task in tasks {
        let reply = task.await.unwrap();
        // The overlay may fill faster than it is written down: that is an answer, too.
        let is_busy = matches!(reply, Reply::Refused(Refusal::Busy));
        assert!(is_busy || matches!(reply, Reply::Write(Outcome::Written { .. }) | Reply::Scan(_)), "{reply:?}");
    }
}

#[test]
fn nothing_that_many_threads_put_in_is_left_behind() {
    let (queue, queues) = std::sync::mpsc::sync_channel(usize::from(THREADS));
    let mut threads = Vec::new();
    for number in 0..THREADS {
        let queue = queue.clone();
        let (give, store) = oneshot::channel::<(Arc<Store>, bool)>();
        let body = move || {
            LocalSet::new().block_on(&runtime(), async {
                let (waiters, replies) = Waiters::start(number);
                queue.send((number, replies, give)).unwrap();
                let (store, settles) = store.await.unwrap();
                let lanes = IoLanes::start(Arc::from([store.lane.clone()]));
                let io = Io { waiters, lanes, clock: store.clock };
                if settles {
                    return store.settle(&io).await;
                }
                for number in 0..BURSTS {
                    let burst = timeout(LONG, burst(number as u16, number, &io));
                    burst.await.unwrap_or_else(|_| panic!("burst {number} has stayed in the inbox"));
                }
            });
        };
        threads.push(thread::spawn(body));
    }
    let mut known: Vec<_> = queues.iter().take(usize::from(THREADS)).collect();
    known.sort_by_key(|(number, ..)| *number);
    let (replies, gives): (Vec<_>, Vec<_>) = known.into_iter().map(|(_, replies, give)| (replies, give)).unzip();
    let store = Arc::new(Store::start(replies));
    for (at, give) in gives.into_iter().enumerate() {
        give.send((Arc::clone(&store), at == 0)).ok().unwrap();
        if at == 0 {
            threads.remove(0).join().unwrap();
        }
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(store.lane.driver.inbox.is_empty() && store.lane.driver.inbox.is_light());
}
