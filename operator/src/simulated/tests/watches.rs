use std::pin::pin;

use futures_util::{Stream, StreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{WatchEvent, WatchParams};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{Config, Error, Event, watcher};
use serde_json::json;

use super::super::{Cluster, WatchDelay, WatchEnd};
use super::{map, soon};

fn told(event: Result<Event<ConfigMap>, Error>) -> String {
    match event {
        Ok(Event::Init) => "init".to_owned(),
        Ok(Event::InitDone) => "done".to_owned(),
        Ok(Event::InitApply(object)) => format!("has {}", object.metadata.name.unwrap()),
        Ok(Event::Apply(object)) => format!("apply {}", object.metadata.name.unwrap()),
        Ok(Event::Delete(object)) => format!("delete {}", object.metadata.name.unwrap()),
        Err(Error::WatchError(status)) => format!("error {}", status.code),
        Err(Error::WatchFailed(_)) => "broken".to_owned(),
        Err(error) => format!("failed: {error}"),
    }
}

/// The next things that a watcher is told.
async fn next(stream: &mut (impl Stream<Item = Result<Event<ConfigMap>, Error>> + Unpin), count: usize) -> Vec<String> {
    let mut seen = Vec::new();
    while seen.len() < count {
        seen.push(told(soon(stream.next()).await.unwrap()));
    }
    seen
}

async fn is_quiet(stream: &mut (impl Stream<Item = Result<Event<ConfigMap>, Error>> + Unpin)) -> bool {
    // Everything runs on one thread: after a few turns nothing is left to come.
    for _ in 0..50 {
        if futures_util::poll!(stream.next()).is_ready() {
            return false;
        }
        tokio::task::yield_now().await;
    }
    true
}

fn add(cluster: &Cluster, name: &str) {
    cluster.create(&map(name, &json!({}))).unwrap();
}

#[tokio::test]
async fn a_watcher_is_told_what_there_is_and_then_each_change() {
    let cluster = Cluster::new(1);
    add(&cluster, "a");
    for config in [Config::default(), Config::default().streaming_lists(), Config::default().any_semantic()] {
        let mut events = pin!(watcher(Api::<ConfigMap>::all(cluster.client()), config));
        assert_eq!(next(&mut events, 3).await, ["init", "has a", "done"]);
        add(&cluster, "b");
        cluster.patch::<ConfigMap>("default", "a", &json!({"data": {"x": "1"}})).unwrap();
        cluster.delete::<ConfigMap>("default", "b").unwrap();
        assert_eq!(next(&mut events, 3).await, ["apply b", "apply a", "delete b"]);
        assert!(is_quiet(&mut events).await);
        cluster.remove::<ConfigMap>("default", "a").unwrap();
        assert_eq!(next(&mut events, 1).await, ["delete a"]);
        add(&cluster, "a");
    }
}

#[tokio::test]
async fn an_object_that_comes_to_match_is_new_and_one_that_no_longer_does_is_gone() {
    let cluster = Cluster::new(1);
    add(&cluster, "a");
    let labels = |value: serde_json::Value| json!({"metadata": {"labels": {"tier": value}}});
    let config = Config::default().labels("tier=one");
    let mut events = pin!(watcher(Api::<ConfigMap>::default_namespaced(cluster.client()), config));
    assert_eq!(next(&mut events, 2).await, ["init", "done"]);
    for value in [json!("one"), json!("two"), json!("one"), json!(null)] {
        cluster.patch::<ConfigMap>("default", "a", &labels(value)).unwrap();
    }
    assert_eq!(next(&mut events, 4).await, ["apply a", "delete a", "apply a", "delete a"]);
}

#[tokio::test]
async fn a_watch_that_ends_is_taken_up_where_it_was() {
    let cluster = Cluster::new(1);
    let mut events = pin!(watcher(Api::<ConfigMap>::all(cluster.client()), Config::default()));
    assert_eq!(next(&mut events, 2).await, ["init", "done"]);
    assert!(is_quiet(&mut events).await);
    cluster.end_watches(WatchEnd::Closed);
    add(&cluster, "a");
    assert_eq!(next(&mut events, 1).await, ["apply a"]);
    cluster.end_watches(WatchEnd::Broken);
    add(&cluster, "b");
    assert_eq!(next(&mut events, 2).await, ["broken", "apply b"]);
    assert_eq!(cluster.faults_counted("end-watches"), 2);
    // The watch's own time runs out.
    cluster.advance(290);
    add(&cluster, "c");
    assert_eq!(next(&mut events, 1).await, ["apply c"]);
}

#[tokio::test]
async fn a_watcher_that_is_too_far_behind_lists_again() {
    let cluster = Cluster::new(1);
    add(&cluster, "a");
    let mut events = pin!(watcher(Api::<ConfigMap>::all(cluster.client()), Config::default()));
    assert_eq!(next(&mut events, 3).await, ["init", "has a", "done"]);
    assert!(is_quiet(&mut events).await);
    cluster.end_watches(WatchEnd::Expired);
    assert_eq!(next(&mut events, 4).await, ["error 410", "init", "has a", "done"]);
    cluster.hold_watches();
    add(&cluster, "b");
    assert!(is_quiet(&mut events).await);
    cluster.forget_history();
    cluster.delay_watches(WatchDelay::None);
    assert_eq!(next(&mut events, 5).await, ["error 410", "init", "has a", "has b", "done"]);
}

#[tokio::test]
async fn a_bookmark_moves_a_quiet_watcher_past_what_is_forgotten() {
    let cluster = Cluster::new(1);
    let elsewhere = Api::<ConfigMap>::namespaced(cluster.client(), "quiet");
    let mut events = pin!(watcher(elsewhere, Config::default()));
    assert_eq!(next(&mut events, 2).await, ["init", "done"]);
    add(&cluster, "elsewhere");
    assert!(is_quiet(&mut events).await);
    cluster.send_bookmarks();
    assert!(is_quiet(&mut events).await);
    cluster.forget_history();
    cluster.end_watches(WatchEnd::Closed);
    assert!(is_quiet(&mut events).await, "it goes on from the bookmark");
}

#[tokio::test]
async fn changes_can_be_told_late() {
    let cluster = Cluster::new(1);
    let mut events = pin!(watcher(Api::<ConfigMap>::all(cluster.client()), Config::default()));
    assert_eq!(next(&mut events, 2).await, ["init", "done"]);
    cluster.delay_watches(WatchDelay::Writes(2));
    add(&cluster, "a");
    add(&cluster, "b");
    assert!(is_quiet(&mut events).await);
    add(&cluster, "c");
    assert_eq!(next(&mut events, 1).await, ["apply a"]);
    assert!(is_quiet(&mut events).await);
    cluster.lift_all();
    assert_eq!(next(&mut events, 2).await, ["apply b", "apply c"]);
}

#[tokio::test]
async fn a_raw_watch_shows_bookmarks_and_metadata_alone() {
    let cluster = Cluster::new(1);
    add(&cluster, "a");
    let api = Api::<PartialObjectMeta<ConfigMap>>::default_namespaced(cluster.client());
    let mut events = pin!(api.watch(&WatchParams::default(), "0").await.unwrap());
    let first = soon(events.next()).await.unwrap().unwrap();
    assert!(matches!(first, WatchEvent::Added(object) if object.metadata.name.as_deref() == Some("a")));
    cluster.send_bookmarks();
    let Some(Ok(WatchEvent::Bookmark(bookmark))) = soon(events.next()).await else { panic!("no bookmark") };
    assert_eq!(bookmark.metadata.resource_version, cluster.version().to_string());
}
