//! `kube drain` and `kube undrain`: who is to hold nothing. It is an annotation of the cluster, which the operator carries out.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal};
use std::time::Duration;

use annulus_crds::annotations;
use annulus_crds::storage_cluster::MemberStatus;
use indicatif::{ProgressBar, ProgressStyle};
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::args::Named;
use super::cluster::{self, Cluster};
use super::connect::Server;
use super::status::moves_left;
use crate::exit::Failure;

/// How often the status is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How often a change is tried of a cluster that somebody else changes at the same time: the operator writes its status often.
const TRIES: u32 = 20;

/// What is to become of members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Drain,
    Undrain,
}

/// An edit of the annotation.
#[derive(Debug, PartialEq, Eq)]
struct Edit {
    /// Who is to be drained then.
    drain: BTreeSet<String>,
    /// Of those that were named, for whom that is new.
    changed: Vec<String>,
}

/// Drains members, or takes that back.
pub(super) async fn run(server: &Server, named: &Named, what: What) -> Result<(), Failure> {
    let began = Instant::now();
    let mut cluster = match &named.cluster {
        Some(name) => server.cluster(Some(name)).await?,
        None => cluster::with_members(server.all().await?, &named.members, &server.namespace)?,
    };
    let mut tries = 0;
    let edit = loop {
        let edit = edit(&cluster, &named.members, what)?;
        if edit.changed.is_empty() {
            break edit;
        }
        tries += 1;
        match write(server, &cluster, &edit).await {
            Ok(()) => break edit,
            Err(Written::Meanwhile) if tries < TRIES => cluster = server.cluster(Some(&cluster.name)).await?,
            Err(Written::Meanwhile) => {
                return Err(Failure::Refused(format!(
                    "somebody else changed {} each time that it was tried. Nothing was changed; try again.",
                    cluster.name
                )));
            }
            Err(Written::Failed(failure)) => return Err(failure),
        }
    };
    for line in told(&cluster, &edit, named, what) {
        eprintln!("{line}");
    }
    if named.wait { wait(server, &cluster.name, named, what, began).await } else { Ok(()) }
}

/// What the annotation should be. Nobody else's members are touched.
fn edit(cluster: &Cluster, members: &[String], what: What) -> Result<Edit, Failure> {
    let mut drain = cluster.drain.clone();
    let mut changed = Vec::new();
    for name in members {
        let is_member = cluster.members().iter().any(|member| member.name == *name && member.state != "Left");
        let is_left_over = what == What::Undrain && drain.contains(name);
        if !is_member && !is_left_over {
            return Err(stranger(cluster, name));
        }
        let is_new = match what {
            What::Drain => drain.insert(name.clone()),
            What::Undrain => drain.remove(name),
        };
        if is_new {
            changed.push(name.clone());
        }
    }
    if what == What::Drain && !changed.is_empty() {
        enough_left(cluster, &drain)?;
    }
    Ok(Edit { drain, changed })
}

fn stranger(cluster: &Cluster, name: &str) -> Failure {
    let names: Vec<&str> = cluster.members().iter().map(|member| member.name.as_str()).collect();
    let there = match names.as_slice() {
        [] => "the operator tells of none yet".to_owned(),
        names => format!("the members are {}", names.join(", ")),
    };
    Failure::Refused(format!(
        "there is no member `{name}` in {}/{}; {there}. Nothing was changed.",
        cluster.namespace, cluster.name
    ))
}

/// The store refuses to drain whom it can't do without, and the operator would try for ever.
fn enough_left(cluster: &Cluster, drain: &BTreeSet<String>) -> Result<(), Failure> {
    let stays = |member: &&MemberStatus| !drain.contains(&member.name) && !matches!(&*member.state, "Left" | "Leaving");
    let left = cluster.members().iter().filter(stays).count();
    let needed = usize::try_from(cluster.replication_factor).unwrap_or_default();
    if left >= needed {
        return Ok(());
    }
    Err(Failure::Refused(format!(
        "only {left} members would be left to hold keys, and every key is on {needed}. Nothing was changed.\n  Raise \
         spec.replicas of {}/{} first (`kubectl scale storagecluster/{} --replicas={}`), or undrain others.",
        cluster.namespace,
        cluster.name,
        cluster.name,
        cluster.members().len() + needed - left,
    )))
}

/// Why the annotation was not written.
enum Written {
    /// The cluster is another by now.
    Meanwhile,
    Failed(Failure),
}

