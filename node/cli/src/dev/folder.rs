//! The folder of a dev store, and the files that `dev` itself keeps there:
//!
//! - `dev.lock`: held while a `dev` runs here; names its process.
//! - `store.json`: who the members are. Written once, before the bootstrap, and exactly what is sent as one: a bootstrap
//!   that was cut short is so repeated to the letter.
//! - `dev.json`: which processes run now and where. There only while a `dev` runs.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use annulus_client::node::Bootstrap;
use serde::{Deserialize, Serialize};

use super::layout::Layout;
use crate::exit::Failure;

/// The format of `store.json`.
const FORMAT: u32 = 1;

/// A dev store's folder, locked.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    lock: File,
    left_in_haste: bool,
}

/// `store.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Store {
    format: u32,
    /// The first member's client port.
    pub(super) client_port: u16,
    /// What the store was made with.
    pub(super) bootstrap: Bootstrap,
}

/// `dev.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct DevFile {
    pub(super) members: Vec<DevMember>,
}

/// A member in `dev.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct DevMember {
    pub(super) name: String,
    pub(super) id: String,
    /// `null` while it does not run.
    pub(super) pid: Option<u32>,
    pub(super) client_address: String,
    pub(super) admin_address: String,
    pub(super) peer_address: String,
    pub(super) data: PathBuf,
}

impl Folder {
    /// Makes the folder if need be, and locks it.
    pub(super) fn open(data: Option<PathBuf>) -> Result<Self, Failure> {
        let root = data.or_else(default_root).ok_or_else(|| {
            Failure::Usage("there is no home folder to keep the data in; name a folder with --data".into())
        })?;
        let failed =
            |error: io::Error| Failure::system(format!("the folder `{}` can't be used", root.display()), &error);
        fs::create_dir_all(&root).map_err(failed)?;
        let root = root.canonicalize().map_err(failed)?;
        let path = root.join("dev.lock");
        let failed = |error: io::Error| Failure::system(format!("`{}` can't be used", path.display()), &error);
        let mut lock =
            File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        let mut holder = String::new();
        lock.read_to_string(&mut holder).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = holder.trim();
                return Err(Failure::Refused(format!(
                    "another `annulus dev` (process {holder}) runs on `{}`.\n  End it, or start a second store with another \
                     --data and --client-port.",
                    root.display()
                )));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let folder = Self { root, lock, left_in_haste: !holder.trim().is_empty() };
        folder.write_lock(&format!("{}\n", std::process::id())).map_err(failed)?;
        folder.remove_dev();
        Ok(folder)
    }

    /// The folder.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Whether the last `dev` here was killed, so that its members may just be ending.
    pub(super) fn left_in_haste(&self) -> bool {
        self.left_in_haste
    }

    /// What the store here was made with; `None`: there is none yet.
    pub(super) fn store(&self) -> Result<Option<Store>, Failure> {
        let path = self.root.join("store.json");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::system(format!("`{}` can't be read", path.display()), &error)),
        };
        let broken = |reason: String| Failure::Refused(format!("`{}` can't be used: {reason}", path.display()));
        let store: Store = serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
        if store.format != FORMAT {
            return Err(broken(format!("it has format {}, and this version knows {FORMAT}", store.format)));
        }
        Ok(Some(store))
    }

    /// Writes down what the store is made with.
    pub(super) fn write_store(&self, client_port: u16, bootstrap: Bootstrap) -> Result<Store, Failure> {
        let store = Store { format: FORMAT, client_port, bootstrap };
        self.replace("store.json", &store)?;
        Ok(store)
    }

    /// Writes down which processes run.
    pub(super) fn write_dev(&self, dev: &DevFile) -> Result<(), Failure> {
        self.replace("dev.json", dev)
    }

    /// Nothing runs here any more.
    pub(super) fn close(self) {
        self.remove_dev();
        // What can't be cleared is at worst read by the next `dev`, which then waits a little for the ports.
        let _ = self.write_lock("");
    }

    /// Takes away what tells of processes that do not run: our own at the end, at the start those of a killed `dev`.
    fn remove_dev(&self) {
        let _ = fs::remove_file(self.root.join("dev.json"));
    }

    /// Replaces a file in one step, so that no reader ever sees half of it.
    fn replace(&self, name: &str, content: &impl Serialize) -> Result<(), Failure> {
        let (path, new) = (self.root.join(name), self.root.join(format!("{name}.new")));
        let write = || {
            let mut text = serde_json::to_vec_pretty(content)?;
            text.push(b'\n');
            let mut file = File::create(&new)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&new, &path)
        };
        write().map_err(|error| Failure::system(format!("`{}` can't be written", path.display()), &error))
    }

    fn write_lock(&self, text: &str) -> io::Result<()> {
        let mut file = &self.lock;
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(text.as_bytes())
    }
}

