//! Locks: who holds what, who waits for it, and until when.
//!
//! ```text
//!            ┌── nobody holds it ──────────────▶ held ──release, lease over──▶ gone
//!  acquire ──┤                                   ▲ │ ▲
//!            ├── held, may wait ──▶ waiting ─────┘ └─┘ renew
//!            │                        │  │  first in the queue, and it fits with who holds
//!            └── held ──▶ refused     │  └──▶ gone: its wait is over, or its client is
//! ```
//!
//! Strictly first in, first out: nobody overtakes a waiting one, a sharer neither. A token is the index of the entry that
//! asked for the lock, so tokens rise in the order in which the lock is granted, and each holder has one of its own.
//!
//! A lease ends by an entry, never by a clock alone: the leader proposes it when the partition's clock has passed the
//! deadline. A new leader, or one that was stopped for long, first gives every lease one whole term more
//! ([`super::Command::ExtendLeases`]): its holder may have tried to renew it while nobody listened.
//!
//! `queue` is the machine of one lock, pure; `apply` keeps the records; `codec` has the byte forms.

mod apply;
pub mod codec;
mod queue;

use bytes::Bytes;

pub(super) use queue::Lock;

/// Longest name of a lock, in bytes. The shortest is one byte.
pub const MAX_NAME_BYTES: usize = 512;
/// Longest name of an owner, in bytes. The shortest is one byte.
pub const MAX_OWNER_BYTES: usize = 255;
/// Longest name that an owner gives a request, in bytes. The shortest is one byte.
pub const MAX_REQUEST_BYTES: usize = 255;
/// Longest description, in bytes.
pub const MAX_DESCRIPTION_BYTES: usize = 255;
/// Shortest lease, in milliseconds.
pub const MIN_TTL_MS: u64 = 500;
/// Longest lease: a day, in milliseconds.
pub const MAX_TTL_MS: u64 = 24 * 3600 * 1000;
/// Most locks that one request renews.
pub const MAX_RENEWALS: usize = 256;
/// Largest body of such a request, in bytes: so many names at their longest, each byte written as `\u00XX`.
pub const MAX_RENEWALS_BODY_BYTES: usize = 1024 * 1024;
/// Longest wait: a day, in milliseconds.
pub const MAX_WAIT_MS: u64 = 24 * 3600 * 1000;
/// Most that wait for one lock.
pub const MAX_WAITING: usize = 1024;
/// Most that share one lock.
pub const MAX_HOLDERS: usize = 1024;
/// Most waiting ones that a [`View`] names.
pub const MAX_WAITING_SHOWN: usize = 100;

/// The name of a lock: 1 to [`MAX_NAME_BYTES`] bytes, any bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Name(Bytes);

/// Why bytes are not the name of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the name of the lock has {0} bytes; it has 1 to {MAX_NAME_BYTES} bytes")]
pub struct NameError(usize);

impl Name {
    /// The name with these bytes.
    pub fn new(bytes: Bytes) -> Result<Self, NameError> {
        if (1..=MAX_NAME_BYTES).contains(&bytes.len()) { Ok(Self(bytes)) } else { Err(NameError(bytes.len())) }
    }

    /// Its bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }
}

/// Whom a holder lets hold the lock beside it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Nobody.
    Exclusive,
    /// Others that share it.
    Shared,
}

/// What is asked of a lock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// To hold it.
    Acquire(Acquire),
    /// To hold it for longer: the lease begins anew with the entry.
    Renew {
        /// The lock.
        name: Name,
        /// The holder's token.
        token: u64,
        /// The new lease, in milliseconds.
        ttl_ms: u64,
    },
    /// To hold it no more.
    Release {
        /// The lock.
        name: Name,
        /// The holder's token.
        token: u64,
    },
    /// Whoever asked for it is gone: its place goes, unless it was asked for again since.
    Leave {
        /// The lock.
        name: Name,
        /// The token of whoever holds it or waits.
        token: u64,
        /// The index of the entry that asked for it last, as far as the leader knows.
        asked: u64,
    },
}

