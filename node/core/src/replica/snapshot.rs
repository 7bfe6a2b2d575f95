//! How a replica takes part in the sending of snapshots: see [`super::stream`] for the protocol.

use raft::eraftpb::{ConfState, Message, MessageType};
use raft::{Progress as PeerProgress, ProgressState, SnapshotStatus};

use super::machine::Machine;
use super::stream::{Arrival, Progress, Receiving, Sending};
use super::{Configuration, Error, Replica, Round};
use crate::bugs::{Bug, planted};
use crate::codec::message::{Body, Chunk, PeerMessage, Stream};
use crate::id::{GroupId, MemberId};
use crate::lane::{Installed, LogPosition, Pace, Reply, Staged};
use crate::state::{State, TableId};
use crate::time::Instant;

impl Replica {
    fn next_table(&self) -> TableId {
        TableId { group: self.group, generation: self.generation + 1 }
    }

    /// Raft wants a follower to have a snapshot. It gets its turn (see `Lane::send_snapshots`).
    pub(super) fn want_snapshot(&mut self, now: Instant, message: &Message, round: &mut Round) {
        let to = MemberId::new(message.to).expect("Raft sends to members");
        self.sending.insert(to, Sending::new(now));
        round.snapshots = true;
    }

    /// The snapshot for this member has its turn: it is of the state as it is now.
    fn begin_snapshot(&mut self, now: Instant, to: MemberId, state: &dyn State) -> Result<(), Error> {
        let position = if planted(Bug::SnapshotRacesCompaction) {
            LogPosition { index: self.committed().max(self.applied().index), term: self.applied().term }
        } else {
            self.applied()
        };
        let view = state.view(self.table())?;
        let configuration = self.configuration().clone();
        self.sent_streams += 1;
        let stream = Stream { term: self.term(), position, attempt: self.sent_streams };
        let progress = self.node.raft.mut_prs().get_mut(to.get());
        if let (Some(sending), Some(progress)) = (self.sending.get_mut(&to), progress) {
            // Raft goes on from here when the snapshot is there, not from where the group stood when it asked for one.
            progress.pending_snapshot = position.index;
            sending.begin(stream, configuration, view, now);
        }
        Ok(())
    }

    pub(super) fn chunk_acknowledged(
        &mut self,
        now: Instant,
        from: MemberId,
        stream: Stream,
        next: u32,
        round: &mut Round,
    ) {
        let Some(sending) = self.sending.get_mut(&from).filter(|sending| sending.stream() == Some(stream)) else {
            return;
        };
        let status = match sending.acknowledged(next, now) {
            Progress::Finished => Some(SnapshotStatus::Finish),
            Progress::GivenUp => Some(SnapshotStatus::Failure),
            Progress::Underway => None,
        };
        if let Some(status) = status {
            self.sending.remove(&from);
            self.node.report_snapshot(from.get(), status);
        }
        round.snapshots = true;
    }

    /// The snapshots that are being sent from here or are to be: since when each is wanted, and by whom.
    pub fn wanted_snapshots(&self) -> impl Iterator<Item = (Instant, GroupId, MemberId)> {
        self.sending.iter().map(|(to, sending)| (sending.wanted_since(), self.group, *to))
    }

    /// Takes what may be sent by now of the snapshot for this member. Returns whether there is more that only waits for its
    /// time.
    pub fn take_pieces(
        &mut self,
        now: Instant,
        to: MemberId,
        state: &dyn State,
        pace: &mut Pace,
        sends: &mut Vec<(MemberId, PeerMessage)>,
    ) -> Result<bool, Error> {
        let waits = self.sending.get(&to).is_some_and(|sending| sending.stream().is_none());
        if waits && pace.allows(now) {
            self.begin_snapshot(now, to, state)?;
        }
        let Some(sending) = self.sending.get_mut(&to) else { return Ok(false) };
        let chunks = sending.fill_window(now, pace)?;
        sends.extend(chunks.into_iter().map(|chunk| (to, chunk_message(self.group, chunk))));
        Ok(sending.has_room())
    }

    /// How many bytes at the end of this leader's log some follower still needs: whoever gets a snapshot needs what comes after
    /// it.
    pub fn log_bytes_needed(&self) -> usize {
        if !self.leads() {
            return 0;
        }
        let log = self.node.store();
        let has = |(id, peer): (&u64, &PeerProgress)| match peer.state {
            // One that waits for its turn will be of the state as it is by then.
            ProgressState::Snapshot => Some(self.sending.get(&MemberId::new(*id)?)?.stream()?.position.index),
            // Nothing was heard of it since the election: it may need all that is there.
            ProgressState::Probe if peer.matched == 0 => Some(log.start().index),
            // After a snapshot it is not known yet that the follower has it.
            ProgressState::Probe => Some(peer.matched.max(peer.next_idx.saturating_sub(1))),
            ProgressState::Replicate => Some(peer.matched),
        };
        // What is gone already can't be kept.
        let needed = self.node.raft.prs().iter().filter_map(has).filter(|index| *index >= log.start().index);
        needed.min().map_or(0, |index| log.bytes_after(index))
    }

