//! What becomes of a volume that must not be voted from any more: it is set aside whole, and the member begins anew with
//! an identity of its own, as a new member that waits to be added in the old one's place.
//!
//! ```text
//!  damage found ─▶ marker `damaged` with the reason ─▶ the process ends
//!  next start   ─▶ marker there? ─▶ everything into `quarantine-N` ─▶ an empty volume
//! ```
//!
//! Nothing is ever deleted here: what was set aside may be what somebody needs after a disaster. It is done at the start of
//! a process, before anything is open, and only when the configuration says so.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The file that says that the volume is to be set aside, and why.
const MARKER: &str = "damaged";
/// What the folders begin with that volumes were set aside in.
const FOLDER: &str = "quarantine-";
/// What a file system has made in its root for its own use, and keeps to itself: it is not the volume's, and can't be moved.
const FILE_SYSTEMS_OWN: &str = "lost+found";

/// Says that the volume is not to be used any more.
pub(super) fn mark(data: &Path, reason: &str) -> io::Result<()> {
    let marker = data.join(MARKER);
    if marker.exists() {
        return Ok(());
    }
    fs::write(&marker, format!("{reason}\n"))?;
    fs::File::open(&marker)?.sync_all()
}

/// Why the volume is not to be used any more, if it is not.
pub(super) fn marked(data: &Path) -> Option<String> {
    fs::read_to_string(data.join(MARKER)).ok().map(|reason| reason.trim().to_owned())
}

/// Sets the volume aside; returns where to. The marker goes last, so that a crash in between is made good by doing it again.
pub(super) fn set_aside(data: &Path) -> io::Result<PathBuf> {
    let names: Vec<String> = fs::read_dir(data)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name != MARKER && name != "lock" && name != FILE_SYSTEMS_OWN && !name.starts_with(FOLDER))
        .collect();
    let folder = (1..).map(|number| data.join(format!("{FOLDER}{number}"))).find(|folder| !folder.exists());
    let folder = folder.expect("there are more numbers than folders");
    fs::create_dir(&folder)?;
    for name in names {
        fs::rename(data.join(&name), folder.join(&name))?;
    }
    fs::rename(data.join(MARKER), folder.join(MARKER))?;
    fs::File::open(data)?.sync_all()?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_marked_volume_is_set_aside_whole_and_the_next_one_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        assert_eq!(marked(data), None);
        for round in 1..=2 {
            fs::write(data.join("identity"), "who").unwrap();
            fs::create_dir(data.join("lane-0")).unwrap();
            fs::write(data.join("lane-0/state.redb"), "what").unwrap();
            fs::write(data.join("lock"), "").unwrap();
            mark(data, "a flipped bit").unwrap();
            mark(data, "another reason").unwrap();
            assert_eq!(marked(data).as_deref(), Some("a flipped bit"));
            let aside = set_aside(data).unwrap();
            assert_eq!(aside, data.join(format!("quarantine-{round}")));
            assert_eq!(fs::read_to_string(aside.join("lane-0/state.redb")).unwrap(), "what");
            assert!(marked(data).is_none() && !data.join("identity").exists() && data.join("lock").exists());
        }
    }

    #[test]
    fn what_the_file_system_keeps_for_itself_stays_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        let own = data.join("lost+found");
        fs::create_dir(&own).unwrap();
        fs::set_permissions(&own, fs::Permissions::from_mode(0o000)).unwrap();
        fs::write(data.join("identity"), "who").unwrap();
        mark(data, "a flipped bit").unwrap();
        let aside = set_aside(data).unwrap();
        assert!(own.exists() && !aside.join("lost+found").exists() && aside.join("identity").exists());
    }
}
