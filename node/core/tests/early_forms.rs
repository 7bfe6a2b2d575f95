//! What an earlier build wrote is still read. `fixtures/` holds one value of each older form, as that build wrote it; the
//! forms are in `docs/storage.md`, and whole volumes in the fixtures of `annulus-node`.

use annulus_core::id::{ClusterId, GroupId, MemberId};
use annulus_core::lane::LogPosition;
use annulus_core::map::{Map, Member, MemberState};
use annulus_core::replica::{Configuration, GroupRecord};
use bytes::Bytes;
use raft::eraftpb::ConfState;

#[test]
fn a_map_of_version_1_is_one_in_which_nothing_moves() {
    let bytes = include_bytes!("fixtures/map-1");
    assert_eq!(bytes[0], 1, "it is of version 1");
    let members = (1..=4u64).map(|number| Member {
        id: MemberId::new(number).expect("not 0"),
        name: format!("m{number}"),
        zone: format!("z{}", number % 2),
        weight: 100 * u32::try_from(number).expect("a small number"),
        state: match number {
            3 => MemberState::Joining,
            4 => MemberState::Leaving,
            _ => MemberState::Active,
        },
        client_address: format!("m{number}:7070"),
        peer_address: format!("m{number}:7270"),
        admin_address: format!("m{number}:7170"),
    });
    let expected =
        Map::bootstrap(ClusterId(*b"an early cluster"), 4, 3, members.collect()).expect("members that can be");
    let map = Map::decode(Bytes::from_static(bytes)).expect("a map of version 1");
    assert_eq!(map, expected);
    assert_eq!(map.map_target, map.map_voters);
    assert_eq!(map.groups_astray().collect::<Vec<GroupId>>(), []);
    assert_eq!(Map::decode(map.encode()), Ok(map), "it is written as the newest version");
}

#[test]
fn a_groups_record_of_version_1_was_decided_under_no_map() {
    let bytes = include_bytes!("fixtures/group-1");
    assert_eq!(bytes[0], 1, "it is of version 1");
    let record = GroupRecord::decode(Bytes::from_static(bytes)).expect("a record of version 1");
    let state = ConfState { voters: vec![1, 2, 3], learners: vec![4], ..ConfState::default() };
    let applied = LogPosition { index: 40, term: 3 };
    let configuration = Configuration { state, epoch: 0 };
    assert_eq!(record, GroupRecord { generation: 2, applied, configuration, tombstone: None });
}
