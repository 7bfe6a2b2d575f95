//! Whole rounds of the operator against a simulated API server, while somebody changes, takes or imitates the cluster's own
//! objects, and while the cluster goes.

use crate::nodes::NAMESPACE;
use crate::scene::{NAME, Scene};
use annulus_crds::{StorageCluster, annotations, labels};
use annulus_operator::simulated::{Cluster, Fault, Rule, Verb};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

async fn settled(more: Value) -> Scene {
    let mut spec = json!({"replicas": 3, "partitions": 8, "storage": {"size": "1Gi"}});
    json_patch::merge(&mut spec, &more);
    let mut scene = Scene::new(1, spec);
    scene.settle(100).await;
    scene
}

async fn rounds(scene: &mut Scene, count: usize) {
    for _ in 0..count {
        // What fails is told in the status.
        let _ = scene.round().await;
    }
}

async fn writes_nothing(scene: &mut Scene) {
    scene.cluster.take_writes();
    for _ in 0..10 {
        if let Some(ended) = scene.round().await {
            ended.unwrap();
        }
    }
    assert_eq!(scene.cluster.take_writes(), []);
}

fn told(scene: &Scene) -> (String, String) {
    scene.status().plan.map(|plan| (plan.gate, plan.message)).unwrap_or_default()
}

fn changed<K>(scene: &Scene, name: &str, patch: &Value)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned,
{
    scene.cluster.patch::<K>(NAMESPACE, name, patch).unwrap();
}

fn is_owned<K: Resource>(scene: &Scene, object: &K) -> bool {
    let uid = scene.resource().and_then(|resource| resource.uid()).unwrap();
    object.owner_references().iter().any(|owner| owner.uid == uid && owner.controller == Some(true))
}

/// What a person can take off a member's object.
fn losses() -> Vec<Value> {
    vec![
        json!({"annotations": {(annotations::ORDINAL): null}}),
        json!({"annotations": {(annotations::ORDINAL): "77"}}),
        json!({"labels": {(labels::INSTANCE): null}}),
        json!({"labels": {(labels::INSTANCE): "other"}}),
        json!({"labels": {(labels::MANAGED_BY): null}}),
        json!({"labels": {(labels::COMPONENT): null}}),
        json!({"labels": {(labels::MEMBER): "other"}}),
        json!({"ownerReferences": null}),
        json!({"labels": null, "ownerReferences": null, "annotations": {(annotations::ORDINAL): null}}),
    ]
}

fn marks<K: Resource>(object: &K) -> (String, Value, Value, Option<String>) {
    let ours = |key: &str| object.labels().get(key).cloned();
    let labels =
        json!([labels::NAME, labels::INSTANCE, labels::COMPONENT, labels::MANAGED_BY, labels::MEMBER].map(ours));
    let owners = serde_json::to_value(object.owner_references()).unwrap();
    (object.uid().unwrap(), labels, owners, object.annotations().get(annotations::ORDINAL).cloned())
}

async fn is_marked_again<K>(name: impl Fn(&Scene) -> String)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize + DeserializeOwned + Clone,
{
    for loss in losses() {
        let mut scene = settled(json!({})).await;
        let name = name(&scene);
        let members: Vec<String> = scene.status().members.into_iter().map(|member| member.name).collect();
        let before = marks(&scene.cluster.get::<K>(NAMESPACE, &name).unwrap());
        changed::<K>(&scene, &name, &json!({"metadata": loss}));
        rounds(&mut scene, 5).await;
        assert_eq!(marks(&scene.cluster.get::<K>(NAMESPACE, &name).unwrap()), before, "{loss}");
        scene.settle(10).await;
        let now: Vec<String> = scene.status().members.into_iter().map(|member| member.name).collect();
        assert_eq!((now, scene.pods().len(), scene.claims().len()), (members, 3, 3), "{loss}");
        writes_nothing(&mut scene).await;
    }
}

#[tokio::test]
async fn a_pod_that_lost_what_tells_whose_it_is_is_known_by_its_name_and_marked_again() {
    is_marked_again::<Pod>(|scene| scene.pods()[1].name_any()).await;
}

