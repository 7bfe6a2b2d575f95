//! `GET /admin/v1/history`: the last changes of the map and why, or the ring as one of them left it.

use std::time::{Duration, UNIX_EPOCH};

use annulus_core::lane::{Operation, Reply};
use annulus_core::map::history::Event;
use annulus_core::map::{Map, Reason};
use bytes::Bytes;
use serde::Serialize;

use super::edge::{Edge, content};
use super::problem::{Kind, Problem};
use super::{Response, map_group, query, ring};
use crate::router::Router;

/// The first millisecond of the year 10000, which RFC 3339 can't write.
const END_OF_RFC_3339_MS: u64 = 253_402_300_800_000;

#[derive(Serialize)]
struct History {
    events: Vec<Told>,
}

#[derive(Serialize)]
struct Told {
    epoch: u64,
    first_epoch: u64,
    at: Option<String>,
    fence: u64,
    reason: &'static str,
    message: String,
}

/// Answers with the last changes, or with the ring of one epoch.
pub(super) async fn answer<R: Router>(edge: &Edge<R>, query: Option<&str>) -> Result<Response, Problem> {
    let [epoch] = query::parameters(query, ["epoch"])?;
    let epoch = epoch.map(query::epoch).transpose()?;
    match (epoch, map_group::ask(edge, Operation::ReadHistory { epoch }).await?) {
        (None, Reply::History(events)) => {
            let history = History { events: events.into_iter().map(tell).collect() };
            let body = serde_json::to_vec(&history).expect("strings and numbers always serialise");
            Ok(content("application/json", edge.resources.hold_answer(Bytes::from(body))?))
        }
        (Some(epoch), Reply::PastMap(Some(map))) => {
            let map = Map::decode(map).map_err(|error| {
                Problem::new(Kind::Internal, format!("the map of epoch {epoch} can't be read: {error}"))
            })?;
            ring::tell(edge, &map, |partition| Some(map.assignments[partition.0 as usize].leader))
        }
        (Some(epoch), Reply::PastMap(None)) => {
            let detail = format!(
                "the map of epoch {epoch} is not kept: it is of the future, of the middle of some moves, or older than the \
                 last changes; `GET /admin/v1/history` lists the epochs that are"
            );
            Err(Problem::new(Kind::UnknownEpoch, detail).with("epoch", epoch))
        }
        (_, reply) => Err(map_group::unanswered(&reply)),
    }
}

fn tell(event: Event) -> Told {
    let (reason, message) = match event.reason {
        Reason::Bootstrap => ("bootstrap", "the store was made".to_owned()),
        Reason::Members(message) => ("members", message),
        Reason::Drain(member) => ("drain", format!("{member} is to be drained")),
        Reason::Undrain(member) => ("undrain", format!("{member} is not to be drained any more")),
        Reason::Remove(member) => ("remove", format!("{member} was removed")),
        Reason::Moves { started, finished, cancelled, message } => {
            let counts = format!("moves: {started} begun, {finished} finished, {cancelled} cancelled");
            ("moves", if message.is_empty() { counts } else { format!("{counts}; {message}") })
        }
    };
    let Event { epoch, first_epoch, fence, .. } = event;
    Told { epoch, first_epoch, at: rfc3339(event.at_ms), fence, reason, message }
}

/// When, in whole seconds of UTC. `None` when that is not known, or is nonsense of some clock.
fn rfc3339(at_ms: u64) -> Option<String> {
    let is_known = (1..END_OF_RFC_3339_MS).contains(&at_ms);
    is_known.then(|| humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(at_ms)).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_in_rfc_3339_unless_it_is_not_known() {
        for (at_ms, expected) in [
            (0, None),
            (1, Some("1970-01-01T00:00:00Z")),
            (951_782_400_000, Some("2000-02-29T00:00:00Z")),
            (1_795_575_600_999, Some("2026-11-25T03:00:00Z")),
            (4_107_542_400_000, Some("2100-03-01T00:00:00Z")),
            (END_OF_RFC_3339_MS - 1, Some("9999-12-31T23:59:59Z")),
            (END_OF_RFC_3339_MS, None),
            (u64::MAX, None),
        ] {
            assert_eq!(rfc3339(at_ms).as_deref(), expected, "{at_ms}");
        }
    }
}
