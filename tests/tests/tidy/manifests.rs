//! Rules about Cargo's and clippy's files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::assert_none;
use crate::repository::{files, root, text};

/// Crates that would let the core see the world, or that belong to the shell around it.
const NOT_IN_THE_CORE: &[&str] = &[
    "annulus-client",
    "annulus-node",
    "crossbeam-channel",
    "getrandom",
    "http",
    "hyper",
    "hyper-util",
    "libc",
    "rand",
    "redb",
    "reqwest",
    "rustix",
    "socket2",
    "tokio",
    "tracing-subscriber",
];

#[test]
fn the_core_depends_on_no_crate_that_does_input_or_output() {
    let mut found = Vec::new();
    for package in packages().iter().filter(|package| package["name"] == "annulus-core") {
        let dependencies = package["dependencies"].as_array().expect("a package lists its dependencies");
        let shipped = dependencies.iter().filter(|dependency| dependency["kind"] != "dev");
        let names = shipped.filter_map(|dependency| dependency["name"].as_str());
        found.extend(names.filter(|name| NOT_IN_THE_CORE.contains(name)).map(str::to_owned));
    }
    assert_none("the core decides and the shell acts; these crates act", found);
}

#[test]
fn a_member_names_no_version_and_takes_the_workspaces_lints() {
    let mut found = Vec::new();
    for manifest in member_manifests() {
        let text = text(&manifest).expect("a manifest is text");
        if !text.contains("[lints]\nworkspace = true\n") {
            found.push(format!("{}: does not say `[lints]` `workspace = true`", manifest.display()));
        }
        let mut section = "";
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.starts_with('[') {
                section = line;
            } else if section.ends_with("dependencies]") && line.contains('=') && !line.contains("workspace = true") {
                found.push(format!("{}:{}: {line}", manifest.display(), index + 1));
            }
        }
    }
    assert_none("one dependency table: the root's Cargo.toml", found);
}

#[test]
fn the_cores_clippy_bans_hold_all_of_the_workspaces() {
    let lines = |file: &str| -> BTreeSet<String> {
        let text = text(Path::new(file)).expect("clippy.toml is text");
        text.lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(str::to_owned)
            .collect()
    };
    let missing = lines("clippy.toml").difference(&lines("node/core/clippy.toml")).cloned().collect();
    assert_none("clippy reads only the nearest clippy.toml, and the core's lacks", missing);
}

/// The root file of every target of every package, relative to the repository.
pub(crate) fn target_roots() -> BTreeSet<PathBuf> {
    let mut roots = BTreeSet::new();
    for package in packages() {
        for target in package["targets"].as_array().expect("a package lists its targets") {
            roots.insert(relative(target["src_path"].as_str().expect("a target has a root file")));
        }
    }
    roots
}

/// The manifests of the workspace's members.
fn member_manifests() -> Vec<PathBuf> {
    metadata(Path::new("Cargo.toml")).iter().map(manifest_of).collect()
}

/// Every package of the repository: the workspace's, and those that are a workspace of their own.
fn packages() -> Vec<Value> {
    let mut packages = metadata(Path::new("Cargo.toml"));
    let mut known: BTreeSet<PathBuf> = packages.iter().map(manifest_of).collect();
    known.insert(PathBuf::from("Cargo.toml"));
    let manifests = files().into_iter().filter(|file| file.file_name().is_some_and(|name| name == "Cargo.toml"));
    for manifest in manifests.filter(|manifest| !known.contains(manifest)) {
        packages.extend(metadata(&manifest));
    }
    packages
}

fn manifest_of(package: &Value) -> PathBuf {
    relative(package["manifest_path"].as_str().expect("a package has a manifest"))
}

fn relative(path: &str) -> PathBuf {
    Path::new(path).strip_prefix(root()).expect("packages lie in the repository").to_path_buf()
}

/// What cargo makes of a manifest; without dependencies, so it asks nobody.
fn metadata(manifest: &Path) -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline", "--manifest-path"])
        .arg(root().join(manifest))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}: {}", manifest.display(), String::from_utf8_lossy(&output.stderr));
    let mut metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    match metadata["packages"].take() {
        Value::Array(packages) => packages,
        other => panic!("cargo metadata lists packages, not {other}"),
    }
}
