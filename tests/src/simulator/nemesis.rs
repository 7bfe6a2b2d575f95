//! Who sees to it that things go wrong: draws faults while a run is in its faulty phase, ends them, and heals everything.
//!
//! Faults are drawn without a look at what they may break, with two exceptions: members that lead something are hit more
//! often than others, and elections can be a signal for all to die, because both are what a blind draw rarely meets.

use annulus_core::id::GroupId;
use annulus_core::map::Map;
use annulus_core::replica::Replica;

use super::events::Event;
use super::faults::{Fault, FaultEvent};
use super::network::Weather;
use super::node::Member;
use super::scenario::Kind;
use super::world::{Broken, Phase, World, members_index};

impl World {
    /// A new leader has just been elected: a good moment for all to die.
    pub(super) fn crash_after_election(&mut self) {
        if self.env.dice.chance(self.scenario.crash_after_election) {
            self.env.counters.add(Fault::CrashOfAll, 1);
            let delay = self.env.dice.within(0..=30_000);
            self.crash_all_after(delay);
        }
    }

    fn crash_all_after(&mut self, delay: u64) {
        for member in 0..self.members.len() {
            let life = self.members[member].life;
            self.env.events.after(delay, Event::Fault(FaultEvent::Crash { member, life }));
        }
    }

    /// A fault begins or ends.
    pub(super) fn fault_event(&mut self, fault: FaultEvent) -> Result<(), Broken> {
        let now = self.env.events.now();
        self.env.trace.record(now, format_args!("{fault:?}"));
        match fault {
            FaultEvent::Draw => {
                if self.phase == Phase::Faulty {
                    if let Some(kind) = self.env.dice.weighted(&self.scenario.faults) {
                        self.begin(kind);
                    }
                    let gap = self.env.dice.within(self.scenario.fault_gap_us.clone());
                    self.env.events.after(gap, Event::Fault(FaultEvent::Draw));
                }
            }
            FaultEvent::Isolate { member } => {
                let others = (0..self.members.len()).filter(|other| *other != member);
                let pairs = others.flat_map(|other| [(member, other), (other, member)]).collect();
                self.cut(pairs, 600_000);
            }
            FaultEvent::Mend { number } => self.env.network.mend(number),
            FaultEvent::Start { member } => return self.start(member),
            FaultEvent::Crash { member, life } => {
                if self.members[member].life == life && self.members[member].process.is_some() {
                    self.env.counters.add(Fault::Crash, 1);
                    self.crash(member);
                }
            }
            FaultEvent::HitMove { group } => self.hit_move(group),
            FaultEvent::Silence { member, group } => self.silence(member, group),
            FaultEvent::OldVolume { member } => {
                if self.phase == Phase::Faulty {
                    self.env.counters.add(Fault::OldVolumeBack, 1);
                    self.members[member].gone = false;
                    return self.start(member);
                }
            }
            FaultEvent::CalmNetwork => self.env.network.weather = Weather::default(),
            FaultEvent::CalmDisk { member } => self.calm_disk(member),
        }
        Ok(())
    }

    fn calm_disk(&mut self, index: usize) {
        let member = &mut self.members[index];
        member.disk_factor = 1;
        member.disk.set_full(false);
        self.env.counters.add(Fault::DiskFull, member.disk.take_refused());
    }

