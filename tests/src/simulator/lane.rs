//! A lane as its three threads drive it: lane thread, WAL thread, checkpoint thread. Here they are steps of one thread.
//!
//! ```text
//!  inbox ──▶ round ──Append, Rotate──▶ wal_queue ─▶ WAL thread ──Frozen──▶ checkpoint thread
//!  events ─▶   │ freeze                   ▲            │   │                    │
//!     ▲        ▼                          └────────────┼───┼────Checkpointed────┘
//!     │     frames, replies                            │   │
//!     └─────────────Persisted, Checkpointed, DiskFull──┘◀──┘
//! ```
//!
//! Nothing here takes time: the member that owns the lane calls `*_done` when it says that the work is done, so a crash
//! in between loses the work. What is done in which order is what `annulus_node::runtime` does.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use annulus_core::id::GroupId;
use annulus_core::lane::{GroupWrite, Input, Lane, Output, Pressure, Writes};
use annulus_core::map::Map;
use annulus_core::partition;
use annulus_core::replica::Replica;
use annulus_core::time::Instant;
use annulus_node::storage::{self, Checkpointed, Checkpointer, Frozen, IdentityFile, LaneState, Segment, Wal};

/// Most rounds whose writes are not durable yet; then the lane only waits for the disk.
const ROUNDS_IN_FLIGHT: usize = 64;
/// An entry that says nothing but what kind it is has fewer bytes.
const SHORT_ENTRY_BYTES: usize = 16;

/// When a lane's overlay is written down.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A checkpoint is due when the overlay has this many bytes. With another one frozen, writes are turned away at this
    /// size, and leaders' entries at twice of it.
    pub overlay_bytes: usize,
    /// A checkpoint is due when the overlay is this old.
    pub overlay_age: Duration,
}

/// Why a lane can't go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The core says so.
    #[error(transparent)]
    Core(#[from] annulus_core::replica::Error),
    /// The storage says so.
    #[error(transparent)]
    Storage(#[from] storage::Error),
}

/// A lane with everything that belongs to it in one process.
pub struct LaneThreads {
    /// Its number.
    pub number: u32,
    /// How many lanes its member has.
    lanes: u32,
    /// The core.
    pub lane: Lane<LaneState>,
    wal: Wal,
    checkpointer: Checkpointer,
    identity: Arc<IdentityFile>,
    limits: Limits,
    inbox: Vec<Told>,
    events: Vec<LaneEvent>,
    wal_queue: VecDeque<WalCommand>,
    wal_work: Option<WalWork>,
    checkpoint: Option<(Frozen, Segment)>,
    checkpointing: bool,
    /// The overlay has filled while the one before was written down: the next checkpoint follows at once.
    behind: bool,
    told_full: bool,
    overlay_since: Instant,
    rounds: u64,
    round_asked: bool,
    ticked: Instant,
    /// When a round has last taken what had come, and when one had before the round of the last tick.
    took: Instant,
    took_before_tick: Instant,
    extensions: u64,
}

enum Told {
    Input(Input),
    Map(Arc<Map>),
    Evict(bool),
}

enum LaneEvent {
    Persisted(Vec<Writes>),
    Checkpointed(Checkpointed),
    DiskFull(bool),
}

enum WalCommand {
    Append(Writes),
    Rotate(Vec<GroupWrite>, Frozen),
    Checkpointed(Checkpointed),
}

enum WalWork {
    /// Rounds to append, and rounds that were appended and not synced yet.
    Append(VecDeque<Writes>, Vec<Writes>),
    Rotate(Vec<GroupWrite>, Frozen),
    Checkpointed(Checkpointed),
}

/// What the WAL thread has come to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalDone {
    /// Rounds are durable.
    Persisted,
    /// A segment is begun: the checkpoint thread has work.
    Rotated,
    /// The WAL behind a checkpoint is dropped.
    Checkpointed,
    /// The disk is full: what could not be done is to be tried again.
    Full,
}

impl LaneThreads {
    /// The threads of a lane that has just been opened.
    pub fn new(
        (number, lanes): (u32, u32),
        lane: Lane<LaneState>,
        (wal, checkpointer): (Wal, Checkpointer),
        identity: Arc<IdentityFile>,
        limits: Limits,
        now: Instant,
    ) -> Self {
        Self {
            number,
            lanes,
            lane,
            wal,
            checkpointer,
            identity,
            limits,
            inbox: Vec::new(),
            events: Vec::new(),
            wal_queue: VecDeque::new(),
            wal_work: None,
            checkpoint: None,
            checkpointing: false,
            behind: false,
            told_full: false,
            overlay_since: now,
            rounds: 0,
            round_asked: false,
            ticked: now,
            took: now,
            took_before_tick: now,
            extensions: 0,
        }
    }

    /// Puts something into the inbox.
    pub fn push(&mut self, input: Input) {
        self.inbox.push(Told::Input(input));
    }

