//! The map group's leader: takes commands and reports, and proposes changes of the map, one after the other.
//!
//! ```text
//!  command ──▶ waits its turn ──▶ map::command::next ──┐
//!                                                      ├─▶ Change ─▶ entry ─▶ applied ─▶ answer
//!  reports ──▶ what is known ───▶ map::planner::next ──┘     (one at a time: the next is worked out from what it made)
//! ```
//!
//! All that it knows beside the map is gone with its leadership, and heard again by the next.

use std::time::Duration;

use super::machine::Machine;
use super::pending::Proposal;
use super::{Configure, Error, Replica, Round, Step};
use crate::bugs::{Bug, planted};
use crate::id::{MemberId, RequestId};
use crate::lane::{Changed, LogPosition, Refusal, Reply};
use crate::map::change::{Change, Entry, Reason};
use crate::map::command::{self, Intent};
use crate::map::plan::Plan;
use crate::map::{self, Map, Report, Reports, planner};
use crate::state::State;
use crate::time::Instant;

/// What the map group's leader knows and does. Of no use to a replica of another group, or to a follower.
#[derive(Debug, Default)]
pub(super) struct Chair {
    reports: Reports,
    /// A command that waits until no change is under way.
    waiting: Option<Waiting>,
    /// The index of the latest change proposed.
    changing: u64,
    /// The highest fence that was proposed, for the known bug that keeps it here alone.
    fence: u64,
    /// Milliseconds since 1970, as the shell says; for people only.
    wall_ms: u64,
}

#[derive(Debug)]
struct Waiting {
    request: RequestId,
    deadline: Instant,
    intent: Intent,
    /// Index of the entry that confirms this leader, when it has no lease; 0: none was proposed.
    confirming: u64,
}

impl Replica {
    /// What time it is among people.
    pub fn tell_wall_clock(&mut self, wall_ms: u64) {
        self.chair.wall_ms = wall_ms;
    }

    /// The map, if this is a replica of the map group that has one.
    pub fn map(&self) -> Option<&std::sync::Arc<Map>> {
        match &self.machine {
            Machine::Map(machine) => machine.map(),
            Machine::Partition(_) => None,
        }
    }

    /// Nothing of an earlier leadership carries over.
    pub(super) fn take_the_chair(&mut self, now: Instant, round: &mut Round) {
        let not_leader = self.not_leader();
        round.replies.extend(self.chair.waiting.take().map(|waiting| (waiting.request, not_leader)));
        let wall_ms = self.chair.wall_ms;
        self.chair = Chair { reports: Reports::new(now, self.settings.tick()), wall_ms, ..Chair::default() };
    }

    pub(super) fn take_report(&mut self, now: Instant, from: MemberId, report: Report) {
        if self.leads() {
            self.chair.reports.take(now, from, report);
        }
    }

    /// The map has changed: there may be a next step.
    pub(super) fn map_has_changed(&mut self) {
        self.chair.reports.note_news();
    }

    /// Whether a command waits its turn.
    pub(super) fn commands_waiting(&self) -> usize {
        usize::from(self.chair.waiting.is_some())
    }

    /// Takes a command; it is looked at when no change is under way.
    pub(super) fn take_command(&mut self, request: RequestId, deadline: Instant, intent: Intent, round: &mut Round) {
        if self.chair.waiting.is_some() {
            round.replies.push((request, Reply::Changed(Err(map::Refusal::ChangeInProgress))));
            return;
        }
        self.chair.waiting = Some(Waiting { request, deadline, intent, confirming: 0 });
    }

    /// The command that waits, if its time is over.
    pub(super) fn expired_command(&mut self, now: Instant) -> Option<RequestId> {
        let late = self.chair.waiting.take_if(|waiting| waiting.deadline <= now);
        late.map(|waiting| waiting.request)
    }

