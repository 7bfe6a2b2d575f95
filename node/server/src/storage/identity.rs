//! Who this volume is, and what it must never fall behind. A small file, synced apart from everything else.
//!
//! The marks are what makes a lost disk known: a lane whose files are behind its mark lost state that it had
//! acknowledged, and its member must not vote. The identity is made before any lane, so lanes without one are such a
//! loss too.

use std::sync::{Arc, Mutex, PoisonError};

use annulus_core::codec::{self, Reader, Writer};
use annulus_core::id::{ClusterId, MemberId};
use bytes::Bytes;

use super::disk::Disk;
use super::error::{Error, Result};

const FILE: &str = "identity";
const UNFINISHED: &str = "identity.new";
const MAGIC: &[u8; 8] = b"ANNULUS\0";
const VERSION: u16 = 1;
/// Magic, version, length of the body, checksum of all but itself. The same in all versions.
const HEADER_BYTES: usize = 8 + 2 + 4 + 4;

/// What a lane is known to have had on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// The number of its last checkpoint.
    pub checkpoint: u64,
    /// The WAL segment that was written to.
    pub segment: u64,
    /// The last record that was durable there.
    pub sequence: u64,
}

/// Who a volume is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The member.
    pub member: MemberId,
    /// The member's name, for people.
    pub name: String,
    /// How many lanes the volume was made with. It can't change: groups are spread by it.
    pub lanes: u32,
    /// The cluster, once the member belongs to one.
    pub cluster: Option<ClusterId>,
    /// One per lane; `None` until the lane was opened for the first time.
    pub marks: Vec<Option<Mark>>,
}

impl Identity {
    /// A member that belongs to no cluster yet.
    pub fn new(member: MemberId, name: String, lanes: u32) -> Self {
        Self { member, name, lanes, cluster: None, marks: vec![None; lanes as usize] }
    }

    fn encode(&self) -> Bytes {
        let mut body = Writer::with_capacity(128);
        body.u64(self.member.get());
        body.bytes(self.name.as_bytes());
        body.u32(self.lanes);
        body.option(self.cluster, |writer, cluster| writer.raw(&cluster.0));
        body.list(&self.marks, |writer, mark| {
            writer.option(*mark, |writer, mark| {
                writer.u64(mark.checkpoint);
                writer.u64(mark.segment);
                writer.u64(mark.sequence);
            });
        });
        let body = body.finish();
        let mut writer = Writer::with_capacity(HEADER_BYTES + body.len());
        writer.raw(MAGIC);
        writer.u16(VERSION);
        writer.bytes(&body);
        let checksum = crc32fast::hash(writer.written());
        writer.u32(checksum);
        writer.finish()
    }

    fn decode(bytes: Bytes, file: &str) -> Result<Self> {
        let corrupt =
            |error: codec::Error| Error::Corrupt { file: file.to_owned(), offset: 0, reason: error.to_string() };
        let (version, body) = open_envelope(bytes).map_err(corrupt)?;
        if version > VERSION {
            return Err(Error::NewerFormat {
                file: file.to_owned(),
                found: u32::from(version),
                known: u32::from(VERSION),
            });
        }
        Self::decode_body(body).map_err(corrupt)
    }

    fn decode_body(body: Bytes) -> codec::Result<Self> {
        let mut reader = Reader::new(body, "identity");
        let member = MemberId::new(reader.u64()?).ok_or_else(|| reader.out_of_range())?;
        let name = reader.text()?;
        let lanes = reader.u32()?;
        let cluster = reader.option(|reader| {
            let id = reader.raw(16)?;
            id[..].try_into().map(ClusterId).map_err(|_| reader.out_of_range())
        })?;
        let marks = reader.list(|reader| {
            reader.option(|reader| {
                Ok(Mark { checkpoint: reader.u64()?, segment: reader.u64()?, sequence: reader.u64()? })
            })
        })?;
        if lanes == 0 || marks.len() != lanes as usize {
            return Err(reader.out_of_range());
        }
        reader.end()?;
        Ok(Self { member, name, lanes, cluster, marks })
    }
}

