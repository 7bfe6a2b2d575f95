//! The operator comes and goes, and members run on: it is upgraded, doubled, killed, outdated, uninstalled and installed again.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};

use crate::cluster::{ADMIN_PORT, Cluster, IMAGE, PATIENCE, Pod, list, number, text};
use crate::kubernetes::SYSTEM;
use crate::scenario::Scenario;
use crate::wait::{holds, until};

/// The operator's Lease.
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/annulus-system/leases/annulus-operator";
const CRD: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/storageclusters.annulus.dev";
/// How long replicas may take to move, with another operator that has to wait for the lease first.
const MOVE_PATIENCE: Duration = Duration::from_secs(180);

#[tokio::test]
async fn members_run_on_whatever_becomes_of_the_operator() {
    let Some(scenario) = Scenario::begin("operators").await else { return };
    let steady = scenario.cluster("steady");
    // Without an image: members run what the operator's release names, and a newer operator does not change that.
    steady.create(3, &json!({"image": null})).await;
    steady.until_settled(3, PATIENCE).await;
    steady.put("key", "value").await;

    upgrade(&steady).await;
    kill_the_leader_of_two(&steady).await;
    refuse_an_older_operator(&steady).await;
    uninstall(&steady).await;
    scenario.end().await;
}

async fn operators(steady: &Cluster<'_>) -> Result<Vec<String>, String> {
    let selector = "app.kubernetes.io%2Fname%3Dannulus-operator";
    let path = format!("/api/v1/namespaces/{SYSTEM}/pods?labelSelector={selector}");
    let found = steady.scenario.kubernetes.get(&path).await?;
    let running = list(&found, "/items").iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    Ok(running.map(|pod| text(pod, "/metadata/name").to_owned()).collect())
}

/// Who holds the lease, one of those who run.
async fn leader(steady: &Cluster<'_>) -> Result<String, String> {
    let lease = steady.scenario.kubernetes.get(LEASE).await?;
    let holder = text(&lease, "/spec/holderIdentity").to_owned();
    let operators = operators(steady).await?;
    holds(operators.contains(&holder), || format!("the lease is held by {holder:?}, and there are {operators:?}"))?;
    Ok(holder)
}

/// Waits until an operator has looked at a change of the spec that asks for nothing to be done at once.
async fn until_looked_at(steady: &Cluster<'_>, when_scaled: &str, members: usize) {
    steady.change(&json!({"volumeRetention": {"whenScaled": when_scaled}})).await;
    steady.until_settled(members, MOVE_PATIENCE).await;
}

fn same(pods: &[Pod], before: &[Pod], what: &str) {
    assert_eq!(pods, before, "{what}: members are the same pods, and none was started again");
}

/// Both charts, to two operators of a release with another image for members.
async fn upgrade(steady: &Cluster<'_>) {
    let (pods, began) = (steady.pods_now().await, Instant::now());
    let changes = ["--set", "replicas=2", "--set", "nodeImage.tag=dev2", "--set", "podAnnotations.upgraded=yes"];
    steady.scenario.kubernetes.install(&changes).await;
    until("the lease is held by one of two", PATIENCE, async || {
        let operators = operators(steady).await?;
        holds(operators.len() == 2, || format!("{operators:?}"))?;
        leader(steady).await
    })
    .await;
    until_looked_at(steady, "Retain", 3).await;
    same(&steady.pods_now().await, &pods, "an upgrade of the charts");
    steady.scenario.tell("the charts were upgraded", began);
}

/// The other one goes on in the middle of a change.
async fn kill_the_leader_of_two(steady: &Cluster<'_>) {
    let began = Instant::now();
    let (pods, first) =
        (steady.pods_now().await, until("somebody leads", PATIENCE, async || leader(steady).await).await);
    until_looked_at(steady, "Delete", 3).await;
    steady.scale(5).await;
    steady.until("it grows", PATIENCE, |it| number(it, "/status/replicas") == 5).await;
    let words = ["delete", "pod", &first, "--grace-period=0", "--force", "--namespace", SYSTEM];
    steady.scenario.kubernetes.kubectl(&words, "").await;
    until("another one leads", PATIENCE, async || {
        let now = leader(steady).await?;
        holds(now != first, || format!("{now} still leads"))
    })
    .await;
    steady.until_settled(5, MOVE_PATIENCE).await;
    let now = steady.pods_now().await;
    assert!(pods.iter().all(|pod| now.contains(pod)), "those who were there are the same pods: {now:#?}");
    assert!(now.iter().all(|pod| pod.image == IMAGE), "new members run what the others run: {now:#?}");
    steady.scenario.tell("the leader of two operators was killed in the middle of a change", began);
}

/// What an operator says that was replaced is refused by the store: another has spoken since.
async fn refuse_an_older_operator(steady: &Cluster<'_>) {
    let pods = steady.pods_now().await;
    let member = pods[0].name.clone();
    let resource = steady.resource().await.expect("the resource can be read");
    let members = list(&resource, "/status/members");
    let id = members.iter().find(|it| text(it, "/name") == member).map(|it| text(it, "/id")).unwrap_or_default();
    let (path, namespace) = (format!("/admin/v1/members/{id}/drain"), steady.scenario.namespace.as_str());
    until("an older operator's change is refused", PATIENCE, async || {
        let headers = [("annulus-operator-fence", "1")];
        let at = (namespace, member.as_str(), ADMIN_PORT);
        let answer = steady.scenario.kubernetes.ask(Method::POST, at, &path, &headers, "").await?;
        let problem: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        assert!(answer.status >= 400, "it was done: {}", answer.text());
        holds(answer.status == 409 && text(&problem, "/type").ends_with("stale-fence"), || answer.text())
    })
    .await;
}

/// Without an operator everything stays as it is, and a new one takes it over as it is.
async fn uninstall(steady: &Cluster<'_>) {
    let (kubernetes, began) = (&steady.scenario.kubernetes, Instant::now());
    let pods = steady.pods_now().await;
    kubernetes.helm(&["uninstall", "annulus-operator", "--wait"]).await;
    kubernetes.helm(&["uninstall", "annulus-crds", "--wait"]).await;
    let crd = kubernetes.get(CRD).await.expect("the custom resource is still known");
    assert!(crd["metadata"]["deletionTimestamp"].is_null(), "and nobody deletes it");
    let resource = steady.resource().await.expect("the cluster is still there");
    assert!(resource["metadata"]["deletionTimestamp"].is_null(), "and nobody deletes it");
    same(&steady.pods_now().await, &pods, "an uninstallation");
    assert_eq!(steady.value("key").await.as_deref(), Some("value"), "and serves");
    kubernetes.install(&[]).await;
    until_looked_at(steady, "Retain", 5).await;
    same(&steady.pods_now().await, &pods, "another installation");
    steady.scenario.tell("the charts were uninstalled and installed again", began);
}
