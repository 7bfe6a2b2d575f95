//! What commands do to a partition: preparing, probing, and all of a transaction at once.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use super::codec::write_dones;
use super::finished::{UNKNOWN_DIGEST, finished, kept_ms};
use super::holds::{Blocker, Open, Thing, things};
use super::record::{FinishedRecord, OpenRecord, State as Stage};
use super::{
    Action, Alone, Applied, Check, Command, Condition, Decision, Done, Finished, Id, Known, MAX_KEPT_RESULTS_BYTES,
    MAX_OPEN, MAX_READ_BYTES, Name, Outcome, Part, Pointer, Prepare, Prepared, View,
};
use crate::bugs::{Bug, planted};
use crate::codec::Writer;
use crate::partition::command::{Key, Write};
use crate::partition::fence::Passed;
use crate::partition::machine::{Error, Partition};
use crate::partition::record::{OPEN_TXN, split_txn_key, txn_key};
use crate::state::State;

impl Partition {
    /// Applies a command at `index`.
    pub(in crate::partition) fn txn(
        &mut self,
        state: &mut dyn State,
        index: u64,
        command: Command,
    ) -> Result<Applied, Error> {
        let mut released = Vec::new();
        let outcome = match command {
            Command::Alone(alone) => self.alone(state, index, alone)?,
            Command::Prepare(prepare) => self.prepare(state, index, prepare, &mut released)?,
            Command::Probe(id) => self.probe(state, id)?,
            Command::Settle(steps) => return self.settle_all(state, steps),
        };
        Ok(Applied { outcome, released })
    }

    fn alone(&mut self, state: &mut dyn State, index: u64, alone: Alone) -> Result<Outcome, Error> {
        let is_fast = alone.fails_fast();
        let Alone { id, digest, part } = alone;
        if let Some(outcome) = self.known_attempt(state, &id, &digest)? {
            return Ok(outcome);
        }
        if let Some(Blocker { by, .. }) = self.holds.blocker_of(&part, &things(&part), 0) {
            return Ok(Outcome::Blocked { by, waits: true });
        }
        if let Some(refused) = self.refused_by_fence(state, &part)? {
            return Ok(refused);
        }
        let decision = if self.part_holds(state, &part)? { Decision::Then } else { Decision::Otherwise };
        let actions = part.branch(decision);
        if decision == Decision::Otherwise && is_fast {
            return Ok(Outcome::Done { decision, results: Vec::new() });
        }
        let Some(results) = self.dones(state, index, actions)? else { return Ok(Outcome::ReadsTooMuch) };
        self.do_actions(state, index, actions)?;
        let kept = if id.name.is_made_up() { None } else { kept(&results) };
        self.finish(state, &id, FinishedRecord { decision, digest, results: kept, deadline_ms: 0 })?;
        Ok(Outcome::Done { decision, results })
    }

    fn prepare(
        &mut self,
        state: &mut dyn State,
        index: u64,
        prepare: Prepare,
        released: &mut Vec<Thing>,
    ) -> Result<Outcome, Error> {
        if let Some(outcome) = self.prepared_before(state, &prepare)? {
            return Ok(outcome);
        }
        let is_fast = prepare.fails_fast();
        let Prepare { id, priority, digest, anchor, participants, without_else, is_patient, part } = prepare;
        if let Some(outcome) = self.known_attempt(state, &id, &digest)? {
            return Ok(outcome);
        }
        if self.holds.len() >= MAX_OPEN {
            return Ok(Outcome::TooManyOpen);
        }
        self.take_place_of_earlier(state, &id, released)?;
        if let Some(Blocker { by, waits, .. }) = self.holds.blocker_of(&part, &things(&part), priority) {
            return Ok(Outcome::Blocked { by, waits: waits || is_patient });
        }
        if let Some(refused) = self.refused_by_fence(state, &part)? {
            return Ok(refused);
        }
        let holds = self.part_holds(state, &part)?;
        if !holds && is_fast {
            return Ok(Outcome::ConditionFailed);
        }
        // It will do nothing here, whatever is decided, so it holds nothing and is in nobody's way.
        let part = if holds || !without_else { part } else { Part::default() };
        let (then, otherwise) =
            match (self.dones(state, index, &part.then)?, self.dones(state, index, &part.otherwise)?) {
                (Some(then), Some(otherwise)) => (then, otherwise),
                _ => return Ok(Outcome::ReadsTooMuch),
            };
        let since_ms = self.meta.clock_ms;
        let stage = Stage::Prepared { index, holds, part };
        let record =
            OpenRecord { priority, digest, anchor, participants: participants.clone(), since_ms, state: stage };
        state.put(self.table, txn_key(OPEN_TXN, &id), record.encode());
        self.holds.insert(id, Open::new(record));
        Ok(Outcome::Prepared(Prepared { holds, then, otherwise, participants }))
    }

