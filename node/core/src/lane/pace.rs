//! How fast a lane sends snapshots: as fast as they can go while the writes of its clients do not wait longer for that.
//!
//! A token bucket whose rate adapts. In windows of a quarter of a second the lane compares how long its clients' writes took
//! (from the proposal to the answer) with how long they take when nothing is sent: longer, and the rate falls by a
//! half; not so, and it rises by an eighth; without any writes it doubles. This is the delay-based congestion control of
//! LEDBAT (RFC 6817) with the foreground's own latency as the signal, because what moves shares more with it than a link:
//! processors, the disk of each replica, and this lane's rounds.

use std::time::Duration;

use crate::time::Instant;

/// How long a window lasts.
const WINDOW: Duration = Duration::from_millis(250);
/// The rates, in bytes a second: at first, and the least.
const FIRST_RATE: u64 = 16 << 20;
const LEAST_RATE: u64 = 1 << 20;
/// The highest rate unless a limit is set.
pub const HIGHEST_RATE: u64 = 4 << 30;
/// The limit of a lane that sends as fast as it can, whatever that does to its clients.
pub const UNPACED: u64 = u64::MAX;
/// The bucket holds what flows in this time, at least.
const BURST: Duration = Duration::from_millis(4);
/// Writes wait too long when they take this many times what they took when nothing was sent, in tenths: on average, and
/// the slowest of a window.
const STRAINED_MEAN: u64 = 14;
const STRAINED_MAX: u64 = 18;
/// A window with fewer writes says nothing.
const FEWEST_WRITES: u64 = 8;

/// How fast a lane sends snapshots.
#[derive(Debug)]
pub struct Pace {
    limit: u64,
    rate: u64,
    /// Bytes that may be sent now; below 0 after a chunk that was larger than what was left.
    budget: i64,
    refilled_at: Instant,
    window: Window,
    /// What writes took in windows in which nothing was sent: the mean and the slowest, smoothed. 0: not known.
    quiet_us: (u64, u64),
}

#[derive(Debug, Default)]
struct Window {
    began_at: Instant,
    writes: u64,
    sum_us: u64,
    max_us: u64,
    sent: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            limit: HIGHEST_RATE,
            rate: FIRST_RATE,
            budget: 0,
            refilled_at: Instant::default(),
            window: Window::default(),
            quiet_us: (0, 0),
        }
    }
}

impl Pace {
    /// Never sends faster than this many bytes a second; [`UNPACED`]: never waits at all.
    pub fn set_limit(&mut self, bytes_per_second: u64) {
        self.limit = bytes_per_second.max(LEAST_RATE);
        self.rate = self.rate.min(self.limit);
    }

    /// Bytes a second that may be sent now.
    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// Whether another chunk may be sent.
    pub fn allows(&mut self, now: Instant) -> bool {
        if self.limit == UNPACED {
            return true;
        }
        let passed = now.since(self.refilled_at);
        self.refilled_at = now;
        let flowed = |time: Duration| (self.rate as f64 * time.as_secs_f64()) as i64;
        let most = flowed(BURST).max(1);
        self.budget = self.budget.saturating_add(flowed(passed)).min(most);
        self.budget > 0
    }

    /// A chunk of this many bytes was sent.
    pub fn sent(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        self.budget = self.budget.saturating_sub_unsigned(bytes);
        self.window.sent += bytes;
    }

    /// A client's write was answered after this long.
    pub fn answered(&mut self, took: Duration) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.window.writes += 1;
        self.window.sum_us = self.window.sum_us.saturating_add(took_us);
        self.window.max_us = self.window.max_us.max(took_us);
    }

    /// Time has passed: at the end of a window the rate adapts.
    pub fn tick(&mut self, now: Instant) {
        if now.since(self.window.began_at) < WINDOW {
            return;
        }
        let window = std::mem::replace(&mut self.window, Window { began_at: now, ..Window::default() });
        let tells = window.writes >= FEWEST_WRITES;
        let mean_us = window.sum_us / window.writes.max(1);
        if window.sent == 0 {
            if tells {
                let smooth = |old: u64, new: u64| if old == 0 { new } else { (old * 7 + new) / 8 };
                self.quiet_us = (smooth(self.quiet_us.0, mean_us), smooth(self.quiet_us.1, window.max_us));
            }
            return;
        }
        let (quiet_mean, quiet_max) = self.quiet_us;
        let known = quiet_mean > 0 && tells;
        let strained =
            known && (mean_us * 10 > quiet_mean * STRAINED_MEAN || window.max_us * 10 > quiet_max * STRAINED_MAX);
        self.rate = match (strained, tells) {
            (true, _) => self.rate / 2,
            (false, true) => self.rate * 9 / 8,
            (false, false) => self.rate * 2,
        };
        self.rate = self.rate.clamp(LEAST_RATE, self.limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: u64 = 1000;

    /// Windows in which writes took this long, and something was sent or not.
    fn windows(pace: &mut Pace, from: &mut Instant, count: usize, took_ms: u64, sends: bool) {
        for _ in 0..count {
            for _ in 0..FEWEST_WRITES {
                pace.answered(Duration::from_millis(took_ms));
            }
            if sends {
                pace.sent(1);
            }
            *from = *from + WINDOW;
            pace.tick(*from);
        }
    }

    #[test]
    fn no_more_flows_than_the_rate_allows() {
        let mut pace = Pace::default();
        pace.set_limit(10 << 20);
        let mut sent = 0;
        for milli in 0..1000 {
            while pace.allows(Instant(milli * MILLI)) {
                pace.sent(100_000);
                sent += 100_000;
            }
        }
        assert!((9 << 20..=11 << 20).contains(&sent), "{sent}");
    }

    #[test]
    fn writes_that_wait_longer_slow_it_down_and_it_speeds_up_again_when_they_do_not() {
        let (mut pace, mut now) = (Pace::default(), Instant(0));
        windows(&mut pace, &mut now, 8, 2, false);
        let first = pace.rate();
        windows(&mut pace, &mut now, 6, 5, true);
        let slow = pace.rate();
        assert!(slow < first / 8, "{slow} of {first}");
        windows(&mut pace, &mut now, 6, 2, true);
        assert!(pace.rate() >= 2 * slow);
        windows(&mut pace, &mut now, 60, 9, true);
        assert_eq!(pace.rate(), LEAST_RATE);
    }

    #[test]
    fn without_writes_it_gets_as_fast_as_it_may() {
        let (mut pace, mut now) = (Pace::default(), Instant(0));
        pace.set_limit(200 << 20);
        for _ in 0..10 {
            pace.sent(1);
            now = now + WINDOW;
            pace.tick(now);
        }
        assert_eq!(pace.rate(), 200 << 20);
    }
}
