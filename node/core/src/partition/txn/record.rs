//! What is stored of transactions: the open ones, and what became of the finished ones.

use bytes::Bytes;

use super::codec::{
    read_decision, read_digest, read_part, read_participants, read_results, write_decision, write_part,
    write_participants, write_results,
};
use super::{Decision, Part};
use crate::codec::{Reader, Result, Writer};
use crate::id::PartitionId;

const VERSION: u8 = 1;

/// An open attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenRecord {
    pub(super) priority: u64,
    pub(super) digest: [u8; 32],
    pub(super) anchor: PartitionId,
    pub(super) participants: Vec<PartitionId>,
    /// When it was prepared, or decided.
    pub(super) since_ms: u64,
    pub(super) state: State,
}

/// How far it has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It is prepared.
    Prepared {
        /// The index of its entry: the version of what it writes.
        index: u64,
        /// Whether its conditions here hold.
        holds: bool,
        /// What it does.
        part: Part,
    },
    /// It is decided, and the others are still to hear of it.
    Decided {
        /// What.
        decision: Decision,
        /// What its operations have come to.
        results: Option<Bytes>,
    },
}

/// A finished attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishedRecord {
    pub(super) decision: Decision,
    pub(super) digest: [u8; 32],
    pub(super) results: Option<Bytes>,
    /// When it is forgotten.
    pub(super) deadline_ms: u64,
}

impl OpenRecord {
    pub(super) fn encode(&self) -> Bytes {
        let mut writer = Writer::with_capacity(256);
        writer.u8(VERSION);
        writer.u64(self.priority);
        writer.raw(&self.digest);
        writer.u32(self.anchor.0);
        write_participants(&mut writer, &self.participants);
        writer.u64(self.since_ms);
        match &self.state {
            State::Prepared { index, holds, part } => {
                writer.u8(1);
                writer.u64(*index);
                writer.bool(*holds);
                write_part(&mut writer, part);
            }
            State::Decided { decision, results } => {
                writer.u8(2);
                write_decision(&mut writer, *decision);
                write_results(&mut writer, results.as_ref());
            }
        }
        writer.finish()
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Self> {
        let mut reader = Reader::new(bytes, "open transaction");
        reader.version(VERSION)?;
        let record = Self {
            priority: reader.u64()?,
            digest: read_digest(&mut reader)?,
            anchor: PartitionId(reader.u32()?),
            participants: read_participants(&mut reader)?,
            since_ms: reader.u64()?,
            state: match reader.u8()? {
                1 => State::Prepared { index: reader.u64()?, holds: reader.bool()?, part: read_part(&mut reader)? },
                2 => State::Decided { decision: read_decision(&mut reader)?, results: read_results(&mut reader)? },
                id => return Err(reader.unknown(id)),
            },
        };
        reader.end()?;
        Ok(record)
    }
}

impl FinishedRecord {
    pub(super) fn encode(&self) -> Bytes {
        let mut writer = Writer::with_capacity(64);
        writer.u8(VERSION);
        write_decision(&mut writer, self.decision);
        writer.raw(&self.digest);
        write_results(&mut writer, self.results.as_ref());
        writer.u64(self.deadline_ms);
        writer.finish()
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Self> {
        let mut reader = Reader::new(bytes, "finished transaction");
        reader.version(VERSION)?;
        let record = Self {
            decision: read_decision(&mut reader)?,
            digest: read_digest(&mut reader)?,
            results: read_results(&mut reader)?,
            deadline_ms: reader.u64()?,
        };
        reader.end()?;
        Ok(record)
    }
}
