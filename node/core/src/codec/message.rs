//! Messages between the replicas of a group. Raft's own protobuf never touches the network: this is the whole of it. The
//! forms that `docs/storage.md` has too (`position`, `records`, `configuration`, `entry`) are not told again.
//!
//! ```text
//! message := group:u32 body
//! body    := 1 raft | 3 chunk_ack | 4 report | 5 chunk        (2: a chunk whose `last` had no epoch; read, not written)
//! raft    := kind:u8 term:u64 present:u16 numbers:u64* entries:list<entry>? context:bytes?
//!            (bits of `present` from the lowest: log_term index commit commit_term request_snapshot reject_hint priority
//!            stamp; then reject, entries, context)
//! chunk   := stream number:u32 records last:option<configuration>
//! chunk_ack := stream next:u32
//! stream  := term:u64 position attempt:u32
//! report  := epoch:u64 list<group:u32 term:u64 configuration behind:list<u64> bytes:u64 sent:option<u64>>
//! ```

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType};

use super::{Reader, Result, Writer};
use crate::id::GroupId;
use crate::lane::LogPosition;
use crate::map::Report;
use crate::map::report::{read_report, write_report};
use crate::replica::Configuration;

/// A message between two replicas of a group. Who sent it is known from the link.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerMessage {
    /// The group.
    pub group: GroupId,
    /// What is said.
    pub body: Body,
}

/// What one replica says to another.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// A Raft message. `from` and `to` are not sent: the receiver fills them in from the link.
    Raft {
        /// The message.
        message: Message,
        /// On a heartbeat: when it was sent, on the leader's clock, in microseconds. On its answer: the latest such
        /// stamp of this term's leader that the follower has accepted. 0 on all others.
        stamp: u64,
    },
    /// A piece of a snapshot.
    Chunk(Chunk),
    /// How much of a snapshot has arrived and is durable.
    ChunkAck {
        /// The snapshot.
        stream: Stream,
        /// The number of the next chunk that is wanted.
        next: u32,
    },
    /// To the map group: what the sender's lane knows of the groups that it leads.
    Report(Report),
}

/// Names one sending of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stream {
    /// The leader's term.
    pub term: u64,
    /// The last entry that the snapshot holds.
    pub position: LogPosition,
    /// Counts the leader's streams, so that a second try is told from the first.
    pub attempt: u32,
}

/// A piece of a snapshot: some records in key order, and on the last one the group's configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    /// The snapshot.
    pub stream: Stream,
    /// Counts the chunks from 0.
    pub number: u32,
    /// Records of the group's table.
    pub records: Vec<(Bytes, Bytes)>,
    /// On the last chunk: who votes and who learns, as of the snapshot's last entry.
    pub last: Option<Configuration>,
}

impl Chunk {
    /// Bytes of its records.
    pub fn bytes(&self) -> usize {
        self.records.iter().map(|(key, value)| key.len() + value.len()).sum()
    }
}

const RAFT: u8 = 1;
const CHUNK_WITHOUT_EPOCH: u8 = 2;
const CHUNK_ACK: u8 = 3;
const REPORT: u8 = 4;
const CHUNK: u8 = 5;

/// Writes a message.
pub fn write_message(writer: &mut Writer, message: &PeerMessage) {
    writer.u32(message.group.0);
    match &message.body {
        Body::Raft { message, stamp } => {
            writer.u8(RAFT);
            write_raft(writer, message, *stamp);
        }
        Body::Chunk(chunk) => {
            writer.u8(CHUNK);
            write_stream(writer, chunk.stream);
            writer.u32(chunk.number);
            write_records(writer, &chunk.records);
            writer.option(chunk.last.as_ref(), write_configuration);
        }
        Body::ChunkAck { stream, next } => {
            writer.u8(CHUNK_ACK);
            write_stream(writer, *stream);
            writer.u32(*next);
        }
        Body::Report(report) => {
            writer.u8(REPORT);
            write_report(writer, report);
        }
    }
}

