//! What Helm makes of the operator's chart. It takes `helm`, so `cargo test` leaves these tests out; `cargo xtest` runs them.

use std::path::Path;
use std::process::{Command, Output};

use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Values that use everything there is.
const EVERYTHING: &[&str] = &[
    "replicas=2",
    "image.repository=registry.example:5000/annulus/operator",
    "image.tag=dev",
    "nodeImage.tag=dev",
    "imagePullSecrets={registry}",
    "namespaces={team-a,team-b}",
    "logFormat=text",
    "priorityClassName=system-cluster-critical",
    "nodeSelector.disk=fast",
    "tolerations[0].key=dedicated",
    "tolerations[0].operator=Exists",
    "affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight=1",
    "affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.topologyKey=rack",
    "podLabels.team=storage",
    "podAnnotations.note=text",
    "networkPolicy.enabled=true",
    "injection.failurePolicy=Fail",
    "injection.missingCluster=allow",
    "injection.allowImage=true",
    "injection.image.repository=registry.example/annulus/node",
    "injection.image.tag=dev",
    "injection.certificates.by=cert-manager",
    "metrics.serviceMonitor.enabled=true",
    "metrics.serviceMonitor.labels.release=prometheus",
    "metrics.alerts.enabled=true",
];

/// Values that leave out what can be left out.
const LITTLE: &[&str] =
    &["deletionProtection.enabled=false", "aggregateRoles.enabled=false", "injection.enabled=false"];

fn helm(values: &[&str]) -> Output {
    let mut command = Command::new("helm");
    // A Helm that was built without a release's flags takes itself for a very old Kubernetes.
    command.args(["template", "annulus-operator", "../charts/annulus-operator", "--kube-version", "1.34.0"]);
    command.args(["--namespace", "annulus-system"]).current_dir(Path::new(env!("CARGO_MANIFEST_DIR")));
    for value in values {
        command.args(["--set", value]);
    }
    command.output().expect("helm runs")
}

fn rendered(values: &[&str]) -> Vec<Value> {
    let output = helm(values);
    assert!(output.status.success(), "{values:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let documents = serde_yaml::Deserializer::from_str(&text).map(|document| Value::deserialize(document).unwrap());
    documents.filter(|document| !document.is_null()).collect()
}

fn of_kind<'a>(documents: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    documents.iter().filter(move |document| document["kind"] == kind)
}

fn only<'a>(documents: &'a [Value], kind: &'a str) -> &'a Value {
    let mut found = of_kind(documents, kind);
    let first = found.next().unwrap_or_else(|| panic!("there is no {kind}"));
    assert!(found.next().is_none(), "there is more than one {kind}");
    first
}

/// A field that the type does not know gets lost on the way through it.
fn nothing_is_misspelt<T: DeserializeOwned + Serialize>(document: &Value) {
    let typed: T = serde_json::from_value(document.clone()).unwrap_or_else(|error| panic!("{document:#}: {error}"));
    assert_eq!(serde_json::to_value(typed).unwrap(), *document);
}

#[test]
fn every_object_is_what_kubernetes_knows() {
    for values in [&[], EVERYTHING, LITTLE] {
        for document in rendered(values) {
            match document["kind"].as_str().unwrap() {
                "ClusterRole" => nothing_is_misspelt::<ClusterRole>(&document),
                "ClusterRoleBinding" => nothing_is_misspelt::<ClusterRoleBinding>(&document),
                "Deployment" => nothing_is_misspelt::<Deployment>(&document),
                "MutatingWebhookConfiguration" => nothing_is_misspelt::<MutatingWebhookConfiguration>(&document),
                "NetworkPolicy" => nothing_is_misspelt::<NetworkPolicy>(&document),
                "Role" => nothing_is_misspelt::<Role>(&document),
                "RoleBinding" => nothing_is_misspelt::<RoleBinding>(&document),
                "Service" => nothing_is_misspelt::<Service>(&document),
                "ServiceAccount" => nothing_is_misspelt::<ServiceAccount>(&document),
                "ValidatingAdmissionPolicy" => nothing_is_misspelt::<ValidatingAdmissionPolicy>(&document),
                "ValidatingAdmissionPolicyBinding" => {
                    nothing_is_misspelt::<ValidatingAdmissionPolicyBinding>(&document);
                }
                "PrometheusRule" | "ServiceMonitor" => assert_eq!(document["apiVersion"], "monitoring.coreos.com/v1"),
                "Certificate" | "Issuer" => assert_eq!(document["apiVersion"], "cert-manager.io/v1"),
                kind => panic!("a {kind} was not expected"),
            }
        }
    }
}

/// The rules of all roles of a kind that the operator itself is bound to, as (namespace, rule).
fn rules(documents: &[Value], kind: &str) -> Vec<(String, Value)> {
    let mut rules = Vec::new();
    for role in of_kind(documents, kind).filter(|role| !role.to_string().contains("aggregate-to")) {
        let namespace = role["metadata"]["namespace"].as_str().unwrap_or_default();
        for rule in role["rules"].as_array().unwrap() {
            rules.push((namespace.to_owned(), rule.clone()));
        }
    }
    rules
}

