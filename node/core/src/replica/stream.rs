//! Sending and receiving a snapshot in chunks, when the log that a follower needs is gone.
//!
//! ```text
//! leader                                              follower
//! view of the table ─▶ chunk 0..w ───────────────────▶ staged into the next generation, written to the WAL
//!        ▲               (at most WINDOW unacknowledged)      │ durable
//!        └──────────────── ack: next = n ◀────────────────────┘
//!                                                      last chunk: the next generation takes the old one's place
//! ```
//!
//! The old state stands, and is read from, until the last chunk is there. Chunks are written like log entries, so the
//! acknowledgement of the last one means that the whole snapshot is durable.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::Duration;

use super::Configuration;
use bytes::Bytes;

use crate::codec::message::{Chunk, Stream};
use crate::id::MemberId;
use crate::lane::Pace;
use crate::state::{self, View};
use crate::time::Instant;

/// Most chunks on the way to one follower.
const WINDOW: usize = 12;
/// A chunk is full when its records take this many bytes.
const CHUNK_BYTES: usize = 64 * 1024;
/// Chunks that were not acknowledged for this long are sent again: at first, and at most, as it doubles each time that
/// nothing was heard. A follower whose disk is behind lets chunks wait, and says nothing meanwhile.
const RESEND_AFTER: Duration = Duration::from_millis(100);
const RESEND_AFTER_AT_MOST: Duration = Duration::from_millis(800);
/// A follower that acknowledges nothing for this long is given up on; Raft tries again later.
const GIVE_UP_AFTER: Duration = Duration::from_secs(10);

/// A snapshot on its way to one follower, or one that waits for its turn.
pub struct Sending {
    wanted_since: Instant,
    /// What is sent; `None` while it waits: until then it keeps no log and no state from being let go of.
    content: Option<Content>,
    /// Where the next chunk starts; `None` when the last one was made.
    from: Option<Bytes>,
    number: u32,
    unacknowledged: VecDeque<Chunk>,
    last_sent: Instant,
    last_heard: Instant,
    resend_after: Duration,
    /// Bytes of records that were acknowledged.
    sent_bytes: u64,
}

/// A group's state at one point.
struct Content {
    stream: Stream,
    configuration: Configuration,
    view: Box<dyn View>,
}

/// What becomes of a sending.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// It goes on.
    Underway,
    /// The follower has everything, durably.
    Finished,
    /// The follower was not heard of for too long, or has lost what it had.
    GivenUp,
}

impl Sending {
    /// One that waits for its turn.
    pub fn new(now: Instant) -> Self {
        Self {
            wanted_since: now,
            content: None,
            from: Some(Bytes::new()),
            number: 0,
            unacknowledged: VecDeque::new(),
            last_sent: now,
            last_heard: now,
            resend_after: RESEND_AFTER,
            sent_bytes: 0,
        }
    }

    /// How many bytes of records the follower has, durably.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// Begins to send this view.
    pub fn begin(&mut self, stream: Stream, configuration: Configuration, view: Box<dyn View>, now: Instant) {
        self.content = Some(Content { stream, configuration, view });
        (self.last_sent, self.last_heard) = (now, now);
    }

    /// What was sent is of no use: it waits for another turn, after those that wait already. It would hold them up for as long
    /// as its group is written to faster than it can be sent.
    pub fn start_over(&mut self, now: Instant) {
        *self = Self::new(now);
    }

    /// Since when the follower needs one.
    pub fn wanted_since(&self) -> Instant {
        self.wanted_since
    }

    /// Which snapshot this is; `None` while it waits for its turn.
    pub fn stream(&self) -> Option<Stream> {
        self.content.as_ref().map(|content| content.stream)
    }

    /// Whether there is another chunk to send, and few enough are on their way.
    pub fn has_room(&self) -> bool {
        self.unacknowledged.len() < WINDOW && self.from.is_some()
    }

