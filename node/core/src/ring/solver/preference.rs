//! The ring of tokens: which members a partition prefers.
//!
//! Each member has [`TOKENS`] tokens on the ring. Walking clockwise from a partition's first position, the members in
//! the order in which their first token comes are the partition's preference. It decides between placements that are
//! equally good otherwise, so that what one partition gets does not depend on how members happen to be numbered.

use sha2::{Digest, Sha256};

use crate::id::MemberId;
use crate::ring::first_eight;

/// Tokens of each member. Quotas make the balance, so this only has to mix the order.
const TOKENS: usize = 64;

/// A member's token: the first 8 bytes, big-endian, of SHA-256(member id as 8 bytes big-endian ‖ number as 4 bytes
/// big-endian).
pub(super) fn token(member: MemberId, number: u32) -> u64 {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&member.get().to_be_bytes());
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    first_eight(&Sha256::digest(bytes))
}

/// The tokens of all members, in ring order.
pub(super) struct Ring {
    /// The member that each token belongs to.
    owners: Vec<usize>,
    /// For each member the places of its tokens in `owners`, rising: `TOKENS` of them.
    places: Vec<usize>,
    /// For each partition the place of the first token at or after its first position.
    starts: Vec<usize>,
}

impl Ring {
    pub(super) fn new(members: &[MemberId], partitions: usize) -> Self {
        assert!(partitions.is_power_of_two(), "partitions must be a power of two");
        let mut tokens: Vec<(u64, usize)> = Vec::with_capacity(members.len() * TOKENS);
        for (member, id) in members.iter().enumerate() {
            tokens.extend((0..TOKENS as u32).map(|number| (token(*id, number), member)));
        }
        tokens.sort_unstable();
        let mut places = vec![0; tokens.len()];
        let mut found = vec![0; members.len()];
        for (place, (_, member)) in tokens.iter().enumerate() {
            places[member * TOKENS + found[*member]] = place;
            found[*member] += 1;
        }
        let starts = (0..partitions as u64)
            .map(|partition| {
                // Shifting by 64 is not allowed: the only partition starts at 0.
                let position = partition.checked_shl(64 - partitions.trailing_zeros()).unwrap_or(0);
                tokens.partition_point(|(token, _)| *token < position) % tokens.len()
            })
            .collect();
        Self { owners: tokens.into_iter().map(|(_, member)| member).collect(), places, starts }
    }

    /// How far from the partition's start the member's first token is: the lower, the more it is preferred. No two
    /// members have the same rank.
    pub(super) fn rank(&self, partition: usize, member: usize) -> usize {
        let places = &self.places[member * TOKENS..(member + 1) * TOKENS];
        let start = self.starts[partition];
        let next = places.partition_point(|place| *place < start);
        places.get(next).map_or_else(|| places[0] + self.owners.len() - start, |place| place - start)
    }
}

/// A walk around the ring that passes over members once they are closed. A closed member stays closed, so its tokens
/// can be skipped for good and a walk is short even when few members are left.
pub(super) struct OpenRing<'a> {
    ring: &'a Ring,
    /// For each token itself while its member is open, else a later one; shortened as it is followed.
    next: Vec<usize>,
    open: usize,
}

impl<'a> OpenRing<'a> {
    /// All members open.
    pub(super) fn new(ring: &'a Ring) -> Self {
        Self { ring, next: (0..ring.owners.len()).collect(), open: ring.owners.len() / TOKENS }
    }

    /// Passes over this member, which was open, from now on.
    pub(super) fn close(&mut self, member: usize) {
        for place in &self.ring.places[member * TOKENS..(member + 1) * TOKENS] {
            self.next[*place] = (place + 1) % self.next.len();
        }
        self.open -= 1;
    }

    /// The partition's most preferred open member of which `fits` is true.
    pub(super) fn first(&mut self, partition: usize, fits: impl Fn(usize) -> bool) -> Option<usize> {
        if self.open == 0 {
            return None;
        }
        let (start, tokens) = (self.ring.starts[partition], self.next.len());
        let mut walked = 0;
        loop {
            let place = self.find((start + walked) % tokens);
            let distance = (place + tokens - start) % tokens;
            if distance < walked {
                return None;
            }
            let member = self.ring.owners[place];
            if fits(member) {
                return Some(member);
            }
            walked = distance + 1;
            if walked == tokens {
                return None;
            }
        }
    }

    fn find(&mut self, mut place: usize) -> usize {
        while self.next[place] != place {
            let after = self.next[self.next[place]];
            self.next[place] = after;
            place = after;
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(count: u64) -> Vec<MemberId> {
        (1..=count).map(|id| MemberId::new(id).unwrap()).collect()
    }

    #[test]
    fn a_token_is_the_start_of_the_sha256_of_the_id_and_its_number() {
        // printf '\0\0\0\0\0\0\0\1\0\0\0\2' | sha256sum
        assert_eq!(token(MemberId::new(1).unwrap(), 2), 0x9b8d_df1e_f739_bf7b);
    }

    #[test]
    fn walking_the_ring_meets_the_members_by_rising_rank() {
        let ring = Ring::new(&members(20), 16);
        for partition in 0..16 {
            let mut open = OpenRing::new(&ring);
            let mut met = Vec::new();
            while let Some(member) = open.first(partition, |_| true) {
                open.close(member);
                met.push(ring.rank(partition, member));
            }
            assert_eq!(met.len(), 20);
            assert!(met.is_sorted_by(|a, b| a < b));
        }
    }

    #[test]
    fn a_walk_that_nobody_fits_ends() {
        let ring = Ring::new(&members(3), 1);
        let mut open = OpenRing::new(&ring);
        assert_eq!(open.first(0, |_| false), None);
        open.close(1);
        assert_eq!(open.first(0, |member| member == 1), None);
        assert_eq!(open.first(0, |member| member == 2), Some(2));
    }
}
