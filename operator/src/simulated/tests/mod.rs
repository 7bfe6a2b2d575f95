//! Each promise of the simulated server, asked of it through a real `kube::Client`.

mod apply;
mod cluster;
mod faults;
mod objects;
mod watches;

use std::future::Future;
use std::time::Duration;

use annulus_crds::StorageCluster;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Nothing here waits for longer, unless it is broken.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("it did not happen in ten seconds")
}

fn from<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("the test's object is one")
}

fn map(name: &str, data: &Value) -> ConfigMap {
    from(json!({"metadata": {"name": name}, "data": data}))
}

fn stored(name: &str) -> StorageCluster {
    from(
        json!({"apiVersion": "annulus.dev/v1alpha1", "kind": "StorageCluster", "metadata": {"name": name}, "spec": {}}),
    )
}

fn pod(name: &str) -> Pod {
    from(json!({
        "metadata": {"name": name, "labels": {"app.kubernetes.io/instance": "demo"}},
        "spec": {
            "containers": [{"name": "node", "image": "annulus:1"}],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": name}}],
        },
    }))
}

fn claim(name: &str) -> PersistentVolumeClaim {
    from(json!({
        "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }))
}

/// The status that the server refused with.
fn refusal<T: std::fmt::Debug>(result: Result<T, kube::Error>) -> kube::core::Status {
    match result {
        Err(kube::Error::Api(status)) => *status,
        other => panic!("not refused by the server: {other:?}"),
    }
}
