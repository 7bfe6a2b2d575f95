//! Members, each one a lane over a state in memory, with an explicit clock, disk and network.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use annulus_core::codec::frame::{FrameWriter, HEADER_BYTES, Item, read_header, read_payload};
use annulus_core::codec::message::PeerMessage;
use annulus_core::id::{GroupId, MemberId, RequestId};
use annulus_core::lane::{Input, Lane, Operation, Output, Reply, Request};
use annulus_core::map::Map;
use annulus_core::replica::Settings;
use annulus_core::state::MemoryState;
use annulus_core::time::Instant;

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
    settings: Settings,
}

/// All of them.
pub struct World {
    pub members: BTreeMap<u64, Member>,
    pub map: Map,
    /// Whether the map group takes part.
    pub with_map: bool,
    /// Messages on their way, by sender and receiver.
    pub links: BTreeMap<(u64, u64), VecDeque<PeerMessage>>,
    /// Links that lose everything.
    pub cut: BTreeSet<(u64, u64)>,
    /// Whether only replies and changes of leaders are told.
    pub quiet: bool,
    /// Answers since they were last taken, by request.
    pub replies: Vec<(u64, Reply)>,
    requests: u64,
    trace: Vec<String>,
}

impl World {
    /// Members that were never started.
    pub fn new(map: Map, with_map: bool, election_timeout: Duration) -> Self {
        let members = map.members.iter().map(|member| {
            let settings =
                Settings { member: member.id, seed: 7, election_timeout, max_uncommitted_bytes: 64 * 1024 * 1024 };
            let lane = Lane::recover(settings.clone(), MemoryState::default(), [], Instant(0)).expect("an empty disk");
            // Far apart, so that comparing clocks of two members would show.
            let now = Instant(member.id.get() * 1_000_000_000);
            (member.id.get(), Member { now, lane: Some(lane), disk: Disk::default(), settings })
        });
        let mut world = Self {
            members: members.collect(),
            map,
            with_map,
            links: BTreeMap::new(),
            cut: BTreeSet::new(),
            quiet: false,
            replies: Vec::new(),
            requests: 0,
            trace: Vec::new(),
        };
        for member in world.numbers() {
            world.restart(member);
        }
        world
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
        let output = lane.take_output(*now).expect("the lane goes on");
        lane.check().expect("the state can be read");
        self.take(number, output);
    }

    fn take(&mut self, number: u64, output: Output) {
        let Output { sends, replies, writes, leaders } = output;
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
        for (to, message) in sends {
            let is_cut = self.cut.contains(&(number, to.get()));
            let lost = if is_cut { " (lost)" } else { "" };
            self.tell(true, || format!("{number}->{} {}{lost}", to.get(), trace::message(&message)));
            if !is_cut {
                self.links.entry((number, to.get())).or_default().push_back(reread(message));
            }
        }
        for (request, reply) in replies {
            self.tell(false, || format!("{number} answers {}: {}", request.0, trace::reply(&reply)));
            self.replies.push((request.0, reply));
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
        let Some(Member { now, lane: Some(lane), .. }) = self.members.get_mut(&number) else { return };
        let with_map = self.with_map;
        let mine = |group: GroupId| with_map || group.partition().is_some();
        lane.bootstrap(&self.map, mine, *now).expect("a first map can be used");
        self.end_round(number);
    }

    /// Delivers up to this many messages of a link, in one round.
    pub fn deliver(&mut self, from: u64, to: u64, most: usize) -> usize {
        let Some(link) = self.links.get_mut(&(from, to)) else { return 0 };
        let messages: Vec<_> = link.drain(..most.min(link.len())).collect();
        let count = messages.len();
        for message in messages {
            let from = MemberId::new(from).expect("members are counted from 1");
            let _ = self.step(to, Input::Peer { from, message });
        }
        if count > 0 {
            self.end_round(to);
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
        lane.prefer_leaders(&self.map);
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
        self.map.assignments.iter_mut().for_each(|assignment| assignment.leader = preferred);
        for lane in self.members.values_mut().filter_map(|member| member.lane.as_mut()) {
            lane.prefer_leaders(&self.map);
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
fn reread(message: PeerMessage) -> PeerMessage {
    let mut frame = FrameWriter::default();
    frame.push(&Item::Group(message));
    let mut bytes = frame.finish();
    let header = bytes.split_to(HEADER_BYTES);
    let (length, checksum) = read_header(header[..].try_into().expect("a whole header")).expect("a header");
    assert_eq!(length, bytes.len());
    match read_payload(bytes, checksum).expect("a payload").pop() {
        Some(Item::Group(message)) => message,
        other => panic!("{other:?} is not the message that was sent"),
    }
}
