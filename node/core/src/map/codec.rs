//! The byte form of a map: `docs/storage.md` has its layout.

use bytes::Bytes;

use super::{Assignment, Map, Member, MemberState, Move};
use crate::codec::{Reader, Result, Writer, frame::read_member};
use crate::id::{ClusterId, GroupId, PartitionId};

/// Version of the byte form. Version 1 had no fence, targets or moves, and no members on their way out.
const VERSION: u8 = 2;

impl Map {
    /// The byte form of the map.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::with_capacity(64 + self.members.len() * 128 + self.assignments.len() * 40);
        writer.u8(VERSION);
        writer.raw(&self.cluster.0);
        writer.u64(self.epoch);
        writer.u8(u8::try_from(self.replication_factor).expect("checked when made"));
        writer.list(&self.members, write_map_member);
        writer.list(&self.assignments, write_assignment);
        writer.list(&self.map_voters, |writer, id| writer.u64(id.get()));
        writer.u64(self.fence);
        writer.list(&self.targets.iter().collect::<Vec<_>>(), |writer, (partition, target)| {
            writer.u32(partition.0);
            write_assignment(writer, target);
        });
        writer.list(&self.map_target, |writer, id| writer.u64(id.get()));
        writer.list(&self.moves.iter().collect::<Vec<_>>(), |writer, (group, moving)| {
            writer.u32(group.0);
            write_move(writer, moving);
        });
        writer.finish()
    }

    /// Reads the byte form of a map.
    pub fn decode(bytes: Bytes) -> Result<Self> {
        let mut reader = Reader::new(bytes, "map");
        let version = reader.version(VERSION)?;
        let cluster = reader.raw(16)?;
        let mut map = Self {
            cluster: ClusterId(cluster[..].try_into().map_err(|_| reader.out_of_range())?),
            epoch: reader.u64()?,
            replication_factor: usize::from(reader.u8()?),
            members: reader.list(read_map_member)?,
            assignments: reader.list(read_assignment)?,
            map_voters: reader.list(read_member)?,
            fence: 0,
            targets: Default::default(),
            map_target: Vec::new(),
            moves: Default::default(),
        };
        if version == 1 {
            map.map_target.clone_from(&map.map_voters);
        } else {
            map.fence = reader.u64()?;
            let targets = reader.list(|reader| Ok((PartitionId(reader.u32()?), read_assignment(reader)?)))?;
            map.targets = targets.into_iter().collect();
            map.map_target = reader.list(read_member)?;
            let moves = reader.list(|reader| Ok((GroupId(reader.u32()?), read_move(reader)?)))?;
            map.moves = moves.into_iter().collect();
        }
        if map.broken_rule().is_some() {
            return Err(reader.out_of_range());
        }
        reader.end()?;
        Ok(map)
    }
}

/// Writes a member.
pub(super) fn write_map_member(writer: &mut Writer, member: &Member) {
    writer.u64(member.id.get());
    for text in [&member.name, &member.zone, &member.client_address, &member.peer_address, &member.admin_address] {
        writer.bytes(text.as_bytes());
    }
    writer.u32(member.weight);
    writer.u8(match member.state {
        MemberState::Joining => 1,
        MemberState::Active => 2,
        MemberState::Leaving => 3,
        MemberState::Draining => 4,
    });
}

/// Reads a member.
pub(super) fn read_map_member(reader: &mut Reader) -> Result<Member> {
    Ok(Member {
        id: read_member(reader)?,
        name: reader.text()?,
        zone: reader.text()?,
        client_address: reader.text()?,
        peer_address: reader.text()?,
        admin_address: reader.text()?,
        weight: reader.u32()?,
        state: match reader.u8()? {
            1 => MemberState::Joining,
            2 => MemberState::Active,
            3 => MemberState::Leaving,
            4 => MemberState::Draining,
            id => return Err(reader.unknown(id)),
        },
    })
}

/// Writes who holds a partition.
pub(super) fn write_assignment(writer: &mut Writer, assignment: &Assignment) {
    writer.list(&assignment.replicas, |writer, id| writer.u64(id.get()));
    writer.u64(assignment.leader.get());
}

/// Reads who holds a partition.
pub(super) fn read_assignment(reader: &mut Reader) -> Result<Assignment> {
    Ok(Assignment { replicas: reader.list(read_member)?, leader: read_member(reader)? })
}

/// Writes a move.
pub(super) fn write_move(writer: &mut Writer, moving: &Move) {
    writer.option(moving.add, |writer, id| writer.u64(id.get()));
    writer.option(moving.remove, |writer, id| writer.u64(id.get()));
    writer.bool(moving.cancelled);
    writer.u64(moving.epoch);
}

/// Reads a move.
pub(super) fn read_move(reader: &mut Reader) -> Result<Move> {
    Ok(Move {
        add: reader.option(read_member)?,
        remove: reader.option(read_member)?,
        cancelled: reader.bool()?,
        epoch: reader.u64()?,
    })
}
