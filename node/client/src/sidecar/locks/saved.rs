//! The file that names the locks that are kept, for the next process if this one crashes. It outlives the process, not the
//! machine: nothing is synced, since a lock does not outlive the machine's pod either.
//!
//! ```json
//! {"format": 1, "cluster": "0b7a…", "locks": [{"name": "jobs/nightly", "token": 7, "mode": "exclusive", "owner": "pod-1", "ttl_ms": 10000}]}
//! ```
//!
//! The cluster is the store that they were taken of: tokens of another one mean nothing. Times do not stand in it: whether a lock is still held is for the store to say.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use annulus_core::partition::lock::{MAX_OWNER_BYTES, MAX_TTL_MS, MIN_TTL_MS, Name};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::keeper::{Grant, MAX_KEPT};
use super::{Locks, SAVE_PATIENCE};
use crate::ClusterId;
use crate::lock::{mode_of, mode_text};
use crate::options::millis;
use crate::text::{self, BytesAsText};

/// The format of the file.
const FORMAT: u32 = 1;
/// A file that is longer is none of ours: as many locks as there may be, each byte of their names escaped.
const MAX_FILE_BYTES: u64 = 8 * 1024 * 1024;
/// The pause after a write that failed.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: u32,
    cluster: String,
    locks: Vec<Saved>,
}

/// What a file says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Left {
    /// The store that the locks were taken of.
    pub(super) cluster: ClusterId,
    pub(super) grants: Vec<Grant>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_base64: Option<String>,
    token: u64,
    mode: String,
    owner: String,
    ttl_ms: u64,
}

/// The locks that a file names; none if there is no file. One that can't be read is told, and moved aside.
pub(super) fn read(path: &Path) -> Option<Left> {
    let reason = match contents(path) {
        Ok(left) => return Some(left),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => error,
    };
    let mut aside = path.as_os_str().to_owned();
    aside.push(".unreadable");
    let aside = PathBuf::from(aside);
    let moved = fs::rename(path, &aside);
    tracing::error!(
        %reason, path = %path.display(), aside = %aside.display(), moved = moved.is_ok(),
        "the file of locks can't be read: the locks of the earlier process are not known, and end with their leases"
    );
    None
}

fn contents(path: &Path) -> io::Result<Left> {
    if fs::metadata(path)?.len() > MAX_FILE_BYTES {
        return Err(invalid("it is too long"));
    }
    parse(&fs::read(path)?)
}

fn parse(bytes: &[u8]) -> io::Result<Left> {
    let File { format, cluster, locks } = serde_json::from_slice(bytes).map_err(|error| invalid(&error.to_string()))?;
    if format != FORMAT || locks.len() > MAX_KEPT {
        return Err(invalid("it is of another format, or has too many locks"));
    }
    let cluster = cluster.parse().map_err(|_| invalid("its cluster is none"))?;
    let grants = locks.into_iter().map(|saved| grant(saved).ok_or_else(|| invalid("a lock in it is none")));
    Ok(Left { cluster, grants: grants.collect::<io::Result<_>>()? })
}

fn grant(saved: Saved) -> Option<Grant> {
    let Saved { name, name_base64, token, mode, owner, ttl_ms } = saved;
    let name = Name::new(Bytes::from(text::read(name, name_base64)?)).ok()?;
    let is_valid = (1..=MAX_OWNER_BYTES).contains(&owner.len()) && (MIN_TTL_MS..=MAX_TTL_MS).contains(&ttl_ms);
    let ttl = Duration::from_millis(ttl_ms);
    is_valid.then_some(Grant { name, token, mode: mode_of(&mode)?, owner, ttl })
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_owned())
}

fn encode(cluster: ClusterId, grants: &[Grant]) -> Vec<u8> {
    let locks = grants.iter().map(|grant| {
        let text = BytesAsText::new(grant.name.bytes());
        let (name, name_base64) = if text.base64 { (None, Some(text.text)) } else { (Some(text.text), None) };
        let (mode, ttl_ms) = (mode_text(grant.mode).to_owned(), millis(grant.ttl));
        Saved { name, name_base64, token: grant.token, mode, owner: grant.owner.clone(), ttl_ms }
    });
    let file = File { format: FORMAT, cluster: cluster.to_string(), locks: locks.collect() };
    serde_json::to_vec(&file).expect("strings and numbers")
}

/// Puts a file in the older one's place as a whole.
fn write(path: &Path, cluster: ClusterId, grants: &[Grant]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(&encode(cluster, grants))?;
    fs::rename(new, path)
}

