//! Requests and replies as they are forwarded between members. Those about the map, in the forms of `docs/storage.md`:
//!
//! ```text
//! operation := … | 8 fence write (see `docs/storage.md`) | 9 lock_command | 10 name consistency (read a lock)
//!            | 11 scan consistency (list locks) | 12 txn_command | 13 list<key> consistency (read some keys)
//!            | 14 name consistency (read a transaction) | 15 consistency (list open transactions) | 5 intent (change the map) | 6 (read the plan) | 7 epoch:option<u64> (read the history, or a map of it)
//! intent    := fence:u64 epoch:option<u64> command
//! command   := 1 list<desired> | 2 drain:u64 | 3 undrain:u64 | 4 remove:u64
//! desired   := id:u64 name:text zone:text client_address:text peer_address:text admin_address:text weight:u32
//! reply     := … | 14 (txn) outcome | 15 list<option<item>> deletions:u64 | 16 list<known> | 17 list<view> | 11 (lock) outcome | 12 option<view> | 13 list<view> more:bool | 7 changed | 8 plan | 9 list<event> | 10 map:option<bytes>
//! changed   := 0 epoch:u64 joined:list<u64> leaving:list<u64> updated:list<u64>
//!            | 1 given:u64 highest:u64 (fence) | 2 given:u64 current:u64 (epoch) | 3 (another waits)
//!            | 4 member:u64 (unknown) | 5 left:u64 factor:u64 (too few) | 6 member:u64 groups (holds replicas)
//!            | 7 groups (quorum at risk) | 8 reason:text (invalid)
//! groups    := list<u32> count:u64
//! plan      := epoch:u64 settled:bool moves_left:u32 moves_under_way:u32 bytes_left:u64 bytes_per_second:u64
//!              list<planned> list<heard>
//! planned   := group:u32 from:option<u64> to:option<u64> step:u8 option<gate:u8 member:option<u64>> bytes:u64 sent:u64
//! heard     := member:u64 ago_ms:option<u64> epoch:u64 leads:u32
//! ```
//!
//! The ids of steps and gates stand in `map::plan`.

use super::frame::read_member;
use super::{Reader, Result, Writer};
use crate::id::{GroupId, MemberId};
use crate::lane::{Changed, Operation, Refusal, Reply};
use crate::map;
use crate::map::command::{Command, Desired, Intent};
use crate::map::history::{read_event, write_event};
use crate::map::plan::{read_plan, write_plan};
use crate::partition::Many;
use crate::partition::codec::{
    read_consistency, read_fenced, read_item, read_key, read_outcome, read_page, read_scan, read_write,
    write_consistency, write_fenced, write_item, write_outcome, write_page, write_scan, write_write,
};
use crate::partition::lock::codec as lock;
use crate::partition::txn::{MAX_OPERATIONS, codec as txn};

const OP_WRITE: u8 = 1;
const OP_GET: u8 = 2;
const OP_SCAN: u8 = 3;
const OP_READ_MAP: u8 = 4;
const OP_CHANGE_MAP: u8 = 5;
const OP_READ_PLAN: u8 = 6;
const OP_READ_HISTORY: u8 = 7;
const OP_FENCED_WRITE: u8 = 8;
const OP_LOCK: u8 = 9;
const OP_READ_LOCK: u8 = 10;
const OP_LIST_LOCKS: u8 = 11;
const OP_TXN: u8 = 12;
const OP_GET_MANY: u8 = 13;
const OP_READ_TXN: u8 = 14;
const OP_LIST_TXNS: u8 = 15;

