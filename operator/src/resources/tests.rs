//! What the objects look like, whole, and what must hold of them.

use std::path::Path;

use annulus_crds::storage_cluster::{Spread, WhenDeleted};
use annulus_crds::{StorageClusterSpec, annotations, labels};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::*;

pub(crate) const UID: &str = "6a0b1c2d-3e4f-4a5b-8c6d-7e8f9a0b1c2d";

/// A cluster that leaves everything to us.
pub(crate) fn default() -> Facts {
    Facts {
        namespace: "stores".to_owned(),
        name: "demo".to_owned(),
        uid: UID.to_owned(),
        spec: serde_json::from_value(json!({})).unwrap(),
        image: "registry.example/annulus:1.0.0".to_owned(),
        restarted_at: None,
    }
}

/// A cluster that says everything that can be said.
pub(crate) fn full() -> Facts {
    let spec: StorageClusterSpec = serde_yaml::from_str(include_str!("golden/full-spec.yaml")).unwrap();
    let image = spec.image.clone().unwrap();
    Facts { spec, image, restarted_at: Some("2026-12-01T10:00:00Z".to_owned()), ..default() }
}

fn second(facts: &Facts) -> MemberName {
    MemberName { name: member_name(&facts.name, &facts.uid, 2), ordinal: 2 }
}

fn second_pod(facts: &Facts) -> Pod {
    pod::pod(facts, &second(facts))
}

fn parts(pod: Pod) -> (ObjectMeta, PodSpec, Container) {
    let mut spec = pod.spec.unwrap();
    let container = spec.containers.remove(0);
    assert!(spec.containers.is_empty() && spec.init_containers.is_none());
    (pod.metadata, spec, container)
}

/// Every object of a cluster with one member.
fn objects(facts: &Facts) -> Vec<Value> {
    let member = second(facts);
    let mut objects = vec![
        json!(services::client(facts)),
        json!(services::members(facts)),
        json!(budget::budget(facts, 3, 1)),
        json!(volume::volume(facts, &member)),
        json!(pod::pod(facts, &member)),
    ];
    objects.extend(network_policy::network_policy(facts).map(|policy| json!(policy)));
    objects
}

/// Compares with what is written down, or writes it down when `ANNULUS_REWRITE` is set.
fn golden(file: &str, facts: &Facts) {
    let documents: Vec<String> = objects(facts).iter().map(|object| serde_yaml::to_string(object).unwrap()).collect();
    let made = documents.join("---\n");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/resources/golden").join(file);
    if std::env::var_os("ANNULUS_REWRITE").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        made == written,
        "{file} is not what is made now; `ANNULUS_REWRITE=1 cargo test -p annulus-operator` writes it, `git diff` shows it\n{made}"
    );
}

#[test]
fn a_cluster_that_says_nothing_gets_these_objects() {
    golden("default.yaml", &default());
}

#[test]
fn a_cluster_that_says_everything_gets_these_objects() {
    golden("full.yaml", &full());
}

#[test]
fn nothing_empty_is_said() {
    // To select everything is said with an empty selector.
    let may_be_empty = ["podSelector", "namespaceSelector"];
    fn look(path: &str, value: &Value, may_be_empty: &[&str]) {
        let empty = match value {
            Value::Null => true,
            Value::Object(fields) => {
                fields.iter().for_each(|(key, value)| look(&format!("{path}.{key}"), value, may_be_empty));
                fields.is_empty()
            }
            Value::Array(list) => {
                list.iter().for_each(|value| look(path, value, may_be_empty));
                list.is_empty()
            }
            Value::String(text) => text.is_empty(),
            Value::Bool(_) | Value::Number(_) => false,
        };
        assert!(!empty || may_be_empty.iter().any(|key| path.ends_with(key)), "{path} is empty");
    }
    for facts in [default(), full()] {
        for object in objects(&facts) {
            look(object["kind"].as_str().unwrap(), &object, &may_be_empty);
        }
    }
}

