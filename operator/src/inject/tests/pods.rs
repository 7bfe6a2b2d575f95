//! One pod after the other.

use annulus_crds::inject::{CONTAINER, INJECT};
use k8s_openapi::api::core::v1 as core;
use serde_json::{Value, json};

use super::super::patch::{Found, Outcome};
use super::super::request::Missing;
use super::{outcome, patched, pod, read, rules};

fn judge(pod: &Value) -> Outcome {
    outcome(&rules(), &read(pod), None, Found::Here)
}

fn refusal(outcome: &Outcome) -> String {
    let Outcome::Refused(refusal) = outcome else { panic!("{outcome:?}") };
    refusal.to_string()
}

fn asking(container: Value) -> Value {
    pod(json!({INJECT: "demo"}), container)
}

fn with(key: &str, value: &str) -> Value {
    pod(json!({INJECT: "demo", key: value}), json!({}))
}

#[test]
fn the_pod_gets_the_sidecar_first_and_every_container_the_variable_first() {
    let mut pod = asking(json!({"env": [{"name": "URL", "value": "$(ANNULUS_ENDPOINT)/v1"}]}));
    pod["spec"]["initContainers"] = json!([{"name": "migrate", "image": "web:1"}]);
    pod["spec"]["volumes"] = json!([{"name": "cache", "emptyDir": {}}]);
    pod["metadata"]["labels"] = json!({"app": "web"});
    let patched = patched(&pod, &judge(&pod));
    let typed: core::Pod = serde_json::from_value(patched.clone()).unwrap();
    assert_eq!(serde_json::to_value(&typed).unwrap(), patched, "a field is misspelt");
    let spec = typed.spec.unwrap();
    let init = spec.init_containers.unwrap();
    assert_eq!(init.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), [CONTAINER, "migrate"]);
    assert_eq!(init[0].restart_policy.as_deref(), Some("Always"));
    let command: Vec<String> = [init[0].command.clone().unwrap(), init[0].args.clone().unwrap()].concat();
    assert_eq!(
        command.join(" "),
        "/annulus sidecar --listen 127.0.0.1:7070 --endpoint demo.shop.svc:7070 --status-listen [::]:7071 --state \
         /run/annulus/locks --owner $(POD_NAME)"
    );
    let names = |container: &core::Container| -> Vec<String> {
        container.env.iter().flatten().map(|variable| variable.name.clone()).collect()
    };
    assert_eq!(names(&spec.containers[0]), ["ANNULUS_ENDPOINT", "URL"]);
    assert_eq!(names(&init[1]), ["ANNULUS_ENDPOINT"]);
    assert_eq!(names(&init[0]), ["POD_NAME", "ANNULUS_LOG_FORMAT"]);
    let labels = typed.metadata.labels.unwrap();
    assert_eq!((labels["app"].as_str(), labels["annulus.dev/sidecar"].as_str()), ("web", "demo"));
    assert_eq!(typed.metadata.annotations.unwrap()["annulus.dev/sidecar-version"], "0.4.0");
}

#[test]
fn a_container_that_sets_the_variable_keeps_its_own() {
    let pod = asking(json!({"env": [{"name": "ANNULUS_ENDPOINT", "value": "http://elsewhere"}]}));
    let patched = patched(&pod, &judge(&pod));
    assert_eq!(patched["spec"]["containers"], pod["spec"]["containers"]);
}

