//! The write-ahead log of a lane: what a round must make durable, before any other trace of it leaves the lane.
//!
//! ```text
//!  wal-…05 (spare)   wal-…06  [base][round][round]…            wal-…07  [base][round][round]▒▒▒▒0000
//!  its checkpoint    older than the running checkpoint:        the one written to; behind the last record:
//!  is durable        replayed if that does not finish          stale bytes of an earlier life, or zeros
//! ```
//!
//! A segment starts with a base: whatever a replay that starts there needs to know from before. Its file is written
//! over bytes that are there already, zeros put ahead in steps or a segment that is no longer needed, because a sync
//! that need not change the file's size takes a third less time. Numbers in each record tell stale bytes from new ones.
//!
//! Never overwrites a record that is still needed, never retries a failed sync, and knows nothing of what it carries.

mod record;
mod recover;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use annulus_core::bugs::{Bug, planted};
use annulus_core::lane::GroupWrite;
use bytes::Bytes;

use self::record::{BASE, Header, ROUND, encode};
use super::Options;
use super::checkpoint::Checkpointed;
use super::disk::{Disk, DiskFile};
use super::error::{Error, Result};
use super::identity::Mark;

pub(super) use self::recover::{Recovered, Start, has_segments, recover};

/// A segment whose base is durable: a replay can start there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Counts the lane's segments from 1.
    pub(super) number: u64,
    /// The sequence of the base.
    pub(super) sequence: u64,
}

/// The WAL of a lane.
pub struct Wal {
    disk: Arc<dyn Disk>,
    /// The lane's directory.
    directory: String,
    /// Zeros are written ahead in steps of this size.
    step_bytes: u64,
    /// At most so many segments wait to be used again.
    spares: usize,
    file: Box<dyn DiskFile>,
    current: Segment,
    /// Segments before this one are spares.
    first: u64,
    /// Numbers of the spare segments' files.
    spare: Vec<u64>,
    /// Where the pending records go.
    end: u64,
    /// Up to here the file has bytes to write over.
    allocated: u64,
    /// Records that were appended and not written yet.
    pending: Vec<u8>,
    /// Sequence of the last record appended.
    appended: u64,
    /// Sequence of the last record that is durable.
    synced: u64,
    poisoned: bool,
}

impl fmt::Debug for Wal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { current, end, appended, synced, poisoned, .. } = self;
        write!(f, "Wal({current:?}, end {end}, appended {appended}, synced {synced}, poisoned {poisoned})")
    }
}

impl Wal {
    /// Adds the writes of a round. They are durable after the next [`Wal::sync`].
    ///
    /// # Errors
    /// On [`Error::DiskFull`] nothing was added, and the same writes may be given again later.
    pub fn append(&mut self, groups: &[GroupWrite]) -> Result<()> {
        self.check_poison()?;
        let sequence = self.appended + 1;
        let record =
            encode(Header { kind: ROUND, segment: self.current.number, sequence, synced: self.synced }, groups);
        let written = self.end + self.pending.len() as u64;
        let name = segment_name(&self.directory, self.current.number);
        let needed = written + record.len() as u64;
        self.allocated = allocate(&*self.file, self.allocated, needed, self.step_bytes)
            .map_err(|source| Error::io("extend", self.disk.path(&name), source))?;
        self.pending.extend_from_slice(&record);
        self.appended = sequence;
        Ok(())
    }

    /// Makes everything appended so far durable: one write, one fdatasync.
    ///
    /// # Errors
    /// After [`Error::DiskFull`] it may be called again. Any other error poisons the WAL: once a sync has failed,
    /// nobody knows what is on the disk, and a second one may succeed without having written anything.
    pub fn sync(&mut self) -> Result<()> {
        self.check_poison()?;
        if self.synced == self.appended {
            return Ok(());
        }
        if let Err(source) = self.file.write_at(self.end, &self.pending) {
            let error = self.error("write", source);
            self.poisoned = !error.is_disk_full();
            return Err(error);
        }
        self.sync_file()?;
        self.end += self.pending.len() as u64;
        self.pending.clear();
        self.synced = self.appended;
        Ok(())
    }

    fn sync_file(&mut self) -> Result<()> {
        self.file.sync_data().map_err(|source| self.poison("sync", source))
    }

