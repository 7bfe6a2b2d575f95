//! An application with a sidecar: replicas that count under one lock through the store on their localhost.

use std::time::Duration;

use annulus_tests::processes::{Count, tell};
use http::Method;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::cluster::{Cluster, PATIENCE, list, merge, number, text};
use crate::scenario::Scenario;
use crate::wait::{holds, until};

/// The key that is counted at, and the lock's name.
pub(crate) const COUNT: &str = "counter";
/// The lease.
pub(crate) const TTL: Duration = Duration::from_secs(8);
const IMAGE: &str = "annulus/load:dev";
/// How long one member is asked for.
const ASK_PATIENCE: Duration = Duration::from_secs(1);
/// The application's container.
const CONTAINER: &str = "app";
/// The container beside it.
pub(crate) const SIDECAR: &str = "annulus-sidecar";
/// How many entries of the ledger are read at once.
const PAGE: usize = 1000;

/// Its pods.
pub(crate) struct Application<'a> {
    pub(crate) store: &'a Cluster<'a>,
    pub(crate) name: String,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Replica {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) node: String,
    /// Whether all its containers are ready.
    pub(crate) is_ready: bool,
    pub(crate) has_sidecar: bool,
    /// How often the application was started again.
    pub(crate) restarts: i64,
    /// How often the sidecar was started again.
    pub(crate) sidecar_restarts: i64,
    /// Whether the application has ended by itself with what it saw, now or before it was started again.
    pub(crate) has_failed: bool,
}

