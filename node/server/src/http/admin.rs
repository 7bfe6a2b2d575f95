//! The admin port: how the member is, and the beginning of a store.

use annulus_core::id::ClusterId;
use annulus_core::map::{Map, Member, MemberState};
use http::request::Parts;
use hyper::body::Incoming;
use serde::{Deserialize, Deserializer, Serialize};

use super::edge::{Edge, json};
use super::headers::declared_length;
use super::members::Named;
use super::problem::{Kind, Problem};
use super::ring::Id;
use super::{Response, body, query};
use crate::router::{BootstrapError, Router};

#[derive(Serialize)]
struct Status {
    id: Id,
    name: String,
    zone: String,
    weight: u32,
    client_address: String,
    peer_address: String,
    admin_address: String,
    version: &'static str,
    cluster: Option<String>,
    epoch: u64,
    ready: bool,
    not_ready: Vec<String>,
    lanes: usize,
    replicas: usize,
    leaders: usize,
    moves_in: usize,
    evicted: bool,
    disk_bytes_free: Option<u64>,
    disk_bytes_total: Option<u64>,
    data_bytes: Option<u64>,
    uptime_seconds: u64,
}

/// How the member is.
pub(super) fn status<R: Router>(edge: &Edge<R>) -> Response {
    let status = edge.router.status();
    let status = Status {
        id: Id(status.id),
        name: status.name,
        zone: status.zone,
        weight: status.weight,
        client_address: status.client_address,
        peer_address: status.peer_address,
        admin_address: status.admin_address,
        version: env!("CARGO_PKG_VERSION"),
        cluster: status.cluster.map(|cluster| cluster.to_string()),
        epoch: status.epoch,
        ready: status.not_ready.is_empty(),
        not_ready: status.not_ready,
        lanes: status.lanes,
        replicas: status.replicas,
        leaders: status.leaders,
        moves_in: status.moves_in,
        evicted: status.evicted,
        disk_bytes_free: status.disk.map(|disk| disk.free_bytes),
        disk_bytes_total: status.disk.map(|disk| disk.total_bytes),
        data_bytes: status.disk.map(|disk| disk.data_bytes),
        uptime_seconds: status.uptime.as_secs(),
    };
    json(serde_json::to_vec(&status).expect("strings and numbers always serialise"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bootstrap {
    #[serde(deserialize_with = "parsed")]
    cluster: ClusterId,
    partitions: u32,
    replication_factor: usize,
    members: Vec<Named>,
}

#[derive(Serialize)]
struct Bootstrapped {
    cluster: String,
    epoch: u64,
}

/// A field that stands as text.
pub(super) fn parsed<'de, D: Deserializer<'de>, T: std::str::FromStr<Err: std::fmt::Display>>(
    from: D,
) -> Result<T, D::Error> {
    String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
}

/// Makes the first map of a store. The same request may be repeated; another one finds that the store exists.
pub(super) async fn bootstrap<R: Router>(edge: &Edge<R>, parts: &Parts, body: Incoming) -> Result<Response, Problem> {
    let [] = query::parameters(parts.uri.query(), [])?;
    let limit = edge.resources.limits.max_admin_body_bytes;
    let (body, _reservation) = body::read(body, declared_length(parts), limit, &edge.resources).await?;
    let map = first_map(&body)?;
    let bootstrapped = Bootstrapped { cluster: map.cluster.to_string(), epoch: map.epoch };
    match edge.router.bootstrap(map).await {
        Ok(()) => Ok(json(serde_json::to_vec(&bootstrapped).expect("strings and numbers always serialise"))),
        Err(error) => Err(refusal(&error)),
    }
}

/// What the JSON of a request says, or where it is wrong.
pub(super) fn from_json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        Problem::new(Kind::InvalidJson, error.to_string()).with("line", error.line()).with("column", error.column())
    })
}

fn first_map(body: &[u8]) -> Result<Map, Problem> {
    let asked: Bootstrap = from_json(body)?;
    let members = asked.members.into_iter().map(|member| Member {
        id: member.id,
        name: member.name,
        zone: member.zone,
        weight: member.weight,
        state: MemberState::Active,
        client_address: member.client_address,
        peer_address: member.peer_address,
        admin_address: member.admin_address,
    });
    Map::bootstrap(asked.cluster, asked.partitions, asked.replication_factor, members.collect())
        .map_err(|error| Problem::new(Kind::InvalidBootstrap, error.to_string()))
}

fn refusal(error: &BootstrapError) -> Problem {
    let detail = error.to_string();
    match error {
        BootstrapError::Conflict { ours, theirs } => Problem::new(Kind::BootstrapConflict, detail)
            .with("ours", ours.to_string())
            .with("theirs", theirs.to_string()),
        BootstrapError::Taken { name, theirs, asked } => Problem::new(Kind::BootstrapConflict, detail)
            .with("name", name.as_str())
            .with("ours", theirs.to_string())
            .with("theirs", asked.to_string()),
        BootstrapError::NotAMember { member } => {
            Problem::new(Kind::InvalidBootstrap, detail).with("member", member.to_string())
        }
        BootstrapError::OtherZone { member, configured, asked } => Problem::new(Kind::InvalidBootstrap, detail)
            .with("member", member.to_string())
            .with("field", "zone")
            .with("asked", asked.as_str())
            .with("says", configured.as_str()),
        BootstrapError::Unreachable { .. } => Problem::temporary(Kind::NoLeader, detail),
    }
}
