//! A member of the store as a process: the shell around `annulus-core`.
//!
//! ```text
//!  clients ─▶ http ─▶ router ─▶ runtime (lanes) ─▶ storage
//!        └▶ transactions ┘└────▶ peers ◀────┘
//!  node: puts them together, starts and stops them
//! ```
//!
//! The core decides; everything here carries out. No module here knows Raft.

pub mod config;
pub mod http;
pub mod logging;
pub mod metrics;
mod names;
pub mod node;
pub mod peers;
pub mod router;
pub mod runtime;
pub mod storage;
pub mod transactions;
pub mod units;
