//! Arbitrary values of everything that has a byte form.

#![allow(dead_code, reason = "each test uses some of them")]

use annulus_core::codec::frame::{Forward, Hello, Item as FrameItem};
use annulus_core::codec::message::{Body, Chunk, PeerMessage, Stream};
use annulus_core::id::{ClusterId, GroupId, MemberId, PartitionId, Ticket};
use annulus_core::lane::{Changed, GroupWrite, Installed, LogPosition, Operation, Refusal, Reply, Staged};
use annulus_core::map::change::{Change as MapChange, Entry as MapEntry};
use annulus_core::map::history::Event;
use annulus_core::map::plan::{Gate, GateKind, Heard, Plan, Planned, Step as PlanStep};
use annulus_core::map::{
    self, Assignment, Command as MapCommand, Desired, GroupReport, Intent, Map, Member, MemberState, Move, Reason,
    Report,
};
use annulus_core::partition::{
    Change, Command, Condition, Consistency, Entry, Fence, Item, Key, MAX_SCAN_KEYS, MAX_TTL_MS, Many, Outcome, Page,
    Scan, Write, lock, txn,
};
use annulus_core::replica::{Configuration, Configure, GroupRecord, Step, Tombstone};
use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use raft::eraftpb::{ConfState, Entry as LogEntry, HardState, Message, MessageType};

pub fn bytes(most: usize) -> impl Strategy<Value = Bytes> + Clone {
    vec(any::<u8>(), 0..=most).prop_map(Bytes::from)
}

pub fn key() -> impl Strategy<Value = Key> + Clone {
    vec(any::<u8>(), 1..20).prop_map(|bytes| Key::new(bytes.into()).expect("1 to 4096 bytes"))
}

pub fn member() -> impl Strategy<Value = MemberId> + Clone {
    (1u64..).prop_map(|number| MemberId::new(number).expect("not 0"))
}

pub fn write() -> impl Strategy<Value = Write> {
    let condition = prop_oneof![
        Just(Condition::Always),
        Just(Condition::Exists),
        Just(Condition::Absent),
        any::<u64>().prop_map(Condition::Version)
    ];
    let put = (bytes(40), option::of(1..=MAX_TTL_MS)).prop_map(|(value, ttl_ms)| Change::Put { value, ttl_ms });
    let change = prop_oneof![put, Just(Change::Delete)];
    let name = option::of(vec(any::<u8>(), 1..=255).prop_map(Bytes::from));
    let fence = option::of((lock_name(), any::<(u64, bool)>()).prop_map(|(lock, (token, is_held))| Fence {
        lock,
        token,
        is_held,
    }));
    (key(), condition, change, name, fence).prop_map(|(key, condition, change, idempotency_key, fence)| Write {
        key,
        condition,
        change,
        idempotency_key,
        fence,
    })
}

pub fn lock_name() -> impl Strategy<Value = lock::Name> + Clone {
    vec(any::<u8>(), 1..20).prop_map(|bytes| lock::Name::new(bytes.into()).expect("1 to 512 bytes"))
}

fn mode() -> impl Strategy<Value = lock::Mode> {
    prop_oneof![Just(lock::Mode::Exclusive), Just(lock::Mode::Shared)]
}

pub fn lock_command() -> impl Strategy<Value = lock::Command> {
    let text = || vec(any::<u8>(), 1..=lock::MAX_OWNER_BYTES).prop_map(Bytes::from);
    let ttl_ms = || lock::MIN_TTL_MS..=lock::MAX_TTL_MS;
    let wish =
        (lock_name(), text(), text(), bytes(lock::MAX_DESCRIPTION_BYTES), mode(), ttl_ms(), 0..=lock::MAX_WAIT_MS);
    prop_oneof![
        wish.prop_map(|(name, owner, request, description, mode, ttl_ms, wait_ms)| {
            lock::Command::Acquire(lock::Acquire { name, owner, request, description, mode, ttl_ms, wait_ms })
        }),
        (lock_name(), any::<u64>(), ttl_ms()).prop_map(|(name, token, ttl_ms)| lock::Command::Renew {
            name,
            token,
            ttl_ms
        }),
        (lock_name(), any::<u64>()).prop_map(|(name, token)| lock::Command::Release { name, token }),
        (lock_name(), any::<[u64; 2]>()).prop_map(|(name, [token, asked])| lock::Command::Leave { name, token, asked }),
    ]
}

