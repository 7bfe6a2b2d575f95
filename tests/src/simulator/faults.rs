//! What can go wrong, and how often it has: a run in which nothing went wrong has shown nothing.
//!
//! Three names for one trouble: [`super::scenario::Kind`] is what is drawn, by the scenario's weights; [`FaultEvent`]
//! is what is put into the queue for later, such as its end; [`Fault`] is what is counted once it has had an effect. A
//! new fault needs the first and the last, and an arm of `begin` in `nemesis`.

use std::collections::BTreeMap;
use std::fmt;

use annulus_core::id::GroupId;

/// A class of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A process died at some moment.
    Crash,
    /// A process died in the middle of a disk operation.
    CrashInDiskOperation,
    /// All processes died at once.
    CrashOfAll,
    /// A write that was not synced was lost.
    WriteLost,
    /// A write that was not synced was there in part.
    WriteTorn,
    /// A new, changed or removed name that was not synced was lost.
    NameLost,
    /// A message was lost.
    MessageLost,
    /// A message came much later than others.
    MessageDelayed,
    /// A message overtook an earlier one.
    MessageReordered,
    /// A message came twice.
    MessageDuplicated,
    /// Members could not reach each other.
    Cut,
    /// A member could reach another and not be reached by it.
    CutOneWay,
    /// A process stood still while its clock went on.
    Pause,
    /// A clock ran faster or slower.
    ClockRate,
    /// A disk took long.
    SlowDisk,
    /// A file could not grow.
    DiskFull,
    /// A group's configuration began to change.
    MoveStarted,
    /// A group's configuration came to what was meant.
    MoveFinished,
    /// A change of a group's configuration was taken back.
    MoveCancelled,
    /// A member that was not there before was let in.
    MemberJoined,
    /// A member that held nothing any more was let go.
    MemberGone,
    /// A member that leads the map group died.
    MapLeaderCrashed,
    /// A member that leads a group whose configuration is changing died.
    MovingLeaderCrashed,
    /// A member lost its volume for good, or for a long time.
    VolumeLost,
    /// A member that had lost its volume was replaced by another of the same name.
    MemberReplaced,
    /// A member came back with the volume that it had lost.
    OldVolumeBack,
    /// An operator was told that another has taken over.
    OperatorDeposed,
    /// A client that waited for a lock was given it.
    LockWaitedFor,
    /// A client was told that its wait for a lock is over.
    LockWaitOver,
    /// A client that waited for a lock was gone, and the leader was told.
    WaitCancelled,
    /// A client asked for a lock again, and found the place that it had.
    PlaceFoundAgain,
    /// A client that held a lock stood still.
    HolderStopped,
    /// A client was told that its lease is over.
    LeaseOver,
    /// A new leader, or one that stood still, has given all leases another term.
    LeasesExtended,
    /// A write with a token that is not the newest was refused.
    StaleFenceRefused,
    /// A transaction over several partitions was done.
    TxnAcrossPartitions,
    /// A transaction in one partition was done.
    TxnAlone,
    /// A partition's leader let a transaction wait for a younger one.
    TxnWaited,
    /// A transaction gave way to an older one.
    TxnGaveWay,
    /// An attempt at a transaction was aborted, and another was made.
    TxnAttemptAborted,
    /// A partition said at once that a condition does not hold.
    TxnFailedFast,
    /// A coordinator has found another's attempt at its transaction.
    TxnFoundUnderWay,
    /// A client gave one transaction to two members.
    TxnTriedByTwo,
    /// A transaction that was done was asked for again, and answered as before.
    TxnRepeated,
    /// A transaction was done while one of its groups was changing its configuration.
    TxnWhileMoving,
    /// A member died while it made a transaction happen.
    CoordinatorCrashed,
    /// A partition has refused an attempt that somebody took for abandoned.
    PreparePrevented,
    /// Whoever found an abandoned transaction has had it committed.
    RecoveryCommitted,
    /// Whoever found an abandoned transaction has had it aborted.
    RecoveryAborted,
    /// Steps towards the ends of several transactions were taken together.
    SettledTogether,
    /// A partition's leader let a read wait for a transaction.
    ReadWaited,
    /// A partition's leader let a write wait for a transaction.
    WriteWaited,
    /// Some keys had changed while they were read, and were read again.
    SnapshotRetried,
    /// Some keys changed all the time, and were held to be read.
    SnapshotHeld,
    /// A transaction has said whether a lock is held that is its condition.
    LockNamed,
}

