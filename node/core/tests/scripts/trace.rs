//! How things are written in a trace. A log position is `index/term`, a term `t2`, a partition `p0`.

use annulus_core::codec::message::{Body, Chunk, PeerMessage};
use annulus_core::id::{GroupId, MemberId};
use annulus_core::lane::{Changed, GroupWrite, LogPosition, Refusal, Reply};
use annulus_core::map::change::{Change as MapChange, Entry as MapEntry};
use annulus_core::map::history::Event;
use annulus_core::map::plan::{Gate, Plan, Planned};
use annulus_core::map::{Assignment, Map, MemberState, Move, Reason, Report};
use annulus_core::partition::{Change, Command, Entry, Many, Outcome, Page, Write, lock, txn};
use annulus_core::replica::{Configuration, Configure, Step};
use raft::eraftpb::{ConfState, Entry as LogEntry, Message, MessageType};

/// Bytes: as text when they are short.
pub fn show(bytes: &[u8]) -> String {
    if bytes.len() > 24 { format!("<{} bytes>", bytes.len()) } else { bytes.escape_ascii().to_string() }
}

pub fn outcome(outcome: Outcome) -> String {
    match outcome {
        Outcome::Written { version, created: true } => format!("created version {version}"),
        Outcome::Written { version, created: false } => format!("replaced version {version}"),
        Outcome::Deleted => "deleted".to_owned(),
        Outcome::NotFound => "not found".to_owned(),
        Outcome::ConditionFailed { current: None } => "condition failed, absent".to_owned(),
        Outcome::ConditionFailed { current: Some(version) } => format!("condition failed, version {version}"),
        Outcome::IdempotencyConflict => "idempotency conflict".to_owned(),
        Outcome::StaleFence { newest: Some(newest) } => format!("stale fence, token {newest} was here"),
        Outcome::StaleFence { newest: None } => "stale fence, none was here".to_owned(),
        Outcome::TooManyFences => "too many fences".to_owned(),
        Outcome::Blocked => "blocked by a transaction".to_owned(),
    }
}

pub fn lock_outcome(outcome: &lock::Outcome) -> String {
    match outcome {
        lock::Outcome::Granted { token, valid_ms } => format!("granted token {token}, valid {valid_ms}ms"),
        lock::Outcome::Queued { token, .. } => format!("waits, token {token}"),
        lock::Outcome::Held { by, waiting } => format!("held by {}, {waiting} wait", holder(by)),
        lock::Outcome::Full => "full".to_owned(),
        lock::Outcome::RequestConflict => "the request's name is taken".to_owned(),
        lock::Outcome::Renewed { valid_ms } => format!("renewed, valid {valid_ms}ms"),
        lock::Outcome::Released => "released".to_owned(),
        lock::Outcome::Pinned => "pinned by a transaction".to_owned(),
        lock::Outcome::NotHeld { by: None } => "not held, nor by anybody".to_owned(),
        lock::Outcome::NotHeld { by: Some(by) } => format!("not held, but by {}", holder(by)),
    }
}

pub fn txn_outcome(outcome: &txn::Outcome) -> String {
    match outcome {
        txn::Outcome::Done { decision, results } => format!("done, {decision:?}: {}", dones(results)),
        txn::Outcome::Prepared(prepared) => {
            let txn::Prepared { holds, then, otherwise, .. } = prepared;
            let holds = if *holds { "holds" } else { "does not hold" };
            format!("prepared, {holds}; then {}; else {}", dones(then), dones(otherwise))
        }
        txn::Outcome::ConditionFailed => "a condition does not hold".to_owned(),
        txn::Outcome::Blocked { by, waits } => {
            format!("blocked by {}, {}", id(&by.id), if *waits { "waits" } else { "gives way" })
        }
        txn::Outcome::Finished(finished) => {
            format!("{} is finished: {:?}, decided at {:?}", id(&finished.id), finished.decision, finished.participants)
        }
        txn::Outcome::UnderWay(pointer) => format!("{} is under way", id(&pointer.id)),
        txn::Outcome::Settled(settled) => {
            let each = settled.iter().map(|settled| match settled {
                txn::Settled::Other { id: other, decision } => format!("aborted, but not {}: {decision:?}", id(other)),
                settled => format!("{settled:?}"),
            });
            each.collect::<Vec<_>>().join(", ")
        }
        other => format!("{other:?}"),
    }
}