/// Writes what is asked.
pub fn write_operation(writer: &mut Writer, operation: &Operation) {
    match operation {
        Operation::Write(write) => match &write.fence {
            None => {
                writer.u8(OP_WRITE);
                write_write(writer, write);
            }
            Some(fence) => {
                writer.u8(OP_FENCED_WRITE);
                write_fenced(writer, write, fence);
            }
        },
        Operation::Lock(command) => {
            writer.u8(OP_LOCK);
            lock::write_command(writer, command);
        }
        Operation::ReadLock { name, consistency } => {
            writer.u8(OP_READ_LOCK);
            lock::write_name(writer, name);
            write_consistency(writer, *consistency);
        }
        Operation::Txn(command) => {
            writer.u8(OP_TXN);
            txn::write_command(writer, command);
        }
        Operation::GetMany { keys, consistency } => {
            writer.u8(OP_GET_MANY);
            writer.list(keys, |writer, key| writer.bytes(key.bytes()));
            write_consistency(writer, *consistency);
        }
        Operation::ReadTxn { name, consistency } => {
            writer.u8(OP_READ_TXN);
            txn::write_name(writer, name);
            write_consistency(writer, *consistency);
        }
        Operation::ListTxns { consistency } => {
            writer.u8(OP_LIST_TXNS);
            write_consistency(writer, *consistency);
        }
        Operation::ListLocks { scan, consistency } => {
            writer.u8(OP_LIST_LOCKS);
            write_scan(writer, scan);
            write_consistency(writer, *consistency);
        }
        Operation::Get { key, consistency } => {
            writer.u8(OP_GET);
            writer.bytes(key.bytes());
            write_consistency(writer, *consistency);
        }
        Operation::Scan { scan, consistency } => {
            writer.u8(OP_SCAN);
            write_scan(writer, scan);
            write_consistency(writer, *consistency);
        }
        Operation::ReadMap { consistency } => {
            writer.u8(OP_READ_MAP);
            write_consistency(writer, *consistency);
        }
        Operation::ChangeMap(intent) => {
            writer.u8(OP_CHANGE_MAP);
            write_intent(writer, intent);
        }
        Operation::ReadPlan => writer.u8(OP_READ_PLAN),
        Operation::ReadHistory { epoch } => {
            writer.u8(OP_READ_HISTORY);
            writer.option(*epoch, Writer::u64);
        }
    }
}

/// Reads what is asked.
pub fn read_operation(reader: &mut Reader) -> Result<Operation> {
    Ok(match reader.u8()? {
        OP_WRITE => Operation::Write(read_write(reader)?),
        OP_FENCED_WRITE => Operation::Write(read_fenced(reader)?),
        OP_LOCK => Operation::Lock(lock::read_command(reader)?),
        OP_READ_LOCK => Operation::ReadLock { name: lock::read_name(reader)?, consistency: read_consistency(reader)? },
        OP_LIST_LOCKS => Operation::ListLocks { scan: read_scan(reader)?, consistency: read_consistency(reader)? },
        OP_TXN => Operation::Txn(txn::read_command(reader)?),
        OP_GET_MANY => {
            let keys = reader.list(read_key)?;
            if keys.len() > MAX_OPERATIONS {
                return Err(reader.out_of_range());
            }
            Operation::GetMany { keys, consistency: read_consistency(reader)? }
        }
        OP_READ_TXN => Operation::ReadTxn { name: txn::read_name(reader)?, consistency: read_consistency(reader)? },
        OP_LIST_TXNS => Operation::ListTxns { consistency: read_consistency(reader)? },
        OP_GET => Operation::Get { key: read_key(reader)?, consistency: read_consistency(reader)? },
        OP_SCAN => Operation::Scan { scan: read_scan(reader)?, consistency: read_consistency(reader)? },
        OP_READ_MAP => Operation::ReadMap { consistency: read_consistency(reader)? },
        OP_CHANGE_MAP => Operation::ChangeMap(read_intent(reader)?),
        OP_READ_PLAN => Operation::ReadPlan,
        OP_READ_HISTORY => Operation::ReadHistory { epoch: reader.option(Reader::u64)? },
        id => return Err(reader.unknown(id)),
    })
}

const REPLY_WRITE: u8 = 1;
const REPLY_GET: u8 = 2;
const REPLY_SCAN: u8 = 3;
const REPLY_MAP: u8 = 4;
const REPLY_REFUSED: u8 = 5;
const REPLY_UNKNOWN: u8 = 6;
const REPLY_CHANGED: u8 = 7;
const REPLY_PLAN: u8 = 8;
const REPLY_HISTORY: u8 = 9;
const REPLY_PAST_MAP: u8 = 10;
const REPLY_LOCK: u8 = 11;
const REPLY_LOCK_VIEW: u8 = 12;
const REPLY_LOCKS: u8 = 13;
const REPLY_TXN: u8 = 14;
const REPLY_MANY: u8 = 15;
const REPLY_KNOWN_TXN: u8 = 16;
const REPLY_TXNS: u8 = 17;

