//! The transactions of the store behind the edge: the real machine for each partition, whose clocks stand still unless a test
//! moves them. Who must wait for an open transaction waits, as at a leader.

use std::collections::HashMap;

use annulus_core::id::PartitionId;
use annulus_core::partition::txn::{Command, Outcome};
use annulus_core::partition::{self, Applied, Entry, Key, Partition, lock};
use annulus_core::state::{MemoryState, TableId};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::*;

#[derive(Default)]
pub(super) struct TxnMachine {
    machines: RefCell<HashMap<GroupId, Machine>>,
    pub(super) clock_ms: Cell<u64>,
    /// Something was applied: whoever waits may try again.
    applied: Notify,
    /// Groups that nobody can ask.
    pub(super) cut: RefCell<Vec<GroupId>>,
}

struct Machine {
    partition: Partition,
    state: MemoryState,
    index: u64,
}

impl TxnMachine {
    fn with<T>(&self, group: GroupId, act: impl FnOnce(&mut Machine) -> T) -> T {
        let mut machines = self.machines.borrow_mut();
        act(machines.entry(group).or_insert_with(|| {
            let state = MemoryState::default();
            let partition = Partition::load(&state, TableId { group, generation: 0 }).unwrap();
            Machine { partition, state, index: 0 }
        }))
    }

    fn apply(&self, group: GroupId, command: partition::Command) -> Applied {
        let entry = Entry { clock_ms: self.clock_ms.get(), command }.encode();
        self.with(group, |machine| {
            machine.index += 1;
            machine.partition.apply(&mut machine.state, machine.index, entry).unwrap()
        })
    }

    /// Does a command to a transaction at once.
    pub(super) fn command(&self, group: GroupId, command: Command) -> Outcome {
        let Applied::Txn(applied) = self.apply(group, partition::Command::Txn(command)) else {
            panic!("a transaction is a transaction")
        };
        if !applied.released.is_empty() {
            self.applied.notify_waiters();
        }
        applied.outcome
    }

    /// Has a lock held by nobody in particular; its token.
    pub(super) fn lock(&self, name: &str) -> u64 {
        let name = lock::Name::new(Bytes::copy_from_slice(name.as_bytes())).unwrap();
        let group = map().partition_of(name.bytes()).group();
        let acquire = lock::Acquire {
            name,
            owner: Bytes::from_static(b"p"),
            request: Bytes::from_static(b"r"),
            description: Bytes::new(),
            mode: lock::Mode::Exclusive,
            ttl_ms: 10_000,
            wait_ms: 0,
        };
        match self.apply(group, partition::Command::Lock(lock::Command::Acquire(acquire))) {
            Applied::Lock(lock::Applied { outcome: lock::Outcome::Granted { token, .. }, .. }) => token,
            other => panic!("{other:?}"),
        }
    }

    /// The value of a key now, whoever holds it.
    pub(super) fn value(&self, key: &str) -> Option<String> {
        let key = Key::new(Bytes::copy_from_slice(key.as_bytes())).unwrap();
        let group = map().partition_of(key.bytes()).group();
        let item = self.with(group, |machine| machine.partition.get(&machine.state, &key).unwrap());
        item.map(|item| String::from_utf8(item.value.to_vec()).unwrap())
    }

    /// How many transactions are open.
    pub(super) fn open(&self) -> usize {
        self.machines.borrow().values().map(|machine| machine.partition.open_count()).sum()
    }

    /// What a group answers, unless it must wait; then nothing.
    fn try_answer(&self, group: GroupId, operation: &Operation) -> Option<Reply> {
        let clock_ms = self.clock_ms.get();
        match operation {
            Operation::Txn(command) => match self.command(group, command.clone()) {
                Outcome::Blocked { waits: true, .. } => None,
                outcome => Some(Reply::Txn(outcome)),
            },
            Operation::GetMany { keys, .. } => self.with(group, |Machine { partition, state, .. }| {
                if keys.iter().any(|key| partition.hides(key).is_some()) {
                    return None;
                }
                let many = partition.get_many(state, keys).unwrap();
                Some(many.map_or(Reply::Txn(Outcome::ReadsTooMuch), Reply::Many))
            }),
            Operation::ReadTxn { name, .. } => self.with(group, |Machine { partition, state, .. }| {
                Some(Reply::KnownTxn(partition.known_of(state, name, clock_ms).unwrap()))
            }),
            Operation::ListTxns { .. } => self.with(group, |Machine { partition, state, .. }| {
                Some(Reply::Txns(partition.open_txns(state, clock_ms, 0, 256).unwrap()))
            }),
            other => panic!("not of transactions: {other:?}"),
        }
    }

    pub(super) async fn ask(&self, group: GroupId, operation: Operation, timeout: Duration) -> Reply {
        let deadline = Instant::now() + timeout;
        if self.cut.borrow().contains(&group) {
            return Reply::Refused(Refusal::NotLeader { leader: None });
        }
        loop {
            // Registered before the look, so that nothing is missed.
            let applied = self.applied.notified();
            if let Some(reply) = self.try_answer(group, &operation) {
                return reply;
            }
            if timeout_at(deadline, applied).await.is_err() {
                return Reply::Refused(Refusal::TimedOut);
            }
        }
    }
}

/// Keys in as many different partitions.
pub(super) fn keys_apart(count: usize) -> Vec<String> {
    let mut found = BTreeMap::<PartitionId, String>::new();
    let mut numbers = 0..;
    while found.len() < count {
        let key = format!("k{}", numbers.next().unwrap());
        found.entry(map().partition_of(key.as_bytes())).or_insert(key);
    }
    found.into_values().collect()
}
