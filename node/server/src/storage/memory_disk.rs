//! A disk in memory for this module's tests: it can be copied at any moment, lose what was not synced, fill up and fail.
//! The simulator has a fuller one.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Disk, DiskFile};

/// What a disk tears: of a write that was not synced, any of these may be there and any not.
const SECTOR_BYTES: usize = 512;

#[derive(Debug, Default, Clone)]
pub(super) struct Bytes {
    pub(super) current: Vec<u8>,
    pub(super) synced: Vec<u8>,
}

#[derive(Debug, Default)]
pub(super) struct Settings {
    /// The most bytes that any one file may grow to.
    pub(super) capacity: Option<usize>,
    pub(super) syncs_fail: bool,
}

type Files = BTreeMap<String, Arc<Mutex<Bytes>>>;

/// Names are durable at once; bytes only when synced.
#[derive(Debug, Default)]
pub(super) struct MemoryDisk {
    files: Mutex<Files>,
    settings: Arc<Mutex<Settings>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryDisk {
    pub(super) fn settings(&self) -> MutexGuard<'_, Settings> {
        lock(&self.settings)
    }

    /// The disk as it is found after the power went; `keep` decides for each sector that was not synced.
    pub(super) fn after_power_loss(&self, keep: &mut dyn FnMut() -> bool) -> Arc<Self> {
        self.copy(|bytes| {
            let mut found = bytes.synced.clone();
            for (number, sector) in bytes.current.chunks(SECTOR_BYTES).enumerate() {
                let start = number * SECTOR_BYTES;
                let unchanged = bytes.synced.get(start..start + sector.len()) == Some(sector);
                if !unchanged && keep() {
                    found.resize(found.len().max(start + sector.len()), 0);
                    found[start..start + sector.len()].copy_from_slice(sector);
                }
            }
            found
        })
    }

    /// The disk as another process finds it after this one was killed.
    pub(super) fn after_kill(&self) -> Arc<Self> {
        self.copy(|bytes| bytes.current.clone())
    }

    fn copy(&self, mut found: impl FnMut(&Bytes) -> Vec<u8>) -> Arc<Self> {
        let files = lock(&self.files)
            .iter()
            .map(|(name, bytes)| {
                let bytes = found(&lock(bytes));
                (name.clone(), Arc::new(Mutex::new(Bytes { synced: bytes.clone(), current: bytes })))
            })
            .collect();
        Arc::new(Self { files: Mutex::new(files), settings: Arc::default() })
    }

    pub(super) fn read(&self, name: &str) -> Vec<u8> {
        lock(&lock(&self.files)[name]).current.clone()
    }

    pub(super) fn write(&self, name: &str, bytes: Vec<u8>) {
        *lock(lock(&self.files).entry(name.to_owned()).or_default()) = Bytes { synced: bytes.clone(), current: bytes };
    }

    pub(super) fn names(&self) -> Vec<String> {
        lock(&self.files).keys().cloned().collect()
    }

    fn file(&self, name: &str, files: &Files) -> io::Result<Box<dyn DiskFile>> {
        let bytes = files.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(MemoryFile { bytes: Arc::clone(bytes), settings: Arc::clone(&self.settings) }))
    }
}

impl Disk for MemoryDisk {
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.file(name, &lock(&self.files))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut files = lock(&self.files);
        files.entry(name.to_owned()).or_default();
        self.file(name, &files)
    }

    fn create_directory(&self, _name: &str) -> io::Result<()> {
        Ok(())
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        Ok(lock(&self.files).contains_key(name))
    }

    fn list(&self, directory: &str) -> io::Result<Vec<String>> {
        let prefix = if directory.is_empty() { String::new() } else { format!("{directory}/") };
        let files = lock(&self.files);
        let inside = files.keys().filter_map(|name| name.strip_prefix(&prefix)?.split('/').next());
        let mut names: Vec<String> = inside.map(str::to_owned).collect();
        names.dedup();
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = lock(&self.files);
        let bytes = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), bytes);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        lock(&self.files).remove(name).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync_directory(&self, _name: &str) -> io::Result<()> {
        if self.settings().syncs_fail { Err(io::Error::other("planned")) } else { Ok(()) }
    }

    fn path(&self, name: &str) -> String {
        format!("/volume/{name}")
    }
}

#[derive(Debug)]
struct MemoryFile {
    bytes: Arc<Mutex<Bytes>>,
    settings: Arc<Mutex<Settings>>,
}

impl DiskFile for MemoryFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).expect("small");
        let bytes = lock(&self.bytes);
        let found = bytes.current.get(start..start + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(found);
        Ok(())
    }

    fn write_at(&self, offset: u64, written: &[u8]) -> io::Result<()> {
        let start = usize::try_from(offset).expect("small");
        let mut bytes = lock(&self.bytes);
        let end = (start + written.len()).max(bytes.current.len());
        if lock(&self.settings).capacity.is_some_and(|capacity| end > capacity.max(bytes.current.len())) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        bytes.current.resize(end, 0);
        bytes.current[start..start + written.len()].copy_from_slice(written);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.bytes).current.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        lock(&self.bytes).current.resize(usize::try_from(len).expect("small"), 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        if lock(&self.settings).syncs_fail {
            return Err(io::Error::other("planned"));
        }
        let mut bytes = lock(&self.bytes);
        bytes.synced = bytes.current.clone();
        Ok(())
    }
}
