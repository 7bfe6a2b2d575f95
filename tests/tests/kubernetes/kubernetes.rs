//! The cluster that the tests run on, as `kubectl` and `helm` see it.
//!
//! What a person would type is typed: what is made, changed, scaled, deleted and installed goes through the two programs. What is
//! only looked at, again and again, is read through one `kubectl proxy`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use annulus_tests::processes::{Answer, Http, tell};
use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::timeout;

use crate::command::{self, Failed};

/// The namespace of the operator.
pub(crate) const SYSTEM: &str = "annulus-system";
/// The label that tells a node's name among its labels.
const HOSTNAME: &str = "kubernetes.io/hostname";
/// How long one call of kubectl may take.
const CALL_PATIENCE: Duration = Duration::from_secs(60);
/// How long an installation may take, and what Helm is told of that.
const HELM_PATIENCE: Duration = Duration::from_secs(200);
const HELM_TIMEOUT: &str = "180s";

/// The tests run one at a time: they are measured, and nodes are taken away from under them.
static ALONE: Mutex<()> = Mutex::const_new(());

/// A cluster that answers, with nobody else on it.
pub(crate) struct Kubernetes {
    http: Http,
    address: String,
    /// The node that the operator and the load run on, to which nothing is done: its name among labels, and as a node.
    safe: (String, String),
    _proxy: Child,
    _alone: MutexGuard<'static, ()>,
}

impl Kubernetes {
    /// The cluster; nothing, aloud, where there is none to be used.
    pub(crate) async fn found() -> Option<Self> {
        if !is_set("ANNULUS_E2E", "1") {
            tell("not asked for: ANNULUS_E2E is not 1");
            return None;
        }
        let alone = ALONE.lock().await;
        match Self::reach(alone).await {
            Ok(there) => Some(there),
            Err(why) => {
                skip(&why);
                None
            }
        }
    }

    async fn reach(alone: MutexGuard<'static, ()>) -> Result<Self, String> {
        if std::env::var_os("KUBECONFIG").is_none() {
            return Err("KUBECONFIG names no cluster".to_owned());
        }
        let tool = |failed: Failed| failed.to_string();
        command::run("helm", &["version", "--short"], "", CALL_PATIENCE).await.map_err(tool)?;
        let server = ["config", "view", "--minify", "--output", "jsonpath={.clusters[0].cluster.server}"];
        let server = command::run("kubectl", &server, "", CALL_PATIENCE).await.map_err(tool)?;
        if !is_on_this_machine(&server) && !is_set("ANNULUS_E2E_SERVER", &server) {
            return Err(format!(
                "{server} is not on this machine; tests break what they run on: set ANNULUS_E2E_SERVER to that URL if they may"
            ));
        }
        let (proxy, address) = start_proxy().await?;
        let safe = (String::new(), String::new());
        let mut there = Self { http: Http::default(), address, safe, _proxy: proxy, _alone: alone };
        there.safe = safe_node(&there.get("/api/v1/nodes").await?)?;
        Ok(there)
    }

    /// The node to which nothing is done.
    pub(crate) fn safe_node(&self) -> &str {
        &self.safe.1
    }

    /// What puts a pod on the node to which nothing is done.
    pub(crate) fn on_safe_node(&self) -> Value {
        json!({"nodeSelector": {HOSTNAME: self.safe.0}, "tolerations": [{"operator": "Exists"}]})
    }

