//! Writing to people and to programs.

use std::io::{self, IsTerminal};
use std::time::Duration;

use annulus_client::BytesAsText;
use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use serde_json::{Map, Value};

/// How a command writes what it found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Default)]
pub(crate) enum Format {
    /// For people; values as they are.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Whether stdout may be coloured: a terminal, and nobody asked for plain text.
pub(crate) fn colour() -> bool {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
    io::stdout().is_terminal() && !plain && !dumb
}

/// The colour of the member at this place. Six that are told apart on dark and light ground, then again from the first.
pub(crate) fn member_style(place: usize) -> Style {
    let colours =
        [AnsiColor::Blue, AnsiColor::Yellow, AnsiColor::Magenta, AnsiColor::Green, AnsiColor::Cyan, AnsiColor::Red];
    colours[place % colours.len()].on_default()
}

/// Adds bytes to a JSON object: as `name` when they are UTF-8, else as `name_base64`.
pub(crate) fn insert_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    let text = BytesAsText::new(bytes);
    object.insert(text.field(name), Value::String(text.text));
}

/// Bytes on a line of text: what is printable UTF-8 stands as it is; anything else, and `%`, is percent-encoded, so that
/// a line stays a line and the bytes can be had back.
pub(crate) fn on_a_line(bytes: &[u8]) -> String {
    let mut line = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() || character == '%' {
                let mut buffer = [0; 4];
                character.encode_utf8(&mut buffer).bytes().for_each(|byte| push_encoded(&mut line, byte));
            } else {
                line.push(character);
            }
        }
        chunk.invalid().iter().for_each(|byte| push_encoded(&mut line, *byte));
    }
    line
}

fn push_encoded(line: &mut String, byte: u8) {
    line.push_str(&format!("%{byte:02X}"));
}

/// A span of time, as exactly as a person wants to know it.
pub(crate) fn span(span: Duration) -> String {
    match span.as_secs() {
        0..10 => format!("{:.1} s", span.as_secs_f64()),
        seconds @ 10..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

/// Lines of cells, each column as wide as its widest cell. Columns named in `right` are numbers.
pub(crate) fn table(head: &[&str], right: &[usize], rows: &[Vec<String>]) -> Vec<String> {
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let width = |column: usize| {
        let cells = std::iter::once(&head).chain(rows).filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let line = |row: &Vec<String>| {
        let cell = |(column, cell): (usize, &String)| match width(column) {
            width if right.contains(&column) => format!("{cell:>width$}"),
            width => format!("{cell:<width$}"),
        };
        row.iter().enumerate().map(cell).collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    std::iter::once(&head).chain(rows).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_on_a_line_is_readable_and_never_breaks_the_line() {
        assert_eq!(on_a_line("users/grün 1".as_bytes()), "users/grün 1");
        assert_eq!(on_a_line(b"a\nb\t100%\xff\x1b[31m"), "a%0Ab%09100%25%FF%1B[31m");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["node-1".to_owned(), "7".to_owned()], vec!["n".to_owned(), "128".to_owned()]];
        assert_eq!(table(&["name", "leads"], &[1], &rows), ["name    leads", "node-1      7", "n         128"]);
    }
}
