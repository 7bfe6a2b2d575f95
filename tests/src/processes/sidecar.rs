//! A sidecar of the real binary, beside a store.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::reaped::{Reaped, annulus, free_ports, tell_end_of};
use super::{Http, until};

/// How long a sidecar may take to answer, or to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A sidecar, running or not, with ports and a file for its locks of its own.
pub struct Sidecar {
    endpoints: Vec<String>,
    owner: String,
    port: u16,
    folder: TempDir,
    process: Option<Reaped>,
}

impl Sidecar {
    /// A sidecar that answers, of the store that has these members.
    pub async fn of(endpoints: Vec<String>, owner: &str) -> Self {
        let folder = TempDir::new().expect("a folder can be made");
        let (port, owner) = (free_ports(&[0, 1]), owner.to_owned());
        let mut sidecar = Self { endpoints, owner, port, folder, process: None };
        sidecar.start();
        sidecar.until_healthy().await;
        sidecar
    }

    /// Starts it, and waits for nothing.
    pub fn start(&mut self) {
        let log = File::options().create(true).append(true).open(self.log_path()).expect("a log can be made");
        let child = annulus()
            .arg("sidecar")
            .args(["--listen", &self.address(), "--status-listen", &self.status_address()])
            .args(["--endpoint", &self.endpoints.join(","), "--owner", &self.owner])
            .arg("--state")
            .arg(self.state())
            .arg("--unix-socket")
            .arg(self.socket())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the binary runs");
        self.process = Some(Reaped(child));
    }

    /// Waits until it answers.
    pub async fn until_healthy(&self) {
        let http = Http::default();
        let is_healthy =
            async || http.get(&self.address(), "/healthz").await.ok().filter(|answer| answer.status == 200);
        until("the sidecar answers", PATIENCE, is_healthy).await;
    }

    /// Where its application finds it.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Where others look at it.
    pub fn status_address(&self) -> String {
        format!("127.0.0.1:{}", self.port + 1)
    }

    /// The file that names its locks.
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("locks.json")
    }

    /// Its Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Kills it (SIGKILL), and waits until it is gone.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Stops it in its tracks (SIGSTOP).
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Ends it as whoever runs its pod does (SIGTERM).
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits until it has ended.
    pub async fn until_ended(&mut self) -> ExitStatus {
        let process = self.process.as_mut().expect("it was started");
        until("the sidecar ends", PATIENCE, async || process.ended()).await
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("it runs");
        let pid = i32::try_from(process.0.id()).ok().and_then(Pid::from_raw).expect("a process has a number");
        kill_process(pid, signal).expect("one's own child can be told");
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.process = None;
        if std::thread::panicking() {
            tell_end_of(&self.log_path());
        }
    }
}
