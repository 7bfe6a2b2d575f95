//! The payload of a partition's log entry.

use bytes::Bytes;

use super::codec::{read_fenced, read_write, write_fenced, write_write};
use super::command::{Change, Write};
use super::lock;
use super::lock::codec::{read_command, write_command};
use super::txn;
use crate::codec::{Reader, Result, Writer};
use crate::replica::Configure;

/// The payload of a log entry: `version:u8 clock_ms:u64 kind:u8 body`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The partition's clock as the proposing leader saw it, in milliseconds since the partition was made.
    pub clock_ms: u64,
    /// What is to be done.
    pub command: Command,
}

/// What an entry does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Change one key.
    Write(Write),
    /// Let go of what has expired by this entry's clock.
    Expire,
    /// Acquire, renew or release a lock.
    Lock(lock::Command),
    /// Do a transaction, or a part of it, or hear what becomes of some.
    Txn(txn::Command),
    /// From this entry's clock on every lease lasts at least one whole term.
    ExtendLeases,
    /// Change who votes and who learns: nothing to the machine, all to the replica.
    Configure(Configure),
}

const VERSION: u8 = 1;
const WRITE: u8 = 1;
const EXPIRE: u8 = 2;
const CONFIGURE: u8 = 3;
const FENCED_WRITE: u8 = 4;
const LOCK: u8 = 5;
const EXTEND_LEASES: u8 = 6;
const TXN: u8 = 7;

impl Entry {
    /// The byte form.
    pub fn encode(&self) -> Bytes {
        let size = match &self.command {
            Command::Write(Write { key, change: Change::Put { value, .. }, .. }) => key.bytes().len() + value.len(),
            Command::Write(write) => write.key.bytes().len(),
            Command::Txn(txn::Command::Alone(txn::Alone { part, .. })) => part.bytes(),
            Command::Txn(txn::Command::Prepare(prepare)) => prepare.part.bytes(),
            Command::Txn(_) | Command::Lock(_) | Command::Expire | Command::ExtendLeases | Command::Configure(_) => 0,
        };
        let mut writer = Writer::with_capacity(64 + size);
        writer.u8(VERSION);
        writer.u64(self.clock_ms);
        match &self.command {
            Command::Write(write) => match &write.fence {
                None => {
                    writer.u8(WRITE);
                    write_write(&mut writer, write);
                }
                Some(fence) => {
                    writer.u8(FENCED_WRITE);
                    write_fenced(&mut writer, write, fence);
                }
            },
            Command::Lock(command) => {
                writer.u8(LOCK);
                write_command(&mut writer, command);
            }
            Command::Txn(command) => {
                writer.u8(TXN);
                txn::codec::write_command(&mut writer, command);
            }
            Command::ExtendLeases => writer.u8(EXTEND_LEASES),
            Command::Expire => writer.u8(EXPIRE),
            Command::Configure(configure) => {
                writer.u8(CONFIGURE);
                configure.write(&mut writer);
            }
        }
        writer.finish()
    }

    /// Reads the byte form.
    pub fn decode(bytes: Bytes) -> Result<Self> {
        let mut reader = Reader::new(bytes, "partition entry");
        reader.version(VERSION)?;
        let clock_ms = reader.u64()?;
        let command = match reader.u8()? {
            WRITE => Command::Write(read_write(&mut reader)?),
            FENCED_WRITE => Command::Write(read_fenced(&mut reader)?),
            LOCK => Command::Lock(read_command(&mut reader)?),
            TXN => Command::Txn(txn::codec::read_command(&mut reader)?),
            EXTEND_LEASES => Command::ExtendLeases,
            EXPIRE => Command::Expire,
            CONFIGURE => Command::Configure(Configure::read(&mut reader)?),
            id => return Err(reader.unknown(id)),
        };
        reader.end()?;
        Ok(Self { clock_ms, command })
    }
}
