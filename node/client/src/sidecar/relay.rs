//! Sends a request on to whoever is to answer it, and the answer back as it is.

use std::time::Duration;

use annulus_core::partition::lock::Name;
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, Method, Response, StatusCode};
use hyper::body::Incoming;
use tokio::time::{Instant, sleep};

use super::edge::{Edge, LOCK_HEADER};
use super::limits::{MAX_KEY_BODY_BYTES, MAX_TXN_BODY_BYTES};
use super::problem::{Kind, Problem};
use super::route::{self, Route};
use super::txn::Txn;
use super::{Body, body};
use crate::Error;
use crate::call::Call;
use crate::client::fence_header;
use crate::directory::Place;
use crate::lock::Fence;
use crate::options::ttl_text;
use crate::room::Lack;
use crate::transport::{Answer, Message};
use crate::txn::store_timeout;
use crate::verdict::Safety;

const FENCE_HEADER: HeaderName = HeaderName::from_static("annulus-fence");
/// The name under which the store remembers a write.
pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// Headers of one connection, which are not sent on. What frames a message is written anew.
const OF_ONE_CONNECTION: [HeaderName; 10] = [
    header::CONNECTION,
    header::HOST,
    header::TRANSFER_ENCODING,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    header::EXPECT,
    header::PROXY_AUTHORIZATION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
];
/// Of a transaction's time one attempt may take this part (see the client's own transactions).
const TXN_ATTEMPT_SHARE: u32 = 2;
/// The pause after an answer that broke off.
const PAUSE: Duration = Duration::from_millis(50);

/// A request on its way.
pub(super) struct Sending<'a> {
    pub(super) place: Place<'a>,
    pub(super) message: Message,
    pub(super) safety: Safety,
    pub(super) time: Duration,
    /// Whether each attempt says how much time is left, in `timeout`.
    pub(super) is_timed: bool,
}

impl Sending<'_> {
    /// Sends it until there is an answer that is whole.
    pub(super) async fn answer(self, edge: &Edge) -> Result<Answer, Error> {
        let until = Instant::now() + self.time;
        let asked = self.message.path.clone();
        let complete = |message: &mut Message, left: Duration| {
            let (path, others) = (asked.path(), route::without(asked.query(), "timeout"));
            let sign = if others.is_empty() { '?' } else { '&' };
            let timed = format!("{path}{others}{sign}timeout={}", ttl_text(store_timeout(left)));
            message.path = PathAndQuery::try_from(timed).unwrap_or_else(|_| message.path.clone());
        };
        let is_get = matches!(self.message.method, Method::GET | Method::HEAD);
        let mut message = Some(self.message);
        loop {
            let time = until.saturating_duration_since(Instant::now());
            let again = (!is_get && self.safety.repeatable()).then(|| message.clone()).flatten();
            let call = Call {
                place: self.place,
                message: message.take().expect("there is one for each round"),
                complete: if self.is_timed { Some(&complete) } else { None },
                safety: self.safety,
                time,
                patience: self.is_timed.then(|| time / TXN_ATTEMPT_SHARE),
                max_attempts: edge.client.max_attempts(),
                room: edge.resources.room(),
            };
            let answer = edge.client.relay(call).await?;
            // Of what is no GET the client takes a status for an answer, although its body broke off.
            if is_get || is_whole(&answer) {
                return Ok(answer);
            }
            let is_hopeless = matches!(answer.lack, Some(Lack::TooLong(_)));
            if again.is_none() || is_hopeless || Instant::now() + PAUSE >= until {
                return Err(unread(self.safety, &answer));
            }
            message = again;
            sleep(PAUSE).await;
        }
    }
}

/// The error that an answer without its body comes to, if it is no GET's.
fn unread(safety: Safety, answer: &Answer) -> Error {
    match answer.lack {
        Some(lack) if safety == Safety::Read => lack.error(1),
        Some(lack) => Error::OutcomeUnknown { reason: format!("the store answered {}, and {lack}", answer.status) },
        None => Error::OutcomeUnknown { reason: format!("the answer broke off after its status, {}", answer.status) },
    }
}

fn is_whole(answer: &Answer) -> bool {
    if answer.lack.is_some() {
        return false;
    }
    let length = answer.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    length.is_none_or(|length: usize| length == answer.body.len())
}

