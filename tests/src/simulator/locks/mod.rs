//! Locks: clients that hold them, write under them, stand still with them, and lose them; and the judges of all that.
//!
//! ```text
//!   plan ─ what is drawn          locker ──acquire, renew, release──▶ members
//!                                  │  │ └──writes that carry the token──▶ members ─▶ the history of keys
//!                                  ▼  │
//!                     record: who was told what, and counts on what until when
//!                                  │         sightings: what each replica shows of each lock
//!                                  ▼            │
//!                               checks ◀────────┘
//! ```
//!
//! A lease is measured by its client, from when it sent what was answered, on a clock of its own.

pub mod checks;
pub mod locker;
pub mod plan;
pub mod record;
pub mod sightings;
mod under;

use annulus_core::partition::Scan;
use annulus_core::partition::lock::Name;
use bytes::Bytes;

pub use plan::Plan;

/// What the names of all locks begin with.
const LOCK_PREFIX: &str = "lock-";

/// How much of a lease its client counts on, in 1000: members' clocks may run 10 % fast, and its own 10 % slow.
pub const COUNTED_PER_MILLE: u64 = 800;

/// The name of a lock.
pub fn lock_name(number: usize) -> Name {
    Name::new(Bytes::from(format!("{LOCK_PREFIX}{number:02}"))).expect("a short name")
}

/// The number of a lock with this name.
pub fn lock_number(name: &[u8]) -> Option<usize> {
    std::str::from_utf8(name).ok()?.strip_prefix(LOCK_PREFIX)?.parse().ok()
}

/// A page of all locks of one partition.
pub fn all_locks() -> Scan {
    Scan { prefix: Bytes::from_static(LOCK_PREFIX.as_bytes()), after: None, limit: 1000, values: true }
}
