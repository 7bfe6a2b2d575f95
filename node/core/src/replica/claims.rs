//! What prepares that are proposed, and not applied yet, are about to hold. Another that wants the same would be found in its way
//! only when it is applied itself, after a round of consensus for nothing; the leader knows it before.
//!
//! A claim decides nothing: what holds is what is applied. One whose entry is not committed goes when this leader stops leading.

use std::collections::{BTreeMap, VecDeque};

use crate::partition::Key;
use crate::partition::txn::{Part, Pointer, Prepare, Thing, things};

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

    /// What is proposed up to this index is applied. Returns whether there were claims.
    pub fn applied(&mut self, index: u64) -> bool {
        let mut any = false;
        while let Some(Claim { index, things, .. }) = self.entries.pop_front_if(|claim| claim.index <= index) {
            any = true;
            for (thing, _) in things {
                if let Some(claims) = self.claimed.get_mut(&thing) {
                    claims.retain(|(at, _)| *at != index);
                    if claims.is_empty() {
                        self.claimed.remove(&thing);
                    }
                }
            }
        }
        any
    }

    /// Whoever claims something of what this wants, and whether all of those are younger than `priority`.
    pub fn in_way_of(&self, part: &Part, priority: u64) -> Option<(Pointer, bool)> {
        if self.entries.is_empty() {
            return None;
        }
        let indices = things(part).into_iter().flat_map(|(thing, exclusively)| {
            let claims = self.claimed.get(&thing).map_or(&[][..], Vec::as_slice);
            let in_way = claims.iter().filter(move |(_, exclusive)| exclusively || *exclusive);
            in_way.map(|(index, _)| *index)
        });
        let claims = indices.filter_map(|index| {
            let at = self.entries.binary_search_by_key(&index, |claim| claim.index).ok()?;
            self.entries.get(at)
        });
        let oldest = claims.min_by_key(|claim| claim.priority)?;
        Some((oldest.by.clone(), priority < oldest.priority))
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
        let claims = self.claimed.get(&Thing::Key(key.bytes().clone()));
        claims.is_some_and(|claims| claims.iter().any(|(_, exclusive)| *exclusive))
    }

    /// The leader leads no more.
    pub fn clear(&mut self) {
        self.claimed.clear();
        self.entries.clear();
    }
}
