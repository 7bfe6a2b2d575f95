//! What stays and what goes when a cluster is deleted, and that nothing holds up its namespace.

use serde_json::json;

use crate::cluster::{Cluster, PATIENCE};
use crate::scenario::Scenario;
use crate::wait::{holds, until};

#[tokio::test]
async fn volumes_stay_or_go_as_the_spec_says_and_a_namespace_goes_with_a_store_in_it() {
    let Some(scenario) = Scenario::begin("deletion").await else { return };
    let (kept, gone) = (scenario.cluster("kept"), scenario.cluster("gone"));
    kept.create(1, &json!({"volumeRetention": {"whenDeleted": "Retain"}})).await;
    gone.create(1, &json!({"volumeRetention": {"whenDeleted": "Delete"}})).await;
    kept.until_settled(1, PATIENCE).await;
    gone.until_settled(1, PATIENCE).await;
    kept.put("key", "of the first").await;
    let volumes = volumes_of(&kept, 1).await;

    kept.delete().await;
    gone.delete().await;
    volumes_of(&gone, 0).await;
    assert_eq!(volumes_of(&kept, 1).await, volumes, "its volume stays");
    for cluster in [&kept, &gone] {
        until("no pod is left", PATIENCE, async || {
            let pods = cluster.pods().await?;
            holds(pods.is_empty(), || format!("{pods:?}"))
        })
        .await;
    }

    // Another of the same name is another store: it takes nothing of the first's, and harms nothing.
    kept.create(1, &json!({"volumeRetention": {"whenDeleted": "Retain"}})).await;
    kept.until_settled(1, PATIENCE).await;
    assert_eq!(kept.value("key").await, None, "a new cluster is a new store");
    assert!(volumes_of(&kept, 2).await.is_superset(&volumes), "the first's volume is left alone");

    // With a store in it that runs.
    scenario.end().await;
}

/// Waits until there are this many claims; their names.
async fn volumes_of(cluster: &Cluster<'_>, count: usize) -> std::collections::BTreeSet<String> {
    until(&format!("{} has {count} claims", cluster.name), PATIENCE, async || {
        let volumes = cluster.volumes().await?;
        holds(volumes.len() == count, || format!("{volumes:?}"))?;
        Ok(volumes)
    })
    .await
}
