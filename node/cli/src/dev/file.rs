//! A StorageCluster in a file, as the operator would be given it, run on this machine: `annulus dev -f`.
//!
//! How many members it wants, on how many of them each key is, into how many parts keys are cut, and the members' settings mean
//! the same here. Everything else is about Kubernetes, and is only told.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use annulus_crds::StorageClusterSpec;
use annulus_crds::storage_cluster::Settings;
use annulus_node::config::{Error as ConfigError, Partial};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::layout::Shape;
use crate::exit::Failure;

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Most bytes that are read.
const MOST: u64 = 1024 * 1024;
/// Most members that fit between the ports.
const MOST_MEMBERS: u16 = 99;
const KIND: &str = "StorageCluster";
/// The fields of a spec that mean something here.
const MEANT: [&str; 4] = ["replicas", "replicationFactor", "partitions", "settings"];
/// What a file asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) members: u16,
    pub(super) shape: Shape,
    /// The settings, as variables of the members' environment.
    pub(super) environment: Vec<(String, String)>,
    /// What it says beside that.
    idle: BTreeMap<String, Value>,
}

/// What is wrong with a file.
#[derive(Debug, PartialEq, Eq)]
struct Invalid {
    /// Counted from 1.
    line: usize,
    reason: String,
}

/// What has become of a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// How many members it wants now, if that is not how many there are.
    pub(super) members: Option<u16>,
    /// What people should know.
    pub(super) notes: Vec<String>,
}

/// A file that is looked at again and again.
#[derive(Debug)]
pub(super) struct Follower {
    path: PathBuf,
    /// When it was written, and how long it was, when it was read last; `None`: it was not there.
    seen: Option<(SystemTime, u64)>,
    /// What the store is.
    running: Wanted,
    /// What the file said when it was right last.
    last: Wanted,
    next: Instant,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(default)]
    kind: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    metadata: Metadata,
    spec: Option<StorageClusterSpec>,
    #[serde(rename = "status")]
    _status: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
}

/// Reads what a file asks for. It may have documents of other kinds, too.
fn read(text: &str) -> Result<Wanted, Invalid> {
    let (mut found, mut place) = (Vec::new(), 0);
    for document in serde_yaml::Deserializer::from_str(text) {
        let kind = Option::<Kind>::deserialize(document).map_err(|error| told(&error))?;
        if kind.is_some_and(|kind| kind.kind == KIND) {
            found.push(place);
        }
        place += 1;
    }
    let [place] = found[..] else {
        let count = if found.is_empty() { "no".to_owned() } else { found.len().to_string() };
        let reason = format!("there has to be one document of kind {KIND}, and there are {count}");
        return Err(Invalid { line: 1, reason });
    };
    let mut documents = serde_yaml::Deserializer::from_str(text).skip(place);
    let document = documents.next().map(Document::deserialize);
    let document = document.expect("it was there before").map_err(|error| told(&error))?;
    wanted(document).map_err(|(key, reason)| Invalid { line: line_of(text, key), reason: format!("{key}: {reason}") })
}

/// Where the reader of YAML stopped, and why.
fn told(error: &serde_yaml::Error) -> Invalid {
    let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
    // The line stands before our message.
    Invalid { line, reason: error.to_string().replacen(&format!(" at line {line} column {column}"), "", 1) }
}

/// What a document asks for; else the field that is wrong, and why.
fn wanted(document: Document) -> Result<Wanted, (&'static str, String)> {
    if !document.api_version.starts_with("annulus.dev/") {
        return Err(("apiVersion", format!("`{}` is not annulus.dev/v1alpha1", document.api_version)));
    }
    let name = document.metadata.name;
    let fits = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
    let is_name = name.starts_with(|letter: char| letter.is_ascii_lowercase()) && !name.ends_with('-');
    if !is_name || name.len() > 40 || !name.chars().all(fits) {
        let reason =
            format!("`{name}` is no name: 1 to 40 letters, digits and dashes, the first a letter, all lowercase");
        return Err(("name", reason));
    }
    let left_out = || serde_json::from_value(json!({})).expect("every field of a spec has a default");
    let spec = document.spec.unwrap_or_else(left_out);
    let members = u16::try_from(spec.replicas).ok().filter(|members| (1..=MOST_MEMBERS).contains(members));
    let members = members.ok_or_else(|| {
        ("replicas", format!("{} is not from 1 to {MOST_MEMBERS}, as many as run here", spec.replicas))
    })?;
    let factor = u32::try_from(spec.replication_factor).ok().filter(|factor| matches!(factor, 1 | 3 | 5 | 7));
    let factor =
        factor.ok_or_else(|| ("replicationFactor", format!("{} is not 1, 3, 5 or 7", spec.replication_factor)))?;
    if factor > u32::from(members) {
        let reason = format!(
            "{members} is below replicationFactor: every key is on {factor} members; lower it no further than that"
        );
        return Err(("replicas", reason));
    }
    let partitions = u32::try_from(spec.partitions).ok().filter(|parts| parts.is_power_of_two() && *parts <= 4096);
    let partitions =
        partitions.ok_or_else(|| ("partitions", format!("{} is no power of two from 1 to 4096", spec.partitions)))?;
    Ok(Wanted {
        name,
        members,
        shape: Shape { partitions, replication_factor: factor },
        environment: environment(&spec.settings)?,
        idle: idle(&spec, &left_out()),
    })
}

