//! Who should be a member: as many as the spec wants, of those that there are.

use std::collections::{BTreeMap, BTreeSet};

use annulus_client::admin::PlannedMember;
use annulus_client::node::MemberSpec;
use annulus_client::{MemberId, MemberState};
use annulus_crds::annotations;

use super::create::zone;
use super::quorum::holders_of_lost;
use super::room::{Held, room_for};
use super::{Gate, Step, Wait, is_heard, stranded};
use crate::addresses;
use crate::model::{Member, Observed, Refused, Told};

/// Members of the map that are not on their way out.
pub(super) fn staying(told: &Told) -> Vec<&PlannedMember> {
    told.plan.members.iter().filter(|member| member.state != MemberState::Leaving).collect()
}

/// Who should be a member, and who is needed for that.
#[derive(Debug, Default)]
pub(super) struct Membership {
    /// The members that the store should have: those that are known by now.
    specs: Vec<MemberSpec>,
    /// Everybody who is a member, or is to become one.
    pub(super) kept: BTreeSet<String>,
    /// Those with pods or volumes that never were members.
    pub(super) fresh: BTreeSet<String>,
    /// Fresh ones that are wanted and do not answer yet.
    pub(super) silent: Vec<String>,
    /// Those with pods or volumes that nobody needs.
    pub(super) unneeded: Vec<String>,
    /// Those whose volume belongs to another store.
    pub(super) foreign: Vec<String>,
    /// How many are still to be made.
    pub(super) missing: usize,
}

/// Everybody by what they are now.
struct Parts<'a> {
    staying: BTreeMap<&'a str, &'a PlannedMember>,
    leaving: BTreeMap<&'a str, &'a PlannedMember>,
    fresh: Vec<&'a str>,
    removed: Vec<&'a str>,
    foreign: Vec<&'a str>,
}

impl<'a> Parts<'a> {
    fn of(observed: &'a Observed, told: &'a Told) -> Self {
        let by_name = |leaves: bool| {
            let members =
                told.plan.members.iter().filter(move |member| (member.state == MemberState::Leaving) == leaves);
            members.map(|member| (member.name.as_str(), member)).collect::<BTreeMap<_, _>>()
        };
        let (staying, leaving) = (by_name(false), by_name(true));
        let outside = observed.members.iter().filter(|(name, member)| {
            !staying.contains_key(name.as_str()) && !leaving.contains_key(name.as_str()) && !member.is_retired()
        });
        let (mut fresh, mut removed, mut foreign) = (Vec::new(), Vec::new(), Vec::new());
        for (name, member) in outside {
            let cluster = member.answer.as_ref().and_then(|answer| answer.cluster);
            let list = if cluster.is_some_and(|cluster| cluster != observed.cluster.id) {
                &mut foreign
            } else if was_member(observed, name, member) {
                &mut removed
            } else {
                &mut fresh
            };
            list.push(name.as_str());
        }
        fresh.sort_by_key(|name| observed.members[*name].ordinal);
        Self { staying, leaving, fresh, removed, foreign }
    }
}

/// Whether somebody who is not in the map once was: its volume holds what the store has elsewhere by now.
fn was_member(observed: &Observed, name: &str, member: &Member) -> bool {
    // What the claim says holds, whatever else is lost.
    if member.volume.as_ref().is_some_and(|volume| volume.mark.is_some()) {
        return true;
    }
    match &member.answer {
        Some(answer) => answer.cluster.is_some(),
        None => observed.cluster.known.get(name).is_some_and(|known| known.id.is_some()),
    }
}

