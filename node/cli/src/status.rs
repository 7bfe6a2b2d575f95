//! `annulus status`: whether the store can be written to, and how each member is.

use std::io::{self, BufWriter, Write};

use annulus_client::node::Nodes;
use annulus_client::{Ring, state_text};
use serde_json::json;
use tokio::task::JoinSet;

use crate::exit::Failure;
use crate::output::{self, Format};
use crate::{args, ring};

/// How a member answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Health {
    alive: bool,
    ready: bool,
}

/// Shows how the store is.
pub(crate) async fn run(arguments: args::Status) -> Result<(), Failure> {
    let client = arguments.connect.client()?;
    let ring = client.ring().await?;
    let health = ask(&client.nodes(), &ring).await;
    let leaderless = ring.assignments().iter().filter(|assignment| assignment.leader.is_none()).count();
    let mut out = BufWriter::new(io::stdout().lock());
    match arguments.output {
        Format::Json => write_json(&mut out, &ring, &health, leaderless)?,
        Format::Text => write_text(&mut out, &ring, &health, leaderless)?,
    }
    out.flush()?;
    match leaderless {
        0 => Ok(()),
        1 => Err(Failure::Unavailable("1 partition has no leader: keys there can't be written now".into())),
        n => Err(Failure::Unavailable(format!("{n} partitions have no leader: keys there can't be written now"))),
    }
}

/// Asks all members at once, and lists the answers by name; one that does not answer is not alive.
async fn ask(nodes: &Nodes, ring: &Ring) -> Vec<Health> {
    let mut asked = JoinSet::new();
    for (place, member) in ring::by_name(ring).into_iter().enumerate() {
        let (nodes, address) = (nodes.clone(), member.client_address.clone());
        asked.spawn(async move {
            let alive = nodes.healthy(&address).await.unwrap_or(false);
            let ready = alive && nodes.ready(&address).await.unwrap_or(false);
            (place, Health { alive, ready })
        });
    }
    let mut health = vec![Health { alive: false, ready: false }; ring.members.len()];
    while let Some(answered) = asked.join_next().await {
        if let Ok((place, answer)) = answered {
            health[place] = answer;
        }
    }
    health
}

fn write_text(out: &mut dyn Write, ring: &Ring, health: &[Health], leaderless: usize) -> io::Result<()> {
    let partitions = ring.partitions();
    let led = partitions as usize - leaderless;
    writeln!(out, "cluster {}, epoch {}, {led} of {partitions} partitions led", ring.cluster, ring.epoch)?;
    let yes = |is: bool| if is { "yes" } else { "NO" }.to_owned();
    let rows = ring::by_name(ring).into_iter().zip(health).map(|(member, health)| {
        let leads = ring::led(ring, member).to_string();
        let state = state_text(member.state).to_owned();
        vec![member.name.clone(), state, yes(health.alive), yes(health.ready), leads, member.client_address.clone()]
    });
    let head = ["member", "state", "alive", "ready", "leads", "address"];
    for line in output::table(&head, &[4], &rows.collect::<Vec<_>>()) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

fn write_json(out: &mut dyn Write, ring: &Ring, health: &[Health], leaderless: usize) -> io::Result<()> {
    let members = ring::by_name(ring).into_iter().zip(health).map(|(member, health)| {
        json!({
            "id": member.id.to_string(), "name": member.name, "zone": member.zone, "state": state_text(member.state),
            "alive": health.alive, "ready": health.ready, "leads": ring::led(ring, member),
            "client_address": member.client_address,
        })
    });
    let status = json!({
        "cluster": ring.cluster.to_string(), "epoch": ring.epoch, "partitions": ring.partitions(),
        "leaderless": leaderless, "members": members.collect::<Vec<_>>(),
    });
    writeln!(out, "{status}")
}
