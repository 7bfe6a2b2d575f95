//! `annulus kube …`, and the same as `kubectl annulus …`: what an operator of a store in Kubernetes needs to see and to steer.
//!
//! ```text
//!  status, plan   ◀── the StorageCluster's status, which the operator keeps current
//!  drain, undrain ──▶ an annotation of it ─┐
//!  pause, resume  ──▶ a field of its spec ─┴─▶ the operator acts
//!  sidecars       ◀── pods that have one, and what each of them answers
//!  report         ◀── everything that helps, in one file
//! ```
//!
//! What it never does: change a member or a pod itself, which is for the operator; read a Secret.

pub(crate) mod args;
mod cluster;
mod connect;
mod drain;
mod pause;
mod plan;
mod proxy;
mod redact;
mod report;
mod sidecars;
mod sources;
mod status;

use std::ffi::OsStr;
use std::path::Path;

use crate::exit::Failure;
use args::{Kube, Verb};
use connect::Server;

/// Whoever changes a field is named with it.
const MANAGER: &str = "kubectl-annulus";

/// Whether a program that was started under this name is a plugin of kubectl.
pub(crate) fn is_plugin(program: &OsStr) -> bool {
    let name = Path::new(program).file_name().and_then(OsStr::to_str);
    matches!(name, Some("kubectl-annulus" | "kubectl_annulus"))
}

/// Does what the verb says.
pub(crate) async fn run(kube: Kube) -> Result<(), Failure> {
    let server = Server::find(&kube.target).await?;
    match kube.verb {
        Verb::Status(status) => status::run(&server, &status).await,
        Verb::Plan(plan) => plan::run(&server, &plan).await,
        Verb::Drain(named) => drain::run(&server, &named, drain::What::Drain).await,
        Verb::Undrain(named) => drain::run(&server, &named, drain::What::Undrain).await,
        Verb::Pause(which) => pause::run(&server, &which, true).await,
        Verb::Resume(which) => pause::run(&server, &which, false).await,
        Verb::Sidecars(which) => sidecars::run(&server, &which).await,
        Verb::Report(report) => report::run(&server, &report).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_name_tells_whether_it_is_a_plugin() {
        for name in ["kubectl-annulus", "/usr/local/bin/kubectl-annulus", "./kubectl_annulus"] {
            assert!(is_plugin(OsStr::new(name)), "{name}");
        }
        for name in ["annulus", "/kubectl-annulus/annulus", "kubectl", ""] {
            assert!(!is_plugin(OsStr::new(name)), "{name}");
        }
    }
}
