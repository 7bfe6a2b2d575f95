//! Clients: each does one operation after the other through any member, and writes down what it was told.
//!
//! ```text
//!  Next ─▶ draw an operation ─▶ attempt ─▶ answered ──────────────▶ written down ─▶ Next
//!                                 ▲ │
//!                                 │ ├─ refused: nothing happened ─▶ try elsewhere, follow the hint
//!                                 │ ├─ unknown or too late: reads and idempotent writes are tried again,
//!                                 └─┘                       other writes stay without an answer for ever
//! ```

use std::collections::VecDeque;

use annulus_core::id::{GroupId, MemberId};
use annulus_core::lane::{Operation, Refusal, Reply};
use annulus_core::map::Map;
use annulus_core::partition::{self, Condition, Consistency, Item, Key, Outcome, Page, Scan};
use bytes::Bytes;

use super::asking::{Asker, Question};
use super::dice::Dice;
use super::events::{ClientEvent, Event};
use super::history::{Change, History, Read, Seen, StaleRead, WriteId, value_of, write_of};
use super::scenario::Scenario;
use super::world::{Broken, Environment, members_index};

/// How long a client tries one operation before it turns to another, in microseconds.
const PATIENCE_US: u64 = 3_000_000;
/// What the names of all keys begin with.
const KEY_PREFIX: &str = "key-";

/// The name of a key.
pub fn key_name(number: usize) -> Key {
    Key::new(Bytes::from(format!("{KEY_PREFIX}{number:02}"))).expect("a short key")
}

/// The number of a key with this name.
pub fn key_number(name: &[u8]) -> Option<usize> {
    std::str::from_utf8(name).ok()?.strip_prefix(KEY_PREFIX)?.parse().ok()
}

/// A scan of all keys of one partition.
pub fn scan_all() -> Scan {
    Scan { prefix: Bytes::from_static(KEY_PREFIX.as_bytes()), after: None, limit: 1000, values: true }
}

/// What a client is told to do, instead of what it likes.
#[derive(Debug, Clone, Copy)]
pub enum Order {
    /// Read a key.
    Read(usize, Consistency),
    /// Put a key, under an idempotency key, to expire after so many milliseconds or never.
    Put(usize, Option<u64>),
}

/// A client.
#[derive(Debug)]
pub struct Client {
    number: usize,
    dice: Dice,
    /// The version of each key that was last seen.
    known: Vec<Option<u64>>,
    asker: Asker,
    under_way: Option<UnderWay>,
    /// What it was told to do; it never gives up on that.
    pub orders: VecDeque<Order>,
    /// Whether it does as it likes when it was told nothing.
    pub free: bool,
}

#[derive(Debug)]
struct UnderWay {
    task: Task,
    group: GroupId,
    operation: Operation,
    invoked: u64,
    give_up_at: u64,
    /// The attempt that an answer is awaited for.
    attempt: Option<u64>,
    /// Whether some attempt may have had, or may still have, its effect.
    unknown: bool,
    hint: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
enum Task {
    Write {
        id: WriteId,
        idempotent: bool,
    },
    /// The same write again: the answer must be the same.
    Repeat {
        id: WriteId,
        outcome: Outcome,
    },
    Read(usize),
    Stale(usize),
    Scan,
}

#[derive(Debug, Clone, Copy)]
enum Choice {
    Read(Consistency),
    Scan,
    Put(When, bool),
    Delete(When),
}

#[derive(Debug, Clone, Copy)]
enum When {
    Always,
    Exists,
    Absent,
    AsSeen,
}

impl Client {
    /// A client with a stream of chance of its own.
    pub fn new(number: usize, keys: usize, dice: Dice) -> Self {
        Self {
            number,
            dice,
            known: vec![None; keys],
            asker: Asker::new(number),
            under_way: None,
            orders: VecDeque::new(),
            free: true,
        }
    }

    /// Whether it has nothing more to do.
    pub fn is_idle(&self) -> bool {
        self.under_way.is_none() && self.orders.is_empty() && !self.free
    }

