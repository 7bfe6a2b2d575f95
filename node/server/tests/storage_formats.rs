//! A small volume that an earlier build wrote is still read, byte for byte as `docs/storage.md` says: one of each version.
//!
//! `ANNULUS_WRITE_FIXTURES=1 cargo test -p annulus-node --test storage_formats` writes the volume of the current
//! version (2) anew. Do so only before that version is released; a later form gets a version and a folder of its own.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use annulus_core::id::{ClusterId, GroupId, MemberId, PartitionId};
use annulus_core::lane::{GroupWrite, Installed, LogPosition, Staged};
use annulus_core::map::change::{self, Change, Reason};
use annulus_core::map::machine::Machine;
use annulus_core::map::{Assignment, Map, Member, MemberState, Move};
use annulus_core::partition::{self, Command};
use annulus_core::replica::{Configuration, Configure, GroupRecord, Step, Tombstone};
use annulus_core::state::{State, TableId};
use annulus_node::storage::{Directory, Disk, Identity, IdentityFile, OpenedLane, Options, open_lane};
use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, HardState};

/// Version of what a round writes: the newest of the forms in a volume.
const VERSION: u8 = 2;
const OPTIONS: Options = Options { cache_bytes: 1 << 20, wal_step_bytes: 1024, wal_spares: 0 };
const TABLE: TableId = TableId { group: GroupId(7), generation: 2 };

fn fixture(version: u8) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/v{version}"))
}

fn identity() -> Identity {
    let mut identity = Identity::new(MemberId::new(0x0123_4567_89ab_cdef).unwrap(), "node-1".to_owned(), 1);
    identity.cluster = Some(ClusterId(*b"0123456789abcdef"));
    identity
}

/// One of everything that a round can write, in this version. Version 1 had no dropped replicas, no epoch beside a
/// configuration, and none of the entries by which maps and configurations change.
fn everything(version: u8) -> Vec<GroupWrite> {
    let mut write = GroupWrite::new(GroupId(7));
    let position = LogPosition { index: 40, term: 3 };
    write.staged.push(Staged {
        generation: 2,
        first: true,
        records: vec![(Bytes::from_static(b"key"), Bytes::from_static(b"staged"))],
    });
    let state = ConfState { voters: vec![1, 2, 3], learners: vec![4], ..ConfState::default() };
    let epoch = if version == 1 { 0 } else { 9 };
    write.installed = Some(Installed { generation: 2, position, configuration: Configuration { state, epoch } });
    write.log_start = Some(position);
    write.hard_state = Some(HardState { term: 3, vote: 2, commit: 40, ..HardState::default() });
    write.entries.push(Entry { index: 41, term: 3, data: Bytes::from_static(b"entry"), ..Entry::default() });
    if version == 1 {
        return vec![write];
    }
    let mut dropped = GroupWrite::new(GroupId(8));
    dropped.dropped = Some(Tombstone { term: 5, vote: 2 });
    let mut map = GroupWrite::new(GroupId::MAP);
    for (entry, index) in map_entries().into_iter().zip(2..) {
        map.entries.push(Entry { index, term: 1, data: entry.encode(), ..Entry::default() });
    }
    let step = Step::Swap { add: MemberId::new(4), remove: MemberId::new(3) };
    let configure = Command::Configure(Configure { epoch: 9, step });
    let data = partition::Entry { clock_ms: 77, command: configure }.encode();
    write.entries.push(Entry { index: 42, term: 3, data, ..Entry::default() });
    vec![write, dropped, map]
}

fn members() -> Vec<Member> {
    let states = [MemberState::Active, MemberState::Draining, MemberState::Leaving, MemberState::Joining];
    let members = states.into_iter().zip(1..).map(|(state, number)| Member {
        id: MemberId::new(number).unwrap(),
        name: format!("node-{number}"),
        zone: format!("zone-{}", number % 2),
        weight: 100,
        state,
        client_address: format!("node-{number}:7070"),
        peer_address: format!("node-{number}:7270"),
        admin_address: format!("node-{number}:7170"),
    });
    members.collect()
}

/// A map with everything in it that version 2 knows.
fn map() -> Map {
    let cluster = ClusterId(*b"0123456789abcdef");
    let id = |number| MemberId::new(number).unwrap();
    let mut map = Map::bootstrap(cluster, 2, 2, members()).unwrap();
    let assignment = |replicas: [u64; 2]| Assignment { replicas: replicas.map(id).to_vec(), leader: id(replicas[0]) };
    map.assignments = vec![assignment([1, 2]), assignment([3, 1])];
    map.map_voters = vec![id(1), id(2), id(3)];
    (map.epoch, map.fence) = (9, 4);
    map.targets = BTreeMap::from([(PartitionId(1), assignment([4, 1]))]);
    map.map_target = vec![id(1), id(2), id(4)];
    let moving = Move { add: Some(id(4)), remove: Some(id(3)), cancelled: true, epoch: 8 };
    map.moves = BTreeMap::from([(GroupId(2), moving)]);
    map
}

