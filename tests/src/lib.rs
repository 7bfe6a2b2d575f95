//! Whole-system tests.

pub mod simulator;
