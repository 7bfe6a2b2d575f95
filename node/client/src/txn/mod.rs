//! Transactions: several keys, read and changed at one moment, wherever they lie.
//!
//! ```text
//!  Request::send ─▶ asked under its id ─┬─ done ────────────────────────▶ Done: `then`, or `else`
//!                     ▲                 ├─ others in its way ─┐
//!                     │                 ├─ answer lost ───────┤
//!                     └───── wait ──────│◀────────────────────┘
//!                                       └─ its time is over ────────────▶ TxnConflict, OutcomeUnknown
//! ```
//!
//! Each has an id, drawn at random unless it is given one, and the store does it once under that: so it is asked again when
//! an answer was lost, of any member. One that only reads, and was given no id, is a snapshot: nothing is remembered of it.
//!
//! What it never does: take a refusal for the end while somebody who was asked before may still be at it. That a condition does not
//! hold is no refusal: the store remembers that under the id, too.
//!
//! ```no_run
//! # async fn example(client: annulus_client::Client) -> Result<(), annulus_client::Error> {
//! let [alice, bob] = client.get_many(["alice", "bob"]).await?.try_into().expect("as many as were asked for");
//! let (alice, bob) = (alice.expect("there"), bob.expect("there"));
//! let transfer = client.txn().if_version("alice", alice.version).if_version("bob", bob.version);
//! let done = transfer.put("alice", "70").put("bob", "30").send().await?;
//! assert!(done.committed, "somebody else was here meanwhile");
//! # Ok(())
//! # }
//! ```

mod done;
mod list;
mod sending;
mod wire;

use std::time::Duration;

use annulus_core::partition::Key;
use annulus_core::partition::txn::{MAX_NAME_BYTES, Name};
use bytes::Bytes;

use crate::client::invalid;
use crate::lock::Fence;
use crate::options::millis;
use crate::{Client, Error, Item, Result, Version};
pub use annulus_core::partition::txn::MAX_OPERATIONS;
pub use done::{Done, Outcome};
pub use list::{Fate, Open, Opens};
pub(crate) use list::{fate, open};
use sending::Sending;
pub(crate) use sending::timeout as store_timeout;
use wire::{Body, Named, Put, Step, Wanted};
pub use wire::{Operation, Verb};

/// A transaction, to be sent with [`Request::send`].
///
/// If all conditions hold, its operations are done, else those of [`Request::or_else`]. A key may stand once among the
/// conditions and once in each branch; reads see the keys as they were before the branch's writes.
#[derive(Debug, Clone)]
pub struct Request {
    client: Client,
    body: Body,
    /// The id that it was given, or one drawn at random.
    id: String,
    fence: Option<Fence>,
    deadline: Option<Duration>,
    /// The first thing that can't be.
    fault: Option<Error>,
}

/// What is done when a condition does not hold (see [`Request::or_else`]).
#[derive(Debug, Clone, Default)]
pub struct Branch {
    steps: Vec<Step>,
    fault: Option<Error>,
}

impl Branch {
    /// Puts a value under a key.
    pub fn put(self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.push(key.as_ref(), |key| Step { put: Some(Put::new(key, value.as_ref(), None)), ..Step::default() })
    }

    /// Puts a value under a key that goes away by itself after this long (from 1 ms to 10 years).
    pub fn put_ttl(self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, ttl: Duration) -> Self {
        let ttl_ms = Some(millis(ttl));
        self.push(key.as_ref(), |key| Step { put: Some(Put::new(key, value.as_ref(), ttl_ms)), ..Step::default() })
    }

    /// Deletes a key.
    pub fn delete(self, key: impl AsRef<[u8]>) -> Self {
        self.push(key.as_ref(), |key| Step { delete: Some(Named::new(key)), ..Step::default() })
    }

    /// Reads a key.
    pub fn get(self, key: impl AsRef<[u8]>) -> Self {
        self.push(key.as_ref(), |key| Step { get: Some(Named::new(key)), ..Step::default() })
    }

    fn push(mut self, key: &[u8], step: impl FnOnce(&[u8]) -> Step) -> Self {
        note(&mut self.fault, check(key));
        self.steps.push(step(key));
        self
    }
}

impl Request {
    pub(crate) fn new(client: Client) -> Self {
        // Letters first, so that it is none of those that the store makes up.
        let id = format!("txn-{:032x}", rand::random::<u128>());
        Self { client, body: Body::default(), id, fence: None, deadline: None, fault: None }
    }

    /// The transaction that stands in JSON, as it is sent to the store: `{"if":[…],"then":[…],"else":[…]}`.
    pub(crate) fn from_json(client: Client, json: &[u8]) -> Result<Self> {
        let body: Body =
            serde_json::from_slice(json).map_err(|error| invalid("transaction", "JSON", &error.to_string()))?;
        let request = Self::new(client);
        match body.id.clone() {
            Some(id) => Ok(Self { body, ..request }.id(id)),
            None => Ok(Self { body, ..request }),
        }
    }

    /// Only if the key has exactly this version.
    pub fn if_version(self, key: impl AsRef<[u8]>, version: Version) -> Self {
        self.wants(key.as_ref(), |wanted| wanted.version = Some(version.0))
    }

    /// Only if the key is there; or, with `false`, only if it is not.
    pub fn if_exists(self, key: impl AsRef<[u8]>, exists: bool) -> Self {
        self.wants(key.as_ref(), |wanted| wanted.exists = Some(exists))
    }

