//! The place in a listing where the next page begins, as the client carries it.
//!
//! ```text
//! base64url, no padding:  1 byte version = 1 │ 8 bytes checksum │ the last name given
//! checksum = first 8 bytes of SHA-256(listing ‖ cluster ‖ length of prefix (8 bytes, little-endian) ‖ prefix ‖ name)
//! ```
//!
//! The checksum is no secret: it finds mistakes, such as a cursor of another store, another listing or prefix, or one cut
//! short.

use annulus_core::id::ClusterId;
use annulus_core::partition::MAX_KEY_BYTES;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::problem::{Kind, Problem};

const VERSION: u8 = 1;

/// The cursor of a page that ended with this name.
pub(super) fn write(listing: &str, cluster: ClusterId, prefix: &[u8], last: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(9 + last.len());
    bytes.push(VERSION);
    bytes.extend_from_slice(&checksum(listing, cluster, prefix, last));
    bytes.extend_from_slice(last);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The name after which the page of this cursor begins.
pub(super) fn read(listing: &str, cluster: ClusterId, prefix: &[u8], cursor: &str) -> Result<Bytes, Problem> {
    let last = URL_SAFE_NO_PAD.decode(cursor).ok().and_then(|bytes| {
        let (version, rest) = bytes.split_first()?;
        let (sum, last) = rest.split_at_checked(8)?;
        let ours = *version == VERSION && sum == checksum(listing, cluster, prefix, last);
        let fits = (1..=MAX_KEY_BYTES).contains(&last.len()) && last.starts_with(prefix);
        (ours && fits).then(|| Bytes::copy_from_slice(last))
    });
    last.ok_or_else(|| {
        let detail = "`cursor` is not one that this store gave out for this prefix; begin again without a cursor";
        Problem::new(Kind::InvalidCursor, detail).with("parameter", "cursor")
    })
}

fn checksum(listing: &str, cluster: ClusterId, prefix: &[u8], last: &[u8]) -> [u8; 8] {
    let mut hash = Sha256::new();
    hash.update(listing);
    hash.update(cluster.0);
    hash.update((prefix.len() as u64).to_le_bytes());
    hash.update(prefix);
    hash.update(last);
    hash.finalize()[..8].try_into().expect("a SHA-256 digest has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId([7; 16]);
    const KEYS: &str = "annulus cursor";

    #[test]
    fn a_cursor_is_read_back_as_it_was_written() {
        for last in [&b"a/1"[..], b"a/", &[b"a/".to_vec(), vec![0xff; 4094]].concat()] {
            let cursor = write(KEYS, CLUSTER, b"a/", last);
            assert_eq!(read(KEYS, CLUSTER, b"a/", &cursor).unwrap(), last);
        }
    }

    #[test]
    fn a_cursor_that_is_forged_cut_short_or_of_elsewhere_is_refused() {
        let cursor = write(KEYS, CLUSTER, b"a/", b"a/1");
        assert!(read(KEYS, CLUSTER, b"a", &cursor).is_err(), "another prefix");
        assert!(read(KEYS, CLUSTER, b"", &cursor).is_err(), "no prefix");
        assert!(read(KEYS, ClusterId([8; 16]), b"a/", &cursor).is_err(), "another store");
        assert!(read("annulus lock cursor", CLUSTER, b"a/", &cursor).is_err(), "another listing");
        assert!(read(KEYS, CLUSTER, b"a/", &write(KEYS, CLUSTER, b"a/", b"b/1")).is_err(), "a key outside the prefix");
        assert!(read(KEYS, CLUSTER, b"", &write(KEYS, CLUSTER, b"", b"")).is_err(), "no key");
        for at in 0..cursor.len() {
            let mut forged = cursor.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).unwrap();
            assert!(read(KEYS, CLUSTER, b"a/", &forged).is_err(), "{forged}");
            assert!(read(KEYS, CLUSTER, b"a/", &cursor[..at]).is_err(), "{at}");
        }
        assert!(read(KEYS, CLUSTER, b"a/", "not base64!").is_err());
    }
}
