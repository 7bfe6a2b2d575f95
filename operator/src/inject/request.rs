//! What a pod asks for: a sidecar of which cluster, and how it is to be. A pure function of the pod and of the rules.

use std::collections::BTreeSet;

use annulus_crds::{inject, labels, quantity};

use super::pod::{MIRROR, Pod, Spec};

/// Namespaces whose pods are never changed: the cluster itself starts by them.
pub const NEVER_IN: [&str; 3] = ["kube-system", "kube-node-lease", "kube-public"];
/// Ports below take a right that a sidecar does not have.
const FIRST_PORT: u16 = 1024;
/// Longest reference of an image.
const LONGEST_IMAGE: usize = 1024;
/// Longest text of a pod's that is said back to its author.
const LONGEST_QUOTE: usize = 80;

/// By what the operator judges pods.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The image of sidecars.
    pub image: String,
    /// When nodes pull it; `None`: as Kubernetes does by itself.
    pub pull_policy: Option<String>,
    /// The operator's version, with which sidecars are marked.
    pub version: String,
    /// Whether a pod may name the image of its sidecar.
    pub allows_image: bool,
    /// What becomes of a pod whose cluster does not exist.
    pub missing: Missing,
    /// The namespaces whose pods are looked at; empty: all.
    pub namespaces: BTreeSet<String>,
    /// The operator's own namespace, whose pods are not.
    pub own_namespace: String,
}

/// What becomes of a pod whose cluster does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// It is refused; whoever makes it tries again.
    Refuse,
    /// It starts without a sidecar.
    Allow,
}

/// What a pod asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// Nothing; with a warning where its author may think otherwise.
    Nothing(Option<String>),
    /// A sidecar of this cluster.
    Cluster(String),
    /// What its namespace says.
    NamespacesDefault,
}

/// Why a pod is refused, for its author to read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// What a new pod asks for, as far as it says so itself.
pub fn asked(rules: &Rules, namespace: &str, pod: &Pod) -> Result<Asked, Refusal> {
    if !is_served(rules, namespace)
        || pod.annotation(MIRROR).is_some()
        || pod.label(labels::MANAGED_BY) == Some(labels::MANAGER)
    {
        return Ok(Asked::Nothing(None));
    }
    let said = pod.annotation(inject::INJECT);
    if said == Some(inject::NEVER) {
        return Ok(Asked::Nothing(None));
    }
    if pod.spec.as_ref().is_some_and(Spec::is_for_windows) {
        let warning = format!("{}: a pod for Windows gets no sidecar, which runs on Linux only", inject::INJECT);
        return Ok(Asked::Nothing(said.map(|_| warning)));
    }
    match said {
        None => Ok(Asked::NamespacesDefault),
        Some(text) => named(text, "the pod's annotation").map(Asked::Cluster),
    }
}

/// What a pod that does not say gets: what the label of its namespace says.
pub fn by_default(label: Option<&str>) -> Result<Asked, Refusal> {
    match label {
        None | Some(inject::NEVER) => Ok(Asked::Nothing(None)),
        Some(text) => named(text, "the namespace's label").map(Asked::Cluster),
    }
}

fn is_served(rules: &Rules, namespace: &str) -> bool {
    let is_ours = rules.namespaces.is_empty() || rules.namespaces.contains(namespace);
    is_ours && namespace != rules.own_namespace && !NEVER_IN.contains(&namespace)
}

fn named(text: &str, whose: &str) -> Result<String, Refusal> {
    let key = inject::INJECT;
    if text.contains('/') {
        return Err(Refusal(format!(
            "{whose} {key} is {}: a pod gets the store of its own namespace only, so name the StorageCluster without a namespace",
            quoted(text)
        )));
    }
    if matches!(text, "true" | "enabled" | "yes" | "") {
        return Err(Refusal(format!(
            "{whose} {key} is {}: it has to be the name of a StorageCluster of the pod's namespace, or `{}`",
            quoted(text),
            inject::NEVER
        )));
    }
    if !is_dns_label(text) {
        return Err(Refusal(format!(
            "{whose} {key} is {}, which can't be the name of a StorageCluster: that has at most 63 lower-case letters, digits and \
             hyphens",
            quoted(text)
        )));
    }
    Ok(text.to_owned())
}

fn is_dns_label(text: &str) -> bool {
    let is_plain = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    let ends = [text.as_bytes().first(), text.as_bytes().last()];
    text.len() <= 63
        && ends.iter().all(|end| end.is_some_and(|&letter| is_plain(letter)))
        && text.bytes().all(|letter| is_plain(letter) || letter == b'-')
}

/// A text of the pod's in a message: short, and on one line.
pub(super) fn quoted(text: &str) -> String {
    let letters = text.chars().map(|letter| if letter.is_control() { '?' } else { letter });
    let short: String = letters.clone().take(LONGEST_QUOTE).collect();
    let more = if letters.count() > LONGEST_QUOTE { "…" } else { "" };
    format!("`{short}{more}`")
}

/// [`inject::DEFAULT_CPU`] in thousandths of a processor.
const DEFAULT_CPU_THOUSANDTHS: u64 = 10;

/// How a sidecar is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The port of 127.0.0.1 at which it serves.
    pub port: u16,
    /// The port at which it answers probes.
    pub status_port: u16,
    /// The processor time that it is sure to get.
    pub cpu: String,
    /// The processor time that it may use; `None`: there is no limit.
    pub cpu_limit: Option<String>,
    /// The memory that it is sure to get.
    pub memory: String,
    /// The memory that it may use.
    pub memory_limit: String,
    /// Its image.
    pub image: String,
}

