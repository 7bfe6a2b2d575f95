//! The two Services: where clients find the store, and where each member is found.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{ADMIN_PORT, CLIENT_PORT, Facts, PEER_PORT};

/// The Service for clients: one address, behind it the members that are ready.
pub fn client(facts: &Facts) -> Service {
    Service {
        metadata: facts.metadata(facts.name.clone()),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            selector: Some(facts.selector()),
            ports: Some(vec![port("client", CLIENT_PORT)]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// The Service that makes a name for each member.
///
/// It names members that are not ready, too: a member is ready only after others have reached it.
pub fn members(facts: &Facts) -> Service {
    Service {
        metadata: facts.metadata(facts.members_service()),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(facts.selector()),
            ports: Some(vec![port("client", CLIENT_PORT), port("admin", ADMIN_PORT), port("peer", PEER_PORT)]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn port(name: &str, number: i32) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: number,
        // The protocol is part of a port's key when it is applied: left out, two ports of one number are not told apart.
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::String(name.to_owned())),
        ..ServicePort::default()
    }
}