/// Answers a read, whatever of.
pub(super) async fn read(edge: &Edge, route: Route, parts: Parts) -> Result<Response<Body>, Problem> {
    let _place = edge.resources.admit(route)?;
    let (path, query) = (parts.uri.path(), parts.uri.query());
    let named = route::decoded(route.named(path));
    let is_stale = route::parameter(query, "consistency") == Some("stale");
    let has_leader = !named.is_empty() && !is_stale;
    let place = match (named.is_empty(), is_stale) {
        (true, _) => Place::Anybody,
        (false, true) => Place::Holder(&named),
        (false, false) => Place::Leader(&named),
    };
    let (time, is_timed) = (time(edge, query), route == Route::Txn && route::is_timed(query));
    let message = message(parts, Bytes::new())?;
    let answer = Sending { place, message, safety: Safety::Read, time, is_timed }.answer(edge).await?;
    if has_leader {
        note(edge, &answer);
    }
    Ok(response(answer))
}

/// Answers a write of one key.
pub(super) async fn write(edge: &Edge, parts: Parts, body: Incoming) -> Result<Response<Body>, Problem> {
    let _place = edge.resources.admit(Route::Key)?;
    let (body, _room) = body::read(body, MAX_KEY_BODY_BYTES, &edge.resources).await?;
    let key = parts.uri.path();
    let key = Route::Key.named(key);
    let is_broken = route::is_broken(key);
    let key = route::decoded(key);
    let time = time(edge, parts.uri.query());
    let mut message = message(parts, body)?;
    let fence = fence(edge, &mut message.headers, time).await?;
    if !message.headers.contains_key(IDEMPOTENCY_KEY) {
        message.headers.insert(IDEMPOTENCY_KEY, made_up_header());
    }
    // One that no store takes is for the store to refuse.
    let place = if key.is_empty() || is_broken { Place::Anybody } else { Place::Leader(&key) };
    let name = message.headers.get(IDEMPOTENCY_KEY).and_then(|name| name.to_str().ok()).map(str::to_owned);
    let answer = Sending { place, message, safety: Safety::Named, time, is_timed: false }.answer(edge).await;
    let answer = answer.map_err(|error| match (Problem::from(error), name) {
        (problem, Some(name)) => problem.with("idempotency_key", name),
        (problem, None) => problem,
    })?;
    note(edge, &answer);
    fenced(edge, fence, answer)
}

/// Answers a transaction.
pub(super) async fn txn(edge: &Edge, parts: Parts, body: Incoming) -> Result<Response<Body>, Problem> {
    let _place = edge.resources.admit(Route::NewTxn)?;
    let (body, _room) = body::read(body, MAX_TXN_BODY_BYTES, &edge.resources).await?;
    let query = parts.uri.query();
    let time = time(edge, query);
    // A timeout that no store takes is for the store to refuse, and so is a body that is no transaction.
    let is_timed = route::is_timed(query);
    let read = Txn::read(body.clone(), || format!("txn-{:032x}", rand::random::<u128>()));
    let (body, id, key, safety, is_timed) = match read {
        Some(Txn { body, id: Some(id), key }) => (body, Some(id), key, Safety::Transaction, is_timed),
        Some(Txn { body, id: None, key }) => (body, None, key, Safety::Read, is_timed),
        None => (body, None, None, Safety::Once, false),
    };
    let mut message = message(parts, body)?;
    let fence = fence(edge, &mut message.headers, time).await?;
    let place = key.as_ref().filter(|key| !key.is_empty()).map_or(Place::Anybody, |key| Place::Leader(key));
    let answer = Sending { place, message, safety, time, is_timed }.answer(edge).await;
    let answer = answer.map_err(|error| match (Problem::from(error), id) {
        (problem, Some(id)) => problem.with("id", id),
        (problem, None) => problem,
    })?;
    note(edge, &answer);
    fenced(edge, fence, answer)
}

/// How long a request may take.
pub(super) fn time(edge: &Edge, query: Option<&str>) -> Duration {
    route::timeout(query).unwrap_or(edge.client.deadline())
}

/// What is sent on of a request.
pub(super) fn message(parts: Parts, body: Bytes) -> Result<Message, Problem> {
    let Parts { method, uri, mut headers, .. } = parts;
    let path = uri.into_parts().path_and_query.ok_or_else(|| {
        let detail = "the request is refused: it has no path";
        Problem::new(Kind::MalformedRequest, detail)
    })?;
    strip(&mut headers);
    headers.remove(header::CONTENT_LENGTH);
    Ok(Message { method, path, headers, body })
}

/// Takes out what is for one connection only.
fn strip(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
        let named = named.flat_map(|names| names.split(',')).filter_map(|name| name.trim().parse().ok());
        for name in named.collect::<Vec<HeaderName>>() {
            // Nobody gets a write to happen without what it depends on.
            if !name.as_str().starts_with("if-") && !name.as_str().starts_with("annulus-") && name != IDEMPOTENCY_KEY {
                headers.remove(name);
            }
        }
    }
    // Most messages have few headers, and of these hardly one: looking costs less than taking out ten that are not there.
    for name in &OF_ONE_CONNECTION {
        if headers.keys().any(|there| there == name) {
            headers.remove(name);
        }
    }
}

