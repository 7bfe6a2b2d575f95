//! What a write carries to say under which lock it is done.

use std::fmt;
use std::str::FromStr;

use annulus_core::partition::lock::Name;
use bytes::Bytes;
use percent_encoding::{percent_decode_str, percent_encode};

use super::Lock;
use crate::client::SEGMENT;

/// A lock's name and a token of it, carried by a write (see [`PutOptions::fence`](crate::PutOptions::fence)).
///
/// However late it comes, such a write changes nothing once one with a newer token was in the key's partition: a holder
/// that was replaced does not write over its successor. It also changes nothing if the token does not hold the lock; but a
/// member that has seen it hold believes so for a while (10 s), as long as no newer token has come.
///
/// As text: the name, percent-encoded, `=`, and the token (`jobs%2Fnightly=42`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Fence {
    name: Name,
    token: u64,
}

/// A text that should have been a fence and is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not NAME=TOKEN, such as jobs%2Fnightly=42 (a name of 1 to 512 bytes, percent-encoded, and a number)")]
pub struct ParseFenceError(String);

impl Fence {
    pub(crate) fn new(name: Name, token: u64) -> Self {
        Self { name, token }
    }

    /// The lock's name.
    pub fn name(&self) -> &Bytes {
        self.name.bytes()
    }

    /// The token.
    pub fn token(&self) -> u64 {
        self.token
    }
}

impl From<&Lock> for Fence {
    fn from(lock: &Lock) -> Self {
        lock.fence()
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", percent_encode(self.name(), SEGMENT), self.token)
    }
}

impl FromStr for Fence {
    type Err = ParseFenceError;

    /// Reads what `Display` writes, and a name that was not encoded if it has no `%`.
    fn from_str(text: &str) -> Result<Self, ParseFenceError> {
        let error = || ParseFenceError(text.to_owned());
        let (name, token) = text.rsplit_once('=').ok_or_else(error)?;
        let name = Name::new(Bytes::from(percent_decode_str(name).collect::<Vec<u8>>())).map_err(|_| error())?;
        if !token.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(error());
        }
        token.parse().map(|token| Self { name, token }).map_err(|_| error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_is_read_as_it_is_written_whatever_bytes_its_lock_has() {
        for (name, written) in
            [("jobs/nightly", "jobs%2Fnightly=7"), ("a=b, c", "a%3Db%2C%20c=7"), ("100%", "100%25=7")]
        {
            let fence = Fence::new(Name::new(name.into()).unwrap(), 7);
            assert_eq!((fence.to_string().as_str(), written.parse().as_ref()), (written, Ok(&fence)));
        }
        let plain: Fence = "jobs/nightly=7".parse().unwrap();
        assert_eq!((&plain.name()[..], plain.token()), (&b"jobs/nightly"[..], 7));
        for text in ["", "a", "=7", "a=", "a=-1", "a=+1", "a=7 ", "a=18446744073709551616", &format!("{:513}=1", "a")] {
            assert!(text.parse::<Fence>().is_err(), "{text}");
        }
    }
}
