//! A replica from what the disk holds: the group's record in the state, then the WAL on top of it.
//!
//! The record says what the state stood for at the last checkpoint. The WAL holds at least everything since, often some
//! of what came before, so each piece says where it belongs and what is older is passed over.

use bytes::Bytes;
use raft::eraftpb::HardState;

use super::admit::is_sound;
use super::log::{Gap, Log};
use super::{Configuration, Error, Replica, Tombstone};
use crate::codec::message::{
    read_configuration, read_configuration_without_epoch, read_position, write_configuration, write_position,
};
use crate::codec::{self, Reader, Writer};
use crate::id::GroupId;
use crate::lane::{GroupWrite, LogPosition};
use crate::state::{State, TableId};

/// Version 1 had no epoch beside the configuration, and no tombstone.
const VERSION: u8 = 2;

/// What the state says of a group: which table is its own, and up to where that table goes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GroupRecord {
    /// The generation of the group's table.
    pub generation: u32,
    /// The last entry that it holds.
    pub applied: LogPosition,
    /// Who votes and who learns, as of that entry.
    pub configuration: Configuration,
    /// The replica was dropped, and this is what it had promised.
    pub tombstone: Option<Tombstone>,
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
        write_configuration(&mut writer, &self.configuration);
        writer.option(self.tombstone, write_tombstone);
        writer.finish()
    }

    /// Reads the byte form.
    pub fn decode(bytes: Bytes) -> codec::Result<Self> {
        let mut reader = Reader::new(bytes, "group record");
        let version = reader.version(VERSION)?;
        let (generation, applied) = (reader.u32()?, read_position(&mut reader)?);
        let record = if version == 1 {
            let configuration = read_configuration_without_epoch(&mut reader)?;
            Self { generation, applied, configuration, tombstone: None }
        } else {
            let configuration = read_configuration(&mut reader)?;
            Self { generation, applied, configuration, tombstone: reader.option(read_tombstone)? }
        };
        reader.end()?;
        Ok(record)
    }
}

/// Writes what a dropped replica had promised.
pub fn write_tombstone(writer: &mut Writer, tombstone: Tombstone) {
    writer.u64(tombstone.term);
    writer.u64(tombstone.vote);
}

/// Reads what a dropped replica had promised.
pub fn read_tombstone(reader: &mut Reader) -> codec::Result<Tombstone> {
    Ok(Tombstone { term: reader.u64()?, vote: reader.u64()? })
}

/// A replica while it is read back.
#[derive(Debug)]
pub struct Recovering {
    pub(super) group: GroupId,
    pub(super) generation: u32,
    log: Log,
    /// The replica was dropped, and nothing was written for it since.
    buried: bool,
    /// An earlier replica was dropped, and no snapshot has told this one of its group yet.
    pub(super) reborn: bool,
}

impl Recovering {
    /// Begins with what the state says of the group, if it says anything.
    pub fn new(group: GroupId, record: Option<GroupRecord>) -> Self {
        let record = record.unwrap_or_default();
        let mut log = Log::default();
        log.install(record.applied, record.configuration);
        if let Some(Tombstone { term, vote }) = record.tombstone {
            log.set_hard_state(HardState { term, vote, ..HardState::default() });
        }
        let buried = record.tombstone.is_some();
        Self { group, generation: record.generation, log, buried, reborn: buried }
    }

    /// The group.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// What a dropped replica left; `None` when there is a replica.
    pub fn grave(&self) -> Option<GroupRecord> {
        let HardState { term, vote, .. } = *self.log.hard_state();
        let tombstone = Some(Tombstone { term, vote });
        self.buried.then(|| GroupRecord { generation: self.generation, tombstone, ..GroupRecord::default() })
    }

    fn bury(&mut self, state: &mut dyn State, Tombstone { term, vote }: Tombstone) {
        for generation in [self.generation, self.generation + 1] {
            state.clear(TableId { group: self.group, generation });
        }
        self.log = Log::default();
        self.log.set_hard_state(HardState { term, vote, ..HardState::default() });
        self.buried = true;
        self.reborn = true;
        if let Some(grave) = self.grave() {
            state.put(TableId::GROUPS, GroupRecord::key(self.group), grave.encode());
        }
    }

    /// Takes the next thing that the WAL says of the group.
    pub fn replay(&mut self, write: GroupWrite, state: &mut dyn State) -> Result<(), Error> {
        let group = self.group;
        if let Some(tombstone) = write.dropped {
            self.bury(state, tombstone);
            return Ok(());
        }
        self.buried = false;
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
                self.reborn = false;
                self.log.install(installed.position, installed.configuration);
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
        let is_blank = self.log.conf_state().voters.is_empty() && self.log.applied().index == 0;
        if !is_blank && !is_sound(self.log.conf_state(), None) {
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
        let (applied, configuration) = (self.applied(), self.configuration().clone());
        let HardState { term, vote, .. } = self.node.raft.hard_state();
        let tombstone = self.reborn.then_some(Tombstone { term, vote });
        let record = GroupRecord { generation: self.generation, applied, configuration, tombstone };
        state.put(TableId::GROUPS, GroupRecord::key(self.group), record.encode());
    }

    /// Ends the replica: its records and its log go, what it has promised stays. Returns what is to be written.
    pub fn bury(self, state: &mut dyn State) -> (GroupWrite, GroupRecord) {
        let HardState { term, vote, .. } = self.node.raft.hard_state();
        let tombstone = Tombstone { term, vote };
        let mut grave = Recovering::new(self.group, None);
        grave.generation = self.generation;
        grave.bury(state, tombstone);
        let mut write = GroupWrite::new(self.group);
        write.dropped = Some(tombstone);
        (write, grave.grave().expect("just buried"))
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
