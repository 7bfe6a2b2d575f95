//! How a command ends: its exit code, and what it says on stderr.
//!
//! | code | meaning |
//! | --- | --- |
//! | 0 | done |
//! | 1 | refused: not found, conflict, condition failed, or anything else that the store will not do |
//! | 2 | usage: nothing was sent |
//! | 3 | outcome unknown: the write may have happened |
//! | 4 | unavailable: nothing was changed, and it may work later |
//!
//! `lock` and `elect` end with the code of the command that they run, 128 and the number of the signal if one ended it.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;

use annulus_client::Error;

/// Why a command did not do what it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The store, or what a command met, says no.
    #[error("{0}")]
    Refused(String),
    /// The command line, or a file that it names, is wrong. Nothing was sent.
    #[error("{0}")]
    Usage(String),
    /// A write may have happened.
    #[error("{0}")]
    OutcomeUnknown(String),
    /// There is nobody to do it now.
    #[error("{0}")]
    Unavailable(String),
    /// A command that was run, or the signal that ends it, has this exit code, and has said why.
    #[error("the command ended with exit code {0}")]
    Code(u8),
    /// Whoever read our output has read enough (`annulus scan | head`): no failure at all.
    #[error("the output was closed")]
    OutputClosed,
}

impl Failure {
    /// Something that this machine should have done: a file, a runtime.
    pub(crate) fn system(what: impl Display, error: &io::Error) -> Self {
        Self::Refused(format!("{what}: {error}"))
    }

    /// Says what went wrong on stderr; returns the exit code that says it too.
    pub(crate) fn report(&self) -> ExitCode {
        let code = match self {
            Self::Refused(_) => 1,
            Self::Usage(_) => 2,
            Self::OutcomeUnknown(_) => 3,
            Self::Unavailable(_) => 4,
            Self::Code(code) => return ExitCode::from(*code),
            Self::OutputClosed => return ExitCode::SUCCESS,
        };
        // Where stderr can't be written (its file is on a full disk), the exit code still says it.
        let _ = writeln!(io::stderr(), "annulus: {self}");
        ExitCode::from(code)
    }
}

impl From<io::Error> for Failure {
    /// Writing to stdout failed.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::system("the output could not be written", &error),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match &error {
            Error::InvalidKey(_) | Error::InvalidOption { .. } | Error::TwoClusters { .. } => {
                Self::Usage(error.to_string())
            }
            Error::ConditionFailed { .. } | Error::Conflict(_) | Error::Refused(_) => Self::Refused(error.to_string()),
            Error::TxnConflict { .. } => {
                Self::Refused(format!("{error}\n  Nothing was changed. Try again; --timeout lets it try for longer."))
            }
            Error::LockHeld(_) | Error::LockNotHeld(_) => Self::Refused(error.to_string()),
            Error::StaleToken(_) => Self::Refused(format!(
                "{error}\n  Nothing was changed: the lock is not held with this token any more, or a newer holder was here."
            )),
            Error::OutcomeUnknown { .. } => Self::OutcomeUnknown(format!(
                "{error}\n  The write may have happened. Read the key to find out; a write with --idempotency-key can be \
                 repeated safely under the same one."
            )),
            Error::Unavailable { overloaded: true, .. } => Self::Unavailable(format!(
                "{error}\n  The store has too much to do or its disk is full. Try again later."
            )),
            Error::Unavailable { .. } => Self::Unavailable(format!(
                "{error}\n  Nothing was changed. Is the store running? `annulus dev` starts one on this machine; \
                 --endpoint or ANNULUS_ENDPOINT names another."
            )),
            Error::AnswerTooLong { .. } => Self::Refused(error.to_string()),
            Error::UnexpectedAnswer { .. } => Self::Unavailable(format!(
                "{error}\n  Does the endpoint belong to an Annulus node, and is it its client port (7070 by default)?"
            )),
        }
    }
}
