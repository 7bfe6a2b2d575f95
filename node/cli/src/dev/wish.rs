//! Who should be a member, and what is to be done about it: a pure function of what is wanted and what is.
//!
//! It is level-triggered: from whatever was left half done it leads to the same end, and where all is as it should be it
//! has nothing to do.

use std::collections::{BTreeMap, BTreeSet};

use annulus_client::admin::{Plan, PlannedMember};
use annulus_client::node::{MemberSpec, Status};
use annulus_client::{MemberId, MemberState};

use super::folder::Store;
use super::layout::{Place, number_of};

/// An ordinary member's share of the partitions.
const WEIGHT: u32 = 100;

/// What is known of the processes: for each one that answered, who it is.
pub(super) type Answers = BTreeMap<u16, Status>;

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wish {
    /// Of those that this `dev` runs, who should be a member.
    pub(super) members: Vec<MemberSpec>,
    /// Of those that it runs, who is on the way out.
    pub(super) leaving: Vec<MemberSpec>,
    /// Everybody who should be a member, also those that somebody else runs.
    pub(super) all: Vec<MemberSpec>,
    /// Whether the map does not say so yet.
    pub(super) to_be_stated: bool,
    /// Processes that are to end, and whose volumes are to be put aside: they are members no more, or never were and should
    /// not be. One that is wanted comes back with an empty volume, and so as somebody else.
    pub(super) discard: Vec<u16>,
}

/// Decides from who is wanted (`places`, all of them), who answered, who is known by `store.json`, and the plan.
///
/// The plan must be at least as new as what the answers go by; [`is_behind`] tells.
pub(super) fn decide(places: &[Place], answers: &Answers, store: &Store, plan: &Plan) -> Wish {
    let wanted: BTreeMap<u16, &Place> = places.iter().map(|place| (place.number, place)).collect();
    let in_map = |id: MemberId| plan.members.iter().find(|member| member.id == id);
    // Who belongs to the store and is not in its map has been removed from it.
    let discarded = |number: &u16, status: &Status| {
        in_map(status.id).is_none() && (status.cluster.is_some() || !wanted.contains_key(number))
    };
    let discard: Vec<u16> =
        answers.iter().filter(|(number, status)| discarded(number, status)).map(|(number, _)| *number).collect();
    let known_id = |number: u16| match answers.get(&number) {
        Some(status) => Some(status.id.to_string()),
        // A member that is down stays one.
        None => store
            .member(number)
            .map(|member| member.id.clone())
            .filter(|id| plan.members.iter().any(|member| member.id.to_string() == *id)),
    };
    let weight = |place: &Place| {
        let known = plan.members.iter().find(|member| member.name == place.name).map(|member| member.weight);
        known.or(store.member(place.number).map(|member| member.weight)).unwrap_or(WEIGHT)
    };
    let here = wanted.iter().filter(|(number, _)| !discard.contains(number));
    let members = here.filter_map(|(number, place)| Some(spec(place, known_id(*number)?, weight(place))));
    let members: Vec<MemberSpec> = members.collect();

    let ours: BTreeSet<u16> = wanted.keys().copied().chain(store.numbers()).chain(answers.keys().copied()).collect();
    let is_ours = |name: &str| number_of(name).is_some_and(|number| ours.contains(&number));
    let unwanted = |name: &str| number_of(name).is_some_and(|number| !wanted.contains_key(&number));
    let leaving = plan.members.iter().filter(|member| is_ours(&member.name) && unwanted(&member.name));
    let leaving = leaving.map(PlannedMember::spec).collect();

    let staying = plan.members.iter().filter(|member| member.state != MemberState::Leaving);
    let staying: Vec<MemberSpec> = staying.map(PlannedMember::spec).collect();
    let others = staying.iter().filter(|member| !is_ours(&member.name)).cloned();
    let all: Vec<MemberSpec> = members.iter().cloned().chain(others).collect();
    let to_be_stated = all.len() != staying.len() || !all.iter().all(|member| staying.contains(member));
    Wish { members, leaving, all, to_be_stated, discard }
}

