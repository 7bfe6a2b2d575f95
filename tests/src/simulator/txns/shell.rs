//! What a member does for transactions: see `annulus_node::transactions` and the node's own router, of which this is a model.
//!
//! ```text
//!  Demand ─▶ Coordinator, Snapshot ─┐ asks   ┌─▶ a lane here ──┐
//!  abandoned ─▶ Recovery ───────────┴────────┴─▶ who leads ────┴─▶ hear: answers as soon as there is one, and goes on
//!                 ▲ the time is over: give_up        │ refused, unknown: again, as long as there is time
//!                 └──────────────────────────────────┘
//! ```
//!
//! All of it is gone when the process is.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::take;
use std::time::Duration;

use annulus_core::codec::frame::{Forward, FrameWriter, Item};
use annulus_core::id::{GroupId, MemberId, Ticket};
use annulus_core::lane::{Operation, Refusal, Reply};
use annulus_core::partition::txn::{Blocker, Command, Decision, Done, Id, Outcome, Pointer, Settle};
use annulus_core::partition::{self, Many, Partition, lock};
use annulus_core::txn::{Answer, Ask, Coordinator, Failure, Machine, Recovery, Seen, Snapshot, Transaction, Turn};

use crate::simulator::events::{ClientEvent, Event, NodeEvent};
use crate::simulator::faults::Fault;
use crate::simulator::network::Fate;
use crate::simulator::node::{Carries, Forwarded, Member, Process, ReplyTo};
use crate::simulator::world::{Environment, members_index};

/// How long is waited for what ends a transaction, after its time is over or its answer is given, in microseconds.
const SETTLING_US: u64 = 2_000_000;
/// How long an answer may come late before it is not waited for any more, in microseconds.
const GRACE_US: u64 = 250_000;
/// The pause before a group without a leader is asked again, in microseconds: the first, and the longest.
const FIRST_PAUSE_US: u64 = 5_000;
const LONGEST_PAUSE_US: u64 = 80_000;
/// How long it is tried to end an abandoned transaction before it must be told of again, in microseconds.
const RECOVERY_US: u64 = 5_000_000;
/// Most that are ended at once.
const MOST_RECOVERIES: usize = 256;
/// Reads of several keys that hold these keys, in 1000.
const HOLDS: u32 = 100;
/// An agent that is older than its time by this, in microseconds, will never come to an end.
const LONGEST_END_US: u64 = 60_000_000;

/// A client's transaction on its way to a member.
#[derive(Debug, Clone)]
pub struct Demand {
    /// The client.
    pub client: usize,
    /// The client's number for this attempt.
    pub attempt: u64,
    /// How long the member may take.
    pub timeout_ms: u32,
    /// What is asked.
    pub transaction: Transaction,
}

/// Something that happens to the transactions of a process.
#[derive(Debug, Clone, Copy)]
pub enum ShellEvent {
    /// An agent wanted to be woken.
    Wake {
        /// The agent.
        agent: u64,
        /// Which of its wishes to be woken.
        wish: u64,
    },
    /// An agent's time is over.
    Deadline {
        /// The agent.
        agent: u64,
    },
    /// A question is to be asked again.
    Again {
        /// The question.
        asking: u64,
    },
    /// A question was not answered in time.
    Late {
        /// The question.
        asking: u64,
        /// Which attempt at it.
        attempt: usize,
    },
}

/// The transactions of a process.
#[derive(Debug, Default)]
pub struct Shell {
    numbers: u64,
    agents: BTreeMap<u64, Agent>,
    asking: BTreeMap<u64, Asking>,
    /// By group with steps under way: those that wait.
    settling: BTreeMap<GroupId, Vec<Step>>,
    recovering: BTreeSet<(GroupId, Id)>,
}

#[derive(Debug)]
struct Agent {
    machine: Kind,
    role: Role,
    deadline: u64,
    /// Whether nobody waits for its answer any more.
    answered: bool,
    gave_up: bool,
    /// Counts its wishes to be woken; whether one is open.
    wishes: u64,
    sleeps: bool,
    /// How many of its questions are open.
    open: usize,
    /// How often it has asked.
    turns: u32,
    groups: BTreeSet<GroupId>,
}