#[tokio::test]
async fn a_claim_that_lost_what_tells_whose_it_is_is_known_by_its_name_and_marked_again() {
    is_marked_again::<PersistentVolumeClaim>(|scene| scene.claims()[1].name_any()).await;
}

#[tokio::test]
async fn a_pod_that_lost_its_digest_too_is_made_anew_in_its_turn() {
    let mut scene = settled(json!({})).await;
    let pod = scene.pods().remove(1);
    let loss = json!({(annotations::ORDINAL): null, (annotations::TEMPLATE): null});
    changed::<Pod>(&scene, &pod.name_any(), &json!({"metadata": {"annotations": loss}}));
    rounds(&mut scene, 3).await;
    scene.settle(50).await;
    let now: Pod = scene.cluster.get(NAMESPACE, &pod.name_any()).unwrap();
    assert_ne!(now.uid(), pod.uid());
    assert!(now.annotations().contains_key(annotations::TEMPLATE));
}

/// Makes a pod of a member's name that somebody else looks after.
fn imitate(cluster: &Cluster, name: &str) {
    let owner = json!({"metadata": {"name": "somebody", "namespace": NAMESPACE}});
    let owner = cluster.create::<ConfigMap>(&serde_json::from_value(owner).unwrap()).unwrap();
    let pod = json!({
        "metadata": {"name": name, "namespace": NAMESPACE, "ownerReferences": [{
            "apiVersion": "v1", "kind": "ConfigMap", "name": "somebody", "uid": owner.uid(), "controller": true,
        }]},
        "spec": {"containers": [{"name": "a", "image": "b"}]},
    });
    cluster.create::<Pod>(&serde_json::from_value(pod).unwrap()).unwrap();
}

#[tokio::test]
async fn somebody_elses_pod_under_a_members_name_is_told_and_left_alone_and_holds_up_nobody_else() {
    let mut scene = settled(json!({})).await;
    let names: Vec<String> = scene.pods().iter().map(ResourceExt::name_any).collect();
    scene.cluster.remove::<Pod>(NAMESPACE, &names[0]).unwrap();
    imitate(&scene.cluster, &names[0]);
    rounds(&mut scene, 5).await;
    let (_, message) = told(&scene);
    assert!(message.contains(&names[0]) && message.contains("ConfigMap somebody"), "{message}");
    scene.cluster.remove::<Pod>(NAMESPACE, &names[2]).unwrap();
    rounds(&mut scene, 5).await;
    assert!(scene.nodes.is_ready(&names[2]));
    let stranger: Pod = scene.cluster.get(NAMESPACE, &names[0]).unwrap();
    assert_eq!(stranger.spec.unwrap().containers[0].name, "a");
    assert_eq!(stranger.metadata.labels, None);
    scene.cluster.remove::<Pod>(NAMESPACE, &names[0]).unwrap();
    scene.settle(50).await;
}

#[tokio::test]
async fn a_deleted_cluster_leaves_no_pod_running_that_lost_what_tells_whose_it_is() {
    for loss in losses() {
        let mut scene = settled(json!({})).await;
        let name = scene.pods()[1].name_any();
        changed::<Pod>(&scene, &name, &json!({"metadata": loss}));
        changed::<PersistentVolumeClaim>(&scene, &name, &json!({"metadata": loss}));
        scene.delete();
        rounds(&mut scene, 30).await;
        assert!(scene.resource().is_none(), "{loss}");
        assert!(scene.cluster.get::<Pod>(NAMESPACE, &name).is_none(), "{loss}");
        assert_eq!(scene.claims().len(), 3);
    }
}

#[tokio::test]
async fn a_budget_that_cant_be_mended_is_made_anew() {
    let mut scene = settled(json!({})).await;
    let before: PodDisruptionBudget = scene.cluster.get(NAMESPACE, NAME).unwrap();
    changed::<PodDisruptionBudget>(&scene, NAME, &json!({"spec": {"minAvailable": null, "maxUnavailable": 3}}));
    rounds(&mut scene, 3).await;
    let now: PodDisruptionBudget = scene.cluster.get(NAMESPACE, NAME).unwrap();
    assert_ne!(now.uid(), before.uid());
    let spec = now.spec.unwrap();
    assert_eq!((spec.min_available, spec.max_unavailable), (Some(IntOrString::Int(2)), None));
    scene.settle(10).await;
    writes_nothing(&mut scene).await;
}

