//! `kube status`: how a store is, on one screen, from what its operator says.

use std::io::{self, Write};
use std::time::Duration;

use annulus_crds::StorageClusterStatus;
use annulus_crds::storage_cluster::{MemberStatus, PlanStatus};
use indicatif::BinaryBytes;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use tokio::time::sleep;

use super::args;
use super::cluster::Cluster;
use super::connect::Server;
use crate::exit::Failure;
use crate::output::{self, Format};
use crate::progress::Live;

/// How often the status is looked at while it is watched.
const LOOK: Duration = Duration::from_secs(1);

/// Shows how a store is.
pub(super) async fn run(server: &Server, arguments: &args::Status) -> Result<(), Failure> {
    let cluster = server.cluster(arguments.which.cluster.as_deref()).await?;
    if arguments.watch {
        return watch(server, arguments, cluster).await;
    }
    write(&cluster, arguments.output)?;
    availability(&cluster)
}

/// Shows it again and again, until the process is ended. Where nobody looks on: each time it has changed.
async fn watch(server: &Server, arguments: &args::Status, first: Cluster) -> Result<(), Failure> {
    let live = Live::new();
    let seen = live.seen() && arguments.output == Format::Text;
    let name = first.name.clone();
    let (mut last, mut next) = (None, Ok(first));
    loop {
        match next {
            Ok(cluster) if seen => {
                live.show(&screen(&cluster));
                last = Some(cluster);
            }
            Ok(cluster) => {
                if last.as_ref() != Some(&cluster) {
                    write(&cluster, arguments.output)?;
                    last = Some(cluster);
                }
            }
            // The last screen stays, with why it is not the newest; an API server comes back.
            Err(Failure::Unavailable(told)) => match &last {
                Some(cluster) if seen => {
                    let mut lines = screen(cluster);
                    lines.extend([String::new(), format!("not current: {told}")]);
                    live.show(&lines);
                }
                _ => eprintln!("annulus: {told}"),
            },
            Err(failure) => {
                live.end();
                return Err(failure);
            }
        }
        sleep(LOOK).await;
        next = server.cluster(Some(&name)).await;
    }
}

fn write(cluster: &Cluster, format: Format) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match format {
        Format::Json => {
            serde_json::to_writer(&mut out, cluster).map_err(io::Error::from)?;
            writeln!(out)?;
        }
        Format::Text => {
            for line in screen(cluster) {
                writeln!(out, "{line}")?;
            }
        }
    }
    Ok(out.flush()?)
}

/// Fails when the operator says that the store does not serve.
fn availability(cluster: &Cluster) -> Result<(), Failure> {
    let conditions = cluster.status.iter().flat_map(|status| &status.conditions);
    let mut unavailable = conditions.filter(|condition| condition.type_ == "Available" && condition.status == "False");
    match unavailable.next() {
        None => Ok(()),
        Some(condition) => Err(Failure::Unavailable(format!("the store is not available: {}", condition.message))),
    }
}

/// The screen, line by line.
fn screen(cluster: &Cluster) -> Vec<String> {
    let (namespace, name) = (&cluster.namespace, &cluster.name);
    let Some(status) = &cluster.status else {
        return vec![
            format!("{namespace}/{name}: {} members are wanted", cluster.replicas),
            "the operator has not looked at it yet; does it run? `kubectl get pods -A -l app.kubernetes.io/name=annulus-operator` \
             shows it"
                .to_owned(),
        ];
    };
    let phase = if status.phase.is_empty() { "Unknown" } else { &status.phase };
    let ready = format!("{} of {} members are ready", status.ready_replicas, cluster.replicas);
    let more = match i64::from(status.replicas) - cluster.replicas {
        0 => String::new(),
        _ => format!(" ({} are there)", status.replicas),
    };
    let mut lines = vec![format!("{namespace}/{name}: {phase}, {ready}{more}")];
    lines.push(ring(status));
    if let Some(image) = &status.image {
        lines.push(format!("image: {image}"));
    }
    lines.extend(next(status.plan.as_ref()));
    if !cluster.drain.is_empty() {
        lines.push(format!("to be drained: {}", cluster.drain.iter().cloned().collect::<Vec<_>>().join(", ")));
    }
    let notes = notes(cluster, status);
    if !notes.is_empty() {
        lines.push(String::new());
        lines.extend(notes);
    }
    if !status.members.is_empty() {
        lines.push(String::new());
        lines.extend(members(&status.members));
    }
    lines
}

