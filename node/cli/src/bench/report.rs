//! What a bench prints.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::locks::Queue;
use super::tally::Tally;
use crate::args::{self, Operation};
use crate::exit::Failure;
use crate::output::Format;

/// Width of the longest bar of a histogram.
const BAR: u64 = 40;

/// The figures of one run.
#[derive(Debug)]
pub(super) struct Report<'a> {
    arguments: &'a args::Bench,
    members: usize,
    tally: &'a Tally,
    queue: &'a Queue,
    seconds: f64,
}

impl<'a> Report<'a> {
    pub(super) fn new(
        arguments: &'a args::Bench,
        members: usize,
        tally: &'a Tally,
        queue: &'a Queue,
        took: Duration,
    ) -> Self {
        Self { arguments, members, tally, queue, seconds: took.as_secs_f64().max(0.001) }
    }

    /// Writes the figures to stdout.
    pub(super) fn write(&self, format: Format) -> Result<(), Failure> {
        let text = match format {
            Format::Text => self.text(if io::stdout().is_terminal() { '█' } else { '#' }),
            Format::Json => format!("{}\n", self.json()),
        };
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }

    fn text(&self, block: char) -> String {
        let args::Bench { clients, value, keys, .. } = self.arguments;
        let members = self.members;
        let mut text = format!("{clients} clients, {keys} keys, values of {value} bytes, {members} members\n");
        for (name, histogram) in &self.tally.parts {
            let (count, seconds) = (histogram.len(), self.seconds);
            let rate = count as f64 / seconds;
            let _ = writeln!(text, "\n{name}  {rate:.0}/s  ({count} in {seconds:.1} s)");
            if count == 0 {
                continue;
            }
            let at = |quantile| milliseconds(histogram.value_at_quantile(quantile));
            let (p50, p99, p999, max) = (at(0.5), at(0.99), at(0.999), milliseconds(histogram.max()));
            let _ = writeln!(text, "  p50 {p50}  p99 {p99}  p99.9 {p999}  max {max}");
            let buckets = buckets(histogram);
            let most = buckets.iter().map(|(_, count)| *count).max().unwrap_or(1);
            for (below, count) in buckets {
                let bar = block.to_string().repeat(usize::try_from((count * BAR).div_ceil(most)).unwrap_or(0));
                let line = format!("  below {:>10}  {count:>9}  {bar}", milliseconds(below));
                let _ = writeln!(text, "{}", line.trim_end());
            }
        }
        if self.tally.absent > 0 {
            let _ =
                writeln!(text, "\n{} gets were of a key that is not there (--fill puts them all)", self.tally.absent);
        }
        for (times, count) in &self.tally.retried {
            let _ = writeln!(text, "\n{count} requests were answered when they were sent again ({times} times)");
        }
        text.push_str(&self.contention());
        let errors: Vec<String> = self.tally.errors.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        let errors = if errors.is_empty() { "none".to_owned() } else { errors.join(", ") };
        let _ = writeln!(text, "\nerrors: {errors}");
        if let Some(error) = &self.tally.last_error {
            let _ = writeln!(text, "  the last: {error}");
        }
        text
    }

    /// How those fared that were in each other's way.
    fn contention(&self) -> String {
        let mut text = String::new();
        match self.arguments.op {
            Operation::Rmw => {
                let conflicts: u64 = self.tally.conflicts.values().sum();
                let kinds: Vec<_> =
                    self.tally.conflicts.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
                let kinds = if kinds.is_empty() { "none".to_owned() } else { kinds.join(", ") };
                let share = self.tally.answered() as f64 / (self.tally.answered() + conflicts).max(1) as f64;
                let _ = writeln!(text, "\nconflicts: {kinds} ({:.1} % of all were committed)", share * 100.0);
            }
            Operation::Queue => {
                let Queue { grants, out_of_order, overlapping, .. } = self.queue;
                let _ = writeln!(text, "\n{grants} grants: {out_of_order} out of order, {overlapping} overlapping");
            }
            _ => return text,
        }
        if let Some((fewest, most)) = self.tally.of_one_loop {
            let _ = writeln!(text, "of one client: {fewest} at the fewest, {most} at the most");
        }
        text
    }

    fn json(&self) -> Value {
        let part = |histogram: &Histogram<u64>| {
            let buckets = buckets(histogram);
            let buckets: Vec<Value> =
                buckets.into_iter().map(|(below, count)| json!({"below_us": below, "count": count})).collect();
            json!({
                "count": histogram.len(),
                "per_second": histogram.len() as f64 / self.seconds,
                "latency_us": {
                    "mean": histogram.mean(),
                    "p50": histogram.value_at_quantile(0.5),
                    "p99": histogram.value_at_quantile(0.99),
                    "p99.9": histogram.value_at_quantile(0.999),
                    "max": histogram.max(),
                },
                "histogram": buckets,
            })
        };
        let parts: serde_json::Map<String, Value> =
            self.tally.parts.iter().map(|(name, histogram)| ((*name).to_owned(), part(histogram))).collect();
        let mut report = json!({
            "clients": self.arguments.clients,
            "keys": self.arguments.keys,
            "value_bytes": self.arguments.value,
            "members": self.members,
            "seconds": self.seconds,
            "operations": parts,
            "per_second": self.tally.answered() as f64 / self.seconds,
            "absent": self.tally.absent,
            "retried": self.tally.retried,
            "errors": self.tally.errors,
            "last_error": self.tally.last_error,
        });
        if let Some((fewest, most)) = self.tally.of_one_loop {
            report["of_one_client"] = json!({"fewest": fewest, "most": most});
        }
        if self.arguments.op == Operation::Rmw {
            report["conflicts"] = json!(self.tally.conflicts);
        }
        if self.arguments.op == Operation::Queue {
            let Queue { grants, out_of_order, overlapping, .. } = self.queue;
            report["queue"] = json!({"grants": grants, "out_of_order": out_of_order, "overlapping": overlapping});
        }
        report
    }
}

/// How many latencies lie below each power of two of microseconds, and not below the one before; from the first that is
/// not empty to the last.
fn buckets(histogram: &Histogram<u64>) -> Vec<(u64, u64)> {
    // The histogram rounds to slots that never lie across a power of two, so that every latency is counted once.
    let bucket = |exponent: u32| (1 << exponent, histogram.count_between(1 << (exponent - 1), (1 << exponent) - 1));
    let buckets: Vec<(u64, u64)> = (1..=32).map(bucket).collect();
    let first = buckets.iter().position(|(_, count)| *count > 0).unwrap_or(buckets.len());
    let last = buckets.iter().rposition(|(_, count)| *count > 0).map_or(first, |last| last + 1);
    buckets[first..last].to_vec()
}

fn milliseconds(microseconds: u64) -> String {
    let ms = microseconds as f64 / 1000.0;
    let digits = if ms < 10.0 { 3 } else { 1 };
    format!("{ms:.digits$} ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_is_in_one_bucket() {
        let mut histogram = Tally::new(Operation::Put).parts.remove(0).1;
        for latency in [1, 2, 3, 900, 1000, 1024, 1_500_000] {
            histogram.record(latency).unwrap();
        }
        let buckets = buckets(&histogram);
        assert_eq!(buckets.iter().map(|(_, count)| count).sum::<u64>(), 7);
        assert_eq!((buckets.first(), buckets.last()), (Some(&(2, 1)), Some(&(1 << 21, 1))));
        histogram.reset();
        assert!(super::buckets(&histogram).is_empty());
    }
}
