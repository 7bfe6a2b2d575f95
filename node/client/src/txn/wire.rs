//! A transaction as it stands in JSON. Which fields go together is for the store to say; here each stands once, under a name
//! that we know.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::text::{self, BytesAsText};

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<String>,
    #[serde(default, rename = "if", skip_serializing_if = "Vec::is_empty")]
    pub(super) conditions: Vec<Wanted>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) then: Vec<Step>,
    #[serde(default, rename = "else", skip_serializing_if = "Vec::is_empty")]
    pub(super) otherwise: Vec<Step>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) exists: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) value_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lock: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lock_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) token: Option<u64>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Step {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) put: Option<Put>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) delete: Option<Named>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) get: Option<Named>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Put {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_ms: Option<u64>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Named {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
}

/// An operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// What it does.
    pub verb: Verb,
    /// To which key.
    pub key: Bytes,
}

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// It puts a value.
    Put,
    /// It deletes the key.
    Delete,
    /// It reads the key.
    Get,
}

/// The two fields in which bytes may stand.
pub(super) fn pair(bytes: &[u8]) -> (Option<String>, Option<String>) {
    let BytesAsText { base64, text } = BytesAsText::new(bytes);
    if base64 { (None, Some(text)) } else { (Some(text), None) }
}

fn bytes(text: Option<&String>, base64: Option<&String>) -> Option<Bytes> {
    text::read(text.cloned(), base64.cloned()).map(Bytes::from)
}

impl Put {
    pub(super) fn new(key: &[u8], value: &[u8], ttl_ms: Option<u64>) -> Self {
        let ((key, key_base64), (value, value_base64)) = (pair(key), pair(value));
        Self { key, key_base64, value, value_base64, ttl_ms }
    }
}

impl Named {
    pub(super) fn new(key: &[u8]) -> Self {
        let (key, key_base64) = pair(key);
        Self { key, key_base64 }
    }
}

impl Step {
    /// What it does, if it is one that the store takes.
    pub(super) fn operation(&self) -> Option<Operation> {
        let (verb, key, key_base64) = match (&self.put, &self.delete, &self.get) {
            (Some(put), None, None) => (Verb::Put, &put.key, &put.key_base64),
            (None, Some(named), None) => (Verb::Delete, &named.key, &named.key_base64),
            (None, None, Some(named)) => (Verb::Get, &named.key, &named.key_base64),
            _ => return None,
        };
        Some(Operation { verb, key: bytes(key.as_ref(), key_base64.as_ref())? })
    }
}

impl Wanted {
    /// Where it lies: by its key, or its lock.
    fn key(&self) -> Option<Bytes> {
        let key = bytes(self.key.as_ref(), self.key_base64.as_ref());
        key.or_else(|| bytes(self.lock.as_ref(), self.lock_base64.as_ref()))
    }
}

impl Body {
    /// The first key that it names, or the first lock if it names no key.
    pub(super) fn first_key(&self) -> Option<Bytes> {
        let of = |steps: &[Step]| steps.first().and_then(Step::operation).map(|operation| operation.key);
        of(&self.then).or_else(|| self.conditions.first()?.key()).or_else(|| of(&self.otherwise))
    }

    /// How many conditions and operations it has.
    pub(super) fn count(&self) -> usize {
        self.conditions.len() + self.then.len() + self.otherwise.len()
    }
}
