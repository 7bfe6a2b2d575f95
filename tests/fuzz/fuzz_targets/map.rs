//! A map, and an entry of the map group: any bytes are read or refused. What can be read keeps the rules of a map, and can be
//! applied.

#![no_main]

use annulus_core::id::{ClusterId, GroupId, MemberId};
use annulus_core::map::change::Entry;
use annulus_core::map::machine::Machine;
use annulus_core::map::{Map, Member, MemberState, RECORD_KEY};
use annulus_core::state::{MemoryState, State, TableId};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

const TABLE: TableId = TableId { group: GroupId::MAP, generation: 1 };

fn first_map() -> Map {
    let members = (1..=4).map(|number| Member {
        id: MemberId::new(number).expect("not 0"),
        name: format!("m{number}"),
        zone: String::new(),
        weight: 100,
        state: MemberState::Active,
        client_address: format!("m{number}:1"),
        peer_address: format!("m{number}:2"),
        admin_address: format!("m{number}:3"),
    });
    Map::bootstrap(ClusterId([7; 16]), 2, 2, members.collect()).expect("members that can be")
}

fuzz_target!(|bytes: &[u8]| {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok(map) = Map::decode(bytes.clone()) {
        map.check();
        assert_eq!(Map::decode(map.encode()), Ok(map));
    }
    let mut state = MemoryState::default();
    state.put(TABLE, [&b"history/"[..], &7u64.to_be_bytes()].concat().into(), bytes.clone());
    let machine = Machine::load(&state, TABLE).expect("a table without a map");
    let _ = (machine.events(&state), machine.map_at(&state, 7));
    state.put(TABLE, Bytes::from_static(RECORD_KEY), bytes.clone());
    let _ = Machine::load(&state, TABLE);

    let Ok(entry) = Entry::decode(bytes) else { return };
    assert_eq!(Entry::decode(entry.encode()), Ok(entry.clone()));
    let Entry::Change(mut change) = entry else { return };
    let mut state = MemoryState::default();
    for (key, value) in Machine::first_records(&first_map()) {
        state.put(TABLE, key, value);
    }
    let mut machine = Machine::load(&state, TABLE).expect("records that were just made");
    change.base = 1;
    machine.apply(&mut state, &change).expect("a state in memory can be read");
    machine.check(&state).expect("a state in memory can be read");
});
