//! The plan: what is about to happen to the ring, and what each step waits for. For people and for the operator; nothing is
//! decided from it.

use std::collections::BTreeMap;

use super::planner::{final_voters, gate, next_move};
use super::{Map, Move, Reports};
use crate::codec::{Reader, Result, Writer, frame::read_member};
use crate::id::{GroupId, MemberId};
use crate::time::Instant;

/// Most moves that a plan lists; it counts all.
pub const MAX_LISTED: usize = 1000;

/// What is about to happen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// The epoch of the map that it was made of.
    pub epoch: u64,
    /// Whether nothing is left to be done.
    pub settled: bool,
    /// How many moves are left, those under way included.
    pub moves_left: u32,
    /// How many are under way.
    pub moves_under_way: u32,
    /// About how many bytes are still to be copied.
    pub bytes_left: u64,
    /// How many are copied in a second, lately; 0: not known.
    pub bytes_per_second: u64,
    /// Those under way first, then in order of need.
    pub moves: Vec<Planned>,
    /// How each member was heard of, by id.
    pub members: Vec<Heard>,
}

/// One move of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// The group.
    pub group: GroupId,
    /// Whose replica goes.
    pub from: Option<MemberId>,
    /// Who gets one.
    pub to: Option<MemberId>,
    /// How far it is.
    pub step: Step,
    /// What it waits for.
    pub gate: Option<Gate>,
    /// About how many bytes are to be copied.
    pub bytes: u64,
    /// How many were sent.
    pub sent: u64,
}

/// How far a move is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It has not begun.
    Waiting,
    /// The one that comes is made a learner.
    Adding,
    /// The learner gets what the others have.
    Copying,
    /// The learner becomes a voter, and the one that goes ceases to be one.
    Switching,
    /// It is not wanted any more, and is being undone.
    Cancelling,
    /// It is done, and the map is about to say so.
    Recording,
}

/// What a move waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gate {
    /// The name of the gate.
    pub kind: GateKind,
    /// The member that it is about, if it is about one.
    pub member: Option<MemberId>,
}

/// The gates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateKind {
    /// As many moves as may be are under way already.
    MoveSlots,
    /// The member that is to receive a replica was not heard of lately.
    MemberUnreachable,
    /// The group has no leader, or it was not heard of lately.
    NoLeader,
    /// Too few of the group's voters answer.
    NoQuorum,
    /// The learner has not got everything yet.
    CatchingUp,
    /// The one that goes leads, and hands over first.
    LeaderMoving,
    /// The map group's leader is new and has not heard of everybody yet.
    NotKnownYet,
}

/// What the map group's leader knows of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// The member.
    pub member: MemberId,
    /// How long ago it was heard of, in milliseconds; `None`: never.
    pub ago_ms: Option<u64>,
    /// The epoch of the map that it had then.
    pub epoch: u64,
    /// How many groups it leads, as their reports say.
    pub leads: u32,
}

