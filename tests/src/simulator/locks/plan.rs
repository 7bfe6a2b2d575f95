//! What is done with locks in a run, and what a client has in mind with one of them. Drawn from the seed.

use std::ops::RangeInclusive;

use annulus_core::partition::lock::Mode;

use crate::simulator::dice::Dice;
use crate::simulator::scenario::Profile;

/// The longest lease, in milliseconds.
const LONGEST_TTL_MS: u64 = 3000;
/// The longest wait, in milliseconds.
const LONGEST_WAIT_MS: u64 = 5000;
/// Longer than all leases and waits of those that are gone, which may stand in the queue one behind the other, in milliseconds:
/// the last of them is given the lock before its wait is over, and holds it for its lease and what new leaders add.
const FREED_WITHIN_MS: u64 = 15_000;
/// The longest time that a client stands still, in microseconds.
const LONGEST_STOP_US: u64 = 5_000_000;

/// What is done with locks in a run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Clients that use locks.
    pub lockers: usize,
    /// Locks.
    pub locks: usize,
    /// How long a client waits between two wishes, in microseconds.
    pub think_us: RangeInclusive<u64>,
    /// How long it waits between two things that it does while it holds a lock, in microseconds.
    pub pause_us: RangeInclusive<u64>,
    /// Wishes to share a lock, in 1000.
    pub shares: u32,
    /// Wishes whose client stands still while it holds the lock, in 1000.
    pub stops: u32,
    /// Wishes whose client never gives the lock back, in 1000.
    pub vanishes: u32,
    /// Attempts whose connection ends before the answer comes, in 1000.
    pub hangs_up: u32,
}

/// What a client has in mind with a lock.
#[derive(Debug, Clone)]
pub struct Intent {
    /// Which lock.
    pub lock: usize,
    /// Whether others may share it.
    pub mode: Mode,
    /// The lease, in milliseconds.
    pub ttl_ms: u64,
    /// How long to wait for it, in milliseconds.
    pub wait_ms: u64,
    /// For how long it goes on asking, in microseconds.
    pub patience_us: u64,
    /// For how long it wants to hold the lock, in microseconds.
    pub holds_us: u64,
    /// How long it stands still meanwhile, in microseconds, if it does.
    pub stops_us: Option<u64>,
    /// Whether it renews its lease in time.
    pub renews: bool,
    /// Whether it gives the lock back.
    pub releases: bool,
    /// Whether it goes on writing whatever its clock says.
    pub is_careless: bool,
    /// Whether it was told to, when nothing goes wrong any more: then it must succeed.
    pub is_told: bool,
}

impl Plan {
    /// No locks at all.
    pub const NONE: Self =
        Self { lockers: 0, locks: 0, think_us: 0..=0, pause_us: 0..=0, shares: 0, stops: 0, vanishes: 0, hangs_up: 0 };

    /// What this seed gives. Where something else is to be brought out, locks must not keep it from happening.
    pub fn draw(dice: &mut Dice, profile: Profile) -> Self {
        let (lockers, think_ms) = match profile {
            Profile::Locks => (*dice.pick(&[6, 9, 12]), 100),
            Profile::General => (*dice.pick(&[0, 3, 6]), *dice.pick(&[50, 200])),
            // Few entries: whoever is cut off must not fall behind.
            Profile::Bounces => (1, 5000),
            _ => (*dice.pick(&[1, 2]), *dice.pick(&[300, 1000])),
        };
        Self {
            lockers,
            locks: *dice.pick(&[1, 1, 2, 3]),
            think_us: 1000..=think_ms * 1000,
            pause_us: 1000..=*dice.pick(&[30, 100, 300]) * 1000,
            shares: *dice.pick(&[0, 200, 500]),
            stops: *dice.pick(&[0, 300, 600]),
            vanishes: *dice.pick(&[50, 300]),
            hangs_up: *dice.pick(&[0, 200, 500]),
        }
    }

    /// What a client wants next.
    pub fn wish(&self, dice: &mut Dice) -> Intent {
        let mode = if dice.chance(self.shares) { Mode::Shared } else { Mode::Exclusive };
        let ttl_ms = dice.within(500..=LONGEST_TTL_MS);
        let wait_ms = if dice.chance(200) { 0 } else { dice.within(50..=LONGEST_WAIT_MS) };
        let outlasts = dice.chance(300);
        let holds = if outlasts { ttl_ms..=3 * ttl_ms } else { 0..=ttl_ms * 7 / 10 };
        let patience_ms = if dice.chance(200) { dice.within(20..=500 + wait_ms) } else { wait_ms + 3000 };
        let stops_us = dice.chance(self.stops).then(|| dice.within(ttl_ms * 500..=ttl_ms * 2500).min(LONGEST_STOP_US));
        Intent {
            lock: dice.index(self.locks),
            mode,
            ttl_ms,
            wait_ms,
            patience_us: patience_ms * 1000,
            holds_us: dice.within(holds) * 1000,
            stops_us,
            renews: dice.chance(600),
            releases: !dice.chance(self.vanishes),
            is_careless: dice.chance(700),
            is_told: false,
        }
    }

    /// What a client is told to want in the end: the lock, and to give it back.
    pub fn order(lock: usize) -> Intent {
        Intent {
            lock,
            mode: Mode::Exclusive,
            ttl_ms: LONGEST_TTL_MS,
            wait_ms: FREED_WITHIN_MS,
            patience_us: u64::MAX / 2,
            holds_us: 0,
            stops_us: None,
            renews: true,
            releases: true,
            is_careless: false,
            is_told: true,
        }
    }
}
