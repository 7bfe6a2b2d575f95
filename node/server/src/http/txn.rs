//! `POST /v1/txn`: several keys at once.
//!
//! ```text
//! POST ─▶ parse ─▶ fence ─┬─ only reads, no `id` ─▶ snapshot ─┬─ at rest ─────▶ 200
//!                         │                                   └─ changing ─┐
//!                         └─▶ Transactions::run ◀──────────────────────────┘
//!                                  ├─ committed ──▶ 200, whatever else happens from here
//!                                  ├─ failed ─────▶ 4xx, 5xx: nothing was changed
//!                                  └─ unknown ────▶ 504 with its id
//! ```
//!
//! A client that goes away leaves its transaction to go on. It never asks twice: who wants to try again does so under the
//! same `id`.

use std::time::{Duration, SystemTime};

use annulus_core::lane::Reply;
use annulus_core::map::Map;
use annulus_core::partition::txn::{Action, Done, MAX_OPEN, MAX_READ_BYTES, Name};
use annulus_core::partition::{Fence, Item, Key};
use annulus_core::txn::{Answer, Failure, Seen, Transaction};
use bytes::Bytes;
use http::request::Parts;
use hyper::body::Incoming;
use serde::Serialize;
use tokio::time::Instant;

use super::edge::{Edge, content};
use super::fence::{self, Claim};
use super::headers::{FENCE, Headers, declared_length};
use super::problem::{Kind, Problem};
use super::txn_body::{self, MAX_BODY_BYTES};
use super::txn_view::{self, Shown};
use super::{Response, body, kv, query};
use crate::router::Router;

#[derive(Serialize)]
struct Answered<'a> {
    id: &'a str,
    committed: bool,
    results: Option<Vec<Shown<'a>>>,
}

/// Answers a request for a transaction.
pub(super) async fn post<R: Router + 'static>(
    edge: &Edge<R>,
    parts: &Parts,
    headers: &Headers<'_>,
    body: Incoming,
) -> Result<Response, Problem> {
    let [timeout] = query::parameters(parts.uri.query(), ["timeout"])?;
    let timeout = edge.timeout(timeout)?;
    headers.nothing_for_a_transaction()?;
    let claim = headers.fence.map(Claim::read).transpose()?;
    let map = edge.map()?;
    // Held until it is answered: until then keys and values are somewhere in this process.
    let (body, _reservation) = body::read(body, declared_length(parts), MAX_BODY_BYTES, &edge.resources).await?;
    let deadline = Instant::now() + timeout;
    let mut transaction = txn_body::read(&body, edge.resources.limits.max_value_bytes)?;
    drop(body);
    transaction.fence = fence_of(edge, &transaction, claim, deadline).await?;
    // Of what has an id of its own it is known what came of it; a snapshot leaves nothing behind.
    let only_reads = transaction.only_reads().filter(|_| transaction.name.is_made_up());
    if let Some(keys) = only_reads
        && let Some(answer) = snapshot(edge, &map, &transaction, keys, deadline).await?
    {
        return Ok(answer);
    }
    run(edge, &map, transaction, deadline).await
}

/// The fence under which its writes are done.
async fn fence_of<R: Router>(
    edge: &Edge<R>,
    transaction: &Transaction,
    claim: Option<Claim>,
    deadline: Instant,
) -> Result<Option<Fence>, Problem> {
    let writes = transaction.then.iter().chain(&transaction.otherwise).any(Action::is_write);
    if claim.is_some() && !writes {
        let detail = "the transaction writes nothing, so `Annulus-Fence` would fence nothing; name the lock in `if`";
        return Err(Problem::new(Kind::InvalidHeader, detail).with("header", FENCE));
    }
    fence::of_write(edge, claim, !transaction.name.is_made_up(), deadline).await
}

