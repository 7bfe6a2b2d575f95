//! A transaction on its way, until it is known what came of it or its time is over.

use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use tokio::time::{Instant, sleep};

use super::{Body, Done, MAX_OPERATIONS, Request};
use crate::call::Call;
use crate::client::{fence_header, invalid, strange_write, write_refusal};
use crate::directory::Place as Asked;
use crate::options::ttl_text;
use crate::room::Room;
use crate::transport::{Answer, MAX_ANSWER_BYTES, Message};
use crate::verdict::Safety;
use crate::{Client, Error, Result};

/// One attempt may take this part of the time: longer than that of other calls, because one that others are in the way of
/// keeps its turn for as long as it is tried by the same member.
pub(super) const ATTEMPT_SHARE: u32 = 2;
/// For so long after its time a member may still be finding out what came of a transaction.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// The longest time that a member takes for one.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);
/// The pause after an answer that said nothing.
const PAUSE: Duration = Duration::from_millis(100);

/// A transaction that can be sent.
pub(super) struct Sending {
    client: Client,
    id: String,
    key: Option<Bytes>,
    message: Message,
    safety: Safety,
    /// Whether also that is remembered which is done when a condition does not hold.
    time: Duration,
    until: Instant,
}

impl Sending {
    pub(super) fn new(request: Request) -> Result<Self> {
        let is_snapshot = request.is_snapshot();
        let Request { client, body, id, fence, deadline, fault } = request;
        if let Some(fault) = fault {
            return Err(fault);
        }
        let count = body.count();
        if !(1..=MAX_OPERATIONS).contains(&count) {
            let reason = format!("it has {count} conditions and operations; it must have 1 to {MAX_OPERATIONS}");
            return Err(invalid("transaction", &id, &reason));
        }
        let mut headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        if let Some(fence) = &fence {
            headers.insert(HeaderName::from_static("annulus-fence"), fence_header(fence));
        }
        let key = body.first_key();
        let body = Body { id: (!is_snapshot).then(|| id.clone()), ..body };
        let body = Bytes::from(serde_json::to_vec(&body).expect("strings and numbers"));
        let message = Message { method: Method::POST, path: PathAndQuery::from_static("/v1/txn"), headers, body };
        let safety = if is_snapshot { Safety::Read } else { Safety::Transaction };
        let time = deadline.unwrap_or(client.deadline());
        Ok(Self { id, key, message, safety, time, until: Instant::now() + time, client })
    }

    pub(super) async fn done(&self) -> Result<Done> {
        let mut doubt = None;
        loop {
            let answer = match self.ask().await {
                Ok(answer) => answer,
                Err(error) => return Err(self.end(doubt, error)),
            };
            let reason = match self.read(&answer) {
                Ok(done) => return Ok(done),
                Err(error) if answer.status == StatusCode::OK => error.to_string(),
                Err(error) => return Err(self.end(doubt, error)),
            };
            if Instant::now() + PAUSE >= self.until || self.client.max_attempts() == 1 {
                return Err(self.unknown(doubt.as_deref().unwrap_or(&reason)));
            }
            doubt.get_or_insert(reason);
            sleep(PAUSE).await;
        }
    }

    async fn ask(&self) -> Result<Answer> {
        let complete = |message: &mut Message, left| message.path = timed("/v1/txn", left);
        let max_attempts = self.client.max_attempts();
        let share = if max_attempts > 1 { ATTEMPT_SHARE } else { 1 };
        let call = Call {
            place: self.key.as_ref().map_or(Asked::Anybody, |key| Asked::Leader(key)),
            message: self.message.clone(),
            complete: Some(&complete),
            safety: self.safety,
            time: self.until.saturating_duration_since(Instant::now()),
            patience: Some(self.time / share),
            max_attempts,
            room: Room::uncounted(MAX_ANSWER_BYTES),
        };
        self.client.make(call).await
    }

    fn read(&self, answer: &Answer) -> Result<Done> {
        match answer.status {
            StatusCode::OK => Done::read(&answer.body).map_err(|_| strange_write(answer)),
            _ => Err(write_refusal(answer)),
        }
    }

    fn end(&self, doubt: Option<String>, error: Error) -> Error {
        match (doubt, error) {
            (Some(reason), _) | (None, Error::OutcomeUnknown { reason }) => self.unknown(&reason),
            (None, error) => error,
        }
    }

    fn unknown(&self, reason: &str) -> Error {
        if self.safety == Safety::Read {
            return crate::client::strange_read(reason);
        }
        Error::OutcomeUnknown { reason: format!("transaction {}: {reason}", self.id) }
    }
}

/// A path that says how long the store is to try, in an attempt that may take so long.
pub(super) fn timed(path: &str, left: Duration) -> PathAndQuery {
    let path = format!("{path}?timeout={}", ttl_text(timeout(left)));
    PathAndQuery::try_from(path).expect("a path and a duration")
}

/// How long the store is to try, of the time that an attempt has: so that its last words still come in time.
pub(crate) fn timeout(left: Duration) -> Duration {
    let for_last_words = LAST_WORDS.min(left / 2);
    (left - for_last_words).clamp(Duration::from_millis(1), LONGEST_TIMEOUT)
}
