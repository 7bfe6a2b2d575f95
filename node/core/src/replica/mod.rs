//! A replica: one copy of one group. Raft decides what is committed, the machine decides what that means.
//!
//! ```text
//!  request ─▶ propose ─▶┐                         ┌─▶ sends      (a leader's, at once)
//!  message ─▶ step ────▶│ Raft ─▶ ready ─▶ drain ─┼─▶ gated      (a follower's, when the round is durable)
//!  tick ───────────────▶│                         ├─▶ writes     (entries, term and vote)
//!  persisted ──────────▶┘                         └─▶ committed entries ─▶ machine ─▶ replies
//! ```
//!
//! Raft is raft-rs, driven as a `RawNode` with asynchronous persistence. Two things are ours because its own are not
//! enough: the election timeout comes from the seed (see `Replica::reseed`), and the lease is measured on the clock
//! (see `lease`). A replica never sends, writes or answers by itself: everything goes into the [`Round`].

mod admit;
mod chair;
mod claims;
mod configure;
mod drain;
mod election;
mod lease;
mod log;
mod machine;
mod parked;
mod pending;
mod recover;
mod serve;
mod settling;
mod snapshot;
mod stream;
mod waits;

use std::collections::BTreeMap;
use std::time::Duration;

use raft::eraftpb::{ConfState, Message};
use raft::{RawNode, StateRole};

use crate::bugs::{Bug, planted};
use crate::codec;
use crate::codec::message::{Body, PeerMessage};
use crate::id::{GroupId, MemberId, RequestId};
use crate::lane::{GroupWrite, LeaderChange, LogBudget, LogPosition, Pace, Reply, Staged};
use crate::map::{self, Wanted};
use crate::partition::{self, txn};
use crate::state::{self, State, TableId};
use crate::time::Instant;

use claims::Claims;
use lease::Lease;
use log::Log;
use machine::Machine;
use parked::Parked;
use pending::{Proposals, Reads};
use settling::Settling;
use stream::{Receiving, Sending};
use waits::Waits;

pub use configure::{Configuration, Configure, Step, Tombstone};
pub use log::Gap;
pub use recover::{GroupRecord, Recovering, read_tombstone, write_tombstone};

/// What a replica must know of its surroundings.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The member that the replica belongs to.
    pub member: MemberId,
    /// Where its randomness comes from.
    pub seed: u64,
    /// How long a follower waits for its leader before it may vote for another. Ticks are a tenth of it.
    pub election_timeout: Duration,
    /// Most bytes that proposals of one group may take before they are committed.
    pub max_uncommitted_bytes: u64,
    /// How much of the logs of a lane stays in memory for followers that lag.
    pub log_budget: LogBudget,
}

impl Settings {
    /// The time between two ticks.
    pub fn tick(&self) -> Duration {
        self.election_timeout / ELECTION_TICKS
    }
}

/// Ticks of one election timeout.
const ELECTION_TICKS: u32 = 10;
/// A leader sends heartbeats every so many ticks: often enough that its lease, 0.8 of the timeout, outlives a lost one.
const HEARTBEAT_TICKS: usize = 2;
/// Followers stand for election after this many ticks at the earliest: one more than the timeout, so that the others'
/// promise not to vote has surely ended (a tick may be short of a whole one by the time it is counted).
const FIRST_CANDIDACY_TICK: usize = ELECTION_TICKS as usize + 1;
/// How many ticks a place in the order of preference has to stand in, and the last place that has ticks of its own.
const RANK_TICKS: usize = 2;
const LAST_RANK: usize = 3;
const LAST_CANDIDACY_TICK: usize = FIRST_CANDIDACY_TICK + RANK_TICKS * (LAST_RANK + 1) - 1;

