//! Whether partitions keep their quorums.

use std::collections::BTreeSet;

use annulus_client::MemberId;
use annulus_client::admin::PlannedMember;

use crate::model::Told;

/// A member that the leader of the map has not heard of for this long is not counted on.
pub const HEARD_MS: u64 = 5000;

/// Whether its peers hear a member.
pub fn is_heard(member: &PlannedMember) -> bool {
    member.heard_ms.is_some_and(|ms| ms < HEARD_MS)
}

fn heard(told: &Told) -> BTreeSet<MemberId> {
    told.plan.members.iter().filter(|member| is_heard(member)).map(|member| member.id).collect()
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

/// How many partitions have no quorum, and how many would have none if one more replica went.
pub fn at_risk(told: &Told) -> (usize, usize) {
    let heard = heard(told);
    let (mut lost, mut last) = (0, 0);
    for assignment in told.ring.assignments() {
        let voters = assignment.replicas.len();
        let there = assignment.replicas.iter().filter(|id| heard.contains(id)).count();
        let needed = voters / 2 + 1;
        lost += usize::from(there < needed);
        last += usize::from(there == needed && voters > there);
    }
    (lost, last)
}
