//! As much of a pod as injection goes by, read straight from JSON.
//!
//! Whoever reaches the webhook's port may send what he likes, so that nothing is kept that is not asked for: lists are folded while
//! they are read, and what has to be kept has a bound. What is read has to have the type that it has in a Pod; what is not read is
//! neither kept nor touched.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use annulus_crds::{inject, labels};
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// More containers than any pod has; each costs memory here.
pub const MOST_CONTAINERS: usize = 1000;
/// More ports than any container has.
const MOST_PORTS: usize = 10_000;
/// More search domains than any pod may have.
const MOST_SEARCHES: usize = 100;
/// The variable that tells an application where the store is.
pub const ENDPOINT: &str = "ANNULUS_ENDPOINT";
/// Annotation of a pod that a kubelet made of a file: nothing that the API server says changes it.
pub const MIRROR: &str = "kubernetes.io/config.mirror";
/// The label of nodes, and so in node selectors, that tells their system.
const SYSTEM: &str = "kubernetes.io/os";

/// Labels and annotations that matter here, with [`inject::OPTIONS`]; all others are passed over.
const KNOWN: [&str; 6] = [inject::INJECT, inject::SIDECAR, inject::VERSION, MIRROR, SYSTEM, labels::MANAGED_BY];

/// A struct that is read from a JSON object and from nothing else. What is absent or `null` is the default.
macro_rules! read_object {
    ($(#[$about:meta])* pub struct $name:ident { $($(#[$field_about:meta])* $field:ident: $kind:ty = $key:literal,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_about])* pub $field: $kind,)*
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Read;
                impl<'de> Visitor<'de> for Read {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("an object")
                    }

                    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<$name, A::Error> {
                        let mut read = $name::default();
                        while let Some(key) = map.next_key::<String>()? {
                            match key.as_str() {
                                $($key => {
                                    let value = map.next_value::<Option<$kind>>();
                                    let value = value.map_err(|error| A::Error::custom(format!("{}: {error}", $key)))?;
                                    read.$field = value.unwrap_or_default();
                                })*
                                _ => drop(map.next_value::<IgnoredAny>()?),
                            }
                        }
                        Ok(read)
                    }
                }
                deserializer.deserialize_map(Read)
            }
        }
    };
}

read_object! {
    /// A pod.
    pub struct Pod {
        /// Its metadata; `None`: it has none, and is no pod that the API server would send.
        metadata: Option<Metadata> = "metadata",
        /// What it is to be; `None`: it has no spec, and is no pod that could run.
        spec: Option<Spec> = "spec",
    }
}

read_object! {
    /// Its metadata.
    pub struct Metadata {
        /// Those of its labels that matter here; `None`: it has none at all.
        labels: Option<Words> = "labels",
        /// Those of its annotations that matter here; `None`: it has none at all.
        annotations: Option<Words> = "annotations",
    }
}

read_object! {
    /// What a pod is to be.
    pub struct Spec {
        /// The containers that are its purpose.
        containers: Bounded<Container, MOST_CONTAINERS> = "containers",
        /// Those that run before them; `None`: the field is absent.
        init_containers: Option<Bounded<Container, MOST_CONTAINERS>> = "initContainers",
        /// Its volumes; `None`: the field is absent.
        volumes: Option<Volumes> = "volumes",
        /// Whether it has its node's network.
        host_network: bool = "hostNetwork",
        /// How it finds names.
        dns_policy: String = "dnsPolicy",
        /// What else it asks for names.
        dns: Dns = "dnsConfig",
        /// The system that it is made for.
        os: System = "os",
        /// Labels of nodes that it may run on.
        node_selector: Words = "nodeSelector",
    }
}

read_object! {
    /// How a pod finds names, beside its policy.
    pub struct Dns {
        /// Domains in which it looks for a name that is not whole.
        searches: Bounded<String, MOST_SEARCHES> = "searches",
    }
}

read_object! {
    /// A system, such as `linux`.
    pub struct System {
        /// Its name; empty: not said.
        name: String = "name",
    }
}

read_object! {
    /// A container.
    pub struct Container {
        /// Its name.
        name: String = "name",
        /// Its image.
        image: String = "image",
        /// The first words of what it runs.
        command: Command = "command",
        /// When it is started again; of an init container, `Always` makes it a sidecar.
        restart_policy: String = "restartPolicy",
        /// Its variables; `None`: the field is absent.
        env: Option<Environment> = "env",
        /// The ports that it says it listens at.
        ports: Bounded<Port, MOST_PORTS> = "ports",
    }
}

read_object! {
    /// A port of a container.
    pub struct Port {
        /// Its number in the pod.
        container: i64 = "containerPort",
        /// Its number on the node.
        host: i64 = "hostPort",
        /// Such as `TCP`, which is meant where there is none.
        protocol: String = "protocol",
    }
}

