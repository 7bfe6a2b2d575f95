//! The ring as `/v1/ring` tells it, checked once: a [`Ring`] has an assignment for every partition, in order, and names
//! no member that it does not list.

use annulus_core::id::{ClusterId, MemberId, PartitionId};
use annulus_core::map::{MAX_PARTITIONS, MemberState};
use annulus_core::ring::partition_of;
use serde::{Deserialize, Serialize};

use crate::wire::{self, state_of, state_text};

/// Who the members are and which of them hold which partition.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "WireRing", into = "WireRing")]
pub struct Ring {
    /// The store that this is the ring of.
    pub cluster: ClusterId,
    /// Rises with every change of members or assignments; of two rings the one with the higher epoch is newer.
    pub epoch: u64,
    /// How many copies each partition has.
    pub replication_factor: u32,
    /// The members.
    pub members: Vec<Member>,
    assignments: Vec<Assignment>,
    moves: Vec<Move>,
}

/// A member of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its identity.
    pub id: MemberId,
    /// Its name among people.
    pub name: String,
    /// The zone it runs in; empty when zones are not told apart.
    pub zone: String,
    /// Where it is in its life.
    pub state: MemberState,
    /// `host:port` for clients.
    pub client_address: String,
    /// Its share of the partitions relative to others; `None`: the node that was asked does not tell.
    pub weight: Option<u32>,
    /// `host:port` for other members; `None`: the node that was asked does not tell.
    pub peer_address: Option<String>,
    /// `host:port` for the operator; `None`: the node that was asked does not tell.
    pub admin_address: Option<String>,
}

/// Who holds a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The members that hold a replica, in ring order of preference.
    pub replicas: Vec<MemberId>,
    /// The one of them that leads; `None` while nobody is known to.
    pub leader: Option<MemberId>,
}

/// A replica on its way from one member to another. It only tells what goes on: requests are routed by the assignments.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Move {
    /// The group that the replica belongs to: 0 is the map group, `p + 1` that of partition `p`.
    pub group: u32,
    /// The partition that the group replicates; `None`: it is the map group.
    pub partition: Option<u32>,
    /// Who gives the replica up; `None`: there is one replica more afterwards.
    #[serde(with = "wire::optional")]
    pub from: Option<MemberId>,
    /// Who receives it; `None`: there is one replica fewer afterwards.
    #[serde(with = "wire::optional")]
    pub to: Option<MemberId>,
    /// Whether it was called off and is being undone.
    #[serde(default)]
    pub cancelled: bool,
}

/// Why a JSON document is not a ring.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// An id is none.
    #[error(transparent)]
    Id(#[from] annulus_core::id::ParseError),
    /// Not a power of two, or too many.
    #[error("partitions is {0}; it must be a power of two up to {MAX_PARTITIONS}")]
    Partitions(u32),
    /// The assignments are not one for each partition in order.
    #[error("the assignments are not one for each of the {0} partitions, in order")]
    Assignments(u32),
    /// A partition is held or led by somebody who is not listed.
    #[error("partition {partition} names member {member}, who is not listed")]
    UnknownMember {
        /// The partition.
        partition: u32,
        /// Who holds or leads it.
        member: MemberId,
    },
    /// A member's state is not one that we know.
    #[error("member state `{0}` is not joining, active, leaving or draining")]
    State(String),
}

impl Ring {
    /// How many partitions the ring is cut into.
    pub fn partitions(&self) -> u32 {
        u32::try_from(self.assignments.len()).expect("checked when read")
    }

    /// The partition that a key lies in.
    pub fn partition_of(&self, key: &[u8]) -> PartitionId {
        partition_of(key, self.partitions())
    }

    /// Who holds each partition, in order of the partitions.
    pub fn assignments(&self) -> &[Assignment] {
        &self.assignments
    }

    /// Who holds the partition that a key lies in.
    pub fn assignment_of(&self, key: &[u8]) -> &Assignment {
        &self.assignments[self.partition_of(key).0 as usize]
    }

    /// The replicas that are on their way from one member to another.
    pub fn moves(&self) -> &[Move] {
        &self.moves
    }

    /// The member with this id.
    pub fn member(&self, id: MemberId) -> Option<&Member> {
        self.members.iter().find(|member| member.id == id)
    }
}

/// The ring exactly as it stands in JSON.
#[derive(Debug, Clone, Deserialize, Serialize)]
struct WireRing {
    cluster: String,
    epoch: u64,
    partitions: u32,
    replication_factor: u32,
    members: Vec<WireMember>,
    assignments: Vec<WireAssignment>,
    #[serde(default)]
    moves: Vec<Move>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
struct WireMember {
    id: String,
    name: String,
    #[serde(default)]
    zone: String,
    state: String,
    client_address: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weight: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    peer_address: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    admin_address: Option<String>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
struct WireAssignment {
    partition: u32,
    replicas: Vec<String>,
    #[serde(default)]
    leader: Option<String>,
}

impl TryFrom<WireRing> for Ring {
    type Error = RingError;

