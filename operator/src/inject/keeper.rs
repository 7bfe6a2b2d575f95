//! Keeps the webhook's certificates: one step of `certificates` after the other, by whoever leads.
//!
//! It reads and writes one Secret and one field of one configuration, each only in the version that it was read in: somebody else's change in
//! between makes it look again.

use std::sync::Arc;
use std::time::Duration;

use annulus_crds::labels;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, Resource, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::certificates::{Der, Kept, Step, decide, read_pem};
use super::issue::{self, Pair, belongs};
use crate::reconcile::chain;
use crate::watches::Troubles;

/// The Secret's kind; it has a certificate under `tls.crt`, and its key under `tls.key`.
const KIND: &str = "kubernetes.io/tls";
const AUTHORITIES: &str = "ca.crt";
const AUTHORITY_KEY: &str = "ca.key";
/// What is served.
pub const SERVING: &str = "tls.crt";
/// Its key.
pub const SERVING_KEY: &str = "tls.key";
/// By which name changes are told apart from those of others.
const MANAGER: &str = "annulus-operator";
/// What hinders it is told under this name.
const TROUBLE: &str = "certificates";
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// After a step that failed.
const AGAIN: Duration = Duration::from_secs(5);

/// Where the certificates are, and whom they are for.
#[derive(Debug, Clone)]
pub struct Places {
    /// The operator's own namespace.
    pub namespace: String,
    /// The Secret.
    pub secret: String,
    /// The `MutatingWebhookConfiguration`.
    pub configuration: String,
    /// The Service that the API server calls.
    pub service: String,
}

impl Places {
    /// The names that a certificate has to be for. The API server uses the last.
    pub fn names(&self) -> Vec<String> {
        let Self { namespace, service, .. } = self;
        vec![service.clone(), format!("{service}.{namespace}"), format!("{service}.{namespace}.svc")]
    }
}

/// Keeps certificates.
pub struct Keeper {
    client: Client,
    places: Places,
    clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// Since when the configuration is seen to trust what is kept, and that.
    trusted_since: Option<(Instant, Vec<Der>)>,
}

/// Why a step was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no configuration, as when the chart is not installed as a whole.
    #[error(
        "there is no MutatingWebhookConfiguration {0}: no pod gets a sidecar; install the chart annulus-operator of this version"
    )]
    NoConfiguration(String),
    /// The API server did not do it.
    #[error("the operator could not {what}")]
    Api {
        /// What was to be done.
        what: String,
        /// Why not.
        source: Box<kube::Error>,
    },
    /// The API server does not answer.
    #[error("the API server does not answer")]
    Silent,
    /// No certificate could be made.
    #[error(transparent)]
    Issue(#[from] issue::Error),
}

impl Keeper {
    /// A keeper of certificates at these places.
    pub fn new(client: Client, places: Places, clock: Arc<dyn Fn() -> Timestamp + Send + Sync>) -> Self {
        Self { client, places, clock, trusted_since: None }
    }

