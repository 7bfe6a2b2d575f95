//! The lane.

mod output;
mod request;

pub use output::{Durable, GroupWrite, Installed, LeaderChange, LogPosition, Output, Staged, Writes};
pub use request::{Operation, Refusal, Reply, Request};
