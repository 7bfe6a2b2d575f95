//! How fast a lane sends snapshots: as fast as they can go while the writes of its clients do not wait longer for that.
//!
//! A token bucket whose rate adapts. In windows of a quarter of a second the lane compares how long its clients' writes took
//! (from the proposal to the answer) with how long they take when nothing is sent: longer, and the rate falls to half of what
//! was sent; not so, and it rises by an eighth; without any writes it doubles, and when there were none for half a minute it
//! rises eightfold. It does not fall below a least rate, which doubles when a snapshot took longer than the log could be
//! kept for it. Now and then it sends nothing for a window, to hear how long writes take without that. This is the
//! delay-based congestion control of LEDBAT (RFC 6817) with the foreground's own latency as the signal, because what moves
//! shares more with it than a link: processors, the disk of each replica, and this lane's rounds.

use std::time::Duration;

use crate::time::Instant;

/// How long a window lasts.
const WINDOW: Duration = Duration::from_millis(250);
/// The rate at first, and the least unless that is raised, in bytes a second.
const LEAST_RATE: u64 = 1 << 20;
/// How high the least rate may become.
const HIGHEST_LEAST_RATE: u64 = 64 << 20;
/// After so long without a snapshot that took too long, a least rate that was raised falls to half of what it is.
const LEAST_FALLS_AFTER: Duration = Duration::from_secs(60);
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
/// The slowest of fewer writes says nothing.
const FEWEST_WRITES: u64 = 8;
/// After so many windows in which something was sent, nothing is for one.
const WINDOWS_BETWEEN_PAUSES: u32 = 32;
/// Without a write for so long there seems to be nobody who writes.
const ALONE_AFTER: Duration = Duration::from_secs(30);
/// Then the rate grows by this factor.
const GROWS_ALONE: u64 = 8;
/// How fast what is known of the quiet follows a window without moves, and one that only pauses (others may go on, and it
/// must not grow used to that): by one part of so many.
const FOLLOWS: u64 = 8;
const FOLLOWS_PAUSE: u64 = 32;
/// What took more than this many times what was known counts as that: one stall of a disk is not what is usual.
const BELIEVED: u64 = 4;

/// How fast a lane sends snapshots.
#[derive(Debug)]
pub struct Pace {
    limit: u64,
    rate: u64,
    /// How many snapshots had to start over because the log after them was gone.
    times_overtaken: u64,
    /// The least rate, and when it was last raised or fell.
    least: u64,
    least_set_at: Option<Instant>,
    /// Bytes that may be sent now; below 0 after a chunk that was larger than what was left.
    budget: i64,
    refilled_at: Instant,
    window: Window,
    /// What writes took in windows in which nothing was sent: the mean and the slowest, smoothed. 0: not known.
    quiet_us: (u64, u64),
    /// Windows in which something was sent since one in which nothing was.
    noisy: u32,
    /// Nothing is sent until this window ends.
    pauses: bool,
    /// When a window ended last in which a write was heard of.
    wrote_at: Option<Instant>,
}

#[derive(Debug, Default)]
struct Window {
    began_at: Instant,
    /// Whether a write was proposed or applied here, answered or not.
    heard: bool,
    writes: u64,
    sum_us: u64,
    max_us: u64,
    sent: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            limit: HIGHEST_RATE,
            rate: LEAST_RATE,
            times_overtaken: 0,
            least: LEAST_RATE,
            least_set_at: None,
            budget: 0,
            refilled_at: Instant::default(),
            window: Window::default(),
            quiet_us: (0, 0),
            noisy: 0,
            pauses: false,
            wrote_at: None,
        }
    }
}

impl Pace {
    /// Never sends faster than this many bytes a second; [`UNPACED`]: never waits at all.
    pub fn set_limit(&mut self, bytes_per_second: u64) {
        self.limit = bytes_per_second.max(LEAST_RATE);
        self.rate = self.rate.min(self.limit);
        self.least = self.least.min(self.limit);
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
        self.budget > 0 && !self.pauses
    }

    /// How long until another chunk may be sent.
    pub fn wait(&self, now: Instant) -> Duration {
        if self.limit == UNPACED {
            return Duration::ZERO;
        }
        if self.pauses {
            return WINDOW.saturating_sub(now.since(self.window.began_at));
        }
        let missing = self.budget.min(0).unsigned_abs() + u64::from(self.budget <= 0);
        let flows_in = Duration::from_secs_f64(missing as f64 / self.rate as f64);
        flows_in.saturating_sub(now.since(self.refilled_at))
    }

    /// A chunk of this many bytes was sent.
    pub fn sent(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        self.budget = self.budget.saturating_sub_unsigned(bytes);
        self.window.sent += bytes;
    }

