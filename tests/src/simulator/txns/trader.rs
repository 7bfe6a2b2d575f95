//! A client that uses transactions: it looks at some accounts, wants something of them, and asks until it knows what came of it.
//!
//! ```text
//!  Next ─▶ look, or do what it wants by what it has seen ─▶ try ──done, or not done──▶ written down ─▶ Next
//!                                                           ▲ │
//!                                                           │ └─ nobody knows: under the same name through another member,
//!                                                           └─── if it has a name; and sometimes through two at once
//! ```

use std::collections::VecDeque;

use annulus_core::lane::{Operation, Refusal, Reply};
use annulus_core::map::Map;
use annulus_core::partition::txn::{Action, Done, Name};
use annulus_core::partition::{Consistency, Item, Outcome};
use annulus_core::txn::{Answer, Failure, Transaction};

use super::checks::Violation;
use super::intent::{About, Deed, Drawing, Knowledge, Known, some};
use super::record::{Record, Sight, Told};
use super::{Account, Thing, TxnId, account_key, baton_key};
use crate::simulator::asking::{Asker, Demanded, Question};
use crate::simulator::client::{key_name, seen};
use crate::simulator::dice::Dice;
use crate::simulator::events::{ClientEvent, Event};
use crate::simulator::faults::Fault;
use crate::simulator::history::{History, Read};
use crate::simulator::scenario::Scenario;
use crate::simulator::world::{Broken, Environment, members_index};

/// A thing as it was seen: the transaction that it was from.
type SeenThing = (Thing, Option<TxnId>);

/// How long a client tries one thing, in microseconds.
const PATIENCE_US: u64 = 6_000_000;
/// In the end everything is put to expire after this long.
const LAST_TTL_MS: u64 = 200;

/// What a client is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// To look at everything.
    Look,
    /// To put everything so that it goes away.
    Clear,
}

/// A client that uses transactions.
#[derive(Debug)]
pub struct Trader {
    asker: Asker,
    dice: Dice,
    known: Knowledge,
    ask: Option<Ask>,
    /// What it was told to do; it never gives up on that.
    pub orders: VecDeque<Order>,
    /// Whether it does as it likes when it was told nothing.
    pub free: bool,
}

/// What it wants to know, or to happen.
#[derive(Debug)]
enum What {
    /// Some keys at one moment.
    Look(Vec<About>),
    /// A transaction.
    Do(Deed),
    /// One key as it is.
    Peek(Thing, Operation),
    /// A plain write.
    Mark(TxnId, Thing, Operation),
    /// What it was told to put.
    Clear,
}

#[derive(Debug)]
struct Ask {
    what: What,
    transaction: Option<Transaction>,
    invoked: u64,
    give_up_at: u64,
    tries: Vec<Try>,
    /// What it was told when it was told for certain.
    committed: Option<(bool, Option<Vec<Done>>)>,
    /// Whether it asks though it knows.
    repeats: bool,
    is_order: bool,
    hint: Option<usize>,
}

#[derive(Debug)]
struct Try {
    attempt: u64,
    member: usize,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// Nobody knows what came of it.
    Lost,
    /// It has done nothing.
    NotDone,
    Done,
}

/// What all clients share.
pub struct Shared<'a> {
    /// What the run is made of.
    pub scenario: &'a Scenario,
    /// The newest map.
    pub map: &'a Map,
    /// What happens to accounts.
    pub record: &'a mut Record,
    /// What happens to other keys.
    pub history: &'a mut History,
    /// Everything else.
    pub env: &'a mut Environment,
}

impl Trader {
    /// A client with a stream of chance of its own.
    pub fn new(number: usize, scenario: &Scenario, dice: Dice) -> Self {
        let known = Knowledge::new(scenario);
        Self { asker: Asker::new(number), dice, known, ask: None, orders: VecDeque::new(), free: true }
    }

    /// Whether it has nothing more to do.
    pub fn is_idle(&self) -> bool {
        self.ask.is_none() && self.orders.is_empty() && !self.free
    }

