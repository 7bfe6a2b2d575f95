//! Whole rounds of the operator against a simulated API server: every scenario once as it should go, once with a crash after each
//! of its writes, and with faults of the API thrown in.

use crate::nodes::NAMESPACE;
use crate::scene::{NAME, Scene};
use annulus_crds::StorageCluster;
use annulus_operator::simulated::{Fault, Rule};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use serde_json::json;

/// Something that a person wants of a cluster, or that happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scenario {
    Create,
    Grow,
    Shrink,
    ShrinkAndKeep,
    Roll,
    GrowVolumes,
    LoseNode,
    LoseVolume,
    DeleteAndKeep,
    Delete,
}

const ALL: [Scenario; 10] = [
    Scenario::Create,
    Scenario::Grow,
    Scenario::Shrink,
    Scenario::ShrinkAndKeep,
    Scenario::Roll,
    Scenario::GrowVolumes,
    Scenario::LoseNode,
    Scenario::LoseVolume,
    Scenario::DeleteAndKeep,
    Scenario::Delete,
];

impl Scenario {
    fn spec(self) -> serde_json::Value {
        let replicas = if matches!(self, Self::Shrink | Self::ShrinkAndKeep | Self::LoseNode) { 5 } else { 3 };
        let scaled = if self == Self::ShrinkAndKeep { "Retain" } else { "Delete" };
        let deleted = if self == Self::Delete { "Delete" } else { "Retain" };
        json!({
            "replicas": replicas, "partitions": 8, "storage": {"size": "1Gi"}, "replacement": {"afterSeconds": 10},
            "volumeRetention": {"whenScaled": scaled, "whenDeleted": deleted},
        })
    }

    /// The cluster as it is before, and what is then done to it.
    async fn begin(self, seed: u64) -> Scene {
        let mut scene = Scene::new(seed, self.spec());
        if self != Self::Create {
            scene.settle(100).await;
        }
        scene.replace_operator();
        match self {
            Self::Create => {}
            Self::Grow => scene.change(json!({"replicas": 5})),
            Self::Shrink | Self::ShrinkAndKeep => scene.change(json!({"replicas": 3})),
            Self::Roll => scene.change(json!({"image": "annulus/node:2"})),
            Self::GrowVolumes => scene.change(json!({"storage": {"size": "2Gi"}})),
            Self::LoseNode => {
                let pod = &scene.pods()[0];
                scene.cluster.kill_node(pod.spec.as_ref().unwrap().node_name.as_ref().unwrap());
            }
            Self::LoseVolume => {
                let name = scene.claims()[0].name_any();
                scene.cluster.remove::<Pod>(NAMESPACE, &name).unwrap();
                scene.cluster.remove::<PersistentVolumeClaim>(NAMESPACE, &name).unwrap();
            }
            Self::DeleteAndKeep | Self::Delete => scene.delete(),
        }
        scene
    }

    /// Until it is over. A lost node stays lost, so its pod is told of for as long as it is there.
    async fn end(self, scene: &mut Scene) {
        if self == Self::LoseNode {
            let gone = scene.pods()[0].name_any();
            for _ in 0..200 {
                let _ = scene.round().await;
                if scene.is_settled() && scene.pods().iter().all(|pod| pod.name_any() != gone) {
                    return;
                }
            }
        }
        scene.settle(300).await;
        // What has lost its owner is collected in its time.
        scene.cluster.settle();
    }

    fn check(self, scene: &Scene) {
        let (pods, claims) = (scene.pods().len(), scene.claims().len());
        let wanted = match self {
            Self::Create | Self::Roll | Self::GrowVolumes | Self::LoseVolume | Self::Shrink => (3, 3),
            Self::Grow | Self::LoseNode => (5, 5),
            Self::ShrinkAndKeep => (3, 5),
            Self::DeleteAndKeep => (0, 3),
            Self::Delete => (0, 0),
        };
        assert_eq!((pods, claims), wanted, "{self:?}");
        if self == Self::Roll {
            let images = scene.pods().into_iter().map(|pod| pod.spec.unwrap().containers[0].image.clone().unwrap());
            assert!(images.collect::<Vec<_>>().iter().all(|image| image == "annulus/node:2"));
        }
    }
}

#[tokio::test]
async fn every_scenario_comes_to_its_end_and_a_settled_cluster_writes_nothing() {
    for scenario in ALL {
        let mut scene = scenario.begin(1).await;
        scenario.end(&mut scene).await;
        scenario.check(&scene);
        scene.cluster.take_writes();
        for _ in 0..20 {
            if let Some(ended) = scene.round().await {
                ended.unwrap();
            }
        }
        assert_eq!(scene.cluster.take_writes(), [], "{scenario:?}");
    }
}

