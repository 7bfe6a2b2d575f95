//! What a group replicates: the map, or a partition.

use bytes::Bytes;

use crate::id::GroupId;
use crate::map;
use crate::partition::{Outcome, Partition};
use crate::state::{State, TableId};

use super::Error;

/// What a group replicates.
#[derive(Debug)]
pub enum Machine {
    /// The map, as its record stands.
    Map(Option<Bytes>),
    /// A partition.
    Partition(Partition),
}

impl Machine {
    /// The machine whose records are in this table.
    pub fn load(state: &dyn State, table: TableId) -> Result<Self, Error> {
        if table.group == GroupId::MAP {
            return Ok(Self::Map(map::load(state, table)?));
        }
        Ok(Self::Partition(Partition::load(state, table)?))
    }

    /// Applies a committed entry.
    pub fn apply(&mut self, state: &mut dyn State, index: u64, entry: Bytes) -> Result<Option<Outcome>, Error> {
        match self {
            // Nothing proposes to the map group in this version.
            Self::Map(_) => Err(Error::ForeignEntry { group: GroupId::MAP, index }),
            Self::Partition(partition) => Ok(partition.apply(state, index, entry)?),
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

    /// Panics when the records contradict each other.
    pub fn check(&self, state: &dyn State) -> Result<(), Error> {
        match self {
            Self::Map(_) => Ok(()),
            Self::Partition(partition) => Ok(partition.check(state)?),
        }
    }
}
