//! From processes that have just been started to a store that is ready.

use std::future::Future;
use std::time::Duration;

use annulus_client::admin::{Admin, Plan};
use annulus_client::node::{Bootstrap, MemberSpec, Nodes, Status};
use annulus_client::{Client, ClusterId, Error};
use rand::Rng;
use tokio::time::{Instant, sleep};

use super::folder::{Folder, Store};
use super::layout::{Layout, Place, Shape};
use super::wish::spec;
use crate::exit::Failure;

/// How often a member is asked that is not there yet.
const POLL: Duration = Duration::from_millis(10);
/// How long a start may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a plan may take; who is not told it asks again.
const PLAN_DEADLINE: Duration = Duration::from_secs(2);

/// A start under way.
#[derive(Debug)]
pub(super) struct Start<'a> {
    layout: &'a Layout,
    folder: &'a Folder,
    /// Everybody who runs.
    places: &'a [Place],
    /// What a new store is made with.
    shape: Shape,
    nodes: Nodes,
    admin: Admin,
    deadline: Instant,
}

impl<'a> Start<'a> {
    pub(super) fn new(layout: &'a Layout, folder: &'a Folder, places: &'a [Place], shape: Shape) -> Self {
        let client = Client::builder(places.iter().map(|member| member.client_address.clone())).build();
        let client = client.expect("addresses that we have made ourselves");
        let admin = client.admin_at(places.iter().map(|member| member.admin_address.as_str()));
        let admin = admin.expect("addresses that we have made ourselves").with_deadline(PLAN_DEADLINE);
        Self { layout, folder, places, shape, nodes: client.nodes(), admin, deadline: Instant::now() + PATIENCE }
    }

    /// Waits until every process says who it is, and holds that against what is known of the store.
    pub(super) async fn identify(&self, store: Option<&Store>) -> Result<Vec<Status>, Failure> {
        let mut members = Vec::new();
        for place in self.places {
            let status = self.patiently(place, "answer at its admin port", || self.status(place)).await?;
            self.check_cluster(place, &status, store)?;
            members.push(status);
        }
        let Some(store) = store else { return Ok(members) };
        // An empty volume is somebody new, who can take the old one's place as long as others know the store.
        let orphaned = members.iter().all(|member| member.cluster.is_none());
        for (place, status) in self.places.iter().zip(&members) {
            let known = store.member(place.number).filter(|known| known.id != status.id.to_string());
            if let Some(known) = known.filter(|_| orphaned || status.cluster.is_some()) {
                return Err(Failure::Refused(format!(
                    "the data of {} in `{}` is member {}, but this store was made with member {}.\n  Bring its own data \
                     back, or make another store with another --data.",
                    place.name,
                    place.data.display(),
                    status.id,
                    known.id
                )));
            }
        }
        Ok(members)
    }

    /// Makes a store of the members.
    pub(super) async fn make(&self, members: &[Status]) -> Result<Store, Failure> {
        let store = Store::new(self.layout.client_port, self.layout.zones.clone(), self.compose(members));
        // Written down before it is sent: if we are killed in between, the next start sends the very same.
        self.folder.write_store(&store)?;
        self.bootstrap(&self.places[0], &store).await?;
        Ok(store)
    }

    /// Sends the bootstrap again if a member has not heard of it. To one that has, it changes nothing; it also reaches
    /// those that an earlier, interrupted bootstrap has not reached.
    pub(super) async fn bootstrap_again(&self, store: &Store, members: &[Status]) -> Result<(), Failure> {
        let first = |id: &str| store.bootstrap.members.iter().any(|member| member.id == id);
        let mut firsts = self.places.iter().zip(members).filter(|(_, status)| first(&status.id.to_string())).peekable();
        let Some((place, _)) = firsts.peek() else { return Ok(()) };
        let place = *place;
        let unchanged = store.leaving.is_empty() && store.members.iter().all(|member| first(&member.id));
        let unheard = firsts.any(|(_, status)| status.cluster.is_none());
        if unchanged && unheard { self.bootstrap(place, store).await } else { Ok(()) }
    }

    async fn bootstrap(&self, place: &Place, store: &Store) -> Result<(), Failure> {
        self.patiently(place, "take the bootstrap", || self.send(place, &store.bootstrap)).await
    }

    /// What the store has still to do; `None`: its members run a version that does not tell.
    pub(super) async fn plan(&self) -> Result<Option<Plan>, Failure> {
        let ask = async || match self.admin.plan().await {
            Ok(plan) => Ok(Some(Some(plan))),
            Err(Error::Refused(problem)) if problem.status == 404 => Ok(Some(None)),
            Err(error) => Err(error),
        };
        self.patiently(&self.places[0], "tell the plan", ask).await
    }

    /// Waits until all of these are ready. Tells what those said that are not in time, as long as any is.
    pub(super) async fn ready(&self, places: &[Place]) -> Result<Vec<Failure>, Failure> {
        let mut late = Vec::new();
        for place in places {
            match self.patiently(place, "become ready", || self.is_ready(place)).await {
                Ok(()) => {}
                Err(failure @ Failure::Unavailable(_)) => late.push(failure),
                Err(failure) => return Err(failure),
            }
        }
        if late.len() < places.len() || places.is_empty() { Ok(late) } else { Err(late.swap_remove(0)) }
    }

    fn compose(&self, members: &[Status]) -> Bootstrap {
        let member = |(place, status): (&Place, &Status)| -> MemberSpec { spec(place, status.id.to_string(), 100) };
        Bootstrap {
            cluster: new_cluster().to_string(),
            partitions: self.shape.partitions,
            replication_factor: self.shape.replication_factor,
            members: self.places.iter().zip(members).map(member).collect(),
        }
    }

    /// Refuses who is not the member that should listen there, or belongs to another store.
    fn check_cluster(&self, place: &Place, status: &Status, store: Option<&Store>) -> Result<(), Failure> {
        let data = place.data.display();
        if status.name != place.name {
            let (address, name) = (&place.admin_address, &status.name);
            return Err(Failure::Refused(format!("{address} answers as `{name}`: it is not our {}", place.name)));
        }
        let cluster = store.map(|store| store.bootstrap.cluster.as_str());
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

    async fn is_ready(&self, place: &Place) -> Result<Option<()>, Error> {
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
                Ok(None) => format!("http://{}/readyz says why", place.client_address),
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
