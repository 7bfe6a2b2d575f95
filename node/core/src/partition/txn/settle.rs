//! What becomes of prepared attempts: the anchor decides, the others follow.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::record::{FinishedRecord, OpenRecord, State as Stage};
use super::{Action, Applied, Decision, Id, KEPT_MS, MAX_FINISHED, Outcome, Settle, Settled};
use crate::bugs::{Bug, planted};
use crate::partition::command::Change;
use crate::partition::machine::{Error, Partition};
use crate::partition::record::{FINISHED_TXN, FINISHED_TXN_EXPIRY, OPEN_TXN, expiry_key, split_expiry_key, txn_key};
use crate::state::State;

impl Partition {
    /// Takes the steps one after the other.
    pub(super) fn settle_all(&mut self, state: &mut dyn State, steps: Vec<Settle>) -> Result<Applied, Error> {
        let mut released = false;
        let mut settled = Vec::with_capacity(steps.len());
        for step in steps {
            settled.push(match step {
                Settle::Decide { id, decision, results } => {
                    let decided = self.decide(state, &id, decision, results, &mut released)?;
                    match decided {
                        Settled::Decided(Decision::Abort) => self.other_attempt(state, &id)?.unwrap_or(decided),
                        decided => decided,
                    }
                }
                Settle::Resolve { id, decision } => self.resolve(state, &id, decision, &mut released)?,
                Settle::Forget { id } => self.forget(state, &id)?,
            });
        }
        Ok(Applied { outcome: Outcome::Settled(settled), released })
    }

    fn decide(
        &mut self,
        state: &mut dyn State,
        id: &Id,
        decision: Decision,
        results: Option<Bytes>,
        released: &mut bool,
    ) -> Result<Settled, Error> {
        if let Some(known) = self.read_finished(state, id)? {
            return Ok(Settled::Decided(known.decision));
        }
        if self.holds.get(id).is_none() {
            return match decision {
                Decision::Abort => self.refuse(state, id).map(|()| Settled::Decided(decision)),
                // It was committed, resolved and forgotten long ago, or never was prepared here.
                Decision::Then | Decision::Otherwise => Ok(Settled::Unknown),
            };
        }
        let record = self.read_open(state, id)?;
        match &record.state {
            Stage::Decided { decision, .. } => Ok(Settled::Decided(*decision)),
            Stage::Prepared { index, part, .. } => {
                self.do_actions(state, *index, part.branch(decision))?;
                *released |= self.holds.remove(id);
                if decision == Decision::Abort {
                    // Whoever still holds something for it asks here, and need not be known.
                    state.delete(self.table, txn_key(OPEN_TXN, id));
                    let digest = record.digest;
                    self.finish(state, id.clone(), FinishedRecord { decision, digest, results: None, deadline_ms: 0 })?;
                } else {
                    self.put_decided(state, id, record, decision, results);
                }
                Ok(Settled::Decided(decision))
            }
        }
    }

    /// Another attempt at the transaction, which is committed or under way. There is none if its name was made up for it: whoever
    /// made it up makes one attempt after the other.
    fn other_attempt(&self, state: &dyn State, id: &Id) -> Result<Option<Settled>, Error> {
        if id.name.is_made_up() {
            return Ok(None);
        }
        for (id, record) in self.finished_of(state, &id.name)? {
            if record.decision != Decision::Abort {
                return Ok(Some(Settled::Other { id, decision: Some(record.decision) }));
            }
        }
        let Some((other, _)) = self.holds.attempts_at(&id.name).find(|(other, _)| *other != id) else {
            return Ok(None);
        };
        let decision = match self.read_open(state, other)?.state {
            Stage::Decided { decision, .. } => Some(decision),
            Stage::Prepared { .. } => None,
        };
        Ok(Some(Settled::Other { id: other.clone(), decision }))
    }

    /// The record of what is decided stays open until every other participant has followed.
    fn put_decided(
        &mut self,
        state: &mut dyn State,
        id: &Id,
        record: OpenRecord,
        decision: Decision,
        results: Option<Bytes>,
    ) {
        let since_ms = self.meta.clock_ms;
        let record = OpenRecord { since_ms, state: Stage::Decided { decision, results }, ..record };
        state.put(self.table, txn_key(OPEN_TXN, id), record.encode());
        self.holds.insert(id.clone(), super::apply::open_of(&record));
    }

