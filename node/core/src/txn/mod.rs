//! Transactions over several partitions, as whoever coordinates them sees them. Pure: what is asked of partitions comes out,
//! their answers go in.
//!
//! ```text
//!             ┌─ one partition: Alone ────────────────────────────────────────────────▶ answer
//! Transaction ┤                                    ┌─ all prepared: committed ─▶ answer, then settled in the background
//!             └─ several: Prepare, all at once ────┤
//!                   ▲                              └─ one is not: Abort at the anchor ─▶ answer, or the next attempt
//!                   └──────── the next attempt ◀──────────────────────────┘
//! ```
//!
//! The first of a transaction's partitions is its *anchor*. What decides is this: an attempt that is prepared at all of its
//! partitions is committed, and nobody else can find otherwise; one that a partition has refused for good, or that the anchor
//! has decided to abort, is not, and never will be. Only the coordinator acts upon the first by itself, and tells all partitions at
//! once; each keeps that until all have heard. Whoever finds an abandoned attempt ([`Recovery`]) has each partition that has not
//! prepared refuse it, and then has the anchor decide.
//!
//! Nobody waits for each other in a circle: of two in each other's way the one that was first tried earlier waits at
//! the partition, and the other gives everything back, waits there with nothing held, and tries again. It keeps its rank, so its turn
//! comes.
//!
//! Source of the commit rule: CockroachDB, "Parallel Commits" (2019); of the rank: Rosenkrantz, Stearns and Lewis,
//! "System level concurrency control for distributed database systems" (1978), wait-die.

mod coordinator;
mod recovery;
mod settlement;
mod snapshot;

use std::collections::BTreeMap;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::codec::Writer;
use crate::id::{GroupId, PartitionId};
use crate::lane::{Operation, Reply};
use crate::partition::txn::codec::write_part;
use crate::partition::txn::{Action, Condition, Decision, Done, LockHeld, MAX_BYTES, MAX_OPERATIONS, Name, Part};
use crate::partition::{Fence, Key};

pub use coordinator::{Answer, Coordinator, Failure};
pub use recovery::Recovery;
pub use snapshot::{Seen, Snapshot};

/// All of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transaction {
    /// Its name.
    pub name: Name,
    /// What must hold of keys.
    pub conditions: Vec<Condition>,
    /// Which locks must be held.
    pub locks: Vec<LockHeld>,
    /// What is done if all conditions hold…
    pub then: Vec<Action>,
    /// …and what if one does not.
    pub otherwise: Vec<Action>,
    /// The lock under which it writes.
    pub fence: Option<Fence>,
}

/// Why a transaction can't be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Invalid {
    /// It asks for nothing.
    #[error("it has no operation and no condition")]
    Empty,
    /// It has too many parts.
    #[error("it has {0} operations and conditions; it has at most {MAX_OPERATIONS}")]
    TooManyOperations(usize),
    /// Its keys and values are too large.
    #[error("its keys and values have {0} bytes; they have at most {MAX_BYTES}")]
    TooLarge(usize),
    /// A branch has two operations on one key.
    #[error("`{branch}` names a key twice: operations {first} and {second} (counted from 0)")]
    KeyTwice {
        /// `then` or `else`.
        branch: &'static str,
        /// Where it stands first.
        first: usize,
        /// Where it stands again.
        second: usize,
    },
}

/// What one partition has to do with a transaction, and where in the transaction its operations stand.
#[derive(Clone, Debug, Default)]
pub(crate) struct Share {
    pub(crate) part: Part,
    then_at: Vec<usize>,
    otherwise_at: Vec<usize>,
}

impl Transaction {
    /// Says what is wrong with it, if anything is.
    pub fn check(&self) -> Result<(), Invalid> {
        let conditions = self.conditions.len() + self.locks.len();
        let count = conditions + self.then.len() + self.otherwise.len();
        if count == 0 {
            return Err(Invalid::Empty);
        }
        if count > MAX_OPERATIONS {
            return Err(Invalid::TooManyOperations(count));
        }
        let bytes = self.whole().bytes();
        if bytes > MAX_BYTES {
            return Err(Invalid::TooLarge(bytes));
        }
        for (branch, actions) in [("then", &self.then), ("else", &self.otherwise)] {
            let mut seen = BTreeMap::new();
            for (second, action) in actions.iter().enumerate() {
                if let Some(first) = seen.insert(action.key(), second) {
                    return Err(Invalid::KeyTwice { branch, first, second });
                }
            }
        }
        Ok(())
    }

