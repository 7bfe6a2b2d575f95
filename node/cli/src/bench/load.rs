//! The loops that make the load, and what they count.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use annulus_client::{Client, Error, GetOptions, PutOptions};
use hdrhistogram::Histogram;
use rand::RngExt;
use tokio::task::{JoinError, JoinSet};

use super::{Load, runtime};
use crate::args::Operation;
use crate::exit::Failure;

/// How long a loop pauses after a failure, so that a store in trouble is not asked as fast as a machine can.
const PAUSE: Duration = Duration::from_millis(5);
/// How long after the end of the measurement the last requests may still be answered.
const LAST_WAIT: Duration = Duration::from_secs(1);
/// Latencies above this are counted as this: an hour.
const LONGEST_US: u64 = 3_600_000_000;

/// What one or more loops have seen.
#[derive(Debug, Clone)]
pub(super) struct Tally {
    /// Latencies of puts that were acknowledged, in microseconds.
    pub(super) puts: Histogram<u64>,
    /// Latencies of gets that were answered, in microseconds.
    pub(super) gets: Histogram<u64>,
    /// Gets of a key that is not there: answered, and counted among the gets.
    pub(super) absent: u64,
    /// Failures by kind (see [`Error::kind`]), of requests that were given up.
    pub(super) errors: BTreeMap<&'static str, u64>,
    /// Requests that failed first and were answered well when they were sent again, by how often.
    pub(super) retried: BTreeMap<u32, u64>,
    /// When the last request was answered.
    pub(super) last_answer: Option<Instant>,
    /// The last failure's words.
    pub(super) last_error: Option<String>,
}

impl Tally {
    pub(super) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LONGEST_US, 3).expect("sound bounds");
        Self {
            puts: histogram.clone(),
            gets: histogram,
            absent: 0,
            errors: BTreeMap::new(),
            retried: BTreeMap::new(),
            last_answer: None,
            last_error: None,
        }
    }

    /// How many requests were answered well.
    pub(super) fn answered(&self) -> u64 {
        self.puts.len() + self.gets.len()
    }

    /// Adds what another has seen.
    pub(super) fn add(&mut self, other: &Self) {
        self.puts += &other.puts;
        self.gets += &other.gets;
        self.absent += other.absent;
        for (kind, count) in &other.errors {
            *self.errors.entry(kind).or_default() += count;
        }
        for (times, count) in &other.retried {
            *self.retried.entry(*times).or_default() += count;
        }
        self.last_answer = self.last_answer.max(other.last_answer);
        self.last_error = other.last_error.clone().or(self.last_error.take());
    }

    fn count_error(&mut self, error: &Error) {
        *self.errors.entry(error.kind()).or_default() += 1;
        self.last_error = Some(error.to_string());
    }
}

fn panicked(_: JoinError) -> Failure {
    Failure::Refused("a loop of the load has panicked: this is a bug of annulus".into())
}

/// When one loop sends its requests.
struct Schedule {
    interval: Option<Duration>,
    due: Instant,
}

impl Schedule {
    fn new(arguments: &crate::args::Bench, number: u32) -> Self {
        let clients = arguments.clients;
        let interval = arguments.rate.map(|rate| Duration::from_secs_f64(f64::from(clients) / f64::from(rate)));
        let offset = interval.map_or(Duration::ZERO, |interval| interval * number / clients);
        Self { interval, due: Instant::now() + offset }
    }

    /// Waits for the next request's time. What its latency counts from: that time, however late it is.
    async fn next(&mut self) -> Instant {
        let Some(interval) = self.interval else { return Instant::now() };
        let due = self.due;
        self.due += interval;
        tokio::time::sleep_until(due.into()).await;
        due
    }
}

/// The key with this number.
pub(super) fn key(number: u64) -> String {
    format!("bench/{number:012}")
}

