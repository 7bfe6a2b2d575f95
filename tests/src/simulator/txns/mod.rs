//! Transactions: clients that move money, append to lists and pass a baton on, over several partitions; and the judges of that.
//!
//! ```text
//!   plan ─ what is drawn     trader ──transactions, reads of many keys──▶ shell of a member ──asks──▶ leaders
//!                             │   ├──plain reads and writes of the same keys──▶ members       (Coordinator, Snapshot, Recovery)
//!             intent ─ what ──┘   ├──writes of the keys that all clients use──▶ the history of keys
//!                                 ▼
//!                    record: who was told what ──▶ checks: nothing is half done; graph: one order explains all
//! ```
//!
//! An account holds a balance, and the names of all transactions that have written it, one after the other: so what an account
//! looked like at any moment tells which transactions had happened to it by then, and in which order. Whoever writes an
//! account does so under the condition that it is as it was seen. The baton is one such account more, which is always under
//! one of several keys, its places: whoever passes it on deletes it here and puts it there.

pub mod checks;
mod ending;
pub mod graph;
pub mod intent;
pub mod plan;
pub mod record;
pub mod shell;
pub mod trader;

use annulus_core::partition::Key;
use bytes::{Buf, BufMut, Bytes, BytesMut};

pub use plan::Plan;

/// Names a transaction: its index in the record.
pub type TxnId = u32;

/// An account, by number, or the baton, which has the number after the last account.
pub type Thing = usize;

/// What is in an account when nobody has written it yet.
pub const OPENING: i64 = 100;

/// What an account holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its money.
    pub balance: i64,
    /// Who has written it, the last at the end.
    pub marks: Vec<TxnId>,
}

impl Default for Account {
    fn default() -> Self {
        Self { balance: OPENING, marks: Vec::new() }
    }
}

impl Account {
    /// As a value.
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(8 + 4 * self.marks.len());
        bytes.put_i64(self.balance);
        self.marks.iter().for_each(|mark| bytes.put_u32(*mark));
        bytes.freeze()
    }

    /// From a value; `None`: nobody has put that.
    pub fn decode(mut value: Bytes) -> Option<Self> {
        if value.len() < 8 || !value.len().is_multiple_of(4) {
            return None;
        }
        let balance = value.get_i64();
        let marks = std::iter::from_fn(|| value.has_remaining().then(|| value.get_u32())).collect();
        Some(Self { balance, marks })
    }

    /// The same with a transaction more.
    pub fn with(&self, amount: i64, mark: TxnId) -> Self {
        let mut account = self.clone();
        account.balance += amount;
        account.marks.push(mark);
        account
    }
}

/// The key of an account.
pub fn account_key(number: usize) -> Key {
    Key::new(Bytes::from(format!("account-{number:02}"))).expect("a short key")
}

/// One of the keys that the baton can be under.
pub fn baton_key(place: usize) -> Key {
    Key::new(Bytes::from(format!("baton-{place:02}"))).expect("a short key")
}