fn holder() -> impl Strategy<Value = lock::Holder> {
    (any::<u64>(), bytes(9), bytes(9)).prop_map(|(token, owner, description)| lock::Holder {
        token,
        owner,
        description,
    })
}

fn lock_outcome() -> impl Strategy<Value = lock::Outcome> {
    prop_oneof![
        any::<[u64; 2]>().prop_map(|[token, valid_ms]| lock::Outcome::Granted { token, valid_ms }),
        any::<[u64; 2]>().prop_map(|[token, clock_ms]| lock::Outcome::Queued { token, clock_ms }),
        (holder(), any::<u32>()).prop_map(|(by, waiting)| lock::Outcome::Held { by, waiting }),
        Just(lock::Outcome::Full),
        Just(lock::Outcome::RequestConflict),
        any::<u64>().prop_map(|valid_ms| lock::Outcome::Renewed { valid_ms }),
        Just(lock::Outcome::Released),
        option::of(holder()).prop_map(|by| lock::Outcome::NotHeld { by }),
        Just(lock::Outcome::Pinned),
    ]
}

fn lock_view() -> impl Strategy<Value = lock::View> {
    let place = || {
        (any::<[u64; 4]>(), bytes(9), bytes(9), mode()).prop_map(|(numbers, owner, description, mode)| {
            let [token, ttl_ms, since_ms, left_ms] = numbers;
            lock::PlaceView { token, owner, description, mode, ttl_ms, since_ms, left_ms }
        })
    };
    (lock_name(), vec(place(), 0..3), vec(place(), 0..3), any::<u32>())
        .prop_map(|(name, holders, waiting, waiting_count)| lock::View { name, holders, waiting, waiting_count })
}

pub fn txn_name() -> impl Strategy<Value = txn::Name> + Clone {
    "[a-zA-Z0-9._~-]{1,20}".prop_map(|name| txn::Name::new(name.into()).expect("1 to 64 plain characters"))
}

fn txn_id() -> impl Strategy<Value = txn::Id> + Clone {
    (txn_name(), any::<(u64, u32)>()).prop_map(|(name, (coordinator, attempt))| txn::Id { name, coordinator, attempt })
}

fn pointer() -> impl Strategy<Value = txn::Pointer> {
    (txn_id(), any::<u32>()).prop_map(|(id, anchor)| txn::Pointer { id, anchor: PartitionId(anchor) })
}

fn participants() -> impl Strategy<Value = Vec<PartitionId>> {
    prop::collection::btree_set(any::<u32>(), 0..4).prop_map(|ids| ids.into_iter().map(PartitionId).collect())
}

fn decision() -> impl Strategy<Value = txn::Decision> {
    prop_oneof![Just(txn::Decision::Then), Just(txn::Decision::Otherwise), Just(txn::Decision::Abort)]
}

fn part() -> impl Strategy<Value = txn::Part> {
    let check = prop_oneof![
        any::<u64>().prop_map(txn::Check::Version),
        any::<bool>().prop_map(txn::Check::Exists),
        bytes(9).prop_map(txn::Check::Value),
    ];
    let condition = (key(), check).prop_map(|(key, check)| txn::Condition { key, check });
    let held = (lock_name(), any::<u64>()).prop_map(|(lock, token)| txn::LockHeld { lock, token });
    let action = || {
        prop_oneof![
            (key(), bytes(20), option::of(1..=MAX_TTL_MS)).prop_map(|(key, value, ttl_ms)| txn::Action::Put {
                key,
                value,
                ttl_ms
            }),
            key().prop_map(|key| txn::Action::Delete { key }),
            key().prop_map(|key| txn::Action::Get { key }),
        ]
    };
    let fence = option::of((lock_name(), any::<(u64, bool)>()).prop_map(|(lock, (token, is_held))| Fence {
        lock,
        token,
        is_held,
    }));
    (vec(condition, 0..3), vec(held, 0..3), vec(action(), 0..3), vec(action(), 0..3), fence)
        .prop_map(|(conditions, locks, then, otherwise, fence)| txn::Part { conditions, locks, then, otherwise, fence })
}

