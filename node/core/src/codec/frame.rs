//! What goes over a peer link: a hello, then frames. One frame holds everything that one round has for one peer.
//!
//! ```text
//! frame   := length:u32 crc32:u32 payload[length]        (the checksum is of the payload)
//! payload := version:u8 item*
//! item    := 1 cluster[16] from:u64 to:u64 epoch:u64                             hello
//!          | 2 message                                                           to a replica (see `message`)
//!          | 3 life:u64 number:u64 group:u32 timeout_ms:u32 operation            a request, sent on (see `request`)
//!          | 4 life:u64 number:u64 reply                                         its answer (see `request`)
//!          | 5 map:bytes                                                         the sender's map (`docs/storage.md`)
//!          | 6 life:u64 number:u64 group:u32                                       nobody waits for its answer any more
//! ```

use bytes::Bytes;

use super::message::{PeerMessage, read_message, write_message};
use super::request::{read_operation, read_reply, write_operation, write_reply};
use super::{Error, Reader, Result, Writer};
use crate::id::{ClusterId, GroupId, MemberId, Ticket};
use crate::lane::{Operation, Reply};

/// Version of the frame format. (In the first an answer could be taken for that to another request.)
pub const VERSION: u8 = 2;
/// Bytes before the payload.
pub const HEADER_BYTES: usize = 8;
/// Largest payload that is sent or accepted, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = 16 * 1024 * 1024;

const HELLO: u8 = 1;
const GROUP: u8 = 2;
const FORWARD: u8 = 3;
const FORWARDED: u8 = 4;
const MAP: u8 = 5;
const CANCEL: u8 = 6;

/// One thing in a frame.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// The first item of the first frame on a link: who speaks, and whom it takes the other side for.
    Hello(Hello),
    /// A message between two replicas of a group.
    Group(PeerMessage),
    /// A client's request, sent on to a member that should know better.
    Forward(Forward),
    /// The answer to a `Forward` with this ticket.
    Forwarded {
        /// The ticket of the `Forward`.
        ticket: Ticket,
        /// What came of it.
        reply: Reply,
    },
    /// Nobody waits for the answer to this `Forward` any more.
    Cancel {
        /// Its ticket.
        ticket: Ticket,
        /// The group that it was for.
        group: GroupId,
    },
    /// The sender's map (see [`crate::map::Map`]). It comes right after the hello on every link, so that a member that
    /// has no map yet gets one from whoever reaches it first.
    Map(Bytes),
}

/// Who speaks on a link, and whom it takes the other side for. A receiver that is someone else closes the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// The sender's cluster.
    pub cluster: ClusterId,
    /// The sender.
    pub from: MemberId,
    /// The member that the sender means to reach.
    pub to: MemberId,
    /// The epoch of the sender's map.
    pub epoch: u64,
}

/// A client's request, sent on to a member that should know better.
#[derive(Debug, Clone, PartialEq)]
pub struct Forward {
    /// The sender's name for it.
    pub ticket: Ticket,
    /// The group it is for.
    pub group: GroupId,
    /// How long the client still waits, in milliseconds.
    pub timeout_ms: u32,
    /// What is asked.
    pub operation: Operation,
}

/// Builds one frame.
#[derive(Debug)]
pub struct FrameWriter {
    writer: Writer,
}

impl Default for FrameWriter {
    fn default() -> Self {
        let mut writer = Writer::with_capacity(512);
        writer.u64(0);
        writer.u8(VERSION);
        Self { writer }
    }
}

impl FrameWriter {
    /// Whether no item was added.
    pub fn is_empty(&self) -> bool {
        self.writer.len() <= HEADER_BYTES + 1
    }

    /// Bytes so far, with the header.
    pub fn len(&self) -> usize {
        self.writer.len()
    }