/// Where the keys are.
fn ring(status: &StorageClusterStatus) -> String {
    let epoch = status.map_epoch.map(|epoch| format!(", epoch {epoch}")).unwrap_or_default();
    let plan = status.plan.clone().unwrap_or_default();
    let left = moves_left(&plan).map(|left| format!(": {left}")).unwrap_or_default();
    let ring = match status.ring.as_str() {
        "Balanced" => "balanced",
        "Moving" => "moving",
        _ => "unknown, no member tells",
    };
    format!("ring: {ring}{epoch}{left}")
}

/// What is still to be moved; `None`: nothing.
pub(super) fn moves_left(plan: &PlanStatus) -> Option<String> {
    let moves = match plan.moves_left {
        ..=0 => return None,
        1 => "1 move left".to_owned(),
        moves => format!("{moves} moves left"),
    };
    match u64::try_from(plan.bytes_left) {
        Ok(bytes @ 1..) => Some(format!("{moves}, about {} to copy", BinaryBytes(bytes))),
        _ => Some(moves),
    }
}

/// What the operator is about to do, and what it waits for.
pub(super) fn next(plan: Option<&PlanStatus>) -> Vec<String> {
    let Some(plan) = plan.filter(|plan| !plan.step.is_empty() || !plan.gate.is_empty() || !plan.message.is_empty())
    else {
        return vec!["next: nothing to do".to_owned()];
    };
    let about = if plan.member.is_empty() { String::new() } else { format!(" ({})", plan.member) };
    let colon = |head: String| if plan.message.is_empty() { head } else { format!("{head}: {}", plan.message) };
    match (plan.step.as_str(), plan.gate.as_str()) {
        ("", "") => vec![format!("next: {}", plan.message)],
        ("", gate) => vec![colon(format!("waits for: {gate}{about}"))],
        (step, "") => vec![colon(format!("next: {step}{about}"))],
        (step, gate) => vec![format!("next: {step}{about}"), colon(format!("waits for: {gate}"))],
    }
}

/// What is not as it should be.
fn notes(cluster: &Cluster, status: &StorageClusterStatus) -> Vec<String> {
    let mut notes = Vec::new();
    if cluster.deleting {
        notes.push("it is being deleted".to_owned());
    }
    if cluster.paused {
        notes.push("it is paused: the operator changes nothing until `kubectl annulus resume`".to_owned());
    }
    if status.observed_generation < cluster.generation {
        notes.push(
            "the operator has not looked at the newest spec yet; what stands here is of an older one. Does it run?"
                .to_owned(),
        );
    }
    notes.extend(status.conditions.iter().filter_map(wrong));
    notes
}

/// A condition in words, if it is not as it should be. That replicas move stands in the line about the ring.
fn wrong(condition: &Condition) -> Option<String> {
    let words = match (condition.type_.as_str(), condition.status.as_str()) {
        ("Available", "False") => "not available",
        ("Available", "Unknown") => "it is not known whether it is available",
        ("Degraded", "True") => "degraded",
        ("QuorumAtRisk", "True") if condition.reason == "QuorumLost" => "quorum lost",
        ("QuorumAtRisk", "True") => "quorum at risk",
        ("ScaleDownBlocked", "True") => "can't become smaller",
        ("Progressing", "False") if condition.reason == "Failed" => "the operator's last step failed",
        ("Progressing", "False") if condition.reason == "InvalidSpec" => "part of the spec has no effect",
        _ => return None,
    };
    Some(format!("{words}: {}", condition.message))
}

