//! `annulus locks`: who holds which lock, and who waits for it.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::time::Duration;

use annulus_client::lock::{Place, Scan, View, mode_text};
use serde_json::{Map, Value, json};

use crate::args;
use crate::exit::Failure;
use crate::input;
use crate::output::{self, Format, insert_bytes, on_a_line, span};

/// Lists locks.
pub(crate) async fn list(arguments: args::Locks) -> Result<(), Failure> {
    let prefix = input::bytes(&arguments.prefix).to_vec().into();
    let mut pages = arguments.connect.client()?.lock_pages(Scan { prefix, ..Scan::default() });
    let mut out = BufWriter::new(io::stdout().lock());
    let mut rows = Vec::new();
    while let Some(page) = pages.next().await? {
        for lock in &page.locks {
            match arguments.output {
                Format::Json => writeln!(out, "{}", object(lock))?,
                Format::Text if arguments.waiters => rows.extend(places(lock)),
                Format::Text => rows.extend(holders(lock)),
            }
        }
        // A reader that looks on sees page after page.
        out.flush()?;
    }
    let (head, right): (&[&str], &[usize]) = match arguments.waiters {
        true => (&["lock", "place", "mode", "owner", "token", "since", "left", "description"], &[4, 5, 6]),
        false => (&["lock", "mode", "holder", "token", "held", "lease left", "waiting", "description"], &[3, 4, 5]),
    };
    if !rows.is_empty() {
        for line in output::table(head, right, &rows) {
            writeln!(out, "{line}")?;
        }
    } else if arguments.output == Format::Text && io::stderr().is_terminal() {
        eprintln!("nobody holds a lock");
    }
    Ok(out.flush()?)
}

/// A row for each that holds a lock; how many wait stands in the first.
fn holders(lock: &View) -> impl Iterator<Item = Vec<String>> {
    lock.holders.iter().enumerate().map(|(at, holder)| {
        vec![
            on_a_line(&lock.name),
            mode_text(holder.mode).to_owned(),
            on_a_line(&holder.owner),
            holder.token.to_string(),
            span(holder.since),
            span(holder.left),
            if at == 0 { queue(lock) } else { String::new() },
            on_a_line(&holder.description),
        ]
    })
}

/// How many wait, and how long the first of them has.
fn queue(lock: &View) -> String {
    match lock.waiting.iter().map(|waiting| waiting.since).max() {
        Some(longest) => format!("{}, longest {}", lock.waiting_count, span(longest)),
        None => lock.waiting_count.to_string(),
    }
}

/// A row for each that holds a lock or waits for it, as far as the store names them.
fn places(lock: &View) -> Vec<Vec<String>> {
    let row = |place: &Place, what: String| {
        vec![
            on_a_line(&lock.name),
            what,
            mode_text(place.mode).to_owned(),
            on_a_line(&place.owner),
            place.token.to_string(),
            span(place.since),
            span(place.left),
            on_a_line(&place.description),
        ]
    };
    let holders = lock.holders.iter().map(|holder| row(holder, "holds".to_owned()));
    let waiting = lock.waiting.iter().zip(1..).map(|(place, number)| row(place, format!("waits {number}")));
    let mut rows: Vec<_> = holders.chain(waiting).collect();
    let hidden = lock.waiting_count.saturating_sub(lock.waiting.len() as u64);
    if hidden > 0 {
        rows.push(vec![on_a_line(&lock.name), format!("{hidden} more wait")]);
    }
    rows
}

fn object(lock: &View) -> Value {
    let mut object = Map::new();
    insert_bytes(&mut object, "name", &lock.name);
    let places = |places: &[Place], since| places.iter().map(|place| place_object(place, since)).collect();
    object.insert("holders".to_owned(), Value::Array(places(&lock.holders, "held_ms")));
    object.insert("waiting".to_owned(), Value::Array(places(&lock.waiting, "waited_ms")));
    object.insert("waiting_count".to_owned(), json!(lock.waiting_count));
    Value::Object(object)
}

fn place_object(place: &Place, since: &str) -> Value {
    let mut object = Map::new();
    let millis = |duration: Duration| json!(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
    object.insert("token".to_owned(), json!(place.token));
    insert_bytes(&mut object, "owner", &place.owner);
    insert_bytes(&mut object, "description", &place.description);
    object.insert("mode".to_owned(), json!(mode_text(place.mode)));
    object.insert("ttl_ms".to_owned(), millis(place.ttl));
    object.insert(since.to_owned(), millis(place.since));
    object.insert("left_ms".to_owned(), millis(place.left));
    Value::Object(object)
}