    fn try_from(wire: WireRing) -> Result<Self, RingError> {
        if !wire.partitions.is_power_of_two() || wire.partitions > MAX_PARTITIONS {
            return Err(RingError::Partitions(wire.partitions));
        }
        let in_order = wire.assignments.iter().map(|assignment| assignment.partition).eq(0..wire.partitions);
        if !in_order {
            return Err(RingError::Assignments(wire.partitions));
        }
        let members = wire.members.into_iter().map(read_member).collect::<Result<Vec<_>, _>>()?;
        let assignments = wire.assignments.into_iter().map(|assignment| read_assignment(assignment, &members));
        Ok(Self {
            cluster: wire.cluster.parse()?,
            epoch: wire.epoch,
            replication_factor: wire.replication_factor,
            assignments: assignments.collect::<Result<_, _>>()?,
            members,
            moves: wire.moves,
        })
    }
}

fn read_member(wire: WireMember) -> Result<Member, RingError> {
    let state = state_of(&wire.state).ok_or(RingError::State(wire.state))?;
    Ok(Member {
        id: wire.id.parse()?,
        name: wire.name,
        zone: wire.zone,
        state,
        client_address: wire.client_address,
        weight: wire.weight,
        peer_address: wire.peer_address,
        admin_address: wire.admin_address,
    })
}

fn read_assignment(wire: WireAssignment, members: &[Member]) -> Result<Assignment, RingError> {
    let known = |text: &str| {
        let id: MemberId = text.parse()?;
        let listed = members.iter().any(|member| member.id == id);
        if listed { Ok(id) } else { Err(RingError::UnknownMember { partition: wire.partition, member: id }) }
    };
    let replicas = wire.replicas.iter().map(|text| known(text)).collect::<Result<_, _>>()?;
    Ok(Assignment { replicas, leader: wire.leader.as_deref().map(known).transpose()? })
}

impl From<Ring> for WireRing {
    fn from(ring: Ring) -> Self {
        let member = |member: &Member| WireMember {
            id: member.id.to_string(),
            name: member.name.clone(),
            zone: member.zone.clone(),
            state: state_text(member.state).to_owned(),
            client_address: member.client_address.clone(),
            weight: member.weight,
            peer_address: member.peer_address.clone(),
            admin_address: member.admin_address.clone(),
        };
        let assignment = |(partition, assignment): (u32, &Assignment)| WireAssignment {
            partition,
            replicas: assignment.replicas.iter().map(ToString::to_string).collect(),
            leader: assignment.leader.map(|leader| leader.to_string()),
        };
        Self {
            cluster: ring.cluster.to_string(),
            epoch: ring.epoch,
            partitions: ring.partitions(),
            replication_factor: ring.replication_factor,
            members: ring.members.iter().map(member).collect(),
            assignments: (0..).zip(&ring.assignments).map(assignment).collect(),
            moves: ring.moves,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wire() -> serde_json::Value {
        json!({
            "cluster": "00010203-0405-0607-0809-0a0b0c0d0eff", "epoch": 7, "partitions": 2, "replication_factor": 1,
            "members": [{"id": "000000000000000a", "name": "node-1", "zone": "", "state": "active", "client_address": "127.0.0.1:7070"}],
            "assignments": [
                {"partition": 0, "replicas": ["000000000000000a"], "leader": "000000000000000a"},
                {"partition": 1, "replicas": ["000000000000000a"], "leader": null}
            ],
            "moves": []
        })
    }

    #[test]
    fn a_ring_is_written_as_it_was_read() {
        let ring: Ring = serde_json::from_value(wire()).unwrap();
        assert_eq!(serde_json::to_value(&ring).unwrap(), wire());
        // SHA-256 of `a` begins with 0xca: the upper half.
        assert_eq!(ring.assignment_of(b"a").leader, None);
    }

    #[test]
    fn a_ring_that_changes_tells_its_moves_and_where_its_members_are() {
        let mut wire = wire();
        wire["members"][0] = json!({
            "id": "000000000000000a", "name": "node-1", "zone": "a", "state": "draining",
            "client_address": "h:1", "weight": 200, "peer_address": "h:2", "admin_address": "h:3",
        });
        wire["moves"] = json!([
            {"group": 2, "partition": 1, "from": "000000000000000a", "to": "000000000000000b", "cancelled": false},
            {"group": 0, "partition": null, "from": null, "to": "000000000000000b", "cancelled": true},
        ]);
        let ring: Ring = serde_json::from_value(wire.clone()).unwrap();
        assert_eq!(ring.members[0].state, MemberState::Draining);
        assert_eq!(ring.members[0].admin_address.as_deref(), Some("h:3"));
        assert_eq!((ring.moves()[0].partition, ring.moves()[0].from), (Some(1), MemberId::new(10)));
        assert_eq!((ring.moves()[1].from, ring.moves()[1].cancelled), (None, true));
        assert_eq!(serde_json::to_value(&ring).unwrap(), wire);
    }

    #[test]
    fn a_ring_that_would_mislead_the_router_is_refused() {
        let broken = |pointer: &str, value: serde_json::Value| {
            let mut wire = wire();
            *wire.pointer_mut(pointer).unwrap() = value;
            serde_json::from_value::<Ring>(wire).unwrap_err().to_string()
        };
        assert!(broken("/partitions", json!(3)).contains("power of two"));
        assert!(broken("/partitions", json!(0)).contains("power of two"));
        assert!(broken("/partitions", json!(4)).contains("one for each of the 4 partitions"));
        assert!(broken("/assignments/1/partition", json!(0)).contains("in order"));
        assert!(broken("/assignments/0/leader", json!("000000000000000b")).contains("not listed"));
        assert!(broken("/members/0/id", json!("b")).contains("not a member id"));
        assert!(broken("/members/0/state", json!("dead")).contains("not joining"));
    }
}
