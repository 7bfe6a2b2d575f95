//! The payload of a WAL record: the writes of one round.

use bytes::Bytes;
use raft::eraftpb::HardState;

use super::message::{
    read_configuration, read_configuration_without_epoch, read_entry, read_position, read_records, write_configuration,
    write_entry, write_position, write_records,
};
use super::{Reader, Result, Writer};
use crate::id::GroupId;
use crate::lane::{GroupWrite, Installed, Staged};
use crate::replica::{read_tombstone, write_tombstone};

/// Writes the writes of a round.
pub fn write_groups(writer: &mut Writer, groups: &[GroupWrite]) {
    writer.list(groups, |writer, write| {
        writer.u32(write.group.0);
        writer.option(write.dropped, write_tombstone);
        writer.list(&write.staged, |writer, staged| {
            writer.u32(staged.generation);
            writer.bool(staged.first);
            write_records(writer, &staged.records);
        });
        writer.option(write.installed.as_ref(), |writer, installed| {
            writer.u32(installed.generation);
            write_position(writer, installed.position);
            write_configuration(writer, &installed.configuration);
        });
        writer.option(write.log_start, write_position);
        writer.option(write.hard_state.as_ref(), |writer, hard| {
            writer.u64(hard.term);
            writer.u64(hard.vote);
            writer.u64(hard.commit);
        });
        writer.list(&write.entries, write_entry);
    });
}

/// The version of this form that is written. Version 1 had no dropped replicas, and no epoch beside a configuration.
pub const VERSION: u8 = 2;

/// Reads the writes of a round, in this version of their form.
pub fn read_groups(payload: Bytes, version: u8) -> Result<Vec<GroupWrite>> {
    let mut reader = Reader::new(payload, "WAL record");
    let groups = reader.list(|reader| read_group(reader, version))?;
    reader.end()?;
    Ok(groups)
}

fn read_group(reader: &mut Reader, version: u8) -> Result<GroupWrite> {
    Ok(GroupWrite {
        group: GroupId(reader.u32()?),
        dropped: if version == 1 { None } else { reader.option(read_tombstone)? },
        staged: reader.list(|reader| {
            Ok(Staged { generation: reader.u32()?, first: reader.bool()?, records: read_records(reader)? })
        })?,
        installed: reader.option(|reader| {
            Ok(Installed {
                generation: reader.u32()?,
                position: read_position(reader)?,
                configuration: match version {
                    1 => read_configuration_without_epoch(reader)?,
                    _ => read_configuration(reader)?,
                },
            })
        })?,
        log_start: reader.option(read_position)?,
        hard_state: reader.option(|reader| {
            Ok(HardState { term: reader.u64()?, vote: reader.u64()?, commit: reader.u64()?, ..HardState::default() })
        })?,
        entries: reader.list(read_entry)?,
    })
}
