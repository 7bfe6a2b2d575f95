//! `annulus kube …` and `kubectl annulus …` against an API server that is made up.

#![cfg(feature = "kube")]

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::timeout;

/// Nothing here should take longer, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(60);
const CLUSTERS: &str = "/apis/annulus.dev/v1alpha1/namespaces/shop/storageclusters";

type Handler = dyn Fn(&Method, &str, &Value) -> (u16, Value) + Send + Sync;

/// An API server, and a kubeconfig that names it.
struct Fake {
    folder: tempfile::TempDir,
    /// What was changed: path and patch.
    patches: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Fake {
    async fn start(handler: impl Fn(&Method, &str, &Value) -> (u16, Value) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (handler, patches): (Arc<Handler>, _) = (Arc::new(handler), Arc::new(Mutex::new(Vec::new())));
        let kept = Arc::clone(&patches);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (handler, patches) = (Arc::clone(&handler), Arc::clone(&kept));
                let service = service_fn(move |request| answer(Arc::clone(&handler), Arc::clone(&patches), request));
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = format!(
            "clusters: [{{name: c, cluster: {{server: 'http://{address}'}}}}]\nusers: [{{name: u, user: {{}}}}]\n\
             contexts: [{{name: here, context: {{cluster: c, user: u, namespace: shop}}}}]\ncurrent-context: here\n"
        );
        std::fs::write(folder.path().join("config"), kubeconfig).unwrap();
        Self { folder, patches }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    async fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut line = vec!["kube"];
        line.extend(arguments);
        self.run_as(env!("CARGO_BIN_EXE_annulus").into(), &line).await
    }

    async fn run_as(&self, program: PathBuf, arguments: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(program);
        command.env("KUBECONFIG", self.path().join("config")).current_dir(self.path()).args(arguments);
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
        let Output { status, stdout, stderr } = timeout(PATIENCE, output).await.expect("it takes too long").unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (status.code().unwrap(), text(stdout), text(stderr))
    }
}

async fn answer(
    handler: Arc<Handler>,
    patches: Arc<Mutex<Vec<(String, Value)>>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    if head.method == Method::PATCH {
        patches.lock().unwrap().push((head.uri.path().to_owned(), body.clone()));
    }
    let path = head.uri.path_and_query().unwrap().as_str();
    let (status, answer) = handler(&head.method, path, &body);
    // Text stands for itself: logs are no JSON.
    let text = answer.as_str().map_or_else(|| answer.to_string(), str::to_owned);
    Ok(Response::builder().status(status).body(Full::from(text)).unwrap())
}

fn refusal(code: u16, message: &str, name: Option<&str>) -> (u16, Value) {
    let details = name.map(|name| json!({"name": name, "kind": "storageclusters"}));
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code,
                        "reason": "", "details": details});
    (code, status)
}

fn list(items: &[Value]) -> (u16, Value) {
    (200, json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items}))
}

fn cluster(name: &str, available: &str) -> Value {
    let member = |suffix: &str| {
        json!({"name": format!("{name}-{suffix}"), "zone": "a", "node": "n1", "state": "Active", "ready": true,
               "replicas": 128, "leaders": 32})
    };
    let members = ["a", "b", "c", "d"].map(member);
    json!({
        "apiVersion": "annulus.dev/v1alpha1", "kind": "StorageCluster",
        "metadata": {"name": name, "namespace": "shop", "generation": 1, "resourceVersion": "7", "uid": "u"},
        "spec": {"replicas": 4, "podTemplate": {"env": [{"name": "KEY", "value": "hunter2"}]}},
        "status": {
            "observedGeneration": 1, "phase": "Running", "replicas": 4, "readyReplicas": 4, "ring": "Balanced",
            "mapEpoch": 41, "members": members,
            "conditions": [{"type": "Available", "status": available, "reason": "R", "message": "as it is",
                            "lastTransitionTime": "2026-01-02T03:04:05Z"}],
        },
    })
}

/// Answers about the clusters of these names.
fn clusters(names: &'static [&'static str]) -> impl Fn(&Method, &str, &Value) -> (u16, Value) {
    move |_, path, _| {
        let path = path.split('?').next().unwrap();
        if path == CLUSTERS {
            return list(&names.iter().map(|name| cluster(name, "True")).collect::<Vec<_>>());
        }
        match path.strip_prefix(CLUSTERS).map(|name| name.trim_start_matches('/')) {
            Some(name) if names.contains(&name) => (200, cluster(name, "True")),
            name => refusal(404, "not found", name),
        }
    }
}

#[tokio::test]
async fn the_only_cluster_is_shown_and_the_plugin_shows_the_same() {
    let fake = Fake::start(clusters(&["demo"])).await;
    let (code, shown, stderr) = fake.run(&["status"]).await;
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(shown.starts_with("shop/demo: Running, 4 of 4 members are ready\nring: balanced, epoch 41\n"), "{shown}");
    assert!(shown.contains("demo-d"), "{shown}");
    let plugin = fake.path().join("kubectl-annulus");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_annulus"), &plugin).unwrap();
    assert_eq!(fake.run_as(plugin, &["status", "demo", "-n", "shop"]).await, (0, shown, String::new()));
    let (code, json, _) = fake.run(&["status", "-o", "json"]).await;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &json["name"], &json["status"]["mapEpoch"]), (0, &json!("demo"), &json!(41)));
}

