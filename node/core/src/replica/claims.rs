//! What Prepares will hold that are proposed and not applied yet. Another that wants the same would learn that only when it is applied
//! itself, after a round of consensus for nothing.
//!
//! A claim decides nothing: what holds is what is applied. One whose entry is not committed goes when this leader stops leading.

use std::collections::{BTreeMap, VecDeque};

use crate::partition::Key;
use crate::partition::txn::{Blocker, Part, Pointer, Prepare, Thing, things};

/// The claims of one group, at its leader.
#[derive(Debug, Default)]
pub struct Claims {
    /// By what is claimed, all claims with the index of the entry each.
    claimed: BTreeMap<Thing, Vec<(u64, bool)>>,
    /// By rising index: who claims, and what.
    entries: VecDeque<Claim>,
}

#[derive(Debug)]
struct Claim {
    index: u64,
    by: Pointer,
    priority: u64,
    things: Vec<(Thing, bool)>,
}

impl Claims {
    /// A prepare was proposed at this index.
    pub fn add(&mut self, index: u64, prepare: &Prepare) {
        let things = things(&prepare.part);
        for (thing, exclusively) in &things {
            self.claimed.entry(thing.clone()).or_default().push((index, *exclusively));
        }
        let by = Pointer { id: prepare.id.clone(), anchor: prepare.anchor };
        self.entries.push_back(Claim { index, by, priority: prepare.priority, things });
    }

    /// What is proposed up to this index is applied. Returns what was claimed.
    pub fn applied(&mut self, index: u64) -> Vec<Thing> {
        let mut freed = Vec::new();
        while let Some(Claim { index, things, .. }) = self.entries.pop_front_if(|claim| claim.index <= index) {
            for (thing, _) in things {
                if let Some(claims) = self.claimed.get_mut(&thing) {
                    claims.retain(|(at, _)| *at != index);
                    if claims.is_empty() {
                        self.claimed.remove(&thing);
                    }
                }
                freed.push(thing);
            }
        }
        freed
    }

    /// Whoever claims something of what this wants, for one with this priority.
    pub fn in_way_of(&self, part: &Part, priority: u64) -> Option<Blocker> {
        if self.entries.is_empty() {
            return None;
        }
        let claims = things(part).into_iter().flat_map(|(thing, exclusively)| {
            let claims = self.claimed.get(&thing).map_or(&[][..], Vec::as_slice);
            let in_way = claims.iter().filter(move |(_, exclusive)| exclusively || *exclusive);
            in_way.map(move |(index, _)| (*index, thing.clone()))
        });
        let claims = claims.filter_map(|(index, thing)| {
            let at = self.entries.binary_search_by_key(&index, |claim| claim.index).ok()?;
            Some((self.entries.get(at)?, thing))
        });
        let (oldest, thing) = claims.min_by_key(|(claim, _)| claim.priority)?;
        Some(Blocker { by: oldest.by.clone(), thing, waits: priority < oldest.priority })
    }

    /// Whether somebody claims this so that nobody else can have it.
    pub fn takes(&self, thing: &Thing) -> bool {
        self.claimed.get(thing).is_some_and(|claims| claims.iter().any(|(_, exclusive)| *exclusive))
    }

    /// Whether anybody claims this key.
    pub fn has(&self, key: &Key) -> bool {
        !self.entries.is_empty() && self.claimed.contains_key(&Thing::Key(key.bytes().clone()))
    }

    /// Whether anybody claims this key to change it.
    pub fn has_exclusively(&self, key: &Key) -> bool {
        if self.entries.is_empty() {
            return false;
        }
        self.takes(&Thing::Key(key.bytes().clone()))
    }

    /// The leader leads no more.
    pub fn clear(&mut self) {
        self.claimed.clear();
        self.entries.clear();
    }
}
