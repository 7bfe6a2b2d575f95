//! The node's configuration: read once, before any data is opened, into types that can't be out of range.
//!
//! ```text
//! flags  >  environment (ANNULUS_*)  >  file (YAML)  >  defaults
//! ```
//!
//! Each layer is a [`Partial`]; laid over each other they make a [`Config`]. A key that is not known, a unit that is
//! missing, a number out of range: each is an error that says where it stands and what would be right, and the node does
//! not start. Variables that begin with `ANNULUS_` and are no setting are left alone, because Kubernetes makes such
//! variables for every service of that name.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use annulus_core::partition::{DEFAULT_MAX_VALUE_BYTES, MAX_VALUE_BYTES};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use tracing_subscriber::EnvFilter;

use crate::units;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error("{} could not be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file says something that it can't.
    #[error("{}:{line}:{column}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// A variable of the environment says something that it can't.
    #[error("{variable}: {reason}")]
    Environment {
        /// The variable.
        variable: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// A setting without a default was not given.
    #[error(
        "`{key}` is missing: {hint}; give it in the file as `{key}`, in the environment as {variable}, or as a flag"
    )]
    Missing {
        /// The setting.
        key: &'static str,
        /// Its variable.
        variable: String,
        /// What it is for.
        hint: &'static str,
    },
}

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Count<const MIN: u64, const MAX: u64>(u64);

/// A size in bytes from `MIN` to `MAX`, written with its unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size<const MIN: u64, const MAX: u64>(u64);

/// A duration from `MIN_MS` to `MAX_MS` milliseconds, written with its unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span<const MIN_MS: u64, const MAX_MS: u64>(u64);

/// An address that others reach this member at: `host:port`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address(String);

/// What is logged: a level, or directives such as `info,annulus_node=debug`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Level(String);

/// How log lines are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// What is done with a volume that must not be voted from any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnDamage {
    /// The member does not start.
    #[default]
    Stop,
    /// The volume is set aside at the next start, and the member begins anew with another id.
    Quarantine,
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const DAY_MS: u64 = 24 * 3600 * 1000;

/// Weight of a member.
pub type Weight = Count<1, 1000>;
/// Number of lanes.
pub type Lanes = Count<1, 256>;
/// Number of connections.
pub type Connections = Count<1, 1_000_000>;
/// Largest value.
pub type ValueSize = Size<1, { MAX_VALUE_BYTES as u64 }>;
/// Size of an overlay.
pub type OverlaySize = Size<MIB, { 4 * GIB }>;
/// Age of an overlay.
pub type OverlayAge = Span<100, DAY_MS>;
/// Size of a lane's cache.
pub type CacheSize = Size<MIB, { 1024 * GIB }>;
/// Bytes a second.
pub type MoveRate = Size<MIB, { 4 * GIB }>;
/// Election timeout.
pub type ElectionTimeout = Span<100, 60_000>;
/// How long a member that ends still serves.
pub type StopDelay = Span<0, 300_000>;

/// What the node is to be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Config {
    /// The member's name among people: unique in its store, never reused.
    pub name: String,
    /// The zone it runs in; empty when zones are not told apart.
    pub zone: String,
    /// Its share of the partitions relative to others; 100 is ordinary.
    pub weight: Weight,
    /// The directory that holds its data.
    pub data: PathBuf,
    /// Where it listens for clients.
    pub client_listen: SocketAddr,
    /// Where clients reach it.
    pub client_advertise: Address,
    /// Where it listens for the operator.
    pub admin_listen: SocketAddr,
    /// Where the operator reaches it.
    pub admin_advertise: Address,
    /// Where it listens for other members.
    pub peer_listen: SocketAddr,
    /// Where other members reach it.
    pub peer_advertise: Address,
    /// How many lanes a new volume gets; `None`: half the cores, at least one. A volume keeps the number it was made with.
    pub lanes: Option<Lanes>,
    /// The largest value that is taken.
    pub max_value_bytes: ValueSize,
    /// How many connections the client port holds open.
    pub max_connections: Connections,
    /// When an overlay is written to redb.
    pub overlay: Overlay,
    /// What is done with a volume that is damaged, or has lost what it had acknowledged.
    pub on_damage: OnDamage,
    /// How much memory redb's cache takes, for each lane.
    pub cache_bytes: CacheSize,
    /// How many bytes of replicas each lane sends to other members in a second at most; less while clients' writes wait
    /// longer for that.
    pub max_move_rate: MoveRate,
    /// How long a follower waits for its leader before it asks for an election.
    pub election_timeout: ElectionTimeout,
    /// For how long a member that is told to end still takes requests, though it is not ready any more: whoever finds
    /// members by that hears of it a little later.
    pub stop_delay: StopDelay,
    /// What is logged, and how.
    pub log: Log,
}

