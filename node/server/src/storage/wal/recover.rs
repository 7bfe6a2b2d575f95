//! Reading the WAL back after a stop: what was durable is replayed, what a crash cut short is cut, and what the disk
//! has lost is told, never passed over.
//!
//! A bad record is a torn tail when nothing shows that it was ever durable. It was durable when a later segment was
//! begun, or when a later record says so (see [`super::record`]): then it is damage.

use std::sync::Arc;

use annulus_core::lane::GroupWrite;

use super::record::{BASE, ROUND, Record, VERSION, find_synced};
use super::{Opened, Segment, Wal, parse_segment_name, segment_name, write_zeros};
use crate::storage::Options;
use crate::storage::disk::{Disk, DiskFile};
use crate::storage::error::{Error, Result};

/// Where a replay starts.
#[derive(Debug, Clone, Copy)]
pub(in crate::storage) struct Start {
    pub(in crate::storage) lane: u32,
    /// The segment that the last checkpoint named.
    pub(in crate::storage) segment: Segment,
    /// Whether the lane may be one that was never used: then the first segment is made, if it isn't there.
    pub(in crate::storage) fresh: bool,
}

/// A WAL that goes on after its last whole record, and what stood in it.
pub(in crate::storage) struct Recovered {
    pub(in crate::storage) wal: Wal,
    pub(in crate::storage) rounds: Vec<Vec<GroupWrite>>,
}

/// Whether a lane's directory has any segment.
pub(in crate::storage) fn has_segments(disk: &dyn Disk, directory: &str) -> Result<bool> {
    Ok(!list_segments(disk, directory)?.is_empty())
}

