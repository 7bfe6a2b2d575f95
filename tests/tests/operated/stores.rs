//! The operator's way to the simulated store: what it asks is put on a line, and waits there until a member has answered or the
//! deadline has passed, both on the simulator's clock. How often what is asked again is as the client library has it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use annulus_client::ClusterId;
use annulus_client::admin::{Changed, Members};
use annulus_client::node::{Bootstrap, MemberSpec, Status};
use annulus_core::id::GroupId;
use annulus_core::lane::{Operation, Reply};
use annulus_core::map::{Command, Desired, Intent, Map, Member, MemberState, Refusal};
use annulus_core::partition::Consistency;
use annulus_operator::model::Told;
use annulus_operator::stores::{Error, NodeAddress, Stores};
use annulus_tests::simulator::admin::{AdminAnswer, AdminAsks};
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

const DEADLINE: Duration = Duration::from_secs(8);
const ATTEMPT: Duration = Duration::from_secs(2);
const ROUND_WAIT: Duration = Duration::from_millis(50);
const STATUS_WITHIN: Duration = Duration::from_secs(2);
const CHANGED_WITHIN: Duration = Duration::from_secs(10);

/// Something that is asked of a member.
pub struct Asked {
    /// `host:port` of its admin port.
    pub address: String,
    /// What.
    pub what: What,
    /// Who waits for the answer. Dropped: there is no way to the member.
    pub answer: oneshot::Sender<AdminAnswer>,
}

/// What can be asked.
pub enum What {
    /// Of the member itself.
    Member(AdminAsks),
    /// Of the map group, through the member.
    Map(Operation),
}

/// What the operator has asked and nobody has taken up yet.
#[derive(Default)]
pub struct Line(Mutex<VecDeque<Asked>>);

impl Line {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Asked>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next thing that was asked.
    pub fn take(&self) -> Option<Asked> {
        self.lock().pop_front()
    }

