//! The simulator over many seeds, and the known bugs that it must catch.
//!
//! - `ANNULUS_SEEDS=200`: how many seeds `safety_and_liveness_hold_for_every_seed` runs (20 without).
//! - `ANNULUS_SEED=17`: the seed that `replay` runs (without it, it does nothing); with `ANNULUS_BUG=vote-not-persisted`
//!   with that bug put back in.
//! - `ANNULUS_PROFILE=Leases`: both of these under another profile than `General`.

use std::fs;
use std::path::PathBuf;

use annulus_core::bugs::{self, Bug};
use annulus_tests::simulator::faults::{self, Counters};
use annulus_tests::simulator::{Profile, Report, run, seeds};

/// Seeds of `safety_and_liveness_hold_for_every_seed` when nobody says how many.
const SEEDS: u64 = 20;
/// Seeds within which each known bug must be caught.
const BUG_SEEDS: u64 = 100;

/// Runs a seed; if something is broken, saves what happened and says how to see it again.
fn run_seed(seed: u64, profile: Profile) -> Result<Report, String> {
    let report = run(seed, profile);
    let Some(broken) = &report.broken else { return Ok(report) };
    let path = save(&report, &format!("{profile:?}-{seed}"));
    let profile = if profile == Profile::General { String::new() } else { format!("ANNULUS_PROFILE={profile:?} ") };
    Err(format!(
        "seed {seed}: {broken}\nwhat happened: {}\nagain: {profile}ANNULUS_SEED={seed} cargo test --release -p annulus-tests \
         --test simulator replay -- --nocapture",
        path.display()
    ))
}

fn save(report: &Report, name: &str) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("simulator");
    let path = directory.join(format!("{name}.txt"));
    fs::create_dir_all(&directory)
        .and_then(|()| fs::write(&path, report.trace.text()))
        .expect("target/ can be written");
    path
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is `{text}`; it must be a number")))
}

fn named_profile() -> Profile {
    std::env::var("ANNULUS_PROFILE").map_or(Profile::General, |name| {
        let all = Profile::ALL;
        all.into_iter().find(|profile| format!("{profile:?}") == name).unwrap_or_else(|| panic!("one of {all:?}"))
    })
}

#[test]
fn safety_and_liveness_hold_for_every_seed() {
    let count = number("ANNULUS_SEEDS").unwrap_or(SEEDS);
    let mut counters = Counters::default();
    let mut answered = 0;
    let mut failures = Vec::new();
    let profile = named_profile();
    // Of a report only what is counted is kept: its trace is long.
    let ran = seeds::each(count, |seed| run_seed(seed, profile).map(|report| (report.counters, report.answered)));
    for (seed, ran) in (1..).zip(ran) {
        match ran {
            Ok((counted, more)) => {
                counters.merge(&counted);
                answered += more;
            }
            Err(failure) => {
                eprintln!("{failure}");
                failures.push(seed);
            }
        }
    }
    println!("{count} seeds, {answered} operations answered; {counters}");
    assert!(failures.is_empty(), "seeds {failures:?} failed");
    for fault in faults::ALL {
        assert!(profile != Profile::General || counters.of(fault) > 0, "{fault:?} never happened");
    }
}

#[test]
fn what_brings_out_known_bugs_brings_out_nothing_without_them() {
    let count = number("ANNULUS_SEEDS").unwrap_or(SEEDS).div_ceil(40);
    let others = Profile::ALL.into_iter().filter(|profile| *profile != Profile::General);
    let failures: Vec<String> =
        others.flat_map(|profile| seeds::each(count, |seed| run_seed(seed, profile).err())).flatten().collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let twice = [
        (1, Profile::General),
        (2, Profile::General),
        (3, Profile::Crashes),
        (4, Profile::Leases),
        (5, Profile::Rings),
        (6, Profile::Replacements),
        (7, Profile::LateMaps),
        (8, Profile::Locks),
        (9, Profile::Transactions),
    ];
    for (seed, profile) in twice {
        let (first, second) = (run(seed, profile), run(seed, profile));
        if first.trace.text() != second.trace.text() {
            let paths = (save(&first, &format!("first-{seed}")), save(&second, &format!("second-{seed}")));
            panic!("seed {seed} gave two traces: compare {} and {}", paths.0.display(), paths.1.display());
        }
        println!("seed {seed}: {}", first.trace.hash());
    }
}

#[test]
fn replay() {
    let Some(seed) = number("ANNULUS_SEED") else { return };
    let profile = named_profile();
    if let Ok(name) = std::env::var("ANNULUS_BUG") {
        bugs::plant(bugs::ALL.iter().find(|(known, _)| *known == name).map(|(_, bug)| *bug));
    }
    let result = run_seed(seed, profile);
    bugs::plant(None);
    match result {
        Ok(report) => {
            let path = save(&report, &format!("{profile:?}-{seed}"));
            println!("seed {seed} holds: {} operations; {}; {}", report.answered, report.counters, path.display());
        }
        Err(failure) => panic!("{failure}"),
    }
}

/// Puts the bug back in and runs seeds until one is broken.
fn is_caught(bug: Bug, profile: Profile) {
    bugs::plant(Some(bug));
    let caught = (1..=BUG_SEEDS).find_map(|seed| run(seed, profile).broken.map(|broken| (seed, broken)));
    bugs::plant(None);
    let Some((seeds, broken)) = caught else { panic!("{bug:?} was not caught within {BUG_SEEDS} seeds") };
    println!("{bug:?} was caught by seed {seeds} ({profile:?}): {broken}");
}

