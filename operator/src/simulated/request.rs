//! From an HTTP request to what it asks for.

use http::{Method, request::Parts};
use percent_encoding::percent_decode_str;
use serde_json::Value;

use super::error::Error;
use super::resources::{Key, Kind};

/// What can be asked of a resource, by its name in access rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// Read one object.
    Get,
    /// Read those of a resource.
    List,
    /// Be told of changes.
    Watch,
    /// Make an object.
    Create,
    /// Replace an object.
    Update,
    /// Change an object, or apply one.
    Patch,
    /// Delete an object.
    Delete,
    /// Delete those of a resource.
    DeleteCollection,
}

impl Verb {
    /// Whether it changes something.
    pub fn is_write(self) -> bool {
        !matches!(self, Self::Get | Self::List | Self::Watch)
    }
}

/// Which objects of a resource are meant.
#[derive(Clone, Debug, Default)]
pub(super) struct Selection {
    pub(super) namespace: Option<String>,
    name: Option<String>,
    labels: Vec<Requirement>,
    /// Phases of pods that are not meant.
    without_phases: Vec<String>,
}

#[derive(Clone, Debug)]
enum Requirement {
    In { label: String, values: Vec<String> },
    NotIn { label: String, values: Vec<String> },
    Exists(String),
    Missing(String),
}

impl Requirement {
    fn holds(&self, object: &Value) -> bool {
        let value = |label: &str| object["metadata"]["labels"][label].as_str().map(str::to_owned);
        match self {
            Self::In { label, values } => value(label).is_some_and(|value| values.contains(&value)),
            Self::NotIn { label, values } => value(label).is_none_or(|value| !values.contains(&value)),
            Self::Exists(label) => value(label).is_some(),
            Self::Missing(label) => value(label).is_none(),
        }
    }

    fn parse(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        let plain = |value: &str| vec![value.trim().to_owned()];
        if let Some((head, values)) = text.split_once('(') {
            let values = values.trim_end().strip_suffix(')').ok_or_else(|| unreadable(text))?;
            let values = values.split(',').map(|value| value.trim().to_owned()).collect();
            return match head.split_whitespace().collect::<Vec<_>>()[..] {
                [label, "in"] => Ok(Self::In { label: label.to_owned(), values }),
                [label, "notin"] => Ok(Self::NotIn { label: label.to_owned(), values }),
                _ => Err(unreadable(text)),
            };
        }
        if let Some((label, value)) = text.split_once("!=") {
            return Ok(Self::NotIn { label: label.trim().to_owned(), values: plain(value) });
        }
        if let Some((label, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
            return Ok(Self::In { label: label.trim().to_owned(), values: plain(value) });
        }
        match text.strip_prefix('!') {
            Some(label) => Ok(Self::Missing(label.trim().to_owned())),
            None => Ok(Self::Exists(text.to_owned())),
        }
    }
}

fn unreadable(text: &str) -> Error {
    Error::BadRequest(format!("unable to parse requirement: {text}"))
}

/// Parts between commas that are not in parentheses.
fn split_requirements(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut from) = (Vec::new(), 0, 0);
    for (at, letter) in text.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[from..]);
    parts.into_iter().filter(|part| !part.trim().is_empty()).collect()
}

impl Selection {
    pub(super) fn parse(namespace: Option<String>, fields: &str, labels: &str) -> Result<Self, Error> {
        let mut selection = Self { namespace, ..Self::default() };
        for field in split_requirements(fields) {
            if let Some(phase) = field.trim().strip_prefix("status.phase!=") {
                selection.without_phases.push(phase.to_owned());
                continue;
            }
            let (name, value) = field.split_once('=').ok_or_else(|| unreadable(field))?;
            let value = value.trim_start_matches('=').to_owned();
            match name.trim() {
                "metadata.name" => selection.name = Some(value),
                "metadata.namespace" => selection.namespace = Some(value),
                other => return Err(Error::BadRequest(format!("field label not supported: {other}"))),
            }
        }
        selection.labels = split_requirements(labels).into_iter().map(Requirement::parse).collect::<Result<_, _>>()?;
        Ok(selection)
    }

    pub(super) fn matches(&self, key: &Key, object: &Value) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace)
            && self.name.as_ref().is_none_or(|name| *name == key.name)
            && self.labels.iter().all(|requirement| requirement.holds(object))
            && self.without_phases.iter().all(|phase| object["status"]["phase"] != **phase)
    }
}

/// How a patch is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PatchType {
    Apply,
    Merge,
    Json,
    Strategic,
}

