//! What an operation costs as a store grows.
//!
//! - [`simulated`]: the work that is done, counted in the simulator: the same on every machine.
//! - [`machine`]: processor time of real processes, measured only when it is asked for.

mod machine;
mod simulated;
