//! The manifests in the repository are those that the types make, and small enough for every client.

use std::path::Path;

/// What `kubectl apply` keeps in an annotation may be no larger.
const ANNOTATION_LIMIT: usize = 262_144;

#[test]
fn the_manifests_are_those_that_the_types_make() {
    for (file, generated) in annulus_crds::manifests() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(written == generated, "{} is not what the types say; run `cargo run -p annulus-crds`", path.display());
        assert!(generated.len() < ANNOTATION_LIMIT / 2, "{file} has {} bytes", generated.len());
    }
}

#[test]
fn every_field_is_explained() {
    for (file, manifest) in annulus_crds::manifests() {
        let crd: serde_json::Value = serde_yaml::from_str(&manifest).unwrap();
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
        for part in ["spec", "status"] {
            explained(&format!("{file}: {part}"), &schema[part]);
        }
    }
}

fn explained(path: &str, schema: &serde_json::Value) {
    assert!(schema["description"].as_str().is_some_and(|text| text.len() > 10), "{path} is not explained");
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        explained(&format!("{path}.{name}"), field);
    }
}
