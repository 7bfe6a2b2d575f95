//! Whole-system tests.

pub mod processes;
