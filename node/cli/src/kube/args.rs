//! The grammar of the operator's verbs: `annulus kube …`, and the same as `kubectl annulus …`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::input;
use crate::output::Format;

const EXIT_CODES: &str = "Exit codes: 0 done, 1 refused (not found, forbidden), 2 usage error (nothing was changed), 3 outcome \
                          unknown (the change may have been made), 4 not available.";

/// This program as a plugin of kubectl: installed as `kubectl-annulus`, it is run as `kubectl annulus`.
#[derive(Debug, Parser)]
#[command(name = "kubectl annulus", bin_name = "kubectl annulus", version, disable_help_subcommand = true)]
#[command(about = "Shows and steers Annulus stores in a Kubernetes cluster", after_help = EXIT_CODES)]
pub(crate) struct Plugin {
    #[command(flatten)]
    pub(crate) kube: Kube,
}

/// A verb, and the cluster of Kubernetes that it is for.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, disable_help_subcommand = true)]
pub(crate) struct Kube {
    #[command(subcommand)]
    pub(crate) verb: Verb,
    #[command(flatten)]
    pub(crate) target: Target,
}

/// The cluster of Kubernetes and the namespace, as kubectl takes them.
#[derive(Debug, Clone, Args)]
pub(crate) struct Target {
    /// The namespace [default: that of the context]
    #[arg(long, short, global = true, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// The context of the kubeconfig [default: the current one]
    #[arg(long, global = true, value_name = "CONTEXT")]
    pub(crate) context: Option<String>,
    /// The kubeconfig [default: $KUBECONFIG, else ~/.kube/config, else that of the pod that this runs in]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show how a store is, its members, and what the operator is about to do
    Status(Status),
    /// Show what is still to be done, and what it waits for
    Plan(Plan),
    /// Let everything move away from members that stay members
    Drain(Named),
    /// Let drained members hold replicas again
    Undrain(Named),
    /// Let the operator change nothing any more
    Pause(Which),
    /// Let a paused operator go on
    Resume(Which),
    /// Show the pods that have a store on their localhost, and how many locks each holds
    Sidecars(Sidecars),
    /// Write all that helps to find out what is wrong into a file
    Report(Report),
}

/// The store.
#[derive(Debug, Clone, Args)]
pub(crate) struct Which {
    /// The StorageCluster; may be left out where the namespace has only one
    pub(crate) cluster: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Exits with 4 when the store is not available.")]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Show it again and again, until Ctrl-C; where stdout is no terminal, each time it has changed
    #[arg(long, short)]
    pub(crate) watch: bool,
    /// How to write the result
    #[arg(long, short, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Below the operator's plan stands that of the store itself, if a member can be asked through the API server: \
                        it takes the permission to get pods/proxy."
)]
pub(crate) struct Plan {
    #[command(flatten)]
    pub(crate) which: Which,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Locks are asked of each sidecar through the API server: it takes the permission to get pods/proxy. `-` is one that \
                        does not tell."
)]
pub(crate) struct Sidecars {
    /// The StorageCluster [default: all of the namespace]
    pub(crate) cluster: Option<String>,
    /// How to write the result
    #[arg(long, short, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The members, by name
    #[arg(required = true, value_name = "MEMBER")]
    pub(crate) members: Vec<String>,
    /// The StorageCluster [default: the one that has these members]
    #[arg(long, value_name = "CLUSTER")]
    pub(crate) cluster: Option<String>,
    /// Wait until it is so
    #[arg(long, short)]
    pub(crate) wait: bool,
    /// For how long to wait
    #[arg(long, default_value = "10m", value_parser = input::duration, value_name = "DURATION")]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Secrets are never read. Of the environment of pods only the values of variables that begin with ANNULUS_ are \
                        written. The file tells what is in it, and what could not be read and why."
)]
pub(crate) struct Report {
    #[command(flatten)]
    pub(crate) which: Which,
    /// The file, a tar archive [default: annulus-report-NAMESPACE-CLUSTER-TIME.tar here]
    #[arg(long, value_name = "FILE")]
    pub(crate) to: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Kube, clap::Error> {
        let arguments = std::iter::once("kubectl-annulus").chain(line.split_whitespace());
        Plugin::try_parse_from(arguments).map(|plugin| plugin.kube)
    }

    #[test]
    fn the_grammar_of_the_plugin_is_sound() {
        Plugin::command().debug_assert();
    }

    #[test]
    fn where_to_look_may_stand_before_and_behind_the_verb() {
        for line in ["-n shop status demo --context c", "status demo --namespace shop --context c"] {
            let kube = parse(line).unwrap();
            assert_eq!(kube.target.namespace.as_deref(), Some("shop"), "{line}");
            assert_eq!(kube.target.context.as_deref(), Some("c"), "{line}");
            let Verb::Status(status) = kube.verb else { panic!("{line}") };
            assert_eq!(status.which.cluster.as_deref(), Some("demo"));
        }
    }

    #[test]
    fn members_are_named_and_everything_else_has_a_default() {
        let Verb::Drain(named) = parse("drain demo-a demo-b --wait --timeout 30s").unwrap().verb else { panic!() };
        assert_eq!((named.members.len(), named.cluster, named.wait), (2, None, true));
        assert_eq!(named.timeout, Duration::from_secs(30));
        for right in [
            "status",
            "status -w -o json",
            "plan",
            "undrain demo-a",
            "pause",
            "resume demo",
            "report --to f.tar",
            "sidecars",
            "sidecars demo -o json",
        ] {
            assert!(parse(right).is_ok(), "{right}");
        }
        for wrong in ["drain", "undrain", "", "pause a b", "statsu", "drain a --timeout 30"] {
            assert_eq!(parse(wrong).unwrap_err().exit_code(), 2, "{wrong}");
        }
    }
}
