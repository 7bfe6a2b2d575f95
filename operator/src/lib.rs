//! Turns a `StorageCluster` into pods, volumes and a ring of members, and keeps it so.

#[cfg(any(test, feature = "simulated"))]
pub mod simulated;