#[derive(Debug)]
enum Kind {
    Coordinator(Coordinator),
    /// If all keys change all the time, they are held instead.
    Snapshot(Snapshot, Transaction),
    Recovery(Recovery),
}

#[derive(Debug, Clone)]
enum Role {
    Client { client: usize, attempt: u64 },
    Recovery(GroupId, Id),
}

/// A question to a group.
#[derive(Debug)]
struct Asking {
    whose: Whose,
    group: GroupId,
    operation: Operation,
    until: u64,
    pause: u64,
    /// Counts the attempts at it.
    attempt: usize,
    /// Who has it now; `None`: a lane here, or nobody.
    sent_to: Option<MemberId>,
    is_open: bool,
    is_unknown: bool,
}

#[derive(Debug)]
enum Whose {
    /// An agent's, under this number.
    Agent(u64, u32),
    /// Steps of several; whether more are to follow them.
    Steps(Vec<Step>, bool),
}

#[derive(Debug)]
struct Step {
    agent: u64,
    number: u32,
    settle: Settle,
    until: u64,
}

enum Given {
    Answer(Answer),
    Seen(Seen),
    Decision(Option<Decision>),
}

struct Moved {
    asks: Vec<Ask>,
    wake_in: Option<Duration>,
    given: Option<Given>,
    is_over: bool,
}

impl Moved {
    fn of<A>(turn: Turn<A>, given: impl FnOnce(A) -> Given) -> Self {
        let Turn { asks, wake_in, answer, is_over } = turn;
        Self { asks, wake_in, given: answer.map(given), is_over }
    }
}

enum What {
    Begin,
    Hear(u32, Reply),
    Wake,
    GiveUp,
}

impl Kind {
    fn step(&mut self, what: What) -> Moved {
        fn turn<M: Machine>(
            machine: &mut M,
            what: What,
            give_up: impl FnOnce(&mut M) -> Turn<M::Answer>,
        ) -> Turn<M::Answer> {
            match what {
                What::Begin => machine.begin(),
                What::Hear(number, reply) => machine.hear(number, reply),
                What::Wake => machine.wake(),
                What::GiveUp => give_up(machine),
            }
        }
        match self {
            Self::Coordinator(machine) => Moved::of(turn(machine, what, Coordinator::give_up), Given::Answer),
            Self::Snapshot(machine, _) => {
                let give_up = |_: &mut Snapshot| Turn { is_over: true, ..Turn::default() };
                Moved::of(turn(machine, what, give_up), Given::Seen)
            }
            Self::Recovery(machine) => {
                let give_up = |_: &mut Recovery| Turn { is_over: true, ..Turn::default() };
                Moved::of(turn(machine, what, give_up), Given::Decision)
            }
        }
    }
}

impl Shell {
    fn next(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// How many agents there are.
    pub fn len(&self) -> usize {
        self.agents.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.agents.is_empty()
    }

    /// How many coordinators are not done.
    pub fn coordinators(&self) -> u64 {
        self.agents.values().filter(|agent| matches!(agent.machine, Kind::Coordinator(_))).count() as u64
    }
}

impl Member {
    fn shell(&mut self) -> &mut Shell {
        &mut self.process.as_mut().expect("it runs").shell
    }

