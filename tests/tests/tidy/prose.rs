//! Rules about text: spaces, paths, links, the names of decisions, and README's two commands.

use std::path::Path;

use pulldown_cmark::{Event, Parser, Tag, TagEnd};

use crate::assert_none;
use crate::repository::{files, files_with_extension, normalize, root, text};

#[test]
fn no_line_ends_in_a_space() {
    let mut found = Vec::new();
    each_line(|file, number, line| {
        if line.ends_with([' ', '\t', '\r']) {
            found.push(format!("{}:{number}", file.display()));
        }
    });
    assert_none("lines that end in a space, a tab or a carriage return", found);
}

#[test]
fn no_file_names_a_folder_of_somebodys_machine() {
    let mut found = Vec::new();
    each_line(|file, number, line| {
        if names_a_machines_folder(line) {
            found.push(format!("{}:{number}: {}", file.display(), line.trim()));
        }
    });
    assert_none("paths that exist on one machine only", found);
}

#[test]
fn every_relative_link_points_at_something() {
    let mut found = Vec::new();
    for file in files_with_extension("md") {
        let text = text(&file).expect("a Markdown file is text");
        let folder = file.parent().expect("a file lies in a folder");
        for target in links(&text).iter().filter_map(|link| relative_target(link)) {
            if !root().join(normalize(&folder.join(target))).exists() {
                found.push(format!("{}: {target}", file.display()));
            }
        }
    }
    assert_none("links that lead nowhere", found);
}

#[test]
fn a_decision_is_named_by_its_date_and_what_it_is_about() {
    let mut found = Vec::new();
    for file in files().iter().filter(|file| file.starts_with("docs/decisions")) {
        let name = file.file_name().and_then(|name| name.to_str()).expect("file names are UTF-8");
        if name != "README.md" && !is_decision_name(name) {
            found.push(format!("{}: not YYYY-MM-DD-slug.md", file.display()));
        }
    }
    assert_none("decisions that are not found by date", found);
}

/// The first command is what a person runs first, the second tests the project; what the two build is what CI builds.
#[test]
fn readmes_two_commands_are_the_ones_that_ci_runs() {
    let readme = text(Path::new("README.md")).expect("README.md is text");
    let blocks = code_blocks(&readme);
    let [run, test, ..] = blocks.as_slice() else { panic!("README.md opens with two commands") };
    assert_eq!(run.as_str(), "cargo run --release -p annulus -- dev");
    assert_eq!(test.as_str(), "cargo xtest");

    let ci = text(Path::new(".ci/run")).expect(".ci/run is text");
    assert!(
        ci.lines().any(|line| line.trim() == format!("step {test}")),
        ".ci/run calls `{test}` on a line of its own"
    );
    let aliases = text(Path::new(".cargo/config.toml")).expect("cargo's configuration is text");
    assert!(aliases.contains("\nxtest = \"run "), "xtest is an alias");

    let build = run.replace("cargo run", "cargo build").replace(" -- dev", "");
    let steps = text(Path::new("tests/check/src/steps.rs")).expect("the table of steps is text");
    assert!(steps.contains(&format!("\"{build}\"")), "`{test}` has a step `{build}`");
}

/// Calls `look` with every line of every text file of the repository.
fn each_line(mut look: impl FnMut(&Path, usize, &str)) {
    for file in files() {
        // Not `lines()`, which takes a carriage return away.
        for (index, line) in text(&file).unwrap_or_default().split('\n').enumerate() {
            look(&file, index + 1, line);
        }
    }
}

/// Whether a line holds an absolute path into a home folder or the like. A path that only contains such a name, as
/// `docs/work/` does, is relative.
fn names_a_machines_folder(line: &str) -> bool {
    // The slashes apart, so that this file does not break its own rule.
    let folders = ["home", "root", "work", "Users"].map(|name| format!("/{name}/"));
    folders.iter().any(|folder| {
        line.match_indices(folder.as_str()).any(|(start, _)| {
            let before = line[..start].chars().next_back();
            !before.is_some_and(|character| character.is_alphanumeric() || "._-})".contains(character))
        })
    })
}

/// The targets of a Markdown text's links and images; code is not looked into.
fn links(markdown: &str) -> Vec<String> {
    let target = |event| match event {
        Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => Some(dest_url.to_string()),
        _ => None,
    };
    Parser::new(markdown).filter_map(target).collect()
}

/// The file that a link names, unless it leads out of the repository or stays on its page.
fn relative_target(link: &str) -> Option<&str> {
    let file = link.split('#').next().unwrap_or_default();
    let leads_out = link.contains("://") || link.starts_with("mailto:");
    (!leads_out && !file.is_empty()).then_some(file)
}

/// What is in a Markdown text's code blocks, trimmed.
fn code_blocks(markdown: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<String> = None;
    for event in Parser::new(markdown) {
        match event {
            Event::Start(Tag::CodeBlock(_)) => open = Some(String::new()),
            Event::End(TagEnd::CodeBlock) => blocks.extend(open.take().map(|block| block.trim().to_owned())),
            Event::Text(text) => {
                if let Some(block) = &mut open {
                    block.push_str(&text);
                }
            }
            _ => {}
        }
    }
    blocks
}

fn is_decision_name(name: &str) -> bool {
    let Some((date, slug)) = name.split_at_checked(10) else { return false };
    let digits_and_dashes = date.char_indices().all(|(index, character)| match index {
        4 | 7 => character == '-',
        _ => character.is_ascii_digit(),
    });
    let slug = slug.strip_prefix('-').and_then(|slug| slug.strip_suffix(".md")).unwrap_or_default();
    let word = |character: char| character.is_ascii_lowercase() || character.is_ascii_digit() || character == '-';
    digits_and_dashes && !slug.is_empty() && slug.chars().all(word)
}

/// The rules themselves, on text made to break them.
mod the_rules {
    use super::*;

    #[test]
    fn a_machines_folder_is_told_from_a_relative_path() {
        let home = format!("/{}/", "home");
        assert!(names_a_machines_folder(&format!("see {home}me/x")));
        assert!(names_a_machines_folder(&format!("`{home}`")));
        assert!(!names_a_machines_folder(&format!("docs{home}x")));
        assert!(!names_a_machines_folder("${HOME}/.cache"));
    }

    #[test]
    fn links_are_taken_from_text_and_not_from_code() {
        let markdown = "[a](b.md#c) ![i](i.png) [r]\n\n```\n[no](no.md)\n```\n`[no](no.md)`\n\n[r]: <d/e.md>\n";
        assert_eq!(links(markdown), ["b.md#c", "i.png", "d/e.md"]);
        assert_eq!(relative_target("b.md#c"), Some("b.md"));
        assert_eq!(relative_target("#c"), None);
        assert_eq!(relative_target("https://example.com/a"), None);
    }

    #[test]
    fn a_decisions_name_is_a_date_and_a_slug() {
        assert!(is_decision_name("2026-11-23-one-table.md"));
        for name in ["one-table.md", "2026-11-23.md", "2026-11-23-One.md", "2026_11_23-one.md", "2026-11-23-one.txt"] {
            assert!(!is_decision_name(name), "{name}");
        }
    }

    #[test]
    fn code_blocks_come_in_order() {
        assert_eq!(code_blocks("a\n\n```sh\none\n```\n\nb `c`\n\n```sh\ntwo\n```\n"), ["one", "two"]);
    }
}
