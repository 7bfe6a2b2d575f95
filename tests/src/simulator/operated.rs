//! A store that an operator runs, for tests that play the operator and the machines: members run when they are told to, belong
//! to nothing at first, and answer what their admin ports are asked. Clients, faults and checks are those of every other run.

use std::sync::Arc;

use annulus_core::id::GroupId;
use annulus_core::lane::Operation;
use annulus_core::map::Map;

use super::admin::{ADMIN_CLIENT, AdminAnswer, AdminAsks, AdminRequest};
use super::dice::Dice;
use super::disk::Kindness;
use super::events::{ClientRequest, Event, NodeEvent};
use super::network::Fate;
use super::ring_checks;
use super::scenario::Scenario;
use super::world::{Broken, Report, World, guarded};

/// How long a member may take to answer what the map group is asked, in milliseconds.
const MAP_TIMEOUT_MS: u32 = 2_000;

/// The store.
pub struct Operated {
    world: World,
    is_over: bool,
    questions: u64,
}

impl Operated {
    /// A store that is still to be made, of so many partitions and not more processes than `slots`.
    ///
    /// # Errors
    /// When it can't begin.
    pub fn new(seed: u64, mut dice: Dice, partitions: u32, slots: usize) -> Result<Self, Broken> {
        let scenario = Scenario::operated(&mut dice, partitions, slots);
        let mut world = World::new(format_args!("seed {seed}, operated"), scenario, dice);
        world.set_out()?;
        Ok(Self { world, is_over: false, questions: 0 })
    }

    /// The time, in microseconds since the start of the run.
    pub fn now(&self) -> u64 {
        self.world.env.events.now()
    }

    /// Writes down what happens.
    pub fn record(&mut self, what: std::fmt::Arguments<'_>) {
        self.world.env.trace.record(self.world.env.events.now(), what);
    }

    /// Lets everything happen until then, unless the run is over before.
    ///
    /// # Errors
    /// When something is broken.
    pub fn run_until(&mut self, time: u64) -> Result<(), Broken> {
        let (world, is_over) = (&mut self.world, &mut self.is_over);
        guarded(|| {
            while let Some(event) = world.env.events.pop_until(time) {
                if world.handle(event)? {
                    *is_over = true;
                    // From here on members may go without anybody minding.
                    world.phase_ends = u64::MAX;
                }
            }
            Ok(())
        })
    }

    /// A member of this name is to run: the process in this slot, on the disk that it has.
    ///
    /// # Errors
    /// When it can't start.
    pub fn start(&mut self, slot: usize, name: &str) -> Result<(), Broken> {
        let member = &mut self.world.members[slot];
        name.clone_into(&mut member.name);
        (member.born, member.gone) = (true, false);
        guarded(|| self.world.start(slot))
    }

    /// A process is to run no more; `with_power`: its machine goes on.
    pub fn stop(&mut self, slot: usize, with_power: bool) {
        self.world.members[slot].gone = true;
        if self.world.members[slot].process.is_some() {
            let worst = *self.world.env.dice.pick(&[Kindness::LosesAll, Kindness::Mixed]);
            self.world.end(slot, if with_power { Kindness::KeepsAll } else { worst });
        }
    }

    /// For so many microseconds nobody reaches a member but clients.
    pub fn isolate(&mut self, slot: usize, lasts: u64) {
        let others = (0..self.world.members.len()).filter(|other| *other != slot);
        let pairs = others.flat_map(|other| [(slot, other), (other, slot)]).collect();
        self.world.cut(pairs, lasts);
    }

    /// Asks a member something about itself. Returns the number that the answer will have, if one comes.
    pub fn ask(&mut self, slot: usize, asks: AdminAsks) -> u64 {
        self.questions += 1;
        let number = self.questions;
        self.send(slot, NodeEvent::Admin(AdminRequest { number, asks }));
        number
    }

    /// Asks the map group something, through a member. Returns the number that the answer will have, if one comes.
    pub fn ask_map(&mut self, slot: usize, operation: Operation) -> u64 {
        self.questions += 1;
        let (client, attempt) = (ADMIN_CLIENT, self.questions);
        let (group, timeout_ms, forward) = (GroupId::MAP, MAP_TIMEOUT_MS, true);
        self.send(slot, NodeEvent::Request(ClientRequest { client, attempt, group, timeout_ms, forward, operation }));
        attempt
    }

    fn send(&mut self, member: usize, what: NodeEvent) {
        let env = &mut self.world.env;
        if let Fate::Arrives(delays) = env.network.send_client(&mut env.dice, &mut env.counters) {
            env.events.after(delays[0], Event::Node { member, life: None, what });
        }
    }

    /// What was answered since this was asked last.
    pub fn take_answers(&mut self) -> Vec<(u64, AdminAnswer)> {
        std::mem::take(&mut self.world.env.answers)
    }

    /// Whether a member is in the ring and caught up.
    pub fn is_ready(&self, slot: usize) -> bool {
        self.world.members[slot].why_not_ready().is_none()
    }

    /// Whether the store is made and has enough copies of everything, so that one may be lost.
    pub fn may_lose_volume(&self) -> bool {
        self.world.map.epoch > 0 && self.world.map.is_settled() && self.world.may_lose_volume()
    }

    /// The newest map that any member has applied; of epoch 0 while there is none.
    pub fn map(&self) -> &Arc<Map> {
        &self.world.map
    }

    /// Nothing goes wrong with the store by itself any more.
    ///
    /// # Errors
    /// When a member can't start.
    pub fn calm(&mut self) -> Result<(), Broken> {
        let scenario = &mut self.world.scenario;
        scenario.faults.clear();
        (scenario.hit_after_move, scenario.crash_after_election) = (0, 0);
        guarded(|| self.world.heal())
    }

    /// What is not yet as it is to be in the end, if anything is.
    pub fn unsettled(&self) -> Option<String> {
        ring_checks::unsettled(&self.world.members, &self.world.map)
    }

    /// Clients are to end, and then everything that they were told is judged.
    pub fn finish(&mut self) {
        self.world.phase_ends = self.now();
    }

    /// Whether clients have ended, and all replicas are the same.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Ends the run: everything that clients were told is judged, unless something is broken anyway.
    pub fn judge(mut self, broken: Option<Broken>) -> Report {
        let broken = broken.or_else(|| guarded(|| self.world.judge()).err());
        self.world.report(broken)
    }
}
