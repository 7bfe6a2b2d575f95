//! Many seeds at once: each runs by itself, so they share nothing but the processors.

use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// What `run` gives for each seed from 1 up to `seeds`, in the order of the seeds. As many run at a time as there are processors.
pub fn each<T: Send>(seeds: u64, run: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let (next, ended) = (AtomicU64::new(1), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > seeds {
                        return;
                    }
                    let result = run(seed);
                    ended.lock().unwrap_or_else(PoisonError::into_inner).push((seed, result));
                }
            });
        }
    });
    let mut ended = ended.into_inner().unwrap_or_else(PoisonError::into_inner);
    ended.sort_unstable_by_key(|(seed, _)| *seed);
    ended.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_seed_runs_once_and_what_it_gives_stands_at_its_place() {
        assert_eq!(each(100, |seed| seed * 2), (1..=100).map(|seed| seed * 2).collect::<Vec<u64>>());
        assert!(each(0, |seed| seed).is_empty());
    }
}