#[test]
fn all_objects_belong_to_their_cluster() {
    for facts in [default(), full()] {
        let owner = json!([{
            "apiVersion": "annulus.dev/v1alpha1", "kind": "StorageCluster", "name": "demo", "uid": UID,
            "controller": true, "blockOwnerDeletion": true
        }]);
        for object in objects(&facts) {
            let metadata = &object["metadata"];
            let owned = object["kind"] != "PersistentVolumeClaim";
            assert_eq!(metadata["ownerReferences"], if owned { owner.clone() } else { Value::Null }, "{object}");
            assert_eq!(metadata["namespace"], "stores");
            for (key, value) in facts.labels() {
                assert_eq!(metadata["labels"][key], value, "{object}");
            }
        }
    }
}

#[test]
fn what_is_ours_on_a_pod_can_not_be_overridden() {
    let mut facts = default();
    let template = &mut facts.spec.pod_template;
    for key in [labels::NAME, labels::INSTANCE, labels::MANAGED_BY, labels::COMPONENT, labels::MEMBER, "team"] {
        template.labels.insert(key.to_owned(), "other".to_owned());
    }
    for key in [annotations::ORDINAL, annotations::TEMPLATE, annotations::DRAIN, "note"] {
        template.annotations.insert(key.to_owned(), "other".to_owned());
    }
    let variables = json!([{ "name": "ANNULUS_ON_DAMAGE", "value": "stop" }, { "name": "A", "value": "1" }, { "name": "A", "value": "2" }]);
    template.env = serde_json::from_value(variables).unwrap();
    let (metadata, _, container) = parts(second_pod(&facts));
    let mut expected = facts.member_labels(&second(&facts).name);
    expected.insert("team".to_owned(), "other".to_owned());
    assert_eq!(metadata.labels, Some(expected));
    let expected = [
        (annotations::ORDINAL.to_owned(), "2".to_owned()),
        (annotations::TEMPLATE.to_owned(), template::digest(&facts)),
        ("note".to_owned(), "other".to_owned()),
    ];
    assert_eq!(metadata.annotations, Some(BTreeMap::from(expected)));
    let values = |name: &str| -> Vec<String> {
        let variables = container.env.iter().flatten().filter(|variable| variable.name == name);
        variables.filter_map(|variable| variable.value.clone()).collect()
    };
    assert_eq!((values("ANNULUS_ON_DAMAGE"), values("A")), (vec!["quarantine".to_owned()], vec!["2".to_owned()]));
}

#[test]
fn selectors_find_a_clusters_pods_and_no_others() {
    let (ours, mut theirs) = (full(), full());
    theirs.name = "demo-2".to_owned();
    let found = |facts: &Facts, pod: &Pod| {
        let labels = pod.metadata.labels.clone().unwrap();
        facts.selector().iter().all(|(key, value)| labels.get(key) == Some(value))
    };
    assert!(found(&ours, &second_pod(&ours)) && !found(&ours, &second_pod(&theirs)));
    assert_eq!(
        ours.selector_text(),
        "app.kubernetes.io/component=member,app.kubernetes.io/instance=demo,app.kubernetes.io/name=annulus"
    );
}

/// <https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted>
#[test]
fn a_pod_passes_restricted_pod_security() {
    for facts in [default(), full()] {
        let (_, spec, container) = parts(second_pod(&facts));
        let (pod, own) = (spec.security_context.unwrap(), container.security_context.unwrap());
        assert_eq!((spec.host_network, spec.host_pid, spec.host_ipc), (None, None, None));
        assert_eq!((pod.run_as_non_root, pod.run_as_user, pod.run_as_group), (Some(true), Some(65532), Some(65532)));
        assert_eq!((own.run_as_non_root, own.run_as_user, own.privileged), (None, None, None));
        assert_eq!(pod.seccomp_profile.unwrap().type_, "RuntimeDefault");
        assert_eq!(own.allow_privilege_escalation, Some(false));
        assert_eq!(own.read_only_root_filesystem, Some(true));
        let capabilities = own.capabilities.unwrap();
        assert_eq!((capabilities.drop, capabilities.add), (Some(vec!["ALL".to_owned()]), None));
        assert_eq!((pod.sysctls, pod.se_linux_options, own.proc_mount), (None, None, None));
        assert_eq!((own.seccomp_profile, own.se_linux_options), (None, None));
        assert!(container.ports.unwrap().iter().all(|port| port.host_port.is_none()));
        assert!(spec.volumes.unwrap().iter().all(|volume| volume.persistent_volume_claim.is_some()));
        assert_eq!((spec.automount_service_account_token, spec.service_account_name), (Some(false), None));
    }
}