/// Writes the file whenever it is to say something else, until it is dropped.
pub(in super::super) async fn save(locks: Arc<Locks>) {
    if locks.file.is_none() {
        return;
    }
    loop {
        locks.unsaved.notified().await;
        while let Err(error) = locks.save_once().await {
            tracing::error!(%error, "the file of locks can't be written: a crash would lose the newest of them");
            sleep(PAUSE).await;
        }
    }
}

impl Locks {
    async fn save_once(&self) -> io::Result<()> {
        let Some(path) = self.file.clone() else { return Ok(()) };
        // Whoever has a lock knows of a store.
        let known = self.client.directory().current().map(|table| table.ring.cluster);
        let Some(cluster) = known.or(self.restored_of) else { return Ok(()) };
        let (version, shown) = self.with(|keeper, now| {
            let shown = keeper.shown(now);
            (keeper.version(), shown)
        });
        let grants: Vec<_> = shown.into_iter().map(|shown| shown.grant).collect();
        spawn_blocking(move || write(&path, cluster, &grants)).await.map_err(io::Error::other)??;
        self.saved.send_if_modified(|saved| {
            let is_newer = version > *saved;
            *saved = version.max(*saved);
            is_newer
        });
        Ok(())
    }

    /// Writes it once more, as the last thing.
    pub(in super::super) async fn save_now(&self) {
        if let Err(error) = self.save_once().await {
            tracing::error!(%error, "the file of locks can't be written");
        }
    }

    /// Waits until the file says what is known now, but not for long: a disk that hangs takes nobody's lock away.
    pub(super) async fn wait_saved(&self) {
        if self.file.is_none() {
            return;
        }
        let version = self.with(|keeper, _| keeper.version());
        let mut saved = self.saved.subscribe();
        if timeout(SAVE_PATIENCE, saved.wait_for(|saved| *saved >= version)).await.is_err() {
            tracing::error!("the file of locks was not written in time: a crash would lose the newest of them");
        }
    }
}

#[cfg(test)]
mod tests {
    use annulus_core::partition::lock::Mode;

    use super::*;

    const CLUSTER: &str = "00010203-0405-0607-0809-0a0b0c0d0e0f";

    fn left(grants: &[Grant]) -> Option<Left> {
        Some(Left { cluster: CLUSTER.parse().unwrap(), grants: grants.to_vec() })
    }

    fn grants() -> Vec<Grant> {
        let grant = |name: &'static [u8], token, mode| Grant {
            name: Name::new(Bytes::from_static(name)).unwrap(),
            token,
            mode,
            owner: "pod\n1".to_owned(),
            ttl: Duration::from_secs(10),
        };
        vec![grant(b"a", 7, Mode::Exclusive), grant(b"\xff\0", u64::MAX, Mode::Shared)]
    }

    #[test]
    fn what_was_written_is_read_again_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("locks.json");
        assert_eq!(read(&path), None);
        let cluster = CLUSTER.parse().unwrap();
        write(&path, cluster, &grants()).unwrap();
        assert_eq!(read(&path), left(&grants()));
        write(&path, cluster, &grants()[..1]).unwrap();
        assert_eq!(read(&path), left(&grants()[..1]));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(write(&folder.path().join("none/locks.json"), cluster, &[]).is_err());
    }

    #[test]
    fn a_file_of_the_first_format_is_read() {
        let text = r#"{"format":1,"cluster":"00010203-0405-0607-0809-0a0b0c0d0e0f","locks":[{"name":"a","token":7,"mode":"exclusive","owner":"pod\n1","ttl_ms":10000},
            {"name_base64":"/wA=","token":18446744073709551615,"mode":"shared","owner":"pod\n1","ttl_ms":10000}]}"#;
        assert_eq!(parse(text.as_bytes()).ok(), left(&grants()));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_moved_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("locks.json");
        let lock = |field: &str| {
            format!(
                r#"{{"format":1,"cluster":"{CLUSTER}","locks":[{{"name":"a","token":7,"mode":"exclusive","owner":"p","ttl_ms":1000{field}}}]}}"#
            )
        };
        assert_eq!(parse(lock("").as_bytes()).unwrap().grants.len(), 1);
        for text in [
            "",
            "{",
            r#"{"format":2,"cluster":"00010203-0405-0607-0809-0a0b0c0d0e0f","locks":[]}"#,
            r#"{"format":1,"cluster":"mine","locks":[]}"#,
            &lock(",\"more\":1"),
            &lock("").replace("exclusive", "mine"),
            &lock("").replace("1000", "1"),
            &lock("").replace("\"a\"", "\"\""),
            &lock("").replace("\"p\"", "\"\""),
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(read(&path), None, "{text}");
            assert!(!path.exists() && folder.path().join("locks.json.unreadable").exists(), "{text}");
        }
        fs::create_dir(&path).unwrap();
        assert_eq!(read(&path), None);
    }
}
