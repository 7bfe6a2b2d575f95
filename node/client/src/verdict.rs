//! What the end of one attempt means for the call. A pure function: this is where "retry only what is safe" lives.
//!
//! | the attempt ended with | a read | a write |
//! | --- | --- | --- |
//! | 2xx, 3xx, 4xx (but these) | answered | answered |
//! | 429, 503 | wait | wait: nothing was changed |
//! | 421 `wrong-cluster` | elsewhere: this is another store | elsewhere: nothing was changed |
//! | 507 | answered | answered: nothing was changed, and waiting a moment will not free the disk |
//! | 409 `txn-conflict` | wait | wait: others were in the transaction's way, and nothing was changed |
//! | no connection | elsewhere | elsewhere: nothing was sent |
//! | 504, other 5xx, broken connection, no answer in time | elsewhere | unknown |

use std::time::Duration;

use http::StatusCode;

use crate::transport::{Answer, Failure};

/// What a call does, as far as repeating it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Safety {
    /// Changes nothing: repeat at will.
    Read,
    /// Can't happen twice, because its condition names a version, which never comes back. But a repetition can't tell
    /// its own first attempt from somebody else's write.
    Guarded,
    /// The store remembers it by its idempotency key: a repetition is answered like the first.
    Named,
    /// Comes to the same however often it is done, as a renewal or a release of a token: the last answer says what is so.
    Idempotent,
    /// The store does it once under its id, however often it is asked. But whoever was asked first may still be at it: what
    /// another one refuses may be done yet.
    Transaction,
    /// May happen twice when repeated.
    Once,
}

impl Safety {
    /// Whether it may be sent again when it may have happened already.
    pub(crate) fn repeatable(self) -> bool {
        self != Self::Once
    }
}

/// Why a node does not do it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// There is nobody to do it.
    Away,
    /// It has too much to do.
    Overloaded,
    /// Others are in a transaction's way.
    Conflict,
}

/// What to do next.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// This is the answer.
    Answered(Answer),
    /// Nothing was changed; ask another member.
    Elsewhere(String),
    /// Nothing was changed; ask again later, at the earliest after what the node said.
    Later {
        /// What the node answered.
        reason: String,
        /// How long it asks to be left alone.
        after: Option<Duration>,
        /// Why it does not do it now.
        trouble: Trouble,
        /// What it answered, word for word.
        answer: Answer,
    },
    /// It may have happened.
    Unknown(String),
}

/// Judges how an attempt ended.
pub(crate) fn judge(safety: Safety, ended: Result<Answer, Failure>) -> Verdict {
    let doubtful = |reason| if safety == Safety::Read { Verdict::Elsewhere(reason) } else { Verdict::Unknown(reason) };
    let answer = match ended {
        Err(failure @ Failure::Connect(_)) => return Verdict::Elsewhere(failure.to_string()),
        Err(failure @ Failure::Broken(_)) => return doubtful(failure.to_string()),
        Ok(answer) => answer,
    };
    let later = |trouble, answer: Answer| {
        let (reason, after) = (answer.problem().to_string(), answer.retry_after());
        Verdict::Later { reason, after, trouble, answer }
    };
    match answer.status {
        StatusCode::TOO_MANY_REQUESTS => later(Trouble::Overloaded, answer),
        StatusCode::SERVICE_UNAVAILABLE => later(Trouble::Away, answer),
        StatusCode::CONFLICT if answer.problem().kind() == "txn-conflict" => later(Trouble::Conflict, answer),
        StatusCode::INSUFFICIENT_STORAGE => Verdict::Answered(answer),
        StatusCode::MISDIRECTED_REQUEST => Verdict::Elsewhere(answer.problem().to_string()),
        status if status.is_server_error() => doubtful(answer.problem().to_string()),
        _ => Verdict::Answered(answer),
    }
}

