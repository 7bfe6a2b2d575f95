//! `annulus dev` with real members: starts, survives, ends, refuses.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Nothing here should take longer, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn annulus() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_annulus"));
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// A first port whose three ranges are free; no two tests get the same.
fn client_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let turn = NEXT.fetch_add(1, Ordering::Relaxed);
        // Below the ports that the system gives to outgoing connections; hundreds apart, as the ranges are.
        let port = 11_000 + 300 * ((u16::try_from(std::process::id() % 60).unwrap() + turn) % 60);
        let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if [0, 100, 200].into_iter().all(|offset| (0..3).all(|member| free(port + offset + member))) {
            return port;
        }
    }
}

struct Dev {
    child: Child,
    endpoint: String,
}

impl Dev {
    /// Starts a store and waits until it says that it is up.
    async fn start(data: &Path, port: u16, more: &[&str]) -> Self {
        let mut command = annulus();
        command.arg("dev").arg("--data").arg(data).arg("--client-port").arg(port.to_string()).args(more);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = timeout(PATIENCE, lines.next_line()).await.expect("it takes too long").unwrap();
        if first.is_none() {
            let mut said = String::new();
            child.stderr.take().unwrap().read_to_string(&mut said).await.unwrap();
            panic!("it ended: {said}");
        }
        // Nobody reads on, and nothing comes that would fill the pipe.
        assert!(first.unwrap().contains("Annulus is up"));
        Self { child, endpoint: format!("127.0.0.1:{port}") }
    }

    async fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = annulus().env("ANNULUS_ENDPOINT", &self.endpoint).args(arguments).output().await.unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    }

    async fn end(mut self, signal: Signal) -> Option<i32> {
        kill_process(pid(self.child.id().unwrap()), signal).unwrap();
        timeout(PATIENCE, self.child.wait()).await.expect("it does not end").unwrap().code()
    }
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(number.cast_signed()).unwrap()
}

fn dev_json(data: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(data.join("dev.json")).ok()?).ok()
}

fn pids(data: &Path) -> Vec<Option<u32>> {
    let members = dev_json(data).unwrap()["members"].as_array().unwrap().clone();
    members.iter().map(|member| member["pid"].as_u64().map(|pid| u32::try_from(pid).unwrap())).collect()
}

/// Waits until a condition holds that no event tells of.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("waited too long: {what}"));
}

async fn refused(data: &Path, port: u16, more: &[&str]) -> String {
    let mut command = annulus();
    command.arg("dev").arg("--data").arg(data).arg("--client-port").arg(port.to_string()).args(more);
    let Output { status, stderr, .. } = command.output().await.unwrap();
    assert_eq!(status.code(), Some(1));
    String::from_utf8(stderr).unwrap()
}

#[tokio::test]
async fn a_store_keeps_what_was_put_through_a_killed_member_and_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let (path, port) = (data.path(), client_port());
    let dev = Dev::start(path, port, &[]).await;
    assert_eq!(dev.run(&["put", "k", "v"]).await.0, Some(0));
    let told = dev_json(path).unwrap();
    for (number, member) in (0..).zip(told["members"].as_array().unwrap()) {
        assert_eq!(member["name"], format!("node-{}", number + 1));
        assert_eq!(member["id"].as_str().unwrap().len(), 16);
        for (what, offset) in [("client_address", 0), ("admin_address", 100), ("peer_address", 200)] {
            assert_eq!(member[what], format!("127.0.0.1:{}", port + offset + number));
        }
        assert!(Path::new(member["data"].as_str().unwrap()).is_dir());
    }

    let before = pids(path);
    kill_process(pid(before[1].unwrap()), Signal::KILL).unwrap();
    until("the member is started again", || pids(path)[1].is_some_and(|now| Some(now) != before[1])).await;
    assert_eq!((pids(path)[0], pids(path)[2]), (before[0], before[2]));
    assert_eq!(dev.run(&["get", "k"]).await, (Some(0), "v".to_owned()));

    let last = pids(path);
    assert_eq!(dev.end(Signal::INT).await, Some(0));
    assert!(last.iter().all(|member| test_kill_process(pid(member.unwrap())).is_err()), "all have ended");
    assert_eq!(dev_json(path), None);

    let dev = Dev::start(path, port, &[]).await;
    assert_eq!(dev.run(&["get", "k"]).await, (Some(0), "v".to_owned()));
    assert_eq!(dev.end(Signal::TERM).await, Some(0));
}