impl Store {
    /// Refuses flags that do not fit the store that is here.
    pub(super) fn check_flags(&self, layout: &Layout, root: &Path) -> Result<(), Failure> {
        let (members, port) = (self.bootstrap.members.len(), self.client_port);
        if members == layout.members.len() && port == layout.client_port {
            return Ok(());
        }
        Err(Failure::Refused(format!(
            "the store in `{}` was made with --members {members} --client-port {port}, not --members {} --client-port {}.\n  \
             Start it with the former, or make another store with another --data. (Changing members comes in a later \
             version.)",
            root.display(),
            layout.members.len(),
            layout.client_port
        )))
    }
}

fn default_root() -> Option<PathBuf> {
    Some(directories::ProjectDirs::from("", "", "annulus")?.data_dir().join("dev"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bootstrap(members: usize) -> Bootstrap {
        let member = |number| annulus_client::node::MemberSpec {
            id: format!("{number:016x}"),
            name: format!("node-{number}"),
            zone: String::new(),
            weight: 100,
            client_address: "127.0.0.1:7070".into(),
            peer_address: "127.0.0.1:7270".into(),
            admin_address: "127.0.0.1:7170".into(),
        };
        let cluster = "00010203-0405-0607-0809-0a0b0c0d0e0f".into();
        Bootstrap { cluster, partitions: 128, replication_factor: 3, members: (1..=members).map(member).collect() }
    }

    #[test]
    fn a_second_dev_on_the_same_folder_is_refused_and_told_who_runs_there() {
        let temporary = tempfile::tempdir().unwrap();
        let first = Folder::open(Some(temporary.path().into())).unwrap();
        assert!(!first.left_in_haste());
        let text = Folder::open(Some(temporary.path().into())).unwrap_err().to_string();
        assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
        first.close();
        assert!(!Folder::open(Some(temporary.path().into())).unwrap().left_in_haste());
        // That one was dropped, not closed.
        assert!(Folder::open(Some(temporary.path().into())).unwrap().left_in_haste());
    }

    #[test]
    fn a_store_is_read_back_to_the_letter_and_refuses_other_flags() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder::open(Some(temporary.path().into())).unwrap();
        assert_eq!(folder.store().unwrap(), None);
        let store = folder.write_store(7070, bootstrap(3)).unwrap();
        assert_eq!(folder.store().unwrap(), Some(store.clone()));
        let check = |members, port| store.check_flags(&Layout::new(folder.root(), members, port), folder.root());
        assert!(check(3, 7070).is_ok());
        for (members, port) in [(5, 7070), (3, 8080)] {
            let text = check(members, port).unwrap_err().to_string();
            assert!(text.contains("was made with --members 3 --client-port 7070, not"), "{text}");
        }
        fs::write(folder.root().join("store.json"), "{").unwrap();
        assert!(folder.store().unwrap_err().to_string().contains("store.json"));
    }

    #[test]
    fn dev_json_has_the_shape_that_is_documented() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder::open(Some(temporary.path().into())).unwrap();
        let member = DevMember {
            name: "node-1".into(),
            id: "0000000000000001".into(),
            pid: Some(42),
            client_address: "127.0.0.1:7070".into(),
            admin_address: "127.0.0.1:7170".into(),
            peer_address: "127.0.0.1:7270".into(),
            data: "/d/node-1/data".into(),
        };
        folder.write_dev(&DevFile { members: vec![member] }).unwrap();
        let path = folder.root().join("dev.json");
        let written: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let expected = serde_json::json!({"members": [{
            "name": "node-1", "id": "0000000000000001", "pid": 42, "client_address": "127.0.0.1:7070",
            "admin_address": "127.0.0.1:7170", "peer_address": "127.0.0.1:7270", "data": "/d/node-1/data",
        }]});
        assert_eq!(written, expected);
        folder.close();
        assert!(!path.exists());
    }
}