read_object! {
    /// A variable or a volume, of which only the name counts, and whether it is an empty directory.
    pub struct Named {
        /// Its name.
        name: String = "name",
        /// Whether it is a directory that is empty at first.
        empty: Option<IgnoredObject> = "emptyDir",
    }
}

/// An object whose content does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IgnoredObject;

impl<'de> Deserialize<'de> for IgnoredObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = IgnoredObject;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<IgnoredObject, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(IgnoredObject)
            }
        }
        deserializer.deserialize_map(Read)
    }
}

/// Labels or annotations, of which only those are kept that matter here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Words {
    known: BTreeMap<&'static str, String>,
    /// The first that looks like one of [`inject::OPTIONS`] and is none.
    pub misspelt: Option<String>,
}

impl Words {
    /// The value of one.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.known.get(key).map(String::as_str)
    }
}

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Words;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Words, A::Error> {
                let mut words = Words::default();
                while let Some((key, value)) = map.next_entry::<String, Option<String>>()? {
                    if let Some(known) = KNOWN.iter().chain(&inject::OPTIONS).find(|known| **known == key) {
                        words.known.insert(known, value.unwrap_or_default());
                    } else if key.starts_with(inject::PREFIX) {
                        words.misspelt.get_or_insert(key);
                    }
                }
                Ok(words)
            }
        }
        deserializer.deserialize_map(Read)
    }
}

/// A list of at most so many. One that has more is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounded<T, const MOST: usize>(pub Vec<T>);

impl<T, const MOST: usize> Default for Bounded<T, MOST> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for Bounded<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut all = Vec::new();
        let read = |one: T| {
            let fits = all.len() < MOST;
            if fits {
                all.push(one);
            }
            fits
        };
        match fold(deserializer, read)? {
            true => Ok(Self(all)),
            false => Err(D::Error::custom(format!("there are more than {MOST}"))),
        }
    }
}

/// What a container runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Command {
    /// The first words: a sidecar is told by two.
    pub first: Vec<String>,
}

impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut read = Self::default();
        fold(deserializer, |word: String| {
            if read.first.len() < 2 {
                read.first.push(word);
            }
            true
        })?;
        Ok(read)
    }
}

/// The variables of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// Whether it says itself where the store is.
    pub has_endpoint: bool,
}

impl<'de> Deserialize<'de> for Environment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut read = Self::default();
        fold(deserializer, |variable: Named| {
            read.has_endpoint |= variable.name == ENDPOINT;
            true
        })?;
        Ok(read)
    }
}

/// The volumes of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Volumes {
    /// How many have the name of the sidecar's.
    pub named: usize,
    /// Whether one of them is an empty directory, as the sidecar's is.
    pub is_empty_dir: bool,
}

impl<'de> Deserialize<'de> for Volumes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut read = Self::default();
        fold(deserializer, |volume: Named| {
            if volume.name == inject::CONTAINER {
                read.named += 1;
                read.is_empty_dir |= volume.empty.is_some();
            }
            true
        })?;
        Ok(read)
    }
}

/// Reads a list, one element at a time, for as long as it is wanted; returns whether all of it was.
fn fold<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
    each: impl FnMut(T) -> bool,
) -> Result<bool, D::Error> {
    struct Read<T, F>(F, PhantomData<T>);
    impl<'de, T: Deserialize<'de>, F: FnMut(T) -> bool> Visitor<'de> for Read<T, F> {
        type Value = bool;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<bool, A::Error> {
            let mut is_wanted = true;
            while is_wanted && let Some(one) = list.next_element::<T>()? {
                is_wanted = (self.0)(one);
            }
            // The rest is read over: what follows the list is still to be read.
            while !is_wanted && list.next_element::<IgnoredAny>()?.is_some() {}
            Ok(is_wanted)
        }
    }
    deserializer.deserialize_seq(Read(each, PhantomData))
}

impl Pod {
    /// The value of an annotation that matters here.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata.as_ref()?.annotations.as_ref()?.get(key)
    }

    /// The value of a label that matters here.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.metadata.as_ref()?.labels.as_ref()?.get(key)
    }
}

impl Spec {
    /// Whether it can only run on Windows, where no sidecar of ours does.
    pub fn is_for_windows(&self) -> bool {
        self.os.name == "windows" || self.node_selector.get(SYSTEM) == Some("windows")
    }

    /// The init containers.
    pub fn init_containers(&self) -> &[Container] {
        self.init_containers.as_ref().map(|all| all.0.as_slice()).unwrap_or_default()
    }
}