/// The members as a table.
fn members(members: &[MemberStatus]) -> Vec<String> {
    let or_dash = |text: &str| if text.is_empty() { "-" } else { text }.to_owned();
    let rows: Vec<Vec<String>> = members
        .iter()
        .map(|member| {
            let ready = if member.ready { "yes" } else { "NO" };
            let unheard = member.unheard_since.as_ref().map(|since| format!("not heard since {since}"));
            let message = [Some(member.message.clone()).filter(|message| !message.is_empty()), unheard];
            vec![
                member.name.clone(),
                or_dash(&member.zone),
                or_dash(&member.node),
                or_dash(&member.state),
                ready.to_owned(),
                member.replicas.to_string(),
                member.leaders.to_string(),
                or_dash(&member.version),
                message.into_iter().flatten().collect::<Vec<_>>().join("; "),
            ]
        })
        .collect();
    let head = ["member", "zone", "node", "state", "ready", "replicas", "leaders", "version", "message"];
    output::table(&head, &[5, 6], &rows)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::cluster::tests::cluster;
    use super::*;

    fn member(name: &str, zone: &str, state: &str, replicas: u32) -> Value {
        json!({"name": name, "id": "00000000000000a1", "zone": zone, "node": format!("worker-{zone}"), "state": state,
               "version": "1.2.0", "ready": true, "replicas": replicas, "leaders": replicas / 3})
    }

    fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
        json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": "2026-01-02T03:04:05Z"})
    }

    /// What the operator says of a store that is well.
    fn well() -> Value {
        json!({
            "observedGeneration": 2, "phase": "Running", "replicas": 3, "readyReplicas": 3, "selector": "", "mapEpoch": 41,
            "ring": "Balanced", "image": "registry.example/annulus:1.2.0", "lastOrdinal": 3,
            "members": [member("demo-a", "a", "Active", 128), member("demo-b", "b", "Active", 128),
                        member("demo-c", "c", "Active", 128)],
            "conditions": [
                condition("Available", "True", "Serving", "every partition has a quorum"),
                condition("Progressing", "False", "Settled", "there is nothing to do"),
                condition("Degraded", "False", "AllWell", "every member is ready"),
                condition("RingBalanced", "True", "Settled", "every replica is where it should be"),
                condition("QuorumAtRisk", "False", "Enough", "every partition can lose a replica"),
                condition("ScaleDownBlocked", "False", "Free", "nothing holds up that the cluster becomes smaller"),
            ],
        })
    }

    /// Compares with the lines of a text, whose indentation does not count.
    fn assert_screen(cluster: &Cluster, golden: &str) {
        let golden: Vec<&str> = golden.lines().map(str::trim).collect();
        assert_eq!(screen(cluster), golden[1..golden.len() - 1], "\n{}", screen(cluster).join("\n"));
    }

    #[test]
    fn a_store_that_is_well_is_told_in_a_few_lines() {
        let cluster = cluster("demo", |object| object["status"] = well());
        assert_screen(
            &cluster,
            "
            shop/demo: Running, 3 of 3 members are ready
            ring: balanced, epoch 41
            image: registry.example/annulus:1.2.0
            next: nothing to do

            member  zone  node      state   ready  replicas  leaders  version  message
            demo-a  a     worker-a  Active  yes         128       42  1.2.0
            demo-b  b     worker-b  Active  yes         128       42  1.2.0
            demo-c  c     worker-c  Active  yes         128       42  1.2.0
            ",
        );
        assert!(availability(&cluster).is_ok());
    }

    #[test]
    fn what_is_wrong_is_told_with_what_the_operator_waits_for() {
        let cluster = cluster("demo", |object| {
            object["metadata"]["generation"] = json!(3);
            object["metadata"]["annotations"] = json!({"annulus.dev/drain": "demo-c"});
            object["spec"]["replicas"] = json!(4);
            let mut status = well();
            (status["phase"], status["ring"], status["readyReplicas"]) = (json!("Scaling"), json!("Moving"), json!(2));
            status["plan"] = json!({"step": "", "member": "demo-b", "gate": "MemberNotReady", "movesLeft": 12,
                                    "bytesLeft": 180_000_000, "message": "demo-b does not answer; look at its log"});
            status["members"][1] = json!({"name": "demo-b", "state": "Unreachable", "message": "pod demo-b can't be placed",
                                          "unheardSince": "2026-01-02T03:04:05Z"});
            status["members"][2] = member("demo-c", "c", "Draining", 12);
            status["conditions"] = json!([
                condition("Available", "False", "QuorumLost", "3 partitions have no quorum"),
                condition("Progressing", "False", "MemberNotReady", "demo-b does not answer; look at its log"),
                condition(
                    "Degraded",
                    "True",
                    "MemberNotReady",
                    "1 of 3 members are not ready: pod demo-b can't be placed"
                ),
                condition("RingBalanced", "False", "Moving", "replicas are being moved"),
                condition("QuorumAtRisk", "True", "QuorumLost", "3 partitions have no quorum; bring back demo-b"),
                condition("ScaleDownBlocked", "True", "DiskSpace", "there is no room"),
            ]);
            object["status"] = status;
        });
        assert_screen(
            &cluster,
            "
            shop/demo: Scaling, 2 of 4 members are ready (3 are there)
            ring: moving, epoch 41: 12 moves left, about 171.66 MiB to copy
            image: registry.example/annulus:1.2.0
            waits for: MemberNotReady (demo-b): demo-b does not answer; look at its log
            to be drained: demo-c

            the operator has not looked at the newest spec yet; what stands here is of an older one. Does it run?
            not available: 3 partitions have no quorum
            degraded: 1 of 3 members are not ready: pod demo-b can't be placed
            quorum lost: 3 partitions have no quorum; bring back demo-b
            can't become smaller: there is no room

            member  zone  node      state        ready  replicas  leaders  version  message
            demo-a  a     worker-a  Active       yes         128       42  1.2.0
            demo-b  -     -         Unreachable  NO            0        0  -        pod demo-b can't be placed; not heard since 2026-01-02T03:04:05Z
            demo-c  c     worker-c  Draining     yes          12        4  1.2.0
            ",
        );
        let failure = availability(&cluster).unwrap_err();
        assert!(matches!(&failure, Failure::Unavailable(told) if told.contains("no quorum")), "{failure}");
    }

    #[test]
    fn a_store_that_no_operator_has_looked_at_says_so() {
        let lines = screen(&cluster("demo", |_| {}));
        assert_eq!(lines[0], "shop/demo: 3 members are wanted");
        assert!(lines[1].contains("has not looked at it yet"), "{lines:?}");
    }

    #[test]
    fn a_step_is_told_with_its_member_and_its_gate() {
        let plan = |step: &str, gate: &str, message: &str| PlanStatus {
            step: step.into(),
            gate: gate.into(),
            member: "demo-a".into(),
            message: message.into(),
            ..PlanStatus::default()
        };
        assert_eq!(
            next(Some(&plan("RollMember", "", "it is made anew"))),
            ["next: RollMember (demo-a): it is made anew"]
        );
        let both = next(Some(&plan("RollMember", "QuorumAtRisk", "bring back demo-b")));
        assert_eq!(both, ["next: RollMember (demo-a)", "waits for: QuorumAtRisk: bring back demo-b"]);
        assert_eq!(next(Some(&plan("", "", "it failed"))), ["next: it failed"]);
        assert_eq!(next(Some(&PlanStatus { moves_left: 3, ..PlanStatus::default() })), ["next: nothing to do"]);
    }

    #[test]
    fn a_paused_store_and_a_step_that_failed_are_told() {
        let cluster = cluster("demo", |object| {
            (object["spec"]["paused"], object["status"]) = (json!(true), well());
            object["status"]["conditions"] =
                json!([condition("Progressing", "False", "Failed", "the API server said no")]);
        });
        let lines = screen(&cluster);
        assert!(lines.iter().any(|line| line.starts_with("it is paused")), "{lines:?}");
        assert!(lines.contains(&"the operator's last step failed: the API server said no".to_owned()), "{lines:?}");
    }
}
