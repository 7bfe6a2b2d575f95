//! A store of nodes that the test starts itself, one process each, and that nobody starts again: what an operator does with
//! them, done over plain HTTP.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use ::http::Method;
use annulus_client::Ring;
use annulus_client::admin::Plan;
use annulus_client::node::{MemberSpec, Status};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::MutexGuard;
use tokio::time::{Instant, sleep};

use super::reaped::{self, ALONE, Reaped, annulus};
use super::{Answer, Http, until};

/// How long a node may take to start, to end, or to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long whoever was not answered is left alone.
const MOMENT: Duration = Duration::from_millis(50);
/// How long the ring may take to settle.
const SETTLE_PATIENCE: Duration = Duration::from_secs(120);
/// How many nodes there may ever be, in ports.
const MOST_NODES: u16 = 16;
/// Partitions of a store.
const PARTITIONS: u32 = 128;
/// What makes moves take some seconds, together with [`Store::fill`].
const SLOW: &[(&str, &str)] = &[("ANNULUS_MAX_MOVE_RATE", "1MiB")];
/// How many values a store is filled with, and how many bytes each has.
const FILLING: usize = 384;
const FILLING_BYTES: usize = 32 * 1024;

/// Nodes, some of which are members of a store. Dropped, it leaves nothing behind. Nodes are told apart by their place, in
/// the order in which they were made, from 0.
pub struct Store {
    nodes: Vec<Node>,
    cluster: String,
    first_port: u16,
    folder: TempDir,
    environment: Vec<(&'static str, &'static str)>,
    http: Http,
    _alone: Option<MutexGuard<'static, ()>>,
}

/// A node and its volume.
struct Node {
    spec: MemberSpec,
    data: PathBuf,
    log: PathBuf,
    environment: Vec<(&'static str, &'static str)>,
    process: Option<Reaped>,
}

impl Store {
    /// A store that is ready, of this many members without zones: `node-1` and so on.
    pub async fn of(members: usize) -> Self {
        Self::with(&vec![""; members], &[]).await
    }

    /// A store whose moves take some seconds: it is full, and sends slowly.
    pub async fn slow(members: usize) -> Self {
        let store = Self::with(&vec![""; members], SLOW).await;
        store.fill().await;
        store
    }

    /// A store that is ready, with a member in each of these zones, and with these settings for all.
    pub async fn with(zones: &[&str], environment: &[(&'static str, &'static str)]) -> Self {
        let alone = ALONE.lock().await;
        Self::bootstrapped(zones, environment, Some(alone)).await
    }

    /// Another store beside this one, of one member.
    pub async fn other(&self) -> Self {
        Self::bootstrapped(&[""], &[], None).await
    }

    async fn bootstrapped(
        zones: &[&str],
        environment: &[(&'static str, &'static str)],
        alone: Option<MutexGuard<'static, ()>>,
    ) -> Self {
        let folder = TempDir::with_prefix("annulus-").expect("a temporary folder can be made");
        let first_port = reaped::free_ports(&(0..3 * MOST_NODES).collect::<Vec<_>>());
        let cluster = format!("{:08x}-0000-4000-8000-{:012x}", rand::random::<u32>(), rand::random::<u32>());
        let (environment, http) = (environment.to_vec(), Http::default());
        let mut store = Self { nodes: Vec::new(), cluster, first_port, folder, environment, http, _alone: alone };
        for (number, zone) in zones.iter().enumerate() {
            store.add_node(&format!("node-{}", number + 1), zone).await;
        }
        let members: Vec<&MemberSpec> = store.nodes.iter().map(|node| &node.spec).collect();
        let copies = members.len().min(3);
        let body = json!({
            "cluster": store.cluster, "partitions": PARTITIONS, "replication_factor": copies, "members": members,
        });
        let answer = store.ask(0, Method::POST, "/admin/v1/bootstrap", None, body.to_string()).await;
        assert!((200..300).contains(&answer.status), "{}", answer.text());
        for place in 0..zones.len() {
            store.until_ready(place).await;
        }
        until("every group has a leader", PATIENCE, async || {
            let leads: u64 = store.try_plan(0).await?.members.iter().map(|member| member.leads).sum();
            (leads == u64::from(PARTITIONS) + 1).then_some(())
        })
        .await;
        store
    }

