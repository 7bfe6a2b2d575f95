//! `kube pause` and `kube resume`: whether the operator changes anything.

use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::args::Which;
use super::connect::Server;
use crate::exit::Failure;

/// Pauses a cluster, or lets it go on.
pub(super) async fn run(server: &Server, which: &Which, paused: bool) -> Result<(), Failure> {
    let cluster = server.cluster(which.cluster.as_deref()).await?;
    let shown = format!("{}/{}", cluster.namespace, cluster.name);
    if cluster.paused == paused {
        eprintln!("{shown} is {}", if paused { "paused already" } else { "not paused" });
        return Ok(());
    }
    let patch = Patch::Merge(json!({"spec": {"paused": paused}}));
    let parameters = PatchParams { field_manager: Some(super::MANAGER.to_owned()), ..PatchParams::default() };
    let api = server.clusters();
    server.changed("change the StorageCluster", api.patch(&cluster.name, &parameters, &patch)).await?;
    eprintln!("{shown} {}", if paused { PAUSED } else { "goes on" });
    Ok(())
}

const PAUSED: &str = "is paused: the operator changes nothing any more. What is under way in the store goes on, and a pod that \
                      ends is not made anew, until `kubectl annulus resume`.";