impl Membership {
    /// Decides from who there is, and who is to be replaced.
    pub(super) fn decide(observed: &Observed, told: &Told, replaced: &BTreeSet<String>) -> Self {
        let parts = Parts::of(observed, told);
        let wanted = usize::try_from(observed.cluster.spec.replicas).unwrap_or_default();
        let standing: Vec<&str> = parts.staying.keys().copied().filter(|name| !replaced.contains(*name)).collect();
        let mut members = standing.clone();
        let surplus = standing.len().saturating_sub(wanted);
        let victims = victims(observed, &parts, &standing, surplus);
        members.retain(|name| !victims.contains(name));

        let mut decided = Self::default();
        // Whoever was told to leave can turn back as long as it is there.
        let may_return = parts.leaving.keys().filter(|name| {
            !parts.staying.contains_key(*name)
                && !observed.cluster.remove.iter().any(|it| it == *name)
                && is_there(observed, parts.leaving[*name])
        });
        members.extend(may_return.take(wanted.saturating_sub(members.len())));
        let needed = wanted.saturating_sub(members.len());
        let (given_up, fresh): (Vec<&str>, Vec<&str>) =
            parts.fresh.iter().partition(|name| stranded::is_given_up(observed, name, &observed.members[**name]));
        let (joining, unneeded) = fresh.split_at(needed.min(fresh.len()));
        // One whose pod is being deleted still answers, and comes back.
        let may_join = |name: &str| observed.members[name].answer.is_some() && observed.members[name].has_pod();
        let (answering, silent): (Vec<&str>, Vec<&str>) = joining.iter().partition(|name| may_join(name));
        decided.missing = needed - joining.len();
        decided.silent = silent.iter().map(|name| (*name).to_owned()).collect();
        decided.foreign = parts.foreign.iter().map(|name| (*name).to_owned()).collect();
        decided.fresh = parts.fresh.iter().map(|name| (*name).to_owned()).collect();
        decided.unneeded =
            given_up.iter().chain(unneeded).chain(&parts.removed).map(|name| (*name).to_owned()).collect();
        members.extend(answering);
        // Who is gone keeps its place until the one that takes it is there.
        let waiting = replaced.iter().map(String::as_str).take(wanted.saturating_sub(members.len()));
        members.extend(waiting);

        let kept = parts.staying.keys().chain(parts.leaving.keys()).chain(joining);
        decided.kept = kept.map(|name| (*name).to_owned()).collect();
        decided.specs = members.iter().filter_map(|name| spec(observed, &parts, name)).collect();
        decided.specs.sort_by(|a, b| a.name.cmp(&b.name));
        decided
    }

    /// The store is told, if it does not say so already. Nobody's joining waits for somebody else's leave that has to: who can't
    /// leave stays a member meanwhile.
    pub(super) fn step(&self, observed: &Observed, told: &Told) -> Stated {
        let now: Vec<MemberSpec> = staying(told).into_iter().map(PlannedMember::spec).collect();
        let leaving = |specs: &[MemberSpec]| -> Vec<MemberSpec> {
            now.iter().filter(|known| !specs.iter().any(|spec| known.id == spec.id)).cloned().collect()
        };
        let held = self.held(observed, told, &leaving(&self.specs));
        let stays = |known: &&MemberSpec| {
            held.as_ref().is_some_and(|held| held.ids.iter().any(|id| id.to_string() == known.id))
        };
        let stay: Vec<MemberSpec> = leaving(&self.specs).iter().filter(stays).cloned().collect();
        // Who has begun anew does not take its own place before that is left.
        let waits = |spec: &MemberSpec| stay.iter().any(|stays| stays.name == spec.name);
        let mut specs: Vec<MemberSpec> = self.specs.iter().filter(|spec| !waits(spec)).chain(&stay).cloned().collect();
        specs.sort_by(|a, b| a.name.cmp(&b.name));

        let leaves = leaving(&specs);
        let joins = specs.iter().filter(|spec| !now.iter().any(|known| known.id == spec.id));
        let updated = specs.iter().filter(|spec| now.iter().any(|known| known.id == spec.id && known != *spec));
        let names = |specs: &[&MemberSpec]| specs.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>().join(", ");
        let parts: [(&str, Vec<&MemberSpec>); 3] =
            [("join", joins.collect()), ("leave", leaves.iter().collect()), ("are updated", updated.collect())];
        let told_of = parts.iter().filter(|(_, specs)| !specs.is_empty());
        let change = told_of.map(|(what, specs)| format!("{what}: {}", names(specs))).collect::<Vec<_>>().join("; ");
        let is_refused = observed.refused(Step::SET_MEMBERS).count() > 1;
        let step = (!change.is_empty() && !is_refused).then_some(Step::SetMembers {
            epoch: told.plan.epoch,
            members: specs,
            change,
        });
        Stated { step, held: held.map(|held| held.wait) }
    }

    /// Leaves that the store would refuse, or that would fill the disks of those that stay.
    fn held(&self, observed: &Observed, told: &Told, leaves: &[MemberSpec]) -> Option<Held> {
        if let Some(refused) = observed.refused(Step::SET_MEMBERS).next() {
            return held_by_refusal(observed, told, leaves, refused);
        }
        // Who has begun anew takes its own place.
        let leaves: Vec<&MemberSpec> =
            leaves.iter().filter(|leaves| !self.specs.iter().any(|spec| spec.name == leaves.name)).collect();
        if leaves.is_empty() {
            return None;
        }
        self.enough_hold(told, &leaves).and_then(|()| room_for(observed, told, &leaves, &self.specs)).err()
    }

