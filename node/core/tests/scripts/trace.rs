//! How things are written in a trace. A log position is `index/term`, a term `t2`, a partition `p0`.

use annulus_core::codec::message::{Body, Chunk, PeerMessage};
use annulus_core::lane::{GroupWrite, LogPosition, Refusal, Reply};
use annulus_core::partition::{Change, Command, Entry, Outcome, Page, Write};
use raft::eraftpb::{Entry as LogEntry, Message, MessageType};

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
    }
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
        Reply::Get(None) => "absent".to_owned(),
        Reply::Get(Some(item)) => format!("{} version {}", show(&item.value), item.version),
        Reply::Scan(found) => page(found).join("; "),
        Reply::Map(map) => format!("a map of {} bytes", map.len()),
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
        Body::Raft { message, stamp } => raft(message, *stamp),
        Body::Chunk(part) => chunk(part),
        Body::ChunkAck { stream, next } => {
            format!("chunk-ok of {} #{} next {next}", position(stream.position), stream.attempt)
        }
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

fn raft(message: &Message, stamp: u64) -> String {
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
            let entries: Vec<_> = message.entries.iter().map(entry).collect();
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

fn entry(entry: &LogEntry) -> String {
    let at = position(LogPosition { index: entry.index, term: entry.term });
    if entry.data.is_empty() {
        return format!("{at} empty");
    }
    match Entry::decode(entry.data.clone()) {
        Ok(Entry { command: Command::Expire, clock_ms }) => format!("{at} expire at {clock_ms}ms"),
        Ok(Entry { command: Command::Write(Write { key, change, .. }), .. }) => match change {
            Change::Put { value, .. } => format!("{at} {}={}", show(key.bytes()), show(&value)),
            Change::Delete => format!("{at} delete {}", show(key.bytes())),
        },
        Err(error) => format!("{at} {error}"),
    }
}

pub fn write(write: &GroupWrite) -> String {
    let mut parts = Vec::new();
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
