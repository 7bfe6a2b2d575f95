//! The webhook's server, over TLS, with a simulated API server behind it.

use std::sync::Arc;
use std::time::Duration;

use annulus_crds::StorageCluster;
use annulus_crds::inject::INJECT;
use base64::Engine;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Namespace;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::super::certificates::read_pem;
use super::super::issue::{self, Pair};
use super::super::lookups::Lookups;
use super::super::server::{Certificate, Webhook, serve};
use super::{pod, rules};
use crate::metrics::Metrics;
use crate::simulated::{Cluster, Fault, Rule};

const LIMIT: Duration = Duration::from_secs(30);

struct Scene {
    address: std::net::SocketAddr,
    certificate: Certificate,
    cluster: Cluster,
    authority: Pair,
    metrics: Arc<Metrics>,
}

fn now_s() -> i64 {
    k8s_openapi::jiff::Timestamp::now().as_second()
}

impl Scene {
    async fn new() -> Self {
        let cluster = Cluster::new(1);
        let namespace = json!({"metadata": {"name": "shop", "labels": {INJECT: "demo"}}});
        cluster.create::<Namespace>(&serde_json::from_value(namespace).unwrap()).unwrap();
        let resource = json!({"metadata": {"name": "demo", "namespace": "shop"}, "spec": {"replicas": 3}});
        cluster.create::<StorageCluster>(&serde_json::from_value(resource).unwrap()).unwrap();
        let (certificate, metrics) = (Certificate::default(), Arc::new(Metrics::default()));
        let lookups = Lookups::new(cluster.client(), rules());
        let webhook = Arc::new(Webhook::new(lookups, Arc::clone(&metrics)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, certificate.clone(), webhook));
        Self { address, certificate, cluster, authority: issue::authority(now_s()).unwrap(), metrics }
    }

    fn certify(&self, authority: &Pair) {
        let pair = issue::serving(authority, &["hook.annulus-system.svc".to_owned()], now_s()).unwrap();
        self.certificate.set(pair.certificate.as_bytes(), pair.key.as_bytes()).unwrap();
    }

    /// Sends a request as an API server that trusts this authority; `None`: there was no connection.
    async fn send(&self, authority: &Pair, request: Request<Full<Bytes>>) -> Option<(StatusCode, String)> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(read_pem(authority.certificate.as_bytes()).remove(0))).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
        let connector = TlsConnector::from(Arc::new(config.with_no_client_auth()));
        let asked = async {
            let stream = TcpStream::connect(self.address).await.unwrap();
            let name = ServerName::try_from("hook.annulus-system.svc").unwrap();
            let stream = connector.connect(name, stream).await.ok()?;
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            let response = sender.send_request(request).await.ok()?;
            let status = response.status();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            Some((status, String::from_utf8(body.to_vec()).unwrap()))
        };
        timeout(LIMIT, asked).await.expect("there is an answer in time")
    }

    async fn review(&self, pod: &Value) -> (StatusCode, String) {
        self.send(&self.authority, post(review(pod).to_string())).await.expect("there is an answer")
    }
}

fn review(pod: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {"uid": "7", "operation": "CREATE", "namespace": "shop", "object": pod,
                    "kind": {"group": "", "version": "v1", "kind": "Pod"}},
    })
}

fn post(body: String) -> Request<Full<Bytes>> {
    let request = Request::post("/inject?timeout=5s").header("content-type", "application/json").header("host", "hook");
    request.body(Full::new(Bytes::from(body))).unwrap()
}

