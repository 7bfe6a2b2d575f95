//! The operator as a whole: it waits for its lease, then watches, and works on clusters until it is told to end.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{self, Either};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::Api;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout};

use crate::health::{self, Health};
use crate::inject::{self, Injection};
use crate::lease::{self, Leases};
use crate::metrics::Metrics;
use crate::observe::Defaults;
use crate::queue::{self, Key, Outcome};
use crate::reconcile::{Context, chain, reconcile};
use crate::requests;
use crate::stores::{Http, Stores};
use crate::watches::{self, Troubles};

/// Most changes that wait to be looked at; a watch that has more waits.
const CHANGES: usize = 1024;
/// How long a round may take: it asks nodes, which have limits of their own, and ends well before that.
const ROUND_LIMIT: Duration = Duration::from_secs(120);

/// How an operator is to be.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The namespaces that it looks after; empty: all.
    pub namespaces: BTreeSet<String>,
    /// The image of members whose cluster names none.
    pub node_image: String,
    /// Where it answers probes.
    pub listen: SocketAddr,
    /// Where its lease is.
    pub lease_namespace: String,
    /// What its lease is called.
    pub lease_name: String,
    /// Its own name.
    pub identity: String,
    /// How it puts sidecars into pods; `None`: it does not.
    pub injection: Option<Injection>,
}

/// Why an operator ends by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server can't be reached in any way that is known.
    #[error("there is no way to the API server: run it in a pod, or name a kubeconfig in KUBECONFIG")]
    NoApi(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Its probes can't be answered.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// It does not lead any more.
    #[error("{0}; this process ends, so that nothing of it goes on")]
    Deposed(String),
}

/// Operates until `stop` ends.
pub async fn run(settings: Settings, stop: impl Future<Output = ()>) -> Result<(), Error> {
    let metrics = Metrics::default();
    let client = requests::client(metrics.requests()).await.map_err(Error::NoApi)?;
    serve(client, metrics, Arc::new(Http), settings, stop).await
}

/// Operates through this client, whose requests nobody counts, and reaches the stores this way.
pub async fn run_with(
    client: Client,
    stores: Arc<dyn Stores>,
    settings: Settings,
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    serve(client, Metrics::default(), stores, settings, stop).await
}

async fn serve(
    client: Client,
    metrics: Metrics,
    stores: Arc<dyn Stores>,
    settings: Settings,
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let health = Health { metrics: Arc::new(metrics), troubles: Troubles::default() };
    let address = settings.listen;
    let served = health::serve(address, health.clone());
    let (injection, wake) = (settings.injection.clone(), Notify::new());
    let webhook = injection.as_ref().map_or(address, |injection| injection.listen);
    let injected = inject::serve(&client, injection.as_ref(), &health, &wake);
    let operated = operate(client.clone(), stores, settings, health.clone(), &wake, stop);
    tokio::select! {
        served = served => served.map_err(|source| Error::Listen { address, source }),
        injected = injected => injected.map_err(|source| Error::Listen { address: webhook, source }),
        ended = operated => ended,
    }
}

async fn operate(
    client: Client,
    stores: Arc<dyn Stores>,
    settings: Settings,
    health: Health,
    wake: &Notify,
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let mut stop = Box::pin(stop);
    let api: Api<Lease> = Api::namespaced(client.clone(), &settings.lease_namespace);
    let leases = Leases::new(api, settings.lease_name.clone(), settings.identity.clone());
    tracing::info!(lease = settings.lease_name, namespace = settings.lease_namespace, "waiting for the lease");
    let mut held = match future::select(Box::pin(leases.acquire()), &mut stop).await {
        Either::Left((held, _)) => held,
        Either::Right(_) => return Ok(()),
    };
    tracing::info!(generation = held.generation, "this operator holds the lease");
    health.metrics.set_leads(true);
    let fence = held.generation;

    let (changed, changes) = mpsc::channel(CHANGES);
    let caches = watches::start(&client, &settings.namespaces, &changed, &health.troubles);
    let reporter = Reporter { controller: "annulus-operator".to_owned(), instance: Some(settings.identity.clone()) };
    let certificates_client = client.clone();
    let context = Context {
        recorder: Recorder::new(client.clone(), reporter),
        client,
        caches,
        stores,
        metrics: Arc::clone(&health.metrics),
        defaults: Defaults { node_image: settings.node_image.clone(), clock: Arc::new(Timestamp::now) },
        fence,
    };
    let fenced = Notify::new();
    let working = queue::run(changes, |key| round(&context, &fenced, key));
    let keeping = inject::keep(&certificates_client, settings.injection.as_ref(), &health, wake);
    let ended = tokio::select! {
        () = &mut stop => None,
        lost = leases.keep(&mut held) => Some(lost),
        () = fenced.notified() => {
            Some(lease::outspoken(&settings.lease_namespace, &settings.lease_name, fence))
        }
        () = working => None,
        () = keeping => None,
    };
    health.metrics.set_leads(false);
    match ended {
        None => {
            tracing::info!("stopping");
            leases.release(held).await;
            Ok(())
        }
        Some(reason) => Err(Error::Deposed(reason)),
    }
}

async fn round(context: &Context, fenced: &Notify, key: Key) -> Outcome {
    let (namespace, name) = &key;
    let Some(resource) = context.caches.clusters.get(&ObjectRef::new(name).within(namespace)) else {
        context.metrics.forget(&key);
        return Outcome::Gone;
    };
    let began = Instant::now();
    let ended = timeout(ROUND_LIMIT, reconcile(context, &resource)).await;
    context.metrics.round(&key, began.elapsed(), !matches!(ended, Ok(Ok(_))));
    match ended {
        Ok(Ok(round)) => Outcome::Again(round.again),
        Ok(Err(error)) => {
            tracing::warn!(namespace, cluster = name, error = chain(&error), "the round failed; it is tried again");
            if error.is_fenced() {
                fenced.notify_one();
            }
            Outcome::Failed
        }
        Err(_) => {
            tracing::warn!(namespace, cluster = name, "the round took too long; it is tried again");
            Outcome::Failed
        }
    }
}
