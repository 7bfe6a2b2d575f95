//! Members join and leave under load, and nobody who asks through our client has to know.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use annulus_client::MemberState;
use annulus_core::id::GroupId;
use annulus_core::state::{State, TableId};
use annulus_node::storage::{Directory, Disk, Identity, IdentityFile, Options, open_lane};
use annulus_tests::processes::{Load, Store, tell, until};

/// The groups of a store: the map group, and one for each partition.
const GROUPS: u32 = 129;
/// More than a replica can have been restored here.
const GENERATIONS: u32 = 8;
/// How long what is not a move may take.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_store_of_three_grows_to_five_and_shrinks_to_three_others_under_load() {
    let mut store = Store::with(&["", "", ""], &[("ANNULUS_OVERLAY_MAX_AGE", "500ms")]).await;
    let load = Load::watched(store.addresses(&[0, 1, 2]));
    load.more(200).await;

    store.add_node("node-4", "").await;
    store.add_node("node-5", "").await;
    let began = Instant::now();
    let epoch = store.put(&[0, 1, 2, 3, 4]).await;
    let plan = store.until_settled(epoch).await;
    let grown = began.elapsed();
    assert!(plan.members.len() == 5 && plan.members.iter().all(|member| member.state == MemberState::Active));
    store.until_balanced(&[0, 1, 2, 3, 4]).await;
    load.more(200).await;

    let began = Instant::now();
    let epoch = store.put(&[1, 2, 4]).await;
    let plan = store.until_settled(epoch).await;
    let shrunk = began.elapsed();
    let names: Vec<&str> = plan.members.iter().map(|member| member.name.as_str()).collect();
    assert_eq!((names.len(), plan.members.iter().all(|member| member.replicas == 129)), (3, true), "{names:?}");
    store.until_balanced(&[1, 2, 4]).await;
    load.more(200).await;
    let calls = load.take_calls();
    let (failed, gap) = (calls.failed.len(), calls.longest_gap());
    tell(format!(
        "three grew to five in {grown:.1?} and shrank to three in {shrunk:.1?}; of {} calls {failed} failed at first; the \
         longest gap of a key was {gap:.0?}",
        calls.made
    ));
    assert_eq!(calls.failed_again, Vec::<String>::new());
    assert_eq!(load.end_at(&store.addresses(&[1, 2, 4])).await.violations(), []);
    for place in [0, 3] {
        holds_nothing(&mut store, place).await;
    }
    assert!(store.end(1).await.success());
    assert!(records_on(store.data(1)) > 0, "records are found where there are any");
}

/// Whoever has left says that it holds nothing and why it is not ready, and its volume has no record any more.
async fn holds_nothing(store: &mut Store, place: usize) {
    until("whoever has left holds nothing, on disk too", PATIENCE, async || {
        let replicas = store.replicas(place).await?;
        (replicas == 0 && store.metric(place, "annulus_lane_overlay_bytes").await? == 0.0).then_some(())
    })
    .await;
    let ready = store.ready_text(place).await;
    assert!(ready.contains("this member was removed from its store"), "{ready}");
    assert!(store.end(place).await.success());
    assert_eq!(records_on(store.data(place)), 0, "records on the volume of node-{}", place + 1);
    // Nor does it come back with anything.
    store.start(place);
    store.until_known(place).await;
    assert_eq!(store.replicas(place).await, Some(0));
}

/// How many records of keys there are on a volume. (What remains of a group is what its replica had promised.)
fn records_on(data: &Path) -> usize {
    let disk: Arc<dyn Disk> = Arc::new(Directory::open(data).expect("a volume that nobody uses can be opened"));
    let identity = IdentityFile::open(Arc::clone(&disk)).expect("an identity can be read").expect("it is there");
    let Identity { lanes, marks, .. } = identity.get();
    let mut records = 0;
    for lane in 0..lanes {
        let opened = open_lane(&disk, lane, marks[lane as usize], &Options::default()).expect("a lane can be opened");
        let mut count = |_: &[u8], _: &[u8]| {
            records += 1;
            ControlFlow::Continue(())
        };
        for group in (0..GROUPS).map(GroupId) {
            for generation in 0..GENERATIONS {
                let table = TableId { group, generation };
                opened.state.range(table, &[], None, &mut count).expect("records can be read");
            }
        }
    }
    records
}
