//! The client of an Annulus store.
//!
//! A [`Client`] knows the ring: it reads `/v1/ring` from the endpoints it is given and sends each request straight to the
//! leader of the key's partition. When a leader is lost it asks another member, which forwards.
//!
//! ```text
//!  put/get/delete/scan ─▶ call: attempt ─▶ verdict ─┬─ answered ─────────────────────▶ result
//!                          ▲                        ├─ nothing changed, time is left ─┐
//!                          │                        └─ fate unknown ─┬─ repeatable ───┤
//!                          └────────── wait, refresh the ring ◀──────│────────────────┘
//!                                                                    └─ otherwise ─▶ Error::OutcomeUnknown
//! ```
//!
//! The members of a store are changed through an [`Admin`](admin::Admin), single nodes are asked through
//! [`Nodes`](node::Nodes).
//!
//! A [`Lock`](lock::Lock) is held for as long as its guard lives, and renewed meanwhile; the writes made under it carry its
//! [`Fence`](lock::Fence).
//!
//! Several keys are read and changed at one moment by a transaction ([`txn`]).
//!
//! A [`Sidecar`](sidecar::Sidecar) is all of that for an application that has no client, on its localhost.
//!
//! What it never does: repeat a write that may have happened already, unless the repetition cannot write twice (see
//! [`PutOptions`]); report a write of unknown fate as failed; talk to two clusters at once; wait past a deadline.
//!
//! ```no_run
//! # async fn example() -> Result<(), annulus_client::Error> {
//! let client = annulus_client::Client::builder(["127.0.0.1:7070"]).build()?;
//! let written = client.put("greeting", "hello").await?;
//! let item = client.get("greeting").await?.expect("just written");
//! assert_eq!(item.version, written.version);
//! # Ok(())
//! # }
//! ```

pub mod admin;
mod call;
mod client;
mod directory;
mod error;
pub mod lock;
mod names;
pub mod node;
mod options;
mod ring;
mod room;
mod scan;
pub mod sidecar;
mod text;
mod transport;
pub mod txn;
mod verdict;
mod wire;

pub use annulus_core::id::{ClusterId, MemberId, PartitionId};
pub use annulus_core::map::MemberState;
pub use annulus_core::partition::Consistency;
pub use client::{Builder, Client};
pub use error::{Error, Problem, Result};
pub use options::{Condition, DeleteOptions, GetOptions, Item, ParseVersionError, PutOptions, Version, Written};
pub use ring::{Assignment, Member, Move, Ring, RingError};
pub use scan::{Entry, Page, Pages, Scan};
pub use text::BytesAsText;
pub use wire::state_text;
