//! `annulus-operator`: turns StorageClusters into pods and rings of members.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::ExitCode;

use annulus_operator::inject::Injection;
use annulus_operator::inject::keeper::Places;
use annulus_operator::inject::request::{Missing, Rules};
use annulus_operator::inject::sidecars::VERSION;
use annulus_operator::operate::{self, Settings};
use annulus_operator::reconcile::chain;
use clap::{Args, Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Turns StorageClusters into pods and rings of members, and keeps them so.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// The namespaces to look after, separated by commas [default: all]
    #[arg(long, env = "ANNULUS_NAMESPACES", value_delimiter = ',', hide_env_values = true)]
    namespaces: Vec<String>,
    /// The image of members whose cluster names none
    #[arg(long, env = "ANNULUS_NODE_IMAGE", default_value = concat!("annulus/node:", env!("CARGO_PKG_VERSION")))]
    node_image: String,
    /// Where to answer /healthz, /readyz and /metrics
    #[arg(long, env = "ANNULUS_LISTEN", default_value = "[::]:8080")]
    listen: SocketAddr,
    /// The namespace of the Lease by which one operator acts at a time
    #[arg(long, env = "ANNULUS_LEASE_NAMESPACE", default_value = "default")]
    lease_namespace: String,
    /// The name of that Lease
    #[arg(long, env = "ANNULUS_LEASE_NAME", default_value = "annulus-operator")]
    lease_name: String,
    /// This operator's own name: that of its pod
    #[arg(long, env = "ANNULUS_IDENTITY", default_value_t = identity())]
    identity: String,
    #[command(flatten)]
    inject: Inject,
    /// How log lines are written
    #[arg(long, env = "ANNULUS_LOG_FORMAT", value_enum, default_value_t = Format::Text)]
    log_format: Format,
    /// What is logged: a level, or directives
    #[arg(long, env = "ANNULUS_LOG_LEVEL", default_value = "info")]
    log_level: String,
}

/// Sidecars that are put into pods.
#[derive(Args)]
struct Inject {
    /// Put sidecars into pods that ask for them: a MutatingWebhookConfiguration has to have the API server ask here
    #[arg(long, env = "ANNULUS_INJECT")]
    inject: bool,
    /// Where to answer the API server, by HTTPS
    #[arg(long, env = "ANNULUS_WEBHOOK_LISTEN", default_value = "[::]:9443")]
    webhook_listen: SocketAddr,
    /// The Service by which the API server finds this, in the namespace of the Lease
    #[arg(long, env = "ANNULUS_WEBHOOK_SERVICE", default_value = "annulus-operator-webhook")]
    webhook_service: String,
    /// The Secret of that namespace with the certificate
    #[arg(long, env = "ANNULUS_WEBHOOK_SECRET", default_value = "annulus-operator-webhook")]
    webhook_secret: String,
    /// The MutatingWebhookConfiguration that has to trust it
    #[arg(long, env = "ANNULUS_WEBHOOK_CONFIGURATION", default_value = "annulus-operator")]
    webhook_configuration: String,
    /// Who makes certificates
    #[arg(long, env = "ANNULUS_WEBHOOK_CERTIFICATES", value_enum, default_value_t = Certificates::Operator)]
    webhook_certificates: Certificates,
    /// The image of sidecars [default: that of members]
    #[arg(long, env = "ANNULUS_SIDECAR_IMAGE")]
    sidecar_image: Option<String>,
    /// When nodes pull it: Always, IfNotPresent or Never [default: as Kubernetes does by itself]
    #[arg(long, env = "ANNULUS_SIDECAR_PULL_POLICY", value_parser = ["Always", "IfNotPresent", "Never"])]
    sidecar_pull_policy: Option<String>,
    /// Let pods choose the image of their sidecar
    #[arg(long, env = "ANNULUS_SIDECAR_ALLOW_IMAGE")]
    sidecar_allow_image: bool,
    /// What becomes of a pod that names a cluster that does not exist
    #[arg(long, env = "ANNULUS_SIDECAR_MISSING_CLUSTER", value_enum, default_value_t = MissingCluster::Refuse)]
    sidecar_missing_cluster: MissingCluster,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Certificates {
    /// This operator, which also renews them
    Operator,
    /// cert-manager, or somebody else
    CertManager,
}

#[derive(Clone, Copy, ValueEnum)]
enum MissingCluster {
    /// It is refused
    Refuse,
    /// It starts without a sidecar
    Allow,
}

impl Inject {
    fn settings(self, namespaces: &BTreeSet<String>, node_image: &str, own_namespace: &str) -> Option<Injection> {
        self.inject.then(|| Injection {
            listen: self.webhook_listen,
            places: Places {
                namespace: own_namespace.to_owned(),
                secret: self.webhook_secret,
                configuration: self.webhook_configuration,
                service: self.webhook_service,
            },
            keeps_certificates: self.webhook_certificates == Certificates::Operator,
            rules: Rules {
                image: self.sidecar_image.unwrap_or_else(|| node_image.to_owned()),
                pull_policy: self.sidecar_pull_policy,
                version: VERSION.to_owned(),
                allows_image: self.sidecar_allow_image,
                missing: match self.sidecar_missing_cluster {
                    MissingCluster::Refuse => Missing::Refuse,
                    MissingCluster::Allow => Missing::Allow,
                },
                namespaces: namespaces.clone(),
                own_namespace: own_namespace.to_owned(),
            },
        })
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

fn identity() -> String {
    format!("process-{}", std::process::id())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = match EnvFilter::try_new(&arguments.log_level) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("--log-level `{}`: {error}", arguments.log_level);
            return ExitCode::from(2);
        }
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match arguments.log_format {
        Format::Text => log.init(),
        Format::Json => log.json().flatten_event(true).init(),
    }
    let namespaces = arguments.namespaces.iter().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
    let namespaces = namespaces.collect::<BTreeSet<_>>();
    let injection = arguments.inject.settings(&namespaces, &arguments.node_image, &arguments.lease_namespace);
    let settings = Settings {
        namespaces,
        node_image: arguments.node_image,
        listen: arguments.listen,
        lease_namespace: arguments.lease_namespace,
        lease_name: arguments.lease_name,
        identity: arguments.identity,
        injection,
    };
    match operate::run(settings, told_to_end()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = chain(&error), "the operator ends");
            ExitCode::FAILURE
        }
    }
}

/// Ends when the process is asked to: by SIGTERM (Kubernetes) or SIGINT (Ctrl-C).
async fn told_to_end() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