    /// Something happens to it.
    pub fn handle(&mut self, what: ClientEvent, shared: &mut Shared<'_>) -> Result<(), Broken> {
        match what {
            ClientEvent::Next => self.next(shared),
            ClientEvent::Timeout { attempt } => {
                if self.close(attempt, State::Lost).is_some() {
                    self.go_on(shared);
                }
            }
            ClientEvent::Answer { attempt, reply } => {
                if self.close(attempt, State::Done).is_some() {
                    return self.replied(attempt, reply, shared);
                }
            }
            ClientEvent::Told { attempt, answer } => {
                if self.close(attempt, State::Done).is_some() {
                    return self.told(attempt, answer, shared);
                }
            }
        }
        Ok(())
    }

    /// One of its tries is open no more.
    fn close(&mut self, attempt: u64, state: State) -> Option<()> {
        let tries = &mut self.ask.as_mut()?.tries;
        let open = tries.iter_mut().find(|this| this.attempt == attempt && this.state == State::Open)?;
        open.state = state;
        Some(())
    }

    fn set(&mut self, attempt: u64, state: State) {
        let ask = self.ask.as_mut().expect("it was just answered");
        let this = ask.tries.iter_mut().find(|this| this.attempt == attempt);
        this.expect("it was just answered").state = state;
    }

    fn next(&mut self, shared: &mut Shared<'_>) {
        if let Some(ask) = &self.ask {
            if ask.tries.iter().any(|this| this.state == State::Open) {
                return;
            }
            return self.attempt(shared);
        }
        let order = self.orders.pop_front();
        let what = match order {
            Some(Order::Look) => What::Look(self.everything(shared)),
            Some(Order::Clear) => What::Clear,
            None if self.free => self.choose(shared),
            None => return,
        };
        let now = shared.env.events.now();
        let transaction = match &what {
            What::Look(about) => Some(look(about, self.asker.client, shared.env.events.now())),
            What::Do(deed) => Some(deed.transaction.clone()),
            What::Clear => Some(self.clear()),
            What::Peek(..) | What::Mark(..) => None,
        };
        self.trace(shared, format_args!("wants {what:?}"));
        let is_order = order.is_some();
        let give_up_at = if is_order { u64::MAX } else { now + PATIENCE_US };
        let tries = Vec::new();
        let (committed, repeats, hint) = (None, false, None);
        self.ask = Some(Ask { what, transaction, invoked: now, give_up_at, tries, committed, repeats, is_order, hint });
        self.attempt(shared);
    }

    fn everything(&self, shared: &Shared<'_>) -> Vec<About> {
        let plan = &shared.scenario.txns;
        (0..plan.accounts).map(About::Account).chain((0..plan.places).map(About::Place)).collect()
    }

    fn choose(&mut self, shared: &mut Shared<'_>) -> What {
        let choice = self.dice.weighted(&[(20, 0), (20, 1), (12, 2), (8, 3), (60, 4)]).expect("weights");
        let accounts = shared.scenario.txns.accounts;
        match choice {
            0 => {
                let mut about = self.everything(shared);
                if self.dice.chance(shared.scenario.txns.mixed) {
                    about.extend(
                        some(&mut self.dice, shared.scenario.keys, 2).into_iter().map(|key| About::Key(key, None)),
                    );
                }
                What::Look(about)
            }
            1 => {
                let many = 1 + self.dice.index(accounts);
                What::Look(some(&mut self.dice, accounts, many).into_iter().map(About::Account).collect())
            }
            2 => {
                let thing = self.dice.index(accounts);
                let consistency = *self.dice.pick(&[Consistency::Linearizable, Consistency::Quorum]);
                What::Peek(thing, Operation::Get { key: account_key(thing), consistency })
            }
            choice => {
                let Shared { scenario, map, record, history, env } = shared;
                let now = env.events.now();
                let mut drawing = Drawing { scenario, map, record, history, now, dice: &mut self.dice };
                if choice == 3 {
                    let (txn, write, thing) = drawing.plain(&self.known);
                    return What::Mark(txn, thing, Operation::Write(write));
                }
                What::Do(drawing.deed(&self.known))
            }
        }
    }

