//! Processes that do not outlive whoever started them, and what every store of the tests needs.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};

use tokio::sync::Mutex;

use super::tell;

/// Stores run one at a time: they are measured, and tests are run in parallel.
pub(super) static ALONE: Mutex<()> = Mutex::const_new(());

/// How many lines of a log are shown when a test fails.
const TAIL_LINES: usize = 30;

/// A process that does not outlive this.
pub(super) struct Reaped(pub(super) Child);

impl Reaped {
    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().expect("a child can be waited for")
    }
}

impl Drop for Reaped {
    fn drop(&mut self) {
        // Both fail only when it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The binary under test: the one that `ANNULUS_BIN` names, or the one that was built beside this test.
fn binary() -> PathBuf {
    if let Some(named) = std::env::var_os("ANNULUS_BIN") {
        return PathBuf::from(named);
    }
    let test = std::env::current_exe().expect("a test knows where it is");
    // The test is `TARGET/PROFILE/deps/NAME-HASH`.
    let folder = test.ancestors().nth(2).expect("a test lies in its profile's folder");
    let binary = folder.join("annulus");
    let profile = if folder.ends_with("release") { " --release" } else { "" };
    assert!(binary.exists(), "{} is not there: run `cargo build{profile} -p annulus` first", binary.display());
    binary
}

/// The command line under test.
pub fn annulus() -> Command {
    Command::new(binary())
}

/// A port from which the ports at all these offsets are free. They lie below those that the system gives to whoever asks
/// for any, so nobody but another store can come in between.
pub fn free_ports(offsets: &[u16]) -> u16 {
    let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
    (0..1000)
        .map(|_| rand::random_range(20_000..32_000))
        .find(|first| offsets.iter().all(|offset| is_free(first + offset)))
        .expect("a machine has free ports")
}

/// Tells the last lines of a log; nothing when it is not there.
pub(super) fn tell_end_of(path: &Path) {
    let Ok(text) = fs::read(path) else { return };
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    tell(format!("--- {}", path.display()));
    lines[lines.len().saturating_sub(TAIL_LINES)..].iter().for_each(tell);
}