/// When an overlay is written to redb: at a size or at an age, whichever comes first.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Overlay {
    /// The size.
    pub max_bytes: OverlaySize,
    /// The age.
    pub max_age: OverlayAge,
}

/// What is logged, and how.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Log {
    /// How lines are written.
    pub format: LogFormat,
    /// What is logged.
    pub level: Level,
}

macro_rules! settings {
    ($($(#[$doc:meta])* $($path:ident).+ : $type:ty = $key:literal $variable:literal;)*) => {
        /// The settings by their keys in the file and their variables in the environment.
        pub const SETTINGS: &[(&str, &str)] = &[$(($key, $variable),)*];

        impl Partial {
            fn set(&mut self, key: &str, text: &str) -> Result<(), String> {
                match key {
                    $($key => self.$($path).+ = Some(text.parse::<$type>().map_err(|error| error.to_string())?),)*
                    _ => unreachable!("keys come from SETTINGS"),
                }
                Ok(())
            }

            /// Lays `over` over this: what it sets counts, what it leaves out stays.
            fn overlay_with(&mut self, over: Self) {
                $(if let Some(value) = over.$($path).+ { self.$($path).+ = Some(value); })*
            }
        }
    };
}

settings! {
    name: String = "name" "ANNULUS_NAME";
    zone: String = "zone" "ANNULUS_ZONE";
    weight: Weight = "weight" "ANNULUS_WEIGHT";
    data: PathBuf = "data" "ANNULUS_DATA";
    client_listen: SocketAddr = "client_listen" "ANNULUS_CLIENT_LISTEN";
    client_advertise: Address = "client_advertise" "ANNULUS_CLIENT_ADVERTISE";
    admin_listen: SocketAddr = "admin_listen" "ANNULUS_ADMIN_LISTEN";
    admin_advertise: Address = "admin_advertise" "ANNULUS_ADMIN_ADVERTISE";
    peer_listen: SocketAddr = "peer_listen" "ANNULUS_PEER_LISTEN";
    peer_advertise: Address = "peer_advertise" "ANNULUS_PEER_ADVERTISE";
    lanes: Lanes = "lanes" "ANNULUS_LANES";
    max_value_bytes: ValueSize = "max_value_bytes" "ANNULUS_MAX_VALUE_BYTES";
    max_connections: Connections = "max_connections" "ANNULUS_MAX_CONNECTIONS";
    overlay.max_bytes: OverlaySize = "overlay.max_bytes" "ANNULUS_OVERLAY_MAX_BYTES";
    overlay.max_age: OverlayAge = "overlay.max_age" "ANNULUS_OVERLAY_MAX_AGE";
    on_damage: OnDamage = "on_damage" "ANNULUS_ON_DAMAGE";
    cache_bytes: CacheSize = "cache_bytes" "ANNULUS_CACHE_BYTES";
    max_move_rate: MoveRate = "max_move_rate" "ANNULUS_MAX_MOVE_RATE";
    election_timeout: ElectionTimeout = "election_timeout" "ANNULUS_ELECTION_TIMEOUT";
    stop_delay: StopDelay = "stop_delay" "ANNULUS_STOP_DELAY";
    log.format: LogFormat = "log.format" "ANNULUS_LOG_FORMAT";
    log.level: Level = "log.level" "ANNULUS_LOG_LEVEL";
}

/// A layer of the configuration: each setting, if the layer gives it. The fields mean what they mean in [`Config`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "each field is told of in `Config`")]
pub struct Partial {
    pub name: Option<String>,
    pub zone: Option<String>,
    pub weight: Option<Weight>,
    pub data: Option<PathBuf>,
    pub client_listen: Option<SocketAddr>,
    pub client_advertise: Option<Address>,
    pub admin_listen: Option<SocketAddr>,
    pub admin_advertise: Option<Address>,
    pub peer_listen: Option<SocketAddr>,
    pub peer_advertise: Option<Address>,
    pub lanes: Option<Lanes>,
    pub max_value_bytes: Option<ValueSize>,
    pub max_connections: Option<Connections>,
    pub overlay: PartialOverlay,
    pub on_damage: Option<OnDamage>,
    pub cache_bytes: Option<CacheSize>,
    pub max_move_rate: Option<MoveRate>,
    pub election_timeout: Option<ElectionTimeout>,
    pub stop_delay: Option<StopDelay>,
    pub log: PartialLog,
}

/// A layer of [`Overlay`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "each field is told of in `Overlay`")]
pub struct PartialOverlay {
    pub max_bytes: Option<OverlaySize>,
    pub max_age: Option<OverlayAge>,
}

/// A layer of [`Log`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "each field is told of in `Log`")]
pub struct PartialLog {
    pub format: Option<LogFormat>,
    pub level: Option<Level>,
}

impl Config {
    /// Lays `flags` over the environment over `file` over the defaults.
    pub fn load(file: Option<&Path>, flags: Partial) -> Result<Self, Error> {
        // A variable that is not Unicode can't be one of ours; `std::env::vars` would panic at it.
        let environment =
            std::env::vars_os().filter_map(|(name, value)| name.into_string().ok().zip(value.into_string().ok()));
        Self::layered(file, environment, flags)
    }

    fn layered(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: Partial,
    ) -> Result<Self, Error> {
        let mut layers = file.map_or(Ok(Partial::default()), Partial::read)?;
        layers.overlay_with(Partial::from_environment(environment)?);
        layers.overlay_with(flags);
        layers.complete()
    }
}

impl Partial {
    /// The settings that a YAML file gives. An empty file gives none.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        serde_yaml::from_str::<Option<Self>>(&text).map(Option::unwrap_or_default).map_err(|error| {
            let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
            // The place already stands at the beginning of our message.
            let reason = error.to_string().replacen(&format!(" at line {line} column {column}"), "", 1);
            Error::File { path: path.to_owned(), line, column, reason }
        })
    }

    /// The settings that variables of the environment give.
    pub fn from_environment(variables: impl IntoIterator<Item = (String, String)>) -> Result<Self, Error> {
        let mut partial = Self::default();
        for (variable, text) in variables {
            if let Some((key, _)) = SETTINGS.iter().find(|(_, known)| *known == variable) {
                partial.set(key, &text).map_err(|reason| Error::Environment { variable, reason })?;
            }
        }
        Ok(partial)
    }

    fn complete(self) -> Result<Config, Error> {
        let client_listen = self.client_listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 7070)));
        let admin_listen = self.admin_listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 7170)));
        let peer_listen = self.peer_listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 7270)));
        let name = self.name.filter(|name| !name.is_empty());
        let overlay = Overlay {
            max_bytes: self.overlay.max_bytes.unwrap_or(Size(32 * MIB)),
            max_age: self.overlay.max_age.unwrap_or(Span(5000)),
        };
        Ok(Config {
            name: name.ok_or_else(|| missing("name", "the member's name, unique in its store"))?,
            zone: self.zone.unwrap_or_default(),
            weight: self.weight.unwrap_or(Count(100)),
            data: self.data.ok_or_else(|| missing("data", "the directory that holds the member's data"))?,
            client_listen,
            client_advertise: advertised(self.client_advertise, client_listen, "client_advertise")?,
            admin_listen,
            admin_advertise: advertised(self.admin_advertise, admin_listen, "admin_advertise")?,
            peer_listen,
            peer_advertise: advertised(self.peer_advertise, peer_listen, "peer_advertise")?,
            lanes: self.lanes,
            max_value_bytes: self.max_value_bytes.unwrap_or(Size(DEFAULT_MAX_VALUE_BYTES as u64)),
            max_connections: self.max_connections.unwrap_or(Count(4096)),
            overlay,
            on_damage: self.on_damage.unwrap_or_default(),
            cache_bytes: self.cache_bytes.unwrap_or(Size(64 * MIB)),
            max_move_rate: self.max_move_rate.unwrap_or(Size(4 * GIB)),
            election_timeout: self.election_timeout.unwrap_or(Span(500)),
            stop_delay: self.stop_delay.unwrap_or(Span(0)),
            log: Log { format: self.log.format.unwrap_or_default(), level: self.log.level.unwrap_or_default() },
        })
    }
}

