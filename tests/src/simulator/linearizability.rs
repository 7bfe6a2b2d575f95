//! Whether the history of one key can be explained by a single register that does one thing after the other.
//!
//! The algorithm is that of Wing and Gong, with Lowe's memory of what was tried: look for an order of the operations in
//! which each takes effect between its question and its answer, depth first, and never go on twice from the same set
//! of operations and the same register. Four things keep the search short. A key's versions rise with every write, so
//! writes whose version is known can be in one order only, and a value that was overwritten never comes back: an order
//! that leaves a read of it behind is given up at once. What can come next and changes nothing does come next. And an
//! operation without an answer is tried last, one of each kind: most of them never happened, or what they did was seen
//! and their version is known; of two that do the same, it does not matter which one did it.
//!
//! A search that takes too many steps has failed: it has not shown that all is well.

use std::collections::{BTreeMap, HashSet};

use annulus_core::partition::{Condition, Outcome};

use super::history::{Seen, WriteId};

/// Most steps of one search.
const MOST_STEPS: u64 = 2_000_000;

/// One operation on the key.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// It takes effect after this.
    pub invoked: u64,
    /// It takes effect before this; `None`: at any time after, or never.
    pub returned: Option<u64>,
    /// What it does.
    pub action: Action,
}

/// What an operation does to the register.
#[derive(Debug, Clone, Copy)]
pub enum Action {
    /// It sees this.
    Read(Option<Seen>),
    /// It puts its value.
    Put {
        /// Which value.
        write: WriteId,
        /// What had to hold.
        condition: Condition,
        /// What came of it, if that is known.
        outcome: Option<Outcome>,
        /// The version that it wrote, if anybody has seen it.
        version: Option<u64>,
        /// Whether its value expires.
        expires: bool,
    },
    /// It deletes the key.
    Delete {
        /// What had to hold.
        condition: Condition,
        /// What came of it, if that is known.
        outcome: Option<Outcome>,
    },
    /// The value that this write has put expires.
    Expire(WriteId),
}

/// Why a history can't be explained.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no such order.
    #[error("no order explains the operations; the longest explains {explained} of {operations}: {stuck}")]
    NotLinearizable {
        /// How many operations the best order held.
        explained: usize,
        /// How many there are.
        operations: usize,
        /// Where it got stuck.
        stuck: String,
    },
    /// The search was given up.
    #[error("no order was found in {MOST_STEPS} steps; the longest explains {explained} of {operations}: {stuck}")]
    TooManySteps {
        /// How many operations the best order held.
        explained: usize,
        /// How many there are.
        operations: usize,
        /// Where it got stuck.
        stuck: String,
    },
}

/// What the key holds. A version of 0 was never seen by anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Register {
    value: Option<Seen>,
    highest: u64,
}

/// Looks for an order that explains all calls.
pub fn check(mut calls: Vec<Call>) -> Result<(), Error> {
    calls.sort_by_key(|call| call.invoked);
    Search::new(&calls).run()
}

struct Search<'a> {
    calls: &'a [Call],
    pending: Vec<usize>,
    completed: usize,
    /// Calls that wrote a known version, in the order of the versions.
    versions: Vec<u64>,
    done: Vec<u64>,
    visited: HashSet<(Vec<u64>, Register)>,
}

/// A point that the search may come back to.
struct Step {
    register: Register,
    versions_written: usize,
    completed_done: usize,
    first_undone: usize,
    /// Calls that were done at this point because they change nothing.
    free: Vec<usize>,
    /// Some call can't be done any more.
    dead: bool,
    candidates: Vec<usize>,
    next: usize,
    /// The call that is done at this point for now.
    taken: Option<usize>,
}

impl<'a> Search<'a> {
    fn new(calls: &'a [Call]) -> Self {
        let pending = (0..calls.len()).filter(|at| calls[*at].returned.is_none()).collect::<Vec<_>>();
        let mut versions: Vec<u64> = calls.iter().filter_map(Call::version).collect();
        versions.sort_unstable();
        Self {
            calls,
            completed: calls.len() - pending.len(),
            pending,
            versions,
            done: vec![0; calls.len().div_ceil(64)],
            visited: HashSet::new(),
        }
    }

