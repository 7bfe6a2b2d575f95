//! `put`, `get`, `delete`, `scan`.

use std::future::Future;
use std::io::{self, BufWriter, IsTerminal, Write};

use annulus_client::{DeleteOptions, Entry, GetOptions, PutOptions, Result as ClientResult};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{Delete, Get, Put, Scan, Writing};
use crate::exit::Failure;
use crate::input;
use crate::output::{Format, insert_bytes, on_a_line};

/// Puts a value.
pub(crate) async fn put(put: Put) -> Result<(), Failure> {
    let value = input::value(put.value, put.file.as_deref(), put.max_value)?;
    let key = input::bytes(&put.key);
    let options = PutOptions {
        ttl: put.ttl,
        condition: put.condition.condition(),
        idempotency_key: put.idempotency_key,
        fence: put.fence,
        deadline: None,
    };
    let client = put.connect.client()?;
    let written = unless_interrupted(client.put_with(key, value, &options)).await?;
    let what = if written.created { "created" } else { "replaced" };
    say(&put.write, &format!("{what} `{}`, version {}", on_a_line(key), written.version));
    if put.write.output == Format::Json {
        let rest = [("version", json!(written.version.0)), ("created", json!(written.created))];
        print(&object(key, rest))?;
    }
    Ok(())
}

/// Writes a value to stdout, and nothing else: on a terminal, where nobody counts bytes, with a line's end.
pub(crate) async fn get(get: Get) -> Result<(), Failure> {
    let key = input::bytes(&get.key);
    let options = GetOptions { consistency: Some(get.consistency.into()), deadline: None };
    let item = get.connect.client()?.get_with(key, &options).await?.ok_or_else(|| absent(key))?;
    if get.write.output == Format::Json {
        let mut object = object(key, [("version", json!(item.version.0))]);
        insert_bytes(&mut object, "value", &item.value);
        return print(&object);
    }
    if get.write.verbose {
        eprintln!("version {}", item.version);
    }
    let mut out = io::stdout().lock();
    out.write_all(&item.value)?;
    if out.is_terminal() && !item.value.ends_with(b"\n") {
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

/// Deletes a key.
pub(crate) async fn delete(delete: Delete) -> Result<(), Failure> {
    let key = input::bytes(&delete.key);
    let options = DeleteOptions {
        condition: delete.condition.condition(),
        idempotency_key: delete.idempotency_key,
        fence: delete.fence,
        deadline: None,
    };
    let client = delete.connect.client()?;
    if !unless_interrupted(client.delete_with(key, &options)).await? {
        return Err(absent(key));
    }
    say(&delete.write, &format!("deleted `{}`", on_a_line(key)));
    if delete.write.output == Format::Json {
        print(&object(key, [("deleted", json!(true))]))?;
    }
    Ok(())
}

/// Lists keys.
pub(crate) async fn scan(scan: Scan) -> Result<(), Failure> {
    let mut left = scan.limit.unwrap_or(u64::MAX);
    let page = u32::try_from(left).unwrap_or(u32::MAX).min(scan.page);
    let request = annulus_client::Scan {
        prefix: Bytes::copy_from_slice(input::bytes(&scan.prefix)),
        limit: Some(page),
        values: scan.values,
        consistency: Some(scan.consistency.into()),
        ..annulus_client::Scan::default()
    };
    let mut pages = scan.connect.client()?.pages(request);
    let mut out = BufWriter::new(io::stdout().lock());
    while left > 0
        && let Some(page) = pages.next().await?
    {
        for entry in page.entries.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
            writeln!(out, "{}", line(entry, scan.output))?;
            left -= 1;
        }
        // A reader that looks on sees page after page.
        out.flush()?;
    }
    Ok(())
}

fn line(entry: &Entry, format: Format) -> String {
    if format == Format::Json {
        let mut object = object(&entry.key, [("version", json!(entry.version.0))]);
        if let Some(value) = &entry.value {
            insert_bytes(&mut object, "value", value);
        }
        return Value::Object(object).to_string();
    }
    let value = entry.value.as_ref().map(|value| format!("\t{}", on_a_line(value)));
    on_a_line(&entry.key) + &value.unwrap_or_default()
}

/// Runs a write to its end. Interrupted, it is not known whether it happened: the request may be under way already.
pub(crate) async fn unless_interrupted<T>(write: impl Future<Output = ClientResult<T>>) -> Result<T, Failure> {
    let failed = |error| Failure::system("signals can't be received", &error);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    tokio::select! {
        done = write => Ok(done?),
        _ = interrupt.recv() => Err(interrupted()),
        _ = terminate.recv() => Err(interrupted()),
    }
}

fn interrupted() -> Failure {
    Failure::OutcomeUnknown(
        "outcome unknown: interrupted. The write may have happened; read the key to find out.".into(),
    )
}

fn absent(key: &[u8]) -> Failure {
    Failure::Refused(format!("not found: there is no key `{}`", on_a_line(key)))
}

/// Tells a person what was done; a program asks for it with --verbose.
pub(crate) fn say(writing: &Writing, what: &str) {
    if writing.verbose || (writing.output == Format::Text && io::stderr().is_terminal()) {
        eprintln!("{what}");
    }
}

fn object<const N: usize>(key: &[u8], rest: [(&str, Value); N]) -> Map<String, Value> {
    let mut object = Map::new();
    insert_bytes(&mut object, "key", key);
    object.extend(rest.map(|(name, value)| (name.to_owned(), value)));
    object
}

pub(crate) fn print(object: &Map<String, Value>) -> Result<(), Failure> {
    Ok(writeln!(io::stdout().lock(), "{}", Value::Object(object.clone()))?)
}
