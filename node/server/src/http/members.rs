//! Who the members are to be: `PUT /admin/v1/members`, and one of them at `/admin/v1/members/{id}` and `…/{id}/drain`.
//!
//! A node is asked who it is before it becomes a member: a wrong address, a volume of another store or a zone that is
//! another than the request says would show much later, as replicas that never arrive. A node that was started without a
//! zone takes the one that it is given: a pod can't know its zone before it is scheduled.

use std::sync::Arc;

use annulus_core::id::MemberId;
use annulus_core::lane::Changed;
use annulus_core::map::command::check_desired;
use annulus_core::map::{Command, Desired, Map, MemberState};
use futures_util::{StreamExt, TryStreamExt, stream};
use http::Method;
use http::request::Parts;
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};

use super::admin::{from_json, parsed};
use super::edge::{Edge, json};
use super::headers::{Headers, declared_length};
use super::problem::{Kind, Problem};
use super::ring::Id;
use super::route::Route;
use super::{Response, body, map_group, query};
use crate::router::{Identified, Router};

/// How many nodes are asked at once who they are.
const ASKED_AT_ONCE: usize = 64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Members {
    epoch: Option<u64>,
    members: Vec<Named>,
}

/// A member as a request names it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Named {
    #[serde(deserialize_with = "parsed")]
    pub(super) id: MemberId,
    pub(super) name: String,
    pub(super) zone: String,
    pub(super) weight: u32,
    pub(super) client_address: String,
    pub(super) peer_address: String,
    pub(super) admin_address: String,
}

impl From<Named> for Desired {
    fn from(named: Named) -> Self {
        Self {
            id: named.id,
            name: named.name,
            zone: named.zone,
            weight: named.weight,
            client_address: named.client_address,
            peer_address: named.peer_address,
            admin_address: named.admin_address,
        }
    }
}

#[derive(Serialize)]
struct Put {
    epoch: u64,
    joined: Vec<Id>,
    leaving: Vec<Id>,
    updated: Vec<Id>,
}

#[derive(Serialize)]
struct Epoch {
    epoch: u64,
}

/// Makes the members those that the body names.
pub(super) async fn put<R: Router>(
    edge: &Edge<R>,
    parts: &Parts,
    headers: &Headers<'_>,
    body: Incoming,
) -> Result<Response, Problem> {
    let [] = query::parameters(parts.uri.query(), [])?;
    headers.operator_fence()?;
    let limit = edge.resources.limits.max_admin_body_bytes;
    let (body, _reservation) = body::read(body, declared_length(parts), limit, &edge.resources).await?;
    let asked: Members = from_json(&body)?;
    let desired: Vec<Desired> = asked.members.into_iter().map(Desired::from).collect();
    check_desired(&desired)
        .map_err(|error| Problem::new(Kind::InvalidMembers, format!("{error}; nothing was changed")))?;
    identify(edge, &edge.map()?, &desired).await?;
    let Changed { epoch, joined, leaving, updated } =
        map_group::change(edge, headers, asked.epoch, Command::Members(desired)).await?;
    let ids = |ids: Vec<MemberId>| ids.into_iter().map(Id).collect();
    let put = Put { epoch, joined: ids(joined), leaving: ids(leaving), updated: ids(updated) };
    Ok(json(serde_json::to_vec(&put).expect("strings and numbers always serialise")))
}

/// Removes a member that holds nothing.
pub(super) async fn remove<R: Router>(
    edge: &Edge<R>,
    parts: &Parts,
    headers: &Headers<'_>,
) -> Result<Response, Problem> {
    let member = member(edge, Route::AdminMember, parts)?;
    changed(edge, headers, Command::Remove(member)).await
}

/// Has everything move away from a member, or not any more.
pub(super) async fn drain<R: Router>(
    edge: &Edge<R>,
    parts: &Parts,
    headers: &Headers<'_>,
) -> Result<Response, Problem> {
    let member = member(edge, Route::AdminDrain, parts)?;
    let drains = parts.method == Method::POST;
    changed(edge, headers, if drains { Command::Drain(member) } else { Command::Undrain(member) }).await
}

