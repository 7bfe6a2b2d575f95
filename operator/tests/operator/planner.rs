//! The planner against a simulated store: whatever is asked and whatever breaks, it settles, loses nothing on the way, and has
//! nothing to do then.
//!
//! `ANNULUS_PLANNER_CASES` is how many clusters the property is tried on (default 60).

use std::collections::BTreeSet;

use annulus_client::MemberState;
use annulus_operator::model::Member;
use annulus_operator::plan::{Action, Gate, Step, at_risk, plan};
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::json;

use crate::world::World;

fn made(spec: serde_json::Value) -> World {
    let mut world = World::new(spec);
    world.settle(60);
    world
}

#[test]
fn a_cluster_is_made_once_and_has_nothing_to_do_then() {
    let mut world = made(json!({"partitions": 8}));
    assert_eq!(world.names().len(), 3);
    let bootstraps = world.log.iter().filter(|line| line.contains("Bootstrap")).count();
    assert_eq!(bootstraps, 1);
    for _ in 0..20 {
        world.round();
        let planned = world.operate();
        assert!(planned.is_empty() && planned.wait.is_none(), "{planned:?}");
        assert_eq!(planned.evictable, 1);
    }
}

#[test]
fn it_grows_and_shrinks_and_turns_back_in_the_middle() {
    let mut world = made(json!({"partitions": 16}));
    world.spec.replicas = 5;
    world.settle(300);
    assert_eq!(world.names().len(), 5);
    let before = world.names();
    world.spec.replicas = 3;
    for _ in 0..4 {
        world.round();
        world.operate();
    }
    let told = world.observe();
    let told = told.told().unwrap();
    assert!(!told.plan.settled && told.plan.members.len() == 5, "two are on their way out");
    world.spec.replicas = 5;
    world.settle(300);
    assert_eq!(world.names(), before, "whoever was leaving stays");
    world.spec.replicas = 3;
    world.settle(300);
    assert_eq!(world.names().len(), 3);
}

#[test]
fn volumes_of_those_who_left_stay_if_that_is_wanted() {
    let mut world = made(json!({"partitions": 8, "replicas": 4, "volumeRetention": {"whenScaled": "Retain"}}));
    world.spec.replicas = 3;
    world.settle(300);
    assert_eq!(world.names().len(), 4, "the volume of the one that left is kept");
    world.spec.replicas = 4;
    world.settle(300);
    assert_eq!(world.names().len(), 5, "and is nobody's any more");
}

#[test]
fn members_are_rolled_one_after_the_other_and_a_pod_that_does_not_come_up_stops_it() {
    let mut world = made(json!({"partitions": 8}));
    world.template = "t2".to_owned();
    world.round();
    let Some(Step::Roll { member, .. }) = world.operate().step else { panic!("{:?}", world.log) };
    // It comes back on a node that dies.
    world.round();
    world.operate();
    world.set_down(&member, true);
    for _ in 0..10 {
        world.round();
        let planned = world.operate();
        assert_eq!(planned.step, None);
    }
    let wait = plan(&world.observe()).wait.unwrap();
    assert_eq!((wait.gate, wait.member), (Gate::MemberNotReady, Some(member.clone())));
    world.set_down(&member, false);
    world.settle(100);
    let rolls = world.log.iter().filter(|line| line.contains("Roll")).count();
    assert_eq!(rolls, 3);
}

#[test]
fn who_is_gone_for_long_enough_is_replaced_and_half_of_all_are_not() {
    let mut world = made(json!({"partitions": 8, "replicas": 5, "replacement": {"afterSeconds": 30}}));
    let names = world.names();
    world.set_down(&names[0], true);
    for _ in 0..20 {
        world.round();
        assert!(world.operate().is_empty());
    }
    world.settle(300);
    assert!(!world.has_volume(&names[0]));
    assert_eq!(world.names().len(), 5);

    let names = world.names();
    world.set_down(&names[0], true);
    world.set_down(&names[1], true);
    world.set_down(&names[2], true);
    for _ in 0..60 {
        world.round();
        let planned = world.operate();
        assert_eq!((planned.step, planned.replacing.len()), (None, 0));
    }
    for name in &names[..3] {
        world.set_down(name, false);
    }
    world.settle(300);
    assert_eq!(world.names(), names, "nobody was replaced");
}

