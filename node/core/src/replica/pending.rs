//! Requests that a replica has taken and not answered yet.

use std::collections::VecDeque;
use std::time::Duration;

use crate::id::RequestId;
use crate::lane::{LogPosition, Operation, Reply};
use crate::time::Instant;

/// Writes that were proposed, by rising index and term.
///
/// A replica that lost leadership and won it back may have proposed twice for the same index. That its new log lacks the
/// older entry does not mean that the entry will never happen: another replica may still hold it, win a later term and
/// commit it. Only an entry that is committed at that index settles the matter, so both wait.
#[derive(Debug, Default)]
pub struct Proposals {
    queue: VecDeque<Proposal>,
}

/// A write that was proposed.
#[derive(Debug)]
pub struct Proposal {
    /// Where its entry stands in the log.
    pub position: LogPosition,
    /// Its name.
    pub request: RequestId,
    /// When waiting for its entry ends.
    pub deadline: Instant,
    /// How much longer its client waits for a lock.
    pub lock_wait: Duration,
    /// When it was proposed.
    pub since: Instant,
    /// Which steps of the entry are its own, if it shares the entry with others: the first, and how many.
    pub share: Option<(usize, usize)>,
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

    /// A write was proposed at this position.
    pub fn push(&mut self, proposal: Proposal) {
        let order = |position: LogPosition| (position.index, position.term);
        let position = proposal.position;
        if self.queue.back().is_none_or(|back| order(back.position) <= order(position)) {
            self.queue.push_back(proposal);
        } else {
            let at = self.queue.partition_point(|known| order(known.position) <= order(position));
            self.queue.insert(at, proposal);
        }
    }

    /// The entry at this position is applied: what becomes of each proposal up to there.
    pub fn applied(&mut self, position: LogPosition, mut settle: impl FnMut(&Proposal, Fate)) {
        while let Some(front) = self.queue.front().filter(|front| front.position.index <= position.index) {
            let fate = if front.position == position {
                Fate::Committed
            } else if front.position.index == position.index {
                Fate::Superseded
            } else {
                Fate::Unknown
            };
            settle(front, fate);
            self.queue.pop_front();
        }
    }

    /// Takes out all, for a replica that ends.
    pub fn drain(&mut self) -> Vec<RequestId> {
        self.queue.drain(..).map(|proposal| proposal.request).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64, term: u64) -> LogPosition {
        LogPosition { index, term }
    }

    fn proposal(position: LogPosition, request: u64, deadline: Instant) -> Proposal {
        let lock_wait = Duration::ZERO;
        Proposal { position, request: RequestId(request), deadline, lock_wait, since: Instant(0), share: None }
    }

    fn settled(proposals: &mut Proposals, position: LogPosition) -> Vec<(u64, Fate)> {
        let mut settled = Vec::new();
        proposals.applied(position, |proposal, fate| settled.push((proposal.request.0, fate)));
        settled
    }

    /// Proposed at index 5 in term 2, lost the lead, won it back in term 4 with a shorter log.
    fn proposed_twice() -> Proposals {
        let mut proposals = Proposals::default();
        for (index, term, request) in [(4, 2, 1), (5, 2, 2), (6, 2, 3), (5, 4, 4)] {
            proposals.push(proposal(at(index, term), request, Instant(100)));
        }
        proposals
    }

    #[test]
    fn a_proposal_that_a_later_one_displaced_waits_for_what_is_committed_there() {
        let mut proposals = proposed_twice();
        assert_eq!(settled(&mut proposals, at(4, 3)), [(1, Fate::Superseded)]);
        assert_eq!(settled(&mut proposals, at(5, 4)), [(2, Fate::Superseded), (4, Fate::Committed)]);
        assert_eq!(settled(&mut proposals, at(6, 4)), [(3, Fate::Superseded)]);
        assert_eq!(proposals.len(), 0);
    }

    #[test]
    fn a_displaced_proposal_may_still_be_the_one_that_happens() {
        let mut proposals = proposed_twice();
        assert_eq!(settled(&mut proposals, at(4, 2)), [(1, Fate::Committed)]);
        assert_eq!(settled(&mut proposals, at(5, 2)), [(2, Fate::Committed), (4, Fate::Superseded)]);
    }

    #[test]
    fn nobody_can_tell_what_became_of_proposals_that_a_snapshot_passed_over() {
        let mut proposals = proposed_twice();
        assert_eq!(
            settled(&mut proposals, at(6, 2)),
            [(1, Fate::Unknown), (2, Fate::Unknown), (4, Fate::Unknown), (3, Fate::Committed)]
        );
    }

    #[test]
    fn a_proposal_expires_once_and_only_when_its_time_has_come() {
        let mut proposals = proposed_twice();
        proposals.push(proposal(at(9, 4), 9, Instant(101)));
        assert_eq!(proposals.expired(Instant(99)), []);
        assert_eq!(proposals.expired(Instant(100)).len(), 4);
        assert_eq!(proposals.expired(Instant(100)), []);
        assert_eq!(settled(&mut proposals, at(9, 4)), [(9, Fate::Committed)]);
    }
}
