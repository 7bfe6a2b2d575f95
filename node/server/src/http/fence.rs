//! `Annulus-Fence: lock=token` on a write: whether the token holds the lock, as the lock's own partition says.
//!
//! ```text
//!             ┌── known here, not for long ──────────────┐
//! header ─▶ Claim                                        ├─▶ held ─▶ Fence { is_held: true } ─▶ the key's partition
//!             └── asked of the lock's partition ──┬─ yes ─┘
//!                                                 └─ no ──┬─ the write has a name ─▶ Fence { is_held: false } ─▶ …
//!                                                         └─ 409 stale-token
//! ```
//!
//! What keeps a holder that was replaced from writing over its successor is the partition's record of the highest token that
//! came (`annulus_core::partition::Fence`); to ask here is what keeps out tokens that were never granted, and holders
//! whose successors have not written yet. That a token holds is believed for as long as its lease lasts anyway, but no longer than
//! [`BELIEVED_FOR`], far shorter than partitions remember fences: a holder that was stopped for longer than its lease is asked
//! about again. That a token does not hold is never remembered.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use annulus_core::lane::{Operation, Reply};
use annulus_core::partition::lock::Name;
use annulus_core::partition::{Consistency, FENCE_KEPT_MS, Fence, MAX_FENCES};
use http::header::{HeaderValue, RETRY_AFTER};
use tokio::time::Instant;

use super::edge::Edge;
use super::headers::FENCE;
use super::problem::{Kind, Problem};
use super::{kv, query};
use crate::router::Router;

/// For how long a token that holds its lock is not asked about again.
const BELIEVED_FOR: Duration = Duration::from_secs(10);
/// Most tokens that an I/O thread believes to hold their locks; the one asked about first goes when one more comes.
const MAX_BELIEVED: usize = 4096;

const _: () = assert!(BELIEVED_FOR.as_millis() * 100 < FENCE_KEPT_MS as u128, "belief ends long before fences do");

/// A token that a client says holds a lock.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Claim {
    pub(super) lock: Name,
    pub(super) token: u64,
}

/// What a lock's partition says of a claim.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// The token holds the lock.
    Holds,
    /// It does not.
    HoldsNot {
        /// The token of whoever does; of several that share it, the newest.
        holder: Option<u64>,
    },
}

impl Claim {
    /// Reads `lock=token`. The lock is percent-encoded, so the last `=` is the one between them.
    pub(super) fn read(header: &[u8]) -> Result<Self, Problem> {
        let refuse = |fault: &str| {
            let detail =
                format!("`Annulus-Fence` must be the lock's name, percent-encoded, `=` and its token: {fault}");
            Problem::new(Kind::InvalidHeader, detail).with("header", FENCE)
        };
        let text = std::str::from_utf8(header).map_err(|_| refuse("it is not ASCII"))?;
        let (lock, token) = text.split_once('=').ok_or_else(|| refuse("it has no `=`"))?;
        let token = query::whole_number(token).ok_or_else(|| refuse("the token is not a whole number"))?;
        let lock = query::percent_decoded(lock).map_err(|fault| refuse(&fault))?;
        let lock = Name::new(lock).map_err(|error| refuse(&error.to_string()))?;
        Ok(Self { lock, token })
    }

    /// The fence that it is for a write.
    fn fence(self, is_held: bool) -> Fence {
        Fence { lock: self.lock, token: self.token, is_held }
    }
}

/// Asks the lock's partition whether the claim is true, unless it was just now.
pub(super) async fn standing<R: Router>(edge: &Edge<R>, claim: &Claim, deadline: Instant) -> Result<Standing, Problem> {
    if edge.believed.borrow().has(claim, Instant::now()) {
        return Ok(Standing::Holds);
    }
    let group = edge.map()?.partition_of(claim.lock.bytes()).group();
    let operation = Operation::ReadLock { name: claim.lock.clone(), consistency: Consistency::Linearizable };
    let asked = Instant::now();
    match edge.router.submit(group, operation, left(deadline)).await {
        Reply::LockView(view) => {
            let mut holders = view.iter().flat_map(|view| &view.holders);
            if let Some(holder) = holders.clone().find(|holder| holder.token == claim.token) {
                // From the time at which it was asked: the answer may be as old as that.
                let lasts = Duration::from_millis(holder.left_ms).min(BELIEVED_FOR);
                edge.believed.borrow_mut().insert(claim.clone(), asked, asked + lasts);
                return Ok(Standing::Holds);
            }
            Ok(Standing::HoldsNot { holder: holders.by_ref().map(|holder| holder.token).max() })
        }
        reply => Err(kv::no_answer(&reply, "lock that `Annulus-Fence` names", "ask again")),
    }
}

/// The fence of a write. `is_named`: it has an `Idempotency-Key`, so it may have been done already while the token held.
pub(super) async fn of_write<R: Router>(
    edge: &Edge<R>,
    claim: Option<Claim>,
    is_named: bool,
    deadline: Instant,
) -> Result<Option<Fence>, Problem> {
    let Some(claim) = claim else { return Ok(None) };
    match standing(edge, &claim, deadline).await? {
        Standing::Holds => Ok(Some(claim.fence(true))),
        Standing::HoldsNot { .. } if is_named => Ok(Some(claim.fence(false))),
        Standing::HoldsNot { holder } => {
            let problem = stale(&claim.lock, claim.token);
            Err(holder.into_iter().fold(problem, |problem, holder| problem.with("holder_token", holder)))
        }
    }
}

