//! Members, each one a lane over a state in memory, with an explicit clock, disk and network.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use annulus_core::codec::frame::{FrameWriter, HEADER_BYTES, Item, read_header, read_payload};
use annulus_core::codec::message::PeerMessage;
use annulus_core::id::{GroupId, MemberId, RequestId};
use annulus_core::lane::{Input, Lane, LogBudget, Operation, Output, Reply, Request, UNPACED};
use annulus_core::map::Map;
use annulus_core::replica::{Replica, Settings};
use annulus_core::state::MemoryState;
use annulus_core::time::Instant;
use bytes::Bytes;

use crate::disk::Disk;
use crate::trace;

/// Rounds after which a world that does not come to rest is given up.
const MOST_ROUNDS: usize = 10_000;

/// One member.
pub struct Member {
    /// Its clock, apart from all others'.
    pub now: Instant,
    pub lane: Option<Lane<MemoryState>>,
    pub disk: Disk,
    /// The newest map that it has, durably; whoever restarts begins with it.
    pub map: Option<Arc<Map>>,
    pub settings: Settings,
}

/// What is on its way between two members.
#[derive(Clone)]
pub enum Letter {
    /// From replica to replica.
    Peer(PeerMessage),
    /// The sender's map.
    Map(Bytes),
}

/// All of them.
pub struct World {
    pub members: BTreeMap<u64, Member>,
    /// The first map of the store.
    pub map: Arc<Map>,
    /// Whether the map group takes part.
    pub with_map: bool,
    /// Messages on their way, by sender and receiver.
    pub links: BTreeMap<(u64, u64), VecDeque<Letter>>,
    /// Links that lose everything.
    pub cut: BTreeSet<(u64, u64)>,
    /// Groups whose messages are all lost.
    pub lost: BTreeSet<GroupId>,
    /// Whether only replies and changes of leaders are told.
    pub quiet: bool,
    /// Answers since they were last taken, by request.
    pub replies: Vec<(u64, Reply)>,
    requests: u64,
    trace: Vec<String>,
}

impl World {
    /// Members that were never started.
    pub fn new(map: Map, with_map: bool, election_timeout: Duration, log_budget: LogBudget) -> Self {
        let ids: Vec<MemberId> = map.members.iter().map(|member| member.id).collect();
        let mut world = Self {
            members: BTreeMap::new(),
            map: Arc::new(map),
            with_map,
            links: BTreeMap::new(),
            cut: BTreeSet::new(),
            lost: BTreeSet::new(),
            quiet: false,
            replies: Vec::new(),
            requests: 0,
            trace: Vec::new(),
        };
        for member in ids {
            world.start(member, election_timeout, log_budget);
        }
        world
    }

    /// A process that has nothing yet.
    pub fn start(&mut self, member: MemberId, election_timeout: Duration, log_budget: LogBudget) {
        let max_uncommitted_bytes = 64 * 1024 * 1024;
        let settings = Settings { member, seed: 7, election_timeout, max_uncommitted_bytes, log_budget };
        // Far apart, so that comparing clocks of two members would show.
        let passed = self.members.values().next().map_or(0, |first| first.now.0 - 1_000_000_000);
        let now = Instant(member.get() * 1_000_000_000 + passed);
        let member = Member { now, lane: None, disk: Disk::default(), map: None, settings };
        let number = member.settings.member.get();
        self.members.insert(number, member);
        self.restart(number);
    }

    /// What happened since this was asked last.
    pub fn take_trace(&mut self) -> Vec<String> {
        std::mem::take(&mut self.trace)
    }

    /// Puts these lines back.
    pub fn retell(&mut self, lines: Vec<String>) -> Result<(), String> {
        self.trace.extend(lines);
        Ok(())
    }

    /// All members' numbers.
    pub fn numbers(&self) -> Vec<u64> {
        self.members.keys().copied().collect()
    }

    fn tell(&mut self, loud: bool, line: impl FnOnce() -> String) {
        if !loud || !self.quiet {
            self.trace.push(line());
        }
    }

    /// Steps the lane of a member that is up; `None` when it is down.
    pub fn step(&mut self, number: u64, input: Input) -> Option<()> {
        let member = self.members.get_mut(&number)?;
        member.lane.as_mut()?.step(member.now, input).expect("the lane goes on");
        Some(())
    }

    /// Ends a member's round.
    pub fn end_round(&mut self, number: u64) {
        let Some(Member { now, lane: Some(lane), .. }) = self.members.get_mut(&number) else { return };
        let mut output = lane.take_output(*now).expect("the lane goes on");
        output.sends.extend(lane.send_snapshots(*now).expect("the state can be read"));
        lane.check().expect("the state can be read");
        self.take(number, output);
    }

