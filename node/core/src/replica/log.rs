//! A replica's log in memory: what Raft reads from, and the mirror of what the WAL holds.
//!
//! ```text
//!     start            last
//!       │ entries…       │
//!  ─────┼────────────────┤        start ≤ applied ≤ last; everything up to `start` is only in the state
//! ```

use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, StorageError};

use super::Configuration;
use crate::lane::{GroupWrite, LogPosition};

/// Memory that an entry takes beside its payload, in bytes; a rough figure, for budgets only.
const ENTRY_OVERHEAD_BYTES: usize = 96;

/// The log of one replica.
#[derive(Debug, Default)]
pub struct Log {
    start: LogPosition,
    entries: VecDeque<Entry>,
    /// For each entry: how much memory it takes with all before it, those included that were dropped from the front.
    ends: VecDeque<usize>,
    /// The same for the last entry that was dropped from the front.
    dropped: usize,
    hard_state: HardState,
    /// Who votes and who learns, as of the last applied entry.
    configuration: Configuration,
    applied: LogPosition,
}

/// Entries that do not follow on what is there: the WAL has lost something in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the log ends at index {last}, and the next entry that was read back is {next}")]
pub struct Gap {
    /// The last index that is there.
    pub last: u64,
    /// The index that came next.
    pub next: u64,
}

impl Log {
    /// The point that the log starts after.
    pub fn start(&self) -> LogPosition {
        self.start
    }

    /// The last entry; the start when there is none.
    pub fn last(&self) -> LogPosition {
        self.entries.back().map_or(self.start, |entry| LogPosition { index: entry.index, term: entry.term })
    }

    /// The last entry that the state holds.
    pub fn applied(&self) -> LogPosition {
        self.applied
    }

    /// Says that the state now holds everything up to here.
    pub fn set_applied(&mut self, applied: LogPosition) {
        self.applied = applied;
    }

    /// Who votes and who learns, as of the last applied entry.
    pub fn conf_state(&self) -> &ConfState {
        &self.configuration.state
    }

    /// The same, with the epoch that it was decided under.
    pub fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    /// The entry that was applied last has changed who votes and who learns.
    pub fn set_configuration(&mut self, configuration: Configuration) {
        self.configuration = configuration;
    }

    /// The persistent part of Raft's state.
    pub fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    /// Term, vote and commit as they now stand.
    pub fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    /// Begins anew after this point with nothing in the log.
    pub fn restart(&mut self, start: LogPosition) {
        self.start = start;
        self.entries.clear();
        self.ends.clear();
        self.dropped = 0;
    }

    /// The state has been taken over from elsewhere and stands at this point.
    pub fn install(&mut self, position: LogPosition, configuration: Configuration) {
        self.restart(position);
        self.applied = position;
        self.configuration = configuration;
    }

    /// Adds entries; the first takes the place of whatever stood at its index and after.
    pub fn append(&mut self, entries: impl IntoIterator<Item = Entry>) -> Result<(), Gap> {
        for entry in entries {
            let last = self.last().index;
            if entry.index > last + 1 {
                return Err(Gap { last, next: entry.index });
            }
            while self.entries.back().is_some_and(|back| back.index >= entry.index) {
                self.entries.pop_back();
                self.ends.pop_back();
            }
            if entry.index > self.start.index {
                self.ends.push_back(self.end() + size(&entry));
                self.entries.push_back(entry);
            }
        }
        Ok(())
    }

    /// Memory that all entries take, in bytes.
    pub fn bytes(&self) -> usize {
        self.end() - self.dropped
    }

    fn end(&self) -> usize {
        self.ends.back().copied().unwrap_or(self.dropped)
    }

    /// Memory that the entries after this index take, in bytes.
    pub fn bytes_after(&self, index: u64) -> usize {
        match self.offset(index) {
            Some(offset) => self.end() - self.ends.get(offset).copied().unwrap_or(self.end()),
            None => self.bytes(),
        }
    }

