//! A member's disk: keeps what was synced, and of the rest what the seed says.
//!
//! ```text
//!  write_at, set_len ─▶ unsynced changes ──sync_data──▶ durable bytes
//!                             │ power loss: each change on its own is kept, lost, or torn by sectors
//!                             └───────────────────────▶ durable bytes
//!  create, rename, remove ─▶ unsynced names ──sync_directory──▶ durable names
//!                             │ power loss: the first few of each directory are kept (file systems journal them in order)
//!                             └───────────────────────▶ durable names
//! ```
//!
//! A process sees the disk through a `Session`; once that has ended (the process died) it changes nothing any more. A
//! disk can be told to lose power after so many operations, so that a crash can hit the middle of anything.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use annulus_node::storage::{Disk, DiskFile};

use super::dice::Dice;

/// What a disk writes as a whole.
const SECTOR_BYTES: u64 = 512;

/// A member's disk.
#[derive(Debug, Clone, Default)]
pub struct SimulatedDisk(Arc<Mutex<Volume>>);

/// What a loss of power did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Losses {
    /// Unsynced changes of files that are there.
    pub kept: u64,
    /// Unsynced changes of files that are gone.
    pub lost: u64,
    /// Unsynced writes of which some sectors are there.
    pub torn: u64,
    /// Unsynced new, changed and removed names that are as before.
    pub names: u64,
}

/// How kind a loss of power is to what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kindness {
    /// Everything is kept: only the process died.
    KeepsAll,
    /// Everything is lost.
    LosesAll,
    /// Each change is kept, lost or torn by itself.
    Mixed,
}

#[derive(Debug, Default)]
struct Volume {
    session: u64,
    off: bool,
    operations_left: Option<u64>,
    full: bool,
    refused_for_space: u64,
    files: BTreeMap<u64, FileBytes>,
    names: BTreeMap<String, Node>,
    durable_names: BTreeMap<String, Node>,
    /// By directory, in order.
    name_changes: BTreeMap<String, Vec<NameChange>>,
    operations: u64,
    fingerprint: u64,
    written: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    File(u64),
    Directory,
}

#[derive(Debug, Clone)]
enum NameChange {
    Set(String, Node),
    Rename(String, String),
    Remove(String),
}

#[derive(Debug, Default)]
struct FileBytes {
    current: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
}

impl SimulatedDisk {
    /// Access for a process that starts now; those before it have none any more.
    pub fn begin_session(&self) -> Arc<dyn Disk> {
        let mut volume = self.volume();
        volume.session += 1;
        volume.off = false;
        Arc::new(Session { volume: Arc::clone(&self.0), session: volume.session })
    }

    /// Lets the power go off in the middle of the operation after so many.
    pub fn lose_power_after(&self, operations: u64) {
        self.volume().operations_left = Some(operations);
    }

    /// Whether the power is off.
    pub fn is_off(&self) -> bool {
        self.volume().off
    }

    /// Lets files not grow any more, or grow again.
    pub fn set_full(&self, full: bool) {
        self.volume().full = full;
    }

    /// How often a file could not grow since this was last asked.
    pub fn take_refused(&self) -> u64 {
        std::mem::take(&mut self.volume().refused_for_space)
    }

    /// The power stays on.
    pub fn forget_power_loss(&self) {
        self.volume().operations_left = None;
    }

    /// How many changes there were so far, and a hash of them all.
    pub fn fingerprint(&self) -> (u64, u64) {
        let volume = self.volume();
        (volume.operations, volume.fingerprint)
    }

    /// How many bytes were written so far.
    pub fn written(&self) -> u64 {
        self.volume().written
    }

    /// The power goes off now, if it has not yet. The process that had the disk must be gone when this returns.
    pub fn cut_power(&self) {
        let mut volume = self.volume();
        volume.off = true;
        volume.operations_left = None;
    }

    /// What is left when the power comes back.
    pub fn settle(&self, kindness: Kindness, dice: &mut Dice) -> Losses {
        self.volume().settle(kindness, dice)
    }

    fn volume(&self) -> MutexGuard<'_, Volume> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Volume {
    fn settle(&mut self, kindness: Kindness, dice: &mut Dice) -> Losses {
        let mut losses = Losses::default();
        for (directory, changes) in std::mem::take(&mut self.name_changes) {
            let kept = match kindness {
                Kindness::KeepsAll => changes.len(),
                Kindness::LosesAll => 0,
                Kindness::Mixed => dice.index(changes.len() + 1),
            };
            losses.names += (changes.len() - kept) as u64;
            let there = directory.is_empty() || self.durable_names.contains_key(&directory);
            for change in changes.into_iter().take(if there { kept } else { 0 }) {
                change.apply(&mut self.durable_names);
            }
        }
        self.names = self.durable_names.clone();
        let names = &self.names;
        self.files.retain(|number, _| names.values().any(|node| *node == Node::File(*number)));
        for file in self.files.values_mut() {
            file.settle(kindness, dice, &mut losses);
        }
        losses
    }

