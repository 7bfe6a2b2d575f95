//! How long a lock is held, as this process counts. Pure but for the watch that tells of the end: times come with each call.
//!
//! ```text
//!           extended, before it is over
//!             ┌──┐
//!             ▼  │
//!  granted ─▶ held ──its time is over, the store says so──▶ lost, for good
//! ```
//!
//! What it never does: come back. Whoever has seen that the lock is lost may have stopped its work already.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// A lease is taken to be shorter by this part: the clocks of two machines may run at rates that differ by so much.
const MARGIN: u32 = 100;

/// Why a lock is held no more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    /// The lease ran out: no renewal was answered in time, or this process did not run for so long.
    #[error("its lease ran out{}", because(.0.as_deref()))]
    RanOut(Option<String>),
    /// The store says that it is held no more.
    #[error("the store says that it is not held any more: {0}")]
    Refused(String),
}

fn because(trouble: Option<&str>) -> String {
    trouble.map(|trouble| format!(": the last renewal failed: {trouble}")).unwrap_or_default()
}

/// When a lease ends that a store granted for so long in answer to a request that was sent then.
///
/// The store's lease begins when it takes the request, which is later than when that was sent.
pub(crate) fn ends(sent: Instant, valid: Duration) -> Instant {
    sent + (valid - valid / MARGIN)
}

/// A lease, shared by whoever looks at it and whoever renews it.
#[derive(Debug)]
pub(super) struct Lease {
    state: watch::Sender<State>,
}

#[derive(Debug)]
struct State {
    ends: Instant,
    /// Why the last renewal failed, if it did.
    trouble: Option<String>,
    loss: Option<Loss>,
}

impl State {
    /// Takes note of the end when it has come; says whether that is new.
    fn look(&mut self, now: Instant) -> bool {
        let is_over = self.loss.is_none() && now >= self.ends;
        if is_over {
            self.loss = Some(Loss::RanOut(self.trouble.take()));
        }
        is_over
    }
}

impl Lease {
    pub(super) fn new(ends: Instant) -> Self {
        Self { state: watch::Sender::new(State { ends, trouble: None, loss: None }) }
    }

    /// Why it is over, if it is.
    pub(super) fn loss(&self, now: Instant) -> Option<Loss> {
        self.state.send_if_modified(|state| state.look(now));
        self.state.borrow().loss.clone()
    }

    /// How long it still lasts.
    pub(super) fn left(&self, now: Instant) -> Duration {
        match self.loss(now) {
            None => self.state.borrow().ends.saturating_duration_since(now),
            Some(_) => Duration::ZERO,
        }
    }

    /// A renewal was granted: the lease ends then, unless it was over before the answer came.
    pub(super) fn extend(&self, now: Instant, ends: Instant) {
        self.state.send_if_modified(|state| {
            let is_over = state.look(now);
            if state.loss.is_none() {
                (state.ends, state.trouble) = (state.ends.max(ends), None);
            }
            is_over
        });
    }

    /// A renewal failed, which may be because of this.
    pub(super) fn note(&self, trouble: String) {
        self.state.send_if_modified(|state| {
            state.trouble = Some(trouble);
            false
        });
    }

    /// The store says that it is over.
    pub(super) fn refuse(&self, words: String) {
        self.state.send_if_modified(|state| {
            let is_new = state.loss.is_none();
            if is_new {
                state.loss = Some(Loss::Refused(words));
            }
            is_new
        });
    }

    /// Waits until it is over.
    pub(super) async fn lost(&self) -> Loss {
        let mut changes = self.state.subscribe();
        loop {
            if let Some(loss) = self.loss(Instant::now()) {
                return loss;
            }
            let ends = changes.borrow_and_update().ends;
            tokio::select! {
                // The sender is here: it does not go meanwhile.
                _ = changes.changed() => {}
                () = sleep_until(ends) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_lease_counts_from_when_its_request_was_sent_and_a_hundredth_is_given_away() {
        let sent = Instant::now();
        assert_eq!(ends(sent, 100 * SECOND), sent + 99 * SECOND);
    }

    #[test]
    fn a_lease_that_was_seen_to_be_over_never_comes_back() {
        let now = Instant::now();
        let lease = Lease::new(now + SECOND);
        lease.extend(now, now + 2 * SECOND);
        assert_eq!((lease.left(now + SECOND), lease.loss(now + SECOND)), (SECOND, None));
        // An older answer that comes late takes nothing away.
        lease.extend(now + SECOND, now + SECOND);
        assert_eq!(lease.left(now + SECOND), SECOND);
        lease.note("no answer in time".into());
        let loss = lease.loss(now + 2 * SECOND).unwrap();
        assert_eq!(loss.to_string(), "its lease ran out: the last renewal failed: no answer in time");
        lease.extend(now + 2 * SECOND, now + 9 * SECOND);
        assert_eq!((lease.left(now), lease.loss(now)), (Duration::ZERO, Some(loss)));
    }

    #[test]
    fn an_extension_that_comes_when_it_is_over_is_none_even_if_nobody_has_looked() {
        let now = Instant::now();
        let lease = Lease::new(now + SECOND);
        lease.extend(now + SECOND, now + 9 * SECOND);
        assert_eq!(lease.loss(now), Some(Loss::RanOut(None)));
    }

    #[tokio::test]
    async fn a_refusal_ends_a_lease_at_once_and_whoever_waits_for_that_is_told() {
        let lease = Lease::new(Instant::now() + 60 * SECOND);
        let (loss, ()) = tokio::join!(lease.lost(), async { lease.refuse("gone".into()) });
        assert_eq!(loss, Loss::Refused("gone".into()));
    }
}
