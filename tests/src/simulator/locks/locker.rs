//! A client that uses locks: it wishes for one, holds it for a while, writes under it, and gives it back or does not.
//!
//! ```text
//!  Next ─▶ wish ─▶ Acquire ──granted──▶ holding ──▶ write, Renew, stand still … ──▶ Release ─▶ Next
//!            ▲       │ ▲ │                 │                                           │
//!            │       │ └─┘ no answer:      └─ it vanishes, or learns that it holds ────┘
//!            │       │     asks elsewhere     nothing any more
//!            └───────┘ held, or it has no patience any more
//! ```
//!
//! It does one thing after the other. What comes while it stands still it takes note of when it goes on.

use std::collections::VecDeque;

use annulus_core::id::GroupId;
use annulus_core::lane::{Operation, Refusal, Reply};
use annulus_core::map::Map;
use annulus_core::partition::lock::{self, Acquire, Mode};
use annulus_core::partition::txn::Done;
use annulus_core::partition::{self, Condition, Fence, Outcome};
use annulus_core::txn::{Answer as TxnAnswer, Transaction};
use bytes::Bytes;

use super::checks::Violation;
use super::plan::{Intent, Plan};
use super::record::{Action, Answer, Claim, Record, Refused, WishId, owner_of, request_of};
use super::under::{self, Told};
use super::{COUNTED_PER_MILLE, lock_name};
use crate::simulator::asking::{Asker, Attempt, Demanded, Question};
use crate::simulator::client::key_name;
use crate::simulator::dice::Dice;
use crate::simulator::events::{ClientEvent, Event};
use crate::simulator::faults::Fault;
use crate::simulator::history::{self, Change, History, WriteId, value_of};
use crate::simulator::scenario::Scenario;
use crate::simulator::world::{Broken, Environment, members_index};

/// How long a client tries to do something under a lock before it gives up on that, in microseconds.
const PATIENCE_US: u64 = 1_500_000;

/// How long a client goes on at most with what it was at when it stood still, in microseconds.
const AFTER_STOP_US: u64 = 500_000;

/// A client that uses locks.
#[derive(Debug)]
pub struct Locker {
    asker: Asker,
    dice: Dice,
    /// Microseconds of its clock per 1000 of the real ones.
    rate_per_mille: u64,
    /// It stands still until then.
    stopped_until: u64,
    wish: Option<(WishId, Intent)>,
    hold: Option<Hold>,
    ask: Option<Ask>,
    /// Locks that it was told to take, and give back.
    pub orders: VecDeque<usize>,
    /// Whether it wishes for something when it was told nothing.
    pub free: bool,
}

/// What it holds, or believes that it does.
#[derive(Debug)]
struct Hold {
    token: u64,
    /// Until when it counts on its lease.
    until: u64,
    /// Until when it wants to hold it.
    ends: u64,
    has_stopped: bool,
}

/// What it asks.
#[derive(Debug)]
struct Ask {
    what: What,
    asks: Asks,
    /// When it asked first.
    invoked: u64,
    give_up_at: u64,
    attempt: Option<Attempt>,
    /// Whether some attempt may have had, or may still have, its effect.
    unknown: bool,
    hint: Option<usize>,
}

/// Who is asked for what.
#[derive(Debug)]
enum Asks {
    /// A group.
    Group(GroupId, Operation),
    /// Any member, for a transaction.
    Member(Transaction),
}

#[derive(Debug, Clone, Copy)]
enum What {
    /// A call of the record.
    Call(usize),
    /// A write under the lock.
    Write { id: WriteId, idempotent: bool },
    /// A write under the lock, by a transaction.
    Deed { id: WriteId, names_lock: bool },
}

/// What all clients share.
pub struct Shared<'a> {
    /// What the run is made of.
    pub scenario: &'a Scenario,
    /// The newest map.
    pub map: &'a Map,
    /// What happens to locks.
    pub record: &'a mut Record,
    /// What happens to keys.
    pub history: &'a mut History,
    /// Everything else.
    pub env: &'a mut Environment,
}