/// What the last answer says of a call of which an earlier attempt may have happened.
pub(crate) fn settles(safety: Safety, status: StatusCode) -> bool {
    let remembered = [StatusCode::NOT_FOUND, StatusCode::CONFLICT, StatusCode::PRECONDITION_FAILED];
    match safety {
        Safety::Read => true,
        // The store remembers what came of the first attempt, and would have answered that; or it makes no difference.
        Safety::Named | Safety::Idempotent => status.is_success() || remembered.contains(&status),
        // A condition that no longer holds may have been ended by the first attempt itself.
        Safety::Guarded | Safety::Transaction | Safety::Once => status.is_success(),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderMap;
    use tokio::time::Instant;

    use super::*;

    const ALL: [Safety; 6] =
        [Safety::Read, Safety::Guarded, Safety::Named, Safety::Idempotent, Safety::Transaction, Safety::Once];

    fn verdict(safety: Safety, status: u16) -> &'static str {
        let status = StatusCode::from_u16(status).unwrap();
        ended_with(safety, status, "")
    }

    fn ended_with(safety: Safety, status: StatusCode, body: &'static str) -> &'static str {
        let (headers, body) = (HeaderMap::new(), Bytes::from_static(body.as_bytes()));
        name(&judge(safety, Ok(Answer { status, headers, body, lack: None, sent: Instant::now(), doubted: false })))
    }

    fn name(verdict: &Verdict) -> &'static str {
        match verdict {
            Verdict::Answered(_) => "answered",
            Verdict::Elsewhere(_) => "elsewhere",
            Verdict::Later { trouble: Trouble::Away, .. } => "later",
            Verdict::Later { trouble: Trouble::Overloaded, .. } => "overloaded",
            Verdict::Later { trouble: Trouble::Conflict, .. } => "conflict",
            Verdict::Unknown(_) => "unknown",
        }
    }

    #[test]
    fn every_status_class_is_judged_the_same_whatever_is_asked_but_for_the_doubtful_ones() {
        for safety in ALL {
            for status in [200, 201, 204, 304, 400, 403, 404, 409, 412, 413, 422, 423, 507] {
                assert_eq!(verdict(safety, status), "answered", "{safety:?} {status}");
            }
            assert_eq!(verdict(safety, 429), "overloaded");
            assert_eq!(verdict(safety, 503), "later");
            let doubtful = if safety == Safety::Read { "elsewhere" } else { "unknown" };
            for status in [500, 502, 504, 599] {
                assert_eq!(verdict(safety, status), doubtful, "{safety:?} {status}");
            }
        }
    }

    #[test]
    fn a_conflict_is_waited_for_only_if_it_is_that_of_a_transaction() {
        for safety in ALL {
            let judged = |body| ended_with(safety, StatusCode::CONFLICT, body);
            assert_eq!(judged(r#"{"type":"https://annulus.dev/problems/txn-conflict"}"#), "conflict");
            assert_eq!(judged(r#"{"type":"https://annulus.dev/problems/idempotency-conflict"}"#), "answered");
        }
    }

    #[test]
    fn what_was_never_sent_may_go_elsewhere_and_what_may_have_been_sent_is_unknown() {
        for safety in ALL {
            assert_eq!(name(&judge(safety, Err(Failure::Connect(String::new())))), "elsewhere");
        }
        assert_eq!(name(&judge(Safety::Read, Err(Failure::Broken(String::new())))), "elsewhere");
        for safety in ALL.into_iter().filter(|safety| *safety != Safety::Read) {
            assert_eq!(name(&judge(safety, Err(Failure::Broken(String::new())))), "unknown");
        }
    }

    #[test]
    fn after_a_doubtful_attempt_only_what_comes_to_the_same_trusts_a_refusal() {
        for (safety, refusal, success) in [
            (Safety::Named, true, true),
            (Safety::Idempotent, true, true),
            (Safety::Guarded, false, true),
            (Safety::Transaction, false, true),
            (Safety::Read, true, true),
        ] {
            assert_eq!(settles(safety, StatusCode::PRECONDITION_FAILED), refusal, "{safety:?}");
            assert_eq!(settles(safety, StatusCode::NOT_FOUND), refusal, "{safety:?}");
            assert_eq!(settles(safety, StatusCode::CREATED), success, "{safety:?}");
        }
    }
}
