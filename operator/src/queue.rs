//! Which cluster's turn it is: each one at once when something about it has changed, again when it asked to be, and later and
//! later while it fails. No cluster waits for another, and none is worked on twice at a time.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// A cluster: its namespace and its name.
pub type Key = (String, String);

/// How many are worked on at once.
const CONCURRENCY: usize = 16;
/// Changes that come together make one round.
const TOGETHER: Duration = Duration::from_millis(50);
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// What came of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It went well; the next one is due then.
    Again(Duration),
    /// It failed.
    Failed,
    /// The cluster is gone.
    Gone,
}

#[derive(Debug, Default)]
struct Turn {
    due: Option<Instant>,
    is_running: bool,
    failures: u32,
}

/// Works on clusters until `changed` is closed.
pub async fn run<F: Future<Output = Outcome>>(mut changed: mpsc::Receiver<Key>, work: impl Fn(Key) -> F) {
    let mut turns: HashMap<Key, Turn> = HashMap::new();
    let mut running = FuturesUnordered::new();
    loop {
        let now = Instant::now();
        for (key, turn) in &mut turns {
            if running.len() < CONCURRENCY && !turn.is_running && turn.due.is_some_and(|due| due <= now) {
                (turn.is_running, turn.due) = (true, None);
                let (key, round) = (key.clone(), work(key.clone()));
                running.push(async move { (key, round.await) });
            }
        }
        let has_room = running.len() < CONCURRENCY;
        let waiting = turns.values().filter(|turn| !turn.is_running && has_room).filter_map(|turn| turn.due);
        let next = waiting.min().unwrap_or_else(|| now + LAST_RETRY);
        tokio::select! {
            key = changed.recv() => {
                let Some(key) = key else { return };
                let turn = turns.entry(key).or_default();
                let soon = Instant::now() + TOGETHER;
                turn.due = Some(turn.due.map_or(soon, |due| due.min(soon)));
            }
            Some((key, outcome)) = running.next() => ended(&mut turns, key, outcome),
            () = sleep_until(next) => {}
        }
    }
}

fn ended(turns: &mut HashMap<Key, Turn>, key: Key, outcome: Outcome) {
    let Some(turn) = turns.get_mut(&key) else { return };
    turn.is_running = false;
    let again = match outcome {
        Outcome::Again(again) => {
            turn.failures = 0;
            again
        }
        Outcome::Failed => {
            turn.failures = turn.failures.saturating_add(1);
            FIRST_RETRY.saturating_mul(1 << turn.failures.min(10).saturating_sub(1)).min(LAST_RETRY)
        }
        Outcome::Gone => {
            if turn.due.is_none() {
                turns.remove(&key);
            }
            return;
        }
    };
    // What has changed meanwhile is looked at sooner, but what fails is not hurried by its own changes.
    let at = Instant::now() + again;
    turn.due = Some(turn.due.filter(|_| outcome != Outcome::Failed).map_or(at, |due| due.min(at)));
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn key(name: &str) -> Key {
        ("default".to_owned(), name.to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_fails_waits_longer_and_longer_and_holds_nobody_up() {
        let (sender, receiver) = mpsc::channel(8);
        let (began, rounds) = (Instant::now(), Mutex::new(Vec::new()));
        sender.send(key("bad")).await.unwrap();
        sender.send(key("good")).await.unwrap();
        let work = |key: Key| {
            rounds.lock().unwrap().push((key.1.clone(), began.elapsed().as_millis()));
            async move { if key.1 == "bad" { Outcome::Failed } else { Outcome::Again(Duration::from_secs(5)) } }
        };
        let stop = async {
            tokio::time::sleep(Duration::from_secs(11)).await;
            drop(sender);
        };
        tokio::join!(run(receiver, work), stop);
        let of = |name: &str| -> Vec<u128> {
            rounds.lock().unwrap().iter().filter(|(it, _)| it == name).map(|(_, at)| at / 100 * 100).collect()
        };
        assert_eq!(of("bad"), [0, 500, 1500, 3500, 7500]);
        assert_eq!(of("good"), [0, 5000, 10000]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_changes_during_a_round_has_another_one_right_after_it() {
        let (sender, receiver) = mpsc::channel(8);
        let rounds = Mutex::new(0);
        sender.send(key("a")).await.unwrap();
        let work = |_| {
            *rounds.lock().unwrap() += 1;
            async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Outcome::Again(Duration::from_secs(3600))
            }
        };
        let change = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            sender.send(key("a")).await.unwrap();
            tokio::time::sleep(Duration::from_secs(10)).await;
            drop(sender);
        };
        tokio::join!(run(receiver, work), change);
        assert_eq!(*rounds.lock().unwrap(), 2);
    }
}
