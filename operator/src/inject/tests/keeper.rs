//! The keeper of certificates against a simulated API server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use tokio::time::advance;

use super::super::certificates::{Der, read_pem};
use super::super::keeper::{Error, Keeper, Places, SERVING, SERVING_KEY};
use super::super::server::Certificate;
use crate::simulated::Cluster;

const NAMESPACE: &str = "annulus-system";
const NAME: &str = "hook";

struct Scene {
    cluster: Cluster,
    keeper: Keeper,
    now_s: Arc<AtomicI64>,
}

fn keeper(cluster: &Cluster, now_s: &Arc<AtomicI64>) -> Keeper {
    let places = Places {
        namespace: NAMESPACE.to_owned(),
        secret: NAME.to_owned(),
        configuration: NAME.to_owned(),
        service: NAME.to_owned(),
    };
    let now_s = Arc::clone(now_s);
    let clock = move || Timestamp::from_second(now_s.load(Ordering::Relaxed)).unwrap();
    Keeper::new(cluster.client(), places, Arc::new(clock))
}

fn configuration() -> MutatingWebhookConfiguration {
    let webhook = |name: &str| {
        json!({
            "name": name, "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"service": {"name": NAME, "namespace": NAMESPACE, "path": "/inject"}},
        })
    };
    serde_json::from_value(json!({"metadata": {"name": NAME}, "webhooks": [webhook("a.x.y"), webhook("b.x.y")]}))
        .unwrap()
}

impl Scene {
    fn new() -> Self {
        let cluster = Cluster::new(1);
        let now_s = Arc::new(AtomicI64::new(1_800_000_000));
        cluster.create(&configuration()).unwrap();
        Self { keeper: keeper(&cluster, &now_s), cluster, now_s }
    }

    /// Steps until there is nothing to do for so long, checking after each that what was served is trusted.
    async fn settle(&mut self, served: Option<&Der>) {
        for _ in 0..20 {
            let wait = self.keeper.step().await.unwrap();
            if let Some(served) = served {
                assert!(is_trusted(served, &self.bundles()[0]));
            }
            if wait >= Duration::from_secs(600) {
                return;
            }
            advance(wait).await;
            self.now_s.fetch_add(i64::try_from(wait.as_secs()).unwrap(), Ordering::Relaxed);
        }
        panic!("it never settles");
    }

    fn data(&self) -> BTreeMap<String, Vec<u8>> {
        let secret = self.cluster.get::<Secret>(NAMESPACE, NAME).unwrap();
        secret.data.unwrap().into_iter().map(|(key, bytes)| (key, bytes.0)).collect()
    }

    fn serving(&self) -> Der {
        read_pem(&self.data()[SERVING]).remove(0)
    }

    fn bundles(&self) -> Vec<Vec<Der>> {
        let configuration = self.cluster.get::<MutatingWebhookConfiguration>("", NAME).unwrap();
        let webhooks = configuration.webhooks.unwrap().into_iter();
        webhooks.map(|webhook| read_pem(&webhook.client_config.ca_bundle.unwrap_or_default().0)).collect()
    }

    fn set_bundle(&self, index: usize, bundle: &str) {
        self.cluster
            .edit::<MutatingWebhookConfiguration>("", NAME, |configuration| {
                let webhook = &mut configuration.webhooks.as_mut().unwrap()[index];
                webhook.client_config.ca_bundle = Some(k8s_openapi::ByteString(bundle.as_bytes().to_vec()));
            })
            .unwrap();
    }
}

fn is_trusted(serving: &Der, bundle: &[Der]) -> bool {
    use x509_parser::prelude::{FromDer, X509Certificate};

    let (_, serving) = X509Certificate::from_der(serving).unwrap();
    bundle.iter().any(|authority| {
        let (_, authority) = X509Certificate::from_der(authority).unwrap();
        serving.verify_signature(Some(authority.public_key())).is_ok()
    })
}

