//! The ring changes while it serves: real nodes, real disks, plain HTTP.
//!
//! - [`grow_and_shrink`]: members join and leave under load.
//! - [`kills`]: the same, while members are killed. `ANNULUS_SEED` and `ANNULUS_KILLS` decide whom, when and how often.
//! - [`lives`]: drained, replaced, emptied, damaged, moved to other ports.
//! - [`planned_stops`]: members that are stopped and started again are missed by nobody.
//! - [`pods`]: members without zones, behind names, on volumes that a file system was just made on.
//! - [`refusals`]: what is refused, and that it changes nothing.
//! - [`command_line`]: the verbs for all of it.
//! - [`served_load`]: the load that runs as a pod in a cluster.
//! - [`dev`]: `annulus dev` with more or fewer members than before.
//!
//! The stores run one at a time. The binary is the one that was built beside these tests, or `ANNULUS_BIN`.

mod command_line;
mod dev;
mod grow_and_shrink;
mod kills;
mod lives;
mod planned_stops;
mod pods;
mod refusals;
mod served_load;