fn missing(key: &'static str, hint: &'static str) -> Error {
    let variable = SETTINGS.iter().find(|(known, _)| *known == key).map_or("", |(_, variable)| variable);
    Error::Missing { key, variable: variable.to_owned(), hint }
}

/// Where others reach a listener: where it listens, unless that is every address of the machine.
fn advertised(given: Option<Address>, listen: SocketAddr, key: &'static str) -> Result<Address, Error> {
    match given {
        Some(address) => Ok(address),
        None if listen.ip().is_unspecified() => {
            Err(missing(key, "it listens on every address, so others must be told which one to use"))
        }
        None => Ok(Address(listen.to_string())),
    }
}

impl<const MIN: u64, const MAX: u64> Count<MIN, MAX> {
    /// The number, if it is in range.
    pub fn new(number: u64) -> Option<Self> {
        (MIN..=MAX).contains(&number).then_some(Self(number))
    }

    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }

    /// The number, as lengths are counted.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl<const MIN: u64, const MAX: u64> Size<MIN, MAX> {
    /// The size, if it is in range.
    pub fn new(bytes: u64) -> Option<Self> {
        (MIN..=MAX).contains(&bytes).then_some(Self(bytes))
    }

    /// In bytes.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl<const MIN_MS: u64, const MAX_MS: u64> Span<MIN_MS, MAX_MS> {
    /// The duration, if it is in range.
    pub fn from_millis(millis: u64) -> Option<Self> {
        (MIN_MS..=MAX_MS).contains(&millis).then_some(Self(millis))
    }

    /// As a duration.
    pub fn get(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0)
    }
}

