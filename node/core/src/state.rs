//! The seam between the machines and the place where their records live.
//!
//! A machine (partition, map) reads and writes records through [`State`]; it never knows whether they are in an overlay,
//! in redb, on a simulated disk or in a [`MemoryState`]. Writes cannot fail: they go to memory and reach the disk with
//! the next checkpoint, while the WAL already holds the entries that made them. Reads can: the disk may be damaged.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;

use crate::id::GroupId;

/// One table of records: the state of one group, in one generation. A snapshot is received into the next generation
/// while the old one still stands, and takes its place in one step.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TableId {
    /// The group whose records these are.
    pub group: GroupId,
    /// Counts the snapshots that the group has been restored from.
    pub generation: u32,
}

impl TableId {
    /// The lane's own table: one record per group, which says what the group's tables stand for.
    pub const GROUPS: Self = Self { group: GroupId(u32::MAX), generation: 0 };
}

/// Reading a record failed. The lane that meets this stops: it must not go on from a state that it cannot read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("state of {group} cannot be read: {reason}")]
pub struct Error {
    /// The group whose record was asked for.
    pub group: GroupId,
    /// What the storage said.
    pub reason: String,
}

/// What `range` calls for each record; `Break` ends the walk.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// The records of a lane's groups. Synchronous; the caller is the only writer.
pub trait State {
    /// The record under `key`, as last put.
    fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Bytes>, Error>;
    /// Puts a record; an older one under the same key is gone.
    fn put(&mut self, table: TableId, key: Bytes, value: Bytes);
    /// Deletes a record, if there is one.
    fn delete(&mut self, table: TableId, key: Bytes);
    /// Visits the records with `from <= key < to` in key order (to the table's end when `to` is `None`).
    fn range(&self, table: TableId, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) -> Result<(), Error>;
    /// Deletes every record of a table.
    fn clear(&mut self, table: TableId);
    /// The table as it stands now, unmoved by later writes.
    fn view(&self, table: TableId) -> Result<Box<dyn View>, Error>;
}

/// A frozen table: what a snapshot is streamed from.
pub trait View: Send {
    /// Visits the records with `from <= key` in key order.
    fn range(&self, from: &[u8], visit: Visit<'_>) -> Result<(), Error>;
}

/// State in memory alone: for scripts and unit tests.
#[derive(Debug, Default, Clone)]
pub struct MemoryState {
    tables: BTreeMap<TableId, BTreeMap<Bytes, Bytes>>,
}

impl State for MemoryState {
    fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(self.tables.get(&table).and_then(|records| records.get(key)).cloned())
    }

    fn put(&mut self, table: TableId, key: Bytes, value: Bytes) {
        self.tables.entry(table).or_default().insert(key, value);
    }

    fn delete(&mut self, table: TableId, key: Bytes) {
        if let Some(records) = self.tables.get_mut(&table) {
            records.remove(&key);
        }
    }

    fn range(&self, table: TableId, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) -> Result<(), Error> {
        if let Some(records) = self.tables.get(&table) {
            visit_all(records, from, to, visit);
        }
        Ok(())
    }

    fn clear(&mut self, table: TableId) {
        self.tables.remove(&table);
    }

    fn view(&self, table: TableId) -> Result<Box<dyn View>, Error> {
        Ok(Box::new(MemoryView(self.tables.get(&table).cloned().unwrap_or_default())))
    }
}

struct MemoryView(BTreeMap<Bytes, Bytes>);

impl View for MemoryView {
    fn range(&self, from: &[u8], visit: Visit<'_>) -> Result<(), Error> {
        visit_all(&self.0, from, None, visit);
        Ok(())
    }
}

fn visit_all(records: &BTreeMap<Bytes, Bytes>, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) {
    if to.is_some_and(|to| to <= from) {
        return;
    }
    let to = to.map_or(Bound::Unbounded, Bound::Excluded);
    for (key, value) in records.range::<[u8], _>((Bound::Included(from), to)) {
        if visit(key, value).is_break() {
            return;
        }
    }
}