    fn begin(&mut self, kind: Kind) {
        let now = self.env.events.now();
        let Some(index) = self.draw_member() else { return };
        self.env.trace.record(now, format_args!("{kind:?}, first of member {index}"));
        match kind {
            Kind::Crash => {
                let life = self.members[index].life;
                self.env.events.after(0, Event::Fault(FaultEvent::Crash { member: index, life }));
            }
            Kind::CrashInDiskOperation => {
                let most = *self.env.dice.pick(&[5, 50, 300]);
                self.members[index].disk.lose_power_after(self.env.dice.below(most));
            }
            Kind::CrashOfAll => {
                self.env.counters.add(Fault::CrashOfAll, 1);
                self.crash_all_after(0);
            }
            Kind::Pause => self.pause(index),
            Kind::Cut | Kind::CutPair | Kind::CutOneWay => {
                let pairs = self.draw_cut(kind, index);
                let lasts = self.env.dice.within(self.scenario.cut_us.clone());
                self.cut(pairs, lasts);
            }
            Kind::Bounce => self.bounce(index),
            Kind::Weather => self.change_weather(),
            Kind::SlowDisk => {
                self.env.counters.add(Fault::SlowDisk, 1);
                self.members[index].disk_factor = self.env.dice.within(5..=100);
                self.calm_disk_later(index);
            }
            Kind::DiskFull => {
                self.members[index].disk.set_full(true);
                self.calm_disk_later(index);
            }
            Kind::CrashMapLeader => self.crash_leader_of(GroupId::MAP),
            Kind::HitMovingLeader => self.hit_moving_leader(),
            Kind::LoseVolume => self.lose_volume(),
            Kind::ClockRate => {
                self.env.counters.add(Fault::ClockRate, 1);
                let rate = self.env.dice.within(900..=1100);
                self.members[index].set_rate(now, rate);
            }
        }
    }

    /// Any member that can run, more often one that leads something.
    fn draw_member(&mut self) -> Option<usize> {
        let group = GroupId(1 + u32::try_from(self.env.dice.below(u64::from(self.scenario.partitions))).expect("few"));
        match self.leader_of(group) {
            Some(leader) if self.env.dice.chance(600) => Some(leader),
            _ => {
                let present = self.present();
                (!present.is_empty()).then(|| *self.env.dice.pick(&present))
            }
        }
    }

    /// The members that can run.
    fn present(&self) -> Vec<usize> {
        self.members.iter().filter(|member| member.born && !member.gone).map(|member| member.index).collect()
    }

    fn leader_of(&self, group: GroupId) -> Option<usize> {
        let leads = |member: &&Member| member.replica(group).is_some_and(Replica::leads);
        self.members.iter().find(leads).map(|member| member.index)
    }

    fn crash_leader_of(&mut self, group: GroupId) {
        if let Some(member) = self.leader_of(group) {
            let life = self.members[member].life;
            self.env.events.after(0, Event::Fault(FaultEvent::Crash { member, life }));
        }
    }

    /// Whoever leads a group whose configuration is changing is hit.
    fn hit_moving_leader(&mut self) {
        let moving: Vec<GroupId> = self.map.moves.keys().copied().collect();
        if !moving.is_empty() {
            let group = *self.env.dice.pick(&moving);
            self.hit_move(group);
        }
    }

    /// A member leads a group that has just entered a joint configuration: when it has left that one is a good moment to be
    /// heard no more. Nobody but the map group's leader may know then how far the group has come.
    pub(super) fn silence_in_joint(&mut self, member: usize) {
        if self.scenario.silence_in_joint == 0 || self.phase != Phase::Faulty {
            return;
        }
        let is_joint = |group: &GroupId| {
            let replica = self.members[member].replica(*group);
            replica.is_some_and(|replica| replica.leads() && !replica.configuration().state.voters_outgoing.is_empty())
        };
        let groups: Vec<GroupId> = self.map.groups().collect();
        for group in groups {
            let entered = if is_joint(&group) {
                self.joint.insert((member, group))
            } else {
                self.joint.remove(&(member, group));
                false
            };
            if entered && self.env.dice.chance(self.scenario.silence_in_joint) {
                let delay = self.env.dice.within(0..=4_000);
                self.env.events.after(delay, Event::Fault(FaultEvent::Silence { member, group }));
            }
        }
    }

    /// A group's leader is heard for a while by nobody but the map group's leader.
    fn silence(&mut self, member: usize, group: GroupId) {
        let chair = self.leader_of(GroupId::MAP);
        if self.leader_of(group) != Some(member) || chair == Some(member) {
            return;
        }
        self.env.counters.add(Fault::CutOneWay, 1);
        let others = (0..self.members.len()).filter(|other| *other != member && Some(*other) != chair);
        self.cut(others.map(|other| (member, other)).collect(), 600_000);
    }