/// Why a replica can't go on. The lane that meets this stops.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The state can't be read.
    #[error(transparent)]
    State(#[from] state::Error),
    /// An entry can't be applied.
    #[error(transparent)]
    Apply(#[from] partition::Error),
    /// The map group's state or one of its entries can't be used.
    #[error(transparent)]
    Map(#[from] map::machine::Error),
    /// A step of the group's configuration was committed that can't be taken.
    #[error("{group}: its configuration can't be changed as was agreed: {reason}")]
    Configure {
        /// The group.
        group: GroupId,
        /// What Raft says.
        reason: String,
    },
    /// The WAL lacks something that the state or the rest of the WAL needs.
    #[error("{group}: the WAL has a hole: {gap}")]
    Hole {
        /// The group.
        group: GroupId,
        /// Where it is.
        gap: Gap,
    },
    /// The leader knows of entries that this replica acknowledged and does not have.
    #[error(
        "{group}: this member acknowledged entries up to {acknowledged}, and has them only up to {last}: its volume is \
         older than what it said (an old copy was put back, or the disk lost what was synced). It must not vote: let it \
         rejoin with an empty volume"
    )]
    Forgotten {
        /// The group.
        group: GroupId,
        /// The last entry that it is known to have acknowledged.
        acknowledged: u64,
        /// The last entry that it has.
        last: u64,
    },
    /// A record about the group is not what it should be.
    #[error("{group}: the record of the group is damaged")]
    Damaged {
        /// The group.
        group: GroupId,
        /// What is wrong with it.
        #[source]
        source: codec::Error,
    },
}

/// Where a round collects what its replicas want done.
#[derive(Debug, Default)]
pub struct Round {
    pub(crate) sends: Vec<(MemberId, PeerMessage)>,
    /// Messages that wait for this round's writes, each with the member that it is for.
    pub(crate) gated: Vec<(MemberId, PeerMessage)>,
    pub(crate) replies: Vec<(RequestId, Reply)>,
    pub(crate) writes: Vec<GroupWrite>,
    /// For each group that wrote: the number by which Raft knows what was written.
    pub(crate) readies: Vec<(GroupId, Option<u64>)>,
    pub(crate) leaders: Vec<LeaderChange>,
    /// Groups whose configuration has changed: the map group's leader should hear of it soon.
    pub(crate) moved: Vec<GroupId>,
    /// Transactions that nobody seems to end, each with the group that it was found in.
    pub(crate) abandoned: Vec<(GroupId, txn::Pointer)>,
    /// Whether the map group has applied a change.
    pub(crate) map_changed: bool,
    /// How fast snapshots may be sent; goes on from round to round.
    pub(crate) pace: Pace,
    /// Whether a piece of a snapshot may be sent that could not be before: one is wanted, or a piece was acknowledged.
    pub(crate) snapshots: bool,
}

/// Where a replica comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It was just made: it cannot have promised anything.
    New,
    /// It was read back: it may have promised its vote to a leader right before it stopped. So may the one that was here
    /// before a blank one.
    Recovered,
}

/// One copy of one group.
pub struct Replica {
    group: GroupId,
    settings: Settings,
    node: RawNode<Log>,
    machine: Machine,
    generation: u32,
    lease: Lease,
    election: election::Election,
    proposals: Proposals,
    reads: Reads,
    waits: Waits,
    parked: Parked,
    settling: Settling,
    claims: Claims,
    sending: BTreeMap<MemberId, Sending>,
    sent_streams: u32,
    receiving: Option<Receiving>,
    /// The epoch beside the configuration of the snapshot that was received last, until Raft says that it is to be installed.
    installing_epoch: u64,
    /// Records of the snapshot being received that the round is still to write.
    staged: Vec<Staged>,
    /// The term that this replica leads in; 0 while it does not lead.
    led_term: u64,
    /// The partition's clock at a point on this member's clock; moves on with the latter while this replica leads.
    clock: (Instant, u64),
    /// Index of the latest `Expire` or `ExtendLeases` entry that this leader has proposed.
    expiring: u64,
    /// The term in which this leader has seen to it that every lease lasts a whole term more; 0 after a long stop.
    extended: u64,
    /// Whether the group's record in the state is older than what was applied since.
    unrecorded: bool,
    /// Whether earlier rounds of this group wrote something that is not durable yet: the latest such round.
    undurable: Option<u64>,
    /// An earlier replica of this member was dropped, and no snapshot has told this one of its group yet: it does not know
    /// what the first one had acknowledged.
    reborn: bool,
    /// The round that it was made in: what is said of earlier ones is about another replica of this group.
    born_in: u64,
    /// How the group's configuration should stand, by the newest map.
    wanted: Option<Wanted>,
    /// Index of the latest step of the configuration that this leader has proposed.
    configuring: u64,
    /// The last index of the log when the group's voters last changed: see [`Replica::is_established`].
    configured: u64,
    /// When this leader last asked another to take over because it is to be removed.
    handed_over_at: Option<Instant>,
    /// What the leader of the map group knows.
    chair: chair::Chair,
}

