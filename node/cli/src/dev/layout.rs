//! Where each member of a dev store listens and keeps its things. Pure arithmetic, but for asking whether ports are free.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::exit::Failure;

/// How far the admin ports lie above the client ports.
const ADMIN_OFFSET: u16 = 100;
/// How far the peer ports lie above the client ports.
const PEER_OFFSET: u16 = 200;
/// How long members of a `dev` that was killed may still hold their ports.
const PORTS_PATIENCE: Duration = Duration::from_secs(5);

/// A dev store as its flags make it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    /// The first member's client port.
    pub(super) client_port: u16,
    /// The members, in order.
    pub(super) members: Vec<Place>,
}

/// Where one member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) name: String,
    pub(super) client_address: String,
    pub(super) admin_address: String,
    pub(super) peer_address: String,
    /// Its volume.
    pub(super) data: PathBuf,
    /// What it writes to stdout and stderr.
    pub(super) log: PathBuf,
}

impl Layout {
    /// The layout of this many members from this client port on.
    pub(super) fn new(root: &Path, members: u16, client_port: u16) -> Self {
        let place = |number: u16| {
            let name = format!("node-{}", number + 1);
            let address = |offset: u16| format!("127.0.0.1:{}", client_port + offset + number);
            let folder = root.join(&name);
            Place {
                client_address: address(0),
                admin_address: address(ADMIN_OFFSET),
                peer_address: address(PEER_OFFSET),
                data: folder.join("data"),
                log: folder.join("log"),
                name,
            }
        };
        Self { client_port, members: (0..members).map(place).collect() }
    }

    /// Copies of each partition: three, or as many as there are members.
    pub(super) fn replication_factor(&self) -> u32 {
        u32::try_from(self.members.len().min(3)).unwrap_or(3)
    }

    /// Fails when a port is in use. With `patient` it gives the members of a killed `dev` the time to end.
    pub(super) async fn wait_for_ports(&self, patient: bool) -> Result<(), Failure> {
        let until = Instant::now() + if patient { PORTS_PATIENCE } else { Duration::ZERO };
        loop {
            match self.check_ports() {
                Err(_) if Instant::now() < until => tokio::time::sleep(Duration::from_millis(20)).await,
                checked => return checked,
            }
        }
    }

    fn check_ports(&self) -> Result<(), Failure> {
        for member in &self.members {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_lie_a_hundred_apart() {
        let layout = Layout::new(Path::new("/d"), 3, 7070);
        let last = &layout.members[2];
        assert_eq!((last.name.as_str(), last.client_address.as_str()), ("node-3", "127.0.0.1:7072"));
        assert_eq!((last.admin_address.as_str(), last.peer_address.as_str()), ("127.0.0.1:7172", "127.0.0.1:7272"));
        assert_eq!(last.data, Path::new("/d/node-3/data"));
        assert_eq!(layout.replication_factor(), 3);
        assert_eq!(Layout::new(Path::new("/d"), 1, 7070).replication_factor(), 1);
    }

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let layout = Layout::new(Path::new("/d"), 1, port.min(65_000));
        if layout.client_port == port {
            let text = layout.wait_for_ports(false).await.unwrap_err().to_string();
            assert!(text.contains(&format!("127.0.0.1:{port}, the client port of node-1")), "{text}");
        }
    }
}
