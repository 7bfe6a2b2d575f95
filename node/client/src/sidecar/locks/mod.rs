//! Locks that are kept for the application: the keeper decides, and here its decisions meet the store, the clock and the disk.
//!
//! ```text
//!  acquire, renew_one, release ─▶ store ─▶ keeper ─┬─▶ renew: all that are due of one leader in one request
//!                 token, for Annulus-Lock ◀────────┤
//!                                                  └─▶ save: a file, before the application hears of it
//! ```
//!
//! What it never does: hold its lock on the keeper while it waits for anybody.

mod asked;
mod keeper;
mod renewing;
mod saved;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use annulus_core::partition::lock::Name;
use http::{HeaderMap, Method};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::metrics::Metrics;
use super::problem::{Kind, Problem};
use crate::directory::Place;
use crate::lock::path;
use crate::transport::Message;
use crate::verdict::Safety;
use crate::{Client, ClusterId};
pub(super) use asked::{acquire, release, renew_many, renew_one};
pub(super) use keeper::Shown;
use keeper::{Grant, Keeper, Loss, Standing};
pub(super) use renewing::renew;
pub(super) use saved::save;

/// How long an answer waits for the file to be written.
const SAVE_PATIENCE: Duration = Duration::from_secs(1);
/// The pause after a look at the ring that failed.
const RING_PAUSE: Duration = Duration::from_millis(200);
/// How many locks are named that are lost at once.
const MAX_LOSSES_TOLD: usize = 10;
/// How many locks are given up at once at the end.
const RELEASES: usize = 64;

/// The locks of one sidecar.
#[derive(Debug)]
pub(super) struct Locks {
    client: Client,
    owner: String,
    keeper: Mutex<Keeper>,
    /// The next renewal may be another.
    poke: Notify,
    /// What is known of locks has changed, for whoever waits to know.
    changed: watch::Sender<()>,
    file: Option<PathBuf>,
    /// There is something to write.
    unsaved: Notify,
    /// The version of the keeper that the file has.
    saved: watch::Sender<u64>,
    metrics: Arc<Metrics>,
    /// The store that an earlier process had its locks of, if it left any.
    restored_of: Option<ClusterId>,
}

impl Locks {
    /// The locks that an earlier process has left in its file, if there is one, and no others.
    pub(super) fn new(client: Client, owner: String, file: Option<PathBuf>, metrics: Arc<Metrics>) -> Arc<Self> {
        let mut keeper = Keeper::default();
        let now = Instant::now();
        let left = file.as_deref().and_then(saved::read);
        let restored_of = left.as_ref().map(|left| left.cluster);
        for grant in left.into_iter().flat_map(|left| left.grants) {
            keeper.restore(now, grant);
        }
        if keeper.count() > 0 {
            tracing::info!(locks = keeper.count(), "locks of an earlier process are renewed");
        }
        let saved = watch::Sender::new(keeper.version());
        let (poke, unsaved, changed) = (Notify::new(), Notify::new(), watch::Sender::new(()));
        Arc::new(Self {
            client,
            owner,
            keeper: Mutex::new(keeper),
            poke,
            changed,
            file,
            unsaved,
            saved,
            metrics,
            restored_of,
        })
    }

    /// By which name locks are held for which the application names no owner.
    pub(super) fn owner(&self) -> &str {
        &self.owner
    }

    /// Asks or tells the keeper something, and has done what follows of it.
    fn with<T>(&self, ask: impl FnOnce(&mut Keeper, Instant) -> T) -> T {
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        let (version, losses) = (keeper.version(), keeper.losses());
        let said = ask(&mut keeper, Instant::now());
        let (is_news, lost) = (keeper.version() != version, keeper.losses() - losses);
        let lost = usize::try_from(lost).unwrap_or(usize::MAX);
        let told = keeper.newest_losses(lost.min(MAX_LOSSES_TOLD));
        drop(keeper);
        tell(&told, lost);
        if is_news {
            self.unsaved.notify_one();
            self.changed.send_replace(());
        }
        said
    }

    /// How many locks are kept.
    pub(super) fn count(&self) -> usize {
        self.with(|keeper, _| keeper.count())
    }

    /// How many were lost so far.
    pub(super) fn losses(&self) -> u64 {
        self.with(|keeper, _| keeper.losses())
    }

    /// Everything that is kept.
    pub(super) fn shown(&self) -> Vec<Shown> {
        self.with(Keeper::shown)
    }

    /// A lock was granted. Returns when the next process would know of it, or when that takes too long.
    async fn granted(&self, grant: Grant, ends: Instant) {
        self.with(|keeper, now| keeper.granted(now, grant, ends));
        self.poke.notify_one();
        self.wait_saved().await;
    }

    /// The store says that a token does not hold its lock.
    pub(super) fn refused(&self, name: &Name, token: u64, why: &str) {
        self.with(|keeper, now| keeper.refused(now, name, token, why));
    }