/// One of each entry of the map group.
fn map_entries() -> Vec<change::Entry> {
    let after = map();
    let before = Map { epoch: 8, targets: BTreeMap::new(), moves: BTreeMap::new(), fence: 3, ..after.clone() };
    let told = Reason::Moves { started: 1, finished: 2, cancelled: 3, message: "node-4 is active".to_owned() };
    let mut change = Change::between(&before, &after, told, 1_700_000_000_000).unwrap();
    change.members = Some(after.members.clone());
    change.map_voters = Some(after.map_voters.clone());
    change.map_target = Some(after.map_target.clone());
    change.assignments = vec![(PartitionId(0), after.assignments[0].clone())];
    change.targets.push((PartitionId(0), None));
    change.moves.push((GroupId(1), None));
    let configure = |step| change::Entry::Configure(Configure { epoch: 9, step });
    let four = MemberId::new(4).unwrap();
    vec![
        change::Entry::Change(change),
        configure(Step::Fence),
        configure(Step::AddLearner(four)),
        configure(Step::RemoveLearner(four)),
        configure(Step::LeaveJoint),
    ]
}

/// The records of the map group, and what the lane knows of a group that it has and of one that it had.
fn core_records() -> Vec<(TableId, Bytes, Bytes)> {
    let table = TableId { group: GroupId::MAP, generation: 1 };
    let first = Machine::first_records(&map()).into_iter().map(|(key, value)| (table, key, value));
    let state = ConfState { voters: vec![1, 2, 3], learners: vec![4], ..ConfState::default() };
    let applied = LogPosition { index: 40, term: 3 };
    let configuration = Configuration { state, epoch: 9 };
    let here = GroupRecord { generation: 2, applied, configuration, tombstone: None };
    let gone = GroupRecord { generation: 1, tombstone: Some(Tombstone { term: 5, vote: 2 }), ..GroupRecord::default() };
    let groups = [(GroupId(7), here), (GroupId(8), gone)];
    let groups = groups.into_iter().map(|(group, record)| (TableId::GROUPS, GroupRecord::key(group), record.encode()));
    first.chain(groups).collect()
}

fn records() -> Vec<(Vec<u8>, Vec<u8>)> {
    (0..50u8).map(|place| (vec![b'k', place], vec![place; usize::from(place)])).collect()
}

fn write_volume(root: &Path) {
    let disk: Arc<dyn Disk> = Arc::new(Directory::open(root).unwrap());
    let identity = IdentityFile::create(Arc::clone(&disk), identity()).unwrap();
    let mut lane = open_lane(&disk, 0, None, &OPTIONS).unwrap();
    for (key, value) in records() {
        lane.state.put(TABLE, key.into(), value.into());
    }
    for (table, key, value) in core_records() {
        lane.state.put(table, key, value);
    }
    let segment = lane.wal.rotate(&everything(VERSION)).unwrap();
    let frozen = lane.state.freeze().unwrap();
    let checkpointed = lane.checkpointer.write(frozen, segment).unwrap();
    identity.set_mark(0, lane.wal.mark(&checkpointed)).unwrap();
    lane.state.checkpointed(checkpointed);
    lane.wal.drop_before(segment).unwrap();
    lane.wal.append(&everything(VERSION)).unwrap();
    lane.wal.append(&[]).unwrap();
    lane.wal.sync().unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// What is on the volume of a version, at this place.
fn read_back(version: u8, root: &Path) -> OpenedLane {
    copy(&fixture(version), root);
    let disk: Arc<dyn Disk> = Arc::new(Directory::open(root).unwrap());
    let found = IdentityFile::open(Arc::clone(&disk)).unwrap().expect("the volume has an identity").get();
    let mark = found.marks[0].expect("the lane has a mark");
    assert_eq!(Identity { marks: vec![None], ..found }, identity());
    let lane = open_lane(&disk, 0, Some(mark), &OPTIONS).unwrap();
    assert_eq!(lane.replay, [everything(version), everything(version), Vec::new()]);
    assert_eq!(table(&lane, TABLE), records());
    lane
}

fn table(lane: &OpenedLane, table: TableId) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    let mut visit = |key: &[u8], value: &[u8]| {
        found.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    };
    lane.state.range(table, b"", None, &mut visit).unwrap();
    found
}

#[test]
fn a_volume_of_version_1_is_read_back() {
    read_back(1, tempfile::tempdir().unwrap().path());
}

#[test]
fn a_volume_of_version_2_is_read_back() {
    let scratch = tempfile::tempdir().unwrap();
    if std::env::var_os("ANNULUS_WRITE_FIXTURES").is_some() {
        write_volume(scratch.path());
        fs::remove_file(scratch.path().join("lock")).unwrap();
        let _ = fs::remove_dir_all(fixture(VERSION));
        copy(scratch.path(), &fixture(VERSION));
    }
    let lane = read_back(VERSION, scratch.path());
    for (found_in, key, value) in core_records() {
        assert_eq!(lane.state.get(found_in, &key).unwrap(), Some(value), "{found_in:?} {key:?}");
    }
    let machine = Machine::load(&lane.state, TableId { group: GroupId::MAP, generation: 1 }).unwrap();
    assert_eq!(machine.map().map(|found| Map::clone(found)), Some(map()));
    assert_eq!(machine.events(&lane.state).unwrap().len(), 1);
    let entries = lane.replay[0][2].entries.iter().map(|entry| change::Entry::decode(entry.data.clone()).unwrap());
    assert_eq!(entries.collect::<Vec<_>>(), map_entries());
}

#[test]
fn the_files_that_are_written_today_are_the_fixture() {
    let scratch = tempfile::tempdir().unwrap();
    write_volume(scratch.path());
    for name in ["identity", "lane-0/wal-0000000000000002"] {
        let written = fs::read(scratch.path().join(name)).unwrap();
        let kept = fs::read(fixture(VERSION).join(name)).unwrap();
        assert!(written == kept, "{name} is not as version {VERSION} wrote it: a new form needs a new version");
    }
}
