//! `GET /v1/kv?prefix=`: a page of keys in key order over all partitions.
//!
//! Keys are spread over the partitions by their hash, so every partition is asked for its first keys after the cursor,
//! and their pages are merged. A partition whose page is used up before it said that it has no more is asked again
//! before the merge goes on: the next key could be there. If one partition can't answer, there is no page at all; a page
//! that leaves keys out would look like a page without them.

use std::collections::VecDeque;
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

use super::edge::{Edge, json};
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
    let room = edge.resources.reserve_bytes(0)?;
    let mut merge = Merge { sources: Vec::new(), room };
    let sources = (0..partitions).map(|partition| Source::new(PartitionId(partition), after.clone(), first.min(limit)));
    listing.fill(&mut merge, sources.collect()).await?;

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
    write(&items, values, next)
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

struct Merge {
    sources: Vec<Source>,
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
        self.sources.iter().any(|source| source.more || !source.items.is_empty())
    }
}

impl<R: Router> Listing<'_, R> {
    /// The next key of all partitions.
    async fn next(&self, merge: &mut Merge) -> Result<Option<(Bytes, Item)>, Problem> {
        // No key may be given while a partition that has more shows none: its next key could be the smallest.
        if let Some(at) = merge.sources.iter().position(|source| source.items.is_empty() && source.more) {
            let source = merge.sources.swap_remove(at);
            self.fill(merge, VecDeque::from([source])).await?;
        }
        let smallest = merge.sources.iter_mut().filter(|source| !source.items.is_empty());
        let smallest = smallest.min_by(|a, b| a.items[0].0.cmp(&b.items[0].0));
        Ok(smallest.and_then(|source| source.items.pop_front()))
    }

    /// Asks each source for its next page.
    async fn fill(&self, merge: &mut Merge, mut waiting: VecDeque<Source>) -> Result<(), Problem> {
        let mut asked = FuturesUnordered::new();
        loop {
            while asked.len() < CONCURRENCY {
                let Some(source) = waiting.pop_front() else { break };
                asked.push(self.page(source));
            }
            let Some(answer) = asked.next().await else { return Ok(()) };
            let (source, bytes) = answer?;
            if !merge.room.grow(bytes) {
                return Err(self.edge.resources.no_room());
            }
            merge.sources.push(source);
        }
    }

    async fn page(&self, mut source: Source) -> Result<(Source, usize), Problem> {
        let scan = Scan {
            prefix: self.prefix.clone(),
            after: source.after.clone(),
            limit: u32::try_from(source.limit).unwrap_or(MAX_SCAN_KEYS),
            values: self.values,
        };
        let left = self.deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let operation = Operation::Scan { scan, consistency: self.consistency };
        match self.edge.router.submit(source.partition.group(), operation, left).await {
            Reply::Scan(page) => {
                let bytes = source.take(page)?;
                Ok((source, bytes))
            }
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

fn write(items: &[(Bytes, Item)], values: bool, cursor: Option<String>) -> Result<Response, Problem> {
    let items = items.iter().map(|(key, item)| {
        let (key, key_base64) = text_or_base64(key);
        let (value, value_base64) = if values { text_or_base64(&item.value) } else { (None, None) };
        ListedItem { key, key_base64, version: item.version, value, value_base64 }
    });
    let listed = Listed { items: items.collect(), cursor };
    serde_json::to_vec(&listed).map(json).map_err(|_| Problem::new(Kind::Internal, "the page could not be written"))
}

/// In JSON, bytes that are UTF-8 stand as they are; any others in base64, under another name.
fn text_or_base64(bytes: &[u8]) -> (Option<&str>, Option<String>) {
    std::str::from_utf8(bytes).map_or_else(|_| (None, Some(STANDARD.encode(bytes))), |text| (Some(text), None))
}
