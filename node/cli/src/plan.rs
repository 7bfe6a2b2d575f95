//! `annulus plan`: which replicas still move, from where to where, how far they are, and what they wait for.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};

use annulus_client::admin::{Plan, PlannedMove};
use annulus_client::{Client, MemberId, state_text};
use indicatif::BinaryBytes;
use tokio::time::sleep;

use crate::exit::Failure;
use crate::output::{self, Format};
use crate::progress::{LOOK, Live};
use crate::{args, ring};

/// Moves that are listed for people; a program gets all that the store tells.
pub(crate) const LISTED: usize = 20;
/// Moves that are listed below the picture.
const LISTED_BELOW: usize = 6;

/// Shows the plan.
pub(crate) async fn run(arguments: args::Plan) -> Result<(), Failure> {
    let client = arguments.connect.client()?;
    if arguments.watch {
        return watch(&arguments, &client).await;
    }
    let plan = client.admin().await?.plan().await?;
    let mut out = BufWriter::new(io::stdout().lock());
    match arguments.output {
        Format::Json => write_json(&mut out, &plan)?,
        Format::Text => {
            for line in text(&plan, LISTED) {
                writeln!(out, "{line}")?;
            }
        }
    }
    Ok(out.flush()?)
}

/// Shows the plan until nothing is left of it: with the ring on a terminal, else a line each time it has changed.
async fn watch(arguments: &args::Plan, client: &Client) -> Result<(), Failure> {
    let admin = client.admin().await?;
    let live = Live::new();
    let seen = live.seen() && arguments.output == Format::Text;
    let mut last = None;
    loop {
        let plan = admin.plan().await?;
        if seen {
            let mut lines = ring::text(&*client.fresh_ring().await?, true, output::colour());
            lines.push(String::new());
            lines.extend(text(&plan, LISTED_BELOW));
            live.show(&lines);
        } else if last.as_ref() != Some(&plan) {
            let mut out = io::stdout().lock();
            match arguments.output {
                Format::Json => write_json(&mut out, &plan)?,
                Format::Text => writeln!(out, "{}", summary(&plan))?,
            }
            out.flush()?;
        }
        if plan.settled {
            live.end();
            return Ok(());
        }
        last = Some(plan);
        sleep(LOOK).await;
    }
}

fn write_json(out: &mut dyn Write, plan: &Plan) -> io::Result<()> {
    serde_json::to_writer(&mut *out, plan)?;
    writeln!(out)
}

/// The plan as lines: what is left in all, the first moves, and what they wait for.
pub(crate) fn text(plan: &Plan, listed: usize) -> Vec<String> {
    let mut lines = vec![summary(plan)];
    if plan.moves.is_empty() {
        return lines;
    }
    let name = |id: Option<MemberId>| id.map_or_else(|| "-".to_owned(), |id| name_of(plan, id));
    let rows = plan.moves.iter().take(listed).map(|moving| {
        vec![
            moving.partition.map_or_else(|| "map".to_owned(), |partition| partition.to_string()),
            name(moving.from),
            name(moving.to),
            moving.step.name().to_owned(),
            copied(moving),
            moving.gate.as_ref().map(|gate| gate.name.clone()).unwrap_or_default(),
        ]
    });
    let head = ["partition", "from", "to", "step", "copied", "waits for"];
    lines.push(String::new());
    lines.extend(output::table(&head, &[0], &rows.collect::<Vec<_>>()));
    let hidden = plan.moves_left.saturating_sub(plan.moves.len().min(listed) as u64);
    if hidden > 0 {
        lines.push(format!("… and {hidden} more"));
    }
    let gates = gates(plan);
    if !gates.is_empty() {
        lines.push(String::new());
        lines.extend(gates);
    }
    lines
}

/// How much of a replica has arrived.
fn copied(moving: &PlannedMove) -> String {
    match (moving.bytes_sent, moving.bytes) {
        (0, 0) => "-".to_owned(),
        (sent, bytes) => format!("{} of {}", BinaryBytes(sent), BinaryBytes(bytes)),
    }
}

/// What moves wait for, in words, each with how many of those that are listed do.
fn gates(plan: &Plan) -> Vec<String> {
    let mut counts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for gate in plan.moves.iter().filter_map(|moving| moving.gate.as_ref()) {
        *counts.entry((&gate.name, &gate.message)).or_default() += 1;
    }
    let words = |((name, message), count): ((&str, &str), u64)| {
        let moves = if count == 1 { "1 move waits".to_owned() } else { format!("{count} moves wait") };
        format!("{moves}: {}", if message.is_empty() { name } else { message })
    };
    counts.into_iter().map(words).collect()
}

/// The plan in a line.
pub(crate) fn summary(plan: &Plan) -> String {
    if plan.settled {
        return format!("settled: everything is where it should be (epoch {})", plan.epoch);
    }
    let moves = match plan.moves_left {
        1 => "1 move left".to_owned(),
        moves => format!("{moves} moves left"),
    };
    format!("{moves}, {} under way: {} (epoch {})", plan.moves_under_way, outlook(plan), plan.epoch)
}