impl Load {
    /// Runs `count` measured loops on the calling thread.
    pub(super) fn run_measured(self: Arc<Self>, count: u32) -> Result<Tally, Failure> {
        let client = self.client(false)?;
        let until = Instant::now() + Duration::from_secs(self.arguments.secs);
        runtime()?.block_on(async {
            let loops = (0..count).map(|number| Arc::clone(&self).measured_loop(client.clone(), number, until));
            let mut loops: JoinSet<Tally> = loops.collect();
            let mut sum = Tally::new();
            while let Some(ended) = loops.join_next().await {
                sum.add(&ended.map_err(panicked)?);
            }
            Ok(sum)
        })
    }

    async fn measured_loop(self: Arc<Self>, client: Client, number: u32, until: Instant) -> Tally {
        let mut tally = Tally::new();
        // In a mixed load every loop takes turns; half of them begin with a get.
        let mut turn = number;
        let mut schedule = Schedule::new(&self.arguments, number);
        while Instant::now() < until && !self.stop.load(Ordering::Relaxed) {
            let key = key(rand::rng().random_range(0..self.arguments.keys));
            let put = match self.arguments.op {
                Operation::Put => true,
                Operation::Get => false,
                Operation::Mixed => turn.is_multiple_of(2),
            };
            turn = turn.wrapping_add(1);
            let began = schedule.next().await;
            let (ended, retries) = self.ask(&client, &key, put, until + LAST_WAIT).await;
            let latency = u64::try_from(began.elapsed().as_micros()).unwrap_or(LONGEST_US).max(1);
            match ended {
                Ok(present) => {
                    let histogram = if put { &mut tally.puts } else { &mut tally.gets };
                    histogram.saturating_record(latency);
                    tally.absent += u64::from(!present);
                    if retries > 0 {
                        *tally.retried.entry(retries).or_default() += 1;
                    }
                    tally.last_answer = Some(Instant::now());
                    self.done.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    tally.count_error(&error);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        tally
    }

    /// Sends one request, and again if it fails, as often as may be. How it ended, and how often it was sent again.
    async fn ask(&self, client: &Client, key: &str, put: bool, until: Instant) -> (Result<bool, Error>, u32) {
        let mut retries = 0;
        loop {
            // Whatever hangs when the time is over is not waited for much longer.
            let left = until.saturating_duration_since(Instant::now());
            let deadline = Some(self.arguments.connect.timeout.min(left));
            let ended = if put {
                let options = PutOptions { deadline, ..PutOptions::default() };
                client.put_with(key, self.value.clone(), &options).await.map(|_| true)
            } else {
                let options = GetOptions { deadline, ..GetOptions::default() };
                client.get_with(key, &options).await.map(|item| item.is_some())
            };
            if ended.is_ok() || retries >= self.arguments.retries || Instant::now() >= until {
                return (ended, retries);
            }
            retries += 1;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Puts every key once, with `count` loops on the calling thread.
    pub(super) fn run_fill(self: Arc<Self>, count: u32) -> Result<(), Failure> {
        let client = self.client(true)?;
        runtime()?.block_on(async {
            let loops = (0..count).map(|_| Arc::clone(&self).fill_loop(client.clone()));
            let mut loops: JoinSet<Result<(), Failure>> = loops.collect();
            while let Some(ended) = loops.join_next().await {
                ended.map_err(panicked)??;
            }
            Ok(())
        })
    }

    async fn fill_loop(self: Arc<Self>, client: Client) -> Result<(), Failure> {
        while !self.stop.load(Ordering::Relaxed) {
            let number = self.done.fetch_add(1, Ordering::Relaxed);
            if number >= self.arguments.keys {
                return Ok(());
            }
            // The same value again changes nothing that matters here, so an unknown outcome is simply repeated.
            let mut put = client.put(key(number), self.value.clone()).await;
            if matches!(put, Err(Error::OutcomeUnknown { .. })) {
                put = client.put(key(number), self.value.clone()).await;
            }
            put?;
        }
        Ok(())
    }
}
