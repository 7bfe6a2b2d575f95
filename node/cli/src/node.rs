//! `annulus node`: one node, until it is told to end.

use std::io;
use std::thread;

use rustix::process::{Signal, getpid, kill_process};

use crate::args;
use crate::exit::Failure;

/// Runs a node until SIGTERM or SIGINT.
pub(crate) fn run(arguments: args::Node) -> Result<(), Failure> {
    if arguments.exit_with_stdin {
        end_with_stdin();
    }
    Err(Failure::Refused(format!("this build has no node in it yet: {arguments:?}")))
}

/// Asks this process to end, as SIGTERM does, when stdin closes: whoever started it is gone then, even by SIGKILL.
fn end_with_stdin() {
    thread::spawn(|| {
        // An error ends stdin as well as its end does.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        // Asking oneself cannot fail.
        let _ = kill_process(getpid(), Signal::TERM);
    });
}