impl<const MIN: u64, const MAX: u64> FromStr for Count<MIN, MAX> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|_| plain);
        number.and_then(Self::new).ok_or_else(|| format!("`{text}` is not a whole number from {MIN} to {MAX}"))
    }
}

impl<const MIN: u64, const MAX: u64> FromStr for Size<MIN, MAX> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = units::size(text).map_err(|error| format!("`{text}` is not a size: {error}"))?;
        let (least, most) = (units::write_size(MIN), units::write_size(MAX));
        Self::new(bytes).ok_or_else(|| format!("`{text}` is not a size from {least} to {most}"))
    }
}

impl<const MIN_MS: u64, const MAX_MS: u64> FromStr for Span<MIN_MS, MAX_MS> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let duration = units::duration(text).map_err(|error| format!("`{text}` is not a duration: {error}"))?;
        let write = |millis| units::write_duration(std::time::Duration::from_millis(millis));
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let refuse = || format!("`{text}` is not a duration from {} to {}", write(MIN_MS), write(MAX_MS));
        Self::from_millis(millis).ok_or_else(refuse)
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.rsplit_once(':').filter(|(host, port)| {
            let plain = port.bytes().all(|byte| byte.is_ascii_digit());
            !host.is_empty() && plain && port.parse::<u16>().is_ok_and(|port| port != 0)
        });
        let printable = text.len() <= 255 && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
        match parts {
            Some(_) if printable => Ok(Self(text.to_owned())),
            _ => Err(format!("`{text}` is not an address; it must be host:port, such as node-1.example:7070")),
        }
    }
}

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = |fault: &dyn fmt::Display| {
            format!(
                "`{text}` is not a level ({fault}); it is error, warn, info, debug, trace or off, or directives such as info,annulus_node=debug"
            )
        };
        if text.is_empty() {
            return Err(refuse(&"it is empty"));
        }
        // A lone word that is no level would be taken for the name of a module, and log nothing but that.
        let levels = ["error", "warn", "info", "debug", "trace", "off"];
        let lone =
            |part: &str| !part.contains(['=', '[', ':']) && !levels.contains(&part.to_ascii_lowercase().as_str());
        if text.split(',').any(lone) {
            return Err(refuse(&"unknown word"));
        }
        EnvFilter::try_new(text).map_err(|error| refuse(&error))?;
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("`{text}` is not a format; it is text or json")),
        }
    }
}

impl FromStr for OnDamage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "stop" => Ok(Self::Stop),
            "quarantine" => Ok(Self::Quarantine),
            _ => Err(format!("`{text}` is not a way to deal with damage; it is stop or quarantine")),
        }
    }
}

