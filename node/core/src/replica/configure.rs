//! How a group's configuration follows the map: one step at a time, decided by the group's leader, replicated as an entry.
//!
//! ```text
//!             add X, remove Y                      X has everything
//!  {1,2,Y} ──AddLearner X──▶ {1,2,Y}+X learns ──Swap──▶ joint {1,2,X}&{1,2,Y} ──LeaveJoint──▶ {1,2,X}
//!     ▲                            │ cancelled                                                  │
//!     └────────RemoveLearner X─────┘                 reported; the map records it, Y drops its replica
//! ```
//!
//! **The fence.** Every step carries the epoch of the map that its leader acted on (or that of the group, if that is higher:
//! a joint configuration is left, and a commit made known, by whatever map), and a group never takes a step of an
//! older epoch than it has taken one of. So when a group reports that its configuration is final under epoch `e`, no
//! leader that still acts on an older map can change it any more, and the map may record it: whoever it does not name may
//! drop its replica. When nothing is to be changed but the epoch is behind, a step that does nothing but fence is taken.
//!
//! **One at a time.** A step is proposed only by a leader that has applied an entry of its own term, so everything that any
//! earlier leader has proposed is applied or will never be, and only when its own last step is applied. A replica stands
//! for election only when it has applied everything that it knows to be committed. (Ongaro's thesis, 4.1 to 4.3.)
//!
//! **Known to a majority.** A configuration is in force where it is applied, and a member may lag. Were the one that goes
//! to drop its replica at once, a member that has not heard of the commit yet would still ask it for its vote, and with one
//! more lost for good the group would never have a leader again. So a leader reports only when an entry that it has
//! proposed after the change is committed: whoever has that one has been told that the change is.
//!
//! It never adds a voter that has not got everything, and never removes the leader: that one hands over first.

use std::collections::BTreeSet;
use std::time::Duration;

use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState};
use raft::{ProgressState, StateRole};

use super::{Error, Replica, Round};
use crate::bugs::{Bug, planted};
use crate::codec::{Reader, Result as CodecResult, Writer, frame::read_member};
use crate::id::MemberId;
use crate::map::{self, GroupReport, Map, Move, Wanted};
use crate::partition::{Command, Entry};
use crate::replica::machine::Machine;
use crate::time::Instant;

/// How many entries a learner may lack when it becomes a voter.
const CAUGHT_UP_LAG: u64 = 256;
/// A leader that has asked another to take over, before it is removed itself, asks again after this long.
const HAND_OVER_AGAIN_AFTER: Duration = Duration::from_millis(1500);

/// Who votes and who learns, and the epoch of the map that this was last decided under.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Configuration {
    /// Who votes and who learns.
    pub state: ConfState,
    /// The highest epoch of a map that a step was taken under.
    pub epoch: u64,
}

/// An entry that changes a group's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Configure {
    /// The epoch of the map that the leader acted on.
    pub epoch: u64,
    /// What changes.
    pub step: Step,
}

/// One step of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing changes but the epoch.
    Fence,
    /// A member begins to learn.
    AddLearner(MemberId),
    /// A member learns no more.
    RemoveLearner(MemberId),
    /// A learner becomes a voter, a voter goes, or both at once (then the configuration is joint).
    Swap {
        /// Who becomes a voter.
        add: Option<MemberId>,
        /// Who goes.
        remove: Option<MemberId>,
    },
    /// The joint configuration is left for the new one.
    LeaveJoint,
}

/// What the leader should do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Propose this step.
    Propose(Configure),
    /// Hand over to somebody else of those who stay.
    HandOver,
}

impl Configure {
    /// Writes the byte form.
    pub fn write(&self, writer: &mut Writer) {
        writer.u64(self.epoch);
        match self.step {
            Step::Fence => writer.u8(1),
            Step::AddLearner(id) => {
                writer.u8(2);
                writer.u64(id.get());
            }
            Step::RemoveLearner(id) => {
                writer.u8(3);
                writer.u64(id.get());
            }
            Step::Swap { add, remove } => {
                writer.u8(4);
                writer.option(add, |writer, id| writer.u64(id.get()));
                writer.option(remove, |writer, id| writer.u64(id.get()));
            }
            Step::LeaveJoint => writer.u8(5),
        }
    }

