//! The judges of locks: what must hold of everything that clients asked of them, were told, and wrote under them.
//!
//! What is told can be late: that a token holds its lock is certain from when its client was told until the end of what
//! the client counts on, and that it does so no more is certain when somebody was told what can't be otherwise.

use std::collections::{BTreeMap, BTreeSet};

use annulus_core::id::GroupId;
use annulus_core::map::Map;
use annulus_core::partition;
use annulus_core::partition::lock::{Holder, Mode, Outcome};
use bytes::Bytes;

use super::record::{Action, Answer, Call, Claim, Record, WishId, owner_of};
use super::sightings::Sightings;
use crate::simulator::client::key_name;
use crate::simulator::history::{History, Write, WriteId};

/// How much of a wait passes at least in real time, in 1000: the fastest clock of a member runs at 1.1.
const SHORTEST_WAIT_PER_MILLE: u64 = 900;
/// How much faster than real time a partition's clock runs at most, in 1000.
const FASTEST_PER_MILLE: u64 = 1100;

/// What a run has broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// There is a lock that nobody has asked for.
    #[error("there is a lock {name:?}, which nobody has asked for")]
    Unknown {
        /// Its name.
        name: Bytes,
    },
    /// A token is that of two wishes.
    #[error("token {token} of lock {lock} was given to two")]
    TwoOwners {
        /// The lock.
        lock: usize,
        /// The token.
        token: u64,
    },
    /// A replica shows a lock that is held by some who don't bear each other, or by nobody.
    #[error("lock {lock} is held by {holders:?} at once")]
    NotAlone {
        /// The lock.
        lock: usize,
        /// Their tokens.
        holders: BTreeSet<u64>,
    },
    /// Two clients counted on a lock at once that do not bear each other, or one under two tokens.
    #[error("at {at} the clients with tokens {first} and {second} both counted on lock {lock}")]
    Overlap {
        /// The lock.
        lock: usize,
        /// One token.
        first: u64,
        /// The other.
        second: u64,
        /// When.
        at: u64,
    },
    /// Whoever came later was given the lock before.
    #[error("token {token} of lock {lock} was overtaken by {by}")]
    Overtaken {
        /// The lock.
        lock: usize,
        /// The older token.
        token: u64,
        /// The newer one.
        by: u64,
    },
    /// A token that held its lock no more was said to do so.
    #[error("token {token} holds lock {lock} again: its end was known at {ended}, and it was asked for at {invoked}")]
    Revived {
        /// The lock.
        lock: usize,
        /// The token.
        token: u64,
        /// When somebody was told of its end.
        ended: u64,
        /// When it was asked for.
        invoked: u64,
    },
    /// A client that could still count on its lease was told that it holds the lock no more.
    #[error("token {token} lost lock {lock} at {told}, and counted on it until {until}")]
    LostEarly {
        /// The lock.
        lock: usize,
        /// The token.
        token: u64,
        /// When it was told.
        told: u64,
        /// Until when it counted on it.
        until: u64,
    },
    /// A client was told that its wait is over before it was.
    #[error("a wait of {wait_ms} ms for lock {lock} was over {after_us} µs after it was asked for")]
    WaitCutShort {
        /// The lock.
        lock: usize,
        /// How long it was to wait, in milliseconds.
        wait_ms: u64,
        /// When it was over, in microseconds.
        after_us: u64,
    },
    /// An older token has changed something after a newer one.
    #[error("{group}: a write with token {older} of lock {lock} came after one with {newer}")]
    OldTokenWrote {
        /// The group that they wrote to.
        group: GroupId,
        /// The lock.
        lock: usize,
        /// The older token.
        older: u64,
        /// The newer one.
        newer: u64,
    },
    /// A write was refused for a token that nobody had written with.
    #[error("a write with token {token} of lock {lock} was refused, as older than {newest:?}")]
    RefusedForNothing {
        /// The lock.
        lock: usize,
        /// Its token.
        token: u64,
        /// The token that was said to be the newest.
        newest: Option<u64>,
    },
    /// A lock is said to be held by a token that is another's.
    #[error("lock {lock} is said to be held by {owner:?} with token {token}, which is another's")]
    WrongHolder {
        /// The lock.
        lock: usize,
        /// The token.
        token: u64,
        /// Who was said to hold it.
        owner: Bytes,
    },
    /// A lock was not free when everybody had long let go of it.
    #[error("lock {lock} was not free when everybody had long let go of it: {by:?} holds it")]
    NotFreed {
        /// The lock.
        lock: usize,
        /// Who was said to hold it.
        by: Holder,
    },
}

