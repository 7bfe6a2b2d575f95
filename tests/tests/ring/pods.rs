//! Members as they live in pods: everything comes from the environment, the working directory can't be written to, addresses
//! are names, nobody knows its zone before the operator tells it, and a new volume has `lost+found` in it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use annulus_tests::processes::{Answer, Http, annulus, free_ports, problem, until};
use http::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long a pod may take to start, to end or to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// What Kubernetes gives a pod to end.
const GRACE: Duration = Duration::from_secs(60);

/// A pod and its volume.
struct Pod {
    name: String,
    /// The first of its three ports.
    port: u16,
    folder: TempDir,
    /// The zone that it is configured with, if it is.
    zone: Option<&'static str>,
    process: Option<Child>,
}

impl Drop for Pod {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Both fail only when it has ended.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Pod {
    /// Pods with volumes that a file system was just made on.
    fn all(count: u16) -> Vec<Self> {
        let first = free_ports(&(0..3 * count).collect::<Vec<_>>());
        let pods = (0..count).map(|number| {
            let folder = TempDir::with_prefix("annulus-pod-").expect("a temporary folder can be made");
            let pod =
                Self { name: format!("demo-{number}"), port: first + 3 * number, folder, zone: None, process: None };
            fs::create_dir_all(pod.data().join("lost+found")).expect("a folder can be made");
            fs::set_permissions(pod.data().join("lost+found"), Permissions::from_mode(0o000)).expect("it is ours");
            pod
        });
        pods.collect()
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// `what` is one of the three ports, in their order.
    fn address(&self, what: u16) -> String {
        format!("localhost:{}", self.port + what)
    }

    fn start(&mut self) {
        let log = fs::File::options().append(true).create(true).open(self.folder.path().join("log"));
        let mut command = annulus();
        command.args(["node", "--exit-with-stdin"]).env_clear().current_dir("/proc").stdin(Stdio::piped());
        command.env("ANNULUS_NAME", &self.name).env("ANNULUS_DATA", self.data());
        command.env("ANNULUS_ON_DAMAGE", "quarantine").env("ANNULUS_LOG_FORMAT", "json");
        command.env("ANNULUS_STOP_DELAY", "300ms").envs(self.zone.map(|zone| ("ANNULUS_ZONE", zone)));
        for (offset, what) in (0..).zip(["CLIENT", "PEER", "ADMIN"]) {
            command.env(format!("ANNULUS_{what}_LISTEN"), format!("127.0.0.1:{}", self.port + offset));
            command.env(format!("ANNULUS_{what}_ADVERTISE"), self.address(offset));
        }
        command.stdout(Stdio::null()).stderr(log.expect("its output can be kept"));
        self.process = Some(command.spawn().expect("a pod can be started"));
    }

    /// Ends it as Kubernetes does, and waits until it has ended.
    async fn end(&mut self) {
        let mut process = self.process.take().expect("it runs");
        kill_process(Pid::from_child(&process), Signal::TERM).expect("a child can be told to end");
        let ended = until("a pod ends", GRACE, async || process.try_wait().expect("a child can be waited for")).await;
        assert!(ended.success(), "{ended}: {}", self.log());
        assert!(self.log().contains("\"signal\":\"SIGTERM\""), "it says why it ends: {}", self.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    async fn status(&self) -> Value {
        let http = Http::default();
        until("a pod says who it is", PATIENCE, async || {
            Some(http.get(&self.address(2), "/admin/v1/status").await.ok()?.json())
        })
        .await
    }

    async fn ask(&self, method: Method, path: &str, body: &Value) -> Answer {
        let headers = [("content-type", "application/json")];
        let asked = Http::default().send(method, &self.address(2), path, &headers, body.to_string()).await;
        asked.unwrap_or_else(|failure| panic!("{}: {failure}", self.name))
    }

    async fn bootstrap(&self, cluster: &str, members: &[Value]) -> Answer {
        let body =
            json!({"cluster": cluster, "partitions": 8, "replication_factor": members.len(), "members": members});
        self.ask(Method::POST, "/admin/v1/bootstrap", &body).await
    }

    async fn until_ready(&self) {
        let http = Http::default();
        until("a pod is ready", PATIENCE, async || http.ready(&self.address(0)).await.then_some(())).await;
    }

    /// It, as an operator names it that knows its zone.
    async fn named(&self, zone: &str) -> Value {
        json!({
            "id": self.status().await["id"], "name": self.name, "zone": zone, "weight": 100,
            "client_address": self.address(0), "peer_address": self.address(1), "admin_address": self.address(2),
        })
    }
}

const ONE: &str = "00000000-0000-4000-8000-000000000001";
const OTHER: &str = "00000000-0000-4000-8000-000000000002";

#[tokio::test]
async fn pods_that_know_no_zone_become_a_store_that_tells_them_theirs() {
    let mut pods = Pod::all(3);
    let mut members = Vec::new();
    for (pod, zone) in pods.iter_mut().zip(["a", "b", "c"]) {
        pod.start();
        let status = pod.status().await;
        assert_eq!((&status["cluster"], &status["ready"], &status["zone"]), (&Value::Null, &false.into(), &"".into()));
        assert!(status["not_ready"][0].as_str().is_some_and(|reason| reason.contains("bootstrap")), "{status}");
        assert!(status["version"].is_string() && status["disk_bytes_free"].as_u64() > Some(0), "{status}");
        members.push(pod.named(zone).await);
    }
    pods[2].end().await;

    let (first, again) = tokio::join!(pods[0].bootstrap(ONE, &members), pods[0].bootstrap(ONE, &members));
    assert_eq!((first.status, again.status), (200, 200), "{} {}", first.text(), again.text());
    for pod in &pods[..2] {
        let refused = pod.bootstrap(OTHER, &members).await;
        assert_eq!((refused.status, &*problem(&refused)), (409, "bootstrap-conflict"), "{}", refused.text());
    }
    let mut changed = members.clone();
    changed[2]["weight"] = json!(50);
    let refused = pods[0].bootstrap(ONE, &changed).await;
    assert_eq!((refused.status, &*problem(&refused)), (409, "bootstrap-conflict"), "{}", refused.text());

    pods[2].start();
    for (pod, zone) in pods.iter().zip(["a", "b", "c"]) {
        pod.until_ready().await;
        let status = pod.status().await;
        assert_eq!((&status["cluster"], &status["zone"]), (&ONE.into(), &zone.into()), "{status}");
        let metrics = Http::default().get(&pod.address(2), "/metrics").await.expect("it answers").text();
        let known = metrics.lines().find(|line| line.starts_with("annulus_member{")).unwrap_or_default();
        assert!(known.contains(&format!("zone=\"{zone}\"")), "{metrics}");
        assert!(metrics.contains("\nannulus_disk_free_bytes "), "{metrics}");
        assert!(pod.log().contains(&format!("\"zone\":\"{zone}\"")), "{}", pod.log());
    }

    let old = members[2]["id"].clone();
    pods[2].end().await;
    fs::write(pods[2].data().join("damaged"), "a test says so").expect("a file can be written");
    pods[2].start();
    members[2] = pods[2].named("c").await;
    assert_ne!(members[2]["id"], old, "it began anew");
    assert!(pods[2].data().join("lost+found").exists() && pods[2].data().join("quarantine-1/identity").exists());
    let put = pods[0].ask(Method::PUT, "/admin/v1/members", &json!({"members": members})).await;
    assert_eq!(put.status, 200, "{}", put.text());
    pods[2].until_ready().await;
    assert_eq!(pods[2].status().await["zone"], "c");
}

#[tokio::test]
async fn names_that_are_not_known_yet_hold_nobody_up() {
    let mut pods = Pod::all(1);
    let pod = &mut pods[0];
    pod.zone = Some("a");
    pod.start();
    let mut members = vec![pod.named("b").await];
    let refused = pod.bootstrap(ONE, &members).await;
    assert_eq!((refused.status, refused.json()["says"].as_str()), (422, Some("a")), "{}", refused.text());
    members[0]["zone"] = json!("a");
    for number in 2..=3 {
        let address = |port: u16| format!("demo-{number}.nobody.invalid:{port}");
        members.push(json!({
            "id": format!("{number:016x}"), "name": format!("unborn-{number}"), "zone": "b", "weight": 100,
            "client_address": address(1), "peer_address": address(2), "admin_address": address(3),
        }));
    }
    let began = Instant::now();
    let begun = pod.bootstrap(ONE, &members).await;
    assert_eq!(begun.status, 200, "{}", begun.text());
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    let status = pod.status().await;
    assert_eq!((&status["cluster"], &status["ready"]), (&ONE.into(), &false.into()), "{status}");
    let mut moved = members.clone();
    moved[1]["id"] = json!(format!("{:016x}", 9));
    moved[1]["name"] = json!("unborn-9");
    moved[1]["admin_address"] = json!("demo-9.nobody.invalid:3");
    let put = pod.ask(Method::PUT, "/admin/v1/members", &json!({"members": moved})).await;
    assert_eq!((put.status, &*problem(&put)), (409, "member-mismatch"), "{}", put.text());
    assert!(put.text().contains("is not found"), "{}", put.text());
    pod.end().await;
}