    /// Reads the byte form.
    pub fn read(reader: &mut Reader) -> CodecResult<Self> {
        let epoch = reader.u64()?;
        let step = match reader.u8()? {
            1 => Step::Fence,
            2 => Step::AddLearner(read_member(reader)?),
            3 => Step::RemoveLearner(read_member(reader)?),
            4 => Step::Swap { add: reader.option(read_member)?, remove: reader.option(read_member)? },
            5 => Step::LeaveJoint,
            id => return Err(reader.unknown(id)),
        };
        Ok(Self { epoch, step })
    }
}

impl Step {
    /// The step as Raft takes it; `None` when nothing changes for Raft.
    fn for_raft(self) -> Option<ConfChangeV2> {
        let single =
            |kind, id: MemberId| ConfChangeSingle { change_type: kind, node_id: id.get(), ..Default::default() };
        let mut change = ConfChangeV2::default();
        let changes = match self {
            Self::Fence => return None,
            Self::AddLearner(id) => vec![single(ConfChangeType::AddLearnerNode, id)],
            Self::RemoveLearner(id) => vec![single(ConfChangeType::RemoveNode, id)],
            Self::Swap { add, remove } => {
                let add = add.map(|id| single(ConfChangeType::AddNode, id));
                let remove = remove.map(|id| single(ConfChangeType::RemoveNode, id));
                if add.is_some() && remove.is_some() {
                    // Left by an entry of our own, never by itself.
                    change.set_transition(ConfChangeTransition::Explicit);
                }
                add.into_iter().chain(remove).collect()
            }
            Self::LeaveJoint => Vec::new(),
        };
        change.set_changes(changes.into());
        Some(change)
    }
}

/// What the leader `me` should do about the difference between a group's configuration and what the map wants. Pure.
///
/// `ready` tells whether a learner has got everything.
pub(super) fn next_step(
    configuration: &Configuration,
    wanted: &Wanted,
    me: MemberId,
    ready: impl Fn(MemberId) -> bool,
) -> Option<Next> {
    let ids = |ids: &[u64]| ids.iter().copied().filter_map(MemberId::new).collect::<BTreeSet<MemberId>>();
    let (voters, learners) = (ids(&configuration.state.voters), ids(&configuration.state.learners));
    let propose = |step| {
        let epoch = wanted.epoch.max(configuration.epoch);
        Some(Next::Propose(Configure { epoch, step }))
    };
    if !configuration.state.voters_outgoing.is_empty() {
        // What was decided is completed, whatever the map says by now.
        return if voters.contains(&me) { propose(Step::LeaveJoint) } else { Some(Next::HandOver) };
    }
    if wanted.epoch < configuration.epoch && !planted(Bug::StaleMapObeyed) {
        return None;
    }
    let stray = |but: Option<MemberId>| learners.iter().copied().find(|id| Some(*id) != but);
    let Some(moving) = wanted.moving else {
        return stray(None).and_then(|id| propose(Step::RemoveLearner(id)));
    };
    if voters == wanted.before && !moving.cancelled {
        if let Some(id) = stray(moving.add) {
            return propose(Step::RemoveLearner(id));
        }
        return match moving.add {
            Some(add) if !learners.contains(&add) => propose(Step::AddLearner(add)),
            Some(add) if !ready(add) => None,
            // The only voter can't hand over to a learner: it goes when the other is a voter, too.
            _ if moving.remove == Some(me) && voters.len() > 1 => Some(Next::HandOver),
            add => propose(Step::Swap { add, remove: moving.remove }),
        };
    }
    match stray(None) {
        Some(id) if !planted(Bug::CancelledMoveLeavesLearner) => propose(Step::RemoveLearner(id)),
        _ if configuration.epoch < moving.epoch => propose(Step::Fence),
        _ => None,
    }
}

impl Replica {
    /// The map now says how the group's configuration should stand.
    pub fn follow(&mut self, map: &Map) {
        self.wanted = map.wanted(self.group);
        if let Some((replicas, leader)) = map.group(self.group) {
            // Who is on the way out comes last: it would only have to hand over again.
            let (stay, go): (Vec<MemberId>, Vec<_>) =
                replicas.iter().copied().partition(|id| map.target(self.group).contains(id));
            self.set_preference(&[stay, go].concat(), leader);
        }
    }