    /// Lets one changing operation pass, or not.
    fn operate(&mut self, session: u64, kind: u64, about: &[u64]) -> io::Result<()> {
        self.live(session)?;
        if let Some(left) = &mut self.operations_left {
            if *left == 0 {
                self.off = true;
                self.operations_left = None;
                return Err(no_power());
            }
            *left -= 1;
        }
        self.operations += 1;
        for number in [kind].iter().chain(about) {
            self.fingerprint = (self.fingerprint ^ number).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(5);
        }
        Ok(())
    }

    fn live(&self, session: u64) -> io::Result<()> {
        if self.off || self.session != session { Err(no_power()) } else { Ok(()) }
    }

    fn change_name(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        let directory = directory_of(change.name()).to_owned();
        self.name_changes.entry(directory).or_default().push(change);
    }

    fn file(&mut self, number: u64) -> io::Result<&mut FileBytes> {
        self.files.get_mut(&number).ok_or_else(not_found)
    }

    /// Refuses to let a file grow while the disk is full.
    fn check_space(&mut self, number: u64, needed: u64) -> io::Result<()> {
        if self.full && needed > self.file(number)?.current.len() as u64 {
            self.refused_for_space += 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl NameChange {
    fn name(&self) -> &str {
        match self {
            Self::Set(name, _) | Self::Rename(_, name) | Self::Remove(name) => name,
        }
    }

    fn apply(&self, names: &mut BTreeMap<String, Node>) {
        match self {
            Self::Set(name, node) => {
                names.insert(name.clone(), *node);
            }
            Self::Rename(from, to) => {
                if let Some(node) = names.remove(from) {
                    names.insert(to.clone(), node);
                }
            }
            Self::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

impl FileBytes {
    fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    fn settle(&mut self, kindness: Kindness, dice: &mut Dice, losses: &mut Losses) {
        for change in self.unsynced.drain(..) {
            let fate = match kindness {
                Kindness::KeepsAll => 0,
                Kindness::LosesAll => 1,
                Kindness::Mixed => dice.below(3),
            };
            match (fate, change) {
                (0, change) => {
                    losses.kept += 1;
                    change.apply(&mut self.durable);
                }
                (1, _) | (_, Change::Length(_)) => losses.lost += 1,
                (_, Change::Write(offset, bytes)) => {
                    losses.torn += 1;
                    for sector in sectors(offset, &bytes).filter(|_| dice.chance(500)) {
                        sector.apply(&mut self.durable);
                    }
                }
            }
        }
        self.current.clone_from(&self.durable);
    }
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(offset, written) => write(bytes, *offset, written),
            Self::Length(length) => bytes.resize(to_usize(*length), 0),
        }
    }
}

fn write(bytes: &mut Vec<u8>, offset: u64, written: &[u8]) {
    let from = to_usize(offset);
    let to = from + written.len();
    if bytes.len() < to {
        bytes.resize(to, 0);
    }
    bytes[from..to].copy_from_slice(written);
}

/// The write in pieces that a disk writes as a whole.
fn sectors(offset: u64, bytes: &[u8]) -> impl Iterator<Item = Change> + '_ {
    let mut done = 0;
    std::iter::from_fn(move || {
        let place = offset + done as u64;
        let length = to_usize(SECTOR_BYTES - place % SECTOR_BYTES).min(bytes.len() - done);
        let sector = &bytes[done..done + length];
        done += length;
        (length > 0).then(|| Change::Write(place, sector.to_vec()))
    })
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).expect("a simulated file fits into memory")
}

fn directory_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(directory, _)| directory)
}