    /// Puts a newer map into the inbox.
    pub fn push_map(&mut self, map: Arc<Map>) {
        self.inbox.push(Told::Map(map));
    }

    /// Has all leaders handed over and none taken, or not any more.
    pub fn push_evict(&mut self, evicted: bool) {
        self.inbox.push(Told::Evict(evicted));
    }

    /// Whether a round should be done and none was asked for yet; then one is asked for.
    pub fn ask_for_round(&mut self) -> bool {
        let asks = (self.takes_inputs() && !self.inbox.is_empty()) || !self.events.is_empty();
        asks && !std::mem::replace(&mut self.round_asked, true)
    }

    /// How many rounds were done.
    pub fn rounds(&self) -> u64 {
        self.rounds
    }

    /// When a round has last taken a tick.
    pub fn ticked(&self) -> Instant {
        self.ticked
    }

    /// What had come by then was with the lane at its last tick.
    pub fn took_before_tick(&self) -> Instant {
        self.took_before_tick
    }

    /// How often leaders here have given all leases another term since this was asked last.
    pub fn take_extensions(&mut self) -> u64 {
        std::mem::take(&mut self.extensions)
    }

    fn takes_inputs(&self) -> bool {
        self.lane.rounds_in_flight() < ROUNDS_IN_FLIGHT
    }

    /// One round of the lane thread.
    pub fn round(&mut self, now: Instant) -> Result<Output, Error> {
        self.round_asked = false;
        self.rounds += 1;
        let takes = self.takes_inputs();
        let inputs = if takes { std::mem::take(&mut self.inbox) } else { Vec::new() };
        let took = self.took;
        self.took = if takes { now } else { took };
        for event in std::mem::take(&mut self.events) {
            self.event(now, event)?;
        }
        for told in inputs {
            match told {
                Told::Input(input) => {
                    if matches!(input, Input::Tick) {
                        (self.ticked, self.took_before_tick) = (now, took);
                    }
                    self.lane.step(now, input)?;
                }
                Told::Map(map) => {
                    let (number, lanes) = (self.number, self.lanes);
                    let mine = |group: GroupId| group.0 % lanes == number;
                    match self.lane.map() {
                        None if map.epoch == 1 => self.lane.bootstrap(&map, mine, now)?,
                        _ => self.lane.adopt(&map, mine, now)?,
                    }
                }
                Told::Evict(evicted) => self.lane.evict(evicted),
            }
        }
        self.end_round(now)
    }

    fn event(&mut self, now: Instant, event: LaneEvent) -> Result<(), Error> {
        match event {
            LaneEvent::Persisted(rounds) => {
                for writes in rounds {
                    self.lane.step(now, Input::Persisted(writes.into_durable()))?;
                }
            }
            LaneEvent::Checkpointed(checkpointed) => {
                self.lane.state_mut().checkpointed(checkpointed);
                self.checkpointing = false;
            }
            LaneEvent::DiskFull(full) => self.lane.set_disk_full(full),
        }
        Ok(())
    }

    /// The end of a round, also of the first one, which has no inputs.
    pub fn end_round(&mut self, now: Instant) -> Result<Output, Error> {
        let pressure = self.pressure();
        self.behind |= pressure != Pressure::None;
        self.lane.set_pressure(pressure);
        let mut output = self.lane.take_output(now)?;
        if self.lane.sends_snapshots_in(now).is_some() {
            output.sends.extend(self.lane.send_snapshots(now)?);
        }
        if let Some(writes) = output.writes.take() {
            self.extensions += self.count_extensions(&writes);
            self.wal_queue.push_back(WalCommand::Append(writes));
        }
        self.checkpoint_if_due(now);
        Ok(output)
    }

    /// In how many entries leaders here give all leases another term.
    fn count_extensions(&self, writes: &Writes) -> u64 {
        let leads = |group: GroupId| group != GroupId::MAP && self.lane.replica(group).is_some_and(Replica::leads);
        let entries = writes.groups().iter().filter(|write| leads(write.group)).flat_map(|write| &write.entries);
        let short = entries.filter(|entry| !entry.data.is_empty() && entry.data.len() <= SHORT_ENTRY_BYTES);
        let extends = |entry: partition::Entry| entry.command == partition::Command::ExtendLeases;
        short.filter(|entry| partition::Entry::decode(entry.data.clone()).is_ok_and(extends)).count() as u64
    }

    fn pressure(&self) -> Pressure {
        let bytes = self.lane.state().overlay_bytes();
        if !self.checkpointing || bytes < self.limits.overlay_bytes / 2 {
            Pressure::None
        } else if bytes < self.limits.overlay_bytes {
            Pressure::HoldSnapshots
        } else if bytes < 2 * self.limits.overlay_bytes {
            Pressure::RefuseWrites
        } else {
            Pressure::RefuseEntries
        }
    }

