//! A page of what all partitions hold, in the order of names: keys, or locks.
//!
//! Names are spread over the partitions by their hash, so every partition is asked for its first ones after the cursor,
//! and their pages are merged. A partition whose page is used up before it said that it has no more is asked again
//! before the merge goes on: the next name could be there. If one partition can't answer, there is no page at all; a page
//! that leaves names out would look like a page without them.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use annulus_core::id::PartitionId;
use annulus_core::lane::{Operation, Reply};
use annulus_core::partition::{Consistency, Scan};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde::Serialize;

use super::edge::{Edge, content};
use super::limits::Reservation;
use super::problem::{Kind, Problem};
use super::{Response, cursor, query};
use crate::router::Router;

/// How many partitions are asked at once, which bounds the bytes that can arrive before they are counted.
const CONCURRENCY: usize = 32;

/// What is listed: `T` is what a partition tells of each name.
pub(super) struct Of<T> {
    /// What a cursor of this listing is told from those of others by.
    pub(super) cursors: &'static str,
    /// Most names that are asked of a partition at once.
    pub(super) most: u32,
    /// Asks a partition for a page.
    pub(super) operation: fn(Scan, Consistency) -> Operation,
    /// What it answered.
    pub(super) part: fn(Reply) -> Result<Part<T>, Problem>,
    /// Bytes that one takes beside its name.
    pub(super) bytes: fn(&T) -> usize,
}

/// Names of one partition in their order, and whether there are more after them.
pub(super) type Part<T> = (Vec<(Bytes, T)>, bool);

/// What a client asks for.
pub(super) struct Asked {
    pub(super) prefix: Bytes,
    pub(super) limit: usize,
    pub(super) values: bool,
    pub(super) consistency: Consistency,
    /// Where the page before ended.
    after: Option<Bytes>,
    deadline: Instant,
}

impl Asked {
    /// Reads the parameters that every listing takes, in this order: prefix, limit, cursor, consistency, timeout.
    pub(super) fn read<R: Router, T>(
        edge: &Edge<R>,
        of: &Of<T>,
        [prefix, limit, cursor, consistency, timeout]: [Option<&str>; 5],
    ) -> Result<Self, Problem> {
        let prefix = Bytes::from(query::bytes("prefix", prefix.unwrap_or(""))?);
        let limit = query::limit(limit)?;
        let consistency = query::consistency(consistency)?;
        let deadline = Instant::now() + edge.timeout(timeout)?;
        let cluster = edge.map()?.cluster;
        let after = cursor.map(|cursor| cursor::read(of.cursors, cluster, &prefix, cursor)).transpose()?;
        Ok(Self { prefix, limit, values: false, consistency, after, deadline })
    }
}

/// A page on its way to the client, and the room that it takes.
pub(super) struct Page<T> {
    items: Vec<(Bytes, T)>,
    cursor: Option<String>,
    _room: Reservation,
}

#[derive(Serialize)]
struct Written<'a, S> {
    items: Vec<S>,
    cursor: Option<&'a str>,
}

impl<T> Page<T> {
    /// The page in JSON; `show` says how a name and what it stands for are written.
    pub(super) fn write<'a, S: Serialize>(&'a self, show: impl Fn(&'a Bytes, &'a T) -> S) -> Result<Bytes, Problem> {
        let items = self.items.iter().map(|(name, item)| show(name, item)).collect();
        let written = serde_json::to_vec(&Written { items, cursor: self.cursor.as_deref() });
        written.map(Bytes::from).map_err(|_| Problem::new(Kind::Internal, "the page could not be written"))
    }
}

/// The page that was asked for.
pub(super) async fn page<R: Router, T>(edge: &Edge<R>, of: &Of<T>, asked: &Asked) -> Result<Page<T>, Problem> {
    let map = edge.map()?;
    let (cluster, partitions) = (map.cluster, map.partitions());
    drop(map);
    let listing = Listing { edge, of, asked };
    // Twice its share and a few, so that a partition is seldom asked again for being a little ahead of the others.
    let share = asked.limit.div_ceil(partitions as usize);
    let first = if asked.values { share + 1 } else { 2 * share + 4 };
    let first = first.min(asked.limit).min(of.most as usize);
    let mut merge = Merge {
        sources: (0..partitions).map(|at| Source::new(PartitionId(at), asked.after.clone(), first)).collect(),
        heads: BinaryHeap::new(),
        dry: (0..partitions as usize).collect(),
        room: edge.resources.reserve_bytes(0)?,
    };

    let mut items = Vec::with_capacity(asked.limit.min(128));
    let mut bytes = 0;
    let mut more = true;
    while items.len() < asked.limit && bytes < edge.resources.limits.max_page_bytes {
        let Some((name, item)) = listing.next(&mut merge).await? else {
            more = false;
            break;
        };
        bytes += name.len() + (of.bytes)(&item);
        items.push((name, item));
    }
    more = more && merge.has_more();
    let last = items.last().filter(|_| more);
    let cursor = last.map(|(last, _)| cursor::write(of.cursors, cluster, &asked.prefix, last));
    Ok(Page { items, cursor, _room: merge.room })
}

