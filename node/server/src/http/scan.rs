//! `GET /v1/kv?prefix=`: a page of keys in key order over all partitions.
//!
//! Keys are spread over the partitions by their hash, so every partition is asked for its first keys after the cursor,
//! and their pages are merged. A partition whose page is used up before it said that it has no more is asked again
//! before the merge goes on: the next key could be there. If one partition can't answer, there is no page at all; a page
//! that leaves keys out would look like a page without them.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use annulus_core::id::PartitionId;
use annulus_core::lane::{Operation, Reply};
use annulus_core::partition::{Consistency, Item, MAX_SCAN_KEYS, Page, Scan};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde::Serialize;

use super::edge::{Edge, content};
use super::limits::Reservation;
use super::problem::{Kind, Problem};
use super::{Response, cursor, kv, query};
use crate::router::Router;

/// How many partitions are asked at once, which bounds the bytes that can arrive before they are counted.
const CONCURRENCY: usize = 32;

/// Answers a request for a page of keys.
pub(super) async fn answer<R: Router>(edge: &Edge<R>, query: Option<&str>) -> Result<Response, Problem> {
    let [prefix, limit, cursor, values, consistency, timeout] =
        query::parameters(query, ["prefix", "limit", "cursor", "values", "consistency", "timeout"])?;
    let prefix = Bytes::from(query::bytes("prefix", prefix.unwrap_or(""))?);
    let limit = query::limit(limit)?;
    let values = query::flag("values", values)?;
    let consistency = query::consistency(consistency)?;
    let deadline = Instant::now() + edge.timeout(timeout)?;
    let map = edge.map()?;
    let after = cursor.map(|cursor| cursor::read(map.cluster, &prefix, cursor)).transpose()?;
    let (cluster, partitions) = (map.cluster, map.partitions());
    drop(map);

    let listing = Listing { edge, prefix: prefix.clone(), values, consistency, deadline };
    // Twice its share and a few, so that a partition is seldom asked again for being a little ahead of the others.
    let share = limit.div_ceil(partitions as usize);
    let first = if values { share + 1 } else { 2 * share + 4 };
    let mut merge = Merge {
        sources: (0..partitions).map(|at| Source::new(PartitionId(at), after.clone(), first.min(limit))).collect(),
        heads: BinaryHeap::new(),
        dry: (0..partitions as usize).collect(),
        room: edge.resources.reserve_bytes(0)?,
    };

    let mut items = Vec::with_capacity(limit.min(128));
    let mut bytes = 0;
    let mut more = true;
    while items.len() < limit && bytes < edge.resources.limits.max_page_bytes {
        let Some((key, item)) = listing.next(&mut merge).await? else {
            more = false;
            break;
        };
        bytes += key.len() + item.value.len();
        items.push((key, item));
    }
    more = more && merge.has_more();
    let next = items.last().filter(|_| more).map(|(last, _)| cursor::write(cluster, &prefix, last));
    let page = write(&items, values, next)?;
    // What the page was made of is let go first; then the page itself is counted until the client has taken it.
    drop((items, merge));
    Ok(content("application/json", edge.resources.hold_answer(page)?))
}

/// What stays the same over all pages of all partitions.
struct Listing<'a, R> {
    edge: &'a Edge<R>,
    prefix: Bytes,
    values: bool,
    consistency: Consistency,
    deadline: Instant,
}

/// The keys of one partition: those that have arrived, and where the next ones begin.
struct Source {
    partition: PartitionId,
    items: VecDeque<(Bytes, Item)>,
    after: Option<Bytes>,
    more: bool,
    limit: usize,
}

/// The partitions' keys on their way into one order. Each partition is in `heads`, or in `dry`, or has nothing left.
struct Merge {
    sources: Vec<Source>,
    /// The first key of each source that shows one, smallest on top.
    heads: BinaryHeap<Reverse<(Bytes, usize)>>,
    /// Sources that show none and have more. No key may be given while there is one: its next could be the smallest.
    dry: Vec<usize>,
    /// Room for what has arrived; given back when the page is written.
    room: Reservation,
}

impl Source {
    fn new(partition: PartitionId, after: Option<Bytes>, limit: usize) -> Self {
        Self { partition, items: VecDeque::new(), after, more: true, limit }
    }

