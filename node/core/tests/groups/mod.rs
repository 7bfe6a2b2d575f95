//! A model of the groups of a store: what the leader of each would do about its configuration, and what it reports. It
//! is written apart from the core's own (`replica::configure`), after what the map's documentation says of a move.

#![allow(dead_code, reason = "each test uses some of it")]

use std::collections::{BTreeMap, BTreeSet};

use annulus_core::id::{GroupId, MemberId};
use annulus_core::map::{GroupReport, Map};
use annulus_core::replica::Configuration;
use raft::eraftpb::ConfState;

/// How one group stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub leader: MemberId,
    pub term: u64,
    pub voters: BTreeSet<MemberId>,
    /// The other half of a joint configuration; empty: it is not joint.
    pub outgoing: BTreeSet<MemberId>,
    pub learners: BTreeSet<MemberId>,
    /// The highest epoch that it has acted on.
    pub epoch: u64,
}

/// All groups of a store.
#[derive(Debug, Clone, Default)]
pub struct Groups {
    pub groups: BTreeMap<GroupId, Group>,
}

impl Groups {
    /// The groups as a first map makes them.
    pub fn of(map: &Map) -> Self {
        let made = |group: GroupId| {
            let (voters, leader) = map.group(group).expect("a group of the map");
            let voters = voters.iter().copied().collect();
            let (outgoing, learners) = (BTreeSet::new(), BTreeSet::new());
            (group, Group { leader, term: 2, voters, outgoing, learners, epoch: map.epoch })
        };
        Self { groups: map.groups().map(made).collect() }
    }

    /// The leader of a group takes one step towards what this map says. Returns whether there was one to take.
    pub fn act(&mut self, group: GroupId, map: &Map) -> bool {
        let Some(wanted) = map.wanted(group) else { return false };
        let it = self.groups.get_mut(&group).expect("a group of the store");
        let epoch = map.epoch.max(it.epoch);
        if !it.outgoing.is_empty() {
            if !it.voters.contains(&it.leader) {
                return it.hand_over(None);
            }
            it.outgoing.clear();
            it.epoch = epoch;
            return true;
        }
        if map.epoch < it.epoch {
            return false;
        }
        let under_way = wanted.moving.filter(|moving| !moving.cancelled && it.voters == wanted.before);
        let stray = it.learners.iter().copied().find(|id| under_way.is_none_or(|moving| moving.add != Some(*id)));
        if let Some(stray) = stray {
            it.learners.remove(&stray);
        } else if let Some(moving) = under_way {
            match moving.add {
                Some(add) if !it.learners.contains(&add) => it.learners.extend([add]),
                _ if moving.remove == Some(it.leader) && it.voters.len() > 1 => return it.hand_over(moving.remove),
                add => {
                    if add.is_some() && moving.remove.is_some() {
                        it.outgoing = it.voters.clone();
                    }
                    it.learners.retain(|id| Some(*id) != add);
                    it.voters.extend(add);
                    it.voters.retain(|id| Some(*id) != moving.remove);
                }
            }
        } else if wanted.moving.is_none_or(|moving| moving.epoch <= it.epoch) {
            return false;
        }
        it.epoch = epoch;
        true
    }

    /// What the leader of a group says of it.
    pub fn report(&self, group: GroupId) -> (MemberId, GroupReport) {
        let it = &self.groups[&group];
        let ids = |ids: &BTreeSet<MemberId>| ids.iter().map(|id| id.get()).collect::<Vec<_>>();
        let state = ConfState {
            voters: ids(&it.voters),
            voters_outgoing: ids(&it.outgoing),
            learners: ids(&it.learners),
            ..ConfState::default()
        };
        let configuration = Configuration { state, epoch: it.epoch };
        (it.leader, GroupReport { group, term: it.term, configuration, behind: Vec::new(), bytes: 1000, sent: None })
    }
}

impl Group {
    fn hand_over(&mut self, going: Option<MemberId>) -> bool {
        let heir = self.voters.iter().copied().find(|id| Some(*id) != going && *id != self.leader);
        self.leader = heir.expect("somebody else votes, too");
        self.term += 1;
        true
    }
}