/// The settings as variables, which the members will take.
fn environment(settings: &Settings) -> Result<Vec<(String, String)>, (&'static str, String)> {
    let given: Vec<(String, String)> = settings.variables().map(|(name, value)| (name.to_owned(), value)).collect();
    match Partial::from_environment(given.iter().cloned()) {
        Err(ConfigError::Environment { variable, reason }) => Err((field(&variable), reason)),
        Err(error) => Err(("settings", error.to_string())),
        Ok(_) => Ok(given),
    }
}

/// The setting that becomes this variable.
fn field(variable: &str) -> &'static str {
    match variable {
        "ANNULUS_LOG_LEVEL" => "logLevel",
        "ANNULUS_MAX_VALUE_BYTES" => "maxValueBytes",
        "ANNULUS_MAX_CONNECTIONS" => "maxConnections",
        "ANNULUS_CACHE_BYTES" => "cacheBytes",
        "ANNULUS_MAX_MOVE_RATE" => "maxMoveRate",
        "ANNULUS_ELECTION_TIMEOUT" => "electionTimeout",
        _ => "settings",
    }
}

/// The fields that are not left out and have no meaning here.
fn idle(spec: &StorageClusterSpec, left_out: &StorageClusterSpec) -> BTreeMap<String, Value> {
    let fields = |spec: &StorageClusterSpec| serde_json::to_value(spec).expect("a spec is plain data");
    let (said, left_out) = (fields(spec), fields(left_out));
    let said = said.as_object().into_iter().flatten();
    let said = said.filter(|(field, value)| !MEANT.contains(&field.as_str()) && left_out.get(field) != Some(value));
    said.map(|(field, value)| (field.clone(), value.clone())).collect()
}

/// The line on which a field stands in the document of our kind; the first if it is not to be found.
fn line_of(text: &str, key: &str) -> usize {
    let (mut ours, mut at) = (false, None);
    for (number, line) in (1..).zip(text.lines()) {
        if line.starts_with("---") {
            if ours && at.is_some() {
                break;
            }
            (ours, at) = (false, None);
        }
        ours |= line.strip_prefix("kind:").is_some_and(|kind| kind.trim().trim_matches(['"', '\'']) == KIND);
        let is_key = line.trim_start().strip_prefix(key).is_some_and(|rest| rest.starts_with(':'));
        if is_key && at.is_none() {
            at = Some(number);
        }
    }
    at.unwrap_or(1)
}

impl Wanted {
    /// What it says that has no meaning here, for people; `None`: nothing.
    pub(super) fn without_meaning(&self) -> Option<String> {
        let fields: Vec<&str> = self.idle.keys().map(String::as_str).collect();
        meaningless(&fields)
    }
}

fn meaningless(fields: &[&str]) -> Option<String> {
    match fields {
        [] => None,
        [field] => Some(format!("spec.{field} has no meaning on this machine")),
        fields => Some(format!("spec.{} have no meaning on this machine", fields.join(", spec."))),
    }
}

impl Follower {
    /// Reads a file for the first time.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let unreadable = |error| Failure::Usage(format!("`{}` can't be read: {error}", path.display()));
        let seen = stamp(path).map_err(unreadable)?;
        let text = text_of(path).map_err(unreadable)?;
        let wanted = read(&text).map_err(|invalid| Failure::Usage(invalid.at(path)))?;
        let next = Instant::now() + LOOK;
        Ok(Self { path: path.to_owned(), seen: Some(seen), running: wanted.clone(), last: wanted, next })
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What the store is to be.
    pub(super) fn wanted(&self) -> &Wanted {
        &self.running
    }

    /// Waits until the file has changed. May be dropped at any time.
    pub(super) async fn change(&mut self) -> Change {
        loop {
            sleep_until(self.next).await;
            self.next = Instant::now() + LOOK;
            if let Some(change) = self.look() {
                return change;
            }
        }
    }

    /// The store has as many members now as was asked for.
    pub(super) fn resized(&mut self, members: u16) {
        self.running.members = members;
    }

