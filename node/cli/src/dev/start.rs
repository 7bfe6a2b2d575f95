//! From processes that have just been started to a store that is ready.

use std::future::Future;
use std::time::Duration;

use annulus_client::node::{Bootstrap, MemberSpec, Nodes, Status};
use annulus_client::{Client, ClusterId, Error};
use rand::Rng;
use tokio::time::{Instant, sleep};

use super::folder::{Folder, Store};
use super::layout::{Layout, Place};
use crate::exit::Failure;

/// How often a member is asked that is not there yet.
const POLL: Duration = Duration::from_millis(10);
/// How long a start may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Partitions of a dev store.
const PARTITIONS: u32 = 128;

/// A start under way.
#[derive(Debug)]
pub(super) struct Start<'a> {
    layout: &'a Layout,
    folder: &'a Folder,
    nodes: Nodes,
    deadline: Instant,
}

impl<'a> Start<'a> {
    pub(super) fn new(layout: &'a Layout, folder: &'a Folder) -> Self {
        let client = Client::builder(layout.members.iter().map(|member| member.client_address.clone())).build();
        let nodes = client.expect("addresses that we have made ourselves").nodes();
        Self { layout, folder, nodes, deadline: Instant::now() + PATIENCE }
    }

    /// Waits until every member says who it is, and holds that against what is known of the store.
    pub(super) async fn identify(&self, store: Option<&Store>) -> Result<Vec<Status>, Failure> {
        let mut members = Vec::new();
        for (at, place) in self.layout.members.iter().enumerate() {
            let status = self.patiently(place, "answer at its admin port", || self.status(place)).await?;
            let expected = store.and_then(|store| store.bootstrap.members.get(at));
            self.check(place, &status, store.map(|store| store.bootstrap.cluster.as_str()), expected)?;
            members.push(status);
        }
        Ok(members)
    }

    /// Makes a store of the members, unless they are one already; returns when every one is ready.
    pub(super) async fn bootstrap(&self, store: Option<Store>, members: &[Status]) -> Result<(), Failure> {
        let store = match store {
            Some(store) => store,
            // Written down before it is sent: if we are killed in between, the next start sends the very same.
            None => self.folder.write_store(self.layout.client_port, self.compose(members))?,
        };
        // Sending it again, to one that has it, changes nothing; it also reaches those that an earlier, interrupted
        // bootstrap has not reached.
        if members.iter().any(|member| member.cluster.is_none()) {
            let first = &self.layout.members[0];
            self.patiently(first, "take the bootstrap", || self.send(first, &store.bootstrap)).await?;
        }
        for place in &self.layout.members {
            self.patiently(place, "become ready", || self.ready(place)).await?;
        }
        Ok(())
    }

    fn compose(&self, members: &[Status]) -> Bootstrap {
        let member = |(place, status): (&Place, &Status)| MemberSpec {
            id: status.id.to_string(),
            name: place.name.clone(),
            zone: String::new(),
            weight: 100,
            client_address: place.client_address.clone(),
            peer_address: place.peer_address.clone(),
            admin_address: place.admin_address.clone(),
        };
        Bootstrap {
            cluster: new_cluster().to_string(),
            partitions: PARTITIONS,
            replication_factor: self.layout.replication_factor(),
            members: self.layout.members.iter().zip(members).map(member).collect(),
        }
    }

    /// Refuses a member whose volume is not the one that the store was made with.
    fn check(
        &self,
        place: &Place,
        status: &Status,
        cluster: Option<&str>,
        expected: Option<&MemberSpec>,
    ) -> Result<(), Failure> {
        let data = place.data.display();
        if status.name != place.name {
            let (address, name) = (&place.admin_address, &status.name);
            return Err(Failure::Refused(format!("{address} answers as `{name}`: it is not our {}", place.name)));
        }
        if let Some(expected) = expected.filter(|expected| expected.id != status.id.to_string()) {
            return Err(Failure::Refused(format!(
                "the data of {} in `{data}` is member {}, but this store was made with member {}.\n  Bring its own data back, \
                 or make another store with another --data.",
                place.name, status.id, expected.id
            )));
        }
        let belongs = status.cluster.map(|cluster| cluster.to_string());
        match (belongs, cluster) {
            (Some(belongs), None) => Err(Failure::Refused(format!(
                "the data of {} in `{data}` belongs to cluster {belongs}, but `store.json` is missing in `{}`.\n  Bring it \
                 back, or make another store with another --data.",
                place.name,
                self.folder.root().display()
            ))),
            (Some(belongs), Some(cluster)) if belongs != cluster => Err(Failure::Refused(format!(
                "the data of {} in `{data}` belongs to cluster {belongs}, but the store here is cluster {cluster}.",
                place.name
            ))),
            _ => Ok(()),
        }
    }

    async fn status(&self, place: &Place) -> Result<Option<Status>, Error> {
        self.nodes.status(&place.admin_address).await.map(Some)
    }

    async fn send(&self, place: &Place, bootstrap: &Bootstrap) -> Result<Option<()>, Error> {
        self.nodes.bootstrap(&place.admin_address, bootstrap).await.map(Some)
    }

    async fn ready(&self, place: &Place) -> Result<Option<()>, Error> {
        Ok(self.nodes.ready(&place.client_address).await?.then_some(()))
    }

    /// Tries until it is there. What is not available may come; any other error is one to stay.
    async fn patiently<T, F: Future<Output = Result<Option<T>, Error>>>(
        &self,
        place: &Place,
        what: &str,
        attempt: impl Fn() -> F,
    ) -> Result<T, Failure> {
        loop {
            let reason = match attempt().await {
                Ok(Some(there)) => return Ok(there),
                Ok(None) => "not yet".to_owned(),
                Err(error @ Error::Unavailable { .. }) => error.to_string(),
                Err(error) => return Err(Failure::Refused(format!("{} did not {what}: {error}", place.name))),
            };
            if Instant::now() >= self.deadline {
                let (name, log) = (&place.name, place.log.display());
                let seconds = PATIENCE.as_secs();
                return Err(Failure::Unavailable(format!(
                    "{name} did not {what} within {seconds} s: {reason}. Its log is `{log}`"
                )));
            }
            sleep(POLL).await;
        }
    }
}

/// A new random cluster id, a UUID of version 4.
fn new_cluster() -> ClusterId {
    let mut bytes = [0; 16];
    rand::rng().fill_bytes(&mut bytes);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    ClusterId(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_cluster_id_is_a_random_uuid() {
        let text = new_cluster().to_string();
        assert_eq!(text.as_bytes()[14], b'4', "{text}");
        assert!(matches!(text.as_bytes()[19], b'8' | b'9' | b'a' | b'b'), "{text}");
        assert_ne!(new_cluster(), new_cluster());
    }
}
