//! Byte forms of locks: commands, which are log entries too; records; outcomes and views, which only go over links.
//! `docs/storage.md` has the layout of what is stored.

use super::apply::is_ttl;
use super::queue::{Lock, Place};
use super::{Acquire, Command, Holder, Mode, Name, Outcome, PlaceView, View};
use crate::codec::{Reader, Result, Writer};

const VERSION: u8 = 1;

/// Writes the name of a lock.
pub fn write_name(writer: &mut Writer, name: &Name) {
    writer.bytes(name.bytes());
}

/// Reads the name of a lock.
pub fn read_name(reader: &mut Reader) -> Result<Name> {
    let bytes = reader.bytes()?;
    Name::new(bytes).map_err(|_| reader.out_of_range())
}

/// Writes a command.
pub fn write_command(writer: &mut Writer, command: &Command) {
    match command {
        Command::Acquire(Acquire { name, owner, request, description, mode, ttl_ms, wait_ms }) => {
            writer.u8(1);
            write_name(writer, name);
            for bytes in [owner, request, description] {
                writer.bytes(bytes);
            }
            write_mode(writer, *mode);
            writer.u64(*ttl_ms);
            writer.u64(*wait_ms);
        }
        Command::Renew { name, token, ttl_ms } => {
            writer.u8(2);
            write_name(writer, name);
            writer.u64(*token);
            writer.u64(*ttl_ms);
        }
        Command::Release { name, token } => {
            writer.u8(3);
            write_name(writer, name);
            writer.u64(*token);
        }
        Command::Leave { name, token, asked } => {
            writer.u8(4);
            write_name(writer, name);
            writer.u64(*token);
            writer.u64(*asked);
        }
    }
}

/// Reads a command, with every limit checked.
pub fn read_command(reader: &mut Reader) -> Result<Command> {
    let command = match reader.u8()? {
        1 => Command::Acquire(Acquire {
            name: read_name(reader)?,
            owner: reader.bytes()?,
            request: reader.bytes()?,
            description: reader.bytes()?,
            mode: read_mode(reader)?,
            ttl_ms: reader.u64()?,
            wait_ms: reader.u64()?,
        }),
        2 => Command::Renew { name: read_name(reader)?, token: reader.u64()?, ttl_ms: reader.u64()? },
        3 => Command::Release { name: read_name(reader)?, token: reader.u64()? },
        4 => Command::Leave { name: read_name(reader)?, token: reader.u64()?, asked: reader.u64()? },
        id => return Err(reader.unknown(id)),
    };
    let is_valid = match &command {
        Command::Acquire(wish) => wish.is_valid(),
        Command::Renew { ttl_ms, .. } => is_ttl(*ttl_ms),
        Command::Release { .. } | Command::Leave { .. } => true,
    };
    if is_valid { Ok(command) } else { Err(reader.out_of_range()) }
}

fn write_mode(writer: &mut Writer, mode: Mode) {
    writer.u8(match mode {
        Mode::Exclusive => 1,
        Mode::Shared => 2,
    });
}

fn read_mode(reader: &mut Reader) -> Result<Mode> {
    match reader.u8()? {
        1 => Ok(Mode::Exclusive),
        2 => Ok(Mode::Shared),
        id => Err(reader.unknown(id)),
    }
}

/// Writes a lock's record.
pub(super) fn write_lock(writer: &mut Writer, lock: &Lock) {
    let place = |writer: &mut Writer, place: &Place| {
        writer.u64(place.token);
        writer.u64(place.asked);
        write_mode(writer, place.mode);
        for bytes in [&place.owner, &place.request, &place.description] {
            writer.bytes(bytes);
        }
        for number in [place.ttl_ms, place.since_ms, place.deadline_ms] {
            writer.u64(number);
        }
    };
    writer.u8(VERSION);
    writer.option(lock.looks_at_ms, Writer::u64);
    writer.list(&lock.holders, place);
    writer.u32(u32::try_from(lock.waiting.len()).expect("a queue is short"));
    lock.waiting.iter().for_each(|waiting| place(writer, waiting));
}

/// Reads a lock's record.
pub(super) fn read_lock(reader: &mut Reader) -> Result<Lock> {
    let place = |reader: &mut Reader| {
        Ok(Place {
            token: reader.u64()?,
            asked: reader.u64()?,
            mode: read_mode(reader)?,
            owner: reader.bytes()?,
            request: reader.bytes()?,
            description: reader.bytes()?,
            ttl_ms: reader.u64()?,
            since_ms: reader.u64()?,
            deadline_ms: reader.u64()?,
        })
    };
    reader.version(VERSION)?;
    Ok(Lock {
        looks_at_ms: reader.option(Reader::u64)?,
        holders: reader.list(place)?,
        waiting: reader.list(place)?.into(),
    })
}