    /// A client demands a transaction, or a read of many keys at one moment.
    pub fn demanded(&mut self, demand: Demand, env: &mut Environment) {
        let Demand { client, attempt, timeout_ms, transaction } = demand;
        let role = Role::Client { client, attempt };
        let deadline = env.events.now() + u64::from(timeout_ms) * 1000;
        let Some(map) = self.process.as_ref().expect("it runs").map.clone() else {
            return tell(client, attempt, Answer::Failed(Failure::Refused(Refusal::NoReplica)), env);
        };
        let partition_of = |key: &[u8]| map.partition_of(key);
        let reads = transaction.only_reads();
        // As if they had changed all the time, which they seldom do.
        let holds = reads.is_some() && env.dice.chance(HOLDS);
        env.counters.add(Fault::SnapshotHeld, u64::from(holds));
        let machine = match reads.filter(|_| !holds) {
            Some(keys) => Kind::Snapshot(Snapshot::new(keys, partition_of), transaction),
            None => {
                let (number, priority) = (env.dice.number(), env.events.now() + env.dice.below(20_000));
                let coordinator = Coordinator::new(transaction, partition_of, number, priority);
                Kind::Coordinator(if number % 3 == 0 { coordinator.look_first() } else { coordinator })
            }
        };
        self.begin(machine, role, deadline, env);
    }

    /// Transactions that nobody seems to end: each is ended once, whoever tells of it again.
    pub fn found_abandoned(&mut self, found: Vec<(GroupId, Pointer)>, env: &mut Environment) {
        for (group, pointer) in found {
            let partition = group.partition().expect("a partition");
            let shell = self.shell();
            if shell.recovering.len() < MOST_RECOVERIES && shell.recovering.insert((group, pointer.id.clone())) {
                let role = Role::Recovery(group, pointer.id.clone());
                let deadline = env.events.now() + RECOVERY_US;
                self.begin(Kind::Recovery(Recovery::new(pointer, partition)), role, deadline, env);
            }
        }
    }

    fn begin(&mut self, machine: Kind, role: Role, deadline: u64, env: &mut Environment) {
        let member = self.index;
        let shell = self.shell();
        let number = shell.next();
        let agent = Agent {
            machine,
            role,
            deadline,
            answered: false,
            gave_up: false,
            wishes: 0,
            sleeps: false,
            open: 0,
            turns: 0,
            groups: BTreeSet::new(),
        };
        let now = env.events.now();
        env.trace.record(now, format_args!("member {member} agent {number}: {:?}", agent.role));
        shell.agents.insert(number, agent);
        env.events.after(deadline - now, self.event(NodeEvent::Shell(ShellEvent::Deadline { agent: number })));
        self.step(number, What::Begin, env);
    }

    /// Something happens to its transactions.
    pub fn shell_event(&mut self, what: ShellEvent, env: &mut Environment) {
        match what {
            ShellEvent::Wake { agent, wish } => {
                let sleeper = self.shell().agents.get_mut(&agent).filter(|agent| agent.sleeps && agent.wishes == wish);
                if let Some(sleeper) = sleeper {
                    sleeper.sleeps = false;
                    self.step(agent, What::Wake, env);
                }
            }
            ShellEvent::Deadline { agent } => {
                if let Some(late) = self.shell().agents.get_mut(&agent).filter(|agent| !agent.answered) {
                    late.gave_up = true;
                    self.step(agent, What::GiveUp, env);
                }
            }
            ShellEvent::Again { asking } => self.ask(asking, env),
            ShellEvent::Late { asking, attempt } => {
                let is_read = self.shell().asking.get(&asking).is_some_and(|late| !late.operation.is_write());
                let reply = if is_read { Reply::Refused(Refusal::TimedOut) } else { Reply::OutcomeUnknown };
                self.asked_answered(asking, attempt, reply, env);
            }
        }
    }

    fn step(&mut self, number: u64, what: What, env: &mut Environment) {
        let Some(agent) = self.shell().agents.get_mut(&number) else { return };
        if let (What::Hear(_, reply), Kind::Coordinator(_)) = (&what, &agent.machine) {
            count_reply(reply, env);
        }
        let moved = agent.machine.step(what);
        agent.turns += u32::from(!moved.asks.is_empty());
        agent.groups.extend(moved.asks.iter().map(|ask| ask.group));
        if let Some(given) = moved.given {
            self.given(number, given, env);
        }
        let now = env.events.now();
        // Its keys may be held instead of read by now.
        let Some(agent) = self.shell().agents.get_mut(&number) else { return };
        assert!(now < agent.deadline + LONGEST_END_US, "a transaction never ends: {agent:?}");
        if moved.is_over {
            return self.agent_done(number, env);
        }
        let until = if agent.gave_up || agent.answered { now + SETTLING_US } else { agent.deadline };
        agent.open += moved.asks.len();
        if let Some(wake_in) = moved.wake_in {
            (agent.sleeps, agent.wishes) = (true, agent.wishes + 1);
            let wish = agent.wishes;
            let delay = u64::try_from(wake_in.as_micros()).expect("short");
            env.events.after(delay, self.event(NodeEvent::Shell(ShellEvent::Wake { agent: number, wish })));
        }
        for ask in moved.asks {
            self.put_question(number, ask, until, env);
        }
        if let Some(agent) = self.shell().agents.get(&number) {
            assert!(agent.open > 0 || agent.sleeps, "a transaction waits for nothing: {agent:?}");
        }
    }

