//! The shell around the core: threads, channels and clocks. It decides nothing; it does what a lane's output says.
//!
//! ```text
//!  I/O threads (HTTP, peer links) ──LaneInput──▶ lane thread ──Writes──▶ WAL thread
//!        ▲   ▲                                    │  ▲  │                  │
//!        │   └─────── frames to peers ────────────┘  │  └─Frozen─▶ checkpoint thread
//!        └─────────── replies, a batch a round ──────┘◀──LaneEvent─────────┴───┘
//! ```
//!
//! Every channel is bounded. A full inbox is an answer (429) to clients and a lost message to peers; what a lane itself
//! waits for (syncs, checkpoints) comes on a channel of its own, with room for all that can be under way.

mod checkpoint;
mod clock;
mod lane;
mod links;
mod replies;
mod shared;
mod wal;

pub use clock::Clock;
pub use lane::{InboxFull, LaneFailure, LaneHandle, LaneInput, LaneSetup, ReplyTo, spawn};
pub use links::{LinkQueue, LinkState, Links};
pub use replies::{ReplyBatch, ReplyQueue, Waiters, lost, thread_of};
pub use shared::{LaneGauges, Shared};