    /// The token with which a lock is held. Of a lock of an earlier process it is waited for that it is known, up to `time`.
    pub(super) async fn token(&self, name: &Name, time: Duration) -> Result<u64, Problem> {
        let mut changes = self.changed.subscribe();
        let known = async {
            loop {
                match self.with(|keeper, now| keeper.standing(now, name)) {
                    // The sender is here: it does not go meanwhile.
                    Standing::Unsure => drop(changes.changed().await),
                    standing => return standing,
                }
            }
        };
        match timeout(time, known).await.unwrap_or(Standing::Unsure) {
            Standing::Held(token) => self.is_ours(name, token),
            Standing::Lost(loss) => Err(lost(name, &loss)),
            Standing::NotHeld => {
                let detail = "this sidecar does not hold the lock that `Annulus-Lock` names: it was never taken through it, \
                              or was given up; nothing was changed";
                Err(Problem::new(Kind::LockNotHeld, detail).with_bytes("lock", name.bytes()))
            }
            Standing::Unsure => {
                let detail = "the sidecar was started anew, and the store has not said yet whether the lock that \
                              `Annulus-Lock` names is still held; nothing was changed";
                Err(Problem::temporary(Kind::NotReady, detail).with_bytes("lock", name.bytes()))
            }
        }
    }

    /// `Annulus-Lock` says nothing of who in the pod writes, so it stands for locks that are the whole pod's.
    fn is_ours(&self, name: &Name, token: u64) -> Result<u64, Problem> {
        let owner = self.with(|keeper, _| keeper.owner(name, token).map(str::to_owned));
        match owner.filter(|owner| *owner != self.owner) {
            None => Ok(token),
            Some(owner) => {
                let detail = format!(
                    "the lock that `Annulus-Lock` names is held by the owner `{owner}` of this pod, and not for all of it: whoever has \
                     its token writes with `Annulus-Fence`; nothing was changed"
                );
                Err(Problem::new(Kind::LockNotHeld, detail).with_bytes("lock", name.bytes()).with("owner", owner))
            }
        }
    }

    /// Whether others may hold a lock together with this token of it.
    pub(super) fn is_shared(&self, name: &Name, token: u64) -> bool {
        self.with(|keeper, _| keeper.is_shared(name, token))
    }

    /// The store is not there any more, and another one may be: nothing is held of it.
    pub(super) fn lose_all(&self, why: &str) {
        self.with(|keeper, now| keeper.lose_all(now, why));
    }

    /// Locks that an earlier process had of another store are not this one's, whatever their tokens are.
    async fn know_the_store(&self) {
        let Some(saved) = self.restored_of else { return };
        loop {
            match self.client.ring().await {
                Ok(ring) if ring.cluster == saved => return,
                Ok(ring) => {
                    let why =
                        format!("it was taken of store {saved}, and the one that is there now is {}", ring.cluster);
                    return self.lose_all(&why);
                }
                Err(_) => sleep(RING_PAUSE).await,
            }
        }
    }

    /// The problem of a lock that was just found to be lost.
    pub(super) fn lost_problem(&self, name: &Name, token: u64, why: &str) -> Problem {
        match self.with(|keeper, now| keeper.standing(now, name)) {
            Standing::Lost(loss) => lost(name, &loss),
            _ => lost(name, &Loss { token, since: Instant::now(), why: why.to_owned() }),
        }
    }

    /// Gives up everything, as far as the store answers.
    pub(super) async fn release_all(self: &Arc<Self>) {
        let mut releases = JoinSet::new();
        for Shown { grant: Grant { name, token, .. }, .. } in self.shown() {
            if releases.len() >= RELEASES {
                releases.join_next().await;
            }
            let locks = Arc::clone(self);
            releases.spawn(async move {
                locks.with(|keeper, _| keeper.leave(&name, token, true));
                let (method, headers) = (Method::DELETE, HeaderMap::new());
                let Ok(path) = path(&name, &format!("?token={token}")) else { return };
                let message = Message { method, path, headers, body: bytes::Bytes::new() };
                match locks.client.run(Place::Leader(name.bytes()), message, Safety::Idempotent, None).await {
                    // Whoever does not hold it any more has nothing to give up.
                    Ok(answer) if answer.status.is_success() || answer.status.is_client_error() => {
                        locks.with(|keeper, _| keeper.released(&name, token));
                    }
                    Ok(answer) => tracing::warn!(status = answer.status.as_u16(), "a lock could not be given up"),
                    Err(error) => tracing::warn!(%error, "a lock could not be given up"),
                }
            });
        }
        while releases.join_next().await.is_some() {}
    }
}

/// Writes into the log which locks are lost, and why: `told` of all of them.
fn tell(told: &[(Name, Loss)], lost: usize) {
    for (name, Loss { token, why, .. }) in told {
        let lock = String::from_utf8_lossy(name.bytes());
        tracing::warn!(lock = %lock.escape_debug(), token, why, "a lock that was kept for the application is lost");
    }
    if lost > told.len() {
        tracing::warn!(locks = lost - told.len(), "other locks that were kept for the application are lost, too");
    }
}

/// The problem of a lock that was lost.
fn lost(name: &Name, loss: &Loss) -> Problem {
    let ago = loss.since.elapsed();
    let detail = format!(
        "the lock was lost {:.1} s ago: {}; nothing was changed; ask for it again",
        ago.as_secs_f64(),
        loss.why
    );
    Problem::new(Kind::LockLost, detail)
        .with_bytes("lock", name.bytes())
        .with("token", loss.token)
        .with("lost_ms_ago", u64::try_from(ago.as_millis()).unwrap_or(u64::MAX))
        .with("why", loss.why.as_str())
}
