//! The planner against a simulated store: whatever is asked and whatever breaks, it settles, loses nothing on the way, and has
//! nothing to do then.
//!
//! `ANNULUS_PLANNER_CASES` is how many clusters the property is tried on (default 60).

mod store;
mod world;

use annulus_client::MemberState;
use annulus_operator::model::Member;
use annulus_operator::plan::{Action, Gate, Step, plan};
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::json;
use world::World;

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
        world.set_down(&world.names()[0], true);
        world.deleting = true;
        world.spec.deletion_protection = true;
        world.round();
        assert_eq!(world.operate().wait.unwrap().gate, Gate::DeletionProtected);
        world.spec.deletion_protection = false;
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
            Act::Down(_) | Act::LosePod(_) | Act::Wipe(_) | Act::LoseVolume(_) => {}
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
