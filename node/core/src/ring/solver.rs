//! Placement: which members hold which partition. A pure function of the previous assignments and the members.

use crate::id::MemberId;

/// A member that may hold replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its identity; its tokens on the ring follow from it.
    pub id: MemberId,
    /// Its zone; members with the same zone (also the empty one) share a fate.
    pub zone: String,
    /// Its share relative to others, at least 1.
    pub weight: u32,
}

/// Who holds each partition, and who should lead it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// For each partition its members, in the ring's order of preference.
    pub replicas: Vec<Vec<MemberId>>,
    /// For each partition the member that should lead it.
    pub leaders: Vec<MemberId>,
}

/// Places every partition on `replication_factor` members, moving as little as possible from `previous` (an empty list
/// for a partition that nobody holds yet).
pub fn place(previous: &[Vec<MemberId>], candidates: &[Candidate], replication_factor: usize) -> Placement {
    let _ = (previous, candidates, replication_factor);
    unimplemented!()
}

/// Up to `most` members (an odd number, or all that there are), spread over as many zones as possible.
pub fn spread(candidates: &[Candidate], most: usize) -> Vec<MemberId> {
    let _ = (candidates, most);
    unimplemented!()
}