/// The version and the body of an identity file whose checksum fits.
fn open_envelope(bytes: Bytes) -> codec::Result<(u16, Bytes)> {
    let checked = bytes.len().saturating_sub(4);
    let mut reader = Reader::new(bytes.clone(), "identity");
    if reader.raw(MAGIC.len())? != MAGIC[..] {
        return Err(reader.out_of_range());
    }
    let version = reader.u16()?;
    let body = reader.bytes()?;
    let checksum = reader.u32()?;
    reader.end()?;
    if crc32fast::hash(&bytes[..checked]) != checksum {
        return Err(codec::Error::Checksum);
    }
    Ok((version, body))
}

/// The identity in memory and on disk; lanes share it.
#[derive(Debug)]
pub struct IdentityFile {
    disk: Arc<dyn Disk>,
    identity: Mutex<Identity>,
}

impl IdentityFile {
    /// Reads a volume's identity; `None` when it has none, and no lane either.
    pub fn open(disk: Arc<dyn Disk>) -> Result<Option<Self>> {
        let shown = disk.path(FILE);
        let error = |operation, source| Error::io(operation, shown.clone(), source);
        if !disk.exists(FILE).map_err(|source| error("look for", source))? {
            let names = disk.list("").map_err(|source| error("list the directory of", source))?;
            let lane = names.iter().find_map(|name| name.strip_prefix(super::LANE_PREFIX)?.parse().ok());
            let reason = format!("the volume has lanes, but `{shown}` is gone");
            return lane.map_or(Ok(None), |lane| Err(Error::LostState { lane, reason }));
        }
        let file = disk.open(FILE).map_err(|source| error("open", source))?;
        let length = file.len().map_err(|source| error("measure", source))?;
        if length > 1 << 20 {
            return Err(Error::Corrupt { file: shown, offset: 0, reason: format!("{length} bytes are too many") });
        }
        let mut bytes = vec![0; usize::try_from(length).expect("a mebibyte fits into memory")];
        file.read_at(0, &mut bytes).map_err(|source| error("read", source))?;
        let identity = Identity::decode(bytes.into(), &shown)?;
        Ok(Some(Self { disk, identity: Mutex::new(identity) }))
    }

    /// Gives an empty volume its identity, durably.
    pub fn create(disk: Arc<dyn Disk>, identity: Identity) -> Result<Self> {
        store(&*disk, &identity)?;
        Ok(Self { disk, identity: Mutex::new(identity) })
    }

    /// The identity as it is now.
    pub fn get(&self) -> Identity {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says durably what a lane has. A mark never goes back.
    pub fn set_mark(&self, lane: u32, mark: Mark) -> Result<()> {
        self.change(|identity| {
            let place = &mut identity.marks[lane as usize];
            *place = (*place).max(Some(mark));
        })
    }

    /// Says durably which cluster the member belongs to.
    ///
    /// # Panics
    /// When it belongs to another one already.
    pub fn set_cluster(&self, cluster: ClusterId) -> Result<()> {
        self.change(|identity| {
            assert!(identity.cluster.is_none_or(|known| known == cluster), "a member never changes its cluster");
            identity.cluster = Some(cluster);
        })
    }

    fn change(&self, change: impl FnOnce(&mut Identity)) -> Result<()> {
        let mut identity = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = identity.clone();
        change(&mut changed);
        if changed != *identity {
            store(&*self.disk, &changed)?;
            *identity = changed;
        }
        Ok(())
    }
}

/// Puts the file in place as a whole: a crash leaves the old one or the new one.
fn store(disk: &dyn Disk, identity: &Identity) -> Result<()> {
    let error = |operation, source| Error::io(operation, disk.path(FILE), source);
    let bytes = identity.encode();
    let file = disk.create(UNFINISHED).map_err(|source| error("create the next", source))?;
    file.set_len(0).map_err(|source| error("empty the next", source))?;
    file.write_at(0, &bytes).map_err(|source| error("write the next", source))?;
    file.sync_data().map_err(|source| error("sync the next", source))?;
    disk.rename(UNFINISHED, FILE).map_err(|source| error("replace", source))?;
    disk.sync_directory("").map_err(|source| error("sync the directory of", source))
}
