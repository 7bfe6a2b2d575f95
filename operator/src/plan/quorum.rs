//! Whether partitions keep their quorums.

use std::collections::{BTreeMap, BTreeSet};

use annulus_client::MemberId;
use annulus_client::admin::PlannedMember;

use crate::model::{Member, Observed, Told};

/// A member that the leader of the map has not heard of for this long is not counted on.
pub const HEARD_MS: u64 = 5000;

/// Whether its peers hear a member.
pub fn is_heard(member: &PlannedMember) -> bool {
    member.heard_ms.is_some_and(|ms| ms < HEARD_MS)
}

/// A partition that would have no quorum without a member, although it has one replica more than one. Only members of which this is
/// true are counted on.
pub(super) fn lost_without(told: &Told, victim: MemberId, is_there: impl Fn(&PlannedMember) -> bool) -> Option<u32> {
    let there: BTreeSet<MemberId> =
        told.plan.members.iter().filter(|member| is_there(member)).map(|member| member.id).collect();
    let lost = told.ring.assignments().iter().position(|assignment| {
        let voters = &assignment.replicas;
        let left = voters.iter().filter(|id| **id != victim && there.contains(id)).count();
        // The only replica of all: whoever wants that has to live with its restarts.
        voters.len() > 1 && voters.contains(&victim) && left < voters.len() / 2 + 1
    });
    lost.map(|partition| u32::try_from(partition).unwrap_or(u32::MAX))
}

/// Members that vote now, and whether they can be counted on when another one goes: only one that is in the ring and caught up, and
/// stays. A voter that is heard votes, ready or not.
///
/// A leader of the map that is new has not heard of everybody yet: until then whoever answers counts.
fn voting(observed: &Observed, told: &Told) -> BTreeMap<MemberId, bool> {
    let answers = |member: &PlannedMember| observed.members.get(&member.name).is_some_and(Member::is_in_a_store);
    let votes = |member: &&PlannedMember| is_heard(member) || (member.heard_ms.is_none() && answers(member));
    let lasts = |member: &PlannedMember| observed.members.get(&member.name).is_some_and(lasts);
    told.plan.members.iter().filter(votes).map(|member| (member.id, lasts(member))).collect()
}

/// How many partitions have no quorum, and how many could lose no further replica. While a pod is rolled there is therefore none
/// to spare of three.
pub fn at_risk(observed: &Observed, told: &Told) -> (usize, usize) {
    let voting = voting(observed, told);
    let (mut lost, mut last) = (0, 0);
    for assignment in told.ring.assignments() {
        let voters = assignment.replicas.len();
        let (mut left, mut lasting) = (0, 0);
        for lasts in assignment.replicas.iter().filter_map(|id| voting.get(id)) {
            left += 1;
            lasting += usize::from(*lasts);
        }
        let needed = voters / 2 + 1;
        lost += usize::from(left < needed);
        // The only replica of all never is one to spare.
        last += usize::from(left >= needed && lasting <= needed && lasting < voters && voters > 1);
    }
    (lost, last)
}

/// Everybody who holds a partition that has no quorum now.
pub(super) fn holders_of_lost(observed: &Observed, told: &Told) -> BTreeSet<MemberId> {
    let voting = voting(observed, told);
    let has_quorum =
        |replicas: &[MemberId]| replicas.iter().filter(|id| voting.contains_key(id)).count() * 2 > replicas.len();
    let lost = told.ring.assignments().iter().filter(|assignment| !has_quorum(&assignment.replicas));
    lost.flat_map(|assignment| assignment.replicas.iter().copied()).collect()
}

/// Whether a member that is heard is caught up, and stays. Of a pod whose node Kubernetes can't reach it does not know that.
fn lasts(member: &Member) -> bool {
    let is_out_of_sight = member.has_pod() && member.pod.as_ref().is_some_and(|pod| pod.node_is_down);
    member.has_volume() && (member.is_ready() || is_out_of_sight)
}