fn no_power() -> io::Error {
    io::Error::other("the power is off")
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

fn hash_of(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// The disk as one process sees it.
#[derive(Debug)]
struct Session {
    volume: Arc<Mutex<Volume>>,
    session: u64,
}

impl Session {
    fn volume(&self) -> MutexGuard<'_, Volume> {
        self.volume.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, number: u64) -> Box<dyn DiskFile> {
        Box::new(OpenFile { volume: Arc::clone(&self.volume), session: self.session, number })
    }
}

impl Disk for Session {
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let volume = self.volume();
        volume.live(self.session)?;
        match volume.names.get(name) {
            Some(Node::File(number)) => Ok(self.handle(*number)),
            _ => Err(not_found()),
        }
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut volume = self.volume();
        volume.operate(self.session, 1, &[hash_of(name.as_bytes())])?;
        if let Some(Node::File(number)) = volume.names.get(name) {
            return Ok(self.handle(*number));
        }
        let directory = directory_of(name);
        if !directory.is_empty() && volume.names.get(directory) != Some(&Node::Directory) {
            return Err(not_found());
        }
        let number = volume.files.last_key_value().map_or(1, |(last, _)| last + 1);
        volume.files.insert(number, FileBytes::default());
        volume.change_name(NameChange::Set(name.to_owned(), Node::File(number)));
        Ok(self.handle(number))
    }

    fn create_directory(&self, name: &str) -> io::Result<()> {
        let mut volume = self.volume();
        volume.operate(self.session, 2, &[hash_of(name.as_bytes())])?;
        if !volume.names.contains_key(name) {
            volume.change_name(NameChange::Set(name.to_owned(), Node::Directory));
        }
        Ok(())
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        let volume = self.volume();
        volume.live(self.session)?;
        Ok(volume.names.contains_key(name))
    }

    fn list(&self, directory: &str) -> io::Result<Vec<String>> {
        let volume = self.volume();
        volume.live(self.session)?;
        let names = volume.names.keys().filter(|name| directory_of(name) == directory);
        Ok(names.map(|name| name.rsplit('/').next().unwrap_or(name).to_owned()).collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut volume = self.volume();
        volume.operate(self.session, 3, &[hash_of(from.as_bytes()), hash_of(to.as_bytes())])?;
        assert_eq!(directory_of(from), directory_of(to), "nothing is renamed into another directory");
        if !volume.names.contains_key(from) {
            return Err(not_found());
        }
        volume.change_name(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut volume = self.volume();
        volume.operate(self.session, 4, &[hash_of(name.as_bytes())])?;
        if !volume.names.contains_key(name) {
            return Err(not_found());
        }
        volume.change_name(NameChange::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_directory(&self, name: &str) -> io::Result<()> {
        let mut volume = self.volume();
        volume.operate(self.session, 5, &[hash_of(name.as_bytes())])?;
        for change in volume.name_changes.remove(name).unwrap_or_default() {
            change.apply(&mut volume.durable_names);
        }
        Ok(())
    }

    fn path(&self, name: &str) -> String {
        name.to_owned()
    }
}

/// A file as one process has it open.
#[derive(Debug)]
struct OpenFile {
    volume: Arc<Mutex<Volume>>,
    session: u64,
    number: u64,
}

impl OpenFile {
    fn volume(&self) -> MutexGuard<'_, Volume> {
        self.volume.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DiskFile for OpenFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut volume = self.volume();
        volume.live(self.session)?;
        let from = to_usize(offset);
        let bytes = volume.file(self.number)?.current.get(from..from + buffer.len());
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut volume = self.volume();
        volume.operate(self.session, 6, &[self.number, offset, hash_of(bytes)])?;
        volume.check_space(self.number, offset + bytes.len() as u64)?;
        let file = volume.file(self.number)?;
        write(&mut file.current, offset, bytes);
        file.unsynced.push(Change::Write(offset, bytes.to_vec()));
        volume.written += bytes.len() as u64;
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let mut volume = self.volume();
        volume.live(self.session)?;
        Ok(volume.file(self.number)?.current.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut volume = self.volume();
        volume.operate(self.session, 7, &[self.number, len])?;
        volume.check_space(self.number, len)?;
        let file = volume.file(self.number)?;
        file.current.resize(to_usize(len), 0);
        file.unsynced.push(Change::Length(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut volume = self.volume();
        volume.operate(self.session, 8, &[self.number])?;
        volume.file(self.number)?.sync();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_synced_survives_and_what_was_not_may_be_lost() {
        let disk = SimulatedDisk::default();
        let session = disk.begin_session();
        let file = session.create("a").unwrap();
        file.write_at(0, b"synced").unwrap();
        file.sync_data().unwrap();
        session.sync_directory("").unwrap();
        file.write_at(0, b"fresh!").unwrap();
        session.create("b").unwrap();
        disk.cut_power();
        assert!(file.write_at(0, b"late").is_err());
        let losses = disk.settle(Kindness::LosesAll, &mut Dice::new(1));
        assert_eq!(losses, Losses { kept: 0, lost: 1, torn: 0, names: 1 });
        let session = disk.begin_session();
        let mut bytes = [0; 6];
        session.open("a").unwrap().read_at(0, &mut bytes).unwrap();
        assert_eq!(&bytes, b"synced");
        assert!(!session.exists("b").unwrap());
    }

    #[test]
    fn the_power_goes_off_in_the_middle_of_the_operation_it_was_told() {
        let disk = SimulatedDisk::default();
        let session = disk.begin_session();
        disk.lose_power_after(2);
        let file = session.create("a").unwrap();
        file.write_at(0, b"x").unwrap();
        assert!(file.sync_data().is_err());
        assert!(disk.is_off());
    }
}