    /// Something happens to it.
    pub fn handle(
        &mut self,
        what: ClientEvent,
        world: (&Scenario, &Map),
        env: &mut Environment,
        history: &mut History,
    ) -> Result<(), Broken> {
        match what {
            ClientEvent::Next => self.next(world, env, history),
            ClientEvent::Timeout { attempt } => {
                if let Some(under_way) = self.under_way.as_mut().filter(|task| task.attempt == Some(attempt)) {
                    under_way.attempt = None;
                    self.unanswered(world.0, env);
                }
                Ok(())
            }
            ClientEvent::Told { .. } => {
                Err(Broken::Nonsense("a client was told of a transaction that did not ask for it"))
            }
            ClientEvent::Answer { attempt, reply } => match self.under_way.take() {
                Some(mut task) if task.attempt == Some(attempt) => {
                    task.attempt = None;
                    self.answered(task, reply, world, env, history)
                }
                under_way => {
                    self.under_way = under_way;
                    Ok(())
                }
            },
        }
    }

    /// Goes on with what is under way, or begins something.
    fn next(&mut self, world: (&Scenario, &Map), env: &mut Environment, history: &mut History) -> Result<(), Broken> {
        let now = env.events.now();
        if let Some(task) = &self.under_way {
            if task.attempt.is_some() {
                return Ok(());
            }
            if now >= task.give_up_at {
                self.give_up(world.0, env, history);
                return Ok(());
            }
            self.attempt(world, env);
            return Ok(());
        }
        let (task, operation, ordered) = match self.orders.pop_front() {
            Some(order) => {
                let (task, operation) = self.obey(order, now, world.0, history);
                (task, operation, true)
            }
            None if self.free => {
                let (task, operation) = self.choose(now, world.0, history);
                (task, operation, false)
            }
            None => return Ok(()),
        };
        let group = match &operation {
            Operation::Write(write) => world.1.partition_of(write.key.bytes()).group(),
            Operation::Get { key, .. } => world.1.partition_of(key.bytes()).group(),
            _ => GroupId(1 + u32::try_from(self.dice.below(u64::from(world.0.partitions))).expect("small")),
        };
        let give_up_at = if ordered { u64::MAX } else { now + PATIENCE_US };
        env.trace.record(now, format_args!("client {} begins {task:?} {group}", self.number));
        self.under_way = Some(UnderWay {
            task,
            group,
            operation,
            invoked: now,
            give_up_at,
            attempt: None,
            unknown: false,
            hint: None,
        });
        self.attempt(world, env);
        Ok(())
    }

    fn obey(&mut self, order: Order, now: u64, scenario: &Scenario, history: &mut History) -> (Task, Operation) {
        match order {
            Order::Read(key, consistency) => (Task::Read(key), Operation::Get { key: key_name(key), consistency }),
            Order::Put(key, ttl_ms) => {
                self.write(now, key, Condition::Always, Change::Put { ttl_ms }, true, (scenario, history))
            }
        }
    }

    fn choose(&mut self, now: u64, scenario: &Scenario, history: &mut History) -> (Task, Operation) {
        let key = self.dice.index(scenario.keys);
        let mix = scenario.mix;
        let choices = [
            (mix.read, Choice::Read(Consistency::Linearizable)),
            (mix.quorum, Choice::Read(Consistency::Quorum)),
            (mix.stale, Choice::Read(Consistency::Stale)),
            (mix.scan, Choice::Scan),
            (mix.put, Choice::Put(When::Always, false)),
            (mix.put_ttl, Choice::Put(When::Always, true)),
            (mix.put_version, Choice::Put(When::AsSeen, false)),
            (mix.put_absent, Choice::Put(When::Absent, false)),
            (mix.put_exists, Choice::Put(When::Exists, false)),
            (mix.delete, Choice::Delete(When::Always)),
            (mix.delete_version, Choice::Delete(When::AsSeen)),
        ];
        let idempotent = self.dice.chance(scenario.idempotent);
        match self.dice.weighted(&choices).expect("some weight is not 0") {
            Choice::Read(Consistency::Stale) => {
                (Task::Stale(key), Operation::Get { key: key_name(key), consistency: Consistency::Stale })
            }
            Choice::Read(consistency) => (Task::Read(key), Operation::Get { key: key_name(key), consistency }),
            Choice::Scan => {
                let consistency = *self.dice.pick(&[Consistency::Linearizable, Consistency::Quorum]);
                (Task::Scan, Operation::Scan { scan: scan_all(), consistency })
            }
            Choice::Put(when, expires) => {
                let ttl_ms = expires.then(|| self.dice.within(1..=3000));
                let condition = self.condition(key, when);
                self.write(now, key, condition, Change::Put { ttl_ms }, idempotent, (scenario, history))
            }
            Choice::Delete(when) => {
                let condition = self.condition(key, when);
                self.write(now, key, condition, Change::Delete, idempotent, (scenario, history))
            }
        }
    }

