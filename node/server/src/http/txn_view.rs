//! Transactions as they are shown: what became of one at `GET /v1/txn/{id}`, those that are open at `GET /v1/txns`, and
//! results.
//!
//! Nobody knows beforehand which partitions a transaction has touched, so all are asked. Whoever asks about one wants it
//! settled, so an attempt that is found open is given a second to end by itself and is then brought to its end.

use std::collections::BTreeMap;
use std::time::Duration;

use annulus_core::codec::Reader;
use annulus_core::id::PartitionId;
use annulus_core::lane::{Operation, Reply};
use annulus_core::partition::txn::codec::read_dones;
use annulus_core::partition::txn::{
    ABANDONED_AFTER_MS, Decision, Done, Finished, Id, KEPT_MS, Known, MADE_UP_KEPT_MS, Name, Pointer, View,
};
use annulus_core::partition::{Consistency, Key};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{FuturesUnordered, iter};
use http::request::Parts;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::edge::{Edge, content, text_or_base64};
use super::problem::{Kind, Problem};
use super::route::Route;
use super::{Response, fence, query, txn, txn_body};
use crate::router::Router;

/// How many partitions are asked at once.
const CONCURRENCY: usize = 32;
/// How long one that is open has before it is looked at again: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(320);
/// So often it is looked again for the results of one that is known to be committed: they come with the end of it.
const MOST_LOOKS_FOR_RESULTS: u32 = 3;

/// What came of an operation. Of kept results the keys are not known.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Shown<'a> {
    Put {
        version: u64,
    },
    Deleted {
        deleted: bool,
    },
    Got {
        #[serde(flatten)]
        key: ShownKey<'a>,
        version: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        value: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        value_base64: Option<String>,
    },
    Absent {
        #[serde(flatten)]
        key: ShownKey<'a>,
        version: (),
        value: (),
    },
}

#[derive(Serialize)]
pub(super) struct ShownKey<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
}

/// One result, as it is shown.
pub(super) fn show<'a>(done: &'a Done, key: Option<&'a Key>) -> Shown<'a> {
    let (text, key_base64) = key.map_or((None, None), |key| text_or_base64(key.bytes()));
    let key = ShownKey { key: text, key_base64 };
    match done {
        Done::Put(version) => Shown::Put { version: *version },
        Done::Deleted(deleted) => Shown::Deleted { deleted: *deleted },
        Done::Got(Some(item)) => {
            let (value, value_base64) = text_or_base64(&item.value);
            Shown::Got { key, version: item.version, value, value_base64 }
        }
        Done::Got(None) => Shown::Absent { key, version: (), value: () },
    }
}

/// A name, which is ASCII, as it is shown.
pub(super) fn id(name: &Name) -> &str {
    std::str::from_utf8(name.bytes()).expect("a name has letters, digits and a few signs")
}

#[derive(Serialize)]
struct Fate<'a> {
    id: &'a str,
    state: &'static str,
    #[serde(flatten)]
    committed: Option<FateCommitted<'a>>,
}

#[derive(Serialize)]
struct FateCommitted<'a> {
    committed: bool,
    results: Option<Vec<Shown<'a>>>,
}

/// All that the partitions say of a transaction.
#[derive(Default)]
struct Found {
    /// Whether `then` was done.
    committed: Option<bool>,
    results: Option<Bytes>,
    aborted: bool,
    /// Attempts that are open, and nobody has said yet what is decided of them.
    open: BTreeMap<Id, (Pointer, PartitionId, u64)>,
    /// The answer of a partition that could not be asked.
    unasked: Option<Reply>,
}

impl Found {
    fn hear(&mut self, from: PartitionId, reply: Reply, decided: &BTreeMap<Id, Decision>) {
        let Reply::KnownTxn(known) = reply else {
            self.unasked = Some(reply);
            return;
        };
        for known in known {
            match known {
                Known::Finished(Finished { decision, results, .. }) => {
                    self.note(decision);
                    self.results = results.or(self.results.take());
                }
                Known::Open(View { pointer, decision, age_ms, .. }) => {
                    match decision.or(decided.get(&pointer.id).copied()) {
                        Some(decision) => self.note(decision),
                        None => drop(self.open.insert(pointer.id.clone(), (pointer, from, age_ms))),
                    }
                }
            }
        }
    }

    fn note(&mut self, decision: Decision) {
        match decision {
            Decision::Then => self.committed = Some(true),
            Decision::Otherwise => self.committed = Some(false),
            Decision::Abort => self.aborted = true,
        }
    }
}