    /// Puts everything that may be there, to go away by itself.
    fn clear(&self) -> Transaction {
        let keys = (0..self.known.accounts.len()).map(account_key).chain((0..self.known.places.len()).map(baton_key));
        let then = keys.map(|key| Action::Put { key, value: "gone".into(), ttl_ms: Some(LAST_TTL_MS) }).collect();
        let name = Name::new("clear".into()).expect("a short name");
        Transaction { name, conditions: Vec::new(), locks: Vec::new(), then, otherwise: Vec::new(), fence: None }
    }

    /// Asks a member; sometimes two.
    fn attempt(&mut self, shared: &mut Shared<'_>) {
        let now = shared.env.events.now();
        let Some(ask) = self.ask.as_mut() else { return };
        if now >= ask.give_up_at || (!self.free && !ask.is_order && !ask.tries.is_empty()) {
            return self.give_up(shared);
        }
        let Some(transaction) = &ask.transaction else {
            let (What::Peek(thing, operation) | What::Mark(_, thing, operation)) = &ask.what else {
                unreachable!("it is plain")
            };
            let group = shared.map.partition_of(account_key(*thing).bytes()).group();
            let question = Question { group, operation, hint: ask.hint.take(), wait_ms: 0, patience_us: u64::MAX };
            let world = (shared.scenario, shared.map);
            let attempt = self.asker.ask(question, world, &mut self.dice, shared.env);
            ask.tries.push(Try { attempt: attempt.number, member: attempt.member, state: State::Open });
            return;
        };
        let is_named = !transaction.name.is_made_up();
        let twice = ask.tries.is_empty() && is_named && self.dice.chance(shared.scenario.txns.twice);
        for _ in 0..1 + u32::from(twice) {
            let others = shared.map.members.iter().map(|member| members_index(member.id));
            let others: Vec<usize> = others.filter(|m| ask.tries.last().is_none_or(|last| last.member != *m)).collect();
            let last = ask.tries.last().map_or(0, |last| last.member);
            let member = if others.is_empty() { last } else { *self.dice.pick(&others) };
            let timeout_ms = *self.dice.pick(&shared.scenario.txns.timeouts_ms);
            // What it is told late it is told for certain.
            let more_us = *self.dice.pick(&[20_000, 2_500_000]);
            let demanded = Demanded { transaction, member, timeout_ms, more_us };
            let attempt = self.asker.demand(&demanded, &mut self.dice, shared.env);
            if !ask.tries.is_empty() && is_named {
                shared.env.counters.add(Fault::TxnTriedByTwo, 1);
            }
            ask.tries.push(Try { attempt, member, state: State::Open });
        }
    }

    /// It asks no more, and what it does not know it will never know.
    fn give_up(&mut self, shared: &mut Shared<'_>) {
        let ask = self.ask.take().expect("it asks");
        self.trace(shared, format_args!("asks no more"));
        let all_not_done = ask.tries.iter().all(|this| this.state == State::NotDone);
        if let (What::Do(Deed { id, .. }) | What::Mark(id, ..), true) = (&ask.what, all_not_done) {
            not_done(*id, ask.committed.is_some(), shared);
        }
        self.think(shared);
    }

