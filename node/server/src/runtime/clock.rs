//! The monotonic clock that the node hands to its lanes.

use std::time::{Instant as SystemInstant, SystemTime, UNIX_EPOCH};

use annulus_core::time::Instant;

/// Counts from the start of the process.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: SystemInstant,
}

impl Default for Clock {
    fn default() -> Self {
        Self { start: SystemInstant::now() }
    }
}

impl Clock {
    /// The time now. Never 0, which stands for "no time" in a heartbeat's stamp.
    pub fn now(&self) -> Instant {
        Instant(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX).max(1))
    }

    /// Milliseconds since 1970, for people: nothing is decided by it.
    pub fn wall_ms() -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// How long the process has been running.
    pub fn uptime(&self) -> std::time::Duration {
        self.start.elapsed()
    }
}
