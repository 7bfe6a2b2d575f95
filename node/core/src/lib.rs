//! Every decision of the Annulus data plane: ring, replicas, partitions, map, lane.
//!
//! ```text
//!  ring ─────▶ map        who holds what: pure functions
//!               │
//!  lane ─▶ replica ─▶ partition        what happens: events in, effects out
//!               └───▶ state (a trait)  where records live
//!  txn ──────▶ lane (asks, answers)    what coordinates transactions over partitions
//!  codec: the bytes of all of them
//! ```
//!
//! Everything here is synchronous and pure: time and bytes come in as arguments, results go out as values. Nothing here
//! opens a file or a socket, reads a clock, draws randomness or starts a thread, so the simulator can drive all of it and
//! get the same bytes for the same seed.

pub mod bugs;
pub mod codec;
pub mod id;
pub mod lane;
pub mod map;
pub mod partition;
pub mod replica;
pub mod ring;
pub mod state;
pub mod time;
pub mod txn;
