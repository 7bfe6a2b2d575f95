//! How much room there is on the disk that the volume is on, and how much of it the volume's own files take. Asked of the system
//! each time, and cheap: there are a few files for each lane.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::router::DiskSpace;

/// Folders within folders that are looked into: those of lanes, and what is in them.
const DEPTH: u32 = 4;
/// In what the system counts the room that a file takes.
const BLOCK_BYTES: u64 = 512;

/// The room on the disk that this directory is on; `None` when the system does not tell.
pub(super) fn disk_space(data: &Path) -> Option<DiskSpace> {
    let told = rustix::fs::statvfs(data).ok()?;
    // What is left for the administrator alone counts as used: this process can't write there.
    let bytes = |blocks: u64| blocks.saturating_mul(told.f_frsize);
    Some(DiskSpace {
        free_bytes: bytes(told.f_bavail),
        total_bytes: bytes(told.f_blocks),
        data_bytes: taken(data, DEPTH),
    })
}

/// What files take under a folder. One that goes meanwhile takes nothing.
fn taken(folder: &Path, depth: u32) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let bytes = entries.filter_map(Result::ok).map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() && depth > 0 => taken(&entry.path(), depth - 1),
        Ok(metadata) => metadata.blocks().saturating_mul(BLOCK_BYTES),
        Err(_) => 0,
    });
    bytes.fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_of_a_directory_has_room_and_that_of_none_is_not_told() {
        let folder = tempfile::tempdir().unwrap();
        let space = disk_space(folder.path()).unwrap();
        assert!(space.total_bytes > 1 << 20 && space.free_bytes <= space.total_bytes, "{space:?}");
        assert_eq!(space.data_bytes, 0);
        std::fs::create_dir(folder.path().join("lane-0")).unwrap();
        std::fs::write(folder.path().join("lane-0").join("data"), vec![1; 100_000]).unwrap();
        let data_bytes = disk_space(folder.path()).unwrap().data_bytes;
        assert!((90_000..200_000).contains(&data_bytes), "{data_bytes}");
        assert_eq!(disk_space(&folder.path().join("gone")), None);
    }
}
