//! The loops that make the load: those of puts and gets, and what all have in common.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use annulus_client::{Client, Error, GetOptions, PutOptions};
use rand::RngExt;
use tokio::task::{JoinError, JoinSet};

use super::tally::Tally;
use super::{Load, runtime};
use crate::args::Operation;
use crate::exit::Failure;

/// How long a loop pauses after a failure, so that a store in trouble is not asked as fast as a machine can.
pub(super) const PAUSE: Duration = Duration::from_millis(5);
/// How long after the end of the measurement the last requests may still be answered.
pub(super) const LAST_WAIT: Duration = Duration::from_secs(1);

fn panicked(_: JoinError) -> Failure {
    Failure::Refused("a loop of the load has panicked: this is a bug of annulus".into())
}

/// When one loop sends its requests.
pub(super) struct Schedule {
    interval: Option<Duration>,
    due: Instant,
}

impl Schedule {
    pub(super) fn new(arguments: &crate::args::Bench, number: u32) -> Self {
        let clients = arguments.clients;
        let interval = arguments.rate.map(|rate| Duration::from_secs_f64(f64::from(clients) / f64::from(rate)));
        let offset = interval.map_or(Duration::ZERO, |interval| interval * number / clients);
        Self { interval, due: Instant::now() + offset }
    }

    /// Waits for the next request's time. What its latency counts from: that time, however late it is.
    pub(super) async fn next(&mut self) -> Instant {
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
            let mut sum = Tally::new(self.arguments.op);
            while let Some(ended) = loops.join_next().await {
                sum.add(&ended.map_err(panicked)?);
            }
            Ok(sum)
        })
    }

    async fn measured_loop(self: Arc<Self>, client: Client, number: u32, until: Instant) -> Tally {
        match self.arguments.op {
            Operation::Put | Operation::Get | Operation::Mixed => self.key_loop(client, number, until).await,
            Operation::Lock => self.lock_loop(client, number, until).await,
            Operation::Queue => self.queue_loop(client, until).await,
            Operation::Txn | Operation::TxnOne => self.txn_loop(client, number, until).await,
            Operation::Rmw => self.rmw_loop(client, number, until).await,
        }
    }

    /// Puts and gets.
    async fn key_loop(self: Arc<Self>, client: Client, number: u32, until: Instant) -> Tally {
        let mut tally = Tally::new(self.arguments.op);
        // In a mixed load every loop takes turns; half of them begin with a get.
        let mut turn = number;
        let mut schedule = Schedule::new(&self.arguments, number);
        let mut answered = 0;
        while self.goes_on(until) {
            let key = key(rand::rng().random_range(0..self.arguments.keys));
            let put = match self.arguments.op {
                Operation::Put => true,
                Operation::Mixed => turn.is_multiple_of(2),
                _ => false,
            };
            turn = turn.wrapping_add(1);
            let began = schedule.next().await;
            let (ended, retries) = self.ask(until, |deadline| self.put_or_get(&client, &key, put, deadline)).await;
            match ended {
                Ok(present) => {
                    tally.record(if put { "put" } else { "get" }, began.elapsed(), retries);
                    tally.absent += u64::from(!present);
                    answered += self.count_done();
                }
                Err(error) => {
                    tally.count_error(&error);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        tally.end_loop(answered)
    }

    /// Whether the key was there; one that was put is.
    async fn put_or_get(&self, client: &Client, key: &str, put: bool, deadline: Duration) -> Result<bool, Error> {
        let deadline = Some(deadline);
        if put {
            let options = PutOptions { deadline, ..PutOptions::default() };
            client.put_with(key, self.value.clone(), &options).await.map(|_| true)
        } else {
            let options = GetOptions { deadline, ..GetOptions::default() };
            client.get_with(key, &options).await.map(|item| item.is_some())
        }
    }

    /// Sends one request, and again if it fails, as often as may be. How it ended, and how often it was sent again.
    pub(super) async fn ask<T, F>(&self, until: Instant, send: impl Fn(Duration) -> F) -> (Result<T, Error>, u32)
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut retries = 0;
        loop {
            let ended = send(self.time_left(until)).await;
            if ended.is_ok() || retries >= self.arguments.retries || Instant::now() >= until + LAST_WAIT {
                return (ended, retries);
            }
            retries += 1;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// How long a request may take: whatever hangs when the measurement is over is not waited for much longer.
    pub(super) fn time_left(&self, until: Instant) -> Duration {
        self.arguments.connect.timeout.min((until + LAST_WAIT).saturating_duration_since(Instant::now()))
    }

    pub(super) fn goes_on(&self, until: Instant) -> bool {
        Instant::now() < until && !self.stop.load(Ordering::Relaxed)
    }

    /// One more is done.
    pub(super) fn count_done(&self) -> u64 {
        self.done.fetch_add(1, Ordering::Relaxed);
        1
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
