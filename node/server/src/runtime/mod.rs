//! The shell around the core: threads, channels and clocks. It decides nothing; it does what a lane's output says.
//!
//! ```text
//!  I/O threads (HTTP, peer links) ──LaneInput──▶ Rounds ──Writes, Frozen──▶ WAL thread ──Frozen──▶ checkpoint thread
//!        ▲   ▲                                    │ │ ▲                        │                        │
//!        │   └─────── frames to peers ────────────┘ │ └───────LaneEvent────────┴◀──────Checkpointed─────┘
//!        └─────────── replies, a batch a round ─────┘
//! ```
//!
//! A round runs on whichever of these threads the driver lets have the lane: an I/O thread or the WAL thread if there is
//! little to do (`driver`, `io_lanes`), or else the lane's own.
//!
//! Every channel is bounded. A full inbox is an answer (429) to clients and a lost message to peers; what a lane itself
//! waits for (syncs, checkpoints) comes on a channel of its own, with room for all that can be under way.

mod checkpoint;
mod clock;
mod driver;
mod inbox;
mod io_lanes;
mod lane;
mod links;
mod replies;
mod rounds;
mod shared;
mod wal;

pub use clock::Clock;
pub use driver::{LaneHandle, OnFailure};
pub use inbox::InboxFull;
pub use io_lanes::IoLanes;
pub use lane::{LaneFailure, LaneInput, LaneSetup, ReplyTo, spawn};
pub use links::{LinkQueue, LinkState, Links};
pub use replies::{ReplyBatch, ReplyQueue, Waiters, WaitsFor, thread_of};
pub use shared::{LaneGauges, Shared};
