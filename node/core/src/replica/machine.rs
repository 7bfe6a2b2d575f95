//! What a group replicates: the map, or a partition.

use bytes::Bytes;

use crate::id::GroupId;
use crate::lane::Changed;
use crate::map::{self, change};
use crate::partition::{Applied as Done, Outcome, Partition, lock, txn};
use crate::replica::Configure;
use crate::state::{State, TableId};

use super::Error;

/// What a group replicates.
#[derive(Debug)]
pub enum Machine {
    /// The map.
    Map(map::machine::Machine),
    /// A partition.
    Partition(Partition),
}

/// What came of a committed entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// Nothing that anybody waits for.
    Nothing,
    /// A write was done, or found that it must not be.
    Write(Outcome),
    /// A command to a lock was done, or found that it must not be.
    Lock(lock::Applied),
    /// A transaction, or a part of it, was done, or found that it must not be.
    Txn(txn::Applied),
    /// What has expired is gone, and with it some who waited for locks.
    Expired(Vec<lock::Settled>),
    /// The map was changed, and what is different; `None`: it was found to be another than was thought.
    Map(Option<Changed>),
    /// Who votes and who learns is to change.
    Configure(Configure),
}

impl Machine {
    /// The machine whose records are in this table.
    pub fn load(state: &dyn State, table: TableId) -> Result<Self, Error> {
        if table.group == GroupId::MAP {
            return Ok(Self::Map(map::machine::Machine::load(state, table)?));
        }
        Ok(Self::Partition(Partition::load(state, table)?))
    }

    /// Applies a committed entry.
    pub fn apply(&mut self, state: &mut dyn State, index: u64, entry: Bytes) -> Result<Applied, Error> {
        match self {
            Self::Map(machine) => {
                let entry = change::Entry::decode(entry);
                Ok(match entry.map_err(map::machine::Error::Damaged)? {
                    change::Entry::Change(change) => Applied::Map(machine.apply(state, &change)?),
                    change::Entry::Configure(configure) => Applied::Configure(configure),
                })
            }
            Self::Partition(partition) => Ok(match partition.apply(state, index, entry)? {
                Done::Nothing => Applied::Nothing,
                Done::Write(outcome) => Applied::Write(outcome),
                Done::Lock(applied) => Applied::Lock(applied),
                Done::Txn(applied) => Applied::Txn(applied),
                Done::Expired(settled) => Applied::Expired(settled),
                Done::Configure(configure) => Applied::Configure(configure),
            }),
        }
    }

    /// The machine's clock, in milliseconds.
    pub fn clock_ms(&self) -> u64 {
        match self {
            Self::Map(_) => 0,
            Self::Partition(partition) => partition.clock_ms(),
        }
    }

    /// When something expires next, on the machine's clock.
    pub fn next_expiry_ms(&self) -> u64 {
        match self {
            Self::Map(_) => u64::MAX,
            Self::Partition(partition) => partition.next_expiry_ms(),
        }
    }

    /// How many locks are held, and how many wait for one.
    pub fn locks(&self) -> (u64, u64) {
        match self {
            Self::Map(_) => (0, 0),
            Self::Partition(partition) => (partition.locks(), partition.waiting()),
        }
    }

    /// How many transactions are open, and for how many milliseconds the oldest has been.
    pub fn open_txns(&self, state: &dyn State, clock_ms: u64) -> Result<(usize, u64), Error> {
        match self {
            Self::Partition(partition) if partition.open_count() > 0 => {
                let oldest = partition.open_txns(state, clock_ms, 0, 1)?;
                Ok((partition.open_count(), oldest.first().map_or(0, |view| view.age_ms)))
            }
            Self::Map(_) | Self::Partition(_) => Ok((0, 0)),
        }
    }

    /// Whether there are leases.
    pub fn has_leases(&self) -> bool {
        match self {
            Self::Map(_) => false,
            Self::Partition(partition) => partition.locks() > 0,
        }
    }

    /// About how many bytes its keys and values take.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Map(_) => 0,
            Self::Partition(partition) => partition.bytes(),
        }
    }

    /// Panics when the records contradict each other.
    pub fn check(&self, state: &dyn State) -> Result<(), Error> {
        match self {
            Self::Map(machine) => Ok(machine.check(state)?),
            Self::Partition(partition) => Ok(partition.check(state)?),
        }
    }
}
