//! The node's own router: to a lane of this process, or over a link to the member that leads.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use annulus_core::codec::frame::{Forward, FrameWriter, Item};
use annulus_core::id::{GroupId, MemberId, Ticket};
use annulus_core::lane::{Operation, Refusal, Reply};
use annulus_core::map::Map;
use annulus_core::partition::{Consistency, Outcome, lock};
use tokio::time::{Instant, sleep};

use super::{BootstrapError, Identified, NodeStatus, Router, begun, identify};
use crate::node::Membership;
use crate::runtime::{Clock, IoLanes, LaneHandle, LaneInput, Links, ReplyTo, Shared, Waiters, WaitsFor};

/// How long an answer may come late before it is not waited for any more: lanes answer by the deadline themselves.
const GRACE: Duration = Duration::from_millis(250);
/// The pause before a group without a leader is asked again: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(80);

/// What the routers of all I/O threads have in common.
#[derive(Clone)]
pub struct NodeParts {
    /// What all threads look at.
    pub shared: Arc<Shared>,
    /// The lanes, by number.
    pub lanes: Arc<[LaneHandle]>,
    /// The ways to other members.
    pub links: Links,
    /// The node's clock.
    pub clock: Clock,
    /// What cluster this member belongs to.
    pub membership: Membership,
}

/// The router of one I/O thread.
#[derive(Clone)]
pub struct NodeRouter {
    /// What it has in common with the others.
    pub parts: NodeParts,
    /// The requests that this thread waits for.
    pub waiters: Waiters,
    /// The lanes, as this thread sees them.
    pub lanes: IoLanes,
}

/// Where a request is sent next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Here,
    Member(MemberId),
}

impl NodeRouter {
    /// Where to send a request for a group: to its leader, or to whoever may know one. `attempt` counts the tries.
    fn target(&self, map: &Map, group: GroupId, operation: &Operation, attempt: usize) -> Option<Target> {
        let (replicas, preferred) = map.group(group)?;
        let here = replicas.contains(&self.parts.shared.member);
        if here && is_stale_read(operation) {
            return Some(Target::Here);
        }
        let target = match self.parts.shared.leader(group) {
            Some(leader) if leader == self.parts.shared.member => Target::Here,
            Some(leader) if self.parts.links.is_up(leader) => Target::Member(leader),
            // The lane here hears of a new leader first.
            _ if here => Target::Here,
            None if attempt == 0 => Target::Member(preferred),
            _ => Target::Member(replicas[attempt % replicas.len()]),
        };
        Some(target)
    }

    /// Sends a request once, and waits for what comes of it.
    async fn attempt(&self, target: Target, group: GroupId, operation: Operation, deadline: Instant) -> Reply {
        let is_write = operation.is_write();
        let waits_for_lock = operation.waits_for_lock();
        let until = deadline + GRACE;
        let left = deadline.saturating_duration_since(Instant::now());
        let (waiting, answer) = match target {
            Target::Here => {
                let (waiting, answer) = self.waiters.wait(WaitsFor { is_write, forwarded_to: None, until });
                let deadline = self.parts.clock.now() + left;
                let reply_to = ReplyTo::Local(waiting.number());
                let input = LaneInput::Request { group, operation, deadline, reply_to };
                if self.lanes.send(self.parts.shared.lane_of(group), input).is_err() {
                    return Reply::Refused(Refusal::Busy);
                }
                (waiting, answer)
            }
            Target::Member(member) => {
                let (waiting, answer) = self.waiters.wait(WaitsFor { is_write, forwarded_to: Some(member), until });
                let timeout_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
                let ticket = Ticket { life: self.parts.shared.life, number: waiting.number() };
                let forward = Forward { ticket, group, timeout_ms, operation };
                let mut frame = FrameWriter::default();
                frame.push(&Item::Forward(forward));
                if !self.parts.links.is_up(member) || !self.parts.links.send(member, frame.finish()) {
                    // It was not sent, so nothing can come of it.
                    return Reply::Refused(Refusal::NotLeader { leader: None });
                }
                (waiting, answer)
            }
        };
        let number = waiting.number();
        let mut cancel = CancelOnDrop { router: self, target, group, number, is_armed: waits_for_lock };
        let reply = answer.await;
        cancel.is_armed = false;
        drop(waiting);
        reply.expect("every request that waits is answered")
    }

    /// Learns from a refusal who leads. Returns whether it said something that can be followed at once.
    fn learn(&self, group: GroupId, target: Target, hint: Option<MemberId>) -> bool {
        let asked = match target {
            Target::Here => self.parts.shared.member,
            Target::Member(member) => member,
        };
        let new = hint.filter(|leader| *leader != asked);
        // The lane here tells of a leader once, when it hears of it: if another member's answer has put that in doubt since,
        // only the lane's answer to a request says it again.
        if target != Target::Here || new.is_some() {
            self.parts.shared.hint_leader(group, asked, new);
        }
        new.is_some_and(|leader| leader == self.parts.shared.member || self.parts.links.is_up(leader))
    }

