//! When a replica stands for election, when it votes, and when it hands leadership on.

use std::collections::BTreeSet;
use std::time::Duration;

use raft::eraftpb::{Message, MessageType};
use raft::{CAMPAIGN_TRANSFER, StateRole};
use sha2::{Digest, Sha256};

use super::{Error, FIRST_CANDIDACY_TICK, HEARTBEAT_TICKS, LAST_RANK, Life, RANK_TICKS, Replica, Settings};
use crate::bugs::{Bug, planted};
use crate::id::MemberId;
use crate::ring::first_eight;
use crate::time::Instant;

/// A leader that is not the preferred one hands over when it has led for this long without a change.
const SETTLED_AFTER: Duration = Duration::from_secs(3);

/// How long a leader waits for the one that it has asked to take over.
const HANDING_OVER: Duration = Duration::from_millis(150);

/// How many entries the preferred leader may lack when leadership is handed to it.
const HAND_OVER_LAG: u64 = 256;

/// How long the preferred leader of a new group stands for election without waiting for its timeout.
const EAGER_FOR: Duration = Duration::from_secs(1);

/// What a replica remembers of elections beside what Raft does.
#[derive(Debug)]
pub struct Election {
    /// No vote is given before this: the promise that a leader's lease stands on.
    no_vote_until: Instant,
    /// The latest heartbeat of the current leader that was accepted: the term, and when it was sent, on its clock.
    accepted: (u64, u64),
    /// Term and role as last seen; a change draws a new timeout.
    seen: (u64, StateRole),
    draws: u64,
    timeout_ticks: usize,
    /// Who should lead, if the map says so.
    preferred: Option<MemberId>,
    /// This replica's place in the order of preference; 0 is the preferred leader.
    rank: usize,
    /// Until when this replica stands for election without waiting for its timeout.
    eager_until: Option<Instant>,
    /// The last term in which this replica led and brought its heartbeats into line.
    aligned_in: u64,
    /// Since when this replica leads, or when it last tried to hand over.
    settled_since: Instant,
    /// The leader of this term has asked this replica to take over, and it could not at that moment.
    asked_to_lead: Option<(u64, MemberId)>,
    /// Since when this leader has been handing over.
    handing_over_since: Option<Instant>,
    /// Whether this member hands its leaders over and takes none, because it is about to stop.
    evicted: bool,
    /// Followers that have said the same of themselves.
    reluctant: BTreeSet<MemberId>,
}

impl Election {
    /// A replica that has just started may have promised something before; one that is new has not.
    pub fn new(settings: &Settings, life: Life, now: Instant) -> Self {
        let silent = match life {
            Life::Recovered if !planted(Bug::VoteRightAfterRestart) => settings.election_timeout,
            _ => Duration::ZERO,
        };
        Self {
            no_vote_until: now + silent,
            accepted: (0, 0),
            seen: (0, StateRole::Follower),
            draws: 0,
            timeout_ticks: FIRST_CANDIDACY_TICK,
            preferred: None,
            rank: LAST_RANK,
            eager_until: None,
            aligned_in: 0,
            settled_since: now,
            asked_to_lead: None,
            handing_over_since: None,
            evicted: false,
            reluctant: BTreeSet::new(),
        }
    }
}

impl Replica {
    /// Who should lead the group and in which order the others follow, by the map.
    pub fn set_preference(&mut self, replicas: &[MemberId], leader: MemberId) {
        let is_news = self.election.preferred.is_some_and(|preferred| preferred != leader);
        self.election.preferred = Some(leader);
        if is_news {
            // Somebody wants it so: not a moment to wait for calm.
            self.election.settled_since = Instant(0);
        }
        let others = replicas.iter().filter(|id| **id != leader);
        let order = std::iter::once(&leader).chain(others);
        let rank = order.into_iter().position(|id| *id == self.settings.member).unwrap_or(LAST_RANK);
        if std::mem::replace(&mut self.election.rank, rank) == rank {
            return;
        }
        // As after a change of role or term: the timeout that was drawn is of another range.
        self.election.seen.0 = u64::MAX;
        self.reseed();
    }

    /// Stands for election at each heartbeat's tick until somebody leads or the time is over: for the preferred leader of a
    /// group that has just been made, whose other replicas may take a moment longer to be there.
    pub(super) fn campaign_eagerly(&mut self, now: Instant, number: u64) {
        let Some(until) = self.election.eager_until else { return };
        if now >= until || self.leader().is_some() {
            self.election.eager_until = None;
        } else if number.is_multiple_of(HEARTBEAT_TICKS as u64) && self.may_stand(now) {
            self.campaign();
        }
    }

    /// Makes the replica stand for election again and again for a while.
    pub fn be_eager(&mut self, now: Instant) {
        self.election.eager_until = Some(now + EAGER_FOR);
    }

