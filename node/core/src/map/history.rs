//! The last changes of the map, each with its reason and the map that it made.
//!
//! A ring that grows changes its map some hundred times while replicas move. Told one by one they would push everything
//! else out, so moves that follow on each other are one event, which grows.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::Map;
use super::change::{Change, Reason, read_reason, write_reason};
use crate::codec::{self, Reader, Writer};
use crate::state::{self, State, TableId};

/// How many events are kept.
pub const MAX_EVENTS: usize = 100;
/// What the keys of the events begin with; the event's number follows, big-endian.
const PREFIX: &[u8] = b"history/";
const VERSION: u8 = 1;

/// A change of the map, or several moves in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The epoch that it began with.
    pub first_epoch: u64,
    /// The epoch of the map that it made.
    pub epoch: u64,
    /// When, in milliseconds since 1970, on the wall clock of whoever led then; 0: not known.
    pub at_ms: u64,
    /// The highest operator fence then.
    pub fence: u64,
    /// Why.
    pub reason: Reason,
}

/// The numbers of the events that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct History {
    /// The oldest; meaningless when there is none.
    first: u64,
    /// One more than the newest.
    end: u64,
}

impl History {
    /// The history in this table.
    pub(super) fn load(state: &dyn State, table: TableId) -> Result<Self, state::Error> {
        let (mut first, mut end) = (None, 0);
        state.range(table, PREFIX, None, &mut |key, _| {
            let Some(number) = number(key) else { return ControlFlow::Break(()) };
            first.get_or_insert(number);
            end = number + 1;
            ControlFlow::Continue(())
        })?;
        Ok(Self { first: first.unwrap_or_default(), end })
    }

    /// Takes note of a change and the map that it made.
    pub(super) fn note(
        &mut self,
        state: &mut dyn State,
        table: TableId,
        change: &Change,
        map: &Map,
    ) -> Result<(), state::Error> {
        let mut event = Event {
            first_epoch: map.epoch,
            epoch: map.epoch,
            at_ms: change.at_ms,
            fence: map.fence,
            reason: change.reason.clone(),
        };
        let last = if self.end > self.first { self.read(state, table, self.end - 1)? } else { None };
        match last.and_then(|(last, _)| join(&last, &event)) {
            Some(joined) => event = joined,
            None => self.end += 1,
        }
        state.put(table, key(self.end - 1), encode(&event, map));
        while self.end - self.first > MAX_EVENTS as u64 {
            state.delete(table, key(self.first));
            self.first += 1;
        }
        Ok(())
    }

    /// All events, the newest first.
    pub(super) fn events(&self, state: &dyn State, table: TableId) -> Result<Vec<Event>, state::Error> {
        let numbers = (self.first..self.end).rev();
        let events = numbers.map(|number| self.read(state, table, number));
        events.filter_map(Result::transpose).map(|read| read.map(|(event, _)| event)).collect()
    }

    /// The map as some event has left it.
    pub(super) fn map_at(&self, state: &dyn State, table: TableId, epoch: u64) -> Result<Option<Bytes>, state::Error> {
        for number in (self.first..self.end).rev() {
            if let Some((event, map)) = self.read(state, table, number)?
                && event.epoch == epoch
            {
                return Ok(Some(map));
            }
        }
        Ok(None)
    }

    fn read(&self, state: &dyn State, table: TableId, number: u64) -> Result<Option<(Event, Bytes)>, state::Error> {
        let Some(bytes) = state.get(table, &key(number))? else { return Ok(None) };
        let damaged = |error: codec::Error| state::Error { group: table.group, reason: format!("history: {error}") };
        decode(bytes).map(Some).map_err(damaged)
    }
}

/// Moves after moves are one event.
fn join(last: &Event, next: &Event) -> Option<Event> {
    let Reason::Moves { started, finished, cancelled, message } = &last.reason else { return None };
    let Reason::Moves { started: more, finished: done, cancelled: undone, message: new } = &next.reason else {
        return None;
    };
    // Who came and who went is told apart.
    if !message.is_empty() || !new.is_empty() {
        return None;
    }
    let reason = Reason::Moves {
        started: started + more,
        finished: finished + done,
        cancelled: cancelled + undone,
        message: String::new(),
    };
    Some(Event { first_epoch: last.first_epoch, reason, ..next.clone() })
}

