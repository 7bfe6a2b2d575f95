//! Keys of an overlay: they carry their first bytes beside the rest, so that most comparisons look at nothing else. A tree
//! of many thousand keys is not in the processor's cache; what a key points at would be a miss for each comparison.

use std::borrow::Borrow;
use std::cmp::Ordering;

use bytes::Bytes;

/// A key, and its beginning.
#[derive(Debug, Clone)]
pub(super) struct OverlayKey {
    beginning: u128,
    bytes: Bytes,
}

/// What a key is looked up by.
pub(super) trait Lookup {
    /// The first 16 bytes, filled up with zeroes: of two keys whose beginnings differ, the one with the lower is the lower.
    fn beginning(&self) -> u128;
    /// All bytes.
    fn bytes(&self) -> &[u8];
}

/// Bytes that are looked up.
pub(super) struct Wanted<'a> {
    beginning: u128,
    bytes: &'a [u8],
}

fn beginning_of(bytes: &[u8]) -> u128 {
    let mut beginning = [0; 16];
    let length = bytes.len().min(16);
    beginning[..length].copy_from_slice(&bytes[..length]);
    u128::from_be_bytes(beginning)
}

impl OverlayKey {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self { beginning: beginning_of(&bytes), bytes }
    }

    pub(super) fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl<'a> Wanted<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { beginning: beginning_of(bytes), bytes }
    }
}

impl Lookup for OverlayKey {
    fn beginning(&self) -> u128 {
        self.beginning
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Lookup for Wanted<'_> {
    fn beginning(&self) -> u128 {
        self.beginning
    }

    fn bytes(&self) -> &[u8] {
        self.bytes
    }
}

fn compare<A: Lookup + ?Sized, B: Lookup + ?Sized>(a: &A, b: &B) -> Ordering {
    a.beginning().cmp(&b.beginning()).then_with(|| a.bytes().cmp(b.bytes()))
}

impl Ord for OverlayKey {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(self, other)
    }
}

impl PartialOrd for OverlayKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for OverlayKey {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for OverlayKey {}

impl<'a> Borrow<dyn Lookup + 'a> for OverlayKey {
    fn borrow(&self) -> &(dyn Lookup + 'a) {
        self
    }
}

impl Ord for dyn Lookup + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(self, other)
    }
}

impl PartialOrd for dyn Lookup + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for dyn Lookup + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for dyn Lookup + '_ {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys() -> impl Strategy<Value = Vec<u8>> {
        // Few different bytes, zero among them, and lengths on both sides of what a beginning holds.
        prop::collection::vec(prop::sample::select(vec![0_u8, 1, 255]), 0..20)
    }

    proptest! {
        #[test]
        fn keys_stand_in_the_order_of_their_bytes(a in keys(), b in keys()) {
            let (key, other) = (OverlayKey::new(a.clone().into()), OverlayKey::new(b.clone().into()));
            prop_assert_eq!(key.cmp(&other), a.cmp(&b));
            let (key, wanted): (&dyn Lookup, &dyn Lookup) = (&key, &Wanted::new(&b));
            prop_assert_eq!(key.cmp(wanted), a.cmp(&b));
        }
    }
}
