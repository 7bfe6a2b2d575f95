//! A store on this machine as `annulus dev` makes it, and the violence that can be done to it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::sync::MutexGuard;

use super::reaped::{self, ALONE, Reaped, annulus};
use super::{Http, until};

/// How long a store may take to be ready.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// How many members a store of the tests has unless it is told otherwise.
const MEMBERS: u16 = 3;
/// The most members of a store of the tests: so many ports are looked for.
const MOST_MEMBERS: u16 = 6;

/// A store, running or not, with a folder and ports of its own. Dropped, it leaves nothing behind.
pub struct Dev {
    process: Option<Child>,
    /// How often it was started.
    starts: usize,
    members: u16,
    zones: Vec<String>,
    client_port: u16,
    folder: TempDir,
    _alone: MutexGuard<'static, ()>,
}

/// A member as `dev.json` tells of it; with these fields and no others.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its name among people.
    pub name: String,
    /// Its identity.
    pub id: String,
    /// Its process; `None` while it does not run.
    pub pid: Option<i32>,
    /// `host:port` for clients.
    pub client_address: String,
    /// `host:port` for the operator.
    pub admin_address: String,
    /// `host:port` for other members.
    pub peer_address: String,
    /// Its volume.
    pub data: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DevFile {
    members: Vec<Member>,
}

impl Dev {
    /// A store that does not run yet.
    pub async fn new() -> Self {
        let alone = ALONE.lock().await;
        let folder = TempDir::with_prefix("annulus-").expect("a temporary folder can be made");
        let client_port = free_ports();
        Self { process: None, starts: 0, members: MEMBERS, zones: Vec::new(), client_port, folder, _alone: alone }
    }

    /// From its next start on it should have this many members.
    pub fn set_members(&mut self, members: u16) {
        assert!((1..=MOST_MEMBERS).contains(&members), "there are ports for {MOST_MEMBERS} members");
        self.members = members;
    }

    /// At its next start it is told these zones.
    pub fn set_zones(&mut self, zones: &[&str]) {
        self.zones = zones.iter().map(|zone| (*zone).to_owned()).collect();
    }

    /// A store that is ready.
    pub async fn ready() -> Self {
        let mut dev = Self::new().await;
        dev.start();
        dev.until_ready().await;
        dev
    }

