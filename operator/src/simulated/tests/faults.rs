use std::pin::pin;

use annulus_crds::StorageCluster;
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::{Api, GetParams, ListParams, Patch, PatchParams, PostParams, WatchParams};
use serde_json::json;

use super::super::{Cluster, Fault, Rule, Verb};
use super::{map, refusal, soon, stored};

#[tokio::test]
async fn a_refused_write_is_not_done() {
    let cluster = Cluster::new(1);
    let maps = Api::<ConfigMap>::default_namespaced(cluster.client());
    cluster.inject(Rule::new(Fault::internal_error()).writes().of::<ConfigMap>().times(1));
    cluster.inject(Rule::new(Fault::conflict()).verbs(&[Verb::Create]).times(1));
    assert_eq!(refusal(maps.create(&PostParams::default(), &map("a", &json!({}))).await).code, 500);
    let conflict = refusal(maps.create(&PostParams::default(), &map("a", &json!({}))).await);
    assert!(conflict.is_conflict() && !conflict.is_already_exists());
    assert_eq!((maps.get_opt("a").await.unwrap(), cluster.writes()), (None, vec![]));
    maps.create(&PostParams::default(), &map("a", &json!({}))).await.unwrap();
    assert_eq!(cluster.faults_counted("refuse"), 2);
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_was_done() {
    let cluster = Cluster::new(1);
    let maps = Api::<ConfigMap>::default_namespaced(cluster.client());
    cluster.inject(Rule::new(Fault::LoseAnswer).writes().name("").times(1));
    let lost = maps.create(&PostParams::default(), &map("a", &json!({}))).await;
    assert!(!matches!(lost, Ok(_) | Err(kube::Error::Api(_))), "{lost:?}");
    assert!(maps.get_opt("a").await.unwrap().is_some());
    cluster.inject(Rule::new(Fault::LoseRequest).verbs(&[Verb::Patch]).after(1).times(1));
    let patch = |x: &str| Patch::Merge(json!({"data": {"x": x}}));
    maps.patch("a", &PatchParams::default(), &patch("1")).await.unwrap();
    maps.patch("a", &PatchParams::default(), &patch("2")).await.unwrap_err();
    assert_eq!(maps.get("a").await.unwrap().data.unwrap()["x"], "1");
    maps.patch("a", &PatchParams::default(), &patch("2")).await.unwrap();
    assert_eq!(cluster.writes().len(), 3);
}

#[tokio::test]
async fn a_stale_read_shows_how_things_were() {
    let cluster = Cluster::new(1);
    let maps = Api::<ConfigMap>::default_namespaced(cluster.client());
    for x in ["1", "2", "3"] {
        let object = map("a", &json!({"x": x}));
        if cluster.get::<ConfigMap>("default", "a").is_none() {
            cluster.create(&object).unwrap();
        } else {
            cluster.patch::<ConfigMap>("default", "a", &json!({"data": {"x": x}})).unwrap();
        }
    }
    let x = |object: &ConfigMap| object.data.as_ref().unwrap()["x"].clone();
    let rule = cluster.inject(Rule::new(Fault::Stale { writes: 1, even_latest: false }));
    assert_eq!(x(&maps.get("a").await.unwrap()), "3", "the latest version was asked for");
    assert_eq!(x(&maps.get_with("a", &GetParams::any()).await.unwrap()), "2");
    let list = maps.list(&ListParams::default().match_any()).await.unwrap();
    assert_eq!(x(&list.items[0]), "2");
    cluster.lift(rule);
    cluster.inject(Rule::new(Fault::Stale { writes: 2, even_latest: true }));
    let old = maps.get("a").await.unwrap();
    assert_eq!(x(&old), "1");
    assert!(refusal(maps.replace("a", &PostParams::default(), &old).await).is_conflict());
    cluster.lift_all();
    cluster.inject(Rule::new(Fault::Stale { writes: 100, even_latest: true }));
    assert_eq!(maps.get_opt("a").await.unwrap(), None);
    assert_eq!(cluster.faults_counted("stale"), 4);
}

#[tokio::test]
async fn a_right_that_is_missing_and_a_missing_definition_are_told_apart() {
    let cluster = Cluster::new(1);
    let client = cluster.client();
    let forbidden = cluster.inject(Rule::new(Fault::forbidden()).of::<Secret>());
    cluster.inject(Rule::new(Fault::Missing).of::<StorageCluster>());
    let secrets = Api::<Secret>::default_namespaced(client.clone());
    let refused = refusal(secrets.list(&ListParams::default()).await);
    assert!(refused.is_forbidden() && refused.message.contains("cannot list resource \"secrets\""), "{refused:?}");
    assert!(refusal(secrets.watch(&WatchParams::default(), "0").await.map(|_| ())).is_forbidden());
    cluster.lift(forbidden);
    secrets.list(&ListParams::default()).await.unwrap();
    let stores = Api::<StorageCluster>::all(client);
    let missing = refusal(stores.list(&ListParams::default()).await);
    // The plain text of the real server is no `Status`, so that kube knows the code and no reason.
    assert!(missing.code == 404 && !missing.is_not_found(), "{missing:?}");
    assert_eq!(cluster.faults_counted("missing"), 1);
}

#[tokio::test]
async fn faults_by_chance_follow_from_the_seed() {
    let run = async |seed| {
        let cluster = Cluster::new(seed);
        cluster.inject(Rule::new(Fault::internal_error()).verbs(&[Verb::List]).one_in(3));
        let pods = Api::<Pod>::all(cluster.client());
        let mut failed = Vec::new();
        for attempt in 0..60 {
            if pods.list(&ListParams::default()).await.is_err() {
                failed.push(attempt);
            }
        }
        failed
    };
    let failed = run(5).await;
    assert!((8..35).contains(&failed.len()), "{failed:?}");
    assert_eq!(run(5).await, failed);
    assert_ne!(run(6).await, failed);
}

#[tokio::test]
async fn a_cut_session_can_do_nothing_more_and_a_new_one_goes_on() {
    let cluster = Cluster::new(1);
    let first = cluster.session();
    let client = first.client();
    let maps = Api::<ConfigMap>::default_namespaced(client.clone());
    let stores = Api::<StorageCluster>::default_namespaced(client);
    let mut events = pin!(maps.watch(&WatchParams::default(), "0").await.unwrap());
    first.cut_after(2);
    maps.create(&PostParams::default(), &map("a", &json!({}))).await.unwrap();
    soon(events.next()).await.unwrap().unwrap();
    // A write that changes nothing is none to crash after.
    let nothing = Patch::Merge(json!({}));
    maps.patch("a", &PatchParams::default(), &nothing).await.unwrap();
    assert!(!first.is_cut());
    stores.create(&PostParams::default(), &stored("demo")).await.unwrap();
    soon(first.until_cut()).await;
    assert!(first.is_cut() && first.changes() == 2);
    assert!(matches!(maps.get("a").await, Err(error) if !matches!(error, kube::Error::Api(_))));
    assert!(soon(events.next()).await.unwrap().is_err(), "its watches break, too");
    let second = cluster.session();
    let maps = Api::<ConfigMap>::default_namespaced(second.client());
    assert!(maps.get_opt("a").await.unwrap().is_some());
    assert_eq!(cluster.writes().iter().filter(|write| write.session == second.number()).count(), 0);
    assert_eq!(cluster.faults_counted("cut"), 1);
}
