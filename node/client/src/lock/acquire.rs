//! Asking for a lock, for as long as its wait lasts.
//!
//! One wish has one name (its idempotency key), under which the store finds its place in the queue, or its grant, again.
//! So it is asked again whenever an answer was lost, by a new request that says how long is left; and also when none was,
//! before the wait that the store knows of is over, so that a wait of any length stays a wait of bounded requests. With a
//! deadline of 10 s, of which the others are multiples:
//!
//! ```text
//!  asked, to wait 60 s ──── 20 s ──────┬───────▶ given up 5 s later: the store lets the place be, since it was
//!                                      │         asked for again meanwhile
//!                                      └─▶ asked again, to wait 60 s ───── 20 s ────┬──▶ …
//! ```
//!
//! Each time the ring is looked at again too: a leader that hangs says nothing of its own, but others know of the next.

use std::pin::Pin;
use std::time::Duration;

use annulus_core::partition::lock::{
    MAX_DESCRIPTION_BYTES, MAX_OWNER_BYTES, MAX_TTL_MS, MAX_WAIT_MS, MIN_TTL_MS, Mode, Name,
};
use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::list::mode_text;
use super::{Holding, Lease, Lock, lease, name_of, path, post, refusal};
use crate::call::Call;
use crate::client::{invalid, name_request, strange_write};
use crate::directory::Place as Asked;
use crate::options::millis;
use crate::room::Room;
use crate::transport::{Answer, Message};
use crate::verdict::Safety;
use crate::{Client, Error, Result};

/// The longest answer that is read, in bytes.
const LONGEST_ANSWER: usize = 64 * 1024;
/// The longest wait that one request asks for, in deadlines of the client: so long is a place kept for one whose machine is
/// gone without a word.
const LONGEST_WAIT: u32 = 6;
/// When the place is asked for again, in deadlines of the client.
const AGAIN_AFTER: u32 = 2;
/// For this part of a deadline after that the older request is kept.
const OLDER_SHARE: u32 = 2;
/// How long a look at the ring may take then.
const RING_PATIENCE: Duration = Duration::from_secs(2);
/// The pause after a request that failed.
const PAUSE: Duration = Duration::from_millis(100);
/// An attempt may take this part of the client's deadline beside its wait.
const ATTEMPT_SHARE: u32 = 4;

/// A wish for a lock, to be asked with [`Request::acquire`].
///
/// Unless it says otherwise it is for the lock alone, with a lease of 10 s, and does not wait.
#[derive(Debug, Clone)]
pub struct Request {
    client: Client,
    name: Vec<u8>,
    owner: String,
    description: String,
    mode: Mode,
    ttl: Duration,
    wait: Wait,
    idempotency_key: Option<String>,
    deadline: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    For(Duration),
    Forever,
}

impl Request {
    pub(crate) fn new(client: Client, name: &[u8]) -> Self {
        let owner = format!("process-{}", std::process::id());
        let (name, description, mode) = (name.to_vec(), String::new(), Mode::Exclusive);
        let (ttl, wait) = (Duration::from_secs(10), Wait::For(Duration::ZERO));
        Self { client, name, owner, description, mode, ttl, wait, idempotency_key: None, deadline: None }
    }

