//! What a sidecar itself has to say when a request is not done: `application/problem+json`, in the form and, where it means
//! the same, under the names of a node. What the store says is passed on as it is.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Response, StatusCode};
use serde_json::{Map, Value};

use super::Body;
use crate::Error;
use crate::text::BytesAsText;

/// What every slug is prefixed with to make the `type` of a problem.
const TYPE_PREFIX: &str = "https://annulus.dev/problems/";

/// The kinds of problems. The slugs are part of the API: they are never renamed and never reused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    InvalidHeader,
    InvalidLockName,
    MalformedRequest,
    UnknownPath,
    MethodNotAllowed,
    BodyTimeout,
    /// A lock that a write names was held here, and is not any more.
    LockLost,
    /// A lock that a write names was never held here, or was given up.
    LockNotHeld,
    TxnConflict,
    BodyTooLarge,
    /// No more locks are kept.
    TooManyLocks,
    Overloaded,
    Internal,
    /// What the store answered is not an answer of a store.
    UnexpectedAnswer,
    /// The store answered with more than there is memory for.
    AnswerTooLong,
    NoLeader,
    NotReady,
    TooManyConnections,
    OutcomeUnknown,
}

impl Kind {
    fn parts(self) -> (&'static str, u16, &'static str) {
        match self {
            Self::InvalidHeader => ("invalid-header", 400, "The header is invalid"),
            Self::InvalidLockName => ("invalid-lock-name", 400, "The name of the lock is invalid"),
            Self::MalformedRequest => ("malformed-request", 400, "The request is malformed"),
            Self::UnknownPath => ("unknown-path", 404, "There is nothing here"),
            Self::MethodNotAllowed => ("method-not-allowed", 405, "The method is not allowed"),
            Self::BodyTimeout => ("body-timeout", 408, "The body did not arrive in time"),
            Self::LockLost => ("lock-lost", 409, "The lock was lost"),
            Self::LockNotHeld => ("lock-not-held", 409, "The lock is not held here"),
            Self::TxnConflict => ("txn-conflict", 409, "The transaction met others"),
            Self::BodyTooLarge => ("body-too-large", 413, "The body is too large"),
            Self::TooManyLocks => ("too-many-locks", 429, "The sidecar keeps too many locks already"),
            Self::Overloaded => ("overloaded", 429, "Too much is waiting already"),
            Self::Internal => ("internal", 500, "The sidecar met an error of its own"),
            Self::UnexpectedAnswer => ("unexpected-answer", 502, "The store gave an answer that none gives"),
            Self::AnswerTooLong => ("answer-too-long", 502, "The answer is too long for the sidecar"),
            Self::NoLeader => ("no-leader", 503, "The store has no leader that can be reached"),
            Self::NotReady => ("not-ready", 503, "The sidecar is not ready"),
            Self::TooManyConnections => ("too-many-connections", 503, "Too many connections are open"),
            Self::OutcomeUnknown => ("outcome-unknown", 504, "It is not known whether the write happened"),
        }
    }

    pub(super) fn status(self) -> StatusCode {
        StatusCode::from_u16(self.parts().1).expect("the table holds valid statuses")
    }
}

/// One problem that an application is told of.
#[derive(Debug)]
pub(super) struct Problem(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    detail: Cow<'static, str>,
    fields: Map<String, Value>,
    headers: HeaderMap,
    close: bool,
}