impl Locker {
    /// A client with a stream of chance and a clock of its own.
    pub fn new(number: usize, mut dice: Dice) -> Self {
        let rate_per_mille = *dice.pick(&[900, 1000, 1000, 1100]);
        Self {
            asker: Asker::new(number),
            dice,
            rate_per_mille,
            stopped_until: 0,
            wish: None,
            hold: None,
            ask: None,
            orders: VecDeque::new(),
            free: true,
        }
    }

    /// Whether it has nothing more to do.
    pub fn is_idle(&self) -> bool {
        self.wish.is_none() && self.orders.is_empty() && !self.free
    }

    /// Something happens to it.
    pub fn handle(&mut self, what: ClientEvent, shared: &mut Shared<'_>) -> Result<(), Broken> {
        let now = shared.env.events.now();
        if now < self.stopped_until {
            let client = self.asker.client;
            shared.env.events.after(self.stopped_until - now, Event::Client { client, what });
            return Ok(());
        }
        match what {
            ClientEvent::Next => self.next(shared),
            ClientEvent::Timeout { attempt } => {
                let asked = self.ask.as_mut().and_then(|ask| ask.attempt.take_if(|asked| asked.number == attempt));
                if let Some(attempt) = asked {
                    self.unanswered(Some(attempt), shared);
                }
            }
            ClientEvent::Told { attempt, answer } => {
                let asked = self.ask.as_mut().and_then(|ask| ask.attempt.take_if(|asked| asked.number == attempt));
                if asked.is_some() {
                    return self.deed_told(answer, shared);
                }
            }
            ClientEvent::Answer { attempt, reply } => {
                let asked = self.ask.as_mut().and_then(|ask| ask.attempt.take_if(|asked| asked.number == attempt));
                if let Some(attempt) = asked {
                    return self.answered(attempt, reply, shared);
                }
            }
        }
        Ok(())
    }

    fn next(&mut self, shared: &mut Shared<'_>) {
        let now = shared.env.events.now();
        if let Some(ask) = &self.ask {
            if ask.attempt.is_some() {
                return;
            }
            let is_called_off = !self.free && self.hold.is_none() && !self.wish.as_ref().is_some_and(|w| w.1.is_told);
            if now < ask.give_up_at && !is_called_off {
                return self.attempt(shared);
            }
            return self.give_up(shared);
        }
        if self.hold.is_some() {
            return self.go_on(shared);
        }
        let intent = match self.orders.pop_front() {
            Some(lock) => Plan::order(lock),
            None if self.free => shared.scenario.locks.wish(&mut self.dice),
            None => return,
        };
        let wish = shared.record.wish(self.asker.client, &intent);
        let acquire = Acquire {
            name: lock_name(intent.lock),
            owner: owner_of(self.asker.client),
            request: request_of(wish),
            description: Bytes::new(),
            mode: intent.mode,
            ttl_ms: intent.ttl_ms,
            wait_ms: intent.wait_ms,
        };
        let patience_us = intent.patience_us;
        self.trace(shared, format_args!("wish {wish}: {intent:?}"));
        self.wish = Some((wish, intent));
        self.call(Action::Acquire, lock::Command::Acquire(acquire), patience_us, shared);
    }

