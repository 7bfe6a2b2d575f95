//! How much memory bodies may take, if nobody says: half of what the process may have, so that they never reach its limit.

use std::fs;

/// Where the system says how much memory the process may have: version 2 of its control groups, and version 1.
const LIMITS: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
/// Without a limit.
const UNLIMITED: usize = 64 * 1024 * 1024;
/// The least that bodies may take: one value of the largest.
pub const MIN_MEMORY: usize = 1024 * 1024;
/// A version 1 group without a limit has the largest number of whole pages as its limit.
const NO_LIMIT: u64 = 1 << 62;

/// How many bytes of bodies a sidecar holds unless it is told: half of its container's memory, or 64 MiB where that has no limit.
pub fn default_memory() -> usize {
    let limit = LIMITS.iter().find_map(|path| fs::read_to_string(path).ok());
    limit.as_deref().and_then(half).unwrap_or(UNLIMITED)
}

/// Half of a limit as the system writes it; `None`: there is no limit.
fn half(limit: &str) -> Option<usize> {
    let bytes = limit.trim().parse::<u64>().ok().filter(|bytes| *bytes < NO_LIMIT)?;
    usize::try_from(bytes / 2).ok().map(|half| half.max(MIN_MEMORY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_may_take_half_of_what_the_process_may_have() {
        for (limit, expected) in [
            ("67108864\n", Some(32 << 20)),
            ("max\n", None),
            ("9223372036854771712\n", None),
            ("1000\n", Some(MIN_MEMORY)),
            ("", None),
        ] {
            assert_eq!(half(limit), expected, "{limit}");
        }
        assert!(default_memory() >= MIN_MEMORY);
    }
}