#[test]
fn no_role_has_a_wildcard_or_reads_secrets_but_the_webhooks_own() {
    for values in [&[], EVERYTHING, LITTLE] {
        let documents = rendered(values);
        for role in of_kind(&documents, "ClusterRole").chain(of_kind(&documents, "Role")) {
            for rule in role["rules"].as_array().unwrap() {
                let is_of_secrets = rule["resources"].to_string().contains("secrets");
                let is_named = rule["resourceNames"] == json!(["annulus-operator-webhook"]);
                let only_makes = rule["verbs"] == json!(["create"]);
                let is_own = role["kind"] == "Role" && role["metadata"]["namespace"] == "annulus-system";
                assert!(!is_of_secrets || (is_own && (is_named || only_makes)), "{role:#}");
            }
            let text = role["rules"].to_string();
            for word in ["*", "pods/exec", "roles", "clusterroles", "bind", "escalate", "impersonate"] {
                assert!(!text.contains(&format!("\"{word}\"")), "{word}: {role:#}");
            }
        }
    }
}

#[test]
fn with_a_list_of_namespaces_nothing_in_others_may_be_read_or_changed() {
    let documents = rendered(&["namespaces={team-a,team-b}"]);
    let everywhere: Vec<Value> = rules(&documents, "ClusterRole").into_iter().map(|(_, rule)| rule).collect();
    let look = json!(["get", "list", "watch"]);
    assert_eq!(
        everywhere,
        [
            json!({"apiGroups": [""], "resources": ["nodes"], "verbs": look}),
            json!({"apiGroups": ["storage.k8s.io"], "resources": ["storageclasses"], "verbs": look}),
            json!({"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get"], "resourceNames": ["team-a", "team-b"]}),
            json!({
                "apiGroups": ["admissionregistration.k8s.io"], "resources": ["mutatingwebhookconfigurations"],
                "verbs": ["get", "list", "watch", "patch"], "resourceNames": ["annulus-operator.annulus-system"],
            }),
        ]
    );
    let of = |namespace: &str| -> Vec<Value> {
        rules(&documents, "Role").into_iter().filter(|(found, _)| found == namespace).map(|(_, rule)| rule).collect()
    };
    assert_eq!(of("team-a"), of("team-b"));

    // Without a list the same rules hold everywhere.
    let all = rules(&rendered(&[]), "ClusterRole");
    assert_eq!(all.len(), everywhere.len() + of("team-a").len());
    assert!(of("team-a").iter().all(|rule| all.iter().any(|(_, found)| found == rule)));

    let environment = &only(&documents, "Deployment")["spec"]["template"]["spec"]["containers"][0]["env"];
    let expected = json!({"name": "ANNULUS_NAMESPACES", "value": "team-a,team-b"});
    assert!(environment.as_array().unwrap().contains(&expected), "{environment:#}");
}

#[test]
fn the_lease_that_the_operator_asks_for_is_the_one_that_it_may_change() {
    for values in [&[], EVERYTHING] {
        let documents = rendered(values);
        let environment = &only(&documents, "Deployment")["spec"]["template"]["spec"]["containers"][0]["env"];
        let name = environment.as_array().unwrap().iter().find(|variable| variable["name"] == "ANNULUS_LEASE_NAME");
        let name = &name.unwrap()["value"];
        let changes = rules(&documents, "Role").into_iter().find(|(namespace, rule)| {
            namespace == "annulus-system" && rule["resources"][0] == "leases" && rule["resourceNames"][0] == *name
        });
        assert_eq!(changes.unwrap().1["verbs"], json!(["get", "update", "patch"]));
    }
}

#[test]
fn the_operators_pod_meets_the_restricted_standard() {
    for values in [&[], EVERYTHING] {
        let documents = rendered(values);
        let pod = &only(&documents, "Deployment")["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["runAsUser"], 65532);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        for container in pod["containers"].as_array().unwrap() {
            let context = &container["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"], false);
            assert_eq!(context["readOnlyRootFilesystem"], true);
            assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}));
            assert!(container["resources"]["limits"]["memory"].is_string());
        }
        assert!(pod["volumes"].is_null() && pod["hostNetwork"].is_null());
    }
}

/// Members' network policies let in whoever has this label.
#[test]
fn the_operators_pod_is_found_by_its_name() {
    for values in [&[], EVERYTHING] {
        let documents = rendered(values);
        let labels = &only(&documents, "Deployment")["spec"]["template"]["metadata"]["labels"];
        assert_eq!(labels[annulus_crds::labels::NAME], annulus_crds::labels::MANAGER);
    }
}

