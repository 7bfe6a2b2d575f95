//! The partition machine: what the committed entries of one partition's log do to its records.
//!
//! ```text
//! Command ──encode──▶ log entry ──commit──▶ apply(index, entry) ──▶ records + Outcome
//!                                                 │
//!                     kv: put, delete ────────────┤   expiry: keys, leases, idempotency records and fences whose
//!                     lock: acquire, release … ───┤           time has come
//!                     txn: prepare, decide … ─────┘
//! ```
//!
//! A pure function of the entries: replicas that apply the same entries hold the same records. It never reads a clock.
//! Each entry carries its proposer's clock, the machine keeps the highest it has seen, and a key expires only by an
//! [`Command::Expire`] entry.
//!
//! What a client asks of keys is in `command`, of locks in `lock` and of several keys at once in `txn`, what an entry says in `entry`, what is stored in
//! `record`; `fence` refuses writes of holders that were replaced.

pub mod codec;
mod command;
mod entry;
mod expiry;
mod fence;
pub mod lock;
mod machine;
mod record;
pub mod txn;

pub use command::*;
pub use entry::{Command, Entry};
pub use fence::{FENCE_KEPT_MS, Fence, MAX_FENCES};
pub use machine::{Applied, Error, Partition};
