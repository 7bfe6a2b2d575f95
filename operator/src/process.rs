//! What this process takes, under the names that Prometheus' own clients give it. Where there is no Linux nothing is told.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Reads them when they are asked for.
#[derive(Debug)]
pub(crate) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(taken) = Taken::read() else { return Ok(()) };
        let memory = ConstGauge::new(i64::try_from(taken.resident_bytes).unwrap_or(i64::MAX));
        let help = "Memory that is resident";
        memory.encode(encoder.encode_descriptor(
            "process_resident_memory_bytes",
            help,
            None,
            memory.metric_type(),
        )?)?;
        let seconds = ConstCounter::new(taken.cpu_seconds);
        let help = "Time on processors, of the user and of the system";
        seconds.encode(encoder.encode_descriptor("process_cpu_seconds", help, None, seconds.metric_type())?)
    }
}

/// What the process takes now.
struct Taken {
    resident_bytes: u64,
    cpu_seconds: f64,
}

impl Taken {
    fn read() -> Option<Self> {
        let memory = std::fs::read_to_string("/proc/self/statm").ok()?;
        let pages: u64 = memory.split_whitespace().nth(1)?.parse().ok()?;
        let page = u64::try_from(rustix::param::page_size()).ok()?;
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        let ticks = ticks(&stat)?;
        // Exact for far longer than any process lives.
        let cpu_seconds = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
        Some(Self { resident_bytes: pages.saturating_mul(page), cpu_seconds })
    }
}

/// Of the user and of the system: fields 14 and 15. The second field is a name in brackets, which may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user.saturating_add(system))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_any_name() {
        let stat = "7 (a) name) 1) S 1 7 7 0 -1 4194560 1000 0 0 0 12 30 0 0 20 0 3 0 100 200 300";
        assert_eq!(ticks(stat), Some(42));
        assert_eq!(ticks("7 (annulus) S 1"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_takes_something() {
        let taken = Taken::read().unwrap();
        assert!(taken.resident_bytes > 100_000 && taken.resident_bytes < 100_000_000_000, "{}", taken.resident_bytes);
        assert!(taken.cpu_seconds >= 0.0);
    }
}
