//! The redb file of a lane: opened and checked, read table by table.
//!
//! Only a checkpoint writes to it (see [`super::checkpoint`]). Every value has a checksum behind it, which covers the
//! key too and is verified at each read: redb itself checks its pages only when the file is opened.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use annulus_core::codec::{Reader, Writer};
use annulus_core::id::GroupId;
use annulus_core::state::{Error as StateError, TableId};
use bytes::Bytes;
use redb::{
    Builder, Database, ReadOnlyTable, ReadableDatabase, StorageBackend, TableDefinition, TableHandle, WriteTransaction,
};

use super::disk::{Disk, DiskFile};
use super::error::{Error, Result};

/// Bytes of the checksum behind each value.
const CHECKSUM_BYTES: usize = 4;
/// The table with what the file says of itself.
const ABOUT_TABLE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("lane");
/// The one key in it.
const ABOUT_KEY: &[u8] = b"about";
/// What is written goes to the disk in steps of so many bytes, unless there is haste.
const STEP_BYTES: u64 = 1 << 20;
/// Version of what is in the file.
const VERSION: u16 = 1;

/// What a redb file says of itself. Written with every checkpoint, in the same commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct About {
    /// The lane that the file is of.
    pub(super) lane: u32,
    /// Counts the checkpoints, from 0 for the empty file.
    pub(super) checkpoint: u64,
    /// The WAL segment from which a replay starts.
    pub(super) segment: u64,
    /// The sequence of that segment's first record.
    pub(super) sequence: u64,
}

impl About {
    fn encode(self) -> Bytes {
        let mut writer = Writer::with_capacity(32);
        writer.u16(VERSION);
        writer.u32(self.lane);
        writer.u64(self.checkpoint);
        writer.u64(self.segment);
        writer.u64(self.sequence);
        writer.finish()
    }

    fn decode(bytes: &[u8], file: &str) -> Result<Self> {
        let corrupt = |reason: String| Error::Corrupt { file: file.to_owned(), offset: 0, reason };
        let mut reader = Reader::new(Bytes::copy_from_slice(bytes), "the record about the lane");
        let version = reader.u16().map_err(|error| corrupt(error.to_string()))?;
        if version > VERSION {
            return Err(Error::NewerFormat {
                file: file.to_owned(),
                found: u32::from(version),
                known: u32::from(VERSION),
            });
        }
        let mut read = || {
            Ok(Self { lane: reader.u32()?, checkpoint: reader.u64()?, segment: reader.u64()?, sequence: reader.u64()? })
        };
        let about = read().map_err(|error: annulus_core::codec::Error| corrupt(error.to_string()))?;
        reader.end().map_err(|error| corrupt(error.to_string()))?;
        Ok(about)
    }

    /// Puts this into the file with the transaction's commit.
    pub(super) fn write(self, transaction: &WriteTransaction) -> std::result::Result<(), redb::Error> {
        let mut table = transaction.open_table(ABOUT_TABLE)?;
        table.insert(ABOUT_KEY, seal(ABOUT_KEY, &self.encode()).as_slice())?;
        Ok(())
    }
}

/// The name of a table: the group and the generation in hexadecimal digits.
pub(super) fn table_name(table: TableId) -> String {
    format!("{:08x}.{:08x}", table.group.0, table.generation)
}

fn parse_table_name(name: &str) -> Option<TableId> {
    let (group, generation) = name.split_once('.')?;
    let number = |text: &str| u32::from_str_radix(text, 16).ok();
    let table = TableId { group: GroupId(number(group)?), generation: number(generation)? };
    (table_name(table) == name).then_some(table)
}

/// The value with its checksum behind it.
pub(super) fn seal(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(value.len() + CHECKSUM_BYTES);
    sealed.extend_from_slice(value);
    sealed.extend_from_slice(&checksum(key, value).to_le_bytes());
    sealed
}

fn checksum(key: &[u8], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    hasher.finalize()
}

fn unseal<'a>(key: &[u8], sealed: &'a [u8]) -> Option<&'a [u8]> {
    let (value, stored) = sealed.split_last_chunk::<CHECKSUM_BYTES>()?;
    (checksum(key, value).to_le_bytes() == *stored).then_some(value)
}

/// Opens the redb file and verifies all of it, always, whether the last stop was clean or not.
///
/// A page that rotted while the node was down would otherwise be believed: redb checks no page when it reads one, and
/// a damaged inner page shows as records that are not there, which no checksum of a value can tell. Opening 1 GiB took
/// 1.5 s with the check and 0.75 s without it (in the page cache; 3.2 s from a cold disk, which is the disk's speed).
pub(super) fn open(disk: &dyn Disk, name: &str, cache_bytes: usize, haste: Haste) -> Result<Arc<Database>> {
    let file = disk.path(name);
    let backend = disk.open(name).map_err(|source| Error::io("open", &file, source))?;
    let database = Builder::new()
        .set_cache_size(cache_bytes)
        .set_check_integrity_on_open(true)
        .create_with_backend(Backend::new(backend, haste))
        .map_err(|source| Error::store("open", &file, source))?;
    Ok(Arc::new(database))
}

/// Makes an empty file that says what `about` says. A crash leaves it whole under its name, or not there.
pub(super) fn create(disk: &dyn Disk, directory: &str, name: &str, about: About) -> Result<()> {
    let unfinished = format!("{name}.new");
    let file = disk.path(&unfinished);
    let io = |operation| {
        let file = file.clone();
        move |source| Error::io(operation, file, source)
    };
    let backend = disk.create(&unfinished).map_err(io("create"))?;
    backend.set_len(0).map_err(io("empty"))?;
    let fill = || -> std::result::Result<(), redb::Error> {
        let database =
            Builder::new().set_cache_size(1 << 20).create_with_backend(Backend::new(backend, Haste::default()))?;
        let mut transaction = database.begin_write()?;
        transaction.set_quick_repair(true);
        about.write(&transaction)?;
        transaction.commit()?;
        Ok(database.close()?)
    };
    fill().map_err(|source| Error::store("fill", &file, source))?;
    disk.rename(&unfinished, name).map_err(io("rename"))?;
    disk.sync_directory(directory).map_err(io("sync the directory of"))
}

