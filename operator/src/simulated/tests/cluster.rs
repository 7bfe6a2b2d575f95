use k8s_openapi::api::core::v1::{ConfigMap, Node, PersistentVolumeClaim, Pod};
use kube::api::{Api, DeleteParams};
use serde_json::json;

use super::super::{ClassOptions, Cluster};
use super::{claim, from, map, pod};

fn member(cluster: &Cluster, name: &str) {
    cluster.create(&claim(name)).unwrap();
    cluster.create(&pod(name)).unwrap();
}

fn get(cluster: &Cluster, name: &str) -> Pod {
    cluster.get::<Pod>("default", name).unwrap()
}

fn node_of(cluster: &Cluster, name: &str) -> String {
    get(cluster, name).spec.unwrap().node_name.unwrap_or_default()
}

/// The status of a condition, and its message.
fn condition(pod: &Pod, name: &str) -> (String, String) {
    let conditions = pod.status.as_ref().unwrap().conditions.clone().unwrap_or_default();
    let found = conditions.into_iter().find(|condition| condition.type_ == name);
    found.map(|found| (found.status, found.message.unwrap_or_default())).unwrap_or_default()
}

fn is_ready(cluster: &Cluster, name: &str) -> bool {
    condition(&get(cluster, name), "Ready").0 == "True"
}

#[test]
fn pods_are_spread_over_zones_get_their_volumes_and_become_ready_when_the_test_says_so() {
    let cluster = Cluster::with_nodes(1, 4);
    for name in ["demo-1", "demo-2", "demo-3"] {
        member(&cluster, name);
    }
    let looks = cluster.clone();
    // The check may look at the cluster itself.
    cluster.set_ready(move |name| name != "demo-2" && looks.is_running("default", name));
    cluster.step();
    assert_eq!(condition(&get(&cluster, "demo-1"), "PodScheduled").0, "True");
    assert_eq!(get(&cluster, "demo-1").status.unwrap().phase.unwrap(), "Pending");
    cluster.settle();
    let nodes = ["demo-1", "demo-2", "demo-3"].map(|name| node_of(&cluster, name));
    assert_eq!(nodes, ["node-1", "node-2", "node-3"]);
    assert!(is_ready(&cluster, "demo-1") && !is_ready(&cluster, "demo-2"));
    let status = get(&cluster, "demo-2").status.unwrap();
    assert_eq!((status.phase.unwrap().as_str(), status.pod_ip.is_some()), ("Running", true));
    let bound = cluster.get::<PersistentVolumeClaim>("default", "demo-1").unwrap();
    let status = bound.status.unwrap();
    assert_eq!((status.phase.unwrap().as_str(), status.capacity.unwrap()["storage"].0.as_str()), ("Bound", "1Gi"));
    assert_eq!(bound.spec.unwrap().storage_class_name.unwrap(), "local");
    cluster.set_ready(|_| true);
    cluster.settle();
    assert!(is_ready(&cluster, "demo-2"));
    assert_eq!(cluster.writes(), [], "none of it is a client's write");
    let version = cluster.version();
    cluster.advance(600);
    cluster.settle();
    assert_eq!(cluster.version(), version, "a settled cluster stays as it is");
}

