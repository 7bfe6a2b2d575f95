//! Client requests: proposing writes, answering reads.

use std::time::Duration;

use bytes::Bytes;

use super::machine::Applied;
use super::parked::{Way, way_of};
use super::pending::{Fate, Proposal, Read, reply_for};
use super::settling::{self, Waiting, may_wait};
use super::waits::MAX_WAITS;
use super::{Error, Replica, Round};
use crate::bugs::{Bug, planted};
use crate::id::RequestId;
use crate::lane::{LogPosition, MAX_TXNS_LISTED, Operation, Refusal, Reply, Request};
use crate::partition::{Command, Consistency, Entry, Outcome, lock, txn};
use crate::replica::machine::Machine;
use crate::state::State;
use crate::time::Instant;

/// Most requests of one group that wait for an answer.
pub const MAX_WAITING: usize = 4096;
/// Most that wait before steps that end transactions are refused, too.
const MAX_WAITING_TO_END: usize = 4 * MAX_WAITING;
/// While something is to expire, the partition's clock is recorded at least this often, so that a new leader does not
/// start it from too far back.
const RECORD_CLOCK_EVERY: Duration = Duration::from_secs(30);
/// So many abandoned transactions are told of at once.
const MOST_ABANDONED: usize = 64;
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
            let reply = self.read(now, &request.operation, state)?;
            round.replies.push((id, reply));
            return Ok(());
        }
        if !self.leads() {
            round.replies.push((id, self.not_leader()));
            return Ok(());
        }
        let fits = match (&self.machine, &request.operation) {
            (Machine::Partition(_), Operation::Write(_) | Operation::Lock(_) | Operation::Txn(_))
            | (Machine::Map(_), Operation::ChangeMap(_)) => true,
            _ => consistency.is_some(),
        };
        if !fits {
            // An entry that the group can't apply would stop every one of its replicas for good.
            round.replies.push((id, Reply::Refused(Refusal::NoReplica)));
            return Ok(());
        }
        if self.is_full(&request.operation) {
            round.replies.push((id, Reply::Refused(Refusal::Busy)));
            return Ok(());
        }
        if self.fails_at_once(now, &request.operation, state)? {
            let failed = txn::Outcome::Done { decision: txn::Decision::Otherwise, results: Vec::new() };
            let is_alone = matches!(request.operation, Operation::Txn(txn::Command::Alone(_)));
            let outcome = if is_alone { failed } else { txn::Outcome::ConditionFailed };
            round.replies.push((id, Reply::Txn(outcome)));
            return Ok(());
        }
        if matches!(request.operation, Operation::ReadTxn { .. }) {
            self.settling.hurry();
        }
        if let Machine::Partition(partition) = &self.machine {
            match way_of(partition, &self.claims, &request.operation) {
                Way::Free => {}
                Way::Blocked(_) if self.parked.is_full() => {
                    self.settling.hurry();
                    round.replies.push((id, Reply::Refused(Refusal::Busy)));
                    return Ok(());
                }
                Way::Blocked(thing) => {
                    self.settling.hurry();
                    self.parked.push(request, thing);
                    return Ok(());
                }
                Way::Yields(outcome) => {
                    self.settling.hurry();
                    round.replies.push((id, Reply::Txn(outcome)));
                    return Ok(());
                }
            }
        }
        self.serve(now, request, state, round)
    }

    /// Whether the leader can answer at once that a condition fails. Only for a transaction of which nothing would be kept, that
    /// carries no fence and is not known here, and only while this leader may read.
    fn fails_at_once(&self, now: Instant, operation: &Operation, state: &dyn State) -> Result<bool, Error> {
        let Machine::Partition(partition) = &self.machine else { return Ok(false) };
        let (id, part) = match operation {
            Operation::Txn(txn::Command::Prepare(prepare)) if prepare.fails_fast() => (&prepare.id, &prepare.part),
            Operation::Txn(txn::Command::Alone(alone)) if alone.fails_fast() => (&alone.id, &alone.part),
            _ => return Ok(false),
        };
        // Of a token that is too old it is told, whatever else may be wrong.
        let is_fenced = part.fence.is_some();
        Ok(!is_fenced
            && self.may_read(now)
            && partition.certainly_fails(state, part, |id| self.settling.commits(id))?
            && !partition.knows_attempt(state, id)?)
    }

    /// Whether there is no room for another that waits. Who waits for a lock costs little and may wait for long: that must not
    /// keep others from being served.
    fn is_full(&self, operation: &Operation) -> bool {
        let locks = self.waits.len();
        // Those that wait for a transaction have a limit of their own, and what ends one, and so lets them go on, is hardly ever refused.
        let others = self.waiting() - locks - self.parked.len();
        let most = match operation {
            Operation::Txn(txn::Command::Settle(_) | txn::Command::Probe(_)) => MAX_WAITING_TO_END,
            _ => MAX_WAITING,
        };
        operation.waits_for_lock() && locks >= MAX_WAITS || others >= most
    }

    /// Proposes or answers a request that nothing is in the way of.
    fn serve(&mut self, now: Instant, request: Request, state: &dyn State, round: &mut Round) -> Result<(), Error> {
        let (id, consistency) = (request.id, request.operation.consistency());
        match (request.operation, consistency) {
            (Operation::Txn(txn::Command::Prepare(prepare)), _) if planted(Bug::PrepareNotDurable) => {
                self.prepare_too_early(now, id, request.deadline, prepare, state, round)?;
            }
            (Operation::Txn(txn::Command::Settle(steps)), _) if may_wait(&steps) => {
                let ids: Vec<txn::Id> = steps.iter().map(|step| step.id().clone()).collect();
                self.settling.push(Waiting { request: id, deadline: request.deadline, steps });
                self.answer_known(now, &ids, state, round)?;
            }
            (Operation::Txn(command), _) => {
                self.propose_command(now, id, request.deadline, Command::Txn(command), round);
            }
            (Operation::Write(write), _) => {
                self.propose_command(now, id, request.deadline, Command::Write(write), round);
            }
            (Operation::Lock(command), _) => {
                self.propose_command(now, id, request.deadline, Command::Lock(command), round);
            }
            (Operation::ChangeMap(intent), _) => self.take_command(id, request.deadline, intent, round),
            (Operation::ReadPlan, _) => {
                let refused = Reply::Refused(Refusal::NoReplica);
                round.replies.push((id, self.plan(now).map_or(refused, Reply::Plan)));
            }
            (operation, Some(Consistency::Linearizable)) if self.may_read(now) => {
                let reply = self.read(now, &operation, state)?;
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
        if planted(Bug::LockExpiredByLocalClock) {
            return (now.0 / 1000).max(self.machine.clock_ms());
        }
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

    fn propose_command(&mut self, now: Instant, id: RequestId, deadline: Instant, command: Command, round: &mut Round) {
        let is_write = matches!(command, Command::Write(_));
        let lock_wait = match &command {
            Command::Lock(lock::Command::Acquire(wish)) => Duration::from_millis(wish.wait_ms),
            _ => Duration::ZERO,
        };
        let entry = Entry { clock_ms: self.clock_ms(now), command };
        round.pace.hear_write();
        self.settling.hurry();
        let proposed = self.propose(entry.encode());
        if let (Some(position), Command::Txn(txn::Command::Prepare(prepare))) = (proposed, &entry.command) {
            self.claims.add(position.index, prepare);
        }
        match proposed {
            None => round.replies.push((id, self.not_proposed())),
            Some(position) if is_write && planted(Bug::ReplyBeforeQuorum) => {
                round.replies.push((id, Reply::Write(Outcome::Written { version: position.index, created: true })));
            }
            Some(position) => {
                // The entry is not waited for any longer than another would be.
                let deadline = deadline - lock_wait;
                self.proposals.push(Proposal { position, request: id, deadline, lock_wait, since: now, share: None });
            }
        }
    }

    /// Why an entry could not be proposed.
    fn not_proposed(&self) -> Reply {
        let is_full = self.leads() && self.node.raft.lead_transferee.is_none();
        if is_full { Reply::Refused(Refusal::Busy) } else { self.not_leader() }
    }

    /// Proposes those steps that end transactions and wait no longer.
    pub(super) fn propose_settling(&mut self, now: Instant, round: &mut Round) {
        while self.leads() && self.settling.is_due() {
            let due = self.settling.due();
            let steps = due.iter().flat_map(|waiting| waiting.steps.iter().cloned()).collect();
            let command = Command::Txn(txn::Command::Settle(steps));
            let proposed = self.propose(Entry { clock_ms: self.clock_ms(now), command }.encode());
            let mut first = 0;
            for Waiting { request, deadline, steps } in due {
                let Some(position) = proposed else {
                    round.replies.push((request, self.not_proposed()));
                    continue;
                };
                let (lock_wait, share) = (Duration::ZERO, Some((first, steps.len())));
                self.proposals.push(Proposal { position, request, deadline, lock_wait, since: now, share });
                first += steps.len();
            }
        }
    }

    /// Says what will come of an entry when it is only proposed: a bug.
    fn prepare_too_early(
        &mut self,
        now: Instant,
        id: RequestId,
        deadline: Instant,
        prepare: txn::Prepare,
        state: &dyn State,
        round: &mut Round,
    ) -> Result<(), Error> {
        let index = self.last_index() + 1;
        let early = match &self.machine {
            Machine::Partition(partition) => partition.prepared_too_early(state, index, &prepare)?,
            Machine::Map(_) => None,
        };
        let command = Command::Txn(txn::Command::Prepare(prepare));
        let entry = Entry { clock_ms: self.clock_ms(now), command: command.clone() };
        match early {
            Some(outcome) if self.propose(entry.encode()).is_some() => round.replies.push((id, Reply::Txn(outcome))),
            _ => self.propose_command(now, id, deadline, command, round),
        }
        Ok(())
    }

    pub(super) fn propose(&mut self, entry: Bytes) -> Option<LogPosition> {
        self.node.propose(Vec::new(), entry.into()).ok()?;
        Some(LogPosition { index: self.last_index(), term: self.term() })
    }

    /// Proposes that what has expired goes, and records the clock while something is still to expire. One such entry is
    /// under way at a time: what it leaves over is proposed when it is applied.
    ///
    /// A new leader, or one that was stopped, first has every lease last a whole term more: nobody could renew it meanwhile.
    pub(super) fn propose_expiry(&mut self, now: Instant) {
        if !self.leads() || !self.holds_own_term() || self.expiring > self.applied().index {
            return;
        }
        let extends = self.extended != self.term() && self.machine.has_leases();
        let next = self.machine.next_expiry_ms();
        if !extends {
            self.extended = self.term();
        }
        let clock_ms = self.clock_ms(now);
        let recorded = u128::from(clock_ms.saturating_sub(self.machine.clock_ms()));
        let is_due = clock_ms >= next.saturating_add(EXPIRY_SLACK_MS) || recorded >= RECORD_CLOCK_EVERY.as_millis();
        if next == u64::MAX || !(extends || is_due) {
            return;
        }
        let command = if extends { Command::ExtendLeases } else { Command::Expire };
        // Refused while leadership is handed over; the next leader sees to it.
        if let Some(position) = self.propose(Entry { clock_ms, command }.encode()) {
            self.expiring = position.index;
            self.extended = self.term();
        }
    }

    /// Proposes that places which nobody waits at any more are given up.
    pub(super) fn leave_places(&mut self, now: Instant) {
        if !self.leads() {
            return;
        }
        while let Some(command) = self.waits.next_leaving() {
            let entry = Entry { clock_ms: self.clock_ms(now), command: Command::Lock(command.clone()) };
            if self.propose(entry.encode()).is_none() {
                self.waits.put_back(command);
                return;
            }
        }
    }

    /// Takes those requests again that a transaction was in the way of, and is not any more.
    pub(super) fn retry_parked(&mut self, now: Instant, state: &dyn State, round: &mut Round) -> Result<(), Error> {
        while let Some((thing, turns)) = self.parked.next_due() {
            for number in turns {
                let Some(operation) = self.parked.operation(number) else { continue };
                // When somebody is about to hold it the others wait on, but for those that need not.
                let is_next = !self.claims.takes(&thing) || self.fails_at_once(now, operation, state)?;
                if is_next && let Some(request) = self.parked.take(number) {
                    self.request(now, request, state, round)?;
                }
            }
        }
        Ok(())
    }

    /// Answers those who wait for what these attempts hold, and whose conditions are known to fail by now: it is known which versions are
    /// to come. For the others the attempts need not wait any longer.
    fn answer_known(
        &mut self,
        now: Instant,
        ids: &[txn::Id],
        state: &dyn State,
        round: &mut Round,
    ) -> Result<(), Error> {
        let Machine::Partition(partition) = &self.machine else { return Ok(()) };
        let things: Vec<txn::Thing> = ids.iter().flat_map(|id| partition.things_of(id)).cloned().collect();
        for number in self.parked.waiting_for(&things) {
            self.settling.hurry();
            let Some(operation) = self.parked.operation(number) else { continue };
            if self.fails_at_once(now, operation, state)? {
                let Some(request) = self.parked.take(number) else { continue };
                self.request(now, request, state, round)?;
            }
        }
        Ok(())
    }

    /// Tells of transactions that have been open for so long that whoever began them must be gone.
    pub(super) fn find_abandoned(&self, now: Instant, round: &mut Round) {
        let Machine::Partition(partition) = &self.machine else { return };
        if partition.open_count() == 0 || !self.leads() || !self.holds_own_term() {
            return;
        }
        let found = partition.abandoned_txns(self.clock_ms(now), txn::ABANDONED_AFTER_MS).take(MOST_ABANDONED);
        round.abandoned.extend(found.map(|pointer| (self.group, pointer)));
    }

    /// The client of a request is gone: if it waits for a lock, it waits no more.
    pub fn cancel(&mut self, request: RequestId, round: &mut Round) {
        if self.waits.cancel(request) {
            round.replies.push((request, Reply::Refused(Refusal::TimedOut)));
        }
    }

    /// The entry at this position is applied: answers whoever proposed it.
    pub(super) fn settle(&mut self, now: Instant, position: LogPosition, applied: &Applied, round: &mut Round) {
        let not_leader = self.not_leader();
        let mut proposed = Vec::new();
        self.proposals.applied(position, |proposal, fate| {
            round.pace.answered(now.since(proposal.since));
            let until = proposal.deadline + proposal.lock_wait;
            proposed.push((proposal.request, until, proposal.share, fate));
        });
        for (request, until, share, fate) in proposed {
            let reply = match (fate, applied) {
                (Fate::Committed, Applied::Write(outcome)) => Reply::Write(*outcome),
                (Fate::Committed, Applied::Lock(applied)) => {
                    match self.waits.proposed(request, until, position, applied) {
                        Some(reply) => reply,
                        None => continue,
                    }
                }
                (Fate::Committed, Applied::Txn(applied)) => {
                    let reply = Reply::Txn(applied.outcome.clone());
                    match share {
                        Some((first, count)) => settling::share(reply, first, count),
                        None => reply,
                    }
                }
                (Fate::Committed, Applied::Map(Some(changed))) => Reply::Changed(Ok(changed.clone())),
                (Fate::Committed, Applied::Map(None)) => not_leader.clone(),
                _ => reply_for(fate, not_leader.clone()),
            };
            self.waits.forget(request);
            round.replies.push((request, reply));
        }
        let claimed = self.claims.applied(position.index);
        if let Machine::Partition(partition) = &self.machine {
            self.parked.released(claimed.iter().filter(|thing| !partition.holds_exclusively(thing)));
        }
        if let Applied::Txn(txn::Applied { released, .. }) = applied {
            self.parked.released(released);
        }
        if let Applied::Lock(lock::Applied { settled, .. }) | Applied::Expired(settled) = applied {
            let again = Reply::Refused(Refusal::NotLeader { leader: None });
            self.waits.settle(settled, &again, |request, reply| round.replies.push((request, reply)));
        }
    }

    /// Asks Raft to confirm this leader for the reads that wait, or turns them away.
    pub(super) fn advance_reads(&mut self, now: Instant, state: &dyn State, round: &mut Round) -> Result<(), Error> {
        if !self.leads() {
            self.claims.clear();
            let not_leader = self.not_leader();
            round.replies.extend(self.waits.drain().into_iter().map(|request| (request, not_leader.clone())));
            round.replies.extend(self.parked.drain().into_iter().map(|request| (request, not_leader.clone())));
            round.replies.extend(self.settling.drain().into_iter().map(|request| (request, not_leader.clone())));
            round.replies.extend(self.reads.drain().into_iter().map(|read| (read.request, not_leader.clone())));
            return Ok(());
        }
        // Before an entry of its own term is committed, Raft would drop the question.
        if self.reads.has_waiting() && self.holds_own_term() {
            let number = self.reads.ask();
            self.node.read_index(number.to_be_bytes().to_vec());
        }
        for read in self.reads.answerable(self.applied().index) {
            if let Machine::Partition(partition) = &self.machine
                && let Way::Blocked(thing) = way_of(partition, &self.claims, &read.operation)
            {
                let Read { request: id, deadline, operation } = read;
                self.settling.hurry();
                self.parked.push(Request { id, group: self.group, deadline, operation }, thing);
                continue;
            }
            let reply = self.read(now, &read.operation, state)?;
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
        for request in self.proposals.expired(now) {
            self.waits.forget(request);
            round.replies.push((request, Reply::OutcomeUnknown));
        }
        let late = self.parked.expired(now).into_iter();
        round.replies.extend(late.map(|request| (request, Reply::Refused(Refusal::TimedOut))));
        let late = self.settling.expired(now).into_iter();
        round.replies.extend(late.map(|request| (request, Reply::Refused(Refusal::TimedOut))));
        let late = self.waits.expired(now).into_iter();
        round.replies.extend(late.map(|request| (request, Reply::Refused(Refusal::TimedOut))));
        round.replies.extend(self.expired_command(now).map(|request| (request, Reply::Refused(Refusal::TimedOut))));
        let late = self.reads.expired(now).into_iter();
        round.replies.extend(late.map(|request| (request, Reply::Refused(Refusal::TimedOut))));
    }

    /// The replica ends: nobody will learn from it what becomes of the writes that it has proposed.
    pub fn abandon(&mut self, round: &mut Round) {
        let proposals = self.proposals.drain().into_iter().map(|request| (request, Reply::OutcomeUnknown));
        round.replies.extend(proposals);
        let waits = self.waits.drain().into_iter().map(|request| (request, Reply::Refused(Refusal::NoReplica)));
        round.replies.extend(waits);
        let parked = self.parked.drain().into_iter().map(|request| (request, Reply::Refused(Refusal::NoReplica)));
        round.replies.extend(parked);
        let settling = self.settling.drain().into_iter().map(|request| (request, Reply::Refused(Refusal::NoReplica)));
        round.replies.extend(settling);
        let reads = self.reads.drain().into_iter().map(|read| (read.request, Reply::Refused(Refusal::NoReplica)));
        round.replies.extend(reads);
        let now = Instant(u64::MAX);
        round.replies.extend(self.expired_command(now).map(|request| (request, Reply::Refused(Refusal::NoReplica))));
    }

    fn read(&self, now: Instant, operation: &Operation, state: &dyn State) -> Result<Reply, Error> {
        // What one replica that does not lead happens to have is as old as its clock.
        let clock_ms = if self.leads() { self.clock_ms(now) } else { self.machine.clock_ms() };
        Ok(match (&self.machine, operation) {
            (Machine::Partition(partition), Operation::Get { key, .. }) => Reply::Get(partition.get(state, key)?),
            (Machine::Partition(partition), Operation::Scan { scan, .. }) => Reply::Scan(partition.scan(state, scan)?),
            (Machine::Partition(partition), Operation::GetMany { keys, .. }) => {
                match partition.get_many(state, keys)? {
                    Some(many) => Reply::Many(many),
                    None => Reply::Txn(txn::Outcome::ReadsTooMuch),
                }
            }
            (Machine::Partition(partition), Operation::ReadTxn { name, .. }) => {
                Reply::KnownTxn(partition.known_of(state, name, clock_ms)?)
            }
            (Machine::Partition(partition), Operation::ListTxns { .. }) => {
                Reply::Txns(partition.open_txns(state, clock_ms, 0, MAX_TXNS_LISTED)?)
            }
            (Machine::Partition(partition), Operation::ReadLock { name, .. }) => {
                Reply::LockView(partition.view_lock(state, name, clock_ms)?)
            }
            (Machine::Partition(partition), Operation::ListLocks { scan, .. }) => {
                let (locks, more) = partition.list_locks(state, scan, clock_ms)?;
                Reply::Locks { locks, more }
            }
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