#[test]
fn a_lost_volume_is_replaced_at_once_and_an_emptied_one_takes_its_own_place() {
    let mut world = made(json!({"partitions": 8}));
    let names = world.names();
    world.lose_volume(&names[1]);
    world.settle(60);
    assert_ne!(world.names(), names);
    let names = world.names();
    world.wipe(&names[0]);
    world.settle(60);
    assert_eq!(world.names(), names, "the same pod, as another member");
}

#[test]
fn a_replacement_that_is_lost_before_it_has_anything_is_replaced_itself() {
    let mut world = made(json!({"partitions": 8}));
    let before = world.names();
    world.lose_volume(&before[0]);
    for _ in 0..2 {
        let joining = |world: &World| {
            let observed = world.observe();
            let members = &observed.told().unwrap().plan.members;
            let joins = members.iter().find(|it| it.state == MemberState::Joining && !before.contains(&it.name));
            joins.map(|member| member.name.clone()).filter(|name| world.has_volume(name))
        };
        let mut rounds = 0..60;
        while joining(&world).is_none() {
            assert!(rounds.next().is_some(), "nobody joins: {}", world.log.join("\n"));
            world.round();
            world.operate();
        }
        let name = joining(&world).unwrap();
        world.lose_volume(&name);
    }
    world.settle(100);
    assert_eq!(world.names().len(), 3);
}

#[test]
fn whoever_is_being_deleted_does_not_become_a_member() {
    let mut world = made(json!({"partitions": 8}));
    let before = world.names();
    world.spec.replicas = 4;
    let observed = loop {
        world.round();
        let observed = world.observe();
        if matches!(plan(&observed).step, Some(Step::SetMembers { .. })) {
            break observed;
        }
        world.operate();
    };
    let name = world.names().into_iter().find(|name| !before.contains(name)).unwrap();
    let with = |change: fn(&mut Member)| {
        let mut observed = observed.clone();
        change(observed.members.get_mut(&name).unwrap());
        plan(&observed)
    };
    let ending = with(|member| member.pod.as_mut().unwrap().is_deleting = true);
    assert!(!matches!(ending.step, Some(Step::SetMembers { .. })), "{ending:?}");
    let going = with(|member| member.volume.as_mut().unwrap().is_deleting = true);
    assert!(!matches!(going.step, Some(Step::SetMembers { .. })), "{going:?}");
    assert!(going.actions.iter().any(|it| matches!(it, Action::CreateVolume { .. })), "another one is made: {going:?}");
}

#[test]
fn a_store_that_has_lost_all_volumes_is_not_made_anew() {
    let mut world = made(json!({"partitions": 8}));
    for name in world.names() {
        world.wipe(&name);
    }
    for _ in 0..30 {
        world.round();
        assert_eq!(world.operate().step, None);
    }
    assert_eq!(plan(&world.observe()).wait.unwrap().gate, Gate::StoreLost);
}

#[test]
fn a_volume_that_a_member_had_is_not_taken_for_an_empty_one_when_the_status_is_lost() {
    // Who has left is not asked to join again.
    let mut world = made(json!({"partitions": 8, "replicas": 4, "volumeRetention": {"whenScaled": "Retain"}}));
    let before = world.names();
    world.spec.replicas = 3;
    world.settle(300);
    let left = before.into_iter().find(|name| !world.members().contains(name)).unwrap();
    world.unretire(&left);
    world.lose_status();
    world.spec.replicas = 4;
    world.settle(300);
    assert!(!world.members().contains(&left), "{left} had left");
    assert!(world.has_volume(&left), "and its volume is kept");

    // Nor is the store made anew.
    for name in world.members() {
        world.wipe(&name);
    }
    world.lose_status();
    for _ in 0..30 {
        world.round();
        assert_eq!(world.operate().step, None);
    }
    assert_eq!(plan(&world.observe()).wait.unwrap().gate, Gate::StoreLost);
    assert_eq!(world.status.phase, "Unreachable");
}