    /// Starts it, and waits for nothing.
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        self.process = Some(self.spawn(&self.output_path()));
        self.starts += 1;
    }

    /// Starts another `dev` on the same folder and ports, which is expected to end; what it says and ends with.
    pub async fn start_another(&self) -> (ExitStatus, String) {
        let output = self.folder.path().join("another.out");
        let mut another = Reaped(self.spawn(&output));
        let ended = until("another dev on the same store ends", START_PATIENCE, async || another.ended()).await;
        (ended, fs::read_to_string(output).unwrap_or_default())
    }

    fn spawn(&self, output: &Path) -> Child {
        let output = File::options().append(true).create(true).open(output).expect("its output can be kept");
        // It stays in the tests' process group: who presses Ctrl-C at the tests ends the store too, which we then can't.
        let zones = (!self.zones.is_empty()).then(|| format!("--zones={}", self.zones.join(",")));
        annulus()
            .arg("dev")
            .args(["--members", &self.members.to_string(), "--client-port", &self.client_port.to_string(), "--data"])
            .arg(self.data())
            .args(zones)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a file can be written to in two ways"))
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("dev can't be started: {error}"))
    }

    /// Waits until `dev` says that the store is up, and every member is ready. Members that die before that are not started
    /// again: `dev` takes them for ones that can't be.
    pub async fn until_ready(&mut self) {
        let http = Http::default();
        until("every member is ready", START_PATIENCE, async || {
            self.assert_running();
            if self.output().matches("Annulus is up").count() < self.starts {
                return None;
            }
            let members = self.try_members()?;
            for member in &members {
                if !http.ready(&member.client_address).await {
                    return None;
                }
            }
            Some(())
        })
        .await;
    }

    fn assert_running(&mut self) {
        let process = self.process.as_mut().expect("it was started");
        let ended = process.try_wait().expect("a child can be waited for");
        assert!(ended.is_none(), "dev ended ({ended:?}):\n{}", self.output());
    }

    /// The folder that it is told to keep its data in.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// The first member's client port; the others are as the command line documents them.
    pub fn client_port(&self) -> u16 {
        self.client_port
    }

    /// The client address of the member at this place, from 0.
    pub fn address(&self, place: usize) -> String {
        format!("127.0.0.1:{}", usize::from(self.client_port) + place)
    }

    /// The client addresses of all members.
    pub fn addresses(&self) -> Vec<String> {
        (0..usize::from(self.members)).map(|place| self.address(place)).collect()
    }

    /// What `dev.json` says now.
    pub fn members(&self) -> Vec<Member> {
        self.try_members().expect("dev.json is there while dev runs")
    }

    fn try_members(&self) -> Option<Vec<Member>> {
        let text = fs::read(self.data().join("dev.json")).ok()?;
        let file: DevFile = serde_json::from_slice(&text)
            .unwrap_or_else(|error| panic!("dev.json: {error}: {}", String::from_utf8_lossy(&text)));
        Some(file.members)
    }

    /// Everything that `dev` has said.
    pub fn output(&self) -> String {
        fs::read_to_string(self.output_path()).unwrap_or_default()
    }

    fn output_path(&self) -> PathBuf {
        self.folder.path().join("dev.out")
    }

    /// Kills a member (SIGKILL). Its process.
    pub fn kill(&self, place: usize) -> i32 {
        self.signal(place, Signal::KILL)
    }

    /// Stops a member in its tracks (SIGSTOP).
    pub fn pause(&self, place: usize) {
        self.signal(place, Signal::STOP);
    }

    /// Lets a member go on (SIGCONT).
    pub fn resume(&self, place: usize) {
        self.signal(place, Signal::CONT);
    }

    fn signal(&self, place: usize, signal: Signal) -> i32 {
        let number = self.members()[place].pid.expect("the member runs");
        let pid = Pid::from_raw(number).expect("a process id is not 0");
        kill_process(pid, signal).unwrap_or_else(|error| panic!("a signal to process {number}: {error}"));
        number
    }

    /// Waits until a member that was killed runs again and is ready.
    pub async fn until_back(&mut self, place: usize, killed: i32) {
        let http = Http::default();
        until("a killed member is started again and ready", START_PATIENCE, async || {
            self.assert_running();
            let member = self.members().swap_remove(place);
            let runs = member.pid.is_some_and(|pid| pid != killed);
            (runs && http.ready(&member.client_address).await).then_some(())
        })
        .await;
    }

    /// Kills everything at once, as a power cut would: `dev` can neither end its members nor start them again.
    pub fn kill_everything(&mut self) {
        let mut process = self.process.take().expect("it runs");
        let dev = Pid::from_child(&process);
        kill_process(dev, Signal::STOP).expect("dev can be stopped");
        for place in 0..self.members().len() {
            self.kill(place);
        }
        kill_process(dev, Signal::KILL).expect("dev can be killed");
        process.wait().expect("a killed child ends");
    }

    /// Presses Ctrl-C, and waits for `dev` to end and to have ended all members.
    pub async fn interrupt(&mut self, patience: Duration) -> ExitStatus {
        let members = self.members();
        let mut process = Reaped(self.process.take().expect("it runs"));
        kill_process(Pid::from_child(&process.0), Signal::INT).expect("dev can be interrupted");
        let ended = until("dev ends after Ctrl-C", patience, async || process.ended()).await;
        for member in members {
            let pid = member.pid.and_then(Pid::from_raw).expect("the member ran");
            assert!(test_kill_process(pid).is_err(), "{} outlives dev", member.name);
        }
        ended
    }

    fn tell_logs(&self) {
        let logs = (1..=MOST_MEMBERS).map(|number| self.data().join(format!("node-{number}")).join("log"));
        [self.output_path()].into_iter().chain(logs).for_each(|path| reaped::tell_end_of(&path));
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell_logs();
        }
        let members = self.try_members().unwrap_or_default();
        if let Some(process) = self.process.take() {
            // First, so that it starts nothing again.
            drop(Reaped(process));
        }
        for pid in members.iter().filter_map(|member| member.pid).filter_map(Pid::from_raw) {
            // It may have ended by itself: members do when their dev is gone.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// A client port from which all ports of a store are free.
fn free_ports() -> u16 {
    let offsets = (0..MOST_MEMBERS).flat_map(|place| [0, 100, 200].map(|offset| offset + place));
    reaped::free_ports(&offsets.collect::<Vec<_>>())
}