#[tokio::test]
async fn members_end_with_a_dev_that_is_killed_and_the_next_one_starts() {
    let data = tempfile::tempdir().unwrap();
    let (path, port) = (data.path(), client_port());
    let dev = Dev::start(path, port, &["--members", "1"]).await;
    assert_eq!(dev.run(&["put", "k", "v"]).await.0, Some(0));
    assert_eq!(dev.end(Signal::KILL).await, None);
    let dev = Dev::start(path, port, &["--members", "1"]).await;
    assert_eq!(dev.run(&["get", "k"]).await, (Some(0), "v".to_owned()));
    assert_eq!(dev.end(Signal::TERM).await, Some(0));
}

#[tokio::test]
async fn a_member_stays_dead_when_it_should() {
    let data = tempfile::tempdir().unwrap();
    let dev = Dev::start(data.path(), client_port(), &["--no-restart"]).await;
    kill_process(pid(pids(data.path())[2].unwrap()), Signal::KILL).unwrap();
    until("dev.json says so", || pids(data.path())[2].is_none()).await;
    assert_eq!(dev.run(&["put", "k", "v"]).await.0, Some(0));
    assert_eq!(dev.end(Signal::TERM).await, Some(0));
}

#[tokio::test]
async fn a_cluster_in_a_file_is_run_and_scaled_with_it() {
    let data = tempfile::tempdir().unwrap();
    let file = tempfile::tempdir().unwrap();
    let file = file.path().join("cluster.yaml");
    let write = |replicas: &str| {
        let head = "apiVersion: annulus.dev/v1alpha1\nkind: StorageCluster\nmetadata: {name: demo}\n";
        let spec = "  replicationFactor: 1\n  partitions: 16\n  settings: {maxValueBytes: 1KiB}\n";
        std::fs::write(&file, format!("{head}spec:\n  replicas: {replicas}\n{spec}")).unwrap();
    };
    let running = |count: usize| {
        let members = dev_json(data.path()).map(|dev| dev["members"].as_array().unwrap().clone()).unwrap_or_default();
        members.len() == count && members.iter().all(|member| member["pid"].is_u64())
    };
    write("1");
    let dev = Dev::start(data.path(), client_port(), &["-f", file.to_str().unwrap()]).await;
    let (_, told) = dev.run(&["status", "-o", "json"]).await;
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["partitions"], told["members"].as_array().unwrap().len()), (&Value::from(16), 1));
    assert_eq!(dev.run(&["put", "k", "v"]).await.0, Some(0));
    assert_eq!(dev.run(&["put", "k", &"v".repeat(2000)]).await.0, Some(1));

    write("2");
    until("there are two", || running(2)).await;
    write("1");
    until("there is one again", || running(1)).await;
    assert_eq!(dev.run(&["get", "k"]).await, (Some(0), "v".to_owned()));
    assert_eq!(dev.end(Signal::INT).await, Some(0));
}

#[tokio::test]
async fn what_does_not_fit_is_refused_with_its_name() {
    let data = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let (path, port) = (data.path(), client_port());
    let dev = Dev::start(path, port, &["--members", "1"]).await;
    let text = refused(path, port, &["--members", "1"]).await;
    assert!(text.contains(&format!("another `annulus dev` (process {})", dev.child.id().unwrap())), "{text}");
    let text = refused(other.path(), port, &["--members", "1"]).await;
    assert!(text.contains(&format!("127.0.0.1:{port}, the client port of node-1")), "{text}");
    dev.end(Signal::TERM).await;

    let text = refused(path, port + 3, &["--members", "1"]).await;
    assert!(text.contains(&format!("was made with --client-port {port}, not --client-port {}", port + 3)), "{text}");
    // Another volume in the member's place.
    let volume = path.join("node-1").join("data");
    std::fs::remove_dir_all(&volume).unwrap();
    let text = refused(path, port, &["--members", "1"]).await;
    assert!(text.contains("but this store was made with member"), "{text}");
    // A volume that can't be used.
    std::fs::remove_dir_all(&volume).unwrap();
    std::fs::write(&volume, "not a folder").unwrap();
    let text = refused(path, port, &["--members", "1"]).await;
    assert!(text.contains("node-1 can't be started"), "{text}");
}
