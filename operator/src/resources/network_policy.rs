//! Who may reach the members.

use annulus_crds::labels;
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Facts, owned};

/// Lets members reach each other, pods of their namespace reach them as clients, and the operator reach what it needs; nobody
/// else. `None`: no policy is asked for, and one that is there is to go.
///
/// Which namespace the operator is in is not known here, so its pods are told by their label alone.
pub fn network_policy(facts: &Facts) -> Option<NetworkPolicy> {
    if !facts.spec.network_policy.enabled {
        return None;
    }
    let pods = |selector| NetworkPolicyPeer { pod_selector: Some(selector), ..NetworkPolicyPeer::default() };
    let operator = NetworkPolicyPeer {
        namespace_selector: Some(LabelSelector::default()),
        pod_selector: Some(LabelSelector {
            match_labels: Some(owned([(labels::NAME, labels::MANAGER)])),
            match_expressions: None,
        }),
        ip_block: None,
    };
    Some(NetworkPolicy {
        metadata: facts.metadata(facts.name.clone()),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(facts.label_selector()),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![
                rule(pods(facts.label_selector()), &["client", "admin", "peer"]),
                rule(pods(LabelSelector::default()), &["client"]),
                rule(operator, &["client", "admin"]),
            ]),
            egress: None,
        }),
    })
}

fn rule(from: NetworkPolicyPeer, ports: &[&str]) -> NetworkPolicyIngressRule {
    let port = |name: &&str| NetworkPolicyPort {
        port: Some(IntOrString::String((*name).to_owned())),
        protocol: Some("TCP".to_owned()),
        end_port: None,
    };
    NetworkPolicyIngressRule { from: Some(vec![from]), ports: Some(ports.iter().map(port).collect()) }
}