    pub(super) fn resolve(
        &mut self,
        state: &mut dyn State,
        id: &Id,
        decision: Decision,
        released: &mut bool,
    ) -> Result<Settled, Error> {
        if self.read_finished(state, id)?.is_some() {
            return Ok(Settled::Done);
        }
        if self.holds.get(id).is_none() {
            if decision == Decision::Abort {
                self.refuse(state, id)?;
            }
            return Ok(Settled::Done);
        }
        let record = self.read_open(state, id)?;
        let Stage::Prepared { index, part, .. } = record.state else {
            // The anchor itself: it has decided, and nobody else tells it otherwise.
            return Ok(Settled::Done);
        };
        self.do_actions(state, index, part.branch(decision))?;
        if planted(Bug::ResolveAppliedTwice) {
            *released |= self.holds.free(id);
            return Ok(Settled::Done);
        }
        *released |= self.holds.remove(id);
        state.delete(self.table, txn_key(OPEN_TXN, id));
        let record = FinishedRecord { decision, digest: record.digest, results: None, deadline_ms: 0 };
        self.finish(state, id.clone(), record)?;
        Ok(Settled::Done)
    }

    /// Every participant has followed: the decision is kept for as long as others are.
    fn forget(&mut self, state: &mut dyn State, id: &Id) -> Result<Settled, Error> {
        if self.holds.get(id).is_none() {
            return Ok(if self.read_finished(state, id)?.is_some() { Settled::Done } else { Settled::Unknown });
        }
        let OpenRecord { digest, state: stage, .. } = self.read_open(state, id)?;
        let Stage::Decided { decision, results } = stage else { return Ok(Settled::Unknown) };
        self.holds.remove(id);
        state.delete(self.table, txn_key(OPEN_TXN, id));
        self.finish(state, id.clone(), FinishedRecord { decision, digest, results, deadline_ms: 0 })?;
        Ok(Settled::Done)
    }

    /// An attempt that was not prepared here never will be.
    fn refuse(&mut self, state: &mut dyn State, id: &Id) -> Result<(), Error> {
        let mark = FinishedRecord { decision: Decision::Abort, digest: [0; 32], results: None, deadline_ms: 0 };
        self.finish(state, id.clone(), mark)
    }

    /// Keeps what became of an attempt, for a while from now.
    pub(super) fn finish(&mut self, state: &mut dyn State, id: Id, record: FinishedRecord) -> Result<(), Error> {
        if self.meta.finished >= MAX_FINISHED {
            self.forget_oldest_finished(state)?;
        }
        let deadline_ms = self.meta.clock_ms.saturating_add(KEPT_MS);
        let key = txn_key(FINISHED_TXN, &id);
        state.put(self.table, expiry_key(FINISHED_TXN_EXPIRY, deadline_ms, &key), Bytes::new());
        state.put(self.table, key, FinishedRecord { deadline_ms, ..record }.encode());
        self.meta.finished += 1;
        self.next_expiry_ms = self.next_expiry_ms.min(deadline_ms);
        Ok(())
    }

    fn forget_oldest_finished(&mut self, state: &mut dyn State) -> Result<(), Error> {
        let mut oldest = None;
        // Deadlines only rise, so nothing is before the one that went last: no need to pass over what is gone.
        let from = std::mem::take(&mut self.oldest_finished);
        let from = if from.is_empty() { Bytes::from_static(&[FINISHED_TXN_EXPIRY]) } else { from };
        state.range(self.table, &from, Some(&[FINISHED_TXN_EXPIRY + 1]), &mut |key, _| {
            oldest = split_expiry_key(key).map(|(_, record)| (Bytes::copy_from_slice(key), record));
            ControlFlow::Break(())
        })?;
        if let Some((expiry, record)) = oldest {
            state.delete(self.table, expiry.clone());
            state.delete(self.table, record);
            self.oldest_finished = expiry;
            self.meta.finished -= 1;
        }
        Ok(())
    }

    /// Does the operations that change something.
    pub(super) fn do_actions(&mut self, state: &mut dyn State, index: u64, actions: &[Action]) -> Result<(), Error> {
        for action in actions {
            match action {
                Action::Put { key, value, ttl_ms } => {
                    let change = Change::Put { value: value.clone(), ttl_ms: *ttl_ms };
                    self.change(state, index, key, &change)?;
                }
                Action::Delete { key } => {
                    self.change(state, index, key, &Change::Delete)?;
                }
                Action::Get { .. } => {}
            }
        }
        Ok(())
    }
}
