//! What anybody does who finds an abandoned attempt: finds out what must become of it, and brings that about.

use std::collections::BTreeMap;

use super::settlement::{Settlement, Step};
use super::{Asked, Machine, Turn};
use crate::bugs::{Bug, planted};
use crate::id::PartitionId;
use crate::lane::{Operation, Reply};
use crate::partition::txn::{Command, Decision, Finished, Outcome, Pointer, Prepared};

/// Finds out what must become of an abandoned attempt, and brings it about.
///
/// ```text
/// Probe the anchor ─┬─ prepared ─▶ probe the others ─┬─ all prepared, or one is told ─▶ Decide: commit ─┐
///                   │                                └─ one refuses ──────────────────▶ Decide: abort ──┼─▶ Resolve ─▶ Close
///                   └─ decided, or it refuses it from now on ───────────────────────────────────────────┘
/// ```
///
/// Its answer is what was decided, or `None` when a partition could not be asked.
#[derive(Debug)]
pub struct Recovery {
    pointer: Pointer,
    /// The partition where it was found.
    found_in: PartitionId,
    asked: Asked,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    AskingAnchor,
    AskingOthers { participants: Vec<PartitionId>, prepared: BTreeMap<PartitionId, Prepared> },
    Settling(Settlement),
    Over,
}

impl Recovery {
    /// Of this attempt, which was found in this partition.
    pub fn new(pointer: Pointer, found_in: PartitionId) -> Self {
        Self { pointer, found_in, asked: Asked::default(), stage: Stage::AskingAnchor }
    }

    /// The same, as a part of something that has asked before: none of its late answers is taken for one of these.
    pub(super) fn within(pointer: Pointer, found_in: PartitionId, asked: Asked) -> Self {
        Self { asked, ..Self::new(pointer, found_in) }
    }

    /// Gives back what it was given, at its end.
    pub(super) fn take_asked(&mut self) -> Asked {
        std::mem::take(&mut self.asked)
    }

    fn probe(&mut self, partition: PartitionId, turn: &mut Turn<Option<Decision>>) {
        let operation = Operation::Txn(Command::Probe(self.pointer.id.clone()));
        turn.asks.push(self.asked.ask(partition, operation));
    }

    fn give_up(&mut self) -> Turn<Option<Decision>> {
        self.stage = Stage::Over;
        self.asked.forget();
        Turn { answer: Some(None), is_over: true, ..Turn::default() }
    }

    fn anchor_answered(&mut self, reply: Reply) -> Turn<Option<Decision>> {
        match reply {
            Reply::Txn(Outcome::Prepared(prepared)) if planted(Bug::RecoveryAbortsCommitted) => {
                self.decide(prepared.participants, Decision::Abort)
            }
            Reply::Txn(Outcome::Prepared(prepared)) => {
                let participants = prepared.participants.clone();
                let mut turn = Turn::default();
                let anchor = self.pointer.anchor;
                for other in participants.iter().filter(|other| **other != anchor) {
                    self.probe(*other, &mut turn);
                }
                let prepared = BTreeMap::from([(anchor, prepared)]);
                self.stage = Stage::AskingOthers { participants, prepared };
                turn
            }
            Reply::Txn(Outcome::Finished(Finished { decision, mut participants, .. })) => {
                let (id, anchor) = (self.pointer.id.clone(), self.pointer.anchor);
                // The anchor knows who takes part for as long as it is not sure that all of them know.
                if !participants.contains(&self.found_in) {
                    participants.push(self.found_in);
                }
                let (settlement, step) = Settlement::follow(id, anchor, participants, decision, &mut self.asked);
                self.stage = Stage::Settling(settlement);
                self.step(step)
            }
            _ => self.give_up(),
        }
    }

    fn other_answered(&mut self, from: PartitionId, reply: Reply) -> Turn<Option<Decision>> {
        let Stage::AskingOthers { participants, prepared } = &mut self.stage else { return Turn::default() };
        match reply {
            Reply::Txn(Outcome::Prepared(here)) => {
                prepared.insert(from, here);
                if prepared.len() < participants.len() {
                    return Turn::default();
                }
                let holds = prepared.values().all(|prepared| prepared.holds);
                let decision = if holds { Decision::Then } else { Decision::Otherwise };
                let participants = participants.clone();
                self.decide(participants, decision)
            }
            // It refuses the attempt; or it has been told already what becomes of it, because all have prepared.
            Reply::Txn(Outcome::Finished(Finished { decision, .. })) => {
                let participants = participants.clone();
                self.decide(participants, decision)
            }
            _ => self.give_up(),
        }
    }

    fn decide(&mut self, participants: Vec<PartitionId>, decision: Decision) -> Turn<Option<Decision>> {
        self.asked.forget();
        let (id, anchor) = (self.pointer.id.clone(), self.pointer.anchor);
        let (settlement, step) = Settlement::decide(id, anchor, participants, decision, None, &mut self.asked);
        self.stage = Stage::Settling(settlement);
        self.step(step)
    }

    fn step(&mut self, step: Step) -> Turn<Option<Decision>> {
        let answer = match (step.decided, step.unknown) {
            (Some(decision), _) => Some(Some(decision)),
            (None, true) => Some(None),
            (None, false) => None,
        };
        Turn { asks: step.asks, answer, is_over: step.is_over, ..Turn::default() }
    }
}

impl Machine for Recovery {
    type Answer = Option<Decision>;

    fn begin(&mut self) -> Turn<Self::Answer> {
        let mut turn = Turn::default();
        self.probe(self.pointer.anchor, &mut turn);
        turn
    }

    fn hear(&mut self, number: u32, reply: Reply) -> Turn<Self::Answer> {
        let Some(from) = self.asked.answered(number) else { return Turn::default() };
        match &mut self.stage {
            Stage::AskingAnchor => self.anchor_answered(reply),
            Stage::AskingOthers { .. } => self.other_answered(from, reply),
            Stage::Settling(settlement) => {
                let step = settlement.hear(&reply, &mut self.asked);
                self.step(step)
            }
            Stage::Over => Turn::default(),
        }
    }

    fn wake(&mut self) -> Turn<Self::Answer> {
        Turn::default()
    }
}