    /// Starts a new node with an empty volume, which is nobody's member yet. Its place.
    pub async fn add_node(&mut self, name: &str, zone: &str) -> usize {
        let place = self.nodes.len();
        let number = u16::try_from(place).expect("there are few nodes");
        assert!(number < MOST_NODES, "there are ports for {MOST_NODES} nodes");
        let address = |offset| format!("127.0.0.1:{}", self.first_port + 3 * number + offset);
        let spec = MemberSpec {
            id: String::new(),
            name: name.to_owned(),
            zone: zone.to_owned(),
            weight: 100,
            client_address: address(0),
            peer_address: address(1),
            admin_address: address(2),
        };
        let folder = self.folder.path().join(format!("{place}-{name}"));
        fs::create_dir(&folder).expect("a folder can be made");
        let (data, log) = (folder.join("data"), folder.join("log"));
        self.nodes.push(Node { spec, data, log, environment: self.environment.clone(), process: None });
        self.start(place);
        self.until_known(place).await;
        place
    }

    /// Gives a node's place to a new process on other ports, from its next start on.
    pub fn change_ports(&mut self, place: usize) {
        let number = u16::try_from(self.nodes.len()).expect("there are few nodes");
        let first = self.first_port + 3 * (MOST_NODES - 1);
        assert!(number < MOST_NODES, "the last ports are given away");
        let spec = &mut self.nodes[place].spec;
        for (address, port) in [
            (&mut spec.client_address, first),
            (&mut spec.peer_address, first + 1),
            (&mut spec.admin_address, first + 2),
        ] {
            *address = format!("127.0.0.1:{port}");
        }
    }

    /// Lets a node have this in its environment, from its next start on.
    pub fn set_environment(&mut self, place: usize, environment: &[(&'static str, &'static str)]) {
        self.nodes[place].environment = environment.to_vec();
    }

    /// Puts large values under keys of all partitions.
    async fn fill(&self) {
        let value = vec![b'x'; FILLING_BYTES];
        for number in 0..FILLING {
            let address = &self.nodes[number % self.nodes.len()].spec.client_address;
            until("a large value is taken", PATIENCE, async || {
                let answer = self.http.put(address, &format!("filling/{number}"), value.clone()).await.ok()?;
                (answer.status < 300).then_some(())
            })
            .await;
        }
    }

    /// Checks that the values that the store was filled with are there.
    pub async fn check_filling(&self, place: usize) {
        for number in 0..FILLING {
            let key = format!("/v1/kv/filling/{number}");
            let answer = until("a large value is read", PATIENCE, async || {
                let answer = self.http.get(&self.nodes[place].spec.client_address, &key).await.ok()?;
                matches!(answer.status, 200 | 404).then_some(answer)
            });
            let answer = answer.await;
            assert_eq!((answer.status, answer.body.len()), (200, FILLING_BYTES), "{key}");
        }
    }

    /// Starts a node, and waits for nothing.
    pub fn start(&mut self, place: usize) {
        let node = &mut self.nodes[place];
        assert!(node.process.is_none(), "it runs already");
        let log = File::options().append(true).create(true).open(&node.log).expect("its output can be kept");
        let mut command = annulus();
        command.args(["node", "--name", &node.spec.name, "--data"]).arg(&node.data);
        command.args(["--client-listen", &node.spec.client_address, "--peer-listen", &node.spec.peer_address]);
        command.args(["--admin-listen", &node.spec.admin_address]);
        if !node.spec.zone.is_empty() {
            command.args(["--zone", &node.spec.zone]);
        }
        // Ends by itself when these tests are gone.
        command
            .arg("--exit-with-stdin")
            .stdin(Stdio::piped())
            .env("NO_COLOR", "1")
            .envs(node.environment.iter().copied());
        command.stdout(log.try_clone().expect("a file can be written to in two ways")).stderr(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("a node can't be started: {error}"));
        node.process = Some(Reaped(child));
    }