impl Replica {
    /// The replica as it was recovered. It starts as a follower and keeps its promises from before the restart.
    pub fn new(
        settings: Settings,
        recovered: Recovering,
        life: Life,
        state: &dyn State,
        now: Instant,
    ) -> Result<Self, Error> {
        let group = recovered.group;
        let (generation, reborn) = (recovered.generation, recovered.reborn);
        let log = recovered.finish()?;
        let applied = log.applied().index;
        let config = raft::Config {
            id: settings.member.get(),
            election_tick: ELECTION_TICKS as usize,
            heartbeat_tick: HEARTBEAT_TICKS,
            min_election_tick: FIRST_CANDIDACY_TICK,
            max_election_tick: LAST_CANDIDACY_TICK + 1,
            applied,
            max_size_per_msg: 1024 * 1024,
            max_inflight_msgs: 128,
            check_quorum: true,
            pre_vote: true,
            // Followers learn the commit index with the next entry or heartbeat; a message of its own costs more than it gives.
            skip_bcast_commit: true,
            max_uncommitted_size: settings.max_uncommitted_bytes,
            max_committed_size_per_ready: 4 * 1024 * 1024,
            ..raft::Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&config, log, &logger).expect("the configuration above is valid");
        let table = TableId { group, generation };
        let machine = Machine::load(state, table)?;
        let election = election::Election::new(&settings, life, now);
        let clock = (now, machine.clock_ms());
        let mut replica = Self {
            group,
            settings,
            node,
            machine,
            generation,
            lease: Lease::default(),
            election,
            proposals: Proposals::default(),
            reads: Reads::default(),
            waits: Waits::default(),
            parked: Parked::default(),
            settling: Settling::default(),
            claims: Claims::default(),
            sending: BTreeMap::new(),
            sent_streams: 0,
            receiving: None,
            installing_epoch: 0,
            staged: Vec::new(),
            led_term: 0,
            clock,
            expiring: 0,
            extended: 0,
            unrecorded: true,
            undurable: None,
            reborn,
            born_in: 0,
            wanted: None,
            configuring: 0,
            configured: 0,
            handed_over_at: None,
            chair: chair::Chair::default(),
        };
        replica.reseed();
        Ok(replica)
    }

    /// The replica itself is only durable with this round: it says nothing to anyone before.
    pub fn begins_in(&mut self, round: u64) {
        self.undurable = Some(round);
        self.born_in = round;
    }

    /// The replica has nothing yet, not even on the disk, and was made in this round.
    pub fn begins_blank_in(&mut self, round: u64) {
        self.born_in = round;
    }

    /// The group that this is a copy of.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// Who leads the group, as far as this replica knows.
    pub fn leader(&self) -> Option<MemberId> {
        MemberId::new(self.node.raft.leader_id)
    }

