//! How much room there is on the disk that the volume is on. Asked of the system each time, and cheap: nothing is added up.

use std::path::Path;

use crate::router::DiskSpace;

/// The room on the disk that this directory is on; `None` when the system does not tell.
pub(super) fn disk_space(data: &Path) -> Option<DiskSpace> {
    let told = rustix::fs::statvfs(data).ok()?;
    // What is left for the administrator alone counts as used: this process can't write there.
    let bytes = |blocks: u64| blocks.saturating_mul(told.f_frsize);
    Some(DiskSpace { free_bytes: bytes(told.f_bavail), total_bytes: bytes(told.f_blocks) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_of_a_directory_has_room_and_that_of_none_is_not_told() {
        let folder = tempfile::tempdir().unwrap();
        let space = disk_space(folder.path()).unwrap();
        assert!(space.total_bytes > 1 << 20 && space.free_bytes <= space.total_bytes, "{space:?}");
        assert_eq!(disk_space(&folder.path().join("gone")), None);
    }
}
