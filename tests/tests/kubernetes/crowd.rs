//! Many clusters of one operator: what it takes, what it asks of the API server when there is nothing to do, and how soon it looks
//! at a change. `ANNULUS_E2E_CLUSTERS` says how many there are, and `ANNULUS_E2E_MEMBERS` of how many members each.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use annulus_tests::processes::tell;
use http::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::cluster::{Cluster, PATIENCE, merge, number, small, text};
use crate::kubernetes::SYSTEM;
use crate::scenario::Scenario;
use crate::wait::{holds, until};

/// The operator's port for probes and metrics.
const PORT: u16 = 8080;
/// The operator's Lease, which names its pod.
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/annulus-system/leases/annulus-operator";
/// For how long the operator is watched when everything is settled.
const WINDOW: Duration = Duration::from_secs(20);
/// The bars for fifty clusters, and what is asserted of any number on any machine.
const MEMORY_TARGET: f64 = 25e6;
const MEMORY_BOUND: f64 = 40e6;
const CPU_TARGET: f64 = 0.01;
const CPU_BOUND: f64 = 0.05;
const NOTICED_TARGET: Duration = Duration::from_secs(1);
const NOTICED_BOUND: Duration = Duration::from_secs(10);

#[tokio::test]
async fn many_clusters_take_little_of_their_operator_and_it_asks_nothing_when_they_are_settled() {
    let Some(scenario) = Scenario::begin("crowd").await else { return };
    let (count, members) = (from_environment("ANNULUS_E2E_CLUSTERS", 4), from_environment("ANNULUS_E2E_MEMBERS", 1));
    let names: Vec<String> = (0..count).map(|number| format!("c{number}")).collect();
    let clusters: Vec<Cluster<'_>> = names.iter().map(|name| scenario.cluster(name)).collect();
    create(&scenario, &names, members).await;
    let patience = PATIENCE + Duration::from_secs(10) * count;
    for cluster in &clusters {
        cluster.until_settled(usize::try_from(members).expect("so many fit"), patience).await;
    }
    watch(&scenario, &format!("{count} clusters of {members}")).await;
    notice(&clusters[0]).await;
    scenario.end().await;
}

fn from_environment(name: &str, otherwise: u32) -> u32 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")),
        Err(_) => otherwise,
    }
}

async fn create(scenario: &Scenario, names: &[String], members: u32) {
    let items = names.iter().map(|name| {
        let mut resource = small(name, members);
        merge(
            &mut resource,
            &json!({"spec": {"partitions": 2, "resources": {"requests": {"cpu": "1m", "memory": "8Mi"}}}}),
        );
        resource
    });
    scenario.create(&json!({"apiVersion": "v1", "kind": "List", "items": items.collect::<Vec<Value>>()})).await;
}

/// What the operator says of itself.
struct Sample {
    at: Instant,
    cpu_seconds: f64,
    memory_bytes: f64,
    /// Requests to the API server that are neither watches nor about its lease.
    requests: BTreeMap<String, f64>,
}

async fn sample(scenario: &Scenario) -> Result<Sample, String> {
    let lease = scenario.kubernetes.get(LEASE).await?;
    let operator = text(&lease, "/spec/holderIdentity").to_owned();
    let answer = scenario.kubernetes.ask(Method::GET, (SYSTEM, &operator, PORT), "/metrics", &[], "").await?;
    holds(answer.status == 200, || answer.text())?;
    let metrics = answer.text();
    let lines = metrics.lines().filter(|line| !line.starts_with('#'));
    let values: BTreeMap<&str, f64> = lines
        .filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(name, value)| Some((name, value.parse().ok()?)))
        .collect();
    let value = |name: &str| values.get(name).copied().ok_or_else(|| format!("no {name} in {metrics}"));
    let asked = values.iter().filter(|(name, _)| name.starts_with("annulus_operator_api_requests_total"));
    let asked = asked.filter(|(name, _)| !name.contains(r#"verb="watch""#) && !name.contains(r#"resource="leases""#));
    Ok(Sample {
        at: Instant::now(),
        cpu_seconds: value("process_cpu_seconds_total")?,
        memory_bytes: value("process_resident_memory_bytes")?,
        requests: asked.map(|(name, count)| ((*name).to_owned(), *count)).collect(),
    })
}

/// Nothing is asked of the API server but what is watched, and the lease.
async fn watch(scenario: &Scenario, what: &str) {
    // What was done last is still told, and heard of.
    until("the operator is quiet", PATIENCE, async || {
        let before = sample(scenario).await?;
        sleep(Duration::from_secs(5)).await;
        let after = sample(scenario).await?;
        holds(before.requests == after.requests, || format!("{:?} became {:?}", before.requests, after.requests))
    })
    .await;
    let before = sample(scenario).await.expect("the operator tells");
    sleep(WINDOW).await;
    let after = sample(scenario).await.expect("the operator tells");
    assert_eq!(before.requests, after.requests, "{what}: a settled operator only watches, and renews its lease");
    let cpu = (after.cpu_seconds - before.cpu_seconds) / (after.at - before.at).as_secs_f64();
    let memory = after.memory_bytes;
    tell(format!(
        "{}: {what}, settled: the operator takes {:.1} MB of a target of {:.0} MB and {:.2} % of a processor of a target of {:.0} %",
        scenario.namespace,
        memory / 1e6,
        MEMORY_TARGET / 1e6,
        cpu * 100.0,
        CPU_TARGET * 100.0
    ));
    assert!(memory <= MEMORY_BOUND, "{what}: {memory} bytes");
    assert!(cpu <= CPU_BOUND, "{what}: {cpu} of a processor");
}

/// A change of the spec is looked at at once.
async fn notice(cluster: &Cluster<'_>) {
    cluster.change(&json!({"volumeRetention": {"whenScaled": "Retain"}})).await;
    let began = Instant::now();
    cluster
        .until("the change is looked at", PATIENCE, |resource| {
            number(resource, "/status/observedGeneration") == number(resource, "/metadata/generation")
        })
        .await;
    let took = began.elapsed();
    cluster.scenario.tell("a change was noticed, of a target of 1 s", began);
    assert!(took <= NOTICED_BOUND, "it took {took:?}, of a target of {NOTICED_TARGET:?}");
}