fn write_holder(writer: &mut Writer, holder: &Holder) {
    writer.u64(holder.token);
    writer.bytes(&holder.owner);
    writer.bytes(&holder.description);
}

fn read_holder(reader: &mut Reader) -> Result<Holder> {
    Ok(Holder { token: reader.u64()?, owner: reader.bytes()?, description: reader.bytes()? })
}

/// Writes an outcome.
pub fn write_outcome(writer: &mut Writer, outcome: &Outcome) {
    match outcome {
        Outcome::Granted { token, valid_ms } => {
            writer.u8(1);
            writer.u64(*token);
            writer.u64(*valid_ms);
        }
        Outcome::Queued { token, clock_ms } => {
            writer.u8(2);
            writer.u64(*token);
            writer.u64(*clock_ms);
        }
        Outcome::Held { by, waiting } => {
            writer.u8(3);
            write_holder(writer, by);
            writer.u32(*waiting);
        }
        Outcome::Full => writer.u8(4),
        Outcome::RequestConflict => writer.u8(5),
        Outcome::Renewed { valid_ms } => {
            writer.u8(6);
            writer.u64(*valid_ms);
        }
        Outcome::Released => writer.u8(7),
        Outcome::NotHeld { by } => {
            writer.u8(8);
            writer.option(by.as_ref(), write_holder);
        }
        Outcome::Pinned => writer.u8(9),
    }
}

/// Reads an outcome.
pub fn read_outcome(reader: &mut Reader) -> Result<Outcome> {
    Ok(match reader.u8()? {
        1 => Outcome::Granted { token: reader.u64()?, valid_ms: reader.u64()? },
        2 => Outcome::Queued { token: reader.u64()?, clock_ms: reader.u64()? },
        3 => Outcome::Held { by: read_holder(reader)?, waiting: reader.u32()? },
        4 => Outcome::Full,
        5 => Outcome::RequestConflict,
        6 => Outcome::Renewed { valid_ms: reader.u64()? },
        7 => Outcome::Released,
        8 => Outcome::NotHeld { by: reader.option(read_holder)? },
        9 => Outcome::Pinned,
        id => return Err(reader.unknown(id)),
    })
}

/// Writes a lock as it is shown.
pub fn write_view(writer: &mut Writer, view: &View) {
    let place = |writer: &mut Writer, place: &PlaceView| {
        writer.u64(place.token);
        writer.bytes(&place.owner);
        writer.bytes(&place.description);
        write_mode(writer, place.mode);
        for number in [place.ttl_ms, place.since_ms, place.left_ms] {
            writer.u64(number);
        }
    };
    write_name(writer, &view.name);
    writer.list(&view.holders, place);
    writer.list(&view.waiting, place);
    writer.u32(view.waiting_count);
}

/// Reads a lock as it is shown.
pub fn read_view(reader: &mut Reader) -> Result<View> {
    let place = |reader: &mut Reader| {
        Ok(PlaceView {
            token: reader.u64()?,
            owner: reader.bytes()?,
            description: reader.bytes()?,
            mode: read_mode(reader)?,
            ttl_ms: reader.u64()?,
            since_ms: reader.u64()?,
            left_ms: reader.u64()?,
        })
    };
    Ok(View {
        name: read_name(reader)?,
        holders: reader.list(place)?,
        waiting: reader.list(place)?,
        waiting_count: reader.u32()?,
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn place() -> impl Strategy<Value = Place> {
        let bytes = || vec(any::<u8>(), 0..9).prop_map(Bytes::from);
        let mode = prop_oneof![Just(Mode::Exclusive), Just(Mode::Shared)];
        (any::<[u64; 5]>(), mode, bytes(), bytes(), bytes()).prop_map(|(numbers, mode, owner, request, description)| {
            let [token, asked, ttl_ms, since_ms, deadline_ms] = numbers;
            Place { token, asked, mode, owner, request, description, ttl_ms, since_ms, deadline_ms }
        })
    }

    proptest! {
        #[test]
        fn a_lock_is_read_back_as_it_was_written(
            holders in vec(place(), 0..4),
            waiting in vec(place(), 0..4),
            looks_at_ms: Option<u64>,
        ) {
            let lock = Lock { holders, waiting: waiting.into(), looks_at_ms };
            let mut writer = Writer::default();
            write_lock(&mut writer, &lock);
            let mut reader = Reader::new(writer.finish(), "lock");
            prop_assert_eq!(read_lock(&mut reader), Ok(lock));
            prop_assert_eq!(reader.end(), Ok(()));
        }

        #[test]
        fn no_bytes_make_reading_a_lock_panic(bytes in vec(prop_oneof![Just(1u8), Just(0), any::<u8>()], 0..120)) {
            let _ = read_lock(&mut Reader::new(bytes.into(), "lock"));
        }
    }
}
