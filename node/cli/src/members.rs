//! `annulus members`: who the members are, and changes of that.
//!
//! `add` and `remove` read who the members are, state who they should be, and begin again when somebody else changed them
//! in between. What they state is stated for that very epoch of the map, so nobody else's change is ever undone.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::time::Duration;

use annulus_client::admin::{Admin, Changed, Members, Plan, PlannedMember};
use annulus_client::node::{MemberSpec, Status};
use annulus_client::{Client, ClusterId, Error, MemberId, MemberState, Problem, state_text};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::args::{self, Change, MembersVerb};
use crate::exit::Failure;
use crate::output::{self, Format};
use crate::plan::name_of;
use crate::progress::Follow;

/// What the store says while an earlier change is being agreed on.
const IN_PROGRESS: &str = "change-in-progress";
/// The wait before a change is tried again.
const MOMENT: Duration = Duration::from_millis(50);

/// Lists the members or changes them.
pub(crate) async fn run(arguments: args::Members) -> Result<(), Failure> {
    match arguments.verb {
        None => list(&arguments).await,
        Some(MembersVerb::Add(add)) => self::add(add).await,
        Some(MembersVerb::Drain(named)) => each(&named, What::Drain).await,
        Some(MembersVerb::Undrain(named)) => each(&named, What::Undrain).await,
        Some(MembersVerb::Remove(remove)) if remove.now => {
            each(&args::Named { members: remove.members, change: remove.change }, What::Remove).await
        }
        Some(MembersVerb::Remove(remove)) => self::remove(remove).await,
    }
}

async fn list(arguments: &args::Members) -> Result<(), Failure> {
    let plan = arguments.connect.client()?.admin().await?.plan().await?;
    let mut out = BufWriter::new(io::stdout().lock());
    match arguments.output {
        Format::Json => writeln!(out, "{}", json!({ "epoch": plan.epoch, "members": by_name(&plan) }))?,
        Format::Text => {
            for line in table(&plan) {
                writeln!(out, "{line}")?;
            }
        }
    }
    Ok(out.flush()?)
}

/// The members in the order in which people look for them: node-2 before node-10.
fn by_name(plan: &Plan) -> Vec<&PlannedMember> {
    let mut members: Vec<&PlannedMember> = plan.members.iter().collect();
    members.sort_by_key(|member| (member.name.len(), &member.name));
    members
}

fn table(plan: &Plan) -> Vec<String> {
    let rows = by_name(plan).into_iter().map(|member| {
        vec![
            member.name.clone(),
            member.id.to_string(),
            if member.zone.is_empty() { "-".to_owned() } else { member.zone.clone() },
            member.weight.to_string(),
            state_text(member.state).to_owned(),
            member.replicas.to_string(),
            member.leads.to_string(),
            heard(member.heard_ms),
            member.client_address.clone(),
            member.admin_address.clone(),
            member.peer_address.clone(),
        ]
    });
    let head = ["member", "id", "zone", "weight", "state", "replicas", "leads", "heard", "client", "admin", "peer"];
    output::table(&head, &[3, 5, 6, 7], &rows.collect::<Vec<_>>())
}

/// How long ago something was heard.
fn heard(ms: Option<u64>) -> String {
    match ms {
        None => "never".to_owned(),
        Some(ms @ 0..1000) => format!("{ms} ms"),
        Some(ms @ 1000..120_000) => format!("{} s", ms / 1000),
        Some(ms) => format!("{} min", ms / 60_000),
    }
}

/// Lets nodes become members.
async fn add(add: args::Add) -> Result<(), Failure> {
    let client = add.change.connect.client()?;
    let cluster = client.ring().await?.cluster;
    let mut new = Vec::new();
    for address in &add.nodes {
        let status = client.nodes().status(address).await.map_err(|error| not_asked(address, error))?;
        new.push(spec(address, status, cluster, add.weight)?);
    }
    let plan = admin(&client, &add.change).await?.plan().await?;
    for (known, new) in namesakes(&plan, &new) {
        let answers = client.nodes().status(&known.admin_address).await.is_ok_and(|status| status.id == known.id);
        if answers {
            return Err(Failure::Refused(taken(known, new)));
        }
    }
    let wanted = |plan: &Plan| Ok(with(plan, &new));
    state(&client, &add.change, wanted).await
}