    /// Stands for election now: for the preferred leader of a group that has just been made.
    pub fn campaign(&mut self) {
        // The only error is that of a replica which has a leader's role already.
        let _ = self.node.campaign();
        self.reseed();
    }

    /// Raft draws a new election timeout from the thread's randomness at each change of role or term. Here it is drawn
    /// from the seed instead, as a function of who this is and how many changes there were, so that a run can be repeated.
    pub(super) fn reseed(&mut self) {
        let raft = &mut self.node.raft;
        let seen = (raft.term, raft.state);
        if seen != self.election.seen {
            self.election.seen = seen;
            self.election.draws += 1;
            let mut hash = Sha256::new();
            for number in [self.settings.seed, self.settings.member.get(), u64::from(self.group.0), self.election.draws]
            {
                hash.update(number.to_be_bytes());
            }
            // In the order that the map prefers, each with a range of its own: so that leadership is where the map wants it,
            // and two that miss their leader at once do not split the votes.
            let first = FIRST_CANDIDACY_TICK + RANK_TICKS * self.election.rank.min(LAST_RANK);
            let last = first + RANK_TICKS - 1;
            let span = (last - first + 1) as u64;
            self.election.timeout_ticks =
                first + usize::try_from(first_eight(&hash.finalize()) % span).expect("a small number");
        }
        raft.set_randomized_election_timeout(self.election.timeout_ticks);
    }

    /// Whether Raft may count another tick. A tick that would make this replica stand for election is held back while
    /// it has promised its vote: ticks that are made up for after a pause speak of the time before the heartbeat that
    /// the promise was given for. So it is while its own log is not durable, which Raft takes for granted then.
    pub(super) fn may_tick(&self, now: Instant) -> bool {
        let raft = &self.node.raft;
        let stands = raft.state != StateRole::Leader && raft.election_elapsed + 1 >= self.election.timeout_ticks;
        !stands || self.may_stand(now)
    }

    fn may_stand(&self, now: Instant) -> bool {
        now >= self.election.no_vote_until && self.is_ready_to_lead()
    }

    /// Whether this replica may lead at all: with a log that is not durable, or a configuration that is behind what it
    /// knows to be decided, it might win with the wrong votes. An evicted one does not want to.
    pub(super) fn is_ready_to_lead(&self) -> bool {
        self.is_durable() && self.applied().index >= self.committed() && !self.election.evicted
    }

    /// Takes over if the leader has asked for it and nothing stands in the way any more.
    pub(super) fn lead_if_asked(&mut self) {
        let Some((term, from)) = self.election.asked_to_lead else { return };
        let raft = &self.node.raft;
        if raft.term != term || raft.leader_id != from.get() {
            self.election.asked_to_lead = None;
        } else if self.is_ready_to_lead() {
            self.election.asked_to_lead = None;
            let _ = self.node.step(self.raft_message(MessageType::MsgTimeoutNow, from, term));
            self.reseed();
        }
    }

    /// A leader takes nothing while it hands over. When nobody has taken over for long, it goes on itself.
    pub(super) fn give_up_handing_over(&mut self, now: Instant) {
        if self.node.raft.lead_transferee.is_none() {
            self.election.handing_over_since = None;
        } else if now.since(*self.election.handing_over_since.get_or_insert(now)) >= HANDING_OVER {
            self.node.raft.abort_leader_transfer();
            self.election.handing_over_since = None;
        }
    }

    /// Hands leadership over and takes none, or not any more.
    pub fn evict(&mut self, evicted: bool) {
        self.election.evicted = evicted;
        self.hand_over_if_evicted();
    }

    /// A leader that was evicted hands over as soon as somebody is able to take over.
    pub(super) fn hand_over_if_evicted(&mut self) {
        if self.election.evicted
            && self.leads()
            && self.node.raft.lead_transferee.is_none()
            && let Some(heir) = self.heir()
        {
            self.transfer(heir);
        }
    }

    /// Whether this replica takes no leadership.
    pub(super) fn is_evicted(&self) -> bool {
        self.election.evicted
    }

    /// Who should lead, by the map.
    pub(super) fn preferred(&self) -> Option<MemberId> {
        self.election.preferred
    }

    /// Whether a member has said that it takes no leadership.
    pub(super) fn avoids(&self, member: MemberId) -> bool {
        self.election.reluctant.contains(&member)
    }

