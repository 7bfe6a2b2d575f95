//! `cargo xtest`: every check of the project, in order, by one command that needs nothing but Rust.
//!
//! Runs the [`STEPS`] one after the other and stops at the first that fails. A failing step shows its whole output, a
//! passing one only the `test result:` lines of what ran; either way all of it is in `check/` under cargo's target folder.
//! A step whose tool is not on this machine is skipped aloud; with `CI=true` that is a failure, so nothing is skipped.
//!
//! It never installs anything, never changes a file outside the target folder, and never counts a test step that ran no
//! test as passed. Arguments pick steps by name: `cargo xtest fmt clippy`.

mod report;
mod steps;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;
use std::{env, fs, io};

use report::{Counts, Outcome, Report};
use steps::{STEPS, Step, Tool};

fn main() -> ExitCode {
    let names: Vec<String> = env::args().skip(1).collect();
    let steps = match pick(&names) {
        Ok(steps) => steps,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    match run_all(&steps) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the checks could not be run: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The steps with these names in the table's order; all of them when none is named.
fn pick(names: &[String]) -> Result<Vec<&'static Step>, String> {
    if let Some(unknown) = names.iter().find(|name| !STEPS.iter().any(|step| step.name == **name)) {
        let known: Vec<&str> = STEPS.iter().map(|step| step.name).collect();
        return Err(format!("there is no step {unknown}; the steps are: {}", known.join(", ")));
    }
    Ok(STEPS.iter().filter(|step| names.is_empty() || names.iter().any(|name| name == step.name)).collect())
}

/// Runs the steps until one fails; tells whether none did.
fn run_all(steps: &[&Step]) -> io::Result<bool> {
    let started = Instant::now();
    let root = workspace_root();
    let logs = target_folder(&root).join("check");
    fs::create_dir_all(&logs)?;
    let nothing_skipped = env::var("CI").is_ok_and(|value| value == "true");

    let mut report = Report::new(steps.iter().map(|step| step.name));
    for (index, step) in steps.iter().enumerate() {
        report.begin(step.name, step.command);
        let missing = step.needs.filter(|tool| !is_there(*tool, &root));
        let step_started = Instant::now();
        let outcome = match missing {
            Some(tool) if nothing_skipped => {
                Outcome::failed(format!("CI=true skips nothing, and {}\n", tool.missing()))
            }
            Some(tool) => Outcome::Skipped(tool.missing()),
            None => run(step, &root, &logs.join(format!("{index}-{}.log", step.name)))?,
        };
        if !report.end(outcome, step_started.elapsed()) {
            break;
        }
    }
    Ok(report.finish(started.elapsed()))
}

/// Runs one step. Its output goes to a file and not through a pipe, so that a process which outlives the step and still
/// holds the other end cannot keep us waiting, and so that it can be read while the step runs.
fn run(step: &Step, root: &Path, log: &Path) -> io::Result<Outcome> {
    let output = fs::File::create(log)?;
    let status = command(step.command, root)
        .envs(step.environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .status()?;
    let text = String::from_utf8_lossy(&fs::read(log)?).into_owned();
    let counts = Counts::of(&text);
    Ok(match (status.success(), step.tests && counts.ran() == 0) {
        (true, false) => Outcome::Passed { counts, text },
        (true, true) => Outcome::failed(format!("{text}\nthe command succeeded but ran no test\n")),
        (false, _) => Outcome::Failed { counts, text: format!("{text}\n{}: {status}\n", step.command) },
    })
}

/// The command of a line of plain words, to run in the workspace's root.
fn command(line: &str, root: &Path) -> Command {
    let mut words = line.split_whitespace();
    let program = words.next().expect("a step has a command");
    let mut command = Command::new(program);
    command.args(words).current_dir(root).env("CARGO_TERM_COLOR", "never");
    command
}

fn is_there(tool: Tool, root: &Path) -> bool {
    let status = command(tool.probe(), root).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// Where the workspace's Cargo.toml lies: cargo tells where this package does, two levels below.
fn workspace_root() -> PathBuf {
    let package =
        env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    package.ancestors().nth(2).expect("tests/check lies two levels below the root").to_path_buf()
}

fn target_folder(root: &Path) -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |folder| root.join(folder))
}