    /// A coordinator makes another attempt only when the anchor has said that its earlier ones are aborted: this is how the others
    /// hear of it.
    fn take_place_of_earlier(
        &mut self,
        state: &mut dyn State,
        id: &Id,
        released: &mut Vec<Thing>,
    ) -> Result<(), Error> {
        let is_earlier = |(other, open): &(&Id, &Open)| {
            other.coordinator == id.coordinator && other.attempt < id.attempt && !open.is_decided
        };
        let earlier: Vec<Id> = self.holds.attempts_at(&id.name).filter(is_earlier).map(|(id, _)| id.clone()).collect();
        for earlier in earlier {
            self.resolve(state, &earlier, Decision::Abort, released)?;
        }
        Ok(())
    }

    /// The answer to a coordinator that asks again.
    fn prepared_before(&self, state: &dyn State, prepare: &Prepare) -> Result<Option<Outcome>, Error> {
        if self.holds.get(&prepare.id).is_none() {
            return Ok(None);
        }
        let record = self.read_open(state, &prepare.id)?;
        if record.digest != prepare.digest {
            return Ok(Some(Outcome::NameConflict));
        }
        self.standing(state, &prepare.id, &record).map(Some)
    }

    /// How an open attempt stands.
    fn standing(&self, state: &dyn State, id: &Id, record: &OpenRecord) -> Result<Outcome, Error> {
        let participants = record.participants.clone();
        Ok(match &record.state {
            Stage::Decided { decision, results } => {
                let (decision, results) = (*decision, results.clone());
                Outcome::Finished(Finished { id: id.clone(), decision, results, participants })
            }
            Stage::Prepared { index, holds, part } => {
                // What it holds has not changed since.
                let branches = (self.dones(state, *index, &part.then)?, self.dones(state, *index, &part.otherwise)?);
                let (Some(then), Some(otherwise)) = branches else { unreachable!("it was little enough before") };
                Outcome::Prepared(Prepared { holds: *holds, then, otherwise, participants })
            }
        })
    }

    /// What is known of an attempt; one that is not is refused from now on.
    fn probe(&mut self, state: &mut dyn State, id: Id) -> Result<Outcome, Error> {
        if self.holds.get(&id).is_some() {
            let record = self.read_open(state, &id)?;
            return self.standing(state, &id, &record);
        }
        if let Some(record) = self.read_finished(state, &id)? {
            return Ok(Outcome::Finished(finished(id, record)));
        }
        let mark = FinishedRecord { decision: Decision::Abort, digest: UNKNOWN_DIGEST, results: None, deadline_ms: 0 };
        self.finish(state, &id, mark.clone())?;
        Ok(Outcome::Finished(finished(id, mark)))
    }

