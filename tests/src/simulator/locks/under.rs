//! A write under a lock that is a transaction: it names the lock as a condition, or carries its token, or both.

use annulus_core::partition::txn::{Action, Check, Condition, Done, LockHeld, Name};
use annulus_core::partition::{self, Change, Fence};
use annulus_core::txn::{Answer, Failure, Transaction};

use super::lock_name;
use crate::simulator::client::key_name;
use crate::simulator::dice::Dice;
use crate::simulator::history::WriteId;

/// A write of one key under a lock.
pub struct Deed {
    /// The write.
    pub id: WriteId,
    /// The key.
    pub key: usize,
    /// What must hold of it.
    pub condition: partition::Condition,
    /// What becomes of it.
    pub change: Change,
    /// The lock.
    pub lock: usize,
    /// The client's token.
    pub token: u64,
    /// Whether that the token holds the lock is a condition.
    pub names_lock: bool,
    /// Whether the token is a fence.
    pub is_fenced: bool,
}

/// What was told of one.
pub enum Told {
    /// Nothing that is certain.
    Nothing,
    /// It has done nothing, and may be tried again.
    NotNow,
    /// It is done. `None`: what came of it is not known any more.
    Done(Option<Done>),
    /// A condition did not hold.
    NotHeld,
    /// A newer token was there.
    Stale {
        /// The newest.
        newest: Option<u64>,
    },
    /// What can't be.
    Nonsense,
}

impl Deed {
    /// As a transaction, with a name or without.
    pub fn transaction(self, dice: &mut Dice) -> Transaction {
        let Self { id, key, condition, change, lock, token, names_lock, is_fenced } = self;
        let check = match condition {
            partition::Condition::Always => None,
            partition::Condition::Exists => Some(Check::Exists(true)),
            partition::Condition::Absent => Some(Check::Exists(false)),
            partition::Condition::Version(version) => Some(Check::Version(version)),
        };
        let key = key_name(key);
        let conditions = check.into_iter().map(|check| Condition { key: key.clone(), check }).collect();
        let then = vec![match change {
            Change::Put { value, ttl_ms } => Action::Put { key, value, ttl_ms },
            Change::Delete => Action::Delete { key },
        }];
        let name = if dice.chance(600) {
            Name::new(format!("under-{id}").into()).expect("a short name")
        } else {
            Name::made_up(u128::from(id) | 1 << 101)
        };
        let locks = names_lock.then(|| LockHeld { lock: lock_name(lock), token }).into_iter().collect();
        let fence = is_fenced.then(|| Fence { lock: lock_name(lock), token, is_held: true });
        Transaction { name, conditions, locks, then, otherwise: Vec::new(), fence }
    }
}

/// What an answer means for a client.
pub fn read(answer: Answer) -> Told {
    match answer {
        Answer::Unknown => Told::Nothing,
        Answer::Committed { then: true, results: None } => Told::Done(None),
        Answer::Committed { then: true, results: Some(mut results) } if results.len() == 1 => Told::Done(results.pop()),
        Answer::Committed { then: true, .. } => Told::Nonsense,
        Answer::Committed { then: false, .. } => Told::NotHeld,
        Answer::Failed(Failure::StaleFence { newest }) => Told::Stale { newest },
        Answer::Failed(Failure::NameConflict | Failure::TooManyFences | Failure::ReadsTooMuch) => Told::Nonsense,
        Answer::Failed(_) => Told::NotNow,
    }
}
