//! Loads of transactions over two keys.

use std::sync::Arc;
use std::time::{Duration, Instant};

use annulus_client::{Client, Error, Item, Result, Ring};
use rand::RngExt;
use tokio::time::{sleep, timeout_at};

use super::Load;
use super::load::{LAST_WAIT, PAUSE, Schedule, key};
use super::tally::Tally;
use crate::args::Operation;

/// Pairs are looked for among so many keys.
const SEARCHED: u64 = 1 << 18;

/// Keys that lie in one partition together: of each partition that has two of them, their numbers.
#[derive(Debug, Default)]
pub(super) struct Neighbours(Vec<Vec<u64>>);

impl Neighbours {
    /// Those among the first of so many keys.
    pub(super) fn find(ring: &Ring, keys: u64) -> Self {
        let mut together = vec![Vec::new(); ring.partitions() as usize];
        for number in 0..keys.min(SEARCHED) {
            together[ring.partition_of(key(number).as_bytes()).0 as usize].push(number);
        }
        together.retain(|numbers| numbers.len() > 1);
        Self(together)
    }

    pub(super) fn are_none(&self) -> bool {
        self.0.is_empty()
    }

    /// Two of one partition.
    fn draw(&self) -> [u64; 2] {
        let numbers = &self.0[rand::rng().random_range(0..self.0.len())];
        two_of(numbers.len() as u64).map(|at| numbers[usize::try_from(at).expect("a place in a list")])
    }
}

/// Two different numbers below this one.
fn two_of(count: u64) -> [u64; 2] {
    let first = rand::rng().random_range(0..count);
    let second = rand::rng().random_range(0..count - 1);
    [first, second + u64::from(second >= first)]
}

impl Load {
    /// Puts two keys at once.
    pub(super) async fn txn_loop(self: Arc<Self>, client: Client, number: u32, until: Instant) -> Tally {
        let mut tally = Tally::new(self.arguments.op);
        let mut schedule = Schedule::new(&self.arguments, number);
        let mut answered = 0;
        while self.goes_on(until) {
            let keys = match self.arguments.op {
                Operation::TxnOne => self.neighbours.draw(),
                _ => two_of(self.arguments.keys),
            };
            let [one, other] = keys.map(key);
            let request = client.txn().put(one, &self.value).put(other, &self.value);
            let began = schedule.next().await;
            // Sent again it is the same, under the same id.
            let ask = |deadline: Duration| request.clone().deadline(deadline).send();
            let (ended, retries) = self.ask(until, ask).await;
            match ended {
                Ok(_) => {
                    tally.record("txn", began.elapsed(), retries);
                    answered += self.count_done();
                }
                Err(error) => {
                    tally.count_error(&error);
                    sleep(PAUSE).await;
                }
            }
        }
        tally.end_loop(answered)
    }

    /// Reads two keys at one moment, and puts both if they are still as they were.
    pub(super) async fn rmw_loop(self: Arc<Self>, client: Client, number: u32, until: Instant) -> Tally {
        let mut tally = Tally::new(self.arguments.op);
        let mut schedule = Schedule::new(&self.arguments, number);
        let mut answered = 0;
        while self.goes_on(until) {
            let keys = two_of(self.arguments.keys).map(key);
            let began = schedule.next().await;
            let Ok(ended) = timeout_at((until + LAST_WAIT).into(), self.rmw(&client, &keys)).await else { break };
            match ended {
                Ok(true) => {
                    tally.record("rmw", began.elapsed(), 0);
                    answered += self.count_done();
                }
                Ok(false) => tally.count_conflict("condition-failed"),
                Err(error @ Error::TxnConflict { .. }) => tally.count_conflict(error.kind()),
                Err(error) => {
                    tally.count_error(&error);
                    sleep(PAUSE).await;
                }
            }
        }
        tally.end_loop(answered)
    }

    async fn rmw(&self, client: &Client, keys: &[String; 2]) -> Result<bool> {
        let items: Vec<Option<Item>> = client.get_many(keys).await?;
        let request = keys.iter().zip(items).fold(client.txn(), |request, (key, item)| {
            let request = match item {
                Some(item) => request.if_version(key, item.version),
                None => request.if_exists(key, false),
            };
            request.put(key, &self.value)
        });
        Ok(request.send().await?.committed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_are_different_and_every_pair_is_drawn() {
        let mut seen = std::collections::BTreeSet::new();
        while seen.len() < 6 {
            let [one, other] = two_of(3);
            assert!(one != other && one < 3 && other < 3);
            seen.insert((one, other));
        }
    }
}
