//! The body of `POST /v1/txn`, read into a transaction that can't be wrong.
//!
//! What is refused is named with its place, such as `then[2]` or `if[0].key`.

use std::collections::BTreeMap;
use std::fmt;

use annulus_core::partition::txn::{
    Action, Check, Condition, LockHeld, MAX_BYTES, MAX_NAME_BYTES, MAX_OPERATIONS, Name,
};
use annulus_core::partition::{Key, KeyError, MAX_KEY_BYTES, MAX_TTL_MS, lock};
use annulus_core::txn::{Invalid, Transaction};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use rand::RngExt;
use serde::Deserialize;
use serde_json::Number;

use super::admin::from_json;
use super::few::Few;
use super::lock::invalid_name;
use super::problem::{Kind, Problem};

/// Largest body, in bytes: all that a transaction may hold, in base64 or with some of it escaped.
pub(super) const MAX_BODY_BYTES: usize = 2 * MAX_BYTES;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    id: Option<String>,
    #[serde(default, rename = "if")]
    conditions: Few<Wanted, MAX_OPERATIONS>,
    #[serde(default)]
    then: Few<Step, MAX_OPERATIONS>,
    #[serde(default, rename = "else")]
    otherwise: Few<Step, MAX_OPERATIONS>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    key: Option<String>,
    key_base64: Option<String>,
    version: Option<Number>,
    exists: Option<bool>,
    value: Option<String>,
    value_base64: Option<String>,
    lock: Option<String>,
    lock_base64: Option<String>,
    token: Option<Number>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    put: Option<Put>,
    delete: Option<Named>,
    get: Option<Named>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Put {
    key: Option<String>,
    key_base64: Option<String>,
    value: Option<String>,
    value_base64: Option<String>,
    ttl_ms: Option<Number>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    key: Option<String>,
    key_base64: Option<String>,
}

/// Where something stands in the body.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Place {
    list: &'static str,
    at: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.list, self.at)
    }
}

/// Reads a body. The transaction has no fence yet; without an `id` it gets a name that nobody else has.
pub(super) fn read(body: &[u8], max_value_bytes: usize) -> Result<Transaction, Problem> {
    let Body { id, conditions, then, otherwise } = from_json(body)?;
    let count = conditions.count + then.count + otherwise.count;
    if count > MAX_OPERATIONS {
        return Err(invalid(&Invalid::TooManyOperations(count)));
    }
    let name = id.map_or_else(|| Ok(Name::made_up(rand::rng().random())), name)?;
    let (conditions, locks) = read_conditions(conditions.items)?;
    let then = read_branch("then", then.items, max_value_bytes)?;
    let otherwise = read_branch("else", otherwise.items, max_value_bytes)?;
    let transaction = Transaction { name, conditions, locks, then, otherwise, fence: None };
    transaction.check().map_err(|error| invalid(&error))?;
    Ok(transaction)
}

/// The name that a client gives: none that could be one that was made up.
fn name(id: String) -> Result<Name, Problem> {
    let name = Name::new(Bytes::from(id)).map_err(|error| invalid_id(&error))?;
    if name.is_made_up() { Err(invalid_id(&"one that a client chooses does not begin with `~`")) } else { Ok(name) }
}

/// The problem with a transaction's id.
pub(super) fn invalid_id(fault: &dyn fmt::Display) -> Problem {
    Problem::new(Kind::InvalidTxnId, format!("`id`: {fault}")).with("field", "id").with("limit", MAX_NAME_BYTES)
}

fn invalid(error: &Invalid) -> Problem {
    let detail = error.to_string();
    let (limit, found) = match error {
        Invalid::Empty => {
            return Problem::new(Kind::InvalidJson, format!("the transaction asks for nothing: {detail}"));
        }
        Invalid::KeyTwice { branch, first, second } => {
            return twice("key", Place { list: branch, at: *first }, Place { list: branch, at: *second });
        }
        Invalid::TooManyOperations(found) => (MAX_OPERATIONS, *found),
        Invalid::TooLarge(found) => (MAX_BYTES, *found),
    };
    let detail = format!("the transaction is too large: {detail}");
    Problem::new(Kind::TxnTooLarge, detail).with("limit", limit).with("found", found)
}

fn twice(what: &str, first: Place, second: Place) -> Problem {
    let detail = format!("`{first}` and `{second}` name the same {what}; each {what} stands once in a list");
    Problem::new(Kind::TxnKeyTwice, detail).with("places", vec![first.to_string(), second.to_string()])
}

/// Something at a place is not as it must be.
fn wrong(place: Place, detail: String) -> Problem {
    Problem::new(Kind::InvalidJson, detail).with("place", place.to_string())
}

fn read_conditions(wanted: Vec<Wanted>) -> Result<(Vec<Condition>, Vec<LockHeld>), Problem> {
    let (mut conditions, mut locks) = (Vec::new(), Vec::new());
    let (mut keys_at, mut locks_at) = (BTreeMap::new(), BTreeMap::new());
    for (at, wanted) in wanted.into_iter().enumerate() {
        let place = Place { list: "if", at };
        if wanted.lock.is_some() || wanted.lock_base64.is_some() {
            let held = read_lock(place, wanted)?;
            if let Some(first) = locks_at.insert(held.lock.bytes().clone(), place) {
                return Err(twice("lock", first, place));
            }
            locks.push(held);
        } else {
            let condition = read_condition(place, wanted)?;
            if let Some(first) = keys_at.insert(condition.key.clone(), place) {
                return Err(twice("key", first, place));
            }
            conditions.push(condition);
        }
    }
    Ok((conditions, locks))
}

