//! What can go wrong with a volume, told so that a person knows what to do.

use std::io;

/// The result of a storage operation.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong with a volume.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process has the volume open.
    #[error("`{path}` is in use by another process; two nodes must never share a volume")]
    Locked {
        /// The volume.
        path: String,
    },
    /// The operating system refused an operation.
    #[error("cannot {operation} `{file}`")]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On which file.
        file: String,
        /// Why it failed.
        source: io::Error,
    },
    /// No space is left. Nothing was half done: the same call may be made again when there is space.
    #[error("cannot write `{file}`: the disk is full")]
    DiskFull {
        /// The file that would have grown.
        file: String,
    },
    /// An earlier sync failed. What it was to make durable may be gone, so nothing more is written.
    #[error("`{file}` takes no more writes, because syncing it failed before")]
    Poisoned {
        /// The file.
        file: String,
    },
    /// Bytes on the disk are not what was written.
    #[error(
        "`{file}` is damaged at byte {offset}: {reason}. Do not edit it: keep a copy, and let this member rejoin with an \
         empty volume"
    )]
    Corrupt {
        /// The file.
        file: String,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// The volume lost state that it had acknowledged. Its member must not vote.
    #[error(
        "lane {lane} lost acknowledged state: {reason}. This member must not vote again: let it rejoin with an empty \
         volume"
    )]
    LostState {
        /// The lane.
        lane: u32,
        /// What is missing.
        reason: String,
    },
    /// The volume was written by a newer version.
    #[error("`{file}` has format version {found}, and this version reads up to {known}; start a newer node on it")]
    NewerFormat {
        /// The file.
        file: String,
        /// Its version.
        found: u32,
        /// The newest version known here.
        known: u32,
    },
    /// redb could not do what was asked.
    #[error("cannot {operation} `{file}`")]
    Store {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On which file.
        file: String,
        /// Why it failed.
        source: Box<redb::Error>,
    },
}

impl Error {
    /// Wraps what the operating system said. A full disk is told apart, because it passes.
    pub(super) fn io(operation: &'static str, file: impl Into<String>, source: io::Error) -> Self {
        let file = file.into();
        if is_full(&source) { Self::DiskFull { file } } else { Self::Io { operation, file, source } }
    }

    /// Wraps what redb said. A full disk and damage are told apart.
    pub(super) fn store(operation: &'static str, file: impl Into<String>, source: impl Into<redb::Error>) -> Self {
        let file = file.into();
        match source.into() {
            // What redb says of a file that is not one of its own.
            redb::Error::Io(source) if source.kind() == io::ErrorKind::InvalidData => {
                Self::Corrupt { file, offset: 0, reason: source.to_string() }
            }
            redb::Error::Io(source) => Self::io(operation, file, source),
            redb::Error::Corrupted(reason) => Self::Corrupt { file, offset: 0, reason },
            source => Self::Store { operation, file, source: Box::new(source) },
        }
    }

    /// Whether the volume has lost, or never had, what it should have.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::LostState { .. })
    }

    /// Whether it may pass when space is freed.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::DiskFull { .. })
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