/// What a pod of it is.
pub(crate) fn template(name: &str, words: &[&str], annotations: &Value) -> Value {
    let arguments: Vec<&str> = ["--count", COUNT].into_iter().chain(words.iter().copied()).collect();
    json!({
        "metadata": {"labels": {"app": name}, "annotations": annotations},
        "spec": {
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 10,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": CONTAINER, "image": IMAGE, "imagePullPolicy": "Never", "command": ["/annulus-load"], "args": arguments,
                "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    })
}

/// The annotation that asks for a sidecar.
pub(crate) fn inject(cluster: &str) -> Value {
    json!({"annulus.dev/inject": cluster})
}

impl<'a> Application<'a> {
    /// Deploys it, and waits until it counts.
    pub(crate) async fn deploy(store: &'a Cluster<'a>, name: &str, replicas: u32) -> Self {
        let ttl = TTL.as_millis().to_string();
        let mut template = template(name, &["--ttl-ms", &ttl], &inject(&store.name));
        // Wherever a node is lost, there is another place, and none of them is waited for longer than for the others.
        let at_once = json!([
            {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 600},
            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 600},
        ]);
        let spread = json!([{
            "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"app": name}},
        }]);
        merge(&mut template, &json!({"spec": {"tolerations": at_once, "topologySpreadConstraints": spread}}));
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template},
        });
        store.scenario.create(&deployment).await;
        let application = Self { store, name: name.to_owned() };
        application.until_ready(replicas as usize).await;
        application.more(5, PATIENCE).await;
        application
    }

    fn scenario(&self) -> &'a Scenario {
        self.store.scenario
    }

    /// Its pods, those that are being deleted left out.
    pub(crate) async fn replicas(&self) -> Result<Vec<Replica>, String> {
        let found = self.scenario().get(&format!("pods?labelSelector=app%3D{}", self.name)).await?;
        let stays = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
        Ok(list(&found, "/items").iter().filter(stays).map(replica).collect())
    }

    /// Waits until so many of them are ready, each with its sidecar.
    pub(crate) async fn until_ready(&self, count: usize) -> Vec<Replica> {
        until("every replica runs with its sidecar", PATIENCE, async || {
            let replicas = self.replicas().await?;
            let ready = replicas.iter().filter(|replica| replica.is_ready && replica.has_sidecar).count();
            holds(replicas.len() == count && ready == count, || format!("{replicas:#?}"))?;
            Ok(replicas)
        })
        .await
    }

    /// The pod that holds the lock now, and its token.
    pub(crate) async fn holder(&self) -> Result<(String, u64), String> {
        let answer = self.ask(&format!("/v1/locks/{COUNT}")).await?;
        let lock: Value = serde_json::from_str(&answer).map_err(|error| format!("{error}: {answer}"))?;
        let holder = list(&lock, "/holders").first().ok_or_else(|| format!("nobody holds it: {lock}"))?;
        Ok((text(holder, "/owner").to_owned(), number(holder, "/token").unsigned_abs()))
    }

    /// The same, which has to be told soon.
    pub(crate) async fn holder_now(&self) -> (String, u64) {
        until("the lock is read", PATIENCE, async || self.holder().await).await
    }

    /// The replica that holds the lock.
    pub(crate) async fn leader(&self) -> Replica {
        until("one of its pods holds the lock", PATIENCE, async || {
            let (owner, _) = self.holder().await?;
            let replicas = self.replicas().await?;
            let leader = replicas.iter().find(|replica| replica.name == owner).cloned();
            leader.ok_or_else(|| format!("{owner} holds it, of {replicas:#?}"))
        })
        .await
    }

    /// Waits until somebody else than this one holds the lock.
    pub(crate) async fn until_not(&self, token: u64, patience: Duration) -> (String, u64) {
        until("another one holds the lock", patience, async || {
            let (owner, now) = self.holder().await?;
            holds(now > token, || format!("{owner} holds it with token {now}"))?;
            Ok((owner, now))
        })
        .await
    }

    /// Through any member of the store that is ready.
    async fn ask(&self, path: &str) -> Result<String, String> {
        let mut last = "no member is ready".to_owned();
        for pod in self.store.pods().await?.into_iter().filter(|pod| pod.is_ready) {
            // One whose node was just lost is ready still, by what Kubernetes knows.
            match timeout(ASK_PATIENCE, self.store.ask(Method::GET, &pod.name, path, "")).await {
                Ok(Ok(answer)) if answer.status == 200 => return Ok(answer.text()),
                Ok(Ok(answer)) => last = format!("{}: {}", answer.status, answer.text()),
                Ok(Err(error)) => last = error,
                Err(_) => last = format!("{} does not answer", pod.name),
            }
        }
        Err(last)
    }

    /// How far it has come.
    pub(crate) async fn count(&self) -> Result<Count, String> {
        let text = self.ask(&format!("/v1/kv/{COUNT}")).await?;
        serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))
    }

    /// Waits until so much more was counted.
    pub(crate) async fn more(&self, count: u64, patience: Duration) -> Count {
        let before = until("the count is read", patience, async || match self.count().await {
            Err(error) if error.starts_with("404") => Ok(Count::default()),
            read => read,
        })
        .await;
        until("it counts on", patience, async || {
            let now = self.count().await?;
            holds(now.n >= before.n + count, || format!("{now:?}, from {before:?}"))?;
            Ok(now)
        })
        .await
    }

    /// What was counted was counted once, by one holder after the other, and no replica saw anything else.
    pub(crate) async fn judge(&self) {
        let replicas = until("replicas are listed", PATIENCE, async || self.replicas().await).await;
        assert!(replicas.iter().all(|replica| !replica.has_failed), "one has seen what can't be: {replicas:#?}");
        let ledger = until("the ledger is read", PATIENCE, async || self.ledger().await).await;
        let count = until("the count is read", PATIENCE, async || self.count().await).await;
        let (mut last, mut missing) = (Count::default(), 0);
        for entry in &ledger {
            assert!(entry.n > last.n && entry.token >= last.token, "{entry:?} after {last:?}");
            missing += entry.n - last.n - 1;
            last = *entry;
        }
        assert!(last.n <= count.n, "{last:?} was written down, and {count:?} is what was counted");
        tell(format!(
            "{}: counted to {}, under {} tokens; {missing} were not written down by whoever was killed in between",
            self.scenario().namespace,
            count.n,
            ledger.iter().map(|entry| entry.token).collect::<std::collections::BTreeSet<_>>().len()
        ));
    }

    async fn ledger(&self) -> Result<Vec<Count>, String> {
        let (mut entries, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = format!("/v1/kv?prefix={COUNT}%2Fledger%2F&limit={PAGE}&values=true{cursor}");
            let answer = self.ask(&path).await?;
            let page: Value = serde_json::from_str(&answer).map_err(|error| format!("{error}: {answer}"))?;
            for item in list(&page, "/items") {
                let n = text(item, "/key").rsplit('/').next().and_then(|n| n.parse().ok());
                let token = text(item, "/value").parse().ok();
                let entry = n.zip(token).map(|(n, token)| Count { n, token });
                entries.push(entry.ok_or_else(|| format!("{item} is no entry"))?);
            }
            match text(&page, "/cursor") {
                "" => return Ok(entries),
                next => cursor = format!("&cursor={next}"),
            }
        }
    }
}

fn replica(pod: &Value) -> Replica {
    let sidecars = list(pod, "/status/initContainerStatuses");
    let sidecar = sidecars.iter().find(|it| text(it, "/name") == SIDECAR);
    let application = list(pod, "/status/containerStatuses").iter().find(|it| text(it, "/name") == CONTAINER);
    // What it saw that can't be ends it with 1; whoever kills it, with 137.
    let ended = |at: &str| application.is_some_and(|it| number(it, at) == 1);
    Replica {
        name: text(pod, "/metadata/name").to_owned(),
        uid: text(pod, "/metadata/uid").to_owned(),
        node: text(pod, "/spec/nodeName").to_owned(),
        is_ready: list(pod, "/status/conditions")
            .iter()
            .any(|it| text(it, "/type") == "Ready" && text(it, "/status") == "True"),
        has_sidecar: list(pod, "/spec/initContainers").iter().any(|it| text(it, "/name") == SIDECAR),
        restarts: application.map(|it| number(it, "/restartCount")).unwrap_or_default(),
        sidecar_restarts: sidecar.map(|it| number(it, "/restartCount")).unwrap_or_default(),
        has_failed: ended("/state/terminated/exitCode") || ended("/lastState/terminated/exitCode"),
    }
}
