//! `GET /v1/ring`: who the members are, which partitions they hold, who leads, and what moves.

use annulus_core::id::{MemberId, PartitionId};
use annulus_core::map::{Map, MemberState};
use bytes::Bytes;
use serde::{Serialize, Serializer};

use super::Response;
use super::edge::{Edge, content};
use super::problem::Problem;
use crate::router::Router;

#[derive(Serialize)]
struct Ring<'a> {
    cluster: String,
    epoch: u64,
    partitions: u32,
    replication_factor: usize,
    members: Vec<Member<'a>>,
    assignments: Vec<Assignment<'a>>,
    moves: Vec<Move>,
}

#[derive(Serialize)]
struct Member<'a> {
    id: Id,
    name: &'a str,
    zone: &'a str,
    state: &'static str,
    client_address: &'a str,
    weight: u32,
    peer_address: &'a str,
    admin_address: &'a str,
}

#[derive(Serialize)]
struct Assignment<'a> {
    partition: u32,
    #[serde(serialize_with = "ids")]
    replicas: &'a [MemberId],
    /// Who leads now, as far as this member knows; `null` when it knows of nobody.
    leader: Option<Id>,
}

#[derive(Serialize)]
struct Move {
    group: u32,
    /// `null` for the map group.
    partition: Option<u32>,
    from: Option<Id>,
    to: Option<Id>,
    cancelled: bool,
}

/// A member's id as it is written.
pub(super) struct Id(pub(super) MemberId);

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

fn ids<S: Serializer>(ids: &[MemberId], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(ids.iter().map(|id| Id(*id)))
}

/// Where a member is in its life.
pub(super) fn state_name(state: MemberState) -> &'static str {
    match state {
        MemberState::Joining => "joining",
        MemberState::Active => "active",
        MemberState::Leaving => "leaving",
        MemberState::Draining => "draining",
    }
}

/// Answers with the ring as this member knows it.
pub(super) fn answer<R: Router>(edge: &Edge<R>) -> Result<Response, Problem> {
    let map = edge.map()?;
    tell(edge, &map, |partition| edge.router.leader(partition.group()))
}

/// Answers with the ring that a map says, led by these.
pub(super) fn tell<R: Router>(
    edge: &Edge<R>,
    map: &Map,
    leader: impl Fn(PartitionId) -> Option<MemberId>,
) -> Result<Response, Problem> {
    Ok(content("application/json", edge.resources.hold_answer(Bytes::from(body(map, leader)))?))
}

/// The ring that a map says, led by these, as JSON.
pub fn body(map: &Map, leader: impl Fn(PartitionId) -> Option<MemberId>) -> Vec<u8> {
    let members = map.members.iter().map(|member| Member {
        id: Id(member.id),
        name: &member.name,
        zone: &member.zone,
        state: state_name(member.state),
        client_address: &member.client_address,
        weight: member.weight,
        peer_address: &member.peer_address,
        admin_address: &member.admin_address,
    });
    let assignments = (0..map.partitions()).zip(&map.assignments).map(|(partition, assignment)| Assignment {
        partition,
        replicas: &assignment.replicas,
        // What this member has heard of leaders may be older than the map, or newer: clients find no address for those.
        leader: leader(PartitionId(partition)).filter(|id| map.member(*id).is_some()).map(Id),
    });
    let moves = map.moves.iter().map(|(group, moving)| Move {
        group: group.0,
        partition: group.partition().map(|partition| partition.0),
        from: moving.remove.map(Id),
        to: moving.add.map(Id),
        cancelled: moving.cancelled,
    });
    let ring = Ring {
        cluster: map.cluster.to_string(),
        epoch: map.epoch,
        partitions: map.partitions(),
        replication_factor: map.replication_factor,
        members: members.collect(),
        assignments: assignments.collect(),
        moves: moves.collect(),
    };
    serde_json::to_vec(&ring).expect("strings and numbers always serialise")
}

#[cfg(test)]
mod tests {
    use annulus_core::id::ClusterId;
    use annulus_core::map::Member as MapMember;

    use super::*;

    #[test]
    fn a_leader_that_is_no_member_of_the_map_is_not_told() {
        let member = |id| MapMember {
            id: MemberId::new(id).unwrap(),
            name: format!("m{id}"),
            zone: String::new(),
            weight: 100,
            state: MemberState::Active,
            client_address: format!("m{id}:7070"),
            peer_address: format!("m{id}:7072"),
            admin_address: format!("m{id}:7071"),
        };
        let map = Map::bootstrap(ClusterId([7; 16]), 2, 1, vec![member(1)]).unwrap();
        let leader = |partition: PartitionId| MemberId::new(if partition.0 == 0 { 1 } else { 9 });
        let told: serde_json::Value = serde_json::from_slice(&body(&map, leader)).unwrap();
        assert_eq!(told["assignments"][0]["leader"], "0000000000000001");
        assert_eq!(told["assignments"][1]["leader"], serde_json::Value::Null);
    }
}
