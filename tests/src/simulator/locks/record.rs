//! What clients asked of locks and what they were told, in virtual time.

use annulus_core::partition::lock::{Mode, Outcome};
use bytes::Bytes;

use super::plan::Intent;

/// Names a wish: its index in [`Record::wishes`].
pub type WishId = usize;

/// A client's wish to hold a lock. However often it is asked for, it has one name.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The client.
    pub client: usize,
    /// The lock.
    pub lock: usize,
    /// Whether others may share it.
    pub mode: Mode,
    /// The lease, in milliseconds.
    pub ttl_ms: u64,
    /// How long each attempt waits, in milliseconds.
    pub wait_ms: u64,
}

/// What a client asked of a lock, with all its attempts.
#[derive(Debug, Clone)]
pub struct Call {
    /// For which of its wishes.
    pub wish: WishId,
    /// What it asked.
    pub action: Action,
    /// When it asked first.
    pub invoked: u64,
    /// How often it asked.
    pub attempts: u32,
    /// What it was told, if it was told anything.
    pub answer: Option<Answer>,
}

/// What is asked of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// To hold it.
    Acquire,
    /// To hold it for longer.
    Renew {
        /// The client's token.
        token: u64,
    },
    /// To hold it no more.
    Release {
        /// The client's token.
        token: u64,
    },
}

/// What a client was told of a lock.
#[derive(Debug, Clone)]
pub struct Answer {
    /// When the attempt was sent that this is the answer to.
    pub sent: u64,
    /// When the client took note of it.
    pub told: u64,
    /// What it was told.
    pub outcome: Outcome,
    /// Until when it counts on its lease, if it has one; may be over when it is told.
    pub until: u64,
}

/// A write that was refused because of its token.
#[derive(Debug, Clone, Copy)]
pub struct Refused {
    /// The client's wish.
    pub wish: WishId,
    /// Its token.
    pub token: u64,
    /// The key that it was to change.
    pub key: usize,
    /// When the client took note of it.
    pub told: u64,
    /// The token that was said to be the newest.
    pub newest: Option<u64>,
}

/// What a transaction under the condition that a lock is held has said of that.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    /// The client's wish.
    pub wish: WishId,
    /// Its token.
    pub token: u64,
    /// When it was asked for first.
    pub invoked: u64,
    /// When the client took note of what came of it.
    pub told: u64,
    /// Whether the token held the lock.
    pub is_held: bool,
}

/// Everything that clients asked of locks and were told.
#[derive(Debug, Default)]
pub struct Record {
    /// All wishes.
    pub wishes: Vec<Wish>,
    /// All calls, in the order in which they began.
    pub calls: Vec<Call>,
    /// What transactions have said of who holds a lock.
    pub claims: Vec<Claim>,
    /// All writes that were refused.
    pub refused: Vec<Refused>,
}

impl Record {
    /// A client begins to wish for a lock.
    pub fn wish(&mut self, client: usize, intent: &Intent) -> WishId {
        let Intent { lock, mode, ttl_ms, wait_ms, .. } = *intent;
        self.wishes.push(Wish { client, lock, mode, ttl_ms, wait_ms });
        self.wishes.len() - 1
    }

    /// A client begins to ask for something. Returns the number of the call.
    pub fn call(&mut self, now: u64, wish: WishId, action: Action) -> usize {
        self.calls.push(Call { wish, action, invoked: now, attempts: 0, answer: None });
        self.calls.len() - 1
    }

    /// How many calls were answered.
    pub fn answered(&self) -> usize {
        self.calls.iter().filter(|call| call.answer.is_some()).count()
    }
}

/// What a client calls itself.
pub fn owner_of(client: usize) -> Bytes {
    Bytes::from(format!("client-{client}"))
}

/// What a client calls a wish.
pub fn request_of(wish: WishId) -> Bytes {
    Bytes::from(format!("wish-{wish}"))
}
