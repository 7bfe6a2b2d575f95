//! The body of `POST /v1/txn`: its id, its first key, and whether it only reads. What it does is for the store to read.

use std::fmt;

use annulus_core::partition::txn::MAX_OPERATIONS;
use bytes::{BufMut, Bytes, BytesMut};
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::text;

#[derive(Deserialize)]
struct Wire {
    id: Option<String>,
    #[serde(default, rename = "if", deserialize_with = "few")]
    conditions: Vec<Named>,
    #[serde(default, deserialize_with = "few")]
    then: Vec<Step>,
    #[serde(default, rename = "else", deserialize_with = "few")]
    otherwise: Vec<Step>,
}

#[derive(Deserialize)]
struct Named {
    key: Option<String>,
    key_base64: Option<String>,
}

#[derive(Deserialize)]
struct Step {
    put: Option<Named>,
    delete: Option<Named>,
    get: Option<Named>,
}

/// A list of which no more is kept than a transaction may have, and one: a body of many small things takes no more memory than
/// one that is allowed, and is refused by the store.
fn few<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    struct Few<T>(Vec<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Few<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Vec<T>, A::Error> {
            while let Some(item) = seq.next_element()? {
                if self.0.len() <= MAX_OPERATIONS {
                    self.0.push(item);
                }
            }
            Ok(self.0)
        }
    }
    from.deserialize_seq(Few(Vec::new()))
}

/// A transaction, as far as it matters on its way.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Txn {
    /// What is sent.
    pub(super) body: Bytes,
    /// Under which the store does it once; `None`: it only reads, and nothing is remembered of it.
    pub(super) id: Option<String>,
    /// One of its keys, whose leader is asked.
    pub(super) key: Option<Bytes>,
}

impl Txn {
    /// Reads a transaction, and gives it the id `made_up` if it has none and does not only read. `None`: it is not one, and
    /// the store will say why.
    pub(super) fn read(body: Bytes, made_up: impl FnOnce() -> String) -> Option<Self> {
        let wire: Wire = serde_json::from_slice(&body).ok()?;
        // A field that stands there without a value is for the store to judge.
        let steps = || wire.then.iter().chain(&wire.otherwise);
        let named = |step: &Step| [&step.put, &step.delete, &step.get].into_iter().flatten().find_map(Named::bytes);
        let key = wire.conditions.iter().find_map(Named::bytes).or_else(|| steps().find_map(named));
        let only_reads = wire.conditions.is_empty()
            && wire.otherwise.is_empty()
            && wire.then.iter().all(|step| step.get.is_some() && step.put.is_none() && step.delete.is_none());
        let is_empty = steps().next().is_none() && wire.conditions.is_empty();
        match wire.id {
            Some(id) => Some(Self { body, id: Some(id), key }),
            None if only_reads && !is_empty => Some(Self { body, id: None, key }),
            None if is_empty || names_its_id(&body) => None,
            None => {
                let id = made_up();
                Some(Self { body: with_id(&body, &id)?, id: Some(id), key })
            }
        }
    }
}

/// Whether it has an `id` that is `null`.
fn names_its_id(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Id {
        #[serde(default, deserialize_with = "there")]
        id: bool,
    }
    fn there<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
        IgnoredAny::deserialize(from).map(|_| true)
    }
    serde_json::from_slice::<Id>(body).is_ok_and(|id| id.id)
}

/// The same object with one field more, the first. There are others.
fn with_id(body: &[u8], id: &str) -> Option<Bytes> {
    let brace = body.iter().position(|byte| *byte == b'{')?;
    let (before, after) = body.split_at(brace + 1);
    let mut written = BytesMut::with_capacity(body.len() + id.len() + 10);
    written.put_slice(before);
    written.put_slice(format!(r#""id":"{id}","#).as_bytes());
    written.put_slice(after);
    Some(written.freeze())
}

impl Named {
    fn bytes(&self) -> Option<Bytes> {
        text::read(self.key.clone(), self.key_base64.clone()).map(Bytes::from)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(body: &str) -> Option<Txn> {
        Txn::read(Bytes::copy_from_slice(body.as_bytes()), || "txn-1".to_owned())
    }

    #[test]
    fn a_transaction_without_an_id_gets_one_and_is_otherwise_as_it_was() {
        let body =
            r#" { "if": [{"lock": "l", "token": 1}], "then": [{"put": {"key_base64": "/w==", "value": "}{"}}]} "#;
        let txn = read(body).unwrap();
        let mut expected: Value = serde_json::from_str(body).unwrap();
        expected["id"] = json!("txn-1");
        assert_eq!(serde_json::from_slice::<Value>(&txn.body).unwrap(), expected);
        assert_eq!((txn.id.as_deref(), txn.key.as_deref()), (Some("txn-1"), Some(&b"\xff"[..])));
    }

    #[test]
    fn one_with_an_id_and_one_that_only_reads_stay_as_they_are() {
        for (body, id, key) in [
            (r#"{"id":"a","then":[{"get":{"key":"k"}}]}"#, Some("a"), "k"),
            (r#"{"then":[{"get":{"key":"k"}},{"get":{"key":"l"}}]}"#, None, "k"),
            (r#"{"id":"a","if":[{"key":"c","exists":true}],"then":[{"delete":{"key":"k"}}]}"#, Some("a"), "c"),
        ] {
            let txn = read(body).unwrap();
            assert_eq!((&txn.body[..], txn.id.as_deref()), (body.as_bytes(), id));
            assert_eq!(txn.key.as_deref(), Some(key.as_bytes()));
        }
        for body in
            [r#"{"then":[{"get":{"key":"k"}}],"else":[{"get":{"key":"k"}}]}"#, r#"{"else":[{"delete":{"key":"k"}}]}"#]
        {
            assert_eq!(read(body).unwrap().id.as_deref(), Some("txn-1"), "{body}");
        }
    }

    #[test]
    fn what_is_no_transaction_is_left_to_the_store() {
        for body in [
            "",
            "[]",
            "{",
            "{}",
            r#"{"then":[]}"#,
            r#"{"then":7}"#,
            r#"{"id":7,"then":[]}"#,
            r#"{"id":null,"then":[{"put":{"key":"a","value":""}}]}"#,
        ] {
            assert_eq!(read(body), None, "{body}");
        }
    }
}
