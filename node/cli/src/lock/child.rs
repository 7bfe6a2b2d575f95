//! The command that runs under a lock: started, told, ended.
//!
//! It gets a process group of its own, so that it can be ended with all its children, and a Ctrl-C reaches it once, by way of
//! this process. With `--foreground` it stays in this one's, as `timeout --foreground` has it: it can read from the terminal
//! and gets its signals, but is ended without its children.
//!
//! On Linux it is also ended (SIGTERM) when this process is killed: it is started by way of `annulus tied`, which asks the
//! system for that and then becomes the command. Its children are not, nor anything that changes its user.

use std::ffi::OsString;
use std::io::{self, ErrorKind, IsTerminal};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use annulus_client::lock::Lock;
use rustix::process::{Pid, Signal, getppid, kill_process, kill_process_group};
use tokio::process::{Child, Command};
use tokio::time::sleep;

use super::signals::{Signals, ends};
use crate::args;
use crate::exit::Failure;

/// This program, also when its file was replaced or deleted since.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// A command that was started.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    pid: Pid,
    /// Whether it has a process group of its own.
    is_grouped: bool,
}

impl Running {
    /// Starts the command, and tells it the lock by its environment.
    pub(super) fn start(arguments: &args::Holding, lock: &Lock) -> Result<Self, Failure> {
        let program = match Path::new(THIS_PROGRAM).exists() {
            true => THIS_PROGRAM.into(),
            false => std::env::current_exe().map_err(|error| Failure::system("this program can't be found", &error))?,
        };
        let mut command = Command::new(program);
        command.arg0("annulus").arg("tied").arg(std::process::id().to_string()).arg("--").args(&arguments.command);
        command.env("ANNULUS_LOCK", &arguments.name).env("ANNULUS_TOKEN", lock.token().to_string());
        command.env("ANNULUS_FENCE", lock.fence().to_string());
        // What it does with the store is done where the lock is.
        command.env("ANNULUS_ENDPOINT", arguments.connect.endpoint.join(","));
        if !arguments.foreground {
            command.process_group(0);
            // Outside of the terminal's foreground group, reading from it would stop the command without a word.
            if io::stdin().is_terminal() {
                command.stdin(Stdio::null());
            }
        }
        let child = command.spawn().map_err(|error| Failure::system("the command can't be started", &error))?;
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())).expect("it was not waited for yet");
        Ok(Self { child, pid, is_grouped: !arguments.foreground })
    }

    /// Waits for its end; its exit code, as shells have it.
    pub(super) async fn ended(&mut self) -> Result<u8, Failure> {
        let status = self.child.wait().await;
        status.map(code).map_err(|error| Failure::system("the command can't be waited for", &error))
    }

    /// Tells it what this process was told. What a terminal tells a whole foreground group it knows already.
    pub(super) fn pass_on(&self, signal: Signal) {
        let by_terminal = [Signal::INT, Signal::QUIT].contains(&signal);
        if signal != Signal::TSTP && (self.is_grouped || !by_terminal) {
            self.tell(signal);
        }
    }

    /// Ends it: asks, waits for so long, kills; kills at once when this process is told again to end.
    pub(super) async fn end(&mut self, grace: Duration, signals: &mut Signals, told: &mut bool) -> Result<(), Failure> {
        self.tell(Signal::TERM);
        let killed = sleep(grace);
        tokio::pin!(killed);
        loop {
            tokio::select! {
                // What it has left behind in its group goes too.
                ended = self.ended() => return ended.map(|_| self.kill_group()),
                () = &mut killed => break,
                signal = signals.next() => if ends(signal) {
                    *told = true;
                    break;
                },
            }
        }
        self.tell(Signal::KILL);
        self.ended().await.map(|_| self.kill_group())
    }

    /// It may just have ended by itself; then nobody is there to be told.
    fn tell(&self, signal: Signal) {
        // While it was not waited for, its process id is its own.
        let _ = match (self.child.id(), self.is_grouped) {
            (None, _) => return,
            (_, true) => kill_process_group(self.pid, signal),
            (_, false) => kill_process(self.pid, signal),
        };
    }

    /// Its id stays that of its group for as long as one of the group is left.
    fn kill_group(&self) {
        if self.is_grouped {
            let _ = kill_process_group(self.pid, Signal::KILL);
        }
    }
}

fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// Becomes a command that ends when the process that started it ends. Returns only when it can't: with 127 when there is no
/// such command, else with 126, as shells have it.
pub(crate) fn tied(arguments: args::Tied) -> Result<(), Failure> {
    let Some((program, rest)) = arguments.command.split_first() else {
        return Err(Failure::Usage("name the command".to_owned()));
    };
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::TERM)) {
        return Err(Failure::system("the system does not tie processes", &error.into()));
    }
    // The one that started it may have ended before it was tied to it.
    if getppid().map(Pid::as_raw_pid) != Some(arguments.parent) {
        return Err(Failure::Code(super::code(Signal::TERM)));
    }
    let error = std::process::Command::new(program).args(rest as &[OsString]).exec();
    eprintln!("annulus: the command `{}` can't be run: {error}", program.to_string_lossy());
    Err(Failure::Code(if error.kind() == ErrorKind::NotFound { 127 } else { 126 }))
}