fn dones(dones: &[txn::Done]) -> String {
    let each = dones.iter().map(|done| match done {
        txn::Done::Put(version) => format!("put {version}"),
        txn::Done::Deleted(was_there) => format!("deleted {was_there}"),
        txn::Done::Got(None) => "absent".to_owned(),
        txn::Done::Got(Some(item)) => format!("{} version {}", show(&item.value), item.version),
    });
    if dones.is_empty() { "nothing".to_owned() } else { each.collect::<Vec<_>>().join(", ") }
}

/// `NAME/COORDINATOR.ATTEMPT`.
pub fn id(id: &txn::Id) -> String {
    format!("{}/{}.{}", show(id.name.bytes()), id.coordinator, id.attempt)
}

pub fn txn_command(command: &txn::Command) -> String {
    match command {
        txn::Command::Alone(alone) => format!("{} alone", id(&alone.id)),
        txn::Command::Prepare(prepare) => format!("prepare {}", id(&prepare.id)),
        txn::Command::Probe(probed) => format!("probe {}", id(probed)),
        txn::Command::Settle(steps) => {
            let each = steps.iter().map(|step| match step {
                txn::Settle::Decide { id: of, decision, .. } => format!("decide {} {decision:?}", id(of)),
                txn::Settle::Resolve { id: of, decision } => format!("resolve {} {decision:?}", id(of)),
                txn::Settle::Close { id: of } => format!("close {}", id(of)),
            });
            each.collect::<Vec<_>>().join(", ")
        }
    }
}

pub fn txn_view(view: &txn::View) -> String {
    let txn::View { pointer, participants, decision, age_ms, keys } = view;
    let state = decision.map_or("prepared".to_owned(), |decision| format!("decided {decision:?}"));
    format!("{} {state} {age_ms}ms ago, holds {keys}, of {participants:?}", id(&pointer.id))
}

pub fn lock_command(command: &lock::Command) -> String {
    match command {
        lock::Command::Acquire(wish) => format!("{} acquires {}", show(&wish.owner), show(wish.name.bytes())),
        lock::Command::Renew { name, token, .. } => format!("renew {} {token}", show(name.bytes())),
        lock::Command::Release { name, token } => format!("release {} {token}", show(name.bytes())),
        lock::Command::Leave { name, token, asked } => format!("leave {} {token} asked {asked}", show(name.bytes())),
    }
}

pub fn settled(settled: &lock::Settled) -> String {
    match settled {
        lock::Settled::Granted { token, deadline_ms } => format!("  token {token} is granted until {deadline_ms}ms"),
        lock::Settled::Gone { token, held: None } => format!("  token {token} left the queue"),
        lock::Settled::Gone { token, held: Some((by, waiting)) } => {
            format!("  token {token} has waited long enough, held by {}, {waiting} wait", holder(by))
        }
    }
}

fn holder(holder: &lock::Holder) -> String {
    format!("{} with token {}", show(&holder.owner), holder.token)
}

pub fn lock_view(view: &lock::View) -> Vec<String> {
    let place = |place: &lock::PlaceView| {
        let lock::PlaceView { token, owner, mode, since_ms, left_ms, .. } = place;
        let mode = if *mode == lock::Mode::Shared { ", shared" } else { "" };
        format!("{} token {token}{mode}, since {since_ms}ms, {left_ms}ms left", show(owner))
    };
    let holders = view.holders.iter().map(|holder| format!("{}: held by {}", show(view.name.bytes()), place(holder)));
    let waiting = view.waiting.iter().map(|waiting| format!("  waits: {}", place(waiting)));
    holders.chain(waiting).chain((view.waiting_count > 100).then(|| format!("  {} wait", view.waiting_count))).collect()
}

pub fn page(page: &Page) -> Vec<String> {
    let items = page.items.iter();
    let mut lines: Vec<_> =
        items.map(|(key, item)| format!("{} = {} version {}", show(key), show(&item.value), item.version)).collect();
    if lines.len() > 12 {
        let left_out = lines.len() - 4;
        lines.splice(2..lines.len() - 2, [format!("… {left_out} more …")]);
    }
    lines.push(if page.more { "more" } else { "end" }.to_owned());
    lines
}

