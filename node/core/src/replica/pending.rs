//! Requests that a replica has taken and not answered yet.

use std::collections::VecDeque;

use crate::id::RequestId;
use crate::lane::{LogPosition, Operation, Reply};
use crate::time::Instant;

/// Writes that were proposed, by rising index.
#[derive(Debug, Default)]
pub struct Proposals {
    queue: VecDeque<Proposal>,
}

#[derive(Debug)]
struct Proposal {
    position: LogPosition,
    request: RequestId,
    deadline: Instant,
}

/// What became of a proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Its entry is the one that was committed.
    Committed,
    /// Another entry was committed in its place: it will never happen.
    Superseded,
    /// Nobody can tell any more, or not in time.
    Unknown,
}

impl Proposals {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// A write was proposed. Returns older ones whose place in the log it takes: this leader's log lacks their entries,
    /// and a leader has every committed entry, so they will never happen.
    pub fn push(&mut self, position: LogPosition, request: RequestId, deadline: Instant) -> Vec<RequestId> {
        let mut superseded = Vec::new();
        while self.queue.back().is_some_and(|back| back.position.index >= position.index) {
            superseded.extend(self.queue.pop_back().map(|proposal| proposal.request));
        }
        self.queue.push_back(Proposal { position, request, deadline });
        superseded
    }

    /// The entry at this position is applied: what becomes of each proposal up to there.
    pub fn applied(&mut self, position: LogPosition, mut settle: impl FnMut(RequestId, Fate)) {
        while let Some(front) = self.queue.front().filter(|front| front.position.index <= position.index) {
            let fate = if front.position == position {
                Fate::Committed
            } else if front.position.index == position.index {
                Fate::Superseded
            } else {
                Fate::Unknown
            };
            settle(front.request, fate);
            self.queue.pop_front();
        }
    }

    /// Takes out those whose deadline has passed.
    pub fn expired(&mut self, now: Instant) -> Vec<RequestId> {
        let mut expired = Vec::new();
        self.queue.retain(|proposal| {
            let late = proposal.deadline <= now;
            if late {
                expired.push(proposal.request);
            }
            !late
        });
        expired
    }
}

/// Reads that wait until a quorum has confirmed the leader, and until the state has caught up with that.
#[derive(Debug, Default)]
pub struct Reads {
    /// Not asked for yet.
    waiting: Vec<Read>,
    /// Asked for under a number, in order.
    asked: VecDeque<(u64, Vec<Read>)>,
    /// Confirmed; may be answered from a state that holds this index.
    confirmed: VecDeque<(u64, Vec<Read>)>,
    numbers: u64,
}

/// One read.
#[derive(Debug)]
pub struct Read {
    /// Its name.
    pub request: RequestId,
    /// When waiting ends.
    pub deadline: Instant,
    /// What is read.
    pub operation: Operation,
}

impl Reads {
    /// How many wait.
    pub fn len(&self) -> usize {
        let count = |queue: &VecDeque<(u64, Vec<Read>)>| queue.iter().map(|(_, reads)| reads.len()).sum::<usize>();
        self.waiting.len() + count(&self.asked) + count(&self.confirmed)
    }

    /// Whether any was not asked for yet.
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Takes a read.
    pub fn push(&mut self, read: Read) {
        self.waiting.push(read);
    }

    /// All that wait are now asked for, under the number returned.
    pub fn ask(&mut self) -> u64 {
        self.numbers += 1;
        self.asked.push_back((self.numbers, std::mem::take(&mut self.waiting)));
        self.numbers
    }

    /// A quorum has confirmed the leader for this number, and so for all before it.
    pub fn confirm(&mut self, number: u64, index: u64) {
        while let Some((_, reads)) = self.asked.pop_front_if(|(asked, _)| *asked <= number) {
            self.confirmed.push_back((index, reads));
        }
    }

    /// Those that a state which holds `applied` can answer.
    pub fn answerable(&mut self, applied: u64) -> Vec<Read> {
        let mut answerable = Vec::new();
        while let Some((_, reads)) = self.confirmed.pop_front_if(|(index, _)| *index <= applied) {
            answerable.extend(reads);
        }
        answerable
    }

    /// Takes out all, for a replica that leads no more.
    pub fn drain(&mut self) -> Vec<Read> {
        let mut reads = std::mem::take(&mut self.waiting);
        let queues = self.asked.drain(..).chain(self.confirmed.drain(..));
        reads.extend(queues.flat_map(|(_, reads)| reads));
        reads
    }

    /// Takes out those whose deadline has passed.
    pub fn expired(&mut self, now: Instant) -> Vec<RequestId> {
        let mut expired = Vec::new();
        let mut sift = |reads: &mut Vec<Read>| {
            reads.retain(|read| {
                let late = read.deadline <= now;
                if late {
                    expired.push(read.request);
                }
                !late
            });
        };
        sift(&mut self.waiting);
        self.asked.iter_mut().chain(&mut self.confirmed).for_each(|(_, reads)| sift(reads));
        expired
    }
}

/// The reply for a proposal that met this fate without being committed.
pub fn reply_for(fate: Fate, not_leader: Reply) -> Reply {
    match fate {
        Fate::Superseded => not_leader,
        Fate::Committed | Fate::Unknown => Reply::OutcomeUnknown,
    }
}
