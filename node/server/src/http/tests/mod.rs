//! The edge over a real socket, before a router that is scripted: every test speaks bytes and reads bytes.

mod admin;
mod connections;
mod evict;
mod fences;
mod history;
mod keys;
mod listing;
mod lock_machine;
mod locks;
mod malformed;
mod members;
mod plan;
mod probes;
mod renewals;
mod txn_machine;
mod txns;
mod txns_malformed;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, pending};
use std::net::SocketAddr;
use std::ops::Bound;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use annulus_core::id::{ClusterId, GroupId, MemberId};
use annulus_core::lane::{Changed, Operation, Refusal, Reply};
use annulus_core::map::{Assignment, Map, Member, MemberState, Move};
use annulus_core::partition::{Change, Condition, Item, Outcome, Page, Scan, Write};
use bytes::Bytes;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, LocalSet, spawn_local};

use self::lock_machine::LockMachine;
use self::txn_machine::TxnMachine;
use super::{Limits, Port, Resources, serve};
use crate::metrics::Metrics;
use crate::router::{BootstrapError, DiskSpace, Identified, NodeStatus, Router};

const CLUSTER: ClusterId = ClusterId([7; 16]);
const PARTITIONS: u32 = 8;

/// A store in memory that does what it is told, and otherwise what a partition does.
struct Fake {
    map: RefCell<Option<Arc<Map>>>,
    keys: RefCell<BTreeMap<Bytes, Item>>,
    locks: LockMachine,
    txns: TxnMachine,
    version: Cell<u64>,
    /// Answers to give instead of doing anything.
    scripted: RefCell<VecDeque<Reply>>,
    asked: RefCell<Vec<(GroupId, Operation, Duration)>>,
    /// Most keys that it gives in one page, whatever the limit.
    page_keys: Cell<usize>,
    /// It never answers.
    silent: Cell<bool>,
    elsewhere: Cell<Option<MemberId>>,
    not_ready: RefCell<Vec<String>>,
    first_map: RefCell<Option<Map>>,
    /// Who the nodes say they are, by admin address. Nobody listens at any other.
    nodes: RefCell<BTreeMap<String, Identified>>,
    /// How many nodes are being asked now, and how many were at most.
    asking: Cell<(usize, usize)>,
    /// For how long leaders are to be handed over.
    evicted: Cell<Option<Duration>>,
}

impl Fake {
    fn new() -> Rc<Self> {
        Rc::new(Self {
            map: RefCell::new(Some(Arc::new(map()))),
            keys: RefCell::default(),
            locks: LockMachine::new(),
            txns: TxnMachine::default(),
            version: Cell::new(16),
            scripted: RefCell::default(),
            asked: RefCell::default(),
            page_keys: Cell::new(usize::MAX),
            silent: Cell::new(false),
            elsewhere: Cell::new(None),
            not_ready: RefCell::default(),
            first_map: RefCell::default(),
            nodes: RefCell::default(),
            asking: Cell::default(),
            evicted: Cell::default(),
        })
    }

