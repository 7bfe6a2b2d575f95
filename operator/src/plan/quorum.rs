//! Whether partitions keep their quorums.

use std::collections::BTreeSet;

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

/// How many partitions have no quorum, and how many would have none if one more replica went. A leader of the map that is new
/// has not heard of everybody yet: until then whoever answers counts.
pub fn at_risk(observed: &Observed, told: &Told) -> (usize, usize) {
    let answers = |member: &PlannedMember| observed.members.get(&member.name).is_some_and(Member::is_in_a_store);
    let is_there = |member: &&PlannedMember| is_heard(member) || (member.heard_ms.is_none() && answers(member));
    let there: BTreeSet<MemberId> = told.plan.members.iter().filter(is_there).map(|member| member.id).collect();
    let (mut lost, mut last) = (0, 0);
    for assignment in told.ring.assignments() {
        let voters = assignment.replicas.len();
        let left = assignment.replicas.iter().filter(|id| there.contains(id)).count();
        let needed = voters / 2 + 1;
        lost += usize::from(left < needed);
        last += usize::from(left == needed && voters > left);
    }
    (lost, last)
}
