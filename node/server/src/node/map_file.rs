//! The member's copy of the newest map, beside its identity: where it finds the others after a restart.
//!
//! ```text
//! file := magic[8] "ANNUMAP\0", crc32:u32 of the map, map
//! ```

use annulus_core::codec;
use annulus_core::map::Map;
use bytes::Bytes;

use crate::storage::Disk;

const FILE: &str = "map";
const UNFINISHED: &str = "map.new";
const MAGIC: &[u8; 8] = b"ANNUMAP\0";
const HEADER_BYTES: usize = 12;

/// Why the copy of the map can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file can't be read or written.
    #[error("cannot {operation} `{file}`")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The file.
        file: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The file was written by a newer version.
    #[error("`{file}`: start a newer node on this volume")]
    NewerFormat {
        /// The file.
        file: String,
        /// Both versions.
        source: codec::Error,
    },
    /// The file is not what was written.
    #[error("`{file}` is damaged. Do not edit it: keep a copy, and let this member rejoin with an empty volume")]
    Damaged {
        /// The file.
        file: String,
        /// What is wrong with it.
        source: codec::Error,
    },
}

/// Reads the copy; `None` when there is none.
pub fn read(disk: &dyn Disk) -> Result<Option<Map>, Error> {
    let io = |operation| move |source| Error::Io { operation, file: disk.path(FILE), source };
    if !disk.exists(FILE).map_err(io("look for"))? {
        return Ok(None);
    }
    let file = disk.open(FILE).map_err(io("open"))?;
    let length = usize::try_from(file.len().map_err(io("measure"))?).unwrap_or(usize::MAX).min(64 << 20);
    let mut bytes = vec![0; length];
    file.read_at(0, &mut bytes).map_err(io("read"))?;
    let damaged = |source| Error::Damaged { file: disk.path(FILE), source };
    let bytes = Bytes::from(bytes);
    if bytes.len() < HEADER_BYTES || bytes[..8] != MAGIC[..] {
        return Err(damaged(codec::Error::OutOfRange { what: "the beginning of the map file" }));
    }
    let map = bytes.slice(HEADER_BYTES..);
    if crc32fast::hash(&map).to_le_bytes() != bytes[8..HEADER_BYTES] {
        return Err(damaged(codec::Error::Checksum));
    }
    Map::decode(map).map(Some).map_err(|source| match source {
        codec::Error::NewerVersion { .. } => Error::NewerFormat { file: disk.path(FILE), source },
        source => damaged(source),
    })
}

/// Puts a map in the copy's place, durably; a crash leaves the old one or the new one.
pub fn write(disk: &dyn Disk, map: &Map) -> Result<(), Error> {
    let io = |operation| move |source| Error::Io { operation, file: disk.path(FILE), source };
    let map = map.encode();
    let file = disk.create(UNFINISHED).map_err(io("create the next"))?;
    let mut bytes = MAGIC.to_vec();
    bytes.extend(crc32fast::hash(&map).to_le_bytes());
    bytes.extend(&map);
    file.set_len(0).map_err(io("empty the next"))?;
    file.write_at(0, &bytes).map_err(io("write the next"))?;
    file.sync_data().map_err(io("sync the next"))?;
    disk.rename(UNFINISHED, FILE).map_err(io("replace"))?;
    disk.sync_directory("").map_err(io("sync the directory of"))
}