/// A wish to hold a lock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Acquire {
    /// The lock.
    pub name: Name,
    /// Who wants it: 1 to [`MAX_OWNER_BYTES`] bytes.
    pub owner: Bytes,
    /// The owner's name for this wish: said again, it finds the place that it has already. 1 to [`MAX_REQUEST_BYTES`] bytes.
    pub request: Bytes,
    /// What for, for people: up to [`MAX_DESCRIPTION_BYTES`] bytes.
    pub description: Bytes,
    /// Whether others may share it.
    pub mode: Mode,
    /// The lease, in milliseconds from the entry that grants it.
    pub ttl_ms: u64,
    /// How long to wait for it, in milliseconds; 0: not at all.
    pub wait_ms: u64,
}

impl Command {
    /// The lock that it is about.
    pub fn name(&self) -> &Name {
        match self {
            Self::Acquire(Acquire { name, .. })
            | Self::Renew { name, .. }
            | Self::Release { name, .. }
            | Self::Leave { name, .. } => name,
        }
    }
}

/// Who holds a lock, as others are told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holder {
    /// Its token.
    pub token: u64,
    /// Its name.
    pub owner: Bytes,
    /// What for.
    pub description: Bytes,
}

/// What an entry did to a lock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied {
    /// The lock.
    pub name: Name,
    /// What came of the command.
    pub outcome: Outcome,
    /// What became of those that waited.
    pub settled: Vec<Settled>,
}

/// What came of a [`Command`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The lock is held.
    Granted {
        /// The token.
        token: u64,
        /// The lease ends so many milliseconds after the request was made: count from when it was *sent*.
        valid_ms: u64,
    },
    /// It waits: the lane answers when that has an end.
    Queued {
        /// The token that it will have.
        token: u64,
        /// The partition's clock by then.
        clock_ms: u64,
    },
    /// Somebody else holds it, and the wait, if there was one, is over.
    Held {
        /// Who.
        by: Holder,
        /// How many wait.
        waiting: u32,
    },
    /// Too many wait for it, or share it, already.
    Full,
    /// The owner has used the request's name for another wish, which still stands.
    RequestConflict,
    /// The lease goes on.
    Renewed {
        /// It ends so many milliseconds after the request was made: count from when it was *sent*.
        valid_ms: u64,
    },
    /// It is held or waited for no more.
    Released,
    /// Nobody holds it, or waits for it, with this token. Nothing was changed.
    NotHeld {
        /// Who holds it, if anybody does.
        by: Option<Holder>,
    },
    /// A transaction relies on its being held, and is not over yet. Nothing was changed: try again.
    Pinned,
}

/// What an entry did to one that waited.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Settled {
    /// It holds the lock now.
    Granted {
        /// Its token.
        token: u64,
        /// When its lease ends, on the partition's clock.
        deadline_ms: u64,
    },
    /// Its wait is over.
    Gone {
        /// The token that it would have had.
        token: u64,
        /// Who holds the lock, and how many wait; `None`: it was taken out of the queue, and may ask again.
        held: Option<(Holder, u32)>,
    },
}

/// One place at a lock, as it is shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlaceView {
    /// Its token.
    pub token: u64,
    /// Whose it is.
    pub owner: Bytes,
    /// What for.
    pub description: Bytes,
    /// Whether others may share it.
    pub mode: Mode,
    /// The lease that was asked for, in milliseconds.
    pub ttl_ms: u64,
    /// How long it is held, or waited for, in milliseconds.
    pub since_ms: u64,
    /// How long the lease, or the wait, still lasts at least, in milliseconds.
    pub left_ms: u64,
}

/// A lock, as it is shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct View {
    /// Its name.
    pub name: Name,
    /// Who holds it: one, or some that share it.
    pub holders: Vec<PlaceView>,
    /// The first [`MAX_WAITING_SHOWN`] that wait, in order.
    pub waiting: Vec<PlaceView>,
    /// How many wait.
    pub waiting_count: u32,
}
