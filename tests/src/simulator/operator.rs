//! Operators and people who change the ring: each asks for one thing after the other, through any member.
//!
//! ```text
//!  Next ─▶ read some member's map ─▶ draw a command ─▶ attempt ─▶ Changed: done ─▶ Next
//!                                                      ▲ │
//!                                                      │ ├─ refused for a reason: let it be; deposed: perhaps take over again
//!                                                      └─┴─ not the leader, unknown, too late: the same command again
//! ```
//!
//! Two of them act at once and know nothing of each other. Each has a fence, as an operator has from its lease; whoever
//! has taken over last has the highest. In the end one of them has a goal and asks for it until the map says so.

use annulus_core::id::{GroupId, MemberId};
use annulus_core::lane::{Operation, Refusal, Reply};
use annulus_core::map::history::Event as Past;
use annulus_core::map::{self, Command, Desired, Intent, Map, MemberState};

use super::dice::Dice;
use super::events::{ClientEvent, ClientRequest, Event, NodeEvent};
use super::faults::Fault;
use super::network::Fate;
use super::ring_checks::Violation;
use super::scenario::Scenario;
use super::world::{Environment, members_index};

/// How often a command is tried again when nobody knows what came of it.
const MOST_TRIES: u32 = 8;
/// How often one with a goal looks at the map, in microseconds.
const LOOK_EVERY_US: u64 = 100_000;

/// A process that is or may become a member, as those who run the store know it.
#[derive(Debug, Clone)]
pub struct Slot {
    /// Its number.
    pub index: usize,
    /// What it would be in the map.
    pub desired: Desired,
    /// Whether it is of use: it has its own volume, and nobody has its name.
    pub is_fit: bool,
}

/// What an operator sees.
pub struct View<'a> {
    /// What the run is made of.
    pub scenario: &'a Scenario,
    /// A member's map, often not the newest.
    pub map: &'a Map,
    /// All processes.
    pub slots: &'a [Slot],
}

/// What all operators have in common.
#[derive(Debug, Default)]
pub struct Fences {
    /// The highest fence that an operator has.
    issued: u64,
    /// The highest fence that a command was done under.
    answered: u64,
}

/// An operator.
#[derive(Debug)]
pub struct Operator {
    /// Its number among the clients.
    number: usize,
    dice: Dice,
    fence: u64,
    attempts: u64,
    under_way: Option<Asked>,
    /// The members that it had found when it changed something last.
    before: Option<Vec<Desired>>,
    /// What it asks for in the end.
    goal: Option<Vec<Desired>>,
    /// The history of the map, when it has asked for it in the end.
    pub history: Option<Vec<Past>>,
}

#[derive(Debug)]
struct Asked {
    operation: Operation,
    fence: u64,
    /// The highest fence that anything was done under when this was asked first.
    floor: u64,
    attempt: Option<u64>,
    tries: u32,
    hint: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
enum Choice {
    Join,
    Leave,
    Exchange,
    Drain,
    Undrain,
    Remove,
    Alter,
    Back,
}

impl Operator {
    /// An operator with a stream of chance of its own.
    pub fn new(number: usize, dice: Dice) -> Self {
        Self { number, dice, fence: 0, attempts: 0, under_way: None, before: None, goal: None, history: None }
    }

    /// From now on it asks for this until it is so.
    pub fn aim(&mut self, goal: Vec<Desired>, fences: &mut Fences, env: &mut Environment) {
        self.take_over(fences);
        (self.goal, self.under_way) = (Some(goal), None);
        env.events.after(1000, Event::Client { client: self.number, what: ClientEvent::Next });
    }

    /// Whether it has nothing more to ask for.
    pub fn has_arrived(&self, map: &Map) -> bool {
        self.under_way.is_none() && self.goal.as_ref().is_none_or(|goal| next_towards(goal, map).is_none())
    }