/// Writes the annotation, if the cluster is still as it was read.
async fn write(server: &Server, cluster: &Cluster, edit: &Edit) -> Result<(), Written> {
    let names = edit.drain.iter().cloned().collect::<Vec<_>>().join(",");
    let names = if names.is_empty() { json!(null) } else { json!(names) };
    let patch = json!({"metadata": {"resourceVersion": cluster.version, "annotations": {annotations::DRAIN: names}}});
    let parameters = PatchParams { field_manager: Some(super::MANAGER.to_owned()), ..PatchParams::default() };
    let (api, patch) = (server.clusters(), Patch::Merge(patch));
    let patching = async {
        match api.patch(&cluster.name, &parameters, &patch).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    };
    match server.changed("change the StorageCluster", patching).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(Written::Meanwhile),
        Err(failure) => Err(Written::Failed(failure)),
    }
}

/// What was done, and what happens next.
fn told(cluster: &Cluster, edit: &Edit, named: &Named, what: What) -> Vec<String> {
    let mut lines = Vec::new();
    for name in named.members.iter().filter(|name| !edit.changed.contains(name)) {
        lines.push(match what {
            What::Drain => format!("{name} is to be drained already"),
            What::Undrain => format!("{name} is not to be drained: there is nothing to take back"),
        });
    }
    if !edit.changed.is_empty() {
        let names = edit.changed.join(", ");
        lines.push(match what {
            What::Drain => format!(
                "{names} is to be drained: the operator has its replicas and leaders move to the other members, while the store \
                 serves. It stays a member that holds nothing, until `kubectl annulus undrain`."
            ),
            What::Undrain => format!("{names} may hold replicas again: the operator has its share move back to it."),
        });
    }
    if cluster.paused {
        lines.push("The cluster is paused: nothing happens until `kubectl annulus resume`.".to_owned());
    }
    lines
}

/// Waits until all that were named are as they should be.
async fn wait(server: &Server, name: &str, named: &Named, what: What, began: Instant) -> Result<(), Failure> {
    let bar = if io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    let style = ProgressStyle::with_template("{spinner} {msg}");
    let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    let deadline = began + named.timeout;
    let ended = loop {
        let outlook = match server.cluster(Some(name)).await {
            Ok(cluster) => {
                let open = open(&cluster, &named.members, what);
                if open.is_empty() {
                    break Ok(());
                }
                outlook(&cluster, &open)
            }
            // An API server comes back.
            Err(Failure::Unavailable(told)) => told,
            Err(failure) => break Err(failure),
        };
        bar.set_message(outlook.clone());
        bar.tick();
        if Instant::now() >= deadline {
            let seconds = named.timeout.as_secs();
            break Err(Failure::Unavailable(format!(
                "it is not so after {seconds} s: {outlook}.\n  The change itself was made, and the operator goes on with it: \
                 `kubectl annulus status` tells how far it is."
            )));
        }
        sleep(LOOK.min(deadline - Instant::now())).await;
    };
    bar.finish_and_clear();
    if ended.is_ok() {
        let state = if what == What::Drain { "drained" } else { "active" };
        eprintln!("{}: {state} after {:.0} s", named.members.join(", "), began.elapsed().as_secs_f64());
    }
    ended
}

/// Who of these is not yet as it should be, with how it is. Whoever is a member no more holds nothing either.
fn open(cluster: &Cluster, members: &[String], what: What) -> Vec<String> {
    let wanted = if what == What::Drain { "Drained" } else { "Active" };
    let open = cluster.members().iter().filter(|member| members.contains(&member.name));
    let open = open.filter(|member| member.state != wanted && member.state != "Left");
    open.map(|member| match member.replicas {
        1 => format!("{} is {} (1 replica)", member.name, member.state),
        replicas => format!("{} is {} ({replicas} replicas)", member.name, member.state),
    })
    .collect()
}

