//! What a client is told when its request is not done: `application/problem+json` (RFC 9457).
//!
//! Every kind of problem there is stands in [`Kind`], with its stable slug and its status; a program decides by the slug,
//! a person reads the detail. Nothing else in the edge names a status of 400 or more.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, ETAG, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use http_body_util::Full;
use serde_json::{Map, Value};

use super::Response;
use super::edge::text_or_base64;

/// What every slug is prefixed with to make the `type` of a problem.
pub const TYPE_PREFIX: &str = "https://annulus.dev/problems/";

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident $slug:literal $status:literal $title:literal;)*) => {
        /// The kinds of problems. The slugs are part of the API: they are never renamed and never reused.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Kind { $($(#[$doc])* $name,)* }

        impl Kind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            fn parts(self) -> (&'static str, u16, &'static str) {
                match self { $(Self::$name => ($slug, $status, $title),)* }
            }
        }
    };
}

kinds! {
    /// The key has no bytes.
    EmptyKey "empty-key" 400 "The key is empty";
    /// The key has too many bytes.
    KeyTooLong "key-too-long" 400 "The key is too long";
    /// A `%` is not followed by two hexadecimal digits.
    InvalidPercentEncoding "invalid-percent-encoding" 400 "The percent-encoding is invalid";
    /// A query parameter that this path does not know.
    UnknownParameter "unknown-parameter" 400 "The query parameter is unknown";
    /// A query parameter has a value that it can't have, or stands there twice.
    InvalidParameter "invalid-parameter" 400 "The query parameter is invalid";
    /// A cursor that this store did not give out for this prefix.
    InvalidCursor "invalid-cursor" 400 "The cursor is invalid";
    /// `If-Match` or `If-None-Match` says something that is not supported.
    InvalidCondition "invalid-condition" 400 "The condition is invalid";
    /// A header has a value that it can't have, or is not known.
    InvalidHeader "invalid-header" 400 "The header is invalid";
    /// The HTTP message itself is ambiguous or broken.
    MalformedRequest "malformed-request" 400 "The request is malformed";
    /// The body is not the JSON that was expected.
    InvalidJson "invalid-json" 400 "The JSON body is invalid";
    /// The name of the lock has no bytes or too many.
    InvalidLockName "invalid-lock-name" 400 "The name of the lock is invalid";
    /// The id of the transaction has other signs, or more of them, than it may.
    InvalidTxnId "invalid-txn-id" 400 "The id of the transaction is invalid";
    /// The transaction has too many operations, or too many bytes of keys and values.
    TxnTooLarge "txn-too-large" 400 "The transaction is too large";
    /// Two operations of a branch, or two conditions, name the same key.
    TxnKeyTwice "txn-key-twice" 400 "The transaction names a key twice";
    /// There is nothing at this path.
    UnknownPath "unknown-path" 404 "There is nothing here";
    /// The store has no such member.
    UnknownMember "unknown-member" 404 "There is no such member";
    /// The map of this epoch is not kept.
    UnknownEpoch "unknown-epoch" 404 "The map of this epoch is not known";
    /// The store holds no such key.
    KeyNotFound "key-not-found" 404 "The key does not exist";
    /// Nobody holds the lock.
    LockNotFound "lock-not-found" 404 "Nobody holds the lock";
    /// No partition knows of the transaction.
    TxnNotFound "txn-not-found" 404 "The transaction is not known";
    /// The path does not take this method.
    MethodNotAllowed "method-not-allowed" 405 "The method is not allowed";
    /// The body did not arrive in time.
    BodyTimeout "body-timeout" 408 "The body did not arrive in time";
    /// The idempotency key has been used for another write, or the id for another transaction.
    IdempotencyConflict "idempotency-conflict" 409 "The idempotency key was used for another write";
    /// Others were in the transaction's way until its time was over.
    TxnConflict "txn-conflict" 409 "The transaction met others";
    /// The member already belongs to a store with another first map.
    BootstrapConflict "bootstrap-conflict" 409 "The member already belongs to a store";
    /// A newer operator has spoken.
    StaleFence "stale-fence" 409 "A newer operator has taken over";
    /// The token does not hold the lock that is to be renewed or released.
    LockNotHeld "lock-not-held" 409 "The token does not hold the lock";
    /// The token that fences a write does not hold its lock, or a newer one has written.
    StaleToken "stale-token" 409 "The token that fences the write is not the newest";
    /// The map is not the one that the change was worked out from.
    MapChanged "map-changed" 409 "The map has changed meanwhile";
    /// Another change of the map is being agreed on.
    ChangeInProgress "change-in-progress" 409 "Another change is being agreed on";
    /// Fewer members would be left than a partition has copies.
    TooFewMembers "too-few-members" 409 "Too few members would be left";
    /// The member holds replicas, which would be lost with it.
    MemberHoldsReplicas "member-holds-replicas" 409 "The member holds replicas";
    /// Members that are to go may hold the newest data of partitions without a quorum.
    QuorumAtRisk "quorum-at-risk" 409 "Partitions could lose data";
    /// A node that is to become a member is not what the request says, or does not say what it is.
    MemberMismatch "member-mismatch" 409 "A member is not what it should be";
    /// The condition does not hold.
    ConditionFailed "condition-failed" 412 "The condition does not hold";
    /// The body has more bytes than are allowed.
    BodyTooLarge "body-too-large" 413 "The body is too large";
    /// The request is for another store.
    WrongCluster "wrong-cluster" 421 "This is another store";
    /// The time to live is out of range or not a duration.
    InvalidTtl "invalid-ttl" 422 "The time to live is invalid";
    /// What the transaction reads has too many bytes.
    TxnReadsTooMuch "txn-reads-too-much" 422 "The transaction reads too much";
    /// The wait for a lock is out of range.
    InvalidWait "invalid-wait" 422 "The wait is invalid";
    /// A lock has no such mode.
    InvalidLockMode "invalid-lock-mode" 422 "The mode of the lock is invalid";
    /// The owner's name has no bytes or too many.
    InvalidOwner "invalid-owner" 422 "The owner is invalid";
    /// The description has too many bytes.
    InvalidDescription "invalid-description" 422 "The description is invalid";
    /// No map can be made of what was asked.
    InvalidBootstrap "invalid-bootstrap" 422 "The store cannot be made like this";
    /// The members can't be such.
    InvalidMembers "invalid-members" 422 "The members cannot be such";
    /// Somebody else holds the lock.
    LockHeld "lock-held" 423 "Somebody else holds the lock";
    /// Too many wait for the lock, or share it.
    LockQueueFull "lock-queue-full" 429 "Too many wait for the lock already";
    /// The partition can't remember one more fence.
    TooManyFences "too-many-fences" 429 "The partition remembers too many fences already";
    /// Too much is waiting already.
    Overloaded "overloaded" 429 "Too much is waiting already";
    /// Our own bug.
    Internal "internal" 500 "The node met an error of its own";
    /// The partition has no leader that can be reached.
    NoLeader "no-leader" 503 "The partition has no leader that can be reached";
    /// A read was not answered in time.
    TimedOut "timed-out" 503 "The request was not answered in time";
    /// The store has not been bootstrapped.
    NotBootstrapped "not-bootstrapped" 503 "The store is not bootstrapped";
    /// The member is not ready.
    NotReady "not-ready" 503 "The member is not ready";
    /// No more connections are accepted.
    TooManyConnections "too-many-connections" 503 "Too many connections are open";
    /// The write may or may not have happened.
    OutcomeUnknown "outcome-unknown" 504 "It is not known whether the write happened";
    /// The disk is full.
    DiskFull "disk-full" 507 "The disk is full";
}