/// All of them.
pub const ALL: [Fault; 55] = [
    Fault::Crash,
    Fault::CrashInDiskOperation,
    Fault::CrashOfAll,
    Fault::WriteLost,
    Fault::WriteTorn,
    Fault::NameLost,
    Fault::MessageLost,
    Fault::MessageDelayed,
    Fault::MessageReordered,
    Fault::MessageDuplicated,
    Fault::Cut,
    Fault::CutOneWay,
    Fault::Pause,
    Fault::ClockRate,
    Fault::SlowDisk,
    Fault::DiskFull,
    Fault::MoveStarted,
    Fault::MoveFinished,
    Fault::MoveCancelled,
    Fault::MemberJoined,
    Fault::MemberGone,
    Fault::MapLeaderCrashed,
    Fault::MovingLeaderCrashed,
    Fault::VolumeLost,
    Fault::MemberReplaced,
    Fault::OldVolumeBack,
    Fault::OperatorDeposed,
    Fault::LockWaitedFor,
    Fault::LockWaitOver,
    Fault::WaitCancelled,
    Fault::PlaceFoundAgain,
    Fault::HolderStopped,
    Fault::LeaseOver,
    Fault::LeasesExtended,
    Fault::StaleFenceRefused,
    Fault::TxnAcrossPartitions,
    Fault::TxnAlone,
    Fault::TxnWaited,
    Fault::TxnGaveWay,
    Fault::TxnAttemptAborted,
    Fault::TxnFailedFast,
    Fault::TxnFoundUnderWay,
    Fault::TxnTriedByTwo,
    Fault::TxnRepeated,
    Fault::TxnWhileMoving,
    Fault::CoordinatorCrashed,
    Fault::PreparePrevented,
    Fault::RecoveryCommitted,
    Fault::RecoveryAborted,
    Fault::SettledTogether,
    Fault::ReadWaited,
    Fault::WriteWaited,
    Fault::SnapshotRetried,
    Fault::SnapshotHeld,
    Fault::LockNamed,
];

/// How often each fault has happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters(BTreeMap<Fault, u64>);

impl Counters {
    /// It has happened so many times more.
    pub fn add(&mut self, fault: Fault, times: u64) {
        if times > 0 {
            *self.0.entry(fault).or_default() += times;
        }
    }

    /// Adds all that another run has counted.
    pub fn merge(&mut self, other: &Self) {
        for (fault, times) in &other.0 {
            self.add(*fault, *times);
        }
    }

    /// How often it has happened.
    pub fn of(&self, fault: Fault) -> u64 {
        self.0.get(&fault).copied().unwrap_or_default()
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, fault) in ALL.iter().enumerate() {
            let separator = if place == 0 { "" } else { ", " };
            write!(f, "{separator}{fault:?} {}", self.of(*fault))?;
        }
        Ok(())
    }
}

/// A fault that begins or ends.
#[derive(Debug, Clone)]
pub enum FaultEvent {
    /// The next fault is drawn.
    Draw,
    /// A member is cut off from all others.
    Isolate {
        /// The member.
        member: usize,
    },
    /// A cut ends.
    Mend {
        /// The cut's name.
        number: u64,
    },
    /// A process is started again.
    Start {
        /// The member.
        member: usize,
    },
    /// A process dies, unless it has died already.
    Crash {
        /// The member.
        member: usize,
        /// Which of its processes.
        life: u64,
    },
    /// Something happens to the leader of a group whose configuration has just begun to change.
    HitMove {
        /// The group.
        group: GroupId,
    },
    /// The leader of a group that is in a joint configuration is heard by few for a while.
    Silence {
        /// The leader.
        member: usize,
        /// The group.
        group: GroupId,
    },
    /// A member that had lost its volume has it again.
    OldVolume {
        /// The member.
        member: usize,
    },
    /// The weather is fine again.
    CalmNetwork,
    /// A member's disk is fast and has room again.
    CalmDisk {
        /// The member.
        member: usize,
    },
}