    /// Adds an item.
    pub fn push(&mut self, item: &Item) {
        let writer = &mut self.writer;
        match item {
            Item::Hello(hello) => {
                writer.u8(HELLO);
                writer.raw(&hello.cluster.0);
                writer.u64(hello.from.get());
                writer.u64(hello.to.get());
                writer.u64(hello.epoch);
            }
            Item::Group(message) => {
                writer.u8(GROUP);
                write_message(writer, message);
            }
            Item::Forward(forward) => {
                writer.u8(FORWARD);
                write_ticket(writer, forward.ticket);
                writer.u32(forward.group.0);
                writer.u32(forward.timeout_ms);
                write_operation(writer, &forward.operation);
            }
            Item::Forwarded { ticket, reply } => {
                writer.u8(FORWARDED);
                write_ticket(writer, *ticket);
                write_reply(writer, reply);
            }
            Item::Cancel { ticket, group } => {
                writer.u8(CANCEL);
                write_ticket(writer, *ticket);
                writer.u32(group.0);
            }
            Item::Map(map) => {
                writer.u8(MAP);
                writer.bytes(map);
            }
        }
    }

    /// The finished frame, header and payload.
    pub fn finish(mut self) -> Bytes {
        let buffer = self.writer.written();
        let payload = &buffer[HEADER_BYTES..];
        let length = u32::try_from(payload.len()).expect("a frame is far below 4 GiB");
        let checksum = crc32fast::hash(payload);
        buffer[..4].copy_from_slice(&length.to_le_bytes());
        buffer[4..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
        self.writer.finish()
    }
}

/// Reads a header: how long the payload is, and its checksum.
pub fn read_header(header: [u8; HEADER_BYTES]) -> Result<(usize, u32)> {
    let [l0, l1, l2, l3, c0, c1, c2, c3] = header;
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if length == 0 || length > MAX_PAYLOAD_BYTES {
        return Err(Error::OutOfRange { what: "frame length" });
    }
    Ok((length, u32::from_le_bytes([c0, c1, c2, c3])))
}

/// Reads the items of a payload.
pub fn read_payload(payload: Bytes, checksum: u32) -> Result<Vec<Item>> {
    if crc32fast::hash(&payload) != checksum {
        return Err(Error::Checksum);
    }
    let mut reader = Reader::new(payload, "peer frame");
    if reader.version(VERSION)? < VERSION {
        return Err(Error::OutOfRange { what: "frame version" });
    }
    let mut items = Vec::new();
    while reader.remaining() > 0 {
        items.push(read_item(&mut reader)?);
    }
    Ok(items)
}

fn read_item(reader: &mut Reader) -> Result<Item> {
    Ok(match reader.u8()? {
        HELLO => {
            let cluster = reader.raw(16)?;
            let cluster = ClusterId(cluster[..].try_into().map_err(|_| reader.out_of_range())?);
            Item::Hello(Hello { cluster, from: read_member(reader)?, to: read_member(reader)?, epoch: reader.u64()? })
        }
        GROUP => Item::Group(read_message(reader)?),
        FORWARD => Item::Forward(Forward {
            ticket: read_ticket(reader)?,
            group: GroupId(reader.u32()?),
            timeout_ms: reader.u32()?,
            operation: read_operation(reader)?,
        }),
        FORWARDED => Item::Forwarded { ticket: read_ticket(reader)?, reply: read_reply(reader)? },
        CANCEL => Item::Cancel { ticket: read_ticket(reader)?, group: GroupId(reader.u32()?) },
        MAP => Item::Map(reader.bytes()?),
        id => return Err(reader.unknown(id)),
    })
}

fn write_ticket(writer: &mut Writer, ticket: Ticket) {
    writer.u64(ticket.life);
    writer.u64(ticket.number);
}

fn read_ticket(reader: &mut Reader) -> Result<Ticket> {
    Ok(Ticket { life: reader.u64()?, number: reader.u64()? })
}

/// Reads a member id, which is never 0.
pub fn read_member(reader: &mut Reader) -> Result<MemberId> {
    let number = reader.u64()?;
    MemberId::new(number).ok_or_else(|| reader.out_of_range())
}
