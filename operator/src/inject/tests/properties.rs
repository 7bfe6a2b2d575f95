//! Any pod, however it is bent: a refusal that says why, nothing, or additions that make of a sound pod a sound one.

use annulus_crds::inject::{self, CONTAINER, INJECT, SIDECAR, VERSION};
use k8s_openapi::api::core::v1 as core;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

use super::super::patch::{Found, Outcome};
use super::super::pod::{ENDPOINT, Pod};
use super::super::request::Missing;
use super::{outcome, patched, rules};

/// A text that means something somewhere, or nothing anywhere.
fn word() -> impl Strategy<Value = String> {
    let meant = vec![
        "demo", "false", CONTAINER, ENDPOINT, "web", "Always", "7070", "7071", "windows", "a/b", "128Mi", "TCP", "",
    ];
    prop_oneof![3 => select(meant).prop_map(str::to_owned), 1 => "\\PC{0,12}"]
}

fn key() -> impl Strategy<Value = String> {
    let known = [INJECT, SIDECAR, VERSION, "app", "~1", "annulus.dev/sidecar-prot"];
    select([&known[..], &inject::OPTIONS[..]].concat()).prop_map(str::to_owned)
}

fn words() -> impl Strategy<Value = Value> {
    vec((key(), word()), 0..4).prop_map(|pairs| pairs.into_iter().map(|(key, value)| (key, json!(value))).collect())
}

fn port() -> impl Strategy<Value = Value> {
    let number = prop_oneof![select(vec![80_i64, 7070, 7071, 0, -1, 70_000]), 1..65_536_i64];
    (number, option::of(word())).prop_map(|(number, protocol)| json!({"containerPort": number, "protocol": protocol}))
}

fn container() -> impl Strategy<Value = Value> {
    let env = option::of(vec(word().prop_map(|name| json!({"name": name, "value": "x"})), 0..4));
    (word(), env, option::weighted(0.2, vec(port(), 0..3)))
        .prop_map(|(name, env, ports)| json!({"name": name, "image": "web:1", "env": env, "ports": ports}))
}

/// A pod, with absent fields for `null` ones in half of the cases.
fn pod() -> impl Strategy<Value = Value> {
    let volume = word().prop_map(|name| json!({"name": name, "emptyDir": {}}));
    let lists = (vec(container(), 0..4), option::of(vec(container(), 0..3)), option::of(vec(volume, 0..3)));
    let notes = (option::of(words()), option::of(words()), prop::bool::weighted(0.8));
    (lists, notes, any::<bool>(), option::weighted(0.1, any::<bool>())).prop_map(|(lists, notes, prune, host)| {
        let (containers, init, volumes) = lists;
        let (labels, mut annotations, asks) = notes;
        if asks {
            annotations.get_or_insert_with(|| json!({}))[INJECT] = json!("demo");
        }
        let mut pod = json!({
            "metadata": {"name": "web", "labels": labels, "annotations": annotations},
            "spec": {"containers": containers, "initContainers": init, "volumes": volumes, "hostNetwork": host},
        });
        if prune {
            remove_nulls(&mut pod);
        }
        pod
    })
}

fn remove_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(remove_nulls);
        }
        Value::Array(all) => all.iter_mut().for_each(remove_nulls),
        _ => {}
    }
}

/// What a bent pod has in place of something.
fn junk() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        Just(json!(1.5)),
        word().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Value::from),
            vec((word(), inner), 0..3).prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

fn paths(value: &Value, at: &str, all: &mut Vec<String>) {
    all.push(at.to_owned());
    let escaped = |key: &str| key.replace('~', "~0").replace('/', "~1");
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(key, field)| paths(field, &format!("{at}/{}", escaped(key)), all))
        }
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(index, one)| paths(one, &format!("{at}/{index}"), all))
        }
        _ => {}
    }
}

fn bend(pod: &mut Value, (place, junk): (Index, Value)) {
    let mut all = Vec::new();
    paths(pod, "", &mut all);
    *pod.pointer_mut(&all[place.index(all.len())]).unwrap() = junk;
}

fn sidecars(pod: &Value) -> usize {
    let lists = [&pod["spec"]["containers"], &pod["spec"]["initContainers"]];
    lists.into_iter().filter_map(Value::as_array).flatten().filter(|container| container["name"] == CONTAINER).count()
}