/// Reads a message.
pub fn read_message(reader: &mut Reader) -> Result<PeerMessage> {
    let group = GroupId(reader.u32()?);
    let body = match reader.u8()? {
        RAFT => {
            let (message, stamp) = read_raft(reader)?;
            Body::Raft { message, stamp }
        }
        CHUNK => Body::Chunk(read_chunk(reader, read_configuration)?),
        CHUNK_WITHOUT_EPOCH => Body::Chunk(read_chunk(reader, read_configuration_without_epoch)?),
        CHUNK_ACK => Body::ChunkAck { stream: read_stream(reader)?, next: reader.u32()? },
        REPORT => Body::Report(read_report(reader)?),
        id => return Err(reader.unknown(id)),
    };
    Ok(PeerMessage { group, body })
}

fn read_chunk(reader: &mut Reader, last: impl FnOnce(&mut Reader) -> Result<Configuration>) -> Result<Chunk> {
    Ok(Chunk {
        stream: read_stream(reader)?,
        number: reader.u32()?,
        records: read_records(reader)?,
        last: reader.option(last)?,
    })
}

fn write_stream(writer: &mut Writer, stream: Stream) {
    writer.u64(stream.term);
    write_position(writer, stream.position);
    writer.u32(stream.attempt);
}

fn read_stream(reader: &mut Reader) -> Result<Stream> {
    Ok(Stream { term: reader.u64()?, position: read_position(reader)?, attempt: reader.u32()? })
}

/// Writes a log position.
pub fn write_position(writer: &mut Writer, position: LogPosition) {
    writer.u64(position.index);
    writer.u64(position.term);
}

/// Reads a log position.
pub fn read_position(reader: &mut Reader) -> Result<LogPosition> {
    Ok(LogPosition { index: reader.u64()?, term: reader.u64()? })
}

/// Writes records of a table.
pub fn write_records(writer: &mut Writer, records: &[(Bytes, Bytes)]) {
    writer.list(records, |writer, (key, value)| {
        writer.bytes(key);
        writer.bytes(value);
    });
}

/// Reads records of a table.
pub fn read_records(reader: &mut Reader) -> Result<Vec<(Bytes, Bytes)>> {
    reader.list(|reader| Ok((reader.bytes()?, reader.bytes()?)))
}

/// Writes who votes and who learns.
pub fn write_conf_state(writer: &mut Writer, conf: &ConfState) {
    for ids in [&conf.voters, &conf.learners, &conf.voters_outgoing, &conf.learners_next] {
        writer.list(ids, |writer, id| writer.u64(*id));
    }
    writer.bool(conf.auto_leave);
}

/// Reads who votes and who learns.
pub fn read_conf_state(reader: &mut Reader) -> Result<ConfState> {
    Ok(ConfState {
        voters: reader.list(Reader::u64)?,
        learners: reader.list(Reader::u64)?,
        voters_outgoing: reader.list(Reader::u64)?,
        learners_next: reader.list(Reader::u64)?,
        auto_leave: reader.bool()?,
        ..ConfState::default()
    })
}

/// Writes a configuration.
pub fn write_configuration(writer: &mut Writer, configuration: &Configuration) {
    write_conf_state(writer, &configuration.state);
    writer.u64(configuration.epoch);
}

/// Reads a configuration.
pub fn read_configuration(reader: &mut Reader) -> Result<Configuration> {
    Ok(Configuration { state: read_conf_state(reader)?, epoch: reader.u64()? })
}

/// Reads a configuration as it was written before groups followed the map.
pub fn read_configuration_without_epoch(reader: &mut Reader) -> Result<Configuration> {
    Ok(Configuration { state: read_conf_state(reader)?, epoch: 0 })
}

/// Writes a log entry.
pub fn write_entry(writer: &mut Writer, entry: &Entry) {
    assert_eq!(entry.get_entry_type(), EntryType::EntryNormal, "configuration changes are entries of our own");
    writer.u8(0);
    writer.u64(entry.term);
    writer.u64(entry.index);
    writer.bytes(&entry.data);
}