    /// Kills a node (SIGKILL), and waits until it is gone.
    pub fn kill(&mut self, place: usize) {
        drop(self.nodes[place].process.take().expect("it runs"));
    }

    /// Ends a node as whoever runs it does (SIGTERM), and waits until it has ended.
    pub async fn end(&mut self, place: usize) -> ExitStatus {
        let mut process = self.nodes[place].process.take().expect("it runs");
        kill_process(Pid::from_child(&process.0), Signal::TERM).expect("a child can be told to end");
        until("a node ends", PATIENCE, async || process.ended()).await
    }

    /// Waits until a node ends by itself.
    pub async fn until_ended(&mut self, place: usize) -> ExitStatus {
        let mut process = self.nodes[place].process.take().expect("it was started");
        until("a node ends by itself", PATIENCE, async || process.ended()).await
    }

    /// Waits until a node says who it is, and remembers that.
    pub async fn until_known(&mut self, place: usize) -> Status {
        let status = until("a node says who it is", PATIENCE, async || {
            self.assert_running(place);
            self.status(place).await
        });
        let status = status.await;
        self.nodes[place].spec.id = status.id.to_string();
        status
    }

    /// Waits until a node is a member that has all its replicas.
    pub async fn until_ready(&mut self, place: usize) {
        until("a node is ready", PATIENCE, async || {
            self.assert_running(place);
            self.http.ready(&self.nodes[place].spec.client_address).await.then_some(())
        })
        .await;
    }

    fn assert_running(&mut self, place: usize) {
        let process = self.nodes[place].process.as_mut().expect("it was started");
        let ended = process.ended();
        assert!(ended.is_none(), "{} ended by itself: {ended:?}", self.nodes[place].spec.name);
    }

    /// What a node says to whoever asks whether it is ready.
    pub async fn ready_text(&self, place: usize) -> String {
        let answer = self.http.get(&self.nodes[place].spec.client_address, "/readyz").await;
        answer.map_or_else(|failure| failure.to_string(), |answer| answer.text())
    }

    /// What a node tells of itself; `None` when it does not answer.
    pub async fn status(&self, place: usize) -> Option<Status> {
        let answer = self.http.get(&self.nodes[place].spec.admin_address, "/admin/v1/status").await.ok()?;
        serde_json::from_slice(&answer.body).ok()
    }

    /// How many replicas a node holds.
    pub async fn replicas(&self, place: usize) -> Option<u64> {
        self.status(place).await?.other.get("replicas")?.as_u64()
    }

    /// A node as a member.
    pub fn spec(&self, place: usize) -> &MemberSpec {
        &self.nodes[place].spec
    }

    /// The place of the member with this id.
    pub fn place_of(&self, id: &str) -> usize {
        self.nodes.iter().position(|node| node.spec.id == id).expect("the id of a node that was started here")
    }

    /// The sum of one of a node's metrics over its lanes.
    pub async fn metric(&self, place: usize, name: &str) -> Option<f64> {
        let answer = self.http.get(&self.nodes[place].spec.client_address, "/metrics").await.ok()?;
        let text = answer.text();
        let samples = text.lines().filter(|line| line.starts_with(name) && line[name.len()..].starts_with(['{', ' ']));
        let values: Vec<f64> = samples.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
        assert!(!values.is_empty(), "there is no metric {name}");
        Some(values.iter().sum())
    }

    /// A node's volume.
    pub fn data(&self, place: usize) -> &PathBuf {
        &self.nodes[place].data
    }

    /// What a node has logged.
    pub fn log(&self, place: usize) -> String {
        fs::read_to_string(&self.nodes[place].log).unwrap_or_default()
    }

    /// The client addresses of these nodes.
    pub fn addresses(&self, places: &[usize]) -> Vec<String> {
        places.iter().map(|place| self.nodes[*place].spec.client_address.clone()).collect()
    }

    /// The nodes that run.
    fn running(&self) -> impl Iterator<Item = usize> {
        (0..self.nodes.len()).filter(|place| self.nodes[*place].process.is_some())
    }

    /// The body that states these nodes as the members.
    pub fn members(&self, places: &[usize]) -> Value {
        let members: Vec<&MemberSpec> = places.iter().map(|place| &self.nodes[*place].spec).collect();
        json!({"members": members})
    }

