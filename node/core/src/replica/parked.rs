//! Requests that an open transaction is in the way of: they wait here until it is over, and are then taken as if they had
//! just come. Nobody polls. A Prepare that waits here may hold keys elsewhere, but then all that are in its way are younger; one that
//! is patient holds none.
//!
//! Each waits for one thing. When that is free those who read one key, or scan, are taken first, then the Prepares that hold something
//! elsewhere, the oldest first, and then all others as they came; until one of them is about to hold it.

use std::collections::{BTreeMap, BTreeSet};

use super::claims::Claims;
use crate::id::RequestId;
use crate::lane::{Operation, Request};
use crate::partition::txn::{Blocker, Command, Outcome, Prepare, Thing};
use crate::partition::{Key, Partition};
use crate::time::Instant;

/// Most requests of one group that wait here.
pub const MAX_PARKED: usize = 2048;

/// What an open transaction, or one that is about to be, means for a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Way {
    /// Nothing: it is free.
    Free,
    /// It waits until this is free.
    Blocked(Thing),
    /// It must not wait, and is told this.
    Yields(Outcome),
}

impl Way {
    fn until_free(thing: Option<Thing>) -> Self {
        thing.map_or(Self::Free, Self::Blocked)
    }
}

/// What is in the way of an operation.
pub fn way_of(partition: &Partition, claims: &Claims, operation: &Operation) -> Way {
    match operation {
        Operation::Write(write) if claims.has(&write.key) => Way::Blocked(Thing::Key(write.key.bytes().clone())),
        Operation::Write(write) => Way::until_free(partition.blocks_write(write)),
        Operation::Get { key, .. } => Way::until_free(partition.hides(key).map(|_| Thing::Key(key.bytes().clone()))),
        Operation::GetMany { keys, .. } => {
            // A snapshot would have to read again, and a coordinator that looks first is not helped by what is old in a moment.
            let is_hidden = |key: &&Key| claims.has_exclusively(key) || partition.hides(key).is_some();
            Way::until_free(keys.iter().find(is_hidden).map(|key| Thing::Key(key.bytes().clone())))
        }
        Operation::Scan { scan, .. } => Way::until_free(partition.hides_any(&scan.prefix)),
        Operation::Txn(Command::Alone(alone)) => {
            let held = partition.blocks_part(&alone.part, 0).or_else(|| claims.in_way_of(&alone.part, 0));
            Way::until_free(held.map(|blocker| blocker.thing))
        }
        Operation::Txn(Command::Prepare(prepare)) => {
            let held = partition.blocks_part(&prepare.part, prepare.priority);
            way_of_prepare(prepare, held.or_else(|| claims.in_way_of(&prepare.part, prepare.priority)))
        }
        _ => Way::Free,
    }
}

fn way_of_prepare(prepare: &Prepare, blocker: Option<Blocker>) -> Way {
    match blocker {
        // By itself: it was asked before, or this attempt takes the place of an earlier one. Another coordinator's is told so.
        Some(Blocker { by, .. }) if by.id.name == prepare.id.name => Way::Free,
        Some(Blocker { thing, waits, .. }) if waits || prepare.is_patient => Way::Blocked(thing),
        Some(Blocker { by, .. }) => Way::Yields(Outcome::Blocked { by, waits: false }),
        None => Way::Free,
    }
}

/// Whose turn it is among those who wait for one thing: the lowest first.
type Rank = (u8, u64, u64);

/// The requests that wait.
#[derive(Debug, Default)]
pub struct Parked {
    /// By the number that they were given as they came.
    requests: BTreeMap<u64, (Request, Thing, Rank)>,
    /// Who waits for what.
    waiting: BTreeMap<Thing, BTreeSet<Rank>>,
    /// What may be free, with somebody waiting for it.
    due: BTreeSet<Thing>,
    came: u64,
}

fn rank_of(operation: &Operation, number: u64) -> Rank {
    match operation {
        Operation::Txn(Command::Prepare(prepare)) if !prepare.is_patient => (1, prepare.priority, number),
        // Before it comes to those that would read what is to be changed by one who has come before them.
        Operation::Write(_) | Operation::Txn(_) | Operation::GetMany { .. } => (2, number, number),
        _ => (0, number, number),
    }
}

impl Parked {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether there is no room for another.
    pub fn is_full(&self) -> bool {
        self.requests.len() >= MAX_PARKED
    }

    /// One more, that waits for this.
    pub fn push(&mut self, request: Request, thing: Thing) {
        self.came += 1;
        let rank = rank_of(&request.operation, self.came);
        self.waiting.entry(thing.clone()).or_default().insert(rank);
        self.requests.insert(self.came, (request, thing, rank));
    }

    /// This may be free.
    pub fn released<'a>(&mut self, things: impl IntoIterator<Item = &'a Thing>) {
        if !self.requests.is_empty() {
            self.due.extend(things.into_iter().filter(|thing| self.waiting.contains_key(*thing)).cloned());
        }
    }

    /// Something that may be free, with those who wait for it in the order in which it is their turn. Each of them is taken out as he
    /// is taken.
    pub fn next_due(&mut self) -> Option<(Thing, Vec<u64>)> {
        let thing = self.due.pop_first()?;
        let turns = self.waiting.get(&thing).map_or_else(Vec::new, |ranks| ranks.iter().map(|rank| rank.2).collect());
        Some((thing, turns))
    }

    /// The numbers of those who wait for one of these.
    pub fn waiting_for(&self, things: &[Thing]) -> Vec<u64> {
        things.iter().filter_map(|thing| self.waiting.get(thing)).flatten().map(|rank| rank.2).collect()
    }

    /// What one asks for who waits.
    pub fn operation(&self, number: u64) -> Option<&Operation> {
        self.requests.get(&number).map(|(request, ..)| &request.operation)
    }

    /// Takes one out, if he still waits.
    pub fn take(&mut self, number: u64) -> Option<Request> {
        let (request, thing, rank) = self.requests.remove(&number)?;
        self.leave(&thing, rank);
        Some(request)
    }

    fn leave(&mut self, thing: &Thing, rank: Rank) {
        if let Some(ranks) = self.waiting.get_mut(thing) {
            ranks.remove(&rank);
            if ranks.is_empty() {
                self.waiting.remove(thing);
            }
        }
    }

    /// Takes out all.
    pub fn drain(&mut self) -> Vec<RequestId> {
        self.waiting.clear();
        self.due.clear();
        std::mem::take(&mut self.requests).into_values().map(|(request, ..)| request.id).collect()
    }

    /// Takes out those whose deadline has passed.
    pub fn expired(&mut self, now: Instant) -> Vec<RequestId> {
        let is_late = |(_, (request, ..)): &(&u64, &(Request, Thing, Rank))| request.deadline <= now;
        let late: Vec<u64> = self.requests.iter().filter(is_late).map(|(number, _)| *number).collect();
        late.into_iter().filter_map(|number| self.take(number)).map(|request| request.id).collect()
    }
}
