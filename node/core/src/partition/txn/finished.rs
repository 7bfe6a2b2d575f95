//! What became of attempts, for a while: it answers whoever asks late, and keeps late messages from beginning them anew.
//!
//! ```text
//! a client's name:   FINISHED_TXN, name, attempt ─▶ what became of it      FINISHED_TXN_EXPIRY, deadline, that key ─▶ nothing
//! a made-up name:                                                          FINISHED_TXN_EXPIRY, deadline, that key ─▶ what became of it
//! ```
//!
//! Nearly all have made-up names, which nobody lists and few ask for again. So there is one record of each, and it stands where the
//! others of its time stand; which deadlines go with a name is kept in memory.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;

use super::record::FinishedRecord;
use super::{Finished, Id, KEPT_MS, MADE_UP_KEPT_MS, MAX_FINISHED, Name};
use crate::partition::machine::{Error, Partition};
use crate::partition::record::{
    FINISHED_TXN, FINISHED_TXN_EXPIRY, expiry_key, split_expiry_key, split_txn_key, txn_key, txn_prefix,
};
use crate::state::State;

/// The digest of a transaction that is only known to be refused.
pub(super) const UNKNOWN_DIGEST: [u8; 32] = [0; 32];

/// How long it is known what became of an attempt at a transaction with this name. One that was only refused matters for as long as
/// its Prepare may be on its way.
pub(super) fn kept_ms(name: &Name, digest: &[u8; 32]) -> u64 {
    if name.is_made_up() || *digest == UNKNOWN_DIGEST { MADE_UP_KEPT_MS } else { KEPT_MS }
}

/// Where the records of made-up names are: how many there are by the hash of the name and the deadline. Two names with one hash
/// only cost a look in vain.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Deadlines(BTreeMap<(u64, u64), u32>);

impl Deadlines {
    fn add(&mut self, name: &Name, deadline_ms: u64) {
        *self.0.entry((hash(name), deadline_ms)).or_default() += 1;
    }

    fn remove(&mut self, name: &Name, deadline_ms: u64) {
        let place = (hash(name), deadline_ms);
        match self.0.get_mut(&place) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.0.remove(&place)),
        }
    }

    fn of(&self, name: &Name) -> impl Iterator<Item = u64> + '_ {
        let hash = hash(name);
        self.0.range((hash, 0)..=(hash, u64::MAX)).map(|((_, deadline_ms), _)| *deadline_ms)
    }
}