/// Members whose places new ones would take, by their name.
fn namesakes<'a>(plan: &'a Plan, new: &'a [MemberSpec]) -> impl Iterator<Item = (&'a PlannedMember, &'a MemberSpec)> {
    let pairs = staying(plan).flat_map(|known| new.iter().map(move |new| (known, new)));
    pairs.filter(|(known, new)| known.name == new.name && known.id.to_string() != new.id)
}

fn taken(known: &PlannedMember, new: &MemberSpec) -> String {
    format!(
        "{} ({}) at {} is a member and answers, and the node at {} ({}) has the same name. Nothing was changed.\n  Stop the \
         old one if the new one is to take its place, or start the new one under another name (--name).",
        known.name, known.id, known.admin_address, new.admin_address, new.id
    )
}

/// A node that says who it is, as a member of this cluster.
fn spec(address: &str, status: Status, cluster: ClusterId, weight: Option<u32>) -> Result<MemberSpec, Failure> {
    if let Some(other) = status.cluster.filter(|other| *other != cluster) {
        return Err(Failure::Refused(format!(
            "the node at {address} ({}) belongs to cluster {other}, but this store is cluster {cluster}. Nothing was \
             changed.\n  Start it with an empty volume (--data) to let it join here.",
            status.name
        )));
    }
    let (Some(client_address), Some(peer_address), Some(admin_address)) =
        (status.client_address, status.peer_address, status.admin_address)
    else {
        return Err(Failure::Refused(format!(
            "the node at {address} ({}) does not tell its addresses: it runs an older version. Nothing was changed.",
            status.name
        )));
    };
    Ok(MemberSpec {
        id: status.id.to_string(),
        name: status.name,
        zone: status.zone,
        weight: weight.or(status.weight).unwrap_or(100),
        client_address,
        peer_address,
        admin_address,
    })
}

fn not_asked(address: &str, error: Error) -> Failure {
    let hint = "Is the node running, and is that its admin port (7170 by default)? Nothing was changed.";
    match Failure::from(error.clone()) {
        Failure::Usage(told) => Failure::Usage(told),
        _ => Failure::Unavailable(format!("the node at {address} can't be asked who it is: {error}\n  {hint}")),
    }
}

/// The members that stay, and these. Who has the id or the name of a new one gives way to it.
fn with(plan: &Plan, new: &[MemberSpec]) -> Vec<MemberSpec> {
    let replaced = |member: &MemberSpec| new.iter().any(|new| new.id == member.id || new.name == member.name);
    let kept = staying(plan).map(PlannedMember::spec).filter(|member| !replaced(member));
    kept.chain(new.iter().cloned()).collect()
}

/// The members that are not on their way out: one that is leaving and is named again would stay.
fn staying(plan: &Plan) -> impl Iterator<Item = &PlannedMember> {
    plan.members.iter().filter(|member| member.state != MemberState::Leaving)
}

/// Lets members leave.
async fn remove(remove: args::Remove) -> Result<(), Failure> {
    let client = remove.change.connect.client()?;
    let wanted = |plan: &Plan| without(plan, &remove.members);
    state(&client, &remove.change, wanted).await
}

/// The members that stay when these go.
fn without(plan: &Plan, gone: &[String]) -> Result<Vec<MemberSpec>, Failure> {
    let is = |member: &PlannedMember, named: &String| member.name == *named || member.id.to_string() == *named;
    if let Some(unknown) = gone.iter().find(|named| !plan.members.iter().any(|member| is(member, named))) {
        let names: Vec<&str> = by_name(plan).into_iter().map(|member| member.name.as_str()).collect();
        return Err(Failure::Refused(format!(
            "there is no member `{unknown}`; the members are {}. Nothing was changed.",
            names.join(", ")
        )));
    }
    let stays = |member: &&PlannedMember| !gone.iter().any(|named| is(member, named));
    let staying: Vec<MemberSpec> = staying(plan).filter(stays).map(PlannedMember::spec).collect();
    if staying.is_empty() {
        return Err(Failure::Refused("nobody would stay to hold the data. Nothing was changed.".to_owned()));
    }
    Ok(staying)
}

