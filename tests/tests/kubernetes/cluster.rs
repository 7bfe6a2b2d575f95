//! A StorageCluster, as its user sees it.

use std::collections::BTreeSet;
use std::time::Duration;

use annulus_tests::processes::Answer;
use http::Method;
use serde_json::{Value, json};

use crate::command::Failed;
use crate::scenario::Scenario;
use crate::wait::{holds, until};

/// The image of members, and the same under another tag.
pub(crate) const IMAGE: &str = "annulus/node:dev";
pub(crate) const OTHER_IMAGE: &str = "annulus/node:dev2";
/// The ports of a member.
pub(crate) const CLIENT_PORT: u16 = 7070;
pub(crate) const ADMIN_PORT: u16 = 7071;
/// How long pods and what is deleted may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A cluster by its name.
pub(crate) struct Cluster<'a> {
    /// Where it is.
    pub(crate) scenario: &'a Scenario,
    /// Its name.
    pub(crate) name: String,
}

/// A member's pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) restarts: u64,
    pub(crate) node: String,
    pub(crate) image: String,
    pub(crate) is_ready: bool,
}

/// A cluster of little of everything.
pub(crate) fn small(name: &str, members: u32) -> Value {
    json!({
        "apiVersion": "annulus.dev/v1alpha1",
        "kind": "StorageCluster",
        "metadata": {"name": name},
        "spec": {
            "replicas": members,
            "replicationFactor": members.min(3),
            "partitions": 16,
            "image": IMAGE,
            "imagePullPolicy": "Never",
            "storage": {"size": "128Mi"},
            "resources": {"requests": {"cpu": "20m", "memory": "48Mi"}, "limits": {"memory": "256Mi"}},
            "settings": {"cacheBytes": "4MiB"},
            "volumeRetention": {"whenDeleted": "Delete"},
        },
    })
}

/// `whole` with what `part` says: null takes away.
pub(crate) fn merge(whole: &mut Value, part: &Value) {
    let (Value::Object(fields), Value::Object(changes)) = (&mut *whole, part) else {
        *whole = part.clone();
        return;
    };
    for (name, change) in changes {
        if change.is_null() {
            fields.remove(name);
        } else {
            merge(fields.entry(name.clone()).or_insert(Value::Null), change);
        }
    }
}

/// A text in a document; empty where there is none.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A number in a document; 0 where there is none.
pub(crate) fn number(value: &Value, pointer: &str) -> i64 {
    value.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
}

/// A list in a document; empty where there is none.
pub(crate) fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// A condition of a resource: its status, its reason and its message.
pub(crate) fn condition<'a>(resource: &'a Value, kind: &str) -> (&'a str, &'a str, &'a str) {
    let found = list(resource, "/status/conditions").iter().find(|it| text(it, "/type") == kind);
    found.map_or(("", "", ""), |it| (text(it, "/status"), text(it, "/reason"), text(it, "/message")))
}

/// What a status says, in a few words.
fn summary(resource: &Value) -> String {
    let conditions =
        ["Available", "Progressing", "Degraded"].map(|kind| format!("{kind} {:?}", condition(resource, kind)));
    format!(
        "phase {:?}, ring {:?}, {} of {} ready, plan {}, generation {} of {}; {}",
        text(resource, "/status/phase"),
        text(resource, "/status/ring"),
        number(resource, "/status/readyReplicas"),
        number(resource, "/spec/replicas"),
        resource["status"]["plan"],
        number(resource, "/status/observedGeneration"),
        number(resource, "/metadata/generation"),
        conditions.join(", ")
    )
}

