//! Every decision of the Annulus data plane: ring, replicas, partitions, map, lane.

pub mod codec;
pub mod id;
pub mod lane;
pub mod map;
pub mod partition;
pub mod ring;
pub mod state;
pub mod time;
