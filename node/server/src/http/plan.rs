//! `GET /admin/v1/plan`: what is about to happen to the ring, what each step waits for, and how the members are.

use std::collections::BTreeMap;
use std::sync::Arc;

use annulus_core::id::{GroupId, MemberId};
use annulus_core::lane::{Operation, Reply};
use annulus_core::map::Map;
use annulus_core::map::plan::{self, GateKind, Heard, Planned, Step};
use annulus_core::partition::Consistency;
use bytes::Bytes;
use serde::Serialize;

use super::edge::{Edge, content};
use super::problem::{Kind, Problem};
use super::ring::{Id, state_name};
use super::{Response, map_group, query};
use crate::router::Router;

#[derive(Serialize)]
struct Plan<'a> {
    epoch: u64,
    settled: bool,
    moves_left: u32,
    moves_under_way: u32,
    bytes_left: u64,
    bytes_per_second: u64,
    seconds_left: Option<u64>,
    moves: Vec<Move>,
    members: Vec<Member<'a>>,
}

#[derive(Serialize)]
struct Move {
    group: u32,
    partition: Option<u32>,
    from: Option<Id>,
    to: Option<Id>,
    step: &'static str,
    gate: Option<Gate>,
    bytes: u64,
    bytes_sent: u64,
}

#[derive(Serialize)]
struct Gate {
    name: &'static str,
    member: Option<Id>,
    message: String,
}

#[derive(Serialize)]
struct Member<'a> {
    id: Id,
    name: &'a str,
    zone: &'a str,
    weight: u32,
    state: &'static str,
    /// How many groups it holds a replica of or is about to, the map group included: it can be removed at 0.
    replicas: usize,
    leads: u32,
    epoch: Option<u64>,
    heard_ms: Option<u64>,
    client_address: &'a str,
    peer_address: &'a str,
    admin_address: &'a str,
}

/// Answers with the plan of the map group's leader.
pub(super) async fn answer<R: Router>(edge: &Edge<R>, query: Option<&str>) -> Result<Response, Problem> {
    let [] = query::parameters(query, [])?;
    let plan = match map_group::ask(edge, Operation::ReadPlan).await? {
        Reply::Plan(plan) => plan,
        reply => return Err(map_group::unanswered(&reply)),
    };
    let map = map_of(edge, plan.epoch).await?;
    Ok(content("application/json", edge.resources.hold_answer(Bytes::from(body(&plan, &map)))?))
}

/// The plan as JSON; `map` is that of its epoch, or a newer one.
pub fn body(plan: &plan::Plan, map: &Map) -> Vec<u8> {
    serde_json::to_vec(&tell(plan, map)).expect("strings and numbers always serialise")
}

/// The map of this epoch, or a newer one: this member's own, or the leader's if this member is behind.
async fn map_of<R: Router>(edge: &Edge<R>, epoch: u64) -> Result<Arc<Map>, Problem> {
    let ours = edge.map()?;
    if ours.epoch >= epoch {
        return Ok(ours);
    }
    match map_group::ask(edge, Operation::ReadMap { consistency: Consistency::Linearizable }).await? {
        Reply::Map(map) => Map::decode(map).map(Arc::new).map_err(|error| {
            Problem::new(Kind::Internal, format!("the map of the map group's leader can't be read: {error}"))
        }),
        reply => Err(map_group::unanswered(&reply)),
    }
}

fn tell<'a>(plan: &plan::Plan, map: &'a Map) -> Plan<'a> {
    let heard: BTreeMap<MemberId, &Heard> = plan.members.iter().map(|heard| (heard.member, heard)).collect();
    let replicas = replicas(map);
    let members = map.members.iter().map(|member| {
        let heard = heard.get(&member.id);
        let heard_ms = heard.and_then(|heard| heard.ago_ms);
        Member {
            id: Id(member.id),
            name: &member.name,
            zone: &member.zone,
            weight: member.weight,
            state: state_name(member.state),
            replicas: replicas.get(&member.id).copied().unwrap_or_default(),
            leads: heard.map_or(0, |heard| heard.leads),
            epoch: heard.filter(|_| heard_ms.is_some()).map(|heard| heard.epoch),
            heard_ms,
            client_address: &member.client_address,
            peer_address: &member.peer_address,
            admin_address: &member.admin_address,
        }
    });
    Plan {
        epoch: plan.epoch,
        settled: plan.settled,
        moves_left: plan.moves_left,
        moves_under_way: plan.moves_under_way,
        bytes_left: plan.bytes_left,
        bytes_per_second: plan.bytes_per_second,
        seconds_left: plan.seconds_left(),
        moves: plan.moves.iter().map(|planned| tell_move(planned, map)).collect(),
        members: members.collect(),
    }
}

/// How many groups each member is to have a replica of, in one pass over the groups.
fn replicas(map: &Map) -> BTreeMap<MemberId, usize> {
    let mut counts = BTreeMap::new();
    for group in map.groups() {
        let voters = map.group(group).map_or(&[][..], |(voters, _)| voters);
        let comes = map.moves.get(&group).and_then(|moving| moving.add);
        for id in voters.iter().copied().chain(comes) {
            *counts.entry(id).or_default() += 1;
        }
    }
    counts
}

fn tell_move(planned: &Planned, map: &Map) -> Move {
    let step = match planned.step {
        Step::Waiting => "waiting",
        Step::Adding => "adding",
        Step::Copying => "copying",
        Step::Switching => "switching",
        Step::Cancelling => "cancelling",
        Step::Recording => "recording",
    };
    Move {
        group: planned.group.0,
        partition: planned.group.partition().map(|partition| partition.0),
        from: planned.from.map(Id),
        to: planned.to.map(Id),
        step,
        gate: planned.gate.map(|gate| tell_gate(planned.group, gate, map)),
        bytes: planned.bytes,
        bytes_sent: planned.sent,
    }
}

fn tell_gate(group: GroupId, gate: plan::Gate, map: &Map) -> Gate {
    let member = gate.member.map_or_else(
        || "a member".to_owned(),
        |id| map.member(id).map_or_else(|| id.to_string(), |member| member.name.clone()),
    );
    let group =
        group.partition().map_or_else(|| "the map".to_owned(), |partition| format!("partition {}", partition.0));
    let (name, message) = match gate.kind {
        GateKind::MoveSlots => ("move-slots", "as many moves as may be are under way already".to_owned()),
        GateKind::MemberUnreachable => {
            ("member-unreachable", format!("{member}, which is to receive a replica, was not heard of lately"))
        }
        GateKind::NoLeader => ("no-leader", format!("{group} has no leader, or it was not heard of lately")),
        GateKind::NoQuorum => ("no-quorum", format!("too few members that hold {group} answer")),
        GateKind::CatchingUp => ("catching-up", format!("{member} has not got all of {group} yet")),
        GateKind::LeaderMoving => ("leader-moving", format!("{member} leads {group}, and hands over first")),
        GateKind::NotKnownYet => {
            ("not-known-yet", "the leader of the map is new, and has not heard of everybody yet".to_owned())
        }
    };
    Gate { name, member: gate.member.map(Id), message }
}
