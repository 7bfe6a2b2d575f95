//! `kube plan`: what is still to be done, by the operator and by the store itself.

use std::io::{self, Write};

use super::args;
use super::connect::Server;
use super::{proxy, status};
use crate::exit::Failure;
use crate::plan;

/// Shows the plan.
pub(super) async fn run(server: &Server, arguments: &args::Plan) -> Result<(), Failure> {
    let cluster = server.cluster(arguments.which.cluster.as_deref()).await?;
    let said = cluster.status.as_ref().and_then(|status| status.plan.as_ref());
    let mut lines = vec![format!("{}/{}", cluster.namespace, cluster.name)];
    match &cluster.status {
        None => lines.push("the operator has not looked at it yet".to_owned()),
        Some(_) => lines.extend(status::next(said)),
    }
    match proxy::plan(server, cluster.members()).await {
        Ok(plan) => {
            lines.push(String::new());
            lines.extend(plan::text(&plan, plan::LISTED));
        }
        Err(why) => {
            // What the operator knows of it has to do.
            lines.extend(said.and_then(status::moves_left));
            lines.extend([String::new(), format!("the store's own plan can't be had: {why}")]);
        }
    }
    let mut out = io::stdout().lock();
    for line in lines {
        writeln!(out, "{line}")?;
    }
    Ok(out.flush()?)
}