/// A crash after any write changes nothing of how a scenario ends.
async fn crash_after_each_write(scenarios: &[Scenario]) {
    for &scenario in scenarios {
        let mut scene = scenario.begin(1).await;
        scenario.end(&mut scene).await;
        let (writes, outcome) = (scene.session.changes(), scene.outcome());
        assert!(writes > 0, "{scenario:?}");
        for crash in 1..=writes {
            let mut scene = scenario.begin(1).await;
            scene.session.cut_after(crash);
            for _ in 0..300 {
                let _ = scene.round().await;
                if scene.session.is_cut() {
                    break;
                }
            }
            assert!(scene.session.is_cut(), "{scenario:?}: there is no write {crash}");
            scene.replace_operator();
            scenario.end(&mut scene).await;
            scenario.check(&scene);
            assert_eq!(scene.outcome(), outcome, "{scenario:?} with a crash after write {crash} of {writes}");
        }
    }
}

#[tokio::test]
async fn a_crash_after_any_write_of_a_change_changes_nothing_of_how_it_ends() {
    crash_after_each_write(&ALL[..5]).await;
}

#[tokio::test]
async fn a_crash_after_any_write_of_a_repair_or_an_end_changes_nothing_of_how_it_ends() {
    crash_after_each_write(&ALL[5..]).await;
}

#[tokio::test]
async fn whatever_the_api_server_does_every_scenario_comes_to_the_same_end() {
    let faults = [
        Rule::new(Fault::internal_error()).one_in(4),
        Rule::new(Fault::conflict()).writes().one_in(3),
        Rule::new(Fault::LoseRequest).one_in(4),
        Rule::new(Fault::LoseAnswer).writes().one_in(3),
    ];
    for scenario in ALL {
        let mut calm = scenario.begin(1).await;
        scenario.end(&mut calm).await;
        for (seed, fault) in (2..).zip(&faults) {
            let mut scene = scenario.begin(seed).await;
            let rule = scene.cluster.inject(fault.clone());
            for _ in 0..120 {
                let _ = scene.round().await;
            }
            scene.cluster.lift(rule);
            scenario.end(&mut scene).await;
            scenario.check(&scene);
            assert_eq!(scene.outcome(), calm.outcome(), "{scenario:?} with {fault:?}");
        }
    }
}

#[tokio::test]
async fn caches_that_lag_behind_lead_to_no_wrong_step() {
    for scenario in ALL {
        let mut calm = scenario.begin(1).await;
        scenario.end(&mut calm).await;
        let mut scene = scenario.begin(1).await;
        scene.lag = 7;
        for _ in 0..100 {
            let _ = scene.round().await;
        }
        scene.lag = 0;
        scenario.end(&mut scene).await;
        scenario.check(&scene);
        assert_eq!(scene.outcome(), calm.outcome(), "{scenario:?}");
    }
}

#[tokio::test]
async fn an_operator_that_was_replaced_changes_the_store_no_more() {
    let mut scene = Scene::new(1, Scenario::Grow.spec());
    scene.settle(100).await;
    let old = scene.session.clone();
    scene.fence = 5;
    scene.change(json!({"replicas": 5}));
    scene.settle(200).await;
    // The old one wakes up, still thinks that it leads, and is asked for something.
    (scene.session, scene.fence) = (old, 1);
    scene.change(json!({"replicas": 3}));
    let mut fenced = false;
    for _ in 0..10 {
        fenced |= matches!(scene.round().await, Some(Err(error)) if error.is_fenced());
    }
    assert!(fenced);
    assert_eq!(scene.pods().len(), 5);
}

#[tokio::test]
async fn foreign_pods_and_volumes_are_left_alone() {
    let mut scene = Scene::new(1, Scenario::Create.spec());
    let labels = json!({
        "app.kubernetes.io/name": "annulus", "app.kubernetes.io/instance": NAME,
        "app.kubernetes.io/component": "member", "app.kubernetes.io/managed-by": "annulus-operator",
    });
    let claim = json!({
        "metadata": {"name": "demo-other", "labels": labels, "annotations": {"annulus.dev/ordinal": "1"}},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    });
    scene.cluster.create::<PersistentVolumeClaim>(&serde_json::from_value(claim).unwrap()).unwrap();
    let pod = json!({
        "metadata": {"name": "demo-stranger", "labels": labels, "annotations": {"annulus.dev/ordinal": "2"}},
        "spec": {"containers": [{"name": "a", "image": "b"}]},
    });
    scene.cluster.create::<Pod>(&serde_json::from_value(pod).unwrap()).unwrap();
    scene.settle(100).await;
    scene.delete();
    scene.settle(100).await;
    assert!(scene.resource().is_none());
    assert!(scene.cluster.get::<Pod>(NAMESPACE, "demo-stranger").is_some());
    assert!(scene.cluster.get::<PersistentVolumeClaim>(NAMESPACE, "demo-other").is_some());
}