pub fn txn_command() -> impl Strategy<Value = txn::Command> {
    let settle = || {
        prop_oneof![
            (txn_id(), decision(), option::of(bytes(9))).prop_map(|(id, decision, results)| txn::Settle::Decide {
                id,
                decision,
                results
            }),
            (txn_id(), decision()).prop_map(|(id, decision)| txn::Settle::Resolve { id, decision }),
            txn_id().prop_map(|id| txn::Settle::Close { id }),
        ]
    };
    let prepare = (txn_id(), any::<(u64, [u8; 32], u32, (bool, bool))>(), participants(), part()).prop_map(
        |(id, (priority, digest, anchor, (without_else, is_patient)), participants, part)| {
            let anchor = PartitionId(anchor);
            txn::Prepare { id, priority, digest, anchor, participants, without_else, is_patient, part }
        },
    );
    prop_oneof![
        (txn_id(), any::<[u8; 32]>(), part()).prop_map(|(id, digest, part)| txn::Command::Alone(txn::Alone {
            id,
            digest,
            part
        })),
        prepare.prop_map(txn::Command::Prepare),
        txn_id().prop_map(txn::Command::Probe),
        vec(settle(), 0..3).prop_map(txn::Command::Settle),
    ]
}

fn dones() -> impl Strategy<Value = Vec<txn::Done>> {
    let item = (any::<u64>(), bytes(9)).prop_map(|(version, value)| Item { version, value });
    let done = prop_oneof![
        any::<u64>().prop_map(txn::Done::Put),
        any::<bool>().prop_map(txn::Done::Deleted),
        option::of(item).prop_map(txn::Done::Got),
    ];
    vec(done, 0..4)
}

fn finished() -> impl Strategy<Value = txn::Finished> {
    (txn_id(), decision(), option::of(bytes(9)), participants())
        .prop_map(|(id, decision, results, participants)| txn::Finished { id, decision, results, participants })
}

fn txn_outcome() -> impl Strategy<Value = txn::Outcome> {
    let settled = prop_oneof![
        decision().prop_map(txn::Settled::Decided),
        (txn_id(), option::of(decision())).prop_map(|(id, decision)| txn::Settled::Other { id, decision }),
        Just(txn::Settled::Done),
        Just(txn::Settled::Unknown),
    ];
    let prepared = (any::<bool>(), dones(), dones(), participants())
        .prop_map(|(holds, then, otherwise, participants)| txn::Prepared { holds, then, otherwise, participants });
    prop_oneof![
        (decision(), dones()).prop_map(|(decision, results)| txn::Outcome::Done { decision, results }),
        prepared.prop_map(txn::Outcome::Prepared),
        Just(txn::Outcome::ConditionFailed),
        (pointer(), any::<bool>()).prop_map(|(by, waits)| txn::Outcome::Blocked { by, waits }),
        finished().prop_map(txn::Outcome::Finished),
        pointer().prop_map(txn::Outcome::UnderWay),
        Just(txn::Outcome::NameConflict),
        any::<Option<u64>>().prop_map(|newest| txn::Outcome::StaleFence { newest }),
        Just(txn::Outcome::TooManyFences),
        Just(txn::Outcome::TooManyOpen),
        Just(txn::Outcome::ReadsTooMuch),
        vec(settled, 0..3).prop_map(txn::Outcome::Settled),
    ]
}

fn txn_view() -> impl Strategy<Value = txn::View> {
    (pointer(), participants(), option::of(decision()), any::<(u64, u32)>()).prop_map(
        |(pointer, participants, decision, (age_ms, keys))| txn::View { pointer, participants, decision, age_ms, keys },
    )
}

