//! What an operation costs on this machine, as a store grows. More members are more processes, which share the processors;
//! to tell what that costs from what a larger store costs, a store is measured against smaller ones that together have as
//! many members and the same load.
//!
//! - `ANNULUS_GROWTH="9/3 3+3+3/3"`: what to measure in turn: stores of so many members, at once, under so many load
//!   processes (in all 43 clients for each member). Without it nothing is measured.
//! - `ANNULUS_SECS=8`: for how long each load runs (5 without).

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use annulus_tests::processes::{annulus, free_ports, tell, until};
use rustix::param::clock_ticks_per_second;
use serde_json::Value;
use tempfile::TempDir;

/// Clients for each member.
const CLIENTS: usize = 43;
/// How long a store may take to answer.
const STARTED_WITHIN: Duration = Duration::from_secs(20);

/// A store, ended when this is dropped.
struct Store {
    members: usize,
    endpoint: String,
    dev: Child,
    _folder: TempDir,
}

impl Store {
    async fn start(members: usize) -> Self {
        let folder = TempDir::with_prefix("annulus-").expect("a temporary folder can be made");
        let count = u16::try_from(members).expect("few members");
        let offsets: Vec<u16> = (0..count).flat_map(|member| [0, 100, 200].map(|port| port + member)).collect();
        let port = free_ports(&offsets);
        let dev = annulus()
            .args(["dev", "--members", &members.to_string(), "--client-port", &port.to_string(), "--data"])
            .arg(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("dev can be started");
        let store = Self { members, endpoint: format!("127.0.0.1:{port}"), dev, _folder: folder };
        let clients = (CLIENTS * members).to_string();
        let fill = ["bench", "--fill", "--secs=1", "--op=get", "--clients", &clients, "-e", &store.endpoint];
        until("a store is filled", STARTED_WITHIN, async || {
            let filled = annulus().args(fill).stdout(Stdio::null()).stderr(Stdio::null()).status();
            filled.is_ok_and(|status| status.success()).then_some(())
        })
        .await;
        store
    }

    /// Its members' processes.
    fn processes(&self) -> Vec<u32> {
        let dev = self.dev.id();
        let tasks = fs::read_dir(format!("/proc/{dev}/task")).expect("dev runs");
        let children = tasks.flatten().flat_map(|task| {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()
        });
        let processes: Vec<u32> = children.collect();
        assert_eq!(processes.len(), self.members, "every member runs");
        processes
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let dev = rustix::process::Pid::from_child(&self.dev);
        let _ = rustix::process::kill_process(dev, rustix::process::Signal::TERM);
        let _ = self.dev.wait();
    }
}

/// Seconds of processor that these processes have used.
fn processor_time(processes: &[u32]) -> f64 {
    let ticks = processes.iter().map(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a member runs");
        // Behind the name, which ends with a bracket: user and system time are the fields 14 and 15 of all.
        let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
        fields[11].parse::<u64>().expect("ticks") + fields[12].parse::<u64>().expect("ticks")
    });
    ticks.sum::<u64>() as f64 / clock_ticks_per_second() as f64
}

fn load(operation: &str, clients: usize, endpoint: &str) -> Command {
    let secs = std::env::var("ANNULUS_SECS").unwrap_or("5".to_owned());
    let mut load = annulus();
    load.args(["bench", "--op", operation, "--threads=1", "--output=json", "--secs", &secs, "-e", endpoint]);
    load.args(["--clients", &clients.to_string()]).stdout(Stdio::piped()).stderr(Stdio::null());
    load
}

/// Operations that were answered, by what a load has reported.
fn answered(report: &[u8]) -> u64 {
    let report: Value = serde_json::from_slice(report).expect("a load reports");
    assert_eq!(report["errors"], serde_json::json!({}), "nothing fails");
    let operations = report["operations"].as_object().expect("by operation");
    operations.values().map(|operation| operation["count"].as_u64().expect("a count")).sum()
}

async fn measure(what: &str) {
    let (sizes, loads) = what.split_once('/').expect("such as 3+3+3/3");
    let loads: usize = loads.parse().expect("how many loads");
    let sizes: Vec<usize> = sizes.split('+').map(|size| size.parse().expect("how many members")).collect();
    let mut stores = Vec::new();
    for members in sizes {
        stores.push(Store::start(members).await);
    }
    let processes: Vec<u32> = stores.iter().flat_map(Store::processes).collect();
    for operation in ["put", "get"] {
        let clients = CLIENTS * processes.len() / loads;
        let before = processor_time(&processes);
        let running: Vec<Child> = (0..loads)
            .map(|at| load(operation, clients, &stores[at % stores.len()].endpoint).spawn().expect("a load starts"))
            .collect();
        let done: u64 =
            running.into_iter().map(|load| answered(&load.wait_with_output().expect("it ends").stdout)).sum();
        let used = processor_time(&processes) - before;
        tell(format!("{what}: {:.0} {operation}s for each second of processor", done as f64 / used));
    }
}

#[tokio::test]
async fn growth_on_this_machine() {
    let Ok(what) = std::env::var("ANNULUS_GROWTH") else { return };
    for what in what.split_whitespace() {
        measure(what).await;
    }
}
