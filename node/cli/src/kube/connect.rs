//! The API server: how it is found, and what it means when it says no.

use std::future::Future;
use std::time::Duration;

use annulus_crds::StorageCluster;
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::core::{ApiResource, DynamicObject, Status};
use kube::{Client, Config, Error};

use super::args::Target;
use super::cluster::{self, Cluster};
use crate::exit::Failure;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a connection may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// Clusters that are asked for at once.
const PAGE: u32 = 500;

/// A cluster of Kubernetes, and the namespace in it that is meant.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) client: Client,
    pub(super) namespace: String,
    /// Where it is, for people.
    url: String,
}

impl Server {
    /// Finds it, as kubectl would. Asks nobody yet.
    pub(super) async fn find(target: &Target) -> Result<Self, Failure> {
        let mut config = config(target).await?;
        config.connect_timeout = Some(CONNECT_PATIENCE);
        config.read_timeout = Some(PATIENCE);
        config.write_timeout = Some(PATIENCE);
        // A member that is down is a 503 of the API server, too: kube would ask for it again and again.
        config.default_retry = false;
        let url = config.cluster_url.to_string();
        let namespace = target.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config)
            .map_err(|error| Failure::Usage(format!("the kubeconfig can't be used for {url}: {}", chain(&error))))?;
        Ok(Self { client, namespace, url })
    }

    /// The clusters of the namespace.
    pub(super) fn clusters(&self) -> Api<DynamicObject> {
        let resource = ApiResource::erase::<StorageCluster>(&());
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }

    /// The cluster of this name, or the only one.
    pub(super) async fn cluster(&self, name: Option<&str>) -> Result<Cluster, Failure> {
        match name {
            Some(name) => self.named(name).await,
            None => cluster::only(self.all().await?, &self.namespace),
        }
    }

    /// All clusters of the namespace.
    pub(super) async fn all(&self) -> Result<Vec<Cluster>, Failure> {
        let (api, mut parameters) = (self.clusters(), ListParams::default().limit(PAGE));
        let mut clusters = Vec::new();
        loop {
            let page = self.asked("list StorageClusters", api.list(&parameters)).await?;
            for object in &page.items {
                clusters.push(Cluster::read(object)?);
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => parameters = parameters.continue_token(&token),
                None => return Ok(clusters),
            }
        }
    }

    async fn named(&self, name: &str) -> Result<Cluster, Failure> {
        let api = self.clusters();
        match within(api.get(name)).await {
            Ok(object) => Cluster::read(&object),
            Err(Asked::Refused(Error::Api(status))) if is_absent(&status) => {
                // Who may read one by its name need not be allowed to list them.
                Err(cluster::unknown(name, &self.all().await.unwrap_or_default(), &self.namespace))
            }
            Err(error) => Err(self.failure("read the StorageCluster", error)),
        }
    }

    /// Waits for an answer, which reads.
    pub(super) async fn asked<T>(
        &self,
        what: &str,
        asking: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Failure> {
        within(asking).await.map_err(|error| self.failure(what, error))
    }

    /// Waits for an answer to a change: if none comes, it may have been made.
    pub(super) async fn changed<T>(
        &self,
        what: &str,
        asking: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Failure> {
        within(asking).await.map_err(|error| match self.failure(what, error) {
            Failure::Unavailable(told) => Failure::OutcomeUnknown(format!(
                "{told}\n  The change may have been made; it is safe to give the command again."
            )),
            failure => failure,
        })
    }

    fn failure(&self, what: &str, error: Asked) -> Failure {
        match error {
            Asked::TooLong => Failure::Unavailable(format!(
                "the API server {} did not answer within {} s when asked to {what}",
                self.url,
                PATIENCE.as_secs()
            )),
            Asked::Refused(Error::Api(status)) => refused(what, &self.namespace, &status),
            Asked::Refused(error @ Error::Auth(_)) => Failure::Refused(format!(
                "there are no credentials for {}: {}.\n  Does `kubectl get pods` work with the same kubeconfig and context?",
                self.url,
                chain(&error)
            )),
            Asked::Refused(Error::SerdeError(error)) => {
                Failure::Refused(format!("the API server {} answered with what can't be read: {error}", self.url))
            }
            Asked::Refused(error) => Failure::Unavailable(format!(
                "the API server {} can't be asked to {what}: {}.\n  Is it the right context? --context and --kubeconfig name others.",
                self.url,
                chain(&error)
            )),
        }
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Asked {
    TooLong,
    Refused(Error),
}

/// An answer, or none in time.
pub(super) async fn within<T>(asking: impl Future<Output = Result<T, Error>>) -> Result<T, Asked> {
    match tokio::time::timeout(PATIENCE, asking).await {
        Ok(answer) => answer.map_err(Asked::Refused),
        Err(_) => Err(Asked::TooLong),
    }
}

impl std::fmt::Display for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooLong => write!(f, "no answer within {} s", PATIENCE.as_secs()),
            Self::Refused(Error::Api(status)) if status.code == 403 => write!(f, "forbidden: {}", status.message),
            Self::Refused(Error::Api(status)) => write!(f, "{} ({})", status.message.trim_end(), status.code),
            Self::Refused(error) => f.write_str(&chain(error)),
        }
    }
}

/// Whether the named object is not there, though its kind is.
fn is_absent(status: &Status) -> bool {
    status.code == 404 && status.details.as_ref().is_some_and(|details| !details.name.is_empty())
}

