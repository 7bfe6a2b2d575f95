//! Several keys as they all were at one moment, without a hold on any of them: read twice, and nothing changed in between.

use std::collections::BTreeMap;

use super::{Asked, Machine, Turn};
use crate::id::PartitionId;
use crate::lane::{Operation, Refusal, Reply};
use crate::partition::txn::Outcome;
use crate::partition::{Consistency, Item, Key, Many};

/// Reads some keys until all partitions answer twice in a row that nothing has changed. What an open transaction is about to
/// change the partitions do not tell before that is over.
///
/// ```text
/// GetMany everywhere ─▶ again ─┬─ the same versions, and of absent keys nothing went away meanwhile ─▶ answer
///                              └─ not the same ─▶ again …, until it was tried often enough
/// ```
#[derive(Debug)]
pub struct Snapshot {
    keys: Vec<Key>,
    places: BTreeMap<PartitionId, Vec<usize>>,
    asked: Asked,
    before: Option<Collected>,
    now: Collected,
    rounds: u32,
    is_over: bool,
}

type Collected = BTreeMap<PartitionId, (Vec<Option<Item>>, u64)>;

/// What came of it.
#[derive(Clone, PartialEq, Debug)]
pub enum Seen {
    /// The values at one moment, in the order of the keys.
    Items(Vec<Option<Item>>),
    /// Something changed each time. A transaction that holds the keys will do.
    Changing,
    /// What is read in one partition has too many bytes.
    ReadsTooMuch,
    /// A partition could not be asked.
    Refused(Refusal),
}

/// So often it is tried before the keys are held instead.
const MOST_ROUNDS: u32 = 8;

impl Snapshot {
    /// Of these keys.
    pub fn new(keys: Vec<Key>, partition_of: impl Fn(&[u8]) -> PartitionId) -> Self {
        let mut places = BTreeMap::<_, Vec<usize>>::new();
        for (at, key) in keys.iter().enumerate() {
            places.entry(partition_of(key.bytes())).or_default().push(at);
        }
        Self { keys, places, asked: Asked::default(), before: None, now: Collected::new(), rounds: 0, is_over: false }
    }

    fn collect(&mut self) -> Turn<Seen> {
        self.rounds += 1;
        let mut turn = Turn::default();
        for (partition, places) in &self.places {
            let keys = places.iter().map(|at| self.keys[*at].clone()).collect();
            let operation = Operation::GetMany { keys, consistency: Consistency::Linearizable };
            turn.asks.push(self.asked.ask(*partition, operation));
        }
        turn
    }

    fn end(&mut self, seen: Seen) -> Turn<Seen> {
        self.is_over = true;
        self.asked.forget();
        Turn { answer: Some(seen), is_over: true, ..Turn::default() }
    }

    fn all_collected(&mut self) -> Turn<Seen> {
        let now = std::mem::take(&mut self.now);
        // One partition answers all at one moment.
        let is_still = self.places.len() == 1 || self.before.as_ref().is_some_and(|before| is_same(before, &now));
        if is_still {
            let mut items = vec![None; self.keys.len()];
            for (partition, (found, _)) in now {
                for (at, item) in self.places[&partition].iter().zip(found) {
                    items[*at] = item;
                }
            }
            return self.end(Seen::Items(items));
        }
        self.before = Some(now);
        if self.rounds >= MOST_ROUNDS { self.end(Seen::Changing) } else { self.collect() }
    }
}

fn is_same(before: &Collected, now: &Collected) -> bool {
    now.iter().all(|(partition, (items, deletions))| {
        let (items_before, deletions_before) = &before[partition];
        let version = |item: &Option<Item>| item.as_ref().map(|item| item.version);
        let is_same = items.iter().map(version).eq(items_before.iter().map(version));
        is_same && (items.iter().all(Option::is_some) || deletions == deletions_before)
    })
}

impl Machine for Snapshot {
    type Answer = Seen;

    fn begin(&mut self) -> Turn<Seen> {
        self.collect()
    }

    fn hear(&mut self, number: u32, reply: Reply) -> Turn<Seen> {
        let Some(from) = self.asked.answered(number) else { return Turn::default() };
        match reply {
            Reply::Many(Many { items, deletions }) if items.len() == self.places[&from].len() => {
                self.now.insert(from, (items, deletions));
                if self.asked.is_empty() { self.all_collected() } else { Turn::default() }
            }
            Reply::Txn(Outcome::ReadsTooMuch) => self.end(Seen::ReadsTooMuch),
            Reply::Refused(refusal) => self.end(Seen::Refused(refusal)),
            _ => self.end(Seen::Refused(Refusal::TimedOut)),
        }
    }

    fn wake(&mut self) -> Turn<Seen> {
        Turn::default()
    }
}