    /// Whether this replica leads.
    pub fn leads(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    /// The current term.
    pub fn term(&self) -> u64 {
        self.node.raft.term
    }

    /// The last entry that the state holds.
    pub fn applied(&self) -> LogPosition {
        self.node.store().applied()
    }

    /// How many requests wait for an answer.
    pub fn waiting(&self) -> usize {
        let transactions = self.parked.len() + self.settling.len();
        self.proposals.len() + self.reads.len() + transactions + self.waits.len() + self.commands_waiting()
    }

    /// How many locks are held, and how many wait for one.
    pub fn locks(&self) -> (u64, u64) {
        self.machine.locks()
    }

    /// How many transactions are open, and for how many milliseconds the oldest has been.
    pub fn open_txns(&self, now: Instant, state: &dyn State) -> Result<(usize, u64), Error> {
        self.machine.open_txns(state, self.clock_ms(now))
    }

    /// The last index of the log.
    pub fn last_index(&self) -> u64 {
        self.node.raft.raft_log.last_index()
    }

    /// Memory that the log takes, in bytes.
    pub fn log_bytes(&self) -> usize {
        self.node.store().bytes()
    }

    /// The index up to which entries are committed.
    pub fn committed(&self) -> u64 {
        self.node.raft.raft_log.committed
    }

    /// The group's machine has its records here.
    pub fn table(&self) -> TableId {
        TableId { group: self.group, generation: self.generation }
    }

    /// The last entry of the log.
    pub fn last(&self) -> LogPosition {
        let log = &self.node.raft.raft_log;
        LogPosition { index: log.last_index(), term: log.last_term() }
    }

    /// Whether this replica has nothing yet, and so nothing to show: no snapshot has told it of the group.
    pub fn is_blank(&self) -> bool {
        self.conf_state().voters.is_empty()
    }

    /// Whether this replica may vote. One that was made after another was dropped does not know whether it votes until a
    /// snapshot tells it: its empty log looks older than any, also than that of a member which still counts it as a voter of a
    /// configuration that is long left. The first one of a member has acknowledged nothing, and may be needed: a store may
    /// change before all of it has heard of its first map.
    pub fn has_vote(&self) -> bool {
        !(self.reborn && self.is_blank()) || planted(Bug::BlankReplicaVotes)
    }

    fn conf_state(&self) -> &ConfState {
        self.node.store().conf_state()
    }

    /// Takes a message from another replica.
    pub fn step(
        &mut self,
        now: Instant,
        from: MemberId,
        body: Body,
        state: &mut dyn State,
        round: &mut Round,
    ) -> Result<(), Error> {
        match body {
            Body::Raft { message, stamp } => self.step_raft(now, from, message, stamp),
            Body::Chunk(chunk) => {
                self.receive_chunk(from, chunk, state, round);
                Ok(())
            }
            Body::ChunkAck { stream, next } => {
                self.chunk_acknowledged(now, from, stream, next, round);
                Ok(())
            }
            Body::Report(report) => {
                self.take_report(now, from, report);
                Ok(())
            }
        }
    }

    /// Time has passed: this many ticks, of which `first` is the number of the first in its lane's count.
    pub fn tick(&mut self, now: Instant, first: u64, ticks: u32, round: &mut Round) {
        if ticks >= ELECTION_TICKS {
            // Nobody listened here for so long: holders may have tried to renew their leases.
            self.extended = 0;
        }
        for number in first..first + u64::from(ticks) {
            if self.may_tick(now) {
                self.node.tick();
                self.align_heartbeats(number);
                self.campaign_eagerly(now, number);
                self.reseed();
            }
        }
        self.propose_expiry(now);
        self.settling.hurry();
        self.find_abandoned(now, round);
        self.rebalance(now);
        self.reconfigure(now);
        if self.waiting() > 0 {
            self.answer_expired(now, round);
        }
        if !self.sending.is_empty() {
            self.tick_streams(now, round);
        }
    }

    /// The peer can't be reached: Raft stops sending ahead to it.
    pub fn unreachable(&mut self, member: MemberId) {
        if self.leads() {
            self.node.report_unreachable(member.get());
        }
    }

    /// Whether `drain` has something to do.
    pub fn has_ready(&self) -> bool {
        self.node.has_ready()
            || !self.staged.is_empty()
            || self.reads.has_waiting()
            || self.commands_waiting() > 0
            || self.waits.has_leaving()
            || self.settling.is_due()
    }

    /// Whether everything that this replica's log holds is durable, what the round is still to write included.
    fn is_durable(&self) -> bool {
        let log = &self.node.raft.raft_log;
        self.undurable.is_none() && log.unstable_entries().is_empty() && log.unstable_snapshot().is_none()
    }

    fn not_leader(&self) -> Reply {
        let leader = self.leader().filter(|leader| *leader != self.settings.member);
        Reply::Refused(crate::lane::Refusal::NotLeader { leader })
    }

    fn send(&self, now: Instant, message: Message) -> (MemberId, PeerMessage) {
        let to = MemberId::new(message.to).expect("Raft sends to members");
        let stamp = self.stamp_for(now, &message);
        let mut message = message;
        if self.is_evicted() && message.get_msg_type() == raft::eraftpb::MessageType::MsgHeartbeatResponse {
            message.priority = -1;
        }
        (to, PeerMessage { group: self.group, body: Body::Raft { message, stamp } })
    }

    /// Panics when the replica contradicts itself.
    pub fn check(&self, state: &dyn State) -> Result<(), Error> {
        let log = self.node.store();
        assert!(log.start().index <= log.applied().index, "the log reaches back to what is applied");
        assert!(log.applied().index <= self.committed(), "only what is committed is applied");
        assert!(self.committed() <= self.last_index(), "only what is in the log is committed");
        log.check();
        assert!(self.sending.is_empty() || self.led_term != 0, "only a leader sends snapshots");
        self.waits.check();
        self.machine.check(state)?;
        Ok(())
    }
}
