//! A change of the map, as the map group replicates it: what is different, and why.

use bytes::Bytes;

use super::codec::{read_assignment, read_map_member, read_move, write_assignment, write_map_member, write_move};
use super::{Assignment, Map, Member, Move};
use crate::codec::{Reader, Result, Writer, frame::read_member};
use crate::id::{GroupId, MemberId, PartitionId};

/// What is different in the next map, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The epoch of the map that it changes. Applied to any other map it does nothing.
    pub base: u64,
    /// When it was worked out, in milliseconds since 1970 on the leader's wall clock; 0: not known. For people only.
    pub at_ms: u64,
    /// Why.
    pub reason: Reason,
    /// The highest operator fence.
    pub fence: u64,
    /// All members, if any of them is different.
    pub members: Option<Vec<Member>>,
    /// The partitions that are held by others.
    pub assignments: Vec<(PartitionId, Assignment)>,
    /// The map group's voters, if they are others.
    pub map_voters: Option<Vec<MemberId>>,
    /// The partitions that are to be held by others in the end; `None`: it is where it is to be.
    pub targets: Vec<(PartitionId, Option<Assignment>)>,
    /// The map group's voters to be, if they are others.
    pub map_target: Option<Vec<MemberId>>,
    /// Moves that begin or are different now; `None`: it has ended.
    pub moves: Vec<(GroupId, Option<Move>)>,
}

/// Why the map changed, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The store was made.
    Bootstrap,
    /// The desired set of members was said.
    Members(String),
    /// A member is to be drained.
    Drain(String),
    /// A drain was taken back.
    Undrain(String),
    /// A member was removed.
    Remove(String),
    /// Moves began or ended; several such changes in a row are told as one.
    Moves {
        /// How many began.
        started: u32,
        /// How many ended as they were meant to.
        finished: u32,
        /// How many were taken back.
        cancelled: u32,
        /// What else happened because of that: who joined, who left.
        message: String,
    },
}

impl Change {
    /// What makes `new` of `old`. `None` when they do not differ but for the epoch.
    pub fn between(old: &Map, new: &Map, reason: Reason, at_ms: u64) -> Option<Self> {
        fn differing<K: Ord + Copy, V: PartialEq + Clone>(
            old: &std::collections::BTreeMap<K, V>,
            new: &std::collections::BTreeMap<K, V>,
        ) -> Vec<(K, Option<V>)> {
            let gone = old.keys().filter(|key| !new.contains_key(key)).map(|key| (*key, None));
            let changed = new.iter().filter(|(key, value)| old.get(key) != Some(value));
            gone.chain(changed.map(|(key, value)| (*key, Some(value.clone())))).collect()
        }
        let pairs = (0..).map(PartitionId).zip(old.assignments.iter().zip(&new.assignments));
        let change = Self {
            base: old.epoch,
            at_ms,
            reason,
            fence: new.fence,
            members: (old.members != new.members).then(|| new.members.clone()),
            assignments: pairs.filter(|(_, (a, b))| a != b).map(|(at, (_, b))| (at, b.clone())).collect(),
            map_voters: (old.map_voters != new.map_voters).then(|| new.map_voters.clone()),
            targets: differing(&old.targets, &new.targets),
            map_target: (old.map_target != new.map_target).then(|| new.map_target.clone()),
            moves: differing(&old.moves, &new.moves),
        };
        (change.changes_map() || change.fence != old.fence).then_some(change)
    }

    fn changes_map(&self) -> bool {
        self.members.is_some()
            || self.map_voters.is_some()
            || self.map_target.is_some()
            || !(self.assignments.is_empty() && self.targets.is_empty() && self.moves.is_empty())
    }

    /// The next map. `None` when this is a change of another map, or would make one that breaks the map's rules.
    pub fn apply(&self, map: &Map) -> Option<Map> {
        if map.epoch != self.base {
            return None;
        }
        let mut next = map.clone();
        next.epoch += 1;
        next.fence = self.fence;
        if let Some(members) = &self.members {
            next.members.clone_from(members);
        }
        for (partition, assignment) in &self.assignments {
            next.assignments.get_mut(partition.0 as usize)?.clone_from(assignment);
        }
        if let Some(voters) = &self.map_voters {
            next.map_voters.clone_from(voters);
        }
        for (partition, target) in &self.targets {
            match target {
                Some(target) => drop(next.targets.insert(*partition, target.clone())),
                None => drop(next.targets.remove(partition)),
            }
        }
        if let Some(target) = &self.map_target {
            next.map_target.clone_from(target);
        }
        for (group, moving) in &self.moves {
            match moving {
                Some(moving) => drop(next.moves.insert(*group, *moving)),
                None => drop(next.moves.remove(group)),
            }
        }
        next.broken_rule().is_none().then_some(next)
    }
}

/// Writes a change.
pub fn write_change(writer: &mut Writer, change: &Change) {
    writer.u64(change.base);
    writer.u64(change.at_ms);
    write_reason(writer, &change.reason);
    writer.u64(change.fence);
    writer.option(change.members.as_ref(), |writer, members| writer.list(members, write_map_member));
    writer.list(&change.assignments, |writer, (partition, assignment)| {
        writer.u32(partition.0);
        write_assignment(writer, assignment);
    });
    let ids = |writer: &mut Writer, ids: &Vec<MemberId>| writer.list(ids, |writer, id| writer.u64(id.get()));
    writer.option(change.map_voters.as_ref(), ids);
    writer.list(&change.targets, |writer, (partition, target)| {
        writer.u32(partition.0);
        writer.option(target.as_ref(), write_assignment);
    });
    writer.option(change.map_target.as_ref(), ids);
    writer.list(&change.moves, |writer, (group, moving)| {
        writer.u32(group.0);
        writer.option(moving.as_ref(), write_move);
    });
}