    fn checkpoint_if_due(&mut self, now: Instant) {
        let bytes = self.lane.state().overlay_bytes();
        if bytes == 0 {
            self.overlay_since = now;
        }
        let due = self.behind
            || bytes >= self.limits.overlay_bytes
            || now.since(self.overlay_since) >= self.limits.overlay_age;
        if bytes == 0 || !due || self.checkpointing {
            return;
        }
        let base = self.lane.begin_checkpoint();
        let frozen = self.lane.state_mut().freeze().expect("no other overlay is frozen");
        // In the WAL's order the base comes before everything that is applied from now on.
        self.wal_queue.push_back(WalCommand::Rotate(base, frozen));
        self.checkpointing = true;
        self.behind = false;
        self.overlay_since = now;
    }

    /// Gives the WAL thread something to do, if it has nothing and there is something.
    pub fn begin_wal_work(&mut self) -> bool {
        if self.wal_work.is_some() {
            return false;
        }
        let work = match self.wal_queue.pop_front() {
            None => return false,
            Some(WalCommand::Rotate(base, frozen)) => WalWork::Rotate(base, frozen),
            Some(WalCommand::Checkpointed(checkpointed)) => WalWork::Checkpointed(checkpointed),
            Some(WalCommand::Append(first)) => {
                let mut rounds = VecDeque::from([first]);
                let is_append = |command: &mut WalCommand| matches!(command, WalCommand::Append(_));
                while let Some(WalCommand::Append(writes)) = self.wal_queue.pop_front_if(is_append) {
                    rounds.push_back(writes);
                }
                WalWork::Append(rounds, Vec::new())
            }
        };
        self.wal_work = Some(work);
        true
    }

    /// The WAL thread is done with what it was given.
    pub fn wal_done(&mut self) -> Result<WalDone, Error> {
        let work = self.wal_work.take().expect("the WAL thread was given something to do");
        let (result, left) = self.do_wal_work(work);
        self.wal_work = left;
        match result {
            Ok(done) => {
                if std::mem::take(&mut self.told_full) {
                    self.events.push(LaneEvent::DiskFull(false));
                }
                Ok(done)
            }
            Err(error) if error.is_disk_full() => {
                if !std::mem::replace(&mut self.told_full, true) {
                    self.events.push(LaneEvent::DiskFull(true));
                }
                Ok(WalDone::Full)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Does the work, or gives back what is left of it.
    fn do_wal_work(&mut self, work: WalWork) -> (storage::Result<WalDone>, Option<WalWork>) {
        match work {
            WalWork::Append(mut rounds, mut appended) => {
                while let Some(writes) = rounds.pop_front() {
                    if let Err(error) = self.wal.append(writes.groups()) {
                        rounds.push_front(writes);
                        return (Err(error), Some(WalWork::Append(rounds, appended)));
                    }
                    appended.push(writes);
                }
                if let Err(error) = self.wal.sync() {
                    return (Err(error), Some(WalWork::Append(rounds, appended)));
                }
                self.events.push(LaneEvent::Persisted(appended));
                (Ok(WalDone::Persisted), None)
            }
            WalWork::Rotate(base, frozen) => match self.wal.rotate(&base) {
                Ok(segment) => {
                    self.checkpoint = Some((frozen, segment));
                    (Ok(WalDone::Rotated), None)
                }
                Err(error) => (Err(error), Some(WalWork::Rotate(base, frozen))),
            },
            WalWork::Checkpointed(checkpointed) => {
                let marked = self.identity.set_mark(self.number, self.wal.mark(&checkpointed));
                match marked.and_then(|()| self.wal.drop_before(checkpointed.segment())) {
                    Ok(()) => {
                        self.events.push(LaneEvent::Checkpointed(checkpointed));
                        (Ok(WalDone::Checkpointed), None)
                    }
                    Err(error) => (Err(error), Some(WalWork::Checkpointed(checkpointed))),
                }
            }
        }
    }

    /// The checkpoint thread is done with the overlay it was given.
    pub fn checkpoint_done(&mut self) -> Result<(), Error> {
        let (frozen, segment) = self.checkpoint.take().expect("the checkpoint thread was given an overlay");
        let checkpointed = self.checkpointer.write(frozen, segment)?;
        self.wal_queue.push_back(WalCommand::Checkpointed(checkpointed));
        Ok(())
    }

    /// The power goes off while the WAL thread and the checkpoint thread are at what they were given, if they were given
    /// anything: `limit` is called before each and says after how many disk operations.
    pub fn die_at_work(mut self, mut limit: impl FnMut()) {
        if let Some(work) = self.wal_work.take() {
            limit();
            // Nobody is left to hear what came of it.
            let _ = self.do_wal_work(work);
        }
        if let Some((frozen, segment)) = self.checkpoint.take() {
            limit();
            let _ = self.checkpointer.write(frozen, segment);
        }
    }
}
