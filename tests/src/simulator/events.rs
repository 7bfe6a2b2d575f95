//! Virtual time: what is still to happen, in order. Nothing takes time except by being put in here for later.

use std::collections::BTreeMap;

use annulus_core::id::GroupId;
use annulus_core::lane::{Operation, Reply};
use annulus_core::txn::Answer;
use bytes::Bytes;

use super::admin::{AdminAnswer, AdminRequest};
use super::faults::FaultEvent;
use super::txns::shell::{Demand, ShellEvent};

/// Something that happens at a point in time.
#[derive(Debug)]
pub enum Event {
    /// To a member's process. With a life, only to that one: whatever a process had begun ends with it.
    Node {
        /// The member.
        member: usize,
        /// Which of its processes; `None` for what comes from outside.
        life: Option<u64>,
        /// What happens.
        what: NodeEvent,
    },
    /// To a client.
    Client {
        /// The client.
        client: usize,
        /// What happens.
        what: ClientEvent,
    },
    /// An operator is answered.
    Admin {
        /// Which of its questions.
        number: u64,
        /// What.
        answer: AdminAnswer,
    },
    /// A fault begins or ends.
    Fault(FaultEvent),
    /// The world looks at all replicas.
    Probe,
    /// The run's next phase may be due.
    Phase,
}

/// Something that happens to a member's process.
#[derive(Debug)]
pub enum NodeEvent {
    /// Time has passed.
    Tick,
    /// The lane thread does a round.
    Round {
        /// The lane.
        lane: usize,
    },
    /// The WAL thread's work is done.
    WalDone {
        /// The lane.
        lane: usize,
    },
    /// The checkpoint thread's work is done.
    CheckpointDone {
        /// The lane.
        lane: usize,
    },
    /// The copy of the newest map is on the disk.
    MapStored,
    /// The link to another member is noticed to be down.
    Unreachable {
        /// The other member.
        peer: usize,
    },
    /// A frame from another member.
    Frame {
        /// The other member.
        from: usize,
        /// The frame, header and payload.
        bytes: Bytes,
    },
    /// A client's request.
    Request(ClientRequest),
    /// A client's transaction.
    Demand(Demand),
    /// Something happens to the transactions that it makes happen.
    Shell(ShellEvent),
    /// A client waits no more for the answer to a request, and its connection says so.
    HangUp {
        /// The client.
        client: usize,
        /// Its attempt.
        attempt: u64,
    },
    /// An operator asks for something.
    Admin(AdminRequest),
}

/// A client's request on its way to a member.
#[derive(Debug)]
pub struct ClientRequest {
    /// The client.
    pub client: usize,
    /// The client's number for this attempt.
    pub attempt: u64,
    /// The group that the key is in.
    pub group: GroupId,
    /// How long the client waits.
    pub timeout_ms: u32,
    /// Whether the member may send it on to another.
    pub forward: bool,
    /// What is asked.
    pub operation: Operation,
}

/// Something that happens to a client.
#[derive(Debug)]
pub enum ClientEvent {
    /// It is time for the next operation, or for the next attempt at the one under way.
    Next,
    /// An answer has come.
    Answer {
        /// To which attempt.
        attempt: u64,
        /// The answer.
        reply: Reply,
    },
    /// A member has told what came of a transaction.
    Told {
        /// To which attempt.
        attempt: u64,
        /// What.
        answer: Answer,
    },
    /// An attempt has taken too long.
    Timeout {
        /// The attempt.
        attempt: u64,
    },
}

/// The clock and what is still to happen.
#[derive(Debug, Default)]
pub struct Events {
    now: u64,
    sequence: u64,
    queue: BTreeMap<(u64, u64), Event>,
}

impl Events {
    /// The time, in microseconds since the start of the run.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Lets something happen so many microseconds from now. Of what happens at the same time, the first said is first.
    pub fn after(&mut self, delay_us: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((self.now + delay_us, self.sequence), event);
    }

    /// Moves on to the next thing that happens by this time; if there is none, to that time.
    pub fn pop_until(&mut self, time: u64) -> Option<Event> {
        if self.queue.first_key_value().is_some_and(|((at, _), _)| *at <= time) {
            return self.pop();
        }
        self.now = time.max(self.now);
        None
    }

    /// Moves on to the next thing that happens.
    pub fn pop(&mut self) -> Option<Event> {
        let ((time, _), event) = self.queue.pop_first()?;
        self.now = time;
        Some(event)
    }
}
