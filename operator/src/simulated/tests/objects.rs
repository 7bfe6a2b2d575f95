use std::sync::Arc;

use annulus_crds::StorageCluster;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference, PersistentVolumeClaim, Pod};
use k8s_openapi::api::events::v1::Event as EventObject;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::PartialObjectMeta;
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::finalizer::{Event as FinalizerEvent, finalizer};
use serde_json::json;

use super::super::Cluster;
use super::{claim, from, map, pod, refusal, stored};

#[tokio::test]
async fn what_is_created_is_read_back_with_the_servers_metadata() {
    let cluster = Cluster::new(1);
    let maps = Api::<ConfigMap>::default_namespaced(cluster.client());
    let made = maps.create(&PostParams::default(), &map("a", &json!({"x": "1"}))).await.unwrap();
    assert_eq!(made.metadata.uid.as_deref(), Some("00000000-0000-4000-8000-000000000001"));
    assert_eq!(made.metadata.namespace.as_deref(), Some("default"));
    assert_eq!(made.metadata.creation_timestamp.clone().unwrap().0.to_string(), "2026-01-01T00:00:00Z");
    assert_eq!(maps.get("a").await.unwrap(), made);
    let again = refusal(maps.create(&PostParams::default(), &map("a", &json!({}))).await);
    assert!(again.is_already_exists());
    assert!(refusal(maps.get("b").await).is_not_found());
    assert_eq!(maps.get_opt("b").await.unwrap(), None);
    let generated: ConfigMap = from(json!({"metadata": {"generateName": "a-"}}));
    let first = maps.create(&PostParams::default(), &generated).await.unwrap().metadata.name.unwrap();
    let second = maps.create(&PostParams::default(), &generated).await.unwrap().metadata.name.unwrap();
    assert!(first.starts_with("a-") && first.len() == 7 && first != second, "{first} {second}");
}

#[tokio::test]
async fn one_seed_makes_the_same_objects_twice() {
    let run = async || {
        let cluster = Cluster::with_nodes(7, 3);
        let pods = Api::<Pod>::default_namespaced(cluster.client());
        let mut generated = pod("demo-1");
        generated.metadata.name = None;
        generated.metadata.generate_name = Some("demo-".to_owned());
        cluster.create(&claim("demo-1")).unwrap();
        pods.create(&PostParams::default(), &generated).await.unwrap();
        cluster.settle();
        serde_json::to_string(&cluster.list::<Pod>(None)).unwrap()
    };
    assert_eq!(run().await, run().await);
}

#[tokio::test]
async fn a_replace_of_an_older_version_is_a_conflict_and_one_that_changes_nothing_is_no_write() {
    let cluster = Cluster::new(1);
    let maps = Api::<ConfigMap>::default_namespaced(cluster.client());
    let first = maps.create(&PostParams::default(), &map("a", &json!({"x": "1"}))).await.unwrap();
    let mut changed = first.clone();
    changed.data.as_mut().unwrap().insert("x".to_owned(), "2".to_owned());
    let second = maps.replace("a", &PostParams::default(), &changed).await.unwrap();
    assert_ne!(first.metadata.resource_version, second.metadata.resource_version);
    assert!(refusal(maps.replace("a", &PostParams::default(), &changed).await).is_conflict());
    let same = maps.replace("a", &PostParams::default(), &second).await.unwrap();
    assert_eq!(same.metadata.resource_version, second.metadata.resource_version);
    let writes: Vec<String> = cluster.take_writes().iter().map(ToString::to_string).collect();
    let expected =
        ["Create configmaps default/a", "Update configmaps default/a", "Update configmaps default/a (no change)"];
    assert_eq!(writes, expected);
    assert_eq!(cluster.writes(), []);
}

