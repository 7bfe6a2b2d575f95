//! Whoever makes a transaction happen.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::settlement::{Settlement, Step};
use super::{Asked, Machine, Recovery, Share, Transaction, Turn};
use crate::bugs::{Bug, planted};
use crate::codec::Reader;
use crate::id::PartitionId;
use crate::lane::{Operation, Refusal, Reply};
use crate::partition::txn::codec::{read_dones, write_dones};
use crate::partition::txn::{
    Alone, Command, Decision, Done, Finished, Id, MAX_KEPT_RESULTS_BYTES, Outcome, Pointer, Prepare, Prepared,
};
use crate::partition::{Consistency, Many};

/// The shortest and the longest pause before another attempt; each attempt doubles what is drawn from.
const FIRST_PAUSE: Duration = Duration::from_micros(500);
const LONGEST_PAUSE: Duration = Duration::from_millis(16);

/// Makes a transaction happen, or finds out why it can't.
#[derive(Debug)]
pub struct Coordinator {
    transaction: Transaction,
    shares: BTreeMap<PartitionId, Share>,
    digest: [u8; 32],
    number: u64,
    priority: u64,
    /// Where the pauses are drawn from.
    chance: u64,
    attempt: u32,
    /// The next attempt has this number. It is made only when this one can't be committed any more, because the anchor has said so or
    /// has kept nothing of it: by the next one the others hear of that.
    next_attempt: u32,
    attempts: u32,
    /// The partitions that have said of this attempt that nothing is kept of it there.
    clear: BTreeSet<PartitionId>,
    /// Where an older transaction was in the way of the attempt before. The next one asks there first, and waits: it holds
    /// nothing meanwhile.
    blocked_at: Option<PartitionId>,
    /// The only partition that was asked so far, if others are to be.
    first: Option<PartitionId>,
    asked: Asked,
    stage: Stage,
    /// Whether it looks at the keys of its conditions before its first attempt.
    looks_first: bool,
    /// Whether its time is over.
    is_late: bool,
    answered: bool,
}

#[derive(Debug)]
enum Stage {
    /// The keys of its conditions are read before anything is held.
    Looking,
    /// All of it is asked of one partition.
    Alone,
    Preparing(BTreeMap<PartitionId, Prepared>),
    /// The anchor is to abort the attempt; then comes what is next.
    Aborting(Settlement, Next),
    /// It is committed: the partitions are told.
    Settling(Settlement),
    /// Another coordinator's attempt is in the way.
    Recovering(Recovery),
    /// The transaction is committed by another attempt, as somebody says: the anchor knows what came of it, and whether it is
    /// the same transaction.
    Confirming(Decision),
    Pausing,
    Over,
}

/// What follows on an attempt that is aborted.
#[derive(Debug)]
enum Next {
    Again,
    Answer(Answer),
}

/// What came of a transaction.
#[derive(Clone, PartialEq, Debug)]
pub enum Answer {
    /// It is committed.
    Committed {
        /// Whether all conditions held, and `then` was done.
        then: bool,
        /// What came of each operation of the branch; `None`: it was committed before, and that was too long to be kept.
        results: Option<Vec<Done>>,
    },
    /// It has done nothing.
    Failed(Failure),
    /// It may be committed, or be aborted: whoever finds out is told by its name.
    Unknown,
}

/// Why a transaction has done nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// Its name was used for another.
    NameConflict,
    /// The token does not hold the lock any more, or a write with a newer one was there.
    StaleFence {
        /// The newest token that was there.
        newest: Option<u64>,
    },
    /// A partition can't remember one more fence.
    TooManyFences,
    /// Too many transactions are open in a partition.
    TooManyOpen,
    /// What it reads in one partition has too many bytes.
    ReadsTooMuch,
    /// Others were in its way until its time was over.
    Conflict,
    /// A partition could not be asked, or had no room.
    Refused(Refusal),
}

impl Coordinator {
    /// Of this transaction, which was checked. `number` and `chance` are random, `priority` is about the time.
    pub fn new(
        transaction: Transaction,
        partition_of: impl Fn(&[u8]) -> PartitionId,
        number: u64,
        priority: u64,
    ) -> Self {
        let (shares, digest) = (transaction.split(&partition_of), transaction.digest());
        Self {
            transaction,
            shares,
            digest,
            number,
            priority,
            chance: number | 1,
            attempt: 0,
            next_attempt: 0,
            attempts: 0,
            clear: BTreeSet::new(),
            blocked_at: None,
            first: None,
            asked: Asked::default(),
            stage: Stage::Pausing,
            looks_first: false,
            is_late: false,
            answered: false,
        }
    }