#[tokio::test]
async fn what_is_not_there_or_not_clear_or_not_allowed_is_told() {
    let several = Fake::start(clusters(&["b", "a"])).await;
    let (code, _, stderr) = several.run(&["status"]).await;
    assert!(code == 2 && stderr.contains("2 StorageClusters in namespace `shop`: a, b"), "{code} {stderr}");
    let (code, _, stderr) = several.run(&["plan", "c"]).await;
    assert!(
        code == 1 && stderr.contains("no StorageCluster `c` in namespace `shop`: there are a, b"),
        "{code} {stderr}"
    );
    let (code, _, stderr) = several.run(&["status", "--context", "there"]).await;
    assert!(code == 2 && stderr.contains("no context `there`") && stderr.contains("it has here"), "{code} {stderr}");

    let absent = Fake::start(|_, _, _| refusal(404, "the server could not find the requested resource", None)).await;
    let (code, _, stderr) = absent.run(&["status"]).await;
    assert!(code == 1 && stderr.contains("install the chart annulus-crds"), "{code} {stderr}");
    let forbidden = Fake::start(|_, _, _| refusal(403, "user u cannot list", None)).await;
    let (code, _, stderr) = forbidden.run(&["pause"]).await;
    assert!(code == 1 && stderr.contains("you may not list StorageClusters"), "{code} {stderr}");
    let down = Fake::start(|_, path, _| (200, cluster(path.rsplit('/').next().unwrap(), "False"))).await;
    let (code, shown, stderr) = down.run(&["status", "demo"]).await;
    assert!(code == 4 && shown.contains("not available: as it is") && stderr.contains("as it is"), "{code} {stderr}");
}

#[tokio::test]
async fn a_drain_is_an_annotation_that_is_written_only_to_what_was_read() {
    let first = Mutex::new(true);
    let clusters = clusters(&["other", "demo"]);
    let fake = Fake::start(move |method, path, body| match *method {
        Method::PATCH if std::mem::take(&mut *first.lock().unwrap()) => refusal(409, "it was modified", Some("demo")),
        Method::PATCH => (200, cluster("demo", "True")),
        _ => clusters(method, path, body),
    })
    .await;
    let (code, stdout, stderr) = fake.run(&["drain", "demo-b"]).await;
    assert!(code == 0 && stdout.is_empty() && stderr.starts_with("demo-b is to be drained: "), "{code} {stderr}");
    let patch = json!({"metadata": {"resourceVersion": "7", "annotations": {"annulus.dev/drain": "demo-b"}}});
    let expected = (format!("{CLUSTERS}/demo"), patch);
    assert_eq!(*fake.patches.lock().unwrap(), [expected.clone(), expected]);
    let (code, _, stderr) = fake.run(&["drain", "demo-x", "--cluster", "demo"]).await;
    assert!(code == 1 && stderr.contains("no member `demo-x`") && stderr.contains("demo-a, demo-b"), "{code} {stderr}");
    let (code, _, stderr) = fake.run(&["drain", "demo-a", "demo-b"]).await;
    assert!(code == 1 && stderr.contains("only 2 members would be left"), "{code} {stderr}");
    let (code, _, stderr) = fake.run(&["drain", "demo-a", "--wait", "--timeout", "1ms"]).await;
    assert!(code == 4 && stderr.contains("demo-a is Active (128 replicas)"), "{code} {stderr}");
}

#[tokio::test]
async fn a_pause_is_a_field_of_the_spec() {
    let fake = Fake::start(clusters(&["demo"])).await;
    let (code, _, stderr) = fake.run(&["resume"]).await;
    assert!(code == 0 && stderr.contains("is not paused"), "{code} {stderr}");
    let (code, _, stderr) = fake.run(&["pause"]).await;
    assert!(code == 0 && stderr.contains("shop/demo is paused"), "{code} {stderr}");
    let expected = (format!("{CLUSTERS}/demo"), json!({"spec": {"paused": true}}));
    assert_eq!(*fake.patches.lock().unwrap(), [expected]);
}