#[test]
fn an_acknowledgement_before_the_sync_is_caught() {
    is_caught(Bug::AcknowledgeBeforeSync, Profile::Crashes);
}

#[test]
fn a_reply_before_the_quorum_is_caught() {
    is_caught(Bug::ReplyBeforeQuorum, Profile::General);
}

#[test]
fn a_vote_that_was_not_persisted_is_caught() {
    is_caught(Bug::VoteNotPersisted, Profile::Elections);
}

#[test]
fn a_lease_that_a_pause_does_not_shorten_is_caught() {
    is_caught(Bug::LeaseNotShortenedAfterPause, Profile::Leases);
}

#[test]
fn a_wal_dropped_before_the_checkpoint_is_durable_is_caught() {
    is_caught(Bug::WalDroppedBeforeCheckpoint, Profile::Checkpoints);
}

#[test]
fn overlays_merged_in_the_wrong_order_are_caught() {
    is_caught(Bug::OverlayMergedInWrongOrder, Profile::Checkpoints);
}

#[test]
fn a_read_before_an_entry_of_the_own_term_is_caught() {
    is_caught(Bug::ReadBeforeOwnTerm, Profile::SlowDisks);
}

#[test]
fn a_vote_right_after_a_restart_is_caught() {
    is_caught(Bug::VoteRightAfterRestart, Profile::Bounces);
}

#[test]
fn a_lease_that_a_learner_prolongs_is_caught() {
    is_caught(Bug::LearnerCountedAsVoter, Profile::Moves);
}

#[test]
fn a_replica_dropped_while_its_group_still_needs_it_is_caught() {
    is_caught(Bug::OldReplicaDroppedInJoint, Profile::Replacements);
}

#[test]
fn a_leader_that_acts_on_an_old_map_is_caught() {
    is_caught(Bug::StaleMapObeyed, Profile::LateMaps);
}

#[test]
fn a_drain_that_leaves_something_behind_is_caught() {
    is_caught(Bug::DrainForgetsPartition, Profile::Rings);
}

#[test]
fn a_snapshot_that_holds_less_than_it_says_is_caught() {
    is_caught(Bug::SnapshotRacesCompaction, Profile::Turns);
}

#[test]
fn a_cancelled_move_that_leaves_its_learner_is_caught() {
    is_caught(Bug::CancelledMoveLeavesLearner, Profile::Rings);
}

#[test]
fn a_fence_that_only_the_leader_knows_is_caught() {
    is_caught(Bug::FenceNotReplicated, Profile::Operators);
}

#[test]
fn a_configuration_reported_before_its_voters_know_of_it_is_caught() {
    is_caught(Bug::ReportedBeforeKnown, Profile::Replacements);
}

#[test]
fn a_move_that_an_old_report_ends_is_caught() {
    is_caught(Bug::MoveEndedByStaleReport, Profile::LateMaps);
}

#[test]
fn a_vote_of_a_replica_that_has_nothing_is_caught() {
    is_caught(Bug::BlankReplicaVotes, Profile::Turns);
}

#[test]
fn an_answer_to_an_earlier_life_is_caught() {
    is_caught(Bug::AnswerOfEarlierLife, Profile::Answers);
}

#[test]
fn a_queue_that_skips_one_who_waits_is_caught() {
    is_caught(Bug::QueueSkipsWaiter, Profile::Locks);
}

#[test]
fn a_fence_that_is_only_in_memory_is_caught() {
    is_caught(Bug::FenceOnlyInMemory, Profile::Locks);
}

#[test]
fn a_lease_that_ends_by_the_leaders_own_clock_is_caught() {
    is_caught(Bug::LockExpiredByLocalClock, Profile::Locks);
}

#[test]
fn a_token_that_is_counted_anew_is_caught() {
    is_caught(Bug::TokenCountedAnew, Profile::Locks);
}

#[test]
fn a_prepare_that_is_acknowledged_too_early_is_caught() {
    is_caught(Bug::PrepareNotDurable, Profile::Transactions);
}

#[test]
fn a_commit_before_all_have_prepared_is_caught() {
    is_caught(Bug::CommittedWithoutAllPrepares, Profile::Transactions);
}

#[test]
fn a_recovery_that_aborts_what_is_committed_is_caught() {
    is_caught(Bug::RecoveryAbortsCommitted, Profile::Transactions);
}

#[test]
fn a_refusal_that_a_restart_forgets_is_caught() {
    is_caught(Bug::PreventedForgottenOnRestart, Profile::Transactions);
}

#[test]
fn a_read_past_what_is_open_is_caught() {
    is_caught(Bug::ReadPastIntent, Profile::Transactions);
}

#[test]
fn an_end_that_is_done_twice_is_caught() {
    is_caught(Bug::ResolveAppliedTwice, Profile::Transactions);
}

#[test]
fn every_known_bug_has_a_test() {
    let source = include_str!("simulator.rs");
    for (name, bug) in bugs::ALL {
        assert!(source.contains(&format!("is_caught(Bug::{bug:?}, ")), "{name} is not shown to be caught");
    }
}
