//! The store and its operator together in one seed: the real core on simulated disks and a simulated network, and the operator's
//! real rounds against a simulated API server, all on one clock, while everything may go wrong.
//!
//! ```text
//!   person ── what is wanted, what breaks ──▶ simulated API server ◀──▶ operators ── the real rounds
//!                                                   │                       │
//!                                                machines                 stores ── what they ask of members
//!                                                   ▼                       ▼
//!                                    the simulator: members, disks, network, clients, checks
//! ```
//!
//! - `ANNULUS_SEEDS=200`: how many seeds are run (2 without).
//! - `ANNULUS_SEED=17`: the seed that `replay` runs (without it, it does nothing).

mod machines;
mod operators;
mod person;
mod run;
mod stores;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use annulus_tests::simulator::faults::Counters;
use annulus_tests::simulator::seeds;
use run::{Outcome, run};

/// Where the cluster is.
const NAMESPACE: &str = "default";
/// What it is called.
const NAME: &str = "demo";
/// Seeds when nobody says how many.
const SEEDS: u64 = 2;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is `{text}`; it must be a number")))
}

fn save(outcome: &Outcome, name: &str) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("operated");
    let path = directory.join(format!("{name}.txt"));
    fs::create_dir_all(&directory)
        .and_then(|()| fs::write(&path, outcome.trace.text()))
        .expect("target/ can be written");
    path
}

/// Runs a seed; if something is broken, saves what happened and says how to see it again.
fn run_seed(seed: u64) -> Result<Outcome, String> {
    let outcome = run(seed);
    let Some(broken) = &outcome.broken else { return Ok(outcome) };
    let path = save(&outcome, &seed.to_string());
    Err(format!(
        "seed {seed}: {broken}\nwhat happened: {}\nagain: ANNULUS_SEED={seed} cargo test --release -p annulus-tests --test \
         operated replay -- --nocapture",
        path.display()
    ))
}

#[test]
fn whatever_is_asked_and_whatever_breaks_the_operated_store_settles_and_loses_nothing() {
    let count = number("ANNULUS_SEEDS").unwrap_or(SEEDS);
    let (mut counters, mut counts, mut failures) = (Counters::default(), BTreeMap::new(), Vec::new());
    let (mut answered, mut seconds) = (0, 0);
    // Of an outcome only what is counted is kept: its trace is long.
    let ran = seeds::each(count, |seed| {
        let Outcome { counters, counts, answered, seconds, .. } = run_seed(seed)?;
        Ok::<_, String>((counters, counts, answered, seconds))
    });
    for (seed, ran) in (1..).zip(ran) {
        match ran {
            Ok((counted, kinds, more, lasted)) => {
                counters.merge(&counted);
                for (kind, times) in kinds {
                    *counts.entry(kind).or_insert(0) += times;
                }
                answered += more;
                seconds += lasted;
            }
            Err(failure) => {
                eprintln!("{failure}");
                failures.push(seed);
            }
        }
    }
    println!("{count} seeds, {seconds} s, {answered} operations answered; {counts:?}; {counters}");
    assert!(failures.is_empty(), "seeds {failures:?} failed");
    if count >= 50 {
        let never: Vec<&&str> = person::KINDS.iter().filter(|kind| !counts.contains_key(**kind)).collect();
        assert!(never.is_empty(), "{never:?} never happened");
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let (first, second) = (run(1), run(1));
    if first.trace.text() != second.trace.text() {
        let paths = (save(&first, "first"), save(&second, "second"));
        panic!("one seed gave two traces: compare {} and {}", paths.0.display(), paths.1.display());
    }
    println!("seed 1: {}", first.trace.hash());
}

#[test]
fn replay() {
    let Some(seed) = number("ANNULUS_SEED") else { return };
    match run_seed(seed) {
        Ok(outcome) => {
            let path = save(&outcome, &seed.to_string());
            println!("seed {seed} holds: {} operations; {:?}; {}", outcome.answered, outcome.counts, path.display());
        }
        Err(failure) => panic!("{failure}"),
    }
}
