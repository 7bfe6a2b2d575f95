//! Writes the manifests of the custom resources, generated from the types, where the repository keeps them.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let repository = crate_folder.parent().unwrap_or(crate_folder);
    let manifests = annulus_crds::manifests().into_iter().map(|(file, text)| (crate_folder.join(file), text));
    let templates = annulus_crds::chart_templates().into_iter().map(|(file, text)| (repository.join(file), text));
    for (path, text) in manifests.chain(templates) {
        std::fs::write(&path, text)?;
        println!("{}", path.display());
    }
    Ok(())
}
