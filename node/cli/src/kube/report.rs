//! `kube report`: all that helps to find out what is wrong with a store, in one tar archive.
//!
//! What never gets into it: Secrets, and what [`super::redact`] leaves out. What can't be read does not end it: the archive
//! says what is missing, and why.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use k8s_openapi::jiff::Timestamp;
use kube::core::DynamicObject;
use serde::Serialize;
use serde_json::Value;
use tar::{Builder, Header};

use super::args;
use super::connect::Server;
use super::redact::redact;
use super::sources;
use crate::exit::Failure;
use crate::output;

/// An archive that is being written.
pub(super) struct Archive {
    tar: Builder<BufWriter<File>>,
    /// The folder that everything in it is in.
    folder: String,
    modified: u64,
    /// What is in it: name and bytes.
    written: Vec<(String, usize)>,
    /// What could not be read, and why.
    missing: Vec<(String, String)>,
}

/// Something for the archive.
#[derive(Debug)]
pub(super) enum Entry {
    /// A file.
    File { name: String, content: Vec<u8> },
    /// One that there can't be, and why.
    Missing { name: String, why: String },
}

impl Entry {
    /// What was read, or why it could not be.
    pub(super) fn of(name: impl Into<String>, read: Result<String, impl ToString>) -> Self {
        let name = name.into();
        match read {
            Ok(text) => Self::File { name, content: text.into_bytes() },
            Err(error) => Self::Missing { name, why: error.to_string() },
        }
    }

    /// An object as YAML, without what must not be told.
    pub(super) fn object(name: impl Into<String>, object: &impl Serialize) -> Self {
        let yaml = serde_json::to_value(object).map_err(|error| error.to_string()).and_then(|mut value: Value| {
            redact(&mut value);
            serde_yaml::to_string(&value).map_err(|error| error.to_string())
        });
        Self::of(name, yaml)
    }
}

/// Writes a report.
pub(super) async fn run(server: &Server, arguments: &args::Report) -> Result<(), Failure> {
    let cluster = server.cluster(arguments.which.cluster.as_deref()).await?;
    let object: DynamicObject = server.asked("read the StorageCluster", server.clusters().get(&cluster.name)).await?;
    let now = Timestamp::now();
    let folder = format!("annulus-report-{}-{}-{}", cluster.namespace, cluster.name, now.strftime("%Y%m%dT%H%M%SZ"));
    let path = arguments.to.clone().unwrap_or_else(|| PathBuf::from(format!("{folder}.tar")));
    let mut archive = Archive::create(&path, folder, now)?;
    let done = async {
        sources::collect(server, &cluster, &object, &mut archive).await?;
        archive.close()
    };
    let lines = match done.await {
        Ok(lines) => lines,
        Err(error) => {
            // Half an archive helps nobody.
            let _ = fs::remove_file(&path);
            return Err(Failure::system(format!("`{}` can't be written", path.display()), &error));
        }
    };
    let mut out = io::stdout().lock();
    writeln!(out, "{}", path.display())?;
    for line in lines {
        writeln!(out, "{line}")?;
    }
    Ok(out.flush()?)
}

impl Archive {
    /// Makes the file, which must not be there yet.
    fn create(path: &Path, folder: String, now: Timestamp) -> Result<Self, Failure> {
        let file = File::create_new(path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                Failure::Usage(format!("`{}` is there already; name another file with --to", path.display()))
            }
            _ => Failure::system(format!("`{}` can't be made", path.display()), &error),
        })?;
        let modified = u64::try_from(now.as_second()).unwrap_or_default();
        let tar = Builder::new(BufWriter::new(file));
        Ok(Self { tar, folder, modified, written: Vec::new(), missing: Vec::new() })
    }

    /// Writes an entry, or takes note of one that is missing.
    pub(super) fn add(&mut self, entry: Entry) -> io::Result<()> {
        match entry {
            Entry::File { name, content } => {
                self.append(&name, &content)?;
                self.written.push((name, content.len()));
            }
            Entry::Missing { name, why } => self.missing.push((name, why)),
        }
        Ok(())
    }

    fn append(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(self.modified);
        self.tar.append_data(&mut header, format!("{}/{name}", self.folder), content)
    }

    /// Ends the archive with a list of what is in it; returns that list.
    fn close(&mut self) -> io::Result<Vec<String>> {
        let lines = contents(&self.written, &self.missing);
        let mut text = lines.join("\n");
        text.push('\n');
        self.append("contents.txt", text.as_bytes())?;
        self.tar.finish()?;
        self.tar.get_mut().flush()?;
        self.tar.get_ref().get_ref().sync_all()?;
        Ok(lines)
    }
}

/// What is in an archive, and what is not.
fn contents(written: &[(String, usize)], missing: &[(String, String)]) -> Vec<String> {
    let rows: Vec<Vec<String>> =
        written.iter().map(|(name, bytes)| vec![format!("  {name}"), bytes.to_string()]).collect();
    let mut lines = output::table(&["in it", "bytes"], &[1], &rows);
    if !missing.is_empty() {
        lines.push(String::new());
        lines.push("not in it".to_owned());
        lines.extend(missing.iter().map(|(name, why)| format!("  {name}: {}", why.replace('\n', " "))));
    }
    lines.push(String::new());
    lines.push(LEFT_OUT.to_owned());
    lines
}

const LEFT_OUT: &str = "Secrets are not in it, nor values of environment variables whose names do not begin with ANNULUS_. Logs are as \
                        they were written: read them before you pass them on.";

#[cfg(test)]
mod tests {
    use std::io::Read;

    use serde_json::json;

    use super::*;

    fn archive(path: &Path) -> Archive {
        Archive::create(path, "report".to_owned(), Timestamp::from_second(1_700_000_000).unwrap()).unwrap()
    }

    #[test]
    fn an_archive_holds_what_was_read_and_tells_what_was_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.tar");
        let mut archive = archive(&path);
        let secret = json!({"spec": {"env": [{"name": "A", "value": "hunter2"}]}});
        archive.add(Entry::object("pods.yaml", &secret)).unwrap();
        let long = format!("members/{}/node.log", "x".repeat(120));
        archive.add(Entry::of(long.clone(), Ok::<_, String>("line\n".to_owned()))).unwrap();
        archive.add(Entry::of("nodes.yaml", Err("forbidden:\nnodes"))).unwrap();
        let lines = archive.close().unwrap();
        assert!(lines.contains(&"  nodes.yaml: forbidden: nodes".to_owned()), "{lines:?}");
        drop(archive);

        let mut read = tar::Archive::new(File::open(&path).unwrap());
        let files: Vec<(String, String)> = read
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut text = String::new();
                entry.read_to_string(&mut text).unwrap();
                assert_eq!((entry.header().mode().unwrap(), entry.header().mtime().unwrap()), (0o644, 1_700_000_000));
                (entry.path().unwrap().display().to_string(), text)
            })
            .collect();
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["report/pods.yaml", &format!("report/{long}"), "report/contents.txt"]);
        assert!(files[0].1.contains("left out") && !files[0].1.contains("hunter2"), "{files:?}");
        assert_eq!(files[1].1, "line\n");
        assert_eq!(files[2].1, format!("{}\n", lines.join("\n")));
    }

    #[test]
    fn a_file_that_is_there_is_not_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.tar");
        drop(archive(&path));
        let failure = Archive::create(&path, String::new(), Timestamp::UNIX_EPOCH).err().unwrap();
        assert!(matches!(&failure, Failure::Usage(told) if told.contains("--to")), "{failure}");
    }
}
