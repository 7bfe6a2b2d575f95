//! Which keys and locks are held by open transactions: in memory, made from their records.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::record::{OpenRecord, State};
use super::{Id, Name, Part, Pointer};
use crate::id::PartitionId;
use crate::partition::fence::Fence;

/// What can be held.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Thing {
    /// A key.
    Key(Bytes),
    /// A lock.
    Lock(Bytes),
    /// That nobody writes here under a newer token of this lock.
    Fence(Bytes),
}

/// Whoever is in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocker {
    /// The oldest of those who are.
    pub by: Pointer,
    /// What he holds.
    pub thing: Thing,
    /// Whether he, and so all of them, are younger than who asks.
    pub waits: bool,
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
    /// The token under which it writes.
    pub(super) token: Option<u64>,
    /// Its record, if that is short.
    pub(super) record: Option<Arc<OpenRecord>>,
}

impl Open {
    /// What is kept in memory of an attempt with this record.
    pub(super) fn new(record: OpenRecord) -> Self {
        let OpenRecord { priority, anchor, since_ms, .. } = record;
        let (is_decided, things, token, bytes) = match &record.state {
            State::Prepared { part, .. } => {
                (false, things(part), part.fence.as_ref().map(|fence| fence.token), part.bytes())
            }
            State::Decided { .. } => (true, Vec::new(), None, 0),
        };
        let record = (bytes <= MAX_REMEMBERED_BYTES).then(|| Arc::new(record));
        Self { anchor, priority, since_ms, is_decided, things, token, record }
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

    /// Takes one away. Returns what it held.
    pub fn remove(&mut self, id: &Id) -> Vec<Thing> {
        let Some(open) = self.open.remove(id) else { return Vec::new() };
        for (thing, _) in &open.things {
            if let Some(holders) = self.held.get_mut(thing) {
                holders.retain(|(holder, _)| holder != id);
                if holders.is_empty() {
                    self.held.remove(thing);
                }
            }
        }
        open.things.into_iter().map(|(thing, _)| thing).collect()
    }

    /// What it holds is free, and it is open still: a bug.
    pub fn free(&mut self, id: &Id) -> Vec<Thing> {
        let Some(open) = self.open.get(id).cloned() else { return Vec::new() };
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

    /// Whoever is in the way of all this, for one with this priority.
    pub fn blocker_of(&self, part: &Part, things: &[(Thing, bool)], priority: u64) -> Option<Blocker> {
        let holders = things.iter().flat_map(|(thing, exclusively)| {
            let holders = self.held.get(thing).map_or(&[][..], Vec::as_slice);
            let in_way = holders.iter().filter(|(_, exclusive)| *exclusively || *exclusive);
            in_way.map(move |(id, _)| (id, thing.clone()))
        });
        let older = part.fence.iter().flat_map(|fence| self.older_writers(fence));
        let (oldest, thing) = holders.chain(older).min_by_key(|(id, _)| self.open[*id].priority)?;
        Some(Blocker { by: self.pointer(oldest), thing, waits: priority < self.open[oldest].priority })
    }

    /// Those who are about to write under an older token of the lock of this fence: nobody writes under a newer one before they have.
    pub fn older_writers(&self, fence: &Fence) -> impl Iterator<Item = (&Id, Thing)> {
        let thing = Thing::Fence(fence.lock.bytes().clone());
        let (holders, token) = (self.held.get(&thing).map_or(&[][..], Vec::as_slice), fence.token);
        let is_older = move |id: &&Id| self.open[*id].token.is_some_and(|held| held < token);
        holders.iter().map(|(id, _)| id).filter(is_older).map(move |id| (id, thing.clone()))
    }

    /// A key with this prefix that somebody holds exclusively.
    pub fn hidden(&self, prefix: &[u8]) -> Option<Thing> {
        let is_hidden = |(thing, exclusive): &&(Thing, bool)| match thing {
            Thing::Key(key) => *exclusive && key.starts_with(prefix),
            Thing::Lock(_) | Thing::Fence(_) => false,
        };
        let hidden = self.open.values().find_map(|open| open.things.iter().find(is_hidden));
        hidden.map(|(thing, _)| thing.clone())
    }

    fn pointer(&self, id: &Id) -> Pointer {
        Pointer { id: id.clone(), anchor: self.open[id].anchor }
    }
}

/// What a part holds: its keys, exclusively if one of its branches writes them, the locks that it names, and its fence.
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
    if let Some(fence) = &part.fence {
        hold(Thing::Fence(fence.lock.bytes().clone()), false);
    }
    things.into_iter().collect()
}