/// Answers what became of a transaction.
pub(super) async fn get<R: Router + 'static>(edge: &Edge<R>, parts: &Parts) -> Result<Response, Problem> {
    let segment = query::segment(Route::Txn.parameter(parts.uri.path()))?;
    let name = Name::new(Bytes::copy_from_slice(segment.as_bytes())).map_err(|error| txn_body::invalid_id(&error))?;
    let [timeout] = query::parameters(parts.uri.query(), ["timeout"])?;
    let deadline = Instant::now() + edge.timeout(timeout)?;
    let (mut decided, mut pause, mut looks) = (BTreeMap::new(), FIRST_PAUSE, 0);
    loop {
        let found = look(edge, &name, deadline, &decided).await?;
        looks += 1;
        let is_over = Instant::now() + pause >= deadline;
        if let Some(then) = found.committed {
            let is_enough = found.results.is_some() || name.is_made_up() || looks > MOST_LOOKS_FOR_RESULTS;
            if is_enough || is_over {
                return committed(edge, &name, then, found.results);
            }
        } else if let Some(reply) = found.unasked {
            return Err(txn::unanswered(&reply));
        } else if found.open.is_empty() {
            return if found.aborted { fate(edge, &name, "aborted") } else { Err(not_found(&name)) };
        } else if is_over {
            return fate(edge, &name, "pending");
        }
        let abandoned = found.open.into_values().filter(|(.., age_ms)| *age_ms >= ABANDONED_AFTER_MS);
        let recovering = abandoned.map(|(pointer, found_in, _)| async move {
            let id = pointer.id.clone();
            (id, edge.transactions.recover(pointer, found_in, fence::left(deadline)).await)
        });
        let ended: Vec<_> = recovering.collect::<FuturesUnordered<_>>().collect().await;
        let before = decided.len();
        decided.extend(ended.into_iter().filter_map(|(id, decision)| Some((id, decision?))));
        if decided.len() == before {
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Asks all partitions what they know of a transaction; no more of them as soon as one has said all there is to know.
async fn look<R: Router>(
    edge: &Edge<R>,
    name: &Name,
    deadline: Instant,
    decided: &BTreeMap<Id, Decision>,
) -> Result<Found, Problem> {
    let read = || Operation::ReadTxn { name: name.clone(), consistency: Consistency::Linearizable };
    let mut found = Found::default();
    let mut answers = std::pin::pin!(ask_all(edge, deadline, read)?);
    while let Some((from, reply)) = answers.next().await {
        found.hear(from, reply, decided);
        if found.committed.is_some() && found.results.is_some() {
            break;
        }
    }
    Ok(found)
}

/// Asks all partitions the same.
fn ask_all<R: Router>(
    edge: &Edge<R>,
    deadline: Instant,
    operation: impl Fn() -> Operation,
) -> Result<impl futures_util::Stream<Item = (PartitionId, Reply)>, Problem> {
    let partitions = edge.map()?.partitions();
    let asking = iter((0..partitions).map(PartitionId)).map(move |partition| {
        let operation = operation();
        async move {
            let reply = edge.router.submit(partition.group(), operation, fence::left(deadline)).await;
            (partition, reply)
        }
    });
    Ok(asking.buffer_unordered(CONCURRENCY))
}

fn committed<R: Router>(
    edge: &Edge<R>,
    name: &Name,
    committed: bool,
    results: Option<Bytes>,
) -> Result<Response, Problem> {
    let dones = results.map(|results| read_dones(&mut Reader::new(results, "kept results")));
    let dones =
        dones.transpose().map_err(|_| Problem::new(Kind::Internal, "the results that were kept are damaged"))?;
    let results = dones.as_ref().map(|dones| dones.iter().map(|done| show(done, None)).collect());
    let committed = Some(FateCommitted { committed, results });
    written(edge, &Fate { id: id(name), state: "committed", committed })
}

fn fate<R: Router>(edge: &Edge<R>, name: &Name, state: &'static str) -> Result<Response, Problem> {
    written(edge, &Fate { id: id(name), state, committed: None })
}

fn written<R: Router>(edge: &Edge<R>, shown: &impl Serialize) -> Result<Response, Problem> {
    let written = serde_json::to_vec(shown).expect("strings and numbers always serialise");
    Ok(content("application/json", edge.resources.hold_answer(Bytes::from(written))?))
}

fn not_found(name: &Name) -> Problem {
    let minutes = if name.is_made_up() { MADE_UP_KEPT_MS } else { KEPT_MS } / 60_000;
    let detail = format!("no such transaction is known: it has not happened, or is longer ago than {minutes} minutes");
    Problem::new(Kind::TxnNotFound, detail)
}

#[derive(Serialize)]
struct Page<'a> {
    items: Vec<ShownOpen<'a>>,
    more: bool,
}

#[derive(Serialize)]
struct ShownOpen<'a> {
    id: &'a str,
    attempt: u32,
    partition: u32,
    anchor: u32,
    state: &'static str,
    age_ms: u64,
    keys: u32,
    participants: Vec<u32>,
}

/// Answers with the transactions that are open, the oldest first.
pub(super) async fn list<R: Router>(edge: &Edge<R>, query: Option<&str>) -> Result<Response, Problem> {
    let [limit, timeout] = query::parameters(query, ["limit", "timeout"])?;
    let limit = query::limit(limit)?;
    let deadline = Instant::now() + edge.timeout(timeout)?;
    let (mut open, mut more) = (Vec::new(), false);
    let read = || Operation::ListTxns { consistency: Consistency::Linearizable };
    let mut answers = std::pin::pin!(ask_all(edge, deadline, read)?);
    while let Some((from, reply)) = answers.next().await {
        let Reply::Txns(views) = reply else { return Err(txn::unanswered(&reply)) };
        open.extend(views.into_iter().map(|view| (from, view)));
        open.sort_by(|(from, view), (other_from, other)| {
            other.age_ms.cmp(&view.age_ms).then_with(|| (&view.pointer.id, from).cmp(&(&other.pointer.id, other_from)))
        });
        more |= open.len() > limit;
        open.truncate(limit);
    }
    let items = open.iter().map(|(partition, view)| show_open(*partition, view)).collect();
    written(edge, &Page { items, more })
}

fn show_open(partition: PartitionId, view: &View) -> ShownOpen<'_> {
    let state = match view.decision {
        None => "prepared",
        Some(Decision::Then | Decision::Otherwise) => "committed",
        Some(Decision::Abort) => "aborted",
    };
    ShownOpen {
        id: id(&view.pointer.id.name),
        attempt: view.pointer.id.attempt,
        partition: partition.0,
        anchor: view.pointer.anchor.0,
        state,
        age_ms: view.age_ms,
        keys: view.keys,
        participants: view.participants.iter().map(|partition| partition.0).collect(),
    }
}