    /// A snapshot took so long that the log after it could not be kept. If it was this pace that held it back the least rate
    /// doubles, or there would be no end to snapshots of a group that is written to a lot; once for all snapshots of a window.
    pub fn overtaken(&mut self, now: Instant, by_the_pace: bool) {
        self.times_overtaken += 1;
        let just_now = self.least_set_at.is_some_and(|at| now.since(at) < WINDOW);
        if !by_the_pace || just_now {
            return;
        }
        self.least = self.least.saturating_mul(2).min(HIGHEST_LEAST_RATE).min(self.limit);
        self.least_set_at = Some(now);
        self.rate = self.rate.max(self.least);
    }

    /// How many snapshots were.
    pub fn times_overtaken(&self) -> u64 {
        self.times_overtaken
    }

    /// A client's write was proposed or applied here: by this leader, or by another for this replica to follow.
    pub fn hear_write(&mut self) {
        self.window.heard = true;
    }

    /// Whether no client's write was heard of lately: then nobody waits for the disk.
    pub fn is_alone(&self, now: Instant) -> bool {
        !self.window.heard && self.wrote_at.is_none_or(|at| now.since(at) >= ALONE_AFTER)
    }

    /// A client's write was answered after this long.
    pub fn answered(&mut self, took: Duration) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.window.heard = true;
        self.window.writes += 1;
        self.window.sum_us = self.window.sum_us.saturating_add(took_us);
        self.window.max_us = self.window.max_us.max(took_us);
    }

    /// Time has passed: at the end of a window the rate adapts.
    pub fn tick(&mut self, now: Instant) {
        let lasted = now.since(self.window.began_at);
        if lasted < WINDOW {
            return;
        }
        let window = std::mem::replace(&mut self.window, Window { began_at: now, ..Window::default() });
        if window.heard {
            self.wrote_at = Some(now);
        }
        if self.least_set_at.is_some_and(|at| now.since(at) >= LEAST_FALLS_AFTER) {
            self.least = (self.least / 2).max(LEAST_RATE);
            self.least_set_at = Some(now);
        }
        let alone = self.is_alone(now);
        if window.sent == 0 {
            self.noisy = 0;
            let follows = if std::mem::take(&mut self.pauses) { FOLLOWS_PAUSE } else { FOLLOWS };
            self.hear_quiet(&window, follows);
            return;
        }
        self.noisy += 1;
        let (quiet_mean, quiet_max) = self.quiet_us;
        let slower = |us: u64, quiet: u64, tenths: u64| quiet > 0 && us * 10 > quiet * tenths;
        let strained = slower(window.mean_us(), quiet_mean, STRAINED_MEAN)
            || (window.tells_slowest() && slower(window.max_us, quiet_max, STRAINED_MAX));
        let sent_rate = (window.sent as f64 / lasted.as_secs_f64()) as u64;
        self.rate = match (strained, window.writes) {
            (true, _) => self.rate.min(sent_rate) / 2,
            // They wait: that they take long is all that is known.
            (false, 0) if window.heard => self.rate,
            (false, 0) => self.rate.saturating_mul(if alone { GROWS_ALONE } else { 2 }),
            (false, _) => self.rate.saturating_add(self.rate / 8),
        };
        self.rate = self.rate.clamp(self.least, self.limit);
        self.pauses = window.writes > 0 && (quiet_mean == 0 || self.noisy >= WINDOWS_BETWEEN_PAUSES);
    }

    /// Writes took this long while nothing was sent. What is faster than what was known is believed sooner.
    fn hear_quiet(&mut self, window: &Window, follows: u64) {
        let follow = |known: u64, heard: u64| match known {
            0 => heard,
            known if heard < known => (known + heard) / 2,
            known => (known * (follows - 1) + heard.min(known.saturating_mul(BELIEVED))) / follows,
        };
        if window.writes > 0 {
            self.quiet_us.0 = follow(self.quiet_us.0, window.mean_us());
        }
        if window.tells_slowest() {
            self.quiet_us.1 = follow(self.quiet_us.1, window.max_us);
        }
    }
}

impl Window {
    fn mean_us(&self) -> u64 {
        self.sum_us / self.writes.max(1)
    }

