//! The examples in `charts/examples` are what the API server takes, and the charts are of this release.

use std::path::{Path, PathBuf};

use annulus_crds::StorageCluster;
use kube::core::cel::validate_cel;
use serde::Deserialize;
use serde_json::Value;

fn charts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts")
}

fn documents(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap();
    serde_yaml::Deserializer::from_str(&text).map(|document| Value::deserialize(document).unwrap()).collect()
}

#[test]
fn every_example_is_taken_by_the_schema() {
    let mut clusters = Vec::new();
    for entry in charts().join("examples").read_dir().unwrap() {
        let file = entry.unwrap().path();
        for document in documents(&file).into_iter().filter(|document| document["kind"] == "StorageCluster") {
            assert_eq!(document["apiVersion"], "annulus.dev/v1alpha1", "{}", file.display());
            let cluster: StorageCluster =
                serde_json::from_value(document).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            validate_cel(&cluster).unwrap_or_else(|errors| panic!("{}: {errors:?}", file.display()));
            clusters.push(cluster.metadata.name.unwrap());
        }
    }
    clusters.sort();
    assert_eq!(clusters, ["demo", "guarded", "small", "tuned", "zones"]);
}

#[test]
fn the_smallest_example_is_short() {
    let text = std::fs::read_to_string(charts().join("examples/minimal.yaml")).unwrap();
    assert!(text.lines().count() <= 12);
}

#[test]
fn the_charts_are_of_this_release() {
    for chart in ["annulus-crds", "annulus-operator"] {
        let about = &documents(&charts().join(chart).join("Chart.yaml"))[0];
        for field in ["version", "appVersion"] {
            assert_eq!(about[field], env!("CARGO_PKG_VERSION"), "{chart}: {field}");
        }
    }
}