    /// Does something with what it holds, or gives it back.
    fn go_on(&mut self, shared: &mut Shared<'_>) {
        let now = shared.env.events.now();
        let (_, intent) = self.wish.as_ref().expect("it holds what it wished for");
        let hold = self.hold.as_mut().expect("it holds something");
        let (token, ttl_ms) = (hold.token, intent.ttl_ms);
        let is_over = now >= hold.until && !intent.is_careless;
        let is_done = now >= hold.ends || !self.free && !intent.is_told;
        if is_over || is_done {
            if !intent.releases {
                return self.let_go(shared);
            }
            let command = lock::Command::Release { name: lock_name(intent.lock), token };
            return self.call(Action::Release { token }, command, PATIENCE_US, shared);
        }
        if let Some(stops_us) = intent.stops_us.filter(|_| !hold.has_stopped && self.dice.chance(400)) {
            hold.has_stopped = true;
            self.stopped_until = now + stops_us;
            // Whoever looks at no clock knows of no time that has passed, and goes on with what it had in mind.
            let meant = if intent.is_careless { self.dice.within(0..=AFTER_STOP_US) } else { 0 };
            hold.ends = hold.ends.max(now + stops_us + meant);
            shared.env.counters.add(Fault::HolderStopped, 1);
            self.trace(shared, format_args!("stands still until {}", now + stops_us));
            return self.go_on_after(0, shared);
        }
        let writes = intent.mode == Mode::Exclusive && self.dice.chance(700);
        if !writes && intent.renews && hold.until.saturating_sub(now) < ttl_ms * 500 {
            let command = lock::Command::Renew { name: lock_name(intent.lock), token, ttl_ms };
            return self.call(Action::Renew { token }, command, PATIENCE_US, shared);
        }
        if writes {
            return self.write(intent.lock, token, shared);
        }
        let pause = self.dice.within(shared.scenario.locks.pause_us.clone());
        self.go_on_after(pause, shared);
    }

    /// Changes a key under its lock.
    fn write(&mut self, lock: usize, token: u64, shared: &mut Shared<'_>) {
        let key = self.dice.index(shared.scenario.keys);
        let condition = *self.dice.pick(&[Condition::Always, Condition::Always, Condition::Always, Condition::Exists]);
        let change = if self.dice.chance(850) { Change::Put { ttl_ms: None } } else { Change::Delete };
        let idempotent = self.dice.chance(300);
        let now = shared.env.events.now();
        let locked = self.dice.chance(shared.scenario.txns.locked);
        let (names_lock, is_fenced) = *self.dice.pick(&[(true, true), (true, false), (false, true)]);
        let fence = (is_fenced || !locked).then_some(history::Fence { lock, token });
        let id = shared.history.invoke(now, key, condition, change, fence);
        let change = match change {
            Change::Put { .. } => {
                let bytes = usize::try_from(self.dice.within(shared.scenario.value_bytes.clone())).expect("small");
                partition::Change::Put { value: value_of(id, bytes), ttl_ms: None }
            }
            Change::Delete => partition::Change::Delete,
        };
        if locked {
            let deed = under::Deed { id, key, condition, change, lock, token, names_lock, is_fenced };
            let transaction = deed.transaction(&mut self.dice);
            self.trace(shared, format_args!("writes {id} to key {key} by a transaction under token {token}"));
            return self.begin(What::Deed { id, names_lock }, Asks::Member(transaction), PATIENCE_US, shared);
        }
        let idempotency_key = idempotent.then(|| Bytes::from(format!("write-{id}")));
        let fence = Some(Fence { lock: lock_name(lock), token, is_held: true });
        let write = partition::Write { key: key_name(key), condition, change, idempotency_key, fence };
        let group = shared.map.partition_of(write.key.bytes()).group();
        self.trace(shared, format_args!("writes {id} to key {key} under token {token}"));
        let asks = Asks::Group(group, Operation::Write(write));
        self.begin(What::Write { id, idempotent }, asks, PATIENCE_US, shared);
    }

    fn call(&mut self, action: Action, command: lock::Command, patience_us: u64, shared: &mut Shared<'_>) {
        let (wish, _) = self.wish.as_ref().expect("what it asks is for a wish");
        let call = shared.record.call(shared.env.events.now(), *wish, action);
        let group = shared.map.partition_of(command.name().bytes()).group();
        self.trace(shared, format_args!("asks {action:?} for wish {wish}"));
        self.begin(What::Call(call), Asks::Group(group, Operation::Lock(command)), patience_us, shared);
    }

    fn begin(&mut self, what: What, asks: Asks, patience_us: u64, shared: &mut Shared<'_>) {
        let invoked = shared.env.events.now();
        let give_up_at = invoked.saturating_add(patience_us);
        self.ask = Some(Ask { what, asks, invoked, give_up_at, attempt: None, unknown: false, hint: None });
        self.attempt(shared);
    }