    fn take(&mut self, number: u64, output: Output) {
        let Output { sends, replies, writes, leaders, map, outdated: _, abandoned } = output;
        for change in leaders {
            let leader = change.leader.map_or("nobody".to_owned(), |leader| leader.get().to_string());
            self.tell(false, || format!("{number}: {} is led by {leader} in t{}", change.group, change.term));
        }
        if let Some(writes) = writes {
            for group in writes.groups() {
                self.tell(true, || format!("{number} writes {}", trace::write(group)));
            }
            self.members.get_mut(&number).expect("it has just written").disk.write(writes);
        }
        let with_map = self.with_map;
        for (to, message) in sends.into_iter().filter(|(_, message)| with_map || message.group != GroupId::MAP) {
            let is_there = self.members.contains_key(&to.get()) && !self.lost.contains(&message.group);
            let is_cut = self.cut.contains(&(number, to.get())) || !is_there;
            let lost = if is_cut { " (lost)" } else { "" };
            self.tell(true, || format!("{number}->{} {}{lost}", to.get(), trace::message(&message)));
            if !is_cut {
                self.links.entry((number, to.get())).or_default().push_back(reread(Letter::Peer(message)));
            }
        }
        for (group, pointer) in abandoned {
            self.tell(false, || format!("{number} finds {} abandoned in {group}", trace::id(&pointer.id)));
        }
        for (request, reply) in replies {
            self.tell(false, || format!("{number} answers {}: {}", request.0, trace::reply(&reply)));
            self.replies.push((request.0, reply));
        }
        if let Some(map) = map {
            self.adopt(number, map);
            let leads = |lane: &Lane<MemoryState>| lane.replica(GroupId::MAP).is_some_and(Replica::leads);
            if self.members[&number].lane.as_ref().is_some_and(leads) {
                self.gossip(number);
            }
        }
    }

    /// A member keeps a map that it has heard of, if it is newer, and acts on it.
    pub fn adopt(&mut self, number: u64, map: Arc<Map>) {
        let with_map = self.with_map;
        let Some(member) = self.members.get_mut(&number) else { return };
        let Some(lane) = &mut member.lane else { return };
        if member.map.as_ref().is_some_and(|known| known.epoch >= map.epoch) {
            return;
        }
        member.map = Some(Arc::clone(&map));
        let mine = |group: GroupId| with_map || group.partition().is_some();
        lane.adopt(&map, mine, member.now).expect("a map can be used");
        self.tell(true, || format!("{number} has map {}", map.epoch));
        self.end_round(number);
    }

    /// A member sends its map to all others.
    pub fn gossip(&mut self, number: u64) {
        let Some(map) = self.members.get(&number).and_then(|member| member.map.clone()) else { return };
        for to in self.numbers().into_iter().filter(|to| *to != number) {
            if !self.cut.contains(&(number, to)) {
                self.links.entry((number, to)).or_default().push_back(reread(Letter::Map(map.encode())));
            }
        }
    }

    /// Asks a member something; the request's number is counted from 1.
    pub fn request(&mut self, number: u64, group: GroupId, operation: Operation, patience: Duration) -> Option<()> {
        self.requests += 1;
        let deadline = self.members.get(&number)?.now + patience;
        let request = Request { id: RequestId(self.requests), group, deadline, operation };
        self.step(number, Input::Request(request))?;
        self.end_round(number);
        Some(())
    }

    /// Makes the replicas of the first map on one member.
    pub fn bootstrap(&mut self, number: u64) {
        let Some(Member { now, lane: Some(lane), map, .. }) = self.members.get_mut(&number) else { return };
        let with_map = self.with_map;
        let mine = |group: GroupId| with_map || group.partition().is_some();
        lane.bootstrap(&self.map, mine, *now).expect("a first map can be used");
        *map = Some(Arc::clone(&self.map));
        self.end_round(number);
    }

    /// Delivers up to this many messages of a link, in one round.
    pub fn deliver(&mut self, from: u64, to: u64, most: usize) -> usize {
        let Some(link) = self.links.get_mut(&(from, to)) else { return 0 };
        let messages: Vec<_> = link.drain(..most.min(link.len())).collect();
        let count = messages.len();
        let mut newest = None;
        for letter in messages {
            let from = MemberId::new(from).expect("members are counted from 1");
            match letter {
                Letter::Peer(message) => drop(self.step(to, Input::Peer { from, message })),
                Letter::Map(map) => newest = Some(Map::decode(map).expect("what was sent can be read")),
            }
        }
        if count > 0 {
            self.end_round(to);
        }
        if let Some(map) = newest {
            self.adopt(to, Arc::new(map));
        }
        count
    }

    /// Makes up to this many records of a member's WAL durable.
    pub fn persist(&mut self, number: u64, most: usize) -> usize {
        let mut count = 0;
        while count < most {
            let Some(Member { lane: Some(_), disk, .. }) = self.members.get_mut(&number) else { break };
            if disk.waiting() == 0 {
                break;
            }
            count += 1;
            if let Some(durable) = disk.persist() {
                let _ = self.step(number, Input::Persisted(durable));
            }
        }
        if count > 0 {
            self.end_round(number);
        }
        count
    }

