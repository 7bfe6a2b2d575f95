//! What can be asked for beside a key and a value, and what comes back.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use annulus_core::partition::Consistency;
use bytes::Bytes;

use crate::lock::Fence;

/// The version of a key's value: rises with every write to the key, across moves and restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A text that should have been a version and is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a version (a whole number, such as 42)")]
pub struct ParseVersionError(String);

impl FromStr for Version {
    type Err = ParseVersionError;

    /// Reads `42` and, as an ETag has it, `"42"`.
    fn from_str(text: &str) -> Result<Self, ParseVersionError> {
        let error = || ParseVersionError(text.to_owned());
        let digits = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(error());
        }
        digits.parse().map(Self).map_err(|_| error())
    }
}

/// What must hold of the key for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Condition {
    /// Nothing.
    #[default]
    Always,
    /// The key is there.
    Exists,
    /// The key is not there.
    Absent,
    /// The key is there with exactly this version.
    Version(Version),
}

/// How to put.
///
/// A put whose fate is unknown (the connection broke, the leader was lost) is repeated only when that cannot write
/// twice: under an idempotency key, or with [`Condition::Version`], because a version never comes back.
/// [`Condition::Absent`] is not enough: somebody may delete the key between the two. And when a repeated
/// `Condition::Version` finds another version, that may be the first attempt's own: the answer is then
/// [`OutcomeUnknown`](crate::Error::OutcomeUnknown), not `ConditionFailed`.
#[derive(Debug, Clone, Default)]
pub struct PutOptions {
    /// The key goes away by itself after this long (from 1 ms to 10 years); `None`: it stays.
    pub ttl: Option<Duration>,
    /// What must hold of the key.
    pub condition: Condition,
    /// A name for this write, 1 to 255 visible ASCII characters: the same write under the same name happens once.
    pub idempotency_key: Option<String>,
    /// The lock under which it is done ([`Lock::fence`](crate::lock::Lock::fence)): nothing happens if a write under a newer
    /// token was there, or the token does not hold the lock (see [`Fence`]).
    pub fence: Option<Fence>,
    /// How long the call may take, retries included; `None`: the client's own.
    pub deadline: Option<Duration>,
}

/// How to delete. When a delete is repeated: as with [`PutOptions`].
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// What must hold of the key.
    pub condition: Condition,
    /// A name for this write, 1 to 255 visible ASCII characters: the same write under the same name happens once.
    pub idempotency_key: Option<String>,
    /// The lock under which it is done, as with [`PutOptions::fence`].
    pub fence: Option<Fence>,
    /// How long the call may take, retries included; `None`: the client's own.
    pub deadline: Option<Duration>,
}

/// How to get.
#[derive(Debug, Clone, Default)]
pub struct GetOptions {
    /// Who may answer; `None`: linearizable.
    pub consistency: Option<Consistency>,
    /// How long the call may take, retries included; `None`: the client's own.
    pub deadline: Option<Duration>,
}

/// What came of a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The key's new version.
    pub version: Version,
    /// Whether the key was absent before.
    pub created: bool,
}

/// A key's value as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The value.
    pub value: Bytes,
    /// Its version.
    pub version: Version,
}

/// In milliseconds, rounded up.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// A duration as the query has it: whole seconds as `30s`, anything else in milliseconds, rounded up so that the key whose
/// time to live it is never goes earlier than asked.
pub(crate) fn ttl_text(ttl: Duration) -> String {
    let ms = millis(ttl);
    if ms > 0 && ms.is_multiple_of(1000) { format!("{}s", ms / 1000) } else { format!("{ms}ms") }
}

/// The name of a consistency in a query.
pub(crate) fn consistency_text(consistency: Consistency) -> &'static str {
    match consistency {
        Consistency::Linearizable => "linearizable",
        Consistency::Quorum => "quorum",
        Consistency::Stale => "stale",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_a_number_and_from_an_etag() {
        assert_eq!("42".parse(), Ok(Version(42)));
        assert_eq!("\"42\"".parse(), Ok(Version(42)));
        for text in ["", "\"\"", "+1", "W/\"1\"", "-1", "1 ", "18446744073709551616"] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_time_to_live_is_never_shortened() {
        assert_eq!(ttl_text(Duration::from_secs(30)), "30s");
        assert_eq!(ttl_text(Duration::from_millis(1500)), "1500ms");
        assert_eq!(ttl_text(Duration::from_micros(1)), "1ms");
        assert_eq!(ttl_text(Duration::ZERO), "0ms");
    }
}
