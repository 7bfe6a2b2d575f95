//! The folder of a dev store, and the files that `dev` itself keeps there:
//!
//! - `dev.lock`: held while a `dev` runs here; names its process.
//! - `store.json`: what the store was made with, and who its members should be. Written before either is sent: a bootstrap
//!   that was cut short is so repeated to the letter, and a change of the members is gone on with.
//! - `node-N/data`: a member's volume. `node-N/left-ID`: that of one which is a member no more; it is never used again.
//! - `dev.json`: which processes run now and where. There only while a `dev` runs.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use annulus_client::node::{Bootstrap, MemberSpec};
use serde::{Deserialize, Serialize};

use super::layout::{Place, Shape, number_of};
use crate::exit::Failure;

/// The format of `store.json`.
const FORMAT: u32 = 2;

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
    /// The zones that members run in, in turn.
    pub(super) zones: Vec<String>,
    /// What the store was made with.
    pub(super) bootstrap: Bootstrap,
    /// Who the members should be, of those that a `dev` runs.
    pub(super) members: Vec<MemberSpec>,
    /// Who is on its way out: such a one runs until it is a member no more.
    pub(super) leaving: Vec<MemberSpec>,
}

/// `store.json` in format 1: its members never changed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoreOne {
    #[serde(rename = "format")]
    _format: u32,
    client_port: u16,
    bootstrap: Bootstrap,
}

/// What every format of `store.json` begins with.
#[derive(Debug, Deserialize)]
struct Format {
    format: u32,
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
                     --data and --client-port. `annulus members` changes the members of the one that runs.",
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
        Store::read(&text).map(Some).map_err(broken)
    }

    /// Writes down what the store is made with and who its members should be.
    pub(super) fn write_store(&self, store: &Store) -> Result<(), Failure> {
        self.replace("store.json", store)
    }

    /// Puts the volume of a member aside that is a member no more: under its identity it must never come back.
    pub(super) fn set_aside(&self, place: &Place, id: &str) -> Result<(), Failure> {
        let aside = place.data.with_file_name(format!("left-{id}"));
        match fs::rename(&place.data, &aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Failure::system(
                format!("`{}` can't be moved to `{}`", place.data.display(), aside.display()),
                &error,
            )),
            _ => Ok(()),
        }
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
    /// A store that is to be made.
    pub(super) fn new(client_port: u16, zones: Vec<String>, bootstrap: Bootstrap) -> Self {
        let members = bootstrap.members.clone();
        Self { format: FORMAT, client_port, zones, bootstrap, members, leaving: Vec::new() }
    }

    fn read(text: &[u8]) -> Result<Self, String> {
        let told = |error: serde_json::Error| error.to_string();
        match serde_json::from_slice::<Format>(text).map_err(told)?.format {
            1 => {
                let one: StoreOne = serde_json::from_slice(text).map_err(told)?;
                Ok(Self::new(one.client_port, Vec::new(), one.bootstrap))
            }
            FORMAT => serde_json::from_slice(text).map_err(told),
            other => Err(format!("it has format {other}, and this version knows 1 and {FORMAT}")),
        }
    }

    /// Who has this number, by its name.
    pub(super) fn member(&self, number: u16) -> Option<&MemberSpec> {
        self.members.iter().chain(&self.leaving).find(|member| number_of(&member.name) == Some(number))
    }

    /// The numbers of all members whose processes a `dev` runs.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u16> {
        self.members.iter().chain(&self.leaving).filter_map(|member| number_of(&member.name))
    }

    /// Refuses a file that does not fit the store that is here.
    pub(super) fn check_shape(&self, shape: Shape, root: &Path) -> Result<(), Failure> {
        let Bootstrap { partitions, replication_factor, .. } = self.bootstrap;
        if (partitions, replication_factor) == (shape.partitions, shape.replication_factor) {
            return Ok(());
        }
        Err(Failure::Refused(format!(
            "the store in `{}` was made with replicationFactor {replication_factor} and partitions {partitions}, not {} and {}; \
             neither can be changed.\n  Set them back, or make another store with another --data.",
            root.display(),
            shape.replication_factor,
            shape.partitions
        )))
    }

    /// Refuses flags that do not fit the store that is here.
    pub(super) fn check_flags(&self, members: u16, client_port: u16, root: &Path) -> Result<(), Failure> {
        if client_port != self.client_port {
            return Err(Failure::Refused(format!(
                "the store in `{}` was made with --client-port {}, not --client-port {client_port}.\n  Start it with the \
                 former, or make another store with another --data.",
                root.display(),
                self.client_port
            )));
        }
        let copies = self.bootstrap.replication_factor;
        if u32::from(members) < copies {
            return Err(Failure::Refused(format!(
                "the store in `{}` keeps {copies} copies of everything, so it needs at least {copies} members, and not \
                 --members {members}.\n  Make another store with another --data.",
                root.display()
            )));
        }
        Ok(())
    }
}