    /// By which name it is held, for people: 1 to 255 bytes (`process-` and this process's number).
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.owner = owner.into();
        self
    }

    /// What it is wanted for, for people: up to 255 bytes.
    pub fn description(mut self, description: impl Into<String>) -> Self {
        self.description = description.into();
        self
    }

    /// Lets others hold it too that share it.
    pub fn shared(mut self) -> Self {
        self.mode = Mode::Shared;
        self
    }

    /// How long the lease is, from 500 ms to 24 h (10 s): how soon others get the lock when this process dies, and how
    /// long the store may be gone before this process loses it.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// How long to wait for it, behind whoever came before.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = Wait::For(wait);
        self
    }

    /// Waits for it without end.
    pub fn wait_forever(mut self) -> Self {
        self.wait = Wait::Forever;
        self
    }

    /// The name of this wish, 1 to 255 visible ASCII characters (drawn at random): asked again under the same name by the
    /// same owner, it finds its place or its grant again.
    pub fn idempotency_key(mut self, name: impl Into<String>) -> Self {
        self.idempotency_key = Some(name.into());
        self
    }

    /// How long the store may take beside the wait (as long as the client lets every call).
    pub(crate) fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Asks as [`Request::acquire`] does, for somebody who keeps the lock himself.
    pub(crate) async fn granted(self) -> std::result::Result<Granted, Refused> {
        let wish = Wish::new(self)?;
        wish.client.ring().await?;
        wish.granted().await
    }

    /// Asks for the lock until it is held or its wait is over, through lost members and connections. Dropped before
    /// that, it gives up its place.
    ///
    /// # Errors
    ///
    /// [`Error::LockHeld`] when others hold it and the wait is over. [`Error::Unavailable`] when the store can't be found
    /// within the client's deadline, or was not there for that long at the end of the wait. [`Error::OutcomeUnknown`]
    /// when the last answer was lost; the lock may then be held by this owner until its lease ends.
    pub async fn acquire(self) -> Result<Lock> {
        let wish = Wish::new(self)?;
        // A store that was never there is not worth a wait.
        wish.client.ring().await?;
        let granted = wish.granted().await.map_err(|refused| refused.error)?;
        let Wish { client, name, owner, mode, ttl, .. } = wish;
        let lease = Lease::new(granted.ends);
        Ok(Lock::new(Holding { client, name, token: granted.token, owner, mode, ttl, lease }))
    }
}

/// A wish that can be sent.
struct Wish {
    client: Client,
    name: Name,
    owner: String,
    description: String,
    mode: Mode,
    ttl: Duration,
    /// When the wait is over; `None`: never.
    until: Option<Instant>,
    deadline: Duration,
    message: Message,
}

/// A lock as it was granted.
#[derive(Debug)]
pub(crate) struct Granted {
    pub(crate) token: u64,
    pub(crate) ends: Instant,
    /// How the store said so.
    pub(crate) answer: Answer,
}

/// A lock is not to be had.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) error: Error,
    /// How the store said so, if it did.
    pub(crate) answer: Option<Box<Answer>>,
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self { error, answer: None }
    }
}

#[derive(Deserialize)]
struct WireGranted {
    token: u64,
    valid_ms: u64,
}

/// How a request ended.
enum Asking {
    Granted(Granted),
    /// No better answer will come.
    Over(Refused),
    /// It may be asked again.
    Again(Error),
}

impl Wish {
    fn new(request: Request) -> Result<Self> {
        let Request { client, name, owner, description, mode, ttl, wait, idempotency_key, deadline } = request;
        let name = name_of(&name)?;
        if !(MIN_TTL_MS..=MAX_TTL_MS).contains(&millis(ttl)) {
            return Err(invalid("lease", &format!("{ttl:?}"), "it must be 500ms to 24h"));
        }
        if owner.is_empty() || owner.len() > MAX_OWNER_BYTES {
            return Err(invalid("owner", &owner, &format!("it must be 1 to {MAX_OWNER_BYTES} bytes")));
        }
        if description.len() > MAX_DESCRIPTION_BYTES {
            let reason = format!("it must be at most {MAX_DESCRIPTION_BYTES} bytes");
            return Err(invalid("description", &description, &reason));
        }
        let mut message = post(path(&name, "")?, Bytes::new());
        let key = idempotency_key.unwrap_or_else(|| format!("{:032x}", rand::random::<u128>()));
        name_request(&mut message.headers, &key)?;
        let until = match wait {
            Wait::For(wait) => Instant::now().checked_add(wait),
            Wait::Forever => None,
        };
        let deadline = deadline.unwrap_or(client.deadline());
        Ok(Self { client, name, owner, description, mode, ttl, until, deadline, message })
    }

