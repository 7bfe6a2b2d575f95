//! What becomes of prepared attempts. A partition is told the decision (Decide), or that the anchor has made it (Resolve), and
//! closes the attempt when all have heard.

use bytes::Bytes;

use super::finished::UNKNOWN_DIGEST;
use super::holds::{Open, Thing};
use super::record::{FinishedRecord, OpenRecord, State as Stage};
use super::{Action, Applied, Decision, Id, Outcome, Settle, Settled};
use crate::bugs::{Bug, planted};
use crate::partition::command::Change;
use crate::partition::machine::{Error, Partition};
use crate::partition::record::{OPEN_TXN, txn_key};
use crate::state::State;

impl Partition {
    /// Takes the steps one after the other.
    pub(super) fn settle_all(&mut self, state: &mut dyn State, steps: Vec<Settle>) -> Result<Applied, Error> {
        let mut released = Vec::new();
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
                Settle::Close { id } => self.close(state, &id)?,
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
        released: &mut Vec<Thing>,
    ) -> Result<Settled, Error> {
        // What is open is not finished.
        if self.holds.get(id).is_none() {
            if let Some(known) = self.read_finished(state, id)? {
                return Ok(Settled::Decided(known.decision));
            }
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
                // At the anchor nobody would come back to it.
                if planted(Bug::ResolveAppliedTwice) && record.anchor.group() != self.table.group {
                    released.append(&mut self.holds.free(id));
                    return Ok(Settled::Decided(decision));
                }
                released.append(&mut self.holds.remove(id));
                if decision == Decision::Abort {
                    // Whoever still holds something for it asks here, and need not be known.
                    state.delete(self.table, txn_key(OPEN_TXN, id));
                    let digest = record.digest;
                    self.finish(state, id, FinishedRecord { decision, digest, results: None, deadline_ms: 0 })?;
                } else {
                    self.put_decided(state, id, &record, decision, results);
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
        let decision = match &self.read_open(state, other)?.state {
            Stage::Decided { decision, .. } => Some(*decision),
            Stage::Prepared { .. } => None,
        };
        Ok(Some(Settled::Other { id: other.clone(), decision }))
    }

    /// The record of what is decided stays open until every other participant has decided, too.
    fn put_decided(
        &mut self,
        state: &mut dyn State,
        id: &Id,
        record: &OpenRecord,
        decision: Decision,
        results: Option<Bytes>,
    ) {
        let since_ms = self.meta.clock_ms;
        let OpenRecord { priority, digest, anchor, ref participants, .. } = *record;
        let (participants, stage) = (participants.clone(), Stage::Decided { decision, results });
        let record = OpenRecord { priority, digest, anchor, participants, since_ms, state: stage };
        state.put(self.table, txn_key(OPEN_TXN, id), record.encode());
        self.holds.insert(id.clone(), Open::new(record));
    }

    pub(super) fn resolve(
        &mut self,
        state: &mut dyn State,
        id: &Id,
        decision: Decision,
        released: &mut Vec<Thing>,
    ) -> Result<Settled, Error> {
        if self.holds.get(id).is_none() {
            if decision == Decision::Abort && self.read_finished(state, id)?.is_none() {
                self.refuse(state, id)?;
            }
            return Ok(Settled::Done);
        }
        let record = self.read_open(state, id)?;
        let Stage::Prepared { index, part, .. } = &record.state else {
            // Nobody tells the anchor what it has decided. Any other needs to know it no longer than the anchor does.
            return if record.anchor.group() == self.table.group { Ok(Settled::Done) } else { self.close(state, id) };
        };
        self.do_actions(state, *index, part.branch(decision))?;
        if planted(Bug::ResolveAppliedTwice) {
            released.append(&mut self.holds.free(id));
            return Ok(Settled::Done);
        }
        released.append(&mut self.holds.remove(id));
        state.delete(self.table, txn_key(OPEN_TXN, id));
        let record = FinishedRecord { decision, digest: record.digest, results: None, deadline_ms: 0 };
        self.finish(state, id, record)?;
        Ok(Settled::Done)
    }

    /// Every participant has heard: it is no longer open, and the decision is kept for as long as others are.
    fn close(&mut self, state: &mut dyn State, id: &Id) -> Result<Settled, Error> {
        if self.holds.get(id).is_none() {
            return Ok(if self.read_finished(state, id)?.is_some() { Settled::Done } else { Settled::Unknown });
        }
        let open = self.read_open(state, id)?;
        let Stage::Decided { decision, results } = open.state.clone() else { return Ok(Settled::Unknown) };
        let digest = open.digest;
        self.holds.remove(id);
        state.delete(self.table, txn_key(OPEN_TXN, id));
        self.finish(state, id, FinishedRecord { decision, digest, results, deadline_ms: 0 })?;
        Ok(Settled::Done)
    }

    /// An attempt that was not prepared here never will be.
    fn refuse(&mut self, state: &mut dyn State, id: &Id) -> Result<(), Error> {
        let mark = FinishedRecord { decision: Decision::Abort, digest: UNKNOWN_DIGEST, results: None, deadline_ms: 0 };
        self.finish(state, id, mark)
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