impl Plan {
    /// The plan as the map and the reports have it.
    pub fn of(map: &Map, reports: &Reports, now: Instant) -> Self {
        let mut moves: Vec<Planned> =
            map.moves.iter().map(|(group, moving)| under_way(map, *group, moving, reports, now)).collect();
        let moves_under_way = count(moves.len());
        moves.extend(waiting(map, reports, now));
        let lacking = moves.iter().map(|planned| planned.bytes.saturating_sub(planned.sent));
        let bytes_left = lacking.fold(0, u64::saturating_add);
        let moves_left = count(moves.len());
        moves.truncate(MAX_LISTED);
        let mut led: BTreeMap<MemberId, u32> = BTreeMap::new();
        for (leader, _) in map.groups().filter_map(|group| reports.group(now, group)) {
            *led.entry(leader).or_default() += 1;
        }
        let members = map.members.iter().map(|member| {
            let heard = reports.heard(now, member.id);
            Heard {
                member: member.id,
                ago_ms: heard.map(|(ago, _)| u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)),
                epoch: heard.map_or(0, |(_, epoch)| epoch),
                leads: led.get(&member.id).copied().unwrap_or_default(),
            }
        });
        Self {
            epoch: map.epoch,
            settled: map.is_settled(),
            moves_left,
            moves_under_way,
            bytes_left,
            bytes_per_second: reports.bytes_per_second(),
            moves,
            members: members.collect(),
        }
    }

    /// In how many seconds the copying will be done at the rate of late; `None`: nobody can tell.
    pub fn seconds_left(&self) -> Option<u64> {
        if self.moves_left == 0 {
            return Some(0);
        }
        (self.bytes_per_second > 0).then(|| self.bytes_left.div_ceil(self.bytes_per_second))
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn under_way(map: &Map, group: GroupId, moving: &Move, reports: &Reports, now: Instant) -> Planned {
    let report = reports.group(now, group);
    // Nobody has to learn anything when nobody comes.
    let (mut step, mut wait) = (if moving.add.is_some() { Step::Adding } else { Step::Switching }, None);
    let gate = |kind, member| Some(Gate { kind, member });
    match report {
        None if reports.is_informed(now) => wait = gate(GateKind::NoLeader, None),
        None => wait = gate(GateKind::NotKnownYet, None),
        Some((leader, report)) => {
            let state = &report.configuration.state;
            let is = |ids: &[u64], id: Option<MemberId>| id.is_some_and(|id| ids.contains(&id.get()));
            let is_leader = moving.remove == Some(leader);
            if final_voters(map, group, moving, &report.configuration).is_some() {
                step = Step::Recording;
            } else if !state.voters_outgoing.is_empty() {
                step = Step::Switching;
                // Only a sole voter gets as far as this: see `replica::configure`.
                wait = gate(GateKind::LeaderMoving, moving.remove).filter(|_| is_leader);
            } else if is(&state.learners, moving.add) {
                (step, wait) = (Step::Copying, gate(GateKind::CatchingUp, moving.add));
                if moving.add.is_some_and(|add| !reports.is_there(now, add)) {
                    wait = gate(GateKind::MemberUnreachable, moving.add);
                } else if is_leader && report.sent.is_none() && state.voters.len() > 1 {
                    wait = gate(GateKind::LeaderMoving, moving.remove);
                }
            } else if moving.add.is_none() {
                wait = gate(GateKind::LeaderMoving, moving.remove).filter(|_| is_leader);
            }
        }
    }
    if moving.cancelled && step != Step::Recording {
        step = Step::Cancelling;
        wait = wait.filter(|_| report.is_none());
    }
    let last = reports.last(group);
    let bytes = last.map_or(0, |report| report.bytes);
    let sent = match step {
        Step::Switching | Step::Recording => bytes,
        Step::Copying => last.and_then(|report| report.sent).unwrap_or_default().min(bytes),
        _ => 0,
    };
    Planned { group, from: moving.remove, to: moving.add, step, gate: wait, bytes, sent }
}

/// The moves that have not begun: one for each voter that is still to change.
fn waiting(map: &Map, reports: &Reports, now: Instant) -> Vec<Planned> {
    let mut planned = Vec::new();
    for group in map.groups_astray() {
        let voters = map.group(group).map_or(Vec::new(), |(voters, _)| voters.to_vec());
        let mut ahead = Ahead { map, group, voters };
        if let Some(moving) = map.moves.get(&group).filter(|moving| !moving.cancelled) {
            ahead.step(moving.add, moving.remove);
        }
        let mut is_first = !map.moves.contains_key(&group);
        while let Some((add, remove)) = ahead.next_move() {
            let open = if is_first { gate(map, group, add, remove, reports, now) } else { None };
            let wait = open.unwrap_or(Gate { kind: GateKind::MoveSlots, member: add });
            let bytes = add.and_then(|_| reports.last(group)).map_or(0, |report| report.bytes);
            planned.push(Planned {
                group,
                from: remove,
                to: add,
                step: Step::Waiting,
                gate: Some(wait),
                bytes,
                sent: 0,
            });
            ahead.step(add, remove);
            is_first = false;
        }
    }
    planned
}

/// A group's voters as they will be after some of its moves.
struct Ahead<'a> {
    map: &'a Map,
    group: GroupId,
    voters: Vec<MemberId>,
}

