//! The leader's lease, and the promise that it stands on.
//!
//! A follower that accepts a heartbeat promises not to vote for one election timeout from then on. The leader learns of
//! the promise from the answer, which carries the time at which the heartbeat was *sent*, on the leader's own clock. The
//! promise cannot end before that time plus one election timeout. When a quorum has promised, no other leader can arise
//! until the earliest of those promises ends; the lease ends at 0.8 of that, which leaves clocks room to run 20 % apart.
//!
//! Broken on purpose in one case: a leadership transfer skips the voters' promise. So a leader that asks another to
//! take over gives its lease up first, and never takes it again in that term: the request may still be on its way.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::bugs::{Bug, planted};
use crate::id::MemberId;
use crate::time::Instant;

/// A leader's lease on answering reads alone.
#[derive(Debug, Default)]
pub struct Lease {
    /// For each voter, when the latest heartbeat that it has accepted was sent.
    promised: BTreeMap<u64, Instant>,
    forfeited: bool,
}

impl Lease {
    /// A new term begins: no promise carries over.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// Ends the lease for the rest of the term.
    pub fn forfeit(&mut self) {
        self.forfeited = true;
    }

    /// A voter has accepted the heartbeat that was sent at `sent`.
    pub fn promise(&mut self, voter: MemberId, sent: Instant, now: Instant) {
        let sent = if planted(Bug::LeaseNotShortenedAfterPause) { now } else { sent.min(now) };
        let latest = self.promised.entry(voter.get()).or_default();
        *latest = sent.max(*latest);
    }

    /// Whether the lease holds at `now`. `voters` are the group's, or one half of them while its configuration is joint.
    pub fn holds(&self, now: Instant, leader: MemberId, voters: &[u64], election_timeout: Duration) -> bool {
        if self.forfeited {
            return false;
        }
        let others = voters.iter().filter(|voter| **voter != leader.get());
        let mut promised: Vec<Instant> = others.filter_map(|voter| self.promised.get(voter).copied()).collect();
        promised.sort_unstable_by(|a, b| b.cmp(a));
        // The leader is one of the majority itself, if it is a voter: in a joint configuration it may be one of the other half.
        let needed = (voters.len() / 2 + 1).saturating_sub(usize::from(voters.contains(&leader.get())));
        match needed.checked_sub(1) {
            None => true,
            Some(last) => promised.get(last).is_some_and(|sent| now < *sent + election_timeout.mul_f64(0.8)),
        }
    }

    /// What a known bug takes for a lease: as many promises as a majority of the voters needs, also of learners.
    pub fn holds_with(&self, now: Instant, voters: &[u64], learners: &[u64], election_timeout: Duration) -> bool {
        let is_fresh =
            |id: &&u64| self.promised.get(id).is_some_and(|sent| now < *sent + election_timeout.mul_f64(0.8));
        let fresh = voters.iter().chain(learners).filter(is_fresh).count();
        !self.forfeited && fresh + 1 > voters.len() / 2
    }

    /// Whether a voter has answered a heartbeat that was sent within this time.
    pub fn heard_within(&self, now: Instant, voter: MemberId, time: Duration) -> bool {
        self.promised.get(&voter.get()).is_some_and(|sent| now.since(*sent) < time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(500);

    fn member(number: u64) -> MemberId {
        MemberId::new(number).unwrap()
    }

    #[test]
    fn a_lease_ends_eight_tenths_of_an_election_timeout_after_a_quorums_heartbeats_were_sent() {
        let mut lease = Lease::default();
        let voters = [1, 2, 3];
        assert!(!lease.holds(Instant(0), member(1), &voters, TIMEOUT));
        lease.promise(member(2), Instant(1_000_000), Instant(1_300_000));
        assert!(lease.holds(Instant(1_399_999), member(1), &voters, TIMEOUT));
        assert!(!lease.holds(Instant(1_400_000), member(1), &voters, TIMEOUT));
    }

    #[test]
    fn with_five_voters_the_second_latest_promise_counts() {
        let mut lease = Lease::default();
        let voters = [1, 2, 3, 4, 5];
        lease.promise(member(2), Instant(1_000_000), Instant(1_000_000));
        assert!(!lease.holds(Instant(1_000_001), member(1), &voters, TIMEOUT));
        lease.promise(member(3), Instant(900_000), Instant(1_000_000));
        assert!(lease.holds(Instant(1_299_999), member(1), &voters, TIMEOUT));
        assert!(!lease.holds(Instant(1_300_000), member(1), &voters, TIMEOUT));
    }

    #[test]
    fn a_single_voter_always_holds_its_lease_until_it_forfeits_it() {
        let mut lease = Lease::default();
        assert!(lease.holds(Instant(7), member(1), &[1], TIMEOUT));
        lease.forfeit();
        assert!(!lease.holds(Instant(7), member(1), &[1], TIMEOUT));
    }

    /// In a joint configuration a leader asks for both halves; it may be in one of them only.
    #[test]
    fn a_leader_that_is_no_voter_of_a_half_needs_a_majority_of_it_without_itself() {
        let mut lease = Lease::default();
        let (old, new) = ([1, 2, 3], [2, 3, 4]);
        lease.promise(member(2), Instant(1_000_000), Instant(1_000_000));
        assert!(lease.holds(Instant(1_399_999), member(1), &old, TIMEOUT), "itself and one more");
        assert!(!lease.holds(Instant(1_000_001), member(1), &new, TIMEOUT), "one of three");
        lease.promise(member(4), Instant(900_000), Instant(1_000_000));
        assert!(lease.holds(Instant(1_299_999), member(1), &new, TIMEOUT), "two of three");
        assert!(!lease.holds(Instant(1_300_000), member(1), &new, TIMEOUT), "the later of the two is not enough");
        assert!(!lease.holds(Instant(1_000_001), member(1), &[5], TIMEOUT), "a sole voter that is another");
    }
}
