//! The signals that this process passes on to its command instead of ending by them.

use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::exit::Failure;

/// What a command may be told by a signal.
const PASSED_ON: [Signal; 6] = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM, Signal::USR1, Signal::USR2];

/// Signals as they come in.
pub(super) struct Signals {
    received: mpsc::Receiver<Signal>,
}

impl Signals {
    /// Listens. With `foreground` a Ctrl-Z stops this process like any other; else it is told to nobody: the command would
    /// go on in its own process group while nobody renews the lock.
    pub(super) fn new(foreground: bool) -> Result<Self, Failure> {
        let (sender, received) = mpsc::channel(16);
        let stop = if foreground { None } else { Some(Signal::TSTP) };
        for which in PASSED_ON.into_iter().chain(stop) {
            let listened = signal(SignalKind::from_raw(which.as_raw()));
            let mut signals = listened.map_err(|error| Failure::system("signals can't be received", &error))?;
            let sender = sender.clone();
            tokio::spawn(async move { while signals.recv().await.is_some() && sender.send(which).await.is_ok() {} });
        }
        Ok(Self { received })
    }

    /// The next one. May be dropped and called again.
    pub(super) async fn next(&mut self) -> Signal {
        match self.received.recv().await {
            Some(Signal::TSTP) => {
                eprintln!("annulus: does not stop, since its lock would be lost; Ctrl-C ends the command");
                Signal::TSTP
            }
            Some(signal) => signal,
            // The tasks that listen end with the runtime only.
            None => std::future::pending().await,
        }
    }
}

/// Whether whoever sends it wants an end.
pub(super) fn ends(signal: Signal) -> bool {
    [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM].contains(&signal)
}

/// The exit code of what a signal has ended, as shells have it.
pub(super) fn code(signal: Signal) -> u8 {
    u8::try_from(128 + signal.as_raw()).unwrap_or(u8::MAX)
}
