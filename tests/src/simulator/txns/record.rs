//! What clients asked of transactions, and what they were told, in virtual time.

use std::collections::{BTreeMap, BTreeSet};

use annulus_core::id::GroupId;
use annulus_core::partition::Item;
use annulus_core::partition::txn::Name;

use super::checks::Violation;
use super::{Account, OPENING, Thing, TxnId};
use crate::simulator::history::WriteId;

/// What a client was told of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Nothing that is certain.
    Nothing,
    /// It is done.
    Done,
    /// It has done nothing and never will.
    NotDone,
    /// It is committed, and a condition did not hold: it has only read.
    Otherwise,
}

/// A transaction. A plain write of an account is one, too.
#[derive(Debug, Clone)]
pub struct Txn {
    /// Its name; a plain write has none.
    pub name: Option<Name>,
    /// When it was asked for first.
    pub invoked: u64,
    /// When that was told.
    pub returned: Option<u64>,
    /// What was told.
    pub told: Told,
    /// When it was told that a condition does not hold, if it was and nothing was kept of that.
    pub failed_by: Option<u64>,
    /// How the accounts must have been if it is done, by who wrote them last.
    pub reads: Vec<(Thing, Option<TxnId>)>,
    /// The accounts that it writes.
    pub writes: BTreeSet<Thing>,
    /// Its writes of keys that all clients use.
    pub keys: Vec<WriteId>,
    /// The groups that it touches.
    pub groups: BTreeSet<GroupId>,
}

/// Some accounts as they were at one moment.
#[derive(Debug, Clone)]
pub struct Sight {
    /// When that was asked.
    pub invoked: u64,
    /// When it was told.
    pub returned: u64,
    /// Who had written them last.
    pub seen: Vec<(Thing, Option<TxnId>)>,
}

/// An account as somebody has seen it, or put it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    /// Under which key: of the baton its place, 0 of others.
    pub place: usize,
    /// What it held.
    pub account: Account,
    /// The version of its value, once that was seen.
    pub version: Option<u64>,
}

/// Everything that clients asked of transactions and were told.
#[derive(Debug, Default)]
pub struct Record {
    /// How many accounts there are.
    pub accounts: usize,
    /// All transactions, by name.
    pub txns: Vec<Txn>,
    /// All reads.
    pub sights: Vec<Sight>,
    /// Which of these is that of everything in the end.
    pub last: Option<usize>,
    /// Every account as it was when this transaction had written it.
    pub noted: BTreeMap<(Thing, TxnId), Noted>,
}

impl Record {
    /// The thing that is passed on.
    pub fn baton(&self) -> Thing {
        self.accounts
    }

    /// How many transactions and reads were answered.
    pub fn answered(&self) -> usize {
        self.sights.len() + self.txns.iter().filter(|txn| txn.told != Told::Nothing).count()
    }

    /// A transaction puts this, if it is done.
    pub fn put(&mut self, thing: Thing, place: usize, account: Account) {
        let mark = *account.marks.last().expect("whoever writes leaves his mark");
        self.noted.insert((thing, mark), Noted { place, account, version: None });
    }

    /// A transaction was told which version it has written.
    pub fn written(&mut self, thing: Thing, txn: TxnId, version: u64) -> Result<(), Violation> {
        let noted = self.noted.get_mut(&(thing, txn)).expect("it was asked for");
        let known = *noted.version.get_or_insert(version);
        if known == version { Ok(()) } else { Err(Violation::TwoVersions { thing, txn, version, other: known }) }
    }

    /// Somebody has seen this. Returns who had written it last.
    pub fn see(&mut self, thing: Thing, place: usize, item: Option<&Item>) -> Result<Option<TxnId>, Violation> {
        let Some(item) = item else { return Ok(None) };
        let account = Account::decode(item.value.clone());
        let mark = account.as_ref().and_then(|account| account.marks.last().copied());
        let noted = mark.and_then(|mark| self.noted.get(&(thing, mark)));
        match noted.zip(mark) {
            Some((noted, mark)) if Some(&noted.account) == account.as_ref() && noted.place == place => {
                self.written(thing, mark, item.version)?;
                Ok(Some(mark))
            }
            _ => Err(Violation::FromNowhere { thing, place, account }),
        }
    }

    /// Somebody has read these at one moment. If these are all accounts, all their money is there.
    pub fn sight(&mut self, sight: Sight) -> Result<(), Violation> {
        self.check_total(&sight.seen)?;
        self.sights.push(sight);
        Ok(())
    }

    fn check_total(&self, seen: &[(Thing, Option<TxnId>)]) -> Result<(), Violation> {
        let balances: BTreeMap<Thing, i64> = seen
            .iter()
            .filter(|(thing, _)| *thing < self.accounts)
            .map(|(thing, last)| (*thing, last.map_or(OPENING, |last| self.noted[&(*thing, last)].account.balance)))
            .collect();
        let (found, expected) = (balances.values().sum::<i64>(), OPENING * self.accounts as i64);
        if balances.len() < self.accounts || found == expected {
            return Ok(());
        }
        Err(Violation::MoneyMadeOrLost { found, expected, seen: seen.to_vec() })
    }
}