/// What is still to come, in words: bytes and time, or what everything waits for.
pub(crate) fn outlook(plan: &Plan) -> String {
    if plan.settled {
        return "settled".to_owned();
    }
    if plan.moves_left == 0 {
        let unsettled =
            |member: &&annulus_client::admin::PlannedMember| !matches!(state_text(member.state), "active" | "draining");
        let waiting = plan.members.iter().filter(unsettled);
        let waiting: Vec<String> =
            waiting.map(|member| format!("{} is {}", name_of(plan, member.id), state_text(member.state))).collect();
        return if waiting.is_empty() { "the last step".to_owned() } else { waiting.join(", ") };
    }
    if plan.moves_under_way == 0
        && let Some(gate) = gates(plan).into_iter().next()
    {
        return gate;
    }
    let rate = match plan.bytes_per_second {
        0 => String::new(),
        rate => format!(" at {}/s", BinaryBytes(rate)),
    };
    let time = plan.seconds_left.map(|seconds| format!(", about {} left", seconds_text(seconds)));
    format!("{} to copy{rate}{}", BinaryBytes(plan.bytes_left), time.unwrap_or_default())
}

fn seconds_text(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

/// The name of a member, or its id when it is no member any more; both while another has the same name, whose place it
/// takes.
pub(crate) fn name_of(plan: &Plan, id: MemberId) -> String {
    let Some(member) = plan.members.iter().find(|member| member.id == id) else { return id.to_string() };
    match plan.members.iter().filter(|other| other.name == member.name).count() {
        1 => member.name.clone(),
        _ => format!("{} ({id})", member.name),
    }
}

/// Whether the second plan is closer to its end than the first, in anything.
pub(crate) fn is_further(before: &Plan, now: &Plan) -> bool {
    let steps = |plan: &Plan| {
        let moves = plan.moves.iter().map(|moving| (moving.group, moving.step.name(), moving.bytes_sent));
        moves.collect::<Vec<_>>()
    };
    let states = |plan: &Plan| plan.members.iter().map(|member| (member.id, member.state)).collect::<Vec<_>>();
    before.epoch != now.epoch
        || before.moves_left != now.moves_left
        || before.bytes_left > now.bytes_left
        || steps(before) != steps(now)
        || states(before) != states(now)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plan(change: impl FnOnce(&mut serde_json::Value)) -> Plan {
        let member = |number: u32, state: &str| {
            json!({"id": format!("{number:016x}"), "name": format!("node-{number}"), "zone": "", "weight": 100,
                   "state": state, "replicas": 1, "leads": 1, "epoch": 13, "heard_ms": 5, "client_address": "h:1",
                   "peer_address": "h:2", "admin_address": "h:3"})
        };
        let gate = json!({"name": "move-slots", "member": null, "message": "4 moves are under way already"});
        let mut plan = json!({
            "epoch": 13, "settled": false, "moves_left": 30, "moves_under_way": 1, "bytes_left": 2048,
            "bytes_per_second": 1024, "seconds_left": 2,
            "moves": [
                {"group": 7, "partition": 6, "from": "0000000000000001", "to": "0000000000000002", "step": "copying",
                 "gate": null, "bytes": 1024, "bytes_sent": 512},
                {"group": 0, "partition": null, "from": null, "to": "0000000000000009", "step": "waiting", "gate": gate,
                 "bytes": 0, "bytes_sent": 0},
                {"group": 9, "partition": 8, "from": "0000000000000001", "to": null, "step": "waiting", "gate": gate,
                 "bytes": 0, "bytes_sent": 0},
            ],
            "members": [member(1, "leaving"), member(2, "joining")],
        });
        change(&mut plan);
        serde_json::from_value(plan).unwrap()
    }

    #[test]
    fn a_plan_names_members_bytes_time_and_what_is_waited_for() {
        let lines = text(&plan(|_| {}), 2);
        assert_eq!(lines[0], "30 moves left, 1 under way: 2.00 KiB to copy at 1.00 KiB/s, about 2 s left (epoch 13)");
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(&lines[3]), ["6", "node-1", "node-2", "copying", "512", "B", "of", "1.00", "KiB"]);
        assert_eq!(words(&lines[4]), ["map", "-", "0000000000000009", "waiting", "-", "move-slots"]);
        assert_eq!(lines[5], "… and 28 more");
        assert_eq!(lines.last().unwrap(), "2 moves wait: 4 moves are under way already");
    }

    #[test]
    fn a_member_that_takes_the_place_of_its_namesake_is_told_from_it() {
        let replaced = plan(|plan| plan["members"][1]["name"] = json!("node-1"));
        let lines = text(&replaced, 1);
        assert!(lines[3].contains("node-1 (0000000000000001)  node-1 (0000000000000002)"), "{}", lines[3]);
    }

    #[test]
    fn a_plan_on_which_nothing_moves_says_why() {
        let gated = plan(|plan| plan["moves_under_way"] = json!(0));
        assert_eq!(outlook(&gated), "2 moves wait: 4 moves are under way already");
        let last = plan(|plan| (plan["moves_left"], plan["moves"]) = (json!(0), json!([])));
        assert_eq!(outlook(&last), "node-1 is leaving, node-2 is joining");
        let settled = plan(|plan| (plan["settled"], plan["moves"]) = (json!(true), json!([])));
        assert_eq!(text(&settled, 9), ["settled: everything is where it should be (epoch 13)"]);
    }

    #[test]
    fn any_step_counts_as_progress_and_standing_still_does_not() {
        let before = plan(|_| {});
        assert!(!is_further(&before, &before));
        assert!(!is_further(&before, &plan(|plan| plan["members"][0]["heard_ms"] = json!(900))));
        assert!(!is_further(&before, &plan(|plan| plan["seconds_left"] = json!(3))));
        assert!(is_further(&before, &plan(|plan| plan["moves"][0]["bytes_sent"] = json!(600))));
        assert!(is_further(&before, &plan(|plan| plan["moves"][0]["step"] = json!("switching"))));
        assert!(is_further(&before, &plan(|plan| plan["members"][1]["state"] = json!("active"))));
        assert!(is_further(&before, &plan(|plan| plan["epoch"] = json!(14))));
    }
}
