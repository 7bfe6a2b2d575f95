//! The whole operator with its webhook: certificates come and are put right by watches that end and break off.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use annulus_operator::inject::Injection;
use annulus_operator::inject::keeper::Places;
use annulus_operator::inject::request::{Missing, Rules};
use annulus_operator::operate::{self, Settings};
use annulus_operator::simulated::{Cluster, WatchEnd};
use annulus_operator::stores::Stores;
use futures_util::future::{self, Either};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;
use tokio::time::sleep;

use crate::nodes::Nodes;

const NAMESPACE: &str = "annulus-system";
const NAME: &str = "hook";
const WITHIN_S: usize = 120;

fn settings(keeps_certificates: bool) -> Settings {
    let local = || "127.0.0.1:0".parse().unwrap();
    Settings {
        namespaces: BTreeSet::new(),
        node_image: "annulus/node:1".to_owned(),
        listen: local(),
        lease_namespace: NAMESPACE.to_owned(),
        lease_name: "annulus-operator".to_owned(),
        identity: "operator-1".to_owned(),
        injection: Some(Injection {
            listen: local(),
            places: Places {
                namespace: NAMESPACE.to_owned(),
                secret: NAME.to_owned(),
                configuration: NAME.to_owned(),
                service: NAME.to_owned(),
            },
            keeps_certificates,
            rules: Rules {
                image: "annulus/node:1".to_owned(),
                pull_policy: None,
                version: "0.1.0".to_owned(),
                allows_image: false,
                missing: Missing::Refuse,
                namespaces: BTreeSet::new(),
                own_namespace: NAMESPACE.to_owned(),
            },
        }),
    }
}

async fn operated(cluster: &Cluster, keeps_certificates: bool, body: impl Future<Output = ()>) {
    let stores = Nodes::new(cluster) as Arc<dyn Stores>;
    let operated = operate::run_with(cluster.client(), stores, settings(keeps_certificates), future::pending());
    match future::select(Box::pin(operated), Box::pin(body)).await {
        Either::Left((ended, _)) => panic!("the operator has ended: {ended:?}"),
        Either::Right(((), _)) => {}
    }
}

fn with_configuration() -> Cluster {
    let cluster = Cluster::new(1);
    let webhook =
        json!({"name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"], "clientConfig": {}});
    let configuration = json!({"metadata": {"name": NAME}, "webhooks": [webhook.clone(), webhook]});
    cluster.create::<MutatingWebhookConfiguration>(&serde_json::from_value(configuration).unwrap()).unwrap();
    cluster
}

fn field(cluster: &Cluster, key: &str) -> Option<ByteString> {
    let secret = cluster.get::<Secret>(NAMESPACE, NAME)?;
    secret.data?.get(key).cloned().filter(|bytes| !bytes.0.is_empty())
}

/// Whether there is a certificate, and every webhook trusts all authorities that are kept.
fn is_settled(cluster: &Cluster) -> bool {
    let configuration = cluster.get::<MutatingWebhookConfiguration>("", NAME).unwrap();
    let authorities = field(cluster, "ca.crt");
    let mut webhooks = configuration.webhooks.unwrap().into_iter();
    field(cluster, "tls.crt").is_some()
        && authorities.is_some()
        && webhooks.all(|webhook| webhook.client_config.ca_bundle == authorities)
}

async fn settle(cluster: &Cluster, when: &str) {
    for second in 0..WITHIN_S {
        sleep(Duration::from_secs(1)).await;
        if second % 5 == 4 {
            cluster
                .end_watches([WatchEnd::Closed, WatchEnd::Broken, WatchEnd::Torn, WatchEnd::Expired][second / 5 % 4]);
        }
        if is_settled(cluster) {
            return;
        }
    }
    panic!("{when}: certificates do not settle");
}

#[tokio::test(start_paused = true)]
async fn certificates_are_made_and_put_right_although_watches_end() {
    let cluster = with_configuration();
    operated(&cluster, true, async {
        settle(&cluster, "at first").await;
        for round in 0..3 {
            let before = field(&cluster, "tls.crt");
            cluster
                .edit::<MutatingWebhookConfiguration>("", NAME, |configuration| {
                    configuration.webhooks.as_mut().unwrap()[1].client_config.ca_bundle = None;
                })
                .unwrap();
            settle(&cluster, "somebody took away what is trusted").await;
            assert_eq!(field(&cluster, "tls.crt"), before, "{round}");
            cluster.remove::<Secret>(NAMESPACE, NAME).unwrap();
            settle(&cluster, "somebody deleted the Secret").await;
            assert_ne!(field(&cluster, "tls.crt"), before, "{round}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn where_somebody_else_makes_certificates_the_operator_writes_none() {
    let cluster = with_configuration();
    operated(&cluster, false, async {
        sleep(Duration::from_secs(60)).await;
        assert!(cluster.get::<Secret>(NAMESPACE, NAME).is_none());
        let resources: BTreeSet<String> = cluster.writes().into_iter().map(|write| write.resource).collect();
        assert!(resources.iter().all(|resource| resource.starts_with("leases")), "{resources:?}");
    })
    .await;
}