    /// Whether it has read the history up to this map.
    pub fn has_read(&self, map: &Map) -> bool {
        let newest = self.history.as_ref().and_then(|events| events.first());
        newest.is_some_and(|event| event.epoch >= map.epoch)
    }

    fn take_over(&mut self, fences: &mut Fences) {
        fences.issued += 1;
        self.fence = fences.issued;
    }

    /// Something happens to it.
    pub fn handle(
        &mut self,
        what: ClientEvent,
        view: &View<'_>,
        fences: &mut Fences,
        env: &mut Environment,
    ) -> Result<(), Violation> {
        match what {
            ClientEvent::Next => self.next(view, fences, env),
            ClientEvent::Timeout { attempt } => {
                if let Some(asked) = self.under_way.as_mut().filter(|asked| asked.attempt == Some(attempt)) {
                    asked.attempt = None;
                    self.again(env);
                }
            }
            ClientEvent::Told { .. } => unreachable!("it asks for no transactions"),
            ClientEvent::Answer { attempt, reply } => {
                let asked = self.under_way.take_if(|asked| asked.attempt == Some(attempt));
                if let Some(asked) = asked {
                    self.answered(asked, reply, fences, env)?;
                    if self.under_way.is_none() {
                        self.think(view.scenario, env);
                    }
                }
            }
        }
        Ok(())
    }

    fn think(&mut self, scenario: &Scenario, env: &mut Environment) {
        let gap = match (&self.goal, &scenario.command_gap_us) {
            (None, Some(gap)) => self.dice.within(gap.clone()),
            _ => LOOK_EVERY_US,
        };
        env.events.after(gap, Event::Client { client: self.number, what: ClientEvent::Next });
    }

    fn again(&mut self, env: &mut Environment) {
        let pause = self.dice.within(1_000..=100_000);
        env.events.after(pause, Event::Client { client: self.number, what: ClientEvent::Next });
    }

    fn next(&mut self, view: &View<'_>, fences: &mut Fences, env: &mut Environment) {
        if let Some(asked) = &self.under_way {
            if asked.attempt.is_some() {
                return;
            }
            if asked.tries < MOST_TRIES || self.goal.is_some() {
                return self.attempt(view, env);
            }
            self.under_way = None;
        }
        if self.fence == 0 {
            self.take_over(fences);
        }
        let command = match &self.goal {
            Some(goal) => next_towards(goal, view.map),
            None => self.draw(view),
        };
        let is_over = self.goal.is_some() && view.map.is_settled() && !self.has_read(view.map);
        let (operation, fence) = match command {
            Some(command) => {
                // Now and then a person acts in the operator's place.
                let fence = if self.goal.is_none() && self.dice.chance(100) { view.map.fence } else { self.fence };
                let epoch = (self.goal.is_none() && self.dice.chance(200)).then_some(view.map.epoch);
                (Operation::ChangeMap(Intent { fence, epoch, command }), fence)
            }
            None if is_over => (Operation::ReadHistory { epoch: None }, self.fence),
            None => return self.think(view.scenario, env),
        };
        let now = env.events.now();
        env.trace.record(now, format_args!("operator {} asks {}", self.number, show(&operation)));
        let floor = fences.answered;
        self.under_way = Some(Asked { operation, fence, floor, attempt: None, tries: 0, hint: None });
        self.attempt(view, env);
    }

    fn attempt(&mut self, view: &View<'_>, env: &mut Environment) {
        let Some(asked) = self.under_way.as_mut() else { return };
        self.attempts += 1;
        let (client, attempt) = (self.number, self.attempts);
        asked.attempt = Some(attempt);
        asked.tries += 1;
        let any = || members_index(view.map.members[self.dice.index(view.map.members.len())].id);
        let member = asked.hint.take().unwrap_or_else(any);
        let timeout_ms = if self.dice.chance(500) { 300 } else { 1000 };
        let operation = asked.operation.clone();
        let request = ClientRequest { client, attempt, group: GroupId::MAP, timeout_ms, forward: true, operation };
        let timeout_us = u64::from(timeout_ms) * 1000 + 20_000;
        env.events.after(timeout_us, Event::Client { client, what: ClientEvent::Timeout { attempt } });
        if let Fate::Arrives(delays) = env.network.send_client(&mut self.dice, &mut env.counters) {
            env.events.after(delays[0], Event::Node { member, life: None, what: NodeEvent::Request(request) });
        }
    }