impl Kind {
    /// Its name in the `type` of the problem.
    pub fn slug(self) -> &'static str {
        self.parts().0
    }

    /// The status that it is answered with.
    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.parts().1).expect("the table holds valid statuses")
    }

    /// It in one sentence, the same each time.
    pub fn title(self) -> &'static str {
        self.parts().2
    }
}

/// One problem that a client is told of.
#[derive(Debug)]
pub struct Problem(Box<Inner>);

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
    pub fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            detail: detail.into(),
            fields: Map::new(),
            headers: HeaderMap::new(),
            close: false,
        }))
    }

    /// A problem that goes away by itself: `Retry-After` says in how many seconds to try again.
    pub fn temporary(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(kind, detail).header(RETRY_AFTER, HeaderValue::from_static("1"))
    }

    /// With a field of its own, for programs.
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.0.fields.insert(field.to_owned(), value.into());
        self
    }

    /// With a field of bytes: as they are if they are UTF-8, else in base64 under another name.
    pub fn with_bytes(self, field: &str, bytes: &[u8]) -> Self {
        match text_or_base64(bytes) {
            (text, None) => self.with(field, text),
            (_, base64) => self.with(&format!("{field}_base64"), base64),
        }
    }

    /// With the version that the key has now.
    pub fn current_version(self, version: u64) -> Self {
        self.with("current_version", version).header(ETAG, super::kv::etag(version))
    }

    /// With the methods that the path takes.
    pub fn allow(self, methods: &'static str) -> Self {
        self.header(ALLOW, HeaderValue::from_static(methods))
    }

    /// The connection is closed after the answer, because what follows on it can't be understood or is not wanted.
    pub fn closing(mut self) -> Self {
        self.0.close = true;
        self
    }

    /// Whether the connection is to be closed after the answer.
    pub fn closes(&self) -> bool {
        self.0.close
    }

    /// The kind of problem.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// With a header of its own.
    pub fn header(mut self, name: http::HeaderName, value: HeaderValue) -> Self {
        self.0.headers.insert(name, value);
        self
    }

    /// The JSON that the client gets.
    pub fn to_json(&self) -> Bytes {
        Bytes::from(self.to_value().to_string())
    }

    /// The same as a part of other JSON.
    pub fn to_value(&self) -> Value {
        let mut json = Map::new();
        let inner = &self.0;
        json.insert("type".to_owned(), format!("{TYPE_PREFIX}{}", inner.kind.slug()).into());
        json.insert("title".to_owned(), inner.kind.title().into());
        json.insert("status".to_owned(), inner.kind.status().as_u16().into());
        json.insert("detail".to_owned(), inner.detail.as_ref().into());
        json.extend(inner.fields.iter().map(|(name, value)| (name.clone(), value.clone())));
        Value::Object(json)
    }

    /// The answer that the client gets.
    pub fn into_response(self) -> Response {
        let body = self.to_json();
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = self.0.kind.status();
        *response.headers_mut() = self.0.headers;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_slug_is_there_once_and_every_status_is_an_error() {
        let slugs: BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.slug()).collect();
        assert_eq!(slugs.len(), Kind::ALL.len());
        assert!(Kind::ALL.iter().all(|kind| kind.status().as_u16() >= 400));
    }

    #[test]
    fn a_problem_says_its_type_its_detail_and_its_own_fields() {
        let problem = Problem::new(Kind::KeyTooLong, "the key has 5000 bytes").with("limit", 4096);
        let json: Value = serde_json::from_slice(&problem.to_json()).unwrap();
        assert_eq!(json["type"], "https://annulus.dev/problems/key-too-long");
        assert_eq!(json["status"], 400);
        assert_eq!(json["detail"], "the key has 5000 bytes");
        assert_eq!(json["limit"], 4096);
    }
}
