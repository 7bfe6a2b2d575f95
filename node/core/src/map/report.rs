//! What leaders of partitions tell the map group's leader, and what it makes of that.
//!
//! Reports are said again and again, and any of them may be lost: each says how things stand, never what has happened.
//! What the map group's leader knows from them is gone with its leadership, and no decision that could cost data rests on
//! a report alone: what ends a move is told by the epoch that the group itself has replicated.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{MAX_PARTITIONS, Map};
use crate::codec::message::{read_configuration, write_configuration};
use crate::codec::{Reader, Result, Writer, frame::read_member};
use crate::id::{GroupId, MemberId};
use crate::replica::Configuration;
use crate::time::Instant;

/// How often a lane reports, or every tick when ticks are longer.
pub const REPORT_EVERY: Duration = Duration::from_secs(1);

/// What one lane says of the groups that it leads.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The epoch of the newest map that the lane has.
    pub epoch: u64,
    /// Groups that it leads: all of them, or only those where something has happened.
    pub groups: Vec<GroupReport>,
}

/// How a group stands, as its leader sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupReport {
    /// The group.
    pub group: GroupId,
    /// The term in which the sender leads it.
    pub term: u64,
    /// Who votes and who learns, and the epoch of the map that this was last decided under.
    pub configuration: Configuration,
    /// Voters that do not answer, or need a snapshot.
    pub behind: Vec<MemberId>,
    /// About how many bytes the group's keys and values take.
    pub bytes: u64,
    /// How much of that was sent to the member that is being added, if it gets a snapshot now.
    pub sent: Option<u64>,
}

impl GroupReport {
    /// Bytes that were moved since an earlier report. Most moves begin and end between two reports.
    fn moved_since(&self, earlier: &Self) -> u64 {
        let known = &earlier.configuration.state.voters;
        let has_come = self.configuration.state.voters.iter().any(|id| !known.contains(id));
        let moved = if has_come { self.bytes } else { self.sent.unwrap_or_default() };
        moved.saturating_sub(earlier.sent.unwrap_or_default())
    }
}

/// What the map group's leader has heard.
#[derive(Debug, Default)]
pub struct Reports {
    since: Instant,
    /// The time in which everybody that is there reports.
    every: Duration,
    members: BTreeMap<MemberId, (Instant, u64)>,
    groups: BTreeMap<GroupId, (Instant, MemberId, GroupReport)>,
    /// Bytes of snapshots and when they were counted, for the rate.
    rate: Rate,
    /// Whether something was heard since this was last taken.
    news: bool,
}

/// How many bytes were moved lately.
#[derive(Debug, Default)]
struct Rate {
    counted_at: Instant,
    bytes: u64,
    per_second: u64,
}

impl Reports {
    /// Nothing heard yet. Whoever reports does so each second, or each of its ticks when these are longer.
    pub fn new(now: Instant, tick: Duration) -> Self {
        Self {
            since: now,
            every: REPORT_EVERY.max(tick),
            rate: Rate { counted_at: now, ..Rate::default() },
            ..Self::default()
        }
    }

    /// Takes a report. What it says of groups that no store has is passed over.
    pub fn take(&mut self, now: Instant, from: MemberId, report: Report) {
        let (heard, epoch) = self.members.entry(from).or_insert((now, 0));
        (*heard, *epoch) = (now, report.epoch.max(*epoch));
        self.news = true;
        for report in report.groups.into_iter().filter(|report| report.group.0 <= MAX_PARTITIONS) {
            let known = self.groups.get(&report.group);
            let age = |report: &GroupReport| (report.term, report.configuration.epoch);
            if known.is_none_or(|(_, _, known)| age(known) <= age(&report)) {
                let bytes = known.map_or(0, |(_, _, known)| report.moved_since(known));
                self.rate.count(now, bytes);
                self.groups.insert(report.group, (now, from, report));
            }
        }
    }

    /// There is something to think about anew.
    pub fn note_news(&mut self) {
        self.news = true;
    }

    /// Whether something was heard since this was asked last.
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// How long ago a member was heard of, and the epoch of the map that it had.
    pub fn heard(&self, now: Instant, member: MemberId) -> Option<(Duration, u64)> {
        self.members.get(&member).map(|(at, epoch)| (now.since(*at), *epoch))
    }