    /// Asks a member. Now and then the connection will end before the answer can come.
    fn attempt(&mut self, shared: &mut Shared<'_>) {
        let now = shared.env.events.now();
        let Some(ask) = self.ask.as_mut() else { return };
        if let What::Call(call) = ask.what {
            shared.record.calls[call].attempts += 1;
        }
        let (group, operation) = match &ask.asks {
            Asks::Group(group, operation) => (*group, operation),
            Asks::Member(transaction) => {
                let member = members_index(self.dice.pick(&shared.map.members).id);
                let timeout_ms = *self.dice.pick(&[300, 1000]);
                let demanded = Demanded { transaction, member, timeout_ms, more_us: 20_000 };
                let number = self.asker.demand(&demanded, &mut self.dice, shared.env);
                ask.attempt = Some(Attempt { number, member, sent: now });
                return;
            }
        };
        let (mut wait_ms, mut patience_us) = (0, u64::MAX);
        if let Operation::Lock(lock::Command::Acquire(acquire)) = operation {
            wait_ms = acquire.wait_ms;
            let is_told = self.wish.as_ref().is_some_and(|(_, intent)| intent.is_told);
            let ends_early = !is_told && self.dice.chance(shared.scenario.locks.hangs_up);
            patience_us = if ends_early { self.dice.within(1_000..=wait_ms * 1000 + 50_000) } else { u64::MAX };
            patience_us = patience_us.min(ask.give_up_at - now);
        }
        let question = Question { group, operation, hint: ask.hint.take(), wait_ms, patience_us };
        let world = (shared.scenario, shared.map);
        ask.attempt = Some(self.asker.ask(question, world, &mut self.dice, shared.env));
    }

    /// No answer has come to this attempt, or one that says that nobody knows.
    fn unanswered(&mut self, silent: Option<Attempt>, shared: &mut Shared<'_>) {
        let Some(ask) = self.ask.as_mut() else { return };
        ask.unknown = true;
        let waits = matches!(&ask.asks, Asks::Group(_, operation) if operation.waits_for_lock());
        if let Some(attempt) = silent.filter(|_| waits) {
            self.asker.hang_up(attempt, &mut self.dice, shared.env);
        }
        // Of these nobody else can tell what came of them.
        let is_lost = match (&ask.what, &ask.asks) {
            (What::Write { idempotent, .. }, _) => !idempotent,
            (_, Asks::Member(transaction)) => transaction.name.is_made_up(),
            _ => false,
        };
        if is_lost {
            self.ask = None;
        }
        self.try_again(false, shared);
    }

    /// It has asked for long enough.
    fn give_up(&mut self, shared: &mut Shared<'_>) {
        self.trace(shared, format_args!("gives up"));
        let Some(ask) = self.ask.take() else { return };
        match ask.what {
            What::Write { id, .. } | What::Deed { id, .. } if !ask.unknown => shared.history.refuse(id),
            What::Write { .. } | What::Deed { .. } => {}
            What::Call(call) => match shared.record.calls[call].action {
                Action::Renew { .. } => {}
                Action::Acquire | Action::Release { .. } => return self.let_go(shared),
            },
        }
        self.go_on_after(0, shared);
    }

    fn answered(&mut self, attempt: Attempt, reply: Reply, shared: &mut Shared<'_>) -> Result<(), Broken> {
        self.trace(shared, format_args!("is told {reply:?}"));
        match reply {
            Reply::Refused(refusal) => {
                let hint = match refusal {
                    Refusal::NotLeader { leader } => leader.filter(|_| self.dice.chance(900)).map(members_index),
                    _ => None,
                };
                if let Some(ask) = self.ask.as_mut() {
                    ask.hint = hint;
                }
                self.try_again(hint.is_some(), shared);
                Ok(())
            }
            // A transaction came in between: it is over soon.
            Reply::Write(Outcome::Blocked) | Reply::Lock(lock::Outcome::Pinned) => {
                self.try_again(true, shared);
                Ok(())
            }
            Reply::OutcomeUnknown => {
                self.unanswered(None, shared);
                Ok(())
            }
            Reply::Write(outcome) => self.written(outcome, shared),
            Reply::Lock(outcome) => self.told(attempt, outcome, shared),
            _ => Err(Broken::Nonsense("a client that uses locks was told of something else")),
        }
    }

