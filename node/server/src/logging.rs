//! Logs go to standard error, as text for people (in colour when it is a terminal) or as JSON for machines. Keys, values
//! and credentials are never logged.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::config::{Log, LogFormat};

/// Why logging could not begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directives of the level are not understood. [`crate::config::Level`] refuses such before.
    #[error("the log level is not understood")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// The process logs somewhere else already.
    #[error("the process logs already")]
    Install(#[from] TryInitError),
}

/// Begins to log. Once per process.
pub fn init(log: &Log) -> Result<(), Error> {
    let filter = EnvFilter::try_new(log.level.as_str())?;
    let lines = fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    match log.format {
        LogFormat::Text => lines.finish().try_init()?,
        LogFormat::Json => lines.json().flatten_event(true).finish().try_init()?,
    }
    Ok(())
}
