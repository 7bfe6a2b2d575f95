//! What happens to nodes: they lose their power, freeze, can't be reached, lose a disk, and never come back.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::{Cluster, PATIENCE, list, text};
use crate::kubernetes::{skip, that_can_run};
use crate::load::Load;
use crate::nodes::{Fault, Nodes, PROGRAM};
use crate::scenario::Scenario;
use crate::wait::{holds, until};

const KEYS: usize = 2_000;
/// How long a node may take to be back, and a member to be replaced with all that it held.
const NODE_PATIENCE: Duration = Duration::from_secs(240);

#[tokio::test]
async fn a_store_outlives_what_happens_to_its_nodes() {
    let Some(scenario) = Scenario::begin("faults").await else { return };
    let list = scenario.kubernetes.get("/api/v1/nodes").await.expect("nodes are listed");
    let count = that_can_run(&list).len();
    let nodes = Nodes::of(&list).ok_or(format!("they are not kind's, and {PROGRAM} names no program"));
    let nodes = nodes.and_then(|nodes| if count >= 3 { Ok(nodes) } else { Err(format!("there are only {count}")) });
    let mut nodes = match nodes {
        Ok(nodes) => nodes,
        Err(why) => {
            skip(&format!("nothing can be done to these nodes: {why}"));
            return scenario.end().await;
        }
    };
    let tough = scenario.cluster("tough");
    tough.create(3, &json!({})).await;
    tough.until_settled(3, PATIENCE).await;
    let load = Load::begin(&tough, KEYS).await;

    let what = "a node lost its power and came back";
    passes(&tough, &load, &mut nodes, what, (Fault::Kill, Fault::Start)).await;
    let what = "a node froze for longer than a lease";
    passes(&tough, &load, &mut nodes, what, (Fault::Freeze, Fault::Thaw)).await;
    let what = "a node could not be reached";
    passes(&tough, &load, &mut nodes, what, (Fault::Cut, Fault::Heal)).await;
    lose_a_disk(&tough, &load, &nodes).await;
    lose_a_node(&tough, &load, &mut nodes).await;
    load.end().await;
    scenario.end().await;
}

/// A member on a node to which something may be done: its name and the node's.
async fn victim(tough: &Cluster<'_>) -> (String, String) {
    let safe = tough.scenario.kubernetes.safe_node();
    let pods = tough.pods_now().await;
    let victim = pods.iter().find(|pod| pod.node != safe).expect("members are on different nodes");
    (victim.name.clone(), victim.node.clone())
}

fn member<'a>(resource: &'a Value, name: &str) -> &'a Value {
    list(resource, "/status/members").iter().find(|it| text(it, "/name") == name).unwrap_or(&Value::Null)
}

/// Something happens to a node, the others do without it, it passes, and nobody was replaced.
async fn passes(tough: &Cluster<'_>, load: &Load<'_>, nodes: &mut Nodes, what: &str, (fault, remedy): (Fault, Fault)) {
    let began = Instant::now();
    let names = tough.names().await;
    let (name, node) = victim(tough).await;
    nodes.act(fault, &node).await;
    // Its peers have not heard of it for seconds, which is longer than any lease.
    let missed = |resource: &Value| text(member(resource, &name), "/state") == "Unreachable";
    tough.until(&format!("{name} is missed"), PATIENCE, missed).await;
    load.more(100).await;
    nodes.act(remedy, &node).await;
    tough.until_settled(3, NODE_PATIENCE).await;
    assert_eq!(tough.names().await, names, "nobody was replaced");
    tough.scenario.tell(what, began);
    load.phase(what).await;
}

/// The folder behind a volume is empty when its member starts again: under the same name there is a new member.
async fn lose_a_disk(tough: &Cluster<'_>, load: &Load<'_>, nodes: &Nodes) {
    let began = Instant::now();
    let (name, node) = victim(tough).await;
    let resource = tough.resource().await.expect("the resource can be read");
    let id = text(member(&resource, &name), "/id").to_owned();
    let scenario = tough.scenario;
    let claim = scenario.get(&format!("persistentvolumeclaims/{name}")).await.expect("the claim can be read");
    let volume = format!("/api/v1/persistentvolumes/{}", text(&claim, "/spec/volumeName"));
    let volume = scenario.kubernetes.get(&volume).await.expect("the volume can be read");
    let folder = [text(&volume, "/spec/hostPath/path"), text(&volume, "/spec/local/path")].concat();
    if folder.is_empty() {
        return skip("volumes of this storage class are no folders of a node, and none can be emptied");
    }
    // Nobody may write to it any more when it is emptied.
    tough.change(&json!({"paused": true})).await;
    tough.until("it is paused", PATIENCE, |resource| text(resource, "/status/phase") == "Paused").await;
    let words = ["delete", "pod", &name, "--wait=false", "--namespace", &scenario.namespace];
    scenario.kubernetes.kubectl(&words, "").await;
    let path = format!("/api/v1/namespaces/{}/pods/{name}", scenario.namespace);
    until("the pod goes", PATIENCE, async || scenario.kubernetes.is_gone(&path).await).await;
    nodes.empty(&node, &folder).await;
    tough.change(&json!({"paused": false})).await;
    tough
        .until("the member begins anew", NODE_PATIENCE, |resource| {
            let now = text(member(resource, &name), "/id");
            !now.is_empty() && now != id
        })
        .await;
    tough.until_settled(3, NODE_PATIENCE).await;
    scenario.tell("a member found its disk empty", began);
    load.phase("a member found its disk empty").await;
}

/// A node never comes back: another member takes the place of the one on it.
async fn lose_a_node(tough: &Cluster<'_>, load: &Load<'_>, nodes: &mut Nodes) {
    let began = Instant::now();
    let (name, node) = victim(tough).await;
    let kubernetes = &tough.scenario.kubernetes;
    let path = format!("/api/v1/nodes/{node}");
    let labels = kubernetes.get(&path).await.expect("the node can be read")["metadata"]["labels"].take();
    tough.change(&json!({"replacement": {"afterSeconds": 10}})).await;
    tough.until_settled(3, PATIENCE).await;
    nodes.act(Fault::Kill, &node).await;
    kubernetes.kubectl(&["delete", "node", &node, "--wait=false"], "").await;
    until("another member takes its place", NODE_PATIENCE, async || {
        let resource = tough.resource().await?;
        let members = list(&resource, "/status/members");
        let is_there = members.iter().any(|it| text(it, "/name") == name);
        holds(!is_there && members.len() == 3, || format!("{members:#?}"))
    })
    .await;
    tough.until_settled(3, NODE_PATIENCE).await;
    tough.scenario.tell("a member whose node is gone was replaced", began);
    load.phase("a member whose node is gone was replaced").await;

    // For whoever uses the cluster next: it comes back as a new node, without what others had written on it.
    nodes.act(Fault::Start, &node).await;
    until("the node is back", NODE_PATIENCE, async || kubernetes.get(&path).await).await;
    let patch = json!({"metadata": {"labels": labels}}).to_string();
    kubernetes.kubectl(&["patch", "node", &node, "--type", "merge", "--patch", &patch], "").await;
}