/// What a request asks for.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) verb: Verb,
    pub(super) kind: Kind,
    pub(super) namespace: Option<String>,
    /// Empty: it is about the resource, not about one object.
    pub(super) name: String,
    pub(super) subresource: Option<String>,
    pub(super) selection: Selection,
    pub(super) query: Query,
    pub(super) patch: Option<PatchType>,
    /// Only metadata is wanted.
    pub(super) metadata_only: bool,
}

impl Call {
    pub(super) fn key(&self) -> Key {
        Key::new(self.kind, self.namespace.as_deref().unwrap_or_default(), &self.name)
    }

    pub(super) fn parse(parts: &Parts) -> Result<Self, Error> {
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let path: Vec<String> = parts
            .uri
            .path()
            .split('/')
            .filter(|part| !part.is_empty())
            .map(|part| percent_decode_str(part).decode_utf8_lossy().into_owned())
            .collect();
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let (group, version, rest) = match path[..] {
            ["api", version, ref rest @ ..] => ("", version, rest),
            ["apis", group, version, ref rest @ ..] => (group, version, rest),
            _ => return Err(Error::NoSuchPath),
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() && *rest != ["status"] => (Some(*namespace), rest),
            rest => (None, rest),
        };
        let (plural, name, subresource) = match *rest {
            [plural] => (plural, "", None),
            [plural, name] => (plural, name, None),
            [plural, name, subresource] => (plural, name, Some(subresource)),
            _ => return Err(Error::NoSuchPath),
        };
        let kind = Kind::find(group, version, plural).ok_or(Error::NoSuchPath)?;
        let has_subresource = subresource.is_none_or(|name| name == "status" && kind.resource().has_status);
        if !has_subresource || (namespace.is_some() && !kind.resource().namespaced) {
            return Err(Error::NoSuchPath);
        }
        let verb = verb(&parts.method, !name.is_empty(), query.is("watch"))?;
        let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let patch =
            if verb == Verb::Patch { Some(patch_type(kind, header(http::header::CONTENT_TYPE))?) } else { None };
        let namespace = namespace.map(str::to_owned);
        Ok(Self {
            verb,
            kind,
            selection: Selection::parse(namespace.clone(), query.get("fieldSelector"), query.get("labelSelector"))?,
            namespace,
            name: name.to_owned(),
            subresource: subresource.map(str::to_owned),
            patch,
            metadata_only: header(http::header::ACCEPT).contains("as=PartialObjectMetadata"),
            query,
        })
    }
}

fn verb(method: &Method, has_name: bool, watch: bool) -> Result<Verb, Error> {
    match (method.as_str(), has_name) {
        ("GET", true) => Ok(Verb::Get),
        ("GET", false) if watch => Ok(Verb::Watch),
        ("GET", false) => Ok(Verb::List),
        ("POST", false) => Ok(Verb::Create),
        ("PUT", true) => Ok(Verb::Update),
        ("PATCH", true) => Ok(Verb::Patch),
        ("DELETE", true) => Ok(Verb::Delete),
        ("DELETE", false) => Ok(Verb::DeleteCollection),
        _ => Err(Error::MethodNotAllowed),
    }
}

fn patch_type(kind: Kind, content_type: &str) -> Result<PatchType, Error> {
    const CUSTOM: &str = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";
    const BUILT_IN: &str = "application/json-patch+json, application/merge-patch+json, \
                            application/strategic-merge-patch+json, application/apply-patch+yaml";
    match content_type {
        "application/apply-patch+yaml" => Ok(PatchType::Apply),
        "application/merge-patch+json" => Ok(PatchType::Merge),
        "application/json-patch+json" => Ok(PatchType::Json),
        "application/strategic-merge-patch+json" if !kind.resource().custom => Ok(PatchType::Strategic),
        _ => Err(Error::UnsupportedMediaType(if kind.resource().custom { CUSTOM } else { BUILT_IN })),
    }
}

/// The query of a request.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    fn parse(text: &str) -> Self {
        let decoded = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
        let pair = |part: &str| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (decoded(name), decoded(value))
        };
        Self(text.split('&').filter(|part| !part.is_empty()).map(pair).collect())
    }

    /// What is said for `name`; empty: nothing.
    pub(super) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(found, _)| found == name).map_or("", |(_, value)| value)
    }

    pub(super) fn is(&self, name: &str) -> bool {
        ["true", "1"].contains(&self.get(name))
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, Error> {
        let text = self.get(name);
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(|_| Error::BadRequest(format!("{name}: invalid value {text:?}")))
    }
}