#[test]
fn a_new_member_on_a_node_that_dies_is_given_up_in_its_time_and_another_is_made() {
    let mut world = made(json!({"partitions": 8, "replacement": {"afterSeconds": 30, "maxConcurrent": 0}}));
    world.spec.replicas = 4;
    world.rounds(1);
    let fresh = world.fresh()[0].clone();
    world.set_down(&fresh, true);
    let planned = world.rounds(100);
    assert_eq!(planned.step, None);
    let wait = planned.wait.unwrap();
    assert_eq!((wait.gate, wait.member.as_ref()), (Gate::NodeDown, Some(&fresh)));
    assert!(
        wait.message.contains("is on node node-") && wait.message.contains("maxConcurrent is 0"),
        "{}",
        wait.message
    );

    world.spec.replacement.max_concurrent = 1;
    world.settle(300);
    assert!(!world.has_volume(&fresh) && !world.names().contains(&fresh), "{fresh} is gone");
    assert_eq!(world.members().len(), 4);

    // Not before its time, and not if it comes back.
    world.spec.replicas = 5;
    world.rounds(1);
    let fresh = world.fresh()[0].clone();
    world.set_down(&fresh, true);
    let planned = world.rounds(25);
    assert!(planned.wait.unwrap().message.contains("spec.replacement.afterSeconds"));
    world.set_down(&fresh, false);
    world.settle(300);
    assert!(world.members().contains(&fresh));
}

#[test]
fn a_member_on_a_node_that_dies_before_there_is_a_store_is_given_up_unless_the_store_may_have_been_made() {
    let mut world = World::new(json!({"partitions": 8, "replacement": {"afterSeconds": 30}}));
    world.rounds(1);
    let names = world.names();
    world.set_down(&names[0], true);
    world.set_down(&names[1], true);
    for _ in 0..100 {
        assert_eq!(world.rounds(1).step, None, "two of three may hold what was written");
    }
    assert_eq!(world.names(), names);
    world.set_down(&names[1], false);
    world.settle(100);
    assert!(!world.names().contains(&names[0]));
    assert_eq!(world.members().len(), 3);
}

#[test]
fn a_member_that_is_heard_and_not_ready_is_none_to_spare() {
    let world = made(json!({"partitions": 8}));
    let mut observed = world.observe();
    let told = observed.told().unwrap().clone();
    assert_eq!(at_risk(&observed, &told), (0, 0));
    let name = world.names()[0].clone();
    observed.members.get_mut(&name).unwrap().pod.as_mut().unwrap().is_ready = false;
    assert_eq!(at_risk(&observed, &told), (0, 8), "every partition still has a quorum");
    // Kubernetes can't see whether a pod is ready whose node it does not reach.
    observed.members.get_mut(&name).unwrap().pod.as_mut().unwrap().node_is_down = true;
    assert_eq!(at_risk(&observed, &told), (0, 0));
}

#[test]
fn a_store_with_one_replica_of_everything_says_so() {
    let mut world = made(json!({"partitions": 8, "replicas": 1, "replicationFactor": 1}));
    world.rounds(3);
    let (status, reason, message) = world.condition("QuorumAtRisk");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "SingleReplica"));
    assert!(message.contains("replicationFactor is 1"), "{message}");
}

const GIB: u64 = 1 << 30;

