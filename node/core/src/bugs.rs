//! Known bugs, put back in by name: what shows that the simulator would catch them.
//!
//! Compiled only with the feature `known-bugs`, which no release has; without it [`planted`] is `false` and costs nothing.
//! A new one is a [`Bug`], a row of [`ALL`], a question to [`planted`] at the place that it breaks, and a test in
//! `tests/tests/simulator.rs` that names the profile which catches it.

/// A bug that can be put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A follower acknowledges entries before they are durable.
    AcknowledgeBeforeSync,
    /// A leader answers a write when it has proposed it.
    ReplyBeforeQuorum,
    /// Term and vote are not written.
    VoteNotPersisted,
    /// The lease counts from when heartbeats are answered, so a pause in between makes it too long.
    LeaseNotShortenedAfterPause,
    /// The WAL is dropped when a checkpoint begins, not when it is durable.
    WalDroppedBeforeCheckpoint,
    /// Reads prefer the frozen overlay, which is older, over the active one.
    OverlayMergedInWrongOrder,
    /// A new leader answers reads before it has applied an entry of its own term.
    ReadBeforeOwnTerm,
    /// A member that has restarted votes at once, though its leader may still count on its promise.
    VoteRightAfterRestart,
    /// A learner's answers count for the leader's lease.
    LearnerCountedAsVoter,
    /// The map says that a replica is gone while its group is still in the joint configuration.
    OldReplicaDroppedInJoint,
    /// A leader with an old map changes the configuration that was made under a newer one.
    StaleMapObeyed,
    /// A drain leaves one partition where it is.
    DrainForgetsPartition,
    /// A snapshot says that it holds what was committed, and holds what was applied.
    SnapshotRacesCompaction,
    /// A move that is cancelled leaves its learner in the group.
    CancelledMoveLeavesLearner,
    /// The highest operator fence is known to the leader alone.
    FenceNotReplicated,
    /// A leader reports its group's new voters before a majority of them knows that they are.
    ReportedBeforeKnown,
    /// A move is over when a report says so, whatever epoch that is of.
    MoveEndedByStaleReport,
    /// A replica that was dropped and comes back with nothing has a vote.
    BlankReplicaVotes,
    /// An answer to what a member had sent on before it died is taken for that to another request.
    AnswerOfEarlierLife,
    /// A lock is given to the second in its queue.
    QueueSkipsWaiter,
    /// A member forgets the fences that it has not seen since it was started.
    FenceOnlyInMemory,
    /// Leases end by whatever the leader's own clock shows.
    LockExpiredByLocalClock,
    /// A lock's tokens count from 1 again when nobody has held it for a moment.
    TokenCountedAnew,
    /// A partition says that it has prepared before its entry is committed.
    PrepareNotDurable,
    /// A transaction is committed when all but one of its partitions have prepared.
    CommittedWithoutAllPrepares,
    /// Whoever finds an abandoned transaction that is prepared at its anchor aborts it, and asks nobody.
    RecoveryAbortsCommitted,
    /// A member forgets which transactions it has refused when it is started.
    PreventedForgottenOnRestart,
    /// A read passes over what an open transaction holds.
    ReadPastIntent,
    /// A partition that has heard what became of a transaction does it again when it hears so again.
    ResolveAppliedTwice,
}

/// All of them with the names that they are planted by.
pub const ALL: [(&str, Bug); 29] = [
    ("acknowledge-before-sync", Bug::AcknowledgeBeforeSync),
    ("reply-before-quorum", Bug::ReplyBeforeQuorum),
    ("vote-not-persisted", Bug::VoteNotPersisted),
    ("lease-not-shortened-after-pause", Bug::LeaseNotShortenedAfterPause),
    ("wal-dropped-before-checkpoint", Bug::WalDroppedBeforeCheckpoint),
    ("overlay-merged-in-wrong-order", Bug::OverlayMergedInWrongOrder),
    ("read-before-own-term", Bug::ReadBeforeOwnTerm),
    ("vote-right-after-restart", Bug::VoteRightAfterRestart),
    ("learner-counted-as-voter", Bug::LearnerCountedAsVoter),
    ("old-replica-dropped-in-joint", Bug::OldReplicaDroppedInJoint),
    ("stale-map-obeyed", Bug::StaleMapObeyed),
    ("drain-forgets-partition", Bug::DrainForgetsPartition),
    ("snapshot-races-compaction", Bug::SnapshotRacesCompaction),
    ("cancelled-move-leaves-learner", Bug::CancelledMoveLeavesLearner),
    ("fence-not-replicated", Bug::FenceNotReplicated),
    ("reported-before-known", Bug::ReportedBeforeKnown),
    ("move-ended-by-stale-report", Bug::MoveEndedByStaleReport),
    ("blank-replica-votes", Bug::BlankReplicaVotes),
    ("answer-of-earlier-life", Bug::AnswerOfEarlierLife),
    ("queue-skips-waiter", Bug::QueueSkipsWaiter),
    ("fence-only-in-memory", Bug::FenceOnlyInMemory),
    ("lock-expired-by-local-clock", Bug::LockExpiredByLocalClock),
    ("token-counted-anew", Bug::TokenCountedAnew),
    ("prepare-not-durable", Bug::PrepareNotDurable),
    ("committed-without-all-prepares", Bug::CommittedWithoutAllPrepares),
    ("recovery-aborts-committed", Bug::RecoveryAbortsCommitted),
    ("prevented-forgotten-on-restart", Bug::PreventedForgottenOnRestart),
    ("read-past-intent", Bug::ReadPastIntent),
    ("resolve-applied-twice", Bug::ResolveAppliedTwice),
];

/// Whether this bug is in force.
#[cfg(not(feature = "known-bugs"))]
#[inline]
pub fn planted(_: Bug) -> bool {
    false
}

#[cfg(feature = "known-bugs")]
pub use planting::{plant, planted};

#[cfg(feature = "known-bugs")]
mod planting {
    use super::Bug;
    use std::cell::Cell;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Puts this bug back in, or none, for everything that runs on this thread.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.with(|planted| planted.set(bug));
    }

    /// Whether this bug is in force.
    pub fn planted(bug: Bug) -> bool {
        PLANTED.with(|planted| planted.get() == Some(bug))
    }
}
