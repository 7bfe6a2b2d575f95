//! How members are reached.

use annulus_client::MemberId;
use annulus_client::node::MemberSpec;

use crate::model::Cluster;

/// The port for clients.
pub const CLIENT_PORT: u16 = 7070;
/// The port for the operator.
pub const ADMIN_PORT: u16 = 7071;
/// The port for other members.
pub const PEER_PORT: u16 = 7072;
/// An ordinary member's share of the partitions.
const WEIGHT: u32 = 100;

/// A member as the store is told of it. Its addresses are names, so that they stay when its pod comes back elsewhere.
pub fn spec(cluster: &Cluster, name: &str, id: MemberId, zone: &str, weight: Option<u32>) -> MemberSpec {
    let address = |port: u16| format!("{name}.{}-members.{}.svc:{port}", cluster.name, cluster.namespace);
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
