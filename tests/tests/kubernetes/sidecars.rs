//! Applications with the store on their localhost: whatever happens to them, to their sidecars, to their nodes and to the store, one
//! of them counts, and no number is counted twice.

use std::time::{Duration, Instant};

use annulus_tests::processes::tell;
use serde_json::json;

use crate::application::{Application, COUNT, SIDECAR, TTL};
use crate::cluster::{Cluster, PATIENCE};
use crate::kubernetes::{skip, that_can_run};
use crate::nodes::{Fault, Nodes, PROGRAM};
use crate::scenario::Scenario;
use crate::wait::{holds, until};

/// The bar for a lock of a pod that was deleted, from the end of its application on.
const RELEASE_TARGET: Duration = Duration::from_secs(1);
/// The bar for a lock of a node that was lost, beyond its lease.
const LOSS_TARGET: Duration = Duration::from_secs(2);
/// What is asserted of a lock that was given up, on slow machines: less than its lease, after which anybody would have it.
const RELEASE_BOUND: Duration = Duration::from_secs(7);
/// What is asserted instead, for slow machines.
const BOUND: Duration = Duration::from_secs(20);
/// How long replicas may take to move.
const MOVE_PATIENCE: Duration = Duration::from_secs(180);

#[tokio::test]
async fn applications_count_under_a_lock_that_ends_with_their_pod() {
    let Some(scenario) = Scenario::begin("sidecars").await else { return };
    let store = scenario.cluster("demo");
    store.create(3, &json!({})).await;
    store.until_settled(3, PATIENCE).await;
    let app = Application::deploy(&store, "app", 3).await;

    delete_the_leader(&app).await;
    scale_the_store(&app).await;
    trouble(&app).await;
    app.judge().await;
    delete_the_store(&app).await;
    scenario.end().await;
}

/// Its sidecar ends last, and gives up what it holds.
async fn delete_the_leader(app: &Application<'_>) {
    let leader = app.leader().await;
    let (_, token) = app.holder_now().await;
    let words = ["delete", "pod", &leader.name, "--wait=false", "--namespace", &app.store.scenario.namespace];
    app.store.scenario.kubernetes.kubectl(&words, "").await;
    let began = Instant::now();
    // Within its lease: it was given up.
    let (next, _) = app.until_not(token, RELEASE_BOUND).await;
    let took = began.elapsed();
    app.store.scenario.tell(&format!("the leader's pod was deleted, and {next} holds the lock"), began);
    assert_ne!(next, leader.name);
    if took > RELEASE_TARGET {
        tell(format!("the target of {RELEASE_TARGET:?} was missed"));
    }
    app.more(10, PATIENCE).await;
    app.until_ready(3).await;
}

async fn scale_the_store(app: &Application<'_>) {
    let before = app.holder_now().await;
    for members in [5, 3] {
        let began = Instant::now();
        app.store.scale(members).await;
        app.store.until_settled(members as usize, MOVE_PATIENCE).await;
        app.more(10, PATIENCE).await;
        app.store.scenario.tell(&format!("the store was scaled to {members} under its applications"), began);
    }
    assert_eq!(app.holder_now().await, before, "nobody has lost the lock by that");
    app.judge().await;
}

/// What can only be done to nodes.
async fn trouble(app: &Application<'_>) {
    let list = app.store.scenario.kubernetes.get("/api/v1/nodes").await.expect("nodes are listed");
    let count = that_can_run(&list).len();
    let Some(mut nodes) = Nodes::of(&list).filter(|_| count >= 3) else {
        return skip(&format!(
            "nothing can be done to {count} nodes: they are not kind's, and {PROGRAM} names no program"
        ));
    };
    crash_the_sidecar(app, &nodes).await;
    crash_the_application(app, &nodes).await;
    lose_the_node(app, &mut nodes, (Fault::Freeze, Fault::Thaw), "froze for longer than the lease").await;
    lose_the_node(app, &mut nodes, (Fault::Kill, Fault::Start), "lost its power").await;
}