    fn answered(
        &mut self,
        mut asked: Asked,
        reply: Reply,
        fences: &mut Fences,
        env: &mut Environment,
    ) -> Result<(), Violation> {
        let now = env.events.now();
        match reply {
            Reply::Changed(Ok(changed)) => {
                env.trace.record(now, format_args!("operator {}: {changed:?}", self.number));
                if asked.fence < asked.floor {
                    return Err(Violation::OldOperatorObeyed { fence: asked.fence, highest: asked.floor });
                }
                fences.answered = fences.answered.max(asked.fence);
            }
            Reply::Changed(Err(refusal)) => {
                env.trace.record(now, format_args!("operator {} is refused: {refusal}", self.number));
                self.refused(&refusal, fences, env);
            }
            Reply::History(events) => self.history = Some(events),
            Reply::Refused(refusal) => {
                if let Refusal::NotLeader { leader: Some(leader) } = refusal {
                    asked.hint = Some(members_index(leader));
                }
                asked.attempt = None;
                self.under_way = Some(asked);
                self.again(env);
            }
            Reply::OutcomeUnknown => {
                env.trace.record(now, format_args!("operator {} knows nothing of it", self.number));
                asked.attempt = None;
                self.under_way = Some(asked);
                self.again(env);
            }
            other => return Err(Violation::WrongAnswer(format!("{other:?}"))),
        }
        Ok(())
    }

    fn refused(&mut self, refusal: &map::Refusal, fences: &mut Fences, env: &mut Environment) {
        if let map::Refusal::StaleFence { .. } = refusal {
            env.counters.add(Fault::OperatorDeposed, 1);
            if self.goal.is_some() || self.dice.chance(300) {
                self.take_over(fences);
            }
        }
    }

    fn draw(&mut self, view: &View<'_>) -> Option<Command> {
        let mut desired = desired_of(view.map);
        if self.dice.chance(700) && replace(&mut desired, view.slots) {
            return Some(Command::Members(desired));
        }
        let weights = view.scenario.commands;
        let choices = [
            (weights.join, Choice::Join),
            (weights.leave, Choice::Leave),
            (weights.exchange, Choice::Exchange),
            (weights.drain, Choice::Drain),
            (weights.undrain, Choice::Undrain),
            (weights.remove, Choice::Remove),
            (weights.alter, Choice::Alter),
            (weights.back, Choice::Back),
        ];
        let choice = self.dice.weighted(&choices).expect("some weight is not 0");
        let staying: Vec<MemberId> = view.map.members.iter().filter(|m| m.stays()).map(|m| m.id).collect();
        let spared = staying.len() > view.scenario.replication;
        let is_out = |slot: &&Slot| slot.is_fit && desired.iter().all(|other| other.id != slot.desired.id);
        let out: Vec<&Slot> = view.slots.iter().filter(is_out).collect();
        let draining: Vec<MemberId> =
            view.map.members.iter().filter(|m| m.state == MemberState::Draining).map(|m| m.id).collect();
        match choice {
            Choice::Drain if spared => return Some(Command::Drain(*self.dice.pick(&staying))),
            Choice::Undrain if !draining.is_empty() => return Some(Command::Undrain(*self.dice.pick(&draining))),
            Choice::Remove if !draining.is_empty() => return Some(Command::Remove(*self.dice.pick(&draining))),
            Choice::Remove if spared => return Some(Command::Remove(*self.dice.pick(&staying))),
            Choice::Back => {
                let fits = |before: &Vec<Desired>| self.keeps_enough(before, view);
                return self.before.clone().filter(fits).map(Command::Members);
            }
            Choice::Alter => self.alter(&mut desired, view.scenario),
            Choice::Join if !out.is_empty() => desired.push(self.dice.pick(&out).desired.clone()),
            Choice::Leave if spared => {
                let leaves = *self.dice.pick(&staying);
                desired.retain(|other| other.id != leaves);
            }
            Choice::Exchange if !out.is_empty() && !staying.is_empty() => {
                let leaves = *self.dice.pick(&staying);
                let comes = self.dice.pick(&out).desired.clone();
                desired.retain(|other| other.id != leaves);
                desired.push(comes);
            }
            _ => return None,
        }
        self.before = Some(desired_of(view.map));
        self.keeps_enough(&desired, view).then_some(Command::Members(desired))
    }

