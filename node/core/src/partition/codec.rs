//! Byte forms of what a partition is asked and answers. Writes and outcomes are stored, too: `docs/storage.md` has
//! their layout. Reads, scans, items and pages only go over links.

use crate::codec::{Reader, Result, Writer};

use super::command::{
    Change, Condition, Consistency, Item, Key, MAX_IDEMPOTENCY_KEY_BYTES, MAX_SCAN_KEYS, MAX_TTL_MS, MAX_VALUE_BYTES,
    Outcome, Page, Scan, Write,
};
use super::fence::Fence;
use super::lock::codec::{read_name, write_name};

/// Reads a key.
pub fn read_key(reader: &mut Reader) -> Result<Key> {
    let bytes = reader.bytes()?;
    Key::new(bytes).map_err(|_| reader.out_of_range())
}

/// Writes a write, but for its fence.
pub fn write_write(writer: &mut Writer, write: &Write) {
    writer.bytes(write.key.bytes());
    match write.condition {
        Condition::Always => writer.u8(0),
        Condition::Exists => writer.u8(1),
        Condition::Absent => writer.u8(2),
        Condition::Version(version) => {
            writer.u8(3);
            writer.u64(version);
        }
    }
    writer.option(write.idempotency_key.as_ref(), |writer, key| writer.bytes(key));
    match &write.change {
        Change::Put { value, ttl_ms } => {
            writer.u8(1);
            writer.option(*ttl_ms, Writer::u64);
            writer.bytes(value);
        }
        Change::Delete => writer.u8(2),
    }
}

/// Writes a fence.
pub fn write_fence(writer: &mut Writer, fence: &Fence) {
    write_name(writer, &fence.lock);
    writer.u64(fence.token);
    writer.bool(fence.is_held);
}

/// Reads a fence.
pub fn read_fence(reader: &mut Reader) -> Result<Fence> {
    Ok(Fence { lock: read_name(reader)?, token: reader.u64()?, is_held: reader.bool()? })
}

/// Writes a write and its fence.
pub fn write_fenced(writer: &mut Writer, write: &Write, fence: &Fence) {
    write_fence(writer, fence);
    write_write(writer, write);
}

/// Reads a write and its fence.
pub fn read_fenced(reader: &mut Reader) -> Result<Write> {
    let fence = read_fence(reader)?;
    Ok(Write { fence: Some(fence), ..read_write(reader)? })
}

/// Reads a write without a fence, with every limit checked.
pub fn read_write(reader: &mut Reader) -> Result<Write> {
    let key = read_key(reader)?;
    let condition = match reader.u8()? {
        0 => Condition::Always,
        1 => Condition::Exists,
        2 => Condition::Absent,
        3 => Condition::Version(reader.u64()?),
        id => return Err(reader.unknown(id)),
    };
    let idempotency_key = reader.option(Reader::bytes)?;
    if idempotency_key.as_ref().is_some_and(|key| key.is_empty() || key.len() > MAX_IDEMPOTENCY_KEY_BYTES) {
        return Err(reader.out_of_range());
    }
    let change = match reader.u8()? {
        1 => {
            let ttl_ms = reader.option(Reader::u64)?;
            if ttl_ms.is_some_and(|ttl| ttl == 0 || ttl > MAX_TTL_MS) {
                return Err(reader.out_of_range());
            }
            let value = reader.bytes()?;
            if value.len() > MAX_VALUE_BYTES {
                return Err(reader.out_of_range());
            }
            Change::Put { value, ttl_ms }
        }
        2 => Change::Delete,
        id => return Err(reader.unknown(id)),
    };
    Ok(Write { key, condition, change, idempotency_key, fence: None })
}

/// Writes an outcome.
pub fn write_outcome(writer: &mut Writer, outcome: Outcome) {
    match outcome {
        Outcome::Written { version, created } => {
            writer.u8(1);
            writer.u64(version);
            writer.bool(created);
        }
        Outcome::Deleted => writer.u8(2),
        Outcome::NotFound => writer.u8(3),
        Outcome::ConditionFailed { current } => {
            writer.u8(4);
            writer.option(current, Writer::u64);
        }
        Outcome::IdempotencyConflict => writer.u8(5),
        Outcome::StaleFence { newest } => {
            writer.u8(6);
            writer.option(newest, Writer::u64);
        }
        Outcome::TooManyFences => writer.u8(7),
        Outcome::Blocked => writer.u8(8),
    }
}

/// Reads an outcome.
pub fn read_outcome(reader: &mut Reader) -> Result<Outcome> {
    Ok(match reader.u8()? {
        1 => Outcome::Written { version: reader.u64()?, created: reader.bool()? },
        2 => Outcome::Deleted,
        3 => Outcome::NotFound,
        4 => Outcome::ConditionFailed { current: reader.option(Reader::u64)? },
        5 => Outcome::IdempotencyConflict,
        6 => Outcome::StaleFence { newest: reader.option(Reader::u64)? },
        7 => Outcome::TooManyFences,
        8 => Outcome::Blocked,
        id => return Err(reader.unknown(id)),
    })
}

/// Writes a key's value.
pub fn write_item(writer: &mut Writer, item: &Item) {
    writer.u64(item.version);
    writer.bytes(&item.value);
}

/// Reads a key's value.
pub fn read_item(reader: &mut Reader) -> Result<Item> {
    Ok(Item { version: reader.u64()?, value: reader.bytes()? })
}

/// Writes who may answer a read.
pub fn write_consistency(writer: &mut Writer, consistency: Consistency) {
    writer.u8(match consistency {
        Consistency::Linearizable => 1,
        Consistency::Quorum => 2,
        Consistency::Stale => 3,
    });
}

/// Reads who may answer a read.
pub fn read_consistency(reader: &mut Reader) -> Result<Consistency> {
    Ok(match reader.u8()? {
        1 => Consistency::Linearizable,
        2 => Consistency::Quorum,
        3 => Consistency::Stale,
        id => return Err(reader.unknown(id)),
    })
}

/// Writes a scan.
pub fn write_scan(writer: &mut Writer, scan: &Scan) {
    writer.bytes(&scan.prefix);
    writer.option(scan.after.as_ref(), |writer, after| writer.bytes(after));
    writer.u32(scan.limit);
    writer.bool(scan.values);
}

/// Reads a scan.
pub fn read_scan(reader: &mut Reader) -> Result<Scan> {
    let scan = Scan {
        prefix: reader.bytes()?,
        after: reader.option(Reader::bytes)?,
        limit: reader.u32()?,
        values: reader.bool()?,
    };
    if scan.limit == 0 || scan.limit > MAX_SCAN_KEYS { Err(reader.out_of_range()) } else { Ok(scan) }
}

/// Writes a page of keys.
pub fn write_page(writer: &mut Writer, page: &Page) {
    writer.list(&page.items, |writer, (key, item)| {
        writer.bytes(key);
        write_item(writer, item);
    });
    writer.bool(page.more);
}

/// Reads a page of keys.
pub fn read_page(reader: &mut Reader) -> Result<Page> {
    let items = reader.list(|reader| Ok((reader.bytes()?, read_item(reader)?)))?;
    Ok(Page { items, more: reader.bool()? })
}