/// What the keys were at one moment; `None` if that could not be found out without a hold on them.
async fn snapshot<R: Router + 'static>(
    edge: &Edge<R>,
    map: &Map,
    transaction: &Transaction,
    keys: Vec<Key>,
    deadline: Instant,
) -> Result<Option<Response>, Problem> {
    match edge.transactions.snapshot(map, keys, fence::left(deadline)).await {
        Seen::Items(items) => {
            // Nobody else says so: a transaction would have been refused.
            let bytes = |item: &Option<Item>| item.as_ref().map_or(0, |item| item.value.len());
            if items.iter().map(bytes).sum::<usize>() > MAX_READ_BYTES {
                return Err(reads_too_much());
            }
            let dones: Vec<_> = items.into_iter().map(Done::Got).collect();
            let written = write(transaction, true, Some(&dones));
            Ok(Some(content("application/json", edge.resources.hold_answer(written)?)))
        }
        Seen::Changing => Ok(None),
        Seen::ReadsTooMuch => Err(reads_too_much()),
        Seen::Refused(refusal) => Err(unanswered(&Reply::Refused(refusal))),
    }
}

async fn run<R: Router + 'static>(
    edge: &Edge<R>,
    map: &Map,
    transaction: Transaction,
    deadline: Instant,
) -> Result<Response, Problem> {
    // Only that the numbers of two that meet differ by about their age matters, so a clock that is off does no harm.
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let priority = u64::try_from(since_1970.as_micros()).unwrap_or(u64::MAX);
    let outcome = edge.transactions.run(map, transaction.clone(), priority, fence::left(deadline)).await;
    match outcome.answer {
        Answer::Committed { then, results } => {
            let written = write(&transaction, then, results.as_deref());
            // It is done, so it is told even when there is no room left for answers.
            let held = edge.resources.hold_answer(written.clone()).unwrap_or(written);
            Ok(content("application/json", held))
        }
        Answer::Failed(failure) => Err(failed(failure, transaction.fence.as_ref())),
        Answer::Unknown => Err(unknown(&transaction.name)),
    }
}

fn write(transaction: &Transaction, then: bool, results: Option<&[Done]>) -> Bytes {
    let actions = if then { &transaction.then } else { &transaction.otherwise };
    let results = results.filter(|dones| dones.len() == actions.len());
    let results = results.map(|dones| {
        let keyed = dones.iter().zip(actions);
        keyed.map(|(done, action)| txn_view::show(done, Some(action.key()))).collect()
    });
    let answered = Answered { id: txn_view::id(&transaction.name), committed: then, results };
    Bytes::from(serde_json::to_vec(&answered).expect("strings and numbers always serialise"))
}

/// The problem behind a transaction that has done nothing.
fn failed(failure: Failure, fence: Option<&Fence>) -> Problem {
    match failure {
        Failure::NameConflict => Problem::new(
            Kind::IdempotencyConflict,
            "this `id` came with another transaction before; nothing was changed",
        ),
        Failure::StaleFence { newest } => match fence {
            Some(fence) => fence::refused(fence, newest),
            None => Problem::new(Kind::Internal, "a partition has refused a fence that there is not"),
        },
        Failure::TooManyFences => fence::too_many(),
        Failure::TooManyOpen => {
            let detail = format!(
                "{MAX_OPEN} transactions are open already in a partition of the transaction's keys; nothing was changed"
            );
            Problem::temporary(Kind::Overloaded, detail).with("limit", MAX_OPEN)
        }
        Failure::ReadsTooMuch => reads_too_much(),
        Failure::Conflict => Problem::temporary(
            Kind::TxnConflict,
            "other transactions, or partitions that did not answer, were in its way until its time was over; nothing was \
             changed",
        ),
        Failure::Refused(refusal) => unanswered(&Reply::Refused(refusal)),
    }
}

fn reads_too_much() -> Problem {
    let detail = format!("what it reads has more than {MAX_READ_BYTES} bytes; read less at once; nothing was changed");
    Problem::new(Kind::TxnReadsTooMuch, detail).with("limit", MAX_READ_BYTES)
}

fn unknown(name: &Name) -> Problem {
    let id = txn_view::id(name);
    let again = if name.is_made_up() { "" } else { ", and so does the same request under the same `id`" };
    let detail = format!(
        "a leader was lost or did not answer in time, and it is not known whether the transaction is committed; \
         `GET /v1/txn/{id}` settles it{again}"
    );
    Problem::new(Kind::OutcomeUnknown, detail).with("id", id)
}

/// The problem behind a reply that is not the answer to what was asked for a transaction.
pub(super) fn unanswered(reply: &Reply) -> Problem {
    kv::no_answer(reply, "transaction's keys", "ask again")
}
