//! `POST` and `DELETE /admin/v1/leaders/evict`: this very member hands its leaders over before it is restarted.

use std::time::{Duration, Instant};

use http::Method;
use http::request::Parts;
use serde::Serialize;

use super::edge::{Edge, json};
use super::problem::Problem;
use super::{Response, query};
use crate::router::Router;

/// How long it takes none again unless it is said otherwise: a restart is done by then.
const DEFAULT: Duration = Duration::from_secs(30);
/// A member that never leads is best drained.
const MAX: Duration = Duration::from_secs(600);

#[derive(Serialize)]
struct Evicted {
    leaders_left: usize,
    seconds: f64,
}

/// Begins or ends an eviction.
pub(super) async fn answer<R: Router>(edge: &Edge<R>, parts: &Parts) -> Result<Response, Problem> {
    if parts.method == Method::DELETE {
        let [] = query::parameters(parts.uri.query(), [])?;
        edge.router.end_eviction();
        return Ok(json(b"{}".to_vec()));
    }
    let [lasts] = query::parameters(parts.uri.query(), ["for"])?;
    let lasts = lasts.map_or(Ok(DEFAULT), |value| query::duration("for", value, MAX))?;
    let began = Instant::now();
    let leaders_left = edge.router.evict(lasts).await;
    let evicted = Evicted { leaders_left, seconds: began.elapsed().as_secs_f64() };
    Ok(json(serde_json::to_vec(&evicted).expect("numbers always serialise")))
}
