//! Requests that wait for a lock. Their places in the queue are replicated; who is to be told is the leader's own knowledge:
//! a new one is asked again, and finds the place by the owner and the request's name.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::RequestId;
use crate::lane::{LogPosition, Refusal, Reply};
use crate::partition::lock::{Applied, Command, Name, Outcome, Settled};
use crate::time::Instant;

/// Most requests of one group that wait for locks.
pub const MAX_WAITS: usize = 4096;

/// The requests that wait for locks of one group, and the places that nobody waits at any more.
#[derive(Debug, Default)]
pub struct Waits {
    /// By the token that each will have.
    places: BTreeMap<u64, Vec<Waiting>>,
    count: usize,
    /// Places that are to be given up: nobody waits there any more.
    leaving: Vec<Command>,
    /// Requests whose client was gone before their entry was applied.
    cancelled: BTreeSet<RequestId>,
}

#[derive(Debug)]
struct Waiting {
    request: RequestId,
    name: Name,
    deadline: Instant,
    /// The index of the entry that asked.
    asked: u64,
    /// That entry's clock.
    clock_ms: u64,
}

impl Waits {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether places are to be given up.
    pub fn has_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// The entry that this request was proposed as is applied: what it is answered. `None`: it waits.
    pub fn proposed(
        &mut self,
        request: RequestId,
        deadline: Instant,
        position: LogPosition,
        applied: &Applied,
    ) -> Option<Reply> {
        let cancelled = self.cancelled.remove(&request);
        let (name, asked) = (applied.name.clone(), position.index);
        match applied.outcome {
            Outcome::Queued { token, .. } if cancelled && self.places.contains_key(&token) => {
                // Others wait by the same name: the place is theirs, and was asked for last by this.
                let waiting = self.places.get_mut(&token).into_iter().flatten();
                waiting.for_each(|waiting| waiting.asked = waiting.asked.max(asked));
            }
            Outcome::Granted { token, .. } | Outcome::Queued { token, .. } if cancelled => {
                self.leaving.push(Command::Leave { name, token, asked });
            }
            Outcome::Queued { token, clock_ms } if !cancelled => {
                self.places.entry(token).or_default().push(Waiting { request, name, deadline, asked, clock_ms });
                self.count += 1;
                return None;
            }
            _ => {}
        }
        match &applied.outcome {
            Outcome::Queued { .. } => Some(Reply::Refused(Refusal::TimedOut)),
            outcome => Some(Reply::Lock(outcome.clone())),
        }
    }

    /// The request was settled in another way than by its entry.
    pub fn forget(&mut self, request: RequestId) {
        self.cancelled.remove(&request);
    }

    /// Answers those whose wait has an end. `again`: the answer to those that may ask again.
    pub fn settle(&mut self, settled: &[Settled], again: &Reply, mut answer: impl FnMut(RequestId, Reply)) {
        for one in settled {
            let (Settled::Granted { token, .. } | Settled::Gone { token, .. }) = one;
            let Some(waiting) = self.places.remove(token) else { continue };
            self.count -= waiting.len();
            for waiting in waiting {
                let reply = match one {
                    Settled::Granted { token, deadline_ms } => {
                        let valid_ms = deadline_ms.saturating_sub(waiting.clock_ms);
                        Reply::Lock(Outcome::Granted { token: *token, valid_ms })
                    }
                    Settled::Gone { held: Some((by, waiting)), .. } => {
                        Reply::Lock(Outcome::Held { by: by.clone(), waiting: *waiting })
                    }
                    Settled::Gone { held: None, .. } => again.clone(),
                };
                answer(waiting.request, reply);
            }
        }
    }

    /// The client of a request is gone. Returns whether it was waiting; if not, its entry is under way.
    pub fn cancel(&mut self, request: RequestId) -> bool {
        let was_waiting = self.leave(|waiting| waiting.request == request);
        if was_waiting.is_empty() {
            self.cancelled.insert(request);
        }
        !was_waiting.is_empty()
    }

    /// Takes out those whose deadline has passed; their places are given up.
    pub fn expired(&mut self, now: Instant) -> Vec<RequestId> {
        self.leave(|waiting| waiting.deadline <= now)
    }

    /// Takes out those that are gone, and gives up the places where nobody waits any more.
    fn leave(&mut self, is_gone: impl Fn(&Waiting) -> bool) -> Vec<RequestId> {
        let mut gone = Vec::new();
        let Self { places, leaving, .. } = self;
        places.retain(|token, waiting| {
            let asked = waiting.iter().map(|waiting| waiting.asked).max().unwrap_or_default();
            let name = waiting.first().map(|waiting| waiting.name.clone());
            let leaves = |waiting: &mut Waiting| is_gone(waiting);
            gone.extend(waiting.extract_if(.., leaves).map(|waiting| waiting.request));
            // Whoever goes last gives the place up as it was asked for last.
            waiting.iter_mut().for_each(|waiting| waiting.asked = asked);
            if let Some(name) = name.filter(|_| waiting.is_empty()) {
                leaving.push(Command::Leave { name, token: *token, asked });
            }
            !waiting.is_empty()
        });
        self.count -= gone.len();
        gone
    }

    /// The next place to give up. It must be put back if that can't be proposed.
    pub fn next_leaving(&mut self) -> Option<Command> {
        self.leaving.pop()
    }

    /// A place that could not be given up yet.
    pub fn put_back(&mut self, command: Command) {
        self.leaving.push(command);
    }

    /// Takes out all, for a replica that leads no more: the next leader does not know what was to be given up.
    pub fn drain(&mut self) -> Vec<RequestId> {
        self.leaving.clear();
        self.count = 0;
        std::mem::take(&mut self.places).into_values().flatten().map(|waiting| waiting.request).collect()
    }

    /// Panics when it contradicts itself.
    pub fn check(&self) {
        assert_eq!(self.count, self.places.values().map(Vec::len).sum::<usize>(), "those who wait are counted");
    }
}
