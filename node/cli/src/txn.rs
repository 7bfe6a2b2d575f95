//! `annulus txn` and `annulus txns`: several keys at once, what became of it, and what is still open.

use std::io::{self, BufWriter, IsTerminal, Write};

use annulus_client::txn::{Done, Fate, Open, Operation, Outcome, Request, Verb};
use annulus_client::{Client, Error, Version};
use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::args::{self, KeyValue};
use crate::data::{print, say, unless_interrupted};
use crate::exit::Failure;
use crate::input;
use crate::output::{self, Format, insert_bytes, on_a_line, span};

/// The longest part of a value that a table shows.
const SHOWN: usize = 60;
/// Beside the values, of which a transaction may have 1 MiB, there are names, quotes and base64.
const MAX_JSON_BYTES: u64 = 2 << 20;

/// Has a transaction done, or tells what became of one.
pub(crate) async fn run(arguments: args::Txn) -> Result<(), Failure> {
    let client = arguments.connect.client()?;
    if let Some(id) = &arguments.status {
        return status(&client, id, arguments.write.output).await;
    }
    let request = request(&client, &arguments)?;
    let id = request.name().to_owned();
    let branches = [request.operations(false), request.operations(true)];
    let sent = unless_interrupted(async { Ok(request.send().await) });
    let done = match sent.await {
        Ok(Ok(done)) => done,
        Ok(Err(Error::OutcomeUnknown { reason })) => return Err(unknown(&reason, &id)),
        Ok(Err(error)) => return Err(error.into()),
        Err(Failure::OutcomeUnknown(_)) => return Err(unknown("interrupted", &id)),
        Err(failure) => return Err(failure),
    };
    let operations = &branches[usize::from(done.committed)];
    match arguments.write.output {
        Format::Json => print(&object(&done, operations))?,
        Format::Text => show(operations, done.results.as_deref())?,
    }
    let branch = if done.committed { "then" } else { "else" };
    if done.results.is_none() {
        eprintln!("annulus: `{branch}` was done before under this id, and what came of it was too long to be kept");
    }
    if done.committed {
        say(&arguments.write, &format!("committed as `{}`", done.id));
        return Ok(());
    }
    let instead = if operations.is_empty() { "nothing" } else { "`else`" };
    Err(Failure::Refused(format!("a condition did not hold; {instead} was done")))
}

/// The transaction that stands in a file, or in the arguments.
fn request(client: &Client, arguments: &args::Txn) -> Result<Request, Failure> {
    let args::Txn { steps, id, fence, .. } = arguments;
    let mut request = match &arguments.file {
        Some(file) => {
            let json = input::document(file, "the transaction", MAX_JSON_BYTES)?;
            client.txn_from_json(&json).map_err(|error| Failure::Usage(format!("{error}. Nothing was sent.")))?
        }
        None => spelled(client.txn(), steps),
    };
    if let Some(id) = id {
        request = request.id(id);
    }
    Ok(match fence {
        Some(fence) => request.fence(fence.clone()),
        None => request,
    })
}

fn spelled(mut request: Request, steps: &args::Steps) -> Request {
    for (key, version) in &steps.if_version {
        request = request.if_version(key, Version(*version));
    }
    for KeyValue { key, value } in &steps.if_value {
        request = request.if_value(key, value);
    }
    for (keys, exists) in [(&steps.if_exists, true), (&steps.if_absent, false)] {
        request = keys.iter().fold(request, |request, key| request.if_exists(input::bytes(key), exists));
    }
    for fence in &steps.if_held {
        request = request.if_held(fence.clone());
    }
    for KeyValue { key, value } in &steps.put {
        request = request.put(key, value);
    }
    let request = steps.delete.iter().fold(request, |request, key| request.delete(input::bytes(key)));
    steps.get.iter().fold(request, |request, key| request.get(input::bytes(key)))
}

fn unknown(reason: &str, id: &str) -> Failure {
    Failure::OutcomeUnknown(format!(
        "outcome unknown: {reason}\n  The transaction may have been done. `annulus txn --status {id}` tells; the same with \
         --id {id} can be repeated safely."
    ))
}

/// Writes what came of each operation, a line each.
fn show(operations: &[Operation], results: Option<&[Outcome]>) -> Result<(), Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    let Some(results) = results.filter(|results| !results.is_empty()) else { return Ok(()) };
    let rows: Vec<Vec<String>> =
        results.iter().enumerate().map(|(at, outcome)| row(operations.get(at), outcome)).collect();
    for line in output::table(&["operation", "key", "version", "value"], &[2], &rows) {
        writeln!(out, "{line}")?;
    }
    Ok(out.flush()?)
}

fn row(operation: Option<&Operation>, outcome: &Outcome) -> Vec<String> {
    let key = operation.map_or_else(|| "?".to_owned(), |operation| on_a_line(&operation.key));
    let (verb, version, value) = match outcome {
        Outcome::Put(version) => (Verb::Put, version.to_string(), String::new()),
        Outcome::Deleted(true) => (Verb::Delete, String::new(), "(was there)".to_owned()),
        Outcome::Deleted(false) => (Verb::Delete, String::new(), "(was not there)".to_owned()),
        Outcome::Got(Some(item)) => (Verb::Get, item.version.to_string(), shortened(on_a_line(&item.value))),
        Outcome::Got(None) => (Verb::Get, String::new(), "(not there)".to_owned()),
    };
    let verb = match verb {
        Verb::Put => "put",
        Verb::Delete => "delete",
        Verb::Get => "get",
    };
    vec![verb.to_owned(), key, version, value]
}

