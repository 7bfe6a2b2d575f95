//! The operator without a cluster. One program, since each would take minutes to link.
//!
//! ```text
//!  planner ────▶ world ──▶ store        what is planned, against a store that is played, and faults of everything
//!  reconciler ─▶ scene ──▶ nodes ─▶ store   whole rounds against a simulated API server, with a crash after every write
//!  objects ────▶ scene                  the same, while somebody changes or takes the cluster's own objects
//!  watching ───▶ nodes                  the whole process, while its watches break
//!  injecting ──▶ nodes                  the same with its webhook: its certificates
//! ```
//!
//! `cargo test -p annulus-operator --test operator planner` runs one of them.

mod injecting;
mod nodes;
mod objects;
mod planner;
mod reconciler;
mod scene;
mod store;
mod watching;
mod world;
