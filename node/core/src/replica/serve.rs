//! Client requests: proposing writes, answering reads.

use std::time::Duration;

use bytes::Bytes;

use super::machine::Applied;
use super::pending::{Fate, Read, reply_for};
use super::{Error, Replica, Round};
use crate::bugs::{Bug, planted};
use crate::id::RequestId;
use crate::lane::{LogPosition, Operation, Refusal, Reply, Request};
use crate::partition::{Command, Consistency, Entry, Outcome, Write};
use crate::replica::machine::Machine;
use crate::state::State;
use crate::time::Instant;

/// Most requests of one group that wait for an answer.
pub const MAX_WAITING: usize = 4096;
/// While something is to expire, the partition's clock is recorded at least this often, so that a new leader does not
/// start it from too far back.
const RECORD_CLOCK_EVERY: Duration = Duration::from_secs(30);
/// Longest time that an `Expire` entry may come late.
const EXPIRY_SLACK_MS: u64 = 50;

impl Replica {
    /// Takes a client's request.
    pub fn request(
        &mut self,
        now: Instant,
        request: Request,
        state: &dyn State,
        round: &mut Round,
    ) -> Result<(), Error> {
        let id = request.id;
        let consistency = request.operation.consistency();
        if consistency == Some(Consistency::Stale) && self.is_blank() {
            round.replies.push((id, Reply::Refused(Refusal::NoReplica)));
            return Ok(());
        }
        if consistency == Some(Consistency::Stale) {
            let reply = self.read(&request.operation, state)?;
            round.replies.push((id, reply));
            return Ok(());
        }
        if !self.leads() {
            round.replies.push((id, self.not_leader()));
            return Ok(());
        }
        let fits = match (&self.machine, &request.operation) {
            (Machine::Partition(_), Operation::Write(_)) | (Machine::Map(_), Operation::ChangeMap(_)) => true,
            _ => consistency.is_some(),
        };
        if !fits {
            // An entry that the group can't apply would stop every one of its replicas for good.
            round.replies.push((id, Reply::Refused(Refusal::NoReplica)));
            return Ok(());
        }
        if self.waiting() >= MAX_WAITING {
            round.replies.push((id, Reply::Refused(Refusal::Busy)));
            return Ok(());
        }
        match (request.operation, consistency) {
            (Operation::Write(write), _) => self.propose_write(now, id, request.deadline, write, round),
            (Operation::ChangeMap(intent), _) => self.take_command(id, request.deadline, intent, round),
            (Operation::ReadPlan, _) => {
                let refused = Reply::Refused(Refusal::NoReplica);
                round.replies.push((id, self.plan(now).map_or(refused, Reply::Plan)));
            }
            (operation, Some(Consistency::Linearizable)) if self.may_read(now) => {
                let reply = self.read(&operation, state)?;
                round.replies.push((id, reply));
            }
            (operation, _) => {
                self.reads.push(Read { request: id, deadline: request.deadline, operation });
            }
        }
        Ok(())
    }

    /// The partition's clock as this leader sees it: moves on with its own, never back, never ahead of real time.
    pub(super) fn clock_ms(&self, now: Instant) -> u64 {
        let (since, base) = self.clock;
        let passed = u64::try_from(now.since(since).as_millis()).unwrap_or(u64::MAX);
        base.saturating_add(passed).max(self.machine.clock_ms())
    }

    /// Whether the state holds everything that any leader has acknowledged, and no other leader can be.
    fn may_read(&self, now: Instant) -> bool {
        (self.holds_own_term() || planted(Bug::ReadBeforeOwnTerm)) && self.lease_holds(now)
    }

    /// Whether an entry of this leader's own term is applied: then everything before it is, too.
    pub(super) fn holds_own_term(&self) -> bool {
        self.applied().term == self.term()
    }

    fn propose_write(&mut self, now: Instant, id: RequestId, deadline: Instant, write: Write, round: &mut Round) {
        let entry = Entry { clock_ms: self.clock_ms(now), command: Command::Write(write) };
        round.pace.hear_write();
        match self.propose(entry.encode()) {
            None => {
                let refused = if self.leads() && self.node.raft.lead_transferee.is_none() {
                    Reply::Refused(Refusal::Busy)
                } else {
                    self.not_leader()
                };
                round.replies.push((id, refused));
            }
            Some(position) if planted(Bug::ReplyBeforeQuorum) => {
                round.replies.push((id, Reply::Write(Outcome::Written { version: position.index, created: true })));
            }
            Some(position) => self.proposals.push(position, id, deadline, now),
        }
    }

    pub(super) fn propose(&mut self, entry: Bytes) -> Option<LogPosition> {
        self.node.propose(Vec::new(), entry.into()).ok()?;
        Some(LogPosition { index: self.last_index(), term: self.term() })
    }

