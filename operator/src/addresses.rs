//! How members are reached.

use annulus_client::MemberId;
use annulus_client::node::MemberSpec;

use crate::model::Cluster;
use crate::resources::{ADMIN_PORT, CLIENT_PORT, PEER_PORT, member_address};

/// An ordinary member's share of the partitions.
const WEIGHT: u32 = 100;

/// A member as the store is told of it. Its addresses are names, so that they stay when its pod comes back elsewhere.
pub fn spec(cluster: &Cluster, name: &str, id: MemberId, zone: &str, weight: Option<u32>) -> MemberSpec {
    let address = |port| member_address(&cluster.name, &cluster.namespace, name, port);
    MemberSpec {
        id: id.to_string(),
        name: name.to_owned(),
        zone: zone.to_owned(),
        weight: weight.unwrap_or(WEIGHT),
        client_address: address(CLIENT_PORT),
        peer_address: address(PEER_PORT),
        admin_address: address(ADMIN_PORT),
    }
}