    /// A try is over: waits for the others, tries again, or lets it be.
    fn go_on(&mut self, shared: &mut Shared<'_>) {
        let Some(ask) = self.ask.as_mut() else { return };
        if ask.tries.iter().any(|this| this.state == State::Open) {
            return;
        }
        let last = ask.tries.last().expect("one is over").state;
        let is_named = ask.transaction.as_ref().is_some_and(|transaction| !transaction.name.is_made_up());
        let again = match &ask.what {
            _ if ask.is_order => ask.committed.is_none(),
            _ if ask.committed.is_some() => {
                let again = is_named && !ask.repeats && self.dice.chance(shared.scenario.txns.repeated);
                ask.repeats = true;
                again
            }
            What::Do(_) if !is_named => false,
            What::Do(_) => last == State::Lost || self.dice.chance(400),
            What::Look(_) | What::Peek(..) | What::Mark(..) | What::Clear => true,
        };
        if !again {
            return self.give_up(shared);
        }
        // Whoever is told that there is no room makes none by asking.
        let tries = ask.tries.len().min(10) as u64;
        let pause = self.dice.within(1_000..=50_000 * tries.max(1));
        self.next_after(pause, shared);
    }

    /// A plain request was answered.
    fn replied(&mut self, attempt: u64, reply: Reply, shared: &mut Shared<'_>) -> Result<(), Broken> {
        self.trace(shared, format_args!("is told {}", show(&reply)));
        let now = shared.env.events.now();
        let ask = self.ask.as_mut().expect("it was just answered");
        let invoked = ask.invoked;
        match (reply, &ask.what) {
            (Reply::Refused(refusal), _) => {
                if let Refusal::NotLeader { leader: Some(leader) } = refusal {
                    ask.hint = self.dice.chance(900).then(|| members_index(leader));
                }
                self.set(attempt, State::NotDone);
            }
            (Reply::OutcomeUnknown, _) => self.set(attempt, State::Lost),
            (Reply::Get(item), What::Peek(thing, _)) => {
                let thing = *thing;
                let last = shared.record.see(thing, 0, item.as_ref())?;
                shared.record.sight(Sight { invoked, returned: now, seen: vec![(thing, last)] })?;
                self.known.accounts[thing] = known(item);
                ask.committed = Some((true, None));
            }
            (Reply::Write(Outcome::Blocked), What::Mark(..)) => self.set(attempt, State::NotDone),
            (Reply::Write(Outcome::Written { version, .. }), What::Mark(txn, thing, _)) => {
                let (txn, thing) = (*txn, *thing);
                shared.record.written(thing, txn, version)?;
                let account = shared.record.noted[&(thing, txn)].account.clone();
                self.known.accounts[thing] = Some((version, account));
                let mark = &mut shared.record.txns[txn as usize];
                (mark.told, mark.returned) = (Told::Done, Some(now));
                ask.committed = Some((true, None));
            }
            (Reply::Write(Outcome::ConditionFailed { .. }), What::Mark(txn, ..)) => {
                let txn = *txn;
                ask.committed = Some((false, None));
                not_done(txn, false, shared);
            }
            _ => return Err(Broken::Nonsense("a client that uses transactions was told of something else")),
        }
        self.go_on(shared);
        Ok(())
    }

    /// A member has told what came of a transaction.
    fn told(&mut self, attempt: u64, answer: Answer, shared: &mut Shared<'_>) -> Result<(), Broken> {
        self.trace(shared, format_args!("is told {}", outline(&answer)));
        let ask = self.ask.as_mut().expect("it was just answered");
        let has_nothing_to_do = |transaction: &Transaction| transaction.otherwise.is_empty();
        let fails = matches!(answer, Answer::Committed { then: false, .. });
        let fails_for_nothing = fails && ask.transaction.as_ref().is_some_and(has_nothing_to_do);
        let is_named = ask.transaction.as_ref().is_some_and(|transaction| !transaction.name.is_made_up());
        if let (true, What::Do(deed)) = (fails_for_nothing, &ask.what) {
            shared.record.txns[deed.id as usize].failed_by = Some(shared.env.events.now());
        }
        match answer {
            Answer::Unknown => self.set(attempt, State::Lost),
            Answer::Failed(Failure::NameConflict) => {
                return Err(Broken::Nonsense("a transaction's name was said to be another's"));
            }
            Answer::Failed(Failure::StaleFence { .. } | Failure::TooManyFences) => {
                return Err(Broken::Nonsense("a transaction without a fence was refused for one"));
            }
            Answer::Failed(_) => self.set(attempt, State::NotDone),
            // Nothing is kept of it, as nobody else tries it.
            Answer::Committed { .. } if fails_for_nothing && !is_named => self.set(attempt, State::NotDone),
            Answer::Committed { then, results } => self.committed(then, results, shared)?,
        }
        self.go_on(shared);
        Ok(())
    }