/// A client counts on a lock for so long.
#[derive(Debug, Clone, Copy)]
struct Belief {
    token: u64,
    wish: WishId,
    from: u64,
    until: u64,
}

/// Judges a whole run. `versions`: those of the writes that anybody has seen.
pub fn check(
    record: &Record,
    sightings: &Sightings,
    history: &History,
    versions: &BTreeMap<WriteId, u64>,
    map: &Map,
) -> Result<(), Violation> {
    let locks: BTreeSet<usize> = record.wishes.iter().map(|wish| wish.lock).collect();
    for lock in locks {
        let judge = Judge::new(lock, record);
        judge.check_owners(sightings)?;
        judge.check_order()?;
        judge.check_overlaps()?;
        judge.check_ends()?;
        judge.check_losses()?;
        judge.check_claims()?;
        judge.check_waits()?;
        check_fences(lock, history, versions, map)?;
        judge.check_refusals(history, map)?;
    }
    Ok(())
}

/// How many calls found the place that an earlier attempt had got.
pub fn places_found_again(record: &Record, sightings: &Sightings) -> u64 {
    let found = |call: &&Call| match &call.answer {
        Some(Answer { sent, outcome: Outcome::Granted { token, .. }, .. }) => {
            sightings.was_known(record.wishes[call.wish].lock, *token, *sent)
        }
        _ => false,
    };
    record.calls.iter().filter(found).count() as u64
}

/// Everything about one lock.
struct Judge<'a> {
    lock: usize,
    record: &'a Record,
    /// Every call that was answered.
    calls: Vec<(&'a Call, &'a Answer)>,
    /// By token, whose it is, as far as anybody was told.
    wishes: BTreeMap<u64, WishId>,
    beliefs: Vec<Belief>,
    /// By token, until when its client could count on its lease, if it did not give it back.
    counted: BTreeMap<u64, u64>,
    /// By token, when it was first told that it holds the lock no more.
    ended: BTreeMap<u64, u64>,
}

impl<'a> Judge<'a> {
    fn new(lock: usize, record: &'a Record) -> Self {
        let of_lock = record.calls.iter().filter(|call| record.wishes[call.wish].lock == lock);
        let calls: Vec<_> = of_lock.clone().filter_map(|call| Some((call, call.answer.as_ref()?))).collect();
        let mut released: BTreeMap<u64, u64> = BTreeMap::new();
        for call in of_lock {
            if let Action::Release { token } = call.action {
                released.entry(token).or_insert(call.invoked);
            }
        }
        let (mut wishes, mut beliefs) = (BTreeMap::new(), Vec::new());
        let (mut counted, mut ended) = (BTreeMap::new(), BTreeMap::new());
        for (call, answer) in &calls {
            match (call.action, &answer.outcome) {
                (Action::Acquire, &Outcome::Granted { token, .. })
                | (Action::Renew { token }, Outcome::Renewed { .. }) => {
                    wishes.entry(token).or_insert(call.wish);
                    let until = released.get(&token).map_or(answer.until, |released| answer.until.min(*released));
                    let longest = counted.entry(token).or_insert(answer.until);
                    *longest = answer.until.max(*longest);
                    beliefs.push(Belief { token, wish: call.wish, from: answer.told, until });
                }
                (Action::Renew { token } | Action::Release { token }, Outcome::NotHeld { .. } | Outcome::Released) => {
                    let known = ended.entry(token).or_insert(answer.told);
                    *known = answer.told.min(*known);
                }
                _ => {}
            }
        }
        beliefs.sort_by_key(|belief| belief.from);
        let mut judge = Self { lock, record, calls, wishes, beliefs, counted, ended };
        judge.end_by_successors();
        judge
    }

    fn is_exclusive(&self, wish: WishId) -> bool {
        self.record.wishes[wish].mode == Mode::Exclusive
    }

