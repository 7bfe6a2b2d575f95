//! The way to the stores themselves: what the operator asks of nodes, behind a trait so that tests can put a simulated store there.

use std::sync::Arc;
use std::time::Duration;

use annulus_client::admin::{Admin, Changed, Members};
use annulus_client::node::{Bootstrap, Status};
use annulus_client::{Client, ClusterId, Ring};
use futures_util::future::BoxFuture;

use crate::model::Told;

/// How long the leader of the map may take for an answer, and a change to be agreed on.
const DEADLINE: Duration = Duration::from_secs(8);
/// For how long a member takes no leader again after it was asked to hand them over: its pod is gone by then.
const EVICTED_FOR: Duration = Duration::from_secs(60);

/// What can be asked of the nodes of stores. Addresses are `host:port` of admin ports.
pub trait Stores: Send + Sync {
    /// What a node says of itself.
    fn status(&self, address: String) -> BoxFuture<'_, Result<Status, Error>>;
    /// What the leader of the map says, asked through any of these.
    fn told(&self, cluster: ClusterId, nodes: Vec<NodeAddress>) -> BoxFuture<'_, Result<Told, Error>>;
    /// Makes a store.
    fn bootstrap(&self, address: String, bootstrap: Bootstrap) -> BoxFuture<'_, Result<(), Error>>;
    /// States who the members are.
    fn set_members(&self, at: Vec<NodeAddress>, fence: u64, members: Members) -> BoxFuture<'_, Result<Changed, Error>>;
    /// Has everything move away from a member, or not any more.
    fn drain(&self, at: Vec<NodeAddress>, fence: u64, member: String, drains: bool)
    -> BoxFuture<'_, Result<(), Error>>;
    /// Has a node hand over its leaders; returns how many it still has.
    fn evict(&self, address: String) -> BoxFuture<'_, Result<u64, Error>>;
}

/// Where a node is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAddress {
    /// `host:port` for clients.
    pub client: String,
    /// `host:port` for the operator.
    pub admin: String,
}

/// Why a store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It refused, and nothing was changed.
    #[error("{message}")]
    Refused {
        /// The name of the reason, such as `stale-fence`.
        reason: String,
        /// The same in words.
        message: String,
    },
    /// It could not be asked, or its answer was lost.
    #[error("{0}")]
    Unreachable(String),
}

impl Error {
    /// Whether it was refused for what it is: asked again a moment later, it would be refused again.
    pub fn is_refusal(&self) -> bool {
        const PASSING: [&str; 3] = ["stale-fence", "map-changed", "change-in-progress"];
        matches!(self, Self::Refused { reason, .. } if !PASSING.contains(&reason.as_str()))
    }

    /// Whether another operator has spoken in between, so that this one has to be quiet.
    pub fn is_fenced(&self) -> bool {
        matches!(self, Self::Refused { reason, .. } if reason == "stale-fence")
    }
}

impl From<annulus_client::Error> for Error {
    fn from(error: annulus_client::Error) -> Self {
        match error {
            annulus_client::Error::Conflict(problem) | annulus_client::Error::Refused(problem) => {
                Self::Refused { reason: problem.kind().to_owned(), message: problem.to_string() }
            }
            other => Self::Unreachable(other.to_string()),
        }
    }
}

/// The nodes themselves, over HTTP.
#[derive(Debug, Default)]
pub struct Http;

fn client(at: &[NodeAddress]) -> Result<Client, Error> {
    Ok(Client::builder(at.iter().map(|node| node.client.clone())).deadline(DEADLINE).build()?)
}

fn admin(at: &[NodeAddress]) -> Result<Admin, Error> {
    Ok(client(at)?.admin_at(at.iter().map(|node| node.admin.as_str()))?.with_deadline(DEADLINE))
}

fn node(address: &str) -> Result<annulus_client::node::Nodes, Error> {
    Ok(Client::builder([address]).build()?.nodes())
}

impl Stores for Http {
    fn status(&self, address: String) -> BoxFuture<'_, Result<Status, Error>> {
        Box::pin(async move { Ok(node(&address)?.status(&address).await?) })
    }

    fn told(&self, cluster: ClusterId, nodes: Vec<NodeAddress>) -> BoxFuture<'_, Result<Told, Error>> {
        Box::pin(async move {
            let plan = admin(&nodes)?.plan().await?;
            // While replicas move, nodes go by maps that are a little older than the leader's.
            let mut newest: Option<Arc<Ring>> = None;
            for node in &nodes {
                let Ok(ring) = client(std::slice::from_ref(node))?.ring().await else { continue };
                let is_newer = newest.as_ref().is_none_or(|newest| ring.epoch > newest.epoch);
                if ring.cluster == cluster && is_newer {
                    newest = Some(ring);
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
        Box::pin(async move { Ok(node(&address)?.bootstrap(&address, &bootstrap).await?) })
    }

    fn set_members(&self, at: Vec<NodeAddress>, fence: u64, members: Members) -> BoxFuture<'_, Result<Changed, Error>> {
        Box::pin(async move { Ok(admin(&at)?.with_fence(Some(fence)).put_members(&members).await?) })
    }

    fn drain(
        &self,
        at: Vec<NodeAddress>,
        fence: u64,
        member: String,
        drains: bool,
    ) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let admin = admin(&at)?.with_fence(Some(fence));
            if drains { admin.drain(&member).await } else { admin.undrain(&member).await }?;
            Ok(())
        })
    }

    fn evict(&self, address: String) -> BoxFuture<'_, Result<u64, Error>> {
        Box::pin(async move { Ok(node(&address)?.evict(&address, Some(EVICTED_FOR)).await?.leaders_left) })
    }
}