    fn committed(&mut self, then: bool, results: Option<Vec<Done>>, shared: &mut Shared<'_>) -> Result<(), Broken> {
        let ask = self.ask.as_mut().expect("it was just answered");
        if let Some((then_before, before)) = &ask.committed {
            let differs = before.as_ref().zip(results.as_ref()).is_some_and(|(before, results)| before != results);
            if *then_before != then || differs {
                let answer = outline(&Answer::Committed { then, results });
                return Err(Violation::AnsweredTwice { answer }.into());
            }
            shared.env.counters.add(Fault::TxnRepeated, 1);
            return Ok(());
        }
        ask.committed = Some((then, results.clone()));
        let (invoked, now) = (ask.invoked, shared.env.events.now());
        let (id, about) = match &ask.what {
            What::Look(about) => (None, about.clone()),
            What::Do(deed) => (Some(deed.id), if then { deed.then.clone() } else { deed.otherwise.clone() }),
            What::Clear => return Ok(()),
            What::Peek(..) | What::Mark(..) => return Err(Broken::Nonsense("it asked for no transaction")),
        };
        let is_order = ask.is_order;
        if let Some(id) = id {
            let txn = &mut shared.record.txns[id as usize];
            (txn.told, txn.returned) = (if then { Told::Done } else { Told::Otherwise }, Some(now));
            if !then {
                txn.keys.iter().for_each(|write| shared.history.refuse(*write));
            }
        }
        let Some(results) = results else { return Ok(()) };
        if results.len() != about.len() {
            return Err(Broken::Nonsense("a transaction has more or fewer results than operations"));
        }
        let mut seen_now = Vec::new();
        let mut batons = Vec::new();
        for (about, done) in about.iter().zip(results) {
            self.note(id, (invoked, now), *about, done, (&mut seen_now, &mut batons), shared)?;
        }
        self.see_baton(&about, &batons, &mut seen_now, shared.record)?;
        match id {
            Some(id) if then => shared.record.txns[id as usize].reads.extend(seen_now),
            _ => {
                shared.record.sight(Sight { invoked, returned: now, seen: seen_now })?;
                if is_order {
                    shared.record.last = Some(shared.record.sights.len() - 1);
                }
            }
        }
        Ok(())
    }

    /// Writes down what came of one operation.
    fn note(
        &mut self,
        id: Option<TxnId>,
        (invoked, now): (u64, u64),
        about: About,
        done: Done,
        (seen_now, batons): (&mut Vec<SeenThing>, &mut Vec<Option<TxnId>>),
        shared: &mut Shared<'_>,
    ) -> Result<(), Broken> {
        let baton = shared.record.baton();
        match (about, done, id) {
            (About::Account(thing), Done::Got(item), _) => {
                seen_now.push((thing, shared.record.see(thing, 0, item.as_ref())?));
                self.known.accounts[thing] = known(item);
            }
            (About::Account(thing), Done::Put(version), Some(id)) => {
                shared.record.written(thing, id, version)?;
                let account = shared.record.noted[&(thing, id)].account.clone();
                self.known.accounts[thing] = Some((version, account));
            }
            (About::Place(place), Done::Got(item), _) => {
                batons.push(shared.record.see(baton, place, item.as_ref())?);
                self.known.places[place] = known(item);
            }
            (About::Place(place), Done::Put(version), Some(id)) => {
                shared.record.written(baton, id, version)?;
                let account = shared.record.noted[&(baton, id)].account.clone();
                self.known.places[place] = Some((version, account));
            }
            (About::Place(place), Done::Deleted(true), Some(_)) => self.known.places[place] = None,
            (About::Key(key, None), Done::Got(item), _) => {
                let seen = item.map(seen).transpose()?;
                self.known.keys[key] = seen.map(|seen| seen.version);
                shared.history.reads.push(Read { key, invoked, returned: now, seen });
            }
            (About::Key(key, Some(write)), Done::Put(version), Some(_)) => {
                self.known.keys[key] = Some(version);
                shared.history.commit(write, now, version);
            }
            (About::Key(key, Some(write)), Done::Deleted(was), Some(_)) => {
                self.known.keys[key] = None;
                shared.history.answer(write, now, if was { Outcome::Deleted } else { Outcome::NotFound });
            }
            _ => return Err(Broken::Nonsense("an operation of a transaction came to what it can't")),
        }
        Ok(())
    }