    /// Whoever does not bear the other holds the lock no more when that one is told that it does.
    fn end_by_successors(&mut self) {
        for newer in self.beliefs.clone() {
            let ends = |token: u64, wish: WishId| {
                token < newer.token && (self.is_exclusive(wish) || self.is_exclusive(newer.wish))
            };
            let over: Vec<u64> = self.wishes.iter().filter(|(t, w)| ends(**t, **w)).map(|(token, _)| *token).collect();
            for token in over {
                let known = self.ended.entry(token).or_insert(newer.from);
                *known = newer.from.min(*known);
            }
        }
    }

    /// A token is that of one wish, whoever tells of it.
    fn check_owners(&self, sightings: &Sightings) -> Result<(), Violation> {
        let lock = self.lock;
        let wrong = |by: &Holder| {
            let known = self.wishes.get(&by.token).map(|wish| owner_of(self.record.wishes[*wish].client));
            let known = known.or_else(|| sightings.owner(lock, by.token).cloned());
            known.is_some_and(|owner| owner != by.owner)
        };
        for (call, answer) in &self.calls {
            match &answer.outcome {
                Outcome::Granted { token, .. } => {
                    let shown = sightings.owner(lock, *token);
                    let owner = owner_of(self.record.wishes[call.wish].client);
                    if self.wishes[token] != call.wish || shown.is_some_and(|shown| *shown != owner) {
                        return Err(Violation::TwoOwners { lock, token: *token });
                    }
                }
                Outcome::Held { by, .. } | Outcome::NotHeld { by: Some(by) } if wrong(by) => {
                    return Err(Violation::WrongHolder { lock, token: by.token, owner: by.owner.clone() });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Tokens rise in the order in which the lock is given. Who waited tells by its lease for how long: it was given the
    /// lock by then, and not before.
    fn check_order(&self) -> Result<(), Violation> {
        let mut given: Vec<(u64, u64)> = Vec::new();
        let mut asked: Vec<(u64, u64)> = Vec::new();
        for (call, answer) in &self.calls {
            if let Outcome::Granted { token, valid_ms } = answer.outcome {
                let waited_ms = valid_ms.saturating_sub(self.record.wishes[call.wish].ttl_ms);
                let not_before = match waited_ms {
                    0 => call.invoked,
                    // Both ends were rounded to whole milliseconds.
                    waited_ms => answer.sent + (waited_ms - 1) * 1_000_000 / FASTEST_PER_MILLE,
                };
                given.push((answer.told, token));
                asked.push((not_before, token));
            }
        }
        given.sort_unstable();
        asked.sort_unstable();
        let (mut highest, mut given) = (0, given.into_iter().peekable());
        for (not_before, token) in asked {
            while let Some((_, before)) = given.next_if(|(told, _)| *told < not_before) {
                highest = highest.max(before);
            }
            if token < highest {
                return Err(Violation::Overtaken { lock: self.lock, token, by: highest });
            }
        }
        Ok(())
    }

    fn check_overlaps(&self) -> Result<(), Violation> {
        let mut open: Vec<Belief> = Vec::new();
        for belief in self.beliefs.iter().filter(|belief| belief.from < belief.until) {
            open.retain(|earlier| earlier.until > belief.from);
            let collides = |earlier: &&Belief| {
                earlier.token != belief.token
                    && (self.is_exclusive(earlier.wish)
                        || self.is_exclusive(belief.wish)
                        || earlier.wish == belief.wish)
            };
            if let Some(earlier) = open.iter().find(collides) {
                let (first, second) = (earlier.token, belief.token);
                return Err(Violation::Overlap { lock: self.lock, first, second, at: belief.from });
            }
            open.push(*belief);
        }
        Ok(())
    }

    /// What is over is never revived, and nobody is said to hold what it does not.
    fn check_ends(&self) -> Result<(), Violation> {
        for (call, answer) in &self.calls {
            let token = match (&answer.outcome, call.action) {
                (Outcome::Granted { token, .. }, _) => *token,
                (Outcome::Renewed { .. }, Action::Renew { token }) => token,
                (Outcome::Held { by, .. } | Outcome::NotHeld { by: Some(by) }, _) => by.token,
                _ => continue,
            };
            if let Some(ended) = self.ended.get(&token).filter(|ended| **ended < call.invoked) {
                let (lock, invoked) = (self.lock, call.invoked);
                return Err(Violation::Revived { lock, token, ended: *ended, invoked });
            }
        }
        Ok(())
    }

    /// Nobody loses what it could still count on.
    fn check_losses(&self) -> Result<(), Violation> {
        let told = self.calls.iter().filter_map(|(call, answer)| match (call.action, &answer.outcome) {
            (Action::Renew { token }, Outcome::NotHeld { .. }) => Some((token, answer.told)),
            // An earlier attempt may have given it back.
            (Action::Release { token }, Outcome::NotHeld { .. }) if call.attempts == 1 => Some((token, answer.told)),
            _ => None,
        });
        let refused = self.record.refused.iter().filter(|refused| self.record.wishes[refused.wish].lock == self.lock);
        for (token, told) in told.chain(refused.map(|refused| (refused.token, refused.told))) {
            let until = self.counted.get(&token).copied().unwrap_or(0);
            if told < until {
                return Err(Violation::LostEarly { lock: self.lock, token, told, until });
            }
        }
        Ok(())
    }

    /// A lock that is a transaction's condition was held when it was done, and was not when that was said to be why it is not.
    fn check_claims(&self) -> Result<(), Violation> {
        let lock = self.lock;
        for claim in self.record.claims.iter().filter(|claim| self.record.wishes[claim.wish].lock == lock) {
            let Claim { token, invoked, told, is_held, .. } = *claim;
            let ended = self.ended.get(&token).copied().unwrap_or(u64::MAX);
            let until = self.counted.get(&token).copied().unwrap_or(0);
            if is_held && ended < invoked {
                return Err(Violation::Revived { lock, token, ended, invoked });
            }
            if !is_held && told < until {
                return Err(Violation::LostEarly { lock, token, told, until });
            }
        }
        Ok(())
    }

    fn check_waits(&self) -> Result<(), Violation> {
        for (call, answer) in &self.calls {
            let wait_ms = self.record.wishes[call.wish].wait_ms;
            let after_us = answer.told - answer.sent;
            if matches!(answer.outcome, Outcome::Held { .. }) && after_us < wait_ms * SHORTEST_WAIT_PER_MILLE {
                return Err(Violation::WaitCutShort { lock: self.lock, wait_ms, after_us });
            }
        }
        Ok(())
    }

    /// A write is refused only when another has come with a newer token, to the same partition.
    fn check_refusals(&self, history: &History, map: &Map) -> Result<(), Violation> {
        let lock = self.lock;
        for refused in self.record.refused.iter().filter(|refused| self.record.wishes[refused.wish].lock == lock) {
            let group = group_of(map, refused.key);
            let is_newer = |write: &Write| {
                let fence = write.fence.filter(|fence| fence.lock == lock && Some(fence.token) == refused.newest);
                fence.is_some() && write.invoked < refused.told && group_of(map, write.key) == group
            };
            let newer = refused.newest.is_some_and(|newest| newest > refused.token);
            if !newer || !history.writes.iter().any(is_newer) {
                let (token, newest) = (refused.token, refused.newest);
                return Err(Violation::RefusedForNothing { lock, token, newest });
            }
        }
        Ok(())
    }
}

fn group_of(map: &Map, key: usize) -> GroupId {
    map.partition_of(key_name(key).bytes()).group()
}

/// In each partition no write with an older token comes after one with a newer: not by version, and not when it was asked
/// for after the other was answered.
fn check_fences(lock: usize, history: &History, versions: &BTreeMap<WriteId, u64>, map: &Map) -> Result<(), Violation> {
    let mut groups: BTreeMap<GroupId, Vec<(WriteId, &Write, u64)>> = BTreeMap::new();
    for (id, write) in history.writes.iter().enumerate().filter(|(_, write)| !write.refused) {
        if let Some(fence) = write.fence.filter(|fence| fence.lock == lock) {
            let id = WriteId::try_from(id).expect("few writes");
            groups.entry(group_of(map, write.key)).or_default().push((id, write, fence.token));
        }
    }
    for (group, writes) in groups {
        let mut by_version: Vec<(u64, u64)> =
            writes.iter().filter_map(|(id, _, token)| Some((*versions.get(id)?, *token))).collect();
        by_version.sort_unstable();
        if let Some(pair) = by_version.windows(2).find(|pair| pair[0].1 > pair[1].1) {
            return Err(Violation::OldTokenWrote { group, lock, older: pair[1].1, newer: pair[0].1 });
        }
        let told = |write: &Write| match write.answer {
            Some((_, partition::Outcome::IdempotencyConflict)) => None,
            Some((told, _)) => Some(told),
            None => write.committed.map(|(told, _)| told),
        };
        let passed = writes.iter().filter_map(|(_, write, token)| Some((told(write)?, write.invoked, *token)));
        let passed: Vec<(u64, u64, u64)> = passed.collect();
        for (_, invoked, older) in &passed {
            if let Some((.., newer)) = passed.iter().find(|(told, _, token)| told < invoked && token > older) {
                return Err(Violation::OldTokenWrote { group, lock, older: *older, newer: *newer });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::history::{Change, Fence};
    use crate::simulator::locks::plan::{Intent, Plan};
    use crate::simulator::locks::record::Refused;
    use crate::simulator::node::Member;
    use crate::simulator::scenario::Scenario;
    use crate::simulator::world::first_map;

    /// Two clients that wish for one lock, and what they were told.
    struct Told {
        record: Record,
        history: History,
        versions: BTreeMap<WriteId, u64>,
    }

    impl Told {
        fn new(mode: Mode) -> Self {
            let intent = Intent { mode, ttl_ms: 1000, wait_ms: 2000, ..Plan::order(0) };
            let mut record = Record::default();
            for client in 0..2 {
                record.wish(client, &intent);
            }
            Self { record, history: History::default(), versions: BTreeMap::new() }
        }

        /// Asked and answered at these times, in milliseconds; a lease is counted on for 800 ms.
        fn call(&mut self, wish: WishId, action: Action, (invoked, told): (u64, u64), outcome: Outcome) {
            let call = self.record.call(invoked * 1000, wish, action);
            let (sent, told) = (invoked * 1000, told * 1000);
            self.record.calls[call].attempts = 1;
            self.record.calls[call].answer = Some(Answer { sent, told, outcome, until: sent + 800_000 });
        }

        fn granted(&mut self, wish: WishId, token: u64, times: (u64, u64), waited_ms: u64) {
            self.call(wish, Action::Acquire, times, Outcome::Granted { token, valid_ms: 1000 + waited_ms });
        }

        /// A write under the lock; the answer was that it has this version.
        fn wrote(&mut self, token: u64, (invoked, told): (u64, u64), version: u64) {
            let fence = Some(Fence { lock: 0, token });
            let change = Change::Put { ttl_ms: None };
            let id = self.history.invoke(invoked * 1000, 0, partition::Condition::Always, change, fence);
            self.history.answer(id, told * 1000, partition::Outcome::Written { version, created: false });
            self.versions.insert(id, version);
        }

        fn check(&self) -> Result<(), Violation> {
            let scenario = Scenario::quiet(1);
            let map = first_map(&scenario, &[Member::new(0, &scenario)]);
            check(&self.record, &Sightings::default(), &self.history, &self.versions, &map)
        }
    }

    #[test]
    fn one_after_the_other_is_as_it_should_be() {
        let mut told = Told::new(Mode::Exclusive);
        told.granted(0, 5, (0, 10), 0);
        told.wrote(5, (20, 30), 6);
        told.call(0, Action::Release { token: 5 }, (300, 310), Outcome::Released);
        told.granted(1, 7, (100, 320), 200);
        told.wrote(7, (330, 340), 8);
        assert_eq!(told.check(), Ok(()));
    }

    #[test]
    fn two_who_count_on_a_lock_at_once_are_noticed_unless_they_share_it() {
        for (mode, is_right) in [(Mode::Exclusive, false), (Mode::Shared, true)] {
            let mut told = Told::new(mode);
            told.granted(0, 5, (0, 10), 0);
            told.granted(1, 7, (600, 610), 0);
            let overlap = Violation::Overlap { lock: 0, first: 5, second: 7, at: 610_000 };
            assert_eq!(told.check(), if is_right { Ok(()) } else { Err(overlap) });
        }
    }

    #[test]
    fn a_token_of_two_is_noticed() {
        let mut told = Told::new(Mode::Exclusive);
        told.granted(0, 5, (0, 10), 0);
        told.granted(1, 5, (2000, 2010), 0);
        assert_eq!(told.check(), Err(Violation::TwoOwners { lock: 0, token: 5 }));
    }

    #[test]
    fn whoever_was_overtaken_is_noticed_also_by_how_long_it_waited() {
        let mut told = Told::new(Mode::Exclusive);
        told.granted(0, 7, (0, 10), 0);
        told.granted(1, 5, (1500, 1510), 0);
        assert_eq!(told.check(), Err(Violation::Overtaken { lock: 0, token: 5, by: 7 }));
        let mut told = Told::new(Mode::Exclusive);
        told.granted(0, 7, (10, 20), 0);
        told.granted(1, 5, (0, 1510), 1500);
        assert_eq!(told.check(), Err(Violation::Overtaken { lock: 0, token: 5, by: 7 }));
    }

    #[test]
    fn a_lease_that_comes_back_is_noticed() {
        let mut told = Told::new(Mode::Exclusive);
        told.granted(0, 5, (0, 10), 0);
        told.granted(1, 7, (1100, 1110), 0);
        told.call(0, Action::Renew { token: 5 }, (2500, 2510), Outcome::Renewed { valid_ms: 1000 });
        let revived = Violation::Revived { lock: 0, token: 5, ended: 1_110_000, invoked: 2_500_000 };
        assert_eq!(told.check(), Err(revived));
    }

    #[test]
    fn a_lease_that_ends_too_early_is_noticed() {
        for action in [Action::Renew { token: 5 }, Action::Release { token: 5 }] {
            let mut told = Told::new(Mode::Exclusive);
            told.granted(0, 5, (0, 10), 0);
            told.call(0, action, (300, 310), Outcome::NotHeld { by: None });
            let early = Violation::LostEarly { lock: 0, token: 5, told: 310_000, until: 800_000 };
            assert_eq!(told.check(), Err(early));
        }
    }

    #[test]
    fn a_wait_that_ends_too_early_is_noticed() {
        let held = || {
            let by = Holder { token: 5, owner: owner_of(0), description: Bytes::new() };
            Outcome::Held { by, waiting: 0 }
        };
        let mut told = Told::new(Mode::Exclusive);
        told.call(1, Action::Acquire, (0, 1900), held());
        assert_eq!(told.check(), Ok(()));
        told.call(1, Action::Acquire, (2000, 3500), held());
        assert_eq!(told.check(), Err(Violation::WaitCutShort { lock: 0, wait_ms: 2000, after_us: 1_500_000 }));
    }

    #[test]
    fn whoever_is_said_to_hold_what_is_anothers_is_noticed() {
        let mut told = Told::new(Mode::Exclusive);
        told.granted(0, 5, (0, 10), 0);
        let by = Holder { token: 5, owner: owner_of(1), description: Bytes::new() };
        told.call(1, Action::Acquire, (0, 2000), Outcome::Held { by, waiting: 0 });
        assert_eq!(told.check(), Err(Violation::WrongHolder { lock: 0, token: 5, owner: owner_of(1) }));
    }

    #[test]
    fn a_write_with_an_older_token_after_one_with_a_newer_is_noticed() {
        let old = |told: &Told| {
            let violation = told.check().expect_err("the older token came later");
            assert!(matches!(violation, Violation::OldTokenWrote { lock: 0, older: 5, newer: 7, .. }), "{violation}");
        };
        let mut by_version = Told::new(Mode::Exclusive);
        by_version.wrote(7, (0, 100), 10);
        by_version.wrote(5, (0, 100), 11);
        old(&by_version);
        let mut by_time = Told::new(Mode::Exclusive);
        by_time.wrote(7, (0, 10), 10);
        by_time.wrote(5, (20, 30), 11);
        by_time.versions.clear();
        old(&by_time);
    }

    #[test]
    fn a_write_that_was_refused_for_nothing_is_noticed() {
        let refused = Refused { wish: 0, token: 5, key: 0, told: 50_000, newest: Some(7) };
        let mut told = Told::new(Mode::Exclusive);
        told.record.refused.push(refused);
        let violation = Violation::RefusedForNothing { lock: 0, token: 5, newest: Some(7) };
        assert_eq!(told.check(), Err(violation));
        told.wrote(7, (0, 100), 10);
        assert_eq!(told.check(), Ok(()));
    }
}
