//! `annulus`, the one binary: it starts stores (`dev`, `node`), brings one to an application's localhost (`sidecar`), talks to them (`put`, `get`, `delete`, `scan`, `txn`,
//! `txns`, `ring`, `status`, `bench`), runs commands under their locks (`lock`, `elect`, `locks`), and changes who their members are
//! (`members`, `plan`, `history`). Installed as `kubectl-annulus` it is a plugin of kubectl, with the verbs that are at `kube`
//! otherwise.
//!
//! Values go to stdout as they are, everything said about them to stderr. How a command ended is told by its exit code
//! (see [`exit`]); what went wrong, where, and what to do about it stands on stderr.

mod args;
mod bench;
mod data;
mod dev;
mod exit;
mod history;
mod input;
#[cfg(feature = "kube")]
mod kube;
mod lock;
mod members;
mod node;
mod output;
mod plan;
mod progress;
mod ring;
mod sidecar;
mod status;
mod txn;

use std::process::ExitCode;

use clap::CommandFactory;

use args::{Cli, Command};
use exit::Failure;

/// The C library's allocator keeps what an overload took: a member stayed at eight times its ordinary size.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // clap ends the process itself: 0 for --help and --version, 2 for a usage error, with a suggestion for a typo.
    let cli = Cli::read(std::env::args_os()).unwrap_or_else(|error| error.exit());
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Dev(dev) => block_on(dev::run(dev)),
        Command::Node(node) => node::run(node),
        Command::Sidecar(sidecar) => block_on(sidecar::run(*sidecar)),
        Command::Put(put) => block_on(data::put(put)),
        Command::Get(get) => block_on(data::get(get)),
        Command::Delete(delete) => block_on(data::delete(delete)),
        Command::Scan(scan) => block_on(data::scan(scan)),
        Command::Lock(lock) => block_on(lock::lock(lock)),
        Command::Elect(elect) => block_on(lock::elect(elect)),
        Command::Locks(locks) => block_on(lock::list(locks)),
        Command::Txn(txn) => block_on(txn::run(*txn)),
        Command::Txns(txns) => block_on(txn::list(txns)),
        Command::Tied(tied) => lock::tied(tied),
        Command::Ring(ring) => block_on(ring::run(ring)),
        Command::Members(members) => block_on(members::run(members)),
        Command::Plan(plan) => block_on(plan::run(plan)),
        Command::History(history) => block_on(history::run(history)),
        Command::Status(status) => block_on(status::run(status)),
        #[cfg(feature = "kube")]
        Command::Kube(kube) => block_on(kube::run(*kube)),
        Command::Bench(bench) => bench::run(bench),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "annulus", &mut std::io::stdout());
            Ok(())
        }
    }
}

/// Runs a command's future on a runtime of its own: one thread is enough for whoever waits for answers.
fn block_on(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::system("the runtime could not be started", &error))?;
    let ended = runtime.block_on(command);
    // The look-up of a name may hang for half a minute, and nobody wants to know any more.
    runtime.shutdown_background();
    ended
}