    /// If all places were looked at, the baton was in one of them, or nowhere.
    fn see_baton(
        &self,
        about: &[About],
        batons: &[Option<TxnId>],
        seen_now: &mut Vec<(Thing, Option<TxnId>)>,
        record: &Record,
    ) -> Result<(), Violation> {
        let mut there = batons.iter().flatten();
        let last = there.next().copied();
        if there.next().is_some() {
            return Err(Violation::TwoBatons { seen: batons.to_vec() });
        }
        let places = about.iter().filter(|about| matches!(about, About::Place(_))).count();
        let all = !batons.is_empty() && batons.len() == places && places == self.known.places.len();
        if all || last.is_some() {
            seen_now.push((record.baton(), last));
        }
        Ok(())
    }

    fn think(&mut self, shared: &mut Shared<'_>) {
        let pause = if self.orders.is_empty() { shared.scenario.txns.think_us.clone() } else { 0..=1000 };
        let pause = self.dice.within(pause);
        self.next_after(pause, shared);
    }

    fn next_after(&mut self, pause: u64, shared: &mut Shared<'_>) {
        shared.env.events.after(pause, Event::Client { client: self.asker.client, what: ClientEvent::Next });
    }

    fn trace(&self, shared: &mut Shared<'_>, what: std::fmt::Arguments<'_>) {
        shared.env.trace.record(shared.env.events.now(), format_args!("client {} {what}", self.asker.client));
    }
}

/// It was said for certain that it has done nothing.
fn not_done(id: TxnId, is_known: bool, shared: &mut Shared<'_>) {
    let txn = &mut shared.record.txns[id as usize];
    if !is_known {
        (txn.told, txn.returned) = (Told::NotDone, Some(shared.env.events.now()));
        txn.keys.iter().for_each(|write| shared.history.refuse(*write));
    }
}

/// A read of all this at one moment, by this client, begun now.
fn look(about: &[About], client: usize, now: u64) -> Transaction {
    let key = |about: &About| match *about {
        About::Account(number) => account_key(number),
        About::Place(place) => baton_key(place),
        About::Key(key, _) => key_name(key),
    };
    let then = about.iter().map(|about| Action::Get { key: key(about) }).collect();
    // No client begins two things at once.
    let name = Name::made_up(1 << 100 | u128::from(now) << 16 | client as u128);
    Transaction { name, conditions: Vec::new(), locks: Vec::new(), then, otherwise: Vec::new(), fence: None }
}

fn known(item: Option<Item>) -> Known {
    item.and_then(|item| Some((item.version, Account::decode(item.value)?)))
}

/// A reply without its values.
fn show(reply: &Reply) -> String {
    match reply {
        Reply::Get(item) => format!("{:?}", item.as_ref().map(|item| item.version)),
        other => format!("{other:?}"),
    }
}

/// An answer without its values.
fn outline(answer: &Answer) -> String {
    let Answer::Committed { then, results: Some(results) } = answer else { return format!("{answer:?}") };
    let outlined: Vec<String> = results
        .iter()
        .map(|done| match done {
            Done::Got(item) => format!("got {:?}", item.as_ref().map(|item| item.version)),
            done => format!("{done:?}"),
        })
        .collect();
    format!("committed, then: {then}, {}", outlined.join(", "))
}
