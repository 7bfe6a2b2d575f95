//! Which keys and locks are held by open transactions: in memory, made from their records.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::record::{OpenRecord, State};
use super::{Id, Name, Part, Pointer};
use crate::id::PartitionId;

/// What can be held.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Thing {
    /// A key.
    Key(Bytes),
    /// A lock.
    Lock(Bytes),
}

/// Records of open attempts whose keys and values have no more bytes than this are kept in memory, too: they are soon wanted again.
const MAX_REMEMBERED_BYTES: usize = 16 * 1024;

/// What is known of an open attempt without a look at its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    pub(super) anchor: PartitionId,
    pub(super) priority: u64,
    /// When it was prepared, or decided, on the partition's clock.
    pub(super) since_ms: u64,
    /// Whether it is decided, and not all others know of it.
    pub(super) is_decided: bool,
    /// What it holds, and whether exclusively. None when it is decided.
    pub(super) things: Vec<(Thing, bool)>,
    /// Its record, if that is short.
    pub(super) record: Option<Arc<OpenRecord>>,
}

impl Open {
    /// What is kept in memory of an attempt with this record.
    pub(super) fn new(record: OpenRecord) -> Self {
        let OpenRecord { priority, anchor, since_ms, .. } = record;
        let (is_decided, things, bytes) = match &record.state {
            State::Prepared { part, .. } => (false, things(part), part.bytes()),
            State::Decided { .. } => (true, Vec::new(), 0),
        };
        let record = (bytes <= MAX_REMEMBERED_BYTES).then(|| Arc::new(record));
        Self { anchor, priority, since_ms, is_decided, things, record }
    }
}

/// The open attempts of a partition, and what they hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Holds {
    open: BTreeMap<Id, Open>,
    held: BTreeMap<Thing, Vec<(Id, bool)>>,
}

impl Holds {
    /// How many are open.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether nothing is held, and so nobody is in the way.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// An open attempt.
    pub fn get(&self, id: &Id) -> Option<&Open> {
        self.open.get(id)
    }

    /// All open attempts.
    pub fn iter(&self) -> impl Iterator<Item = (&Id, &Open)> {
        self.open.iter()
    }

    /// The open attempts at one transaction.
    pub fn attempts_at(&self, name: &Name) -> impl Iterator<Item = (&Id, &Open)> {
        let id = |coordinator, attempt| Id { name: name.clone(), coordinator, attempt };
        self.open.range(id(0, 0)..=id(u64::MAX, u32::MAX))
    }

    /// Adds one.
    pub fn insert(&mut self, id: Id, open: Open) {
        for (thing, exclusive) in &open.things {
            // In the order of their ids, whoever came first: what is held follows from who is open, and from nothing else.
            let holders = self.held.entry(thing.clone()).or_default();
            let place = holders.partition_point(|(holder, _)| *holder < id);
            holders.insert(place, (id.clone(), *exclusive));
        }
        self.open.insert(id, open);
    }

    /// Takes one away. Returns whether it held anything.
    pub fn remove(&mut self, id: &Id) -> bool {
        let Some(open) = self.open.remove(id) else { return false };
        for (thing, _) in &open.things {
            if let Some(holders) = self.held.get_mut(thing) {
                holders.retain(|(holder, _)| holder != id);
                if holders.is_empty() {
                    self.held.remove(thing);
                }
            }
        }
        !open.things.is_empty()
    }

    /// What it holds is free, and it is open still: a bug.
    pub fn free(&mut self, id: &Id) -> bool {
        let Some(open) = self.open.get(id).cloned() else { return false };
        let held = self.remove(id);
        self.open.insert(id.clone(), Open { things: Vec::new(), ..open });
        held
    }

    /// Whoever is in the way of one that wants this: of a shared wish only those that hold it exclusively.
    pub fn blocker(&self, thing: &Thing, exclusively: bool) -> Option<Pointer> {
        if self.held.is_empty() {
            return None;
        }
        let holders = self.held.get(thing)?;
        let (id, _) = holders.iter().find(|(_, exclusive)| exclusively || *exclusive)?;
        Some(self.pointer(id))
    }

    /// Whoever is in the way of all this, and whether each of those is younger than this priority.
    pub fn blocker_of(&self, things: &[(Thing, bool)], priority: u64) -> Option<(Pointer, bool)> {
        let holders = things.iter().flat_map(|(thing, exclusively)| {
            let holders = self.held.get(thing).map_or(&[][..], Vec::as_slice);
            holders.iter().filter(|(_, exclusive)| *exclusively || *exclusive).map(|(id, _)| id)
        });
        let oldest = holders.min_by_key(|id| self.open[id].priority)?;
        Some((self.pointer(oldest), priority < self.open[oldest].priority))
    }

    /// Whoever holds one of the keys with this prefix exclusively.
    pub fn hidden(&self, prefix: &[u8]) -> Option<Pointer> {
        let is_hidden = |(thing, exclusive): &(Thing, bool)| match thing {
            Thing::Key(key) => *exclusive && key.starts_with(prefix),
            Thing::Lock(_) => false,
        };
        let hider = self.open.iter().find(|(_, open)| open.things.iter().any(is_hidden));
        hider.map(|(id, _)| self.pointer(id))
    }

    fn pointer(&self, id: &Id) -> Pointer {
        Pointer { id: id.clone(), anchor: self.open[id].anchor }
    }
}

/// What a part holds: its keys, exclusively if one of its branches writes them, and the locks that it names.
pub fn things(part: &Part) -> Vec<(Thing, bool)> {
    let mut things = BTreeMap::new();
    let mut hold = |thing: Thing, exclusively: bool| {
        *things.entry(thing).or_insert(false) |= exclusively;
    };
    for condition in &part.conditions {
        hold(Thing::Key(condition.key.bytes().clone()), false);
    }
    for lock in &part.locks {
        hold(Thing::Lock(lock.lock.bytes().clone()), false);
    }
    for action in part.then.iter().chain(&part.otherwise) {
        hold(Thing::Key(action.key().bytes().clone()), action.is_write());
    }
    things.into_iter().collect()
}
