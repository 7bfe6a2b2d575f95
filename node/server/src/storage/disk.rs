//! The disk as the storage sees it: files by name, positioned reads and writes, and explicit syncs.
//!
//! Everything a node keeps goes through these two traits, so that the simulator can put a disk of its own under the
//! very same code. Names are relative to the volume, with `/` between a directory and a file. Nothing is durable until
//! it is synced: a file's bytes by [`DiskFile::sync_data`], a new or renamed name by [`Disk::sync_directory`].

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::error::{Error, Result};

/// A volume.
pub trait Disk: Debug + Send + Sync {
    /// Opens a file for reading and writing; it must be there.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file for reading and writing, and makes an empty one if it is not there.
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Makes a directory; it may be there already.
    fn create_directory(&self, name: &str) -> io::Result<()>;
    /// Whether a file or directory of this name is there.
    fn exists(&self, name: &str) -> io::Result<bool>;
    /// The names (without the directory) of what is in a directory, in any order. The volume's own directory is `""`.
    fn list(&self, directory: &str) -> io::Result<Vec<String>>;
    /// Gives a file another name; a file that had that name is gone.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_directory(&self, name: &str) -> io::Result<()>;
    /// The file's name as a person can find it.
    fn path(&self, name: &str) -> String;
}

/// An open file.
pub trait DiskFile: Debug + Send + Sync {
    /// Fills the buffer from this offset; a file that ends earlier is an error.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Writes all bytes at this offset; the file grows if it must. After an error some of the bytes may be there.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// How many bytes the file has.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts the file, or grows it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes everything written to the file so far durable.
    fn sync_data(&self) -> io::Result<()>;
    /// Has the disk take what was written to the file so far, so that less is left for the next sync. Promises nothing.
    fn relieve(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A directory of the operating system, held by this process alone for as long as the value lives.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    /// The lock is on this open file; the operating system drops it with the process, however that ends.
    _lock: File,
}

/// The file whose lock keeps a second process out of the volume.
const LOCK: &str = "lock";

impl Directory {
    /// Opens a volume, making its directory if need be.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process has it open.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let root: PathBuf = root.into();
        let shown = root.display().to_string();
        let error = |operation, source| Error::io(operation, shown.clone(), source);
        if !root.exists() {
            fs::create_dir_all(&root).map_err(|source| error("create", source))?;
            if let Some(parent) = root.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                sync_names(parent).map_err(|source| error("sync the parent of", source))?;
            }
        }
        let lock = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(root.join(LOCK));
        let lock = lock.map_err(|source| error("open the lock file in", source))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { root, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(Error::Locked { path: shown }),
            Err(TryLockError::Error(source)) => Err(error("lock", source)),
        }
    }

    /// Where the volume is.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

fn sync_names(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

impl Disk for Directory {
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.root.join(name))?;
        Ok(Box::new(OpenFile(file)))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let path = self.root.join(name);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Box::new(OpenFile(file)))
    }

    fn create_directory(&self, name: &str) -> io::Result<()> {
        fs::create_dir_all(self.root.join(name))
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        self.root.join(name).try_exists()
    }

    fn list(&self, directory: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.root.join(directory))? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.root.join(from), self.root.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.root.join(name))
    }

    fn sync_directory(&self, name: &str) -> io::Result<()> {
        sync_names(&self.root.join(name))
    }

    fn path(&self, name: &str) -> String {
        self.root.join(name).display().to_string()
    }
}

#[derive(Debug)]
struct OpenFile(File);

impl DiskFile for OpenFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    /// Nothing that is safe to call from here only starts the writing, so this waits for it too.
    fn relieve(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
