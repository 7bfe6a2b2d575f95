//! What the server refuses, as it says it.

use serde_json::{Value, json};

use super::resources::{Key, Kind};

/// Why a request was not done.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// There is no such resource, as with a custom resource whose definition is missing. The real server answers this in plain
    /// text, and so does this one.
    #[error("404 page not found")]
    NoSuchPath,
    /// There is no such object.
    #[error("{resource} \"{name}\" not found")]
    NotFound {
        /// The resource.
        resource: String,
        /// The object's name.
        name: String,
    },
    /// There is one already.
    #[error("{resource} \"{name}\" already exists")]
    AlreadyExists {
        /// The resource.
        resource: String,
        /// The object's name.
        name: String,
    },
    /// The object is not what the writer took it for.
    #[error("Operation cannot be fulfilled on {resource} \"{name}\": {why}")]
    Conflict {
        /// The resource.
        resource: String,
        /// The object's name.
        name: String,
        /// What differs.
        why: String,
    },
    /// Another manager owns fields that were applied.
    #[error("Apply failed with {} conflict{}: {}", .0.len(), if .0.len() == 1 { "" } else { "s" }, .0.join(", "))]
    ApplyConflict(
        /// Each conflict in words.
        Vec<String>,
    ),
    /// The object could not work, or a field may not be changed.
    #[error("{kind} \"{name}\" is invalid: {why}")]
    Invalid {
        /// The kind.
        kind: &'static str,
        /// The object's name.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// It is not allowed.
    #[error("{resource} \"{name}\" is forbidden: {why}")]
    Forbidden {
        /// The resource.
        resource: String,
        /// The object's name.
        name: String,
        /// Why.
        why: String,
    },
    /// The request makes no sense.
    #[error("{0}")]
    BadRequest(
        /// Why.
        String,
    ),
    /// A patch of a kind that the resource does not take.
    #[error("the body of the request was in an unknown format - accepted media types include: {0}")]
    UnsupportedMediaType(
        /// What it takes.
        &'static str,
    ),
    /// There is no such verb there.
    #[error("the server does not allow this method on the requested resource")]
    MethodNotAllowed,
    /// The history does not reach back so far.
    #[error("too old resource version: {asked} ({oldest})")]
    Expired {
        /// What was asked for.
        asked: u64,
        /// The oldest version that there is.
        oldest: u64,
    },
    /// Nothing is that new yet.
    #[error("Too large resource version: {asked}, current: {current}")]
    TooLarge {
        /// What was asked for.
        asked: u64,
        /// The newest version.
        current: u64,
    },
    /// A fault that a test asked for.
    #[error("{message}")]
    Injected {
        /// The HTTP status.
        code: u16,
        /// The machine-readable reason.
        reason: &'static str,
        /// What is said.
        message: String,
    },
}

impl Error {
    pub(super) fn not_found(key: &Key) -> Self {
        Self::NotFound { resource: key.kind.full_name(), name: key.name.clone() }
    }

    pub(super) fn already_exists(key: &Key) -> Self {
        Self::AlreadyExists { resource: key.kind.full_name(), name: key.name.clone() }
    }

    pub(super) fn conflict(key: &Key, why: impl Into<String>) -> Self {
        Self::Conflict { resource: key.kind.full_name(), name: key.name.clone(), why: why.into() }
    }

    pub(super) fn modified(key: &Key) -> Self {
        Self::conflict(
            key,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    pub(super) fn invalid(kind: Kind, name: &str, why: impl Into<String>) -> Self {
        Self::Invalid { kind: kind.resource().kind, name: name.to_owned(), why: why.into() }
    }

    pub(super) fn forbidden(key: &Key, why: impl Into<String>) -> Self {
        Self::Forbidden { resource: key.kind.full_name(), name: key.name.clone(), why: why.into() }
    }

    /// The HTTP status.
    pub fn code(&self) -> u16 {
        match self {
            Self::BadRequest(_) => 400,
            Self::Forbidden { .. } => 403,
            Self::NoSuchPath | Self::NotFound { .. } => 404,
            Self::MethodNotAllowed => 405,
            Self::AlreadyExists { .. } | Self::Conflict { .. } | Self::ApplyConflict(_) => 409,
            Self::Expired { .. } => 410,
            Self::UnsupportedMediaType(_) => 415,
            Self::Invalid { .. } => 422,
            Self::TooLarge { .. } => 504,
            Self::Injected { code, .. } => *code,
        }
    }

    /// The machine-readable reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::BadRequest(_) => "BadRequest",
            Self::Forbidden { .. } => "Forbidden",
            Self::NoSuchPath | Self::NotFound { .. } => "NotFound",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::AlreadyExists { .. } => "AlreadyExists",
            Self::Conflict { .. } | Self::ApplyConflict(_) => "Conflict",
            Self::Expired { .. } => "Expired",
            Self::UnsupportedMediaType(_) => "UnsupportedMediaType",
            Self::Invalid { .. } => "Invalid",
            Self::TooLarge { .. } => "Timeout",
            Self::Injected { reason, .. } => reason,
        }
    }

    /// The `Status` object that stands in the answer.
    pub(super) fn status(&self) -> Value {
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.to_string(), "reason": self.reason(), "code": self.code(),
        })
    }
}