/// Reads what the file says of itself.
pub(super) fn read_about(database: &Database, file: &str) -> Result<About> {
    let missing = || Error::Corrupt {
        file: file.to_owned(),
        offset: 0,
        reason: "the record about the lane is missing or damaged".to_owned(),
    };
    let read = || -> std::result::Result<Option<Vec<u8>>, redb::Error> {
        let table = database.begin_read()?.open_table(ABOUT_TABLE)?;
        let sealed = table.get_owned(ABOUT_KEY)?;
        Ok(sealed.and_then(|sealed| unseal(ABOUT_KEY, sealed.value()).map(<[u8]>::to_vec)))
    };
    match read() {
        Ok(Some(about)) => About::decode(&about, file),
        Ok(None) | Err(redb::Error::TableDoesNotExist(_)) => Err(missing()),
        Err(source) => Err(Error::store("read", file, source)),
    }
}

/// All tables as of one checkpoint, each opened once.
#[derive(Debug, Default)]
pub(super) struct Tables {
    tables: BTreeMap<TableId, Arc<StoredTable>>,
}

impl Tables {
    /// Opens every table as of the last commit.
    pub(super) fn open(database: &Arc<Database>, file: &str) -> Result<Self> {
        let read = || -> std::result::Result<BTreeMap<TableId, Arc<StoredTable>>, redb::Error> {
            let transaction = database.begin_read()?;
            let mut tables = BTreeMap::new();
            for handle in transaction.list_tables()? {
                // Only the lane's own table has a name of another form.
                let Some(table) = parse_table_name(handle.name()) else { continue };
                let records = transaction.open_table(TableDefinition::new(handle.name()))?;
                tables.insert(table, Arc::new(StoredTable { table, records, _database: Arc::clone(database) }));
            }
            Ok(tables)
        };
        Ok(Self { tables: read().map_err(|source| Error::store("read", file, source))? })
    }

    pub(super) fn get(&self, table: TableId) -> Option<&Arc<StoredTable>> {
        self.tables.get(&table)
    }
}

/// One table as of one checkpoint. It keeps its pages from being reused for as long as it lives.
pub(super) struct StoredTable {
    table: TableId,
    records: ReadOnlyTable<&'static [u8], &'static [u8]>,
    /// Reads fail once the database is closed, so it stays open while a table does.
    _database: Arc<Database>,
}

impl fmt::Debug for StoredTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StoredTable").field(&self.table).finish()
    }
}

impl StoredTable {
    /// The record under a key.
    pub(super) fn get(&self, key: &[u8]) -> std::result::Result<Option<Bytes>, StateError> {
        let Some(sealed) = self.records.get_owned(key).map_err(|error| self.error(&error.into()))? else {
            return Ok(None);
        };
        let value = unseal(key, sealed.value()).ok_or_else(|| self.damaged(key))?;
        Ok(Some(Bytes::copy_from_slice(value)))
    }

    /// Visits the records with `from <= key < to` in key order.
    pub(super) fn range(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: annulus_core::state::Visit<'_>,
    ) -> std::result::Result<(), StateError> {
        let records = match to {
            Some(to) => self.records.range_owned::<&[u8]>(from..to),
            None => self.records.range_owned::<&[u8]>(from..),
        };
        for record in records.map_err(|error| self.error(&error.into()))? {
            let (key, sealed) = record.map_err(|error| self.error(&error.into()))?;
            let value = unseal(key.value(), sealed.value()).ok_or_else(|| self.damaged(key.value()))?;
            if visit(key.value(), value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn error(&self, error: &redb::Error) -> StateError {
        StateError { group: self.table.group, reason: format!("table {}: {error}", table_name(self.table)) }
    }

    fn damaged(&self, key: &[u8]) -> StateError {
        let reason = format!(
            "table {}: the checksum does not fit the value of key \"{}\"",
            table_name(self.table),
            key.escape_ascii()
        );
        StateError { group: self.table.group, reason }
    }
}

/// Whether a checkpoint may hand the disk all that it writes in one sync: while nobody waits for syncs of the WAL.
#[derive(Debug, Clone, Default)]
pub struct Haste(Arc<AtomicBool>);

impl Haste {
    /// Says so for what is written from now on.
    pub fn set(&self, hastes: bool) {
        self.0.store(hastes, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Runs redb on a file of a [`Disk`]. It takes no lock: the whole volume is locked already.
///
/// What redb writes goes down in small steps, unless there is haste: a checkpoint is tens of megabytes, and each sync of
/// the WAL would wait behind all that its commit hands to the disk at once.
#[derive(Debug)]
struct Backend {
    file: Box<dyn DiskFile>,
    /// Bytes written since the last step.
    unwritten: AtomicU64,
    haste: Haste,
}

impl Backend {
    fn new(file: Box<dyn DiskFile>, haste: Haste) -> Self {
        Self { file, unwritten: AtomicU64::new(0), haste }
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.unwritten.store(0, Ordering::Relaxed);
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, data)?;
        let bytes = data.len() as u64;
        if self.unwritten.fetch_add(bytes, Ordering::Relaxed) + bytes >= STEP_BYTES && !self.haste.is_set() {
            self.unwritten.store(0, Ordering::Relaxed);
            self.file.relieve()?;
        }
        Ok(())
    }
}
