//! `GET /v1/ring`: who the members are, which partitions they hold, and who leads.

use annulus_core::id::{MemberId, PartitionId};
use annulus_core::map::MemberState;
use serde::{Serialize, Serializer};

use super::Response;
use super::edge::{Edge, json};
use super::problem::{Kind, Problem};
use crate::router::Router;

#[derive(Serialize)]
struct Ring<'a> {
    cluster: String,
    epoch: u64,
    partitions: u32,
    replication_factor: usize,
    members: Vec<Member<'a>>,
    assignments: Vec<Assignment<'a>>,
    moves: [(); 0],
}

#[derive(Serialize)]
struct Member<'a> {
    id: Id,
    name: &'a str,
    zone: &'a str,
    state: &'static str,
    client_address: &'a str,
}

#[derive(Serialize)]
struct Assignment<'a> {
    partition: u32,
    #[serde(serialize_with = "ids")]
    replicas: &'a [MemberId],
    /// Who leads now, as far as this member knows; `null` when it knows of nobody.
    leader: Option<Id>,
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

/// Answers with the ring as this member knows it.
pub(super) fn answer<R: Router>(edge: &Edge<R>) -> Result<Response, Problem> {
    let map = edge.map()?;
    let members = map.members.iter().map(|member| Member {
        id: Id(member.id),
        name: &member.name,
        zone: &member.zone,
        state: match member.state {
            MemberState::Joining => "joining",
            MemberState::Active => "active",
            MemberState::Leaving => "leaving",
            MemberState::Draining => "draining",
        },
        client_address: &member.client_address,
    });
    let assignments = (0..map.partitions()).zip(&map.assignments).map(|(partition, assignment)| Assignment {
        partition,
        replicas: &assignment.replicas,
        leader: edge.router.leader(PartitionId(partition).group()).map(Id),
    });
    let ring = Ring {
        cluster: map.cluster.to_string(),
        epoch: map.epoch,
        partitions: map.partitions(),
        replication_factor: map.replication_factor,
        members: members.collect(),
        assignments: assignments.collect(),
        moves: [],
    };
    let body = serde_json::to_vec(&ring).map_err(|_| Problem::new(Kind::Internal, "the ring could not be written"))?;
    Ok(json(body))
}
