//! A sidecar of the real binary beside a store of real processes.
//!
//! - [`api`]: what a member answers, the sidecar answers.
//! - [`faults`]: members die, and the application does not notice more than a delay.
//! - [`counters`]: applications count under one lock, and no number is counted twice, whatever dies.
//! - [`locks`]: what is kept, what is lost, and that nothing is said to be held that is not.
//! - [`hostile`]: what can be sent to it that is no request.
//!
//! The stores run one at a time. The binary is the one that was built beside these tests, or `ANNULUS_BIN`.

mod api;
mod counters;
mod faults;
mod hostile;
mod locks;
