//! Whether what leaves finds room with those that stay.

use std::collections::BTreeSet;

use annulus_client::MemberId;
use annulus_client::node::{MemberSpec, Status};

use super::{Gate, Wait};
use crate::model::{Observed, Told};

/// Disks that tell the same size on the same node, and unused bytes that differ by less than this part of it, are one: they are
/// read a moment apart, while the members write.
const SAME_DISK_PART: u64 = 1000;

/// What is left free on each disk, for what members write beside their data: a tenth of it, and this much at most.
const MOST_LEFT_FREE: u64 = 1 << 30;

/// Leaves that have to wait.
#[derive(Debug)]
pub(super) struct Held {
    /// Whose.
    pub(super) ids: BTreeSet<MemberId>,
    /// For what.
    pub(super) wait: Wait,
}

/// A disk of members that answer.
struct Disk<'a> {
    node: Option<&'a str>,
    total: u64,
    unused: u64,
    members: Vec<&'a str>,
}

impl Disk<'_> {
    /// Bytes that it may still take.
    fn room(&self) -> u64 {
        self.unused.saturating_sub((self.total / 10).min(MOST_LEFT_FREE))
    }
}

/// What leaves has to find room with those that stay, a little of each disk left free. `stay` is everybody who
/// is a member afterwards.
pub(super) fn room_for(
    observed: &Observed,
    told: &Told,
    leaves: &[&MemberSpec],
    stay: &[MemberSpec],
) -> Result<(), Held> {
    let disks = disks(observed);
    let (mut moving, mut ids, mut names) = (0_u64, BTreeSet::new(), Vec::new());
    for member in told.plan.members.iter().filter(|it| leaves.iter().any(|leaves| leaves.id == it.id.to_string())) {
        // One that answers as somebody else has begun anew, with nothing, and one that was drained has nothing left.
        let answers = observed.members.get(&member.name).and_then(|there| there.id()) == Some(member.id);
        let disk = disks.iter().find(|disk| disk.members.contains(&member.name.as_str()));
        let Some(disk) = disk.filter(|_| answers && member.replicas > 0) else { continue };
        // One that does not tell has its share of what is on its disk, at the most.
        let sharers = u64::try_from(disk.members.len()).unwrap_or(u64::MAX);
        let data = observed.members.get(&member.name).and_then(|there| there.answer.as_ref()?.data_bytes);
        moving = moving.saturating_add(data.unwrap_or((disk.total - disk.unused) / sharers));
        ids.insert(member.id);
        names.push(member.name.as_str());
    }
    let stays = |name: &str| stay.iter().any(|spec| spec.name == name);
    let left: Vec<&Disk<'_>> = disks.iter().filter(|disk| disk.members.iter().any(|name| stays(name))).collect();
    let free = left.iter().fold(0_u64, |sum, disk| sum.saturating_add(disk.room()));
    // Nodes that can't tell hold nothing up: the store itself stops taking writes before a disk is full.
    if moving <= free || left.is_empty() {
        return Ok(());
    }
    let wait = Wait::new(Gate::DiskSpace, names.first().copied(), message(&names, moving, free, &left));
    Err(Held { ids, wait })
}

/// The disks of all that answer. Volumes that are folders of their node's disk share it, and have its room once between them.
fn disks(observed: &Observed) -> Vec<Disk<'_>> {
    let mut disks: Vec<Disk<'_>> = Vec::new();
    for (name, there) in &observed.members {
        let Some((total, unused)) = there.answer.as_ref().and_then(disk) else { continue };
        let node = there.pod.as_ref().and_then(|pod| pod.node.as_deref());
        let is_it = |disk: &&mut Disk<'_>| {
            let is_near = disk.unused.abs_diff(unused) <= total / SAME_DISK_PART;
            node.is_some() && disk.node == node && disk.total == total && is_near
        };
        match disks.iter_mut().find(is_it) {
            Some(disk) => disk.members.push(name),
            None => disks.push(Disk { node, total, unused, members: vec![name] }),
        }
    }
    disks
}

fn message(leaving: &[&str], moving: u64, free: u64, left: &[&Disk<'_>]) -> String {
    let mib = |bytes: u64| bytes.div_ceil(1024 * 1024);
    let (who, holds) = (leaving.join(", "), if leaving.len() == 1 { "holds" } else { "hold" });
    let (moving, free) = (mib(moving), mib(free));
    let room = format!(
        "{who} {holds} about {moving} MiB, and the members that would stay have room for {free} MiB, with a tenth of each \
         disk, but not more than 1 GiB, left free"
    );
    match left.iter().find(|disk| disk.members.len() > 1) {
        Some(disk) => format!(
            "{room}; {} share a disk of node {}, which is counted once: make room on it, raise spec.storage.size where that \
             makes disks larger, or keep more replicas",
            disk.members.join(", "),
            disk.node.unwrap_or_default()
        ),
        None => format!("{room}: raise spec.storage.size, or keep more replicas"),
    }
}

/// Bytes of a node's disk, and how many of them are unused.
fn disk(answer: &Status) -> Option<(u64, u64)> {
    let (total, unused) = (answer.disk_bytes_total?, answer.disk_bytes_free?);
    (total > 0 && unused <= total).then_some((total, unused))
}
