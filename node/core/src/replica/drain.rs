//! The end of a round: what Raft has made ready goes into the round, and what is committed is applied.

use raft::eraftpb::{Message, MessageType};
use raft::{Ready, StateRole};

use super::machine::Applied;
use super::{Error, Replica, Round};
use crate::bugs::{Bug, planted};
use crate::codec::message::is_sendable;
use crate::id::MemberId;
use crate::lane::{GroupWrite, LeaderChange, LogPosition};
use crate::state::State;
use crate::time::Instant;

impl Replica {
    /// Puts everything that is ready into the round, which has this number.
    pub fn drain(&mut self, now: Instant, number: u64, state: &mut dyn State, round: &mut Round) -> Result<(), Error> {
        let mut write = GroupWrite::new(self.group);
        std::mem::swap(&mut write.staged, &mut self.staged);
        let mut written = !write.staged.is_empty();
        let mut last_ready = None;
        self.lead_if_asked();
        loop {
            while self.node.has_ready() {
                let mut ready = self.node.ready();
                last_ready = Some(ready.number());
                self.note_leadership(now, &ready, round);
                for read in ready.take_read_states() {
                    self.confirm_reads(&read.request_ctx, read.index);
                }
                written |= self.collect_write(&mut ready, &mut write, state, round)?;
                self.collect_messages(now, &mut ready, written, round);
                let committed = ready.take_committed_entries();
                self.node.advance_append_async(ready);
                self.apply(now, committed, state, round)?;
            }
            self.lead_if_asked();
            self.propose_expiry(now);
            self.reconfigure(now);
            self.chair(now, round);
            self.advance_reads(now, state, round)?;
            self.leave_places(now);
            self.retry_parked(now, state, round)?;
            self.propose_settling(now, round);
            if !self.node.has_ready() {
                break;
            }
        }
        self.finish_write(number, write, written, last_ready, round);
        Ok(())
    }

    fn finish_write(
        &mut self,
        number: u64,
        write: GroupWrite,
        written: bool,
        last_ready: Option<u64>,
        round: &mut Round,
    ) {
        if written {
            self.undurable = Some(number);
            round.writes.push(write);
            round.readies.push((self.group, last_ready));
        } else if let (None, Some(ready)) = (self.undurable, last_ready) {
            // Nothing was to be written: Raft must hear so, or it keeps a note of each such round.
            self.node.on_persist_ready(ready);
        }
    }

    /// Every write of this round and of those before it is durable; `ready` is what Raft called the last of them.
    pub fn persisted(&mut self, number: u64, ready: Option<u64>) {
        if number < self.born_in {
            return;
        }
        if self.undurable.is_some_and(|undurable| undurable <= number) {
            self.undurable = None;
        }
        if let Some(ready) = ready {
            self.node.on_persist_ready(ready);
            self.reseed();
        }
    }

    fn note_leadership(&mut self, now: Instant, ready: &Ready, round: &mut Round) {
        let raft = &self.node.raft;
        let led_term = if raft.state == StateRole::Leader { raft.term } else { 0 };
        if led_term != self.led_term {
            self.led_term = led_term;
            self.leadership_changed(now);
            self.take_the_chair(now, round);
        }
        if ready.ss().is_some() {
            let term = self.term();
            round.leaders.push(LeaderChange { group: self.group, leader: self.leader(), term });
        }
    }

    /// Takes what must be written out of the ready. Returns whether there was anything.
    fn collect_write(
        &mut self,
        ready: &mut Ready,
        write: &mut GroupWrite,
        state: &mut dyn State,
        round: &mut Round,
    ) -> Result<bool, Error> {
        if let Some(hard_state) = ready.hs() {
            self.node.mut_store().set_hard_state(hard_state.clone());
        }
        if !ready.must_sync() {
            // A commit index alone needs no write: after a restart the leader says it again.
            return Ok(false);
        }
        if !ready.snapshot().is_empty() {
            let metadata = ready.snapshot().get_metadata();
            let position = LogPosition { index: metadata.index, term: metadata.term };
            let installed = self.install(position, metadata.get_conf_state().clone(), state, round)?;
            round.map_changed |= self.group == crate::id::GroupId::MAP;
            write.installed = Some(installed);
            // Whatever stood in the log before is gone with it.
            write.entries.clear();
        }
        if !planted(Bug::VoteNotPersisted) {
            write.hard_state = Some(self.node.store().hard_state().clone());
        }
        let entries = ready.take_entries();
        let appended = self.node.mut_store().append(entries.iter().cloned());
        appended.expect("Raft's entries follow on the log");
        write.entries.extend(entries);
        Ok(true)
    }

    fn collect_messages(&mut self, now: Instant, ready: &mut Ready, written: bool, round: &mut Round) {
        for message in ready.take_messages() {
            if message.get_msg_type() == MessageType::MsgSnapshot {
                self.want_snapshot(now, &message, round);
            } else if is_sendable(message.get_msg_type()) {
                let send = self.send(now, message);
                round.sends.push(send);
            }
        }
        let gated = (written || self.undurable.is_some()) && !planted(Bug::AcknowledgeBeforeSync);
        // A leader that has stepped down in this round may have left a snapshot message behind: it has no more to send.
        for message in ready.take_persisted_messages().into_iter().filter(|m| is_sendable(m.get_msg_type())) {
            let send = self.send(now, message);
            if gated { round.gated.push(send) } else { round.sends.push(send) }
        }
    }

    fn apply(
        &mut self,
        now: Instant,
        entries: Vec<raft::eraftpb::Entry>,
        state: &mut dyn State,
        round: &mut Round,
    ) -> Result<(), Error> {
        let Some(last) = entries.last().map(|entry| entry.index) else { return Ok(()) };
        for entry in entries {
            let position = LogPosition { index: entry.index, term: entry.term };
            assert_eq!(position.index, self.applied().index + 1, "entries are applied one after the other");
            // A new leader's first entry is empty: it is there to be committed.
            let applied = match entry.data.is_empty() {
                true => Applied::Nothing,
                false => self.machine.apply(state, position.index, entry.data)?,
            };
            self.node.mut_store().set_applied(position);
            match &applied {
                Applied::Configure(configure) => self.configure(*configure, round)?,
                Applied::Map(changed) => {
                    round.map_changed |= changed.is_some();
                    self.map_has_changed();
                }
                Applied::Write(_) | Applied::Lock(_) | Applied::Txn(_) => round.pace.hear_write(),
                Applied::Nothing | Applied::Expired(_) => {}
            }
            self.settle(now, position, &applied, round);
        }
        self.node.advance_apply_to(last);
        self.unrecorded = true;
        Ok(())
    }

    /// A message to this replica that no member sent as such: a snapshot comes in chunks, and Raft is to hear of it as
    /// if its leader had sent it whole.
    pub(super) fn raft_message(&self, kind: MessageType, from: MemberId, term: u64) -> Message {
        let mut message = Message::default();
        message.set_msg_type(kind);
        message.from = from.get();
        message.to = self.settings.member.get();
        message.term = term;
        message
    }
}