pub fn reply(reply: &Reply) -> String {
    match reply {
        Reply::Write(done) => outcome(*done),
        Reply::Lock(outcome) => lock_outcome(outcome),
        Reply::Txn(outcome) => txn_outcome(outcome),
        Reply::Many(Many { items, deletions }) => {
            let each = items.iter().map(|item| match item {
                None => "absent".to_owned(),
                Some(item) => format!("{} version {}", show(&item.value), item.version),
            });
            format!("{}; {deletions} went away", each.collect::<Vec<_>>().join(", "))
        }
        Reply::KnownTxn(known) => {
            let each = known.iter().map(|known| match known {
                txn::Known::Open(view) => txn_view(view),
                txn::Known::Finished(finished) => format!("{} {:?}", id(&finished.id), finished.decision),
            });
            format!("known: {}", each.collect::<Vec<_>>().join(", "))
        }
        Reply::Txns(views) => views.iter().map(txn_view).collect::<Vec<_>>().join("; "),
        Reply::LockView(view) => view.as_ref().map_or("nobody is at it".to_owned(), |view| lock_view(view).join("; ")),
        Reply::Locks { locks, more } => {
            let end = if *more { "more" } else { "end" }.to_owned();
            locks.iter().flat_map(lock_view).chain([end]).collect::<Vec<_>>().join("; ")
        }
        Reply::Get(None) => "absent".to_owned(),
        Reply::Get(Some(item)) => format!("{} version {}", show(&item.value), item.version),
        Reply::Scan(found) => page(found).join("; "),
        Reply::Map(map) => format!("a map of {} bytes", map.len()),
        Reply::Changed(Ok(changed)) => changed_map(changed),
        Reply::Changed(Err(refusal)) => format!("refused, {refusal}"),
        Reply::Plan(found) => plan(found).join("; "),
        Reply::History(events) => events.iter().map(event).collect::<Vec<_>>().join("; "),
        Reply::PastMap(None) => "that map is not known any more".to_owned(),
        Reply::PastMap(Some(bytes)) => match Map::decode(bytes.clone()) {
            Ok(map) => lines_of(&map).join("; "),
            Err(error) => error.to_string(),
        },
        Reply::Refused(Refusal::NotLeader { leader: None }) => "refused, no leader".to_owned(),
        Reply::Refused(Refusal::NotLeader { leader: Some(leader) }) => format!("refused, {} leads", leader.get()),
        Reply::Refused(refusal) => format!("refused, {refusal:?}"),
        Reply::OutcomeUnknown => "outcome unknown".to_owned(),
    }
}

pub fn position(position: LogPosition) -> String {
    format!("{}/{}", position.index, position.term)
}

pub fn message(message: &PeerMessage) -> String {
    let what = match &message.body {
        Body::Raft { message: said, stamp } => raft(message.group, said, *stamp),
        Body::Chunk(part) => chunk(part),
        Body::ChunkAck { stream, next } => {
            format!("chunk-ok of {} #{} next {next}", position(stream.position), stream.attempt)
        }
        Body::Report(told) => report(told),
    };
    format!("{} {what}", message.group)
}

fn chunk(chunk: &Chunk) -> String {
    let bytes: usize = chunk.records.iter().map(|(key, value)| key.len() + value.len()).sum();
    let last = if chunk.last.is_some() { " last" } else { "" };
    let Chunk { stream, number, records, .. } = chunk;
    let (at, records) = (position(stream.position), records.len());
    format!("chunk {number} of {at} #{} t{}: {records} records, {bytes} bytes{last}", stream.attempt, stream.term)
}

fn raft(group: GroupId, message: &Message, stamp: u64) -> String {
    let Message { term, index, commit, log_term, .. } = message;
    let log = position(LogPosition { index: *index, term: *log_term });
    let transfer = if message.context.is_empty() { "" } else { " transfer" };
    let yes = if message.reject { "no" } else { "ok" };
    let read = <[u8; 8]>::try_from(&message.context[..]).map(u64::from_be_bytes);
    let read = read.map_or(String::new(), |number| format!(" read {number}"));
    let sent = match stamp {
        0 => String::new(),
        stamp => format!(" sent {}ms", stamp / 1000),
    };
    match message.get_msg_type() {
        MessageType::MsgAppend => {
            let entries: Vec<_> = message.entries.iter().map(|entry| log_entry(group, entry)).collect();
            let entries = if entries.is_empty() { String::new() } else { format!(" [{}]", entries.join(", ")) };
            format!("append t{term} after {log} commit {commit}{entries}")
        }
        MessageType::MsgAppendResponse if message.reject => {
            format!("append-no t{term} after {index}, try {}", message.reject_hint)
        }
        MessageType::MsgAppendResponse => format!("append-ok t{term} up to {index}"),
        MessageType::MsgRequestPreVote => format!("pre-vote t{term} log {log}"),
        MessageType::MsgRequestPreVoteResponse => format!("pre-vote-{yes} t{term}"),
        MessageType::MsgRequestVote => format!("vote t{term} log {log}{transfer}"),
        MessageType::MsgRequestVoteResponse => format!("vote-{yes} t{term}"),
        MessageType::MsgHeartbeat => format!("heartbeat t{term} commit {commit}{sent}{read}"),
        MessageType::MsgHeartbeatResponse => format!("heartbeat-ok t{term}{sent}{read}"),
        MessageType::MsgTimeoutNow => format!("take-over t{term}"),
        other => format!("{other:?} t{term}"),
    }
}

