//! The consistent-hash ring: where a key lies, and which members hold which arc.
//!
//! `position(key)` is the first 8 bytes of SHA-256(key), big-endian. The ring is cut into P equal arcs, the partitions;
//! P is a power of two and never changes, so a key's partition is the top log2(P) bits of its position. Which members
//! hold a partition is decided by the [`solver`], a pure function. Nothing here knows the map or the network.

pub mod solver;

use sha2::{Digest, Sha256};

use crate::id::PartitionId;

/// Where a key lies on the ring.
pub fn position(key: &[u8]) -> u64 {
    first_eight(&Sha256::digest(key))
}

/// The partition, of this many (a power of two), that a key lies in.
pub fn partition_of(key: &[u8], partitions: u32) -> PartitionId {
    assert!(partitions.is_power_of_two(), "partitions must be a power of two");
    // Shifting by 64 is not allowed, and with one partition there is nothing to tell apart.
    let partition = position(key).checked_shr(64 - partitions.trailing_zeros()).unwrap_or(0);
    PartitionId(u32::try_from(partition).expect("fewer than 2^32 partitions"))
}

pub(crate) fn first_eight(digest: &[u8]) -> u64 {
    let bytes: [u8; 8] = digest[..8].try_into().expect("a SHA-256 digest has 32 bytes");
    u64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_lies_where_the_first_eight_bytes_of_its_sha256_say() {
        // printf a | sha256sum: ca978112ca1bbdca…
        assert_eq!(position(b"a"), 0xca97_8112_ca1b_bdca);
        assert_eq!(partition_of(b"a", 128), PartitionId(0xca >> 1));
        assert_eq!(partition_of(b"a", 1), PartitionId(0));
    }
}