    /// Looks whether the file has changed. What is wrong with it is told once, and it counts as it was.
    fn look(&mut self) -> Option<Change> {
        let says = |note: String| Some(Change { members: None, notes: vec![note] });
        let (path, members) = (self.path.display().to_string(), self.running.members);
        let stamp = match stamp(&self.path) {
            Ok(stamp) => stamp,
            // An editor may just be putting a new one in its place; told once, when it was there before.
            Err(error) => {
                self.seen.take()?;
                return says(format!("{path} can't be read: {error}; it counts as it was ({members} members)"));
            }
        };
        if self.seen == Some(stamp) {
            return None;
        }
        self.seen = Some(stamp);
        let text = match text_of(&self.path) {
            Ok(text) => text,
            Err(error) => {
                return says(format!("{path} can't be read: {error}; it counts as it was ({members} members)"));
            }
        };
        match read(&text) {
            Ok(wanted) => self.compare(wanted),
            Err(invalid) => says(format!("{}; it counts as it was ({members} members)", invalid.at(&self.path))),
        }
    }

    /// What comes of it that the file asks for this now.
    fn compare(&mut self, wanted: Wanted) -> Option<Change> {
        let (running, last) = (&self.running, &self.last);
        let mut change = Change::default();
        let mut note = |note: String| change.notes.push(note);
        if wanted.name != running.name && wanted.name != last.name {
            note(format!("metadata.name: {} would be another store; this one is {}", wanted.name, running.name));
        }
        if wanted.shape != running.shape && wanted.shape != last.shape {
            let Shape { partitions, replication_factor } = running.shape;
            note(format!(
                "a store keeps what it was made with: replicationFactor {replication_factor}, partitions {partitions}; another \
                 one is made with another --data"
            ));
        }
        if wanted.environment != running.environment && wanted.environment != last.environment {
            note("settings take effect when `annulus dev` is started again".to_owned());
        }
        let said = wanted.idle.iter().filter(|(field, value)| last.idle.get(*field) != Some(*value));
        let gone = last.idle.keys().filter(|field| !wanted.idle.contains_key(*field));
        let mut fields: Vec<&str> = said.map(|(field, _)| field).chain(gone).map(String::as_str).collect();
        fields.sort_unstable();
        meaningless(&fields).into_iter().for_each(&mut note);
        if u32::from(wanted.members) < running.shape.replication_factor {
            note(format!(
                "replicas: {} is below the {} copies that this store keeps of everything; it keeps {} members",
                wanted.members, running.shape.replication_factor, running.members
            ));
        } else if wanted.members != running.members {
            change.members = Some(wanted.members);
        }
        self.last = wanted;
        (change != Change::default()).then_some(change)
    }
}

impl Invalid {
    fn at(&self, path: &Path) -> String {
        format!("{}:{}: {}", path.display(), self.line, self.reason)
    }
}

fn stamp(path: &Path) -> io::Result<(SystemTime, u64)> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.modified()?, metadata.len()))
}

fn text_of(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > MOST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {MOST} bytes")));
    }
    fs::read_to_string(path)
}

#[cfg(test)]
mod tests {
    use super::super::layout::Layout;
    use super::*;

    const HEAD: &str = "apiVersion: annulus.dev/v1alpha1\nkind: StorageCluster\nmetadata: {name: demo}\n";

    fn spec(spec: &str) -> String {
        format!("{HEAD}spec:\n{spec}")
    }

    fn reason(text: &str) -> (usize, String) {
        let invalid = read(text).unwrap_err();
        (invalid.line, invalid.reason)
    }

    #[test]
    fn a_cluster_becomes_members_a_shape_and_settings() {
        let text = spec(
            "  replicas: 5\n  replicationFactor: 3\n  partitions: 64\n  settings: {logLevel: debug, maxConnections: 7}\n  \
             storage: {size: 20Gi}\n  paused: true\n",
        );
        let wanted = read(&text).unwrap();
        assert_eq!((wanted.name.as_str(), wanted.members), ("demo", 5));
        assert_eq!(wanted.shape, Shape { partitions: 64, replication_factor: 3 });
        let variables: Vec<(&str, &str)> = wanted.environment.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(variables, [("ANNULUS_LOG_LEVEL", "debug"), ("ANNULUS_MAX_CONNECTIONS", "7")]);
        assert_eq!(wanted.without_meaning().unwrap(), "spec.paused, spec.storage have no meaning on this machine");
        let layout = Layout { root: "/d".into(), client_port: 7070, zones: Vec::new() };
        let places: Vec<String> = (1..=wanted.members).map(|number| layout.place(number).client_address).collect();
        assert_eq!((places.len(), places[4].as_str()), (5, "127.0.0.1:7074"));
    }

