//! What the loops of a load have seen.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use annulus_client::Error;
use hdrhistogram::Histogram;

use crate::args::Operation;

/// Latencies above this are counted as this: an hour.
const LONGEST_US: u64 = 3_600_000_000;

/// What one or more loops have seen.
#[derive(Debug, Clone)]
pub(super) struct Tally {
    /// Latencies of what was answered well, in microseconds, by what it was.
    pub(super) parts: Vec<(&'static str, Histogram<u64>)>,
    /// Gets of a key that is not there: answered, and counted among the gets.
    pub(super) absent: u64,
    /// Transactions that did nothing because others were there meanwhile, by how they heard of it.
    pub(super) conflicts: BTreeMap<&'static str, u64>,
    /// Failures by kind (see [`Error::kind`]), of requests that were given up.
    pub(super) errors: BTreeMap<&'static str, u64>,
    /// Requests that failed first and were answered well when they were sent again, by how often.
    pub(super) retried: BTreeMap<u32, u64>,
    /// How often the loop that was answered well the fewest times was, and the one that was the most.
    pub(super) of_one_loop: Option<(u64, u64)>,
    /// When the last request was answered.
    pub(super) last_answer: Option<Instant>,
    /// The last failure's words.
    pub(super) last_error: Option<String>,
}

/// What an operation's latencies are told of.
fn parts(operation: Operation) -> &'static [&'static str] {
    match operation {
        Operation::Put => &["put"],
        Operation::Get => &["get"],
        Operation::Mixed => &["put", "get"],
        Operation::Lock => &["acquire", "release"],
        Operation::Queue => &["hand-over"],
        Operation::Txn | Operation::TxnOne => &["txn"],
        Operation::Rmw => &["rmw"],
    }
}

impl Tally {
    pub(super) fn new(operation: Operation) -> Self {
        let histogram = Histogram::new_with_bounds(1, LONGEST_US, 3).expect("sound bounds");
        Self {
            parts: parts(operation).iter().map(|part| (*part, histogram.clone())).collect(),
            absent: 0,
            conflicts: BTreeMap::new(),
            errors: BTreeMap::new(),
            retried: BTreeMap::new(),
            of_one_loop: None,
            last_answer: None,
            last_error: None,
        }
    }

    /// How many requests were answered well.
    pub(super) fn answered(&self) -> u64 {
        self.parts.iter().map(|(_, histogram)| histogram.len()).sum()
    }

    /// Takes note of what was answered well after this time, when it had been sent again so often.
    pub(super) fn record(&mut self, part: &str, latency: Duration, retries: u32) {
        let latency = u64::try_from(latency.as_micros()).unwrap_or(LONGEST_US).max(1);
        let found = self.parts.iter_mut().find(|(name, _)| *name == part);
        found.expect("one of the operation's parts").1.saturating_record(latency);
        if retries > 0 {
            *self.retried.entry(retries).or_default() += 1;
        }
        self.last_answer = Some(Instant::now());
    }

    pub(super) fn count_conflict(&mut self, kind: &'static str) {
        *self.conflicts.entry(kind).or_default() += 1;
        self.last_answer = Some(Instant::now());
    }

    pub(super) fn count_error(&mut self, error: &Error) {
        *self.errors.entry(error.kind()).or_default() += 1;
        self.last_error = Some(error.to_string());
    }

    /// Ends a loop's own count.
    pub(super) fn end_loop(mut self, answered: u64) -> Self {
        self.of_one_loop = Some((answered, answered));
        self
    }

    /// Adds what another has seen.
    pub(super) fn add(&mut self, other: &Self) {
        for ((_, histogram), (_, more)) in self.parts.iter_mut().zip(&other.parts) {
            *histogram += more;
        }
        self.absent += other.absent;
        let pairs = [(&mut self.errors, &other.errors), (&mut self.conflicts, &other.conflicts)];
        for (counts, more) in pairs {
            more.iter().for_each(|(kind, count)| *counts.entry(kind).or_default() += count);
        }
        for (times, count) in &other.retried {
            *self.retried.entry(*times).or_default() += count;
        }
        self.of_one_loop = match (self.of_one_loop, other.of_one_loop) {
            (Some((fewest, most)), Some((few, many))) => Some((fewest.min(few), most.max(many))),
            (one, other) => one.or(other),
        };
        self.last_answer = self.last_answer.max(other.last_answer);
        self.last_error = other.last_error.clone().or(self.last_error.take());
    }
}