    /// Who votes and who learns, as of what is applied.
    pub fn configuration(&self) -> &Configuration {
        self.node.store().configuration()
    }

    /// Takes the next step towards what the map wants, if this replica leads and may.
    pub(super) fn reconfigure(&mut self, now: Instant) {
        let Some(wanted) = &self.wanted else { return };
        let is_changing = wanted.moving.is_some()
            || !self.conf_state().voters_outgoing.is_empty()
            || !self.conf_state().learners.is_empty()
            || !self.is_established();
        if !is_changing || !self.leads() || !self.holds_own_term() || self.configuring > self.applied().index {
            return;
        }
        let next = next_step(self.configuration(), wanted, self.settings.member, |learner| self.has_caught_up(learner));
        let spreads = self.last_index() <= self.configured;
        let fence = || Next::Propose(Configure { epoch: self.configuration().epoch, step: Step::Fence });
        // Whoever is to take over must know that it votes: it would not stand for election, and be waited for in vain.
        let next = next.filter(|next| *next != Next::HandOver || self.is_established());
        match next.or_else(|| spreads.then(fence)) {
            Some(Next::Propose(configure)) => {
                // Refused while leadership is handed over; the next leader sees to it.
                let entry = match &self.machine {
                    Machine::Map(_) => map::change::Entry::Configure(configure).encode(),
                    Machine::Partition(_) => {
                        Entry { clock_ms: self.clock_ms(now), command: Command::Configure(configure) }.encode()
                    }
                };
                let proposed = self.propose(entry);
                self.configuring = proposed.map_or(self.configuring, |position| position.index);
            }
            Some(Next::HandOver) => self.hand_over_before_going(now),
            None => {}
        }
    }

    /// Whether a majority of the voters knows durably that they are the voters, and this leader knows that.
    pub fn is_established(&self) -> bool {
        self.applied().index > self.configured || planted(Bug::ReportedBeforeKnown)
    }

    fn has_caught_up(&self, learner: MemberId) -> bool {
        let progress = self.node.raft.prs().get(learner.get());
        progress.is_some_and(|peer| {
            peer.recent_active
                && peer.state == ProgressState::Replicate
                && peer.matched + CAUGHT_UP_LAG >= self.last_index()
                // Of a log that is still empty it is not known whether a snapshot is needed.
                && peer.matched > 0
        })
    }

    fn hand_over_before_going(&mut self, now: Instant) {
        let asked_lately = self.handed_over_at.is_some_and(|at| now.since(at) < HAND_OVER_AGAIN_AFTER);
        if !asked_lately && let Some(heir) = self.heir() {
            self.handed_over_at = Some(now);
            self.transfer(heir);
        }
    }

    /// Who should lead in this leader's place: the one that the map prefers, or else whoever has most, of those voters that
    /// stay, answer and lack little.
    pub(super) fn heir(&self) -> Option<MemberId> {
        let going = self.wanted.as_ref().and_then(|wanted| wanted.moving).and_then(|moving: Move| moving.remove);
        let voters = self.conf_state().voters.iter().copied().filter_map(MemberId::new);
        let preferred = self.preferred();
        let fit = voters.filter(|id| *id != self.settings.member && Some(*id) != going && !self.avoids(*id));
        let able = fit.filter_map(|id| {
            let peer = self.node.raft.prs().get(id.get())?;
            let able = peer.recent_active && peer.matched + CAUGHT_UP_LAG >= self.last_index();
            able.then_some((Some(id) == preferred, peer.matched, id))
        });
        able.max().map(|(_, _, id)| id)
    }

    /// A committed step: it takes effect unless the group has acted on a newer map before.
    pub(super) fn configure(&mut self, configure: Configure, round: &mut Round) -> Result<(), Error> {
        let known = self.configuration().epoch;
        if configure.epoch < known && !planted(Bug::StaleMapObeyed) {
            return Ok(());
        }
        let state = match configure.step.for_raft() {
            None => self.conf_state().clone(),
            Some(change) => {
                let changed = self.node.apply_conf_change(&change);
                changed.map_err(|error| Error::Configure { group: self.group, reason: error.to_string() })?
            }
        };
        let epoch = configure.epoch.max(known);
        let changes_voters = matches!(configure.step, Step::Swap { .. } | Step::LeaveJoint);
        // In a joint one whoever is to take over from this member must know that it votes.
        let goes = !state.voters.contains(&self.settings.member.get());
        if changes_voters && (state.voters_outgoing.is_empty() || goes) {
            self.configured = self.last_index();
        }
        self.node.mut_store().set_configuration(Configuration { state, epoch });
        let left_out = self.voters().all(|id| id != self.settings.member);
        if left_out && self.node.raft.state != StateRole::Follower {
            // Raft would go on leading a group that it is not in any more; and it stops (with a panic) when one wins its
            // election that is not in it. An answer to its candidacy may have told it of the commit.
            let term = self.term();
            self.node.raft.become_follower(term, raft::INVALID_ID);
        }
        self.reseed();
        round.moved.push(self.group);
        Ok(())
    }