/// How far it is, in words.
fn outlook(cluster: &Cluster, open: &[String]) -> String {
    let mut parts = vec![open.join(", ")];
    if let Some(plan) = cluster.status.as_ref().and_then(|status| status.plan.as_ref()) {
        parts.extend(moves_left(plan));
        if !plan.gate.is_empty() {
            parts.push(format!("waits for {}: {}", plan.gate, plan.message));
        }
    }
    if cluster.paused {
        parts.push("the cluster is paused".to_owned());
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::super::cluster::tests::cluster;
    use super::*;

    fn demo(drain: &str, members: &[(&str, &str)]) -> Cluster {
        cluster("demo", |object| {
            let members: Vec<_> = members.iter().map(|(name, state)| json!({"name": name, "state": state})).collect();
            object["metadata"]["annotations"] = json!({annotations::DRAIN: drain});
            object["status"] = json!({"members": members});
        })
    }

    fn four(drain: &str) -> Cluster {
        demo(drain, &[("demo-a", "Active"), ("demo-b", "Active"), ("demo-c", "Active"), ("demo-d", "Active")])
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn edited(cluster: &Cluster, members: &[&str], what: What) -> (String, Vec<String>) {
        let edit = edit(cluster, &names(members), what).unwrap();
        (edit.drain.into_iter().collect::<Vec<_>>().join(","), edit.changed)
    }

    #[test]
    fn a_member_is_added_to_the_annotation_and_taken_from_it() {
        assert_eq!(edited(&four(""), &["demo-b"], What::Drain), ("demo-b".into(), names(&["demo-b"])));
        assert_eq!(edited(&four("demo-b"), &["demo-b"], What::Drain), ("demo-b".into(), Vec::new()));
        assert_eq!(edited(&four("demo-b"), &["demo-b"], What::Undrain), (String::new(), names(&["demo-b"])));
        assert_eq!(edited(&four(""), &["demo-b"], What::Undrain), (String::new(), Vec::new()));
        // What others have put there stays.
        assert_eq!(edited(&four("gone-x, demo-b"), &["demo-b"], What::Undrain).0, "gone-x");
    }

    #[test]
    fn a_stranger_is_refused_unless_it_is_taken_from_the_annotation() {
        let text = edit(&four(""), &names(&["demo-x"]), What::Drain).unwrap_err().to_string();
        assert!(text.contains("`demo-x` in shop/demo") && text.contains("demo-a, demo-b, demo-c, demo-d"), "{text}");
        assert!(edit(&four(""), &names(&["demo-x"]), What::Undrain).is_err());
        assert_eq!(edited(&four("demo-x"), &["demo-x"], What::Undrain).0, "");
        let left = demo("", &[("demo-a", "Left")]);
        assert!(edit(&left, &names(&["demo-a"]), What::Drain).is_err());
        let none = edit(&cluster("demo", |_| {}), &names(&["demo-a"]), What::Drain).unwrap_err().to_string();
        assert!(none.contains("tells of none yet"), "{none}");
    }

    #[test]
    fn as_many_members_stay_as_every_key_has_replicas() {
        let text = edit(&four("demo-a"), &names(&["demo-b"]), What::Drain).unwrap_err().to_string();
        assert!(text.contains("only 2 members would be left") && text.contains("--replicas=5"), "{text}");
        // What was so before is not refused again.
        assert!(edit(&four("demo-a,demo-b"), &names(&["demo-b"]), What::Drain).is_ok());
    }

    #[test]
    fn a_wait_is_over_when_all_are_drained_or_members_no_more() {
        let members = names(&["demo-a", "demo-b", "demo-x"]);
        let under_way = demo("", &[("demo-a", "Drained"), ("demo-b", "Draining"), ("demo-c", "Active")]);
        assert_eq!(open(&under_way, &members, What::Drain), ["demo-b is Draining (0 replicas)"]);
        let done = demo("", &[("demo-a", "Drained"), ("demo-b", "Left"), ("demo-c", "Active")]);
        assert!(open(&done, &members, What::Drain).is_empty());
        assert_eq!(open(&done, &members, What::Undrain), ["demo-a is Drained (0 replicas)"]);
    }

    #[test]
    fn it_is_told_what_happens_next_and_that_a_paused_cluster_waits() {
        let named = Named {
            members: names(&["demo-a", "demo-b"]),
            cluster: None,
            wait: false,
            timeout: Duration::from_secs(1),
        };
        let mut cluster = four("demo-a");
        cluster.paused = true;
        let edit = Edit { drain: BTreeSet::new(), changed: names(&["demo-b"]) };
        let lines = told(&cluster, &edit, &named, What::Drain);
        assert_eq!(lines[0], "demo-a is to be drained already");
        assert!(lines[1].starts_with("demo-b is to be drained: ") && lines[2].contains("is paused"), "{lines:?}");
    }
}
