//! Whole-system tests: whole stores on virtual time, and real processes under faults.

pub mod processes;
pub mod simulator;