impl Default for Level {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl Address {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Level {
    /// As directives for the filter.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<const MIN: u64, const MAX: u64> fmt::Display for Count<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl<const MIN: u64, const MAX: u64> fmt::Display for Size<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&units::write_size(self.0))
    }
}

impl<const MIN_MS: u64, const MAX_MS: u64> fmt::Display for Span<MIN_MS, MAX_MS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&units::write_duration(self.get()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

impl fmt::Display for OnDamage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stop => "stop",
            Self::Quarantine => "quarantine",
        })
    }
}

/// In YAML a number may stand without quotes; the same text is read either way, so that the error is the same too.
struct Scalar<T>(std::marker::PhantomData<T>);

impl<T: FromStr<Err = String>> Visitor<'_> for Scalar<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a single value")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }
}

macro_rules! as_text {
    ($([$($generics:tt)*] $type:ty;)*) => {$(
        impl<'de, $($generics)*> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(Scalar(std::marker::PhantomData))
            }
        }

        impl<$($generics)*> Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}

as_text! {
    [const MIN: u64, const MAX: u64] Size<MIN, MAX>;
    [const MIN_MS: u64, const MAX_MS: u64] Span<MIN_MS, MAX_MS>;
    [] Address;
    [] Level;
    [] LogFormat;
    [] OnDamage;
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Count<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Scalar(std::marker::PhantomData))
    }
}