/// Answers with a page that is written.
pub(super) fn answer<R: Router>(edge: &Edge<R>, written: Bytes) -> Result<Response, Problem> {
    Ok(content("application/json", edge.resources.hold_answer(written)?))
}

/// What stays the same over all pages of all partitions.
struct Listing<'a, R, T> {
    edge: &'a Edge<R>,
    of: &'a Of<T>,
    asked: &'a Asked,
}

/// The names of one partition: those that have arrived, and where the next ones begin.
struct Source<T> {
    partition: PartitionId,
    items: VecDeque<(Bytes, T)>,
    after: Option<Bytes>,
    more: bool,
    limit: usize,
}

/// The partitions' names on their way into one order. Each partition is in `heads`, or in `dry`, or has nothing left.
struct Merge<T> {
    sources: Vec<Source<T>>,
    /// The first name of each source that shows one, smallest on top.
    heads: BinaryHeap<Reverse<(Bytes, usize)>>,
    /// Sources that show none and have more. No name may be given while there is one: its next could be the smallest.
    dry: Vec<usize>,
    /// Room for what has arrived; given back when the page is written.
    room: Reservation,
}

impl<T> Source<T> {
    fn new(partition: PartitionId, after: Option<Bytes>, limit: usize) -> Self {
        Self { partition, items: VecDeque::new(), after, more: true, limit }
    }

    fn take(&mut self, of: &Of<T>, (items, more): Part<T>) -> Result<usize, Problem> {
        let ascending = items.is_sorted_by(|a, b| a.0 < b.0);
        let begins_later = items.first().is_none_or(|(name, _)| self.after.as_ref().is_none_or(|after| name > after));
        // A page that says "more" and brings nothing would be asked for again without end.
        if !ascending || !begins_later || (items.is_empty() && more) {
            return Err(Problem::new(Kind::Internal, format!("{} gave a page out of order", self.partition)));
        }
        if let Some((last, _)) = items.last() {
            self.after = Some(last.clone());
        }
        self.more = more;
        self.limit = (self.limit * 2).min(of.most as usize);
        let bytes = items.iter().map(|(name, item)| name.len() + (of.bytes)(item)).sum();
        self.items.extend(items);
        Ok(bytes)
    }
}

impl<T> Merge<T> {
    fn has_more(&self) -> bool {
        !self.heads.is_empty() || !self.dry.is_empty()
    }

    fn pop(&mut self) -> Option<(Bytes, T)> {
        assert!(self.dry.is_empty(), "every source that has more shows its next name");
        let Reverse((_, at)) = self.heads.pop()?;
        let smallest = self.sources[at].items.pop_front();
        self.rank(at);
        smallest
    }

    fn rank(&mut self, at: usize) {
        let source = &self.sources[at];
        if let Some((name, _)) = source.items.front() {
            self.heads.push(Reverse((name.clone(), at)));
        } else if source.more {
            self.dry.push(at);
        }
    }
}

impl<R: Router, T> Listing<'_, R, T> {
    /// The next name of all partitions.
    async fn next(&self, merge: &mut Merge<T>) -> Result<Option<(Bytes, T)>, Problem> {
        while !merge.dry.is_empty() {
            self.fill(merge).await?;
        }
        Ok(merge.pop())
    }

    /// Asks each source that is dry for its next page.
    async fn fill(&self, merge: &mut Merge<T>) -> Result<(), Problem> {
        let mut waiting = std::mem::take(&mut merge.dry).into_iter();
        let mut asked = FuturesUnordered::new();
        loop {
            for at in waiting.by_ref().take(CONCURRENCY - asked.len()) {
                let source = &merge.sources[at];
                let scan = Scan {
                    prefix: self.asked.prefix.clone(),
                    after: source.after.clone(),
                    limit: u32::try_from(source.limit).unwrap_or(self.of.most),
                    values: self.asked.values,
                };
                asked.push(self.part(at, source.partition, scan));
            }
            let Some(answer) = asked.next().await else { return Ok(()) };
            let (at, part) = answer?;
            if !merge.room.grow(merge.sources[at].take(self.of, part)?) {
                return Err(self.edge.resources.no_room());
            }
            merge.rank(at);
        }
    }

    async fn part(&self, at: usize, partition: PartitionId, scan: Scan) -> Result<(usize, Part<T>), Problem> {
        let left = self.asked.deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let operation = (self.of.operation)(scan, self.asked.consistency);
        let reply = self.edge.router.submit(partition.group(), operation, left).await;
        Ok((at, (self.of.part)(reply)?))
    }
}
