//! Pieces of snapshots that wait for the disk.
//!
//! They are acknowledged when they are durable, so a sender whose pieces wait stops at its window, and goes on as soon as
//! they are taken. What has no room here is dropped as if lost on the way; the sender sends it again.

use std::collections::VecDeque;

use crate::codec::message::{Body, Chunk, PeerMessage};
use crate::id::{GroupId, MemberId};

/// Most chunks that wait: the windows of five senders.
const MOST: usize = 64;
/// Most bytes that wait: as much as those have, unless values are large. One chunk has room whatever its size.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// Pieces of snapshots that wait, in the order in which they came.
#[derive(Debug, Default)]
pub struct Held {
    chunks: VecDeque<(MemberId, GroupId, Chunk)>,
    bytes: usize,
}

impl Held {
    /// Lets this chunk wait, unless it does already or there is no room.
    pub fn push(&mut self, from: MemberId, group: GroupId, chunk: Chunk) {
        let is_same = |(other, of, held): &(MemberId, GroupId, Chunk)| {
            (*other, *of, held.stream, held.number) == (from, group, chunk.stream, chunk.number)
        };
        let has_room = self.chunks.len() < MOST && (self.bytes == 0 || self.bytes + chunk.bytes() <= MOST_BYTES);
        if has_room && !self.chunks.iter().any(is_same) {
            self.bytes += chunk.bytes();
            self.chunks.push_back((from, group, chunk));
        }
    }

    /// The one that has waited longest.
    pub fn pop(&mut self) -> Option<(MemberId, PeerMessage)> {
        let (from, group, chunk) = self.chunks.pop_front()?;
        self.bytes -= chunk.bytes();
        Some((from, PeerMessage { group, body: Body::Chunk(chunk) }))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

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
        assert_eq!(numbers(&mut held), [0, 1, 2]);
    }
}