    fn run(mut self) -> Result<(), Error> {
        let first = self.step(Register::default(), 0, 0, 0);
        let mut stack = vec![first];
        let mut best = (0, Register::default(), Vec::new());
        let mut steps = 0;
        while let Some(step) = stack.last_mut() {
            if let Some(taken) = step.taken.take() {
                self.mark(taken, false);
            }
            if step.completed_done == self.completed {
                return Ok(());
            }
            if step.completed_done > best.0 || best.2.is_empty() {
                best = (step.completed_done, step.register, step.candidates.clone());
            }
            let Some(at) = step.candidates.get(step.next).copied().filter(|_| !step.dead) else {
                let step = stack.pop().expect("there is a last step");
                step.free.into_iter().for_each(|at| self.mark(at, false));
                continue;
            };
            step.next += 1;
            steps += 1;
            if steps > MOST_STEPS {
                return Err(self.error(&best, true));
            }
            let call = &self.calls[at];
            let in_order = call.version().is_none_or(|version| self.versions[step.versions_written] == version);
            let register = in_order.then(|| step.register.after(&call.action, &self.versions)).flatten();
            let Some(register) = register else { continue };
            let written = step.versions_written + usize::from(call.version().is_some());
            let completed = step.completed_done + usize::from(call.returned.is_some());
            let first = step.first_undone;
            self.mark(at, true);
            if !self.visited.insert((self.done.clone(), register)) {
                self.mark(at, false);
                continue;
            }
            step.taken = Some(at);
            let next = self.step(register, written, completed, first);
            stack.push(next);
        }
        Err(self.error(&best, false))
    }

    fn mark(&mut self, at: usize, done: bool) {
        let bit = 1 << (at % 64);
        if done {
            self.done[at / 64] |= bit;
        } else {
            self.done[at / 64] &= !bit;
        }
    }

    fn is_done(&self, at: usize) -> bool {
        self.done[at / 64] & (1 << (at % 64)) != 0
    }

    /// The point after what is done now: what changes nothing is done too, then which calls may come next.
    fn step(&mut self, register: Register, versions_written: usize, completed: usize, first_undone: usize) -> Step {
        let mut free = Vec::new();
        let mut first_undone = first_undone;
        let (mut candidates, end) = loop {
            let undone = |at: &usize| self.calls[*at].returned.is_some() && !self.is_done(*at);
            first_undone = (first_undone..self.calls.len()).find(undone).unwrap_or(self.calls.len());
            let (candidates, end) = self.window(first_undone);
            let idle = |at: &usize| register.after(&self.calls[*at].action, &self.versions) == Some(register);
            let idle: Vec<usize> = candidates.iter().copied().filter(idle).collect();
            if idle.is_empty() {
                break (candidates, end);
            }
            idle.iter().for_each(|at| self.mark(*at, true));
            free.extend(idle);
        };
        // One that nobody answered, but whose version was seen, has happened too.
        let seen = self.pending.iter().filter(|at| self.calls[**at].version().is_some() && !self.is_done(**at));
        let dead = candidates.iter().chain(seen).any(|at| register.is_past(&self.calls[*at].action));
        // A write with a version says most about what was there before it.
        candidates.sort_by_key(|at| (self.calls[*at].version().is_none(), self.calls[*at].returned));
        let mut kinds = Vec::new();
        for at in self.pending.iter().filter(|at| !self.is_done(**at) && self.calls[**at].invoked <= end) {
            let kind = self.calls[*at].kind();
            if kind.is_none() || !kinds.contains(&kind) {
                kinds.push(kind);
                candidates.push(*at);
            }
        }
        let completed_done = completed + free.len();
        Step { register, versions_written, completed_done, first_undone, free, dead, candidates, next: 0, taken: None }
    }

    /// Calls with an answer of which one must come next if no pending one does, and when the first of them has returned.
    fn window(&self, first_undone: usize) -> (Vec<usize>, u64) {
        let mut candidates = Vec::new();
        let mut end = u64::MAX;
        for (at, call) in self.calls.iter().enumerate().skip(first_undone) {
            if call.invoked > end {
                break;
            }
            if let (Some(returned), false) = (call.returned, self.is_done(at)) {
                end = end.min(returned);
                candidates.push(at);
            }
        }
        candidates.retain(|at| self.calls[*at].invoked <= end);
        (candidates, end)
    }

