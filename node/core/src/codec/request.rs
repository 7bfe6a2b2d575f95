//! Requests and replies as they are forwarded between members.

use super::frame::read_member;
use super::{Reader, Result, Writer};
use crate::lane::{Operation, Refusal, Reply};
use crate::partition::codec::{
    read_consistency, read_item, read_key, read_outcome, read_page, read_scan, read_write, write_consistency,
    write_item, write_outcome, write_page, write_scan, write_write,
};

const OP_WRITE: u8 = 1;
const OP_GET: u8 = 2;
const OP_SCAN: u8 = 3;
const OP_READ_MAP: u8 = 4;

/// Writes what is asked.
pub fn write_operation(writer: &mut Writer, operation: &Operation) {
    match operation {
        Operation::Write(write) => {
            writer.u8(OP_WRITE);
            write_write(writer, write);
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
    }
}

/// Reads what is asked.
pub fn read_operation(reader: &mut Reader) -> Result<Operation> {
    Ok(match reader.u8()? {
        OP_WRITE => Operation::Write(read_write(reader)?),
        OP_GET => Operation::Get { key: read_key(reader)?, consistency: read_consistency(reader)? },
        OP_SCAN => Operation::Scan { scan: read_scan(reader)?, consistency: read_consistency(reader)? },
        OP_READ_MAP => Operation::ReadMap { consistency: read_consistency(reader)? },
        id => return Err(reader.unknown(id)),
    })
}

const REPLY_WRITE: u8 = 1;
const REPLY_GET: u8 = 2;
const REPLY_SCAN: u8 = 3;
const REPLY_MAP: u8 = 4;
const REPLY_REFUSED: u8 = 5;
const REPLY_UNKNOWN: u8 = 6;

/// Writes an answer.
pub fn write_reply(writer: &mut Writer, reply: &Reply) {
    match reply {
        Reply::Write(outcome) => {
            writer.u8(REPLY_WRITE);
            write_outcome(writer, *outcome);
        }
        Reply::Get(item) => {
            writer.u8(REPLY_GET);
            writer.option(item.as_ref(), write_item);
        }
        Reply::Scan(page) => {
            writer.u8(REPLY_SCAN);
            write_page(writer, page);
        }
        Reply::Map(map) => {
            writer.u8(REPLY_MAP);
            writer.bytes(map);
        }
        Reply::Refused(refusal) => {
            writer.u8(REPLY_REFUSED);
            write_refusal(writer, *refusal);
        }
        Reply::OutcomeUnknown => writer.u8(REPLY_UNKNOWN),
    }
}

/// Reads an answer.
pub fn read_reply(reader: &mut Reader) -> Result<Reply> {
    Ok(match reader.u8()? {
        REPLY_WRITE => Reply::Write(read_outcome(reader)?),
        REPLY_GET => Reply::Get(reader.option(read_item)?),
        REPLY_SCAN => Reply::Scan(read_page(reader)?),
        REPLY_MAP => Reply::Map(reader.bytes()?),
        REPLY_REFUSED => Reply::Refused(read_refusal(reader)?),
        REPLY_UNKNOWN => Reply::OutcomeUnknown,
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