    /// Why an attempt must not begin: it is finished, or another at the same transaction is committed or under way.
    fn known_attempt(&self, state: &dyn State, id: &Id, digest: &[u8; 32]) -> Result<Option<Outcome>, Error> {
        let attempts = if id.name.is_made_up() {
            // Nobody tries it but whoever has made the name up.
            self.read_finished(state, id)?.map(|record| (id.clone(), record)).into_iter().collect()
        } else {
            self.finished_of(state, &id.name)?
        };
        let mut own = None;
        for (other, record) in attempts {
            let is_old = record.deadline_ms <= self.loaded_ms.saturating_add(kept_ms(&id.name, &record.digest));
            if planted(Bug::PreventedForgottenOnRestart) && is_old && record.decision == Decision::Abort {
                continue;
            }
            if record.digest != UNKNOWN_DIGEST && record.digest != *digest {
                return Ok(Some(Outcome::NameConflict));
            }
            if record.decision != Decision::Abort {
                return Ok(Some(Outcome::Finished(finished(other, record))));
            }
            if other == *id {
                own = Some(Outcome::Finished(finished(other, record)));
            }
        }
        for (other, open) in self.holds.attempts_at(&id.name).filter(|(other, _)| *other != id) {
            let record = self.read_open(state, other)?;
            if record.digest != *digest {
                return Ok(Some(Outcome::NameConflict));
            }
            if open.is_decided {
                // Decided, and not to be aborted: it would be finished then.
                return self.standing(state, other, &record).map(Some);
            }
            let is_replaced = other.coordinator == id.coordinator && other.attempt < id.attempt;
            if own.is_none() && !is_replaced {
                own = Some(Outcome::UnderWay(Pointer { id: other.clone(), anchor: open.anchor }));
            }
        }
        Ok(own)
    }