#[tokio::test]
async fn the_status_is_written_only_as_a_subresource_and_the_spec_never_there() {
    let cluster = Cluster::new(1);
    let api = Api::<StorageCluster>::default_namespaced(cluster.client());
    let mut made = api.create(&PostParams::default(), &stored("demo")).await.unwrap();
    assert_eq!(made.metadata.generation, Some(1));
    let status = json!({"status": {"phase": "Running"}, "spec": {"replicas": 9}});
    let patched = api.patch_status("demo", &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
    assert_eq!(patched.status.as_ref().unwrap().phase, "Running");
    assert_eq!((patched.spec.replicas, patched.metadata.generation), (3, Some(1)));
    let ignored = json!({"status": {"phase": "Lost"}, "spec": {"replicas": 5}});
    let patched = api.patch("demo", &PatchParams::default(), &Patch::Merge(&ignored)).await.unwrap();
    assert_eq!(patched.status.as_ref().unwrap().phase, "Running");
    assert_eq!((patched.spec.replicas, patched.metadata.generation), (5, Some(2)));
    made.status = None;
    made.metadata.resource_version = None;
    let replaced = api.replace("demo", &PostParams::default(), &made).await.unwrap();
    assert_eq!(replaced.status.unwrap().phase, "Running");
}

#[tokio::test]
async fn lists_choose_by_labels_and_names_and_go_on_page_by_page() {
    let cluster = Cluster::new(1);
    let maps = Api::<ConfigMap>::all(cluster.client());
    for (namespace, name, tier) in [("x", "a", "one"), ("x", "b", "two"), ("y", "c", "one")] {
        let object = json!({"metadata": {"name": name, "namespace": namespace, "labels": {"tier": tier}}});
        cluster.create(&from::<ConfigMap>(object)).unwrap();
    }
    let names = async |params: ListParams| -> Vec<String> {
        let list = maps.list(&params).await.unwrap();
        list.items.into_iter().filter_map(|item| item.metadata.name).collect()
    };
    assert_eq!(names(ListParams::default()).await, ["a", "b", "c"]);
    assert_eq!(names(ListParams::default().labels("tier=one")).await, ["a", "c"]);
    assert_eq!(names(ListParams::default().labels("tier!=one,tier")).await, ["b"]);
    assert_eq!(names(ListParams::default().labels("tier in (two,three),!other")).await, ["b"]);
    assert_eq!(names(ListParams::default().fields("metadata.name=c")).await, ["c"]);
    let page = maps.list(&ListParams::default().limit(2)).await.unwrap();
    assert_eq!(page.items.len(), 2);
    cluster.delete::<ConfigMap>("y", "c").unwrap();
    let token = page.metadata.continue_.unwrap();
    // Pages are of one version: what was deleted meanwhile is still on the next.
    assert_eq!(names(ListParams::default().limit(2).continue_token(&token)).await, ["c"]);
    cluster.forget_history();
    let expired = refusal(maps.list(&ListParams::default().limit(2).continue_token(&token)).await);
    assert_eq!((expired.code, expired.reason.as_str()), (410, "Expired"));
    let metadata = Api::<PartialObjectMeta<ConfigMap>>::namespaced(cluster.client(), "x");
    assert_eq!(metadata.get("a").await.unwrap().metadata.name.as_deref(), Some("a"));
    assert_eq!(metadata.list(&ListParams::default()).await.unwrap().items.len(), 2);
}

#[tokio::test]
async fn a_delete_asks_for_the_uid_and_the_version_that_were_seen() {
    let cluster = Cluster::new(1);
    let maps = Api::<ConfigMap>::default_namespaced(cluster.client());
    let made = maps.create(&PostParams::default(), &map("a", &json!({}))).await.unwrap();
    let params = |uid: &str, version: Option<String>| {
        DeleteParams::default().preconditions(Preconditions { uid: Some(uid.to_owned()), resource_version: version })
    };
    assert!(refusal(maps.delete("a", &params("another", None)).await).is_conflict());
    let uid = made.metadata.uid.unwrap();
    assert!(refusal(maps.delete("a", &params(&uid, Some("1".to_owned()))).await).is_conflict());
    let gone = maps.delete("a", &params(&uid, made.metadata.resource_version)).await.unwrap();
    assert!(gone.right().unwrap().is_success());
    assert!(refusal(maps.delete("a", &DeleteParams::default()).await).is_not_found());
}

#[tokio::test]
async fn an_object_with_a_finalizer_goes_when_it_is_cleaned_up() {
    let cluster = Cluster::new(1);
    let api = Api::<StorageCluster>::default_namespaced(cluster.client());
    api.create(&PostParams::default(), &stored("demo")).await.unwrap();
    let reconcile = async |expected: &'static str| {
        let object = Arc::new(api.get("demo").await.unwrap());
        finalizer(&api, annulus_crds::FINALIZER, object, |event| async move {
            let seen = if matches!(event, FinalizerEvent::Cleanup(_)) { "cleanup" } else { "apply" };
            assert_eq!(seen, expected);
            Ok::<_, std::io::Error>(Action::await_change())
        })
        .await
        .unwrap();
    };
    // The first time, kube adds the finalizer and does nothing else.
    reconcile("nothing").await;
    reconcile("apply").await;
    let waits = api.delete("demo", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert!(waits.metadata.deletion_timestamp.is_some());
    assert_eq!(waits.metadata.generation, Some(2));
    let version = cluster.version();
    api.delete("demo", &DeleteParams::default()).await.unwrap();
    assert_eq!(cluster.version(), version, "deleting it again changes nothing");
    let late = json!({"metadata": {"finalizers": [annulus_crds::FINALIZER, "another.dev/late"]}});
    let late = api.patch("demo", &PatchParams::default(), &Patch::Merge(&late)).await;
    assert!(refusal(late).is_invalid());
    reconcile("cleanup").await;
    assert!(api.get_opt("demo").await.unwrap().is_none());
}

#[tokio::test]
async fn what_may_not_change_is_refused() {
    let cluster = Cluster::with_nodes(1, 1);
    cluster.create(&claim("demo-1")).unwrap();
    cluster.create(&pod("demo-1")).unwrap();
    let pods = Api::<Pod>::default_namespaced(cluster.client());
    let claims = Api::<PersistentVolumeClaim>::default_namespaced(cluster.client());
    let host = json!({"spec": {"hostNetwork": true}});
    assert!(refusal(pods.patch("demo-1", &PatchParams::default(), &Patch::Merge(&host)).await).is_invalid());
    let image = json!({"spec": {"containers": [{"name": "node", "image": "annulus:2"}]}});
    pods.patch("demo-1", &PatchParams::default(), &Patch::Strategic(&image)).await.unwrap();
    let size = |size: &str| json!({"spec": {"resources": {"requests": {"storage": size}}}});
    let unbound = claims.patch("demo-1", &PatchParams::default(), &Patch::Merge(&size("2Gi"))).await;
    assert!(refusal(unbound).is_invalid());
    cluster.settle();
    claims.patch("demo-1", &PatchParams::default(), &Patch::Merge(&size("2Gi"))).await.unwrap();
    let smaller = claims.patch("demo-1", &PatchParams::default(), &Patch::Merge(&size("1Gi"))).await;
    assert!(refusal(smaller).is_invalid());
    cluster
        .patch::<k8s_openapi::api::storage::v1::StorageClass>("", "local", &json!({"allowVolumeExpansion": false}))
        .unwrap();
    let fixed = claims.patch("demo-1", &PatchParams::default(), &Patch::Merge(&size("3Gi"))).await;
    assert!(refusal(fixed).is_forbidden());
    assert!(refusal(pods.create(&PostParams::default(), &pod("Demo_1")).await).is_invalid());
}

#[tokio::test]
async fn what_is_not_there_is_told_as_the_real_server_tells_it() {
    let cluster = Cluster::new(1);
    let client = cluster.client();
    let request = http::Request::get("/apis/nobody.dev/v1/things").body(Vec::new()).unwrap();
    let missing = refusal(client.request_text(request).await);
    assert_eq!((missing.code, missing.message.as_str()), (404, "404 page not found"));
    assert_eq!(client.apiserver_version().await.unwrap().minor, "33");
    let json_of_custom = Api::<StorageCluster>::default_namespaced(client)
        .patch("demo", &PatchParams::default(), &Patch::Strategic(json!({})))
        .await;
    assert_eq!(refusal(json_of_custom).code, 415);
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let cluster = Cluster::new(1);
    let maps = Api::<ConfigMap>::default_namespaced(cluster.client());
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    maps.create(&dry, &map("a", &json!({}))).await.unwrap();
    assert_eq!(maps.get_opt("a").await.unwrap(), None);
    maps.create(&PostParams::default(), &map("a", &json!({}))).await.unwrap();
    maps.delete("a", &DeleteParams::default().dry_run()).await.unwrap();
    assert!(maps.get_opt("a").await.unwrap().is_some());
    assert_eq!(cluster.write_counts()["configmaps"], 1);
}

#[tokio::test]
async fn events_and_leases_are_written_as_kube_writes_them() {
    let cluster = Cluster::new(1);
    let client = cluster.client();
    let recorder = Recorder::new(client.clone(), Reporter::from("annulus-operator"));
    let about = ObjectReference {
        name: Some("demo".to_owned()),
        namespace: Some("default".to_owned()),
        ..ObjectReference::default()
    };
    let event = Event {
        type_: EventType::Normal,
        reason: "Scaling".to_owned(),
        note: Some("adds a member".to_owned()),
        action: "Scale".to_owned(),
        secondary: None,
    };
    recorder.publish(&event, &about).await.unwrap();
    recorder.publish(&event, &about).await.unwrap();
    let events = cluster.list::<EventObject>(Some("default"));
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].series.as_ref().unwrap().count, 2);
    let leases = Api::<Lease>::default_namespaced(client);
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": {"holderIdentity": "one"}});
    leases.patch("lock", &PatchParams::apply("one"), &Patch::Apply(&lease)).await.unwrap();
    let other = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": {"holderIdentity": "two"}});
    let refused = refusal(leases.patch("lock", &PatchParams::apply("two"), &Patch::Apply(&other)).await);
    assert!(refused.is_conflict());
    let free = json!({"spec": {"holderIdentity": null}});
    leases.patch("lock", &PatchParams::default(), &Patch::Strategic(&free)).await.unwrap();
    leases.patch("lock", &PatchParams::apply("two"), &Patch::Apply(&other)).await.unwrap();
}