/// FNV-1a: names are chance already.
fn hash(name: &Name) -> u64 {
    name.bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

pub(super) fn finished(id: Id, record: FinishedRecord) -> Finished {
    Finished { id, decision: record.decision, results: record.results, participants: Vec::new() }
}

impl Partition {
    /// Keeps what became of an attempt, for a while from now.
    pub(super) fn finish(&mut self, state: &mut dyn State, id: &Id, record: FinishedRecord) -> Result<(), Error> {
        if self.meta.finished >= MAX_FINISHED {
            self.forget_oldest_finished(state)?;
        }
        let deadline_ms = self.meta.clock_ms.saturating_add(kept_ms(&id.name, &record.digest));
        let key = txn_key(FINISHED_TXN, id);
        let expiry = expiry_key(FINISHED_TXN_EXPIRY, deadline_ms, &key);
        // One with a made-up name may have to go before the last that went: the search begins there.
        if expiry < self.oldest_finished {
            self.oldest_finished.clone_from(&expiry);
        }
        let record = FinishedRecord { deadline_ms, ..record }.encode();
        if id.name.is_made_up() {
            self.deadlines.add(&id.name, deadline_ms);
            state.put(self.table, expiry, record);
        } else {
            state.put(self.table, expiry, Bytes::new());
            state.put(self.table, key, record);
        }
        self.meta.finished += 1;
        self.next_expiry_ms = self.next_expiry_ms.min(deadline_ms);
        Ok(())
    }

    /// What became of an attempt, if it is finished.
    pub(super) fn read_finished(&self, state: &dyn State, id: &Id) -> Result<Option<FinishedRecord>, Error> {
        let key = txn_key(FINISHED_TXN, id);
        let mut record = None;
        if id.name.is_made_up() {
            for deadline_ms in self.deadlines.of(&id.name) {
                record = record.or(state.get(self.table, &expiry_key(FINISHED_TXN_EXPIRY, deadline_ms, &key))?);
            }
        } else {
            record = state.get(self.table, &key)?;
        }
        record.map(FinishedRecord::decode).transpose().map_err(|source| self.damaged(source))
    }

    /// All finished attempts at a transaction.
    pub(super) fn finished_of(&self, state: &dyn State, name: &Name) -> Result<Vec<(Id, FinishedRecord)>, Error> {
        let prefix = txn_prefix(FINISHED_TXN, name);
        if !name.is_made_up() {
            return self.finished_under(state, &prefix, |key| Some(Bytes::copy_from_slice(key)));
        }
        let mut found = Vec::new();
        for deadline_ms in self.deadlines.of(name) {
            let prefix = expiry_key(FINISHED_TXN_EXPIRY, deadline_ms, &prefix);
            found.extend(self.finished_under(state, &prefix, |key| split_expiry_key(key).map(|(_, key)| key))?);
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(found)
    }

    /// Those whose records' keys begin with this; `id_key` tells the key that names the attempt.
    fn finished_under(
        &self,
        state: &dyn State,
        prefix: &[u8],
        id_key: impl Fn(&[u8]) -> Option<Bytes>,
    ) -> Result<Vec<(Id, FinishedRecord)>, Error> {
        let (mut found, mut damaged) = (Vec::new(), None);
        state.range(self.table, prefix, Some(&[prefix[0] + 1]), &mut |key, record| {
            if !key.starts_with(prefix) {
                return ControlFlow::Break(());
            }
            let id = split_txn_key(&id_key(key).unwrap_or_default());
            match (id, FinishedRecord::decode(Bytes::copy_from_slice(record))) {
                (Ok(id), Ok(record)) => found.push((id, record)),
                (Err(source), _) | (_, Err(source)) => damaged = Some(source),
            }
            ControlFlow::Continue(())
        })?;
        damaged.map_or(Ok(found), |source| Err(self.damaged(source)))
    }

    /// An expiry is gone: what it told of goes with it.
    pub(in crate::partition) fn forget_finished(
        &mut self,
        state: &mut dyn State,
        deadline_ms: u64,
        key: Bytes,
    ) -> Result<(), Error> {
        let Id { name, .. } = split_txn_key(&key).map_err(|source| self.damaged(source))?;
        if name.is_made_up() {
            self.deadlines.remove(&name, deadline_ms);
        } else {
            state.delete(self.table, key);
        }
        self.meta.finished -= 1;
        Ok(())
    }

    /// Makes room for one more. What was refused before it came is passed over, and goes when its time has come.
    fn forget_oldest_finished(&mut self, state: &mut dyn State) -> Result<(), Error> {
        // No need to look at what is gone, or was passed over.
        let mut from = std::mem::take(&mut self.oldest_finished);
        if from.is_empty() {
            from = Bytes::from_static(&[FINISHED_TXN_EXPIRY]);
        }
        loop {
            let mut next = None;
            state.range(self.table, &from, Some(&[FINISHED_TXN_EXPIRY + 1]), &mut |key, record| {
                next = Some((Bytes::copy_from_slice(key), Bytes::copy_from_slice(record)));
                ControlFlow::Break(())
            })?;
            let Some((expiry, record)) = next else { return Ok(()) };
            let Some((deadline_ms, key)) = split_expiry_key(&expiry) else { return Ok(()) };
            self.oldest_finished.clone_from(&expiry);
            let record = if record.is_empty() { state.get(self.table, &key)?.unwrap_or_default() } else { record };
            let record = FinishedRecord::decode(record).map_err(|source| self.damaged(source))?;
            if record.digest != UNKNOWN_DIGEST {
                state.delete(self.table, expiry);
                return self.forget_finished(state, deadline_ms, key);
            }
            from = [&expiry[..], &[0]].concat().into();
        }
    }

    /// Finds out anew where the records of made-up names are, and how many finished transactions there are.
    pub(in crate::partition) fn load_deadlines(&self, state: &dyn State) -> Result<(Deadlines, u64), Error> {
        let (mut deadlines, mut count, mut damaged) = (Deadlines::default(), 0, None);
        state.range(self.table, &[FINISHED_TXN_EXPIRY], Some(&[FINISHED_TXN_EXPIRY + 1]), &mut |key, _| {
            count += 1;
            match split_expiry_key(key).map(|(deadline_ms, key)| (deadline_ms, split_txn_key(&key))) {
                Some((deadline_ms, Ok(id))) if id.name.is_made_up() => deadlines.add(&id.name, deadline_ms),
                Some((_, Err(source))) => damaged = Some(source),
                _ => {}
            }
            ControlFlow::Continue(())
        })?;
        damaged.map_or(Ok((deadlines, count)), |source| Err(self.damaged(source)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::GroupId;
    use crate::partition::txn::Decision;
    use crate::state::{MemoryState, TableId};

    const TABLE: TableId = TableId { group: GroupId(1), generation: 1 };

    fn record(digest: [u8; 32]) -> FinishedRecord {
        FinishedRecord { decision: Decision::Abort, digest, results: None, deadline_ms: 0 }
    }

    #[test]
    fn to_make_room_the_next_one_goes_but_nothing_that_was_refused_before_it_came() {
        let mut state = MemoryState::default();
        let mut partition = Partition::load(&state, TABLE).unwrap();
        let id = |name: Name| Id { name, coordinator: 1, attempt: 0 };
        let made_up = |chance: u64| id(Name::made_up(chance.into()));
        let named = |number: u64| id(Name::new(format!("t{number}").into()).unwrap());
        partition.finish(&mut state, &made_up(0), record(UNKNOWN_DIGEST)).unwrap();
        partition.finish(&mut state, &named(0), record(UNKNOWN_DIGEST)).unwrap();
        partition.finish(&mut state, &named(1), record([1; 32])).unwrap();
        for number in 3..MAX_FINISHED {
            partition.meta.clock_ms = number;
            partition.finish(&mut state, &named(number), record([1; 32])).unwrap();
        }
        let known =
            |partition: &Partition, state: &MemoryState, id: Id| partition.read_finished(state, &id).unwrap().is_some();
        assert!(known(&partition, &state, named(1)));
        partition.finish(&mut state, &made_up(1), record([1; 32])).unwrap();
        assert_eq!(partition.meta.finished, MAX_FINISHED);
        assert!(!known(&partition, &state, named(1)), "the next to be forgotten went");
        partition.finish(&mut state, &made_up(2), record([1; 32])).unwrap();
        assert!(!known(&partition, &state, made_up(1)), "a made-up name is forgotten sooner");
        assert!(known(&partition, &state, named(3)));
        for refused in [made_up(0), named(0)] {
            assert!(known(&partition, &state, refused), "its Prepare may still be on its way");
        }
        partition.check_txns(&state).unwrap();
    }
}