    /// Whether a condition of a part surely fails: nobody holds its key exclusively, and the key does not meet it; or whoever
    /// holds the key is committed (`known` says so) and leaves it at another version.
    pub fn certainly_fails(&self, state: &dyn State, part: &Part, known: impl Fn(&Id) -> bool) -> Result<bool, Error> {
        for condition in &part.conditions {
            let fails = match self.hides(&condition.key) {
                None => !self.condition_holds(state, condition)?,
                Some(by) => match condition.check {
                    Check::Version(version) if known(&by.id) => {
                        self.version_to_be(state, &by.id, &condition.key)?.is_some_and(|to_be| to_be != Some(version))
                    }
                    _ => false,
                },
            };
            if fails {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The version that a key will have if this attempt commits with `then`: no version if it deletes the key, and `None` if it does
    /// not change it.
    fn version_to_be(&self, state: &dyn State, id: &Id, key: &Key) -> Result<Option<Option<u64>>, Error> {
        let record = self.read_open(state, id)?;
        let Stage::Prepared { index, part, .. } = &record.state else { return Ok(None) };
        Ok(part.then.iter().find(|action| action.key() == key).and_then(|action| match action {
            Action::Put { .. } => Some(Some(*index)),
            Action::Delete { .. } => Some(None),
            Action::Get { .. } => None,
        }))
    }

    /// Whether this attempt is open or finished.
    pub fn knows_attempt(&self, state: &dyn State, id: &Id) -> Result<bool, Error> {
        Ok(self.holds.get(id).is_some() || self.read_finished(state, id)?.is_some())
    }

    fn condition_holds(&self, state: &dyn State, condition: &Condition) -> Result<bool, Error> {
        Ok(condition.check.holds_of(self.get(state, &condition.key)?.as_ref()))
    }

    fn refused_by_fence(&mut self, state: &mut dyn State, part: &Part) -> Result<Option<Outcome>, Error> {
        let Some(fence) = &part.fence else { return Ok(None) };
        Ok(match self.pass_fence(state, fence)? {
            Passed::Yes => None,
            Passed::Stale(newest) => Some(Outcome::StaleFence { newest }),
            Passed::Full => Some(Outcome::TooManyFences),
        })
    }

    /// Whether the conditions of a part hold.
    fn part_holds(&self, state: &dyn State, part: &Part) -> Result<bool, Error> {
        for condition in &part.conditions {
            if !self.condition_holds(state, condition)? {
                return Ok(false);
            }
        }
        for held in &part.locks {
            if !self.holds_lock(state, &held.lock, held.token)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What will come of preparing this at `index`, if nothing comes in between: the bug of a leader that says so at once.
    pub fn prepared_too_early(
        &self,
        state: &dyn State,
        index: u64,
        prepare: &Prepare,
    ) -> Result<Option<Outcome>, Error> {
        let Prepare { id, digest, participants, part, .. } = prepare;
        let (then, otherwise) = (self.dones(state, index, &part.then)?, self.dones(state, index, &part.otherwise)?);
        let holds = self.part_holds(state, part)?;
        let is_known = self.holds.get(id).is_some() || self.known_attempt(state, id, digest)?.is_some();
        let prepared = |(then, otherwise)| {
            let participants = participants.clone();
            Outcome::Prepared(Prepared { holds, then, otherwise, participants })
        };
        Ok(then.zip(otherwise).filter(|_| !is_known && (holds || !prepare.fails_fast())).map(prepared))
    }

    /// What comes of operations that are done at `index`; `None` when they read too much.
    fn dones(&self, state: &dyn State, index: u64, actions: &[Action]) -> Result<Option<Vec<Done>>, Error> {
        let mut bytes = 0;
        let mut dones = Vec::with_capacity(actions.len());
        for action in actions {
            dones.push(match action {
                Action::Put { .. } => Done::Put(index),
                Action::Delete { key } => Done::Deleted(self.get(state, key)?.is_some()),
                Action::Get { key } => {
                    let item = self.get(state, key)?;
                    bytes += item.as_ref().map_or(0, |item| item.value.len());
                    Done::Got(item)
                }
            });
        }
        Ok((bytes <= MAX_READ_BYTES).then_some(dones))
    }

    /// The record of an attempt that is open.
    pub(super) fn read_open(&self, state: &dyn State, id: &Id) -> Result<Arc<OpenRecord>, Error> {
        if let Some(Open { record: Some(record), .. }) = self.holds.get(id) {
            return Ok(Arc::clone(record));
        }
        let record = state.get(self.table, &txn_key(OPEN_TXN, id))?.expect("what is open has a record");
        OpenRecord::decode(record).map(Arc::new).map_err(|source| self.damaged(source))
    }

    /// All that is known here of a transaction.
    pub fn known_of(&self, state: &dyn State, name: &Name, clock_ms: u64) -> Result<Vec<Known>, Error> {
        let mut known = Vec::new();
        for (id, _) in self.holds.attempts_at(name) {
            known.push(match self.standing(state, id, &*self.read_open(state, id)?)? {
                Outcome::Finished(finished) => Known::Finished(finished),
                _ => Known::Open(self.view_of(state, id, clock_ms)?),
            });
        }
        for (id, record) in self.finished_of(state, name)? {
            known.push(Known::Finished(finished(id, record)));
        }
        Ok(known)
    }

    /// Open transactions that were prepared, or decided, at least so long ago, the oldest first, up to `most`.
    pub fn open_txns(
        &self,
        state: &dyn State,
        clock_ms: u64,
        older_than_ms: u64,
        most: usize,
    ) -> Result<Vec<View>, Error> {
        let old = self.holds.iter().filter(|(_, open)| clock_ms.saturating_sub(open.since_ms) >= older_than_ms);
        let mut ids: Vec<_> = old.map(|(id, open)| (open.since_ms, id)).collect();
        ids.sort_unstable();
        ids.truncate(most);
        ids.into_iter().map(|(_, id)| self.view_of(state, id, clock_ms)).collect()
    }

    /// Those of the open transactions that were prepared, or decided, at least so long ago.
    pub fn abandoned_txns(&self, clock_ms: u64, older_than_ms: u64) -> impl Iterator<Item = Pointer> {
        let is_old = move |since_ms: u64| clock_ms.saturating_sub(since_ms) >= older_than_ms;
        let old = self.holds.iter().filter(move |(_, open)| is_old(open.since_ms));
        old.map(|(id, open)| Pointer { id: id.clone(), anchor: open.anchor })
    }

    fn view_of(&self, state: &dyn State, id: &Id, clock_ms: u64) -> Result<View, Error> {
        let record = self.read_open(state, id)?;
        let is_shown = |(thing, _): &&(Thing, bool)| !matches!(thing, Thing::Fence(_));
        let keys = self.holds.get(id).map_or(0, |open| open.things.iter().filter(is_shown).count());
        Ok(View {
            pointer: Pointer { id: id.clone(), anchor: record.anchor },
            participants: record.participants.clone(),
            decision: match &record.state {
                Stage::Decided { decision, .. } => Some(*decision),
                Stage::Prepared { .. } => None,
            },
            age_ms: clock_ms.saturating_sub(record.since_ms),
            keys: u32::try_from(keys).expect("a transaction has few keys"),
        })
    }

    /// Whoever keeps this key from being read.
    pub fn hides(&self, key: &Key) -> Option<Pointer> {
        if self.holds.is_empty() || planted(Bug::ReadPastIntent) {
            return None;
        }
        self.holds.blocker(&Thing::Key(key.bytes().clone()), false)
    }

    /// Whoever keeps this key from being changed.
    pub fn holds_key(&self, key: &Key) -> Option<Pointer> {
        if self.holds.is_empty() {
            return None;
        }
        self.holds.blocker(&Thing::Key(key.bytes().clone()), true)
    }

    /// What a write must wait for: its key, or those who are about to write under an older token.
    pub fn blocks_write(&self, write: &Write) -> Option<Thing> {
        if self.holds.is_empty() {
            return None;
        }
        let key = self.holds_key(&write.key).map(|_| Thing::Key(write.key.bytes().clone()));
        key.or_else(|| self.holds.older_writers(write.fence.as_ref()?).next().map(|(_, thing)| thing))
    }

    /// What an open attempt holds.
    pub fn things_of(&self, id: &Id) -> impl Iterator<Item = &Thing> {
        self.holds.get(id).into_iter().flat_map(|open| &open.things).map(|(thing, _)| thing)
    }

    /// Whether somebody holds this so that nobody else can.
    pub fn holds_exclusively(&self, thing: &Thing) -> bool {
        self.holds.blocker(thing, false).is_some()
    }

    /// Whoever keeps this lock from passing on.
    pub fn pins_lock(&self, name: &[u8]) -> Option<Pointer> {
        if self.holds.is_empty() {
            return None;
        }
        self.holds.blocker(&Thing::Lock(Bytes::copy_from_slice(name)), true)
    }

    /// A key with this prefix that is kept from being read.
    pub fn hides_any(&self, prefix: &[u8]) -> Option<Thing> {
        if planted(Bug::ReadPastIntent) {
            return None;
        }
        self.holds.hidden(prefix)
    }

    /// Whoever is in the way of a part with this priority.
    pub fn blocks_part(&self, part: &Part, priority: u64) -> Option<Blocker> {
        if self.holds.is_empty() {
            return None;
        }
        self.holds.blocker_of(part, &things(part), priority)
    }

    /// How many transactions are open.
    pub fn open_count(&self) -> usize {
        self.holds.len()
    }

    /// Finds out anew which transactions are open, and what they hold.
    pub(in crate::partition) fn load_holds(&self, state: &dyn State) -> Result<super::Holds, Error> {
        let (mut holds, mut damaged) = (super::Holds::default(), None);
        state.range(self.table, &[OPEN_TXN], Some(&[OPEN_TXN + 1]), &mut |key, record| {
            match (split_txn_key(key), OpenRecord::decode(Bytes::copy_from_slice(record))) {
                (Ok(id), Ok(record)) => holds.insert(id, Open::new(record)),
                (Err(source), _) | (_, Err(source)) => damaged = Some(source),
            }
            ControlFlow::Continue(())
        })?;
        damaged.map_or(Ok(holds), |source| Err(self.damaged(source)))
    }

    /// Panics when what is kept in memory is not what the records say.
    pub(in crate::partition) fn check_txns(&self, state: &dyn State) -> Result<(), Error> {
        let is_sound = self.load_holds(state)? == self.holds || planted(Bug::ResolveAppliedTwice);
        assert!(is_sound, "what is held is what the open transactions hold");
        let (deadlines, count) = self.load_deadlines(state)?;
        assert_eq!(count, self.meta.finished, "finished transactions are counted");
        assert!(deadlines == self.deadlines, "the records of made-up names are where they are thought to be");
        for (id, _) in self.holds.iter() {
            let is_finished = self.read_finished(state, id)?.is_some() && !planted(Bug::PreventedForgottenOnRestart);
            assert!(!is_finished, "what is open is not finished");
        }
        Ok(())
    }
}

/// Results in the form in which they are kept, if they are short.
fn kept(results: &[Done]) -> Option<Bytes> {
    let mut writer = Writer::with_capacity(64);
    write_dones(&mut writer, results);
    (writer.len() <= MAX_KEPT_RESULTS_BYTES).then(|| writer.finish())
}