/// Writes an answer.
pub fn write_reply(writer: &mut Writer, reply: &Reply) {
    match reply {
        Reply::Write(outcome) => {
            writer.u8(REPLY_WRITE);
            write_outcome(writer, *outcome);
        }
        Reply::Lock(outcome) => {
            writer.u8(REPLY_LOCK);
            lock::write_outcome(writer, outcome);
        }
        Reply::Txn(outcome) => {
            writer.u8(REPLY_TXN);
            txn::write_outcome(writer, outcome);
        }
        Reply::Many(Many { items, deletions }) => {
            writer.u8(REPLY_MANY);
            writer.list(items, |writer, item| writer.option(item.as_ref(), write_item));
            writer.u64(*deletions);
        }
        Reply::KnownTxn(known) => {
            writer.u8(REPLY_KNOWN_TXN);
            writer.list(known, txn::write_known);
        }
        Reply::Txns(views) => {
            writer.u8(REPLY_TXNS);
            writer.list(views, txn::write_view);
        }
        Reply::LockView(view) => {
            writer.u8(REPLY_LOCK_VIEW);
            writer.option(view.as_ref(), lock::write_view);
        }
        Reply::Locks { locks, more } => {
            writer.u8(REPLY_LOCKS);
            writer.list(locks, lock::write_view);
            writer.bool(*more);
        }
        Reply::Get(item) => {
            writer.u8(REPLY_GET);
            writer.option(item.as_ref(), write_item);
        }
        Reply::Scan(page) => {
            writer.u8(REPLY_SCAN);
            write_page(writer, page);
        }
        Reply::Map(_) | Reply::Changed(_) | Reply::Plan(_) | Reply::History(_) | Reply::PastMap(_) => {
            write_map_reply(writer, reply);
        }
        Reply::Refused(refusal) => {
            writer.u8(REPLY_REFUSED);
            write_refusal(writer, *refusal);
        }
        Reply::OutcomeUnknown => writer.u8(REPLY_UNKNOWN),
    }
}

/// Writes an answer of the map group.
fn write_map_reply(writer: &mut Writer, reply: &Reply) {
    match reply {
        Reply::Map(map) => {
            writer.u8(REPLY_MAP);
            writer.bytes(map);
        }
        Reply::Changed(changed) => {
            writer.u8(REPLY_CHANGED);
            write_changed(writer, changed);
        }
        Reply::Plan(plan) => {
            writer.u8(REPLY_PLAN);
            write_plan(writer, plan);
        }
        Reply::History(events) => {
            writer.u8(REPLY_HISTORY);
            writer.list(events, write_event);
        }
        Reply::PastMap(map) => {
            writer.u8(REPLY_PAST_MAP);
            writer.option(map.as_ref(), |writer, map| writer.bytes(map));
        }
        _ => unreachable!("another answer than one of the map group"),
    }
}

/// Reads an answer.
pub fn read_reply(reader: &mut Reader) -> Result<Reply> {
    Ok(match reader.u8()? {
        REPLY_WRITE => Reply::Write(read_outcome(reader)?),
        REPLY_LOCK => Reply::Lock(lock::read_outcome(reader)?),
        REPLY_LOCK_VIEW => Reply::LockView(reader.option(lock::read_view)?),
        REPLY_LOCKS => Reply::Locks { locks: reader.list(lock::read_view)?, more: reader.bool()? },
        REPLY_TXN => Reply::Txn(txn::read_outcome(reader)?),
        REPLY_MANY => {
            Reply::Many(Many { items: reader.list(|reader| reader.option(read_item))?, deletions: reader.u64()? })
        }
        REPLY_KNOWN_TXN => Reply::KnownTxn(reader.list(txn::read_known)?),
        REPLY_TXNS => Reply::Txns(reader.list(txn::read_view)?),
        REPLY_GET => Reply::Get(reader.option(read_item)?),
        REPLY_SCAN => Reply::Scan(read_page(reader)?),
        REPLY_MAP => Reply::Map(reader.bytes()?),
        REPLY_REFUSED => Reply::Refused(read_refusal(reader)?),
        REPLY_UNKNOWN => Reply::OutcomeUnknown,
        REPLY_CHANGED => Reply::Changed(read_changed(reader)?),
        REPLY_PLAN => Reply::Plan(read_plan(reader)?),
        REPLY_HISTORY => Reply::History(reader.list(read_event)?),
        REPLY_PAST_MAP => Reply::PastMap(reader.option(Reader::bytes)?),
        id => return Err(reader.unknown(id)),
    })
}

fn write_refusal(writer: &mut Writer, refusal: Refusal) {
    match refusal {
        Refusal::NotLeader { leader } => {
            writer.u8(1);
            writer.option(leader, |writer, leader| writer.u64(leader.get()));
        }
        Refusal::NoReplica => writer.u8(2),
        Refusal::Busy => writer.u8(3),
        Refusal::DiskFull => writer.u8(4),
        Refusal::TimedOut => writer.u8(5),
    }
}

fn read_refusal(reader: &mut Reader) -> Result<Refusal> {
    Ok(match reader.u8()? {
        1 => Refusal::NotLeader { leader: reader.option(read_member)? },
        2 => Refusal::NoReplica,
        3 => Refusal::Busy,
        4 => Refusal::DiskFull,
        5 => Refusal::TimedOut,
        id => return Err(reader.unknown(id)),
    })
}

