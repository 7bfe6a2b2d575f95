//! What the tests of real processes are made of: a store started by the real binary, clients that write down everything
//! they were told, and the judge of what they wrote down.
//!
//! ```text
//!  Dev ─ starts, kills, stops, ends ─▶ annulus dev ─▶ members
//!  Store ─ the same, and each member by itself ─────────▶ ▲ │
//!  Load ─ puts and gets, all the time ────────────────────┘ │
//!   └─▶ History ◀── what was asked, when, and what came back ┘
//!          └─▶ check: can one register per key explain it?
//!  Sidecar ─ a store on localhost, killed and ended by itself ─▶ members
//!  served ─ a load and a filling that are asked over HTTP: they run in a cluster, their judge does not
//!  Counter ─ what an application would be, that counts under a lock ─▶ its sidecar
//!  Bank, Contest ─ transactions and locks, each its own judge ─▶ members
//! ```
//!
//! It never waits for a time to pass where it can wait for something to be so, never waits without an end, and leaves no
//! process behind, however a test ends.

mod bank;
mod counter;
mod dev;
mod filling;
mod history;
mod http;
mod load;
mod locks;
mod reaped;
mod served;
mod sidecar;
mod store;

use std::fmt::Display;
use std::io::{self, Write};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

pub use self::http::{Answer, Failure, Http};
pub use bank::Bank;
pub use counter::{Count, Counter};
pub use dev::{Dev, Member};
pub use filling::Filling;
pub use history::{Fate, History, Seen, Violation};
pub use load::{Calls, Load, Shape};
pub use locks::Contest;
pub use reaped::{annulus, free_ports};
pub use served::{Phase, Progress, Verdict, Wish, serve};
pub use sidecar::Sidecar;
pub use store::{Store, problem};

/// How often something is looked at that is waited for.
const POLL: Duration = Duration::from_millis(5);

/// Waits until `attempt` gives something. Panics when that takes longer than `patience`.
pub async fn until<T>(what: &str, patience: Duration, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Ok(Some(there)) = timeout_at(deadline, attempt()).await {
            return there;
        }
        assert!(Instant::now() < deadline, "waited {patience:?} in vain: {what}");
        sleep(POLL).await;
    }
}

/// Tells a figure to whoever reads the tests' output, also of tests that pass: those lose only what they print by macro.
pub fn tell(figure: impl Display) {
    // Nobody may be listening.
    let _ = writeln!(io::stderr().lock(), "{figure}");
}