    fn condition(&self, key: usize, when: When) -> Condition {
        match when {
            When::Always => Condition::Always,
            When::Exists => Condition::Exists,
            When::Absent => Condition::Absent,
            When::AsSeen => self.known[key].map_or(Condition::Absent, Condition::Version),
        }
    }

    fn write(
        &mut self,
        now: u64,
        key: usize,
        condition: Condition,
        change: Change,
        idempotent: bool,
        (scenario, history): (&Scenario, &mut History),
    ) -> (Task, Operation) {
        let id = history.invoke(now, key, condition, change, None);
        let change = match change {
            Change::Put { ttl_ms } => {
                let bytes = usize::try_from(self.dice.within(scenario.value_bytes.clone())).expect("small");
                partition::Change::Put { value: value_of(id, bytes), ttl_ms }
            }
            Change::Delete => partition::Change::Delete,
        };
        let idempotency_key = idempotent.then(|| Bytes::from(format!("write-{id}")));
        let write = partition::Write { key: key_name(key), condition, change, idempotency_key, fence: None };
        (Task::Write { id, idempotent }, Operation::Write(write))
    }

    /// Sends what is under way to a member.
    fn attempt(&mut self, world: (&Scenario, &Map), env: &mut Environment) {
        let Some(task) = self.under_way.as_mut() else { return };
        let question = Question {
            group: task.group,
            operation: &task.operation,
            hint: task.hint.take(),
            wait_ms: 0,
            patience_us: u64::MAX,
        };
        let attempt = self.asker.ask(question, world, &mut self.dice, env);
        task.attempt = Some(attempt.number);
    }

    /// No answer has come, or one that says that nobody knows.
    fn unanswered(&mut self, scenario: &Scenario, env: &mut Environment) {
        let Some(task) = self.under_way.as_mut() else { return };
        if let Task::Write { idempotent, .. } = task.task {
            task.unknown = true;
            if !idempotent {
                env.trace.record(env.events.now(), format_args!("client {} knows nothing of it", self.number));
                self.under_way = None;
                self.think(scenario, env);
                return;
            }
        }
        self.try_again(false, env);
    }

    fn try_again(&mut self, follows_hint: bool, env: &mut Environment) {
        let backoff = self.dice.within(1_000..=if follows_hint { 3_000 } else { 50_000 });
        env.events.after(backoff, Event::Client { client: self.number, what: ClientEvent::Next });
    }

    fn think(&mut self, scenario: &Scenario, env: &mut Environment) {
        let pause = if self.orders.is_empty() { self.dice.within(scenario.think_us.clone()) } else { 1000 };
        env.events.after(pause, Event::Client { client: self.number, what: ClientEvent::Next });
    }

    fn give_up(&mut self, scenario: &Scenario, env: &mut Environment, history: &mut History) {
        if let Some(UnderWay { task: Task::Write { id, .. }, unknown: false, .. }) = self.under_way.take() {
            history.refuse(id);
        }
        env.trace.record(env.events.now(), format_args!("client {} gives up", self.number));
        self.think(scenario, env);
    }

    fn answered(
        &mut self,
        mut task: UnderWay,
        reply: Reply,
        world: (&Scenario, &Map),
        env: &mut Environment,
        history: &mut History,
    ) -> Result<(), Broken> {
        let now = env.events.now();
        env.trace.record(now, format_args!("client {} is told {}", self.number, show(&reply)));
        match reply {
            // A transaction came in between: it is over soon.
            Reply::Write(Outcome::Blocked) => {
                self.under_way = Some(task);
                self.try_again(true, env);
                return Ok(());
            }
            Reply::Refused(refusal) => {
                if let Refusal::NotLeader { leader: Some(leader) } = refusal {
                    task.hint = self.dice.chance(900).then(|| members_index(leader));
                }
                let follows = task.hint.is_some();
                self.under_way = Some(task);
                self.try_again(follows, env);
                return Ok(());
            }
            Reply::OutcomeUnknown => {
                self.under_way = Some(task);
                self.unanswered(world.0, env);
                return Ok(());
            }
            Reply::Write(outcome) => return self.written(task, outcome, world, env, history),
            Reply::Get(item) => self.read(&task, item, now, history)?,
            Reply::Scan(page) => self.scanned(&task, &page, now, world, history)?,
            Reply::Lock(_) | Reply::LockView(_) | Reply::Locks { .. } => {
                return Err(Broken::Nonsense("a client was told of a lock that did not ask for it"));
            }
            Reply::Txn(_) | Reply::Many { .. } | Reply::KnownTxn(_) | Reply::Txns(_) => {
                return Err(Broken::Nonsense("a client was told of a transaction that did not ask for it"));
            }
            Reply::Map(_) | Reply::Changed(_) | Reply::Plan(_) | Reply::History(_) | Reply::PastMap(_) => {
                return Err(Broken::Nonsense("a client was told of the map that did not ask for it"));
            }
        }
        self.think(world.0, env);
        Ok(())
    }

