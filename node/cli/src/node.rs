//! `annulus node`: one member, until it is told to end.

use std::fmt::Display;
use std::io;
use std::str::FromStr;
use std::thread;

use annulus_node::config::{Config, LogFormat, Partial};
use rustix::process::{Signal, getpid, kill_process};
use tokio::signal::unix::{SignalKind, signal};

use crate::args;
use crate::exit::Failure;
use crate::output::Format;

/// Runs a member until SIGTERM or SIGINT.
pub(crate) fn run(arguments: args::Node) -> Result<(), Failure> {
    let config =
        Config::load(arguments.config.as_deref(), flags(&arguments)?).map_err(|error| Failure::Usage(told(&error)))?;
    if arguments.print_config {
        let yaml = serde_yaml::to_string(&config).map_err(|error| Failure::Refused(error.to_string()))?;
        print!("{yaml}");
        return Ok(());
    }
    annulus_node::logging::init(&config.log).map_err(|error| Failure::Usage(told(&error)))?;
    if arguments.exit_with_stdin {
        end_with_stdin();
    }
    annulus_node::node::run(config, told_to_end()).map_err(|error| {
        tracing::error!(error = told(&error), "the member did not start");
        Failure::Refused(told(&error))
    })
}

fn flags(arguments: &args::Node) -> Result<Partial, Failure> {
    let mut flags = Partial {
        name: arguments.name.clone(),
        zone: arguments.zone.clone(),
        data: arguments.data.clone(),
        client_listen: parsed("--client-listen", arguments.client_listen.as_deref())?,
        admin_listen: parsed("--admin-listen", arguments.admin_listen.as_deref())?,
        peer_listen: parsed("--peer-listen", arguments.peer_listen.as_deref())?,
        ..Partial::default()
    };
    flags.log.format = arguments.log_format.map(|format| match format {
        Format::Text => LogFormat::Text,
        Format::Json => LogFormat::Json,
    });
    Ok(flags)
}

fn parsed<T: FromStr<Err: Display>>(flag: &str, text: Option<&str>) -> Result<Option<T>, Failure> {
    let parse = |text: &str| text.parse().map_err(|error| Failure::Usage(format!("{flag} `{text}`: {error}")));
    text.map(parse).transpose()
}

/// An error with what lies behind it.
fn told(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        told.push_str(": ");
        told.push_str(&cause.to_string());
        source = cause.source();
    }
    told
}

/// Ends when the process is asked to: by SIGTERM (Kubernetes, `annulus dev`) or SIGINT (Ctrl-C).
async fn told_to_end() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        // Without handlers these signals end the process at once, which loses nothing that was acknowledged.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
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
