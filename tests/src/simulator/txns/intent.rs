//! What a client wants to happen to accounts, and what it knows of them. Drawn from the seed.

use std::collections::BTreeSet;

use annulus_core::map::Map;
use annulus_core::partition::txn::{Action, Check, Condition, Name};
use annulus_core::partition::{self, Key};
use annulus_core::txn::Transaction;

use super::record::{Record, Told, Txn};
use super::{Account, Thing, TxnId, account_key, baton_key};
use crate::simulator::client::key_name;
use crate::simulator::dice::Dice;
use crate::simulator::history::{Change, History, value_of};
use crate::simulator::scenario::Scenario;

/// Longest time after which a key that a transaction puts may expire, in milliseconds.
const LONGEST_TTL_MS: u64 = 1500;

/// What is under a key, as far as a client knows: nothing, or an account with this version.
pub type Known = Option<(u64, Account)>;

/// What a client knows of everything. At first there is nothing anywhere.
#[derive(Debug, Clone)]
pub struct Knowledge {
    /// By account.
    pub accounts: Vec<Known>,
    /// By place of the baton.
    pub places: Vec<Known>,
    /// The versions of the keys that all clients use.
    pub keys: Vec<Option<u64>>,
}

/// What an operation of a branch is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// An account.
    Account(Thing),
    /// One of the baton's places.
    Place(usize),
    /// One of the keys that all clients use; if it writes it, the number of its write.
    Key(usize, Option<u32>),
}

/// A transaction that a client wants, and what it would mean.
#[derive(Debug)]
pub struct Deed {
    /// Its name in the record.
    pub id: TxnId,
    /// All of it.
    pub transaction: Transaction,
    /// What each operation of its first branch is about.
    pub then: Vec<About>,
    /// What each of the other is about.
    pub otherwise: Vec<About>,
}

/// Where deeds are drawn.
pub struct Drawing<'a> {
    /// What the run is made of.
    pub scenario: &'a Scenario,
    /// The newest map.
    pub map: &'a Map,
    /// What happens to accounts.
    pub record: &'a mut Record,
    /// What happens to other keys.
    pub history: &'a mut History,
    /// The time.
    pub now: u64,
    /// The client's chance.
    pub dice: &'a mut Dice,
}

impl Knowledge {
    /// Of someone who has seen nothing.
    pub fn new(scenario: &Scenario) -> Self {
        let plan = &scenario.txns;
        Self { accounts: vec![None; plan.accounts], places: vec![None; plan.places], keys: vec![None; scenario.keys] }
    }

    /// Who has written an account last.
    fn last(known: &Known) -> Option<TxnId> {
        known.as_ref().and_then(|(_, account)| account.marks.last().copied())
    }
}

/// Several different numbers below this.
pub fn some(dice: &mut Dice, below: usize, many: usize) -> BTreeSet<usize> {
    let mut chosen = BTreeSet::new();
    while chosen.len() < many.min(below) {
        chosen.insert(dice.index(below));
    }
    chosen
}

/// A deed that is being put together.
struct Draft {
    id: TxnId,
    conditions: Vec<Condition>,
    then: Vec<Action>,
    about: Vec<About>,
    /// What its conditions are about.
    conditioned: Vec<(Key, About)>,
    reads: Vec<(Thing, Option<TxnId>)>,
    writes: BTreeSet<Thing>,
    keys: Vec<u32>,
}

impl Draft {
    fn expect(&mut self, about: About, key: Key, known: &Known, dice: &mut Dice) {
        let check = match known {
            None => Check::Exists(false),
            Some((_, account)) if dice.chance(200) => Check::Value(account.encode()),
            Some((version, _)) => Check::Version(*version),
        };
        self.conditions.push(Condition { key: key.clone(), check });
        self.conditioned.push((key, about));
    }

    fn put(&mut self, about: About, key: Key, value: bytes::Bytes) {
        self.then.push(Action::Put { key, value, ttl_ms: None });
        self.about.push(about);
    }
}