    /// How the group stands, for the map group's leader.
    pub fn report(&self, now: Instant) -> GroupReport {
        let bytes = self.machine.bytes();
        let behind = self.voters().filter(|id| *id != self.settings.member && self.is_behind(now, *id)).collect();
        let adding = self.wanted.as_ref().and_then(|wanted| wanted.moving).and_then(|moving: Move| moving.add);
        let sent = adding.and_then(|add| self.sending.get(&add)).map(super::stream::Sending::sent_bytes);
        GroupReport {
            group: self.group,
            term: self.term(),
            configuration: self.configuration().clone(),
            behind,
            bytes,
            sent,
        }
    }

    fn voters(&self) -> impl Iterator<Item = MemberId> + '_ {
        let state = self.conf_state();
        let outgoing = state.voters_outgoing.iter().filter(|id| !state.voters.contains(id));
        state.voters.iter().chain(outgoing).copied().filter_map(MemberId::new)
    }

    /// Whether a voter does not answer, or needs a snapshot.
    fn is_behind(&self, now: Instant, voter: MemberId) -> bool {
        let silent = !self.lease.heard_within(now, voter, 2 * self.settings.election_timeout);
        let progress = self.node.raft.prs().get(voter.get());
        silent || progress.is_none_or(|peer| peer.state == ProgressState::Snapshot)
    }

    /// Whether this replica votes, by what it has applied.
    pub fn is_voter(&self) -> bool {
        self.voters().any(|id| id == self.settings.member)
    }

    /// Whether anything of the group is moving.
    pub fn is_moving(&self) -> bool {
        self.wanted.as_ref().is_some_and(|wanted| wanted.moving.is_some())
            || !self.conf_state().voters_outgoing.is_empty()
            || !self.conf_state().learners.is_empty()
    }
}

