//! The judges of a run: what must hold of the whole history, and of what each replica shows while it runs.

use std::collections::BTreeMap;

use annulus_core::partition::Outcome;

use super::history::{Change, History, Seen, Write, WriteId};
use super::linearizability::{self, Action, Call};

/// What a run has broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A key's history can't be explained.
    #[error("key {key} is not linearizable: {source}")]
    NotLinearizable {
        /// The key's number.
        key: usize,
        /// Why not.
        source: linearizability::Error,
    },
    /// A value was read that no write can have put there, or not yet.
    #[error("key {key} held {seen:?} at {at}, which is of no write that was asked for by then")]
    FromNowhere {
        /// The key's number.
        key: usize,
        /// What was read.
        seen: Seen,
        /// When.
        at: u64,
    },
    /// One write was seen under two versions, or two under one.
    #[error("key {key}: write {write} was seen with version {version} and with {other} (or that is another write's)")]
    TwoVersions {
        /// The key's number.
        key: usize,
        /// The write.
        write: WriteId,
        /// One version.
        version: u64,
        /// The other.
        other: u64,
    },
    /// An idempotency key that was used for one write was said to have been used for another.
    #[error("write {0} was told that its idempotency key is another write's")]
    IdempotencyConflict(WriteId),
    /// What one replica shows of a key went back.
    #[error("member {member} went back on key {key}: from version {before} to {after:?}")]
    WentBack {
        /// The member.
        member: usize,
        /// The key's number.
        key: usize,
        /// The version that it showed before.
        before: u64,
        /// What it shows now.
        after: Option<u64>,
    },
}

/// How much faster than real time a member's clock may make a value expire, in 1000: the fastest clock runs at 1.1.
const SHORTEST_TTL_PER_MILLE: u64 = 900;

/// Judges a whole history. Returns which version each write has, as far as anybody was told.
pub fn check_history(history: &History, keys: usize) -> Result<BTreeMap<WriteId, u64>, Violation> {
    check_origins(history)?;
    let versions = find_versions(history)?;
    for key in 0..keys {
        let calls = calls_of(history, &versions, key);
        linearizability::check(calls).map_err(|source| Violation::NotLinearizable { key, source })?;
    }
    Ok(versions)
}

/// Every value that was read, linearizable or not, is one that a write had been asked to put.
fn check_origins(history: &History) -> Result<(), Violation> {
    let reads = history.reads.iter().map(|read| (read.key, read.returned, read.seen));
    let stale = history.stale.iter().map(|read| (read.key, read.returned, read.seen));
    for (key, at, seen) in reads.chain(stale).filter_map(|(key, at, seen)| Some((key, at, seen?))) {
        let origin = history.writes.get(seen.write as usize);
        let put = |write: &Write| matches!(write.change, Change::Put { .. }) && !write.refused;
        if !origin.is_some_and(|write| write.key == key && write.invoked <= at && put(write)) {
            return Err(Violation::FromNowhere { key, seen, at });
        }
    }
    Ok(())
}

/// Which version each write has, as far as anybody was told.
fn find_versions(history: &History) -> Result<BTreeMap<WriteId, u64>, Violation> {
    let mut versions = BTreeMap::new();
    let mut writers: BTreeMap<(usize, u64), WriteId> = BTreeMap::new();
    let mut note = |key: usize, write: WriteId, version: u64| {
        let known = *versions.entry(write).or_insert(version);
        let writer = *writers.entry((key, version)).or_insert(write);
        if known == version && writer == write {
            return Ok(());
        }
        Err(Violation::TwoVersions { key, write, version, other: known })
    };
    for (id, write) in history.writes.iter().enumerate() {
        let id = WriteId::try_from(id).expect("few writes");
        match write.answer {
            Some((_, Outcome::Written { version, .. })) => note(write.key, id, version)?,
            Some((_, Outcome::IdempotencyConflict)) => return Err(Violation::IdempotencyConflict(id)),
            _ => {}
        }
        if let Some((_, version)) = write.committed {
            note(write.key, id, version)?;
        }
    }
    let reads = history.reads.iter().map(|read| (read.key, read.seen));
    let stale = history.stale.iter().map(|read| (read.key, read.seen));
    for (key, seen) in reads.chain(stale) {
        if let Some(seen) = seen {
            note(key, seen.write, seen.version)?;
        }
    }
    Ok(versions)
}

fn calls_of(history: &History, versions: &BTreeMap<WriteId, u64>, key: usize) -> Vec<Call> {
    let mut calls = Vec::new();
    for read in history.reads.iter().filter(|read| read.key == key) {
        calls.push(Call { invoked: read.invoked, returned: Some(read.returned), action: Action::Read(read.seen) });
    }
    for (id, write) in history.writes.iter().enumerate().filter(|(_, write)| write.key == key && !write.refused) {
        let id = WriteId::try_from(id).expect("few writes");
        let (returned, outcome) = write.answer.unzip();
        let returned = returned.or(write.committed.map(|(told, _)| told));
        let condition = write.condition;
        let action = match write.change {
            Change::Put { ttl_ms } => {
                let (version, expires) = (versions.get(&id).copied(), ttl_ms.is_some());
                Action::Put { write: id, condition, outcome, version, expires }
            }
            Change::Delete => Action::Delete { condition, outcome },
        };
        calls.push(Call { invoked: write.invoked, returned, action });
        if let Change::Put { ttl_ms: Some(ttl_ms) } = write.change {
            let invoked = write.invoked + ttl_ms * SHORTEST_TTL_PER_MILLE;
            calls.push(Call { invoked, returned: None, action: Action::Expire(id) });
        }
    }
    calls
}

/// What the replicas of one member have shown of each key, so that none goes back. A restart may take a replica back to
/// what it can be sure of, so a new process begins anew.
#[derive(Debug, Default)]
pub struct Monotone {
    /// By member, its process and replica, and key.
    shown: BTreeMap<(usize, (u64, u64), usize), Shown>,
}

#[derive(Debug, Default)]
struct Shown {
    /// The lowest version that may be shown from now on.
    lowest: u64,
    /// Whether the key was there.
    there: bool,
}

impl Monotone {
    /// A member's replica shows this of a key.
    pub fn observe(
        &mut self,
        member: usize,
        life: (u64, u64),
        key: usize,
        version: Option<u64>,
    ) -> Result<(), Violation> {
        let shown = self.shown.entry((member, life, key)).or_default();
        match version {
            Some(version) if version < shown.lowest => {
                return Err(Violation::WentBack { member, key, before: shown.lowest, after: Some(version) });
            }
            Some(version) => shown.lowest = version,
            // What was deleted comes back only under a higher version.
            None if shown.there => shown.lowest += 1,
            None => {}
        }
        shown.there = version.is_some();
        Ok(())
    }
}