    /// Keeps them until the process ends. Looks again when it is woken.
    pub async fn run(mut self, wake: &Notify, troubles: &Troubles) -> std::convert::Infallible {
        loop {
            let wait = match timeout(CALL_LIMIT, self.step()).await.unwrap_or(Err(Error::Silent)) {
                Ok(wait) => {
                    troubles.set(TROUBLE, None);
                    wait
                }
                Err(error) => {
                    troubles.set(TROUBLE, Some(format!("webhook: {}", chain(&error))));
                    AGAIN
                }
            };
            // Whatever was missed is found within the hour.
            let _ = timeout(wait, wake.notified()).await;
            // Of a storm of changes it sees some.
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// One step. Returns for how long there is nothing to do.
    pub async fn step(&mut self) -> Result<Duration, Error> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.places.namespace);
        let failed = |what: String| move |source| Error::Api { what, source: Box::new(source) };
        let read = secrets.get_opt(&self.places.secret).await;
        let secret = read.map_err(failed(format!("read the Secret {}", self.places.secret)))?;
        let configurations: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let name = &self.places.configuration.clone();
        let read = configurations.get_opt(name).await;
        let configuration = read.map_err(failed(format!("read the MutatingWebhookConfiguration {name}")))?;
        let configuration = configuration.ok_or_else(|| Error::NoConfiguration(name.clone()))?;

        let kept = secret.as_ref().map(kept);
        let trusted = trusted(&configuration);
        let trusted_for_s = self.trusted_for_s(kept.as_ref(), &trusted);
        let now_s = (self.clock)().as_second();
        let step = decide(kept.as_ref(), &trusted, trusted_for_s, now_s, &self.places.names());
        match &step {
            Step::Wait(seconds) => return Ok(Duration::from_secs(u64::try_from(*seconds).unwrap_or(1))),
            Step::Begin { beside } => {
                let pair = issue::authority(now_s)?;
                let mut data = secret.as_ref().and_then(|secret| secret.data.clone()).unwrap_or_default();
                let authorities = pair.certificate + &beside.iter().map(|der| pem(der)).collect::<String>();
                data.insert(AUTHORITIES.to_owned(), ByteString(authorities.into_bytes()));
                data.insert(AUTHORITY_KEY.to_owned(), ByteString(pair.key.into_bytes()));
                self.write(&secrets, secret, &configuration, data).await?;
            }
            Step::Trust => {
                let bundle = secret.and_then(|secret| secret.data?.remove(AUTHORITIES)).unwrap_or_default();
                let patch = self.patch(&configuration, &bundle);
                let patched = configurations.patch(name, &PatchParams::default(), &patch).await;
                patched.map_err(failed(format!("write caBundle of the MutatingWebhookConfiguration {name}")))?;
            }
            Step::Issue => {
                let mut data = secret.as_ref().and_then(|secret| secret.data.clone()).unwrap_or_default();
                let text =
                    |key: &str| String::from_utf8_lossy(&data.get(key).cloned().unwrap_or_default().0).into_owned();
                let newest = read_pem(text(AUTHORITIES).as_bytes()).first().map(|der| pem(der)).unwrap_or_default();
                let authority = Pair { certificate: newest, key: text(AUTHORITY_KEY) };
                let pair = issue::serving(&authority, &self.places.names(), now_s)?;
                data.insert(SERVING.to_owned(), ByteString(pair.certificate.into_bytes()));
                data.insert(SERVING_KEY.to_owned(), ByteString(pair.key.into_bytes()));
                self.write(&secrets, secret, &configuration, data).await?;
            }
            Step::Forget => {
                let mut data = secret.as_ref().and_then(|secret| secret.data.clone()).unwrap_or_default();
                let newest = kept.iter().flat_map(|kept| &kept.authorities).next().map(|der| pem(der));
                data.insert(AUTHORITIES.to_owned(), ByteString(newest.unwrap_or_default().into_bytes()));
                self.write(&secrets, secret, &configuration, data).await?;
            }
        }
        tracing::info!(secret = self.places.secret, "{}", said(&step));
        Ok(Duration::ZERO)
    }

    /// For how long the configuration has been seen to trust all that is kept.
    fn trusted_for_s(&mut self, kept: Option<&Kept>, trusted: &[Vec<Der>]) -> i64 {
        let wanted = kept.map(|kept| kept.authorities.clone()).unwrap_or_default();
        if trusted.iter().any(|bundle| *bundle != wanted) {
            self.trusted_since = None;
            return 0;
        }
        match &self.trusted_since {
            Some((since, known)) if *known == wanted => i64::try_from(since.elapsed().as_secs()).unwrap_or(i64::MAX),
            _ => {
                self.trusted_since = Some((Instant::now(), wanted));
                0
            }
        }
    }

