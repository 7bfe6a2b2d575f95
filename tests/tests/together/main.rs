//! Locks and transactions with the real binary, real processes and real disks: members are killed and stopped while clients
//! move money and fight for locks.
//!
//! - [`bank`]: no money is made or lost, and every answer is kept.
//! - [`locks`]: no two hold a lock at once, and no write of a former holder gets through.
//!
//! The stores run one at a time. The binary is the one that was built beside these tests, or `ANNULUS_BIN`.

mod bank;
mod locks;
