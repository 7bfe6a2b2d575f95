//! What a client does when things go wrong, against nodes that do as they are told.

use std::time::Duration;

use crate::fake::{CLUSTER, Fake, Turn, answer, ring, versioned};
use annulus_client::{Client, Condition, Consistency, DeleteOptions, Error, GetOptions, PutOptions, Scan, Version};

fn client(endpoints: &[&Fake]) -> Client {
    let endpoints = endpoints.iter().map(|fake| fake.address.clone());
    Client::builder(endpoints).deadline(Duration::from_secs(5)).build().unwrap()
}

fn named() -> PutOptions {
    PutOptions { idempotency_key: Some("name-1".into()), ..PutOptions::default() }
}

fn guarded() -> PutOptions {
    PutOptions { condition: Condition::Version(Version(4)), ..PutOptions::default() }
}

/// Puts against this script; tells how it ended and how many requests it took.
async fn put(options: PutOptions, script: Vec<Turn>) -> (Result<u64, &'static str>, usize) {
    let fake = Fake::start(script).await;
    let written = client(&[&fake]).put_with("k", "v", &options).await;
    (written.map(|written| written.version.0).map_err(|error| error.kind()), fake.seen().len())
}

#[tokio::test]
async fn a_put_says_which_version_it_made_and_whether_the_key_is_new() {
    let fake = Fake::start([versioned(201, 7), versioned(204, 8)]).await;
    let client = client(&[&fake]);
    let options = PutOptions { ttl: Some(Duration::from_secs(30)), condition: Condition::Absent, ..named() };
    let written = client.put_with(b"a b", "v", &options).await.unwrap();
    assert_eq!((written.version, written.created), (Version(7), true));
    assert!(!client.put("k", "v").await.unwrap().created);
    let seen = &fake.seen()[0];
    assert_eq!((seen.method.as_str(), seen.path.as_str(), &seen.body[..]), ("PUT", "/v1/kv/a%20b?ttl=30s", &b"v"[..]));
    let header = |name: &str| seen.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str());
    assert_eq!((header("if-none-match"), header("idempotency-key")), (Some("*"), Some("name-1")));
    assert_eq!(fake.rings_told(), 1);
}

#[tokio::test]
async fn a_plain_put_whose_fate_is_unknown_is_not_repeated() {
    for lost in [Turn::Break, answer(504), answer(500), answer(502)] {
        let script = vec![lost, versioned(201, 9)];
        assert_eq!(put(PutOptions::default(), script).await, (Err("outcome-unknown"), 1));
    }
    // Nor is one that only wants the key to be absent: somebody may delete it in between.
    let options = PutOptions { condition: Condition::Absent, ..PutOptions::default() };
    assert_eq!(put(options, vec![Turn::Break, versioned(201, 9)]).await, (Err("outcome-unknown"), 1));
}

#[tokio::test]
async fn a_put_that_hangs_is_unknown_when_its_time_is_over() {
    let options = PutOptions { deadline: Some(Duration::from_millis(50)), ..PutOptions::default() };
    assert_eq!(put(options, vec![Turn::Hang]).await, (Err("outcome-unknown"), 1));
}

#[tokio::test]
async fn a_named_put_is_repeated_until_it_is_known_what_became_of_it() {
    assert_eq!(put(named(), vec![Turn::Break, answer(504), versioned(201, 9)]).await, (Ok(9), 3));
    // The store remembers the name, so its refusal is about the first attempt too.
    assert_eq!(put(named(), vec![Turn::Break, versioned(412, 5)]).await, (Err("condition-failed"), 2));
    assert_eq!(put(named(), vec![Turn::Break, answer(409)]).await, (Err("conflict"), 2));
    // These refuse before the name is looked up.
    assert_eq!(put(named(), vec![Turn::Break, answer(413)]).await, (Err("outcome-unknown"), 2));
    assert_eq!(put(named(), vec![Turn::Break, answer(507)]).await, (Err("outcome-unknown"), 2));
}