#[tokio::test]
async fn pods_get_their_sidecar_over_https_and_the_certificate_is_swapped_without_a_restart() {
    let scene = Scene::new().await;
    assert_eq!(scene.send(&scene.authority, post(String::new())).await, None, "there is no certificate yet");
    scene.certify(&scene.authority);
    // By the namespace's label.
    let (status, body) = scene.review(&pod(json!({}), json!({}))).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    let response = &answer["response"];
    assert_eq!(
        (&response["uid"], &response["allowed"], &response["patchType"]),
        (&json!("7"), &json!(true), &json!("JSONPatch"))
    );
    let patch = base64::engine::general_purpose::STANDARD.decode(response["patch"].as_str().unwrap()).unwrap();
    let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
    let mut patched = pod(json!({}), json!({}));
    json_patch::patch(&mut patched, &patch).unwrap();
    assert_eq!(patched["spec"]["initContainers"][0]["name"], "annulus-sidecar");

    let next = issue::authority(now_s()).unwrap();
    scene.certify(&next);
    assert_eq!(scene.send(&scene.authority, post(String::new())).await, None, "the old one is served no more");
    assert!(scene.send(&next, post(review(&pod(json!({}), json!({}))).to_string())).await.unwrap().0.is_success());
    // What can't be served leaves what is.
    assert!(scene.certificate.set(b"junk", b"junk").is_err());
    assert!(scene.certificate.set(next.certificate.as_bytes(), scene.authority.key.as_bytes()).is_err());
    assert!(scene.send(&next, post(String::new())).await.is_some());
    let told = scene.metrics.encode();
    assert!(told.contains("annulus_operator_injections_total{outcome=\"patched\"} 2"), "{told}");
}

#[tokio::test]
async fn a_cluster_that_is_missing_is_told_and_an_api_server_that_does_not_tell_is_an_error() {
    let scene = Scene::new().await;
    scene.certify(&scene.authority);
    let (status, body) = scene.review(&pod(json!({INJECT: "other"}), json!({}))).await;
    assert!(
        status.is_success() && body.contains("there is none of that name") && body.contains("\"allowed\":false"),
        "{body}"
    );
    let (status, body) = scene.review(&pod(json!({INJECT: "false"}), json!({}))).await;
    assert!(status.is_success() && body.contains("\"allowed\":true") && !body.contains("patch"), "{body}");
    scene.cluster.inject(Rule::new(Fault::internal_error()));
    let (status, body) = scene.review(&pod(json!({INJECT: "demo"}), json!({}))).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(body.contains("does not tell about the StorageCluster shop/demo"), "{body}");
}

#[tokio::test]
async fn what_is_no_review_is_refused_with_a_reason() {
    let scene = Scene::new().await;
    scene.certify(&scene.authority);
    let request = |method: &str, path: &str, kind: &str, body: String| {
        let request = Request::builder().method(method).uri(path).header("content-type", kind).header("host", "hook");
        request.body(Full::new(Bytes::from(body))).unwrap()
    };
    let huge = format!("{{\"a\": \"{}\"}}", "x".repeat(4 << 20));
    let deep = "[".repeat(100_000);
    let wide = review(
        &json!({"metadata": {"annotations": {INJECT: "demo"}}, "spec": {"containers": vec![json!({}); 200_000]}}),
    );
    for (sent, status, said) in [
        (request("GET", "/inject", "application/json", String::new()), 405, "POST"),
        (request("POST", "/", "application/json", String::new()), 404, "/inject"),
        (request("POST", "/inject", "text/plain", String::new()), 415, "application/json"),
        (post("{}".to_owned()), 400, "no AdmissionReview"),
        (post(deep), 400, "no AdmissionReview"),
        (post(wide.to_string()), 400, "containers: there are more than 1000"),
        (post(huge), 413, "3 MiB"),
    ] {
        // A client whose body is not read to its end may find the connection closed before it has the answer.
        let Some((found, body)) = scene.send(&scene.authority, sent).await else {
            assert_eq!(status, 413);
            continue;
        };
        assert!(found.as_u16() == status && body.contains(said), "{found} {body}");
    }
}

#[tokio::test]
async fn clients_that_say_nothing_are_hung_up_on() {
    tokio::time::pause();
    let scene = Scene::new().await;
    scene.certify(&scene.authority);
    tokio::time::resume();
    let mut silent = TcpStream::connect(scene.address).await.unwrap();
    silent.write_all(&[22, 3, 1]).await.unwrap();
    let mut rest = Vec::new();
    // It is closed or reset after 10 s, and both are an end.
    let ended = timeout(Duration::from_secs(20), silent.read_to_end(&mut rest)).await;
    assert!(ended.is_ok());
}