    /// An agent is done.
    fn agent_done(&mut self, number: u64, env: &mut Environment) {
        let agent = self.shell().agents.remove(&number).expect("it is just done");
        let now = env.events.now();
        env.trace.record(now, format_args!("member {} agent {number} is done", self.index));
        match agent.role {
            Role::Client { client, attempt } if !agent.answered => tell(client, attempt, Answer::Unknown, env),
            Role::Client { .. } => {}
            Role::Recovery(group, id) => {
                self.shell().recovering.remove(&(group, id));
            }
        }
    }

    /// An agent has its answer.
    fn given(&mut self, number: u64, given: Given, env: &mut Environment) {
        let index = self.index;
        let process = self.process.as_mut().expect("it runs");
        let agent = process.shell.agents.get_mut(&number).expect("it has just answered");
        agent.answered = true;
        let answer = match given {
            Given::Answer(answer) => {
                let Kind::Coordinator(coordinator) = &agent.machine else { unreachable!("it answers as one") };
                let moving =
                    process.map.as_ref().is_some_and(|map| agent.groups.iter().any(|g| map.moves.contains_key(g)));
                count_answer(&answer, coordinator, moving, env);
                answer
            }
            Given::Seen(Seen::Items(items)) => {
                // Two rounds are what it takes when nobody is in the way.
                env.counters.add(Fault::SnapshotRetried, u64::from(agent.turns > 2));
                let results = items.into_iter().map(Done::Got).collect();
                Answer::Committed { then: true, results: Some(results) }
            }
            Given::Seen(Seen::Refused(refusal)) => Answer::Failed(Failure::Refused(refusal)),
            Given::Seen(Seen::ReadsTooMuch) => Answer::Failed(Failure::ReadsTooMuch),
            Given::Seen(Seen::Changing) => {
                let agent = process.shell.agents.remove(&number).expect("it has just answered");
                env.counters.add(Fault::SnapshotHeld, 1);
                let Kind::Snapshot(_, transaction) = agent.machine else { unreachable!("it answers as one") };
                return self.hold_instead(transaction, agent.role, agent.deadline, env);
            }
            Given::Decision(decision) => {
                let fault = match decision {
                    Some(Decision::Abort) => Some(Fault::RecoveryAborted),
                    Some(_) => Some(Fault::RecoveryCommitted),
                    None => None,
                };
                fault.into_iter().for_each(|fault| env.counters.add(fault, 1));
                env.trace.record(
                    env.events.now(),
                    format_args!("member {index} agent {number}: what was abandoned is {decision:?}"),
                );
                return;
            }
        };
        if let Role::Client { client, attempt } = agent.role {
            env.trace.record(env.events.now(), format_args!("member {index} agent {number} tells client {client}"));
            tell(client, attempt, answer, env);
        }
    }

    fn hold_instead(&mut self, transaction: Transaction, role: Role, deadline: u64, env: &mut Environment) {
        let map = self.process.as_ref().expect("it runs").map.clone().expect("it had one");
        let (number, now) = (env.dice.number(), env.events.now());
        let coordinator = Coordinator::new(transaction, |key: &[u8]| map.partition_of(key), number, now);
        self.begin(Kind::Coordinator(coordinator), role, deadline.max(now + 1), env);
    }

