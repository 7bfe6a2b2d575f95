//! Turns a `StorageCluster` into pods, volumes and a ring of members, and keeps it so.
//!
//! ```text
//!  watches ─▶ caches ─┐
//!                     ▼
//!  queue ─▶ reconcile: observe ─▶ validate ─▶ plan ─▶ apply ─▶ status
//!                        │  ▲                          │
//!                        ▼  └── stores: the nodes ─────┘
//! ```
//!
//! `plan`, `resources`, `status` and `validate` are pure. Before anything is changed all of it is read anew, past the caches.

pub mod addresses;
pub mod apply;
pub mod caches;
pub mod health;
pub mod inject;
pub mod lease;
pub mod metrics;
pub mod model;
pub mod observe;
pub mod operate;
pub mod plan;
mod process;
pub mod queue;
pub mod reconcile;
pub mod requests;
pub mod resources;
#[cfg(any(test, feature = "simulated"))]
pub mod simulated;
pub mod status;
pub mod stores;
pub mod validate;
pub mod watches;
