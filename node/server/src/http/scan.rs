//! `GET /v1/kv?prefix=`: a page of keys in key order over all partitions.

use annulus_core::lane::{Operation, Reply};
use annulus_core::partition::{Item, MAX_SCAN_KEYS};
use bytes::Bytes;
use serde::Serialize;

use super::edge::{Edge, text_or_base64};
use super::listing::{self, Asked, Of};
use super::problem::Problem;
use super::{Response, kv, query};
use crate::router::Router;

const KEYS: Of<Item> = Of {
    cursors: "annulus cursor",
    most: MAX_SCAN_KEYS,
    operation: |scan, consistency| Operation::Scan { scan, consistency },
    part: |reply| match reply {
        Reply::Scan(page) => Ok((page.items, page.more)),
        reply => Err(kv::unanswered(&reply)),
    },
    bytes: |item| item.value.len(),
};

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

/// Answers a request for a page of keys.
pub(super) async fn answer<R: Router>(edge: &Edge<R>, query: Option<&str>) -> Result<Response, Problem> {
    let [prefix, limit, cursor, values, consistency, timeout] =
        query::parameters(query, ["prefix", "limit", "cursor", "values", "consistency", "timeout"])?;
    let values = query::flag("values", values)?;
    let mut asked = Asked::read(edge, &KEYS, [prefix, limit, cursor, consistency, timeout])?;
    asked.values = values;
    let page = listing::page(edge, &KEYS, &asked).await?;
    let written = page.write(|key, item| show(key, item, values))?;
    // What the page was made of is let go first; then the page itself is counted until the client has taken it.
    drop(page);
    listing::answer(edge, written)
}

fn show<'a>(key: &'a Bytes, item: &'a Item, values: bool) -> Shown<'a> {
    let (key, key_base64) = text_or_base64(key);
    let (value, value_base64) = if values { text_or_base64(&item.value) } else { (None, None) };
    Shown { key, key_base64, version: item.version, value, value_base64 }
}
