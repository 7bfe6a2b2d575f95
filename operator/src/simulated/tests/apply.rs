use annulus_crds::StorageCluster;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::super::Cluster;
use super::{map, refusal, stored};

fn config(data: &Value) -> Patch<Value> {
    Patch::Apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data}))
}

fn data(object: &ConfigMap) -> Value {
    json!(object.data)
}

#[tokio::test]
async fn a_field_that_is_applied_no_more_goes_unless_another_manager_applies_it_too() {
    let cluster = Cluster::new(1);
    let maps = Api::<ConfigMap>::default_namespaced(cluster.client());
    let (one, two) = (PatchParams::apply("one"), PatchParams::apply("two"));
    maps.patch("a", &one, &config(&json!({"x": "1", "y": "1", "z": "1"}))).await.unwrap();
    maps.patch("a", &two, &config(&json!({"y": "1", "own": "2"}))).await.unwrap();
    let left = maps.patch("a", &one, &config(&json!({"z": "1"}))).await.unwrap();
    assert_eq!(data(&left), json!({"y": "1", "z": "1", "own": "2"}));
    let left = maps.patch("a", &two, &config(&json!({}))).await.unwrap();
    assert_eq!(data(&left), json!({"z": "1"}));
    let owners: Vec<String> =
        left.metadata.managed_fields.unwrap().into_iter().filter_map(|entry| entry.manager).collect();
    assert_eq!(owners, ["one", "two"]);
}

#[tokio::test]
async fn another_managers_field_is_a_conflict_unless_the_apply_is_forced() {
    let cluster = Cluster::new(1);
    let maps = Api::<ConfigMap>::default_namespaced(cluster.client());
    let (one, two) = (PatchParams::apply("one"), PatchParams::apply("two"));
    maps.patch("a", &one, &config(&json!({"x": "1"}))).await.unwrap();
    let refused = refusal(maps.patch("a", &two, &config(&json!({"x": "2"}))).await);
    assert_eq!(refused.message, "Apply failed with 1 conflict: conflict with \"one\" using v1: .data.x");
    assert!(refused.is_conflict());
    maps.patch("a", &two, &config(&json!({"x": "1"}))).await.unwrap();
    let forced = maps.patch("a", &two.clone().force(), &config(&json!({"x": "2"}))).await.unwrap();
    assert_eq!(data(&forced), json!({"x": "2"}));
    // It is two's now: one applies it no more, and it stays.
    let left = maps.patch("a", &one, &config(&json!({}))).await.unwrap();
    assert_eq!(data(&left), json!({"x": "2"}));
}

#[tokio::test]
async fn a_person_who_edits_a_field_owns_it() {
    let cluster = Cluster::new(1);
    let maps = Api::<ConfigMap>::default_namespaced(cluster.client());
    let one = PatchParams::apply("one");
    maps.patch("a", &one, &config(&json!({"x": "1", "y": "1"}))).await.unwrap();
    cluster.patch::<ConfigMap>("default", "a", &json!({"data": {"x": "9"}})).unwrap();
    let refused = refusal(maps.patch("a", &one, &config(&json!({"x": "1", "y": "1"}))).await);
    assert!(refused.message.contains("conflict with \"test\""), "{}", refused.message);
    let back = maps.patch("a", &one.force(), &config(&json!({"x": "1", "y": "1"}))).await.unwrap();
    assert_eq!(data(&back), json!({"x": "1", "y": "1"}));
}

#[tokio::test]
async fn applying_the_same_again_is_no_write_however_late() {
    let cluster = Cluster::new(1);
    let pods = Api::<Pod>::default_namespaced(cluster.client());
    let pod = Patch::Apply(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "demo-1", "labels": {"a": "b"}},
        "spec": {
            "containers": [{"name": "node", "image": "annulus:1", "ports": [{"containerPort": 7070}], "env": [
                {"name": "A", "value": "1"}, {"name": "B", "value": "2"},
            ]}],
            "volumes": [{"name": "data", "emptyDir": {}}],
        },
        "status": {"phase": "Failed"},
    }));
    let params = PatchParams::apply("one").force();
    let made = pods.patch("demo-1", &params, &pod).await.unwrap();
    assert_eq!(made.status.as_ref().unwrap().phase.as_deref(), Some("Pending"));
    assert_eq!(made.spec.as_ref().unwrap().restart_policy.as_deref(), Some("Always"), "defaults are filled in");
    cluster.advance(60);
    let again = pods.patch("demo-1", &params, &pod).await.unwrap();
    assert_eq!(again, made);
    let writes = cluster.writes();
    assert_eq!((writes[0].changed, writes[1].changed), (true, false));
}