    fn written(&mut self, outcome: Outcome, shared: &mut Shared<'_>) -> Result<(), Broken> {
        let (now, ask) = (shared.env.events.now(), self.ask.take());
        let Some(Ask { what: What::Write { id, .. }, .. }) = ask else {
            return Err(Broken::Nonsense("what was asked of a lock was answered as a write"));
        };
        let (wish, token) = (self.wish.as_ref().map(|(wish, _)| *wish), self.hold.as_ref().map(|hold| hold.token));
        let (Some(wish), Some(token)) = (wish, token) else { return Err(Broken::Nonsense("it wrote under no lock")) };
        match outcome {
            Outcome::StaleFence { newest } => {
                self.refused(id, (wish, token), newest, shared);
                return Ok(());
            }
            Outcome::TooManyFences => return Err(Broken::Nonsense("there are more fences than locks")),
            _ => shared.history.answer(id, now, outcome),
        }
        let pause = self.dice.within(shared.scenario.locks.pause_us.clone());
        self.go_on_after(pause, shared);
        Ok(())
    }

    /// A newer token was there. No attempt can have its effect after one was refused: fences never go back.
    fn refused(&mut self, id: WriteId, (wish, token): (WishId, u64), newest: Option<u64>, shared: &mut Shared<'_>) {
        shared.history.refuse(id);
        shared.env.counters.add(Fault::StaleFenceRefused, 1);
        let (key, told) = (shared.history.writes[id as usize].key, shared.env.events.now());
        shared.record.refused.push(Refused { wish, token, key, told, newest });
        self.perhaps_go_on(shared);
    }

    /// It has heard that it holds nothing any more. Some go on all the same: they must be refused again.
    fn perhaps_go_on(&mut self, shared: &mut Shared<'_>) {
        if self.dice.chance(700) {
            return self.let_go(shared);
        }
        let pause = self.dice.within(shared.scenario.locks.pause_us.clone());
        self.go_on_after(pause, shared);
    }

    /// A member has told what came of a transaction.
    fn deed_told(&mut self, answer: TxnAnswer, shared: &mut Shared<'_>) -> Result<(), Broken> {
        self.trace(shared, format_args!("is told {answer:?}"));
        let told = shared.env.events.now();
        let Some(Ask { what: What::Deed { id, names_lock }, invoked, .. }) = self.ask else {
            return Err(Broken::Nonsense("what was no transaction was answered as one"));
        };
        let (wish, token) = (self.wish.as_ref().map(|(wish, _)| *wish), self.hold.as_ref().map(|hold| hold.token));
        let (Some(wish), Some(token)) = (wish, token) else { return Err(Broken::Nonsense("it wrote under no lock")) };
        let mut claim = |is_held: bool| {
            shared.env.counters.add(Fault::LockNamed, 1);
            shared.record.claims.push(Claim { wish, token, invoked, told, is_held });
        };
        match under::read(answer) {
            Told::Nothing => self.unanswered(None, shared),
            Told::NotNow => self.try_again(false, shared),
            Told::Done(done) => {
                if names_lock {
                    claim(true);
                }
                match done {
                    Some(Done::Put(version)) => shared.history.commit(id, told, version),
                    Some(Done::Deleted(true)) => shared.history.answer(id, told, Outcome::Deleted),
                    Some(Done::Deleted(false)) => shared.history.answer(id, told, Outcome::NotFound),
                    Some(Done::Got(_)) => return Err(Broken::Nonsense("a write was answered as a read")),
                    None => {}
                }
                self.ask = None;
                let pause = self.dice.within(shared.scenario.locks.pause_us.clone());
                self.go_on_after(pause, shared);
            }
            Told::NotHeld => {
                self.ask = None;
                // The key's own condition may not have held.
                if names_lock && shared.history.writes[id as usize].condition == Condition::Always {
                    claim(false);
                }
                shared.history.refuse(id);
                self.perhaps_go_on(shared);
            }
            Told::Stale { newest } => {
                self.ask = None;
                self.refused(id, (wish, token), newest, shared);
            }
            Told::Nonsense => return Err(Broken::Nonsense("a transaction under a lock came to what it can't")),
        }
        Ok(())
    }