    /// Asks one node's admin port once.
    pub async fn ask(&self, place: usize, method: Method, path: &str, fence: Option<u64>, body: String) -> Answer {
        let fence = fence.map(|fence| fence.to_string());
        let headers: Vec<(&str, &str)> = fence.iter().map(|fence| ("annulus-operator-fence", fence.as_str())).collect();
        let answer = self.http.send(method, &self.nodes[place].spec.admin_address, path, &headers, body).await;
        answer.unwrap_or_else(|failure| panic!("{path}: {failure}"))
    }

    /// Asks any node that runs until one answers with what is here to stay: there is a leader, and no other change is being
    /// agreed on.
    pub async fn change(&self, method: Method, path: &str, fence: Option<u64>, body: &Value) -> Answer {
        let fence = fence.map(|fence| fence.to_string());
        let headers: Vec<(&str, &str)> = fence.iter().map(|fence| ("annulus-operator-fence", fence.as_str())).collect();
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut told = Vec::new();
            for place in self.running() {
                let address = &self.nodes[place].spec.admin_address;
                match self.http.send(method.clone(), address, path, &headers, body.clone()).await {
                    Ok(answer) if !passes(&answer) => return answer,
                    Ok(answer) => told.push(format!("{}: {}", self.nodes[place].spec.name, answer.text())),
                    Err(failure) => told.push(format!("{}: {failure}", self.nodes[place].spec.name)),
                }
            }
            assert!(Instant::now() < deadline, "{method} {path} is not answered in {PATIENCE:?}: {told:#?}");
            sleep(MOMENT).await;
        }
    }

    /// States these nodes as the members. The epoch of the map that says so.
    pub async fn put(&self, places: &[usize]) -> u64 {
        let answer = self.change(Method::PUT, "/admin/v1/members", None, &self.members(places)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        epoch(&answer)
    }

    /// Lets a member's replicas move away. The epoch of the map that says so.
    pub async fn drain(&self, member: &str) -> u64 {
        self.change_one(Method::POST, member).await
    }

    /// Takes a drained member back. The epoch of the map that says so.
    pub async fn undrain(&self, member: &str) -> u64 {
        self.change_one(Method::DELETE, member).await
    }

    async fn change_one(&self, method: Method, member: &str) -> u64 {
        let answer = self.change(method, &format!("/admin/v1/members/{member}/drain"), None, &Value::Null).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        epoch(&answer)
    }

    /// What the store has still to do, by the first node that tells a plan at least as new as `epoch`.
    pub async fn plan(&self, epoch: u64) -> Plan {
        until("a plan is told", PATIENCE, async || self.try_plan(epoch).await).await
    }

    /// The plan as of this epoch or a later one, if anybody who runs tells it now.
    pub async fn try_plan(&self, epoch: u64) -> Option<Plan> {
        for place in self.running() {
            let Ok(answer) = self.http.get(&self.nodes[place].spec.admin_address, "/admin/v1/plan").await else {
                continue;
            };
            // A node that is no member knows no plan.
            if answer.status == 200 {
                let plan: Plan = serde_json::from_slice(&answer.body).expect("a plan can be read");
                if plan.epoch >= epoch {
                    return Some(plan);
                }
            }
        }
        None
    }

    /// Waits until nothing is left to do after the change that made this epoch.
    pub async fn until_settled(&self, epoch: u64) -> Plan {
        let mut last = None;
        let deadline = Instant::now() + SETTLE_PATIENCE;
        until("the ring settles", SETTLE_PATIENCE + PATIENCE, async || {
            let plan = self.try_plan(epoch).await?;
            let settled = plan.settled;
            if !settled && Instant::now() >= deadline {
                panic!("the ring has not settled in {SETTLE_PATIENCE:?}: {:#?}", last.as_ref().unwrap_or(&plan));
            }
            last = Some(plan.clone());
            settled.then_some(plan)
        })
        .await
    }

    /// Waits until the plan of a change has this many moves left, or fewer: it is in its middle.
    pub async fn until_moves_left(&self, epoch: u64, left: u64) -> Plan {
        until("moves are done", SETTLE_PATIENCE, async || {
            self.try_plan(epoch).await.filter(|plan| plan.settled || plan.moves_left <= left)
        })
        .await
    }

    /// The ring, as a node tells it.
    pub async fn ring_json(&self, place: usize) -> Value {
        let answer = self.http.get(&self.nodes[place].spec.client_address, "/v1/ring").await;
        answer.unwrap_or_else(|failure| panic!("a ring: {failure}")).json()
    }

    /// The ring, as a node knows it.
    pub async fn ring(&self, place: usize) -> Option<Ring> {
        let answer = self.http.get(&self.nodes[place].spec.client_address, "/v1/ring").await.ok()?;
        serde_json::from_slice(&answer.body).ok()
    }

    /// Waits until each of these members holds and leads as many partitions as the others, but for one, and nobody else does.
    pub async fn until_balanced(&self, places: &[usize]) {
        let mut told = String::new();
        let deadline = Instant::now() + PATIENCE;
        until("replicas and leaders are balanced", PATIENCE + PATIENCE, async || {
            let ring = self.ring(places[0]).await?;
            let ids = || places.iter().map(|place| &self.nodes[*place].spec.id);
            let held = |id: &String| {
                let assignments = ring.assignments().iter();
                assignments.filter(|assignment| assignment.replicas.iter().any(|held| held.to_string() == *id)).count()
            };
            // A node knows the leaders of what it holds; the plan has what each says of itself, the map group included.
            let plan = self.try_plan(ring.epoch).await?;
            let led = |id: &String| {
                let member = plan.members.iter().find(|member| member.id.to_string() == *id);
                member.map_or(0, |member| usize::try_from(member.leads).expect("there are few partitions"))
            };
            let (held, mut led): (Vec<usize>, Vec<usize>) = (ids().map(held).collect(), ids().map(led).collect());
            told = format!("they hold {held:?} and lead {led:?}");
            if let Some(most) = led.iter_mut().max() {
                // Somebody leads the map group, beside a share of the partitions.
                *most = most.saturating_sub(1);
            }
            let copies: usize = ring.assignments().iter().map(|assignment| assignment.replicas.len()).sum();
            let even = |counts: &[usize], all: usize| {
                let least = counts.iter().min().copied().unwrap_or_default();
                counts.iter().sum::<usize>() == all && counts.iter().all(|count| *count <= least + 1)
            };
            let balanced = even(&held, copies) && even(&led, ring.assignments().len());
            assert!(balanced || Instant::now() < deadline, "not balanced in {PATIENCE:?}: {told}");
            balanced.then_some(())
        })
        .await;
    }

    /// The place of the member that leads the map group: the one that leads one group more than the partitions that it says
    /// it leads. While leaders move it may be another, or nobody.
    pub async fn map_leader(&self) -> Option<usize> {
        for place in self.running() {
            let (Some(ring), Some(status)) = (self.ring(place).await, self.status(place).await) else { continue };
            let me = ring.member(status.id).map(|member| member.id);
            let leads = ring.assignments().iter().filter(|assignment| me.is_some() && assignment.leader == me).count();
            if status.other.get("leaders").and_then(Value::as_u64) == Some(leads as u64 + 1) {
                return Some(place);
            }
        }
        None
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.nodes.iter().for_each(|node| reaped::tell_end_of(&node.log));
        }
    }
}

/// The kind of problem that an answer tells, such as `stale-fence`; empty when it tells none.
pub fn problem(answer: &Answer) -> String {
    let body: Option<Value> = serde_json::from_slice(&answer.body).ok();
    let kind = body.and_then(|body| Some(body.get("type")?.as_str()?.rsplit('/').next()?.to_owned()));
    kind.unwrap_or_default()
}

/// Whether an answer may be another one a moment later.
fn passes(answer: &Answer) -> bool {
    matches!(answer.status, 429 | 503 | 504) || problem(answer) == "change-in-progress"
}

fn epoch(answer: &Answer) -> u64 {
    answer.json()["epoch"].as_u64().expect("a change is answered with its epoch")
}
