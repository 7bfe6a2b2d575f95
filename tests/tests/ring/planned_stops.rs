//! Members are stopped and started again one after the other, as an upgrade does it.
//!
//! The bar for a gap is 300 ms on a quiet machine; what is asserted is looser, so that the test tells a broken store from a
//! busy machine.

use std::time::Duration;

use annulus_tests::processes::{Load, Store, tell};

/// The longest that a key may not be had.
const BOUND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn members_that_are_stopped_in_turn_are_missed_by_nobody() {
    let mut store = Store::of(3).await;
    let all = [0, 1, 2];
    store.until_balanced(&all).await;
    let load = Load::watched(store.addresses(&all));
    load.more(200).await;
    load.take_calls();
    for place in all {
        assert!(store.end(place).await.success());
        load.more(100).await;
        store.start(place);
        store.until_ready(place).await;
        store.until_balanced(&all).await;
        load.more(100).await;
        let calls = load.take_calls();
        let (name, failed, gap) = (&store.spec(place).name, calls.failed.len(), calls.longest_gap());
        tell(format!(
            "{name} stopped and started: of {} calls {failed} failed at first; longest gap {gap:.0?}",
            calls.made
        ));
        assert_eq!(calls.failed_again, Vec::<String>::new());
        assert!(gap <= BOUND, "a key could not be had for {gap:?}: {:?}", calls.gaps);
    }
    assert_eq!(load.end().await.violations(), []);
}
