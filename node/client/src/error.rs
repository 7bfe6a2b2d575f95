//! How a call can end badly. The one distinction that matters most: whether a write may have happened.

use std::fmt;

use annulus_core::id::ClusterId;
use annulus_core::partition::KeyError;
use serde::Deserialize;

use crate::Version;
use crate::lock::Held;

/// What a call ends with.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call did not end well. Only [`OutcomeUnknown`](Error::OutcomeUnknown) leaves open whether a write happened; with
/// every other one nothing was changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The key can't be one. Nothing was sent.
    #[error(transparent)]
    InvalidKey(#[from] KeyError),
    /// An endpoint or an option can't be what it is. Nothing was sent.
    #[error("{what} `{value}`: {reason}")]
    InvalidOption {
        /// Which option.
        what: &'static str,
        /// What was given.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The endpoints do not all belong to one store.
    #[error("{} belongs to cluster {}, but {} to cluster {}: give the endpoints of one store only",
        first.0, first.1, second.0, second.1)]
    TwoClusters {
        /// An endpoint and its cluster.
        first: Box<(String, ClusterId)>,
        /// Another one, of another cluster.
        second: Box<(String, ClusterId)>,
    },
    /// The key was not as the write's condition wants it.
    #[error("the condition does not hold: {}", current_text(*.current))]
    ConditionFailed {
        /// The version of the key now; `None`: there is no such key, or the store did not say.
        current: Option<Version>,
    },
    /// What was asked is at odds with what is: the idempotency key was used for another write before, or the id for another
    /// transaction, or the members were changed meanwhile.
    #[error("conflict: {0}")]
    Conflict(Box<Problem>),
    /// Others were in the transaction's way, within the deadline and the attempts allowed.
    #[error("the transaction met others ({attempts} tried): {reason}", attempts = attempts_text(*.attempts))]
    TxnConflict {
        /// How the last attempt ended.
        reason: String,
        /// How many requests were sent.
        attempts: u32,
    },
    /// The lock is not to be had: others hold it, or wait for it, and the wait, if there was one, is over.
    #[error("the lock is {0}")]
    LockHeld(Box<Held>),
    /// The lock was not held any more by the one who wanted to keep it or to give it up.
    #[error("the lock is not held any more: {0}")]
    LockNotHeld(Box<Problem>),
    /// The write's fence is no longer good: its token does not hold the lock any more, or a newer holder was there.
    #[error("stale token: {0}")]
    StaleToken(Box<Problem>),
    /// The store will not do this however often it is asked.
    #[error("refused: {0}")]
    Refused(Box<Problem>),
    /// The store could not do it now, within the deadline and the attempts allowed.
    #[error("not available ({attempts} tried): {reason}", attempts = attempts_text(*.attempts))]
    Unavailable {
        /// How the last attempt ended.
        reason: String,
        /// Whether the store said that it is overloaded (429) or full (507), rather than that it can't be reached.
        overloaded: bool,
        /// How many requests were sent.
        attempts: u32,
    },
    /// The write may have happened, may still happen, or may never happen. Read the key to find out, or send the write
    /// again under the same idempotency key if it had one. A change of the members: look at the plan, or send it again. A lock
    /// that was asked for: it may be held for its whole lease, unless it is asked for again under the same idempotency key. A
    /// transaction: [`Client::txn_fate`](crate::Client::txn_fate) tells, or send it again under the same id.
    #[error("outcome unknown: {reason}")]
    OutcomeUnknown {
        /// How the attempt ended whose fate is unknown.
        reason: String,
    },
    /// The answer is not one that an Annulus node gives.
    #[error("an answer that no Annulus node gives: {reason}")]
    UnexpectedAnswer {
        /// What is wrong with the answer.
        reason: String,
    },
    /// The answer has more bytes than are read.
    #[error("the answer has more than {limit} bytes, the most that are read here; ask for less at once")]
    AnswerTooLong {
        /// The most that are read.
        limit: usize,
    },
}

impl Error {
    /// A stable name for the kind of error, for counting and for machines.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::InvalidKey(_) => "invalid-key",
            Self::InvalidOption { .. } => "invalid-option",
            Self::TwoClusters { .. } => "two-clusters",
            Self::ConditionFailed { .. } => "condition-failed",
            Self::Conflict(_) => "conflict",
            Self::TxnConflict { .. } => "txn-conflict",
            Self::LockHeld(_) => "lock-held",
            Self::LockNotHeld(_) => "lock-not-held",
            Self::StaleToken(_) => "stale-token",
            Self::Refused(_) => "refused",
            Self::Unavailable { overloaded: true, .. } => "overloaded",
            Self::Unavailable { overloaded: false, .. } => "unavailable",
            Self::OutcomeUnknown { .. } => "outcome-unknown",
            Self::UnexpectedAnswer { .. } => "unexpected-answer",
            Self::AnswerTooLong { .. } => "answer-too-long",
        }
    }
}

fn current_text(current: Option<Version>) -> String {
    current.map_or_else(|| "there is no such key".to_owned(), |version| format!("the key has version {version}"))
}

fn attempts_text(attempts: u32) -> String {
    if attempts == 1 { "1 request".to_owned() } else { format!("{attempts} requests") }
}

/// An error as the store tells it (`application/problem+json`, RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Problem {
    /// What kind of problem: a stable URI, told apart by its last segment (see [`Problem::kind`]).
    pub r#type: String,
    /// The kind in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// This very occurrence in words: names the limit or field that was wrong.
    pub detail: String,
    /// What it tells beside, such as `partitions` or `current`.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

impl Problem {
    /// The problem that an answer tells; what is no problem+json (a proxy's page, say) is quoted in short.
    pub(crate) fn read(status: u16, body: &[u8]) -> Self {
        match serde_json::from_slice::<Self>(body) {
            Ok(problem) => Self { status, ..problem },
            Err(_) => {
                let text: String = String::from_utf8_lossy(body).trim().chars().take(200).collect();
                Self { status, detail: text, ..Self::default() }
            }
        }
    }

    /// The last segment of the type: `outcome-unknown` of `https://annulus.dev/problems/outcome-unknown`.
    pub fn kind(&self) -> &str {
        self.r#type.rsplit(['/', ':', '#']).next().unwrap_or_default()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = if self.detail.is_empty() { &self.title } else { &self.detail };
        match (words.is_empty(), self.kind()) {
            (true, "") => write!(f, "HTTP status {}", self.status),
            (true, kind) => write!(f, "{kind} (HTTP status {})", self.status),
            (false, _) => write!(f, "{words} (HTTP status {})", self.status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_told_apart_by_the_last_segment_of_its_type() {
        for text in ["https://annulus.dev/problems/outcome-unknown", "outcome-unknown", "urn:annulus:outcome-unknown"] {
            let problem = Problem { r#type: text.into(), ..Problem::default() };
            assert_eq!(problem.kind(), "outcome-unknown");
        }
    }

    #[test]
    fn a_page_that_is_no_problem_is_quoted_in_short() {
        let problem = Problem::read(502, format!("<html>{}", "x".repeat(5000)).as_bytes());
        assert_eq!((problem.status, problem.detail.chars().count()), (502, 200));
    }
}