    /// Until nothing is left to deliver or to persist. No time passes.
    pub fn stabilize(&mut self) {
        self.stabilize_without(None);
    }

    /// The same, but for what this member would get or persist.
    pub fn stabilize_without(&mut self, left_out: Option<u64>) {
        for _ in 0..MOST_ROUNDS {
            let mut done = 0;
            for number in self.numbers().into_iter().filter(|number| Some(*number) != left_out) {
                done += self.persist(number, usize::MAX);
            }
            let links = self.links.keys().copied().filter(|(_, to)| Some(*to) != left_out);
            for (from, to) in links.collect::<Vec<_>>() {
                done += self.deliver(from, to, usize::MAX);
            }
            if done == 0 {
                return;
            }
        }
        panic!("the members do not come to rest");
    }

    /// A member's clock moves on, and it is told so when `ticked`.
    pub fn pass(&mut self, number: u64, time: Duration, ticked: bool) {
        let Some(member) = self.members.get_mut(&number) else { return };
        member.now = member.now + time;
        if ticked && self.step(number, Input::Tick).is_some() {
            self.end_round(number);
        }
    }

    /// The time between two ticks.
    pub fn tick(&self) -> Duration {
        self.members.values().next().expect("there are members").settings.tick()
    }

    /// A member stops; what was not durable is gone.
    pub fn crash(&mut self, number: u64) {
        if let Some(member) = self.members.get_mut(&number) {
            member.lane = None;
            member.disk.lose_power();
        }
    }

    /// A member starts from what its disk holds.
    pub fn restart(&mut self, number: u64) {
        let Some(member) = self.members.get_mut(&number) else { return };
        let (state, wal) = (member.disk.state.clone(), member.disk.wal.clone());
        let mut lane = Lane::recover(member.settings.clone(), state, wal, member.now).expect("the disk is whole");
        // No time passes while messages are delivered.
        lane.limit_moves(UNPACED);
        let (with_map, now) = (self.with_map, member.now);
        let mine = |group: GroupId| with_map || group.partition().is_some();
        match &member.map {
            None => {}
            Some(first) if first.epoch == 1 => lane.bootstrap(first, mine, now).expect("a first map can be used"),
            Some(map) => lane.adopt(map, mine, now).expect("a map can be used"),
        }
        member.lane = Some(lane);
        self.end_round(number);
    }

    /// Nothing gets to this member or comes from it.
    pub fn isolate(&mut self, alone: u64) {
        for other in self.numbers().into_iter().filter(|other| *other != alone) {
            self.cut.extend([(alone, other), (other, alone)]);
        }
        let cut = &self.cut;
        self.links.retain(|link, _| !cut.contains(link));
    }

    /// The map now says that this member should lead all partitions.
    pub fn prefer(&mut self, preferred: MemberId) {
        let newest = self.members.values().filter_map(|member| member.map.clone()).max_by_key(|map| map.epoch);
        let mut map = Map::clone(newest.as_ref().unwrap_or(&self.map));
        map.epoch += 1;
        map.assignments.iter_mut().for_each(|assignment| assignment.leader = preferred);
        let map = Arc::new(map);
        for number in self.numbers() {
            match self.members.get_mut(&number) {
                // Whoever is down hears of it when it is back.
                Some(member @ Member { lane: None, map: Some(_), .. }) => member.map = Some(Arc::clone(&map)),
                Some(Member { map: Some(_), .. }) => self.adopt(number, Arc::clone(&map)),
                _ => {}
            }
        }
    }

    /// Begins a checkpoint.
    pub fn begin_checkpoint(&mut self, number: u64) {
        let Some(Member { lane: Some(lane), disk, .. }) = self.members.get_mut(&number) else { return };
        let base = lane.begin_checkpoint();
        let lines: Vec<_> = base.iter().map(|write| format!("{number} base {}", trace::write(write))).collect();
        disk.begin_checkpoint(base, lane.state().clone());
        for line in lines {
            self.tell(true, || line);
        }
    }
}

/// The message as the other side of the link reads it.
fn reread(letter: Letter) -> Letter {
    let mut frame = FrameWriter::default();
    frame.push(&match letter {
        Letter::Peer(message) => Item::Group(message),
        Letter::Map(map) => Item::Map(map),
    });
    let mut bytes = frame.finish();
    let header = bytes.split_to(HEADER_BYTES);
    let (length, checksum) = read_header(header[..].try_into().expect("a whole header")).expect("a header");
    assert_eq!(length, bytes.len());
    match read_payload(bytes, checksum).expect("a payload").pop() {
        Some(Item::Group(message)) => Letter::Peer(message),
        Some(Item::Map(map)) => Letter::Map(map),
        other => panic!("{other:?} is not the message that was sent"),
    }
}