fn log_entry(group: GroupId, entry: &LogEntry) -> String {
    let at = position(LogPosition { index: entry.index, term: entry.term });
    if entry.data.is_empty() {
        return format!("{at} empty");
    }
    if group == GroupId::MAP {
        return match MapEntry::decode(entry.data.clone()) {
            Ok(MapEntry::Change(change)) => format!("{at} {}", map_change(&change)),
            Ok(MapEntry::Configure(configure)) => format!("{at} {}", step(configure)),
            Err(error) => format!("{at} {error}"),
        };
    }
    match Entry::decode(entry.data.clone()) {
        Ok(Entry { command: Command::Configure(configure), .. }) => format!("{at} {}", step(configure)),
        Ok(Entry { command: Command::Expire, clock_ms }) => format!("{at} expire at {clock_ms}ms"),
        Ok(Entry { command: Command::Txn(command), .. }) => format!("{at} {}", txn_command(&command)),
        Ok(Entry { command: Command::ExtendLeases, clock_ms }) => format!("{at} extend leases at {clock_ms}ms"),
        Ok(Entry { command: Command::Lock(command), .. }) => format!("{at} {}", lock_command(&command)),
        Ok(Entry { command: Command::Write(Write { key, change, .. }), .. }) => match change {
            Change::Put { value, .. } => format!("{at} {}={}", show(key.bytes()), show(&value)),
            Change::Delete => format!("{at} delete {}", show(key.bytes())),
        },
        Err(error) => format!("{at} {error}"),
    }
}

pub fn write(write: &GroupWrite) -> String {
    let mut parts = Vec::new();
    if let Some(dropped) = &write.dropped {
        parts.push(format!("drop, t{} vote {}", dropped.term, dropped.vote));
    }
    for staged in &write.staged {
        let first = if staged.first { " from the first" } else { "" };
        parts.push(format!("stage {} records for generation {}{first}", staged.records.len(), staged.generation));
    }
    if let Some(installed) = &write.installed {
        parts.push(format!("install generation {} at {}", installed.generation, position(installed.position)));
    }
    if let Some(start) = write.log_start {
        parts.push(format!("log after {}", position(start)));
    }
    if let Some(hard) = &write.hard_state {
        parts.push(format!("t{} vote {} commit {}", hard.term, hard.vote, hard.commit));
    }
    if let (Some(first), Some(last)) = (write.entries.first(), write.entries.last()) {
        let at = |entry: &LogEntry| position(LogPosition { index: entry.index, term: entry.term });
        parts.push(match write.entries.len() {
            1 => format!("entry {}", at(first)),
            _ => format!("entries {} to {}", at(first), at(last)),
        });
    }
    format!("{} {}", write.group, parts.join(", "))
}

/// Members: `1 2 3`.
pub fn ids(ids: &[MemberId]) -> String {
    ids.iter().map(|id| id.get().to_string()).collect::<Vec<_>>().join(" ")
}

fn optional(id: Option<MemberId>) -> String {
    id.map_or("nobody".to_owned(), |id| id.get().to_string())
}

/// A step of a group's configuration.
pub fn step(configure: Configure) -> String {
    let what = match configure.step {
        Step::Fence => "fence".to_owned(),
        Step::AddLearner(id) => format!("{} learns", id.get()),
        Step::RemoveLearner(id) => format!("{} learns no more", id.get()),
        Step::Swap { add, remove } => format!("{} votes for {}", optional(add), optional(remove)),
        Step::LeaveJoint => "leave joint".to_owned(),
    };
    format!("configure {what} @{}", configure.epoch)
}