    /// The keys, if all that it does is to read them: no condition, no write.
    pub fn only_reads(&self) -> Option<Vec<Key>> {
        let unconditional = self.conditions.is_empty() && self.locks.is_empty() && self.otherwise.is_empty();
        if !unconditional || self.then.iter().any(Action::is_write) {
            return None;
        }
        Some(self.then.iter().map(|action| action.key().clone()).collect())
    }

    /// What tells it from every other but its name: SHA-256 of its byte form, fence left out.
    pub fn digest(&self) -> [u8; 32] {
        let whole = self.whole();
        let mut writer = Writer::with_capacity(256 + whole.bytes());
        write_part(&mut writer, &whole);
        Sha256::digest(writer.finish()).into()
    }

    /// All of it as if one partition had it, without its fence.
    fn whole(&self) -> Part {
        let Self { conditions, locks, then, otherwise, .. } = self.clone();
        Part { conditions, locks, then, otherwise, fence: None }
    }

    /// Takes it apart into what each partition has to do.
    pub(crate) fn split(&self, partition_of: &impl Fn(&[u8]) -> PartitionId) -> BTreeMap<PartitionId, Share> {
        let mut shares = BTreeMap::<PartitionId, Share>::new();
        for condition in &self.conditions {
            let share = shares.entry(partition_of(condition.key.bytes())).or_default();
            share.part.conditions.push(condition.clone());
        }
        for held in &self.locks {
            shares.entry(partition_of(held.lock.bytes())).or_default().part.locks.push(held.clone());
        }
        for (at, action) in self.then.iter().enumerate() {
            let share = shares.entry(partition_of(action.key().bytes())).or_default();
            share.part.then.push(action.clone());
            share.then_at.push(at);
        }
        for (at, action) in self.otherwise.iter().enumerate() {
            let share = shares.entry(partition_of(action.key().bytes())).or_default();
            share.part.otherwise.push(action.clone());
            share.otherwise_at.push(at);
        }
        let writes = |part: &Part| part.then.iter().chain(&part.otherwise).any(Action::is_write);
        for share in shares.values_mut().filter(|share| writes(&share.part)) {
            share.part.fence = self.fence.clone();
        }
        shares
    }
}

impl Share {
    /// Puts what came of the branch here to its places among the results of the whole.
    pub(crate) fn place(&self, decision: Decision, dones: &[Done], results: &mut [Option<Done>]) {
        let places = match decision {
            Decision::Then => &self.then_at,
            Decision::Otherwise => &self.otherwise_at,
            Decision::Abort => return,
        };
        for (at, done) in places.iter().zip(dones) {
            results[*at] = Some(done.clone());
        }
    }
}

/// Something to ask of a group.
#[derive(Clone, PartialEq, Debug)]
pub struct Ask {
    /// The number that the answer must carry.
    pub number: u32,
    /// The group.
    pub group: GroupId,
    /// What is asked.
    pub operation: Operation,
}

/// What is to be done next.
#[derive(Debug)]
pub struct Turn<A> {
    /// Things to ask, all at once.
    pub asks: Vec<Ask>,
    /// It wants to be woken after so long.
    pub wake_in: Option<Duration>,
    /// The answer. What is still to be done after it is done in the background.
    pub answer: Option<A>,
    /// Whether nothing more is to be done, and no answer is waited for.
    pub is_over: bool,
}

impl<A> Default for Turn<A> {
    fn default() -> Self {
        Self { asks: Vec::new(), wake_in: None, answer: None, is_over: false }
    }
}

/// What asks groups, and goes on by their answers.
pub trait Machine {
    /// What it finds out, or brings about.
    type Answer;

    /// Begins.
    fn begin(&mut self) -> Turn<Self::Answer>;
    /// A group has answered, or nobody could be asked in time ([`Reply::Refused`], [`Reply::OutcomeUnknown`]).
    fn hear(&mut self, number: u32, reply: Reply) -> Turn<Self::Answer>;
    /// The time that it wanted to wait has passed.
    fn wake(&mut self) -> Turn<Self::Answer>;
}

/// The questions that wait for an answer.
#[derive(Debug, Default)]
struct Asked {
    last: u32,
    waiting: BTreeMap<u32, PartitionId>,
}

impl Asked {
    /// A question to a partition.
    fn ask(&mut self, partition: PartitionId, operation: Operation) -> Ask {
        self.last += 1;
        self.waiting.insert(self.last, partition);
        Ask { number: self.last, group: partition.group(), operation }
    }

    /// The partition whose answer this is; `None`: nobody waits for it any more.
    fn answered(&mut self, number: u32) -> Option<PartitionId> {
        self.waiting.remove(&number)
    }

    /// Nobody waits for the answers that are still to come.
    fn forget(&mut self) {
        self.waiting.clear();
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}
