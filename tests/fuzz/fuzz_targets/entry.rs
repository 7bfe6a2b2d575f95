//! A partition's log entry and a group's record: any bytes are read or refused. What can be read can be applied.

#![no_main]

use annulus_core::id::GroupId;
use annulus_core::partition::{Entry, Partition};
use annulus_core::replica::GroupRecord;
use annulus_core::state::{MemoryState, TableId};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

const TABLE: TableId = TableId { group: GroupId(1), generation: 1 };

fuzz_target!(|bytes: &[u8]| {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok(record) = GroupRecord::decode(bytes.clone()) {
        assert_eq!(GroupRecord::decode(record.encode()), Ok(record));
    }
    let Ok(entry) = Entry::decode(bytes.clone()) else { return };
    assert_eq!(Entry::decode(entry.encode()), Ok(entry));
    let mut state = MemoryState::default();
    let mut partition = Partition::load(&state, TABLE).expect("an empty state can be read");
    for index in 2..4 {
        partition.apply(&mut state, index, bytes.clone()).expect("what can be read can be applied");
        partition.check(&state).expect("a state in memory can be read");
    }
});