    /// Takes a Raft message, unless taking it would break a promise.
    pub(super) fn step_raft(
        &mut self,
        now: Instant,
        from: MemberId,
        mut message: Message,
        stamp: u64,
    ) -> Result<(), Error> {
        message.from = from.get();
        message.to = self.settings.member.get();
        if !self.admits(from, &message) {
            return Ok(());
        }
        if self.is_blank() && message.commit > self.last_index() && message.get_msg_type() == MessageType::MsgHeartbeat
        {
            // Meant for the replica that was here before, and late: this one has acknowledged nothing.
            return Ok(());
        }
        self.check_memory(&message)?;
        if message.get_msg_type() == MessageType::MsgTimeoutNow && !self.is_ready_to_lead() {
            // Its log is not durable at this moment, most likely: then it soon is.
            self.election.asked_to_lead = Some((message.term, from));
            return Ok(());
        }
        let (kind, term) = (message.get_msg_type(), message.term);
        // A follower that is not to lead says so in its answers to heartbeats (see `send`).
        let reluctant = message.priority < 0;
        let asks_for_vote = matches!(kind, MessageType::MsgRequestVote | MessageType::MsgRequestPreVote);
        let has_promised = now < self.election.no_vote_until && message.context[..] != CAMPAIGN_TRANSFER[..];
        if asks_for_vote && (has_promised || !self.has_vote()) {
            return Ok(());
        }
        // Raft refuses what it cannot use (a peer that it does not know, a message to itself): nothing to be done.
        let _ = self.node.step(message);
        self.reseed();
        let raft = &self.node.raft;
        match kind {
            MessageType::MsgHeartbeat if raft.term == term && raft.leader_id == from.get() => {
                self.election.no_vote_until = now + self.settings.election_timeout;
                let earlier = if self.election.accepted.0 == term { self.election.accepted.1 } else { 0 };
                self.election.accepted = (term, stamp.max(earlier));
            }
            MessageType::MsgHeartbeatResponse if raft.term == term && raft.state == StateRole::Leader && stamp > 0 => {
                self.lease.promise(from, Instant(stamp), now);
                if reluctant {
                    self.election.reluctant.insert(from);
                } else {
                    self.election.reluctant.remove(&from);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The stamp that goes out with a message: see [`crate::codec::message::Body::Raft`].
    pub(super) fn stamp_for(&self, now: Instant, message: &Message) -> u64 {
        match message.get_msg_type() {
            MessageType::MsgHeartbeat => now.0,
            MessageType::MsgHeartbeatResponse if message.term == self.election.accepted.0 => self.election.accepted.1,
            _ => 0,
        }
    }

    /// Whether this leader may answer reads alone.
    pub(super) fn lease_holds(&self, now: Instant) -> bool {
        let state = self.conf_state();
        let timeout = self.settings.election_timeout;
        let holds = |voters: &[u64]| self.lease.holds(now, self.settings.member, voters, timeout);
        if planted(Bug::LearnerCountedAsVoter) && !state.learners.is_empty() {
            // A majority of the voters' number, learners among them.
            return self.leads() && self.lease.holds_with(now, &state.voters, &state.learners, timeout);
        }
        // While the configuration is joint, a new leader needs a majority of both.
        self.leads() && holds(&state.voters) && (state.voters_outgoing.is_empty() || holds(&state.voters_outgoing))
    }

    /// The term or the role has changed: nothing of the old leadership carries over.
    pub(super) fn leadership_changed(&mut self, now: Instant) {
        self.lease.reset();
        self.sending.clear();
        self.expiring = 0;
        self.configuring = 0;
        self.handed_over_at = None;
        self.election.reluctant.clear();
        self.election.settled_since = now;
        self.clock = (now, self.machine.clock_ms());
    }

    /// All leaders of a lane send their heartbeats in the same tick, so that they share a frame: a new leader's first
    /// interval is a tick shorter if it must be. `number` is that of the tick in the lane's count.
    pub(super) fn align_heartbeats(&mut self, number: u64) {
        if !self.leads() || self.election.aligned_in == self.term() {
            return;
        }
        self.election.aligned_in = self.term();
        // A leader's interval began when it was elected, and ends after two ticks: in this one if it gets another.
        if number.is_multiple_of(HEARTBEAT_TICKS as u64) {
            self.node.tick();
        }
    }

    /// A leader that the map does not prefer hands over, once it has settled and the preferred one has nearly everything.
    pub(super) fn rebalance(&mut self, now: Instant) {
        self.give_up_handing_over(now);
        self.hand_over_if_evicted();
        let Some(preferred) = self.election.preferred.filter(|preferred| !self.avoids(*preferred)) else { return };
        if !self.leads() || preferred == self.settings.member || now.since(self.election.settled_since) < SETTLED_AFTER
        {
            return;
        }
        // Under load it never has everything; what little it lacks Raft sends before it hands over.
        let last = self.last_index();
        let progress = self.node.raft.prs().get(preferred.get());
        let caught_up = progress.is_some_and(|peer| peer.recent_active && peer.matched + HAND_OVER_LAG >= last);
        if caught_up {
            self.election.settled_since = now;
            self.transfer(preferred);
        }
    }

    /// Asks another replica to take over. The lease is given up first: voters do not keep their promise against a transfer.
    pub fn transfer(&mut self, to: MemberId) {
        self.lease.forfeit();
        self.node.transfer_leader(to.get());
        self.reseed();
    }
}
