//! Scripts with golden traces: each machine is driven by commands, and what it does is recorded below them.
//!
//! ```text
//! # Why this script is there.
//! put a 1            commands, one a line
//! ----
//! 2: written…        what came of them, up to an empty line
//! ```
//!
//! Every `tests/scripts/KIND/*.txt` is played. `ANNULUS_REWRITE=1 cargo test -p annulus-core --test scripts` records
//! what comes of the commands now: read the difference before it is committed. The kinds: `partition` (see
//! [`partition`]), `lane` (see [`lane`]) and `map` (see [`map`]).

mod arguments;
mod disk;
#[path = "../groups/mod.rs"]
mod groups;
mod lane;
mod map;
mod partition;
mod random;
mod script;
mod trace;
mod world;

use script::play_folder;

#[test]
fn partition_scripts_play_as_recorded() {
    play_folder("partition", || Box::new(partition::Player::default()));
}

#[test]
fn lane_scripts_play_as_recorded() {
    play_folder("lane", || Box::new(lane::Player::default()));
}

#[test]
fn map_scripts_play_as_recorded() {
    play_folder("map", || Box::new(map::Player::default()));
}
