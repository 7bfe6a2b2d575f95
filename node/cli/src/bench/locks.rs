//! Loads of locks: many that are free, and one that all wait for.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use annulus_client::Client;
use rand::RngExt;
use tokio::time::{sleep, timeout_at};

use super::Load;
use super::load::{LAST_WAIT, PAUSE, Schedule, key};
use super::tally::Tally;

/// Nobody loses a lock while it is measured.
const LEASE: Duration = Duration::from_secs(60);
/// All wait until it ends when a grant was lost on its way.
const QUEUE_LEASE: Duration = Duration::from_secs(10);

/// The one lock that all clients wait for: who has it, and whether it came to them in order.
#[derive(Debug, Default)]
pub(super) struct Queue {
    holder: Option<u64>,
    /// When the last holder began to give it up.
    given_up: Option<Instant>,
    newest: u64,
    pub(super) grants: u64,
    /// Grants whose token is not above all earlier ones: tokens are given to those that come, in their order.
    pub(super) out_of_order: u64,
    /// Grants while somebody else held it who had not begun to give it up.
    pub(super) overlapping: u64,
}

impl Queue {
    /// It came to somebody; tells how long after the last holder began to give it up.
    pub(super) fn granted(&mut self, token: u64, now: Instant) -> Option<Duration> {
        self.grants += 1;
        self.out_of_order += u64::from(token <= self.newest);
        self.overlapping += u64::from(self.holder.is_some());
        self.newest = self.newest.max(token);
        self.holder = Some(token);
        self.given_up.take().map(|given_up| now - given_up)
    }

    /// Whoever has it begins to give it up.
    pub(super) fn gives_up(&mut self, token: u64, now: Instant) {
        if self.holder == Some(token) {
            self.holder = None;
            self.given_up = Some(now);
        }
    }

    /// Whether it was never where it should not be.
    pub(super) fn is_in_order(&self) -> bool {
        self.out_of_order == 0 && self.overlapping == 0
    }
}

impl Load {
    /// Gets a lock drawn at random and gives it up at once; waits if another loop has it.
    pub(super) async fn lock_loop(self: Arc<Self>, client: Client, number: u32, until: Instant) -> Tally {
        let mut tally = Tally::new(self.arguments.op);
        let mut schedule = Schedule::new(&self.arguments, number);
        let mut answered = 0;
        while self.goes_on(until) {
            let name = key(rand::rng().random_range(0..self.arguments.keys));
            let began = schedule.next().await;
            let acquiring = client.lock(name).ttl(LEASE).wait(self.time_left(until)).acquire();
            let ended = match timeout_at((until + LAST_WAIT).into(), acquiring).await {
                Err(_) => break,
                Ok(Ok(lock)) => {
                    let acquired = Instant::now();
                    tally.record("acquire", acquired - began, 0);
                    lock.release().await.map(|()| tally.record("release", acquired.elapsed(), 0))
                }
                Ok(Err(error)) => Err(error),
            };
            match ended {
                Ok(()) => answered += self.count_done(),
                Err(error) => {
                    tally.count_error(&error);
                    sleep(PAUSE).await;
                }
            }
        }
        tally.end_loop(answered)
    }

    /// Waits in line for the one lock, and gives it up at once.
    pub(super) async fn queue_loop(self: Arc<Self>, client: Client, until: Instant) -> Tally {
        let mut tally = Tally::new(self.arguments.op);
        let mut answered = 0;
        while self.goes_on(until) {
            let acquiring = client.lock(&self.lock_name).ttl(QUEUE_LEASE).wait_forever().acquire();
            let ended = match timeout_at(until.into(), acquiring).await {
                // Its place in the line is given up with it.
                Err(_) => break,
                Ok(Ok(lock)) => {
                    if let Some(latency) = self.queue().granted(lock.token(), Instant::now()) {
                        tally.record("hand-over", latency, 0);
                    }
                    self.queue().gives_up(lock.token(), Instant::now());
                    lock.release().await
                }
                Ok(Err(error)) => Err(error),
            };
            match ended {
                Ok(()) => answered += self.count_done(),
                Err(error) => {
                    tally.count_error(&error);
                    sleep(PAUSE).await;
                }
            }
        }
        tally.end_loop(answered)
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hand_over_counts_from_when_the_last_holder_began_to_give_up_and_disorder_is_seen() {
        let (mut queue, began) = (Queue::default(), Instant::now());
        let at = |ms| began + Duration::from_millis(ms);
        assert_eq!(queue.granted(3, at(0)), None);
        queue.gives_up(3, at(5));
        assert_eq!(queue.granted(7, at(9)), Some(Duration::from_millis(4)));
        assert!(queue.is_in_order());
        assert_eq!(queue.granted(8, at(10)), None);
        assert_eq!((queue.overlapping, queue.out_of_order), (1, 0));
        // One that was overtaken does not end the other's turn.
        queue.gives_up(7, at(11));
        queue.granted(6, at(12));
        assert_eq!((queue.overlapping, queue.out_of_order, queue.grants), (2, 1, 4));
    }
}