impl Ahead<'_> {
    fn next_move(&self) -> Option<(Option<MemberId>, Option<MemberId>)> {
        next_move(self.map, &self.voters, self.map.target(self.group))
    }

    fn step(&mut self, add: Option<MemberId>, remove: Option<MemberId>) {
        self.voters.retain(|id| Some(*id) != remove);
        self.voters.extend(add);
    }
}

const STEPS: [(u8, Step); 6] = [
    (1, Step::Waiting),
    (2, Step::Adding),
    (3, Step::Copying),
    (4, Step::Switching),
    (5, Step::Cancelling),
    (6, Step::Recording),
];

const GATES: [(u8, GateKind); 7] = [
    (1, GateKind::MoveSlots),
    (2, GateKind::MemberUnreachable),
    (3, GateKind::NoLeader),
    (4, GateKind::NoQuorum),
    (5, GateKind::CatchingUp),
    (6, GateKind::LeaderMoving),
    (7, GateKind::NotKnownYet),
];

fn write_one<T: PartialEq>(writer: &mut Writer, of: &[(u8, T)], value: &T) {
    let id = of.iter().find(|(_, known)| known == value).map(|(id, _)| *id);
    writer.u8(id.expect("every value has an id"));
}

fn read_one<T: Copy>(reader: &mut Reader, of: &[(u8, T)]) -> Result<T> {
    let id = reader.u8()?;
    of.iter().find(|(known, _)| *known == id).map(|(_, value)| *value).ok_or_else(|| reader.unknown(id))
}

/// Writes a plan.
pub fn write_plan(writer: &mut Writer, plan: &Plan) {
    let id = |writer: &mut Writer, id: Option<MemberId>| writer.option(id, |writer, id| writer.u64(id.get()));
    writer.u64(plan.epoch);
    writer.bool(plan.settled);
    writer.u32(plan.moves_left);
    writer.u32(plan.moves_under_way);
    writer.u64(plan.bytes_left);
    writer.u64(plan.bytes_per_second);
    writer.list(&plan.moves, |writer, planned| {
        writer.u32(planned.group.0);
        id(writer, planned.from);
        id(writer, planned.to);
        write_one(writer, &STEPS, &planned.step);
        writer.option(planned.gate, |writer, gate| {
            write_one(writer, &GATES, &gate.kind);
            id(writer, gate.member);
        });
        writer.u64(planned.bytes);
        writer.u64(planned.sent);
    });
    writer.list(&plan.members, |writer, heard| {
        writer.u64(heard.member.get());
        writer.option(heard.ago_ms, Writer::u64);
        writer.u64(heard.epoch);
        writer.u32(heard.leads);
    });
}

/// Reads a plan.
pub fn read_plan(reader: &mut Reader) -> Result<Plan> {
    Ok(Plan {
        epoch: reader.u64()?,
        settled: reader.bool()?,
        moves_left: reader.u32()?,
        moves_under_way: reader.u32()?,
        bytes_left: reader.u64()?,
        bytes_per_second: reader.u64()?,
        moves: reader.list(|reader| {
            Ok(Planned {
                group: GroupId(reader.u32()?),
                from: reader.option(read_member)?,
                to: reader.option(read_member)?,
                step: read_one(reader, &STEPS)?,
                gate: reader.option(|reader| {
                    Ok(Gate { kind: read_one(reader, &GATES)?, member: reader.option(read_member)? })
                })?,
                bytes: reader.u64()?,
                sent: reader.u64()?,
            })
        })?,
        members: reader.list(|reader| {
            Ok(Heard {
                member: read_member(reader)?,
                ago_ms: reader.option(Reader::u64)?,
                epoch: reader.u64()?,
                leads: reader.u32()?,
            })
        })?,
    })
}