    /// Whether a partition would still find as many members as it has copies.
    fn keeps_enough(&self, desired: &[Desired], view: &View<'_>) -> bool {
        let drains = |id: MemberId| view.map.member(id).is_some_and(|m| m.state == MemberState::Draining);
        desired.iter().filter(|desired| !drains(desired.id)).count() >= view.scenario.replication
    }

    fn alter(&mut self, desired: &mut [Desired], scenario: &Scenario) {
        let altered = self.dice.index(desired.len());
        let altered = &mut desired[altered];
        match self.dice.below(3) {
            0 => altered.weight = *self.dice.pick(&[50, 100, 200]),
            1 if scenario.zones > 0 => altered.zone = format!("zone-{}", self.dice.index(scenario.zones)),
            _ => altered.client_address = format!("client-{}-{}:1", altered.id, self.dice.below(1000)),
        }
    }
}

/// The members that the map says are to stay, as they would be asked for.
pub fn desired_of(map: &Map) -> Vec<Desired> {
    let staying = map.members.iter().filter(|member| member.state != MemberState::Leaving);
    let desired = staying.map(|member| Desired {
        id: member.id,
        name: member.name.clone(),
        zone: member.zone.clone(),
        weight: member.weight,
        client_address: member.client_address.clone(),
        peer_address: member.peer_address.clone(),
        admin_address: member.admin_address.clone(),
    });
    desired.collect()
}

/// Puts those that have taken another's name in their place. Returns whether there were any.
fn replace(desired: &mut [Desired], slots: &[Slot]) -> bool {
    let mut replaced = false;
    for member in desired {
        let is_unfit = slots.iter().any(|slot| slot.desired.id == member.id && !slot.is_fit);
        let heir = slots.iter().find(|slot| slot.is_fit && slot.desired.name == member.name);
        if let Some(heir) = heir.filter(|_| is_unfit) {
            *member = heir.desired.clone();
            replaced = true;
        }
    }
    replaced
}

/// The next command that leads to the goal.
fn next_towards(goal: &[Desired], map: &Map) -> Option<Command> {
    let mut goal = goal.to_vec();
    goal.sort_by_key(|desired| desired.id);
    // First those that drain, or too few would be left when others leave.
    let is_meant = |id: MemberId| goal.iter().any(|desired| desired.id == id);
    let drains = map.members.iter().find(|member| member.state == MemberState::Draining && is_meant(member.id));
    let undrain = drains.map(|member| Command::Undrain(member.id));
    undrain.or_else(|| (desired_of(map) != goal).then(|| Command::Members(goal.clone())))
}

fn show(operation: &Operation) -> String {
    match operation {
        Operation::ChangeMap(Intent { fence, epoch, command: Command::Members(desired) }) => {
            let ids: Vec<u64> = desired.iter().map(|desired| desired.id.get()).collect();
            format!("under fence {fence} at {epoch:?} for the members {ids:?}")
        }
        other => format!("{other:?}"),
    }
}
