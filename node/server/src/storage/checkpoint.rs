//! Folds a frozen overlay into redb: sorted, in one durable commit. Runs on a helper thread, beside the lane.
//!
//! The order around it, which the types carry:
//!
//! ```text
//! LaneState::freeze ─▶ Frozen ──────────┐
//! Wal::rotate(base) ─▶ Segment ─────────┴─▶ Checkpointer::write ─▶ Checkpointed
//!   base is durable                           redb is durable          │
//!                 LaneState::checkpointed ◀── Identity mark is durable ◀┘
//!                                             Wal::drop_before
//! ```
//!
//! Never writes anything but whole checkpoints, and never touches the WAL.

use std::sync::Arc;

use annulus_core::state::TableId;
use redb::{Database, TableDefinition};

use super::error::{Error, Result};
use super::overlay::{Overlay, OverlayTable};
use super::store::{self, About, Haste, Tables};
use super::wal::Segment;

/// An overlay that changes no more, to be written down.
#[derive(Debug)]
pub struct Frozen {
    pub(super) overlay: Arc<Overlay>,
}

impl Frozen {
    /// What the overlay takes in memory.
    pub fn bytes(&self) -> usize {
        self.overlay.bytes()
    }
}

/// A checkpoint that is durable.
#[derive(Debug)]
pub struct Checkpointed {
    pub(super) tables: Tables,
    pub(super) segment: Segment,
    pub(super) number: u64,
}

impl Checkpointed {
    /// A replay starts here: the WAL before it can go.
    pub fn segment(&self) -> Segment {
        self.segment
    }

    /// Counts the lane's checkpoints.
    pub fn number(&self) -> u64 {
        self.number
    }
}

/// Writes a lane's checkpoints.
#[derive(Debug)]
pub struct Checkpointer {
    pub(super) database: Arc<Database>,
    /// The redb file, as a person can find it.
    pub(super) file: String,
    pub(super) about: About,
    pub(super) haste: Haste,
}

impl Checkpointer {
    /// Where to say whether there is haste.
    pub fn haste(&self) -> Haste {
        self.haste.clone()
    }

    /// Writes an overlay into redb, durably. A replay then starts at `segment`, whose base says what the lane's groups were
    /// when the overlay was frozen.
    ///
    /// # Errors
    /// After any error redb refuses all further use, reads too: the lane has to be opened again. Nothing is lost by
    /// that, as the WAL is still whole.
    pub fn write(&mut self, frozen: Frozen, segment: Segment) -> Result<Checkpointed> {
        let about = About {
            checkpoint: self.about.checkpoint + 1,
            segment: segment.number,
            sequence: segment.sequence,
            ..self.about
        };
        self.commit(&frozen.overlay, about).map_err(|source| Error::store("checkpoint", &self.file, source))?;
        self.about = about;
        let tables = Tables::open(&self.database, &self.file)?;
        Ok(Checkpointed { tables, segment, number: about.checkpoint })
    }

    fn commit(&self, overlay: &Overlay, about: About) -> std::result::Result<(), redb::Error> {
        let mut transaction = self.database.begin_write()?;
        // Also makes the commit two-phase, without which a flipped bit could roll back to the commit before.
        transaction.set_quick_repair(true);
        for (table, changes) in &overlay.tables {
            write_table(&transaction, *table, changes)?;
        }
        about.write(&transaction)?;
        Ok(transaction.commit()?)
    }
}

fn write_table(
    transaction: &redb::WriteTransaction,
    table: TableId,
    changes: &OverlayTable,
) -> std::result::Result<(), redb::Error> {
    let name = store::table_name(table);
    let definition: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new(&name);
    if changes.cleared {
        transaction.delete_table(definition)?;
    }
    if changes.records.is_empty() {
        return Ok(());
    }
    let mut records = transaction.open_table(definition)?;
    for (key, value) in &changes.records {
        let key = key.bytes();
        match value {
            Some(value) => drop(records.insert(&key[..], store::seal(key, value).as_slice())?),
            None => drop(records.remove(&key[..])?),
        }
    }
    Ok(())
}