    /// The chunks that may be sent now.
    pub fn fill_window(&mut self, now: Instant, pace: &mut Pace) -> Result<Vec<Chunk>, state::Error> {
        let mut chunks = Vec::new();
        while self.content.is_some() && self.has_room() && pace.allows(now) {
            let chunk = self.make_chunk()?;
            pace.sent(chunk.bytes());
            self.unacknowledged.push_back(chunk.clone());
            chunks.push(chunk);
            self.last_sent = now;
        }
        Ok(chunks)
    }

    /// The follower wants chunk `next`; it has all before it.
    pub fn acknowledged(&mut self, next: u32, now: Instant) -> Progress {
        if next == 0 && self.unacknowledged.front().is_some_and(|chunk| chunk.number > 0) {
            // It has started again and knows nothing of this stream. What it had is not kept here: only a new one helps.
            return Progress::GivenUp;
        }
        while let Some(chunk) = self.unacknowledged.pop_front_if(|chunk| chunk.number < next) {
            self.sent_bytes += chunk.bytes() as u64;
            self.last_heard = now;
            self.resend_after = RESEND_AFTER;
        }
        if self.unacknowledged.is_empty() && self.from.is_none() { Progress::Finished } else { Progress::Underway }
    }

    /// Time has passed: chunks to send again, and whether there is still hope.
    pub fn tick(&mut self, now: Instant) -> (Progress, Vec<Chunk>) {
        if self.unacknowledged.is_empty() {
            // Held back by the pace, not by the follower.
            self.last_heard = now;
            return (Progress::Underway, Vec::new());
        }
        if now.since(self.last_heard) >= GIVE_UP_AFTER {
            return (Progress::GivenUp, Vec::new());
        }
        if now.since(self.last_sent) < self.resend_after {
            return (Progress::Underway, Vec::new());
        }
        self.resend_after = (2 * self.resend_after).min(RESEND_AFTER_AT_MOST);
        self.last_sent = now;
        (Progress::Underway, self.unacknowledged.iter().cloned().collect())
    }

    fn make_chunk(&mut self) -> Result<Chunk, state::Error> {
        let content = self.content.as_ref().expect("it has begun");
        let from = self.from.take().expect("there is more to send");
        let (mut records, mut bytes, mut next) = (Vec::new(), 0, None);
        content.view.range(&from, &mut |key, value| {
            if bytes >= CHUNK_BYTES {
                next = Some(Bytes::copy_from_slice(key));
                return ControlFlow::Break(());
            }
            bytes += key.len() + value.len();
            records.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            ControlFlow::Continue(())
        })?;
        let last = next.is_none().then(|| content.configuration.clone());
        let chunk = Chunk { stream: content.stream, number: self.number, records, last };
        self.number += 1;
        self.from = next;
        Ok(chunk)
    }
}

/// A snapshot as it arrives.
#[derive(Debug)]
pub struct Receiving {
    stream: Stream,
    from: MemberId,
    next: u32,
}

/// What a chunk is to the receiver.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The next one of its stream; `first`: whatever was staged before is to be dropped.
    Wanted {
        /// Whether it begins a stream.
        first: bool,
    },
    /// Not the next one; the sender should be told which is.
    Unwanted {
        /// The number that is wanted.
        next: u32,
    },
}

impl Receiving {
    /// Looks at a chunk. When it is wanted, `receiving` has moved on past it.
    pub fn arrive(receiving: &mut Option<Self>, from: MemberId, chunk: &Chunk) -> Arrival {
        match receiving {
            Some(known) if known.stream == chunk.stream && known.from == from => {
                if chunk.number != known.next {
                    return Arrival::Unwanted { next: known.next };
                }
                known.next += 1;
                Arrival::Wanted { first: false }
            }
            _ if chunk.number == 0 => {
                *receiving = Some(Self { stream: chunk.stream, from, next: 1 });
                Arrival::Wanted { first: true }
            }
            _ => Arrival::Unwanted { next: 0 },
        }
    }
}