fn write_intent(writer: &mut Writer, intent: &Intent) {
    writer.u64(intent.fence);
    writer.option(intent.epoch, Writer::u64);
    let mut one = |id: u8, member: MemberId| {
        writer.u8(id);
        writer.u64(member.get());
    };
    match &intent.command {
        Command::Members(members) => {
            writer.u8(1);
            writer.list(members, |writer, member| {
                writer.u64(member.id.get());
                for text in
                    [&member.name, &member.zone, &member.client_address, &member.peer_address, &member.admin_address]
                {
                    writer.bytes(text.as_bytes());
                }
                writer.u32(member.weight);
            });
        }
        Command::Drain(member) => one(2, *member),
        Command::Undrain(member) => one(3, *member),
        Command::Remove(member) => one(4, *member),
    }
}

fn read_intent(reader: &mut Reader) -> Result<Intent> {
    let (fence, epoch) = (reader.u64()?, reader.option(Reader::u64)?);
    let command = match reader.u8()? {
        1 => Command::Members(reader.list(|reader| {
            Ok(Desired {
                id: read_member(reader)?,
                name: reader.text()?,
                zone: reader.text()?,
                client_address: reader.text()?,
                peer_address: reader.text()?,
                admin_address: reader.text()?,
                weight: reader.u32()?,
            })
        })?),
        2 => Command::Drain(read_member(reader)?),
        3 => Command::Undrain(read_member(reader)?),
        4 => Command::Remove(read_member(reader)?),
        id => return Err(reader.unknown(id)),
    };
    Ok(Intent { fence, epoch, command })
}

fn write_changed(writer: &mut Writer, changed: &std::result::Result<Changed, map::Refusal>) {
    use map::Refusal;
    let groups = |writer: &mut Writer, groups: &[GroupId], count: usize| {
        writer.list(groups, |writer, group| writer.u32(group.0));
        writer.u64(count as u64);
    };
    let two = |writer: &mut Writer, id: u8, numbers: [u64; 2]| {
        writer.u8(id);
        numbers.into_iter().for_each(|number| writer.u64(number));
    };
    match changed {
        Ok(Changed { epoch, joined, leaving, updated }) => {
            writer.u8(0);
            writer.u64(*epoch);
            for ids in [joined, leaving, updated] {
                writer.list(ids, |writer, id| writer.u64(id.get()));
            }
        }
        Err(Refusal::StaleFence { given, highest }) => two(writer, 1, [*given, *highest]),
        Err(Refusal::MapChanged { given, current }) => two(writer, 2, [*given, *current]),
        Err(Refusal::ChangeInProgress) => writer.u8(3),
        Err(Refusal::UnknownMember(member)) => {
            writer.u8(4);
            writer.u64(member.get());
        }
        Err(Refusal::TooFewMembers { left, factor }) => two(writer, 5, [*left as u64, *factor as u64]),
        Err(Refusal::HoldsReplicas { member, groups: held, count }) => {
            writer.u8(6);
            writer.u64(member.get());
            groups(writer, held, *count);
        }
        Err(Refusal::QuorumAtRisk { groups: at_risk, count }) => {
            writer.u8(7);
            groups(writer, at_risk, *count);
        }
        Err(Refusal::Invalid(reason)) => {
            writer.u8(8);
            writer.bytes(reason.as_bytes());
        }
    }
}

fn read_changed(reader: &mut Reader) -> Result<std::result::Result<Changed, map::Refusal>> {
    use map::Refusal;
    let number = |reader: &mut Reader| usize::try_from(reader.u64()?).map_err(|_| reader.out_of_range());
    let groups = |reader: &mut Reader| {
        let groups = reader.list(|reader| Ok(GroupId(reader.u32()?)))?;
        let count = number(reader)?;
        if count < groups.len() { Err(reader.out_of_range()) } else { Ok((groups, count)) }
    };
    Ok(Err(match reader.u8()? {
        0 => {
            return Ok(Ok(Changed {
                epoch: reader.u64()?,
                joined: reader.list(read_member)?,
                leaving: reader.list(read_member)?,
                updated: reader.list(read_member)?,
            }));
        }
        1 => Refusal::StaleFence { given: reader.u64()?, highest: reader.u64()? },
        2 => Refusal::MapChanged { given: reader.u64()?, current: reader.u64()? },
        3 => Refusal::ChangeInProgress,
        4 => Refusal::UnknownMember(read_member(reader)?),
        5 => Refusal::TooFewMembers { left: number(reader)?, factor: number(reader)? },
        6 => {
            let member = read_member(reader)?;
            let (groups, count) = groups(reader)?;
            Refusal::HoldsReplicas { member, groups, count }
        }
        7 => {
            let (groups, count) = groups(reader)?;
            Refusal::QuorumAtRisk { groups, count }
        }
        8 => Refusal::Invalid(reader.text()?),
        id => return Err(reader.unknown(id)),
    }))
}