impl<const MIN: u64, const MAX: u64> Serialize for Count<MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::*;

    /// Reads `yaml` as a file called `annulus.yaml`, and says the error with the directory left out.
    fn read(yaml: &str) -> Result<Partial, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("annulus.yaml");
        fs::write(&path, yaml).unwrap();
        Partial::read(&path).map_err(|error| error.to_string().replace(&format!("{}/", directory.path().display()), ""))
    }

    fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_small_file_gets_the_defaults() {
        let config = read("name: n1\ndata: /data\n").unwrap().complete().unwrap();
        assert_eq!(config.client_listen.to_string(), "127.0.0.1:7070");
        assert_eq!(config.client_advertise.as_str(), "127.0.0.1:7070");
        assert_eq!(config.weight.get(), 100);
        assert_eq!(config.overlay.max_bytes.to_string(), "32MiB");
        assert_eq!(config.overlay.max_age.to_string(), "5s");
        assert_eq!(config.cache_bytes.to_string(), "64MiB");
        assert_eq!(config.election_timeout.to_string(), "500ms");
        assert_eq!(config.max_value_bytes.as_usize(), 1024 * 1024);
        assert_eq!(read("").unwrap(), Partial::default());
        assert_eq!(read("# nothing\n").unwrap(), Partial::default());
    }

    #[test]
    fn what_is_printed_is_read_back_as_it_was() {
        let config = read("name: n1\ndata: /data\nlanes: 2\nzone: a\n").unwrap().complete().unwrap();
        let printed = serde_yaml::to_string(&config).unwrap();
        assert_eq!(read(&printed).unwrap().complete().unwrap(), config, "{printed}");
    }

    #[test]
    fn each_mistake_in_a_file_is_told_with_its_place() {
        for (yaml, expected) in [
            ("name: n1\ndatta: /data\n", "annulus.yaml:2:1: unknown field `datta`, expected one of `name`, `zone`"),
            (
                "overlay:\n  max_size: 1MiB\n",
                "annulus.yaml:2:3: overlay: unknown field `max_size`, expected `max_bytes` or `max_age`",
            ),
            (
                "name: n1\noverlay:\n  max_age: 5\n",
                "annulus.yaml:3:12: overlay.max_age: `5` is not a duration: a unit is missing",
            ),
            (
                "cache_bytes: 64MB\n",
                "annulus.yaml:1:14: cache_bytes: `64MB` is not a size: the unit is unknown; the units are B, KiB",
            ),
            ("cache_bytes: 1KiB\n", "annulus.yaml:1:14: cache_bytes: `1KiB` is not a size from 1MiB to 1024GiB"),
            ("weight: 0\n", "annulus.yaml:1:9: weight: `0` is not a whole number from 1 to 1000"),
            ("weight: -1\n", "annulus.yaml:1:9: weight: `-1` is not a whole number"),
            ("weight: many\n", "annulus.yaml:1:9: weight: `many` is not a whole number"),
            ("client_advertise: node\n", "annulus.yaml:1:19: client_advertise: `node` is not an address"),
            ("client_listen: node:1\n", "annulus.yaml:1:16: client_listen: invalid socket address syntax"),
            ("log: {format: xml}\n", "annulus.yaml:1:15: log.format: `xml` is not a format; it is text or json"),
            ("log: {level: verbose}\n", "annulus.yaml:1:14: log.level: `verbose` is not a level"),
            ("name: n1\nname: n2\n", "annulus.yaml:1:1: duplicate field `name`"),
            ("name: [\n", "annulus.yaml:1:7: name: invalid type: sequence, expected a string"),
            (
                "name: \"n1\nzone: a\n",
                "annulus.yaml:3:1: found unexpected end of stream, while scanning a quoted scalar at line 1 column 7",
            ),
            ("name: n1\n\tzone: a\n", "annulus.yaml:2:1: found a tab character that violates indentation"),
            ("- a\n", "annulus.yaml:1:1: invalid type: sequence"),
        ] {
            let error = read(yaml).unwrap_err();
            assert!(error.starts_with(expected), "{yaml}\n  {error}\n  {expected}");
        }
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("annulus.yaml");
        fs::write(&path, "name: file\nzone: file\ndata: /file\nlog: {level: warn}\noverlay: {max_age: 1s}\n").unwrap();
        let environment = variables(&[
            ("ANNULUS_NAME", "environment"),
            ("ANNULUS_ZONE", "environment"),
            ("ANNULUS_OVERLAY_MAX_BYTES", "8MiB"),
            ("ANNULUS_SERVICE_HOST", "10.0.0.1"),
        ]);
        let flags = Partial { name: Some("flag".to_owned()), ..Partial::default() };
        let config = Config::layered(Some(&path), environment, flags).unwrap();
        assert_eq!((&*config.name, &*config.zone), ("flag", "environment"));
        assert_eq!(config.data, Path::new("/file"));
        assert_eq!(config.log.level.as_str(), "warn");
        assert_eq!(
            (config.overlay.max_bytes.to_string(), config.overlay.max_age.to_string()),
            ("8MiB".into(), "1s".into())
        );
    }

    #[test]
    fn a_mistake_in_the_environment_names_its_variable() {
        let error = Partial::from_environment(variables(&[("ANNULUS_ELECTION_TIMEOUT", "500")])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "ANNULUS_ELECTION_TIMEOUT: `500` is not a duration: a unit is missing; write one of ms, s, m, h, d after the number, such as 30s"
        );
    }

    #[test]
    fn what_has_no_default_is_asked_for() {
        let error = Partial::default().complete().unwrap_err().to_string();
        assert!(error.starts_with("`name` is missing") && error.contains("ANNULUS_NAME"), "{error}");
        let everywhere = read("name: n1\ndata: /data\npeer_listen: 0.0.0.0:7270\n").unwrap();
        let error = everywhere.complete().unwrap_err().to_string();
        assert!(error.starts_with("`peer_advertise` is missing: it listens on every address"), "{error}");
    }

    #[test]
    fn every_setting_can_be_given_in_the_environment() {
        let config = read("name: n1\ndata: /data\nlanes: 2\n").unwrap().complete().unwrap();
        let serde_yaml::Value::Mapping(printed) = serde_yaml::to_value(&config).unwrap() else { panic!("no mapping") };
        let mut values = BTreeMap::new();
        for (key, value) in printed {
            let key = key.as_str().unwrap().to_owned();
            match value {
                serde_yaml::Value::Mapping(inner) => values
                    .extend(inner.into_iter().map(|(sub, value)| (format!("{key}.{}", sub.as_str().unwrap()), value))),
                value => drop(values.insert(key, value)),
            }
        }
        assert!(
            values
                .keys()
                .map(String::as_str)
                .eq(SETTINGS.iter().map(|(key, _)| *key).collect::<std::collections::BTreeSet<_>>())
        );
        let environment = SETTINGS.iter().map(|(key, variable)| {
            let text = serde_yaml::to_string(&values[*key]).unwrap().trim().trim_matches('\'').to_owned();
            ((*variable).to_owned(), text)
        });
        assert_eq!(Partial::from_environment(environment).unwrap().complete().unwrap(), config);
    }
}