#[tokio::test]
async fn a_service_whose_address_cant_be_changed_is_made_anew() {
    let mut scene = settled(json!({})).await;
    let mut service: Service = scene.cluster.get(NAMESPACE, "demo-members").unwrap();
    scene.cluster.remove::<Service>(NAMESPACE, "demo-members").unwrap();
    service.metadata.resource_version = None;
    service.spec.as_mut().unwrap().cluster_ip = Some("10.96.0.9".to_owned());
    scene.cluster.create(&service).unwrap();
    rounds(&mut scene, 3).await;
    let now: Service = scene.cluster.get(NAMESPACE, "demo-members").unwrap();
    assert_eq!(now.spec.unwrap().cluster_ip.as_deref(), Some("None"));
    scene.settle(10).await;
    writes_nothing(&mut scene).await;
}

#[tokio::test]
async fn an_owner_reference_that_was_taken_off_comes_back() {
    let mut scene = settled(json!({"networkPolicy": {"enabled": true}})).await;
    let off = json!({"metadata": {"ownerReferences": null}});
    changed::<Service>(&scene, NAME, &off);
    changed::<PodDisruptionBudget>(&scene, NAME, &off);
    changed::<NetworkPolicy>(&scene, NAME, &off);
    rounds(&mut scene, 3).await;
    assert!(is_owned(&scene, &scene.cluster.get::<Service>(NAMESPACE, NAME).unwrap()));
    assert!(is_owned(&scene, &scene.cluster.get::<PodDisruptionBudget>(NAMESPACE, NAME).unwrap()));
    assert!(is_owned(&scene, &scene.cluster.get::<NetworkPolicy>(NAMESPACE, NAME).unwrap()));
    scene.settle(10).await;
    writes_nothing(&mut scene).await;
}

#[tokio::test]
async fn somebody_elses_service_is_told_and_left_alone() {
    let mut scene = Scene::new(1, json!({"replicas": 3, "partitions": 8, "storage": {"size": "1Gi"}}));
    let service = json!({
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {
            (labels::NAME): labels::APP, (labels::INSTANCE): NAME, (labels::MANAGED_BY): labels::MANAGER,
        }},
        "spec": {"ports": [{"port": 80}]},
    });
    scene.cluster.create::<Service>(&serde_json::from_value(service).unwrap()).unwrap();
    rounds(&mut scene, 20).await;
    let (_, message) = told(&scene);
    assert!(message.contains("Service demo in namespace default"), "{message}");
    let service: Service = scene.cluster.get(NAMESPACE, NAME).unwrap();
    assert!(!is_owned(&scene, &service));
    let budgets = scene.cluster.list::<PodDisruptionBudget>(Some(NAMESPACE));
    assert_eq!(budgets.len(), 1, "nobody evicts too many meanwhile");
    scene.cluster.remove::<Service>(NAMESPACE, NAME).unwrap();
    scene.settle(50).await;
}

#[tokio::test]
async fn a_port_or_an_owner_that_somebody_adds_is_left_and_not_fought_over() {
    let mut scene = settled(json!({})).await;
    scene
        .cluster
        .edit::<Service>(NAMESPACE, NAME, |service| {
            let ports = service.spec.as_mut().unwrap().ports.as_mut().unwrap();
            let mut metrics = ports[0].clone();
            (metrics.name, metrics.port) = (Some("metrics".to_owned()), 9090);
            ports.insert(0, metrics);
            let owners = service.metadata.owner_references.as_mut().unwrap();
            let mut another = owners[0].clone();
            (another.name, another.uid, another.controller) = ("other".to_owned(), "other".to_owned(), None);
            owners.insert(0, another);
        })
        .unwrap();
    writes_nothing(&mut scene).await;
    // What is ours is put right all the same, and what is not stays.
    let port = json!({"spec": {"ports": [{"port": 9090, "name": "metrics"}, {"port": 7070, "name": "client", "targetPort": 1}]}});
    changed::<Service>(&scene, NAME, &port);
    rounds(&mut scene, 3).await;
    let ports = scene.cluster.get::<Service>(NAMESPACE, NAME).unwrap().spec.unwrap().ports.unwrap();
    let targets = ports.iter().map(|port| (port.port, port.target_port.clone()));
    let client = IntOrString::String("client".to_owned());
    assert_eq!(targets.collect::<Vec<_>>(), [(9090, Some(IntOrString::Int(9090))), (7070, Some(client))]);
    writes_nothing(&mut scene).await;
}

