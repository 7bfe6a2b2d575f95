//! Waiting for something to be so.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

/// How often something is looked at that is waited for. Each look goes through the API server, which has to do for the cluster, too.
const POLL: Duration = Duration::from_millis(100);

/// Waits until `attempt` gives something. Panics when that takes longer than `patience`, with what the last attempt said.
pub(crate) async fn until<T>(what: &str, patience: Duration, mut attempt: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + patience;
    let mut last = "nothing has answered".to_owned();
    loop {
        match timeout_at(deadline, attempt()).await {
            Ok(Ok(there)) => return there,
            Ok(Err(why)) => last = why,
            Err(_) => {}
        }
        assert!(Instant::now() < deadline, "waited {patience:?} in vain: {what}\nat last: {last}");
        sleep(POLL).await;
    }
}

/// `Ok` if it holds, what is the case otherwise.
pub(crate) fn holds(it: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if it { Ok(()) } else { Err(otherwise()) }
}
