//! Renews what is due, all that one leader leads in one request.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use annulus_core::partition::lock::{MAX_RENEWALS, MAX_RENEWALS_BODY_BYTES};
use bytes::Bytes;
use http::StatusCode;
use http::uri::{Authority, PathAndQuery};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::Locks;
use super::keeper::Due;
use crate::call::Call;
use crate::directory::Place;
use crate::lock::{ends, post};
use crate::options::{millis, ttl_text};
use crate::room::Room;
use crate::text::BytesAsText;
use crate::transport::{Answer, Message};
use crate::verdict::Safety;
use crate::{Error, Problem};

/// The longest answer that is read: as many names as were asked for, and a problem for each.
const LONGEST_ANSWER: usize = 2 * MAX_RENEWALS_BODY_BYTES;
/// How long nothing is looked at if nothing is due.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// A renewal may take this part of its lease, and the next attempt is another one's.
const TIME_SHARE: u32 = 3;
/// The shortest time that a renewal gets.
const LEAST_TIME: Duration = Duration::from_millis(20);

#[derive(Serialize)]
struct Wanted<'a> {
    locks: Vec<Lock<'a>>,
}

#[derive(Serialize)]
struct Lock<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_base64: Option<String>,
    token: u64,
    ttl_ms: u64,
}

#[derive(Deserialize)]
struct Renewed {
    locks: Vec<One>,
}

/// What the store says of one lock.
#[derive(Deserialize)]
pub(super) struct One {
    pub(super) name: Option<String>,
    pub(super) name_base64: Option<String>,
    pub(super) token: u64,
    pub(super) ttl_ms: Option<u64>,
    pub(super) valid_ms: Option<u64>,
    pub(super) problem: Option<Problem>,
    leader: Option<String>,
}

/// Renews what is kept, until it is dropped.
pub(in super::super) async fn renew(locks: Arc<Locks>) {
    locks.know_the_store().await;
    let mut asking = JoinSet::new();
    loop {
        let (due, next) = locks.with(|keeper, now| {
            let due = keeper.due(now);
            (due, keeper.next(now))
        });
        for together in grouped(&locks, due) {
            let locks = Arc::clone(&locks);
            asking.spawn(async move { locks.renew_together(together).await });
        }
        let until = next.unwrap_or_else(|| Instant::now() + LONGEST_SLEEP);
        tokio::select! {
            () = sleep_until(until) => {}
            () = locks.poke.notified() => {}
            Some(_) = asking.join_next() => {}
        }
    }
}

/// What is due, by who leads it, as far as is known.
fn grouped(locks: &Locks, due: Vec<Due>) -> Vec<Vec<Due>> {
    if due.is_empty() {
        return Vec::new();
    }
    let table = locks.client.directory().current();
    let mut groups: HashMap<Option<Authority>, Vec<Due>> = HashMap::new();
    for one in due {
        let leader = table.as_ref().and_then(|table| table.leader_address(one.name.bytes()).cloned());
        groups.entry(leader).or_default().push(one);
    }
    let groups = groups.into_values();
    groups.flat_map(|group| group.chunks(MAX_RENEWALS).map(<[Due]>::to_vec).collect::<Vec<_>>()).collect()
}

/// How long one request for these may take: each must leave time for another one.
fn time(due: &[Due]) -> Duration {
    let times = due.iter().map(|due| due.left.min(due.ttl / TIME_SHARE));
    times.min().unwrap_or_default().max(LEAST_TIME)
}

fn body(due: &[Due]) -> Bytes {
    let locks = due.iter().map(|due| {
        let name = std::str::from_utf8(due.name.bytes()).ok();
        let name_base64 = name.is_none().then(|| BytesAsText::new(due.name.bytes()).text);
        Lock { name, name_base64, token: due.token, ttl_ms: millis(due.ttl) }
    });
    Bytes::from(serde_json::to_vec(&Wanted { locks: locks.collect() }).expect("strings and numbers"))
}

/// What the store says of as many locks as were asked for.
pub(super) fn read(body: &[u8], count: usize) -> Option<Vec<One>> {
    read_all(body).filter(|locks| locks.len() == count)
}

/// What the store says of however many locks.
pub(super) fn read_all(body: &[u8]) -> Option<Vec<One>> {
    serde_json::from_slice::<Renewed>(body).ok().map(|renewed| renewed.locks)
}