#[test]
fn deletion_protection_ends_at_the_operators_namespaces() {
    let documents = rendered(&["namespaces={team-a}"]);
    let binding = only(&documents, "ValidatingAdmissionPolicyBinding");
    assert_eq!(binding["spec"]["policyName"], only(&documents, "ValidatingAdmissionPolicy")["metadata"]["name"]);
    let namespaces = &binding["spec"]["matchResources"]["namespaceSelector"]["matchExpressions"][0]["values"];
    assert_eq!(*namespaces, json!(["team-a"]));
    assert!(of_kind(&rendered(LITTLE), "ValidatingAdmissionPolicy").next().is_none());
}

/// The namespaces that a webhook is asked about, as (operator, values) of `kubernetes.io/metadata.name`.
fn namespaces(webhook: &Value) -> Vec<(&str, &Value)> {
    let expressions = webhook["namespaceSelector"]["matchExpressions"].as_array().unwrap().iter();
    let by_name = expressions.filter(|expression| expression["key"] == "kubernetes.io/metadata.name");
    by_name.map(|expression| (expression["operator"].as_str().unwrap(), &expression["values"])).collect()
}

#[test]
fn the_webhook_is_asked_about_new_pods_that_ask_and_never_about_the_clusters_own() {
    let never = json!(["kube-system", "kube-node-lease", "kube-public", "annulus-system"]);
    for (values, policy) in [(&[] as &[&str], "Ignore"), (EVERYTHING, "Fail")] {
        let documents = rendered(values);
        let webhooks = only(&documents, "MutatingWebhookConfiguration")["webhooks"].as_array().unwrap();
        let asks = |webhook: &Value| webhook["namespaceSelector"]["matchExpressions"][0].clone();
        assert_eq!(asks(&webhooks[0]), json!({"key": "annulus.dev/inject", "operator": "Exists"}));
        assert_eq!(asks(&webhooks[1]), json!({"key": "annulus.dev/inject", "operator": "DoesNotExist"}));
        assert!(webhooks[0]["matchConditions"].is_null() && webhooks[1]["matchConditions"].is_array());
        for webhook in webhooks {
            let names = namespaces(webhook);
            assert_eq!(names[0], ("NotIn", &never));
            assert_eq!(names.get(1).is_some(), !values.is_empty());
            assert_eq!((&webhook["failurePolicy"], &webhook["sideEffects"]), (&json!(policy), &json!("None")));
            assert_eq!(webhook["rules"][0]["operations"], json!(["CREATE"]));
            let members = &webhook["objectSelector"]["matchExpressions"][0];
            assert_eq!(members["key"], annulus_crds::labels::MANAGED_BY);
            assert_eq!(members["values"], json!([annulus_crds::labels::MANAGER]));
            // An upgrade that said what is trusted would take it away.
            assert!(webhook["clientConfig"]["caBundle"].is_null());
        }
    }
    let namespaces_of = rendered(&["namespaces={team-a}"]);
    let webhooks = &only(&namespaces_of, "MutatingWebhookConfiguration")["webhooks"];
    assert_eq!(namespaces(&webhooks[0])[1], ("In", &json!(["team-a"])));
    assert!(of_kind(&rendered(LITTLE), "MutatingWebhookConfiguration").next().is_none());
}

#[test]
fn the_operator_is_told_of_the_webhook_that_the_chart_makes() {
    for values in [&[], EVERYTHING] {
        let documents = rendered(values);
        let container = &only(&documents, "Deployment")["spec"]["template"]["spec"]["containers"][0];
        let variable = |name: &str| {
            let found = container["env"].as_array().unwrap().iter().find(|variable| variable["name"] == name);
            found.unwrap_or_else(|| panic!("{name} is not set"))["value"].clone()
        };
        let configuration = only(&documents, "MutatingWebhookConfiguration");
        assert_eq!(variable("ANNULUS_WEBHOOK_CONFIGURATION"), configuration["metadata"]["name"]);
        let service = &configuration["webhooks"][0]["clientConfig"]["service"];
        assert_eq!(variable("ANNULUS_WEBHOOK_SERVICE"), service["name"]);
        let services: Vec<&Value> = of_kind(&documents, "Service").collect();
        let found = services.iter().find(|found| found["metadata"]["name"] == service["name"]).unwrap();
        assert_eq!((&found["spec"]["ports"][0]["port"], &service["path"]), (&service["port"], &json!("/inject")));
        let target = &found["spec"]["ports"][0]["targetPort"];
        let ports = container["ports"].as_array().unwrap();
        assert!(ports.iter().any(|port| port["name"] == *target && port["containerPort"] == 9443));
        if let Some(certificate) = of_kind(&documents, "Certificate").next() {
            assert_eq!(variable("ANNULUS_WEBHOOK_SECRET"), certificate["spec"]["secretName"]);
            assert_eq!(variable("ANNULUS_WEBHOOK_CERTIFICATES"), "cert-manager");
        }
    }
}

#[test]
fn values_that_mean_nothing_are_refused() {
    for value in [
        "image.tga=dev",
        "replica=2",
        "replicas=many",
        "logFormat=xml",
        "namespaces={Team_A}",
        "resources.cpu=1",
        "injection.failurePolicy=Maybe",
    ] {
        let output = helm(&[value]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("values don't meet the specifications"), "{value}: {said}");
    }
}
