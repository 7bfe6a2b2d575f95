//! The names of things: clusters, members, groups, partitions, requests. Parsed once, compared cheaply.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use crate::bugs::{Bug, planted};

/// A text that should have been an id and is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {what}")]
pub struct ParseError {
    text: String,
    what: &'static str,
}

/// Identity of one store, 16 bytes, written as a UUID. Two clusters never talk to each other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterId(pub [u8; 16]);

/// Identity of one member: a node process together with its volume. Written as 16 hexadecimal digits. It is also the
/// member's Raft peer id, so a volume that lost its state must come back under a new one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId(pub NonZeroU64);

/// A Raft group: 0 is the map group, partition `p` is group `p + 1`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(pub u32);

/// A fixed arc of the hash ring, counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartitionId(pub u32);

/// Names one request between a lane and its shell. Unique among the requests that the lane has not answered yet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct RequestId(pub u64);

impl MemberId {
    /// The id with this number; `None` for 0, which Raft reserves for "nobody".
    pub fn new(number: u64) -> Option<Self> {
        NonZeroU64::new(number).map(Self)
    }

    /// The number that Raft knows this member by.
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl GroupId {
    /// The group that replicates the map.
    pub const MAP: Self = Self(0);

    /// The partition that this group replicates; `None` for the map group.
    pub fn partition(self) -> Option<PartitionId> {
        self.0.checked_sub(1).map(PartitionId)
    }
}

impl PartitionId {
    /// The Raft group that replicates this partition.
    pub fn group(self) -> GroupId {
        GroupId(self.0 + 1)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl FromStr for ClusterId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError { text: text.to_owned(), what: "a cluster id (a UUID such as 0b7a…-…)" };
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        if digits.len() != 32 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(error());
        }
        let number = u128::from_str_radix(&digits, 16).map_err(|_| error())?;
        Ok(Self(number.to_be_bytes()))
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.get())
    }
}

impl FromStr for MemberId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError { text: text.to_owned(), what: "a member id (16 hexadecimal digits, not all 0)" };
        if text.len() != 16 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(error());
        }
        u64::from_str_radix(text, 16).ok().and_then(Self::new).ok_or_else(error)
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.partition() {
            None => f.write_str("map"),
            Some(partition) => write!(f, "{partition}"),
        }
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}", self.0)
    }
}

macro_rules! debug_as_display {
    ($($name:ty),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}
debug_as_display!(ClusterId, MemberId, GroupId, PartitionId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_back_as_they_are_written() {
        let cluster = ClusterId(*b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\xff");
        assert_eq!(cluster.to_string(), "00010203-0405-0607-0809-0a0b0c0d0eff");
        assert_eq!(cluster.to_string().parse(), Ok(cluster));
        let member = MemberId::new(0xabc).unwrap();
        assert_eq!(member.to_string(), "0000000000000abc");
        assert_eq!(member.to_string().parse(), Ok(member));
    }

    #[test]
    fn a_member_id_is_never_zero_or_short_or_signed() {
        for text in ["0000000000000000", "abc", "+00000000000000a", ""] {
            assert!(text.parse::<MemberId>().is_err(), "{text}");
        }
    }
}

/// A member's name for a request that it has sent on to another, by which it knows the answer. Members die and come back, and
/// answers to what they had asked before may come then: a number alone would name another request by that time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ticket {
    /// Which of the member's processes has sent it on: a random number of its own.
    pub life: u64,
    /// That process's number for it.
    pub number: u64,
}

impl Ticket {
    /// The number, if it is of this process.
    pub fn number_in(&self, life: u64) -> Option<u64> {
        (self.life == life || planted(Bug::AnswerOfEarlierLife)).then_some(self.number)
    }
}
