//! The client against nodes that do as they are told.

mod admin;
mod calls;
#[path = "../fake/mod.rs"]
mod fake;
mod locks;
mod sidecar;
mod txns;
