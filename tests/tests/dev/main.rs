//! The store as a person starts it: `annulus dev`, the real binary, real processes, real disks.
//!
//! - [`session`]: what the README promises of a store that is well.
//! - [`faults`]: members are killed, stopped and cut short under load; nothing that was acknowledged is lost, no read is
//!   stale.
//! - [`start_and_end`]: how `dev` starts, ends, and refuses to start.
//! - [`failover`]: how long writes are not possible when a member dies. `ANNULUS_KILLS` says how often to measure.
//!
//! The stores run one at a time. The binary is the one that was built beside these tests, or `ANNULUS_BIN`.

mod failover;
mod faults;
mod session;
mod start_and_end;
