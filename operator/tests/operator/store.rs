//! A store without nodes: the map and its planner are the core's own, the groups are a model, and whoever is down does nothing.

#[path = "../../../node/core/tests/groups/mod.rs"]
pub mod groups;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use annulus_client::admin::{Gate, Members, Plan, PlannedMember, PlannedMove, Step};
use annulus_client::node::{Bootstrap, MemberSpec};
use annulus_client::{ClusterId, MemberId, Ring};
use annulus_core::id::GroupId;
use annulus_core::map::change::Change;
use annulus_core::map::{
    Command, Desired, Intent, Map, Member, MemberState, Reason, Report, Reports, command, plan, planner,
};
use annulus_core::time::Instant;
use annulus_operator::model::Told;
use annulus_operator::stores::Error;
use serde_json::json;

use groups::Groups;

const TICK: Duration = Duration::from_millis(100);

/// A store.
pub struct Store {
    pub map: Map,
    pub groups: Groups,
    reports: Reports,
    now: Instant,
}

impl Store {
    /// Makes a store as a node would.
    pub fn bootstrap(asked: &Bootstrap) -> Result<Self, Error> {
        let members = asked.members.iter().map(|spec| {
            let Desired { id, name, zone, weight, client_address, peer_address, admin_address } = desired(spec);
            Member { id, name, zone, weight, state: MemberState::Active, client_address, peer_address, admin_address }
        });
        let cluster: ClusterId = asked.cluster.parse().expect("the UID is a UUID");
        let factor = usize::try_from(asked.replication_factor).expect("it is small");
        let map = Map::bootstrap(cluster, asked.partitions, factor, members.collect())
            .map_err(|error| refused("invalid-bootstrap", &error.to_string()))?;
        let now = Instant(1_000_000_000);
        let groups = Groups::of(&map);
        Ok(Self { map, groups, reports: Reports::new(now, TICK), now })
    }

    /// States who the members are.
    pub fn set_members(&mut self, fence: u64, asked: &Members) -> Result<(), Error> {
        self.ask(fence, asked.epoch, Command::Members(asked.members.iter().map(desired).collect()))
    }

    /// Has a member of this name drained, or not any more.
    pub fn drain(&mut self, fence: u64, name: &str, drains: bool) -> Result<(), Error> {
        let named = self.map.members.iter().find(|member| member.name == name).map(|member| member.id);
        let id = named.ok_or_else(|| refused("unknown-member", name))?;
        self.ask(fence, None, if drains { Command::Drain(id) } else { Command::Undrain(id) })
    }

    fn ask(&mut self, fence: u64, epoch: Option<u64>, command: Command) -> Result<(), Error> {
        let intent = Intent { fence, epoch, command };
        let (next, reason) = command::next(&self.map, &intent, &self.reports, self.now).map_err(|refusal| {
            let reason = match refusal {
                command::Refusal::StaleFence { .. } => "stale-fence",
                command::Refusal::MapChanged { .. } => "map-changed",
                command::Refusal::QuorumAtRisk { .. } => "quorum-at-risk",
                _ => "refused",
            };
            refused(reason, &refusal.to_string())
        })?;
        self.change(&next, reason);
        Ok(())
    }

    fn change(&mut self, next: &Map, reason: Reason) {
        if let Some(change) = Change::between(&self.map, next, reason, 0) {
            self.map = change.apply(&self.map).expect("a change that was worked out can be applied");
            self.map.check();
        }
    }

    /// A second passes: whoever is up acts on the map, reports, and the planner looks at the reports.
    pub fn round(&mut self, up: &BTreeSet<MemberId>) {
        self.now = self.now + Duration::from_secs(1);
        for group in self.map.groups().collect::<Vec<_>>() {
            self.elect(group, up);
            if self.has_quorum(group, up) && self.may_act(group, up) {
                let before = self.groups.groups[&group].leader;
                self.groups.act(group, &self.map);
                self.hand_over_to_the_living(group, before, up);
            }
        }
        let map_leader = &self.groups.groups[&GroupId::MAP].leader;
        if !up.contains(map_leader) {
            return;
        }
        for member in self.map.members.clone().iter().filter(|member| up.contains(&member.id)) {
            let led =
                self.map.groups().filter(|group| self.has_quorum(*group, up)).map(|group| self.groups.report(group));
            let groups = led.filter(|(leader, _)| *leader == member.id).map(|(_, report)| report).collect();
            self.reports.take(self.now, member.id, Report { epoch: self.map.epoch, groups });
        }
        if let Some((next, reason)) = planner::next(&self.map, &self.reports, self.now) {
            self.change(&next, reason);
        }
    }

    /// A group whose leader is gone gets another one, if enough of its voters are there.
    fn elect(&mut self, group: GroupId, up: &BTreeSet<MemberId>) {
        let quorum = self.has_quorum(group, up);
        let it = self.groups.groups.get_mut(&group).expect("a group of the store");
        if up.contains(&it.leader) || !quorum {
            return;
        }
        if let Some(heir) = it.voters.iter().find(|id| up.contains(id)) {
            (it.leader, it.term) = (*heir, it.term + 1);
            if group == GroupId::MAP {
                self.reports = Reports::new(self.now, TICK);
            }
        }
    }

    /// The model hands a group over without asking whether the heir is there; nobody real would.
    fn hand_over_to_the_living(&mut self, group: GroupId, before: MemberId, up: &BTreeSet<MemberId>) {
        let it = self.groups.groups.get_mut(&group).expect("a group of the store");
        if !up.contains(&it.leader) {
            let heir = it.voters.iter().find(|id| up.contains(id) && **id != before);
            it.leader = heir.copied().unwrap_or(before);
        }
    }

