//! What has to be looked up about a pod: what its namespace says, and whether its cluster exists. Asked of the API server when it is needed, since a
//! pod often comes a moment after its cluster, when no watch has told of that yet.

use std::time::Duration;

use annulus_crds::{StorageCluster, inject};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::Api;
use kube::{Client, ResourceExt};
use tokio::time::timeout;

use super::patch::{Found, Outcome, judged};
use super::pod::Pod;
use super::request::{Asked, Rules, asked, by_default};

/// How long the API server may take: it waits for the answer itself meanwhile.
const LIMIT: Duration = Duration::from_millis(1500);

/// Looks things up, and judges by them.
#[derive(Clone)]
pub struct Lookups {
    client: Client,
    rules: Rules,
}

/// Why nothing can be said about a pod.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server would not tell.
    #[error("the API server does not tell about {what}")]
    Api {
        /// What was asked.
        what: String,
        /// Why not.
        source: Box<kube::Error>,
    },
    /// It did not answer in time.
    #[error("the API server does not tell about {0} within 1.5 s")]
    Silent(String),
}

impl Lookups {
    /// Through this client, by these rules.
    pub fn new(client: Client, rules: Rules) -> Self {
        Self { client, rules }
    }

    /// What becomes of a new pod.
    pub async fn outcome(&self, namespace: &str, pod: &Pod) -> Result<Outcome, Error> {
        let asked = match asked(&self.rules, namespace, pod) {
            Ok(Asked::NamespacesDefault) => by_default(self.label(namespace).await?.as_deref()),
            asked => asked,
        };
        Ok(match asked {
            Ok(Asked::Cluster(cluster)) => {
                let found = self.found(namespace, &cluster).await?;
                judged(&self.rules, namespace, pod, &cluster, found)
            }
            Ok(Asked::Nothing(warning)) => Outcome::Untouched(warning),
            Ok(Asked::NamespacesDefault) => Outcome::Untouched(None),
            Err(refusal) => Outcome::Refused(refusal),
        })
    }

    async fn label(&self, namespace: &str) -> Result<Option<String>, Error> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let found = within(format!("the namespace {namespace}"), api.get_metadata_opt(namespace)).await?;
        Ok(found.and_then(|namespace| namespace.labels().get(inject::INJECT).cloned()))
    }

    async fn found(&self, namespace: &str, cluster: &str) -> Result<Found, Error> {
        let api: Api<StorageCluster> = Api::namespaced(self.client.clone(), namespace);
        let what = format!("the StorageCluster {namespace}/{cluster}");
        Ok(match within(what, api.get_metadata_opt(cluster)).await? {
            None => Found::Missing,
            Some(found) if found.metadata.deletion_timestamp.is_some() => Found::Leaving,
            Some(_) => Found::Here,
        })
    }
}

async fn within<T>(what: String, asking: impl Future<Output = kube::Result<T>>) -> Result<T, Error> {
    match timeout(LIMIT, asking).await {
        Ok(answer) => answer.map_err(|source| Error::Api { what, source: Box::new(source) }),
        Err(_) => Err(Error::Silent(what)),
    }
}
