//! The partition machine.

pub mod codec;
mod command;

pub use command::*;
