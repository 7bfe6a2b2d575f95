//! The WAL thread of a lane: appends what has piled up, syncs once, hands the proofs back, and runs the round that follows
//! from them if the lane is free.

use std::sync::Arc;
use std::time::Duration;

use annulus_core::lane::{Durable, GroupWrite, Writes};
use crossbeam_channel::{Receiver, Sender};

use super::driver::Events;
use super::lane::LaneEvent;
use crate::storage::{Checkpointed, Error, Frozen, IdentityFile, Segment, Wal};

/// How long a full disk is left alone before it is tried again.
const FULL_DISK_PAUSE: Duration = Duration::from_millis(200);

/// What a WAL thread is told.
#[derive(Debug)]
pub(super) enum WalCommand {
    /// Make these writes durable.
    Append(Writes),
    /// Begin a new segment with this base, and have the overlay that was frozen with it written to redb.
    Rotate(Vec<GroupWrite>, Frozen),
    /// A checkpoint is durable: what came before it can go.
    Checkpointed(Checkpointed),
}

pub(super) struct WalThread {
    pub(super) lane: u32,
    pub(super) wal: Wal,
    pub(super) identity: Arc<IdentityFile>,
    pub(super) commands: Receiver<WalCommand>,
    pub(super) checkpoints: Sender<(Frozen, Segment)>,
    pub(super) events: Events,
}

impl WalThread {
    /// Runs for as long as the process. An error that does not pass ends the lane: nothing more is acknowledged.
    pub(super) fn run(mut self) {
        while let Ok(command) = self.commands.recv() {
            if let Err(error) = self.handle(command) {
                self.events.send(LaneEvent::Failed(Box::new(error)));
                return;
            }
        }
    }

    fn handle(&mut self, command: WalCommand) -> Result<(), Error> {
        match command {
            WalCommand::Append(writes) => self.append(writes),
            WalCommand::Rotate(base, frozen) => {
                let segment = self.retry_while_full(|wal| wal.rotate(&base))?;
                // There is room: one checkpoint runs at a time.
                let _ = self.checkpoints.send((frozen, segment));
                Ok(())
            }
            WalCommand::Checkpointed(checkpointed) => {
                let (lane, identity) = (self.lane, Arc::clone(&self.identity));
                self.retry_while_full(|wal| identity.set_mark(lane, wal.mark(&checkpointed)))?;
                self.wal.drop_before(checkpointed.segment())?;
                self.events.send(LaneEvent::Checkpointed(checkpointed));
                Ok(())
            }
        }
    }

    /// Takes all rounds that have piled up while the last sync ran: one sync for all of them.
    fn append(&mut self, first: Writes) -> Result<(), Error> {
        let mut rounds = vec![first];
        let mut next = None;
        while next.is_none()
            && let Ok(command) = self.commands.try_recv()
        {
            match command {
                WalCommand::Append(writes) => rounds.push(writes),
                other => next = Some(other),
            }
        }
        for writes in &rounds {
            self.retry_while_full(|wal| wal.append(writes.groups()))?;
        }
        self.retry_while_full(Wal::sync)?;
        let proofs: Vec<Durable> = rounds.into_iter().map(Writes::into_durable).collect();
        let persisted = LaneEvent::Persisted(proofs);
        if next.is_none() && self.commands.is_empty() {
            self.events.send_and_drive(persisted);
        } else {
            self.events.send(persisted);
        }
        next.map_or(Ok(()), |command| self.handle(command))
    }

    /// A full disk passes; everything else does not. While it lasts nothing is acknowledged.
    fn retry_while_full<T>(&mut self, mut action: impl FnMut(&mut Wal) -> Result<T, Error>) -> Result<T, Error> {
        let mut told = false;
        loop {
            match action(&mut self.wal) {
                Err(error) if error.is_disk_full() => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::error!(lane = self.lane, %error, "no space for the WAL: writes wait");
                        self.events.send(LaneEvent::DiskFull(true));
                    }
                    std::thread::sleep(FULL_DISK_PAUSE);
                }
                result => {
                    if told {
                        tracing::info!(lane = self.lane, "there is space for the WAL again");
                        self.events.send(LaneEvent::DiskFull(false));
                    }
                    return result;
                }
            }
        }
    }
}
