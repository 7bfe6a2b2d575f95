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

/// How long it is known what became of a transaction with this name.
pub(super) fn kept_ms(name: &Name) -> u64 {
    if name.is_made_up() { MADE_UP_KEPT_MS } else { KEPT_MS }
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
        let deadline_ms = self.meta.clock_ms.saturating_add(kept_ms(&id.name));
        let key = txn_key(FINISHED_TXN, id);
        let expiry = expiry_key(FINISHED_TXN_EXPIRY, deadline_ms, &key);
        // Whatever goes last to make room, nothing is before it.
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

    fn forget_oldest_finished(&mut self, state: &mut dyn State) -> Result<(), Error> {
        let mut oldest = None;
        // No need to pass over what is gone.
        let from = std::mem::take(&mut self.oldest_finished);
        let from = if from.is_empty() { Bytes::from_static(&[FINISHED_TXN_EXPIRY]) } else { from };
        state.range(self.table, &from, Some(&[FINISHED_TXN_EXPIRY + 1]), &mut |key, _| {
            oldest =
                split_expiry_key(key).map(|(deadline_ms, record)| (Bytes::copy_from_slice(key), deadline_ms, record));
            ControlFlow::Break(())
        })?;
        if let Some((expiry, deadline_ms, record)) = oldest {
            state.delete(self.table, expiry.clone());
            self.oldest_finished = expiry;
            self.forget_finished(state, deadline_ms, record)?;
        }
        Ok(())
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