    /// Whether a member was heard of lately.
    pub fn is_there(&self, now: Instant, member: MemberId) -> bool {
        self.heard(now, member).is_some_and(|(ago, _)| self.is_recent(ago))
    }

    /// A member or a leader of which three reports are missing counts as not there.
    fn is_recent(&self, ago: Duration) -> bool {
        ago < 3 * self.every
    }

    /// How a group stands, if its leader was heard of lately; and who that is.
    pub fn group(&self, now: Instant, group: GroupId) -> Option<(MemberId, &GroupReport)> {
        let (at, leader, report) = self.groups.get(&group)?;
        self.is_recent(now.since(*at)).then_some((*leader, report))
    }

    /// How a group stood when it was last heard of.
    pub fn last(&self, group: GroupId) -> Option<&GroupReport> {
        self.groups.get(&group).map(|(_, _, report)| report)
    }

    /// Whether enough time has passed to tell who is missing: for two reports of everybody.
    pub fn is_informed(&self, now: Instant) -> bool {
        now.since(self.since) >= 2 * self.every
    }

    /// Voters of a group that answer its leader. `None` when no leader was heard of lately.
    pub fn answering(&self, now: Instant, map: &Map, group: GroupId) -> Option<BTreeSet<MemberId>> {
        let (_, report) = self.group(now, group)?;
        let (voters, _) = map.group(group)?;
        Some(voters.iter().copied().filter(|id| !report.behind.contains(id)).collect())
    }

    /// Bytes of snapshots a second, lately.
    pub fn bytes_per_second(&self) -> u64 {
        self.rate.per_second
    }
}

impl Rate {
    fn count(&mut self, now: Instant, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        let passed = now.since(self.counted_at);
        if passed >= Duration::from_secs(1) {
            let per_second = (self.bytes as f64 / passed.as_secs_f64()) as u64;
            // Half of the old figure, so that it does not jump with each group that ends.
            self.per_second = if self.per_second == 0 { per_second } else { self.per_second.midpoint(per_second) };
            (self.bytes, self.counted_at) = (0, now);
        }
    }
}

/// Writes a report.
pub fn write_report(writer: &mut Writer, report: &Report) {
    writer.u64(report.epoch);
    writer.list(&report.groups, |writer, group| {
        writer.u32(group.group.0);
        writer.u64(group.term);
        write_configuration(writer, &group.configuration);
        writer.list(&group.behind, |writer, id| writer.u64(id.get()));
        writer.u64(group.bytes);
        writer.option(group.sent, Writer::u64);
    });
}

/// Reads a report.
pub fn read_report(reader: &mut Reader) -> Result<Report> {
    Ok(Report {
        epoch: reader.u64()?,
        groups: reader.list(|reader| {
            Ok(GroupReport {
                group: GroupId(reader.u32()?),
                term: reader.u64()?,
                configuration: read_configuration(reader)?,
                behind: reader.list(read_member)?,
                bytes: reader.u64()?,
                sent: reader.option(Reader::u64)?,
            })
        })?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_that_was_over_between_two_reports_counts_for_the_rate() {
        let mut reports = Reports::new(Instant(0), REPORT_EVERY);
        let mut tell = |second: u64, voters: &[u64], sent: Option<u64>| {
            let mut configuration = Configuration::default();
            configuration.state.voters = voters.to_vec();
            let group =
                GroupReport { group: GroupId(1), term: 2, configuration, behind: Vec::new(), bytes: 8000, sent };
            let now = Instant::default() + Duration::from_secs(second);
            reports.take(now, MemberId::new(1).unwrap(), Report { epoch: 1, groups: vec![group] });
            reports.bytes_per_second()
        };
        assert_eq!(tell(1, &[1, 2, 3], None), 0);
        assert_eq!(tell(2, &[1, 2, 3], Some(2000)), 2000);
        assert_eq!(tell(3, &[1, 2, 4], None), (2000 + 6000) / 2);
        assert_eq!(tell(4, &[1, 5, 4], None), (4000 + 8000) / 2);
    }
}
