//! Sidecars for applications: a pod that asks for the store of a StorageCluster gets a sidecar that serves it at 127.0.0.1.
//!
//! ```text
//!  API server ── AdmissionReview ──▶ server ─▶ review ─▶ lookups ─▶ request, patch ──▶ additions, or why not
//!                                      ▲
//!                 Secret ── follow ────┘ ◀── keeper ◀── certificates: what is to be done next
//! ```
//!
//! `pod`, `request`, `patch`, `certificates` and `sidecars` are pure. Every replica answers; only the one that leads keeps certificates.
//! Nothing here changes a pod: the API server does, by what it is answered, when the pod is made. A pod that runs is never touched.

pub mod certificates;
pub mod issue;
pub mod keeper;
pub mod lookups;
pub mod patch;
pub mod pod;
pub mod request;
pub mod review;
pub mod server;
pub mod sidecars;
#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::StreamExt;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use crate::health::Health;
use crate::watches::explained;
use keeper::{Keeper, Places, SERVING, SERVING_KEY};
use request::Rules;
use server::Certificate;

/// How an operator injects.
#[derive(Debug, Clone)]
pub struct Injection {
    /// Where it answers the API server.
    pub listen: SocketAddr,
    /// Where its certificates are.
    pub places: Places,
    /// Whether it makes them; else somebody else does, such as cert-manager.
    pub keeps_certificates: bool,
    /// By what it judges pods.
    pub rules: Rules,
}

/// What is told while there is no certificate, so that the replica is not ready.
const TROUBLE: &str = "webhook";

/// Answers the API server until the process ends; without injection there is nothing to answer. `wake` hears of changes of the Secret.
pub async fn serve(
    client: &Client,
    injection: Option<&Injection>,
    health: &Health,
    wake: &Notify,
) -> std::io::Result<()> {
    let Some(injection) = injection else { return std::future::pending().await };
    let listener = server::bind(injection.listen).await?;
    let certificate = Certificate::default();
    let lookups = lookups::Lookups::new(client.clone(), injection.rules.clone());
    let webhook = Arc::new(server::Webhook::new(lookups, Arc::clone(&health.metrics)));
    let served = server::serve(listener, certificate.clone(), webhook);
    tokio::select! {
        served = served => served.map_err(std::io::Error::other),
        () = follow(client, injection, &certificate, health, wake) => Ok(()),
    }
}

/// Serves what is in the Secret, for as long as it can be seen. One that is gone is served on: nobody is refused for want of it.
async fn follow(client: &Client, injection: &Injection, certificate: &Certificate, health: &Health, wake: &Notify) {
    let Places { namespace, secret, .. } = &injection.places;
    let none = format!("webhook: there is no certificate yet in the Secret {namespace}/{secret}");
    health.troubles.set(TROUBLE, Some(none));
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    each(api, secret, "the webhook's Secret", health, |secret| {
        wake.notify_one();
        let Some(data) = secret.and_then(|secret| secret.data) else { return };
        let field = |key: &str| data.get(key).map(|bytes| bytes.0.clone()).unwrap_or_default();
        if field(SERVING).is_empty() {
            return;
        }
        match certificate.set(&field(SERVING), &field(SERVING_KEY)) {
            Ok(()) => health.troubles.set(TROUBLE, None),
            // What was served before is served on.
            Err(why) if certificate.is_set() => tracing::warn!("the webhook's new certificate is left aside: {why}"),
            Err(why) => health.troubles.set(TROUBLE, Some(format!("webhook: {why}"))),
        }
    })
    .await;
}

/// Keeps certificates, as the operator that leads. Without injection, or where somebody else makes them, there is nothing to keep.
pub async fn keep(client: &Client, injection: Option<&Injection>, health: &Health, wake: &Notify) {
    let Some(injection) = injection.filter(|injection| injection.keeps_certificates) else {
        return std::future::pending().await;
    };
    let keeper = Keeper::new(client.clone(), injection.places.clone(), Arc::new(Timestamp::now));
    let api: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let name = &injection.places.configuration;
    tokio::select! {
        _ = keeper.run(wake, &health.troubles) => {}
        () = each(api, name, "mutatingwebhookconfigurations", health, |_| wake.notify_one()) => {}
    }
}

/// Hears of every change of one object, `None`: it is gone. Asks for no other.
async fn each<K>(api: Api<K>, name: &str, kind: &'static str, health: &Health, mut heard: impl FnMut(Option<K>))
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = watcher(api, config).default_backoff().boxed();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => heard(Some(object)),
            Ok(watcher::Event::Delete(_)) => heard(None),
            Ok(watcher::Event::Init | watcher::Event::InitDone) => {}
            Err(error) => {
                health.troubles.set(kind, Some(explained(kind, &error)));
                continue;
            }
        }
        health.troubles.set(kind, None);
    }
}
