//! Entries one after the other, as a leader that means harm might propose them: locks, fences and transactions in every order.
//! Whatever they say, each can be applied, the records agree with each other, and the partition that is made anew from its
//! records is the one that was there.

#![no_main]

use annulus_core::id::GroupId;
use annulus_core::partition::{Entry, Partition};
use annulus_core::state::{MemoryState, TableId};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

const TABLE: TableId = TableId { group: GroupId(1), generation: 1 };
/// Each entry is preceded by its length, as two bytes.
const LENGTH_BYTES: usize = 2;

fuzz_target!(|bytes: &[u8]| {
    let mut state = MemoryState::default();
    let mut partition = Partition::load(&state, TABLE).expect("an empty state can be read");
    let mut rest = bytes;
    for index in 1.. {
        let Some((length, after)) = rest.split_first_chunk::<LENGTH_BYTES>() else { break };
        let length = usize::from(u16::from_be_bytes(*length)).min(after.len());
        let (entry, after) = after.split_at(length);
        rest = after;
        let entry = Bytes::copy_from_slice(entry);
        if Entry::decode(entry.clone()).is_err() {
            continue;
        }
        partition.apply(&mut state, index, entry).expect("what can be read can be applied");
        partition.check(&state).expect("a state in memory can be read");
        let again = Partition::load(&state, TABLE).expect("what was written can be read");
        assert_eq!((again.open_count(), again.clock_ms()), (partition.open_count(), partition.clock_ms()));
    }
});