/// Whether a plan is older than what some member goes by: whoever told it is behind.
pub(super) fn is_behind(plan: &Plan, answers: &Answers) -> bool {
    answers.values().any(|status| status.cluster.is_some() && status.epoch > plan.epoch)
}

/// A member at its place.
pub(super) fn spec(place: &Place, id: String, weight: u32) -> MemberSpec {
    MemberSpec {
        id,
        name: place.name.clone(),
        zone: place.zone.clone(),
        weight,
        client_address: place.client_address.clone(),
        peer_address: place.peer_address.clone(),
        admin_address: place.admin_address.clone(),
    }
}

#[cfg(test)]
mod tests {
    use annulus_client::node::Bootstrap;
    use serde_json::{Value, json};

    use super::super::layout::Layout;
    use super::*;

    const CLUSTER: &str = "00010203-0405-0607-0809-0a0b0c0d0e0f";

    fn layout() -> Layout {
        Layout { root: "/d".into(), client_port: 7070, zones: Vec::new() }
    }

    fn places(count: u16) -> Vec<Place> {
        (1..=count).map(|number| layout().place(number)).collect()
    }

    fn id(number: u16) -> String {
        format!("{number:016x}")
    }

    fn status(id: &str, cluster: Option<&str>) -> Status {
        serde_json::from_value(json!({"id": format!("{id:0>16}"), "name": "", "cluster": cluster, "epoch": 5})).unwrap()
    }

    /// Members with their own ids that belong to the store.
    fn answers(numbers: impl IntoIterator<Item = u16>) -> Answers {
        numbers.into_iter().map(|number| (number, status(&id(number), Some(CLUSTER)))).collect()
    }

    fn store(count: u16) -> Store {
        let members = places(count).iter().map(|place| spec(place, id(place.number), 100)).collect();
        let bootstrap = Bootstrap { cluster: CLUSTER.into(), partitions: 128, replication_factor: 3, members };
        Store::new(7070, Vec::new(), bootstrap)
    }

    fn in_map(place: &Place, id: &str, state: &str) -> Value {
        let mut member = serde_json::to_value(spec(place, id.to_owned(), 100)).unwrap();
        let more = json!({"state": state, "replicas": 1, "leads": 1, "epoch": 5, "heard_ms": 1});
        member.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        member
    }

    fn plan(members: Vec<Value>) -> Plan {
        serde_json::from_value(json!({
            "epoch": 5, "settled": true, "moves_left": 0, "moves_under_way": 0, "bytes_left": 0, "bytes_per_second": 0,
            "seconds_left": 0, "moves": [], "members": members,
        }))
        .unwrap()
    }

    fn map_of(numbers: impl IntoIterator<Item = u16>) -> Vec<Value> {
        numbers.into_iter().map(|number| in_map(&layout().place(number), &id(number), "active")).collect()
    }

    fn ids(members: &[MemberSpec]) -> Vec<&str> {
        members.iter().map(|member| member.id.trim_start_matches('0')).collect()
    }

    #[test]
    fn where_all_is_as_it_should_be_there_is_nothing_to_do() {
        let wish = decide(&places(3), &answers(1..=3), &store(3), &plan(map_of(1..=3)));
        assert_eq!((wish.to_be_stated, wish.discard.len(), wish.leaving.len()), (false, 0, 0));
        assert_eq!(wish.members, store(3).members);
        // Nor while a member is down, or drained.
        let mut map = map_of(1..=3);
        map[1]["state"] = json!("draining");
        assert!(!decide(&places(3), &answers([1, 3]), &store(3), &plan(map)).to_be_stated);
    }

    #[test]
    fn a_store_grows_by_nodes_with_empty_volumes() {
        let mut answers = answers(1..=3);
        answers.extend([(4, status("d", None)), (5, status("e", None))]);
        let wish = decide(&places(5), &answers, &store(3), &plan(map_of(1..=3)));
        assert_eq!((ids(&wish.all), wish.to_be_stated), (vec!["1", "2", "3", "d", "e"], true));
        assert!(wish.discard.is_empty() && wish.leaving.is_empty());
        // The second of them has not come up yet: the first does not wait for it.
        answers.remove(&5);
        assert_eq!(ids(&decide(&places(5), &answers, &store(3), &plan(map_of(1..=3))).all), ["1", "2", "3", "d"]);
    }