    async fn write(
        &self,
        secrets: &Api<Secret>,
        before: Option<Secret>,
        configuration: &MutatingWebhookConfiguration,
        mut data: std::collections::BTreeMap<String, ByteString>,
    ) -> Result<(), Error> {
        // The kind asks for both, and is content with empty ones.
        for key in [SERVING, SERVING_KEY] {
            data.entry(key.to_owned()).or_default();
        }
        let name = &self.places.secret;
        let failed = |source| Error::Api { what: format!("write the Secret {name}"), source: Box::new(source) };
        let parameters = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        match before {
            Some(before) => {
                let secret = Secret { data: Some(data), ..before };
                secrets.replace(name, &parameters, &secret).await.map_err(failed)?;
            }
            None => {
                let marks = [(labels::NAME, labels::MANAGER), (labels::MANAGED_BY, labels::MANAGER)];
                let metadata = ObjectMeta {
                    name: Some(name.clone()),
                    labels: Some(marks.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()),
                    owner_references: Some(vec![owner(configuration)]),
                    ..ObjectMeta::default()
                };
                let secret = Secret { metadata, type_: Some(KIND.to_owned()), data: Some(data), ..Secret::default() };
                secrets.create(&parameters, &secret).await.map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Sets `caBundle` of each webhook and nothing else, if they are still the ones that were read.
    fn patch(&self, configuration: &MutatingWebhookConfiguration, bundle: &ByteString) -> Patch<()> {
        let mut steps = vec![json!({
            "op": "test", "path": "/metadata/resourceVersion", "value": configuration.resource_version(),
        })];
        for index in 0..configuration.webhooks.iter().flatten().count() {
            let path = format!("/webhooks/{index}/clientConfig/caBundle");
            steps.push(json!({"op": "add", "path": path, "value": bundle}));
        }
        Patch::Json(serde_json::from_value(Value::Array(steps)).expect("these are steps of a JSON patch"))
    }
}

/// What is kept in a Secret, as far as it makes sense.
fn kept(secret: &Secret) -> Kept {
    let empty = ByteString::default();
    let field = |key: &str| &secret.data.as_ref().and_then(|data| data.get(key)).unwrap_or(&empty).0;
    let text = |key: &str| std::str::from_utf8(field(key)).unwrap_or_default();
    let is_whole = belongs(field(SERVING), text(SERVING_KEY));
    Kept {
        authorities: read_pem(field(AUTHORITIES)),
        has_key: belongs(field(AUTHORITIES), text(AUTHORITY_KEY)),
        serving: read_pem(field(SERVING)).into_iter().next().filter(|_| is_whole),
    }
}

fn trusted(configuration: &MutatingWebhookConfiguration) -> Vec<Vec<Der>> {
    let webhooks = configuration.webhooks.iter().flatten();
    webhooks.map(|webhook| read_pem(&webhook.client_config.ca_bundle.clone().unwrap_or_default().0)).collect()
}

/// With the configuration the Secret goes, too.
fn owner(configuration: &MutatingWebhookConfiguration) -> OwnerReference {
    OwnerReference {
        api_version: MutatingWebhookConfiguration::api_version(&()).into_owned(),
        kind: MutatingWebhookConfiguration::kind(&()).into_owned(),
        name: configuration.name_any(),
        uid: configuration.uid().unwrap_or_default(),
        ..OwnerReference::default()
    }
}

fn pem(der: &[u8]) -> String {
    use base64::Engine;

    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect::<Vec<_>>().join("\n");
    format!("-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n")
}

fn said(step: &Step) -> &'static str {
    match step {
        Step::Begin { .. } => "the webhook has a new authority",
        Step::Trust => "the API server is told whom to trust as the webhook",
        Step::Issue => "the webhook has a new certificate",
        Step::Forget => "authorities of before are trusted no longer",
        Step::Wait(_) => "there is nothing to do",
    }
}
