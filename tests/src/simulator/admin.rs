//! What an operator asks of single members on their admin ports, and what they answer: as the node's own admin port does.
//!
//! What is asked of the map goes through any member as clients' requests do ([`ADMIN_CLIENT`]); the rest is the member's own.

use std::sync::Arc;

use annulus_client::node::Status;
use annulus_core::id::{GroupId, MemberId};
use annulus_core::lane::Reply;
use annulus_core::map::{Map, MemberState};
use serde_json::json;

use super::events::Event;
use super::network::Fate;
use super::node::Member;
use super::world::Environment;

/// Who asks for changes of the map on an operator's behalf: its number among the clients, which no client has.
pub const ADMIN_CLIENT: usize = usize::MAX;
/// How long an eviction waits for leaders to be gone, and for how long none goes any more until it ends, in microseconds.
const EVICTION_PATIENCE_US: u64 = 5_000_000;
const EVICTION_STALLS_AFTER_US: u64 = 600_000;
/// For how long a member takes no leader after it was asked to hand them over, in microseconds.
const EVICTED_FOR_US: u64 = 60_000_000;

/// What is asked of a member itself.
#[derive(Debug)]
pub struct AdminRequest {
    /// Who asks.
    pub number: u64,
    /// What.
    pub asks: AdminAsks,
}

/// What can be asked of a member itself.
#[derive(Debug)]
pub enum AdminAsks {
    /// How it is.
    Status,
    /// Which map it goes by.
    Ring,
    /// That this be the first map of the store.
    Bootstrap(Arc<Map>),
    /// That it hand over its leaders.
    Evict,
}

/// What an operator is answered.
#[derive(Debug)]
pub enum AdminAnswer {
    /// How the member is.
    Status(Box<Status>),
    /// The map that it goes by, and who leads by group, as far as it knows.
    Ring(Option<Arc<Map>>, Vec<Option<MemberId>>),
    /// Whether there is a store now.
    Bootstrapped(Result<(), String>),
    /// How many leaders it still has.
    Evicted(u64),
    /// What the map group says.
    Reply(Reply),
}

/// That a member hands its leaders over.
#[derive(Debug)]
pub(super) struct Eviction {
    /// Who waits for it; `None`: nobody any more.
    asked_by: Option<u64>,
    began: u64,
    left: u64,
    /// When a leader has gone last.
    moved: u64,
}

/// An answer is on its way to the operator.
pub(super) fn told(number: u64, answer: AdminAnswer, env: &mut Environment) {
    if let Fate::Arrives(delays) = env.network.send_client(&mut env.dice, &mut env.counters) {
        env.events.after(delays[0], Event::Admin { number, answer });
    }
}

impl Member {
    pub(super) fn admin(&mut self, number: u64, asks: AdminAsks, env: &mut Environment) {
        match asks {
            AdminAsks::Status => {
                let status = Box::new(self.status());
                told(number, AdminAnswer::Status(status), env);
            }
            AdminAsks::Ring => {
                let process = self.process.as_ref().expect("it runs");
                told(number, AdminAnswer::Ring(process.map.clone(), process.leaders.clone()), env);
            }
            AdminAsks::Bootstrap(map) => self.bootstrap(number, &map, env),
            AdminAsks::Evict => {
                let now = env.events.now();
                let left = self.led();
                let process = self.process.as_mut().expect("it runs");
                process.eviction = Some(Eviction { asked_by: Some(number), began: now, left, moved: now });
                process.lanes.iter_mut().for_each(|lane| lane.push_evict(true));
                self.tend_eviction(env);
            }
        }
    }

    /// Ends an eviction, or the wait for it, when that is due.
    pub(super) fn tend_eviction(&mut self, env: &mut Environment) {
        let (now, led) = (env.events.now(), self.led());
        let process = self.process.as_mut().expect("it runs");
        let Some(eviction) = &mut process.eviction else { return };
        if led < eviction.left {
            eviction.moved = now;
        }
        eviction.left = led;
        let is_late = now >= eviction.began + EVICTION_PATIENCE_US || now >= eviction.moved + EVICTION_STALLS_AFTER_US;
        if (led == 0 || is_late)
            && let Some(number) = eviction.asked_by.take()
        {
            told(number, AdminAnswer::Evicted(led), env);
        }
        if now >= eviction.began + EVICTED_FOR_US {
            process.eviction = None;
            process.lanes.iter_mut().for_each(|lane| lane.push_evict(false));
        }
    }

    fn led(&self) -> u64 {
        let lanes = self.process.as_ref().map_or(&[][..], |process| &process.lanes[..]);
        let replicas = lanes.iter().flat_map(|lane| lane.lane.replicas());
        replicas.filter(|replica| replica.is_voter() && replica.leads()).count() as u64
    }

    fn status(&self) -> Status {
        let map = self.process.as_ref().and_then(|process| process.map.as_ref());
        let status = json!({
            "id": self.id().to_string(), "name": self.name, "version": env!("CARGO_PKG_VERSION"),
            "cluster": map.map(|map| map.cluster.to_string()), "epoch": map.map_or(0, |map| map.epoch),
            "ready": self.why_not_ready().is_none(),
        });
        serde_json::from_value(status).expect("a status")
    }

    /// Why it is not ready, if it is not: see the node's own `membership`.
    pub fn why_not_ready(&self) -> Option<&'static str> {
        let Some(process) = &self.process else { return Some("it does not run") };
        let Some(map) = &process.map else { return Some("it belongs to no store yet") };
        let Some(told) = map.member(self.id()) else { return Some("it was removed") };
        let (mut replicas, mut settled) = (0, 0);
        for replica in process.lanes.iter().flat_map(|lane| lane.lane.replicas()).filter(|it| it.is_voter()) {
            replicas += 1;
            settled += usize::from(replica.leader().is_some() && replica.applied().term == replica.term());
        }
        let is_its = |group: &GroupId| map.group(*group).is_some_and(|(voters, _)| voters.contains(&self.id()));
        if settled < replicas {
            return Some("some replicas have no leader or are behind it");
        }
        if replicas < map.groups().filter(is_its).count() {
            return Some("some replicas are still being made");
        }
        (told.state == MemberState::Joining).then_some("it joins")
    }
}