fn default_root() -> Option<PathBuf> {
    Some(directories::ProjectDirs::from("", "", "annulus")?.data_dir().join("dev"))
}

/// The folder of the cluster of this name, where no other is named: no two of them share one.
pub(super) fn cluster_root(name: &str) -> Option<PathBuf> {
    Some(default_root()?.with_file_name("clusters").join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bootstrap(members: usize) -> Bootstrap {
        let member = |number| MemberSpec {
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
        let mut store = Store::new(7070, vec!["a".into(), "b".into()], bootstrap(4));
        store.leaving = store.members.split_off(3);
        folder.write_store(&store).unwrap();
        assert_eq!(folder.store().unwrap(), Some(store.clone()));
        assert_eq!(store.numbers().collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(store.member(4).unwrap().name, "node-4");
        let check = |members, port| store.check_flags(members, port, folder.root()).map_err(|error| error.to_string());
        assert!(check(3, 7070).is_ok() && check(9, 7070).is_ok());
        assert!(check(3, 8080).unwrap_err().contains("was made with --client-port 7070, not --client-port 8080"));
        assert!(check(2, 7070).unwrap_err().contains("at least 3 members, and not --members 2"));
        let shape = |partitions| store.check_shape(Shape { partitions, replication_factor: 3 }, folder.root());
        assert!(shape(128).is_ok());
        assert!(shape(64).unwrap_err().to_string().contains("replicationFactor 3 and partitions 128, not 3 and 64"));
        fs::write(folder.root().join("store.json"), "{").unwrap();
        assert!(folder.store().unwrap_err().to_string().contains("store.json"));
        fs::write(folder.root().join("store.json"), r#"{"format": 3}"#).unwrap();
        assert!(folder.store().unwrap_err().to_string().contains("format 3, and this version knows 1 and 2"));
    }

    #[test]
    fn a_store_of_format_1_has_the_members_that_it_was_made_with() {
        let store = Store::read(include_bytes!("store-1.json")).unwrap();
        assert_eq!((store.format, store.client_port, store.zones.len()), (FORMAT, 7070, 0));
        assert_eq!(store.bootstrap.cluster, "5b1e9a36-7c1d-4a52-9d0c-3f1f6d0c1a11");
        assert_eq!((&store.members, store.leaving.len()), (&store.bootstrap.members, 0));
        assert_eq!(store.member(3).unwrap().id, "8f2d4c6b0a1e3957");
    }

    #[test]
    fn a_volume_that_is_put_aside_leaves_room_for_a_new_one() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder::open(Some(temporary.path().into())).unwrap();
        let layout = super::super::layout::Layout { root: folder.root().into(), client_port: 7070, zones: Vec::new() };
        let place = layout.place(4);
        fs::create_dir_all(&place.data).unwrap();
        fs::write(place.data.join("identity"), "x").unwrap();
        folder.set_aside(&place, "000000000000000a").unwrap();
        assert!(!place.data.exists());
        assert!(folder.root().join("node-4/left-000000000000000a/identity").exists());
        // Asked again after a crash.
        folder.set_aside(&place, "000000000000000a").unwrap();
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
