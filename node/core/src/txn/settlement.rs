//! The end of an attempt. Whoever has seen it prepared everywhere tells all partitions at once, and they close it when all
//! have heard. Anybody else has the anchor decide first; then the others follow, and the anchor closes it.

use bytes::Bytes;

use super::{Ask, Asked};
use crate::id::PartitionId;
use crate::lane::{Operation, Reply};
use crate::partition::txn::{Command, Decision, Id, Outcome, Settle, Settled};

/// Where it stands.
#[derive(Debug, PartialEq, Eq)]
enum Phase {
    Telling,
    Deciding,
    Resolving,
    Closing,
    Over,
}

/// The end of an attempt.
#[derive(Debug)]
pub(super) struct Settlement {
    id: Id,
    anchor: PartitionId,
    others: Vec<PartitionId>,
    decision: Decision,
    results: Option<Bytes>,
    phase: Phase,
    /// Whether everybody has followed so far.
    complete: bool,
}

/// What came of a step.
#[derive(Debug, Default)]
pub(super) struct Step {
    pub(super) asks: Vec<Ask>,
    /// What the anchor has decided, when it has.
    pub(super) decided: Option<Decision>,
    /// With an abort: another attempt at the transaction, and what is decided of it.
    pub(super) other: Option<(Id, Option<Decision>)>,
    /// The anchor can't be reached: what is decided is not known.
    pub(super) unknown: bool,
    pub(super) is_over: bool,
}

impl Settlement {
    /// All partitions have prepared it, and are told so.
    pub(super) fn tell(
        id: Id,
        anchor: PartitionId,
        participants: Vec<PartitionId>,
        decision: Decision,
        results: Option<Bytes>,
        asked: &mut Asked,
    ) -> (Self, Step) {
        let mut step = Step { decided: Some(decision), ..Step::default() };
        for participant in &participants {
            let results = results.clone().filter(|_| *participant == anchor);
            step.asks.push(asked.ask(*participant, settle(Settle::Decide { id: id.clone(), decision, results })));
        }
        let others = participants.into_iter().filter(|partition| *partition != anchor).collect();
        let (phase, complete) = (Phase::Telling, true);
        (Self { id, anchor, others, decision, results: None, phase, complete }, step)
    }

    /// Has the anchor decide; `participants` are all partitions.
    pub(super) fn decide(
        id: Id,
        anchor: PartitionId,
        participants: impl IntoIterator<Item = PartitionId>,
        decision: Decision,
        results: Option<Bytes>,
        asked: &mut Asked,
    ) -> (Self, Step) {
        let others = participants.into_iter().filter(|partition| *partition != anchor).collect();
        let settlement = Self { id, anchor, others, decision, results, phase: Phase::Deciding, complete: true };
        let (id, results) = (settlement.id.clone(), settlement.results.clone());
        let ask = asked.ask(anchor, settle(Settle::Decide { id, decision, results }));
        (settlement, Step { asks: vec![ask], ..Step::default() })
    }

    /// The anchor has decided already: the others are to follow.
    pub(super) fn follow(
        id: Id,
        anchor: PartitionId,
        participants: impl IntoIterator<Item = PartitionId>,
        decision: Decision,
        asked: &mut Asked,
    ) -> (Self, Step) {
        let others = participants.into_iter().filter(|partition| *partition != anchor).collect();
        let mut settlement =
            Self { id, anchor, others, decision, results: None, phase: Phase::Resolving, complete: true };
        let mut step = Step { decided: Some(decision), ..Step::default() };
        settlement.resolve(asked, &mut step);
        (settlement, step)
    }

    /// A partition has answered.
    pub(super) fn hear(&mut self, reply: &Reply, asked: &mut Asked) -> Step {
        let mut step = Step::default();
        let settled = match reply {
            Reply::Txn(Outcome::Settled(settled)) => settled.first().cloned(),
            _ => None,
        };
        match self.phase {
            Phase::Telling => {
                // A partition that does not know it has closed it already.
                self.complete &= matches!(settled, Some(Settled::Decided(_) | Settled::Unknown));
                if asked.is_empty() {
                    let all = if self.complete { std::mem::take(&mut self.others) } else { Vec::new() };
                    for other in all {
                        step.asks.push(asked.ask(other, settle(Settle::Close { id: self.id.clone() })));
                    }
                    self.close(asked, &mut step);
                }
            }
            Phase::Deciding => match settled {
                Some(Settled::Decided(decision)) => {
                    self.decision = decision;
                    step.decided = Some(decision);
                    self.resolve(asked, &mut step);
                }
                Some(Settled::Other { id, decision }) => {
                    self.decision = Decision::Abort;
                    step.decided = Some(Decision::Abort);
                    step.other = Some((id, decision));
                    self.resolve(asked, &mut step);
                }
                _ => {
                    // Whoever finds it abandoned goes on from here.
                    self.phase = Phase::Over;
                    (step.unknown, step.is_over) = (true, true);
                }
            },
            Phase::Resolving => {
                self.complete &= settled == Some(Settled::Done);
                if asked.is_empty() {
                    self.close(asked, &mut step);
                }
            }
            Phase::Closing | Phase::Over => {
                self.phase = Phase::Over;
                step.is_over = asked.is_empty();
            }
        }
        step
    }

    fn resolve(&mut self, asked: &mut Asked, step: &mut Step) {
        self.phase = Phase::Resolving;
        for other in &self.others {
            let resolve = Settle::Resolve { id: self.id.clone(), decision: self.decision };
            step.asks.push(asked.ask(*other, settle(resolve)));
        }
        if self.others.is_empty() {
            self.close(asked, step);
        }
    }

    fn close(&mut self, asked: &mut Asked, step: &mut Step) {
        // What is aborted is closed at once.
        if self.complete && self.decision != Decision::Abort {
            self.phase = Phase::Closing;
            step.asks.push(asked.ask(self.anchor, settle(Settle::Close { id: self.id.clone() })));
        } else {
            // A commit stays open wherever it is known, and is found abandoned in a while.
            self.phase = Phase::Over;
            step.is_over = true;
        }
    }
}

fn settle(step: Settle) -> Operation {
    Operation::Txn(Command::Settle(vec![step]))
}
