//! Everything a lane keeps on disk: a WAL, an overlay in memory, a redb file; and the volume's identity.
//!
//! Synchronous, and driven alike by the threads of a node and by the simulator, which puts its own [`Disk`] under it.
//! It knows neither clock nor network nor Raft; when to sync, freeze and checkpoint is its caller's decision.
//!
//! ```text
//!            Writes ─▶ Wal ───────────── wal-… ──┐ replay
//!  lane ─▶                                       ▼
//!            State  ─▶ LaneState: active overlay, frozen overlay ──Checkpointer──▶ state.redb
//!                                                                                     │
//!  volume ─▶ IdentityFile ◀── mark: what this lane must never fall behind ────────────┘
//! ```
//!
//! Byte-exact formats are in `docs/storage.md`.

mod checkpoint;
mod disk;
mod error;
mod identity;
#[cfg(test)]
mod memory_disk;
mod overlay;
mod overlay_key;
mod state;
mod store;
#[cfg(test)]
mod tests;
mod wal;

use std::sync::Arc;

use annulus_core::lane::GroupWrite;

pub use self::checkpoint::{Checkpointed, Checkpointer, Frozen};
pub use self::disk::{Directory, Disk, DiskFile};
pub use self::error::{Error, Result};
pub use self::identity::{Identity, IdentityFile, Mark};
pub use self::state::LaneState;
pub use self::store::Haste;
pub use self::wal::{Segment, Wal};

use self::store::{About, Tables};
use self::wal::{Recovered, Start};

/// A lane's directory has its number behind this.
const LANE_PREFIX: &str = "lane-";

/// What may be chosen for a lane.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How much of the redb file is kept in memory, in bytes.
    pub cache_bytes: usize,
    /// Room is made in a WAL segment in steps of this many bytes.
    pub wal_step_bytes: u64,
    /// How many WAL segments are kept to be used again.
    pub wal_spares: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20, wal_step_bytes: 4 << 20, wal_spares: 2 }
    }
}

/// A lane that is ready to go on.
#[derive(Debug)]
pub struct OpenedLane {
    /// Its records as of the last checkpoint.
    pub state: LaneState,
    /// Its WAL, to be appended to.
    pub wal: Wal,
    /// Writes its checkpoints.
    pub checkpointer: Checkpointer,
    /// What stood in the WAL since the last checkpoint, oldest first: bases and rounds alike.
    pub replay: Vec<Vec<GroupWrite>>,
    /// What the lane has now. Hand it to [`IdentityFile::set_mark`] before the lane votes for the first time.
    pub mark: Mark,
}

/// Opens a lane, and makes it when it was never opened before (no `mark`, no files).
///
/// # Errors
/// [`Error::LostState`] when the lane is behind its mark, [`Error::Corrupt`] when its files are damaged: its member must
/// not vote.
pub fn open_lane(disk: &Arc<dyn Disk>, lane: u32, mark: Option<Mark>, options: &Options) -> Result<OpenedLane> {
    let directory = format!("{LANE_PREFIX}{lane}");
    let name = format!("{directory}/state.redb");
    let file = disk.path(&name);
    if !disk.exists(&name).map_err(|source| Error::io("look for", &file, source))? {
        create_lane(&**disk, lane, mark, &directory, &name)?;
    }
    let haste = Haste::default();
    let database = store::open(&**disk, &name, options.cache_bytes, haste.clone())?;
    let about = store::read_about(&database, &file)?;
    if about.lane != lane {
        let reason = format!("it is of lane {}, not of lane {lane}", about.lane);
        return Err(Error::Corrupt { file, offset: 0, reason });
    }
    let segment = Segment { number: about.segment, sequence: about.sequence };
    let start = Start { lane, segment, fresh: mark.is_none() && about.checkpoint == 0 };
    let Recovered { wal, rounds } = wal::recover(disk, &directory, start, options)?;
    let found = wal.mark_at(about.checkpoint);
    check_mark(lane, mark, found)?;
    let state = LaneState::new(Tables::open(&database, &file)?);
    let checkpointer = Checkpointer { database, file, about, haste };
    Ok(OpenedLane { state, wal, checkpointer, replay: rounds, mark: found })
}

fn create_lane(disk: &dyn Disk, lane: u32, mark: Option<Mark>, directory: &str, name: &str) -> Result<()> {
    let shown = disk.path(directory);
    disk.create_directory(directory).map_err(|source| Error::io("create", &shown, source))?;
    disk.sync_directory("").map_err(|source| Error::io("sync the directory of", &shown, source))?;
    // The redb file is durable before the first segment is made, so its absence is never a crash in mid-creation.
    if mark.is_some() || wal::has_segments(disk, directory)? {
        return Err(Error::LostState { lane, reason: format!("`{}` is gone", disk.path(name)) });
    }
    store::create(disk, directory, name, About { lane, checkpoint: 0, segment: 1, sequence: 1 })
}

/// A lane may be ahead of its mark, never behind it.
fn check_mark(lane: u32, mark: Option<Mark>, found: Mark) -> Result<()> {
    let Some(mark) = mark else { return Ok(()) };
    if found.checkpoint < mark.checkpoint {
        let reason = format!("it had made checkpoint {}, and has only {}", mark.checkpoint, found.checkpoint);
        return Err(Error::LostState { lane, reason });
    }
    if found.sequence < mark.sequence || found.segment < mark.segment {
        let reason = format!(
            "its WAL had record {} durable in segment {}, and ends with record {} in segment {}",
            mark.sequence, mark.segment, found.sequence, found.segment
        );
        return Err(Error::LostState { lane, reason });
    }
    Ok(())
}