fn txn_known() -> impl Strategy<Value = txn::Known> {
    prop_oneof![txn_view().prop_map(txn::Known::Open), finished().prop_map(txn::Known::Finished)]
}

pub fn entry() -> impl Strategy<Value = Entry> {
    let command = prop_oneof![
        4 => write().prop_map(Command::Write),
        3 => lock_command().prop_map(Command::Lock),
        4 => txn_command().prop_map(Command::Txn),
        1 => Just(Command::Expire),
        1 => Just(Command::ExtendLeases),
        1 => configure().prop_map(Command::Configure)
    ];
    (any::<u64>(), command).prop_map(|(clock_ms, command)| Entry { clock_ms, command })
}

fn consistency() -> impl Strategy<Value = Consistency> {
    prop_oneof![Just(Consistency::Linearizable), Just(Consistency::Quorum), Just(Consistency::Stale)]
}

fn operation() -> impl Strategy<Value = Operation> {
    let scan = || {
        (bytes(8), option::of(bytes(8)), 1..=MAX_SCAN_KEYS, any::<bool>())
            .prop_map(|(prefix, after, limit, values)| Scan { prefix, after, limit, values })
    };
    prop_oneof![
        write().prop_map(Operation::Write),
        (key(), consistency()).prop_map(|(key, consistency)| Operation::Get { key, consistency }),
        (scan(), consistency()).prop_map(|(scan, consistency)| Operation::Scan { scan, consistency }),
        lock_command().prop_map(Operation::Lock),
        txn_command().prop_map(Operation::Txn),
        (vec(key(), 0..4), consistency()).prop_map(|(keys, consistency)| Operation::GetMany { keys, consistency }),
        (txn_name(), consistency()).prop_map(|(name, consistency)| Operation::ReadTxn { name, consistency }),
        consistency().prop_map(|consistency| Operation::ListTxns { consistency }),
        (lock_name(), consistency()).prop_map(|(name, consistency)| Operation::ReadLock { name, consistency }),
        (scan(), consistency()).prop_map(|(scan, consistency)| Operation::ListLocks { scan, consistency }),
        consistency().prop_map(|consistency| Operation::ReadMap { consistency }),
        intent().prop_map(Operation::ChangeMap),
        Just(Operation::ReadPlan),
        any::<Option<u64>>().prop_map(|epoch| Operation::ReadHistory { epoch }),
    ]
}

pub fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        any::<(u64, bool)>().prop_map(|(version, created)| Outcome::Written { version, created }),
        Just(Outcome::Deleted),
        Just(Outcome::NotFound),
        any::<Option<u64>>().prop_map(|current| Outcome::ConditionFailed { current }),
        Just(Outcome::IdempotencyConflict),
        any::<Option<u64>>().prop_map(|newest| Outcome::StaleFence { newest }),
        Just(Outcome::TooManyFences),
        Just(Outcome::Blocked),
    ]
}

fn reply() -> impl Strategy<Value = Reply> {
    let item = || (any::<u64>(), bytes(20)).prop_map(|(version, value)| Item { version, value });
    let page = (vec((bytes(8), item()), 0..4), any::<bool>()).prop_map(|(items, more)| Page { items, more });
    let refusal = prop_oneof![
        option::of(member()).prop_map(|leader| Refusal::NotLeader { leader }),
        Just(Refusal::NoReplica),
        Just(Refusal::Busy),
        Just(Refusal::DiskFull),
        Just(Refusal::TimedOut),
    ];
    prop_oneof![
        outcome().prop_map(Reply::Write),
        option::of(item()).prop_map(Reply::Get),
        lock_outcome().prop_map(Reply::Lock),
        txn_outcome().prop_map(Reply::Txn),
        (vec(option::of(item()), 0..3), any::<u64>())
            .prop_map(|(items, deletions)| Reply::Many(Many { items, deletions })),
        vec(txn_known(), 0..3).prop_map(Reply::KnownTxn),
        vec(txn_view(), 0..3).prop_map(Reply::Txns),
        option::of(lock_view()).prop_map(Reply::LockView),
        (vec(lock_view(), 0..3), any::<bool>()).prop_map(|(locks, more)| Reply::Locks { locks, more }),
        page.prop_map(Reply::Scan),
        bytes(20).prop_map(Reply::Map),
        refusal.prop_map(Reply::Refused),
        prop_oneof![changed().prop_map(Ok), map_refusal().prop_map(Err)].prop_map(Reply::Changed),
        plan().prop_map(Reply::Plan),
        vec(event(), 0..4).prop_map(Reply::History),
        option::of(bytes(20)).prop_map(Reply::PastMap),
        Just(Reply::OutcomeUnknown),
    ]
}

