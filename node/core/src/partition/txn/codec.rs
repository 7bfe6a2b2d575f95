//! Byte forms of transactions: commands, which are log entries too, and outcomes, which only go over links.
//! `docs/storage.md` has the layout of what is stored.

use bytes::Bytes;

use super::{
    Action, Alone, Check, Command, Condition, Decision, Done, Finished, Id, LockHeld, MAX_KEPT_RESULTS_BYTES,
    MAX_OPERATIONS, Name, Outcome, Part, Pointer, Prepare, Prepared, Settle, Settled, View,
};
use crate::codec::{Reader, Result, Writer};
use crate::id::PartitionId;
use crate::partition::codec::{read_fence, read_item, read_key, write_fence, write_item};
use crate::partition::command::{MAX_TTL_MS, MAX_VALUE_BYTES};
use crate::partition::lock::codec::{read_name as read_lock_name, write_name as write_lock_name};

/// Writes the name of a transaction.
pub fn write_name(writer: &mut Writer, name: &Name) {
    writer.bytes(name.bytes());
}

/// Reads the name of a transaction.
pub fn read_name(reader: &mut Reader) -> Result<Name> {
    let bytes = reader.bytes()?;
    Name::new(bytes).map_err(|_| reader.out_of_range())
}

fn write_id(writer: &mut Writer, id: &Id) {
    write_name(writer, &id.name);
    writer.u64(id.coordinator);
    writer.u32(id.attempt);
}

fn read_id(reader: &mut Reader) -> Result<Id> {
    Ok(Id { name: read_name(reader)?, coordinator: reader.u64()?, attempt: reader.u32()? })
}

fn write_pointer(writer: &mut Writer, pointer: &Pointer) {
    write_id(writer, &pointer.id);
    writer.u32(pointer.anchor.0);
}

fn read_pointer(reader: &mut Reader) -> Result<Pointer> {
    Ok(Pointer { id: read_id(reader)?, anchor: PartitionId(reader.u32()?) })
}

pub(super) fn write_decision(writer: &mut Writer, decision: Decision) {
    writer.u8(match decision {
        Decision::Then => 1,
        Decision::Otherwise => 2,
        Decision::Abort => 3,
    });
}

pub(super) fn read_decision(reader: &mut Reader) -> Result<Decision> {
    Ok(match reader.u8()? {
        1 => Decision::Then,
        2 => Decision::Otherwise,
        3 => Decision::Abort,
        id => return Err(reader.unknown(id)),
    })
}

pub(super) fn write_results(writer: &mut Writer, results: Option<&Bytes>) {
    writer.option(results, |writer, results| writer.bytes(results));
}

pub(super) fn read_results(reader: &mut Reader) -> Result<Option<Bytes>> {
    let results = reader.option(Reader::bytes)?;
    if results.as_ref().is_some_and(|results| results.len() > MAX_KEPT_RESULTS_BYTES) {
        return Err(reader.out_of_range());
    }
    Ok(results)
}

pub(super) fn read_digest(reader: &mut Reader) -> Result<[u8; 32]> {
    let digest = reader.raw(32)?;
    digest[..].try_into().map_err(|_| reader.out_of_range())
}

pub(super) fn write_participants(writer: &mut Writer, participants: &[PartitionId]) {
    writer.list(participants, |writer, partition| writer.u32(partition.0));
}

pub(super) fn read_participants(reader: &mut Reader) -> Result<Vec<PartitionId>> {
    let participants = reader.list(|reader| Ok(PartitionId(reader.u32()?)))?;
    let in_order = participants.is_sorted_by(|a, b| a < b);
    if in_order && participants.len() <= MAX_OPERATIONS { Ok(participants) } else { Err(reader.out_of_range()) }
}

fn write_action(writer: &mut Writer, action: &Action) {
    match action {
        Action::Put { key, value, ttl_ms } => {
            writer.u8(1);
            writer.bytes(key.bytes());
            writer.option(*ttl_ms, Writer::u64);
            writer.bytes(value);
        }
        Action::Delete { key } => {
            writer.u8(2);
            writer.bytes(key.bytes());
        }
        Action::Get { key } => {
            writer.u8(3);
            writer.bytes(key.bytes());
        }
    }
}

fn read_action(reader: &mut Reader) -> Result<Action> {
    Ok(match reader.u8()? {
        1 => {
            let (key, ttl_ms, value) = (read_key(reader)?, reader.option(Reader::u64)?, reader.bytes()?);
            let is_ttl = ttl_ms.is_none_or(|ttl| (1..=MAX_TTL_MS).contains(&ttl));
            if !is_ttl || value.len() > MAX_VALUE_BYTES {
                return Err(reader.out_of_range());
            }
            Action::Put { key, value, ttl_ms }
        }
        2 => Action::Delete { key: read_key(reader)? },
        3 => Action::Get { key: read_key(reader)? },
        id => return Err(reader.unknown(id)),
    })
}