#[test]
fn every_variable_that_is_set_is_one_that_a_member_knows() {
    let known = include_str!("../../../node/server/src/config.rs");
    let (_, _, container) = parts(second_pod(&full()));
    let ours = container.env.unwrap().into_iter().filter(|variable| variable.name.starts_with("ANNULUS_"));
    let ours: Vec<String> = ours.map(|variable| variable.name).collect();
    for name in &ours {
        assert!(known.contains(&format!("\"{name}\";")), "{name}");
    }
    assert_eq!(ours.len(), 16);
}

#[test]
fn members_that_must_not_share_a_node_are_kept_apart_and_others_as_far_as_it_goes() {
    let mut facts = default();
    let rules = |facts: &Facts| {
        let (_, spec, _) = parts(second_pod(facts));
        let anti = spec.affinity.unwrap().pod_anti_affinity.unwrap();
        let constraints = spec.topology_spread_constraints.unwrap();
        let spread: Vec<String> = constraints.into_iter().map(|constraint| constraint.when_unsatisfiable).collect();
        let required = anti.required_during_scheduling_ignored_during_execution.map_or(0, |terms| terms.len());
        let preferred = anti.preferred_during_scheduling_ignored_during_execution.map_or(0, |terms| terms.len());
        (spread, required, preferred)
    };
    assert_eq!(rules(&facts), (vec!["ScheduleAnyway".to_owned(); 2], 0, 1));
    facts.spec.topology.spread = Spread::Required;
    assert_eq!(rules(&facts), (vec!["DoNotSchedule".to_owned(); 2], 1, 0));
    facts.spec.topology.zone_key = "kubernetes.io/hostname".to_owned();
    assert_eq!(rules(&facts), (vec!["DoNotSchedule".to_owned()], 1, 0));
    // Refused before it comes here; even so, members stay apart.
    facts.spec.pod_template.affinity = Some(json!({ "podAntiAffinity": 1 }));
    assert_eq!(rules(&facts).1, 1);
}

#[test]
fn a_pod_stays_on_a_lost_node_unless_the_user_says_for_how_long() {
    let tolerated = |facts: &Facts| -> Vec<(Option<String>, Option<i64>)> {
        let tolerations = parts(second_pod(facts)).1.tolerations.unwrap();
        tolerations.into_iter().map(|toleration| (toleration.key, toleration.toleration_seconds)).collect()
    };
    let (not_ready, unreachable) = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable");
    let mut facts = default();
    assert_eq!(tolerated(&facts), [(Some(not_ready.to_owned()), None), (Some(unreachable.to_owned()), None)]);
    facts.spec.pod_template.tolerations = vec![Toleration {
        key: Some(unreachable.to_owned()),
        effect: Some("NoExecute".to_owned()),
        toleration_seconds: Some(30),
        ..Toleration::default()
    }];
    assert_eq!(tolerated(&facts), [(Some(unreachable.to_owned()), Some(30)), (Some(not_ready.to_owned()), None)]);
}

#[test]
fn a_budget_says_how_many_members_stay() {
    let stay = |members, allowed| {
        let budget = json!(budget::budget(&default(), members, allowed));
        budget["spec"]["minAvailable"].as_i64().unwrap()
    };
    assert_eq!((stay(5, 2), stay(5, 0), stay(0, 1), stay(1000, 1)), (3, 5, 0, 999));
}

#[test]
fn no_policy_is_made_unless_it_is_asked_for() {
    assert_eq!(network_policy::network_policy(&default()), None);
    assert!(network_policy::network_policy(&full()).is_some());
}

#[test]
fn managers_of_fields_are_apart() {
    use field_managers::{ACCESS, FINALIZER, MEMBERS, STATUS};
    let all = std::collections::BTreeSet::from([ACCESS, FINALIZER, MEMBERS, STATUS]);
    assert!(all.len() == 4 && all.iter().all(|name| name.len() <= 128));
}
