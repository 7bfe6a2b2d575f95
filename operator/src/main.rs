//! `annulus-operator`: turns StorageClusters into pods and rings of members.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::ExitCode;

use annulus_operator::operate::{self, Settings};
use annulus_operator::reconcile::chain;
use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Turns StorageClusters into pods and rings of members, and keeps them so.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// The namespaces to look after, separated by commas [default: all]
    #[arg(long, env = "ANNULUS_NAMESPACES", value_delimiter = ',', hide_env_values = true)]
    namespaces: Vec<String>,
    /// The image of members whose cluster names none
    #[arg(long, env = "ANNULUS_NODE_IMAGE", default_value = concat!("annulus/node:", env!("CARGO_PKG_VERSION")))]
    node_image: String,
    /// Where to answer /healthz, /readyz and /metrics
    #[arg(long, env = "ANNULUS_LISTEN", default_value = "[::]:8080")]
    listen: SocketAddr,
    /// The namespace of the Lease by which one operator acts at a time
    #[arg(long, env = "ANNULUS_LEASE_NAMESPACE", default_value = "default")]
    lease_namespace: String,
    /// The name of that Lease
    #[arg(long, env = "ANNULUS_LEASE_NAME", default_value = "annulus-operator")]
    lease_name: String,
    /// This operator's own name: that of its pod
    #[arg(long, env = "ANNULUS_IDENTITY", default_value_t = identity())]
    identity: String,
    /// How log lines are written
    #[arg(long, env = "ANNULUS_LOG_FORMAT", value_enum, default_value_t = Format::Text)]
    log_format: Format,
    /// What is logged: a level, or directives
    #[arg(long, env = "ANNULUS_LOG_LEVEL", default_value = "info")]
    log_level: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

fn identity() -> String {
    format!("process-{}", std::process::id())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = match EnvFilter::try_new(&arguments.log_level) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("--log-level `{}`: {error}", arguments.log_level);
            return ExitCode::from(2);
        }
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match arguments.log_format {
        Format::Text => log.init(),
        Format::Json => log.json().flatten_event(true).init(),
    }
    let namespaces = arguments.namespaces.iter().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
    let settings = Settings {
        namespaces: namespaces.collect::<BTreeSet<_>>(),
        node_image: arguments.node_image,
        listen: arguments.listen,
        lease_namespace: arguments.lease_namespace,
        lease_name: arguments.lease_name,
        identity: arguments.identity,
    };
    match operate::run(settings, told_to_end()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = chain(&error), "the operator ends");
            ExitCode::FAILURE
        }
    }
}

/// Ends when the process is asked to: by SIGTERM (Kubernetes) or SIGINT (Ctrl-C).
async fn told_to_end() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
