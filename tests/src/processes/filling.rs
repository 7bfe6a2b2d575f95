//! Many keys that are written once, before anything happens to a store, and have to be there after all of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use annulus_client::{Client, Scan};
use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::until;

/// What all of its keys begin with.
const PREFIX: &str = "filling/";
/// How many keys are written at once.
const WRITERS: usize = 16;
/// How many keys a page of the last listing has.
const PAGE: u32 = 500;
/// How long one key or one page may take, whatever is done to the store meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);

/// Keys with values that can be told from their number.
#[derive(Debug, Clone, Copy)]
pub struct Filling {
    /// How many keys.
    pub keys: usize,
    /// How many bytes each value has.
    pub value_bytes: usize,
}

impl Filling {
    /// Writes all of them; `written` counts along. Panics when the store does not take one for too long.
    pub async fn write(self, client: &Client, written: &Arc<AtomicU64>) {
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let (client, written) = (client.clone(), Arc::clone(written));
            writers.spawn(async move {
                for number in (writer..self.keys).step_by(WRITERS) {
                    write(&client, &key(number), self.value(number)).await;
                    written.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        while let Some(ended) = writers.join_next().await {
            ended.expect("a writer does not panic");
        }
    }

    /// The keys that are not there, or not as they were written.
    pub async fn lost(self, client: &Client) -> Vec<String> {
        let mut found = BTreeMap::new();
        let mut scan =
            Scan { prefix: Bytes::from_static(PREFIX.as_bytes()), limit: Some(PAGE), values: true, ..Scan::default() };
        loop {
            let page = until("a page is listed", PATIENCE, async || client.scan(&scan).await.ok()).await;
            found.extend(page.entries.into_iter().map(|entry| (entry.key, entry.value)));
            match page.cursor {
                Some(cursor) => scan.cursor = Some(cursor),
                None => break,
            }
        }
        let is_lost = |number: &usize| {
            found.get(key(*number).as_bytes()).is_none_or(|value| value.as_ref() != Some(&self.value(*number)))
        };
        (0..self.keys).filter(is_lost).map(key).collect()
    }

    fn value(self, number: usize) -> Bytes {
        let text = format!("filling {number} ");
        text.bytes().cycle().take(self.value_bytes).collect()
    }
}

/// Puts until the store has taken it: the value is the same whenever it is written, so one of unknown fate is written again.
async fn write(client: &Client, key: &str, value: Bytes) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = client.put(key, value.clone()).await {
        assert!(Instant::now() < deadline, "{key} can't be written in {PATIENCE:?}: {error}");
    }
}

fn key(number: usize) -> String {
    format!("{PREFIX}{number:06}")
}
