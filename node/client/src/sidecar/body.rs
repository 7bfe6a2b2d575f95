//! Reads a request's body whole: never more than is allowed, never longer than is allowed, and never without room for it.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::time::timeout;

use super::limits::Resources;
use super::problem::{Kind, Problem};
use crate::room::Reservation;

/// The body, and the room that it takes until the request is answered.
pub(super) async fn read(
    body: Incoming,
    limit: usize,
    resources: &Resources,
) -> Result<(Bytes, Option<Reservation>), Problem> {
    if body.is_end_stream() {
        return Ok((Bytes::new(), None));
    }
    // More than there ever is memory for is too large, and not for later.
    let limit = limit.min(resources.limits.bytes);
    let declared = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if declared > limit {
        return Err(too_large(limit));
    }
    let mut room = resources.admit_bytes(declared).map_err(Problem::closing)?;
    let deadline = resources.limits.body_timeout;
    match timeout(deadline, collect(body, declared, limit, resources, &mut room)).await {
        Ok(body) => Ok((body?, Some(room))),
        Err(_) => {
            let detail = format!("the body must arrive within {}s", deadline.as_secs());
            Err(Problem::new(Kind::BodyTimeout, detail).closing())
        }
    }
}

async fn collect(
    mut body: Incoming,
    declared: usize,
    limit: usize,
    resources: &Resources,
    room: &mut Reservation,
) -> Result<Bytes, Problem> {
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    let (mut total, mut reserved) = (0_usize, declared);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            let cause = std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
            Problem::new(Kind::MalformedRequest, format!("the body can't be read: {error}{cause}")).closing()
        })?;
        // Trailers say nothing that is understood here.
        let Ok(data) = frame.into_data() else { continue };
        total = total.saturating_add(data.len());
        if total > limit {
            return Err(too_large(limit));
        }
        if total > reserved {
            room.merge(resources.admit_bytes(total - reserved).map_err(Problem::closing)?);
            reserved = total;
        }
        // A small body comes in one piece and is never copied.
        if first.is_empty() && joined.is_empty() {
            first = data;
        } else {
            if joined.is_empty() {
                joined.reserve(declared.max(total));
                joined.extend_from_slice(&std::mem::take(&mut first));
            }
            joined.extend_from_slice(&data);
        }
    }
    Ok(if joined.is_empty() { first } else { joined.freeze() })
}

fn too_large(limit: usize) -> Problem {
    Problem::new(Kind::BodyTooLarge, format!("the body has more than {limit} bytes")).with("limit", limit).closing()
}