    fn put(&self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> u64 {
        self.version.set(self.version.get() + 1);
        let item = Item { version: self.version.get(), value: Bytes::from(value.into()) };
        self.keys.borrow_mut().insert(Bytes::from(key.into()), item);
        self.version.get()
    }

    fn fill<K: Into<Vec<u8>>>(&self, keys: impl IntoIterator<Item = K>, value: &str) {
        for key in keys {
            self.put(key, value);
        }
    }

    fn script(&self, reply: Reply) {
        self.scripted.borrow_mut().push_back(reply);
    }

    fn write(&self, write: &Write) -> Outcome {
        let current = self.keys.borrow().get(write.key.bytes()).map(|item| item.version);
        let holds = match write.condition {
            Condition::Always => true,
            Condition::Exists => current.is_some(),
            Condition::Absent => current.is_none(),
            Condition::Version(version) => current == Some(version),
        };
        match &write.change {
            _ if !holds => Outcome::ConditionFailed { current },
            Change::Put { value, .. } => {
                let version = self.put(write.key.bytes().to_vec(), value.to_vec());
                Outcome::Written { version, created: current.is_none() }
            }
            Change::Delete => match self.keys.borrow_mut().remove(write.key.bytes()) {
                Some(_) => Outcome::Deleted,
                None => Outcome::NotFound,
            },
        }
    }

    fn scan(&self, group: GroupId, scan: &Scan) -> Page {
        let keys = self.keys.borrow();
        let from = scan.after.clone().map_or(Bound::Included(scan.prefix.clone()), Bound::Excluded);
        let here = |key: &Bytes| map().partition_of(key).group() == group && key.starts_with(&scan.prefix);
        let mut rest = keys.range((from, Bound::Unbounded)).filter(|(key, _)| here(key));
        let most = self.page_keys.get().min(scan.limit as usize);
        let items = rest.by_ref().take(most).map(|(key, item)| {
            let value = if scan.values { item.value.clone() } else { Bytes::new() };
            (key.clone(), Item { version: item.version, value })
        });
        Page { items: items.collect(), more: rest.next().is_some() }
    }

    fn list_locks(&self, group: GroupId, scan: &Scan) -> Reply {
        let mut locks = self.locks.list(scan);
        locks.retain(|view| map().partition_of(view.name.bytes()).group() == group);
        let most = self.page_keys.get().min(scan.limit as usize);
        let more = locks.len() > most;
        locks.truncate(most);
        Reply::Locks { locks, more }
    }
}

impl Router for Fake {
    async fn submit(&self, group: GroupId, operation: Operation, timeout: Duration) -> Reply {
        self.asked.borrow_mut().push((group, operation.clone(), timeout));
        if self.silent.get() {
            pending::<()>().await;
        }
        if let Some(reply) = self.scripted.borrow_mut().pop_front() {
            return reply;
        }
        match operation {
            Operation::Write(write) if write.fence.is_some() => Reply::Write(self.locks.write(&write)),
            Operation::Write(write) => Reply::Write(self.write(&write)),
            Operation::Get { key, .. } => Reply::Get(self.keys.borrow().get(key.bytes()).cloned()),
            Operation::Scan { scan, .. } => Reply::Scan(self.scan(group, &scan)),
            Operation::ReadMap { .. } => Reply::Map(map().encode()),
            Operation::ChangeMap(_) => Reply::Changed(Ok(Changed { epoch: 6, ..Changed::default() })),
            Operation::ReadLock { name, .. } => Reply::LockView(self.locks.view(&name)),
            Operation::ListLocks { scan, .. } => self.list_locks(group, &scan),
            Operation::Lock(command) => self.locks.ask(command).await,
            Operation::Txn(_) | Operation::GetMany { .. } | Operation::ReadTxn { .. } | Operation::ListTxns { .. } => {
                self.txns.ask(group, operation, timeout).await
            }
            Operation::ReadPlan | Operation::ReadHistory { .. } => {
                panic!("a test scripts these")
            }
        }
    }

    fn map(&self) -> Option<Arc<Map>> {
        self.map.borrow().clone()
    }

    fn leader(&self, group: GroupId) -> Option<MemberId> {
        group.0.is_multiple_of(2).then(|| member(1))
    }

    fn other_leader(&self, _: GroupId) -> Option<MemberId> {
        self.elsewhere.get()
    }

    fn status(&self) -> NodeStatus {
        NodeStatus {
            id: member(1),
            name: "node-1".to_owned(),
            zone: "a".to_owned(),
            weight: 100,
            client_address: "10.0.0.1:7070".to_owned(),
            peer_address: "10.0.0.1:7270".to_owned(),
            admin_address: "10.0.0.1:7170".to_owned(),
            cluster: self.map().map(|map| map.cluster),
            epoch: self.map().map_or(0, |map| map.epoch),
            not_ready: self.not_ready.borrow().clone(),
            lanes: 2,
            replicas: 9,
            leaders: 3,
            moves_in: 2,
            evicted: self.evicted.get().is_some(),
            disk: Some(DiskSpace { free_bytes: 3 << 30, total_bytes: 10 << 30, data_bytes: 1 << 30 }),
            uptime: Duration::from_secs(60),
        }
    }

    async fn bootstrap(&self, map: Map) -> Result<(), BootstrapError> {
        let ours = self.first_map.borrow().clone();
        match ours {
            Some(ours) if ours == map => Ok(()),
            Some(ours) => Err(BootstrapError::Conflict { ours: ours.cluster, theirs: map.cluster }),
            None if map.member(member(1)).is_none() => Err(BootstrapError::NotAMember { member: member(1) }),
            None => {
                *self.first_map.borrow_mut() = Some(map);
                Ok(())
            }
        }
    }

    async fn identify(&self, admin_address: &str) -> Result<Identified, String> {
        let (now, most) = self.asking.get();
        self.asking.set((now + 1, most.max(now + 1)));
        tokio::task::yield_now().await;
        let (now, most) = self.asking.get();
        self.asking.set((now - 1, most));
        self.nodes.borrow().get(admin_address).cloned().ok_or_else(|| "nobody listens there".to_owned())
    }

    async fn evict(&self, lasts: Duration) -> usize {
        self.evicted.set(Some(lasts));
        3
    }

