//! What came of a transaction.

use serde::Deserialize;

use crate::{Item, Version, text};

/// What came of a transaction that is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// Its id.
    pub id: String,
    /// Whether all conditions held: then its operations were done, else those of its `else`.
    pub committed: bool,
    /// What came of each operation of the branch, in order; `None`: it was done before under its id, and that was too long to
    /// be kept (4 KiB).
    pub results: Option<Vec<Outcome>>,
}

/// What came of one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A put: the key's new version.
    Put(Version),
    /// A delete: whether the key was there.
    Deleted(bool),
    /// A get: what was there.
    Got(Option<Item>),
}

impl Outcome {
    /// What a get has found; `None`: it is no get's.
    pub fn into_item(self) -> Option<Option<Item>> {
        match self {
            Self::Got(item) => Some(item),
            Self::Put(_) | Self::Deleted(_) => None,
        }
    }
}

#[derive(Deserialize)]
struct WireDone {
    id: String,
    committed: bool,
    results: Option<Vec<WireOutcome>>,
}

#[derive(Deserialize)]
pub(super) struct WireOutcome {
    deleted: Option<bool>,
    version: Option<u64>,
    value: Option<String>,
    value_base64: Option<String>,
}

impl Done {
    pub(super) fn read(body: &[u8]) -> Result<Self, String> {
        let wire: WireDone =
            serde_json::from_slice(body).map_err(|error| format!("not what came of a transaction: {error}"))?;
        Ok(Self { id: wire.id, committed: wire.committed, results: wire.results.map(read_all).transpose()? })
    }
}

pub(super) fn read_all(wire: Vec<WireOutcome>) -> Result<Vec<Outcome>, String> {
    wire.into_iter().map(Outcome::try_from).collect()
}

impl TryFrom<WireOutcome> for Outcome {
    type Error = String;

    fn try_from(wire: WireOutcome) -> Result<Self, String> {
        let WireOutcome { deleted, version, value, value_base64 } = wire;
        let has_value = value.is_some() || value_base64.is_some();
        match (deleted, version.map(Version)) {
            (Some(deleted), None) if !has_value => Ok(Self::Deleted(deleted)),
            (None, None) if !has_value => Ok(Self::Got(None)),
            (None, Some(version)) if !has_value => Ok(Self::Put(version)),
            (None, Some(version)) => {
                let value = text::read(value, value_base64).ok_or("a value is not what it says")?;
                Ok(Self::Got(Some(Item { value: value.into(), version })))
            }
            _ => Err("a result that is none of a put, a delete or a get".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_told_apart_with_and_without_their_keys() {
        let body = br#"{"id":"a","committed":true,"results":[{"version":9},{"deleted":false},
            {"key":"a","version":null,"value":null},{"key":"a","version":5,"value":""},{"version":6,"value_base64":"/w=="}]}"#;
        let done = Done::read(body).unwrap();
        let item =
            |value: &'static [u8], version| Outcome::Got(Some(Item { value: value.into(), version: Version(version) }));
        let expected =
            [Outcome::Put(Version(9)), Outcome::Deleted(false), Outcome::Got(None), item(b"", 5), item(b"\xff", 6)];
        assert_eq!((done.committed, done.results.as_deref()), (true, Some(&expected[..])));
        let kept_not = Done::read(br#"{"id":"a","committed":false,"results":null}"#).unwrap();
        assert_eq!((kept_not.committed, kept_not.results), (false, None));
        for wrong in ["", "{}", r#"{"id":"a","committed":true,"results":[{"deleted":true,"version":1}]}"#] {
            assert!(Done::read(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