impl Cluster<'_> {
    /// Makes it: a small one, with these changes to its spec.
    pub(crate) async fn create(&self, members: u32, changes: &Value) {
        let mut resource = small(&self.name, members);
        merge(&mut resource, &json!({"spec": changes}));
        self.scenario.create(&resource).await;
    }

    fn path(&self) -> String {
        let group = "/apis/annulus.dev/v1alpha1";
        format!("{group}/namespaces/{}/storageclusters/{}", self.scenario.namespace, self.name)
    }

    /// The resource as it is now.
    pub(crate) async fn resource(&self) -> Result<Value, String> {
        self.scenario.kubernetes.get(&self.path()).await
    }

    /// Changes its spec, unless that is refused.
    pub(crate) async fn try_change(&self, spec: &Value) -> Result<String, Failed> {
        let patch = json!({"spec": spec}).to_string();
        let words = ["patch", "storagecluster", &self.name, "--namespace", &self.scenario.namespace];
        let words: Vec<&str> = words.into_iter().chain(["--type", "merge", "--patch", &patch]).collect();
        self.scenario.kubernetes.try_kubectl(&words, "").await
    }

    /// Changes its spec.
    pub(crate) async fn change(&self, spec: &Value) {
        self.try_change(spec).await.unwrap_or_else(|failed| panic!("{failed}"));
    }

    /// Scales it, as one scales anything.
    pub(crate) async fn scale(&self, members: u32) {
        let (name, count) = (format!("storagecluster/{}", self.name), format!("--replicas={members}"));
        self.scenario.kubernetes.kubectl(&["scale", &name, &count, "--namespace", &self.scenario.namespace], "").await;
    }

    /// Deletes it, and waits until it is gone.
    pub(crate) async fn delete(&self) {
        let words = ["delete", "storagecluster", &self.name, "--namespace", &self.scenario.namespace, "--wait=false"];
        self.scenario.kubernetes.kubectl(&words, "").await;
        until("the cluster goes", PATIENCE, async || self.scenario.kubernetes.is_gone(&self.path()).await).await;
    }

    /// Waits until its status is like this.
    pub(crate) async fn until(&self, what: &str, patience: Duration, is: impl Fn(&Value) -> bool) -> Value {
        until(&format!("{}: {what}", self.name), patience, async || {
            let resource = self.resource().await?;
            holds(is(&resource), || summary(&resource))?;
            Ok(resource)
        })
        .await
    }

    /// Waits until it has this many members, all of them are ready, and there is nothing to do about its newest spec.
    pub(crate) async fn until_settled(&self, members: usize, patience: Duration) -> Value {
        self.until(&format!("it settles with {members} members"), patience, |resource| {
            let count = i64::try_from(members).unwrap_or(i64::MAX);
            number(resource, "/status/observedGeneration") == number(resource, "/metadata/generation")
                && text(resource, "/status/phase") == "Running"
                && text(resource, "/status/ring") == "Balanced"
                && resource["status"]["plan"].is_null()
                && condition(resource, "Available").0 == "True"
                && number(resource, "/status/readyReplicas") == count
                && list(resource, "/status/members").len() == members
                && list(resource, "/status/members").iter().all(|it| text(it, "/state") == "Active")
        })
        .await
    }

    fn selector(&self) -> String {
        let labels = ["name=annulus".to_owned(), format!("instance={}", self.name), "component=member".to_owned()];
        labels.map(|label| format!("app.kubernetes.io%2F{}", label.replace('=', "%3D"))).join("%2C")
    }

    /// The pods of its members, in the order of their names.
    pub(crate) async fn pods(&self) -> Result<Vec<Pod>, String> {
        let found = self.scenario.get(&format!("pods?labelSelector={}", self.selector())).await?;
        let pod = |pod: &Value| Pod {
            name: text(pod, "/metadata/name").to_owned(),
            uid: text(pod, "/metadata/uid").to_owned(),
            restarts: number(pod, "/status/containerStatuses/0/restartCount").unsigned_abs(),
            node: text(pod, "/spec/nodeName").to_owned(),
            image: text(pod, "/spec/containers/0/image").to_owned(),
            is_ready: list(pod, "/status/conditions")
                .iter()
                .any(|it| text(it, "/type") == "Ready" && text(it, "/status") == "True"),
        };
        let mut pods: Vec<Pod> = list(&found, "/items").iter().map(pod).collect();
        pods.sort();
        Ok(pods)
    }

    /// The pods of its members, which the API server has to tell soon.
    pub(crate) async fn pods_now(&self) -> Vec<Pod> {
        until("pods are listed", PATIENCE, async || self.pods().await).await
    }

    /// The names of its members' pods.
    pub(crate) async fn names(&self) -> BTreeSet<String> {
        self.pods_now().await.into_iter().map(|pod| pod.name).collect()
    }

    /// The names of its volumes' claims.
    pub(crate) async fn volumes(&self) -> Result<BTreeSet<String>, String> {
        let found = self.scenario.get(&format!("persistentvolumeclaims?labelSelector={}", self.selector())).await?;
        Ok(list(&found, "/items").iter().map(|it| text(it, "/metadata/name").to_owned()).collect())
    }

    /// Asks one of its members.
    pub(crate) async fn ask(&self, method: Method, pod: &str, path: &str, body: &str) -> Result<Answer, String> {
        let at = (self.scenario.namespace.as_str(), pod, CLIENT_PORT);
        self.scenario.kubernetes.ask(method, at, path, &[], body).await
    }

    /// Puts a key through any of its members.
    pub(crate) async fn put(&self, key: &str, value: &str) {
        until("a key is put", PATIENCE, async || {
            let pod = self.pods().await?.into_iter().find(|pod| pod.is_ready).ok_or("no pod is ready")?;
            let answer = self.ask(Method::PUT, &pod.name, &format!("/v1/kv/{key}"), value).await?;
            holds(matches!(answer.status, 200 | 201 | 204), || format!("{}: {}", answer.status, answer.text()))
        })
        .await;
    }

    /// What is under a key, through any of its members.
    pub(crate) async fn value(&self, key: &str) -> Option<String> {
        until("a key is read", PATIENCE, async || {
            let pod = self.pods().await?.into_iter().find(|pod| pod.is_ready).ok_or("no pod is ready")?;
            let answer = self.ask(Method::GET, &pod.name, &format!("/v1/kv/{key}"), "").await?;
            match answer.status {
                200 => Ok(Some(answer.text())),
                // The API server has a 404 of its own, for a pod that is gone.
                404 if !answer.text().contains("\"kind\":\"Status\"") => Ok(None),
                status => Err(format!("{status}: {}", answer.text())),
            }
        })
        .await
    }
}
