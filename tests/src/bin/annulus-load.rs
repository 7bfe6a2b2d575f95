//! `annulus-load`: clients of a store that put and get until they are told to stop, and then say whether all that they were told
//! can be true. It runs as a pod beside the store that is tested; see `annulus_tests::processes::serve` for what it answers.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use annulus_tests::processes::{Counter, Filling, Shape, Wish, serve};
use clap::Parser;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Puts load on a store, and judges what comes back.
#[derive(Parser)]
struct Arguments {
    /// Client addresses of the store, separated by commas
    #[arg(long, value_delimiter = ',', required_unless_present = "count")]
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
    /// Counts at this key instead, under the lock of the same name, through the store on this localhost (ANNULUS_ENDPOINT)
    #[arg(long, value_name = "KEY", conflicts_with = "endpoints")]
    count: Option<String>,
    /// The lease of that lock, in milliseconds
    #[arg(long, default_value_t = 5000)]
    ttl_ms: u64,
    /// How often it counts before it ends with success; 0: without end
    #[arg(long, default_value_t = 0)]
    times: u64,
    /// Where to answer /progress, /reset and /stop
    #[arg(long, default_value = "0.0.0.0:7080")]
    listen: SocketAddr,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // As the first process of its container it is sent a SIGTERM that nobody else minds.
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return ExitCode::FAILURE };
    let work = async {
        match &arguments.count {
            Some(name) => count(name, &arguments).await,
            None => load(&arguments).await,
        }
    };
    tokio::select! {
        _ = terminate.recv() => ExitCode::SUCCESS,
        ended = work => match ended {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        },
    }
}

async fn load(arguments: &Arguments) -> Result<(), String> {
    let wish = Wish {
        shape: Shape {
            addresses: arguments.endpoints.clone(),
            each_member: !arguments.client_only,
            watches: true,
            pause: Duration::from_millis(arguments.pause_ms),
        },
        filling: Filling { keys: arguments.fill, value_bytes: arguments.value },
    };
    let listen = arguments.listen;
    let listener =
        TcpListener::bind(listen).await.map_err(|error| format!("{listen} can't be listened at: {error}"))?;
    serve(listener, wish).await.map_err(|error| error.to_string())
}

async fn count(name: &str, arguments: &Arguments) -> Result<(), String> {
    let endpoint = std::env::var("ANNULUS_ENDPOINT").map_err(|_| "ANNULUS_ENDPOINT names no store".to_owned())?;
    let counter = Counter {
        endpoint: endpoint.trim_start_matches("http://").trim_end_matches('/').to_owned(),
        name: name.to_owned(),
        ttl: Duration::from_millis(arguments.ttl_ms),
        pause: Duration::from_millis(arguments.pause_ms),
        times: arguments.times,
    };
    counter.run().await
}
