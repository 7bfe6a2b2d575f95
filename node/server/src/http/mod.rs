//! The HTTP edge: bytes of clients in, operations for groups out, and back.
//!
//! ```text
//! socket ─▶ server (accept, limits) ─▶ guard (deadlines) ─▶ hyper ─▶ edge (route) ─▶ kv · scan · lock · txn · ring · admin … ─▶ Router
//!                                        └▶ framing (faults that hyper lets through)
//! ```
//!
//! Everything a client says is parsed here, once, into types that can't be wrong; every limit is checked here, and what is
//! refused is a [`problem`] that names the limit or the field. The edge never looks into a partition, never retries a
//! write, and never holds more than its `limits` allow. It stays on the thread that serves it: it waits for no
//! other thread, and the few counters that threads share are atomics.

mod admin;
mod body;
mod condition;
mod cursor;
mod edge;
mod evict;
mod fence;
mod few;
mod framing;
mod guard;
mod headers;
mod history;
mod kv;
mod limits;
mod listing;
mod lock;
mod lock_view;
mod map_group;
mod members;
mod openapi;
mod plan;
mod probes;
pub mod problem;
mod query;
mod renewals;
mod ring;
mod route;
mod scan;
mod server;
mod txn;
mod txn_body;
mod txn_view;

#[cfg(test)]
mod tests;

pub use limits::{Limits, Resources};
pub use plan::body as plan_body;
pub use ring::body as ring_body;
pub use route::Port;
pub use server::serve;

/// The answer to a request.
pub(crate) type Response = http::Response<http_body_util::Full<bytes::Bytes>>;

/// Says the epoch of the map that the answer was made with; 0 before bootstrap.
pub(crate) const EPOCH_HEADER: http::HeaderName = http::HeaderName::from_static("annulus-epoch");
/// Tells a client that the member which answered does not lead the key's partition, and who does as far as it knows.
pub(crate) const LEADER_HEADER: http::HeaderName = http::HeaderName::from_static("annulus-leader");