    fn told(&mut self, attempt: Attempt, outcome: lock::Outcome, shared: &mut Shared<'_>) -> Result<(), Broken> {
        let (now, ask) = (shared.env.events.now(), self.ask.take());
        let Some(Ask { what: What::Call(call), .. }) = ask else {
            return Err(Broken::Nonsense("a write was answered as what is asked of a lock"));
        };
        let until = match outcome {
            // What is left was rounded to whole milliseconds.
            lock::Outcome::Granted { valid_ms, .. } | lock::Outcome::Renewed { valid_ms } => {
                attempt.sent + valid_ms.saturating_sub(1) * 1000 * COUNTED_PER_MILLE / self.rate_per_mille
            }
            _ => 0,
        };
        let answer = Answer { sent: attempt.sent, told: now, outcome: outcome.clone(), until };
        shared.record.calls[call].answer = Some(answer);
        let (_, intent) = self.wish.as_ref().expect("what it asks is for a wish");
        match (shared.record.calls[call].action, outcome) {
            (Action::Acquire, lock::Outcome::Granted { token, valid_ms }) => {
                shared.env.counters.add(Fault::LockWaitedFor, u64::from(valid_ms > intent.ttl_ms));
                self.hold = Some(Hold { token, until, ends: now + intent.holds_us, has_stopped: false });
            }
            (Action::Acquire, lock::Outcome::Held { by, .. }) => {
                if intent.is_told {
                    let lock = intent.lock;
                    return Err(Violation::NotFreed { lock, by: by.clone() }.into());
                }
                shared.env.counters.add(Fault::LockWaitOver, u64::from(intent.wait_ms > 0));
                self.let_go(shared);
                return Ok(());
            }
            (Action::Renew { .. }, lock::Outcome::Renewed { .. }) => {
                let hold = self.hold.as_mut().expect("it renews what it holds");
                hold.until = hold.until.max(until);
            }
            (Action::Renew { .. }, lock::Outcome::NotHeld { .. }) if intent.is_careless && self.dice.chance(500) => {
                shared.env.counters.add(Fault::LeaseOver, 1);
            }
            (Action::Renew { .. } | Action::Release { .. }, lock::Outcome::NotHeld { .. }) => {
                shared.env.counters.add(Fault::LeaseOver, 1);
                self.let_go(shared);
                return Ok(());
            }
            (Action::Release { .. }, lock::Outcome::Released) => {
                self.let_go(shared);
                return Ok(());
            }
            _ => return Err(Broken::Nonsense("a lock was answered with what can't come of the question")),
        }
        self.go_on_after(0, shared);
        Ok(())
    }

    /// It has nothing more to do with the lock, whatever the members know.
    fn let_go(&mut self, shared: &mut Shared<'_>) {
        (self.ask, self.hold, self.wish) = (None, None, None);
        let pause = if self.orders.is_empty() { shared.scenario.locks.think_us.clone() } else { 0..=1000 };
        let pause = self.dice.within(pause);
        self.go_on_after(pause, shared);
    }

    fn try_again(&mut self, follows_hint: bool, shared: &mut Shared<'_>) {
        let pause = self.dice.within(1_000..=if follows_hint { 3_000 } else { 50_000 });
        self.go_on_after(pause, shared);
    }

    fn go_on_after(&mut self, pause: u64, shared: &mut Shared<'_>) {
        shared.env.events.after(pause, Event::Client { client: self.asker.client, what: ClientEvent::Next });
    }

    fn trace(&self, shared: &mut Shared<'_>, what: std::fmt::Arguments<'_>) {
        shared.env.trace.record(shared.env.events.now(), format_args!("client {} {what}", self.asker.client));
    }
}
