//! `/healthz`, `/readyz` and `/metrics`, on both ports.

use bytes::Bytes;

use super::Response;
use super::edge::{Edge, content};
use super::problem::{Kind, Problem};
use crate::metrics::CONTENT_TYPE;
use crate::router::Router;

/// The process answers, so it lives.
pub(super) fn health() -> Response {
    content("text/plain; charset=utf-8", Bytes::from_static(b"ok\n"))
}

/// Whether the member is in the ring and caught up, or each reason why it is not.
pub(super) fn ready<R: Router>(edge: &Edge<R>) -> Result<Response, Problem> {
    let reasons = edge.router.status().not_ready;
    if reasons.is_empty() {
        return Ok(content("text/plain; charset=utf-8", Bytes::from_static(b"ready\n")));
    }
    Err(Problem::temporary(Kind::NotReady, reasons.join("; ")).with("reasons", reasons))
}

/// Everything that is counted.
pub(super) fn metrics<R: Router>(edge: &Edge<R>) -> Result<Response, Problem> {
    let text = edge.resources.metrics.encode();
    text.map(|text| content(CONTENT_TYPE, Bytes::from(text)))
        .map_err(|_| Problem::new(Kind::Internal, "the metrics could not be written"))
}