#[tokio::test]
async fn items_of_lists_are_told_apart_by_their_keys() {
    let cluster = Cluster::new(1);
    let services = Api::<Service>::default_namespaced(cluster.client());
    let service = |ports: Value, selector: Value| {
        Patch::Apply(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "demo"},
            "spec": {"selector": selector, "ports": ports},
        }))
    };
    let (one, two) = (PatchParams::apply("one"), PatchParams::apply("two"));
    let ports = json!([{"name": "client", "port": 7070}, {"name": "peer", "port": 7072}]);
    let made = services.patch("demo", &one, &service(ports, json!({"app": "a", "old": "b"}))).await.unwrap();
    let address = made.spec.unwrap().cluster_ip.unwrap();
    services.patch("demo", &two, &service(json!([{"name": "extra", "port": 9000}]), Value::Null)).await.unwrap();
    let changed = service(json!([{"name": "client", "port": 7070, "targetPort": 1}]), json!({"app": "a"}));
    let left = services.patch("demo", &one, &changed).await.unwrap().spec.unwrap();
    let ports: Vec<_> = left.ports.unwrap().into_iter().map(|port| (port.name.unwrap(), port.port)).collect();
    assert_eq!(ports, [("client".to_owned(), 7070), ("extra".to_owned(), 9000)]);
    assert_eq!(json!(left.selector), json!({"app": "a"}), "a selector is applied as a whole");
    assert_eq!(left.cluster_ip.unwrap(), address);
}

#[tokio::test]
async fn finalizers_and_owners_of_several_managers_stay_apart() {
    let cluster = Cluster::new(1);
    let maps = Api::<ConfigMap>::default_namespaced(cluster.client());
    let with = |finalizers: Value| {
        Patch::Apply(json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "finalizers": finalizers},
        }))
    };
    maps.patch("a", &PatchParams::apply("one"), &with(json!(["x.dev/1"]))).await.unwrap();
    let both = maps.patch("a", &PatchParams::apply("two"), &with(json!(["x.dev/2"]))).await.unwrap();
    assert_eq!(both.metadata.finalizers.unwrap(), ["x.dev/1", "x.dev/2"]);
    let left = maps.patch("a", &PatchParams::apply("one"), &with(json!([]))).await.unwrap();
    assert_eq!(left.metadata.finalizers.unwrap(), ["x.dev/2"]);
}

#[tokio::test]
async fn a_status_is_applied_apart_from_the_rest() {
    let cluster = Cluster::new(1);
    let api = Api::<StorageCluster>::default_namespaced(cluster.client());
    let object = |rest: Value| {
        let mut object = json!({
            "apiVersion": "annulus.dev/v1alpha1", "kind": "StorageCluster", "metadata": {"name": "demo"},
        });
        object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        Patch::Apply(object)
    };
    let one = PatchParams::apply("one");
    let early = api.patch_status("demo", &one, &object(json!({"status": {"phase": "Running"}}))).await;
    assert!(refusal(early).is_not_found());
    let spec = json!({"spec": {"replicas": 5}, "metadata": {"name": "demo", "labels": {"a": "b"}}});
    api.patch("demo", &one, &object(spec)).await.unwrap();
    let status = json!({"status": {"phase": "Running", "members": [{"name": "a"}, {"name": "b"}]}});
    let after = api.patch_status("demo", &one, &object(status)).await.unwrap();
    assert_eq!((after.spec.replicas, after.status.unwrap().members.len()), (5, 2));
    let status = json!({"status": {"members": [{"name": "b"}]}});
    let after = api.patch_status("demo", &one, &object(status)).await.unwrap();
    let said = after.status.unwrap();
    assert_eq!((said.phase.as_str(), said.members.len()), ("", 1), "lists of a custom resource are whole");
    assert_eq!((after.spec.replicas, after.metadata.generation), (5, Some(1)));
    assert_eq!(after.metadata.labels.unwrap()["a"], "b");
}

#[tokio::test]
async fn an_apply_says_what_it_takes_the_object_for() {
    let cluster = Cluster::new(1);
    let maps = Api::<ConfigMap>::default_namespaced(cluster.client());
    let made = maps.create(&PostParams::default(), &map("a", &json!({"x": "1"}))).await.unwrap();
    let with = |metadata: Value| Patch::Apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}));
    let one = PatchParams::apply("one");
    let other_uid = maps.patch("a", &one, &with(json!({"name": "a", "uid": "another"}))).await;
    assert!(refusal(other_uid).is_conflict());
    let old = maps.patch("a", &one, &with(json!({"name": "a", "resourceVersion": "1"}))).await;
    assert!(refusal(old).is_conflict());
    let gone = maps.patch("b", &one, &with(json!({"name": "b", "uid": made.metadata.uid}))).await;
    assert!(refusal(gone).is_conflict());
    let read_back = maps.patch("a", &one, &Patch::Apply(&made)).await;
    assert_eq!(refusal(read_back).code, 400, "managedFields can't be applied");
    let nobody = maps.patch("a", &PatchParams::default(), &with(json!({"name": "a"}))).await;
    assert_eq!(refusal(nobody).code, 400);
    let foreign = Patch::Apply(serde_json::to_value(stored("a")).unwrap());
    assert_eq!(refusal(maps.patch("a", &one, &foreign).await).code, 400);
}