async fn changed<R: Router>(edge: &Edge<R>, headers: &Headers<'_>, command: Command) -> Result<Response, Problem> {
    let epoch = map_group::change(edge, headers, None, command).await?.epoch;
    Ok(json(serde_json::to_vec(&Epoch { epoch }).expect("numbers always serialise")))
}

/// The member that a path names by its id or its name. An id that this member's map does not have goes on to the leader
/// of the map, whose map is the newest.
fn member<R: Router>(edge: &Edge<R>, route: Route, parts: &Parts) -> Result<MemberId, Problem> {
    let [] = query::parameters(parts.uri.query(), [])?;
    let text = query::segment(route.parameter(parts.uri.path()))?;
    let map = edge.map()?;
    let id = text.parse::<MemberId>().ok();
    if let Some(id) = id.filter(|id| map.member(*id).is_some()) {
        return Ok(id);
    }
    // A member that leaves may have given its name to the one that takes its place.
    let named = map.members.iter().filter(|member| member.name == text);
    let found = named.min_by_key(|member| member.state == MemberState::Leaving).map(|member| member.id);
    found.or(id).ok_or_else(|| {
        let shown: String = text.chars().take(255).collect();
        let detail = format!(
            "no member has the id or the name `{shown}` in the map of epoch {}; `GET /admin/v1/plan` lists the members",
            map.epoch
        );
        Problem::new(Kind::UnknownMember, detail).with("member", shown)
    })
}

/// Asks those that the map does not have yet who they are, and those that have moved. The first that is not what it should
/// be ends it. A known member that does not answer at its new address may only be starting; one that answers with other
/// addresses or as somebody else would be cut off.
async fn identify<R: Router>(edge: &Edge<R>, map: &Arc<Map>, desired: &[Desired]) -> Result<(), Problem> {
    let asked = desired.iter().filter_map(|desired| match map.member(desired.id) {
        None => Some((desired, false)),
        Some(known) => {
            let is_where_it_was = known.client_address == desired.client_address
                && known.peer_address == desired.peer_address
                && known.admin_address == desired.admin_address;
            (!is_where_it_was).then_some((desired, true))
        }
    });
    let asking = asked.map(|(desired, is_known)| async move {
        match edge.router.identify(&desired.admin_address).await {
            Ok(said) => compare(map, desired, &said, is_known),
            Err(_) if is_known => Ok(()),
            Err(reason) => Err(mismatch(desired, &reason)),
        }
    });
    stream::iter(asking).buffer_unordered(ASKED_AT_ONCE).try_collect().await
}

fn compare(map: &Map, desired: &Desired, said: &Identified, is_known: bool) -> Result<(), Problem> {
    if let Some(theirs) = said.cluster.filter(|theirs| *theirs != map.cluster) {
        let reason = format!("it belongs to cluster {theirs}, and this is cluster {}", map.cluster);
        let problem = mismatch(desired, &reason).with("field", "cluster");
        return Err(problem.with("ours", map.cluster.to_string()).with("theirs", theirs.to_string()));
    }
    let mut fields = vec![("id", desired.id.to_string(), said.id.to_string())];
    if is_known {
        // What a known member is called is the map's to say. An older version does not tell its addresses.
        let told = said.peer_address.clone().unwrap_or_else(|| desired.peer_address.clone());
        fields.push(("peer address", desired.peer_address.clone(), told));
    } else {
        fields.push(("name", desired.name.clone(), said.name.clone()));
        if !said.zone.is_empty() {
            fields.push(("zone", desired.zone.clone(), said.zone.clone()));
        }
    }
    match fields.into_iter().find(|(_, asked, says)| asked != says) {
        None => Ok(()),
        Some((field, asked, says)) => {
            let says: String = says.chars().take(255).collect();
            let reason = format!("it says that its {field} is `{says}`, and the request names `{asked}`");
            Err(mismatch(desired, &reason).with("field", field).with("asked", asked).with("says", says))
        }
    }
}

fn mismatch(desired: &Desired, reason: &str) -> Problem {
    let detail = format!(
        "the member `{}` ({}) was asked at {} who it is: {reason}; start it, or correct the request; nothing was \
         changed",
        desired.name, desired.id, desired.admin_address
    );
    Problem::new(Kind::MemberMismatch, detail)
        .with("member", desired.id.to_string())
        .with("name", desired.name.as_str())
        .with("admin_address", desired.admin_address.as_str())
}
