//! `annulus sidecar`: the store on an application's localhost, until it is told to end.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use annulus_client::Client;
use annulus_client::sidecar::{Config, Ended, Error, MIN_MEMORY, Sidecar, default_memory};
use annulus_node::config::{Level, Log, LogFormat};
use clap::Args;
use rustix::system::uname;
use tokio::signal::unix::{SignalKind, signal};

use crate::exit::Failure;
use crate::input;
use crate::output::Format;

/// How long `--check` waits for the sidecar.
const CHECK_PATIENCE: Duration = Duration::from_secs(10);
/// How often it asks.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

#[derive(Debug, Args)]
#[command(
    after_help = "It ends by SIGTERM or SIGINT: open requests may end (5 s), then every lock that was taken through it is given up (5 s)."
)]
pub(crate) struct Arguments {
    /// Where the application finds the store: a loopback address
    #[arg(long, env = "ANNULUS_SIDECAR_LISTEN", default_value = "127.0.0.1:7070", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// A Unix socket where it finds the store besides
    #[arg(long, env = "ANNULUS_SIDECAR_UNIX_SOCKET", value_name = "PATH")]
    unix_socket: Option<PathBuf>,
    /// Client addresses (HOST:PORT) of some nodes of the store, separated by commas; one is enough
    #[arg(long, short, env = "ANNULUS_ENDPOINT", value_delimiter = ',', required_unless_present = "check")]
    #[arg(value_name = "HOST:PORT,…")]
    endpoint: Vec<String>,
    /// Where /healthz, /readyz, /metrics and /sidecar/locks are for others (`[::]:PORT`: on every address, of both kinds); it takes no
    /// requests for the store
    #[arg(long, env = "ANNULUS_SIDECAR_STATUS_LISTEN", value_name = "ADDRESS:PORT")]
    status_listen: Option<SocketAddr>,
    /// The file by which the locks outlive a crash of this process
    #[arg(long, env = "ANNULUS_SIDECAR_STATE", value_name = "FILE")]
    state: Option<PathBuf>,
    /// How much memory requests and answers may take at once, such as 32MiB; whoever comes then is told to come back [default:
    /// half of what the container may have, or 64MiB if that has no limit]
    #[arg(long, env = "ANNULUS_SIDECAR_MEMORY", value_name = "SIZE", value_parser = memory)]
    memory: Option<usize>,
    /// By which name locks are held for which the application names no owner [default: the name of this machine]
    #[arg(long, env = "ANNULUS_SIDECAR_OWNER", value_name = "NAME", value_parser = owner)]
    owner: Option<String>,
    /// How to write the log
    #[arg(long, env = "ANNULUS_LOG_FORMAT", value_enum, default_value = "text", value_name = "FORMAT")]
    log_format: Format,
    /// What to log, such as info or warn
    #[arg(long, env = "ANNULUS_LOG_LEVEL", default_value = "info", value_name = "LEVEL")]
    log_level: String,
    /// Run none, but wait until the one at --listen answers, for 10 s at most
    #[arg(long)]
    check: bool,
}

fn memory(text: &str) -> Result<usize, String> {
    let size = usize::try_from(input::size(text)?).ok();
    size.filter(|size| *size >= MIN_MEMORY).ok_or_else(|| format!("it must be {}MiB at least", MIN_MEMORY >> 20))
}

fn owner(text: &str) -> Result<String, String> {
    let longest = annulus_client::lock::MAX_OWNER_BYTES;
    if (1..=longest).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err(format!("it must have 1 to {longest} bytes"))
    }
}

/// Runs a sidecar until SIGTERM or SIGINT, or waits for one.
pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    if arguments.check {
        return check(arguments.listen).await;
    }
    let level = Level::from_str(&arguments.log_level)
        .map_err(|error| Failure::Usage(format!("--log-level `{}`: {error}", arguments.log_level)))?;
    let format = match arguments.log_format {
        Format::Text => LogFormat::Text,
        Format::Json => LogFormat::Json,
    };
    annulus_node::logging::init(&Log { format, level }).map_err(|error| Failure::Usage(error.to_string()))?;
    // Listened for from the beginning: the first process of a container does not end by a signal without a handler.
    let listened = |kind| signal(kind).map_err(|error| Failure::system("signals can't be listened for", &error));
    let (mut terminate, mut interrupt) = (listened(SignalKind::terminate())?, listened(SignalKind::interrupt())?);
    let listen = arguments.listen;
    let is_own =
        |endpoint: &String| endpoint.trim().trim_start_matches("http://").trim_end_matches('/').parse() == Ok(listen);
    if arguments.endpoint.iter().any(is_own) {
        return Err(Failure::Usage(format!("--endpoint {listen} is this sidecar itself; name nodes of the store")));
    }
    let client = Client::builder(arguments.endpoint.iter().map(|endpoint| endpoint.trim())).build()?;
    let config = Config {
        listen,
        unix_socket: arguments.unix_socket,
        status_listen: arguments.status_listen,
        state: arguments.state,
        owner: arguments.owner.unwrap_or_else(|| uname().nodename().to_string_lossy().into_owned()),
        memory: arguments.memory.unwrap_or_else(default_memory),
    };
    let sidecar = Sidecar::bind(client, config).await.map_err(|error| match error {
        Error::NotLoopback(_) => Failure::Usage(error.to_string()),
        Error::Listen { .. } | Error::SocketInUse(_) | Error::State { .. } => Failure::Refused(error.to_string()),
    })?;
    tracing::info!(address = %sidecar.address(), endpoint = arguments.endpoint.join(","), "the store is on this address");
    let told = async {
        let signal = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal, "told to end: it lets open requests end, then gives up its locks");
    };
    match sidecar.run(told).await {
        Ended::Told => {
            tracing::info!("ended");
            Ok(())
        }
        Ended::OtherStore => Err(Failure::Unavailable(
            "another store is at the addresses of this sidecar's: the locks of the old one are lost; start the sidecar again for the new one"
                .to_owned(),
        )),
    }
}

/// Waits until the sidecar at this address answers.
async fn check(listen: SocketAddr) -> Result<(), Failure> {
    let nodes = Client::builder([listen.to_string()]).build()?.nodes();
    let until = Instant::now() + CHECK_PATIENCE;
    loop {
        let asked = nodes.healthy(&listen.to_string()).await;
        match asked {
            // Also one that is too busy to say more.
            Ok(_) => return Ok(()),
            Err(_) if Instant::now() < until => tokio::time::sleep(CHECK_INTERVAL).await,
            Err(error) => return Err(Failure::Unavailable(format!("no sidecar answers at {listen}: {error}"))),
        }
    }
}