    async fn route(self, group: GroupId, operation: Operation, timeout: Duration) -> Reply {
        let deadline = Instant::now() + timeout;
        let mut pause = FIRST_PAUSE;
        let (mut attempt, mut is_unknown) = (0, false);
        // Whoever was removed reaches nobody: no reason to try for as long as there is time.
        let is_out = |map: Arc<Map>| map.member(self.parts.shared.member).is_none();
        if self.map().is_none_or(is_out) {
            return Reply::Refused(Refusal::NoReplica);
        }
        loop {
            let target = self.map().and_then(|map| self.target(&map, group, &operation, attempt));
            let Some(target) = target else { return Reply::Refused(Refusal::NoReplica) };
            let reply = self.attempt(target, group, operation.clone(), deadline).await;
            let known = match reply {
                Reply::Refused(Refusal::NotLeader { leader }) => self.learn(group, target, leader),
                Reply::Refused(Refusal::NoReplica) => self.learn(group, target, None),
                Reply::OutcomeUnknown if operation.is_repeatable() => {
                    is_unknown = true;
                    self.learn(group, target, None)
                }
                // That nothing was done this time does not mean that nothing was done before.
                Reply::Refused(_) if is_unknown => return Reply::OutcomeUnknown,
                Reply::Refused(_) | Reply::OutcomeUnknown => return reply,
                // A transaction came in between: it is over soon.
                Reply::Write(Outcome::Blocked) | Reply::Lock(lock::Outcome::Pinned) => {
                    if Instant::now() + pause >= deadline {
                        return Reply::Refused(Refusal::TimedOut);
                    }
                    true
                }
                reply => {
                    if let Target::Member(leader) = target
                        && !is_stale_read(&operation)
                    {
                        self.parts.shared.hint_leader(group, leader, Some(leader));
                    }
                    return reply;
                }
            };
            attempt += 1;
            // The first hint is followed at once; if leaders keep pointing at each other, slower and slower.
            if known && attempt == 1 {
                continue;
            }
            if Instant::now() + pause >= deadline {
                let not_led = Reply::Refused(Refusal::NotLeader { leader: None });
                return if is_unknown { Reply::OutcomeUnknown } else { not_led };
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

impl Router for NodeRouter {
    fn submit(&self, group: GroupId, operation: Operation, timeout: Duration) -> impl Future<Output = Reply> {
        self.clone().route(group, operation, timeout)
    }

    fn map(&self) -> Option<Arc<Map>> {
        self.parts.shared.map()
    }

    fn leader(&self, group: GroupId) -> Option<MemberId> {
        self.parts.shared.leader(group)
    }

    fn other_leader(&self, group: GroupId) -> Option<MemberId> {
        self.leader(group).filter(|leader| *leader != self.parts.shared.member)
    }

    fn status(&self) -> NodeStatus {
        self.parts.membership.status(&self.parts.shared, &self.parts.links, &self.parts.clock)
    }

    fn bootstrap(&self, map: Map) -> impl Future<Output = Result<(), BootstrapError>> {
        let (membership, here) = (self.parts.membership.clone(), self.parts.shared.member);
        let is_first = self.map().is_none() && map.member(here).is_some();
        async move {
            if is_first {
                begun::check_others(&map, here).await?;
            }
            membership.bootstrap(map).await
        }
    }

    fn identify(&self, admin_address: &str) -> impl Future<Output = Result<Identified, String>> {
        identify::ask(admin_address, identify::TIMEOUT)
    }

    fn evict(&self, lasts: Duration) -> impl Future<Output = usize> {
        let membership = self.parts.membership.clone();
        async move { membership.evict(lasts).await }
    }

    fn end_eviction(&self) {
        self.parts.membership.end_eviction();
    }
}

/// Tells whoever was asked that nobody waits for the answer any more, if the client goes away before it comes.
struct CancelOnDrop<'a> {
    router: &'a NodeRouter,
    target: Target,
    group: GroupId,
    number: u64,
    is_armed: bool,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        if !self.is_armed {
            return;
        }
        let NodeParts { shared, links, .. } = &self.router.parts;
        // When there is no room the place at the lock goes when its wait is over.
        match self.target {
            Target::Here => {
                let input = LaneInput::Cancel { group: self.group, reply_to: ReplyTo::Local(self.number) };
                let _ = self.router.lanes.send(shared.lane_of(self.group), input);
            }
            Target::Member(member) => {
                let ticket = Ticket { life: shared.life, number: self.number };
                let mut frame = FrameWriter::default();
                frame.push(&Item::Cancel { ticket, group: self.group });
                links.send(member, frame.finish());
            }
        }
    }
}

fn is_stale_read(operation: &Operation) -> bool {
    operation.consistency() == Some(Consistency::Stale)
}
