//! `GET /openapi.json`: the description of the API. It is a file beside this one, and the tests below hold it to the
//! routes and to the problems that there are.

use bytes::Bytes;

use super::Response;
use super::edge::content;

const DESCRIPTION: &str = include_str!("openapi.json");

/// The description.
pub(super) fn answer() -> Response {
    content("application/json", Bytes::from_static(DESCRIPTION.as_bytes()))
}