    /// Starts a new segment with this base, and makes it durable (and all that was appended before). The base must say
    /// all that the rounds so far have left standing.
    ///
    /// # Errors
    /// After [`Error::DiskFull`] the old segment goes on, and the call may be made again.
    pub fn rotate(&mut self, base: &[GroupWrite]) -> Result<Segment> {
        self.sync()?;
        let next = Segment { number: self.current.number + 1, sequence: self.appended + 1 };
        let name = segment_name(&self.directory, next.number);
        let io = |operation, source| Error::io(operation, self.disk.path(&name), source);
        // After an earlier call that failed, the file may be there already.
        if !self.disk.exists(&name).map_err(|source| io("look for", source))?
            && let Some(spare) = self.spare.pop()
        {
            let spare = segment_name(&self.directory, spare);
            self.disk.rename(&spare, &name).map_err(|source| io("rename a spare segment to", source))?;
        }
        let file = self.disk.create(&name).map_err(|source| io("create", source))?;
        let header = Header { kind: BASE, segment: next.number, sequence: next.sequence, synced: self.synced };
        let record = encode(header, base);
        let written = record.len() as u64;
        let length = file.len().map_err(|source| io("measure", source))?;
        let allocated = allocate(&*file, length, written, self.step_bytes).map_err(|source| io("extend", source))?;
        file.write_at(0, &record).map_err(|source| io("write", source))?;
        file.sync_data().map_err(|source| self.poison("sync", source))?;
        self.disk.sync_directory(&self.directory).map_err(|source| self.poison("sync the directory of", source))?;
        self.file = file;
        self.current = next;
        self.end = written;
        self.allocated = allocated;
        self.appended = next.sequence;
        self.synced = next.sequence;
        if planted(Bug::WalDroppedBeforeCheckpoint) {
            self.drop_before(next)?;
        }
        Ok(next)
    }

    /// Lets go of all segments before this one. Call it when the checkpoint that was frozen at this segment is durable,
    /// and the mark that says so ([`Wal::mark`]) too.
    pub fn drop_before(&mut self, segment: Segment) -> Result<()> {
        for number in self.first..segment.number {
            if self.spare.len() < self.spares {
                self.spare.push(number);
                continue;
            }
            let name = segment_name(&self.directory, number);
            self.disk.remove(&name).map_err(|source| Error::io("remove", self.disk.path(&name), source))?;
        }
        self.first = self.first.max(segment.number);
        Ok(())
    }

    /// What this volume must never fall behind, now that a checkpoint is durable.
    pub fn mark(&self, checkpointed: &Checkpointed) -> Mark {
        self.mark_at(checkpointed.number())
    }

    pub(super) fn mark_at(&self, checkpoint: u64) -> Mark {
        Mark { checkpoint, segment: self.current.number, sequence: self.synced }
    }

    /// How much the current segment holds, in bytes: what a restart has to replay at least.
    pub fn segment_bytes(&self) -> u64 {
        self.end + self.pending.len() as u64
    }

    fn check_poison(&self) -> Result<()> {
        let name = segment_name(&self.directory, self.current.number);
        if self.poisoned { Err(Error::Poisoned { file: self.disk.path(&name) }) } else { Ok(()) }
    }

    fn error(&self, operation: &'static str, source: std::io::Error) -> Error {
        Error::io(operation, self.disk.path(&segment_name(&self.directory, self.current.number)), source)
    }

    fn poison(&mut self, operation: &'static str, source: std::io::Error) -> Error {
        self.poisoned = true;
        let file = self.disk.path(&segment_name(&self.directory, self.current.number));
        // Not told apart as a full disk: this does not pass, whatever the reason.
        Error::Io { operation, file, source }
    }
}

/// Writes zeros until the file has room up to `needed`, a step ahead if there is space for that.
fn allocate(file: &dyn DiskFile, allocated: u64, needed: u64, step: u64) -> std::io::Result<u64> {
    if needed <= allocated {
        return Ok(allocated);
    }
    let ahead = needed.div_ceil(step) * step;
    match write_zeros(file, allocated, ahead) {
        Ok(()) => Ok(ahead),
        Err(_) => write_zeros(file, allocated, needed).map(|()| needed),
    }
}

fn write_zeros(file: &dyn DiskFile, from: u64, to: u64) -> std::io::Result<()> {
    const CHUNK: u64 = 1 << 20;
    let zeros =
        Bytes::from(vec![0; usize::try_from(to.saturating_sub(from).min(CHUNK)).expect("a chunk fits into memory")]);
    let mut place = from;
    while place < to {
        let length = (to - place).min(CHUNK);
        file.write_at(place, &zeros[..usize::try_from(length).expect("a chunk fits into memory")])?;
        place += length;
    }
    Ok(())
}

const PREFIX: &str = "wal-";

/// The file of a segment: its number in 16 hexadecimal digits.
fn segment_name(directory: &str, number: u64) -> String {
    format!("{directory}/{PREFIX}{number:016x}")
}

fn parse_segment_name(name: &str) -> Option<u64> {
    let number = u64::from_str_radix(name.strip_prefix(PREFIX)?, 16).ok()?;
    (format!("{PREFIX}{number:016x}") == name).then_some(number)
}

/// A WAL's parts, put together by recovery.
struct Opened {
    file: Box<dyn DiskFile>,
    current: Segment,
    first: u64,
    spare: Vec<u64>,
    end: u64,
    allocated: u64,
    appended: u64,
}

impl Wal {
    fn new(disk: Arc<dyn Disk>, directory: String, options: &Options, opened: Opened) -> Self {
        let Opened { file, current, first, spare, end, allocated, appended } = opened;
        Self {
            disk,
            directory,
            step_bytes: options.wal_step_bytes,
            spares: options.wal_spares,
            file,
            current,
            first,
            spare,
            end,
            allocated,
            pending: Vec::new(),
            appended,
            synced: appended,
            poisoned: false,
        }
    }
}
