//! `annulus-load`: clients of a store that put and get until they are told to stop, and then say whether all that they were told
//! can be true. It runs as a pod beside the store that is tested; see `annulus_tests::processes::serve` for what it answers.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use annulus_tests::processes::{Filling, Shape, Wish, serve};
use clap::Parser;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Puts load on a store, and judges what comes back.
#[derive(Parser)]
struct Arguments {
    /// Client addresses of the store, separated by commas
    #[arg(long, value_delimiter = ',', required = true)]
    endpoints: Vec<String>,
    /// Asks only through our own client, which learns of members that come and go
    #[arg(long)]
    client_only: bool,
    /// How long each client waits between two calls, in milliseconds
    #[arg(long, default_value_t = 20)]
    pause_ms: u64,
    /// How many keys to write before the load begins
    #[arg(long, default_value_t = 0)]
    fill: usize,
    /// How many bytes each of their values has
    #[arg(long, default_value_t = 1024)]
    value: usize,
    /// Where to answer /progress, /reset and /stop
    #[arg(long, default_value = "0.0.0.0:7080")]
    listen: SocketAddr,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let wish = Wish {
        shape: Shape {
            addresses: arguments.endpoints,
            each_member: !arguments.client_only,
            watches: true,
            pause: Duration::from_millis(arguments.pause_ms),
        },
        filling: Filling { keys: arguments.fill, value_bytes: arguments.value },
    };
    let listener = match TcpListener::bind(arguments.listen).await {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("{} can't be listened at: {error}", arguments.listen);
            return ExitCode::FAILURE;
        }
    };
    // As the first process of its container it is sent a SIGTERM that nobody else minds.
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return ExitCode::FAILURE };
    tokio::select! {
        _ = terminate.recv() => ExitCode::SUCCESS,
        served = serve(listener, wish) => match served {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        },
    }
}
