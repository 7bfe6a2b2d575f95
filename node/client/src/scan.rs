//! Keys in order, page by page.

use std::time::Duration;

use annulus_core::partition::Consistency;
use bytes::Bytes;
use serde::Deserialize;

use crate::{Client, Result, Version, text};

/// Which keys to scan, and how.
#[derive(Debug, Clone, Default)]
pub struct Scan {
    /// Only keys that begin with this.
    pub prefix: Bytes,
    /// At most this many keys a page (1 to 1000); `None`: as many as the store thinks right.
    pub limit: Option<u32>,
    /// Where to go on: the cursor of the page before.
    pub cursor: Option<String>,
    /// Whether the values come too.
    pub values: bool,
    /// Who may answer; `None`: linearizable.
    pub consistency: Option<Consistency>,
    /// How long one page may take, retries included; `None`: the client's own.
    pub deadline: Option<Duration>,
}

/// One page of keys in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The keys.
    pub entries: Vec<Entry>,
    /// Where the next page begins; `None`: this was the last.
    pub cursor: Option<String>,
}

/// A key on a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// Its version.
    pub version: Version,
    /// Its value, if values were asked for.
    pub value: Option<Bytes>,
}

/// Pages one after the other (see [`Client::pages`]).
#[derive(Debug)]
pub struct Pages {
    client: Client,
    /// The next page; `None` after the last.
    scan: Option<Scan>,
}

impl Pages {
    pub(crate) fn new(client: Client, scan: Scan) -> Self {
        Self { client, scan: Some(scan) }
    }

    /// The next page; `None` after the last. After an error the same page is asked for again.
    pub async fn next(&mut self) -> Result<Option<Page>> {
        let Some(scan) = &mut self.scan else { return Ok(None) };
        let page = self.client.scan(scan).await?;
        match &page.cursor {
            Some(cursor) => scan.cursor = Some(cursor.clone()),
            None => self.scan = None,
        }
        Ok(Some(page))
    }
}

#[derive(Deserialize)]
struct WirePage {
    items: Vec<WireEntry>,
    #[serde(default)]
    cursor: Option<String>,
}

#[derive(Deserialize)]
struct WireEntry {
    key: Option<String>,
    key_base64: Option<String>,
    version: u64,
    value: Option<String>,
    value_base64: Option<String>,
}

impl Page {
    /// Reads a page; `values` tells whether every key must come with its value.
    pub(crate) fn read(body: &[u8], values: bool) -> std::result::Result<Self, String> {
        let wire: WirePage = serde_json::from_slice(body).map_err(|error| format!("not a page of keys: {error}"))?;
        let entry = |wire: WireEntry| {
            let key = text::read(wire.key, wire.key_base64).ok_or("a key is missing or not what it says")?;
            let value = text::read(wire.value, wire.value_base64);
            if values && value.is_none() {
                return Err("a value is missing or not what it says");
            }
            let value = value.filter(|_| values).map(Bytes::from);
            Ok(Entry { key: Bytes::from(key), version: Version(wire.version), value })
        };
        let entries = wire.items.into_iter().map(entry).collect::<std::result::Result<_, _>>()?;
        Ok(Self { entries, cursor: wire.cursor })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_with_text_and_with_other_bytes() {
        let body = br#"{"items":[{"key":"a","version":3,"value":"x"},{"key_base64":"/w==","version":4,"value_base64":"/wA="}],"cursor":"c"}"#;
        let page = Page::read(body, true).unwrap();
        assert_eq!(page.cursor.as_deref(), Some("c"));
        assert_eq!((&page.entries[1].key[..], page.entries[1].value.as_deref()), (&[0xff][..], Some(&[0xff, 0][..])));
        assert!(Page::read(br#"{"items":[{"key":"a","version":3}],"cursor":null}"#, true).is_err());
        assert!(Page::read(br#"{"items":[{"key":"a","version":3}]}"#, false).unwrap().cursor.is_none());
    }
}