fn key(number: u64) -> Bytes {
    [PREFIX, &number.to_be_bytes()].concat().into()
}

fn number(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.strip_prefix(PREFIX)?.try_into().ok()?))
}

fn encode(event: &Event, map: &Map) -> Bytes {
    let mut writer = Writer::with_capacity(128);
    writer.u8(VERSION);
    write_event(&mut writer, event);
    writer.bytes(&map.encode());
    writer.finish()
}

fn decode(bytes: Bytes) -> codec::Result<(Event, Bytes)> {
    let mut reader = Reader::new(bytes, "history event");
    reader.version(VERSION)?;
    let read = (read_event(&mut reader)?, reader.bytes()?);
    reader.end()?;
    Ok(read)
}

/// Writes an event.
pub fn write_event(writer: &mut Writer, event: &Event) {
    writer.u64(event.first_epoch);
    writer.u64(event.epoch);
    writer.u64(event.at_ms);
    writer.u64(event.fence);
    write_reason(writer, &event.reason);
}

/// Reads an event.
pub fn read_event(reader: &mut Reader) -> codec::Result<Event> {
    Ok(Event {
        first_epoch: reader.u64()?,
        epoch: reader.u64()?,
        at_ms: reader.u64()?,
        fence: reader.u64()?,
        reason: read_reason(reader)?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{bootstrap, members};
    use super::*;
    use crate::id::GroupId;
    use crate::state::MemoryState;

    const TABLE: TableId = TableId { group: GroupId::MAP, generation: 1 };

    fn moves(message: &str) -> Reason {
        Reason::Moves { started: 1, finished: 2, cancelled: 3, message: message.to_owned() }
    }

    /// Notes changes with these reasons, each of a map of its own.
    fn history(reasons: impl IntoIterator<Item = Reason>) -> (MemoryState, History) {
        let (mut state, mut history) = (MemoryState::default(), History::default());
        let mut map = bootstrap(members(3)).unwrap();
        for reason in reasons {
            let next = Map { epoch: map.epoch + 1, fence: map.fence + 1, ..map.clone() };
            let change = Change::between(&map, &next, reason, 5).expect("the fence is another");
            history.note(&mut state, TABLE, &change, &next).unwrap();
            map = next;
        }
        (state, history)
    }

    #[test]
    fn moves_after_moves_are_one_event_unless_somebody_came_or_went() {
        let drain = Reason::Drain("m1".to_owned());
        let (state, history) =
            history([moves(""), moves(""), moves("m4 is active"), moves(""), drain.clone(), moves("")]);
        let events = history.events(&state, TABLE).unwrap();
        let told: Vec<_> = events.iter().map(|event| (event.first_epoch, event.epoch, &event.reason)).collect();
        let joined = Reason::Moves { started: 2, finished: 4, cancelled: 6, message: String::new() };
        let (came, plain) = (moves("m4 is active"), moves(""));
        assert_eq!(told, [(7, 7, &plain), (6, 6, &drain), (5, 5, &plain), (4, 4, &came), (2, 3, &joined)]);
    }

    #[test]
    fn the_last_hundred_events_are_kept_with_the_maps_that_they_made() {
        let reasons = (0..150).map(|number| Reason::Drain(number.to_string()));
        let (state, history) = history(reasons);
        assert_eq!(History::load(&state, TABLE).unwrap(), history, "what is read back is the same");
        let events = history.events(&state, TABLE).unwrap();
        assert_eq!((events.len(), events[0].epoch, events[MAX_EVENTS - 1].epoch), (MAX_EVENTS, 151, 52));
        let at = |epoch| history.map_at(&state, TABLE, epoch).unwrap().map(|map| Map::decode(map).unwrap().epoch);
        assert_eq!((at(151), at(52), at(51), at(152)), (Some(151), Some(52), None, None));
    }
}
