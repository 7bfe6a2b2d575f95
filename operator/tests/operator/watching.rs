//! The whole operator as `main` runs it, with its lease, watches and queue, against a simulated API server whose watches end, break
//! off in the middle of a word, say that they can't go on, and tell of things late or not at all.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::nodes::{NAMESPACE, Nodes};
use annulus_crds::{StorageCluster, StorageClusterStatus};
use annulus_operator::operate::{self, Settings};
use annulus_operator::simulated::{Cluster, Fault, Rule, Verb, WatchDelay, WatchEnd};
use annulus_operator::stores::Stores;
use futures_util::future::{self, Either};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Service};
use kube::ResourceExt;
use serde_json::{Value, json};
use tokio::time::sleep;

const NAME: &str = "demo";
/// How long everything may take to be as it is wanted, in seconds.
const SETTLED_WITHIN_S: usize = 300;

/// What may be wrong with watches while things change.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    /// They end in this way, every few seconds.
    Ends(WatchEnd),
    /// They end, and what has changed meanwhile is forgotten: whoever resumes is told 410.
    Forgotten,
    /// Some are refused with this when they begin, and all end now and then.
    Refused(u16, &'static str),
    /// Nothing is told for seconds, then all at once.
    Late,
    /// Nothing is told, and then they break: whoever lists anew must see what was missed.
    Missed,
    /// The connection that was to begin is lost, or that of the list before it.
    Lost,
}

const ALL: [Trouble; 9] = [
    Trouble::Ends(WatchEnd::Closed),
    Trouble::Ends(WatchEnd::Broken),
    Trouble::Ends(WatchEnd::Torn),
    Trouble::Ends(WatchEnd::Expired),
    Trouble::Forgotten,
    Trouble::Refused(410, "Expired"),
    Trouble::Late,
    Trouble::Missed,
    Trouble::Lost,
];

struct Scene {
    cluster: Cluster,
    nodes: Arc<Nodes>,
}

impl Scene {
    fn new(seed: u64) -> Self {
        let cluster = Cluster::with_nodes(seed, 6);
        let resource = json!({
            "apiVersion": "annulus.dev/v1alpha1", "kind": "StorageCluster",
            "metadata": {"name": NAME, "namespace": NAMESPACE},
            "spec": {"replicas": 3, "partitions": 8, "storage": {"size": "1Gi"}},
        });
        cluster.create::<StorageCluster>(&serde_json::from_value(resource).unwrap()).unwrap();
        let nodes = Nodes::new(&cluster);
        Self { cluster, nodes }
    }

    /// Operates while `body` goes on. The operator must not end by itself.
    async fn operated(&self, body: impl Future<Output = ()>) {
        let settings = Settings {
            namespaces: BTreeSet::new(),
            node_image: "annulus/node:1".to_owned(),
            listen: "127.0.0.1:0".parse().unwrap(),
            lease_namespace: "annulus-system".to_owned(),
            lease_name: "annulus-operator".to_owned(),
            identity: "operator-1".to_owned(),
            injection: None,
        };
        let stores = Arc::clone(&self.nodes) as Arc<dyn Stores>;
        let operated = operate::run_with(self.cluster.client(), stores, settings, future::pending());
        match future::select(Box::pin(operated), Box::pin(body)).await {
            Either::Left((ended, _)) => panic!("the operator has ended: {ended:?}"),
            Either::Right(((), _)) => {}
        }
    }

    async fn second(&self) {
        sleep(Duration::from_secs(1)).await;
        self.cluster.advance(1);
        self.cluster.step();
        self.nodes.round();
    }

    fn status(&self) -> StorageClusterStatus {
        let resource = self.cluster.get::<StorageCluster>(NAMESPACE, NAME).unwrap();
        assert!(resource.metadata.deletion_timestamp.is_none());
        resource.status.unwrap_or_default()
    }

    fn is_settled(&self) -> bool {
        let resource = self.cluster.get::<StorageCluster>(NAMESPACE, NAME).unwrap();
        let status = self.status();
        status.observed_generation == resource.metadata.generation.unwrap()
            && status.phase == "Running"
            && status.ready_replicas == resource.spec.replicas
            && status.plan.is_none()
            && self.cluster.list::<Service>(Some(NAMESPACE)).len() == 2
    }

    async fn settle(&self, when: &str) {
        for _ in 0..SETTLED_WITHIN_S {
            self.second().await;
            if self.is_settled() {
                return;
            }
        }
        panic!("{when}: it does not settle: {:#?}", self.status());
    }

