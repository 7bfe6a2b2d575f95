//! Which locks a sidecar keeps for its application, and when each is to be renewed. Pure: times come with each call.
//!
//! ```text
//!              granted                    restored from the file of an earlier life
//!                 │                                     │
//!                 ▼                                     ▼
//!      ┌───▶ held, until `ends` ◀──renewed──── unsure, until `ends`
//!      └─renewed──┘  │  │                               │
//!                    │  └──── refused, time is over ────┴─▶ lost: since when, and why
//!                    └─ released ─▶ forgotten
//! ```
//!
//! What it never does: say of a lock that it is held when its time is over, or before the store has said so in this life;
//! bring back one that was lost; keep more than [`MAX_KEPT`], or remember more losses than that.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use annulus_core::partition::lock::{Mode, Name};
use tokio::time::Instant;

/// Most locks that are kept.
pub(crate) const MAX_KEPT: usize = 1024;
/// The longest pause after a renewal that failed; a short lease has shorter ones.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// One that is due within this part of its lease goes along with those that are due now.
const ALONG: u32 = 12;

/// What there is to say of a lock that a write names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is held with this token.
    Held(u64),
    /// It was held in an earlier life, and it is not known yet whether it still is.
    Unsure,
    /// It was held and is not any more.
    Lost(Loss),
    /// It was never held here, or was given up.
    NotHeld,
}

/// How a lock was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loss {
    pub(crate) token: u64,
    pub(crate) since: Instant,
    pub(crate) why: String,
}

/// A lock that was granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) name: Name,
    pub(crate) token: u64,
    pub(crate) mode: Mode,
    pub(crate) owner: String,
    pub(crate) ttl: Duration,
}

/// A lock that is to be renewed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) name: Name,
    pub(crate) token: u64,
    pub(crate) ttl: Duration,
    /// For how long it is held still, if nothing comes of that.
    pub(crate) left: Duration,
}

/// A lock as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) grant: Grant,
    pub(crate) left: Duration,
    pub(crate) is_unsure: bool,
}

#[derive(Debug)]
struct Kept {
    mode: Mode,
    owner: String,
    ttl: Duration,
    ends: Instant,
    renew_at: Instant,
    is_unsure: bool,
    /// A renewal is on its way.
    is_asked: bool,
    /// It is being given up: not renewed any more.
    is_leaving: bool,
    /// Why the last renewal failed, if it did.
    trouble: Option<String>,
}

/// The locks of one sidecar.
#[derive(Debug, Default)]
pub(crate) struct Keeper {
    kept: BTreeMap<Name, BTreeMap<u64, Kept>>,
    count: usize,
    /// Requests for locks that are on their way: each may bring one.
    asking: usize,
    lost: BTreeMap<Name, Loss>,
    /// The names of `lost`, the oldest first; a name may stand here that is not lost any more, or again.
    lost_order: VecDeque<(Name, u64)>,
    losses: u64,
    /// Rises with each change of what is to outlive this process.
    version: u64,
}

impl Keeper {
    /// Takes room for a lock that is about to be asked for; `false`: there is none.
    pub(crate) fn begin_asking(&mut self) -> bool {
        let has_room = self.count + self.asking < MAX_KEPT;
        self.asking += usize::from(has_room);
        has_room
    }

    /// That request is over.
    pub(crate) fn end_asking(&mut self) {
        self.asking = self.asking.checked_sub(1).expect("each end has had its beginning");
    }

    /// A lock was granted until `ends`. Told twice, as when a request is repeated under its name, it is the same lock.
    pub(crate) fn granted(&mut self, now: Instant, grant: Grant, ends: Instant) {
        let Grant { name, token, mode, owner, ttl } = grant;
        let tokens = self.kept.entry(name.clone()).or_default();
        let older = tokens.get(&token);
        let ends = older.filter(|older| !older.is_unsure).map_or(ends, |older| ends.max(older.ends));
        let is_asked = older.is_some_and(|older| older.is_asked);
        let renew_at = renew_at(now, ttl, ends);
        let (is_unsure, is_leaving, trouble) = (false, false, None);
        let kept = Kept { mode, owner, ttl, ends, renew_at, is_unsure, is_asked, is_leaving, trouble };
        self.count += usize::from(tokens.insert(token, kept).is_none());
        self.lost.remove(&name);
        self.version += 1;
        self.look(now);
    }

    /// A lock that was held in an earlier life of the sidecar: it is asked about at once, and is not held before the store
    /// says so. If nobody says anything for as long as its lease was, it is lost.
    pub(crate) fn restore(&mut self, now: Instant, grant: Grant) {
        if self.count >= MAX_KEPT {
            return;
        }
        let Grant { name, token, mode, owner, ttl } = grant;
        let (ends, renew_at) = (now + ttl, now);
        let (is_unsure, is_asked, is_leaving, trouble) = (true, false, false, None);
        let kept = Kept { mode, owner, ttl, ends, renew_at, is_unsure, is_asked, is_leaving, trouble };
        let is_new = self.kept.entry(name).or_default().insert(token, kept).is_none();
        self.count += usize::from(is_new);
    }