    pub(super) fn tick_streams(&mut self, now: Instant, round: &mut Round) {
        let mut given_up = Vec::new();
        let log_starts_after = self.node.store().start().index;
        let mut again = Vec::new();
        let progress = self.node.raft.prs();
        // A follower that has caught up in another way needs the rest no longer.
        self.sending.retain(|to, _| progress.get(to.get()).is_some_and(|peer| peer.state == ProgressState::Snapshot));
        for (to, sending) in &mut self.sending {
            if sending.stream().is_some_and(|stream| stream.position.index < log_starts_after) {
                // The log has not been kept for so long: the follower would need another one right after this.
                round.pace.overtaken(now, sending.has_room());
                sending.start_over(now);
                round.snapshots = true;
                continue;
            }
            match sending.tick(now) {
                (Progress::GivenUp, _) => given_up.push(*to),
                (_, chunks) => again.push((*to, chunks)),
            }
        }
        for (to, chunks) in again {
            round.sends.extend(chunks.into_iter().map(|chunk| (to, chunk_message(self.group, chunk))));
        }
        for to in given_up {
            self.sending.remove(&to);
            self.node.report_snapshot(to.get(), SnapshotStatus::Failure);
        }
    }

    pub(super) fn receive_chunk(&mut self, from: MemberId, chunk: Chunk, state: &mut dyn State, round: &mut Round) {
        // A whole snapshot that waits to be installed is not touched: a late copy of its first chunk would begin it anew.
        if !self.admits_chunk(from, &chunk) || chunk.stream.term < self.term() || self.node.snap().is_some() {
            return;
        }
        if self.is_here(chunk.stream.position) {
            self.decline(from, &chunk, state);
            return;
        }
        let stream = chunk.stream;
        let next = match Receiving::arrive(&mut self.receiving, from, &chunk) {
            Arrival::Unwanted { next } => next,
            Arrival::Wanted { first } => {
                let next = chunk.number + 1;
                self.stage(from, chunk, first, state);
                next
            }
        };
        // Gated even when nothing was staged: an earlier chunk may not be durable yet.
        round.gated.push((from, PeerMessage { group: self.group, body: Body::ChunkAck { stream, next } }));
    }

    /// Whether the log holds everything up to here, so that a snapshot of it is not needed.
    fn is_here(&self, position: LogPosition) -> bool {
        position.index <= self.committed() || self.node.raft.raft_log.match_term(position.index, position.term)
    }

    /// Nothing of this snapshot is needed: tells the leader how far the log goes, and lets go of what was staged.
    fn decline(&mut self, from: MemberId, chunk: &Chunk, state: &mut dyn State) {
        if self.receiving.take().is_some() {
            self.drop_staged(state);
        }
        let position = chunk.stream.position;
        if position.index == self.committed() && !self.node.raft.raft_log.match_term(position.index, position.term) {
            // Two states at one index: no correct leader says so, and Raft would install the one that is not here.
            return;
        }
        let mut known = self.raft_message(MessageType::MsgSnapshot, from, chunk.stream.term);
        fill_snapshot(&mut known, position, self.conf_state().clone());
        let _ = self.node.step(known);
        self.reseed();
    }

    fn drop_staged(&mut self, state: &mut dyn State) {
        let table = self.next_table();
        state.clear(table);
        self.staged.push(Staged { generation: table.generation, first: true, records: Vec::new() });
    }

    fn stage(&mut self, from: MemberId, chunk: Chunk, first: bool, state: &mut dyn State) {
        let table = self.next_table();
        if first {
            state.clear(table);
        }
        for (key, value) in &chunk.records {
            state.put(table, key.clone(), value.clone());
        }
        self.staged.push(Staged { generation: table.generation, first, records: chunk.records });
        if let Some(configuration) = chunk.last {
            self.receiving = None;
            self.installing_epoch = configuration.epoch;
            let mut whole = self.raft_message(MessageType::MsgSnapshot, from, chunk.stream.term);
            fill_snapshot(&mut whole, chunk.stream.position, configuration.state);
            // Raft takes it, and `install` follows, or it knows better.
            let _ = self.node.step(whole);
            self.reseed();
            if self.node.snap().is_none() {
                self.drop_staged(state);
            }
        }
    }

    /// Raft has taken the snapshot: what was staged becomes the state.
    pub(super) fn install(
        &mut self,
        position: LogPosition,
        conf_state: ConfState,
        state: &mut dyn State,
        round: &mut Round,
    ) -> Result<Installed, Error> {
        let old = self.table();
        self.generation += 1;
        self.reborn = false;
        state.clear(old);
        self.machine = Machine::load(state, self.table())?;
        let configuration = Configuration { state: conf_state, epoch: self.installing_epoch };
        self.node.mut_store().install(position, configuration.clone());
        // Raft lets only what is persisted be applied, and stops (with a panic) when it is to stand for election over a
        // state that is not. What the disk has yet to do is known here: nothing that says so leaves before (`drain`).
        self.node.raft.raft_log.persisted = position.index;
        self.node.advance_apply_to(position.index);
        self.unrecorded = true;
        // Some of them may be in the snapshot, but their outcomes are not.
        self.proposals.applied(position, |gone, _| round.replies.push((gone.request, Reply::OutcomeUnknown)));
        Ok(Installed { generation: self.generation, position, configuration })
    }
}

fn chunk_message(group: GroupId, chunk: Chunk) -> PeerMessage {
    PeerMessage { group, body: Body::Chunk(chunk) }
}

fn fill_snapshot(message: &mut Message, position: LogPosition, conf_state: ConfState) {
    let metadata = message.mut_snapshot().mut_metadata();
    metadata.index = position.index;
    metadata.term = position.term;
    metadata.set_conf_state(conf_state);
}