#[tokio::test]
async fn a_put_on_a_version_is_repeated_but_a_failed_condition_may_then_be_its_own_work() {
    assert_eq!(put(guarded(), vec![Turn::Break, versioned(204, 9)]).await, (Ok(9), 2));
    assert_eq!(put(guarded(), vec![Turn::Break, versioned(412, 9)]).await, (Err("outcome-unknown"), 2));
    assert_eq!(put(guarded(), vec![versioned(412, 9)]).await, (Err("condition-failed"), 1));
}

#[tokio::test]
async fn any_put_is_repeated_when_nothing_was_changed() {
    for options in [PutOptions::default(), named(), guarded()] {
        assert_eq!(put(options, vec![answer(503), answer(429), versioned(201, 9)]).await, (Ok(9), 3));
    }
}

#[tokio::test]
async fn a_refusal_after_an_unknown_attempt_does_not_hide_it() {
    let soon = |options: PutOptions| PutOptions { deadline: Some(Duration::from_millis(300)), ..options };
    let script = || [vec![Turn::Break], vec![answer(503); 50]].concat();
    assert_eq!(put(soon(named()), script()).await.0, Err("outcome-unknown"));
    assert_eq!(put(soon(guarded()), script()).await.0, Err("outcome-unknown"));
    assert_eq!(put(soon(named()), vec![answer(503); 50]).await.0, Err("unavailable"));
    assert_eq!(put(soon(named()), vec![answer(429); 50]).await.0, Err("overloaded"));
}

#[tokio::test]
async fn what_the_store_will_never_do_is_asked_once() {
    for (status, kind) in [
        (400, "refused"),
        (403, "refused"),
        (409, "conflict"),
        (412, "condition-failed"),
        (413, "refused"),
        (422, "refused"),
        (423, "refused"),
        (507, "overloaded"),
        (302, "outcome-unknown"),
    ] {
        assert_eq!(put(PutOptions::default(), vec![answer(status)]).await, (Err(kind), 1), "{status}");
    }
}

#[tokio::test]
async fn a_wait_that_would_outlast_the_deadline_is_not_begun() {
    let later = Turn::Answer(503, vec![("retry-after", "3600".into())], "");
    assert_eq!(put(PutOptions::default(), vec![later, versioned(201, 9)]).await, (Err("unavailable"), 1));
}