/// States who the members should be, from who they are; begins again when that has changed meanwhile, and when it is not
/// known whether the change was made: if it was, there is nothing left to change.
async fn state(
    client: &Client,
    change: &Change,
    wanted: impl Fn(&Plan) -> Result<Vec<MemberSpec>, Failure>,
) -> Result<(), Failure> {
    let admin = admin(client, change).await?;
    let deadline = Instant::now() + change.connect.timeout;
    let (plan, changed) = loop {
        let plan = admin.plan().await?;
        let members = Members { epoch: Some(plan.epoch), members: wanted(&plan)? };
        let error = match admin.put_members(&members).await {
            Ok(changed) => break (plan, changed),
            Err(error) => error,
        };
        let again = matches!(&error, Error::OutcomeUnknown { .. }) || passes(&error, &["map-changed", IN_PROGRESS]);
        if !again || Instant::now() >= deadline {
            return Err(refused(error));
        }
        sleep(MOMENT).await;
    };
    let after = if changed.joined.is_empty() { plan } else { admin.plan().await.unwrap_or(plan) };
    tell(change, &json!(changed), &told(&changed, &after))?;
    wait(admin, change, changed.epoch).await
}

/// What a change comes to, in words.
fn told(changed: &Changed, plan: &Plan) -> String {
    let name = |id: &MemberId| name_of(plan, *id);
    let lists = [("joining", &changed.joined), ("leaving", &changed.leaving), ("updated", &changed.updated)];
    let lists = lists.into_iter().filter(|(_, ids)| !ids.is_empty());
    let lists: Vec<String> =
        lists.map(|(what, ids)| format!("{what}: {}", ids.iter().map(name).collect::<Vec<_>>().join(", "))).collect();
    if lists.is_empty() {
        return format!("nothing to change (epoch {})", changed.epoch);
    }
    format!("{} (epoch {})", lists.join("; "), changed.epoch)
}

/// Whether nothing was changed for one of these reasons, which pass by themselves.
fn passes(error: &Error, kinds: &[&str]) -> bool {
    matches!(error, Error::Conflict(problem) if kinds.contains(&problem.kind()))
}

/// A change of one member after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Drain,
    Undrain,
    Remove,
}

async fn each(named: &args::Named, what: What) -> Result<(), Failure> {
    let client = named.change.connect.client()?;
    let admin = admin(&client, &named.change).await?;
    let mut newest = 0;
    let mut done: Vec<&str> = Vec::new();
    for member in &named.members {
        let deadline = Instant::now() + named.change.connect.timeout;
        let changed = loop {
            let changed = match what {
                What::Drain => admin.drain(member).await,
                What::Undrain => admin.undrain(member).await,
                What::Remove => admin.remove(member).await,
            };
            match changed {
                Err(error) if passes(&error, &[IN_PROGRESS]) && Instant::now() < deadline => sleep(MOMENT).await,
                changed => break changed,
            }
        };
        let word = match what {
            What::Drain => "draining",
            What::Undrain => "active",
            What::Remove => "removed",
        };
        let epoch = changed.map_err(|error| after(&done, word, refused(error)))?;
        done.push(member);
        let json = json!({ "member": member, "state": word, "epoch": epoch });
        tell(&named.change, &json, &format!("{member}: {word} (epoch {epoch})"))?;
        newest = newest.max(epoch);
    }
    wait(admin, &named.change, newest).await
}

/// A failure that came after others had been changed: each is a change of its own.
fn after(done: &[&str], word: &str, failure: Failure) -> Failure {
    match failure {
        Failure::Refused(told) if !done.is_empty() => {
            Failure::Refused(format!("{told}\n  That is of this member alone: {} before it: {word}.", done.join(", ")))
        }
        failure => failure,
    }
}

async fn admin(client: &Client, change: &Change) -> Result<Admin, Failure> {
    Ok(client.admin().await?.with_fence(change.operator_fence))
}

/// Says what was done: to a program on stdout, to a person on stderr.
fn tell(change: &Change, json: &Value, words: &str) -> Result<(), Failure> {
    match change.output {
        Format::Json => writeln!(io::stdout().lock(), "{json}")?,
        Format::Text => eprintln!("{words}"),
    }
    Ok(())
}

