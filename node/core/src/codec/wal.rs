//! The payload of a WAL record: the writes of one round.

use bytes::Bytes;
use raft::eraftpb::HardState;

use super::message::{
    read_conf_state, read_entry, read_position, read_records, write_conf_state, write_entry, write_position,
    write_records,
};
use super::{Reader, Result, Writer};
use crate::id::GroupId;
use crate::lane::{GroupWrite, Installed, Staged};

/// Writes the writes of a round.
pub fn write_groups(writer: &mut Writer, groups: &[GroupWrite]) {
    writer.list(groups, |writer, write| {
        writer.u32(write.group.0);
        writer.list(&write.staged, |writer, staged| {
            writer.u32(staged.generation);
            writer.bool(staged.first);
            write_records(writer, &staged.records);
        });
        writer.option(write.installed.as_ref(), |writer, installed| {
            writer.u32(installed.generation);
            write_position(writer, installed.position);
            write_conf_state(writer, &installed.conf_state);
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

/// Reads the writes of a round.
pub fn read_groups(payload: Bytes) -> Result<Vec<GroupWrite>> {
    let mut reader = Reader::new(payload, "WAL record");
    let groups = reader.list(read_group)?;
    reader.end()?;
    Ok(groups)
}

fn read_group(reader: &mut Reader) -> Result<GroupWrite> {
    Ok(GroupWrite {
        group: GroupId(reader.u32()?),
        staged: reader.list(|reader| {
            Ok(Staged { generation: reader.u32()?, first: reader.bool()?, records: read_records(reader)? })
        })?,
        installed: reader.option(|reader| {
            Ok(Installed {
                generation: reader.u32()?,
                position: read_position(reader)?,
                conf_state: read_conf_state(reader)?,
            })
        })?,
        log_start: reader.option(read_position)?,
        hard_state: reader.option(|reader| {
            Ok(HardState { term: reader.u64()?, vote: reader.u64()?, commit: reader.u64()?, ..HardState::default() })
        })?,
        entries: reader.list(read_entry)?,
    })
}
