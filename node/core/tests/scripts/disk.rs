//! A member's disk: what is durable, and what was handed to it and is not yet.

use std::collections::VecDeque;

use annulus_core::codec::wal::{self, read_groups, write_groups};
use annulus_core::codec::{Reader, Writer};
use annulus_core::lane::{Durable, GroupWrite, Writes};
use annulus_core::state::MemoryState;

/// What is durable, and what is not yet.
#[derive(Default)]
pub struct Disk {
    /// The state of the last checkpoint.
    pub state: MemoryState,
    /// Durable records of the WAL, from the segment that the checkpoint needs on.
    pub wal: Vec<Vec<GroupWrite>>,
    waiting: VecDeque<Waiting>,
    checkpoint: Option<Checkpoint>,
}

enum Waiting {
    Round(Writes),
    Base(Vec<GroupWrite>),
}

/// A checkpoint under way: the frozen state, and where in the WAL its base is once that is durable.
struct Checkpoint {
    frozen: MemoryState,
    base_at: Option<usize>,
}

impl Disk {
    /// Takes a round's writes.
    pub fn write(&mut self, writes: Writes) {
        self.waiting.push_back(Waiting::Round(writes));
    }

    /// Begins a checkpoint of this state, with this base.
    pub fn begin_checkpoint(&mut self, base: Vec<GroupWrite>, frozen: MemoryState) {
        self.waiting.push_back(Waiting::Base(base));
        self.checkpoint = Some(Checkpoint { frozen, base_at: None });
    }

    /// How many records are not durable.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Makes the next record durable.
    pub fn persist(&mut self) -> Option<Durable> {
        match self.waiting.pop_front()? {
            Waiting::Round(writes) => {
                self.wal.push(reread(writes.groups()));
                Some(writes.into_durable())
            }
            Waiting::Base(base) => {
                if let Some(checkpoint) = &mut self.checkpoint {
                    checkpoint.base_at = Some(self.wal.len());
                }
                self.wal.push(reread(&base));
                None
            }
        }
    }

    /// The frozen state becomes the state. The base must be durable by then: the state is never ahead of the WAL.
    pub fn finish_checkpoint(&mut self) -> Result<(), String> {
        match &self.checkpoint {
            Some(Checkpoint { frozen, base_at: Some(_) }) => self.state = frozen.clone(),
            Some(_) => return Err("the base is not durable yet".to_owned()),
            None => return Err("there is no checkpoint under way".to_owned()),
        }
        Ok(())
    }

    /// The WAL before the base is dropped.
    pub fn drop_wal(&mut self) -> Result<(), String> {
        let checkpoint = self.checkpoint.take().ok_or("there is no checkpoint under way")?;
        self.wal.drain(..checkpoint.base_at.ok_or("the base is not durable yet")?);
        Ok(())
    }

    /// The power goes.
    pub fn lose_power(&mut self) {
        self.waiting.clear();
        self.checkpoint = None;
    }
}

/// What comes back when these writes are read from the disk.
fn reread(groups: &[GroupWrite]) -> Vec<GroupWrite> {
    let mut writer = Writer::default();
    write_groups(&mut writer, groups);
    let bytes = writer.finish();
    assert!(Reader::new(bytes.clone(), "WAL record").remaining() > 0);
    let read = read_groups(bytes, wal::VERSION).expect("what was written can be read");
    assert_eq!(read, groups);
    read
}
