//! What was applied since the last checkpoint, in memory, and how it lies over what redb holds.
//!
//! ```text
//! Layers:   newer  (active overlay)     a record or a tombstone found here hides what is below
//!           older  (frozen overlay)     a cleared table hides every layer below it
//!           stored (redb)
//! ```

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::iter::Peekable;
use std::ops::{Bound, ControlFlow};

use annulus_core::bugs::{Bug, planted};
use annulus_core::state::{Error, TableId, Visit};
use bytes::Bytes;

use super::overlay_key::{Lookup, OverlayKey, Wanted};
use super::store::StoredTable;

/// What a record takes in memory beside its bytes: two handles, their counters, the key's beginning and a share of the tree's
/// nodes.
const RECORD_OVERHEAD_BYTES: usize = 152;
/// What a table takes in memory beside its records.
const TABLE_OVERHEAD_BYTES: usize = 128;

/// The changes to one table.
#[derive(Debug, Clone, Default)]
pub(super) struct OverlayTable {
    /// Whether everything in older layers is gone.
    pub(super) cleared: bool,
    /// Records put, and `None` for records deleted.
    pub(super) records: BTreeMap<OverlayKey, Option<Bytes>>,
}

/// The changes to all tables.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    pub(super) tables: BTreeMap<TableId, OverlayTable>,
    bytes: usize,
}

impl Overlay {
    /// What the overlay takes in memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn put(&mut self, table: TableId, key: Bytes, value: Bytes) {
        self.set(table, key, Some(value));
    }

    pub(super) fn delete(&mut self, table: TableId, key: Bytes) {
        match self.tables.get_mut(&table) {
            // Nothing lies below that a tombstone would have to hide.
            Some(changes) if changes.cleared => {
                if let Some(old) = changes.records.remove::<dyn Lookup>(&Wanted::new(&key)) {
                    self.bytes -= record_bytes(&key, old.as_ref());
                }
            }
            _ => self.set(table, key, None),
        }
    }

    fn set(&mut self, table: TableId, key: Bytes, value: Option<Bytes>) {
        let changes = table_mut(&mut self.tables, &mut self.bytes, table);
        self.bytes += record_bytes(&key, value.as_ref());
        match changes.records.entry(OverlayKey::new(key)) {
            btree_map::Entry::Vacant(place) => {
                place.insert(value);
            }
            btree_map::Entry::Occupied(mut place) => {
                let old = place.insert(value);
                self.bytes -= record_bytes(place.key().bytes(), old.as_ref());
            }
        }
    }

    pub(super) fn clear(&mut self, table: TableId) {
        let changes = table_mut(&mut self.tables, &mut self.bytes, table);
        let records = changes.records.iter();
        self.bytes -= records.map(|(key, value)| record_bytes(key.bytes(), value.as_ref())).sum::<usize>();
        *changes = OverlayTable { cleared: true, records: BTreeMap::new() };
    }
}

fn table_mut<'a>(
    tables: &'a mut BTreeMap<TableId, OverlayTable>,
    bytes: &mut usize,
    table: TableId,
) -> &'a mut OverlayTable {
    tables.entry(table).or_insert_with(|| {
        *bytes += TABLE_OVERHEAD_BYTES;
        OverlayTable::default()
    })
}

fn record_bytes(key: &Bytes, value: Option<&Bytes>) -> usize {
    RECORD_OVERHEAD_BYTES + key.len() + value.map_or(0, Bytes::len)
}

/// One table as all layers together show it.
#[derive(Debug)]
pub(super) struct Layers<'a> {
    newer: Option<&'a OverlayTable>,
    older: Option<&'a OverlayTable>,
    stored: Option<&'a StoredTable>,
}

impl<'a> Layers<'a> {
    /// Lays `newer` over `older` over `stored`. This is the only place that knows which hides which.
    pub(super) fn new(
        newer: Option<&'a OverlayTable>,
        older: Option<&'a OverlayTable>,
        stored: Option<&'a StoredTable>,
    ) -> Self {
        let (newer, older) = if planted(Bug::OverlayMergedInWrongOrder) { (older, newer) } else { (newer, older) };
        let older = older.filter(|_| !newer.is_some_and(|changes| changes.cleared));
        let cleared = [newer, older].into_iter().flatten().any(|changes| changes.cleared);
        Self { newer, older, stored: stored.filter(|_| !cleared) }
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let wanted = Wanted::new(key);
        for changes in [self.newer, self.older].into_iter().flatten() {
            if let Some(value) = changes.records.get::<dyn Lookup>(&wanted) {
                return Ok(value.clone());
            }
        }
        self.stored.map_or(Ok(None), |stored| stored.get(key))
    }

    pub(super) fn range(&self, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) -> Result<(), Error> {
        if to.is_some_and(|to| to <= from) {
            return Ok(());
        }
        let mut changes = Changes::new(self.newer, self.older, from, to).peekable();
        if let Some(stored) = self.stored {
            let mut stopped = false;
            stored.range(from, to, &mut |key, stored_value| {
                while let Some((changed, value)) = changes.next_if(|(changed, _)| changed[..] <= *key) {
                    let stop = value.as_ref().is_some_and(|value| visit(changed, value).is_break());
                    if stop || changed[..] == *key {
                        stopped = stop;
                        return if stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
                    }
                }
                let next = visit(key, stored_value);
                stopped = next.is_break();
                next
            })?;
            if stopped {
                return Ok(());
            }
        }
        for (key, value) in changes {
            if value.as_ref().is_some_and(|value| visit(key, value).is_break()) {
                break;
            }
        }
        Ok(())
    }
}

type Records<'a> = Peekable<btree_map::Range<'a, OverlayKey, Option<Bytes>>>;

/// The changes of both overlays in key order; where both changed a key, only the newer change.
struct Changes<'a> {
    newer: Option<Records<'a>>,
    older: Option<Records<'a>>,
}

impl<'a> Changes<'a> {
    fn new(newer: Option<&'a OverlayTable>, older: Option<&'a OverlayTable>, from: &[u8], to: Option<&[u8]>) -> Self {
        let (from, to) = (Wanted::new(from), to.map(Wanted::new));
        let from: Bound<&dyn Lookup> = Bound::Included(&from);
        let to: Bound<&dyn Lookup> = to.as_ref().map_or(Bound::Unbounded, |to| Bound::Excluded(to));
        let records = |changes: &'a OverlayTable| changes.records.range::<dyn Lookup, _>((from, to)).peekable();
        Self { newer: newer.map(records), older: older.map(records) }
    }
}

impl<'a> Iterator for Changes<'a> {
    type Item = (&'a Bytes, &'a Option<Bytes>);

    fn next(&mut self) -> Option<Self::Item> {
        self.next_record().map(|(key, value)| (key.bytes(), value))
    }
}

impl<'a> Changes<'a> {
    fn next_record(&mut self) -> Option<(&'a OverlayKey, &'a Option<Bytes>)> {
        let newer = self.newer.as_mut().and_then(|records| records.peek().map(|(key, _)| *key));
        let older = self.older.as_mut().and_then(|records| records.peek().map(|(key, _)| *key));
        if older == newer || newer.is_none_or(|newer| older.is_some_and(|older| older < newer)) {
            let hidden = self.older.as_mut().and_then(Iterator::next);
            if newer.is_none() || older != newer {
                return hidden;
            }
        }
        self.newer.as_mut().and_then(Iterator::next)
    }
}
