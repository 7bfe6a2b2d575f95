//! What became of a transaction, and which are open.

use annulus_core::partition::txn::Name;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use serde::Deserialize;

use super::Outcome;
use super::done::{WireOutcome, read_all};
use super::sending::{ATTEMPT_SHARE, timed};
use crate::call::Call;
use crate::client::{invalid, path_of, read_refusal, strange_read};
use crate::directory::Place as Asked;
use crate::room::Room;
use crate::transport::{MAX_ANSWER_BYTES, Message};
use crate::verdict::Safety;
use crate::{Client, Result};

/// What became of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is done, for good.
    Committed {
        /// Whether all conditions held: then its operations were done, else those of its `else`.
        then: bool,
        /// What came of each operation, if that was kept.
        results: Option<Vec<Outcome>>,
    },
    /// It has done nothing, and will not, unless somebody is still at it.
    Aborted,
    /// It was not settled in time: ask again.
    Pending,
}

/// A transaction that is open in a partition.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Open {
    /// Its id.
    pub id: String,
    /// Which attempt of whoever makes it, from 0.
    pub attempt: u32,
    /// Where it is open.
    pub partition: u32,
    /// The partition that decides.
    pub anchor: u32,
    /// `prepared`: it holds its keys until this partition is told what is decided. `committed`: others are still to hear of it.
    pub state: String,
    /// How long ago it was prepared, or decided.
    pub age_ms: u64,
    /// How many keys and locks it holds there.
    pub keys: u64,
    /// All its partitions, as the anchor knows them; empty elsewhere.
    pub participants: Vec<u32>,
}

/// Transactions that are open, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct Opens {
    /// One for each partition in which one is open.
    pub items: Vec<Open>,
    /// Whether there are more.
    #[serde(default)]
    pub more: bool,
}

#[derive(Deserialize)]
struct WireFate {
    state: String,
    committed: Option<bool>,
    results: Option<Vec<WireOutcome>>,
}

impl Fate {
    fn read(body: &[u8]) -> std::result::Result<Self, String> {
        let wire: WireFate =
            serde_json::from_slice(body).map_err(|error| format!("not what became of a transaction: {error}"))?;
        match (wire.state.as_str(), wire.committed) {
            ("committed", Some(then)) => Ok(Self::Committed { then, results: wire.results.map(read_all).transpose()? }),
            ("aborted", _) => Ok(Self::Aborted),
            ("pending", _) => Ok(Self::Pending),
            (state, _) => Err(format!("a transaction's state `{state}` that we do not know")),
        }
    }
}

pub(crate) async fn fate(client: &Client, id: &str) -> Result<Option<Fate>> {
    Name::new(Bytes::copy_from_slice(id.as_bytes()))
        .map_err(|error| invalid("transaction id", id, &error.to_string()))?;
    let path = path_of(format!("/v1/txn/{id}"))?;
    let time = client.deadline();
    let call = Call {
        place: Asked::Anybody,
        message: get(path.clone()),
        // It has it settled, and that may take as long as a transaction.
        complete: Some(&|message, left| message.path = timed(path.path(), left)),
        safety: Safety::Read,
        time,
        patience: Some(time / ATTEMPT_SHARE),
        max_attempts: client.max_attempts(),
        room: Room::uncounted(MAX_ANSWER_BYTES),
    };
    let answer = client.make(call).await?;
    match answer.status {
        StatusCode::OK => Fate::read(&answer.body).map(Some).map_err(|reason| strange_read(&reason)),
        StatusCode::NOT_FOUND if answer.problem().kind() == "txn-not-found" => Ok(None),
        StatusCode::NOT_FOUND => Err(strange_read("404 of something else")),
        _ => Err(read_refusal(&answer)),
    }
}

pub(crate) async fn open(client: &Client, limit: Option<u32>) -> Result<Opens> {
    let query = limit.map(|limit| format!("?limit={limit}")).unwrap_or_default();
    let message = get(path_of(format!("/v1/txns{query}"))?);
    let answer = client.run(Asked::Anybody, message, Safety::Read, None).await?;
    match answer.status {
        StatusCode::OK => serde_json::from_slice(&answer.body)
            .map_err(|error| strange_read(&format!("not a list of transactions: {error}"))),
        _ => Err(read_refusal(&answer)),
    }
}

fn get(path: http::uri::PathAndQuery) -> Message {
    Message { method: Method::GET, path, headers: HeaderMap::new(), body: Bytes::new() }
}
