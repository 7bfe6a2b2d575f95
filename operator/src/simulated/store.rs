//! The objects, each version of them, and what tells watchers about a new one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::Waker;

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::apply::Owner;
use super::error::Error;
use super::resources::{Key, Kind};

/// How many changes are remembered; a watch that asks for older ones is answered with 410.
const HISTORY: usize = 100_000;

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Added,
    Modified,
    Deleted,
}

/// One change of one object.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) version: u64,
    pub(super) key: Key,
    pub(super) change: Change,
    /// The object after the change; if it was deleted, as it was last.
    pub(super) object: Arc<Value>,
    pub(super) before: Option<Arc<Value>>,
}

/// An object and who owns its fields.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) object: Arc<Value>,
    pub(super) owners: Vec<Owner>,
}

/// All objects. Each change takes the next number of one counter, which is the object's resource version.
#[derive(Clone, Debug)]
pub(super) struct Store {
    objects: BTreeMap<Key, Entry>,
    version: u64,
    history: VecDeque<Event>,
    /// Changes up to here are forgotten.
    forgotten: u64,
    uids: u64,
    random: u64,
    now_seconds: i64,
    wakers: Vec<Waker>,
}

impl Store {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            objects: BTreeMap::new(),
            version: 1,
            history: VecDeque::new(),
            forgotten: 1,
            uids: 0,
            random: seed,
            // 2026-01-01T00:00:00Z: any fixed time does.
            now_seconds: 1_767_225_600,
            wakers: Vec::new(),
        }
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn entry(&self, key: &Key) -> Result<&Entry, Error> {
        self.objects.get(key).ok_or_else(|| Error::not_found(key))
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Arc<Value>> {
        self.objects.get(key).map(|entry| &entry.object)
    }

    /// The objects of a resource, in all namespaces or in one, by namespace and name.
    pub(super) fn list(&self, kind: Kind, namespace: Option<&str>) -> Vec<(Key, Arc<Value>)> {
        self.objects
            .iter()
            .filter(|(key, _)| is_in(key, kind, namespace))
            .map(|(key, entry)| (key.clone(), Arc::clone(&entry.object)))
            .collect()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        self.objects.iter().map(|(key, entry)| (key, &entry.object))
    }

    /// The objects of a resource as they were when `version` was the newest.
    pub(super) fn list_at(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        version: u64,
    ) -> Result<Vec<(Key, Arc<Value>)>, Error> {
        if version < self.forgotten {
            return Err(Error::Expired { asked: version, oldest: self.forgotten });
        }
        let mut objects: BTreeMap<Key, Arc<Value>> = self.list(kind, namespace).into_iter().collect();
        for event in self.history.iter().rev().take_while(|event| event.version > version) {
            if !is_in(&event.key, kind, namespace) {
                continue;
            }
            match &event.before {
                Some(before) => objects.insert(event.key.clone(), Arc::clone(before)),
                None => objects.remove(&event.key),
            };
        }
        Ok(objects.into_iter().collect())
    }

    /// The first change after `version`.
    pub(super) fn next_event(&self, version: u64) -> Result<Option<&Event>, Error> {
        if version < self.forgotten {
            return Err(Error::Expired { asked: version, oldest: self.forgotten });
        }
        Ok(self.history.get(self.history.partition_point(|event| event.version <= version)))
    }

    /// The oldest version that is remembered.
    pub(super) fn oldest(&self) -> u64 {
        self.forgotten
    }

    /// Forgets all changes until now.
    pub(super) fn forget(&mut self) {
        self.history.clear();
        self.forgotten = self.version;
    }

    /// Stores an object under the next version.
    pub(super) fn put(&mut self, key: &Key, mut object: Value, owners: Vec<Owner>) -> Arc<Value> {
        self.version += 1;
        object["metadata"]["resourceVersion"] = Value::String(self.version.to_string());
        let object = Arc::new(object);
        let entry = Entry { object: Arc::clone(&object), owners };
        let before = self.objects.insert(key.clone(), entry).map(|entry| entry.object);
        let change = if before.is_some() { Change::Modified } else { Change::Added };
        self.record(Event { version: self.version, key: key.clone(), change, object: Arc::clone(&object), before });
        object
    }

    /// Takes an object away; `last` is how it was at the end, if that was never stored.
    pub(super) fn take(&mut self, key: &Key, last: Option<Value>) -> Result<Arc<Value>, Error> {
        let entry = self.objects.remove(key).ok_or_else(|| Error::not_found(key))?;
        let before = entry.object;
        self.version += 1;
        let mut object = last.unwrap_or_else(|| Value::clone(&before));
        object["metadata"]["resourceVersion"] = Value::String(self.version.to_string());
        let object = Arc::new(object);
        self.record(Event {
            version: self.version,
            key: key.clone(),
            change: Change::Deleted,
            object: Arc::clone(&object),
            before: Some(before),
        });
        Ok(object)
    }

    fn record(&mut self, event: Event) {
        if self.history.len() == HISTORY
            && let Some(oldest) = self.history.pop_front()
        {
            self.forgotten = oldest.version;
        }
        self.history.push_back(event);
        self.wake();
    }

    /// Whoever waits for a change looks again.
    pub(super) fn wake(&mut self) {
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
    }

    pub(super) fn wait(&mut self, waker: &Waker) {
        if !self.wakers.iter().any(|waiting| waiting.will_wake(waker)) {
            self.wakers.push(waker.clone());
        }
    }

    pub(super) fn now_seconds(&self) -> i64 {
        self.now_seconds
    }

    pub(super) fn set_now(&mut self, seconds: i64) {
        self.now_seconds = seconds;
        self.wake();
    }

    /// The time as it stands in objects.
    pub(super) fn now(&self) -> String {
        time_text(self.now_seconds)
    }

    pub(super) fn new_uid(&mut self) -> String {
        self.uids += 1;
        format!("00000000-0000-4000-8000-{:012x}", self.uids)
    }

    /// The next number of the seed's. Source: splitmix64.
    pub(super) fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// What the server puts behind a `generateName`: letters and digits that it can't be mistaken in.
    pub(super) fn suffix(&mut self) -> String {
        const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
        let mut random = self.random();
        (0..5)
            .map(|_| {
                let letter = LETTERS[(random % 27) as usize];
                random /= 27;
                char::from(letter)
            })
            .collect()
    }
}

/// A time as Kubernetes writes it.
pub(super) fn time_text(seconds: i64) -> String {
    Timestamp::from_second(seconds).expect("the simulated time is a time").to_string()
}

pub(super) fn is_in(key: &Key, kind: Kind, namespace: Option<&str>) -> bool {
    key.kind == kind && namespace.is_none_or(|namespace| namespace == key.namespace)
}