    fn tells_slowest(&self) -> bool {
        self.writes >= FEWEST_WRITES
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
        let mut pace = Pace { rate: 10 << 20, ..Pace::default() };
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
        let (mut pace, mut now) = (Pace { rate: 16 << 20, ..Pace::default() }, Instant(0));
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
    fn one_stall_is_not_taken_for_what_is_usual() {
        let (mut pace, mut now) = (Pace { rate: 16 << 20, ..Pace::default() }, Instant(0));
        windows(&mut pace, &mut now, 8, 2, false);
        windows(&mut pace, &mut now, 1, 200, false);
        let first = pace.rate();
        windows(&mut pace, &mut now, 1, 5, true);
        assert!(pace.rate() < first, "5 ms are strain where 2 ms are usual");
    }

    #[test]
    fn a_snapshot_that_is_overtaken_raises_the_least_rate_for_a_while() {
        let (mut pace, mut now) = (Pace::default(), Instant(0));
        let mut overtake = |pace: &mut Pace, by_the_pace| {
            now = now + WINDOW;
            // Those of one checkpoint count once.
            (0..40).for_each(|_| pace.overtaken(now, by_the_pace));
            now
        };
        overtake(&mut pace, false);
        assert_eq!(pace.least, LEAST_RATE, "a follower that holds it back gets it no sooner");
        (0..2).for_each(|_| _ = overtake(&mut pace, true));
        let mut now = overtake(&mut pace, true);
        windows(&mut pace, &mut now, 8, 2, false);
        windows(&mut pace, &mut now, 20, 9, true);
        assert_eq!(pace.rate(), 8 * LEAST_RATE, "whatever clients feel: else it would never end");
        now = now + LEAST_FALLS_AFTER;
        windows(&mut pace, &mut now, 20, 9, true);
        assert_eq!(pace.rate(), 4 * LEAST_RATE);
        for _ in 0..40 {
            now = now + WINDOW;
            pace.overtaken(now, true);
        }
        assert_eq!((pace.rate(), pace.times_overtaken()), (HIGHEST_LEAST_RATE, 4 * 40 + 40));
        pace.set_limit(2 << 20);
        windows(&mut pace, &mut now, 20, 9, true);
        assert_eq!(pace.rate(), 2 << 20);
    }

    #[test]
    fn when_the_wait_is_over_a_chunk_may_be_sent_and_not_before() {
        let mut pace = Pace { rate: 3 << 20, ..Pace::default() };
        let mut now = Instant(7);
        for chunk in 0..50 {
            let wait = pace.wait(now);
            if wait > Duration::from_millis(1) {
                assert!(!pace.allows(now + (wait - Duration::from_millis(1))), "chunk {chunk}");
            }
            now = now + wait + Duration::from_micros(1);
            assert!(pace.allows(now), "chunk {chunk}");
            pace.sent(64 << 10);
        }
        // A pause, as nothing is known of the quiet, lasts until the window ends.
        windows(&mut pace, &mut now, 1, 9, true);
        assert_eq!(pace.wait(now + WINDOW / 4), WINDOW - WINDOW / 4);
        now = now + pace.wait(now);
        pace.tick(now);
        assert!(pace.allows(now + Duration::from_millis(100)));
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

    #[test]
    fn it_pauses_to_hear_the_quiet_at_once_when_it_does_not_know_it_and_now_and_then_when_it_does() {
        let (mut pace, mut now) = (Pace::default(), Instant(0));
        windows(&mut pace, &mut now, 1, 9, true);
        assert!(!pace.allows(now + Duration::from_millis(20)), "what is normal is not known");
        windows(&mut pace, &mut now, 1, 2, false);
        let mut paused = 0;
        for _ in 0..=WINDOWS_BETWEEN_PAUSES {
            let pauses = !pace.allows(now + Duration::from_millis(20));
            paused += u32::from(pauses);
            windows(&mut pace, &mut now, 1, 2, !pauses);
        }
        assert_eq!(paused, 1);
        let rate = pace.rate();
        windows(&mut pace, &mut now, 1, 9, true);
        assert!(pace.rate() < rate, "the quiet is known: 9 ms are strain");
    }

    #[test]
    fn writes_that_get_no_answer_are_not_taken_for_none() {
        let (mut pace, mut now) = (Pace::default(), Instant(0));
        for _ in 0..5 {
            pace.hear_write();
            pace.sent(1);
            now = now + WINDOW;
            pace.tick(now);
        }
        assert_eq!(pace.rate(), LEAST_RATE);
        pace.sent(1);
        pace.tick(now + WINDOW);
        assert_eq!(pace.rate(), 2 * LEAST_RATE, "they may only pause");
    }

    #[test]
    fn whoever_writes_now_and_then_is_not_forgotten_at_once() {
        let mut pace = Pace::default();
        assert!(pace.is_alone(Instant(0)));
        pace.answered(Duration::from_millis(2));
        assert!(!pace.is_alone(Instant(0)));
        let wrote_at = Instant(0) + WINDOW;
        pace.tick(wrote_at);
        assert!(!pace.is_alone(wrote_at + ALONE_AFTER / 2));
        pace.hear_write();
        assert!(!pace.is_alone(wrote_at + ALONE_AFTER), "a follower hears no answer");
        pace.window = Window::default();
        assert!(pace.is_alone(wrote_at + ALONE_AFTER));
    }

    #[test]
    fn few_writes_are_heard_too() {
        let (mut pace, mut now) = (Pace::default(), Instant(0));
        let mut window = |took_ms: u64, sends: bool| {
            pace.answered(Duration::from_millis(took_ms));
            pace.sent(usize::from(sends));
            now = now + WINDOW;
            pace.tick(now);
            pace.rate()
        };
        window(2, false);
        let first = window(2, true);
        assert!(first < LEAST_RATE * 2, "with a write it does not double");
        assert!(window(9, true) < first);
    }
}
