//! The map group's machine: entries in, the next map out. It decides nothing: a change was worked out by the leader, and is
//! applied if the map is still the one that it was worked out from.

use std::sync::Arc;

use bytes::Bytes;

use super::Map;
use super::change::{Change, Reason};
use super::history::{Event, History};
use crate::codec;
use crate::lane::Changed;
use crate::state::{self, State, TableId};

/// The key of the record that the map stands in.
pub const RECORD_KEY: &[u8] = b"map";

/// The map group's state. Its records are in the `State` that each call is given.
#[derive(Debug)]
pub struct Machine {
    table: TableId,
    map: Option<Arc<Map>>,
    history: History,
}

/// Why the map group's state can't be used. The lane that meets this stops.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The records can't be read.
    #[error(transparent)]
    State(#[from] state::Error),
    /// A record or an entry is not what it should be.
    #[error("the map's record or an entry of the map group is damaged")]
    Damaged(#[source] codec::Error),
}

impl Machine {
    /// The machine whose records are in this table. Without a map while its first snapshot is still to come.
    pub fn load(state: &dyn State, table: TableId) -> Result<Self, Error> {
        let map = match state.get(table, RECORD_KEY)? {
            None => None,
            Some(bytes) => Some(Arc::new(Map::decode(bytes).map_err(Error::Damaged)?)),
        };
        Ok(Self { table, map, history: History::load(state, table)? })
    }

    /// The records that a new store's map group begins with.
    pub fn first_records(map: &Map) -> Vec<(Bytes, Bytes)> {
        let mut state = state::MemoryState::default();
        let table = TableId { group: crate::id::GroupId::MAP, generation: 1 };
        History::default().note(&mut state, table, &bootstrap_change(map), map).expect("memory can be read");
        state.put(table, Bytes::from_static(RECORD_KEY), map.encode());
        let mut records = Vec::new();
        let read = state.range(table, &[], None, &mut |key, value| {
            records.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            std::ops::ControlFlow::Continue(())
        });
        read.expect("memory can be read");
        records
    }

    /// The map as of everything applied.
    pub fn map(&self) -> Option<&Arc<Map>> {
        self.map.as_ref()
    }

    /// Applies a change. Returns what is different now; `None` when it was a change of another map.
    pub fn apply(&mut self, state: &mut dyn State, change: &Change) -> Result<Option<Changed>, Error> {
        let Some(map) = &self.map else { return Ok(None) };
        let Some(next) = change.apply(map) else { return Ok(None) };
        let changed = Changed::between(map, &next);
        self.history.note(state, self.table, change, &next)?;
        state.put(self.table, Bytes::from_static(RECORD_KEY), next.encode());
        self.map = Some(Arc::new(next));
        Ok(Some(changed))
    }

    /// The last changes, the newest first.
    pub fn events(&self, state: &dyn State) -> Result<Vec<Event>, Error> {
        Ok(self.history.events(state, self.table)?)
    }

    /// The map as it was at some epoch, if that is still known.
    pub fn map_at(&self, state: &dyn State, epoch: u64) -> Result<Option<Bytes>, Error> {
        if let Some(map) = self.map.as_ref().filter(|map| map.epoch == epoch) {
            return Ok(Some(map.encode()));
        }
        Ok(self.history.map_at(state, self.table, epoch)?)
    }

    /// Panics when the map breaks one of its rules or is not what its record says.
    pub fn check(&self, state: &dyn State) -> Result<(), Error> {
        let record = state.get(self.table, RECORD_KEY)?;
        assert_eq!(record, self.map.as_ref().map(|map| map.encode()), "the map is what its record says");
        if let Some(map) = &self.map {
            map.check();
        }
        Ok(())
    }
}

fn bootstrap_change(map: &Map) -> Change {
    Change {
        base: 0,
        at_ms: 0,
        reason: Reason::Bootstrap,
        fence: 0,
        members: Some(map.members.clone()),
        assignments: Vec::new(),
        map_voters: None,
        targets: Vec::new(),
        map_target: None,
        moves: Vec::new(),
    }
}