#[tokio::test]
async fn a_resource_that_somebody_else_holds_is_let_go_once() {
    let mut scene = settled(json!({})).await;
    scene
        .cluster
        .edit::<StorageCluster>(NAMESPACE, NAME, |resource| {
            resource.metadata.finalizers.get_or_insert_default().push("example.com/backup".to_owned());
        })
        .unwrap();
    scene.delete();
    rounds(&mut scene, 30).await;
    let resource = scene.resource().unwrap();
    assert_eq!((resource.finalizers(), scene.pods().len()), (&["example.com/backup".to_owned()][..], 0));
    writes_nothing(&mut scene).await;
    changed::<StorageCluster>(&scene, NAME, &json!({"metadata": {"finalizers": null}}));
    assert!(scene.resource().is_none());
}

#[tokio::test]
async fn a_paused_cluster_that_is_deleted_waits_and_says_so() {
    let mut scene = settled(json!({})).await;
    scene.change(json!({"paused": true}));
    scene.delete();
    rounds(&mut scene, 10).await;
    let (gate, message) = told(&scene);
    assert_eq!((gate.as_str(), scene.pods().len()), ("Paused", 3));
    assert!(message.contains("deleted") && message.contains("spec.paused"), "{message}");
    writes_nothing(&mut scene).await;
    scene.change(json!({"paused": false}));
    rounds(&mut scene, 30).await;
    assert!(scene.resource().is_none() && scene.pods().is_empty());
}

/// When a namespace is deleted everything in it is, whatever an operator says.
#[tokio::test]
async fn a_namespace_that_goes_is_held_up_by_no_cluster_however_it_is_protected() {
    for more in [json!({"paused": true}), json!({"deletionProtection": true}), json!({})] {
        let mut scene = settled(json!({})).await;
        scene.change(more.clone());
        scene.delete();
        scene.cluster.inject(Rule::new(Fault::forbidden()).verbs(&[Verb::Create]));
        for _ in 0..60 {
            for pod in scene.pods() {
                scene.cluster.delete::<Pod>(NAMESPACE, &pod.name_any()).unwrap();
            }
            for claim in scene.claims() {
                scene.cluster.delete::<PersistentVolumeClaim>(NAMESPACE, &claim.name_any()).unwrap();
            }
            rounds(&mut scene, 1).await;
        }
        assert!(scene.resource().is_none(), "{more}");
    }
}

#[tokio::test]
async fn a_protected_cluster_that_was_deleted_all_the_same_is_looked_after() {
    let mut scene = settled(json!({"deletionProtection": true})).await;
    scene.delete();
    let name = scene.pods()[1].name_any();
    scene.cluster.remove::<Pod>(NAMESPACE, &name).unwrap();
    scene.cluster.remove::<Service>(NAMESPACE, NAME).unwrap();
    rounds(&mut scene, 15).await;
    assert!(scene.nodes.is_ready(&name) && scene.cluster.get::<Service>(NAMESPACE, NAME).is_some());
    let (gate, message) = told(&scene);
    assert_eq!((gate.as_str(), scene.status().ready_replicas), ("DeletionProtected", 3));
    assert!(message.contains("spec.deletionProtection"), "{message}");
    writes_nothing(&mut scene).await;
    scene.change(json!({"deletionProtection": false}));
    rounds(&mut scene, 30).await;
    assert!(scene.resource().is_none() && scene.pods().is_empty());
}

#[tokio::test]
async fn a_deleted_cluster_stops_all_pods_at_once_and_asks_no_node_and_no_store() {
    let mut scene = settled(json!({"replicas": 5})).await;
    scene.delete();
    let asked = scene.nodes.asked();
    rounds(&mut scene, 1).await;
    assert_eq!(scene.pods().len(), 0, "all of them are told to end");
    rounds(&mut scene, 30).await;
    assert_eq!(scene.nodes.asked(), asked);
    assert!(scene.resource().is_none());
}