    /// Has it look at the keys of its conditions before its first attempt: for when others are likely to change them.
    pub fn look_first(self) -> Self {
        Self { looks_first: true, ..self }
    }

    /// How many attempts were made.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// How many partitions take part.
    pub fn participants(&self) -> usize {
        self.shares.len()
    }

    /// Its time is over: it makes no more attempts, and gives up the one that it makes. What was asked is waited for, as that
    /// has an end of its own.
    pub fn give_up(&mut self) -> Turn<Answer> {
        self.is_late = true;
        match &self.stage {
            Stage::Pausing => self.pause(),
            Stage::Preparing(_) => self.abort(Next::Answer(Answer::Failed(Failure::Conflict))),
            Stage::Looking => self.end(Answer::Failed(Failure::Conflict)),
            _ => Turn::default(),
        }
    }

    fn id(&self) -> Id {
        let (name, coordinator, attempt) = (self.transaction.name.clone(), self.number, self.attempt);
        Id { name, coordinator, attempt }
    }

    fn anchor(&self) -> PartitionId {
        *self.shares.first_key_value().expect("a transaction touches a partition").0
    }

    fn end(&mut self, answer: Answer) -> Turn<Answer> {
        self.stage = Stage::Over;
        self.asked.forget();
        Turn { answer: self.answer_once(answer), is_over: true, ..Turn::default() }
    }

    fn answer_once(&mut self, answer: Answer) -> Option<Answer> {
        (!std::mem::replace(&mut self.answered, true)).then_some(answer)
    }

    /// Reads the keys of its conditions before it holds any: where others change them all the time most attempts would hold
    /// some in vain, and keep others waiting. Only if that a condition does not hold is the whole answer.
    fn look(&mut self) -> Turn<Answer> {
        let mut turn = Turn::default();
        for (partition, share) in self.shares.iter().filter(|(_, share)| !share.part.conditions.is_empty()) {
            let keys = share.part.conditions.iter().map(|condition| condition.key.clone()).collect();
            let operation = Operation::GetMany { keys, consistency: Consistency::Linearizable };
            turn.asks.push(self.asked.ask(*partition, operation));
        }
        self.stage = Stage::Looking;
        turn
    }

    fn heard_looking(&mut self, from: PartitionId, reply: &Reply) -> Turn<Answer> {
        if let Reply::Many(Many { items, .. }) = reply {
            let conditions = &self.shares[&from].part.conditions;
            let holds = conditions.iter().zip(items).all(|(condition, item)| condition.check.holds_of(item.as_ref()));
            if !holds {
                return self.end(Answer::Committed { then: false, results: Some(Vec::new()) });
            }
        }
        // Whoever can't be read from will say so again.
        if self.asked.is_empty() { self.attempt() } else { Turn::default() }
    }

    fn attempt(&mut self) -> Turn<Answer> {
        self.attempts += 1;
        self.attempt = self.next_attempt;
        self.asked.forget();
        if self.shares.len() == 1 {
            self.stage = Stage::Alone;
            let (partition, share) = self.shares.first_key_value().expect("there is one");
            let alone = Alone { id: self.id(), digest: self.digest, part: share.part.clone() };
            let ask = self.asked.ask(*partition, Operation::Txn(Command::Alone(alone)));
            return Turn { asks: vec![ask], ..Turn::default() };
        }
        self.stage = Stage::Preparing(BTreeMap::new());
        self.clear.clear();
        self.first = self.blocked_at.take();
        let mut turn = Turn::default();
        match self.first {
            Some(first) => self.prepare(first, &mut turn),
            None => self.prepare_others(None, &mut turn),
        }
        turn
    }

    /// Asks all partitions but this one.
    fn prepare_others(&mut self, first: Option<PartitionId>, turn: &mut Turn<Answer>) {
        let partitions: Vec<_> = self.shares.keys().copied().filter(|partition| Some(*partition) != first).collect();
        for partition in partitions {
            self.prepare(partition, turn);
        }
    }

    fn prepare(&mut self, partition: PartitionId, turn: &mut Turn<Answer>) {
        let anchor = self.anchor();
        let is_anchor = partition == anchor;
        let prepare = Prepare {
            id: self.id(),
            priority: self.priority,
            digest: self.digest,
            anchor,
            participants: if is_anchor { self.shares.keys().copied().collect() } else { Vec::new() },
            without_else: self.transaction.otherwise.is_empty(),
            is_patient: self.first == Some(partition),
            part: self.shares[&partition].part.clone(),
        };
        turn.asks.push(self.asked.ask(partition, Operation::Txn(Command::Prepare(prepare))));
    }