/// How a pod wants its sidecar.
pub fn options(rules: &Rules, pod: &Pod) -> Result<Options, Refusal> {
    let annotations = pod.metadata.as_ref().and_then(|metadata| metadata.annotations.as_ref());
    if let Some(misspelt) = annotations.and_then(|annotations| annotations.misspelt.as_ref()) {
        return Err(Refusal(format!(
            "there is no annotation {}; of its sidecar a pod may say {}",
            quoted(misspelt),
            inject::OPTIONS.join(", ")
        )));
    }
    let memory = pod.annotation(inject::MEMORY).map(memory).transpose()?;
    let (cpu, cpu_limit) = (cpu(pod, inject::CPU)?, cpu(pod, inject::CPU_LIMIT)?);
    let least = cpu.as_ref().map_or(DEFAULT_CPU_THOUSANDTHS, |(_, thousandths)| *thousandths);
    if let Some((limit, _)) = cpu_limit.as_ref().filter(|(_, thousandths)| *thousandths < least) {
        return Err(Refusal(format!(
            "{} is {}: that is less than the sidecar is sure to get, which {} says",
            inject::CPU_LIMIT,
            quoted(limit),
            inject::CPU
        )));
    }
    let options = Options {
        port: own_port(pod)?,
        status_port: port(pod, inject::STATUS_PORT, inject::DEFAULT_STATUS_PORT)?,
        cpu: cpu.map_or_else(|| inject::DEFAULT_CPU.to_owned(), |(text, _)| text),
        cpu_limit: cpu_limit.map(|(text, _)| text),
        memory: memory.clone().unwrap_or_else(|| inject::DEFAULT_MEMORY.to_owned()),
        memory_limit: memory.unwrap_or_else(|| inject::DEFAULT_MEMORY_LIMIT.to_owned()),
        image: pod.annotation(inject::IMAGE).map_or(Ok(rules.image.clone()), |text| image(rules, text))?,
    };
    if options.port == options.status_port {
        return Err(Refusal(format!(
            "{} and {} are both {}: the sidecar can't listen twice at one port",
            inject::PORT,
            inject::STATUS_PORT,
            options.port
        )));
    }
    Ok(options)
}

/// The port at which a pod wants its sidecar to serve.
pub fn own_port(pod: &Pod) -> Result<u16, Refusal> {
    port(pod, inject::PORT, inject::DEFAULT_PORT)
}

fn port(pod: &Pod, key: &str, default: u16) -> Result<u16, Refusal> {
    let Some(text) = pod.annotation(key) else { return Ok(default) };
    let is_number = !text.is_empty() && text.bytes().all(|letter| letter.is_ascii_digit());
    let number = text.parse::<u16>().ok().filter(|number| is_number && *number >= FIRST_PORT);
    number.ok_or_else(|| Refusal(format!("{key} is {}: it has to be a port from {FIRST_PORT} to 65535", quoted(text))))
}

/// As it is written, and in thousandths of a processor.
fn cpu(pod: &Pod, key: &str) -> Result<Option<(String, u64)>, Refusal> {
    let Some(text) = pod.annotation(key) else { return Ok(None) };
    // Thousandths of a processor; `quantity` takes `m` and rounds up to whole ones, so it is asked for the number alone.
    let thousandths = match text.strip_suffix('m') {
        Some(number) => number.parse::<u64>().ok().filter(|_| number.bytes().all(|letter| letter.is_ascii_digit())),
        None if text.bytes().all(|letter| letter.is_ascii_digit() || letter == b'.') => {
            quantity::bytes(&format!("{text}k"))
        }
        None => None,
    };
    match thousandths {
        Some(thousandths @ 1..=64_000) => Ok(Some((text.to_owned(), thousandths))),
        _ => Err(Refusal(format!("{key} is {}: it has to be from 1m to 64, such as `20m`", quoted(text)))),
    }
}

fn memory(text: &str) -> Result<String, Refusal> {
    let range = 16 << 20..=16 << 30;
    match quantity::bytes(text) {
        Some(bytes) if range.contains(&bytes) && !text.ends_with('m') => Ok(text.to_owned()),
        _ => Err(Refusal(format!(
            "{} is {}: it has to be from 16Mi to 16Gi, such as `128Mi`",
            inject::MEMORY,
            quoted(text)
        ))),
    }
}

fn image(rules: &Rules, text: &str) -> Result<String, Refusal> {
    let key = inject::IMAGE;
    if !rules.allows_image && text != rules.image {
        return Err(Refusal(format!(
            "{key} is {}: this operator lets no pod choose the image of its sidecar, which is {}; leave the annotation out, or ask \
             whoever installed the operator for injection.allowImage",
            quoted(text),
            rules.image
        )));
    }
    let is_plain = |letter: u8| letter.is_ascii_alphanumeric() || b"._-/:@".contains(&letter);
    let is_word = text.bytes().next().is_some_and(|letter| letter.is_ascii_alphanumeric());
    if !is_word || text.len() > LONGEST_IMAGE || !text.bytes().all(is_plain) {
        return Err(Refusal(format!("{key} is {}, which is no reference of an image", quoted(text))));
    }
    Ok(text.to_owned())
}