pub fn position() -> impl Strategy<Value = LogPosition> {
    any::<(u64, u64)>().prop_map(|(index, term)| LogPosition { index, term })
}

pub fn records() -> impl Strategy<Value = Vec<(Bytes, Bytes)>> {
    vec((bytes(8), bytes(8)), 0..4)
}

pub fn conf_state() -> impl Strategy<Value = ConfState> {
    let ids = || vec(any::<u64>(), 0..4);
    (ids(), ids(), ids(), ids(), any::<bool>()).prop_map(|(voters, learners, outgoing, next, auto_leave)| ConfState {
        voters,
        learners,
        voters_outgoing: outgoing,
        learners_next: next,
        auto_leave,
        ..ConfState::default()
    })
}

pub fn log_entry() -> impl Strategy<Value = LogEntry> {
    let numbers = any::<(u64, u64)>();
    (numbers, bytes(20)).prop_map(|((index, term), data)| LogEntry { index, term, data, ..LogEntry::default() })
}

pub fn kind() -> impl Strategy<Value = MessageType> {
    prop::sample::select(vec![
        MessageType::MsgAppend,
        MessageType::MsgAppendResponse,
        MessageType::MsgRequestVote,
        MessageType::MsgRequestVoteResponse,
        MessageType::MsgRequestPreVote,
        MessageType::MsgRequestPreVoteResponse,
        MessageType::MsgHeartbeat,
        MessageType::MsgHeartbeatResponse,
        MessageType::MsgTimeoutNow,
    ])
}

fn raft_message() -> impl Strategy<Value = Message> {
    let numbers = any::<([u64; 4], [u64; 3], i64)>();
    (kind(), numbers, any::<bool>(), vec(log_entry(), 0..4), bytes(9)).prop_map(
        |(
            kind,
            ([term, log_term, index, commit], [commit_term, request, hint], priority),
            reject,
            entries,
            context,
        )| {
            let mut message = Message { term, log_term, index, commit, commit_term, ..Message::default() };
            message.set_msg_type(kind);
            message.request_snapshot = request;
            message.reject_hint = hint;
            message.priority = priority;
            message.reject = reject;
            message.entries = entries.into();
            message.context = context;
            message
        },
    )
}

pub fn peer_message() -> impl Strategy<Value = PeerMessage> {
    let stream = || {
        (any::<u64>(), position(), any::<u32>()).prop_map(|(term, position, attempt)| Stream {
            term,
            position,
            attempt,
        })
    };
    let chunk = (stream(), any::<u32>(), records(), option::of(configuration()))
        .prop_map(|(stream, number, records, last)| Chunk { stream, number, records, last });
    let body = prop_oneof![
        4 => (raft_message(), any::<u64>()).prop_map(|(message, stamp)| Body::Raft { message, stamp }),
        1 => chunk.prop_map(Body::Chunk),
        1 => (stream(), any::<u32>()).prop_map(|(stream, next)| Body::ChunkAck { stream, next }),
        2 => report().prop_map(Body::Report),
    ];
    (any::<u32>(), body).prop_map(|(group, body)| PeerMessage { group: GroupId(group), body })
}

