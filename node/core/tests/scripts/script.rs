//! Script files: comments and blocks of commands, each with its golden output.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// What plays the commands of one script.
pub trait Player {
    /// Does what one line says; returns what came of it, a line each.
    fn play(&mut self, command: &str) -> Result<Vec<String>, String>;
}

const RULE: &str = "----";

/// Plays all scripts in this folder and compares, or rewrites them when `ANNULUS_REWRITE` is set.
pub fn play_folder(kind: &str, new_player: impl Fn() -> Box<dyn Player>) {
    let mut wrong = Vec::new();
    let files = scripts(kind);
    assert!(!files.is_empty(), "there are {kind} scripts");
    for file in files {
        let recorded = fs::read_to_string(&file).expect("a script can be read");
        let name = format!("{kind}/{}", file.file_name().unwrap_or_default().to_string_lossy());
        let played = play(&name, &recorded, new_player().as_mut());
        if played == recorded {
            continue;
        }
        if rewrites() {
            fs::write(&file, played).expect("a script can be rewritten");
        } else {
            wrong.push(format!("{name}\n{}", first_difference(&recorded, &played)));
        }
    }
    assert!(wrong.is_empty(), "what came of the commands is not what is recorded\n{}", wrong.join("\n"));
}

#[allow(clippy::disallowed_methods, reason = "a test asks whether it is to rewrite its scripts; the core does not")]
fn rewrites() -> bool {
    std::env::var_os("ANNULUS_REWRITE").is_some()
}

fn scripts(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts").join(kind);
    let entries = fs::read_dir(folder).expect("the folder of the scripts can be read");
    let files = entries.map(|entry| entry.expect("its entries can be read").path());
    let mut files: Vec<_> = files.filter(|file| file.extension().is_some_and(|extension| extension == "txt")).collect();
    files.sort();
    files
}

/// The script with its commands played anew.
fn play(name: &str, recorded: &str, player: &mut dyn Player) -> String {
    let mut played = String::new();
    let mut output = Vec::new();
    let mut lines = recorded.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        writeln!(played, "{line}").expect("a text takes a line");
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        if line != RULE {
            // Shown when the test fails, for commands that panic.
            println!("{name}:{}: {line}", number + 1);
            output.extend(player.play(line).unwrap_or_else(|error| panic!("{name}:{}: {error}", number + 1)));
            continue;
        }
        for line in output.drain(..) {
            writeln!(played, "{}", line.trim_end()).expect("a text takes a line");
        }
        let _ = lines.by_ref().find(|(_, line)| line.is_empty());
        played.push('\n');
    }
    assert!(output.is_empty(), "{name}: the last block has no {RULE}");
    while played.ends_with("\n\n") {
        played.pop();
    }
    played
}

fn first_difference(recorded: &str, played: &str) -> String {
    let (recorded, played): (Vec<_>, Vec<_>) = (recorded.lines().collect(), played.lines().collect());
    let same = recorded.iter().zip(&played).take_while(|(a, b)| a == b).count();
    let from = same.saturating_sub(12);
    let mut shown = String::new();
    for line in &played[from..same] {
        writeln!(shown, "    {line}").expect("a text takes a line");
    }
    for (sign, lines) in [('-', &recorded), ('+', &played)] {
        for line in lines.iter().skip(same).take(8) {
            writeln!(shown, "  {sign} {line}").expect("a text takes a line");
        }
    }
    shown
}