impl Problem {
    /// A problem of this kind; the detail says what was wrong this time, and what would be right.
    pub(super) fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        let (fields, headers) = (Map::new(), HeaderMap::new());
        Self(Box::new(Inner { kind, detail: detail.into(), fields, headers, close: false }))
    }

    /// A problem that goes away by itself: `Retry-After` says in how many seconds to try again.
    pub(super) fn temporary(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        let mut problem = Self::new(kind, detail);
        problem.0.headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        problem
    }

    /// With a field of its own, for programs.
    pub(super) fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.0.fields.insert(field.to_owned(), value.into());
        self
    }

    /// With a field of bytes: as they are if they are UTF-8, else in base64 under another name.
    pub(super) fn with_bytes(self, field: &str, bytes: &[u8]) -> Self {
        let text = BytesAsText::new(bytes);
        self.with(&text.field(field), text.text)
    }

    /// With the methods that the path takes.
    pub(super) fn allow(mut self, methods: &'static str) -> Self {
        self.0.headers.insert(ALLOW, HeaderValue::from_static(methods));
        self
    }

    /// The connection is closed after the answer, because what follows on it can't be understood or is not wanted.
    pub(super) fn closing(mut self) -> Self {
        self.0.close = true;
        self
    }

    /// Whether the connection is to be closed after the answer.
    pub(super) fn closes(&self) -> bool {
        self.0.close
    }

    #[cfg(test)]
    pub(super) fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The JSON that the application gets.
    pub(super) fn to_json(&self) -> Bytes {
        let inner = &self.0;
        let (slug, status, title) = inner.kind.parts();
        let mut json = Map::new();
        json.insert("type".to_owned(), format!("{TYPE_PREFIX}{slug}").into());
        json.insert("title".to_owned(), title.into());
        json.insert("status".to_owned(), status.into());
        json.insert("detail".to_owned(), inner.detail.as_ref().into());
        json.extend(inner.fields.iter().map(|(name, value)| (name.clone(), value.clone())));
        Bytes::from(Value::Object(json).to_string())
    }

    /// The answer that the application gets.
    pub(super) fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.to_json()));
        *response.status_mut() = self.0.kind.status();
        *response.headers_mut() = self.0.headers;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let detail = error.to_string();
        match error {
            Error::OutcomeUnknown { .. } => {
                let detail = format!("{detail}; read the key, or repeat the request with the same `Idempotency-Key`");
                Self::new(Kind::OutcomeUnknown, detail)
            }
            Error::Unavailable { overloaded: true, .. } => {
                Self::temporary(Kind::Overloaded, format!("{detail}; nothing was changed"))
            }
            Error::Unavailable { .. } => Self::temporary(Kind::NoLeader, format!("{detail}; nothing was changed")),
            Error::TxnConflict { .. } => Self::temporary(Kind::TxnConflict, format!("{detail}; nothing was changed")),
            Error::UnexpectedAnswer { .. } => Self::new(Kind::UnexpectedAnswer, detail),
            Error::AnswerTooLong { limit } => {
                let detail = format!("{detail}, or give the sidecar more --memory; nothing was changed");
                Self::new(Kind::AnswerTooLong, detail).with("limit", limit)
            }
            Error::TwoClusters { .. } => {
                let detail = format!(
                    "{detail}; if the store was made anew, the sidecar is started again for the new one; else its --endpoint is wrong"
                );
                Self::temporary(Kind::NoLeader, detail)
            }
            _ => Self::new(Kind::Internal, detail),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_of_the_client_has_its_status_and_says_whether_something_was_changed() {
        let reason = || "node-1: gone".to_owned();
        let unavailable = |overloaded| Error::Unavailable { reason: reason(), overloaded, attempts: 3 };
        for (error, status, slug, retry) in [
            (Error::OutcomeUnknown { reason: reason() }, 504, "outcome-unknown", false),
            (unavailable(false), 503, "no-leader", true),
            (unavailable(true), 429, "overloaded", true),
            (Error::TxnConflict { reason: reason(), attempts: 2 }, 409, "txn-conflict", true),
            (Error::UnexpectedAnswer { reason: reason() }, 502, "unexpected-answer", false),
        ] {
            let problem = Problem::from(error);
            let json: Value = serde_json::from_slice(&problem.to_json()).unwrap();
            let response = problem.into_response();
            assert_eq!((response.status().as_u16(), response.headers().contains_key(RETRY_AFTER)), (status, retry));
            assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
            assert_eq!((&json["type"], &json["status"]), (&format!("{TYPE_PREFIX}{slug}").into(), &status.into()));
            assert!(json["detail"].as_str().unwrap().contains("node-1: gone"), "{json}");
        }
        let too_long = Problem::from(Error::AnswerTooLong { limit: 7 });
        let json: Value = serde_json::from_slice(&too_long.to_json()).unwrap();
        assert_eq!((&json["limit"], too_long.kind().status().as_u16()), (&7.into(), 502));
    }
}