/// What remains of a replica that was dropped: what it has promised, so that it is never promised to somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tombstone {
    /// The highest term that it knew of.
    pub term: u64,
    /// Whom it has given its vote in that term; 0: nobody.
    pub vote: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> MemberId {
        MemberId::new(number).unwrap()
    }

    fn configuration(voters: &[u64], outgoing: &[u64], learners: &[u64], epoch: u64) -> Configuration {
        let state = ConfState {
            voters: voters.to_vec(),
            voters_outgoing: outgoing.to_vec(),
            learners: learners.to_vec(),
            ..ConfState::default()
        };
        Configuration { state, epoch }
    }

    /// Member 4 is to take the place of 3, by a map of epoch 9, as it was said in epoch 7.
    fn swap() -> Move {
        Move { add: Some(id(4)), remove: Some(id(3)), cancelled: false, epoch: 7 }
    }

    fn wanted(before: &[u64], moving: Option<Move>) -> Wanted {
        let before: BTreeSet<MemberId> = before.iter().copied().map(id).collect();
        Wanted { voters: before.clone(), before, moving, leader: id(1), epoch: 9 }
    }

    fn propose(step: Step) -> Option<Next> {
        Some(Next::Propose(Configure { epoch: 9, step }))
    }

    /// What leader 1 does next about each configuration.
    #[test]
    fn each_configuration_has_one_next_step() {
        let cancelled = Move { cancelled: true, ..swap() };
        let both = |add: Option<u64>, remove: Option<u64>| Step::Swap { add: add.map(id), remove: remove.map(id) };
        let learn = propose(Step::AddLearner(id(4)));
        let forget = |number| propose(Step::RemoveLearner(id(number)));
        let table = [
            // The way there.
            (configuration(&[1, 2, 3], &[], &[], 1), Some(swap()), learn),
            (configuration(&[1, 2, 3], &[], &[4], 7), Some(swap()), propose(both(Some(4), Some(3)))),
            (configuration(&[1, 2, 4], &[1, 2, 3], &[], 7), Some(swap()), propose(Step::LeaveJoint)),
            (configuration(&[1, 2, 4], &[], &[], 7), Some(swap()), None),
            // A learner of an earlier move goes first.
            (configuration(&[1, 2, 3], &[], &[5], 1), Some(swap()), forget(5)),
            (configuration(&[1, 2, 3], &[], &[5], 1), None, forget(5)),
            // Cancelled: what is not done is undone, what is done is fenced off.
            (configuration(&[1, 2, 3], &[], &[], 1), Some(cancelled), propose(Step::Fence)),
            (configuration(&[1, 2, 3], &[], &[4], 6), Some(cancelled), forget(4)),
            (configuration(&[1, 2, 4], &[1, 2, 3], &[], 6), Some(cancelled), propose(Step::LeaveJoint)),
            (configuration(&[1, 2, 4], &[], &[], 6), Some(cancelled), propose(Step::Fence)),
            (configuration(&[1, 2, 3], &[], &[], 7), Some(cancelled), None),
            // The joint configuration is left, whatever the map says by now.
            (configuration(&[1, 2, 4], &[1, 2, 3], &[], 6), None, propose(Step::LeaveJoint)),
            // The group has acted on a newer map.
            (configuration(&[1, 2, 3], &[], &[], 10), Some(swap()), None),
            (configuration(&[1, 2, 3], &[], &[5], 10), None, None),
            // Nothing is wanted.
            (configuration(&[1, 2, 3], &[], &[], 1), None, None),
        ];
        for (configuration, moving, expected) in table {
            let next = next_step(&configuration, &wanted(&[1, 2, 3], moving), id(1), |_| true);
            assert_eq!(next, expected, "{configuration:?} {moving:?}");
        }
    }

    #[test]
    fn a_learner_that_lacks_something_does_not_vote_yet() {
        let learning = configuration(&[1, 2, 3], &[], &[4], 7);
        assert_eq!(next_step(&learning, &wanted(&[1, 2, 3], Some(swap())), id(1), |_| false), None);
    }

    #[test]
    fn a_leader_that_goes_hands_over_first_and_a_sole_voter_when_the_other_votes_too() {
        let learning = configuration(&[1, 2, 3], &[], &[4], 7);
        let next = next_step(&learning, &wanted(&[1, 2, 3], Some(swap())), id(3), |_| true);
        assert_eq!(next, Some(Next::HandOver));
        let sole = wanted(&[3], Some(swap()));
        let both = Step::Swap { add: Some(id(4)), remove: Some(id(3)) };
        assert_eq!(next_step(&configuration(&[3], &[], &[4], 7), &sole, id(3), |_| true), propose(both));
        assert_eq!(next_step(&configuration(&[4], &[3], &[], 7), &sole, id(3), |_| true), Some(Next::HandOver));
        assert_eq!(next_step(&configuration(&[4], &[3], &[], 7), &sole, id(4), |_| true), propose(Step::LeaveJoint));
    }

    #[test]
    fn one_voter_more_or_less_needs_no_joint_configuration() {
        let more = Move { add: Some(id(4)), remove: None, cancelled: false, epoch: 7 };
        let less = Move { add: None, remove: Some(id(3)), cancelled: false, epoch: 7 };
        let step = |moving: Move, learners: &[u64], me| {
            next_step(&configuration(&[1, 2, 3], &[], learners, 7), &wanted(&[1, 2, 3], Some(moving)), id(me), |_| true)
        };
        assert_eq!(step(more, &[], 1), propose(Step::AddLearner(id(4))));
        assert_eq!(step(more, &[4], 1), propose(Step::Swap { add: Some(id(4)), remove: None }));
        assert_eq!(step(less, &[], 1), propose(Step::Swap { add: None, remove: Some(id(3)) }));
        assert_eq!(step(less, &[], 3), Some(Next::HandOver));
        for change in [Step::Swap { add: Some(id(4)), remove: None }, Step::Swap { add: None, remove: Some(id(3)) }] {
            assert!(change.for_raft().unwrap().enter_joint().is_none());
        }
    }
}