    /// What is about to happen to the ring.
    pub(super) fn plan(&self, now: Instant) -> Option<Plan> {
        self.map().map(|map| Plan::of(map, &self.chair.reports, now))
    }

    /// Proposes the next change of the map, if there is one and none is under way.
    pub(super) fn chair(&mut self, now: Instant, round: &mut Round) {
        let (Machine::Map(_), true) = (&self.machine, self.leads() && self.holds_own_term()) else { return };
        if self.chair.changing > self.applied().index || self.node.raft.lead_transferee.is_some() {
            return;
        }
        let Some(map) = self.map().cloned() else { return };
        if self.chair.waiting.is_some() && self.is_confirmed(now) {
            let waiting = self.chair.waiting.take().expect("just seen");
            self.decide(now, &map, waiting, round);
        } else if self.chair.reports.take_news()
            && let Some((next, reason)) = planner::next(&map, &self.chair.reports, now)
        {
            self.propose_change(&map, &next, reason);
        }
    }

    /// Whether nobody can have decided anything since the command that waits has come: by the lease, or because an entry
    /// that was proposed later is committed. A leader that has once asked another to take over has no lease any more.
    fn is_confirmed(&mut self, now: Instant) -> bool {
        if self.lease_holds(now) {
            return true;
        }
        let confirming = self.chair.waiting.as_ref().map_or(0, |waiting| waiting.confirming);
        if confirming > 0 {
            return confirming <= self.applied().index;
        }
        let configure = Configure { epoch: self.configuration().epoch, step: Step::Fence };
        let proposed = self.propose(Entry::Configure(configure).encode());
        if let (Some(waiting), Some(position)) = (&mut self.chair.waiting, proposed) {
            waiting.confirming = position.index;
        }
        false
    }

    fn decide(&mut self, now: Instant, map: &Map, waiting: Waiting, round: &mut Round) {
        let Waiting { request, deadline, intent, .. } = waiting;
        let mut known = map.clone();
        if planted(Bug::FenceNotReplicated) {
            known.fence = self.chair.fence;
        }
        let decided = command::next(&known, &intent, &self.chair.reports, now);
        let (next, reason) = match decided {
            Ok(decided) => decided,
            Err(refusal) => {
                round.replies.push((request, Reply::Changed(Err(refusal))));
                return;
            }
        };
        self.chair.fence = next.fence;
        match self.propose_change(map, &next, reason) {
            Some(Some(position)) => {
                let lock_wait = Duration::ZERO;
                self.proposals.push(Proposal { position, request, deadline, lock_wait, since: now, share: None });
            }
            Some(None) => round.replies.push((request, self.busy_or_not_leader())),
            None => round.replies.push((request, Reply::Changed(Ok(Changed::between(map, &next))))),
        }
    }

    /// Proposes what makes `next` of `map`; `None` when that is nothing, `Some(None)` when Raft takes nothing now.
    fn propose_change(&mut self, map: &Map, next: &Map, reason: Reason) -> Option<Option<LogPosition>> {
        let change = Change::between(map, next, reason, self.chair.wall_ms)?;
        assert!(change.apply(map).is_some(), "a change that was worked out can be applied");
        let position = self.propose(Entry::Change(change).encode());
        self.chair.changing = position.map_or(self.chair.changing, |position| position.index);
        Some(position)
    }

    fn busy_or_not_leader(&self) -> Reply {
        if self.leads() { Reply::Refused(Refusal::Busy) } else { self.not_leader() }
    }

    /// A request to the map group that only reads.
    pub(super) fn read_history(&self, epoch: Option<u64>, state: &dyn State) -> Result<Reply, Error> {
        let Machine::Map(machine) = &self.machine else { return Ok(Reply::Refused(Refusal::NoReplica)) };
        Ok(match epoch {
            None => Reply::History(machine.events(state)?),
            Some(epoch) => Reply::PastMap(machine.map_at(state, epoch)?),
        })
    }
}