    /// A partition has answered that which all of it was asked of.
    fn heard_alone(&mut self, from: PartitionId, reply: Reply) -> Turn<Answer> {
        match reply {
            Reply::Txn(Outcome::Done { decision, results }) => {
                self.end(Answer::Committed { then: decision == Decision::Then, results: Some(results) })
            }
            Reply::Txn(Outcome::Blocked { .. }) => self.pause(),
            reply => self.heard_otherwise(from, reply),
        }
    }

    fn heard_prepared(&mut self, from: PartitionId, reply: Reply) -> Turn<Answer> {
        match reply {
            Reply::Txn(Outcome::Prepared(here)) => {
                let Stage::Preparing(prepared) = &mut self.stage else { return Turn::default() };
                prepared.insert(from, here);
                if self.first.take().is_some() {
                    let mut turn = Turn::default();
                    self.prepare_others(Some(from), &mut turn);
                    return turn;
                }
                let missing = self.shares.len() - prepared.len();
                let is_enough = missing == 0 || (missing == 1 && planted(Bug::CommittedWithoutAllPrepares));
                if is_enough { self.commit() } else { Turn::default() }
            }
            Reply::Txn(Outcome::ConditionFailed) => {
                // It has done nothing, whatever becomes of the attempt, and nobody else makes one.
                self.clear.insert(from);
                let answer = Answer::Committed { then: false, results: Some(Vec::new()) };
                let mut turn = self.abort(Next::Answer(answer.clone()));
                turn.answer = turn.answer.or_else(|| self.answer_once(answer));
                turn
            }
            Reply::Txn(Outcome::Blocked { waits: true, .. }) => {
                let mut turn = Turn::default();
                self.prepare(from, &mut turn);
                turn
            }
            Reply::Txn(Outcome::Blocked { waits: false, .. }) => {
                self.clear.insert(from);
                self.blocked_at = Some(from);
                self.abort(Next::Again)
            }
            Reply::Txn(Outcome::Finished(Finished { decision, .. }))
                if decision != Decision::Abort && from != self.anchor() =>
            {
                self.confirm(decision)
            }
            reply => self.heard_otherwise(from, reply),
        }
    }

    /// Asks the anchor what came of the attempt that is committed.
    fn confirm(&mut self, decision: Decision) -> Turn<Answer> {
        self.asked.forget();
        self.first = None;
        self.stage = Stage::Confirming(decision);
        let mut turn = Turn::default();
        self.prepare(self.anchor(), &mut turn);
        turn
    }

    /// The anchor has said what it knows of an attempt that is committed.
    fn heard_confirmed(&mut self, reply: Reply) -> Turn<Answer> {
        let Stage::Confirming(decision) = self.stage else { return Turn::default() };
        match reply {
            Reply::Txn(Outcome::Finished(finished)) if finished.decision != Decision::Abort => {
                self.committed_before(&finished)
            }
            Reply::Txn(Outcome::NameConflict) => self.end(Answer::Failed(Failure::NameConflict)),
            // It is still to hear what the other has been told.
            Reply::Txn(Outcome::UnderWay(pointer)) => self.recover(pointer, self.anchor()),
            // It has forgotten what the other partition still knows.
            Reply::Txn(_) => {
                self.abort(Next::Answer(Answer::Committed { then: decision == Decision::Then, results: None }))
            }
            _ => self.end(Answer::Unknown),
        }
    }

    /// What a partition may say of any transaction.
    fn heard_otherwise(&mut self, from: PartitionId, reply: Reply) -> Turn<Answer> {
        let failure = match reply {
            // Somebody took this attempt for abandoned.
            Reply::Txn(Outcome::Finished(Finished { decision: Decision::Abort, .. })) => {
                return if self.shares.len() == 1 {
                    self.next_attempt = self.attempt + 1;
                    self.pause()
                } else {
                    self.abort(Next::Again)
                };
            }
            Reply::Txn(Outcome::Finished(finished)) => return self.committed_before(&finished),
            Reply::Txn(Outcome::UnderWay(pointer)) => return self.recover(pointer, from),
            Reply::Txn(Outcome::NameConflict) => Failure::NameConflict,
            Reply::Txn(Outcome::StaleFence { newest }) => Failure::StaleFence { newest },
            Reply::Txn(Outcome::TooManyFences) => Failure::TooManyFences,
            Reply::Txn(Outcome::TooManyOpen) => Failure::TooManyOpen,
            Reply::Txn(Outcome::ReadsTooMuch) => Failure::ReadsTooMuch,
            Reply::Refused(refusal) => Failure::Refused(refusal),
            // Of one partition nobody but itself knows what became of it.
            _ if self.shares.len() == 1 => return self.end(Answer::Unknown),
            // It may be prepared there.
            _ => return self.abort(Next::Answer(Answer::Failed(Failure::Refused(Refusal::TimedOut)))),
        };
        self.clear.insert(from);
        let answer = Answer::Failed(failure);
        if self.shares.len() == 1 { self.end(answer) } else { self.abort(Next::Answer(answer)) }
    }