pub fn item() -> impl Strategy<Value = FrameItem> {
    let hello = (any::<[u8; 16]>(), member(), member(), any::<u64>()).prop_map(|(cluster, from, to, epoch)| Hello {
        cluster: ClusterId(cluster),
        from,
        to,
        epoch,
    });
    let forward = (ticket(), any::<(u32, u32)>(), operation()).prop_map(|(ticket, (group, timeout_ms), operation)| {
        Forward { ticket, group: GroupId(group), timeout_ms, operation }
    });
    prop_oneof![
        1 => hello.prop_map(FrameItem::Hello),
        4 => peer_message().prop_map(FrameItem::Group),
        2 => forward.prop_map(FrameItem::Forward),
        2 => (ticket(), reply()).prop_map(|(ticket, reply)| FrameItem::Forwarded { ticket, reply }),
        1 => bytes(30).prop_map(FrameItem::Map),
        1 => (ticket(), any::<u32>())
            .prop_map(|(ticket, group)| FrameItem::Cancel { ticket, group: GroupId(group) }),
    ]
}

fn ticket() -> impl Strategy<Value = Ticket> {
    any::<(u64, u64)>().prop_map(|(life, number)| Ticket { life, number })
}

pub fn group_write() -> impl Strategy<Value = GroupWrite> {
    let staged = (any::<(u32, bool)>(), records()).prop_map(|((generation, first), records)| Staged {
        generation,
        first,
        records,
    });
    let installed = (any::<u32>(), position(), configuration())
        .prop_map(|(generation, position, configuration)| Installed { generation, position, configuration });
    let hard_state = any::<(u64, u64, u64)>().prop_map(|(term, vote, commit)| HardState {
        term,
        vote,
        commit,
        ..HardState::default()
    });
    let parts = (
        (any::<u32>(), option::of(tombstone())),
        vec(staged, 0..3),
        option::of(installed),
        option::of(position()),
        option::of(hard_state),
        vec(log_entry(), 0..4),
    );
    parts.prop_map(|((group, dropped), staged, installed, log_start, hard_state, entries)| GroupWrite {
        dropped,
        staged,
        installed,
        log_start,
        hard_state,
        entries,
        ..GroupWrite::new(GroupId(group))
    })
}

pub fn group_record() -> impl Strategy<Value = GroupRecord> {
    let tombstone = option::of(tombstone());
    (any::<u32>(), position(), configuration(), tombstone).prop_map(
        |(generation, applied, configuration, tombstone)| GroupRecord { generation, applied, configuration, tombstone },
    )
}

fn tombstone() -> impl Strategy<Value = Tombstone> {
    any::<(u64, u64)>().prop_map(|(term, vote)| Tombstone { term, vote })
}

pub fn configuration() -> impl Strategy<Value = Configuration> {
    (conf_state(), any::<u64>()).prop_map(|(state, epoch)| Configuration { state, epoch })
}

pub fn configure() -> impl Strategy<Value = Configure> {
    configure_among(member())
}

/// A step that is about these members.
pub fn configure_among(member: impl Strategy<Value = MemberId> + Clone) -> impl Strategy<Value = Configure> {
    let swap = (option::of(member.clone()), option::of(member.clone()));
    let step = prop_oneof![
        Just(Step::Fence),
        member.clone().prop_map(Step::AddLearner),
        member.prop_map(Step::RemoveLearner),
        swap.prop_map(|(add, remove)| Step::Swap { add, remove }),
        Just(Step::LeaveJoint),
    ];
    (any::<u64>(), step).prop_map(|(epoch, step)| Configure { epoch, step })
}

pub fn report() -> impl Strategy<Value = Report> {
    let numbers = any::<(u32, u64, u64, Option<u64>)>();
    let group = (numbers, configuration(), vec(member(), 0..3));
    let group = group.prop_map(|((group, term, bytes, sent), configuration, behind)| GroupReport {
        group: GroupId(group),
        term,
        configuration,
        behind,
        bytes,
        sent,
    });
    (any::<u64>(), vec(group, 0..4)).prop_map(|(epoch, groups)| Report { epoch, groups })
}

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,12}"
}

fn groups() -> impl Strategy<Value = Vec<GroupId>> {
    vec(any::<u32>().prop_map(GroupId), 0..4)
}