    /// Steps towards an end are often taken together with those of others; everything else goes by itself.
    fn put_question(&mut self, agent: u64, ask: Ask, until: u64, env: &mut Environment) {
        let Ask { number, group, operation } = ask;
        let hasty = env.dice.chance(self.hasty);
        let whose = match &operation {
            Operation::Txn(Command::Settle(steps)) if !hasty && steps.len() == 1 => {
                let step = Step { agent, number, settle: steps[0].clone(), until };
                let shell = self.shell();
                if let Some(queue) = shell.settling.get_mut(&group) {
                    queue.push(step);
                    return;
                }
                shell.settling.insert(group, Vec::new());
                Whose::Steps(vec![step], true)
            }
            _ => Whose::Agent(agent, number),
        };
        self.put_whose(whose, group, operation, until, env);
    }

    fn put_whose(&mut self, whose: Whose, group: GroupId, operation: Operation, until: u64, env: &mut Environment) {
        let shell = self.shell();
        let asking = shell.next();
        let question = Asking {
            whose,
            group,
            operation,
            until,
            pause: FIRST_PAUSE_US,
            attempt: 0,
            sent_to: None,
            is_open: false,
            is_unknown: false,
        };
        shell.asking.insert(asking, question);
        self.ask(asking, env);
    }

    /// Where a question goes: see the node's own router.
    fn target(&self, group: GroupId, attempt: usize, env: &mut Environment) -> Option<MemberId> {
        let process = self.process.as_ref().expect("it runs");
        let (replicas, preferred) = process.map.as_ref()?.group(group)?;
        let here = replicas.contains(&self.id());
        Some(match process.leaders[group.0 as usize] {
            Some(leader) => leader,
            None if here => self.id(),
            None if attempt == 0 => preferred,
            None => *env.dice.pick(replicas),
        })
    }

    fn ask(&mut self, asking: u64, env: &mut Environment) {
        let Some(question) = self.shell().asking.get(&asking) else { return };
        let (group, attempt, until) = (question.group, question.attempt, question.until);
        let operation = question.operation.clone();
        let now = env.events.now();
        let Some(to) = self.target(group, attempt, env) else {
            let no_replica = Reply::Refused(Refusal::NoReplica);
            return self.answer_asking(asking, no_replica, env);
        };
        let own = self.id();
        let clock = self.clock_at(now);
        let process = self.process.as_mut().expect("it runs");
        let question = process.shell.asking.get_mut(&asking).expect("it is just asked");
        question.attempt += 1;
        question.is_open = true;
        let attempt = question.attempt;
        question.sent_to = (to != own).then_some(to);
        let timeout_ms = u32::try_from(until.saturating_sub(now) / 1000).expect("short").max(1);
        let late = until.saturating_sub(now) + GRACE_US;
        env.events.after(late, self.event(NodeEvent::Shell(ShellEvent::Late { asking, attempt })));
        let process = self.process.as_mut().expect("it runs");
        let reply_to = ReplyTo::Shell { asking, attempt };
        if to == own {
            process.count_waits(group, &operation, env);
            return process.ask_lane(clock, group, timeout_ms, operation, reply_to);
        }
        process.forwards += 1;
        let number = process.forwards;
        process.forwarded.insert(number, Forwarded { reply_to, group, to, is_cancellable: false });
        let ticket = Ticket { life: process.life, number };
        let mut writer = FrameWriter::default();
        writer.push(&Item::Forward(Forward { ticket, group, timeout_ms, operation }));
        let fate = self.send(members_index(to), writer, Carries::Forward, env);
        // Where a link is known to be down nothing is sent.
        if fate == Fate::NoWay && env.dice.chance(500) {
            self.process.as_mut().expect("it runs").forwarded.remove(&number);
            self.asked_answered(asking, attempt, Reply::Refused(Refusal::NotLeader { leader: None }), env);
        }
    }