#[tokio::test]
async fn a_claim_that_may_not_grow_holds_up_no_pod_and_is_told_in_the_servers_words() {
    let mut scene = settled(json!({})).await;
    let growth = Rule::new(Fault::forbidden()).verbs(&[Verb::Patch]).of::<PersistentVolumeClaim>();
    let refused = scene.cluster.inject(growth);
    scene.change(json!({"storage": {"size": "2Gi"}}));
    rounds(&mut scene, 3).await;
    let name = scene.pods()[1].name_any();
    scene.cluster.remove::<Pod>(NAMESPACE, &name).unwrap();
    rounds(&mut scene, 20).await;
    assert!(scene.pods().iter().any(|pod| pod.name_any() == name), "it is made again");
    let (_, message) = told(&scene);
    assert!(message.contains("claim demo-") && !message.contains("metadata: "), "{message}");
    assert_eq!(scene.status().phase, "Failing");
    scene.cluster.lift(refused);
    scene.settle(100).await;
}

#[tokio::test]
async fn whoever_leaves_is_not_held_up_by_a_pod_that_is_refused() {
    let mut scene = settled(json!({"replicas": 4})).await;
    let pods = Rule::new(Fault::forbidden()).verbs(&[Verb::Create]).of::<Pod>();
    let refused = scene.cluster.inject(pods);
    let name = scene.pods()[3].name_any();
    scene.cluster.remove::<Pod>(NAMESPACE, &name).unwrap();
    rounds(&mut scene, 5).await;
    assert_eq!(scene.pods().len(), 3);
    scene.change(json!({"replicas": 3}));
    scene.settle(200).await;
    assert_eq!(scene.claims().len(), 3);
    scene.cluster.lift(refused);
}

#[tokio::test]
async fn a_claim_that_is_deleted_under_a_pod_that_runs_is_told_and_its_pod_is_not_to_be_evicted() {
    let mut scene = settled(json!({"replacement": {"maxConcurrent": 0}})).await;
    let name = scene.claims()[0].name_any();
    scene.cluster.delete::<PersistentVolumeClaim>(NAMESPACE, &name).unwrap();
    rounds(&mut scene, 10).await;
    let status = scene.status();
    let degraded = status.conditions.iter().find(|condition| condition.type_ == "Degraded").unwrap();
    assert_eq!((degraded.status.as_str(), degraded.reason.as_str()), ("True", "VolumeDeleting"));
    assert!(degraded.message.contains("keep its pod"), "{}", degraded.message);
    let at_risk = status.conditions.iter().find(|condition| condition.type_ == "QuorumAtRisk").unwrap();
    assert_eq!(at_risk.status, "True");
    let budget = &scene.cluster.list::<PodDisruptionBudget>(Some(NAMESPACE))[0];
    let least = budget.spec.as_ref().unwrap().min_available.clone();
    assert_eq!(least, Some(IntOrString::Int(3)), "nobody may be evicted");
}

#[tokio::test]
async fn a_number_that_nobody_made_holds_nothing_up() {
    let mut scene = settled(json!({})).await;
    let absurd = json!({"status": {"lastOrdinal": i64::MAX}});
    scene.cluster.patch_status::<StorageCluster>(NAMESPACE, NAME, &absurd).unwrap();
    scene.change(json!({"replicas": 4}));
    scene.settle(100).await;
    assert_eq!(scene.pods().len(), 4);
}

#[tokio::test]
async fn nobody_is_rolled_to_a_pod_that_would_be_refused() {
    let mut scene = settled(json!({})).await;
    let uids = |scene: &Scene| scene.pods().iter().filter_map(|pod| pod.uid()).collect::<Vec<_>>();
    let before = uids(&scene);
    let refused = scene.cluster.inject(Rule::new(Fault::forbidden()).verbs(&[Verb::Create]).of::<Pod>());
    scene.change(json!({"image": "annulus/node:2"}));
    rounds(&mut scene, 20).await;
    assert_eq!(uids(&scene), before);
    let (_, message) = told(&scene);
    assert!(message.contains("can't be made anew"), "{message}");
    scene.cluster.lift(refused);
    scene.settle(200).await;
    assert!(uids(&scene).iter().all(|uid| !before.contains(uid)));
}