#[test]
fn nobody_leaves_when_nobody_has_room_and_one_disk_of_several_members_has_room_once() {
    // Nearly all of each disk would have to move, as far as anybody can tell.
    let mut world = made(json!({"partitions": 8, "replicas": 4}));
    world.disks.insert(String::new(), (100 * GIB, 5 * GIB));
    world.spec.replicas = 3;
    assert_eq!(world.rounds(5).wait.unwrap().gate, Gate::DiskSpace);
    assert_eq!(world.members().len(), 4);

    let mut world = made(json!({"partitions": 8, "replicas": 4}));
    world.gather(0);
    world.settle(300);
    world.spec.replicas = 3;
    let Some(Step::SetMembers { change, .. }) = plan(&world.observe()).step else { panic!("one leaves") };
    let leaves = change.strip_prefix("leave: ").unwrap().to_owned();
    // The three that stay have 69 GiB between them, and not each.
    world.disks.insert(String::new(), (100 * GIB, 70 * GIB));
    world.disks.insert(leaves, (200 * GIB, 50 * GIB));
    let wait = world.rounds(5).wait.unwrap();
    assert_eq!(wait.gate, Gate::DiskSpace);
    assert!(wait.message.contains("share a disk of node node-0, which is counted once"), "{}", wait.message);
    let (status, reason, _) = world.condition("ScaleDownBlocked");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "DiskSpace"));
    world.disks.clear();
    world.settle(300);
    assert_eq!(world.members().len(), 3);
}

#[test]
fn what_others_have_on_the_disk_of_a_node_does_not_move() {
    let mut world = made(json!({"partitions": 8, "replicas": 4}));
    world.gather(0);
    world.settle(300);
    world.disks.insert(String::new(), (250 * GIB, 20 * GIB));
    world.data_bytes = Some(GIB);
    world.spec.replicas = 3;
    world.settle(300);
    assert_eq!(world.members().len(), 3);
}

#[test]
fn who_joins_does_not_wait_for_somebody_who_can_not_leave() {
    let mut world = made(json!({"partitions": 8}));
    let before = world.members();
    world.disks.insert(String::new(), (100 * GIB, 5 * GIB));
    world.delete_claim(&before[0]);
    let planned = world.rounds(30);
    assert_eq!(planned.wait.unwrap().gate, Gate::DiskSpace);
    let members = world.members();
    assert!(
        members.len() == 4 && members.contains(&before[0]),
        "another one has joined, and nobody has left: {members:?}"
    );
    assert_eq!(world.condition("ScaleDownBlocked").0, "True");
    world.disks.insert(String::new(), (100 * GIB, 95 * GIB));
    world.settle(300);
    assert!(!world.members().contains(&before[0]));
}

#[test]
fn a_lost_partition_holds_up_nobody_who_has_nothing_of_it() {
    let mut world = made(json!({"partitions": 8, "replicas": 7, "replacement": {"afterSeconds": 20}}));
    let ring = world.observe().told().unwrap().ring.clone();
    let held = &ring.assignments()[0].replicas;
    let name_of = |id| ring.member(id).unwrap().name.clone();
    let (first, second) = (name_of(held[0]), name_of(held[1]));
    world.set_down(&first, true);
    world.set_down(&second, true);
    world.rounds(10);
    world.lose_volume(&second);
    let planned = world.rounds(60);
    let wait = planned.wait.unwrap();
    assert_eq!(wait.gate, Gate::QuorumAtRisk, "{}", wait.message);
    assert!(wait.message.contains("have no quorum now"), "{}", wait.message);
    assert_eq!(world.condition("ScaleDownBlocked").1, "QuorumAtRisk");
    assert_eq!(world.condition("Available").1, "QuorumLost");
    let ids = world.observe().told().unwrap().plan.members.iter().map(|it| it.id).collect::<BTreeSet<_>>();
    assert!(ids.contains(&held[0]) && ids.contains(&held[1]), "what they held is not given up");

    // Whatever has nothing to do with it goes on.
    let holds_of_it = |name: &String| held.iter().any(|id| name_of(*id) == *name);
    let other = world.members().into_iter().find(|name| !holds_of_it(name) && world.has_volume(name)).unwrap();
    let of_other = |world: &World| {
        let observed = world.observe();
        observed.told().unwrap().plan.members.iter().find(|member| member.name == other).unwrap().clone()
    };
    let before = of_other(&world);
    world.drain.insert(other.clone());
    world.rounds(60);
    let drained = of_other(&world);
    assert!(drained.state == MemberState::Draining && drained.replicas < before.replicas, "{before:?} {drained:?}");
    assert_eq!(world.condition("Available").1, "QuorumLost");
}

