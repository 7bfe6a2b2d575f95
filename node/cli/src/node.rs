//! `annulus node`: one member, until it is told to end.

use std::fmt::Display;
use std::io;
use std::process;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use annulus_node::config::{Config, LogFormat, Partial};
use rustix::process::{Signal, getpid, kill_process};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

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
    let end = End::listen().map_err(|error| Failure::system("signals can't be listened for", &error))?;
    if arguments.exit_with_stdin {
        end_with_stdin();
    }
    annulus_node::node::run(config, end.told()).map_err(|error| {
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

/// How the process is asked to end: by SIGTERM (Kubernetes, `annulus dev`) or SIGINT (Ctrl-C).
///
/// They are listened for from the beginning, by a thread of their own: the first process of a container does not end by a
/// signal that it has no handler for, and a start may take long.
#[derive(Debug)]
struct End {
    told: oneshot::Receiver<()>,
    is_serving: Arc<AtomicBool>,
}

impl End {
    fn listen() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let (mut terminate, mut interrupt) = {
            let _entered = runtime.enter();
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
        };
        let (tell, told) = oneshot::channel();
        let is_serving = Arc::new(AtomicBool::new(false));
        let waited_for = Arc::clone(&is_serving);
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let signal = runtime.block_on(async {
                tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                }
            });
            if !waited_for.load(Ordering::SeqCst) {
                // Nothing was served or acknowledged yet, and what is on disk is whole at any time.
                tracing::info!(signal, "told to end while it starts: it ends at once");
                process::exit(0);
            }
            tracing::info!(signal, "told to end: it hands its leaders over, then lets open requests end");
            // The node may have ended by itself.
            let _ = tell.send(());
        })?;
        Ok(Self { told, is_serving })
    }

    /// Ends when the process is asked to end.
    async fn told(self) {
        self.is_serving.store(true, Ordering::SeqCst);
        // The thread lives until it has told.
        let _ = self.told.await;
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
