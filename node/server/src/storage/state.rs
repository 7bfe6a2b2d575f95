//! The records of a lane: an overlay in memory over a frozen one over redb.
//!
//! ```text
//!  put, delete, clear ─▶ active ──freeze──▶ frozen ──Checkpointer::write──▶ redb
//!  get, range, view   ◀─ active, then frozen, then redb
//! ```
//!
//! At most one overlay is frozen. It is read from until [`LaneState::checkpointed`] says that redb has it; then it is
//! dropped and reads move on to redb's newer state, in one step.

use std::sync::Arc;

use annulus_core::state::{Error, State, TableId, View, Visit};
use bytes::Bytes;

use super::checkpoint::{Checkpointed, Frozen};
use super::overlay::{Layers, Overlay, OverlayTable};
use super::store::{StoredTable, Tables};

/// The records of a lane.
#[derive(Debug)]
pub struct LaneState {
    active: Overlay,
    frozen: Option<Arc<Overlay>>,
    stored: Tables,
}

impl LaneState {
    pub(super) fn new(stored: Tables) -> Self {
        Self { active: Overlay::default(), frozen: None, stored }
    }

    /// What the active overlay takes in memory; 0 when nothing has changed since the last freeze.
    pub fn overlay_bytes(&self) -> usize {
        self.active.bytes()
    }

    /// Whether an overlay is frozen and not yet checkpointed.
    pub fn is_frozen(&self) -> bool {
        self.frozen.is_some()
    }

    /// Freezes the active overlay for a checkpoint. `None` while another one is still frozen.
    ///
    /// The base that [`super::Wal::rotate`] is given must say what the lane's groups are at this very moment, and what is
    /// applied from now on must be appended behind that base. An unchanged overlay can be frozen too: its checkpoint moves
    /// only the start of the replay.
    pub fn freeze(&mut self) -> Option<Frozen> {
        if self.frozen.is_some() {
            return None;
        }
        let overlay = Arc::new(std::mem::take(&mut self.active));
        self.frozen = Some(Arc::clone(&overlay));
        Some(Frozen { overlay })
    }

    /// From now on reads from redb what the frozen overlay held, and gives that back: to drop it takes long if it is large.
    ///
    /// # Panics
    /// When no overlay is frozen: a checkpoint of another lane was handed in.
    pub fn checkpointed(&mut self, checkpointed: Checkpointed) -> Frozen {
        let overlay = self.frozen.take().expect("a checkpoint ends the freeze that it began with");
        self.stored = checkpointed.tables;
        Frozen { overlay }
    }

    fn layers(&self, table: TableId) -> Layers<'_> {
        Layers::new(
            self.active.tables.get(&table),
            self.frozen.as_ref().and_then(|frozen| frozen.tables.get(&table)),
            self.stored.get(table).map(AsRef::as_ref),
        )
    }
}

impl State for LaneState {
    fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.layers(table).get(key)
    }

    fn put(&mut self, table: TableId, key: Bytes, value: Bytes) {
        self.active.put(table, key, value);
    }

    fn delete(&mut self, table: TableId, key: Bytes) {
        self.active.delete(table, key);
    }

    fn range(&self, table: TableId, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) -> Result<(), Error> {
        self.layers(table).range(from, to, visit)
    }

    fn clear(&mut self, table: TableId) {
        self.active.clear(table);
    }

    fn view(&self, table: TableId) -> Result<Box<dyn View>, Error> {
        Ok(Box::new(FrozenView {
            table,
            active: self.active.tables.get(&table).cloned(),
            frozen: self.frozen.clone(),
            stored: self.stored.get(table).cloned(),
        }))
    }
}

/// A table as it stood when the view was taken: a copy of its active changes, and a share in what no longer changes.
struct FrozenView {
    table: TableId,
    active: Option<OverlayTable>,
    frozen: Option<Arc<Overlay>>,
    stored: Option<Arc<StoredTable>>,
}

impl View for FrozenView {
    fn range(&self, from: &[u8], visit: Visit<'_>) -> Result<(), Error> {
        let frozen = self.frozen.as_ref().and_then(|frozen| frozen.tables.get(&self.table));
        Layers::new(self.active.as_ref(), frozen, self.stored.as_deref()).range(from, None, visit)
    }
}