#[tokio::test(start_paused = true)]
async fn a_new_installation_has_a_certificate_that_is_trusted_and_is_written_no_more_than_needed() {
    let mut scene = Scene::new();
    scene.settle(None).await;
    let bundles = scene.bundles();
    assert_eq!(bundles.len(), 2);
    assert!(bundles.iter().all(|bundle| bundle.len() == 1 && is_trusted(&scene.serving(), bundle)));
    let data = scene.data();
    Certificate::default().set(&data[SERVING], &data[SERVING_KEY]).unwrap();
    let secret = scene.cluster.get::<Secret>(NAMESPACE, NAME).unwrap();
    assert_eq!(secret.type_.as_deref(), Some("kubernetes.io/tls"));
    assert_eq!(secret.metadata.owner_references.unwrap()[0].kind, "MutatingWebhookConfiguration");
    let version = scene.cluster.version();
    scene.settle(None).await;
    assert_eq!(scene.cluster.version(), version, "a settled webhook is left alone");
}

#[tokio::test(start_paused = true)]
async fn whatever_somebody_makes_of_the_configuration_is_put_right() {
    let mut scene = Scene::new();
    scene.settle(None).await;
    let right = scene.bundles();
    for (index, bundle) in [(0, ""), (1, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), (1, "junk")]
    {
        scene.set_bundle(index, bundle);
        let serving = scene.serving();
        scene.settle(None).await;
        assert_eq!((scene.bundles(), scene.serving()), (right.clone(), serving), "{bundle}");
    }
    // Installed anew: the Secret goes with the configuration that owned it, or stays.
    scene.cluster.remove::<MutatingWebhookConfiguration>("", NAME).unwrap();
    assert!(matches!(scene.keeper.step().await, Err(Error::NoConfiguration(_))));
    scene.cluster.create(&configuration()).unwrap();
    scene.settle(None).await;
    assert_eq!(scene.bundles(), right);
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_is_deleted_or_damaged_is_made_anew_and_what_is_served_meanwhile_stays_trusted() {
    let mut scene = Scene::new();
    scene.settle(None).await;
    for damage in ["deleted", "ca.key", "ca.crt", "tls.key", "tls.crt"] {
        let (served, before) = (scene.serving(), scene.bundles());
        if damage == "deleted" {
            scene.cluster.remove::<Secret>(NAMESPACE, NAME).unwrap();
        } else {
            let patch = json!({"data": {(damage): "anVuaw=="}});
            scene.cluster.patch::<Secret>(NAMESPACE, NAME, &patch).unwrap();
        }
        // Another operator takes over in the middle.
        scene.keeper.step().await.unwrap();
        scene.keeper = keeper(&scene.cluster, &scene.now_s);
        loop {
            let wait = scene.keeper.step().await.unwrap();
            assert!(is_trusted(&served, &scene.bundles()[0]), "{damage}");
            let is_new = read_pem(&scene.data()[SERVING]).first().is_some_and(|serving| *serving != served);
            if is_new {
                break;
            }
            advance(wait).await;
        }
        assert!(is_trusted(&scene.serving(), &scene.bundles()[1]), "{damage}");
        // After an hour only the newest is trusted.
        scene.now_s.fetch_add(2 * 3600, Ordering::Relaxed);
        scene.settle(None).await;
        assert_eq!(scene.bundles()[0].len(), 1, "{damage}");
        assert_eq!(scene.bundles()[0] == before[0], damage.starts_with("tls"), "{damage}");
    }
}

#[tokio::test(start_paused = true)]
async fn certificates_are_renewed_in_time_with_what_is_served_trusted_at_every_step() {
    let mut scene = Scene::new();
    scene.settle(None).await;
    for days in [61, 61, 2400, 1] {
        let served = scene.serving();
        scene.now_s.fetch_add(days * 24 * 3600, Ordering::Relaxed);
        scene.settle(Some(&served)).await;
        assert!(is_trusted(&scene.serving(), &scene.bundles()[0]));
        assert_eq!(scene.serving() == served, days == 1);
    }
}
