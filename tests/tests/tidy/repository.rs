//! The files that the rules are about.

use std::path::{Component, Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The folder that the workspace's Cargo.toml lies in: one above this package.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lies below the root").to_path_buf()
}

/// Every file that belongs to the project, relative to the root, in order. A checkout asks git; an unpacked archive has
/// only its folder.
pub(crate) fn files() -> Vec<PathBuf> {
    let mut files = if root().join(".git").exists() { tracked() } else { below(&root()) };
    files.sort();
    assert!(!files.is_empty(), "the repository has files");
    files
}

/// The files with this extension.
pub(crate) fn files_with_extension(extension: &str) -> Vec<PathBuf> {
    files().into_iter().filter(|file| file.extension().is_some_and(|found| found == extension)).collect()
}

/// What is in a file of the repository; `None` when it is not text.
pub(crate) fn text(file: &Path) -> Option<String> {
    let bytes = fs::read(root().join(file)).unwrap_or_else(|error| panic!("reading {}: {error}", file.display()));
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

/// Takes `.` and `..` out of a path without asking the disk.
pub(crate) fn normalize(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                normal.pop();
            }
            other => normal.push(other),
        }
    }
    normal
}

/// What git tracks or would track: a file that is new and not ignored is judged before it is added.
fn tracked() -> Vec<PathBuf> {
    let output = Command::new("git")
        // A checkout may belong to another user than the one who tests it, which git takes for an attack.
        .args(["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git runs in a checkout");
    assert!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).expect("file names are UTF-8");
    let files = names.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from);
    // A file that was removed but not yet from the index is not there any more.
    files.filter(|file| root().join(file).is_file()).collect()
}

fn below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository can be read") {
            let path = entry.expect("a folder of the repository can be read").path();
            let built = path.file_name().is_some_and(|name| name == "target");
            match path.is_dir() {
                true if !built => folders.push(path),
                true => {}
                false => files.push(path.strip_prefix(root()).expect("below the root").to_path_buf()),
            }
        }
    }
    files
}