pub fn intent() -> impl Strategy<Value = Intent> {
    let desired = (member(), any::<u32>(), vec(text(), 5)).prop_map(|(id, weight, texts)| {
        let [name, zone, client_address, peer_address, admin_address] = texts.try_into().expect("five");
        Desired { id, name, zone, weight, client_address, peer_address, admin_address }
    });
    let command = prop_oneof![
        vec(desired, 0..4).prop_map(MapCommand::Members),
        member().prop_map(MapCommand::Drain),
        member().prop_map(MapCommand::Undrain),
        member().prop_map(MapCommand::Remove),
    ];
    (any::<(u64, Option<u64>)>(), command).prop_map(|((fence, epoch), command)| Intent { fence, epoch, command })
}

fn changed() -> impl Strategy<Value = Changed> {
    let ids = || vec(member(), 0..4);
    (any::<u64>(), ids(), ids(), ids()).prop_map(|(epoch, joined, leaving, updated)| Changed {
        epoch,
        joined,
        leaving,
        updated,
    })
}

fn map_refusal() -> impl Strategy<Value = map::Refusal> {
    use map::Refusal;
    let at_risk = || (groups(), 0usize..9).prop_map(|(groups, more)| (groups.len() + more, groups));
    prop_oneof![
        any::<(u64, u64)>().prop_map(|(given, highest)| Refusal::StaleFence { given, highest }),
        any::<(u64, u64)>().prop_map(|(given, current)| Refusal::MapChanged { given, current }),
        Just(Refusal::ChangeInProgress),
        member().prop_map(Refusal::UnknownMember),
        (0usize..99, 0usize..99).prop_map(|(left, factor)| Refusal::TooFewMembers { left, factor }),
        (member(), at_risk()).prop_map(|(member, (count, groups))| Refusal::HoldsReplicas { member, groups, count }),
        at_risk().prop_map(|(count, groups)| Refusal::QuorumAtRisk { groups, count }),
        text().prop_map(Refusal::Invalid),
    ]
}

fn plan() -> impl Strategy<Value = Plan> {
    let step = prop::sample::select(vec![
        PlanStep::Waiting,
        PlanStep::Adding,
        PlanStep::Copying,
        PlanStep::Switching,
        PlanStep::Cancelling,
        PlanStep::Recording,
    ]);
    let kind = prop::sample::select(vec![
        GateKind::MoveSlots,
        GateKind::MemberUnreachable,
        GateKind::NoLeader,
        GateKind::NoQuorum,
        GateKind::CatchingUp,
        GateKind::LeaderMoving,
        GateKind::NotKnownYet,
    ]);
    let one = || option::of(member());
    let gate = option::of((kind, one()).prop_map(|(kind, member)| Gate { kind, member }));
    let numbers = any::<(u32, u64, u64)>();
    let planned = (numbers, one(), one(), step, gate).prop_map(|((group, bytes, sent), from, to, step, gate)| {
        Planned { group: GroupId(group), from, to, step, gate, bytes, sent }
    });
    let heard = (member(), any::<(Option<u64>, u64, u32)>()).prop_map(|(member, (ago_ms, epoch, leads))| Heard {
        member,
        ago_ms,
        epoch,
        leads,
    });
    let numbers = any::<(u64, bool, u32, u32, u64, u64)>();
    (numbers, vec(planned, 0..4), vec(heard, 0..4)).prop_map(|(numbers, moves, members)| {
        let (epoch, settled, moves_left, moves_under_way, bytes_left, bytes_per_second) = numbers;
        Plan { epoch, settled, moves_left, moves_under_way, bytes_left, bytes_per_second, moves, members }
    })
}

