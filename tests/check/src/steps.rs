//! The table of what is checked.

/// One command, and what it takes to run it.
pub(crate) struct Step {
    /// What `cargo xtest NAME` calls it.
    pub(crate) name: &'static str,
    /// Plain words, split at spaces and run in the workspace's root: no shell, no quotes.
    pub(crate) command: &'static str,
    /// Set for the command on top of what is set already.
    pub(crate) environment: &'static [(&'static str, &'static str)],
    /// What has to be there besides Rust itself.
    pub(crate) needs: Option<Tool>,
    /// Whether it runs tests: then one that ran none has failed, whatever its exit code says.
    pub(crate) tests: bool,
}

/// A plain command without tests; the base that the table's other steps differ from.
const PLAIN: Step = Step { name: "", command: "", environment: &[], needs: None, tests: false };

/// Every check, the quick ones first.
pub(crate) const STEPS: &[Step] = &[
    Step { name: "fmt", command: "cargo fmt --all --check", needs: Some(Tool::Rustfmt), ..PLAIN },
    Step {
        name: "clippy",
        command: "cargo clippy --workspace --all-targets -- -D warnings",
        needs: Some(Tool::Clippy),
        ..PLAIN
    },
    Step {
        name: "deny",
        // Advisories are asked for apart (docs/decisions/2026-11-23-advisories-apart.md).
        command: "cargo deny check bans licenses sources",
        needs: Some(Tool::Deny),
        ..PLAIN
    },
    Step {
        name: "charts",
        command: "helm lint --strict --quiet charts/annulus-crds charts/annulus-operator",
        needs: Some(Tool::Helm),
        ..PLAIN
    },
    Step {
        name: "chart-tests",
        // The whole workspace, as below: so nothing is built twice with other features.
        command: "cargo test --workspace --test charts",
        needs: Some(Tool::Helm),
        tests: true,
        ..PLAIN
    },
    // Unit tests, scripts with golden traces, tidy; stores of real processes (`dev`, `ring`, `together`, `sidecar`).
    Step { name: "test", command: "cargo test --workspace --no-fail-fast", tests: true, ..PLAIN },
    Step {
        name: "sim",
        command: "cargo test --release -p annulus-tests --test simulator",
        environment: &[("ANNULUS_SEEDS", "200")],
        tests: true,
        ..PLAIN
    },
    Step {
        name: "operated",
        command: "cargo test --release -p annulus-tests --test operated",
        environment: &[("ANNULUS_SEEDS", "50")],
        tests: true,
        ..PLAIN
    },
    // What README's first command starts.
    Step { name: "build", command: "cargo build --release -p annulus", ..PLAIN },
    Step {
        name: "doc",
        command: "cargo doc --workspace --no-deps",
        environment: &[("RUSTDOCFLAGS", "-D warnings")],
        ..PLAIN
    },
];

/// What a minimal installation of Rust lacks, or what is no part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    Rustfmt,
    Clippy,
    Deny,
    Helm,
}

impl Tool {
    /// A command that succeeds where the tool is.
    pub(crate) fn probe(self) -> &'static str {
        match self {
            Tool::Rustfmt => "cargo fmt --version",
            Tool::Clippy => "cargo clippy --version",
            Tool::Deny => "cargo deny --version",
            Tool::Helm => "helm version --short",
        }
    }

    /// That it is missing, and what brings it.
    pub(crate) fn missing(self) -> &'static str {
        match self {
            Tool::Rustfmt => "rustfmt is not here (rustup component add rustfmt)",
            Tool::Clippy => "clippy is not here (rustup component add clippy)",
            Tool::Deny => "cargo-deny is not here (cargo install --locked cargo-deny)",
            Tool::Helm => "helm is not here (go install helm.sh/helm/v3/cmd/helm@v3.22.0)",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_step_has_a_name_of_its_own_and_a_command() {
        let names: BTreeSet<&str> = STEPS.iter().map(|step| step.name).collect();
        assert_eq!(names.len(), STEPS.len());
        let known = |command: &str| command.starts_with("cargo ") || command.starts_with("helm ");
        assert!(STEPS.iter().all(|step| !step.name.is_empty() && known(step.command)));
    }

    #[test]
    fn a_step_that_calls_helm_is_skipped_where_there_is_none() {
        for step in STEPS.iter().filter(|step| step.command.starts_with("helm ")) {
            assert_eq!(step.needs, Some(Tool::Helm), "{}", step.name);
        }
    }

    #[test]
    fn a_step_that_calls_cargo_test_is_marked_as_one_that_runs_tests() {
        for step in STEPS {
            assert_eq!(step.command.starts_with("cargo test"), step.tests, "{}", step.name);
        }
    }
}