    #[test]
    fn a_store_shrinks_and_whoever_is_out_of_the_map_ends() {
        let wish = decide(&places(3), &answers(1..=5), &store(5), &plan(map_of(1..=5)));
        assert_eq!(
            (ids(&wish.all), ids(&wish.leaving), wish.to_be_stated),
            (vec!["1", "2", "3"], vec!["4", "5"], true)
        );
        assert!(wish.discard.is_empty());
        let mut map = map_of(1..=4);
        map[3]["state"] = json!("leaving");
        let wish = decide(&places(3), &answers(1..=5), &store(5), &plan(map));
        assert_eq!((wish.to_be_stated, ids(&wish.leaving), wish.discard), (false, vec!["4"], vec![5]));
    }

    #[test]
    fn a_store_that_should_grow_again_keeps_who_is_leaving_and_never_uses_the_volume_of_who_left() {
        let mut map = map_of(1..=4);
        map[3]["state"] = json!("leaving");
        let wish = decide(&places(5), &answers(1..=5), &store(5), &plan(map));
        assert_eq!((ids(&wish.all), wish.to_be_stated), (vec!["1", "2", "3", "4"], true));
        assert_eq!((wish.discard, wish.leaving.len()), (vec![5], 0));
    }

    #[test]
    fn a_member_with_an_emptied_volume_takes_the_place_of_its_name() {
        let mut answers = answers([1, 3]);
        answers.insert(2, status("b", None));
        let wish = decide(&places(3), &answers, &store(3), &plan(map_of(1..=3)));
        assert_eq!((ids(&wish.all), wish.to_be_stated), (vec!["1", "b", "3"], true));
        assert!(wish.discard.is_empty() && wish.leaving.is_empty());
        // While the old one leaves there is nothing more to state.
        let mut map = map_of(1..=3);
        map[1]["state"] = json!("leaving");
        map.push(in_map(&layout().place(2), "000000000000000b", "joining"));
        answers.insert(2, status("b", Some(CLUSTER)));
        let wish = decide(&places(3), &answers, &store(3), &plan(map));
        assert_eq!((wish.to_be_stated, wish.discard.len(), wish.leaving.len()), (false, 0, 0));
    }

    #[test]
    fn who_was_removed_comes_back_as_somebody_else_and_is_not_named_while_it_is_down() {
        let wish = decide(&places(3), &answers(1..=3), &store(3), &plan(map_of(1..=2)));
        assert_eq!((ids(&wish.members), wish.discard), (vec!["1", "2"], vec![3]));
        let wish = decide(&places(3), &answers(1..=2), &store(3), &plan(map_of(1..=2)));
        assert_eq!((ids(&wish.members), wish.discard.len()), (vec!["1", "2"], 0));
    }

    #[test]
    fn members_that_somebody_else_runs_stay_and_weights_are_kept() {
        let mut map = map_of(1..=3);
        map[0]["weight"] = json!(300);
        map.push(in_map(&layout().place(9), "000000000000000f", "active"));
        let wish = decide(&places(3), &answers(1..=3), &store(3), &plan(map));
        assert_eq!((ids(&wish.all), wish.to_be_stated), (vec!["1", "2", "3", "f"], false));
        assert_eq!((wish.members.len(), wish.leaving.len(), wish.members[0].weight), (3, 0, 300));
    }

    #[test]
    fn another_zone_is_a_change_and_an_old_plan_is_found_out() {
        let mut zoned = places(3);
        zoned[2].zone = "c".into();
        assert!(decide(&zoned, &answers(1..=3), &store(3), &plan(map_of(1..=3))).to_be_stated);
        let mut plan = plan(map_of(1..=3));
        assert!(!is_behind(&plan, &answers(1..=3)));
        plan.epoch = 4;
        assert!(is_behind(&plan, &answers(1..=3)));
    }
}