    /// Reads an object or a list.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, String> {
        let answer = self.http.get(&self.address, path).await.map_err(|failure| failure.to_string())?;
        if answer.status != 200 {
            return Err(format!("{path}: {}: {}", answer.status, answer.text()));
        }
        serde_json::from_slice(&answer.body).map_err(|error| format!("{path}: {error}"))
    }

    /// Whether there is no such object. Nobody knows as long as the API server does not say so.
    pub(crate) async fn is_gone(&self, path: &str) -> Result<(), String> {
        let answer = self.http.get(&self.address, path).await.map_err(|failure| failure.to_string())?;
        if answer.status == 404 { Ok(()) } else { Err(format!("{path}: {}: {}", answer.status, answer.text())) }
    }

    /// Asks a pod's port through the API server.
    pub(crate) async fn ask(
        &self,
        method: Method,
        (namespace, pod, port): (&str, &str, u16),
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Answer, String> {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy{path}");
        let answer = self.http.send(method, &self.address, &path, headers, body.to_owned()).await;
        answer.map_err(|failure| format!("{path}: {failure}"))
    }

    /// Runs kubectl.
    pub(crate) async fn try_kubectl(&self, words: &[&str], input: &str) -> Result<String, Failed> {
        command::run("kubectl", words, input, CALL_PATIENCE).await
    }

    /// Runs kubectl, which has to succeed.
    pub(crate) async fn kubectl(&self, words: &[&str], input: &str) -> String {
        self.try_kubectl(words, input).await.unwrap_or_else(|failed| panic!("{failed}"))
    }

    /// Runs kubectl, which has to fail; what it says.
    pub(crate) async fn refused(&self, words: &[&str], input: &str) -> String {
        match self.try_kubectl(words, input).await {
            Ok(done) => panic!("`kubectl {}` was not refused: {done}", words.join(" ")),
            Err(failed) => failed.text,
        }
    }

    /// Runs helm in the operator's namespace, which has to succeed.
    pub(crate) async fn helm(&self, words: &[&str]) -> String {
        let words: Vec<&str> =
            words.iter().copied().chain(["--namespace", SYSTEM, "--timeout", HELM_TIMEOUT]).collect();
        let done = command::run("helm", &words, "", HELM_PATIENCE).await;
        done.unwrap_or_else(|failed| panic!("{failed}"))
    }

    /// Installs both charts, or brings them to what is wanted here. `changes` are further words for the operator's.
    pub(crate) async fn install(&self, changes: &[&str]) {
        let chart = |name: &str| {
            let folder = root().join("charts").join(name);
            assert!(folder.is_dir(), "{} is not there", folder.display());
            folder.to_str().expect("the repository's path is text").to_owned()
        };
        let crds = chart("annulus-crds");
        self.helm(&["upgrade", "--install", "annulus-crds", &crds, "--create-namespace", "--wait"]).await;
        let policy = "pod-security.kubernetes.io/enforce=restricted";
        self.kubectl(&["label", "namespace", SYSTEM, policy, "--overwrite"], "").await;
        let operator = chart("annulus-operator");
        let place = self.on_safe_node();
        let (selector, tolerations) =
            (format!("nodeSelector={}", place["nodeSelector"]), format!("tolerations={}", place["tolerations"]));
        let wanted = ["image.tag=dev", "image.pullPolicy=Never", "nodeImage.tag=dev"].map(|set| ["--set", set]);
        let mut words = vec!["upgrade", "--install", "annulus-operator", &operator, "--wait"];
        words.extend(wanted.iter().flatten());
        words.extend(["--set-json", &selector, "--set-json", &tolerations]);
        words.extend(changes);
        self.helm(&words).await;
    }
}

/// Says aloud what is not done; with `CI=true` that is a failure.
pub(crate) fn skip(why: &str) {
    tell(format!("skipped: {why}"));
    assert!(!is_set("CI", "true"), "CI=true skips nothing, and {why}");
}

fn is_set(name: &str, value: &str) -> bool {
    std::env::var(name).is_ok_and(|it| it == value)
}

fn is_on_this_machine(server: &str) -> bool {
    let host = server.split("://").nth(1).unwrap_or_default();
    ["127.", "localhost:", "[::1]:"].iter().any(|begin| host.starts_with(begin))
}

/// A proxy that speaks for us to the API server, and where it listens.
async fn start_proxy() -> Result<(Child, String), String> {
    let mut command = Command::new("kubectl");
    command.args(["proxy", "--port", "0"]).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut proxy = command.spawn().map_err(|error| format!("kubectl: {error}"))?;
    let mut lines = BufReader::new(proxy.stdout.take().expect("its standard output is a pipe")).lines();
    let line = match timeout(CALL_PATIENCE, lines.next_line()).await {
        Ok(Ok(Some(line))) => line,
        other => return Err(format!("kubectl proxy does not start: {other:?}")),
    };
    let address = line.split_whitespace().next_back().unwrap_or_default().to_owned();
    Ok((proxy, address))
}

/// A node of the control plane if there is one, for nothing may be done to it anyway; else the first.
fn safe_node(list: &Value) -> Result<(String, String), String> {
    let nodes = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_control_plane =
        |node: &&Value| node["metadata"]["labels"].get("node-role.kubernetes.io/control-plane").is_some();
    let node = nodes.iter().find(is_control_plane).or(nodes.first()).ok_or("the cluster has no node")?;
    let name = node["metadata"]["name"].as_str().unwrap_or_default();
    let label = node["metadata"]["labels"][HOSTNAME].as_str().unwrap_or(name);
    Ok((label.to_owned(), name.to_owned()))
}

/// Those of a list of nodes that a member may run on.
pub(crate) fn that_can_run(list: &Value) -> Vec<Value> {
    let nodes = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_open = |node: &&Value| {
        let taints = node["spec"]["taints"].as_array().map_or(0, Vec::len);
        taints == 0 && node["spec"]["unschedulable"] != json!(true)
    };
    nodes.iter().filter(is_open).cloned().collect()
}

/// Where the workspace's Cargo.toml lies: one above this package.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lies below the root").to_path_buf()
}