    /// Proposes that what has expired goes, and records the clock while something is still to expire. One such entry is
    /// under way at a time: what it leaves over is proposed when it is applied.
    pub(super) fn propose_expiry(&mut self, now: Instant) {
        let next = self.machine.next_expiry_ms();
        if next == u64::MAX || !self.leads() || !self.holds_own_term() || self.expiring > self.applied().index {
            return;
        }
        let clock_ms = self.clock_ms(now);
        let recorded = u128::from(clock_ms.saturating_sub(self.machine.clock_ms()));
        if clock_ms >= next.saturating_add(EXPIRY_SLACK_MS) || recorded >= RECORD_CLOCK_EVERY.as_millis() {
            // Refused while leadership is handed over; the next leader sees to it.
            let proposed = self.propose(Entry { clock_ms, command: Command::Expire }.encode());
            self.expiring = proposed.map_or(self.expiring, |position| position.index);
        }
    }

    /// The entry at this position is applied: answers whoever proposed it.
    pub(super) fn settle(&mut self, now: Instant, position: LogPosition, applied: Applied, round: &mut Round) {
        let not_leader = self.not_leader();
        let mut settled = Vec::new();
        self.proposals.applied(position, |request, fate, since| {
            round.pace.answered(now.since(since));
            settled.push((request, fate));
        });
        for (request, fate) in settled {
            let reply = match (fate, &applied) {
                (Fate::Committed, Applied::Write(outcome)) => Reply::Write(*outcome),
                (Fate::Committed, Applied::Map(Some(changed))) => Reply::Changed(Ok(changed.clone())),
                (Fate::Committed, Applied::Map(None)) => not_leader.clone(),
                _ => reply_for(fate, not_leader.clone()),
            };
            round.replies.push((request, reply));
        }
    }

    /// Asks Raft to confirm this leader for the reads that wait, or turns them away.
    pub(super) fn advance_reads(&mut self, state: &dyn State, round: &mut Round) -> Result<(), Error> {
        if !self.leads() {
            let not_leader = self.not_leader();
            round.replies.extend(self.reads.drain().into_iter().map(|read| (read.request, not_leader.clone())));
            return Ok(());
        }
        // Before an entry of its own term is committed, Raft would drop the question.
        if self.reads.has_waiting() && self.holds_own_term() {
            let number = self.reads.ask();
            self.node.read_index(number.to_be_bytes().to_vec());
        }
        for read in self.reads.answerable(self.applied().index) {
            let reply = self.read(&read.operation, state)?;
            round.replies.push((read.request, reply));
        }
        Ok(())
    }

    /// Raft has confirmed this leader for the reads under this number.
    pub(super) fn confirm_reads(&mut self, context: &[u8], index: u64) {
        if let Ok(number) = context.try_into() {
            self.reads.confirm(u64::from_be_bytes(number), index);
        }
    }

    pub(super) fn answer_expired(&mut self, now: Instant, round: &mut Round) {
        let unknown = self.proposals.expired(now).into_iter().map(|request| (request, Reply::OutcomeUnknown));
        round.replies.extend(unknown);
        round.replies.extend(self.expired_command(now).map(|request| (request, Reply::Refused(Refusal::TimedOut))));
        let late = self.reads.expired(now).into_iter();
        round.replies.extend(late.map(|request| (request, Reply::Refused(Refusal::TimedOut))));
    }

    /// The replica ends: nobody will learn from it what becomes of the writes that it has proposed.
    pub fn abandon(&mut self, round: &mut Round) {
        let proposals = self.proposals.drain().into_iter().map(|request| (request, Reply::OutcomeUnknown));
        round.replies.extend(proposals);
        let reads = self.reads.drain().into_iter().map(|read| (read.request, Reply::Refused(Refusal::NoReplica)));
        round.replies.extend(reads);
        let now = Instant(u64::MAX);
        round.replies.extend(self.expired_command(now).map(|request| (request, Reply::Refused(Refusal::NoReplica))));
    }

    fn read(&self, operation: &Operation, state: &dyn State) -> Result<Reply, Error> {
        Ok(match (&self.machine, operation) {
            (Machine::Partition(partition), Operation::Get { key, .. }) => Reply::Get(partition.get(state, key)?),
            (Machine::Partition(partition), Operation::Scan { scan, .. }) => Reply::Scan(partition.scan(state, scan)?),
            (Machine::Map(machine), Operation::ReadMap { .. }) => match machine.map() {
                Some(map) => Reply::Map(map.encode()),
                None => Reply::Refused(Refusal::NoReplica),
            },
            (Machine::Map(_), Operation::ReadHistory { epoch }) => self.read_history(*epoch, state)?,
            // A question to a group of the other kind: from a member that holds another map.
            _ => Reply::Refused(Refusal::NoReplica),
        })
    }
}
