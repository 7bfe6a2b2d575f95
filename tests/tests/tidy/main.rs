//! Tidy: what no compiler and no lint holds this repository to.
//!
//! Each test collects everything it finds wrong, as `file:line: what`, and fails with the whole list. There are no
//! exceptions; whoever needs one makes it a ratchet: an exact count that may only fall.
//!
//! It never changes a file, and it looks only at what git tracks (without git, at the whole folder).

mod manifests;
mod prose;
mod repository;
mod rust;

/// Fails with the whole list when there is anything on it.
fn assert_none(rule: &str, mut found: Vec<String>) {
    found.sort();
    found.dedup();
    assert!(found.is_empty(), "{rule}\n  {}\n", found.join("\n  "));
}
