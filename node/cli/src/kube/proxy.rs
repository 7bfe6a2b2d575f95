//! What members and sidecars answer themselves, by way of the API server: it reaches pods that this machine does not.

use annulus_client::admin::Plan;
use annulus_crds::storage_cluster::MemberStatus;
use kube::Error;

use super::connect::{Asked, Server, within};

/// The port for the operator.
const ADMIN_PORT: u16 = 7071;
/// Members that are asked before the question is given up.
const TRIED: usize = 3;

/// What a member answers at this path of its port for the operator.
pub(super) async fn get(server: &Server, pod: &str, path: &str) -> Result<String, Asked> {
    get_at(server, pod, ADMIN_PORT, path).await
}

/// What a pod answers at this path of one of its ports.
pub(super) async fn get_at(server: &Server, pod: &str, port: u16, path: &str) -> Result<String, Asked> {
    let namespace = &server.namespace;
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy/{path}");
    let request = http::Request::get(path).body(Vec::new()).map_err(|error| Asked::Refused(Error::HttpError(error)))?;
    within(server.client.request_text(request)).await
}

/// The store's own plan, from the first of its members that tells it; else why the last one did not.
pub(super) async fn plan(server: &Server, members: &[MemberStatus]) -> Result<Plan, String> {
    let mut why = "no member is ready".to_owned();
    for member in members.iter().filter(|member| member.ready).take(TRIED) {
        why = match get(server, &member.name, "admin/v1/plan").await {
            Ok(text) => match serde_json::from_str(&text) {
                Ok(plan) => return Ok(plan),
                Err(error) => format!("{} told what can't be read: {error}", member.name),
            },
            Err(error) => format!("{}: {error}", member.name),
        };
    }
    Err(why)
}