#[tokio::test]
async fn a_report_holds_what_could_be_read_and_names_what_could_not() {
    let clusters = clusters(&["demo"]);
    let fake = Fake::start(move |method, path, body| {
        let pod = |name: &str, restarts: u32| {
            json!({
                "metadata": {"name": name, "namespace": "shop", "managedFields": []},
                "spec": {"nodeName": "n1", "containers": [{"name": "node", "env": [{"name": "P", "value": "hunter2"}]}]},
                "status": {"containerStatuses": [
                    {"name": "node", "restartCount": restarts, "ready": true, "image": "i", "imageID": "i"}]},
            })
        };
        let of_pod = path.strip_prefix("/api/v1/namespaces/shop/pods/");
        match path.split('?').next().unwrap() {
            "/api/v1/namespaces/shop/pods" => list(&[pod("demo-a", 1), pod("demo-b", 0)]),
            "/api/v1/namespaces/shop/events" => list(&["demo-a", "else"].map(|name| {
                json!({"metadata": {"name": name}, "involvedObject": {"name": name}, "reason": format!("About {name}")})
            })),
            "/api/v1/nodes" => list(&["n1", "n2"].map(|name| json!({"metadata": {"name": name, "labels": {"x": "y"}}}))),
            "/api/v1/pods" => refusal(403, "pods is forbidden at the cluster scope", None),
            _ if path.contains("/secrets") => panic!("Secrets are not to be read"),
            _ if path.starts_with(CLUSTERS) => clusters(method, path, body),
            "/api/v1/namespaces/shop/pods/demo-a/log" if path.contains("previous=true") => (200, json!("the one before\n")),
            "/api/v1/namespaces/shop/pods/demo-a/log" => (200, json!("the last words\n")),
            "/api/v1/namespaces/shop/pods/demo-a:7071/proxy/metrics" => (200, json!("annulus_up 1\n")),
            _ if of_pod.is_some() => refusal(503, "no endpoints available", None),
            _ => list(&[]),
        }
    })
    .await;
    let (code, shown, stderr) = fake.run(&["report", "--to", "r.tar"]).await;
    assert_eq!((code, stderr.as_str()), (0, ""), "{shown}");
    assert!(
        shown.starts_with("r.tar\n") && shown.contains("operator/: pods of all namespaces can't be listed"),
        "{shown}"
    );
    assert!(shown.contains("members/demo-b/node.log: no endpoints available"), "{shown}");
    let mut files = std::collections::BTreeMap::new();
    let mut archive = tar::Archive::new(std::fs::File::open(fake.path().join("r.tar")).unwrap());
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().components().skip(1).collect::<PathBuf>().display().to_string();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut entry, &mut text).unwrap();
        assert!(!text.contains("hunter2") && !text.contains("managedFields"), "{name}: {text}");
        files.insert(name, text);
    }
    assert_eq!(files["members/demo-a/node.log"], "the last words\n");
    assert_eq!(files["members/demo-a/node.previous.log"], "the one before\n");
    assert_eq!(files["members/demo-a/metrics.txt"], "annulus_up 1\n");
    assert!(!files.contains_key("members/demo-b/node.previous.log"));
    assert!(files["events.yaml"].contains("About demo-a") && !files["events.yaml"].contains("About else"));
    assert!(files["nodes.yaml"].contains("n1") && !files["nodes.yaml"].contains("n2"));
    assert!(files["storagecluster.yaml"].contains("mapEpoch: 41") && files["pods.yaml"].contains("demo-b"));
    assert!(files["contents.txt"].contains("members/demo-c/: it has no pod"), "{}", files["contents.txt"]);
    let (code, _, stderr) = fake.run(&["report", "--to", "r.tar"]).await;
    assert!(code == 2 && stderr.contains("is there already"), "{code} {stderr}");
}

#[tokio::test]
async fn sidecars_are_listed_with_the_locks_that_each_of_them_tells() {
    let fake = Fake::start(|_, path, _| {
        let pod = |name: &str, port: &str| {
            json!({"metadata": {"name": name, "labels": {"annulus.dev/sidecar": "demo"},
                                "annotations": {"annulus.dev/sidecar-version": "0.4.0",
                                                "annulus.dev/sidecar-status-port": port}},
                   "spec": {"nodeName": "worker-a", "containers": []}, "status": {"phase": "Running"}})
        };
        let pods = "/api/v1/namespaces/shop/pods";
        match path.strip_prefix(pods) {
            Some(rest) if !rest.starts_with('/') && rest.contains("annulus.dev%2Fsidecar") => {
                list(&[pod("web-1", "7071"), pod("web-2", "8071")])
            }
            Some("/web-2:8071/proxy/sidecar/locks") => {
                (200, json!({"version": "0.5.0", "locks": [{"name": "leader"}]}))
            }
            _ => refusal(503, "no endpoint", None),
        }
    })
    .await;
    let (code, shown, stderr) = fake.run(&["sidecars"]).await;
    assert_eq!((code, stderr.as_str()), (0, ""), "{shown}");
    let lines: Vec<String> = shown.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        lines[..3],
        ["pod node version cluster ready locks", "web-1 worker-a 0.4.0 demo NO -", "web-2 worker-a 0.5.0 demo NO 1"]
    );
    assert!(lines[4].contains("web-1 does not tell its locks"), "{shown}");
    let (_, json, _) = fake.run(&["sidecars", "-o", "json"]).await;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["sidecars"][1]["locks"], &json["sidecars"][0]["locks"]), (&json!(1), &Value::Null));
}
