//! The node.

pub mod config;
pub mod http;
pub mod logging;
pub mod metrics;
pub mod router;
pub mod storage;
pub mod units;