/// Reads a change.
pub fn read_change(reader: &mut Reader) -> Result<Change> {
    Ok(Change {
        base: reader.u64()?,
        at_ms: reader.u64()?,
        reason: read_reason(reader)?,
        fence: reader.u64()?,
        members: reader.option(|reader| reader.list(read_map_member))?,
        assignments: reader.list(|reader| Ok((PartitionId(reader.u32()?), read_assignment(reader)?)))?,
        map_voters: reader.option(|reader| reader.list(read_member))?,
        targets: reader.list(|reader| Ok((PartitionId(reader.u32()?), reader.option(read_assignment)?)))?,
        map_target: reader.option(|reader| reader.list(read_member))?,
        moves: reader.list(|reader| Ok((GroupId(reader.u32()?), reader.option(read_move)?)))?,
    })
}

/// Writes a reason.
pub(super) fn write_reason(writer: &mut Writer, reason: &Reason) {
    let mut text = |id: u8, message: &str| {
        writer.u8(id);
        writer.bytes(message.as_bytes());
    };
    match reason {
        Reason::Bootstrap => writer.u8(1),
        Reason::Members(message) => text(2, message),
        Reason::Drain(message) => text(3, message),
        Reason::Undrain(message) => text(4, message),
        Reason::Remove(message) => text(5, message),
        Reason::Moves { started, finished, cancelled, message } => {
            text(6, message);
            writer.u32(*started);
            writer.u32(*finished);
            writer.u32(*cancelled);
        }
    }
}

/// Reads a reason.
pub(super) fn read_reason(reader: &mut Reader) -> Result<Reason> {
    Ok(match reader.u8()? {
        1 => Reason::Bootstrap,
        2 => Reason::Members(reader.text()?),
        3 => Reason::Drain(reader.text()?),
        4 => Reason::Undrain(reader.text()?),
        5 => Reason::Remove(reader.text()?),
        6 => {
            let message = reader.text()?;
            let (started, finished, cancelled) = (reader.u32()?, reader.u32()?, reader.u32()?);
            Reason::Moves { started, finished, cancelled, message }
        }
        id => return Err(reader.unknown(id)),
    })
}

/// The payload of an entry of the map group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// Change the map.
    Change(Change),
    /// Change who votes in the map group.
    Configure(crate::replica::Configure),
}

/// Version of the payload.
const VERSION: u8 = 1;
const CHANGE: u8 = 1;
const CONFIGURE: u8 = 2;

impl Entry {
    /// The byte form: `version:u8 kind:u8 body`.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::with_capacity(256);
        writer.u8(VERSION);
        match self {
            Self::Change(change) => {
                writer.u8(CHANGE);
                write_change(&mut writer, change);
            }
            Self::Configure(configure) => {
                writer.u8(CONFIGURE);
                configure.write(&mut writer);
            }
        }
        writer.finish()
    }

    /// Reads the byte form.
    pub fn decode(bytes: Bytes) -> Result<Self> {
        let mut reader = Reader::new(bytes, "map entry");
        reader.version(VERSION)?;
        let entry = match reader.u8()? {
            CHANGE => Self::Change(read_change(&mut reader)?),
            CONFIGURE => Self::Configure(crate::replica::Configure::read(&mut reader)?),
            id => return Err(reader.unknown(id)),
        };
        reader.end()?;
        Ok(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{bootstrap, members};
    use super::super::{MemberState, command};
    use super::*;

    fn reason() -> Reason {
        Reason::Drain("m1".to_owned())
    }

    #[test]
    fn a_change_makes_the_one_map_of_the_other_and_nothing_of_any_later_one() {
        let before = bootstrap(members(5)).unwrap();
        let mut after = before.clone();
        after.members[0].state = MemberState::Draining;
        command::retarget(&mut after);
        let change = Change::between(&before, &after, reason(), 7).unwrap();
        let made = change.apply(&before).unwrap();
        assert_eq!(made, Map { epoch: before.epoch + 1, ..after });
        assert_eq!(change.apply(&made), None, "it is of another map by now");
        assert_eq!(Change::between(&made, &made, reason(), 7), None);
    }

    #[test]
    fn a_new_fence_alone_is_a_change() {
        let before = bootstrap(members(3)).unwrap();
        let change = Change::between(&before, &Map { fence: 4, ..before.clone() }, reason(), 7).unwrap();
        assert!(!change.changes_map());
        assert_eq!(change.apply(&before).unwrap().fence, 4);
    }

    #[test]
    fn a_change_that_would_break_a_rule_makes_no_map() {
        let before = bootstrap(members(3)).unwrap();
        let stranger = MemberId::new(77).unwrap();
        let nothing = Change::between(&before, &Map { fence: 4, ..before.clone() }, reason(), 7).unwrap();
        let broken = [
            Change { members: Some(Vec::new()), ..nothing.clone() },
            Change { map_voters: Some(vec![stranger]), ..nothing.clone() },
            Change { assignments: vec![(PartitionId(99), before.assignments[0].clone())], ..nothing.clone() },
            Change { targets: vec![(PartitionId(99), Some(before.assignments[0].clone()))], ..nothing.clone() },
            Change {
                moves: vec![(GroupId(1), Some(Move { add: Some(stranger), remove: None, cancelled: false, epoch: 2 }))],
                ..nothing.clone()
            },
        ];
        for change in broken {
            assert_eq!(change.apply(&before), None, "{change:?}");
        }
    }
}
