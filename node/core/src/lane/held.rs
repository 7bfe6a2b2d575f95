//! Pieces of snapshots that wait for the disk.
//!
//! They are acknowledged when they are durable, so a sender whose pieces wait stops at its window, and goes on as soon as
//! they are taken. What has no room here is dropped as if lost on the way; the sender sends it again.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::codec::message::{Body, Chunk, PeerMessage};
use crate::id::{GroupId, MemberId};

/// Most chunks that wait: the windows of five senders.
const MOST: usize = 64;
/// Most bytes that wait: as much as those have, unless values are large. One chunk has room whatever its size.
const MOST_BYTES: usize = 4 * 1024 * 1024;
/// What a record takes beside its bytes: the handles of its key and its value.
const RECORD_BYTES: usize = 2 * size_of::<Bytes>();

/// Pieces of snapshots that wait, in the order in which they came.
#[derive(Debug, Default)]
pub struct Held {
    chunks: VecDeque<(MemberId, GroupId, Chunk)>,
    bytes: usize,
}

impl Held {
    /// Lets this chunk wait, unless it does already or there is no room. Those of an earlier stream to the same replica go:
    /// their sender has given them up.
    pub fn push(&mut self, from: MemberId, group: GroupId, chunk: Chunk) {
        self.retain(|(other, of, held)| (*other, *of) != (from, group) || held.stream == chunk.stream);
        let is_same =
            |(other, of, held): &(MemberId, GroupId, Chunk)| (*other, *of, held.number) == (from, group, chunk.number);
        let bytes = self.bytes + size(&chunk);
        let has_room = self.chunks.len() < MOST && (self.bytes == 0 || bytes <= MOST_BYTES);
        if has_room && !self.chunks.iter().any(is_same) {
            // What came in one frame is kept by any part of it.
            let copy = |(key, value): &(Bytes, Bytes)| (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
            let records = chunk.records.iter().map(copy).collect();
            self.chunks.push_back((from, group, Chunk { records, ..chunk }));
            self.bytes = bytes;
        }
    }

    /// The replica of this group is dropped: what waits for it is not for another one that may be made.
    pub fn forget(&mut self, group: GroupId) {
        self.retain(|(_, of, _)| *of != group);
    }

    /// The one that has waited longest.
    pub fn pop(&mut self) -> Option<(MemberId, PeerMessage)> {
        let (from, group, chunk) = self.chunks.pop_front()?;
        self.bytes -= size(&chunk);
        Some((from, PeerMessage { group, body: Body::Chunk(chunk) }))
    }

    /// Panics when the bytes are not what the chunks have.
    pub fn check(&self) {
        assert_eq!(
            self.bytes,
            self.chunks.iter().map(|(_, _, chunk)| size(chunk)).sum(),
            "bytes that wait are counted"
        );
    }

    fn retain(&mut self, stays: impl Fn(&(MemberId, GroupId, Chunk)) -> bool) {
        self.chunks.retain(stays);
        self.bytes = self.chunks.iter().map(|(_, _, chunk)| size(chunk)).sum();
    }
}

fn size(chunk: &Chunk) -> usize {
    chunk.bytes() + chunk.records.len() * RECORD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::message::Stream;

    fn chunk(number: u32) -> Chunk {
        Chunk { stream: Stream::default(), number, records: Vec::new(), last: None }
    }

    fn numbers(held: &mut Held) -> Vec<u32> {
        std::iter::from_fn(|| held.pop())
            .map(|(_, message)| match message.body {
                Body::Chunk(chunk) => chunk.number,
                other => panic!("only chunks wait, not {other:?}"),
            })
            .collect()
    }

    #[test]
    fn chunks_wait_in_order_once_each_and_no_more_than_there_is_room_for() {
        let (mut held, member, group) = (Held::default(), MemberId::new(1).unwrap(), GroupId(1));
        for number in [0, 1, 0, 2, 1] {
            held.push(member, group, chunk(number));
        }
        assert_eq!(numbers(&mut held), [0, 1, 2]);
        (0..1000).for_each(|number| held.push(member, group, chunk(number)));
        assert_eq!(numbers(&mut held).len(), MOST);
        let large = vec![(Bytes::new(), Bytes::from(vec![0; MOST_BYTES / 2 + 1]))];
        (0..3).for_each(|number| held.push(member, group, Chunk { records: large.clone(), ..chunk(number) }));
        assert_eq!(numbers(&mut held), [0]);
        (0..3).for_each(|number| held.push(member, group, chunk(number)));
        held.check();
        assert_eq!(numbers(&mut held), [0, 1, 2]);
        held.check();
    }

    #[test]
    fn chunks_of_a_stream_that_was_given_up_and_of_a_replica_that_was_dropped_go() {
        let (mut held, member) = (Held::default(), MemberId::new(1).unwrap());
        let again = |number| Chunk { stream: Stream { attempt: 2, ..Stream::default() }, ..chunk(number) };
        held.push(member, GroupId(1), chunk(7));
        held.push(member, GroupId(2), chunk(8));
        held.push(MemberId::new(2).unwrap(), GroupId(1), chunk(9));
        held.push(member, GroupId(1), again(0));
        held.push(member, GroupId(1), again(1));
        held.forget(GroupId(2));
        assert_eq!(numbers(&mut held), [9, 0, 1]);
    }
}