    async fn ask(&self, address: &str, what: What, within: Duration) -> Result<AdminAnswer, Error> {
        let (answer, answered) = oneshot::channel();
        self.lock().push_back(Asked { address: address.to_owned(), what, answer });
        match timeout(within, answered).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(Error::Unreachable(format!("{address}: there is no way there"))),
            Err(_) => Err(Error::Unreachable(format!("{address}: no answer in time"))),
        }
    }

    async fn status_of(&self, address: &str) -> Result<Status, Error> {
        match self.ask(address, What::Member(AdminAsks::Status), STATUS_WITHIN).await? {
            AdminAnswer::Status(status) => Ok(*status),
            other => unreachable!("asked how it is, it answers {other:?}"),
        }
    }

    /// The map that a member goes by, and who leads as far as it knows.
    async fn ring_of(&self, address: &str) -> Result<(Arc<Map>, Vec<Option<annulus_client::MemberId>>), Error> {
        match self.ask(address, What::Member(AdminAsks::Ring), STATUS_WITHIN).await? {
            AdminAnswer::Ring(Some(map), leaders) => Ok((map, leaders)),
            AdminAnswer::Ring(None, _) => Err(refused("not-bootstrapped", "it belongs to no store")),
            other => unreachable!("asked for the ring, it answers {other:?}"),
        }
    }

    /// Asks the map group through one after the other until it is answered. Returns who has passed the answer on, too.
    async fn insist(&self, at: &[NodeAddress], operation: &Operation) -> Result<(Reply, String), Error> {
        let began = Instant::now();
        let mut last = Error::Unreachable("there is nobody to ask".to_owned());
        loop {
            for node in at {
                let left = DEADLINE.saturating_sub(began.elapsed());
                if left.is_zero() {
                    return Err(last);
                }
                match self.ask(&node.admin, What::Map(operation.clone()), ATTEMPT.min(left)).await {
                    Ok(AdminAnswer::Reply(Reply::Refused(refusal))) => {
                        last = Error::Unreachable(format!("{}: {refusal:?}", node.admin));
                    }
                    Ok(AdminAnswer::Reply(Reply::OutcomeUnknown)) => {
                        last = Error::Unreachable(format!("{}: the leader of the map was lost", node.admin));
                    }
                    Ok(AdminAnswer::Reply(Reply::Changed(Err(refusal @ Refusal::ChangeInProgress)))) => {
                        last = refused("change-in-progress", &refusal.to_string());
                    }
                    Ok(AdminAnswer::Reply(reply)) => return Ok((reply, node.admin.clone())),
                    Ok(other) => unreachable!("the map group answers {other:?}"),
                    Err(error) => last = error,
                }
            }
            if began.elapsed() + ROUND_WAIT >= DEADLINE {
                return Err(last);
            }
            sleep(ROUND_WAIT).await;
        }
    }

    async fn change(&self, at: &[NodeAddress], intent: Intent) -> Result<Changed, Error> {
        match self.insist(at, &Operation::ChangeMap(intent)).await?.0 {
            Reply::Changed(Ok(changed)) => Ok(Changed {
                epoch: changed.epoch,
                joined: changed.joined,
                leaving: changed.leaving,
                updated: changed.updated,
            }),
            Reply::Changed(Err(refusal)) => {
                let is_stale = matches!(refusal, Refusal::StaleFence { .. });
                Err(refused(if is_stale { "stale-fence" } else { "refused" }, &refusal.to_string()))
            }
            other => unreachable!("a change is answered with {other:?}"),
        }
    }

    /// The map of the first member that tells one.
    async fn some_map(&self, at: &[NodeAddress]) -> Result<Arc<Map>, Error> {
        let mut last = Error::Unreachable("there is nobody to ask".to_owned());
        for node in at {
            match self.ring_of(&node.admin).await {
                Ok((map, _)) => return Ok(map),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The members that are new must be who they are said to be, as the node makes sure of.
    async fn identify(&self, map: &Map, desired: &[Desired]) -> Result<(), Error> {
        for desired in desired.iter().filter(|desired| map.member(desired.id).is_none()) {
            let mismatch = |reason: &str| refused("member-mismatch", &format!("{}: {reason}", desired.name));
            let said = self.status_of(&desired.admin_address).await.map_err(|error| mismatch(&error.to_string()))?;
            if said.cluster.is_some_and(|theirs| theirs != map.cluster) {
                return Err(mismatch("it belongs to another cluster"));
            }
            if said.id != desired.id || said.name != desired.name {
                return Err(mismatch(&format!("it says that it is {} ({})", said.name, said.id)));
            }
        }
        Ok(())
    }
}

impl Stores for Line {
    fn status(&self, address: String) -> BoxFuture<'_, Result<Status, Error>> {
        Box::pin(async move { self.status_of(&address).await })
    }

    fn told(&self, cluster: ClusterId, nodes: Vec<NodeAddress>) -> BoxFuture<'_, Result<Told, Error>> {
        Box::pin(async move {
            let (Reply::Plan(plan), by) = self.insist(&nodes, &Operation::ReadPlan).await? else {
                unreachable!("the plan was asked for")
            };
            let mut map = self.ring_of(&by).await?.0;
            if map.epoch < plan.epoch {
                let read = Operation::ReadMap { consistency: Consistency::Linearizable };
                let (Reply::Map(read), _) = self.insist(&nodes, &read).await? else {
                    unreachable!("the map was asked for")
                };
                map = Arc::new(Map::decode(read).expect("maps are sent whole"));
            }
            let body = annulus_node::http::plan_body(&plan, &map);
            let plan: annulus_client::admin::Plan = serde_json::from_slice(&body).expect("a client can read a plan");
            let mut newest: Option<Arc<annulus_client::Ring>> = None;
            for node in &nodes {
                let Ok((map, leaders)) = self.ring_of(&node.admin).await else { continue };
                let body = annulus_node::http::ring_body(&map, |partition| leaders[partition.group().0 as usize]);
                let ring: annulus_client::Ring = serde_json::from_slice(&body).expect("a client can read a ring");
                let is_newer = newest.as_ref().is_none_or(|newest| ring.epoch > newest.epoch);
                if ring.cluster == cluster && is_newer {
                    newest = Some(Arc::new(ring));
                }
                if newest.as_ref().is_some_and(|newest| newest.epoch >= plan.epoch) {
                    break;
                }
            }
            let ring = newest.ok_or_else(|| Error::Unreachable("no node tells who holds what".to_owned()))?;
            Ok(Told { plan, ring })
        })
    }

    fn bootstrap(&self, address: String, bootstrap: Bootstrap) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let members = bootstrap.members.iter().map(|spec| {
                let Desired { id, name, zone, weight, client_address, peer_address, admin_address } = desired(spec);
                let state = MemberState::Active;
                Member { id, name, zone, weight, state, client_address, peer_address, admin_address }
            });
            let cluster = bootstrap.cluster.parse().expect("the UID is a UUID");
            let factor = usize::try_from(bootstrap.replication_factor).expect("it is small");
            let map = Map::bootstrap(cluster, bootstrap.partitions, factor, members.collect())
                .map_err(|error| refused("invalid-bootstrap", &error.to_string()))?;
            let asks = AdminAsks::Bootstrap(Arc::new(map));
            match self.ask(&address, What::Member(asks), CHANGED_WITHIN).await? {
                AdminAnswer::Bootstrapped(Ok(())) => Ok(()),
                AdminAnswer::Bootstrapped(Err(reason)) => Err(refused("bootstrap-conflict", &reason)),
                other => unreachable!("a bootstrap is answered with {other:?}"),
            }
        })
    }

    fn set_members(&self, at: Vec<NodeAddress>, fence: u64, members: Members) -> BoxFuture<'_, Result<Changed, Error>> {
        Box::pin(async move {
            let wanted: Vec<Desired> = members.members.iter().map(desired).collect();
            self.identify(&*self.some_map(&at).await?, &wanted).await?;
            self.change(&at, Intent { fence, epoch: members.epoch, command: Command::Members(wanted) }).await
        })
    }

    fn drain(
        &self,
        at: Vec<NodeAddress>,
        fence: u64,
        member: String,
        drains: bool,
    ) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let map = self.some_map(&at).await?;
            let named = map.members.iter().filter(|known| known.name == member);
            let named = named.min_by_key(|known| known.state == MemberState::Leaving).map(|known| known.id);
            let id = named.ok_or_else(|| refused("unknown-member", &member))?;
            let command = if drains { Command::Drain(id) } else { Command::Undrain(id) };
            self.change(&at, Intent { fence, epoch: None, command }).await.map(drop)
        })
    }

    fn evict(&self, address: String) -> BoxFuture<'_, Result<u64, Error>> {
        Box::pin(async move {
            match self.ask(&address, What::Member(AdminAsks::Evict), CHANGED_WITHIN).await? {
                AdminAnswer::Evicted(left) => Ok(left),
                other => unreachable!("an eviction is answered with {other:?}"),
            }
        })
    }
}

fn refused(reason: &str, message: &str) -> Error {
    Error::Refused { reason: reason.to_owned(), message: message.to_owned() }
}

fn desired(spec: &MemberSpec) -> Desired {
    Desired {
        id: spec.id.parse().expect("an id"),
        name: spec.name.clone(),
        zone: spec.zone.clone(),
        weight: spec.weight,
        client_address: spec.client_address.clone(),
        peer_address: spec.peer_address.clone(),
        admin_address: spec.admin_address.clone(),
    }
}

impl What {
    /// In few words.
    pub fn name(&self) -> String {
        match self {
            Self::Member(AdminAsks::Bootstrap(_)) => "bootstrap".to_owned(),
            Self::Member(asks) => format!("{asks:?}"),
            Self::Map(Operation::ChangeMap(Intent { fence, epoch, command: Command::Members(desired) })) => {
                let names: Vec<&str> = desired.iter().map(|desired| desired.name.as_str()).collect();
                format!("under fence {fence} at {epoch:?} for the members {names:?}")
            }
            Self::Map(operation) => format!("{operation:?} of {}", GroupId::MAP),
        }
    }
}
