//! What happened, line by line. The same seed gives the same bytes.

use std::fmt::{self, Write as _};

use sha2::{Digest, Sha256};

/// What happened in one run.
#[derive(Debug, Default)]
pub struct Trace {
    text: String,
    silent: bool,
}

impl Trace {
    /// One that keeps nothing.
    pub fn silent() -> Self {
        Self { text: String::new(), silent: true }
    }

    /// Adds a line about what happens at this time (in microseconds).
    pub fn record(&mut self, now: u64, what: fmt::Arguments<'_>) {
        if self.silent {
            return;
        }
        let written = writeln!(self.text, "{:>3}.{:06} {what}", now / 1_000_000, now % 1_000_000);
        written.expect("a string takes any text");
    }

    /// All lines.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// SHA-256 of all lines, in hexadecimal digits.
    pub fn hash(&self) -> String {
        Sha256::digest(self.text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
