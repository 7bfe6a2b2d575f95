//! A list in JSON that is counted to its end and kept only as far as it may go, so that a body of many small things takes no
//! more memory than one that is allowed.

use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// A list of which no more than `MOST` items are kept.
pub(super) struct Few<T, const MOST: usize> {
    pub(super) items: Vec<T>,
    /// How many there were.
    pub(super) count: usize,
}

impl<T, const MOST: usize> Default for Few<T, MOST> {
    fn default() -> Self {
        Self { items: Vec::new(), count: 0 }
    }
}

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for Few<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_seq(FewVisitor(Self::default()))
    }
}

struct FewVisitor<T, const MOST: usize>(Few<T, MOST>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for FewVisitor<T, MOST> {
    type Value = Few<T, MOST>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let Self(mut few) = self;
        while let Some(item) = seq.next_element()? {
            few.count += 1;
            if few.items.len() < MOST {
                few.items.push(item);
            }
        }
        Ok(few)
    }
}
