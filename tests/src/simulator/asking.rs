//! How a client sends what it asks to a member, and how it hangs up: the same for all kinds of clients.

use annulus_core::id::GroupId;
use annulus_core::lane::Operation;
use annulus_core::map::Map;
use annulus_core::txn::Transaction;

use super::dice::Dice;
use super::events::{ClientEvent, ClientRequest, Event, NodeEvent};
use super::network::Fate;
use super::scenario::Scenario;
use super::txns::shell::Demand;
use super::world::{Environment, members_index};

/// How much longer than its request may take a client waits for the answer, in microseconds.
const GRACE_US: u64 = 20_000;

/// The side of a client that members see.
#[derive(Debug)]
pub struct Asker {
    /// The client's number.
    pub client: usize,
    attempts: u64,
}

/// What is asked once.
#[derive(Debug)]
pub struct Question<'a> {
    /// The group that it is for.
    pub group: GroupId,
    /// What is asked.
    pub operation: &'a Operation,
    /// Who is said to know; `None`: anybody.
    pub hint: Option<usize>,
    /// How much longer than usual the answer may take, in milliseconds.
    pub wait_ms: u64,
    /// The client waits for no longer than this, in microseconds, whatever it has said.
    pub patience_us: u64,
}

/// A transaction that is asked for once.
#[derive(Debug)]
pub struct Demanded<'a> {
    /// All of it.
    pub transaction: &'a Transaction,
    /// Who is asked.
    pub member: usize,
    /// How long the member may take.
    pub timeout_ms: u32,
    /// How much longer the client waits, in microseconds.
    pub more_us: u64,
}

/// An attempt that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// Its number.
    pub number: u64,
    /// Who was asked.
    pub member: usize,
    /// When it was sent.
    pub sent: u64,
}

impl Asker {
    /// One that has asked nothing yet.
    pub fn new(client: usize) -> Self {
        Self { client, attempts: 0 }
    }

    /// Asks a member. Either the answer comes, or [`ClientEvent::Timeout`].
    pub fn ask(
        &mut self,
        question: Question<'_>,
        (scenario, map): (&Scenario, &Map),
        dice: &mut Dice,
        env: &mut Environment,
    ) -> Attempt {
        self.attempts += 1;
        let (client, attempt, now) = (self.client, self.attempts, env.events.now());
        let Question { group, operation, hint, wait_ms, patience_us } = question;
        let member = hint.unwrap_or_else(|| members_index(dice.pick(&map.members).id));
        let timeout_ms = u32::try_from(*dice.pick(&[100, 300, 1000]) + wait_ms).expect("small");
        let forward = dice.chance(scenario.forward);
        let request = ClientRequest { client, attempt, group, timeout_ms, forward, operation: operation.clone() };
        env.trace.record(now, format_args!("client {client} asks member {member}, attempt {attempt}"));
        let timeout_us = patience_us.min(u64::from(timeout_ms) * 1000 + GRACE_US);
        env.events.after(timeout_us, Event::Client { client, what: ClientEvent::Timeout { attempt } });
        if let Fate::Arrives(delays) = env.network.send_client(dice, &mut env.counters) {
            env.events.after(delays[0], Event::Node { member, life: None, what: NodeEvent::Request(request) });
        }
        Attempt { number: attempt, member, sent: now }
    }

    /// Asks a member for a transaction. Either the answer comes, or [`ClientEvent::Timeout`]. Returns the attempt's number.
    pub fn demand(&mut self, demanded: &Demanded<'_>, dice: &mut Dice, env: &mut Environment) -> u64 {
        self.attempts += 1;
        let (client, attempt, now) = (self.client, self.attempts, env.events.now());
        let Demanded { transaction, member, timeout_ms, more_us } = *demanded;
        env.trace.record(now, format_args!("client {client} asks member {member}, attempt {attempt}"));
        let timeout_us = u64::from(timeout_ms) * 1000 + more_us;
        env.events.after(timeout_us, Event::Client { client, what: ClientEvent::Timeout { attempt } });
        if let Fate::Arrives(delays) = env.network.send_client(dice, &mut env.counters) {
            let what = NodeEvent::Demand(Demand { client, attempt, timeout_ms, transaction: transaction.clone() });
            env.events.after(delays[0], Event::Node { member, life: None, what });
        }
        attempt
    }

    /// The connection of an attempt ends. The member may not hear of it.
    pub fn hang_up(&self, attempt: Attempt, dice: &mut Dice, env: &mut Environment) {
        let (client, Attempt { number, member, .. }) = (self.client, attempt);
        env.trace
            .record(env.events.now(), format_args!("client {client} hangs up on member {member}, attempt {number}"));
        if let Fate::Arrives(delays) = env.network.send_client(dice, &mut env.counters) {
            let what = NodeEvent::HangUp { client, attempt: number };
            env.events.after(delays[0], Event::Node { member, life: None, what });
        }
    }
}
