//! Which map a member follows: it hears of newer ones, writes them down, and tells others, as the node's own `membership` does.

use std::collections::BTreeSet;
use std::sync::Arc;

use annulus_core::codec::frame::{FrameWriter, Hello, Item};
use annulus_core::id::{GroupId, MemberId};
use annulus_core::map::Map;

use super::admin::{AdminAnswer, told};
use super::events::NodeEvent;
use super::node::{Carries, LONGEST_DISK_WORK_US, Member};
use super::scenario::Scenario;
use super::world::{Environment, members_index};

impl Member {
    /// Tells all members that it knows of which map it has.
    pub(super) fn say_hello(&mut self, env: &mut Environment) {
        let Some(map) = self.process.as_ref().and_then(|process| process.map.clone()) else { return };
        let (cluster, from) = (map.cluster, self.id());
        for to in map.members.iter().map(|member| member.id).filter(|to| *to != from) {
            let mut writer = FrameWriter::default();
            writer.push(&Item::Hello(Hello { cluster, from, to, epoch: map.epoch }));
            self.send(members_index(to), writer, Carries::Messages, env);
        }
    }

    /// Another member has said which map it has: whoever has the older one gets the newer.
    pub(super) fn greeted(&mut self, from: usize, hello: Hello, env: &mut Environment) {
        let map = self.process.as_ref().and_then(|process| process.map.clone());
        let epoch = map.as_ref().map_or(0, |map| map.epoch);
        match map.filter(|map| map.epoch > hello.epoch) {
            Some(map) => self.send_map(from, &map, env),
            None if epoch < hello.epoch => {
                let mut writer = FrameWriter::default();
                writer.push(&Item::Hello(Hello { cluster: hello.cluster, from: hello.to, to: hello.from, epoch }));
                self.send(from, writer, Carries::Messages, env);
            }
            None => {}
        }
    }

    pub(super) fn send_map(&mut self, to: usize, map: &Map, env: &mut Environment) {
        let mut writer = FrameWriter::default();
        writer.push(&Item::Map(map.encode()));
        self.send(to, writer, Carries::Messages, env);
    }

    /// Hears of a map: the newest is written when none is being written.
    pub(super) fn take_map(&mut self, map: &Arc<Map>, env: &mut Environment) {
        let own = self.id();
        let process = self.process.as_mut().expect("it runs");
        let known = [&process.map, &process.writing, &process.heard].into_iter().flatten().max_by_key(|map| map.epoch);
        assert!(known.is_none_or(|known| known.cluster == map.cluster), "there is one cluster");
        // A first map that does not name this member is none of its business.
        if known.map_or(map.member(own).is_none(), |known| known.epoch >= map.epoch) {
            return;
        }
        env.trace.record(env.events.now(), format_args!("member {} hears of map {}", self.index, map.epoch));
        process.heard = Some(Arc::clone(map));
    }

    /// Begins to write the newest map, and tells the others of it if this member leads the map group.
    pub(super) fn write_map(&mut self, scenario: &Scenario, env: &mut Environment) {
        let process = self.process.as_mut().expect("it runs");
        if process.writing.is_some() {
            return;
        }
        let Some(map) = process.heard.take() else { return };
        process.writing = Some(Arc::clone(&map));
        let takes = env.dice.within(scenario.map_write_us.clone());
        let longest = LONGEST_DISK_WORK_US.max(*scenario.map_write_us.end());
        env.events.after((takes * self.disk_factor).min(longest), self.event(NodeEvent::MapStored));
        self.spread_map(&map, env);
    }

    /// The map that was being written is durable: only now do the lanes hear of it.
    pub(super) fn follow_map(&mut self, env: &mut Environment) {
        let process = self.process.as_mut().expect("it runs");
        let map = process.writing.take().expect("a map was being written");
        process.lanes.iter_mut().for_each(|lane| lane.push_map(Arc::clone(&map)));
        let before = process.map.replace(Arc::clone(&map));
        for number in std::mem::take(&mut process.bootstraps) {
            told(number, AdminAnswer::Bootstrapped(Ok(())), env);
        }
        self.map = Some(Arc::clone(&map));
        if before.is_none() {
            env.maps.push(map);
            self.say_hello(env);
        }
    }

    /// Whoever leads the map group sends a new map to all other members, and to those that are none any more.
    fn spread_map(&mut self, map: &Arc<Map>, env: &mut Environment) {
        let own = self.id();
        let process = self.process.as_ref().expect("it runs");
        if process.leaders[GroupId::MAP.0 as usize] != Some(own) {
            return;
        }
        let before = process.map.iter().flat_map(|map| map.members.iter());
        let to: BTreeSet<MemberId> = map.members.iter().chain(before).map(|member| member.id).collect();
        for to in to.into_iter().filter(|to| *to != own) {
            self.send_map(members_index(to), map, env);
        }
    }

    /// Makes `map`, which an operator has stated, the first map of the store, or finds that it was.
    pub(super) fn bootstrap(&mut self, number: u64, map: &Arc<Map>, env: &mut Environment) {
        let own = self.id();
        let process = self.process.as_mut().expect("it runs");
        let known = [&process.map, &process.writing, &process.heard].into_iter().flatten().next().cloned();
        let refused = match &known {
            Some(known) if known.cluster != map.cluster => Some(format!("it belongs to {}", known.cluster)),
            Some(known) if known.epoch == 1 && known != map => Some("it was made with another map".to_owned()),
            None if map.member(own).is_none() => Some(format!("the map does not name member {own}")),
            _ => None,
        };
        match refused {
            Some(reason) => told(number, AdminAnswer::Bootstrapped(Err(reason)), env),
            None if process.map.is_some() => told(number, AdminAnswer::Bootstrapped(Ok(())), env),
            None => {
                process.bootstraps.push(number);
                self.take_map(map, env);
            }
        }
    }
}