impl Locks {
    /// Renews some locks, and tells the keeper what came of it.
    async fn renew_together(&self, due: Vec<Due>) {
        let message = post(PathAndQuery::from_static("/v1/renewals"), body(&due));
        match self.ask(Place::Leader(due[0].name.bytes()), message, time(&due)).await {
            Ok(answer) if answer.status == StatusCode::OK => match read(&answer.body, due.len()) {
                Some(said) => due.iter().zip(said).for_each(|(due, one)| self.said(due, one, answer.sent)),
                None => self.all_failed(&due, "the answer is not what was asked for"),
            },
            Ok(answer) => self.all_failed(&due, &answer.problem().to_string()),
            Err(error) => self.all_failed(&due, &error.to_string()),
        }
    }

    /// Asks for renewals, each attempt with a timeout that leaves time for its answer.
    async fn ask(&self, place: Place<'_>, message: Message, time: Duration) -> Result<Answer, Error> {
        let complete = |message: &mut Message, left: Duration| {
            let timed =
                format!("{}?timeout={}", message.path.path(), ttl_text((left * 3 / 4).max(Duration::from_millis(1))));
            message.path = PathAndQuery::try_from(timed).unwrap_or_else(|_| message.path.clone());
        };
        let call = Call {
            place,
            message,
            complete: Some(&complete),
            safety: Safety::Named,
            time,
            patience: Some(time / 2),
            max_attempts: self.client.max_attempts(),
            // Not counted: no lock is lost for want of memory that others take.
            room: Room::uncounted(LONGEST_ANSWER),
        };
        self.client.make(call).await
    }

    /// What the store says of one lock that was asked for.
    fn said(&self, due: &Due, one: One, sent: Instant) {
        if let Some(leader) = one.leader.and_then(|leader| leader.parse().ok())
            && let Some(table) = self.client.directory().current()
        {
            table.saw_leader(due.name.bytes(), leader);
        }
        match (one.valid_ms, one.problem) {
            (Some(valid_ms), _) if one.token == due.token => {
                let ends = ends(sent, Duration::from_millis(valid_ms));
                self.with(|keeper, now| keeper.renewed(now, &due.name, due.token, None, ends));
            }
            (_, Some(problem)) if problem.kind() == "lock-not-held" => {
                self.with(|keeper, now| keeper.refused(now, &due.name, due.token, &problem.detail));
            }
            (_, Some(problem)) => self.failed(due, problem.to_string()),
            (_, None) => self.failed(due, "the answer is not what was asked for".to_owned()),
        }
    }

    fn failed(&self, due: &Due, why: String) {
        self.metrics.renewals_failed.inc();
        self.with(|keeper, now| keeper.failed(now, &due.name, due.token, why));
    }

    fn all_failed(&self, due: &[Due], why: &str) {
        tracing::warn!(locks = due.len(), why, "locks could not be renewed; it is tried again");
        due.iter().for_each(|due| self.failed(due, why.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use annulus_core::partition::lock::Name;

    use super::*;

    fn due(name: &'static [u8], ttl_ms: u64, left_ms: u64) -> Due {
        let name = Name::new(Bytes::from_static(name)).unwrap();
        Due { name, token: 7, ttl: Duration::from_millis(ttl_ms), left: Duration::from_millis(left_ms) }
    }

    #[test]
    fn a_renewal_says_each_lock_as_the_store_reads_it() {
        let body = body(&[due(b"a/\"", 10_000, 0), due(b"\xff", 500, 0)]);
        let expected = serde_json::json!({"locks": [
            {"name": "a/\"", "token": 7, "ttl_ms": 10000}, {"name_base64": "/w==", "token": 7, "ttl_ms": 500},
        ]});
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&body).unwrap(), expected);
    }

    #[test]
    fn a_renewal_takes_no_longer_than_leaves_time_for_another() {
        assert_eq!(time(&[due(b"a", 9000, 6000), due(b"b", 30_000, 20_000)]), Duration::from_secs(3));
        assert_eq!(time(&[due(b"a", 9000, 1000)]), Duration::from_secs(1));
        assert_eq!(time(&[due(b"a", 9000, 1)]), LEAST_TIME);
    }

    #[test]
    fn an_answer_that_is_not_for_as_many_locks_is_none() {
        let body = br#"{"locks":[{"name":"a","token":7,"ttl_ms":1,"valid_ms":1},{"name":"b","token":8,"problem":{"type":"x/lock-not-held"}}]}"#;
        assert!(read(body, 3).is_none() && read(b"{}", 0).is_none());
        let said = read(body, 2).unwrap();
        assert_eq!((said[0].valid_ms, said[1].problem.as_ref().unwrap().kind()), (Some(1), "lock-not-held"));
    }
}