    /// Asks until there is an answer or no time is left.
    async fn granted(&self) -> std::result::Result<Granted, Refused> {
        let mut doubt = None;
        let mut older: Option<Pin<Box<_>>> = None;
        let mut older_until = Instant::now();
        loop {
            let again_at = Instant::now() + self.deadline * AGAIN_AFTER;
            let mut newest = Box::pin(self.ask(older.is_some()));
            let ended = loop {
                tokio::select! {
                    // A grant is what both wait for: it does not matter whom it is told.
                    ended = &mut newest => break Some(ended),
                    ended = async { older.as_mut().expect("it is there").await }, if older.is_some() => {
                        older = None;
                        if let Asking::Granted(granted) = ended {
                            return Ok(granted);
                        }
                    }
                    () = sleep_until(older_until), if older.is_some() => older = None,
                    () = sleep_until(again_at) => break None,
                }
            };
            match ended {
                Some(Asking::Granted(granted)) => return Ok(granted),
                Some(Asking::Over(refused)) => return Err(refused),
                Some(Asking::Again(error)) => {
                    if let Error::OutcomeUnknown { .. } = error {
                        doubt.get_or_insert_with(|| error.clone());
                    }
                    if self.no_time_left() || self.client.max_attempts() == 1 {
                        return Err(doubt.unwrap_or(error).into());
                    }
                    sleep(PAUSE).await;
                }
                None => {
                    (older, older_until) = (Some(newest), Instant::now() + self.deadline / OLDER_SHARE);
                }
            }
        }
    }

    fn no_time_left(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until + self.deadline)
    }

    /// The longest wait that one request asks for.
    fn longest_wait(&self) -> Duration {
        (self.deadline * LONGEST_WAIT).min(Duration::from_millis(MAX_WAIT_MS))
    }

    /// How long a request that is sent now has to wait.
    fn wait(&self, now: Instant) -> Duration {
        let longest = self.longest_wait();
        self.until.map_or(longest, |until| until.saturating_duration_since(now).min(longest))
    }

    /// Asks once. A request that broke off is not sent again by the call: the next one is to be the newest at the store.
    async fn ask(&self, looks: bool) -> Asking {
        if looks {
            // Whether or not somebody tells it: it is asked all the same.
            let _ = timeout(RING_PATIENCE, self.client.fresh_ring()).await;
        }
        let complete = |message: &mut Message, _| {
            let wish = json!({
                "owner": self.owner, "description": self.description, "mode": mode_text(self.mode),
                "ttl_ms": millis(self.ttl), "wait_ms": millis(self.wait(Instant::now())),
            });
            message.body = Bytes::from(wish.to_string());
        };
        let (now, deadline) = (Instant::now(), self.deadline);
        let wait = self.wait(now);
        let end = self.until.map_or(now + wait, |until| until.max(now)) + deadline;
        let call = Call {
            place: Asked::Leader(self.name.bytes()),
            message: self.message.clone(),
            complete: Some(&complete),
            safety: Safety::Once,
            time: (wait + deadline).min(end - now),
            patience: Some(wait + deadline / ATTEMPT_SHARE),
            max_attempts: self.client.max_attempts(),
            room: Room::uncounted(LONGEST_ANSWER),
        };
        match self.client.make(call).await {
            Ok(answer) => self.judge(answer),
            Err(error @ (Error::Unavailable { .. } | Error::OutcomeUnknown { .. })) => Asking::Again(error),
            Err(error) => Asking::Over(error.into()),
        }
    }

    fn judge(&self, answer: Answer) -> Asking {
        if answer.status == StatusCode::OK {
            let Ok(granted) = serde_json::from_slice::<WireGranted>(&answer.body) else {
                return Asking::Again(strange_write(&answer));
            };
            let ends = lease::ends(answer.sent, Duration::from_millis(granted.valid_ms));
            if ends <= Instant::now() {
                return Asking::Again(Error::OutcomeUnknown {
                    reason: "the answer came when its lease was over".into(),
                });
            }
            return Asking::Granted(Granted { token: granted.token, ends, answer });
        }
        let is_last =
            self.until.is_some_and(|until| until.saturating_duration_since(answer.sent) <= self.longest_wait());
        let over = |error| Asking::Over(Refused { error, answer: Some(Box::new(answer.clone())) });
        match refusal(&answer) {
            error @ (Error::Conflict(_) | Error::Refused(_)) => over(error),
            error @ Error::LockHeld(_) if is_last => over(error),
            error => Asking::Again(error),
        }
    }
}
