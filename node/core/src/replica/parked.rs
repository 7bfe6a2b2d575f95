//! Requests that an open transaction is in the way of: they wait here until it is over, and are then taken as if they had
//! just come. Nobody polls, and nobody holds anything while he waits here.

use std::collections::VecDeque;

use super::claims::Claims;
use crate::id::RequestId;
use crate::lane::{Operation, Request};
use crate::partition::txn::{Command, Outcome};
use crate::partition::{Partition, txn};
use crate::time::Instant;

/// What an open transaction, or one that is about to be, means for a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Way {
    /// Nothing: it is free.
    Free,
    /// It waits until the transaction is over.
    Blocked,
    /// It must not wait, and is told this.
    Yields(Outcome),
}

/// Whether an open transaction is in the way.
pub fn way_of(partition: &Partition, claims: &Claims, operation: &Operation) -> Way {
    let wait = |blocker: Option<txn::Pointer>| if blocker.is_some() { Way::Blocked } else { Way::Free };
    match operation {
        Operation::Write(write) if claims.has(&write.key) => Way::Blocked,
        Operation::Write(write) => wait(partition.holds_key(&write.key)),
        Operation::Get { key, .. } => wait(partition.hides(key)),
        // Whoever reads several keys is about to change them: what is going to be old in a moment is of no use to him.
        Operation::GetMany { keys, .. } if keys.iter().any(|key| claims.has_exclusively(key)) => Way::Blocked,
        Operation::GetMany { keys, .. } => wait(keys.iter().find_map(|key| partition.hides(key))),
        Operation::Scan { scan, .. } => wait(partition.hides_any(&scan.prefix)),
        Operation::Txn(Command::Alone(alone)) => {
            wait(partition.blocks_part(&alone.part, 0).or_else(|| claims.in_way_of(&alone.part, 0)).map(|(by, _)| by))
        }
        Operation::Txn(Command::Prepare(prepare)) => {
            let is_mine = |by: &txn::Pointer| by.id.name == prepare.id.name;
            let held = partition.blocks_part(&prepare.part, prepare.priority);
            match held.or_else(|| claims.in_way_of(&prepare.part, prepare.priority)) {
                Some((by, waits)) if (waits || prepare.is_patient) && !is_mine(&by) => Way::Blocked,
                Some((by, _)) if !is_mine(&by) => Way::Yields(Outcome::Blocked { by, waits: false }),
                // By itself: it was asked before, or this attempt takes the place of an earlier one.
                _ => Way::Free,
            }
        }
        _ => Way::Free,
    }
}

/// The requests that wait, in the order in which they came.
#[derive(Debug, Default)]
pub struct Parked {
    queue: VecDeque<Request>,
    /// Whether something was released since they were last looked at.
    is_due: bool,
}

impl Parked {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// One more.
    pub fn push(&mut self, request: Request) {
        self.queue.push_back(request);
    }

    /// Something is not held any more.
    pub fn released(&mut self) {
        self.is_due = !self.queue.is_empty();
    }

    /// Those that are to be tried again: all of them, if something was released.
    pub fn due(&mut self) -> VecDeque<Request> {
        if std::mem::take(&mut self.is_due) { std::mem::take(&mut self.queue) } else { VecDeque::new() }
    }

    /// Takes out all.
    pub fn drain(&mut self) -> VecDeque<Request> {
        self.is_due = false;
        std::mem::take(&mut self.queue)
    }

    /// Takes out those whose deadline has passed.
    pub fn expired(&mut self, now: Instant) -> Vec<RequestId> {
        let mut expired = Vec::new();
        self.queue.retain(|request| {
            let is_late = request.deadline <= now;
            if is_late {
                expired.push(request.id);
            }
            !is_late
        });
        expired
    }
}