    fn error(&self, (explained, register, candidates): &(usize, Register, Vec<usize>), gave_up: bool) -> Error {
        let next: Vec<String> = candidates.iter().take(6).map(|at| format!("{:?}", self.calls[*at])).collect();
        let stuck = format!("the register holds {register:?}, and next may come {}", next.join(" or "));
        let (explained, operations) = (*explained, self.completed);
        if gave_up {
            Error::TooManySteps { explained, operations, stuck }
        } else {
            Error::NotLinearizable { explained, operations, stuck }
        }
    }
}

impl Call {
    /// Calls of one kind that were never answered can take each other's place; `None` for those that can't.
    fn kind(&self) -> Option<(bool, Condition)> {
        match self.action {
            Action::Delete { condition, .. } => Some((false, condition)),
            Action::Put { condition, version: None, expires: false, .. } => Some((true, condition)),
            _ => None,
        }
    }

    /// The version that this call has written, if it is known.
    fn version(&self) -> Option<u64> {
        match self.action {
            Action::Put { version, .. } => version,
            _ => None,
        }
    }
}

impl Register {
    /// What the register holds after the action; `None` when the action can't happen now as it did.
    fn after(mut self, action: &Action, known: &[u64]) -> Option<Self> {
        match *action {
            Action::Read(None) => self.value.is_none().then_some(self),
            Action::Read(Some(seen)) => {
                let same = self.value.is_some_and(|value| value.write == seen.write) && self.fix(known, seen.version);
                same.then_some(self)
            }
            Action::Put { write, condition, outcome, version, .. } => {
                self.put(known, write, condition, outcome, version)
            }
            Action::Delete { condition, outcome } => self.delete(known, condition, outcome),
            Action::Expire(write) => self.value.is_some_and(|value| value.write == write).then(|| self.without_value()),
        }
    }

    /// Whether the action needs a version that was there and is gone for ever.
    fn is_past(self, action: &Action) -> bool {
        let needed = match *action {
            Action::Read(seen) => seen.map(|seen| seen.version),
            Action::Put { outcome: Some(Outcome::ConditionFailed { current }), .. }
            | Action::Delete { outcome: Some(Outcome::ConditionFailed { current }), .. } => current,
            Action::Put { version: Some(_), condition: Condition::Version(version), .. }
            | Action::Delete { outcome: Some(Outcome::Deleted), condition: Condition::Version(version) } => {
                Some(version)
            }
            _ => None,
        };
        let is_there = |version| self.value.is_some_and(|value| value.version == version);
        needed.is_some_and(|version| version <= self.highest && !is_there(version))
    }

    fn put(
        self,
        known: &[u64],
        write: WriteId,
        condition: Condition,
        outcome: Option<Outcome>,
        version: Option<u64>,
    ) -> Option<Self> {
        let created = match outcome {
            None => self.value.is_none(),
            Some(Outcome::Written { created, .. }) => created,
            Some(outcome) => return self.failed(known, condition, outcome),
        };
        let held = self.holding(known, condition)?;
        if created != held.value.is_none() || version.is_some_and(|version| version <= held.highest) {
            return None;
        }
        let highest = version.unwrap_or(held.highest);
        Some(Self { value: Some(Seen { write, version: version.unwrap_or(0) }), highest })
    }

    fn delete(self, known: &[u64], condition: Condition, outcome: Option<Outcome>) -> Option<Self> {
        match outcome {
            // One that found nothing to delete explains nothing: it need not have happened at all.
            None | Some(Outcome::Deleted) => {
                let held = self.holding(known, condition)?;
                held.value.map(|_| held.without_value())
            }
            Some(Outcome::NotFound) => self.holding(known, condition).filter(|held| held.value.is_none()),
            Some(outcome) => self.failed(known, condition, outcome),
        }
    }

    /// A write whose condition did not hold.
    fn failed(mut self, known: &[u64], condition: Condition, outcome: Outcome) -> Option<Self> {
        let Outcome::ConditionFailed { current } = outcome else { return None };
        let explained = match (condition, current) {
            (Condition::Exists | Condition::Version(_), None) => self.value.is_none(),
            (Condition::Absent, Some(version)) => self.fix(known, version),
            (Condition::Version(wanted), Some(version)) => wanted != version && self.fix(known, version),
            (Condition::Always, _) | (Condition::Exists, Some(_)) | (Condition::Absent, None) => false,
        };
        explained.then_some(self)
    }

