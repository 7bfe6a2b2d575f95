//! One lock: its holders and its queue. Pure; the clock comes with each call.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{
    Acquire, Holder, MAX_HOLDERS, MAX_WAITING, MAX_WAITING_SHOWN, Mode, Name, Outcome, PlaceView, Settled, View,
};
use crate::bugs::{Bug, planted};

/// One that holds a lock, or waits for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub(super) token: u64,
    /// The index of the entry that asked for it last.
    pub(super) asked: u64,
    pub(super) mode: Mode,
    pub(super) owner: Bytes,
    pub(super) request: Bytes,
    pub(super) description: Bytes,
    pub(super) ttl_ms: u64,
    /// Since when it holds, or waits.
    pub(super) since_ms: u64,
    /// When the lease, or the wait, is over.
    pub(super) deadline_ms: u64,
}

/// One lock. With nobody at it there is none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lock {
    pub(super) holders: Vec<Place>,
    pub(super) waiting: VecDeque<Place>,
    /// When the partition next looks whether something is over: there is an expiry record for then, and no other.
    pub(super) looks_at_ms: Option<u64>,
}

impl Lock {
    /// Whether there is nobody at it.
    pub fn is_empty(&self) -> bool {
        self.holders.is_empty() && self.waiting.is_empty()
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether the holder with this token holds it.
    pub fn is_held_by(&self, token: u64) -> bool {
        self.holders.iter().any(|holder| holder.token == token)
    }

    /// Takes a wish, made by the entry at this index.
    pub fn acquire(&mut self, index: u64, clock_ms: u64, wish: &Acquire) -> Outcome {
        if let Some(outcome) = self.find_again(index, clock_ms, wish) {
            return outcome;
        }
        let token = if planted(Bug::TokenCountedAnew) { self.next_token() } else { index };
        let place = |deadline_ms: u64| Place {
            token,
            asked: index,
            mode: wish.mode,
            owner: wish.owner.clone(),
            request: wish.request.clone(),
            description: wish.description.clone(),
            ttl_ms: wish.ttl_ms,
            since_ms: clock_ms,
            deadline_ms,
        };
        if self.waiting.is_empty() && self.fits(wish.mode) {
            if self.holders.len() >= MAX_HOLDERS {
                return Outcome::Full;
            }
            self.holders.push(place(clock_ms.saturating_add(wish.ttl_ms)));
            return Outcome::Granted { token, valid_ms: wish.ttl_ms };
        }
        if wish.wait_ms == 0 {
            return self.held();
        }
        if self.waiting.len() >= MAX_WAITING {
            return Outcome::Full;
        }
        self.waiting.push_back(place(clock_ms.saturating_add(wish.wait_ms)));
        Outcome::Queued { token, clock_ms }
    }

    /// A wish that was made before and still has a place. One that waits does so for as long as it says now.
    fn find_again(&mut self, index: u64, clock_ms: u64, wish: &Acquire) -> Option<Outcome> {
        let is_it = |place: &Place| place.owner == wish.owner && place.request == wish.request;
        if let Some(holder) = self.holders.iter_mut().find(|place| is_it(place)) {
            if holder.mode != wish.mode {
                return Some(Outcome::RequestConflict);
            }
            holder.asked = index;
            let valid_ms = holder.deadline_ms.saturating_sub(clock_ms);
            return Some(Outcome::Granted { token: holder.token, valid_ms });
        }
        let waiting = self.waiting.iter_mut().find(|place| is_it(place))?;
        if waiting.mode != wish.mode {
            return Some(Outcome::RequestConflict);
        }
        waiting.asked = index;
        waiting.deadline_ms = clock_ms.saturating_add(wish.wait_ms);
        Some(Outcome::Queued { token: waiting.token, clock_ms })
    }

    /// Begins a holder's lease anew.
    pub fn renew(&mut self, token: u64, clock_ms: u64, ttl_ms: u64) -> Outcome {
        match self.holders.iter_mut().find(|holder| holder.token == token) {
            None => Outcome::NotHeld { by: self.holders.first().map(Place::shown) },
            Some(holder) => {
                holder.ttl_ms = ttl_ms;
                holder.deadline_ms = clock_ms.saturating_add(ttl_ms);
                Outcome::Renewed { valid_ms: ttl_ms }
            }
        }
    }

    /// Takes out the holder with this token.
    pub fn release(&mut self, token: u64, clock_ms: u64, settled: &mut Vec<Settled>) -> Outcome {
        self.take_out(|holder| holder.token == token, |_| false, clock_ms, settled)
    }

    /// Takes out whoever has this token, if nobody has asked for its place since the entry `asked`. A holder that was asked
    /// for more than once stays: attempts may come in another order than they were sent, and one that was told that it
    /// holds the lock may have come before the one that is gone.
    pub fn leave(&mut self, token: u64, asked: u64, clock_ms: u64, settled: &mut Vec<Settled>) -> Outcome {
        let is_it = |place: &Place| place.token == token && place.asked == asked;
        self.take_out(|holder| is_it(holder) && asked == token, is_it, clock_ms, settled)
    }

    fn take_out(
        &mut self,
        is_holder: impl Fn(&Place) -> bool,
        is_waiting: impl Fn(&Place) -> bool,
        clock_ms: u64,
        settled: &mut Vec<Settled>,
    ) -> Outcome {
        if let Some(at) = self.holders.iter().position(is_holder) {
            self.holders.remove(at);
        } else if let Some(at) = self.waiting.iter().position(is_waiting) {
            let token = self.waiting.remove(at).expect("it was just found").token;
            settled.push(Settled::Gone { token, held: None });
        } else {
            return Outcome::NotHeld { by: self.holders.first().map(Place::shown) };
        }
        self.grant(clock_ms, settled);
        Outcome::Released
    }

    /// Takes out whose time is over. Leases last at least one whole term from `leases_from_ms` on.
    pub fn expire(&mut self, clock_ms: u64, leases_from_ms: u64, settled: &mut Vec<Settled>) {
        self.holders.retain(|holder| holder.lease_ends_ms(leases_from_ms) > clock_ms);
        self.grant(clock_ms, settled);
        let is_over = |place: &Place| place.deadline_ms <= clock_ms;
        let over: Vec<u64> = self.waiting.iter().filter(|place| is_over(place)).map(|place| place.token).collect();
        self.waiting.retain(|place| !is_over(place));
        // Someone left from in front of others that share may have been all that kept them.
        self.grant(clock_ms, settled);
        settled.extend(over.into_iter().map(|token| Settled::Gone { token, held: self.shown_holder() }));
    }

    /// Whoever's time would be over before then has a little more.
    pub fn put_off_until(&mut self, later_ms: u64) {
        for place in self.holders.iter_mut().chain(&mut self.waiting) {
            place.deadline_ms = place.deadline_ms.max(later_ms);
        }
    }

    /// When something is over next.
    pub fn next_deadline_ms(&self, leases_from_ms: u64) -> Option<u64> {
        let leases = self.holders.iter().map(|holder| holder.lease_ends_ms(leases_from_ms));
        leases.chain(self.waiting.iter().map(|waiting| waiting.deadline_ms)).min()
    }

    fn next_token(&self) -> u64 {
        let tokens = self.holders.iter().chain(&self.waiting).map(|place| place.token);
        tokens.max().map_or(1, |newest| newest + 1)
    }

    /// Whether one of this mode may hold it beside those who do.
    fn fits(&self, mode: Mode) -> bool {
        mode == Mode::Shared && self.holders.iter().all(|holder| holder.mode == Mode::Shared) || self.holders.is_empty()
    }

    /// Gives it to those at the head of the queue.
    fn grant(&mut self, clock_ms: u64, settled: &mut Vec<Settled>) {
        while self.waiting.front().is_some_and(|first| self.fits(first.mode)) && self.holders.len() < MAX_HOLDERS {
            if planted(Bug::QueueSkipsWaiter) && self.waiting.len() > 1 && self.holders.is_empty() {
                self.waiting.swap(0, 1);
            }
            let mut place = self.waiting.pop_front().expect("it was just looked at");
            place.since_ms = clock_ms;
            place.deadline_ms = clock_ms.saturating_add(place.ttl_ms);
            settled.push(Settled::Granted { token: place.token, deadline_ms: place.deadline_ms });
            self.holders.push(place);
        }
    }

    fn shown_holder(&self) -> Option<(Holder, u32)> {
        let holder = self.holders.first()?;
        Some((holder.shown(), u32::try_from(self.waiting.len()).expect("a queue is short")))
    }

    fn held(&self) -> Outcome {
        let first = self.holders.first().or(self.waiting.front()).expect("there is somebody at it");
        Outcome::Held { by: first.shown(), waiting: u32::try_from(self.waiting.len()).expect("a queue is short") }
    }

    /// The lock at this clock, for people.
    pub fn view(&self, name: Name, clock_ms: u64, leases_from_ms: u64) -> View {
        let show = |place: &Place, ends_ms: u64| PlaceView {
            token: place.token,
            owner: place.owner.clone(),
            description: place.description.clone(),
            mode: place.mode,
            ttl_ms: place.ttl_ms,
            since_ms: clock_ms.saturating_sub(place.since_ms),
            left_ms: ends_ms.saturating_sub(clock_ms),
        };
        let holders = self.holders.iter().map(|holder| show(holder, holder.lease_ends_ms(leases_from_ms)));
        let waiting = self.waiting.iter().take(MAX_WAITING_SHOWN).map(|place| show(place, place.deadline_ms));
        View {
            name,
            holders: holders.collect(),
            waiting: waiting.collect(),
            waiting_count: u32::try_from(self.waiting.len()).expect("a queue is short"),
        }
    }

    /// Panics when it contradicts itself.
    pub fn check(&self) {
        assert!(!self.is_empty(), "a lock that nobody is at has no record");
        assert!(!self.holders.is_empty(), "nobody waits for what nobody holds");
        let exclusive = self.holders.iter().any(|holder| holder.mode == Mode::Exclusive);
        assert!(self.holders.len() == 1 || !exclusive, "who holds it alone is alone");
        assert!(self.waiting.iter().map(|place| place.token).is_sorted(), "the queue is in the order of the wishes");
        let skips = planted(Bug::QueueSkipsWaiter);
        let newest = self.holders.iter().map(|holder| holder.token).max();
        assert!(skips || self.waiting.front().is_none_or(|first| Some(first.token) > newest), "nobody was overtaken");
        assert!(
            self.waiting.front().is_none_or(|first| !self.fits(first.mode) || self.holders.len() >= MAX_HOLDERS),
            "nobody waits for what it could have"
        );
        assert!(self.looks_at_ms.is_some(), "every lock ends some time");
    }
}

impl Place {
    /// When its lease is over: a new leader gives every lease one whole term.
    fn lease_ends_ms(&self, leases_from_ms: u64) -> u64 {
        self.deadline_ms.max(leases_from_ms.saturating_add(self.ttl_ms))
    }

    fn shown(&self) -> Holder {
        Holder { token: self.token, owner: self.owner.clone(), description: self.description.clone() }
    }
}