    /// What there is to say of a lock. Of several tokens, the newest of those counts of which the store has said in this life that
    /// they hold it.
    pub(crate) fn standing(&mut self, now: Instant, name: &Name) -> Standing {
        self.look(now);
        let newest = self.kept.get(name).and_then(|tokens| {
            let held = tokens.iter().rev().find(|(_, kept)| !kept.is_unsure);
            held.or_else(|| tokens.last_key_value())
        });
        match newest {
            Some((token, kept)) if !kept.is_unsure => Standing::Held(*token),
            Some(_) => Standing::Unsure,
            None => self.lost.get(name).cloned().map_or(Standing::NotHeld, Standing::Lost),
        }
    }

    /// The newest token by which this owner holds a lock, or may hold it.
    pub(crate) fn held_by(&mut self, now: Instant, name: &Name, owner: &str, mode: Mode) -> Option<u64> {
        self.look(now);
        let mut newest_first = self.kept.get(name)?.iter().rev();
        let held = newest_first.find(|(_, kept)| kept.owner == owner && kept.mode == mode && !kept.is_leaving);
        held.map(|(token, _)| *token)
    }

    /// The locks to renew now, each of which is on its way then, until [`Keeper::renewed`], [`Keeper::refused`] or
    /// [`Keeper::failed`] is told.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<Due> {
        self.look(now);
        if self.next(now).is_none_or(|next| next > now) {
            return Vec::new();
        }
        let mut due = Vec::new();
        for (name, tokens) in &mut self.kept {
            for (token, kept) in tokens.iter_mut().filter(|(_, kept)| kept.waits()) {
                if kept.renew_at <= now + kept.ttl / ALONG {
                    kept.is_asked = true;
                    let left = kept.ends.saturating_duration_since(now);
                    due.push(Due { name: name.clone(), token: *token, ttl: kept.ttl, left });
                }
            }
        }
        due
    }

    /// When something is to be done next: a renewal, or the end of a lock; `None`: there is none.
    pub(crate) fn next(&self, now: Instant) -> Option<Instant> {
        let all = self.kept.values().flat_map(BTreeMap::values);
        let next = all.map(|kept| if kept.waits() { kept.renew_at.min(kept.ends) } else { kept.ends }).min();
        next.map(|next| next.max(now))
    }

    /// The store has renewed a lock, which is held until `ends` then; `ttl` if it is another from now on.
    pub(crate) fn renewed(&mut self, now: Instant, name: &Name, token: u64, ttl: Option<Duration>, ends: Instant) {
        self.look(now);
        let Some(kept) = self.kept.get_mut(name).and_then(|tokens| tokens.get_mut(&token)) else { return };
        let is_news = kept.is_unsure || ttl.is_some_and(|ttl| ttl != kept.ttl);
        kept.ttl = ttl.unwrap_or(kept.ttl);
        // An unsure one has had its whole lease as its time; what the store says is shorter, and true.
        kept.ends = if kept.is_unsure || ttl.is_some() { ends } else { kept.ends.max(ends) };
        kept.renew_at = renew_at(now, kept.ttl, kept.ends);
        (kept.is_unsure, kept.is_asked, kept.trouble) = (false, false, None);
        self.version += u64::from(is_news);
        self.look(now);
    }

    /// The store says that a token does not hold its lock.
    pub(crate) fn refused(&mut self, now: Instant, name: &Name, token: u64, why: &str) {
        self.look(now);
        if self.remove(name, token) {
            self.lose(name, token, now, format!("the store says that it is not held any more: {why}"));
        }
    }

    /// None of them is held any more: what they were taken of is not there.
    pub(crate) fn lose_all(&mut self, now: Instant, why: &str) {
        self.look(now);
        let all = self.kept.iter().flat_map(|(name, tokens)| tokens.keys().map(move |token| (name.clone(), *token)));
        for (name, token) in all.collect::<Vec<_>>() {
            self.remove(&name, token);
            self.lose(&name, token, now, why.to_owned());
        }
    }

    /// By which name a token is held.
    pub(crate) fn owner(&self, name: &Name, token: u64) -> Option<&str> {
        self.kept.get(name)?.get(&token).map(|kept| kept.owner.as_str())
    }

    /// Whether others may hold a lock together with this token of it.
    pub(crate) fn is_shared(&self, name: &Name, token: u64) -> bool {
        let kept = self.kept.get(name).and_then(|tokens| tokens.get(&token));
        kept.is_some_and(|kept| kept.mode == Mode::Shared)
    }

    /// A renewal has failed, and is to be tried again soon.
    pub(crate) fn failed(&mut self, now: Instant, name: &Name, token: u64, why: String) {
        if let Some(kept) = self.kept.get_mut(name).and_then(|tokens| tokens.get_mut(&token)) {
            (kept.is_asked, kept.trouble) = (false, Some(why));
            kept.renew_at = now + (kept.ttl / 20).min(LONGEST_PAUSE);
        }
        self.look(now);
    }

    /// A lock is about to be given up, or (`false`) that came to nothing.
    pub(crate) fn leave(&mut self, name: &Name, token: u64, is_leaving: bool) {
        if let Some(kept) = self.kept.get_mut(name).and_then(|tokens| tokens.get_mut(&token)) {
            kept.is_leaving = is_leaving;
        }
    }

    /// A lock was given up: nothing is known of it any more.
    pub(crate) fn released(&mut self, name: &Name, token: u64) {
        self.remove(name, token);
        if self.lost.get(name).is_some_and(|loss| loss.token == token) {
            self.lost.remove(name);
        }
    }

    /// Whether a token is kept.
    pub(crate) fn has(&self, name: &Name, token: u64) -> bool {
        self.kept.get(name).is_some_and(|tokens| tokens.contains_key(&token))
    }

    /// Everything that is kept, in the order of the names.
    pub(crate) fn shown(&mut self, now: Instant) -> Vec<Shown> {
        self.look(now);
        let all =
            self.kept.iter().flat_map(|(name, tokens)| tokens.iter().map(move |(token, kept)| (name, token, kept)));
        let shown = all.map(|(name, token, kept)| Shown {
            grant: Grant {
                name: name.clone(),
                token: *token,
                mode: kept.mode,
                owner: kept.owner.clone(),
                ttl: kept.ttl,
            },
            left: kept.ends.saturating_duration_since(now),
            is_unsure: kept.is_unsure,
        });
        shown.collect()
    }

    /// How many locks are kept.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// How many locks were lost so far.
    pub(crate) fn losses(&self) -> u64 {
        self.losses
    }

    /// The newest losses that are remembered, the oldest of them first, up to `most`.
    pub(crate) fn newest_losses(&self, most: usize) -> Vec<(Name, Loss)> {
        let newest = self.lost_order.iter().skip(self.lost_order.len().saturating_sub(most));
        let known = newest.filter_map(|(name, token)| {
            self.lost.get(name).filter(|loss| loss.token == *token).map(|loss| (name.clone(), loss.clone()))
        });
        known.collect()
    }

    /// Rises with each change of what is to outlive this process.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Takes note of those whose time is over.
    fn look(&mut self, now: Instant) {
        let all =
            self.kept.iter().flat_map(|(name, tokens)| tokens.iter().map(move |(token, kept)| (name, token, kept)));
        let over: Vec<_> = all
            .filter(|(_, _, kept)| kept.ends <= now)
            .map(|(name, token, kept)| (name.clone(), *token, kept.ends, kept.over()))
            .collect();
        for (name, token, since, why) in over {
            self.remove(&name, token);
            self.lose(&name, token, since, why);
        }
    }

    fn remove(&mut self, name: &Name, token: u64) -> bool {
        let Some(tokens) = self.kept.get_mut(name) else { return false };
        let was_there = tokens.remove(&token).is_some();
        if tokens.is_empty() {
            self.kept.remove(name);
        }
        self.count -= usize::from(was_there);
        self.version += u64::from(was_there);
        was_there
    }

    fn lose(&mut self, name: &Name, token: u64, since: Instant, why: String) {
        self.losses += 1;
        self.lost.insert(name.clone(), Loss { token, since, why });
        self.lost_order.push_back((name.clone(), token));
        while self.lost_order.len() > MAX_KEPT {
            let (oldest, token) = self.lost_order.pop_front().expect("it is not empty");
            if self.lost.get(&oldest).is_some_and(|loss| loss.token == token) {
                self.lost.remove(&oldest);
            }
        }
    }

    #[cfg(test)]
    fn check(&self, now: Instant) {
        assert_eq!(self.count, self.kept.values().map(BTreeMap::len).sum::<usize>());
        assert!(self.count + self.asking <= MAX_KEPT && self.lost.len() <= MAX_KEPT);
        assert!(self.lost_order.len() <= MAX_KEPT);
        assert!(self.kept.values().all(|tokens| !tokens.is_empty()));
        let all = self.kept.values().flat_map(BTreeMap::values);
        assert!(all.clone().all(|kept| kept.ends > now), "none is kept whose time is over");
        assert!(all.clone().all(|kept| !kept.waits() || kept.renew_at < kept.ends || kept.trouble.is_some()));
    }
}

impl Kept {
    /// Whether it is to be renewed, sooner or later.
    fn waits(&self) -> bool {
        !self.is_asked && !self.is_leaving
    }

    /// Why it is lost when its time is over.
    fn over(&self) -> String {
        let trouble = self.trouble.as_ref().map(|trouble| format!(": the last renewal failed: {trouble}"));
        match (self.is_leaving, trouble) {
            (true, _) => "it was being given up, and the store did not say what came of that".to_owned(),
            (false, trouble) => format!("its lease ran out{}", trouble.unwrap_or_default()),
        }
    }
}

/// At a third of the lease; one that was shortened, by a wait for it say, is renewed at once.
fn renew_at(now: Instant, ttl: Duration, ends: Instant) -> Instant {
    let left = ends.saturating_duration_since(now);
    now + left.saturating_sub(ttl / 3 * 2)
}

#[cfg(test)]
mod tests;