/// The message of a condition that holds.
fn held(scene: &Scene, kind: &str) -> String {
    let conditions = scene.status().conditions;
    let found = conditions.into_iter().find(|it| it.type_ == kind && it.status == "True");
    found.map(|it| it.message).unwrap_or_default()
}

#[tokio::test]
async fn an_image_that_is_not_there_is_told_with_the_pod_and_the_remedy_and_recovers_when_it_is_mended() {
    let mut scene = Scene::new(1, Scenario::Create.spec());
    scene.settle(100).await;
    scene.cluster.set_image("annulus/node:none", false);
    scene.change(json!({"image": "annulus/node:none"}));
    for _ in 0..30 {
        let _ = scene.round().await;
    }
    let message = held(&scene, "Degraded");
    assert!(message.contains("can't get its image") && message.contains("spec.image"), "{message}");
    assert_eq!(
        scene
            .pods()
            .iter()
            .filter(|pod| pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("annulus/node:none"))
            .count(),
        1
    );
    let wait = scene.status().plan.unwrap();
    assert_eq!(wait.gate, "MemberNotReady");
    scene.change(json!({"image": "annulus/node:1"}));
    scene.settle(100).await;
}

#[tokio::test]
async fn a_pod_that_finds_no_node_is_told_and_holds_up_nobody_else() {
    let mut scene = Scene::new(1, Scenario::Create.spec());
    scene.settle(100).await;
    let known: Vec<String> = scene.pods().iter().map(ResourceExt::name_any).collect();
    for number in 1..=6 {
        scene.cluster.cordon(&format!("node-{number}"), true).unwrap();
    }
    scene.change(json!({"replicas": 5}));
    for _ in 0..20 {
        scene.round().await.unwrap().unwrap();
    }
    let message = held(&scene, "Degraded");
    assert!(message.contains("can't be placed") && message.contains("nodes are available"), "{message}");
    assert!(known.iter().all(|name| scene.nodes.is_ready(name)));
    for number in 1..=6 {
        scene.cluster.cordon(&format!("node-{number}"), false).unwrap();
    }
    scene.settle(200).await;
}

#[tokio::test]
async fn what_the_schema_would_refuse_is_told_and_stops_nothing() {
    let mut scene = Scene::new(1, Scenario::Create.spec());
    scene.settle(100).await;
    scene.change(json!({"replicas": 2, "partitions": 64, "storage": {"size": "512Mi"}}));
    let name = scene.pods()[0].name_any();
    scene.cluster.remove::<Pod>(NAMESPACE, &name).unwrap();
    for _ in 0..20 {
        scene.round().await.unwrap().unwrap();
    }
    let message = held(&scene, "ScaleDownBlocked");
    assert!(message.contains("replicationFactor"), "{message}");
    assert_eq!((scene.status().phase.as_str(), scene.status().ready_replicas), ("Invalid", 3));
    assert_eq!(scene.pods().len(), 3, "the pod came back all the same");
    scene.change(json!({"replicas": 3, "partitions": 8, "storage": {"size": "1Gi"}}));
    scene.settle(50).await;
}

#[tokio::test]
async fn a_resource_is_told_of_changes_of_its_own_objects() {
    let mut scene = Scene::new(1, Scenario::Create.spec());
    scene.settle(100).await;
    scene.cluster.remove::<k8s_openapi::api::core::v1::Service>(NAMESPACE, NAME).unwrap();
    let selector = json!({"spec": {"selector": {"app.kubernetes.io/instance": "other"}}});
    scene.cluster.patch::<k8s_openapi::api::core::v1::Service>(NAMESPACE, "demo-members", &selector).unwrap();
    for _ in 0..3 {
        scene.round().await.unwrap().unwrap();
    }
    let services = scene.cluster.list::<k8s_openapi::api::core::v1::Service>(Some(NAMESPACE));
    assert_eq!(services.len(), 2);
    assert!(
        services
            .iter()
            .all(|it| it.spec.as_ref().unwrap().selector.as_ref().unwrap()["app.kubernetes.io/instance"] == NAME)
    );
    let resource: StorageCluster = scene.resource().unwrap();
    assert_eq!(resource.status.unwrap().replicas, 3);
}