    /// The link to a member is lost: what was sent on over it may have happened or not.
    pub fn link_lost(&mut self, peer: MemberId, env: &mut Environment) {
        let open = |asking: &Asking| asking.is_open && asking.sent_to == Some(peer);
        let lost = self.shell().asking.iter().filter(|(_, asking)| open(asking));
        let lost: Vec<_> =
            lost.map(|(number, asking)| (*number, asking.attempt, asking.operation.is_write())).collect();
        for (asking, attempt, is_write) in lost {
            let not_led = Reply::Refused(Refusal::NotLeader { leader: None });
            self.asked_answered(asking, attempt, if is_write { Reply::OutcomeUnknown } else { not_led }, env);
        }
    }

    /// Somebody has answered an attempt at a question.
    pub fn asked_answered(&mut self, asking: u64, attempt: usize, reply: Reply, env: &mut Environment) {
        let now = env.events.now();
        let own = self.id();
        let process = self.process.as_mut().expect("it runs");
        let Some(question) = process.shell.asking.get_mut(&asking) else { return };
        if question.attempt != attempt || !question.is_open {
            return;
        }
        question.is_open = false;
        let asked = question.sent_to.unwrap_or(own);
        let leader = &mut process.leaders[question.group.0 as usize];
        let follows = match reply {
            Reply::Refused(Refusal::NotLeader { leader: hint }) => {
                let new = hint.filter(|leader| *leader != asked);
                if (leader.is_none() || *leader == Some(asked)) && (asked != own || new.is_some()) {
                    *leader = new;
                }
                new.is_some()
            }
            Reply::Refused(Refusal::NoReplica) => {
                leader.take_if(|leader| *leader == asked && asked != own);
                false
            }
            Reply::OutcomeUnknown if question.operation.is_repeatable() => {
                question.is_unknown = true;
                leader.take_if(|leader| *leader == asked && asked != own);
                false
            }
            // A transaction came in between: it is over soon.
            Reply::Write(partition::Outcome::Blocked) | Reply::Lock(lock::Outcome::Pinned) => true,
            // That nothing was done this time does not mean that nothing was done before.
            Reply::Refused(_) if question.is_unknown => {
                return self.answer_asking(asking, Reply::OutcomeUnknown, env);
            }
            reply => {
                if asked != own && !matches!(reply, Reply::Refused(_) | Reply::OutcomeUnknown) {
                    leader.get_or_insert(asked);
                }
                return self.answer_asking(asking, reply, env);
            }
        };
        if follows && question.attempt == 1 {
            return self.ask(asking, env);
        }
        if now + question.pause >= question.until {
            let not_led = Reply::Refused(Refusal::NotLeader { leader: None });
            let reply = if question.is_unknown { Reply::OutcomeUnknown } else { not_led };
            return self.answer_asking(asking, reply, env);
        }
        let pause = question.pause;
        question.pause = (pause * 2).min(LONGEST_PAUSE_US);
        env.events.after(pause, self.event(NodeEvent::Shell(ShellEvent::Again { asking })));
    }

    /// A question has its answer.
    fn answer_asking(&mut self, asking: u64, reply: Reply, env: &mut Environment) {
        let Some(question) = self.shell().asking.remove(&asking) else { return };
        let (now, member) = (env.events.now(), self.index);
        env.trace.record(now, format_args!("member {member} hears of {}: {}", question.group, show(&reply)));
        match question.whose {
            Whose::Agent(agent, number) => self.hear(agent, number, reply, env),
            Whose::Steps(steps, goes_on) => {
                let mut settled = match reply {
                    Reply::Txn(Outcome::Settled(settled)) if settled.len() == steps.len() => Ok(settled.into_iter()),
                    reply => Err(reply),
                };
                if goes_on {
                    self.settle_next(question.group, env);
                }
                for Step { agent, number, .. } in steps {
                    let reply = match &mut settled {
                        Ok(settled) => Reply::Txn(Outcome::Settled(settled.next().into_iter().collect())),
                        Err(reply) => reply.clone(),
                    };
                    self.hear(agent, number, reply, env);
                }
            }
        }
    }