/// What comes back of an answer: all of it, but what is for one connection only.
pub(super) fn response(answer: Answer) -> Response<Body> {
    let Answer { status, mut headers, body, .. } = answer;
    strip(&mut headers);
    if !body.is_empty() {
        // As many bytes as there are; of HEAD, as many as there would be.
        headers.remove(header::CONTENT_LENGTH);
    }
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// Takes note of a leader that has answered.
pub(super) fn note(edge: &Edge, answer: &Answer) {
    if !answer.status.is_server_error() && answer.status != StatusCode::TOO_MANY_REQUESTS {
        edge.reached();
    }
}

/// A name for a request that has none: nobody else's.
pub(super) fn made_up() -> String {
    format!("{:032x}", rand::random::<u128>())
}

fn made_up_header() -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from(made_up())).expect("hexadecimal digits")
}

/// Puts the fence of the lock that a write names in the name's place.
async fn fence(edge: &Edge, headers: &mut HeaderMap, time: Duration) -> Result<Option<(Name, u64)>, Problem> {
    if !headers.contains_key(LOCK_HEADER) {
        return Ok(None);
    }
    let refuse = |detail: String| Problem::new(Kind::InvalidHeader, detail).with("header", LOCK_HEADER.as_str());
    if headers.contains_key(FENCE_HEADER) {
        return Err(refuse("`Annulus-Lock` and `Annulus-Fence` stand there together; give one of them".to_owned()));
    }
    let mut values = headers.get_all(LOCK_HEADER).iter();
    let value = values.next().map(HeaderValue::to_str);
    let Some(Ok(text)) = value else {
        return Err(refuse("`Annulus-Lock` must be a lock's name, percent-encoded".to_owned()));
    };
    if values.next().is_some() {
        return Err(refuse("`annulus-lock` stands there twice".to_owned()));
    }
    if route::is_broken(text) {
        return Err(refuse(format!("`Annulus-Lock` must be a lock's name, percent-encoded; `{text}` is not")));
    }
    let name = Name::new(route::decoded(text))
        .map_err(|error| Problem::new(Kind::InvalidLockName, error.to_string()).with("header", LOCK_HEADER.as_str()))?;
    let token = edge.locks.token(&name, time).await?;
    headers.remove(LOCK_HEADER);
    headers.insert(FENCE_HEADER, fence_header(&Fence::new(name.clone(), token)));
    Ok(Some((name, token)))
}

/// The answer to a write that may have been fenced. When the store says that the token is no longer good, the lock is lost.
fn fenced(edge: &Edge, fence: Option<(Name, u64)>, answer: Answer) -> Result<Response<Body>, Problem> {
    match fence {
        // Of those that share a lock the newest fences the others off, and they hold it still.
        Some((name, token))
            if answer.status == StatusCode::CONFLICT
                && answer.problem().kind() == "stale-token"
                && !edge.locks.is_shared(&name, token) =>
        {
            edge.locks.refused(&name, token, &answer.problem().detail);
            Err(edge.locks.lost_problem(&name, token, &answer.problem().detail))
        }
        _ => Ok(response(answer)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripped(headers: &[(&str, &str)]) -> Vec<String> {
        let pairs = headers
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap()));
        let mut headers: HeaderMap = pairs.collect();
        strip(&mut headers);
        let mut names: Vec<_> = headers.keys().map(ToString::to_string).collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_for_one_connection_is_not_sent_on_and_everything_else_is() {
        let headers = [
            ("host", "a"),
            ("connection", "keep-alive, x-hop"),
            ("keep-alive", "1"),
            ("x-hop", "1"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("expect", "100-continue"),
            ("proxy-connection", "close"),
            ("if-match", "*"),
            ("etag", "\"1\""),
            ("annulus-epoch", "7"),
            ("date", "now"),
            ("x-mine", "1"),
        ];
        assert_eq!(stripped(&headers), ["annulus-epoch", "date", "etag", "if-match", "x-mine"]);
    }

    #[test]
    fn nobody_gets_a_condition_of_a_write_dropped_by_naming_it_a_header_of_the_connection() {
        let connection = "if-match, annulus-fence, annulus-lock, idempotency-key";
        let headers = [
            ("connection", connection),
            ("if-match", "\"1\""),
            ("annulus-fence", "a=1"),
            ("annulus-lock", "a"),
            ("idempotency-key", "k"),
        ];
        assert_eq!(stripped(&headers), ["annulus-fence", "annulus-lock", "idempotency-key", "if-match"]);
    }
}
