//! A replica from what the disk holds: the group's record in the state, then the WAL on top of it.
//!
//! The record says what the state stood for at the last checkpoint. The WAL holds at least everything since, often some
//! of what came before, so each piece says where it belongs and what is older is passed over.

use bytes::Bytes;
use raft::eraftpb::{ConfState, HardState};

use super::admit::is_sound;
use super::log::{Gap, Log};
use super::{Error, Replica};
use crate::codec::message::{read_conf_state, read_position, write_conf_state, write_position};
use crate::codec::{self, Reader, Writer};
use crate::id::GroupId;
use crate::lane::{GroupWrite, LogPosition};
use crate::state::{State, TableId};

const VERSION: u8 = 1;

/// What the state says of a group: which table is its own, and up to where that table goes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GroupRecord {
    /// The generation of the group's table.
    pub generation: u32,
    /// The last entry that it holds.
    pub applied: LogPosition,
    /// Who votes and who learns, as of that entry.
    pub conf_state: ConfState,
}

impl GroupRecord {
    /// The key of a group's record in [`TableId::GROUPS`].
    pub fn key(group: GroupId) -> Bytes {
        Bytes::copy_from_slice(&group.0.to_be_bytes())
    }

    /// The group that a key belongs to.
    pub fn group_of(key: &[u8]) -> Option<GroupId> {
        Some(GroupId(u32::from_be_bytes(key.try_into().ok()?)))
    }

    /// The byte form.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::with_capacity(64);
        writer.u8(VERSION);
        writer.u32(self.generation);
        write_position(&mut writer, self.applied);
        write_conf_state(&mut writer, &self.conf_state);
        writer.finish()
    }

    /// Reads the byte form.
    pub fn decode(bytes: Bytes) -> codec::Result<Self> {
        let mut reader = Reader::new(bytes, "group record");
        reader.version(VERSION)?;
        let record = Self {
            generation: reader.u32()?,
            applied: read_position(&mut reader)?,
            conf_state: read_conf_state(&mut reader)?,
        };
        reader.end()?;
        Ok(record)
    }
}

/// A replica while it is read back.
#[derive(Debug)]
pub struct Recovering {
    pub(super) group: GroupId,
    pub(super) generation: u32,
    log: Log,
}

impl Recovering {
    /// Begins with what the state says of the group, if it says anything.
    pub fn new(group: GroupId, record: Option<GroupRecord>) -> Self {
        let record = record.unwrap_or_default();
        let mut log = Log::default();
        log.install(record.applied, record.conf_state);
        Self { group, generation: record.generation, log }
    }

    /// Takes the next thing that the WAL says of the group.
    pub fn replay(&mut self, write: GroupWrite, state: &mut dyn State) -> Result<(), Error> {
        let group = self.group;
        for staged in write.staged.into_iter().filter(|staged| staged.generation > self.generation) {
            let table = TableId { group, generation: staged.generation };
            if staged.first {
                state.clear(table);
            }
            for (key, value) in staged.records {
                state.put(table, key, value);
            }
        }
        if let Some(installed) = write.installed {
            if installed.generation > self.generation {
                state.clear(TableId { group, generation: self.generation });
                self.generation = installed.generation;
                self.log.install(installed.position, installed.conf_state);
            } else {
                self.log.restart(installed.position);
            }
        }
        // A base repeats the log from what was applied then. What is read back so far may be older: it is kept, if it
        // goes as far as the base's start, because the state may still need it.
        if let Some(start) = write.log_start
            && !self.log.holds(start)
        {
            self.log.restart(start);
        }
        if let Some(hard_state) = write.hard_state {
            self.log.set_hard_state(hard_state);
        }
        self.log.append(write.entries).map_err(|gap| Error::Hole { group, gap })
    }

    /// The log, when the whole WAL was read.
    pub(super) fn finish(mut self) -> Result<Log, Error> {
        if !is_sound(self.log.conf_state(), None) {
            let source = codec::Error::OutOfRange { what: "group configuration" };
            return Err(Error::Damaged { group: self.group, source });
        }
        let (applied, start, last) = (self.log.applied(), self.log.start(), self.log.last());
        if start.index > applied.index || last.index < applied.index {
            let gap = Gap { last: applied.index.min(last.index), next: start.index.max(applied.index) + 1 };
            return Err(Error::Hole { group: self.group, gap });
        }
        // The commit index is written only along with other things; whatever was applied was committed.
        let hard_state = self.log.hard_state();
        let commit = hard_state.commit.clamp(applied.index, last.index);
        // The term is at least that of the last entry, even if the state came without a vote.
        let term = hard_state.term.max(last.term);
        let vote = if term == hard_state.term { hard_state.vote } else { 0 };
        self.log.set_hard_state(HardState { term, vote, commit, ..HardState::default() });
        Ok(self.log)
    }
}

impl Replica {
    /// Brings the group's record in the state up to date: before every checkpoint.
    pub fn record(&mut self, state: &mut dyn State) {
        if !std::mem::take(&mut self.unrecorded) {
            return;
        }
        let record =
            GroupRecord { generation: self.generation, applied: self.applied(), conf_state: self.conf_state().clone() };
        state.put(TableId::GROUPS, GroupRecord::key(self.group), record.encode());
    }

    /// What a new WAL segment must begin with, and drops what the log needs no longer.
    pub fn base(&mut self, budget_bytes: usize) -> GroupWrite {
        let mut write = GroupWrite::new(self.group);
        let log = self.node.mut_store();
        log.base(&mut write);
        log.compact(budget_bytes);
        write
    }
}