fn list_segments(disk: &dyn Disk, directory: &str) -> Result<Vec<u64>> {
    let names = disk.list(directory).map_err(|source| Error::io("list", disk.path(directory), source))?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| parse_segment_name(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Reads a lane's WAL and makes it ready to be appended to.
pub(in crate::storage) fn recover(
    disk: &Arc<dyn Disk>,
    directory: &str,
    start: Start,
    options: &Options,
) -> Result<Recovered> {
    let numbers = list_segments(&**disk, directory)?;
    let (spare, numbers): (Vec<u64>, Vec<u64>) = numbers.into_iter().partition(|number| *number < start.segment.number);
    let mut rounds = Vec::new();
    let mut last: Option<Read> = None;
    let mut expected = start.segment;
    for (place, number) in numbers.iter().enumerate() {
        check_present(&**disk, directory, start, expected.number, *number)?;
        let is_last = place + 1 == numbers.len();
        let segment = SegmentFile { disk: &**disk, name: segment_name(directory, *number), expected, is_last };
        let Some(read) = segment.read(&mut rounds)? else {
            // Begun and never finished, so nothing was ever built on it.
            disk.remove(&segment.name).map_err(|source| segment.error("remove", source))?;
            break;
        };
        expected = Segment { number: number + 1, sequence: read.appended + 1 };
        last = Some(read);
    }
    let Read { file, segment: current, end, allocated, appended } = match last {
        Some(read) => read,
        None if start.fresh => create_first(&**disk, directory, start.segment, options)?,
        None => return Err(missing(&**disk, directory, start, start.segment.number)),
    };
    // What was read may be in the operating system's memory only, and everything from here on builds on it.
    let name = segment_name(directory, current.number);
    file.sync_data().map_err(|source| Error::io("sync", disk.path(&name), source))?;
    disk.sync_directory(directory).map_err(|source| Error::io("sync", disk.path(directory), source))?;
    let first = start.segment.number;
    let opened = Opened { file, current, first, spare, end, allocated, appended };
    Ok(Recovered { wal: Wal::new(Arc::clone(disk), directory.to_owned(), options, opened), rounds })
}

fn check_present(disk: &dyn Disk, directory: &str, start: Start, expected: u64, found: u64) -> Result<()> {
    if found == expected { Ok(()) } else { Err(missing(disk, directory, start, expected)) }
}

fn missing(disk: &dyn Disk, directory: &str, start: Start, number: u64) -> Error {
    let file = disk.path(&segment_name(directory, number));
    Error::LostState { lane: start.lane, reason: format!("its WAL segment `{file}` is missing or empty") }
}

fn create_first(disk: &dyn Disk, directory: &str, segment: Segment, options: &Options) -> Result<Read> {
    let name = segment_name(directory, segment.number);
    let error = |operation, source| Error::io(operation, disk.path(&name), source);
    let file = disk.create(&name).map_err(|source| error("create", source))?;
    let header =
        super::Header { kind: BASE, segment: segment.number, sequence: segment.sequence, synced: segment.sequence - 1 };
    let record = super::encode(header, &[]);
    let end = record.len() as u64;
    let allocated =
        super::allocate(&*file, 0, end, options.wal_step_bytes).map_err(|source| error("extend", source))?;
    file.write_at(0, &record).map_err(|source| error("write", source))?;
    Ok(Read { file, segment, end, allocated, appended: segment.sequence })
}

/// A segment that was read.
struct Read {
    file: Box<dyn DiskFile>,
    segment: Segment,
    end: u64,
    allocated: u64,
    appended: u64,
}

/// A segment to be read.
struct SegmentFile<'a> {
    disk: &'a dyn Disk,
    name: String,
    /// Its number, and the sequence that its base must have.
    expected: Segment,
    is_last: bool,
}

impl SegmentFile<'_> {
    /// Reads its rounds; `None` when it was never begun.
    fn read(&self, rounds: &mut Vec<Vec<GroupWrite>>) -> Result<Option<Read>> {
        let file = self.disk.open(&self.name).map_err(|source| self.error("open", source))?;
        let allocated = file.len().map_err(|source| self.error("measure", source))?;
        let mut bytes = vec![0; usize::try_from(allocated).map_err(|_| self.corrupt(0, "it is too large"))?];
        file.read_at(0, &mut bytes).map_err(|source| self.error("read", source))?;

        let mut end = 0;
        let mut sequence = self.expected.sequence;
        while let Some(record) = self.record(&bytes, end, sequence)? {
            rounds.push(record.groups().map_err(|error| self.corrupt(end, &error.to_string()))?);
            end += record.length;
            sequence += 1;
        }
        // No record begins in the zeros at the file's end, though the last one may end there.
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1).max(end);
        if find_synced(&bytes, end..used, self.expected.number).is_some_and(|synced| synced >= sequence) {
            return Err(self.corrupt(end, &format!("record {sequence} is bad, and was durable: later ones say so")));
        }
        if end == 0 {
            let begun = !self.is_last;
            let reason = "its first record is bad, and was durable: there is a later segment";
            return if begun { Err(self.corrupt(0, reason)) } else { Ok(None) };
        }
        if self.is_last {
            // Otherwise a later crash could leave a record that was cut off here right behind a new one, or complete it
            // with parts of new ones, and it would be back.
            write_zeros(&*file, end as u64, used as u64).map_err(|source| self.error("clean", source))?;
        }
        Ok(Some(Read { file, segment: self.expected, end: end as u64, allocated, appended: sequence - 1 }))
    }

    /// The record at a place, if it is whole and the one that belongs there.
    fn record<'a>(&self, bytes: &'a [u8], place: usize, sequence: u64) -> Result<Option<Record<'a>>> {
        let Some(record) = Record::parse(&bytes[place..]) else { return Ok(None) };
        if record.header.segment != self.expected.number || record.header.sequence != sequence {
            return Ok(None);
        }
        if record.version > VERSION {
            let (found, known) = (u32::from(record.version), u32::from(VERSION));
            return Err(Error::NewerFormat { file: self.disk.path(&self.name), found, known });
        }
        let kind = if place == 0 { BASE } else { ROUND };
        if record.header.kind != kind {
            return Err(self.corrupt(place, &format!("a record of kind {} stands there", record.header.kind)));
        }
        Ok(Some(record))
    }

    fn error(&self, operation: &'static str, source: std::io::Error) -> Error {
        Error::io(operation, self.disk.path(&self.name), source)
    }

    fn corrupt(&self, offset: usize, reason: &str) -> Error {
        Error::Corrupt { file: self.disk.path(&self.name), offset: offset as u64, reason: reason.to_owned() }
    }
}