    /// Panics when the log contradicts itself.
    pub fn check(&self) {
        assert_eq!(self.entries.len(), self.ends.len(), "what each entry takes is known");
        assert_eq!(self.bytes(), self.entries.iter().map(size).sum::<usize>(), "all bytes are counted");
    }

    /// Drops applied entries from the front until the log takes no more than this many bytes.
    pub fn compact(&mut self, budget_bytes: usize) {
        while self.bytes() > budget_bytes {
            match self.entries.front() {
                Some(front) if front.index <= self.applied.index => {
                    self.start = LogPosition { index: front.index, term: front.term };
                    self.entries.pop_front();
                    self.dropped = self.ends.pop_front().expect("there is one for each entry");
                }
                _ => return,
            }
        }
    }

    /// What a new WAL segment must begin with: all that is not in the state yet.
    pub fn base(&self, write: &mut GroupWrite) {
        write.log_start = Some(self.applied);
        write.hard_state = Some(self.hard_state.clone());
        write.entries = self.entries.iter().filter(|entry| entry.index > self.applied.index).cloned().collect();
    }

    /// Whether this position is in the log, or is its start.
    pub fn holds(&self, position: LogPosition) -> bool {
        self.start == position || self.at(position.index).is_some_and(|entry| entry.term == position.term)
    }

    fn at(&self, index: u64) -> Option<&Entry> {
        self.entries.get(self.offset(index)?)
    }

    /// Where an entry is or would be; `None` for those that the log starts after.
    fn offset(&self, index: u64) -> Option<usize> {
        usize::try_from(index.checked_sub(self.start.index + 1)?).ok()
    }
}

fn size(entry: &Entry) -> usize {
    ENTRY_OVERHEAD_BYTES + entry.data.len()
}

impl raft::Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.configuration.state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.start.index {
            return Err(StorageError::Compacted.into());
        }
        let budget = max_size.into().unwrap_or(u64::MAX);
        let (mut entries, mut bytes) = (Vec::new(), 0u64);
        for index in low..high {
            let entry = self.at(index).ok_or(StorageError::Unavailable)?;
            bytes += size(entry) as u64;
            if bytes > budget && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.start.index {
            return Ok(self.start.term);
        }
        if index < self.start.index {
            return Err(StorageError::Compacted.into());
        }
        self.at(index).map(|entry| entry.term).ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.start.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last().index)
    }

    /// Only the metadata: the records follow in chunks, from a view taken at the same point (see `stream`).
    fn snapshot(&self, request_index: u64, _: u64) -> raft::Result<Snapshot> {
        if self.applied.index < request_index {
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = self.applied.index;
        metadata.term = self.applied.term;
        metadata.set_conf_state(self.configuration.state.clone());
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, bytes: usize) -> Entry {
        Entry { index, term: 1, data: vec![b'x'; bytes].into(), ..Entry::default() }
    }

    #[test]
    fn bytes_are_counted_through_all_that_happens_to_a_log() {
        let mut log = Log::default();
        let each = ENTRY_OVERHEAD_BYTES;
        log.append((1..=4).map(|index| entry(index, index as usize))).unwrap();
        assert_eq!(log.bytes(), 4 * each + 10);
        assert_eq!([0, 1, 3, 4, 9].map(|index| log.bytes_after(index)), [4 * each + 10, 3 * each + 9, each + 4, 0, 0]);
        // Another leader's entries take the place of two.
        log.append([entry(3, 30)]).unwrap();
        assert_eq!(log.bytes(), 3 * each + 33);
        // Only what is applied goes.
        log.set_applied(LogPosition { index: 2, term: 1 });
        log.compact(0);
        assert_eq!((log.start().index, log.bytes()), (2, each + 30));
        assert_eq!([0, 2, 3].map(|index| log.bytes_after(index)), [each + 30, each + 30, 0]);
        log.restart(LogPosition { index: 9, term: 2 });
        assert_eq!(log.bytes(), 0);
        log.append([entry(10, 5)]).unwrap();
        assert_eq!((log.bytes(), log.bytes_after(9), log.bytes_after(10)), (each + 5, each + 5, 0));
    }
}