    /// Moves have just begun or been turned: a good moment to hit who is to carry them out.
    pub(super) fn hit_after_move(&mut self, before: &Map) {
        if self.phase != Phase::Faulty {
            return;
        }
        let is_news = |group: &GroupId, epoch: u64| before.moves.get(group).is_none_or(|known| known.epoch != epoch);
        let begun = self.map.moves.iter().filter(|(group, moving)| is_news(group, moving.epoch));
        for group in begun.map(|(group, _)| *group).collect::<Vec<_>>() {
            if self.env.dice.chance(self.scenario.hit_after_move) {
                let delay = self.env.dice.within(0..=80_000);
                self.env.events.after(delay, Event::Fault(FaultEvent::HitMove { group }));
            }
        }
    }

    /// The group's leader dies, stands still or is cut off, alone or together with the member that it is adding.
    fn hit_move(&mut self, group: GroupId) {
        let Some(index) = self.leader_of(group) else { return };
        match self.env.dice.below(6) {
            0 => self.crash_leader_of(group),
            1 => self.pause(index),
            2 => {
                self.env.counters.add(Fault::Cut, 1);
                self.env.events.after(0, Event::Fault(FaultEvent::Isolate { member: index }));
            }
            _ => {
                self.env.counters.add(Fault::Cut, 1);
                let add = self.map.moves.get(&group).and_then(|moving| moving.add).map(members_index);
                let others: Vec<usize> =
                    (0..self.members.len()).filter(|other| *other != index && Some(*other) != add).collect();
                let side = [Some(index), add];
                let pairs = side.into_iter().flatten().flat_map(|one| others.iter().map(move |other| (one, *other)));
                let pairs = pairs.flat_map(|(one, other)| [(one, other), (other, one)]).collect();
                let lasts = self.env.dice.within(self.scenario.cut_us.clone());
                self.cut(pairs, lasts);
            }
        }
    }

    /// A member loses its volume, and another with its name takes its place. Only when what the last such loss has taken
    /// was copied elsewhere: a store survives the loss of one copy, and of the next when it has recovered.
    fn lose_volume(&mut self) {
        let heir = self.members.iter().position(|member| !member.born);
        let (Some(heir), true) = (heir, self.may_lose_volume()) else { return };
        let ids: Vec<usize> = self.map.members.iter().map(|member| members_index(member.id)).collect();
        let lost = *self.env.dice.pick(&ids);
        self.env.counters.add(Fault::VolumeLost, 1);
        self.crash(lost);
        let name = self.members[lost].name.clone();
        (self.members[lost].gone, self.members[lost].replaced) = (true, true);
        (self.members[heir].name, self.members[heir].born) = (name, true);
        let delay = self.env.dice.within(10_000..=2_000_000);
        self.env.events.after(delay, Event::Fault(FaultEvent::Start { member: heir }));
        if self.env.dice.chance(600) {
            let delay = self.env.dice.within(100_000..=8_000_000);
            self.env.events.after(delay, Event::Fault(FaultEvent::OldVolume { member: lost }));
        }
    }

    /// Whether there are enough copies of everything, so that one may be lost.
    pub(super) fn may_lose_volume(&self) -> bool {
        let is_away = |index: usize| self.members[index].gone || self.members[index].replaced;
        let names_one_away = |replica: &Replica| {
            let state = &replica.configuration().state;
            let mut ids = state.voters.iter().chain(&state.voters_outgoing).chain(&state.learners);
            ids.any(|id| usize::try_from(*id - 1).is_ok_and(is_away))
        };
        let replicas = self.map.groups().flat_map(|group| self.members.iter().filter_map(move |m| m.replica(group)));
        let is_hurt = replicas.into_iter().any(names_one_away)
            || self.map.members.iter().any(|member| is_away(members_index(member.id)))
            || self.members.iter().any(|member| member.born && !member.gone && member.process.is_none());
        let is_safe =
            self.map.map_voters.len() >= 3 && self.map.map_target.len() >= 3 && self.scenario.replication >= 3;
        is_safe && !is_hurt
    }

    fn calm_disk_later(&mut self, member: usize) {
        let lasts = self.env.dice.within(300_000..=3_000_000);
        self.env.events.after(lasts, Event::Fault(FaultEvent::CalmDisk { member }));
    }