    fn written(
        &mut self,
        mut task: UnderWay,
        outcome: Outcome,
        world: (&Scenario, &Map),
        env: &mut Environment,
        history: &mut History,
    ) -> Result<(), Broken> {
        match task.task {
            Task::Write { id, idempotent } => {
                history.answer(id, env.events.now(), outcome);
                let key = history.writes[id as usize].key;
                self.known[key] = match outcome {
                    Outcome::Written { version, .. } => Some(version),
                    Outcome::ConditionFailed { current } => current,
                    _ => None,
                };
                if idempotent && self.dice.chance(200) {
                    task.task = Task::Repeat { id, outcome };
                    task.give_up_at = 0;
                    self.under_way = Some(task);
                    self.attempt(world, env);
                    return Ok(());
                }
            }
            Task::Repeat { id, outcome: first } if first != outcome => {
                return Err(Broken::RepeatedOtherwise { write: id, first, second: outcome });
            }
            Task::Repeat { .. } => {}
            _ => return Err(Broken::Nonsense("a read was answered as a write")),
        }
        self.think(world.0, env);
        Ok(())
    }

    fn read(&mut self, task: &UnderWay, item: Option<Item>, now: u64, history: &mut History) -> Result<(), Broken> {
        let seen = item.map(seen).transpose()?;
        match task.task {
            Task::Read(key) => {
                self.known[key] = seen.map(|seen| seen.version);
                history.reads.push(Read { key, invoked: task.invoked, returned: now, seen });
            }
            Task::Stale(key) => history.stale.push(StaleRead { key, returned: now, seen }),
            _ => return Err(Broken::Nonsense("a read was answered that was not asked")),
        }
        Ok(())
    }

    fn scanned(
        &mut self,
        task: &UnderWay,
        page: &Page,
        now: u64,
        (scenario, map): (&Scenario, &Map),
        history: &mut History,
    ) -> Result<(), Broken> {
        for (key, seen) in page_contents(page, scenario, map, task.group)? {
            history.reads.push(Read { key, invoked: task.invoked, returned: now, seen });
        }
        Ok(())
    }
}

/// What a page of all keys says of each key of its partition.
pub fn page_contents(
    page: &Page,
    scenario: &Scenario,
    map: &Map,
    group: GroupId,
) -> Result<Vec<(usize, Option<Seen>)>, Broken> {
    if page.more || !page.items.is_sorted_by(|a, b| a.0 < b.0) {
        return Err(Broken::Nonsense("a page is out of order, or short"));
    }
    let of_group = |key: &usize| map.partition_of(key_name(*key).bytes()).group() == group;
    let mut contents: Vec<_> = (0..scenario.keys).filter(of_group).map(|key| (key, None)).collect();
    for (name, item) in &page.items {
        let number = key_number(name);
        let Some(place) = contents.iter_mut().find(|(key, _)| Some(*key) == number) else {
            return Err(Broken::Nonsense("a page holds a key that is not of its partition"));
        };
        place.1 = Some(seen(item.clone())?);
    }
    Ok(contents)
}

/// What a value tells.
pub fn seen(item: Item) -> Result<Seen, Broken> {
    let write = write_of(&item.value).ok_or(Broken::Nonsense("a value was read that nobody has put"))?;
    Ok(Seen { write, version: item.version })
}

/// A reply without its values.
fn show(reply: &Reply) -> String {
    match reply {
        Reply::Get(item) => match item.clone().map(seen) {
            Some(Ok(seen)) => format!("{seen:?}"),
            other => format!("{other:?}"),
        },
        Reply::Scan(page) => format!("a page of {}", page.items.len()),
        other => format!("{other:?}"),
    }
}

/// The number of a member in the simulator.
pub fn member_id(index: usize) -> MemberId {
    MemberId::new(index as u64 + 1).expect("not 0")
}
