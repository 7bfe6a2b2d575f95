//! What is done to the machines that pods run on.

use std::time::Duration;

use serde_json::Value;

use crate::command::{self, Failed};

/// Names a program that does it, where the nodes are not kind's.
pub(crate) const PROGRAM: &str = "ANNULUS_E2E_NODES";
/// How long one fault may take to be done.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is done to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It loses its power.
    Kill,
    /// It has its power back.
    Start,
    /// Nothing on it goes on.
    Freeze,
    /// It goes on as if nothing had been.
    Thaw,
    /// Nothing reaches it, and nothing leaves it.
    Cut,
    /// It can be reached again.
    Heal,
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Start => "start",
            Self::Freeze => "freeze",
            Self::Thaw => "thaw",
            Self::Cut => "cut",
            Self::Heal => "heal",
        }
    }

    /// What makes up for it.
    fn remedy(self) -> Option<Self> {
        match self {
            Self::Kill => Some(Self::Start),
            Self::Freeze => Some(Self::Thaw),
            Self::Cut => Some(Self::Heal),
            Self::Start | Self::Thaw | Self::Heal => None,
        }
    }
}

/// Who can do something to nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    /// They are containers on this machine.
    Kind,
    /// A program of whoever runs the tests.
    Program(String),
}

/// The nodes of the cluster. What was done to them is undone when this goes.
#[derive(Debug)]
pub(crate) struct Nodes {
    way: Way,
    undone: Vec<(Fault, String)>,
}

impl Nodes {
    /// The nodes of this list from the API server, if anything can be done to them.
    pub(crate) fn of(list: &Value) -> Option<Self> {
        let given = std::env::var(PROGRAM).ok().filter(|program| !program.is_empty()).map(Way::Program);
        let is_kind = |node: &Value| node["spec"]["providerID"].as_str().is_some_and(|id| id.starts_with("kind://"));
        let nodes = list["items"].as_array()?;
        let kind = (!nodes.is_empty() && nodes.iter().all(is_kind)).then_some(Way::Kind);
        Some(Self { way: given.or(kind)?, undone: Vec::new() })
    }

    /// Does it.
    pub(crate) async fn act(&mut self, fault: Fault, node: &str) {
        // Also when it fails: it may have been half done.
        self.undone.retain(|(_, harmed)| harmed != node);
        if let Some(remedy) = fault.remedy() {
            self.undone.push((remedy, node.to_owned()));
        }
        let words = self.way.words(fault, node);
        self.run(&words).await.unwrap_or_else(|failed| panic!("{failed}"));
    }

    /// Empties a folder, as a disk that was exchanged is empty.
    pub(crate) async fn empty(&self, node: &str, folder: &str) {
        let words = match &self.way {
            // The folder itself stays: a mount of it must find it.
            Way::Kind => words(&["docker", "exec", node, "find", folder, "-mindepth", "1", "-delete"]),
            Way::Program(program) => words(&[program, "empty", node, folder]),
        };
        self.run(&words).await.unwrap_or_else(|failed| panic!("{failed}"));
    }

    /// Kills a process of a pod, as it would crash: the one whose command line has these words in it.
    pub(crate) async fn crash(&self, node: &str, pod_uid: &str, command: &str) {
        let words = match &self.way {
            Way::Kind => {
                // The runtime writes a pod's UID with underscores in the names of its control groups.
                let uid = pod_uid.replace('-', "[-_]");
                let kill = format!(
                    "for it in $(pgrep -f '{command}'); do grep -q 'pod{uid}' /proc/$it/cgroup && kill -9 $it && echo $it; done | grep ."
                );
                words(&["docker", "exec", node, "sh", "-c", &kill])
            }
            Way::Program(program) => words(&[program, "crash", node, pod_uid, command]),
        };
        self.run(&words).await.unwrap_or_else(|failed| panic!("{failed}"));
    }

    async fn run(&self, words: &[String]) -> Result<String, Failed> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        command::run(words[0], &words[1..], "", PATIENCE).await
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for (remedy, node) in &self.undone {
            let words = self.way.words(*remedy, node);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            command::run_now(words[0], &words[1..], PATIENCE);
        }
    }
}

impl Way {
    fn words(&self, fault: Fault, node: &str) -> Vec<String> {
        let Self::Program(program) = self else {
            return match fault {
                Fault::Kill => words(&["docker", "kill", node]),
                Fault::Start => words(&["docker", "start", node]),
                Fault::Freeze => words(&["docker", "pause", node]),
                Fault::Thaw => words(&["docker", "unpause", node]),
                Fault::Cut => words(&["docker", "exec", node, "sh", "-c", &rules("-I")]),
                Fault::Heal => words(&["docker", "exec", node, "sh", "-c", &rules("-D")]),
            };
        };
        words(&[program, fault.name(), node])
    }
}

/// What drops everything that goes in or out of a container's only way out, or does so no more. Taking the interface down would
/// take its routes away, too.
fn rules(verb: &str) -> String {
    let rules = ["INPUT -i eth0", "OUTPUT -o eth0", "FORWARD -i eth0", "FORWARD -o eth0"];
    rules.map(|rule| format!("iptables {verb} {rule} -j DROP")).join(" && ")
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