    fn pause(&mut self, index: usize) {
        let now = self.env.events.now();
        let lasts = self.env.dice.within(self.scenario.pause_us.clone());
        let member = &mut self.members[index];
        if member.process.is_some() && member.paused_until <= now {
            self.env.counters.add(Fault::Pause, 1);
            member.paused_until = now + lasts;
            for lag in &mut member.source_lag_us {
                *lag = self.env.dice.within(0..=self.scenario.lag_us);
            }
        }
    }

    /// Which pairs (from, to) a cut is between.
    fn draw_cut(&mut self, kind: Kind, index: usize) -> Vec<(usize, usize)> {
        let members = self.members.len();
        let others = (0..members).filter(|other| *other != index);
        let dice = &mut self.env.dice;
        match kind {
            Kind::CutOneWay => {
                self.env.counters.add(Fault::CutOneWay, 1);
                let inwards = dice.chance(500);
                let some: Vec<usize> = others.filter(|_| dice.chance(600)).collect();
                some.into_iter().map(|other| if inwards { (other, index) } else { (index, other) }).collect()
            }
            Kind::CutPair => {
                self.env.counters.add(Fault::Cut, 1);
                let other = (index + 1) % members;
                vec![(index, other), (other, index)]
            }
            _ => {
                self.env.counters.add(Fault::Cut, 1);
                let side: Vec<usize> = (0..members).filter(|member| *member == index || dice.chance(300)).collect();
                let apart = |from: &usize, to: &usize| side.contains(from) != side.contains(to);
                let pairs = (0..members).flat_map(|from| (0..members).map(move |to| (from, to)));
                pairs.filter(|(from, to)| apart(from, to)).collect()
            }
        }
    }

    pub(super) fn cut(&mut self, pairs: Vec<(usize, usize)>, lasts: u64) {
        self.env.trace.record(self.env.events.now(), format_args!("nothing passes between {pairs:?}"));
        let number = self.env.network.cut(pairs);
        self.env.events.after(lasts, Event::Fault(FaultEvent::Mend { number }));
    }

    /// Cuts a member and another off from each other, and after about the time that the other needs to stand for election
    /// lets all the rest die, come back at once, and reach only the other. What they had promised to the member before they
    /// died they must still keep.
    fn bounce(&mut self, index: usize) {
        let members = self.members.len();
        let other = (index + 1) % members;
        self.env.counters.add(Fault::Cut, 1);
        self.cut(vec![(index, other), (other, index)], 1_400_000);
        let delay = self.env.dice.within(300_000..=900_000);
        self.env.events.after(delay, Event::Fault(FaultEvent::Isolate { member: index }));
        for third in (0..members).filter(|third| *third != index && *third != other) {
            let life = self.members[third].life;
            self.env.events.after(delay, Event::Fault(FaultEvent::Crash { member: third, life }));
        }
    }

    fn change_weather(&mut self) {
        let dice = &mut self.env.dice;
        let mut upto = |most: u64| u32::try_from(dice.within(0..=most)).expect("small");
        let weather =
            Weather { lost: upto(300), doubled: upto(300), reordered: upto(1000), late: upto(300), late_us: 0 };
        let late_us = *dice.pick(&[5_000, 100_000, 1_000_000]);
        self.env.network.weather = Weather { late_us, ..weather };
        self.env.trace.record(self.env.events.now(), format_args!("{:?}", self.env.network.weather));
        let lasts = self.env.dice.within(300_000..=3_000_000);
        self.env.events.after(lasts, Event::Fault(FaultEvent::CalmNetwork));
    }

    /// Ends every fault. Clocks go on at their rates.
    pub(super) fn heal(&mut self) -> Result<(), Broken> {
        self.env.network.heal();
        let now = self.env.events.now();
        for index in 0..self.members.len() {
            self.calm_disk(index);
            self.members[index].disk.forget_power_loss();
            if self.members[index].paused_until > now {
                // It wakes up when it wakes up: what waits for it is in the queue already.
                self.phase_ends = self.phase_ends.max(self.members[index].paused_until);
            }
            self.start(index)?;
        }
        Ok(())
    }
}