    fn change(&self, spec: &Value) {
        self.cluster.patch::<StorageCluster>(NAMESPACE, NAME, &json!({"spec": spec})).unwrap();
    }

    /// What is wanted, and what is lost, while watches are in trouble.
    fn happen(&self, second: usize) {
        match second {
            2 => self.change(&json!({"replicas": 5})),
            30 => drop(self.cluster.remove::<Service>(NAMESPACE, NAME)),
            36 => {
                self.cluster.remove::<Pod>(NAMESPACE, &self.cluster.list::<Pod>(Some(NAMESPACE))[0].name_any()).unwrap()
            }
            48 => self.change(&json!({"replicas": 3})),
            52 => self.change(&json!({"replicas": 5})),
            70 => self.change(&json!({"replicas": 3, "image": "annulus/node:2"})),
            _ => {}
        }
    }

    fn trouble(&self, trouble: Trouble, second: usize) {
        let ends = second % 3 == 1;
        match trouble {
            Trouble::Ends(how) if ends => self.cluster.end_watches(how),
            Trouble::Forgotten if ends => {
                self.cluster.end_watches(WatchEnd::Closed);
                self.cluster.forget_history();
            }
            Trouble::Refused(code, reason) if second == 0 => {
                self.cluster.inject(Rule::new(Fault::Refuse { code, reason }).verbs(&[Verb::Watch]).one_in(2));
            }
            Trouble::Lost if second == 0 => {
                self.cluster.inject(Rule::new(Fault::LoseRequest).verbs(&[Verb::Watch, Verb::List]).one_in(2));
            }
            Trouble::Refused(..) | Trouble::Lost if ends => self.cluster.end_watches(WatchEnd::Broken),
            Trouble::Late | Trouble::Missed => match second % 12 {
                1 => self.cluster.hold_watches(),
                8 => {
                    if matches!(trouble, Trouble::Missed) {
                        self.cluster.end_watches(WatchEnd::Broken);
                        self.cluster.forget_history();
                    }
                    self.cluster.delay_watches(WatchDelay::None);
                }
                _ => {}
            },
            _ => {}
        }
        // Bookmarks come now and then, and mostly not.
        if second % 20 == 10 {
            self.cluster.send_bookmarks();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_to_its_watches_the_operator_comes_to_the_same_end() {
    for (seed, trouble) in (1..).zip(ALL) {
        let scene = Scene::new(seed);
        let body = async {
            scene.settle("at first").await;
            for second in 0..90 {
                scene.happen(second);
                scene.trouble(trouble, second);
                scene.second().await;
            }
            scene.cluster.lift_all();
            scene.settle(&format!("{trouble:?}")).await;
        };
        scene.operated(body).await;
        let pods = scene.cluster.list::<Pod>(Some(NAMESPACE));
        let images = pods.iter().map(|pod| pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap());
        assert_eq!(images.collect::<Vec<_>>(), ["annulus/node:2"; 3], "{trouble:?}");
        for claim in scene.cluster.list::<PersistentVolumeClaim>(Some(NAMESPACE)) {
            let volume = scene.cluster.volume(NAMESPACE, &claim.name_any()).unwrap();
            let is_kept = claim.annotations().contains_key(annulus_crds::annotations::RETIRED);
            assert_ne!(is_kept, scene.nodes.is_needed(&volume), "{trouble:?}: {}", claim.name_any());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_settled_operator_asks_for_nothing_but_watches_and_its_lease() {
    for how in [WatchEnd::Closed, WatchEnd::Broken] {
        let scene = Scene::new(1);
        let body = async {
            scene.settle("at first").await;
            for _ in 0..30 {
                scene.second().await;
            }
            scene.cluster.take_requests();
            scene.cluster.take_writes();
            for second in 0..120 {
                scene.second().await;
                // Whoever knows where it was goes on from there, and lists nothing.
                if second == 60 {
                    scene.cluster.end_watches(how);
                }
            }
            let requests = scene.cluster.take_requests();
            let others: Vec<_> = requests
                .iter()
                .filter(|(what, _)| !what.starts_with("Watch ") && !what.ends_with(" leases.coordination.k8s.io"))
                .collect();
            assert!(others.is_empty(), "{others:?}");
            let renewed = scene.cluster.take_writes().len();
            assert!((20..=30).contains(&renewed), "the lease was renewed {renewed} times in two minutes");
            // Eight kinds, each begun anew once.
            let watches: u64 =
                requests.iter().filter(|(what, _)| what.starts_with("Watch ")).map(|(_, times)| times).sum();
            assert!((8..=16).contains(&watches), "{watches} watches were begun");
        };
        scene.operated(body).await;
    }
}