    /// The register, if the condition holds for it.
    fn holding(mut self, known: &[u64], condition: Condition) -> Option<Self> {
        let holds = match condition {
            Condition::Always => true,
            Condition::Exists => self.value.is_some(),
            Condition::Absent => self.value.is_none(),
            Condition::Version(version) => self.fix(known, version),
        };
        holds.then_some(self)
    }

    /// Whether the value's version is this one. A version that nobody had seen with its value becomes known by that, unless
    /// it is `known` to be another value's.
    fn fix(&mut self, known: &[u64], version: u64) -> bool {
        let highest = self.highest;
        match &mut self.value {
            Some(value) if value.version == 0 && version > highest && known.binary_search(&version).is_err() => {
                value.version = version;
                self.highest = version;
                true
            }
            value => value.is_some_and(|value| value.version == version),
        }
    }

    fn without_value(self) -> Self {
        Self { value: None, ..self }
    }
}

/// The version of each write of a key that anybody has seen.
pub type Versions = BTreeMap<WriteId, u64>;

#[cfg(test)]
mod tests {
    use super::*;

    fn put(write: WriteId, invoked: u64, returned: Option<u64>, version: u64) -> Call {
        let outcome = returned.map(|_| Outcome::Written { version, created: version == 1 });
        let version = (version > 0).then_some(version);
        Call {
            invoked,
            returned,
            action: Action::Put { write, condition: Condition::Always, outcome, version, expires: false },
        }
    }

    fn read(invoked: u64, returned: u64, seen: Option<(WriteId, u64)>) -> Call {
        let seen = seen.map(|(write, version)| Seen { write, version });
        Call { invoked, returned: Some(returned), action: Action::Read(seen) }
    }

    #[test]
    fn overlapping_operations_may_take_effect_in_any_order() {
        let calls =
            vec![put(1, 0, Some(10), 1), read(1, 5, None), read(2, 9, Some((1, 1))), read(11, 12, Some((1, 1)))];
        assert_eq!(check(calls), Ok(()));
    }

    #[test]
    fn a_read_that_begins_after_a_write_was_answered_sees_it() {
        let calls = vec![put(1, 0, Some(10), 1), read(11, 12, None)];
        assert!(matches!(check(calls), Err(Error::NotLinearizable { explained: 1, .. })));
    }

    #[test]
    fn two_reads_never_see_a_write_come_and_go() {
        let calls =
            vec![put(1, 0, Some(1), 1), put(2, 2, Some(20), 2), read(3, 5, Some((2, 2))), read(6, 8, Some((1, 1)))];
        assert!(check(calls).is_err());
    }

    #[test]
    fn a_write_without_an_answer_may_take_effect_late_or_never() {
        let never = vec![put(1, 0, Some(1), 1), put(2, 2, None, 0), read(5, 6, Some((1, 1)))];
        assert_eq!(check(never), Ok(()));
        let late =
            vec![put(1, 0, Some(1), 1), put(2, 2, None, 3), read(5, 6, Some((1, 1))), read(50, 60, Some((2, 3)))];
        assert_eq!(check(late), Ok(()));
        let twice = vec![put(1, 0, None, 1), read(1, 2, Some((1, 1))), put(2, 3, Some(4), 2), read(5, 6, Some((1, 1)))];
        assert!(check(twice).is_err());
    }

    #[test]
    fn a_condition_that_failed_must_have_had_a_reason() {
        let failed = |condition, current| Call {
            invoked: 5,
            returned: Some(6),
            action: Action::Put {
                write: 9,
                condition,
                outcome: Some(Outcome::ConditionFailed { current }),
                version: None,
                expires: false,
            },
        };
        assert_eq!(check(vec![put(1, 0, Some(1), 1), failed(Condition::Absent, Some(1))]), Ok(()));
        assert_eq!(check(vec![put(1, 0, Some(1), 1), failed(Condition::Version(7), Some(1))]), Ok(()));
        assert!(check(vec![put(1, 0, Some(1), 1), failed(Condition::Version(1), Some(1))]).is_err());
        assert!(check(vec![put(1, 0, Some(1), 1), failed(Condition::Exists, None)]).is_err());
    }
}