    #[test]
    fn what_is_left_out_is_as_the_operator_would_have_it() {
        let wanted = read(HEAD).unwrap();
        assert_eq!((wanted.members, wanted.shape), (3, Shape { partitions: 128, replication_factor: 3 }));
        assert_eq!((wanted.environment.len(), wanted.without_meaning()), (0, None));
        let with_others = format!("---\nkind: Namespace\nspec: {{replicas: 9}}\n---\n{HEAD}---\n");
        assert_eq!(read(&with_others).unwrap(), wanted);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let (line, text) = reason(&spec("  replica: 5\n"));
        assert!(line == 5 && text.contains("unknown field `replica`"), "{line}: {text}");
        let (line, text) = reason(&spec("  replicas: [\n"));
        assert!(line >= 5 && !text.contains(" at line "), "{line}: {text}");
        let (line, text) = reason(&spec("  # few\n  replicas: 2\n"));
        assert!(line == 6 && text.starts_with("replicas: 2 is below replicationFactor"), "{line}: {text}");
        let (line, text) = reason(&spec("  replicas: 100\n"));
        assert!(line == 5 && text.contains("from 1 to 99"), "{line}: {text}");
        assert_eq!(reason(&spec("  partitions: 100\n")).0, 5);
        assert_eq!(reason(&spec("  replicas: 4\n  replicationFactor: 2\n")).0, 6);
        let (line, text) = reason(&spec("  settings:\n    electionTimeout: 5\n"));
        assert!(line == 6 && text.starts_with("electionTimeout: "), "{line}: {text}");
        let others = format!("kind: Deployment\nspec:\n  replicas: 1\n---\n{}", spec("  replicas: 0\n"));
        assert_eq!(reason(&others).0, 9);
        assert!(reason("kind: Other\n").1.contains("and there are no"));
        assert!(reason(&format!("{HEAD}---\n{HEAD}")).1.contains("and there are 2"));
        assert!(reason(&HEAD.replace("demo", "../demo")).1.contains("is no name"));
        assert!(reason(&HEAD.replace("annulus.dev", "apps")).1.contains("annulus.dev/v1alpha1"));
    }

    fn follower(path: &Path) -> Follower {
        fs::write(path, spec("  replicas: 3\n")).unwrap();
        Follower::open(path).unwrap()
    }

    #[test]
    fn a_change_of_replicas_is_seen_and_a_wrong_file_counts_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cluster.yaml");
        let mut follower = follower(&path);
        assert_eq!(follower.look(), None);
        fs::write(&path, spec("  replicas: 10\n")).unwrap();
        assert_eq!(follower.look(), Some(Change { members: Some(10), notes: Vec::new() }));
        follower.resized(10);
        assert_eq!(follower.look(), None);

        fs::write(&path, spec("  replicas: ten\n")).unwrap();
        let change = follower.look().unwrap();
        assert!(change.members.is_none() && change.notes[0].contains("cluster.yaml:5: "), "{change:?}");
        assert!(change.notes[0].ends_with("it counts as it was (10 members)"), "{change:?}");
        assert_eq!(follower.look(), None);
        fs::remove_file(&path).unwrap();
        assert!(follower.look().unwrap().notes[0].contains("can't be read"));
        assert_eq!(follower.look(), None);
        fs::write(&path, spec("  replicas: 4\n")).unwrap();
        assert_eq!(follower.look().unwrap().members, Some(4));
    }

    #[test]
    fn what_can_not_take_effect_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut follower = follower(&folder.path().join("cluster.yaml"));
        let mut notes = |text: &str| follower.compare(read(&spec(text)).unwrap()).map(|change| change.notes.join("; "));
        let told = notes("  partitions: 64\n  settings: {logLevel: debug}\n  image: x\n").unwrap();
        assert!(told.contains("replicationFactor 3, partitions 128"), "{told}");
        assert!(told.contains("started again") && told.contains("spec.image has no meaning"), "{told}");
        assert_eq!(notes("  partitions: 64\n  settings: {logLevel: debug}\n  image: x\n"), None);
        assert_eq!(notes("  image: y\n").as_deref(), Some("spec.image has no meaning on this machine"));
        let told = notes("  replicas: 1\n  replicationFactor: 1\n  image: y\n").unwrap();
        assert!(told.contains("below the 3 copies") && told.contains("keeps 3 members"), "{told}");
    }

    #[test]
    fn a_file_that_is_wrong_from_the_beginning_is_a_usage_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cluster.yaml");
        assert!(matches!(Follower::open(&path), Err(Failure::Usage(_))));
        fs::write(&path, "kind: [").unwrap();
        let failure = Follower::open(&path).unwrap_err();
        assert!(matches!(&failure, Failure::Usage(told) if told.contains("cluster.yaml:")), "{failure}");
    }
}