#[test]
fn a_cluster_that_can_not_become_smaller_for_want_of_members_says_so() {
    let mut world = made(json!({"partitions": 8, "replicas": 4}));
    let names = world.members();
    world.drain.insert(names[0].clone());
    world.settle(200);
    world.remove = vec![names[1].clone()];
    world.spec.replicas = 3;
    let planned = world.rounds(5);
    assert_eq!((planned.step, planned.wait.as_ref().map(|wait| wait.gate)), (None, Some(Gate::DrainRefused)));
    let message = planned.wait.unwrap().message;
    assert!(message.contains(&names[0]) && message.contains(&names[1]), "{message}");
    assert_eq!(world.condition("ScaleDownBlocked").0, "True");
    world.remove.clear();
    world.settle(200);
    assert!(!world.members().contains(&names[0]), "who is drained leaves first");
    assert_eq!(world.condition("ScaleDownBlocked").0, "False");

    world.drain = BTreeSet::from([names[1].clone()]);
    world.rounds(3);
    let (status, reason, _) = world.condition("ScaleDownBlocked");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "DrainRefused"));
}

#[test]
fn a_number_is_found_again_in_the_map_when_all_else_is_lost() {
    let mut world = made(json!({"partitions": 8}));
    let observed = world.observe();
    let last = observed.members.iter().max_by_key(|(_, member)| member.ordinal).unwrap().0.clone();
    world.lose_volume(&last);
    world.lose_status();
    world.spec.paused = true;
    world.rounds(1);
    assert_eq!(world.status.last_ordinal, 3);
}

#[test]
fn a_store_that_can_not_be_asked_names_members_of_which_nothing_is_left() {
    let mut world = made(json!({"partitions": 8}));
    world.rounds(1);
    let names = world.names();
    world.lose_volume(&names[0]);
    world.lose_volume(&names[1]);
    // What is known of them outlasts any number of rounds.
    let planned = world.rounds(5);
    let wait = planned.wait.unwrap();
    assert_eq!(wait.gate, Gate::StoreUnreachable);
    assert!(
        wait.message.contains(&format!("neither pod nor claim is left of {}, {}", names[0], names[1])),
        "{}",
        wait.message
    );
}

#[test]
fn what_is_named_in_the_annotation_is_drained_and_comes_back() {
    let mut world = made(json!({"partitions": 8, "replicas": 4}));
    let name = world.names()[0].clone();
    world.drain.insert(name.clone());
    world.settle(200);
    let observed = world.observe();
    let member = observed.told().unwrap().plan.members.iter().find(|member| member.name == name).unwrap();
    assert_eq!(member.replicas, 0);
    world.drain.clear();
    world.settle(200);
}

#[test]
fn a_deleted_cluster_ends_pods_first_and_keeps_volumes_if_that_is_wanted() {
    for (policy, left) in [("Retain", 3), ("Delete", 0)] {
        let mut world = made(json!({"partitions": 8, "volumeRetention": {"whenDeleted": policy}}));
        world.deleting = true;
        world.spec.deletion_protection = true;
        world.round();
        assert_eq!(world.operate().wait.unwrap().gate, Gate::DeletionProtected);
        world.spec.deletion_protection = false;
        world.set_down(&world.names()[0], true);
        for _ in 0..30 {
            world.round();
            world.operate();
        }
        assert!(world.is_gone, "{}", world.log.join("\n"));
        assert_eq!(world.names().len(), left, "{policy}");
    }
}

#[test]
fn a_paused_cluster_is_left_alone() {
    let mut world = made(json!({"partitions": 8}));
    world.spec.paused = true;
    world.spec.replicas = 5;
    let name = world.names()[0].clone();
    world.lose_pod(&name);
    for _ in 0..10 {
        world.round();
        let planned = world.operate();
        assert!(planned.is_empty() && planned.wait.is_some_and(|wait| wait.gate == Gate::Paused));
    }
    world.spec.paused = false;
    world.settle(200);
}

/// What is done to a cluster.
#[derive(Debug, Clone)]
enum Act {
    Replicas(i32),
    Roll(u8),
    Grow(u64),
    Drain(Index, bool),
    Down(Index),
    Back,
    LosePod(Index),
    Wipe(Index),
    LoseVolume(Index),
    LoseStatus,
    /// The node of one that is not in the store yet dies.
    Strand(Index),
    DeleteClaim(Index),
}