/// What the API server says, and what to do.
fn refused(what: &str, namespace: &str, status: &Status) -> Failure {
    let message = status.message.trim_end();
    Failure::Refused(match status.code {
        401 => format!(
            "the API server does not accept who you are: {message}.\n  Log in again; does `kubectl get pods` work with the same \
             kubeconfig and context?"
        ),
        403 => format!(
            "you may not {what} in namespace `{namespace}`: {message}.\n  Ask for that permission, or name another namespace \
             with -n."
        ),
        404 if !is_absent(status) => {
            "the custom resource StorageCluster is not installed in this cluster: install the chart annulus-crds.\n  Is it the \
             right context? --context names another."
                .to_owned()
        }
        409 => format!("somebody else changed it at the same time, again and again: {message}. Try again."),
        500.. => return Failure::Unavailable(format!("the API server could not {what}: {message} ({})", status.code)),
        code => format!("the API server would not {what}: {message} ({code})"),
    })
}

async fn config(target: &Target) -> Result<Config, Failure> {
    let named = target.kubeconfig.as_deref().map(Kubeconfig::read_from);
    let is_named = named.is_some();
    let kubeconfig = match named.unwrap_or_else(Kubeconfig::read) {
        Ok(kubeconfig) => kubeconfig,
        // In a pod there is none, and need not be.
        Err(error) if !is_named && target.context.is_none() && is_missing(&error) => {
            return Config::incluster().map_err(|_| {
                Failure::Usage(format!(
                    "there is no kubeconfig: {}.\n  --kubeconfig or KUBECONFIG names one.",
                    chain(&error)
                ))
            });
        }
        Err(error) => return Err(Failure::Usage(format!("the kubeconfig can't be used: {}", chain(&error)))),
    };
    if let Some(wrong) = wrong_context(&kubeconfig, target.context.as_deref()) {
        return Err(wrong);
    }
    let options = KubeConfigOptions { context: target.context.clone(), ..KubeConfigOptions::default() };
    Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .map_err(|error| Failure::Usage(format!("the kubeconfig can't be used: {}", chain(&error))))
}

fn is_missing(error: &KubeconfigError) -> bool {
    match error {
        KubeconfigError::FindPath => true,
        KubeconfigError::ReadConfig(error, _) => error.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

/// Says which contexts there are when the wanted one is not among them.
fn wrong_context(kubeconfig: &Kubeconfig, wanted: Option<&str>) -> Option<Failure> {
    let names: Vec<&str> = kubeconfig.contexts.iter().map(|context| context.name.as_str()).collect();
    let there = if names.is_empty() { "it has none".to_owned() } else { format!("it has {}", names.join(", ")) };
    match wanted.or(kubeconfig.current_context.as_deref()).filter(|name| !name.is_empty()) {
        Some(name) if names.contains(&name) => None,
        Some(name) => Some(Failure::Usage(format!("there is no context `{name}` in the kubeconfig; {there}."))),
        None => Some(Failure::Usage(format!(
            "the kubeconfig has no current context: name one with --context, or set it with `kubectl config use-context`; {there}."
        ))),
    }
}

/// An error with what lies behind it. Many of kube's repeat their source.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !told.contains(&cause_text) {
            told.push_str(": ");
            told.push_str(&cause_text);
        }
        source = cause.source();
    }
    told
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(code: u16, name: Option<&str>) -> Status {
        let details = name.map(|name| json!({"name": name, "kind": "storageclusters"}));
        serde_json::from_value(json!({"status": "Failure", "message": "it says no", "code": code, "details": details}))
            .unwrap()
    }

    #[test]
    fn a_refusal_says_what_was_asked_and_what_to_do() {
        let told = |code, name| refused("list StorageClusters", "shop", &status(code, name));
        assert!(told(404, None).to_string().contains("install the chart annulus-crds"));
        assert!(told(403, None).to_string().contains("may not list StorageClusters in namespace `shop`: it says no"));
        assert!(told(401, None).to_string().contains("Log in again"));
        assert!(told(422, Some("demo")).to_string().contains("it says no (422)"));
        assert!(matches!(told(503, None), Failure::Unavailable(_)));
        assert!(is_absent(&status(404, Some("demo"))) && !is_absent(&status(404, None)));
    }

    #[test]
    fn a_context_that_is_not_there_is_told_with_those_that_are() {
        let text =
            "contexts: [{name: a, context: {cluster: c}}, {name: b, context: {cluster: c}}]\ncurrent-context: b\n";
        let kubeconfig = Kubeconfig::from_yaml(text).unwrap();
        assert!(wrong_context(&kubeconfig, None).is_none() && wrong_context(&kubeconfig, Some("a")).is_none());
        let wrong = wrong_context(&kubeconfig, Some("x")).unwrap();
        assert!(
            matches!(&wrong, Failure::Usage(told) if told.contains("`x`") && told.contains("it has a, b")),
            "{wrong}"
        );
        let none = wrong_context(&Kubeconfig::default(), None).unwrap().to_string();
        assert!(none.contains("no current context") && none.contains("it has none"), "{none}");
    }

    #[tokio::test]
    async fn a_kubeconfig_that_is_named_has_to_be_there() {
        let target = Target { namespace: None, context: None, kubeconfig: Some("/nowhere/kubeconfig".into()) };
        let failure = config(&target).await.unwrap_err();
        assert!(matches!(&failure, Failure::Usage(told) if told.contains("/nowhere/kubeconfig")), "{failure}");
    }

    #[tokio::test]
    async fn the_namespace_is_that_of_the_context_unless_another_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        let text = "clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]\n\
                    contexts: [{name: a, context: {cluster: c, user: u, namespace: shop}}]\n\
                    users: [{name: u, user: {}}]\ncurrent-context: a\n";
        std::fs::write(&path, text).unwrap();
        let mut target = Target { namespace: None, context: None, kubeconfig: Some(path) };
        assert_eq!(Server::find(&target).await.unwrap().namespace, "shop");
        target.namespace = Some("other".to_owned());
        assert_eq!(Server::find(&target).await.unwrap().namespace, "other");
    }
}