fn state(state: &ConfState) -> String {
    let list = |ids: &[u64]| {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    let mut shown = format!("{{{}}}", list(&state.voters));
    if !state.voters_outgoing.is_empty() {
        shown += &format!("&{{{}}}", list(&state.voters_outgoing));
    }
    if !state.learners.is_empty() {
        shown += &format!(" + {} learns", list(&state.learners));
    }
    if !state.learners_next.is_empty() {
        shown += &format!(" + {} will learn", list(&state.learners_next));
    }
    shown
}

/// `{1 2 3} + 4 learns @5`: voters, learners, and the epoch of the map that they are of.
pub fn configuration(configuration: &Configuration) -> String {
    format!("{} @{}", state(&configuration.state), configuration.epoch)
}

/// A report: how each group stands.
pub fn report(report: &Report) -> String {
    let groups = report.groups.iter().map(|group| {
        let behind = if group.behind.is_empty() { String::new() } else { format!(", behind {}", ids(&group.behind)) };
        let sent = group.sent.map_or(String::new(), |sent| format!(", {sent} sent"));
        format!(" {} t{} {}{behind}{sent};", group.group, group.term, configuration(&group.configuration))
    });
    format!("report @{}{}", report.epoch, groups.collect::<String>())
}

pub fn reason(reason: &Reason) -> String {
    match reason {
        Reason::Bootstrap => "bootstrap".to_owned(),
        Reason::Members(told) => format!("members: {told}"),
        Reason::Drain(name) => format!("drain {name}"),
        Reason::Undrain(name) => format!("undrain {name}"),
        Reason::Remove(name) => format!("remove {name}"),
        Reason::Moves { started, finished, cancelled, message } => {
            let told = if message.is_empty() { String::new() } else { format!(", {message}") };
            format!("moves: {started} began, {finished} ended, {cancelled} cancelled{told}")
        }
    }
}

/// A move: `4 for 3`.
pub fn moving(moving: &Move) -> String {
    let cancelled = if moving.cancelled { " cancelled" } else { "" };
    format!("{} for {}{cancelled} @{}", optional(moving.add), optional(moving.remove), moving.epoch)
}

fn assignment(assignment: &Assignment) -> String {
    format!("{}, led by {}", ids(&assignment.replicas), assignment.leader.get())
}

fn map_change(change: &MapChange) -> String {
    format!("map {} ({})", change.base + 1, reason(&change.reason))
}

fn changed_map(changed: &Changed) -> String {
    let lists = [("joined", &changed.joined), ("leaving", &changed.leaving), ("updated", &changed.updated)];
    let lists = lists.iter().filter(|(_, list)| !list.is_empty());
    let lists = lists.map(|(what, list)| format!(", {what} {}", ids(list)));
    format!("map {}{}", changed.epoch, lists.collect::<String>())
}

pub fn event(event: &Event) -> String {
    let epochs = match event.first_epoch == event.epoch {
        true => event.epoch.to_string(),
        false => format!("{} to {}", event.first_epoch, event.epoch),
    };
    format!("{epochs} fence {} {}", event.fence, reason(&event.reason))
}

fn gate(gate: &Gate) -> String {
    let member = gate.member.map_or(String::new(), |id| format!(" {}", id.get()));
    format!(", waits: {:?}{member}", gate.kind)
}

fn planned(planned: &Planned) -> String {
    let wait = planned.gate.as_ref().map_or(String::new(), gate);
    let Planned { group, from, to, step, .. } = planned;
    format!("{group} {} for {}: {step:?}{wait}", optional(*to), optional(*from))
}

/// A plan, a line for each move and each member.
pub fn plan(plan: &Plan) -> Vec<String> {
    let settled = if plan.settled { ", settled" } else { "" };
    let (left, under_way) = (plan.moves_left, plan.moves_under_way);
    let mut lines = vec![format!("plan @{}: {left} moves left, {under_way} under way{settled}", plan.epoch)];
    lines.extend(plan.moves.iter().map(planned));
    lines.extend(plan.members.iter().map(|heard| {
        let ago = heard.ago_ms.map_or("never heard of".to_owned(), |ago| format!("heard of {ago}ms ago"));
        format!("{} {ago} @{}, leads {}", heard.member.get(), heard.epoch, heard.leads)
    }));
    lines
}

/// A map, a line for each thing that is moving or passing.
pub fn lines_of(map: &Map) -> Vec<String> {
    let settled = if map.is_settled() { ", settled" } else { "" };
    let fence = if map.fence == 0 { String::new() } else { format!(", fence {}", map.fence) };
    let mut lines = vec![format!("map {}{fence}{settled}", map.epoch)];
    let passing = map.members.iter().filter(|member| member.state != MemberState::Active);
    lines.extend(passing.map(|member| format!("{} {} is {:?}", member.id.get(), member.name, member.state)));
    let group = |group: GroupId| map.moves.get(&group).map_or(String::new(), |it| format!("; moving {}", moving(it)));
    let target =
        if map.map_voters == map.map_target { String::new() } else { format!("; to be {}", ids(&map.map_target)) };
    lines.push(format!("map: {}{target}{}", ids(&map.map_voters), group(GroupId::MAP)));
    for (at, held) in (0..).map(annulus_core::id::PartitionId).zip(&map.assignments) {
        let target = map.targets.get(&at).map_or(String::new(), |target| format!("; to be {}", assignment(target)));
        lines.push(format!("{at}: {}{target}{}", assignment(held), group(at.group())));
    }
    lines
}