fn act() -> impl Strategy<Value = Act> {
    let one = any::<Index>;
    prop_oneof![
        4 => (1..=7i32).prop_map(Act::Replicas),
        2 => any::<u8>().prop_map(Act::Roll),
        1 => (1..20u64).prop_map(Act::Grow),
        1 => (one(), any::<bool>()).prop_map(|(at, drains)| Act::Drain(at, drains)),
        2 => one().prop_map(Act::Down),
        2 => Just(Act::Back),
        1 => one().prop_map(Act::LosePod),
        1 => one().prop_map(Act::Wipe),
        1 => one().prop_map(Act::LoseVolume),
        1 => Just(Act::LoseStatus),
        2 => one().prop_map(Act::Strand),
        1 => one().prop_map(Act::DeleteClaim),
    ]
}

impl World {
    /// Whether one more may be lost: nobody is down, and no data is on its way.
    fn is_well(&self) -> bool {
        let observed = self.observe();
        observed.told().is_some_and(|told| told.plan.settled)
            && observed.members.values().all(|it| it.pod.as_ref().is_some_and(|pod| pod.is_ready) || it.is_retired())
    }

    fn apply(&mut self, act: &Act) {
        let names = self.names();
        let pick = |at: &Index| names[at.index(names.len())].clone();
        match act {
            Act::Replicas(replicas) => self.spec.replicas = *replicas,
            Act::Roll(template) => self.template = format!("t{template}"),
            Act::Grow(gib) => {
                let now = annulus_crds::quantity::bytes(&self.spec.storage.size).unwrap() >> 30;
                self.spec.storage.size = format!("{}Gi", now + gib);
            }
            Act::Drain(at, true) => drop(self.drain.insert(pick(at))),
            Act::Drain(_, false) => self.drain.clear(),
            // More than one at a time is more than three replicas are for.
            Act::Down(at) if self.is_well() => self.set_down(&pick(at), true),
            Act::Back => names.iter().for_each(|name| self.set_down(name, false)),
            Act::LosePod(at) if self.is_well() => self.lose_pod(&pick(at)),
            Act::Wipe(at) if self.is_well() => self.wipe(&pick(at)),
            Act::LoseVolume(at) if self.is_well() => self.lose_volume(&pick(at)),
            Act::DeleteClaim(at) if self.is_well() => self.delete_claim(&pick(at)),
            Act::LoseStatus => self.lose_status(),
            Act::Strand(at) => {
                let fresh = self.fresh();
                if !fresh.is_empty() {
                    self.set_down(&fresh[at.index(fresh.len())], true);
                }
            }
            Act::Down(_) | Act::LosePod(_) | Act::Wipe(_) | Act::LoseVolume(_) | Act::DeleteClaim(_) => {}
        }
    }
}

fn config() -> ProptestConfig {
    let cases = std::env::var("ANNULUS_PLANNER_CASES")
        .map_or(60, |cases| cases.parse().expect("ANNULUS_PLANNER_CASES is a number of cases"));
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn whatever_is_asked_and_whatever_breaks_it_settles_and_loses_nothing(
        replicas in 3..=5i32,
        retains: bool,
        acts in prop::collection::vec((act(), 0usize..40), 0..12),
    ) {
        let retention = if retains { "Retain" } else { "Delete" };
        let mut world = made(json!({
            "partitions": 8, "replicas": replicas, "replacement": {"afterSeconds": 20},
            "volumeRetention": {"whenScaled": retention},
        }));
        for (act, rounds) in acts {
            world.log.push(format!("{act:?}"));
            world.apply(&act);
            for _ in 0..rounds {
                world.round();
                world.operate();
            }
        }
        world.apply(&Act::Back);
        world.drain.clear();
        world.settle(600);
        for _ in 0..10 {
            world.round();
            let planned = world.operate();
            assert!(planned.is_empty(), "a settled cluster has nothing to do: {planned:?}");
        }
    }
}