#[tokio::test]
async fn a_pod_that_somebody_keeps_is_told_with_the_finalizer() {
    let mut scene = settled(json!({})).await;
    let name = scene.pods()[0].name_any();
    let keep = json!({"metadata": {"finalizers": ["example.com/keep"]}});
    scene.cluster.patch::<Pod>(NAMESPACE, &name, &keep).unwrap();
    scene.cluster.delete::<Pod>(NAMESPACE, &name).unwrap();
    rounds(&mut scene, 60).await;
    let (gate, message) = told(&scene);
    assert!(gate == "HeldByOthers" && message.contains("example.com/keep"), "{gate}: {message}");
    scene.cluster.patch::<Pod>(NAMESPACE, &name, &json!({"metadata": {"finalizers": null}})).unwrap();
    scene.settle(100).await;
}

#[tokio::test]
async fn a_claim_that_is_refused_takes_no_number_and_one_that_is_made_keeps_it() {
    let mut scene = settled(json!({})).await;
    let claims = Rule::new(Fault::forbidden()).verbs(&[Verb::Create]).of::<PersistentVolumeClaim>();
    let refused = scene.cluster.inject(claims);
    scene.change(json!({"replicas": 4}));
    rounds(&mut scene, 1).await;
    let first = told(&scene).1;
    assert!(first.contains("can't be made"), "{first}");
    for _ in 0..6 {
        rounds(&mut scene, 1).await;
        assert_eq!((scene.status().last_ordinal, told(&scene).1), (3, first.clone()));
    }
    scene.cluster.lift(refused);
    rounds(&mut scene, 1).await;
    assert_eq!((scene.claims().len(), scene.status().last_ordinal), (4, 4));
    scene.settle(100).await;
}

#[tokio::test]
async fn what_the_store_refuses_holds_up_nothing_else() {
    let mut scene = settled(json!({"replicas": 5, "replacement": {"afterSeconds": 10}})).await;
    let node = |pod: &Pod| pod.spec.as_ref().unwrap().node_name.clone().unwrap();
    for pod in &scene.pods()[..2] {
        scene.cluster.kill_node(&node(pod));
    }
    rounds(&mut scene, 40).await;
    let (gate, message) = told(&scene);
    assert!(gate == "QuorumAtRisk" && message.contains("have no quorum now"), "{gate}: {message}");
    assert_eq!(scene.status().phase, "Replacing");
    let other = scene.pods()[3].name_any();
    let drain = json!({"metadata": {"annotations": {annotations::DRAIN: other}}});
    scene.cluster.patch::<StorageCluster>(NAMESPACE, NAME, &drain).unwrap();
    rounds(&mut scene, 5).await;
    let member = scene.status().members.into_iter().find(|member| member.name == other).unwrap();
    assert!(member.state.starts_with("Drain"), "{member:?}");
}

#[tokio::test]
async fn a_name_in_an_annotation_that_no_member_ever_had_is_told() {
    let mut scene = settled(json!({"replicas": 4})).await;
    let drain = |scene: &Scene, name: &str| {
        let drain = json!({"metadata": {"annotations": {annotations::DRAIN: name}}});
        scene.cluster.patch::<StorageCluster>(NAMESPACE, NAME, &drain).unwrap();
    };
    drain(&scene, "demo-nobody");
    rounds(&mut scene, 3).await;
    let status = scene.status();
    let said = status.conditions.iter().find(|condition| condition.type_ == "Progressing").unwrap();
    assert!(said.reason == "InvalidSpec" && said.message.contains("no member \"demo-nobody\""), "{}", said.message);
    // One that has left on the way may still be named.
    let leaves = scene.pods()[0].name_any();
    drain(&scene, &leaves);
    scene.change(json!({"replicas": 3}));
    scene.settle(200).await;
    assert!(scene.pods().iter().all(|pod| pod.name_any() != leaves));
}