/// Takes out again what was put in; what is left has to be what there was.
fn without_ours(before: &Value, after: &Value) -> Value {
    let mut pod = after.clone();
    for (field, place) in [("initContainers", 0), ("volumes", usize::MAX)] {
        let list = pod["spec"][field].as_array_mut().unwrap();
        let ours = list.remove(place.min(list.len() - 1));
        assert_eq!(ours["name"], CONTAINER);
    }
    for field in ["containers", "initContainers"] {
        for (index, container) in pod["spec"][field].as_array_mut().into_iter().flatten().enumerate() {
            let had = before["spec"][field][index]["env"].as_array();
            if had.is_some_and(|env| env.iter().any(|variable| variable["name"] == ENDPOINT)) {
                continue;
            }
            let ours = container["env"].as_array_mut().unwrap().remove(0);
            assert_eq!(ours, json!({"name": ENDPOINT, "value": ours["value"]}));
            if had.is_none() {
                container["env"] = Value::Null;
            }
        }
    }
    for (field, key) in [("labels", SIDECAR), ("annotations", VERSION)] {
        pod["metadata"][field][key] = before["metadata"][field][key].clone();
    }
    for (object, field) in
        [("metadata", "labels"), ("metadata", "annotations"), ("spec", "initContainers"), ("spec", "volumes")]
    {
        if before[object][field].is_null() {
            pod[object][field] = Value::Null;
        }
    }
    remove_nulls(&mut pod);
    pod
}

fn check(value: &Value, label: Option<&str>, found: Found, missing: Missing) {
    let Ok(pod) = serde_json::from_value::<Pod>(value.clone()) else { return };
    let mut rules = rules();
    rules.missing = missing;
    let outcome = outcome(&rules, &pod, label, found);
    match &outcome {
        Outcome::Untouched(_) => {}
        Outcome::Refused(refusal) => {
            let told = refusal.to_string();
            assert!(told.len() > 20 && told.len() < 1000 && !told.contains('\n'), "{told}");
        }
        Outcome::Patched(steps) => {
            assert!(!steps.is_empty());
            let after = patched(value, &outcome);
            if serde_json::from_value::<core::Pod>(value.clone()).is_ok() {
                serde_json::from_value::<core::Pod>(after.clone()).unwrap_or_else(|error| panic!("{error}: {after}"));
            }
            assert_eq!((sidecars(value), sidecars(&after)), (0, 1));
            let mut before = value.clone();
            remove_nulls(&mut before);
            assert_eq!(without_ours(value, &after), before);
            let again = super::outcome(&rules, &serde_json::from_value(after).unwrap(), label, found);
            assert_eq!(again, Outcome::Untouched(None));
        }
    }
}

fn situation() -> impl Strategy<Value = (Option<&'static str>, Found, Missing)> {
    let label = option::of(select(vec!["demo", "false", "A/b"]));
    let found = prop_oneof![6 => Just(Found::Here), 1 => Just(Found::Missing), 1 => Just(Found::Leaving)];
    (label, found, select(vec![Missing::Refuse, Missing::Allow]))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_pod_is_refused_with_a_reason_or_untouched_or_gets_exactly_one_sidecar_and_keeps_all_it_has(
        pod in pod(), (label, found, missing) in situation(),
    ) {
        check(&pod, label, found, missing);
    }

    #[test]
    fn the_same_holds_of_pods_that_are_bent(
        pod in pod(), bent in vec((any::<Index>(), junk()), 1..4), (label, found, missing) in situation(),
    ) {
        let mut pod = pod;
        for bent in bent {
            bend(&mut pod, bent);
        }
        check(&pod, label, found, missing);
    }
}

/// A sample of what the properties are about has to be patched, refused and left alone: else they would hold for nothing.
#[test]
fn all_outcomes_are_met() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let mut counts = [0; 3];
    for _ in 0..500 {
        let (pod, (label, found, missing)) = (pod(), situation()).new_tree(&mut runner).unwrap().current();
        let Ok(pod) = serde_json::from_value::<Pod>(pod) else { continue };
        let mut rules = rules();
        rules.missing = missing;
        let index = match outcome(&rules, &pod, label, found) {
            Outcome::Untouched(_) => 0,
            Outcome::Refused(_) => 1,
            Outcome::Patched(_) => 2,
        };
        counts[index] += 1;
    }
    assert!(counts.iter().all(|count| *count > 25), "{counts:?}");
}