    fn take(&mut self, page: Page) -> Result<usize, Problem> {
        let ascending = page.items.is_sorted_by(|a, b| a.0 < b.0);
        let begins_later =
            page.items.first().is_none_or(|(key, _)| self.after.as_ref().is_none_or(|after| key > after));
        // A page that says "more" and brings nothing would be asked for again without end.
        if !ascending || !begins_later || (page.items.is_empty() && page.more) {
            return Err(Problem::new(Kind::Internal, format!("{} gave a page out of order", self.partition)));
        }
        if let Some((last, _)) = page.items.last() {
            self.after = Some(last.clone());
        }
        self.more = page.more;
        self.limit = (self.limit * 2).min(MAX_SCAN_KEYS as usize);
        let bytes = page.items.iter().map(|(key, item)| key.len() + item.value.len()).sum();
        self.items.extend(page.items);
        Ok(bytes)
    }
}

impl Merge {
    fn has_more(&self) -> bool {
        !self.heads.is_empty() || !self.dry.is_empty()
    }

    fn pop(&mut self) -> Option<(Bytes, Item)> {
        assert!(self.dry.is_empty(), "every source that has more shows its next key");
        let Reverse((_, at)) = self.heads.pop()?;
        let smallest = self.sources[at].items.pop_front();
        self.rank(at);
        smallest
    }

    fn rank(&mut self, at: usize) {
        let source = &self.sources[at];
        if let Some((key, _)) = source.items.front() {
            self.heads.push(Reverse((key.clone(), at)));
        } else if source.more {
            self.dry.push(at);
        }
    }
}

impl<R: Router> Listing<'_, R> {
    /// The next key of all partitions.
    async fn next(&self, merge: &mut Merge) -> Result<Option<(Bytes, Item)>, Problem> {
        while !merge.dry.is_empty() {
            self.fill(merge).await?;
        }
        Ok(merge.pop())
    }

    /// Asks each source that is dry for its next page.
    async fn fill(&self, merge: &mut Merge) -> Result<(), Problem> {
        let mut waiting = std::mem::take(&mut merge.dry).into_iter();
        let mut asked = FuturesUnordered::new();
        loop {
            for at in waiting.by_ref().take(CONCURRENCY - asked.len()) {
                let source = &merge.sources[at];
                let scan = Scan {
                    prefix: self.prefix.clone(),
                    after: source.after.clone(),
                    limit: u32::try_from(source.limit).unwrap_or(MAX_SCAN_KEYS),
                    values: self.values,
                };
                asked.push(self.page(at, source.partition, scan));
            }
            let Some(answer) = asked.next().await else { return Ok(()) };
            let (at, page) = answer?;
            if !merge.room.grow(merge.sources[at].take(page)?) {
                return Err(self.edge.resources.no_room());
            }
            merge.rank(at);
        }
    }

    async fn page(&self, at: usize, partition: PartitionId, scan: Scan) -> Result<(usize, Page), Problem> {
        let left = self.deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let operation = Operation::Scan { scan, consistency: self.consistency };
        match self.edge.router.submit(partition.group(), operation, left).await {
            Reply::Scan(page) => Ok((at, page)),
            reply => Err(kv::unanswered(&reply)),
        }
    }
}

#[derive(Serialize)]
struct Listed<'a> {
    items: Vec<ListedItem<'a>>,
    cursor: Option<String>,
}

#[derive(Serialize)]
struct ListedItem<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

fn write(items: &[(Bytes, Item)], values: bool, cursor: Option<String>) -> Result<Bytes, Problem> {
    let items = items.iter().map(|(key, item)| {
        let (key, key_base64) = text_or_base64(key);
        let (value, value_base64) = if values { text_or_base64(&item.value) } else { (None, None) };
        ListedItem { key, key_base64, version: item.version, value, value_base64 }
    });
    let listed = Listed { items: items.collect(), cursor };
    serde_json::to_vec(&listed)
        .map(Bytes::from)
        .map_err(|_| Problem::new(Kind::Internal, "the page could not be written"))
}

/// In JSON, bytes that are UTF-8 stand as they are; any others in base64, under another name.
fn text_or_base64(bytes: &[u8]) -> (Option<&str>, Option<String>) {
    std::str::from_utf8(bytes).map_or_else(|_| (None, Some(STANDARD.encode(bytes))), |text| (Some(text), None))
}