fn write_condition(writer: &mut Writer, condition: &Condition) {
    writer.bytes(condition.key.bytes());
    match &condition.check {
        Check::Version(version) => {
            writer.u8(1);
            writer.u64(*version);
        }
        Check::Exists(exists) => {
            writer.u8(2);
            writer.bool(*exists);
        }
        Check::Value(value) => {
            writer.u8(3);
            writer.bytes(value);
        }
    }
}

fn read_condition(reader: &mut Reader) -> Result<Condition> {
    let key = read_key(reader)?;
    let check = match reader.u8()? {
        1 => Check::Version(reader.u64()?),
        2 => Check::Exists(reader.bool()?),
        3 => Check::Value(reader.bytes()?),
        id => return Err(reader.unknown(id)),
    };
    Ok(Condition { key, check })
}

/// Writes a part.
pub fn write_part(writer: &mut Writer, part: &Part) {
    writer.list(&part.conditions, write_condition);
    writer.list(&part.locks, |writer, held| {
        write_lock_name(writer, &held.lock);
        writer.u64(held.token);
    });
    writer.list(&part.then, write_action);
    writer.list(&part.otherwise, write_action);
    writer.option(part.fence.as_ref(), write_fence);
}

/// Reads a part.
pub fn read_part(reader: &mut Reader) -> Result<Part> {
    let part = Part {
        conditions: reader.list(read_condition)?,
        locks: reader.list(|reader| Ok(LockHeld { lock: read_lock_name(reader)?, token: reader.u64()? }))?,
        then: reader.list(read_action)?,
        otherwise: reader.list(read_action)?,
        fence: reader.option(read_fence)?,
    };
    let count = part.conditions.len() + part.locks.len() + part.then.len() + part.otherwise.len();
    if count > MAX_OPERATIONS { Err(reader.out_of_range()) } else { Ok(part) }
}

/// Writes a command.
pub fn write_command(writer: &mut Writer, command: &Command) {
    match command {
        Command::Alone(Alone { id, digest, part }) => {
            writer.u8(1);
            write_id(writer, id);
            writer.raw(digest);
            write_part(writer, part);
        }
        Command::Prepare(prepare) => {
            writer.u8(2);
            write_id(writer, &prepare.id);
            writer.u64(prepare.priority);
            writer.raw(&prepare.digest);
            writer.u32(prepare.anchor.0);
            write_participants(writer, &prepare.participants);
            writer.bool(prepare.without_else);
            writer.bool(prepare.is_patient);
            write_part(writer, &prepare.part);
        }
        Command::Probe(id) => {
            writer.u8(3);
            write_id(writer, id);
        }
        Command::Settle(steps) => {
            writer.u8(4);
            writer.list(steps, write_settle);
        }
    }
}

/// Reads a command, with every limit checked.
pub fn read_command(reader: &mut Reader) -> Result<Command> {
    Ok(match reader.u8()? {
        1 => Command::Alone(Alone { id: read_id(reader)?, digest: read_digest(reader)?, part: read_part(reader)? }),
        2 => Command::Prepare(Prepare {
            id: read_id(reader)?,
            priority: reader.u64()?,
            digest: read_digest(reader)?,
            anchor: PartitionId(reader.u32()?),
            participants: read_participants(reader)?,
            without_else: reader.bool()?,
            is_patient: reader.bool()?,
            part: read_part(reader)?,
        }),
        3 => Command::Probe(read_id(reader)?),
        4 => Command::Settle(reader.list(read_settle)?),
        id => return Err(reader.unknown(id)),
    })
}

fn write_settle(writer: &mut Writer, step: &Settle) {
    match step {
        Settle::Decide { id, decision, results } => {
            writer.u8(1);
            write_id(writer, id);
            write_decision(writer, *decision);
            write_results(writer, results.as_ref());
        }
        Settle::Resolve { id, decision } => {
            writer.u8(2);
            write_id(writer, id);
            write_decision(writer, *decision);
        }
        Settle::Close { id } => {
            writer.u8(3);
            write_id(writer, id);
        }
    }
}

fn read_settle(reader: &mut Reader) -> Result<Settle> {
    Ok(match reader.u8()? {
        1 => Settle::Decide { id: read_id(reader)?, decision: read_decision(reader)?, results: read_results(reader)? },
        2 => Settle::Resolve { id: read_id(reader)?, decision: read_decision(reader)? },
        3 => Settle::Close { id: read_id(reader)? },
        id => return Err(reader.unknown(id)),
    })
}

/// Writes what came of operations.
pub fn write_dones(writer: &mut Writer, dones: &[Done]) {
    writer.list(dones, |writer, done| match done {
        Done::Put(version) => {
            writer.u8(1);
            writer.u64(*version);
        }
        Done::Deleted(was_there) => {
            writer.u8(2);
            writer.bool(*was_there);
        }
        Done::Got(item) => {
            writer.u8(3);
            writer.option(item.as_ref(), write_item);
        }
    });
}

/// Reads what came of operations.
pub fn read_dones(reader: &mut Reader) -> Result<Vec<Done>> {
    reader.list(|reader| {
        Ok(match reader.u8()? {
            1 => Done::Put(reader.u64()?),
            2 => Done::Deleted(reader.bool()?),
            3 => Done::Got(reader.option(read_item)?),
            id => return Err(reader.unknown(id)),
        })
    })
}

