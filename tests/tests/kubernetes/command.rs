//! Other programs, each for a bounded time.

use std::fmt;
use std::process::{ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

/// How often a program is looked at where there is no runtime to wait with.
const POLL: Duration = Duration::from_millis(20);

/// A program that did not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failed {
    command: String,
    /// What it said, or why it could not say anything.
    pub(crate) text: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "`{}`: {}", self.command, self.text.trim())
    }
}

/// Runs a program to its end; what it wrote to its standard output.
pub(crate) async fn run(program: &str, words: &[&str], input: &str, patience: Duration) -> Result<String, Failed> {
    let failed = |text: String| Failed { command: format!("{program} {}", words.join(" ")), text };
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    let mut to_child = child.stdin.take().expect("its standard input is a pipe");
    let exchange = async {
        // One that ends before it has read everything says so itself.
        let _ = to_child.write_all(input.as_bytes()).await;
        drop(to_child);
        child.wait_with_output().await
    };
    let output = match timeout(patience, exchange).await {
        Ok(output) => output.map_err(|error| failed(error.to_string()))?,
        Err(_) => return Err(failed(format!("it has not ended in {patience:?}"))),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    Err(failed(format!("{}: {}{}", output.status, text(&output.stderr), text(&output.stdout))))
}

/// Runs a program where nothing can be awaited, and lets it write to where the test does.
pub(crate) fn run_now(program: &str, words: &[&str], patience: Duration) -> Option<ExitStatus> {
    let mut child = std::process::Command::new(program).args(words).stdin(Stdio::null()).spawn().ok()?;
    let deadline = Instant::now() + patience;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if Instant::now() >= deadline {
            // Both fail only when it has ended.
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        thread::sleep(POLL);
    }
}