    /// Every partition has prepared: the transaction is committed, whatever happens from here.
    fn commit(&mut self) -> Turn<Answer> {
        let Stage::Preparing(prepared) = std::mem::replace(&mut self.stage, Stage::Over) else { unreachable!() };
        self.asked.forget();
        let holds = prepared.values().all(|prepared| prepared.holds);
        let decision = if holds { Decision::Then } else { Decision::Otherwise };
        let count = if holds { self.transaction.then.len() } else { self.transaction.otherwise.len() };
        let mut results = vec![None; count];
        for (partition, prepared) in &prepared {
            let dones = if holds { &prepared.then } else { &prepared.otherwise };
            self.shares[partition].place(decision, dones, &mut results);
        }
        let is_whole = prepared.len() == self.shares.len();
        let results: Vec<Done> = results.into_iter().flatten().collect();
        let mut writer = crate::codec::Writer::with_capacity(64);
        write_dones(&mut writer, &results);
        let is_short = is_whole && writer.len() <= MAX_KEPT_RESULTS_BYTES;
        let kept = (is_short && !self.transaction.name.is_made_up()).then(|| writer.finish());
        let participants: Vec<_> = self.shares.keys().copied().collect();
        let (settlement, step) =
            Settlement::tell(self.id(), self.anchor(), participants, decision, kept, &mut self.asked);
        self.stage = Stage::Settling(settlement);
        // Only a bug commits what is not whole.
        let answer = self.answer_once(Answer::Committed { then: holds, results: is_whole.then_some(results) });
        Turn { asks: step.asks, answer, ..Turn::default() }
    }

    fn committed_before(&mut self, finished: &Finished) -> Turn<Answer> {
        let read = |results: &bytes::Bytes| {
            let mut reader = Reader::new(results.clone(), "kept results");
            read_dones(&mut reader).ok()
        };
        let is_then = finished.decision == Decision::Then;
        let branch = if is_then { &self.transaction.then } else { &self.transaction.otherwise };
        // Nothing comes of nothing, whoever has committed it.
        let nothing = branch.is_empty().then(Vec::new);
        let results = finished.results.as_ref().and_then(read).or(nothing);
        self.end(Answer::Committed { then: is_then, results })
    }

    /// Has the anchor abort the attempt. It need not be asked if it was asked for its part and has kept nothing: the attempt
    /// can't be committed any more. Under a name that a client has given others may have to do with the transaction: then the
    /// anchor has the last word in any case.
    fn abort(&mut self, next: Next) -> Turn<Answer> {
        self.asked.forget();
        self.next_attempt = self.attempt + 1;
        // Those that may hold something are told, also when there is another attempt: others may wait for it.
        let (is_ours_alone, anchor) = (self.transaction.name.is_made_up(), self.anchor());
        let is_clear =
            |partition: &PartitionId| (is_ours_alone || *partition != anchor) && self.clear.contains(partition);
        let participants: Vec<_> = self.shares.keys().copied().filter(|partition| !is_clear(partition)).collect();
        let (id, decision) = (self.id(), Decision::Abort);
        let (settlement, step) = if is_clear(&anchor) {
            Settlement::follow(id, anchor, participants, decision, &mut self.asked)
        } else {
            Settlement::decide(id, anchor, participants, decision, None, &mut self.asked)
        };
        self.stage = Stage::Aborting(settlement, next);
        self.heard_aborting(step)
    }

