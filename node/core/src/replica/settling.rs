//! Steps that end transactions, at a leader: hardly anybody waits for them, so they wait for company. They become one entry of their
//! own. It is proposed when the next command is, when a request meets an open transaction, or at the next tick (a tenth of the
//! election timeout).
//!
//! An abort that the anchor is to decide does not wait: its coordinator makes the next attempt only then. Those who recover an abandoned
//! attempt do wait, for a tick at most.

use crate::id::RequestId;
use crate::lane::Reply;
use crate::partition::txn::{Decision, Id, Outcome, Settle};
use crate::time::Instant;

/// So many steps do not wait for more.
const MOST_STEPS: usize = 256;

/// Steps that one request has asked for.
#[derive(Debug)]
pub struct Waiting {
    /// The request.
    pub request: RequestId,
    /// When waiting ends.
    pub deadline: Instant,
    /// The steps.
    pub steps: Vec<Settle>,
}

/// Those that wait, in the order in which they came.
#[derive(Debug, Default)]
pub struct Settling {
    queue: Vec<Waiting>,
    steps: usize,
    is_due: bool,
}

/// Whether these steps may wait.
pub fn may_wait(steps: &[Settle]) -> bool {
    let is_urgent = |step: &Settle| matches!(step, Settle::Decide { decision: Decision::Abort, .. });
    !steps.iter().any(is_urgent)
}

impl Settling {
    /// How many requests wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// One more.
    pub fn push(&mut self, waiting: Waiting) {
        self.steps += waiting.steps.len();
        self.is_due |= self.steps >= MOST_STEPS;
        self.queue.push(waiting);
    }

    /// Whether one of the steps says that this attempt is committed, and does what it does if all conditions hold. Then it is so:
    /// whoever says so has it from all its partitions.
    pub fn commits(&self, id: &Id) -> bool {
        let says_so = |step: &Settle| match step {
            Settle::Decide { id: decided, decision, .. } | Settle::Resolve { id: decided, decision } => {
                decided == id && *decision == Decision::Then
            }
            Settle::Close { .. } => false,
        };
        self.queue.iter().flat_map(|waiting| &waiting.steps).any(says_so)
    }

    /// They need not wait any longer.
    pub fn hurry(&mut self) {
        self.is_due |= !self.queue.is_empty();
    }

    /// Whether they wait no longer.
    pub fn is_due(&self) -> bool {
        self.is_due
    }

    /// Those that are to be proposed together, if they wait no longer.
    pub fn due(&mut self) -> Vec<Waiting> {
        if !self.is_due {
            return Vec::new();
        }
        let mut steps = 0;
        let fits = |waiting: &&Waiting| {
            steps += waiting.steps.len();
            steps == waiting.steps.len() || steps <= MOST_STEPS
        };
        let count = self.queue.iter().take_while(fits).count();
        let due: Vec<Waiting> = self.queue.drain(..count).collect();
        self.steps -= due.iter().map(|waiting| waiting.steps.len()).sum::<usize>();
        self.is_due = !self.queue.is_empty();
        due
    }

    /// Takes out all.
    pub fn drain(&mut self) -> Vec<RequestId> {
        (self.steps, self.is_due) = (0, false);
        self.queue.drain(..).map(|waiting| waiting.request).collect()
    }

    /// Takes out those whose deadline has passed.
    pub fn expired(&mut self, now: Instant) -> Vec<RequestId> {
        let late: Vec<Waiting> = self.queue.extract_if(.., |waiting| waiting.deadline <= now).collect();
        self.steps -= late.iter().map(|waiting| waiting.steps.len()).sum::<usize>();
        self.is_due &= !self.queue.is_empty();
        late.into_iter().map(|waiting| waiting.request).collect()
    }
}

/// What one request is told of an entry that has taken its steps among others': those from `first` on, `count` of them.
pub fn share(reply: Reply, first: usize, count: usize) -> Reply {
    match reply {
        Reply::Txn(Outcome::Settled(settled)) => {
            Reply::Txn(Outcome::Settled(settled.into_iter().skip(first).take(count).collect()))
        }
        reply => reply,
    }
}
