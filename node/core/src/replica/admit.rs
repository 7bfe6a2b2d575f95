//! What a peer may say. raft-rs trusts its peers: on some messages that no correct replica sends it panics, and a term
//! of 0 makes it take a message for one of its own. Such messages end here.
//!
//! Never judges whether a message is true, only whether it can be: who sent it is known from the link.

use std::collections::BTreeSet;

use raft::StateRole;
use raft::eraftpb::{ConfState, Entry, Message, MessageType};

use super::{Error, Replica};
use crate::codec::message::{Chunk, is_sendable};
use crate::id::MemberId;
use crate::lane::LogPosition;

/// No group ever gets to a term or an index as high as this: Raft may add to them without overflow.
const TOO_HIGH: u64 = 1 << 62;

impl Replica {
    /// Whether Raft may be given this message from this member.
    pub(super) fn admits(&self, from: MemberId, message: &Message) -> bool {
        let numbers = [message.log_term, message.index, message.commit, message.commit_term, message.reject_hint];
        let is_plausible = from != self.settings.member
            && is_sendable(message.get_msg_type())
            && (1..TOO_HIGH).contains(&message.term)
            && numbers.into_iter().all(|number| number < TOO_HIGH)
            && message.request_snapshot == 0;
        let raft = &self.node.raft;
        is_plausible
            && match message.get_msg_type() {
                MessageType::MsgAppend => {
                    let before = LogPosition { index: message.index, term: message.log_term };
                    follow_on(before, &message.entries, message.term)
                }
                MessageType::MsgAppendResponse => message.reject || message.index <= self.last_index(),
                // An election is asked for and won only by a log that is durable: see `drain`.
                MessageType::MsgRequestVoteResponse => {
                    message.reject || raft.state != StateRole::Candidate || self.is_durable()
                }
                MessageType::MsgTimeoutNow => message.term == raft.term && raft.leader_id == from.get(),
                _ => true,
            }
    }

    /// Whether this replica still has all that it has acknowledged. A leader's heartbeat says how far that is: it names
    /// what is committed, as far as this replica has said to have it. Only a volume that went back in time (an older copy
    /// put in its place, a disk that dropped what it had synced) has less, and it must not vote.
    pub(super) fn check_memory(&self, message: &Message) -> Result<(), Error> {
        let is_leaders = message.get_msg_type() == MessageType::MsgHeartbeat && message.term >= self.term();
        let (acknowledged, last) = (message.commit, self.last_index());
        if is_leaders && acknowledged > last {
            return Err(Error::Forgotten { group: self.group, acknowledged, last });
        }
        Ok(())
    }

    /// Whether this can be a piece of a snapshot for this replica.
    pub(super) fn admits_chunk(&self, from: MemberId, chunk: &Chunk) -> bool {
        let stream = chunk.stream;
        from != self.settings.member
            && (1..TOO_HIGH).contains(&stream.term)
            && (1..=stream.term).contains(&stream.position.term)
            && (1..TOO_HIGH).contains(&stream.position.index)
            && chunk.last.as_ref().is_none_or(|last| is_sound(&last.state, Some(self.settings.member)))
    }
}

/// Whether entries continue a log that goes up to `before`, none of them from after `term`.
fn follow_on(before: LogPosition, entries: &[Entry], term: u64) -> bool {
    // Only the beginning of all logs is in term 0. Raft takes term 0 for that of any index that it does not have.
    if (before.index == 0) != (before.term == 0) || before.term > term {
        return false;
    }
    let mut last = before;
    entries.iter().all(|entry| {
        let follows = entry.index == last.index + 1 && (last.term.max(1)..=term).contains(&entry.term);
        last = LogPosition { index: entry.index, term: entry.term };
        follows
    })
}

/// Whether this can be the configuration of a group, and of one that this member is in.
pub(super) fn is_sound(conf_state: &ConfState, member: Option<MemberId>) -> bool {
    let ConfState { voters, learners, voters_outgoing, learners_next, auto_leave, .. } = conf_state;
    let set = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<u64>>();
    let lists = [voters, learners, voters_outgoing, learners_next];
    let distinct = lists.into_iter().all(|ids| set(ids).len() == ids.len() && !ids.contains(&0));
    let [voters, learners, outgoing, next] = lists.map(|ids| set(ids));
    let named = |id: u64| voters.contains(&id) || learners.contains(&id) || outgoing.contains(&id);
    distinct
        && !voters.is_empty()
        && learners.is_disjoint(&voters)
        && learners.is_disjoint(&outgoing)
        && next.is_disjoint(&voters)
        && next.is_subset(&outgoing)
        // Raft would leave such a configuration by an entry of a kind that no log here may hold.
        && !auto_leave
        && member.is_none_or(|member| named(member.get()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(positions: &[(u64, u64)]) -> Vec<Entry> {
        positions.iter().map(|(index, term)| Entry { index: *index, term: *term, ..Entry::default() }).collect()
    }

    fn at(index: u64, term: u64) -> LogPosition {
        LogPosition { index, term }
    }

    #[test]
    fn entries_follow_on_without_gaps_and_their_terms_never_fall() {
        assert!(follow_on(at(4, 2), &entries(&[(5, 2), (6, 3)]), 3));
        assert!(follow_on(at(0, 0), &entries(&[(1, 1)]), 1));
        assert!(follow_on(at(4, 2), &[], 2));
        for (before, rest, term) in [
            (at(4, 2), vec![(6, 2)], 2),
            (at(4, 2), vec![(5, 2), (5, 2)], 2),
            (at(4, 2), vec![(5, 1)], 2),
            (at(4, 2), vec![(5, 3)], 2),
            (at(4, 3), vec![], 2),
            (at(9, 0), vec![], 2),
            (at(0, 1), vec![], 2),
            (at(0, 0), vec![(1, 0)], 2),
        ] {
            assert!(!follow_on(before, &entries(&rest), term), "{before:?} {rest:?} {term}");
        }
    }

    #[test]
    fn a_configuration_names_each_member_once_and_has_a_voter() {
        let conf_state = |voters: &[u64], learners: &[u64]| ConfState {
            voters: voters.to_vec(),
            learners: learners.to_vec(),
            ..ConfState::default()
        };
        let member = MemberId::new(1);
        assert!(is_sound(&conf_state(&[1, 2, 3], &[4]), member));
        assert!(is_sound(&conf_state(&[2], &[1]), member));
        for (voters, learners) in
            [(vec![], vec![1]), (vec![1, 1], vec![]), (vec![1, 0], vec![]), (vec![1], vec![1]), (vec![2], vec![])]
        {
            assert!(!is_sound(&conf_state(&voters, &learners), member), "{voters:?} {learners:?}");
        }
        let joint = ConfState { voters_outgoing: vec![1, 2], learners_next: vec![2], ..conf_state(&[1, 3], &[]) };
        assert!(is_sound(&joint, member));
        assert!(!is_sound(&ConfState { auto_leave: true, ..conf_state(&[1], &[]) }, member));
        assert!(!is_sound(&ConfState { auto_leave: true, ..joint }, member));
    }
}