    fn heard_aborting(&mut self, step: Step) -> Turn<Answer> {
        let Stage::Aborting(_, next) = &mut self.stage else { return Turn::default() };
        let mut turn = Turn { asks: step.asks, is_over: step.is_over, ..Turn::default() };
        if let Some((id, decision)) = step.other {
            let mut next = self.heard_of_other(id, decision);
            turn.asks.append(&mut next.asks);
            return Turn { asks: turn.asks, ..next };
        }
        match (step.decided, step.unknown) {
            // Somebody found it prepared everywhere, and had it committed.
            (Some(decision @ (Decision::Then | Decision::Otherwise)), _) => {
                let id = self.id();
                let results = None;
                let finished = Finished { id, decision, results, participants: Vec::new() };
                let mut end = self.committed_before(&finished);
                end.asks = turn.asks;
                return end;
            }
            (Some(Decision::Abort), _) if matches!(next, Next::Again) => {
                let mut next = if self.blocked_at.is_some() && !self.is_late { self.attempt() } else { self.pause() };
                turn.asks.append(&mut next.asks);
                return Turn { asks: turn.asks, ..next };
            }
            (Some(Decision::Abort), _) => {
                if let Next::Answer(answer) = next {
                    let answer = answer.clone();
                    turn.answer = self.answer_once(answer);
                }
            }
            (None, true) => {
                let mut end = self.end(Answer::Unknown);
                end.asks = turn.asks;
                return end;
            }
            (None, false) => {}
        }
        turn
    }

    /// This attempt is aborted, and another was found that is not.
    fn heard_of_other(&mut self, id: Id, decision: Option<Decision>) -> Turn<Answer> {
        match (decision, &self.stage) {
            (Some(decision), _) => self.confirm(decision),
            // Its time is over: nobody knows by now what becomes of the other.
            (None, Stage::Aborting(_, Next::Answer(Answer::Failed(_)))) => self.end(Answer::Unknown),
            (None, _) => self.recover(Pointer { id, anchor: self.anchor() }, self.anchor()),
        }
    }

    /// Brings another coordinator's attempt to its end, which was found in this partition.
    fn recover(&mut self, pointer: Pointer, found_in: PartitionId) -> Turn<Answer> {
        self.asked.forget();
        let mut recovery = Recovery::within(pointer, found_in, std::mem::take(&mut self.asked));
        let turn = recovery.begin();
        self.stage = Stage::Recovering(recovery);
        Turn { asks: turn.asks, ..Turn::default() }
    }

    /// Nothing is done so far: another attempt is made in a while, if there is time.
    fn pause(&mut self) -> Turn<Answer> {
        if self.is_late {
            return self.end(Answer::Failed(Failure::Conflict));
        }
        self.stage = Stage::Pausing;
        self.asked.forget();
        // xorshift64: no more than that is asked of it.
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        let most = (FIRST_PAUSE * 2u32.saturating_pow(self.attempts.min(6))).min(LONGEST_PAUSE);
        let pause = FIRST_PAUSE + most.mul_f64((self.chance % 1024) as f64 / 1024.0);
        Turn { wake_in: Some(pause), ..Turn::default() }
    }
}

impl Machine for Coordinator {
    type Answer = Answer;

    fn begin(&mut self) -> Turn<Answer> {
        let fails_fast = self.transaction.otherwise.is_empty() && self.transaction.name.is_made_up();
        let may_look = !self.transaction.conditions.is_empty() && self.transaction.fence.is_none();
        if self.looks_first && fails_fast && may_look && self.shares.len() > 1 {
            return self.look();
        }
        self.attempt()
    }

    fn hear(&mut self, number: u32, reply: Reply) -> Turn<Answer> {
        if let Stage::Recovering(recovery) = &mut self.stage {
            let turn = recovery.hear(number, reply);
            if turn.answer.is_some() {
                self.asked = recovery.take_asked();
            }
            return match turn.answer {
                Some(_) if self.shares.len() > 1 => self.abort(Next::Again),
                Some(_) => self.pause(),
                None => Turn { asks: turn.asks, ..Turn::default() },
            };
        }
        let Some(from) = self.asked.answered(number) else { return Turn::default() };
        match &mut self.stage {
            Stage::Looking => self.heard_looking(from, &reply),
            Stage::Alone => self.heard_alone(from, reply),
            Stage::Preparing(_) => self.heard_prepared(from, reply),
            Stage::Aborting(settlement, _) => {
                let step = settlement.hear(&reply, &mut self.asked);
                self.heard_aborting(step)
            }
            Stage::Settling(settlement) => {
                let step = settlement.hear(&reply, &mut self.asked);
                Turn { asks: step.asks, is_over: step.is_over, ..Turn::default() }
            }
            Stage::Confirming(_) => self.heard_confirmed(reply),
            Stage::Recovering(_) | Stage::Pausing | Stage::Over => Turn::default(),
        }
    }

    fn wake(&mut self) -> Turn<Answer> {
        if !matches!(self.stage, Stage::Pausing) {
            return Turn::default();
        }
        self.attempt()
    }
}
