//! Arbitrary values of everything that has a byte form.

#![allow(dead_code, reason = "each test uses some of them")]

use annulus_core::codec::frame::{Forward, Hello, Item as FrameItem};
use annulus_core::codec::message::{Body, Chunk, PeerMessage, Stream};
use annulus_core::id::{ClusterId, GroupId, MemberId};
use annulus_core::lane::{GroupWrite, Installed, LogPosition, Operation, Refusal, Reply, Staged};
use annulus_core::map::{Map, Member, MemberState};
use annulus_core::partition::{
    Change, Command, Condition, Consistency, Entry, Item, Key, MAX_SCAN_KEYS, MAX_TTL_MS, Outcome, Page, Scan, Write,
};
use annulus_core::replica::GroupRecord;
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
    (key(), condition, change, name).prop_map(|(key, condition, change, idempotency_key)| Write {
        key,
        condition,
        change,
        idempotency_key,
    })
}

pub fn entry() -> impl Strategy<Value = Entry> {
    let command = prop_oneof![4 => write().prop_map(Command::Write), 1 => Just(Command::Expire)];
    (any::<u64>(), command).prop_map(|(clock_ms, command)| Entry { clock_ms, command })
}

fn consistency() -> impl Strategy<Value = Consistency> {
    prop_oneof![Just(Consistency::Linearizable), Just(Consistency::Quorum), Just(Consistency::Stale)]
}

fn operation() -> impl Strategy<Value = Operation> {
    let scan = (bytes(8), option::of(bytes(8)), 1..=MAX_SCAN_KEYS, any::<bool>())
        .prop_map(|(prefix, after, limit, values)| Scan { prefix, after, limit, values });
    prop_oneof![
        write().prop_map(Operation::Write),
        (key(), consistency()).prop_map(|(key, consistency)| Operation::Get { key, consistency }),
        (scan, consistency()).prop_map(|(scan, consistency)| Operation::Scan { scan, consistency }),
        consistency().prop_map(|consistency| Operation::ReadMap { consistency }),
    ]
}

pub fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        any::<(u64, bool)>().prop_map(|(version, created)| Outcome::Written { version, created }),
        Just(Outcome::Deleted),
        Just(Outcome::NotFound),
        any::<Option<u64>>().prop_map(|current| Outcome::ConditionFailed { current }),
        Just(Outcome::IdempotencyConflict),
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
        page.prop_map(Reply::Scan),
        bytes(20).prop_map(Reply::Map),
        refusal.prop_map(Reply::Refused),
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
    let chunk = (stream(), any::<u32>(), records(), option::of(conf_state()))
        .prop_map(|(stream, number, records, last)| Chunk { stream, number, records, last });
    let body = prop_oneof![
        4 => (raft_message(), any::<u64>()).prop_map(|(message, stamp)| Body::Raft { message, stamp }),
        1 => chunk.prop_map(Body::Chunk),
        1 => (stream(), any::<u32>()).prop_map(|(stream, next)| Body::ChunkAck { stream, next }),
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
    let forward = (any::<(u64, u32, u32)>(), operation()).prop_map(|((number, group, timeout_ms), operation)| {
        Forward { number, group: GroupId(group), timeout_ms, operation }
    });
    prop_oneof![
        1 => hello.prop_map(FrameItem::Hello),
        4 => peer_message().prop_map(FrameItem::Group),
        2 => forward.prop_map(FrameItem::Forward),
        2 => (any::<u64>(), reply()).prop_map(|(number, reply)| FrameItem::Forwarded { number, reply }),
        1 => bytes(30).prop_map(FrameItem::Map),
    ]
}

pub fn group_write() -> impl Strategy<Value = GroupWrite> {
    let staged = (any::<(u32, bool)>(), records()).prop_map(|((generation, first), records)| Staged {
        generation,
        first,
        records,
    });
    let installed = (any::<u32>(), position(), conf_state()).prop_map(|(generation, position, conf_state)| Installed {
        generation,
        position,
        conf_state,
    });
    let hard_state = any::<(u64, u64, u64)>().prop_map(|(term, vote, commit)| HardState {
        term,
        vote,
        commit,
        ..HardState::default()
    });
    let parts = (
        any::<u32>(),
        vec(staged, 0..3),
        option::of(installed),
        option::of(position()),
        option::of(hard_state),
        vec(log_entry(), 0..4),
    );
    parts.prop_map(|(group, staged, installed, log_start, hard_state, entries)| GroupWrite {
        staged,
        installed,
        log_start,
        hard_state,
        entries,
        ..GroupWrite::new(GroupId(group))
    })
}

pub fn group_record() -> impl Strategy<Value = GroupRecord> {
    (any::<u32>(), position(), conf_state()).prop_map(|(generation, applied, conf_state)| GroupRecord {
        generation,
        applied,
        conf_state,
    })
}

pub fn map() -> impl Strategy<Value = Map> {
    let state = prop::sample::select(vec![MemberState::Joining, MemberState::Active, MemberState::Leaving]);
    let member = (1u32..1000, state, "[a-z]{0,4}");
    (vec(member, 1..6), 0u32..5, 1usize..4, any::<[u8; 16]>()).prop_map(|(members, partitions, factor, cluster)| {
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
    })
}