    /// Only if the key has this value.
    pub fn if_value(self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.wants(key.as_ref(), |wanted| (wanted.value, wanted.value_base64) = wire::pair(value.as_ref()))
    }

    /// Only if the lock is held with this token, at that very moment.
    pub fn if_held(mut self, lock: impl Into<Fence>) -> Self {
        let fence = lock.into();
        let (lock, lock_base64) = wire::pair(fence.name());
        self.body.conditions.push(Wanted { lock, lock_base64, token: Some(fence.token()), ..Wanted::default() });
        self
    }

    /// Puts a value under a key.
    pub fn put(self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.then(|branch| branch.put(key, value))
    }

    /// Puts a value under a key that goes away by itself after this long (from 1 ms to 10 years).
    pub fn put_ttl(self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, ttl: Duration) -> Self {
        self.then(|branch| branch.put_ttl(key, value, ttl))
    }

    /// Deletes a key.
    pub fn delete(self, key: impl AsRef<[u8]>) -> Self {
        self.then(|branch| branch.delete(key))
    }

    /// Reads a key.
    pub fn get(self, key: impl AsRef<[u8]>) -> Self {
        self.then(|branch| branch.get(key))
    }

    /// What is done instead when a condition does not hold.
    pub fn or_else(mut self, branch: impl FnOnce(Branch) -> Branch) -> Self {
        let Branch { steps, fault } = branch(Branch { steps: std::mem::take(&mut self.body.otherwise), fault: None });
        self.body.otherwise = steps;
        self.fault = self.fault.or(fault);
        self
    }

    /// The lock under which its writes are done ([`Lock::fence`](crate::lock::Lock::fence)): nothing happens if a write under
    /// a newer token was there, or the token does not hold the lock (see [`Fence`]).
    pub fn fence(mut self, fence: Fence) -> Self {
        self.fence = Some(fence);
        self
    }

    /// The id under which it is done once, however often it is sent: 1 to 64 letters, digits, `-`, `_`, `.` or `~`, not
    /// beginning with `~`. The store knows it for ten minutes.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = id.into();
        let name = Name::new(Bytes::from(self.id.clone())).ok().filter(|name| !name.is_made_up());
        if name.is_none() {
            let reason =
                format!("it must be 1 to {MAX_NAME_BYTES} letters, digits, -, _, . or ~, and not begin with ~");
            note(&mut self.fault, Err(invalid("transaction id", &self.id, &reason)));
        }
        self.body.id = Some(self.id.clone());
        self
    }

    /// How long it may take, retries included (as long as the client lets every call).
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// The id under which it is sent.
    pub fn name(&self) -> &str {
        &self.id
    }

    /// What it does if its conditions hold, or else: each operation, and the key that it is for.
    pub fn operations(&self, then: bool) -> Vec<Operation> {
        let steps = if then { &self.body.then } else { &self.body.otherwise };
        steps.iter().filter_map(Step::operation).collect()
    }

    /// Whether all that it does is to read, and nobody wants to hear of it later.
    fn is_snapshot(&self) -> bool {
        let Body { id, conditions, then, otherwise } = &self.body;
        id.is_none() && conditions.is_empty() && otherwise.is_empty() && then.iter().all(|step| step.get.is_some())
    }

    /// Has it done, and asks again until its time is over: when an answer was lost, when others were in its way, when the
    /// store could not do it.
    ///
    /// # Errors
    ///
    /// [`Error::TxnConflict`] when others were in its way for too long. [`Error::OutcomeUnknown`] when its time was over and
    /// somebody who was asked may still do it, or has done it: [`Client::txn_fate`] tells, and so does the same transaction
    /// under the same id. [`Error::Conflict`] when the id was used for another.
    pub async fn send(self) -> Result<Done> {
        Sending::new(self)?.done().await
    }

    fn then(mut self, grow: impl FnOnce(Branch) -> Branch) -> Self {
        let Branch { steps, fault } = grow(Branch { steps: std::mem::take(&mut self.body.then), fault: None });
        self.body.then = steps;
        self.fault = self.fault.or(fault);
        self
    }

    fn wants(mut self, key: &[u8], want: impl FnOnce(&mut Wanted)) -> Self {
        note(&mut self.fault, check(key));
        let (key, key_base64) = wire::pair(key);
        let mut wanted = Wanted { key, key_base64, ..Wanted::default() };
        want(&mut wanted);
        self.body.conditions.push(wanted);
        self
    }
}

fn check(key: &[u8]) -> Result<()> {
    Ok(Key::new(Bytes::copy_from_slice(key)).map(drop)?)
}

fn note(fault: &mut Option<Error>, checked: Result<()>) {
    if let Err(error) = checked {
        fault.get_or_insert(error);
    }
}

/// Reads keys as they all were at one moment. What was asked for twice is read once.
pub(crate) async fn get_many(client: &Client, keys: Vec<Bytes>) -> Result<Vec<Option<Item>>> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let mut different = keys.clone();
    different.sort_unstable();
    different.dedup();
    let request = different.iter().fold(Request::new(client.clone()), |request, key| request.get(key));
    let done = request.send().await?;
    let items = done.results.into_iter().flatten().map(Outcome::into_item).collect::<Option<Vec<_>>>();
    let items = items.filter(|items| done.committed && items.len() == different.len());
    let items = items.ok_or_else(|| crate::client::strange_read("not the values that were asked for"))?;
    let item = |key: &Bytes| items[different.binary_search(key).expect("it is one of them")].clone();
    Ok(keys.iter().map(item).collect())
}
