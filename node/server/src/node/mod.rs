//! A member as a process: opens its volume, starts its threads, serves until it is told to stop.
//!
//! ```text
//!  run ─▶ volume (lock, identity, map) ─▶ lanes ─▶ links ─▶ I/O threads: clients, admin, peers
//!                                                   │
//!                                  membership: no map yet ─▶ bootstrap ─▶ serving
//! ```

mod collector;
mod disk_space;
mod io;
mod map_file;
mod membership;
mod quarantine;
mod start;

pub use membership::Membership;
pub use start::{Error, run};