fn write_finished(writer: &mut Writer, finished: &Finished) {
    write_id(writer, &finished.id);
    write_decision(writer, finished.decision);
    write_results(writer, finished.results.as_ref());
    write_participants(writer, &finished.participants);
}

fn read_finished(reader: &mut Reader) -> Result<Finished> {
    Ok(Finished {
        id: read_id(reader)?,
        decision: read_decision(reader)?,
        results: read_results(reader)?,
        participants: read_participants(reader)?,
    })
}

/// Writes an outcome.
pub fn write_outcome(writer: &mut Writer, outcome: &Outcome) {
    match outcome {
        Outcome::Done { decision, results } => {
            writer.u8(1);
            write_decision(writer, *decision);
            write_dones(writer, results);
        }
        Outcome::Prepared(Prepared { holds, then, otherwise, participants }) => {
            writer.u8(2);
            writer.bool(*holds);
            write_dones(writer, then);
            write_dones(writer, otherwise);
            write_participants(writer, participants);
        }
        Outcome::ConditionFailed => writer.u8(3),
        Outcome::Blocked { by, waits } => {
            writer.u8(4);
            write_pointer(writer, by);
            writer.bool(*waits);
        }
        Outcome::Finished(finished) => {
            writer.u8(5);
            write_finished(writer, finished);
        }
        Outcome::UnderWay(pointer) => {
            writer.u8(6);
            write_pointer(writer, pointer);
        }
        Outcome::NameConflict => writer.u8(7),
        Outcome::StaleFence { newest } => {
            writer.u8(8);
            writer.option(*newest, Writer::u64);
        }
        Outcome::TooManyFences => writer.u8(9),
        Outcome::TooManyOpen => writer.u8(10),
        Outcome::ReadsTooMuch => writer.u8(11),
        Outcome::Settled(settled) => {
            writer.u8(12);
            writer.list(settled, |writer, settled| match settled {
                Settled::Decided(decision) => {
                    writer.u8(1);
                    write_decision(writer, *decision);
                }
                Settled::Done => writer.u8(2),
                Settled::Unknown => writer.u8(3),
                Settled::Other { id, decision } => {
                    writer.u8(4);
                    write_id(writer, id);
                    writer.option(*decision, write_decision);
                }
            });
        }
    }
}

/// Reads an outcome.
pub fn read_outcome(reader: &mut Reader) -> Result<Outcome> {
    Ok(match reader.u8()? {
        1 => Outcome::Done { decision: read_decision(reader)?, results: read_dones(reader)? },
        2 => Outcome::Prepared(Prepared {
            holds: reader.bool()?,
            then: read_dones(reader)?,
            otherwise: read_dones(reader)?,
            participants: read_participants(reader)?,
        }),
        3 => Outcome::ConditionFailed,
        4 => Outcome::Blocked { by: read_pointer(reader)?, waits: reader.bool()? },
        5 => Outcome::Finished(read_finished(reader)?),
        6 => Outcome::UnderWay(read_pointer(reader)?),
        7 => Outcome::NameConflict,
        8 => Outcome::StaleFence { newest: reader.option(Reader::u64)? },
        9 => Outcome::TooManyFences,
        10 => Outcome::TooManyOpen,
        11 => Outcome::ReadsTooMuch,
        12 => Outcome::Settled(reader.list(|reader| {
            Ok(match reader.u8()? {
                1 => Settled::Decided(read_decision(reader)?),
                2 => Settled::Done,
                3 => Settled::Unknown,
                4 => Settled::Other { id: read_id(reader)?, decision: reader.option(read_decision)? },
                id => return Err(reader.unknown(id)),
            })
        })?),
        id => return Err(reader.unknown(id)),
    })
}

/// Writes an open transaction as it is shown.
pub fn write_view(writer: &mut Writer, view: &View) {
    write_pointer(writer, &view.pointer);
    write_participants(writer, &view.participants);
    writer.option(view.decision, write_decision);
    writer.u64(view.age_ms);
    writer.u32(view.keys);
}

/// Reads an open transaction as it is shown.
pub fn read_view(reader: &mut Reader) -> Result<View> {
    Ok(View {
        pointer: read_pointer(reader)?,
        participants: read_participants(reader)?,
        decision: reader.option(read_decision)?,
        age_ms: reader.u64()?,
        keys: reader.u32()?,
    })
}

/// Writes what is known of one attempt.
pub fn write_known(writer: &mut Writer, known: &super::Known) {
    match known {
        super::Known::Open(view) => {
            writer.u8(1);
            write_view(writer, view);
        }
        super::Known::Finished(finished) => {
            writer.u8(2);
            write_finished(writer, finished);
        }
    }
}

/// Reads what is known of one attempt.
pub fn read_known(reader: &mut Reader) -> Result<super::Known> {
    Ok(match reader.u8()? {
        1 => super::Known::Open(read_view(reader)?),
        2 => super::Known::Finished(read_finished(reader)?),
        id => return Err(reader.unknown(id)),
    })
}