impl Drawing<'_> {
    /// What a client wants that knows this.
    pub fn deed(&mut self, known: &Knowledge) -> Deed {
        let id = TxnId::try_from(self.record.txns.len()).expect("few transactions");
        let mut draft = Draft {
            id,
            conditions: Vec::new(),
            then: Vec::new(),
            about: Vec::new(),
            conditioned: Vec::new(),
            reads: Vec::new(),
            writes: BTreeSet::new(),
            keys: Vec::new(),
        };
        let passes_on = !known.places.is_empty() && self.dice.chance(150);
        if passes_on {
            self.pass_on(known, &mut draft);
        }
        if !passes_on || self.dice.chance(200) {
            self.move_money(known, &mut draft);
        }
        if self.dice.chance(self.scenario.txns.mixed) {
            self.write_keys(known, &mut draft);
        }
        self.finish(draft)
    }

    /// Moves money between some accounts, or leaves a mark in them; others it looks at.
    fn move_money(&mut self, known: &Knowledge, draft: &mut Draft) {
        let many = *self.dice.pick(&[1, 2, 2, 2, 3]);
        let mut left = 0;
        let looked_at = self.dice.index(3);
        let chosen = some(self.dice, known.accounts.len(), many + looked_at);
        for (at, number) in chosen.iter().copied().enumerate() {
            let (key, now) = (account_key(number), &known.accounts[number]);
            let about = About::Account(number);
            if at >= many {
                if self.dice.chance(500) {
                    draft.expect(about, key, now, self.dice);
                    draft.reads.push((number, Knowledge::last(now)));
                } else {
                    draft.then.push(Action::Get { key });
                    draft.about.push(about);
                }
                continue;
            }
            let is_last = at + 1 == many.min(chosen.len());
            let amount = if is_last { -left } else { i64::try_from(self.dice.below(20)).expect("small") - 10 };
            left += amount;
            let after = now.as_ref().map_or_else(Account::default, |(_, a)| a.clone()).with(amount, draft.id);
            draft.expect(about, key.clone(), now, self.dice);
            draft.reads.push((number, Knowledge::last(now)));
            draft.writes.insert(number);
            draft.put(about, key, after.encode());
            self.record.put(number, 0, after);
        }
    }

    /// Takes the baton from where it is to another place; if there is none yet, makes it.
    fn pass_on(&mut self, known: &Knowledge, draft: &mut Draft) {
        let baton = self.record.baton();
        let places = known.places.len();
        let from = known.places.iter().position(Option::is_some);
        let step = 1 + self.dice.index(places - 1);
        let to = from.map_or_else(|| self.dice.index(places), |from| (from + step) % places);
        for (place, now) in known.places.iter().enumerate() {
            // It is enough to know that it is where it was; that it is nowhere must be known of each place.
            if from.is_none() || from == Some(place) || self.dice.chance(300) {
                draft.expect(About::Place(place), baton_key(place), now, self.dice);
            }
        }
        let now = from.and_then(|from| known.places[from].as_ref()).map(|(_, account)| account.clone());
        let last = now.as_ref().and_then(|account| account.marks.last().copied());
        let after = now.unwrap_or_default().with(0, draft.id);
        if let Some(from) = from {
            draft.then.push(Action::Delete { key: baton_key(from) });
            draft.about.push(About::Place(from));
        }
        draft.put(About::Place(to), baton_key(to), after.encode());
        draft.reads.push((baton, last));
        draft.writes.insert(baton);
        self.record.put(baton, to, after);
    }

    /// Writes some of the keys that all clients use, or reads them.
    fn write_keys(&mut self, known: &Knowledge, draft: &mut Draft) {
        let many = 1 + self.dice.index(2);
        for number in some(self.dice, self.scenario.keys, many) {
            let key = key_name(number);
            if self.dice.chance(250) {
                draft.then.push(Action::Get { key });
                draft.about.push(About::Key(number, None));
                continue;
            }
            let condition = match known.keys[number] {
                Some(version) if self.dice.chance(300) => partition::Condition::Version(version),
                _ if self.dice.chance(150) => partition::Condition::Exists,
                _ if self.dice.chance(100) => partition::Condition::Absent,
                _ => partition::Condition::Always,
            };
            let check = match condition {
                partition::Condition::Always => None,
                partition::Condition::Exists => Some(Check::Exists(true)),
                partition::Condition::Absent => Some(Check::Exists(false)),
                partition::Condition::Version(version) => Some(Check::Version(version)),
            };
            draft.conditions.extend(check.map(|check| Condition { key: key.clone(), check }));
            let ttl_ms = self.dice.chance(200).then(|| self.dice.within(50..=LONGEST_TTL_MS));
            let change = if self.dice.chance(750) { Change::Put { ttl_ms } } else { Change::Delete };
            let write = self.history.invoke(self.now, number, condition, change, None);
            draft.then.push(match change {
                Change::Put { ttl_ms } => {
                    let bytes = usize::try_from(self.dice.within(self.scenario.value_bytes.clone())).expect("small");
                    Action::Put { key, value: value_of(write, bytes), ttl_ms }
                }
                Change::Delete => Action::Delete { key },
            });
            draft.about.push(About::Key(number, Some(write)));
            draft.keys.push(write);
        }
    }

    fn finish(&mut self, draft: Draft) -> Deed {
        let Draft { id, conditions, then, about, conditioned, reads, writes, keys } = draft;
        let plan = &self.scenario.txns;
        let is_named = self.dice.chance(plan.named);
        let name = if is_named {
            Name::new(format!("t-{id}").into()).expect("a short name")
        } else {
            Name::made_up(u128::from(id))
        };
        let (mut otherwise, mut otherwise_about) = (Vec::new(), Vec::new());
        if self.dice.chance(plan.otherwise) {
            for (key, about) in conditioned {
                otherwise.push(Action::Get { key });
                otherwise_about.push(about);
            }
        }
        let transaction =
            Transaction { name: name.clone(), conditions, locks: Vec::new(), then, otherwise, fence: None };
        transaction.check().expect("it is small, and names no key twice");
        let touched = transaction.conditions.iter().map(|condition| &condition.key);
        let touched = touched.chain(transaction.then.iter().chain(&transaction.otherwise).map(Action::key));
        let groups = touched.map(|key| self.map.partition_of(key.bytes()).group()).collect();
        let (invoked, returned, told) = (self.now, None, Told::Nothing);
        let name = Some(name);
        self.record.txns.push(Txn { name, invoked, returned, told, failed_by: None, reads, writes, keys, groups });
        Deed { id, transaction, then: about, otherwise: otherwise_about }
    }

    /// A plain write of one account, which leaves a mark and moves nothing.
    pub fn plain(&mut self, known: &Knowledge) -> (TxnId, partition::Write, Thing) {
        let id = TxnId::try_from(self.record.txns.len()).expect("few transactions");
        let number = self.dice.index(known.accounts.len());
        let (key, now) = (account_key(number), &known.accounts[number]);
        let after = now.as_ref().map_or_else(Account::default, |(_, a)| a.clone()).with(0, id);
        let condition = match now {
            None => partition::Condition::Absent,
            Some((version, _)) => partition::Condition::Version(*version),
        };
        let change = partition::Change::Put { value: after.encode(), ttl_ms: None };
        let idempotency_key = Some(format!("mark-{id}").into());
        self.record.put(number, 0, after);
        self.record.txns.push(Txn {
            name: None,
            invoked: self.now,
            returned: None,
            told: Told::Nothing,
            failed_by: None,
            reads: vec![(number, Knowledge::last(now))],
            writes: BTreeSet::from([number]),
            keys: Vec::new(),
            groups: BTreeSet::from([self.map.partition_of(key.bytes()).group()]),
        });
        (id, partition::Write { key, condition, change, idempotency_key, fence: None }, number)
    }
}