fn read_lock(place: Place, wanted: Wanted) -> Result<LockHeld, Problem> {
    let Wanted { key, key_base64, version, exists, value, value_base64, lock, lock_base64, token } = wanted;
    let texts = [key, key_base64, value, value_base64];
    let Some(token) = token else { return Err(not_one_check(place)) };
    if texts.iter().any(Option::is_some) || version.is_some() || exists.is_some() {
        return Err(not_one_check(place));
    }
    let bytes = bytes(place, "lock", lock, lock_base64)?;
    let lock = lock::Name::new(bytes).map_err(|error| invalid_name(error).with("place", place.to_string()))?;
    Ok(LockHeld { lock, token: whole(place, "token", &token)? })
}

fn read_condition(place: Place, wanted: Wanted) -> Result<Condition, Problem> {
    let Wanted { key, key_base64, version, exists, value, value_base64, token, .. } = wanted;
    let value = if value.is_some() || value_base64.is_some() { Some((value, value_base64)) } else { None };
    let has_key = key.is_some() || key_base64.is_some();
    let check = match (version, exists, value, token) {
        _ if !has_key => return Err(not_one_check(place)),
        (Some(version), None, None, None) => Check::Version(whole(place, "version", &version)?),
        (None, Some(exists), None, None) => Check::Exists(exists),
        (None, None, Some((text, base64)), None) => Check::Value(bytes(place, "value", text, base64)?),
        _ => return Err(not_one_check(place)),
    };
    Ok(Condition { key: read_key(place, "", key, key_base64)?, check })
}

fn not_one_check(place: Place) -> Problem {
    let detail = format!(
        "`{place}` must have a `key` and exactly one of `version`, `exists` and `value`, or a `lock` and its `token`"
    );
    wrong(place, detail)
}

fn read_branch(list: &'static str, steps: Vec<Step>, max_value_bytes: usize) -> Result<Vec<Action>, Problem> {
    let numbered = steps.into_iter().enumerate();
    numbered.map(|(at, step)| read_step(Place { list, at }, step, max_value_bytes)).collect()
}

fn read_step(place: Place, step: Step, max_value_bytes: usize) -> Result<Action, Problem> {
    match (step.put, step.delete, step.get) {
        (Some(put), None, None) => read_put(place, put, max_value_bytes),
        (None, Some(Named { key, key_base64 }), None) => {
            Ok(Action::Delete { key: read_key(place, "delete.", key, key_base64)? })
        }
        (None, None, Some(Named { key, key_base64 })) => {
            Ok(Action::Get { key: read_key(place, "get.", key, key_base64)? })
        }
        _ => Err(wrong(place, format!("`{place}` must have exactly one of `put`, `delete` and `get`"))),
    }
}

fn read_put(place: Place, put: Put, max_value_bytes: usize) -> Result<Action, Problem> {
    let Put { key, key_base64, value, value_base64, ttl_ms } = put;
    let key = read_key(place, "put.", key, key_base64)?;
    let value = bytes(place, "put.value", value, value_base64)?;
    if value.len() > max_value_bytes {
        let detail = format!("`{place}.put.value` has {} bytes; a value has at most {max_value_bytes}", value.len());
        let problem = Problem::new(Kind::BodyTooLarge, detail);
        return Err(problem.with("place", place.to_string()).with("limit", max_value_bytes));
    }
    let ttl_ms = ttl_ms.map(|asked| read_ttl(place, &asked)).transpose()?;
    Ok(Action::Put { key, value, ttl_ms })
}

fn read_ttl(place: Place, asked: &Number) -> Result<u64, Problem> {
    asked.as_u64().filter(|ttl_ms| (1..=MAX_TTL_MS).contains(ttl_ms)).ok_or_else(|| {
        let detail = format!(
            "`{place}.put.ttl_ms` is {asked}; it must be a whole number of milliseconds from 1 to {MAX_TTL_MS}"
        );
        let problem = Problem::new(Kind::InvalidTtl, detail).with("place", place.to_string());
        problem.with("minimum_ms", 1).with("maximum_ms", MAX_TTL_MS)
    })
}

/// `before`: the name of the operation and a dot, or nothing.
fn read_key(place: Place, before: &str, text: Option<String>, base64: Option<String>) -> Result<Key, Problem> {
    let field = format!("{before}key");
    Key::new(bytes(place, &field, text, base64)?).map_err(|error| {
        let kind = match error {
            KeyError::Empty => Kind::EmptyKey,
            KeyError::TooLong(_) => Kind::KeyTooLong,
        };
        let problem = Problem::new(kind, format!("`{place}.{field}`: {error}"));
        problem.with("place", place.to_string()).with("limit", MAX_KEY_BYTES)
    })
}

/// The bytes that stand as text, or in base64 under another name.
fn bytes(place: Place, field: &str, text: Option<String>, base64: Option<String>) -> Result<Bytes, Problem> {
    match (text, base64) {
        (Some(text), None) => Ok(Bytes::from(text)),
        (None, Some(base64)) => STANDARD.decode(base64).map(Bytes::from).map_err(|error| {
            let detail = format!("`{place}.{field}_base64` is not base64 with its padding: {error}");
            wrong(place, detail)
        }),
        _ => Err(wrong(place, format!("`{place}` must have exactly one of `{field}` and `{field}_base64`"))),
    }
}

fn whole(place: Place, field: &str, number: &Number) -> Result<u64, Problem> {
    number.as_u64().ok_or_else(|| {
        wrong(place, format!("`{place}.{field}` is {number}; it must be a whole number from 0 to {}", u64::MAX))
    })
}