    /// Sends the steps that have come for a group meanwhile.
    fn settle_next(&mut self, group: GroupId, env: &mut Environment) {
        let shell = self.shell();
        let steps = take(shell.settling.get_mut(&group).expect("steps were under way"));
        let Some(until) = steps.iter().map(|step| step.until).max() else {
            shell.settling.remove(&group);
            return;
        };
        env.counters.add(Fault::SettledTogether, u64::from(steps.len() > 1));
        let operation = Operation::Txn(Command::Settle(steps.iter().map(|step| step.settle.clone()).collect()));
        self.put_whose(Whose::Steps(steps, true), group, operation, until, env);
    }

    fn hear(&mut self, agent: u64, number: u32, reply: Reply, env: &mut Environment) {
        if let Some(hears) = self.shell().agents.get_mut(&agent) {
            hears.open -= 1;
            self.step(agent, What::Hear(number, reply), env);
        }
    }
}

impl Process {
    /// Counts what will wait at a lane here for a transaction.
    pub fn count_waits(&self, group: GroupId, operation: &Operation, env: &mut Environment) {
        let lanes = self.lanes.len();
        let lane = &self.lanes[group.0 as usize % lanes].lane;
        let Some(replica) = lane.replica(group).filter(|replica| replica.leads() && group != GroupId::MAP) else {
            return;
        };
        let load = || Partition::load(lane.state(), replica.table()).expect("the disk is whole");
        let fault = match operation {
            Operation::Get { key, .. } if load().hides(key).is_some() => Fault::ReadWaited,
            Operation::GetMany { keys, .. } => {
                let partition = load();
                if !keys.iter().any(|key| partition.hides(key).is_some()) {
                    return;
                }
                Fault::ReadWaited
            }
            Operation::Write(write) if load().holds_key(&write.key).is_some() => Fault::WriteWaited,
            Operation::Txn(Command::Prepare(prepare)) => match load().blocks_part(&prepare.part, prepare.priority) {
                Some(Blocker { by, waits: true, .. }) if by.id.name != prepare.id.name => Fault::TxnWaited,
                _ => return,
            },
            _ => return,
        };
        env.counters.add(fault, 1);
    }
}

/// Answers a client.
fn tell(client: usize, attempt: u64, answer: Answer, env: &mut Environment) {
    if let Fate::Arrives(delays) = env.network.send_client(&mut env.dice, &mut env.counters) {
        env.events.after(delays[0], Event::Client { client, what: ClientEvent::Told { attempt, answer } });
    }
}

fn count_reply(reply: &Reply, env: &mut Environment) {
    let fault = match reply {
        Reply::Txn(Outcome::Blocked { waits: false, .. }) => Fault::TxnGaveWay,
        Reply::Txn(Outcome::ConditionFailed) => Fault::TxnFailedFast,
        Reply::Txn(Outcome::UnderWay(_)) => Fault::TxnFoundUnderWay,
        Reply::Txn(Outcome::Finished(finished)) if finished.decision == Decision::Abort => Fault::PreparePrevented,
        _ => return,
    };
    env.counters.add(fault, 1);
}

fn count_answer(answer: &Answer, coordinator: &Coordinator, moving: bool, env: &mut Environment) {
    env.counters.add(Fault::TxnAttemptAborted, u64::from(coordinator.attempts().saturating_sub(1)));
    if let Answer::Committed { then: true, .. } = answer {
        let across = coordinator.participants() > 1;
        env.counters.add(Fault::TxnAcrossPartitions, u64::from(across));
        env.counters.add(Fault::TxnAlone, u64::from(!across));
        env.counters.add(Fault::TxnWhileMoving, u64::from(moving));
    }
}

/// A reply without its values.
fn show(reply: &Reply) -> String {
    match reply {
        Reply::Many(Many { items, .. }) => {
            format!("{:?}", items.iter().map(|i| i.as_ref().map(|i| i.version)).collect::<Vec<_>>())
        }
        Reply::Txn(Outcome::Prepared(prepared)) => format!("prepared, holds: {}", prepared.holds),
        other => format!("{other:?}"),
    }
}
