//! The manifests in the repository are those that the types make, and small enough for every client.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// What `kubectl apply` keeps in an annotation may be no larger.
const ANNOTATION_LIMIT: usize = 262_144;

#[test]
fn the_manifests_are_those_that_the_types_make() {
    for (file, generated) in annulus_crds::manifests() {
        assert_written(&folder().join(file), &generated);
        assert!(generated.len() < ANNOTATION_LIMIT / 2, "{file} has {} bytes", generated.len());
    }
}

#[test]
fn the_charts_templates_are_the_manifests_and_helm_never_deletes_them() {
    let templates = annulus_crds::chart_templates();
    assert_eq!(templates.len(), annulus_crds::manifests().len());
    for ((file, template), (_, manifest)) in templates.into_iter().zip(annulus_crds::manifests()) {
        assert_written(&folder().join("..").join(file), &template);
        assert!(!template.contains("{{"), "Helm would take a part of {file} for a call");

        let mut template: Value = serde_yaml::from_str(&template).unwrap();
        let metadata = template["metadata"].as_object_mut().unwrap();
        assert_eq!(metadata.remove("annotations").unwrap()["helm.sh/resource-policy"], "keep");
        assert_eq!(template, serde_yaml::from_str::<Value>(&manifest).unwrap());
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn assert_written(path: &Path, generated: &str) {
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == generated, "{} is not what the types say; run `cargo run -p annulus-crds`", path.display());
}

#[test]
fn every_field_is_explained() {
    for (file, manifest) in annulus_crds::manifests() {
        let crd: Value = serde_yaml::from_str(&manifest).unwrap();
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
        for part in ["spec", "status"] {
            explained(&format!("{file}: {part}"), &schema[part]);
        }
    }
}

fn explained(path: &str, schema: &Value) {
    assert!(schema["description"].as_str().is_some_and(|text| text.len() > 10), "{path} is not explained");
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        explained(&format!("{path}.{name}"), field);
    }
}