#[tokio::test]
async fn a_deleted_pod_ends_at_a_step_and_comes_back_to_its_volume() {
    let cluster = Cluster::with_nodes(1, 3);
    member(&cluster, "demo-1");
    member(&cluster, "demo-2");
    cluster.settle();
    let volume = cluster.volume("default", "demo-2").unwrap();
    let pods = Api::<Pod>::default_namespaced(cluster.client());
    cluster.hold_pod("demo-2", true);
    let ending = pods.delete("demo-2", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert_eq!(ending.metadata.deletion_grace_period_seconds, Some(30));
    cluster.settle();
    assert!(pods.get_opt("demo-2").await.unwrap().is_some());
    cluster.hold_pod("demo-2", false);
    cluster.step();
    assert!(pods.get_opt("demo-2").await.unwrap().is_none());
    cluster.delete::<Pod>("default", "demo-1").unwrap();
    cluster.settle();
    cluster.create(&pod("demo-2")).unwrap();
    cluster.settle();
    assert_eq!(node_of(&cluster, "demo-2"), "node-2", "its volume is there");
    assert_eq!(cluster.volume("default", "demo-2").unwrap(), volume);
    cluster.empty_volume("default", "demo-2");
    assert_ne!(cluster.volume("default", "demo-2").unwrap(), volume);
    let forced = pods.delete("demo-2", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert!(forced.is_right() && pods.get_opt("demo-2").await.unwrap().is_none());
}

#[test]
fn a_claim_in_use_stays_until_its_pod_is_gone() {
    let cluster = Cluster::with_nodes(1, 1);
    member(&cluster, "demo-1");
    cluster.settle();
    let volume = cluster.volume("default", "demo-1");
    cluster.delete::<PersistentVolumeClaim>("default", "demo-1").unwrap();
    cluster.settle();
    assert!(cluster.get::<PersistentVolumeClaim>("default", "demo-1").is_some());
    cluster.delete::<Pod>("default", "demo-1").unwrap();
    cluster.settle();
    assert!(cluster.get::<PersistentVolumeClaim>("default", "demo-1").is_none());
    member(&cluster, "demo-1");
    cluster.settle();
    assert_ne!(cluster.volume("default", "demo-1"), volume, "a new claim is a new volume");
}

#[test]
fn a_volume_grows_when_its_claim_asks_for_more() {
    let cluster = Cluster::with_nodes(1, 1);
    member(&cluster, "demo-1");
    cluster.settle();
    let more = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    cluster.patch::<PersistentVolumeClaim>("default", "demo-1", &more).unwrap();
    cluster.settle();
    let grown = cluster.get::<PersistentVolumeClaim>("default", "demo-1").unwrap();
    assert_eq!(grown.status.unwrap().capacity.unwrap()["storage"].0, "2Gi");
}

#[test]
fn pods_on_a_node_that_is_gone_stay_and_are_not_ready() {
    let cluster = Cluster::with_nodes(1, 3);
    for name in ["demo-1", "demo-2", "demo-3"] {
        member(&cluster, name);
    }
    cluster.settle();
    cluster.kill_node("node-1");
    cluster.cut_node("node-2");
    cluster.settle();
    let node = cluster.get::<Node>("", "node-1").unwrap();
    assert_eq!(node.status.unwrap().conditions.unwrap()[0].status, "Unknown");
    assert!(!is_ready(&cluster, "demo-1") && !is_ready(&cluster, "demo-2") && is_ready(&cluster, "demo-3"));
    assert!(!cluster.is_running("default", "demo-1") && cluster.is_running("default", "demo-2"));
    cluster.delete::<Pod>("default", "demo-1").unwrap();
    cluster.settle();
    assert!(cluster.get::<Pod>("default", "demo-1").is_some(), "nobody has seen it end");
    cluster.remove::<Node>("", "node-1").unwrap();
    cluster.restore_node("node-2");
    cluster.settle();
    assert!(cluster.get::<Pod>("default", "demo-1").is_none());
    assert!(is_ready(&cluster, "demo-2"));
    cluster.create(&pod("demo-1")).unwrap();
    cluster.settle();
    let (status, message) = condition(&get(&cluster, "demo-1"), "PodScheduled");
    let expected = "0/2 nodes are available: 2 node(s) had volume node affinity conflict. preemption: 0/2 nodes are \
                    available: 2 Preemption is not helpful for scheduling.";
    assert_eq!((status.as_str(), message.as_str()), ("False", expected));
}

#[test]
fn a_pod_that_fits_nowhere_says_why_of_each_node() {
    let cluster = Cluster::with_nodes(1, 3);
    cluster.cordon("node-1", true).unwrap();
    cluster.kill_node("node-2");
    let mut picky = pod("demo-1");
    picky.spec.as_mut().unwrap().node_selector = Some([("disk".to_owned(), "fast".to_owned())].into());
    cluster.create(&claim("demo-1")).unwrap();
    cluster.create(&picky).unwrap();
    cluster.create(&pod("demo-2")).unwrap();
    cluster.settle();
    let expected = "0/3 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) had untolerated \
                    taint {node.kubernetes.io/unreachable: }, 1 node(s) were unschedulable. preemption: 0/3 nodes are \
                    available: 3 Preemption is not helpful for scheduling.";
    assert_eq!(condition(&get(&cluster, "demo-1"), "PodScheduled").1, expected);
    let message = condition(&get(&cluster, "demo-2"), "PodScheduled").1;
    assert!(message.starts_with("0/3 nodes are available: persistentvolumeclaim \"demo-2\" not found."), "{message}");
    member(&cluster, "demo-3");
    cluster.refuse_pod("demo-3", Some("Insufficient memory"));
    cluster.settle();
    let expected = "0/3 nodes are available: 3 Insufficient memory. preemption: 0/3 nodes are available: 3 No preemption \
                    victims found for incoming pod.";
    assert_eq!(condition(&get(&cluster, "demo-3"), "PodScheduled").1, expected);
    cluster.refuse_pod("demo-3", None);
    cluster.settle();
    assert!(is_ready(&cluster, "demo-3"));
}

#[test]
fn pods_that_must_be_spread_wait_for_a_place() {
    let cluster = Cluster::with_nodes(1, 4);
    let selector = json!({"matchLabels": {"app.kubernetes.io/instance": "demo"}});
    let spread = |name: &str| {
        let mut pod = pod(name);
        let spec = pod.spec.as_mut().unwrap();
        spec.topology_spread_constraints = from(json!([{
            "maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": selector,
        }]));
        spec.affinity = from(json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": selector},
        ]}}));
        cluster.create(&claim(name)).unwrap();
        cluster.create(&pod).unwrap();
    };
    for name in ["demo-1", "demo-2", "demo-3", "demo-4", "demo-5"] {
        spread(name);
    }
    cluster.settle();
    let nodes = ["demo-1", "demo-2", "demo-3", "demo-4", "demo-5"].map(|name| node_of(&cluster, name));
    assert_eq!(nodes, ["node-1", "node-2", "node-3", "node-4", ""]);
    let message = condition(&get(&cluster, "demo-5"), "PodScheduled").1;
    assert!(message.contains("2 node(s) didn't match pod anti-affinity rules"), "{message}");
    assert!(message.contains("2 node(s) didn't match pod topology spread constraints"), "{message}");
}

