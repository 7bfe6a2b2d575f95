//! One record of the WAL, and finding records in the bytes of a segment. Pure functions over bytes.
//!
//! ```text
//! record := length:u32 crc32:u32 body[length]      (the checksum is of the length and the body)
//! body   := version:u8 kind:u8 segment:u64 sequence:u64 synced:u64 groups
//! ```
//!
//! `synced` is the sequence of the last record that was durable when this one was written. It decides what a bad record
//! means when a good one follows: if the good one says that the bad one was durable, then the disk has lost it. If not,
//! both belong to a burst that a crash cut short, and a disk may well have kept the later half of such a burst.

use std::ops::Range;

use annulus_core::codec::wal::{read_groups, write_groups};
use annulus_core::codec::{Result, Writer};
use annulus_core::lane::GroupWrite;
use bytes::Bytes;

/// Version of the record's form.
pub(super) const VERSION: u8 = annulus_core::codec::wal::VERSION;
/// The first record of a segment: all that a replay needs from the time before it.
pub(super) const BASE: u8 = 1;
/// The writes of one round.
pub(super) const ROUND: u8 = 2;

/// Bytes before the body.
const PREFIX_BYTES: usize = 8;
/// Bytes of the body before the groups.
const FIXED_BODY_BYTES: usize = 26;
/// Where the segment's number stands in a record.
const SEGMENT_OFFSET: usize = PREFIX_BYTES + 2;
/// The fewest bytes that a record has.
const HEADER_BYTES: usize = PREFIX_BYTES + FIXED_BODY_BYTES;

/// What a record says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: u8,
    pub(super) segment: u64,
    pub(super) sequence: u64,
    pub(super) synced: u64,
}

/// The bytes of a record.
pub(super) fn encode(header: Header, groups: &[GroupWrite]) -> Bytes {
    let mut writer = Writer::with_capacity(1024);
    writer.u64(0);
    writer.u8(VERSION);
    writer.u8(header.kind);
    writer.u64(header.segment);
    writer.u64(header.sequence);
    writer.u64(header.synced);
    write_groups(&mut writer, groups);
    let bytes = writer.written();
    let length = u32::try_from(bytes.len() - PREFIX_BYTES).expect("a round is far below 4 GiB");
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    let checksum = checksum(bytes);
    bytes[4..PREFIX_BYTES].copy_from_slice(&checksum.to_le_bytes());
    writer.finish()
}

fn checksum(record: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&record[..4]);
    hasher.update(&record[PREFIX_BYTES..]);
    hasher.finalize()
}

/// A record whose checksum fits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record<'a> {
    pub(super) version: u8,
    pub(super) header: Header,
    groups: &'a [u8],
    /// Bytes of the whole record.
    pub(super) length: usize,
}

impl<'a> Record<'a> {
    /// The record at the start of these bytes, if there is one.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let length = PREFIX_BYTES + u32_at(bytes, 0)? as usize;
        if length < HEADER_BYTES {
            return None;
        }
        let record = bytes.get(..length)?;
        if u32_at(record, 4)? != checksum(record) {
            return None;
        }
        let header = Header {
            kind: record[PREFIX_BYTES + 1],
            segment: u64_at(record, SEGMENT_OFFSET)?,
            sequence: u64_at(record, SEGMENT_OFFSET + 8)?,
            synced: u64_at(record, SEGMENT_OFFSET + 16)?,
        };
        Some(Self { version: record[PREFIX_BYTES], header, groups: &record[HEADER_BYTES..], length })
    }

    /// The writes in it. They do not share the segment's bytes: a log entry must not keep a whole segment in memory.
    pub(super) fn groups(&self) -> Result<Vec<GroupWrite>> {
        read_groups(Bytes::copy_from_slice(self.groups), self.version)
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    bytes.get(offset..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// Looks for whole records of a segment that begin in `range`, at any byte: where a record is bad, its length is too.
/// Returns the highest `synced` that they name. Records of the segment's earlier life, under an older number, do not
/// count.
pub(super) fn find_synced(bytes: &[u8], range: Range<usize>, segment: u64) -> Option<u64> {
    let number = segment.to_le_bytes();
    let mut synced = None;
    let mut place = range.start;
    while place < range.end {
        let numbers = bytes.get(place + SEGMENT_OFFSET..).unwrap_or_default();
        let Some(skipped) = numbers.windows(number.len()).position(|found| found == number) else { break };
        place += skipped;
        let record = Record::parse(&bytes[place..]);
        if let Some(record) = &record {
            synced = synced.max(Some(record.header.synced));
        }
        place += record.map_or(1, |record| record.length);
    }
    synced
}