/// What is left of the time, but never nothing: whoever is asked then says that it was too late.
pub(super) fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}

/// The token does not hold its lock.
fn stale(lock: &Name, token: u64) -> Problem {
    let detail = format!("the token {token} does not hold the lock, or not any more; nothing was changed");
    Problem::new(Kind::StaleToken, detail).with_bytes("lock", lock.bytes()).with("token", token)
}

/// A partition has refused the fence of a write; `newest`: the highest token of the lock that it was shown.
pub(super) fn refused(fence: &Fence, newest: Option<u64>) -> Problem {
    let problem = stale(&fence.lock, fence.token);
    newest.into_iter().fold(problem, |problem, newest| problem.with("newest_token", newest))
}

/// A partition can't remember one more fence.
pub(super) fn too_many() -> Problem {
    let detail = format!(
        "the key's partition remembers the fences of {MAX_FENCES} locks, as it must for a day after the last write under \
         each; nothing was changed"
    );
    let problem = Problem::temporary(Kind::TooManyFences, detail).with("limit", MAX_FENCES);
    problem.header(RETRY_AFTER, HeaderValue::from_static("60"))
}

/// The claims that were found to be true lately, and until when each is believed.
#[derive(Debug, Default)]
pub(super) struct Believed {
    until: HashMap<Claim, Instant>,
    /// The same claims, in the order in which they came.
    order: VecDeque<Claim>,
}

impl Believed {
    fn has(&self, claim: &Claim, now: Instant) -> bool {
        self.until.get(claim).is_some_and(|until| now < *until)
    }

    fn insert(&mut self, claim: Claim, now: Instant, until: Instant) {
        let is_over = |known: &Claim| self.until[known] <= now;
        let over = self.order.iter().take_while(|known| is_over(known)).count();
        let is_new = !self.until.contains_key(&claim);
        let without_room = usize::from(is_new && over == 0 && self.order.len() >= MAX_BELIEVED);
        for gone in self.order.drain(..over.max(without_room)) {
            self.until.remove(&gone);
        }
        if self.until.insert(claim.clone(), until).is_none() {
            self.order.push_back(claim);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn claim(lock: &str, token: u64) -> Claim {
        Claim { lock: Name::new(Bytes::copy_from_slice(lock.as_bytes())).unwrap(), token }
    }

    fn read(header: &str) -> Result<Claim, Kind> {
        Claim::read(header.as_bytes()).map_err(|problem| problem.kind())
    }

    #[test]
    fn a_header_names_a_lock_and_a_token() {
        assert_eq!(read("a=7"), Ok(claim("a", 7)));
        assert_eq!(
            read("jobs%2Fnightly%3d%FF=18446744073709551615").unwrap().lock.bytes()[..],
            b"jobs/nightly=\xff"[..]
        );
        assert_eq!(read("a/b+c=0"), Ok(claim("a/b+c", 0)));
        let long = format!("{}=1", "a".repeat(513));
        for header in ["", "a", "=", "a=", "=7", "a=-7", "a=+7", "a=7.0", "a= 7", "a==7", "%zz=7", "a=7, b=8", &long] {
            assert_eq!(read(header), Err(Kind::InvalidHeader), "{header}");
        }
        assert!(Claim::read(b"\xff=7").is_err());
    }

    #[test]
    fn what_was_found_true_is_believed_for_a_while_and_so_is_nothing_else() {
        let mut believed = Believed::default();
        let begin = Instant::now();
        believed.insert(claim("a", 7), begin, begin + BELIEVED_FOR);
        assert!(believed.has(&claim("a", 7), begin));
        assert!(!believed.has(&claim("a", 8), begin) && !believed.has(&claim("b", 7), begin));
        assert!(!believed.has(&claim("a", 7), begin + BELIEVED_FOR));
        let later = begin + BELIEVED_FOR;
        believed.insert(claim("a", 7), later, later + BELIEVED_FOR);
        assert!(believed.has(&claim("a", 7), begin + BELIEVED_FOR));
        assert_eq!((believed.until.len(), believed.order.len()), (1, 1));
    }

    #[test]
    fn no_more_than_so_many_are_believed_and_those_out_of_time_go_first() {
        let mut believed = Believed::default();
        let begin = Instant::now();
        for token in 0..MAX_BELIEVED as u64 + 10 {
            believed.insert(claim("a", token), begin, begin + BELIEVED_FOR);
            believed.insert(claim("a", token), begin, begin + BELIEVED_FOR);
        }
        assert_eq!((believed.until.len(), believed.order.len()), (MAX_BELIEVED, MAX_BELIEVED));
        assert!(!believed.has(&claim("a", 9), begin) && believed.has(&claim("a", 10), begin));
        let later = begin + BELIEVED_FOR;
        believed.insert(claim("b", 1), later, later + BELIEVED_FOR);
        assert_eq!((believed.until.len(), believed.order.len()), (1, 1));
    }
}