    /// Whether a group has its quorum among these.
    pub fn has_quorum(&self, group: GroupId, up: &BTreeSet<MemberId>) -> bool {
        let it = &self.groups.groups[&group];
        let enough = |ids: &BTreeSet<MemberId>| {
            ids.is_empty() || ids.iter().filter(|id| up.contains(id)).count() * 2 > ids.len()
        };
        enough(&it.voters) && enough(&it.outgoing)
    }

    /// A learner that is down never catches up.
    fn may_act(&self, group: GroupId, up: &BTreeSet<MemberId>) -> bool {
        let it = &self.groups.groups[&group];
        let adds = self.map.wanted(group).and_then(|wanted| wanted.moving).filter(|it| !it.cancelled);
        let adds = adds.and_then(|moving| moving.add);
        adds.is_none_or(|add| !it.learners.contains(&add) || up.contains(&add))
    }

    /// Whether a member holds something, or is about to.
    pub fn holds(&self, id: MemberId) -> bool {
        self.groups.groups.values().any(|it| it.voters.contains(&id) || it.outgoing.contains(&id))
    }

    /// What the leader of the map says.
    pub fn told(&self, up: &BTreeSet<MemberId>) -> Result<Told, Error> {
        if !self.has_quorum(GroupId::MAP, up) || !up.contains(&self.groups.groups[&GroupId::MAP].leader) {
            return Err(Error::Unreachable("the map group has no leader".to_owned()));
        }
        let plan = plan::Plan::of(&self.map, &self.reports, self.now);
        Ok(Told { plan: self.plan(&plan), ring: Arc::new(self.ring()) })
    }

    fn plan(&self, of: &plan::Plan) -> Plan {
        let mut replicas: BTreeMap<MemberId, u64> = BTreeMap::new();
        for group in self.map.groups() {
            let voters = self.map.group(group).map_or(&[][..], |(voters, _)| voters);
            let comes = self.map.moves.get(&group).and_then(|moving| moving.add);
            for id in voters.iter().copied().chain(comes) {
                *replicas.entry(id).or_default() += 1;
            }
        }
        let members = self.map.members.iter().map(|member| {
            let heard = of.members.iter().find(|heard| heard.member == member.id);
            let heard_ms = heard.and_then(|heard| heard.ago_ms);
            PlannedMember {
                id: member.id,
                name: member.name.clone(),
                zone: member.zone.clone(),
                weight: member.weight,
                state: member.state,
                replicas: replicas.get(&member.id).copied().unwrap_or_default(),
                leads: heard.map_or(0, |heard| u64::from(heard.leads)),
                epoch: heard.filter(|_| heard_ms.is_some()).map(|heard| heard.epoch),
                heard_ms,
                client_address: member.client_address.clone(),
                peer_address: member.peer_address.clone(),
                admin_address: member.admin_address.clone(),
            }
        });
        let moves = of.moves.iter().map(|planned| PlannedMove {
            group: planned.group.0,
            partition: planned.group.partition().map(|partition| partition.0),
            from: planned.from,
            to: planned.to,
            step: Step::Waiting,
            gate: planned.gate.map(|gate| Gate {
                name: "gate".to_owned(),
                member: gate.member,
                message: format!("{:?}", gate.kind),
            }),
            bytes: planned.bytes,
            bytes_sent: planned.sent,
        });
        Plan {
            epoch: of.epoch,
            settled: of.settled,
            moves_left: u64::from(of.moves_left),
            moves_under_way: u64::from(of.moves_under_way),
            bytes_left: of.bytes_left,
            bytes_per_second: of.bytes_per_second,
            seconds_left: of.seconds_left(),
            moves: moves.collect(),
            members: members.collect(),
        }
    }

    fn ring(&self) -> Ring {
        let map = &self.map;
        let id = |id: &MemberId| id.to_string();
        let state = |state: MemberState| match state {
            MemberState::Joining => "joining",
            MemberState::Active => "active",
            MemberState::Leaving => "leaving",
            MemberState::Draining => "draining",
        };
        let ring = json!({
            "cluster": map.cluster.to_string(), "epoch": map.epoch, "partitions": map.partitions(),
            "replication_factor": map.replication_factor,
            "members": map.members.iter().map(|member| json!({
                "id": id(&member.id), "name": member.name, "zone": member.zone, "state": state(member.state),
                "client_address": member.client_address,
            })).collect::<Vec<_>>(),
            "assignments": map.assignments.iter().enumerate().map(|(partition, assignment)| json!({
                "partition": partition, "replicas": assignment.replicas.iter().map(id).collect::<Vec<_>>(),
                "leader": id(&assignment.leader),
            })).collect::<Vec<_>>(),
        });
        serde_json::from_value(ring).expect("a map is a ring")
    }
}

fn refused(reason: &str, message: &str) -> Error {
    Error::Refused { reason: reason.to_owned(), message: message.to_owned() }
}

fn desired(spec: &MemberSpec) -> Desired {
    Desired {
        id: spec.id.parse().expect("an id"),
        name: spec.name.clone(),
        zone: spec.zone.clone(),
        weight: spec.weight,
        client_address: spec.client_address.clone(),
        peer_address: spec.peer_address.clone(),
        admin_address: spec.admin_address.clone(),
    }
}