fn reason() -> impl Strategy<Value = Reason> {
    prop_oneof![
        Just(Reason::Bootstrap),
        text().prop_map(Reason::Members),
        text().prop_map(Reason::Drain),
        text().prop_map(Reason::Undrain),
        text().prop_map(Reason::Remove),
        (any::<(u32, u32, u32)>(), text()).prop_map(|((started, finished, cancelled), message)| Reason::Moves {
            started,
            finished,
            cancelled,
            message,
        }),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    (any::<[u64; 4]>(), reason()).prop_map(|([first_epoch, epoch, at_ms, fence], reason)| Event {
        first_epoch,
        epoch,
        at_ms,
        fence,
        reason,
    })
}

fn moving() -> impl Strategy<Value = Move> {
    let one = || option::of(member());
    (one(), one(), any::<(bool, u64)>()).prop_map(|(add, remove, (cancelled, epoch))| Move {
        add,
        remove,
        cancelled,
        epoch,
    })
}

fn assignment() -> impl Strategy<Value = Assignment> {
    (vec(member(), 0..4), member()).prop_map(|(replicas, leader)| Assignment { replicas, leader })
}

fn state() -> impl Strategy<Value = MemberState> {
    use MemberState::{Active, Draining, Joining, Leaving};
    prop::sample::select(vec![Joining, Active, Leaving, Draining])
}

pub fn map_change() -> impl Strategy<Value = MapChange> {
    let members = (member(), any::<u32>(), state(), vec(text(), 5)).prop_map(|(id, weight, state, texts)| {
        let [name, zone, client_address, peer_address, admin_address] = texts.try_into().expect("five");
        Member { id, name, zone, weight, state, client_address, peer_address, admin_address }
    });
    let partition = || any::<u32>().prop_map(PartitionId);
    let ids = || option::of(vec(member(), 0..4));
    let lists = (
        option::of(vec(members, 0..3)),
        vec((partition(), assignment()), 0..3),
        ids(),
        vec((partition(), option::of(assignment())), 0..3),
        ids(),
        vec((any::<u32>().prop_map(GroupId), option::of(moving())), 0..3),
    );
    (any::<[u64; 3]>(), reason(), lists).prop_map(|([base, at_ms, fence], reason, lists)| {
        let (members, assignments, map_voters, targets, map_target, moves) = lists;
        MapChange { base, at_ms, reason, fence, members, assignments, map_voters, targets, map_target, moves }
    })
}

pub fn map_entry() -> impl Strategy<Value = MapEntry> {
    prop_oneof![map_change().prop_map(MapEntry::Change), configure().prop_map(MapEntry::Configure)]
}

/// A first map, or one of which members come and go and groups are moving.
pub fn map() -> impl Strategy<Value = Map> {
    let member = (1u32..1000, state(), "[a-z]{0,4}");
    let first = (vec(member, 1..6), 0u32..5, 1usize..4, any::<[u8; 16]>());
    let first = first.prop_map(|(members, partitions, factor, cluster)| {
        let factor = factor.min(members.len());
        let members = members.into_iter().enumerate().map(|(at, (weight, state, zone))| Member {
            id: MemberId::new(at as u64 + 1).expect("not 0"),
            name: format!("m{at}"),
            zone,
            weight,
            state,
            client_address: format!("m{at}:1"),
            peer_address: format!("m{at}:2"),
            admin_address: format!("m{at}:3"),
        });
        Map::bootstrap(ClusterId(cluster), 1 << partitions, factor, members.collect()).expect("members that can be")
    });
    (first, any::<(u64, u64, bool)>(), vec((any::<u32>(), any::<bool>(), any::<u64>()), 0..4)).prop_map(
        |(mut map, (epoch, fence, grows), moves)| {
            map.epoch = epoch.max(1);
            map.fence = fence;
            for (number, cancelled, epoch) in moves {
                let partition = PartitionId(number % map.partitions());
                let voters = map.assignments[partition.0 as usize].replicas.clone();
                let add = map.members.iter().map(|member| member.id).find(|id| !voters.contains(id));
                let Some(add) = add else { continue };
                let moving = Move { add: Some(add), remove: Some(voters[0]), cancelled, epoch: epoch.min(map.epoch) };
                map.moves.insert(partition.group(), moving);
                let replicas: Vec<MemberId> = voters[1..].iter().copied().chain([add]).collect();
                map.targets.insert(partition, Assignment { leader: replicas[0], replicas });
            }
            if grows {
                map.map_target = map.members.iter().map(|member| member.id).take(5).collect();
            }
            map
        },
    )
}
