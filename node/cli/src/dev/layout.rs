//! Where each member of a dev store listens and keeps its things. Pure arithmetic, but for asking whether ports are free.

use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::exit::Failure;

/// How far the admin ports lie above the client ports.
const ADMIN_OFFSET: u16 = 100;
/// How far the peer ports lie above the client ports.
const PEER_OFFSET: u16 = 200;
/// Partitions of a dev store that is told nothing else.
const PARTITIONS: u32 = 128;
/// How long members of a `dev` that was killed may still hold their ports.
const PORTS_PATIENCE: Duration = Duration::from_secs(5);

/// What decides where everything of a dev store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    /// The store's folder.
    pub(super) root: PathBuf,
    /// The first member's client port.
    pub(super) client_port: u16,
    /// The zones that members run in, in turn; empty when zones are not told apart.
    pub(super) zones: Vec<String>,
}

/// Where one member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Counted from 1.
    pub(super) number: u16,
    pub(super) name: String,
    pub(super) zone: String,
    pub(super) client_address: String,
    pub(super) admin_address: String,
    pub(super) peer_address: String,
    /// Its volume.
    pub(super) data: PathBuf,
    /// What it writes to stdout and stderr.
    pub(super) log: PathBuf,
}

impl Layout {
    /// Where the member with this number is.
    pub(super) fn place(&self, number: u16) -> Place {
        let name = format!("node-{number}");
        let address = |offset: u16| format!("127.0.0.1:{}", self.client_port + offset + number - 1);
        let folder = self.root.join(&name);
        let turn = usize::from(number - 1).checked_rem(self.zones.len());
        Place {
            number,
            zone: turn.map(|turn| self.zones[turn].clone()).unwrap_or_default(),
            client_address: address(0),
            admin_address: address(ADMIN_OFFSET),
            peer_address: address(PEER_OFFSET),
            data: folder.join("data"),
            log: folder.join("log"),
            name,
        }
    }
}

/// The number of the member that has this name, if it is one that a `dev` gives.
pub(super) fn number_of(name: &str) -> Option<u16> {
    let number = name.strip_prefix("node-")?.parse().ok()?;
    (number > 0 && name == format!("node-{number}")).then_some(number)
}

/// What a store is made with, and keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) partitions: u32,
    /// Copies of each partition.
    pub(super) replication_factor: u32,
}

impl Shape {
    /// That of a new store of so many members: three copies, or as many as there are members.
    pub(super) fn of(members: u16) -> Self {
        Self { partitions: PARTITIONS, replication_factor: u32::from(members.min(3)) }
    }
}

/// Fails when a port is in use. With `patient` it gives the members of a killed `dev` the time to end.
pub(super) async fn wait_for_ports(places: &[Place], patient: bool) -> Result<(), Failure> {
    let until = Instant::now() + if patient { PORTS_PATIENCE } else { Duration::ZERO };
    loop {
        match check_ports(places) {
            Err(_) if Instant::now() < until => tokio::time::sleep(Duration::from_millis(20)).await,
            checked => return checked,
        }
    }
}

/// Fails when a port is in use.
pub(super) fn check_ports(places: &[Place]) -> Result<(), Failure> {
    for member in places {
        let addresses =
            [("client", &member.client_address), ("admin", &member.admin_address), ("peer", &member.peer_address)];
        for (what, address) in addresses {
            TcpListener::bind(address).map_err(|error| {
                Failure::Refused(format!(
                    "{address}, the {what} port of {}, can't be had: {error}.\n  End whoever listens there, or choose \
                     other ports for a new store with --client-port and --data.",
                    member.name
                ))
            })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn layout(client_port: u16, zones: &[&str]) -> Layout {
        let zones = zones.iter().map(|zone| (*zone).to_owned()).collect();
        Layout { root: "/d".into(), client_port, zones }
    }

    #[test]
    fn ports_lie_a_hundred_apart() {
        let third = layout(7070, &[]).place(3);
        assert_eq!((third.name.as_str(), third.client_address.as_str()), ("node-3", "127.0.0.1:7072"));
        assert_eq!((third.admin_address.as_str(), third.peer_address.as_str()), ("127.0.0.1:7172", "127.0.0.1:7272"));
        assert_eq!(third.data, Path::new("/d/node-3/data"));
        assert_eq!((Shape::of(5).replication_factor, Shape::of(1).replication_factor), (3, 1));
    }

    #[test]
    fn zones_are_taken_in_turn_whenever_a_member_comes() {
        let layout = layout(7070, &["a", "b", "c"]);
        let zones: Vec<String> = (1..=5).map(|number| layout.place(number).zone).collect();
        assert_eq!(zones, ["a", "b", "c", "a", "b"]);
    }

    #[test]
    fn only_names_that_a_dev_gives_have_a_number() {
        assert_eq!((number_of("node-1"), number_of("node-99")), (Some(1), Some(99)));
        for name in ["node-0", "node-01", "node-", "node-+1", "other-1", "node-1-a"] {
            assert_eq!(number_of(name), None, "{name}");
        }
    }

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        if port <= 65_000 {
            let text = wait_for_ports(&[layout(port, &[]).place(1)], false).await.unwrap_err().to_string();
            assert!(text.contains(&format!("127.0.0.1:{port}, the client port of node-1")), "{text}");
        }
    }
}