#[test]
fn an_image_that_is_missing_keeps_a_pod_from_starting() {
    let cluster = Cluster::with_nodes(1, 1);
    cluster.set_image("annulus:1", false);
    member(&cluster, "demo-1");
    cluster.settle();
    let status = get(&cluster, "demo-1").status.unwrap();
    let waiting = status.container_statuses.unwrap()[0].state.clone().unwrap().waiting.unwrap();
    assert_eq!((status.phase.unwrap().as_str(), waiting.reason.unwrap().as_str()), ("Pending", "ImagePullBackOff"));
    assert!(waiting.message.unwrap().contains("Back-off pulling image \"annulus:1\""));
    cluster.set_image("annulus:1", true);
    cluster.settle();
    assert!(is_ready(&cluster, "demo-1"));
    cluster.crash_pod("default", "demo-1").unwrap();
    assert!(!is_ready(&cluster, "demo-1"));
    cluster.settle();
    let status = get(&cluster, "demo-1").status.unwrap();
    assert_eq!(status.container_statuses.unwrap()[0].restart_count, 1);
    assert!(is_ready(&cluster, "demo-1"));
}

#[test]
fn a_volume_that_is_lost_shows_in_its_claim_and_holds_the_next_pod() {
    let cluster = Cluster::with_nodes(1, 1);
    member(&cluster, "demo-1");
    cluster.settle();
    cluster.lose_volume("default", "demo-1").unwrap();
    cluster.settle();
    let lost = cluster.get::<PersistentVolumeClaim>("default", "demo-1").unwrap();
    assert_eq!(lost.status.unwrap().phase.unwrap(), "Lost");
    assert_eq!(cluster.volume("default", "demo-1"), None);
    cluster.delete::<Pod>("default", "demo-1").unwrap();
    cluster.settle();
    cluster.create(&pod("demo-1")).unwrap();
    cluster.settle();
    let message = condition(&get(&cluster, "demo-1"), "PodScheduled").1;
    assert!(message.contains("bound to non-existent persistentvolume \"pvc-1\""), "{message}");
}

#[test]
fn a_volume_of_a_zone_moves_between_its_nodes() {
    let cluster = Cluster::new(1);
    for (name, zone) in [("node-1", "a"), ("node-2", "b"), ("node-3", "a")] {
        cluster.add_node(name, zone);
    }
    cluster.add_storage_class("disks", &ClassOptions { is_default: true, can_grow: false, by_zone: true });
    member(&cluster, "demo-1");
    cluster.settle();
    cluster.cordon("node-1", true).unwrap();
    cluster.delete::<Pod>("default", "demo-1").unwrap();
    cluster.settle();
    cluster.create(&pod("demo-1")).unwrap();
    cluster.settle();
    assert_eq!(node_of(&cluster, "demo-1"), "node-3");
}

#[test]
fn what_has_lost_its_last_owner_is_collected() {
    let cluster = Cluster::new(1);
    let owners = ["a", "b"].map(|name| cluster.create(&map(name, &json!({}))).unwrap().metadata.uid.unwrap());
    let owned = |name: &str, uids: &[&String]| {
        let references: Vec<_> = uids
            .iter()
            .map(|uid| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}))
            .collect();
        let object = json!({"metadata": {"name": name, "ownerReferences": references}});
        cluster.create(&from::<ConfigMap>(object)).unwrap();
    };
    owned("of-one", &[&owners[0]]);
    owned("of-both", &[&owners[0], &owners[1]]);
    owned("of-none", &[]);
    cluster.delete::<ConfigMap>("default", "a").unwrap();
    cluster.settle();
    let left: Vec<String> =
        cluster.list::<ConfigMap>(None).into_iter().filter_map(|object| object.metadata.name).collect();
    assert_eq!(left, ["b", "of-both", "of-none"]);
    // An owner of the same name is not the same owner.
    cluster.delete::<ConfigMap>("default", "b").unwrap();
    cluster.create(&map("a", &json!({}))).unwrap();
    cluster.settle();
    assert!(cluster.get::<ConfigMap>("default", "of-both").is_none());
}