    fn end_eviction(&self) {
        self.evicted.set(None);
    }
}

fn member(number: u64) -> MemberId {
    MemberId::new(number).unwrap()
}

fn map() -> Map {
    let members = (1..=3).map(|number| Member {
        id: member(number),
        name: format!("node-{number}"),
        zone: "a".to_owned(),
        weight: 100,
        state: MemberState::Active,
        client_address: format!("10.0.0.{number}:7070"),
        peer_address: format!("10.0.0.{number}:7270"),
        admin_address: format!("10.0.0.{number}:7170"),
    });
    let replicas: Vec<_> = (1..=3).map(member).collect();
    let assignment = Assignment { replicas: replicas.clone(), leader: member(1) };
    Map {
        cluster: CLUSTER,
        epoch: 5,
        replication_factor: 3,
        fence: 0,
        members: members.collect(),
        assignments: vec![assignment; PARTITIONS as usize],
        map_voters: replicas.clone(),
        map_target: replicas,
        targets: BTreeMap::new(),
        moves: BTreeMap::new(),
    }
}

/// A running edge, and the store behind it.
struct Server {
    address: SocketAddr,
    fake: Rc<Fake>,
    resources: Arc<Resources>,
    shutdown: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

/// Runs a test against an edge with these limits.
fn with_limits<F: Future<Output = ()>>(port: Port, limits: Limits, test: impl FnOnce(Server) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let resources = Resources::new(limits, Arc::new(Metrics::new()));
        let test = test(Server::serve(port, Fake::new(), resources).await);
        tokio::time::timeout(Duration::from_secs(20), test).await.expect("the test ends in time");
    });
}

/// Runs a test against a client port.
fn client_port<F: Future<Output = ()>>(test: impl FnOnce(Server) -> F) {
    with_limits(Port::Client, Limits::default(), test);
}

/// Runs a test against an admin port.
fn admin_port<F: Future<Output = ()>>(test: impl FnOnce(Server) -> F) {
    with_limits(Port::Admin, Limits::default(), test);
}

impl Server {
    async fn serve(port: Port, fake: Rc<Fake>, resources: Arc<Resources>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, stop) = watch::channel(false);
        let serving = spawn_local(serve(listener, port, Rc::clone(&fake), Arc::clone(&resources), stop));
        Self { address, fake, resources, shutdown, serving }
    }

    /// What another I/O thread of the same member serves.
    async fn another_thread(&self) -> Self {
        Self::serve(Port::Client, Rc::clone(&self.fake), Arc::clone(&self.resources)).await
    }

    async fn connect(&self) -> Client {
        Client { stream: TcpStream::connect(self.address).await.unwrap(), unread: Vec::new() }
    }

    /// One request on a connection of its own: `"PUT /v1/kv/a"`, header lines, body.
    async fn ask(&self, request: &str, headers: &[&str], body: &[u8]) -> Answer {
        let mut client = self.connect().await;
        client.ask(request, headers, body).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path}"), &[], b"").await
    }
}

/// A connection that sends any bytes.
struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Client {
    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    async fn ask(&mut self, request: &str, headers: &[&str], body: &[u8]) -> Answer {
        let mut head = format!("{request} HTTP/1.1\r\nHost: test\r\n");
        headers.iter().for_each(|header| head.push_str(&format!("{header}\r\n")));
        if !body.is_empty() {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        self.send(&[head.as_bytes(), b"\r\n", body].concat()).await;
        self.answer_to(request.starts_with("HEAD")).await
    }

    async fn answer(&mut self) -> Answer {
        self.answer_to(false).await
    }

    async fn answer_to(&mut self, head: bool) -> Answer {
        let end = loop {
            if let Some(at) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                break at;
            }
            assert!(self.read().await, "closed before an answer: {:?}", String::from_utf8_lossy(&self.unread));
        };
        let text = String::from_utf8(self.unread.drain(..end + 4).collect()).unwrap();
        let mut lines = text.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let mut answer = Answer { status, headers, body: Vec::new() };
        let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
        while !head && self.unread.len() < length {
            assert!(self.read().await, "closed within a body");
        }
        answer.body = self.unread.drain(..if head { 0 } else { length }).collect();
        answer
    }

    async fn read(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        let read = self.stream.read(&mut buffer).await.unwrap_or(0);
        self.unread.extend_from_slice(&buffer[..read]);
        read > 0
    }

    /// Waits until the server closes; it must send nothing more before.
    async fn closed(&mut self) {
        assert!(!self.read().await, "more came: {:?}", String::from_utf8_lossy(&self.unread));
    }
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Checks that this is the problem with this slug, and gives its JSON.
    #[track_caller]
    fn problem(&self, status: u16, slug: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let json = self.json();
        assert_eq!(json["type"], format!("{}{slug}", super::problem::TYPE_PREFIX));
        assert_eq!(json["status"], status);
        json
    }
}