#[tokio::test]
async fn a_get_is_repeated_whatever_went_wrong() {
    let absent = || Turn::Answer(404, vec![], r#"{"type":"https://annulus.dev/problems/not-found"}"#);
    for lost in [Turn::Break, answer(504), answer(500), answer(503), answer(429)] {
        let fake = Fake::start([lost, Turn::Answer(200, vec![("etag", "\"3\"".into())], "value"), absent()]).await;
        let client = client(&[&fake]);
        let item = client.get("k").await.unwrap().unwrap();
        assert_eq!((item.version, &item.value[..]), (Version(3), &b"value"[..]));
        assert_eq!(client.get("k").await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_get_goes_on_elsewhere_when_a_member_hangs() {
    let (one, two) = (Fake::start([Turn::Hang]).await, Fake::start([versioned(200, 3)]).await);
    one.set_ring(ring(CLUSTER, 1, &[&one.address, &two.address], 0));
    two.set_ring(ring(CLUSTER, 1, &[&one.address, &two.address], 0));
    let options = GetOptions { deadline: Some(Duration::from_secs(1)), consistency: Some(Consistency::Quorum) };
    let item = client(&[&one, &two]).get_with("k", &options).await.unwrap().unwrap();
    assert_eq!(item.version, Version(3));
    assert_eq!(two.seen()[0].path, "/v1/kv/k?consistency=quorum");
}

#[tokio::test]
async fn a_page_of_some_other_server_is_not_an_absent_key() {
    let fake = Fake::start([Turn::Answer(404, vec![], "<h1>Not found</h1>")]).await;
    assert_eq!(client(&[&fake]).get("k").await.unwrap_err().kind(), "unexpected-answer");
}

#[tokio::test]
async fn a_delete_tells_whether_the_key_was_there() {
    let fake = Fake::start([answer(204), answer(404), Turn::Break, Turn::Break, answer(404)]).await;
    let client = client(&[&fake]);
    assert!(client.delete("k").await.unwrap());
    assert!(!client.delete("k").await.unwrap());
    assert!(matches!(client.delete("k").await, Err(Error::OutcomeUnknown { .. })));
    // Absent after an attempt of unknown fate: this delete's own work, or somebody else's?
    let guarded = DeleteOptions { condition: Condition::Version(Version(1)), ..DeleteOptions::default() };
    assert!(matches!(client.delete_with("k", &guarded).await, Err(Error::OutcomeUnknown { .. })));
}

#[tokio::test]
async fn requests_go_straight_to_the_leader_and_follow_it_when_it_changes() {
    let (one, two) = (Fake::start([answer(503)]).await, Fake::start([versioned(201, 1), versioned(201, 2)]).await);
    let addresses = [one.address.as_str(), two.address.as_str()];
    one.set_ring(ring(CLUSTER, 1, &addresses, 0));
    let client = client(&[&one]);
    assert_eq!(client.ring().await.unwrap().epoch, 1);
    for fake in [&one, &two] {
        fake.set_ring(ring(CLUSTER, 2, &addresses, 1));
    }
    // The old leader refuses, the ring now names another, and that one is asked without a wait.
    assert_eq!(client.put("k", "v").await.unwrap().version, Version(1));
    assert_eq!(client.put("k", "v").await.unwrap().version, Version(2));
    assert_eq!((one.seen().len(), two.seen().len()), (1, 2));
}

#[tokio::test]
async fn a_client_goes_straight_to_the_leader_that_an_answer_tells_of() {
    let told = Turn::Answer(201, vec![("etag", "\"1\"".into()), ("annulus-leader", "0000000000000002".into())], "");
    let one = Fake::start([told, versioned(201, 4)]).await;
    let two = Fake::start([versioned(201, 2), Turn::Break, versioned(201, 5)]).await;
    let addresses = [one.address.as_str(), two.address.as_str()];
    for fake in [&one, &two] {
        fake.set_ring(ring(CLUSTER, 1, &addresses, 0));
    }
    let client = client(&[&one]);
    for version in [1, 2] {
        assert_eq!(client.put_with("k", "v", &named()).await.unwrap().version, Version(version));
    }
    assert_eq!((one.seen().len(), two.seen().len(), one.rings_told()), (1, 1, 1));
    // What the ring says later is newer than what was told before.
    assert_eq!(client.put_with("k", "v", &named()).await.unwrap().version, Version(4));
    assert_eq!((one.seen().len(), two.seen().len()), (2, 2));
}

#[tokio::test]
async fn a_leader_that_the_ring_does_not_name_is_not_heeded() {
    let told = Turn::Answer(201, vec![("etag", "\"1\"".into()), ("annulus-leader", "0000000000000009".into())], "");
    let fake = Fake::start([told, versioned(201, 2)]).await;
    let client = client(&[&fake]);
    for version in [1, 2] {
        assert_eq!(client.put("k", "v").await.unwrap().version, Version(version));
    }
}

/// A put's answer of a node that goes by this epoch.
fn at_epoch(version: u64, epoch: u64) -> Turn {
    Turn::Answer(201, vec![("etag", format!("\"{version}\"")), ("annulus-epoch", epoch.to_string())], "")
}

/// Waits until the client goes by this epoch. Fetches of the ring keep a distance from each other, so that the call after
/// the one that told of a newer epoch may come before it has passed.
async fn goes_by(client: &Client, epoch: u64) {
    let comes = async { while client.ring().await.unwrap().epoch < epoch {} };
    tokio::time::timeout(Duration::from_secs(5), comes).await.unwrap();
}

#[tokio::test]
async fn a_newer_epoch_makes_the_client_fetch_the_ring_once_from_its_teller_and_go_straight_to_the_new_leader() {
    let leader = Fake::start([at_epoch(1, 1), at_epoch(2, 2)]).await;
    let (next, behind) = (Fake::start((3..8).map(|version| at_epoch(version, 2))).await, Fake::start([]).await);
    let addresses = [leader.address.as_str(), next.address.as_str(), behind.address.as_str()];
    for fake in [&leader, &next, &behind] {
        fake.set_ring(ring(CLUSTER, 1, &addresses, 0));
    }
    let client = client(&[&leader]);
    client.put("k", "v").await.unwrap();
    assert_eq!(leader.rings_told(), 1);
    // The partition moves; one member has not heard of it yet, and asking that one would teach nothing.
    for fake in [&leader, &next] {
        fake.set_ring(ring(CLUSTER, 2, &addresses, 1));
    }
    client.put("k", "v").await.unwrap();
    goes_by(&client, 2).await;
    for version in 3..8 {
        assert_eq!(client.put("k", "v").await.unwrap().version, Version(version));
    }
    assert_eq!((leader.seen().len(), next.seen().len(), behind.seen().len()), (2, 5, 0));
    assert_eq!((leader.rings_told(), next.rings_told(), behind.rings_told()), (2, 0, 0));
}

#[tokio::test]
async fn many_calls_that_learn_of_a_newer_epoch_fetch_the_ring_once() {
    let fake = Fake::start(std::iter::repeat_n(at_epoch(1, 2), 200)).await;
    let client = client(&[&fake]);
    client.ring().await.unwrap();
    fake.set_ring(ring(CLUSTER, 2, &[&fake.address], 0));
    let mut puts = tokio::task::JoinSet::new();
    for key in 0..200 {
        let client = client.clone();
        puts.spawn(async move { client.put(format!("k/{key}"), "v").await.map(drop) });
    }
    assert!(puts.join_all().await.iter().all(Result::is_ok));
    goes_by(&client, 2).await;
    assert_eq!(fake.rings_told(), 2);
}

#[tokio::test]
async fn a_member_is_found_at_its_new_address_when_the_old_one_is_dead() {
    let other = Fake::start([]).await;
    let moved = Fake::start([versioned(201, 1), versioned(201, 2)]).await;
    // The leader listened at port 1 of this machine, and went away from there.
    other.set_ring(ring(CLUSTER, 1, &["127.0.0.1:1", &other.address], 0));
    let client = client(&[&other]);
    assert_eq!(client.ring().await.unwrap().epoch, 1);
    other.set_ring(ring(CLUSTER, 2, &[&moved.address, &other.address], 0));
    for version in [1, 2] {
        assert_eq!(client.put("k", "v").await.unwrap().version, Version(version));
    }
    assert_eq!((moved.seen().len(), other.seen().len(), other.rings_told() + moved.rings_told()), (2, 0, 2));
}

#[tokio::test]
async fn a_member_that_vanished_is_asked_no_more_even_when_it_was_the_endpoint() {
    let gone = Fake::start([at_epoch(1, 2)]).await;
    let left = Fake::start([versioned(201, 2), versioned(201, 3)]).await;
    gone.set_ring(ring(CLUSTER, 1, &[&gone.address, &left.address], 0));
    let client = client(&[&gone]);
    client.ring().await.unwrap();
    for fake in [&gone, &left] {
        fake.set_ring(ring(CLUSTER, 2, &[&left.address], 0));
    }
    assert_eq!(client.put("k", "v").await.unwrap().version, Version(1));
    goes_by(&client, 2).await;
    let asked = gone.seen().len();
    drop(gone);
    for version in [2, 3] {
        assert_eq!(client.put("k", "v").await.unwrap().version, Version(version));
    }
    assert_eq!((asked, left.seen().len()), (1, 2));
    assert_eq!(client.fresh_ring().await.unwrap().members.len(), 1);
}

#[tokio::test]
async fn a_client_of_a_store_all_of_whose_first_members_were_replaced_goes_on() {
    let first = Fake::start([]).await;
    let second = Fake::start([versioned(201, 1)]).await;
    first.set_ring(ring(CLUSTER, 1, &[&second.address], 0));
    let client = client(&[&first]);
    client.ring().await.unwrap();
    drop(first);
    assert_eq!(client.put("k", "v").await.unwrap().version, Version(1));
    second.set_ring(ring(CLUSTER, 3, &[&second.address], 0));
    assert_eq!(client.fresh_ring().await.unwrap().epoch, 3);
}

#[tokio::test]
async fn a_dead_leader_is_passed_over() {
    let two = Fake::start([versioned(201, 1)]).await;
    // Port 1 of this machine: nobody listens there.
    two.set_ring(ring(CLUSTER, 1, &["127.0.0.1:1", &two.address], 0));
    assert_eq!(client(&[&two]).put("k", "v").await.unwrap().version, Version(1));
}

#[tokio::test]
async fn endpoints_of_two_clusters_are_refused_and_both_are_named() {
    let other = "ffffffff-0405-0607-0809-0a0b0c0d0e0f";
    let (one, two) = (Fake::start([]).await, Fake::start([]).await);
    two.set_ring(ring(other, 1, &[&two.address], 0));
    let error = client(&[&one, &two]).put("k", "v").await.unwrap_err();
    assert_eq!(error.kind(), "two-clusters");
    let text = error.to_string();
    assert!(text.contains(&format!("{} belongs to cluster {CLUSTER}", one.address)), "{text}");
    assert!(text.contains(&format!("{} to cluster {other}", two.address)), "{text}");
    assert!(one.seen().is_empty() && two.seen().is_empty());
}

#[tokio::test]
async fn without_any_endpoint_that_answers_the_store_is_not_available() {
    let client = Client::builder(["127.0.0.1:1", "127.0.0.1:2"]).build().unwrap();
    let text = client.get("k").await.unwrap_err().to_string();
    assert!(text.contains("127.0.0.1:1: no connection (Connection refused"), "{text}");
    assert!(text.contains("127.0.0.1:2"), "{text}");
}

#[tokio::test]
async fn one_attempt_means_one() {
    let fake = Fake::start([answer(503), versioned(201, 1)]).await;
    let client = Client::builder([fake.address.clone()]).max_attempts(1).build().unwrap();
    assert_eq!(client.put("k", "v").await.unwrap_err().kind(), "unavailable");
    assert_eq!(fake.seen().len(), 1);
}

#[tokio::test]
async fn a_scan_follows_the_cursor_to_the_end() {
    let first = r#"{"items":[{"key":"a/1","version":1,"value":"x"}],"cursor":"c+1"}"#;
    let last = r#"{"items":[{"key_base64":"YS//","version":2,"value_base64":"/w=="}],"cursor":null}"#;
    let fake = Fake::start([Turn::Answer(200, vec![], first), Turn::Break, Turn::Answer(200, vec![], last)]).await;
    let scan = Scan { prefix: "a/".into(), limit: Some(1), values: true, ..Scan::default() };
    let mut pages = client(&[&fake]).pages(scan);
    let mut keys = Vec::new();
    while let Some(page) = pages.next().await.unwrap() {
        keys.extend(page.entries.into_iter().map(|entry| entry.key));
    }
    assert_eq!(keys, [&b"a/1"[..], &b"a/\xff"[..]]);
    let paths: Vec<String> = fake.seen().into_iter().map(|seen| seen.path).collect();
    assert_eq!(paths[0], "/v1/kv?prefix=a/&values=true&limit=1");
    assert_eq!(paths[2], "/v1/kv?prefix=a/&values=true&limit=1&cursor=c%2B1");
}

#[tokio::test]
async fn nothing_is_sent_that_could_only_be_refused() {
    let fake = Fake::start([]).await;
    let client = client(&[&fake]);
    assert_eq!(client.put("", "v").await.unwrap_err().kind(), "invalid-key");
    assert_eq!(client.get(vec![b'k'; 4097]).await.unwrap_err().kind(), "invalid-key");
    assert_eq!(client.put("k", vec![0; 9 << 20]).await.unwrap_err().kind(), "invalid-option");
    for name in ["", "with space", &"x".repeat(256)] {
        let options = PutOptions { idempotency_key: Some(name.into()), ..PutOptions::default() };
        assert_eq!(client.put_with("k", "v", &options).await.unwrap_err().kind(), "invalid-option");
    }
    assert_eq!(fake.rings_told(), 0);
}