#[test]
fn the_sidecar_meets_the_restricted_standard() {
    let pod = asking(json!({}));
    let sidecar = &patched(&pod, &judge(&pod))["spec"]["initContainers"][0];
    let context = &sidecar["securityContext"];
    assert_eq!((&context["runAsNonRoot"], &context["runAsUser"]), (&json!(true), &json!(65532)));
    assert_eq!(
        (&context["allowPrivilegeEscalation"], &context["readOnlyRootFilesystem"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(
        (&context["capabilities"], &context["seccompProfile"]["type"]),
        (&json!({"drop": ["ALL"]}), &json!("RuntimeDefault"))
    );
    assert!(
        sidecar["readinessProbe"].is_null(),
        "an outage of the store would take applications out of their Services"
    );
}

#[test]
fn a_namespaces_label_is_the_default_and_a_pod_has_the_last_word() {
    let silent = pod(json!({}), json!({}));
    let judge = |pod: &Value, label| outcome(&rules(), &read(pod), label, Found::Here);
    assert!(matches!(judge(&silent, Some("demo")), Outcome::Patched(_)));
    assert_eq!(judge(&silent, None), Outcome::Untouched(None));
    assert_eq!(judge(&silent, Some("false")), Outcome::Untouched(None));
    assert_eq!(judge(&pod(json!({INJECT: "false"}), json!({})), Some("demo")), Outcome::Untouched(None));
    let other = pod(json!({INJECT: "other"}), json!({}));
    let patched = patched(&other, &judge(&other, Some("demo")));
    assert_eq!(patched["metadata"]["labels"]["annulus.dev/sidecar"], "other");
}

#[test]
fn a_pod_that_has_its_sidecar_stays_as_it_is_and_gets_only_the_variables_that_are_missing() {
    let pod = asking(json!({}));
    let mut there = patched(&pod, &judge(&pod));
    assert_eq!(judge(&there), Outcome::Untouched(None));
    // Its cluster is gone meanwhile, and the operator another version: what is there is left.
    let mut newer = rules();
    (newer.version, newer.image) = ("0.5.0".to_owned(), "registry.example:5000/annulus/node:0.5.0".to_owned());
    assert_eq!(outcome(&newer, &read(&there), None, Found::Missing), Outcome::Untouched(None));
    // Another webhook puts a container in.
    there["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": "mesh", "image": "mesh:1"}));
    let completed = patched(&there, &judge(&there));
    assert_eq!(completed["spec"]["containers"][1]["env"][0]["name"], "ANNULUS_ENDPOINT");
    assert_eq!(completed["spec"]["initContainers"], there["spec"]["initContainers"]);
    assert_eq!(judge(&completed), Outcome::Untouched(None));
}

#[test]
fn what_has_the_sidecars_place_and_is_not_ours_is_refused() {
    let pod = asking(json!({}));
    let there = patched(&pod, &judge(&pod));
    let image = "/spec/initContainers/0/image";
    let cases: [(&str, Value, &str); 7] = [
        (image, json!("registry.example:5000/evil/node:0.4.0"), "its image is"),
        (image, json!("annulus/node"), "its image is"),
        ("/spec/initContainers/0/restartPolicy", Value::Null, "something else"),
        ("/spec/initContainers/0/command", json!(["/bin/sh", "-c"]), "something else"),
        ("/spec/volumes/0", json!({"name": CONTAINER, "hostPath": {"path": "/"}}), "volume"),
        ("/metadata/labels", Value::Null, "label is missing"),
        ("/metadata/labels/annulus.dev~1sidecar", json!("other"), "for the cluster `other`"),
    ];
    for (path, value, said) in cases {
        let mut pod = there.clone();
        *pod.pointer_mut(path).unwrap() = value;
        assert!(refusal(&judge(&pod)).contains(said), "{path}: {:?}", judge(&pod));
    }
    for (field, said) in [("containers", "a container of its own"), ("volumes", "a volume of its own")] {
        let mut pod = asking(json!({}));
        pod["spec"][field] = json!([{"name": CONTAINER, "image": "x"}]);
        assert!(refusal(&judge(&pod)).contains(said));
    }
}

#[test]
fn a_value_that_is_no_name_of_a_cluster_of_this_namespace_is_refused() {
    for (value, said) in [
        ("other/demo", "its own namespace only"),
        ("", "name of a StorageCluster"),
        ("true", "name of a StorageCluster"),
        ("Demo", "can't be the name"),
        ("demo.shop.svc", "can't be the name"),
        ("-demo", "can't be the name"),
        (&"a".repeat(64), "can't be the name"),
        ("demo\n--privileged", "can't be the name"),
        ("$(POD_NAME)", "can't be the name"),
    ] {
        let told = refusal(&judge(&pod(json!({INJECT: value}), json!({}))));
        assert!(told.contains(said) && !told.contains('\n'), "{value}: {told}");
    }
}

#[test]
fn a_cluster_that_is_not_there_is_judged_by_the_policy() {
    let mut rules = rules();
    for (found, said) in [(Found::Missing, "there is none"), (Found::Leaving, "being deleted")] {
        rules.missing = Missing::Refuse;
        let pod = read(&asking(json!({})));
        assert!(refusal(&outcome(&rules, &pod, None, found)).contains(said));
        rules.missing = Missing::Allow;
        let Outcome::Untouched(Some(warning)) = outcome(&rules, &pod, None, found) else { panic!() };
        assert!(warning.contains(said) && warning.contains("without its sidecar"), "{warning}");
    }
}

#[test]
fn overrides_are_taken_as_far_as_they_make_sense() {
    let pod = pod(
        json!({INJECT: "demo", "annulus.dev/sidecar-port": "8070", "annulus.dev/sidecar-status-port": "8071",
               "annulus.dev/sidecar-cpu": "0.5", "annulus.dev/sidecar-memory": "128Mi"}),
        json!({"ports": [{"containerPort": 7070}, {"containerPort": 7071}]}),
    );
    let patched = patched(&pod, &judge(&pod));
    let sidecar = &patched["spec"]["initContainers"][0];
    assert_eq!(
        sidecar["resources"],
        json!({"requests": {"cpu": "0.5", "memory": "128Mi"}, "limits": {"memory": "128Mi"}})
    );
    assert_eq!(sidecar["livenessProbe"]["exec"]["command"][4], "127.0.0.1:8070");
    assert_eq!(patched["spec"]["containers"][0]["env"][0]["value"], "http://127.0.0.1:8070");
    for (key, values) in [
        ("port", vec!["80", "0", "65536", "+8080", "", "8080 ", "7071", "http"]),
        ("status-port", vec!["1023", "-1", "7070"]),
        ("cpu", vec!["0", "0m", "65", "-1", "1.5m", "1e3", "", "10 m", "1k", "18446744073709551616m"]),
        ("cpu-limit", vec!["0", "9m", "1.5m", "lots"]),
        ("memory", vec!["1Mi", "17Gi", "64", "128m", "128mi", "", "1e9", "20000000000000000000m"]),
        ("image", vec!["evil:1", "", "registry.example:5000/annulus/node:0.4.0 --x"]),
    ] {
        for value in values {
            let told = refusal(&judge(&with(&format!("annulus.dev/sidecar-{key}"), value)));
            assert!(told.contains(&format!("annulus.dev/sidecar-{key}")), "{key} {value}: {told}");
        }
    }
    let told = refusal(&judge(&with("annulus.dev/sidecar-prot", "8080")));
    assert!(told.contains("`annulus.dev/sidecar-prot`") && told.contains("annulus.dev/sidecar-port"), "{told}");
    let same = "registry.example:5000/annulus/node:0.4.0";
    assert!(matches!(judge(&with("annulus.dev/sidecar-image", same)), Outcome::Patched(_)), "it is ours anyway");
}

#[test]
fn an_image_is_taken_from_a_pod_only_where_that_is_allowed() {
    let mut rules = rules();
    rules.allows_image = true;
    let judge = |value: &str| outcome(&rules, &read(&with("annulus.dev/sidecar-image", value)), None, Found::Here);
    let pod = with("annulus.dev/sidecar-image", "mirror.example/annulus:dev@sha256:00");
    let patched = patched(&pod, &judge("mirror.example/annulus:dev@sha256:00"));
    assert_eq!(patched["spec"]["initContainers"][0]["image"], "mirror.example/annulus:dev@sha256:00");
    for value in ["", "-x", "a b", "a\nb", &"a".repeat(2000)] {
        assert!(refusal(&judge(value)).contains("no reference of an image"), "{value}");
    }
}

#[test]
fn a_port_that_a_container_has_is_refused_by_its_name() {
    for (ports, host, said) in [
        (json!([{"containerPort": 7070}]), false, "`web` listens at port 7070"),
        (json!([{"containerPort": 7071, "protocol": "TCP"}]), false, "`web` listens at port 7071"),
        (json!([{"containerPort": 80, "hostPort": 7070}]), true, "`web` listens at port 7070"),
    ] {
        let mut pod = asking(json!({"ports": ports}));
        pod["spec"]["hostNetwork"] = json!(host);
        pod["spec"]["dnsPolicy"] = json!("ClusterFirstWithHostNet");
        let told = refusal(&judge(&pod));
        assert!(told.contains(said) && told.contains("annulus.dev/sidecar-"), "{told}");
    }
    for free in [json!([{"containerPort": 7070, "protocol": "UDP"}]), json!([{"containerPort": 80, "hostPort": 7070}])]
    {
        assert!(matches!(judge(&asking(json!({"ports": free}))), Outcome::Patched(_)));
    }
}

#[test]
fn a_pod_that_would_not_find_the_stores_name_is_refused() {
    for (host, policy, is_found) in [
        (false, "ClusterFirst", true),
        (false, "Default", false),
        (true, "ClusterFirst", false),
        (true, "ClusterFirstWithHostNet", true),
        (true, "None", false),
        (true, "Default", false),
    ] {
        let mut pod = asking(json!({}));
        pod["spec"]["hostNetwork"] = json!(host);
        pod["spec"]["dnsPolicy"] = json!(policy);
        match judge(&pod) {
            Outcome::Patched(_) => assert!(is_found, "{host} {policy}"),
            outcome => assert!(refusal(&outcome).contains("dnsPolicy") && !is_found, "{host} {policy}"),
        }
    }
    let mut pod = asking(json!({}));
    pod["spec"]["dnsPolicy"] = json!("None");
    pod["spec"]["dnsConfig"] = json!({"nameservers": ["10.96.0.10"], "searches": ["cluster.local"]});
    assert!(matches!(judge(&pod), Outcome::Patched(_)), "it names where to look");
}

#[test]
fn some_pods_are_never_touched() {
    let mut windows = asking(json!({}));
    windows["spec"]["os"] = json!({"name": "windows"});
    let mut by_selector = asking(json!({}));
    by_selector["spec"]["nodeSelector"] = json!({"kubernetes.io/os": "windows"});
    for pod in [windows, by_selector] {
        let Outcome::Untouched(Some(warning)) = judge(&pod) else { panic!() };
        assert!(warning.contains("Windows"), "{warning}");
    }
    let mirror = pod(json!({INJECT: "demo", "kubernetes.io/config.mirror": "abc"}), json!({}));
    assert_eq!(judge(&mirror), Outcome::Untouched(None));
    let mut member = asking(json!({}));
    member["metadata"]["labels"] = json!({"app.kubernetes.io/managed-by": "annulus-operator"});
    assert_eq!(judge(&member), Outcome::Untouched(None));
    let pod = read(&asking(json!({})));
    for namespaces in [vec!["other"], vec![super::NAMESPACE]] {
        let mut rules = rules();
        let is_served = namespaces == [super::NAMESPACE];
        rules.namespaces = namespaces.into_iter().map(str::to_owned).collect();
        assert_eq!(outcome(&rules, &pod, None, Found::Here) != Outcome::Untouched(None), is_served);
    }
    let mut own = rules();
    own.own_namespace = super::NAMESPACE.to_owned();
    assert_eq!(outcome(&own, &pod, None, Found::Here), Outcome::Untouched(None));
}