async fn wait(admin: Admin, change: &Change, epoch: u64) -> Result<(), Failure> {
    if change.wait {
        let began = Instant::now();
        let plan = Follow::new(admin, epoch).wait().await?;
        let took: Duration = began.elapsed();
        if change.output == Format::Text || io::stderr().is_terminal() {
            eprintln!("settled after {:.1} s (epoch {})", took.as_secs_f64(), plan.epoch);
        }
    }
    Ok(())
}

/// How a change of the members failed: all that the store tells of it, and what to do.
pub(crate) fn refused(error: Error) -> Failure {
    match &error {
        Error::Conflict(problem) | Error::Refused(problem) => Failure::Refused(explained(problem)),
        Error::OutcomeUnknown { .. } => Failure::OutcomeUnknown(format!(
            "{error}\n  The change may have been made: `annulus members` tells. It is safe to give the command again: what is \
             so already stays so."
        )),
        _ => error.into(),
    }
}

fn explained(problem: &Problem) -> String {
    let mut text = format!("refused: {problem}");
    if let Some(partitions) = problem.other.get("partitions").and_then(Value::as_array) {
        let listed: Vec<String> = partitions.iter().take(20).map(ToString::to_string).collect();
        let more = if partitions.len() > listed.len() {
            format!(" and {} more", partitions.len() - listed.len())
        } else {
            String::new()
        };
        text.push_str(&format!("\n  Partitions: {}{more}", listed.join(", ")));
    }
    let highest = problem.other.get("highest").map(ToString::to_string).unwrap_or_default();
    let hint = match problem.kind() {
        "stale-fence" => format!(
            "Another operator has taken over with fence {highest}; --operator-fence takes that or a higher one."
        ),
        "member-holds-replicas" => "Without --now its replicas move away first, and then it is removed.".to_owned(),
        "too-few-members" => "Add members first.".to_owned(),
        "quorum-at-risk" => "Bring all members back first: `annulus status` shows who is missing.".to_owned(),
        IN_PROGRESS => "Try again in a moment.".to_owned(),
        "map-changed" => "Somebody else changes the members too; try again.".to_owned(),
        "unknown-member" => "`annulus members` lists them.".to_owned(),
        _ => return text + "\n  Nothing was changed.",
    };
    text + "\n  Nothing was changed. " + &hint
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = "00010203-0405-0607-0809-0a0b0c0d0e0f";

    fn plan() -> Plan {
        let member = |number: u32, state: &str| {
            json!({"id": format!("{number:016x}"), "name": format!("node-{number}"), "zone": "", "weight": 100 + number,
                   "state": state, "replicas": 64, "leads": 32, "epoch": 13, "heard_ms": null, "client_address": "h:1",
                   "peer_address": "h:2", "admin_address": "h:3"})
        };
        let members = [member(10, "active"), member(1, "draining"), member(2, "leaving"), member(3, "active")];
        serde_json::from_value(json!({
            "epoch": 13, "settled": false, "moves_left": 0, "moves_under_way": 0, "bytes_left": 0, "bytes_per_second": 0,
            "seconds_left": null, "moves": [], "members": members,
        }))
        .unwrap()
    }

    fn status(change: impl FnOnce(&mut Value)) -> Status {
        let mut status = json!({
            "id": "000000000000000b", "name": "node-3", "cluster": null, "zone": "a", "weight": 200,
            "client_address": "n:1", "peer_address": "n:2", "admin_address": "n:3",
        });
        change(&mut status);
        serde_json::from_value(status).unwrap()
    }

    fn names(members: &[MemberSpec]) -> Vec<&str> {
        members.iter().map(|member| member.name.as_str()).collect()
    }

    #[test]
    fn members_are_listed_by_name_with_what_they_hold_and_when_they_were_heard() {
        let lines = table(&plan());
        let words: Vec<&str> = lines[1].split_whitespace().collect();
        let expected = ["node-1", "0000000000000001", "-", "101", "draining", "64", "32", "never", "h:1", "h:3", "h:2"];
        assert_eq!(words, expected);
        assert!(lines[4].starts_with("node-10"), "{lines:?}");
        assert_eq!(
            (heard(Some(7)).as_str(), heard(Some(61_000)).as_str(), heard(Some(200_000)).as_str()),
            ("7 ms", "61 s", "3 min")
        );
    }

    #[test]
    fn an_added_node_replaces_the_one_of_its_name_and_one_that_is_leaving_goes_on_leaving() {
        let cluster = CLUSTER.parse().unwrap();
        let new = spec("n:3", status(|_| {}), cluster, None).unwrap();
        assert_eq!((new.weight, new.zone.as_str(), new.peer_address.as_str()), (200, "a", "n:2"));
        let members = with(&plan(), &[new]);
        assert_eq!(names(&members), ["node-10", "node-1", "node-3"]);
        assert_eq!(members[2].id, "000000000000000b");
        assert_eq!(spec("n:3", status(|_| {}), cluster, Some(300)).unwrap().weight, 300);
        let bare = status(|status| drop(status.as_object_mut().unwrap().remove("weight")));
        assert_eq!(spec("n:3", bare, cluster, None).unwrap().weight, 100);
    }

    #[test]
    fn a_node_with_the_name_of_a_member_that_stays_is_told_apart_from_that_one() {
        let new = spec("n:3", status(|_| {}), CLUSTER.parse().unwrap(), None).unwrap();
        let (plan, new) = (plan(), [new]);
        let (known, new) = namesakes(&plan, &new).next().unwrap();
        let text = taken(known, new);
        assert!(text.contains(&known.id.to_string()) && text.contains("000000000000000b"), "{text}");
        let told = after(&["node-1"], "draining", Failure::Refused("refused".to_owned())).to_string();
        assert!(told.contains("node-1 before it: draining"), "{told}");
    }

    #[test]
    fn a_node_of_another_cluster_is_refused_and_both_are_named() {
        let other = "ffffffff-0405-0607-0809-0a0b0c0d0e0f";
        let status = |cluster: &'static str| status(|status| status["cluster"] = json!(cluster));
        assert!(spec("n:3", status(CLUSTER), CLUSTER.parse().unwrap(), None).is_ok());
        let text = spec("n:3", status(other), CLUSTER.parse().unwrap(), None).unwrap_err().to_string();
        assert!(text.contains(other) && text.contains(CLUSTER) && text.contains("n:3"), "{text}");
    }

    #[test]
    fn members_leave_by_name_or_id_but_no_stranger_and_not_all_of_them() {
        assert_eq!(names(&without(&plan(), &["node-3".into()]).unwrap()), ["node-10", "node-1"]);
        assert_eq!(
            names(&without(&plan(), &["000000000000000a".into(), "node-2".into()]).unwrap()),
            ["node-1", "node-3"]
        );
        let text = without(&plan(), &["node-4".into()]).unwrap_err().to_string();
        assert!(text.contains("`node-4`") && text.contains("node-1, node-2, node-3, node-10"), "{text}");
        let all = ["node-1", "node-2", "node-3", "node-10"].map(str::to_owned);
        assert!(without(&plan(), &all).unwrap_err().to_string().contains("nobody would stay"));
    }

    #[test]
    fn a_refusal_tells_the_partitions_and_what_to_do() {
        let problem = |kind: &str, more: Value| {
            let mut problem = json!({"type": format!("https://annulus.dev/problems/{kind}"), "detail": "no"});
            problem.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            explained(&serde_json::from_value(problem).unwrap())
        };
        let text = problem("member-holds-replicas", json!({"partitions": (0..30).collect::<Vec<_>>()}));
        assert!(text.contains("0, 1, 2") && text.contains("19 and 10 more") && text.contains("--now"), "{text}");
        assert!(problem("stale-fence", json!({"given": 1, "highest": 7})).contains("fence 7"));
        assert!(problem("something-new", json!({})).ends_with("Nothing was changed."));
    }

    #[test]
    fn what_was_changed_is_told_by_name() {
        let id = |number| MemberId::new(number).unwrap();
        let changed = Changed { epoch: 14, joined: vec![id(3), id(99)], leaving: vec![id(1)], updated: Vec::new() };
        assert_eq!(told(&changed, &plan()), "joining: node-3, 0000000000000063; leaving: node-1 (epoch 14)");
        let nothing = Changed { epoch: 13, joined: Vec::new(), leaving: Vec::new(), updated: Vec::new() };
        assert_eq!(told(&nothing, &plan()), "nothing to change (epoch 13)");
    }
}