fn shortened(line: String) -> String {
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// As the store tells it.
fn object(done: &Done, operations: &[Operation]) -> Map<String, Value> {
    let results = done.results.as_deref().map(|results| outcomes(results, operations));
    Map::from_iter([
        ("id".to_owned(), json!(done.id)),
        ("committed".to_owned(), json!(done.committed)),
        ("results".to_owned(), json!(results)),
    ])
}

fn outcomes(results: &[Outcome], operations: &[Operation]) -> Vec<Value> {
    let keys = operations.iter().map(|operation| Some(&operation.key)).chain(std::iter::repeat(None));
    results.iter().zip(keys).map(|(outcome, key)| outcome_object(outcome, key)).collect()
}

fn outcome_object(outcome: &Outcome, key: Option<&Bytes>) -> Value {
    let item = match outcome {
        Outcome::Put(version) => return json!({"version": version.0}),
        Outcome::Deleted(deleted) => return json!({"deleted": deleted}),
        Outcome::Got(item) => item,
    };
    let mut object = Map::new();
    if let Some(key) = key {
        insert_bytes(&mut object, "key", key);
    }
    object.insert("version".to_owned(), json!(item.as_ref().map(|item| item.version.0)));
    match item {
        Some(item) => insert_bytes(&mut object, "value", &item.value),
        None => drop(object.insert("value".to_owned(), Value::Null)),
    }
    Value::Object(object)
}

/// Tells what became of a transaction.
async fn status(client: &Client, id: &str, format: Format) -> Result<(), Failure> {
    let fate = client.txn_fate(id).await?;
    if format == Format::Json {
        let mut object = Map::from_iter([("id".to_owned(), json!(id))]);
        let state = match &fate {
            None => "unknown",
            Some(Fate::Committed { then, results }) => {
                object.insert("committed".to_owned(), json!(then));
                object.insert("results".to_owned(), json!(results.as_deref().map(|results| outcomes(results, &[]))));
                "committed"
            }
            Some(Fate::Aborted) => "aborted",
            Some(Fate::Pending) => "pending",
        };
        object.insert("state".to_owned(), json!(state));
        print(&object)?;
    }
    match fate {
        Some(Fate::Committed { then, results }) => {
            if format == Format::Text {
                println(if then { "committed" } else { "committed: a condition did not hold, and `else` was done" })?;
                show(&[], results.as_deref())?;
            }
            Ok(())
        }
        Some(Fate::Aborted) => Err(Failure::Refused(format!("the transaction {id} was aborted: nothing was changed"))),
        Some(Fate::Pending) => {
            Err(Failure::OutcomeUnknown(format!("the transaction {id} is not settled yet; ask again")))
        }
        None => Err(Failure::Refused(format!(
            "not found: the store knows of no transaction {id}. It has not happened, or is longer ago than ten minutes (two, if its id begins with ~)."
        ))),
    }
}

fn println(line: &str) -> Result<(), Failure> {
    Ok(writeln!(io::stdout().lock(), "{line}")?)
}

/// Lists the transactions that are open.
pub(crate) async fn list(arguments: args::Txns) -> Result<(), Failure> {
    let open = arguments.connect.client()?.txns(Some(arguments.limit)).await?;
    let mut out = BufWriter::new(io::stdout().lock());
    let rows: Vec<Vec<String>> = open.items.iter().map(open_row).collect();
    match arguments.output {
        Format::Json => {
            for item in &open.items {
                writeln!(out, "{}", open_object(item))?;
            }
        }
        Format::Text if rows.is_empty() => {
            if io::stderr().is_terminal() {
                eprintln!("no transaction is open");
            }
        }
        Format::Text => {
            let head = ["transaction", "attempt", "state", "age", "partition", "keys held", "anchor", "participants"];
            for line in output::table(&head, &[1, 3, 4, 5, 6], &rows) {
                writeln!(out, "{line}")?;
            }
        }
    }
    if open.more {
        eprintln!("annulus: there are more; these are the oldest (--limit)");
    }
    Ok(out.flush()?)
}

fn open_row(open: &Open) -> Vec<String> {
    let participants: Vec<String> = open.participants.iter().map(u32::to_string).collect();
    vec![
        open.id.clone(),
        open.attempt.to_string(),
        open.state.clone(),
        span(std::time::Duration::from_millis(open.age_ms)),
        open.partition.to_string(),
        open.keys.to_string(),
        open.anchor.to_string(),
        participants.join(", "),
    ]
}

fn open_object(open: &Open) -> Value {
    json!({
        "id": open.id, "attempt": open.attempt, "partition": open.partition, "anchor": open.anchor, "state": open.state,
        "age_ms": open.age_ms, "keys": open.keys, "participants": open.participants,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_value_is_shortened_between_its_signs() {
        assert_eq!(shortened("ü".repeat(60)), "ü".repeat(60));
        assert_eq!(shortened("ü".repeat(61)), format!("{}…", "ü".repeat(60)));
    }
}
