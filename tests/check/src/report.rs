//! What the reader sees: a line for each step, the tests that ran, and the sum of them at the end.

use std::io::Write as _;
use std::time::Duration;

/// How a step went.
pub(crate) enum Outcome {
    Passed { counts: Counts, text: String },
    Failed { counts: Counts, text: String },
    Skipped(&'static str),
}

impl Outcome {
    /// A failure that no test's count tells of.
    pub(crate) fn failed(text: String) -> Self {
        Self::Failed { counts: Counts::default(), text }
    }
}

/// The sums of the `test result:` lines in an output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Counts {
    /// Adds up every line like `test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; …`.
    pub(crate) fn of(output: &str) -> Self {
        let mut counts = Self::default();
        for line in output.lines().filter(|line| is_result(line)) {
            counts.add(Self::of_line(line));
        }
        counts
    }

    /// How many tests were run.
    pub(crate) fn ran(self) -> u64 {
        self.passed + self.failed
    }

    fn of_line(line: &str) -> Self {
        let count = |what: &str| -> u64 {
            let field = line.split(['.', ';']).map(str::trim).find_map(|field| field.strip_suffix(what));
            field.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
        };
        Self { passed: count(" passed"), failed: count(" failed"), ignored: count(" ignored") }
    }

    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

fn is_result(line: &str) -> bool {
    line.starts_with("test result: ")
}

/// Prints as the steps go, and keeps what is still to run and the sums.
pub(crate) struct Report {
    waiting: Vec<&'static str>,
    sums: Counts,
    skipped_steps: u64,
    failed: bool,
}

impl Report {
    pub(crate) fn new(names: impl Iterator<Item = &'static str>) -> Self {
        Self { waiting: names.collect(), sums: Counts::default(), skipped_steps: 0, failed: false }
    }

    /// Names the step before it runs, so that who waits sees for what.
    pub(crate) fn begin(&mut self, name: &'static str, command: &str) {
        self.waiting.retain(|waiting| *waiting != name);
        print!("{name:<7} {command} … ");
        // A console that went away is found out by the next print; what matters is the exit code.
        let _ = std::io::stdout().flush();
    }

    /// Tells how the step went; false when the run ends here.
    pub(crate) fn end(&mut self, outcome: Outcome, took: Duration) -> bool {
        let seconds = took.as_secs_f64();
        match outcome {
            Outcome::Skipped(why) => {
                println!("SKIPPED: {why}");
                self.skipped_steps += 1;
            }
            Outcome::Passed { counts, text } => {
                println!("ok, {seconds:.1} s");
                for line in summary(&text) {
                    println!("{line}");
                }
                self.sums.add(counts);
            }
            Outcome::Failed { mut counts, text } => {
                println!("FAILED, {seconds:.1} s\n{text}");
                // A step can fail without a failed test; the sums must not then read as if all were well.
                counts.failed = counts.failed.max(1);
                self.sums.add(counts);
                self.failed = true;
            }
        }
        !self.failed
    }

    /// Prints the sums; tells whether nothing failed.
    pub(crate) fn finish(self, took: Duration) -> bool {
        if self.failed && !self.waiting.is_empty() {
            println!("not run after the failure: {}", self.waiting.join(", "));
        }
        println!("took {:.1} s", took.as_secs_f64());
        let skipped = self.sums.ignored + self.skipped_steps;
        println!("{} passed, {} failed, {skipped} skipped", self.sums.passed, self.sums.failed);
        !self.failed
    }
}

/// The lines that name a test binary and its result, and what its tests left out; binaries without any test are left out.
fn summary(output: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut running = None;
    for line in output.lines() {
        let trimmed = line.trim_start();
        if trimmed.starts_with("Running ") || trimmed.starts_with("Doc-tests ") {
            running = Some(line);
        } else if line.contains("skipped: ") {
            lines.extend(running.take());
            lines.push(line);
        } else if is_result(line) {
            let name = running.take();
            if Counts::of_line(line) != Counts::default() {
                lines.extend(name);
                lines.push(line);
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
     Running unittests src/lib.rs (target/debug/deps/one-1)

running 0 tests

test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s

     Running tests/two.rs (target/debug/deps/two-2)

running 14 tests
test a ... ok
test result: FAILED. 12 passed; 2 failed; 1 ignored; 0 measured; 3 filtered out; finished in 1.25s

   Doc-tests three
test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.31s
";

    #[test]
    fn the_counts_are_the_sums_of_the_result_lines() {
        assert_eq!(Counts::of(OUTPUT), Counts { passed: 15, failed: 2, ignored: 1 });
    }

    #[test]
    fn an_output_without_result_lines_ran_nothing() {
        assert_eq!(Counts::of("Finished\nmy test result: 3 passed\n").ran(), 0);
    }

    #[test]
    fn the_summary_names_each_binary_that_has_tests_and_its_result() {
        let lines = summary(OUTPUT);
        assert_eq!(lines.len(), 4);
        assert!(lines[0].contains("tests/two.rs"));
        assert!(lines[1].starts_with("test result: FAILED. 12 passed"));
        assert!(lines[2].contains("Doc-tests three"));
    }

    #[test]
    fn what_a_test_left_out_is_told() {
        let lines = summary("Running tests/one.rs\ntest a ... skipped: there is none\nok\ntest result: ok. 1 passed\n");
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[1], "test a ... skipped: there is none");
    }

    #[test]
    fn a_step_that_fails_without_a_failed_test_counts_as_one_failure_and_ends_the_run() {
        let mut report = Report::new(["fmt", "clippy"].into_iter());
        report.begin("fmt", "cargo fmt");
        assert!(!report.end(Outcome::failed("badly formatted".to_owned()), Duration::ZERO));
        assert_eq!(report.sums.failed, 1);
        assert_eq!(report.waiting, ["clippy"]);
        assert!(!report.finish(Duration::ZERO));
    }

    #[test]
    fn a_skipped_step_is_counted_and_the_run_goes_on() {
        let mut report = Report::new(["deny"].into_iter());
        report.begin("deny", "cargo deny");
        assert!(report.end(Outcome::Skipped("cargo-deny is not here"), Duration::ZERO));
        assert_eq!(report.skipped_steps, 1);
        assert!(report.finish(Duration::ZERO));
    }
}