    /// Members that are drained hold nothing, and those that are left without the ones that leave have to be enough.
    fn enough_hold(&self, told: &Told, leaves: &[&MemberSpec]) -> Result<(), Held> {
        let drained = |id: &str| {
            let mut draining = told.plan.members.iter().filter(|member| member.state == MemberState::Draining);
            draining.any(|member| member.id.to_string() == id)
        };
        let (drains, holders): (Vec<&MemberSpec>, Vec<&MemberSpec>) =
            self.specs.iter().partition(|spec| drained(&spec.id));
        let factor = usize::try_from(told.ring.replication_factor).unwrap_or(usize::MAX);
        if holders.len() >= factor || drains.is_empty() {
            return Ok(());
        }
        let names = |specs: &[&MemberSpec]| specs.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>().join(", ");
        let message = format!(
            "without {}, {} members would be left that may hold something, and every key needs {factor}: take {} out of the \
             annotation {}, or let it leave first (annotation {})",
            names(leaves),
            holders.len(),
            names(&drains),
            annotations::DRAIN,
            annotations::REMOVE
        );
        let ids = leaves.iter().filter(|spec| !drained(&spec.id)).filter_map(|spec| spec.id.parse().ok()).collect();
        let wait = Wait::new(Gate::DrainRefused, leaves.first().map(|spec| spec.name.as_str()), message);
        Err(Held { ids, wait })
    }
}

/// The store has refused the list. Those of its leaves that it may be about wait, and what else is in the list is tried without
/// them: those that hold partitions without a quorum, or all.
fn held_by_refusal(observed: &Observed, told: &Told, leaves: &[MemberSpec], refused: &Refused) -> Option<Held> {
    let of_lost = holders_of_lost(observed, told);
    let all: BTreeSet<MemberId> = leaves.iter().filter_map(|spec| spec.id.parse().ok()).collect();
    let mut ids: BTreeSet<MemberId> = all.intersection(&of_lost).copied().collect();
    if ids.is_empty() || observed.refused(Step::SET_MEMBERS).count() > 1 {
        ids = all;
    }
    let names = leaves.iter().filter(|spec| spec.id.parse().is_ok_and(|id| ids.contains(&id)));
    let names: Vec<&str> = names.map(|spec| spec.name.as_str()).collect();
    let wait = Wait::refused(refused, &names, "is to leave");
    Some(Held { ids, wait })
}

/// What the store is to be told.
#[derive(Debug)]
pub(super) struct Stated {
    /// The list of its members, if it is not what it says itself.
    pub(super) step: Option<Step>,
    /// Why somebody who should leave is still in it.
    pub(super) held: Option<Wait>,
}

/// Whether a member can be counted on.
fn is_there(observed: &Observed, member: &PlannedMember) -> bool {
    is_heard(member) && observed.members.get(&member.name).is_some_and(|there| there.has_volume() && there.has_pod())
}

/// Who leaves when there are too many: who was named, then who is drained or is to be, then who is not there, then who leaves the zones most even and moves least,
/// then the youngest.
fn victims<'a>(observed: &Observed, parts: &Parts<'a>, standing: &[&'a str], count: usize) -> BTreeSet<&'a str> {
    let mut victims = BTreeSet::new();
    for _ in 0..count {
        let left: Vec<&str> = standing.iter().copied().filter(|name| !victims.contains(name)).collect();
        let mut zones: BTreeMap<&str, usize> = BTreeMap::new();
        for name in &left {
            *zones.entry(parts.staying[name].zone.as_str()).or_default() += 1;
        }
        let rank = |name: &&str| {
            let member = parts.staying[*name];
            let named = observed.cluster.remove.iter().position(|it| it == *name).unwrap_or(usize::MAX);
            let ordinal = observed.members.get(*name).map_or(u64::MAX, |member| member.ordinal);
            let in_zone = zones[member.zone.as_str()];
            let holds = member.state != MemberState::Draining && !observed.cluster.drain.contains(*name);
            (named, holds, is_heard(member), usize::MAX - in_zone, member.replicas, u64::MAX - ordinal)
        };
        victims.extend(left.iter().copied().min_by_key(rank));
    }
    victims
}

/// A member as the store is to be told of it. The node says who it is: one that came back with an empty volume is another.
fn spec(observed: &Observed, parts: &Parts<'_>, name: &str) -> Option<MemberSpec> {
    let known = parts.staying.get(name).or_else(|| parts.leaving.get(name)).copied();
    let there = observed.members.get(name);
    let answered = there.and_then(|member| member.answer.as_ref());
    let begun_anew = answered.filter(|answer| answer.cluster.is_none()).map(|answer| answer.id);
    let id: MemberId = match (known, begun_anew) {
        (_, Some(id)) => id,
        (Some(known), None) => known.id,
        (None, None) => return None,
    };
    let zone = there.map(zone).filter(|zone| !zone.is_empty());
    let zone = zone.or(known.map(|known| known.zone.as_str())).unwrap_or_default();
    Some(addresses::spec(&observed.cluster, name, id, zone, known.map(|known| known.weight)))
}