/// It comes back with its locks.
async fn crash_the_sidecar(app: &Application<'_>, nodes: &Nodes) {
    let leader = app.leader().await;
    let (_, token) = app.holder_now().await;
    nodes.crash(&leader.node, &leader.uid, "annulus sidecar").await;
    until("the sidecar was started again", PATIENCE, async || {
        let replicas = app.replicas().await?;
        let now = replicas.iter().find(|replica| replica.name == leader.name);
        let again = now.is_some_and(|now| now.sidecar_restarts > leader.sidecar_restarts && now.is_ready);
        holds(again, || format!("{SIDECAR} of {replicas:#?}"))
    })
    .await;
    app.more(10, PATIENCE).await;
    let (owner, now) = app.holder_now().await;
    tell(format!(
        "{}: the leader's sidecar was killed; {owner} holds {COUNT} with token {now}, of {token} before",
        app.store.scenario.namespace
    ));
    assert_eq!((owner, now), (leader.name, token), "the lock was kept");
    app.judge().await;
}

/// The lock is the pod's: the application that was started again has it, with the token that it had.
async fn crash_the_application(app: &Application<'_>, nodes: &Nodes) {
    let (leader, before) = (app.leader().await, app.holder_now().await);
    nodes.crash(&leader.node, &leader.uid, "annulus-load --count").await;
    until("the application was started again", PATIENCE, async || {
        let replicas = app.replicas().await?;
        let now = replicas.iter().find(|replica| replica.name == leader.name);
        let again = now.is_some_and(|now| now.restarts > leader.restarts && now.is_ready);
        holds(again, || format!("{replicas:#?}"))
    })
    .await;
    app.more(10, PATIENCE).await;
    assert_eq!(app.holder_now().await, before);
    app.judge().await;
}

/// The lease ends, another one holds the lock, and whoever comes back writes nothing more under it.
async fn lose_the_node(app: &Application<'_>, nodes: &mut Nodes, (fault, remedy): (Fault, Fault), what: &str) {
    let scenario = app.store.scenario;
    let leader = off_the_safe_node(app).await;
    let (_, token) = app.holder_now().await;
    let began = Instant::now();
    nodes.act(fault, &leader.node).await;
    let (next, _) = app.until_not(token, TTL + LOSS_TARGET + BOUND).await;
    let took = began.elapsed();
    scenario.tell(&format!("the leader's node {what}, and {next} holds the lock"), began);
    if took > TTL + LOSS_TARGET {
        tell(format!("the target of {:?} was missed", TTL + LOSS_TARGET));
    }
    app.more(10, PATIENCE).await;
    nodes.act(remedy, &leader.node).await;
    app.store.until_settled(3, MOVE_PATIENCE).await;
    app.until_ready(3).await;
    app.more(10, PATIENCE).await;
    app.judge().await;
}

/// The leader, on a node to which something may be done: one that is elsewhere is deleted until it is there.
async fn off_the_safe_node(app: &Application<'_>) -> crate::application::Replica {
    let kubernetes = &app.store.scenario.kubernetes;
    for _ in 0..10 {
        let leader = app.leader().await;
        if leader.node != kubernetes.safe_node() {
            return leader;
        }
        let (_, token) = app.holder_now().await;
        kubernetes
            .kubectl(&["delete", "pod", &leader.name, "--namespace", &app.store.scenario.namespace, "--wait=false"], "")
            .await;
        app.until_not(token, TTL + BOUND).await;
        app.until_ready(3).await;
    }
    panic!("the leader is always on {}", kubernetes.safe_node());
}

/// Applications are told that there is no store, and go on asking; nothing of theirs is stuck.
async fn delete_the_store(app: &Application<'_>) {
    let began = Instant::now();
    let scenario = app.store.scenario;
    app.store.delete().await;
    let replicas = until("replicas are listed", PATIENCE, async || app.replicas().await).await;
    let said_of = async |name: &str| {
        let words = ["logs", name, "--container", "app", "--tail", "5", "--namespace", &scenario.namespace];
        scenario.kubernetes.try_kubectl(&words, "").await.map_err(|failed| failed.to_string())
    };
    for replica in &replicas {
        until("each application is told that there is no store", PATIENCE, async || {
            let said = said_of(&replica.name).await?;
            holds(said.contains("\"status\":503") || said.contains("\"status\":504"), || said.clone())
        })
        .await;
    }
    scenario.tell("the store was deleted under its applications, and they are told so", began);
    scenario.kubernetes.kubectl(&["delete", "deployment", "app", "--namespace", &scenario.namespace], "").await;
}

/// What a cluster's sidecars are, as its status has it.
pub(crate) async fn until_counted(store: &Cluster<'_>, total: i64) {
    store
        .until("its sidecars are counted", PATIENCE, |it| {
            it.pointer("/status/sidecars/total").and_then(serde_json::Value::as_i64).unwrap_or_default() == total
        })
        .await;
}