/// Reads a log entry.
pub fn read_entry(reader: &mut Reader) -> Result<Entry> {
    let mut entry = Entry::default();
    match reader.u8()? {
        0 => entry.set_entry_type(EntryType::EntryNormal),
        id => return Err(reader.unknown(id)),
    }
    entry.term = reader.u64()?;
    entry.index = reader.u64()?;
    entry.data = reader.bytes()?;
    Ok(entry)
}

/// The Raft messages that members exchange, with their stable ids. Snapshots go as chunks; proposals, read requests
/// and local messages never leave the member.
const KINDS: [(u8, MessageType); 9] = [
    (1, MessageType::MsgAppend),
    (2, MessageType::MsgAppendResponse),
    (3, MessageType::MsgRequestVote),
    (4, MessageType::MsgRequestVoteResponse),
    (5, MessageType::MsgRequestPreVote),
    (6, MessageType::MsgRequestPreVoteResponse),
    (7, MessageType::MsgHeartbeat),
    (8, MessageType::MsgHeartbeatResponse),
    (9, MessageType::MsgTimeoutNow),
];

/// Whether this kind of Raft message may go over a link.
pub fn is_sendable(kind: MessageType) -> bool {
    KINDS.iter().any(|(_, known)| *known == kind)
}

fn write_raft(writer: &mut Writer, message: &Message, stamp: u64) {
    let kind = message.get_msg_type();
    let id = KINDS.iter().find(|(_, known)| *known == kind).map(|(id, _)| *id);
    writer.u8(id.expect("only sendable messages reach the codec"));
    writer.u64(message.term);
    let numbers = optional_numbers(message, stamp);
    let mut present = 0u16;
    for (bit, number) in numbers.iter().enumerate() {
        present |= u16::from(*number != 0) << bit;
    }
    let extras = [message.reject, !message.entries.is_empty(), !message.context.is_empty()];
    for (bit, extra) in extras.into_iter().enumerate() {
        present |= u16::from(extra) << (numbers.len() + bit);
    }
    writer.u16(present);
    for number in numbers.into_iter().filter(|number| *number != 0) {
        writer.u64(number);
    }
    if !message.entries.is_empty() {
        writer.list(&message.entries, write_entry);
    }
    if !message.context.is_empty() {
        writer.bytes(&message.context);
    }
}

fn optional_numbers(message: &Message, stamp: u64) -> [u64; 8] {
    [
        message.log_term,
        message.index,
        message.commit,
        message.commit_term,
        message.request_snapshot,
        message.reject_hint,
        message.priority.cast_unsigned(),
        stamp,
    ]
}

fn read_raft(reader: &mut Reader) -> Result<(Message, u64)> {
    let mut message = Message::default();
    let id = reader.u8()?;
    let kind = KINDS.iter().find(|(known, _)| *known == id).map(|(_, kind)| *kind);
    message.set_msg_type(kind.ok_or_else(|| reader.unknown(id))?);
    message.term = reader.u64()?;
    let present = reader.u16()?;
    let mut numbers = [0u64; 8];
    for (bit, number) in numbers.iter_mut().enumerate() {
        if present & (1 << bit) != 0 {
            *number = reader.u64()?;
        }
    }
    let [log_term, index, commit, commit_term, request_snapshot, reject_hint, priority, stamp] = numbers;
    message.log_term = log_term;
    message.index = index;
    message.commit = commit;
    message.commit_term = commit_term;
    message.request_snapshot = request_snapshot;
    message.reject_hint = reject_hint;
    message.priority = priority.cast_signed();
    message.reject = present & (1 << 8) != 0;
    if present & (1 << 9) != 0 {
        message.entries = reader.list(read_entry)?.into();
    }
    if present & (1 << 10) != 0 {
        message.context = reader.bytes()?;
    }
    if present >> 11 != 0 {
        return Err(reader.out_of_range());
    }
    Ok((message, stamp))
}
