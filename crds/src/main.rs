//! Writes the manifests of the custom resources, generated from the types, where the repository keeps them.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (file, manifest) in annulus_crds::manifests() {
        let path = crate_folder.join(file);
        std::fs::write(&path, manifest)?;
        println!("{}", path.display());
    }
    Ok(())
}
