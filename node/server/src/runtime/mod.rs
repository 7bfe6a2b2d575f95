//! The shell around the core: threads, channels and clocks. It decides nothing; it does what a lane's output says.
//!
//! ```text
//!  I/O threads (HTTP, peer links) ──LaneInput──▶ lane thread ──Writes──▶ WAL thread
//!        ▲   ▲                                    │  ▲  │                  │
//!        │   └─────── frames to peers ────────────┘  │  └─Frozen─▶ checkpoint thread
//!        └─────────── replies, a batch a round ──────┘◀──LaneEvent─────────┴───┘
//! ```
//!
//! Small rounds of a lane run on the thread that brought their inputs (`driver`, `local`), and wake nobody up.
//!
//! Every channel is bounded. A full inbox is an answer (429) to clients and a lost message to peers; what a lane itself
//! waits for (syncs, checkpoints) comes on a channel of its own, with room for all that can be under way.

mod checkpoint;
mod clock;
mod driver;
mod lane;
mod links;
mod local;
mod replies;
mod rounds;
mod shared;
mod wal;

pub use clock::Clock;
pub use driver::{InboxFull, LaneHandle, OnFailure};
pub use lane::{LaneFailure, LaneInput, LaneSetup, ReplyTo, spawn};
pub use links::{LinkQueue, LinkState, Links};
pub use local::LocalLanes;
pub use replies::{ReplyBatch, ReplyQueue, Waiters, WaitsFor, thread_of};
pub use shared::{LaneGauges, Shared};
