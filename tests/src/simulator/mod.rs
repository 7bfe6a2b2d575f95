//! Whole nodes in one thread, on virtual time: everything that is decided by chance is decided by the seed.
//!
//! ```text
//!   scenario ─ what the run is made of          trace ─ what happened, the same bytes for the same seed
//!      │
//!   world ── events (virtual time) ── nemesis ─────────────────────────────┐
//!      │                                                                    ▼
//!   client, locks, txns ─────▶ node ── lane (its threads) ── core Lane      crashes, cuts, pauses, clocks,
//!      │   ◀─replies──    │ ▲            │                             slow and full disks, bad weather
//!      ▼                  │ └─frames─ network                               │
//!   history               └────────── storage: WAL, overlay, redb, identity │
//!      │                                 └── disk (loses what is not synced)┘
//!      ▼
//!   checks, linearizability, locks::checks
//! ```
//!
//! `operated` is the same store for a test that plays the machines and the operator: members run when they are told to, and
//! answer what their admin ports are asked (`admin`).
//!
//! The core and the storage are the very code of the node, redb included. Only the shell is a model: where the node has
//! threads, sockets and timers, here are steps that the event queue puts in order. Nothing here reads a clock or draws
//! from anything but the seed's [`dice::Dice`].

pub mod admin;
pub mod asking;
pub mod checks;
pub mod client;
pub mod dice;
pub mod disk;
pub mod events;
pub mod faults;
pub mod growth;
pub mod history;
pub mod lane;
pub mod linearizability;
pub mod locks;
mod membership;
mod nemesis;
pub mod network;
pub mod node;
pub mod operated;
pub mod operator;
pub mod ring_checks;
pub mod scenario;
pub mod seeds;
pub mod trace;
pub mod txns;
pub mod work;
pub mod world;

pub use scenario::Profile;
pub use world::{Report, run};
