//! A lane as a whole against a model, and the volumes that must be refused.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use annulus_core::id::{ClusterId, GroupId, MemberId};
use annulus_core::state::{Error as StateError, MemoryState, State, TableId, View, Visit};
use bytes::Bytes;
use proptest::prelude::*;

use super::memory_disk::MemoryDisk;
use super::*;

const OPTIONS: Options = Options { cache_bytes: 1 << 20, wal_step_bytes: 1024, wal_spares: 2 };

fn as_disk(disk: &Arc<MemoryDisk>) -> Arc<dyn Disk> {
    Arc::clone(disk) as Arc<dyn Disk>
}

fn open(disk: &Arc<MemoryDisk>, mark: Option<Mark>) -> Result<OpenedLane> {
    open_lane(&as_disk(disk), 0, mark, &OPTIONS)
}

fn table(number: u8) -> TableId {
    TableId { group: GroupId(u32::from(number)), generation: 0 }
}

fn key(number: u8) -> Bytes {
    Bytes::from(format!("key-{number}"))
}

fn collect(range: impl FnOnce(Visit<'_>) -> std::result::Result<(), StateError>) -> Records {
    let mut records = Vec::new();
    range(&mut |key, value| {
        records.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    })
    .unwrap();
    records
}

type Records = Vec<(Vec<u8>, Vec<u8>)>;

fn all(state: &dyn State, table: TableId) -> Records {
    collect(|visit| state.range(table, b"", None, visit))
}

/// Rotates, freezes, writes and takes over, as a lane does.
fn checkpoint(lane: &mut OpenedLane) -> Mark {
    let segment = lane.wal.rotate(&[]).unwrap();
    let frozen = lane.state.freeze().unwrap();
    let checkpointed = lane.checkpointer.write(frozen, segment).unwrap();
    let mark = lane.wal.mark(&checkpointed);
    lane.state.checkpointed(checkpointed);
    lane.wal.drop_before(segment).unwrap();
    mark
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8, u8),
    Delete(u8, u8),
    Clear(u8),
    Freeze,
    Write,
    Checkpointed,
    View(u8),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let (tables, keys) = (0..3u8, 0..24u8);
    prop_oneof![
        20 => (tables.clone(), keys.clone(), any::<u8>()).prop_map(|(table, key, value)| Step::Put(table, key, value)),
        8 => (tables.clone(), keys).prop_map(|(table, key)| Step::Delete(table, key)),
        1 => tables.clone().prop_map(Step::Clear),
        2 => Just(Step::Freeze),
        2 => Just(Step::Write),
        2 => Just(Step::Checkpointed),
        2 => tables.prop_map(Step::View),
        1 => Just(Step::Reopen),
    ]
}

/// A lane beside a state in memory that does the same.
struct Pair {
    disk: Arc<MemoryDisk>,
    lane: OpenedLane,
    model: MemoryState,
    /// The model as of the last freeze, and as of the last checkpoint that is durable.
    frozen_model: MemoryState,
    durable_model: MemoryState,
    frozen: Option<(Frozen, Segment)>,
    written: Option<Checkpointed>,
    views: Vec<(Box<dyn View>, Records)>,
}

impl Pair {
    fn new() -> Self {
        let disk = Arc::new(MemoryDisk::default());
        let lane = open(&disk, None).unwrap();
        let model = MemoryState::default();
        let (frozen_model, durable_model) = (model.clone(), model.clone());
        Self { disk, lane, model, frozen_model, durable_model, frozen: None, written: None, views: Vec::new() }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Put(number, place, value) => {
                let value = Bytes::from(vec![value; usize::from(value)]);
                self.lane.state.put(table(number), key(place), value.clone());
                self.model.put(table(number), key(place), value);
            }
            Step::Delete(number, place) => {
                self.lane.state.delete(table(number), key(place));
                self.model.delete(table(number), key(place));
            }
            Step::Clear(number) => {
                self.lane.state.clear(table(number));
                self.model.clear(table(number));
            }
            Step::Freeze => {
                let segment = self.lane.wal.rotate(&[]).unwrap();
                let was_frozen = self.lane.state.is_frozen();
                match self.lane.state.freeze() {
                    None => assert!(was_frozen),
                    Some(frozen) => {
                        assert!(!was_frozen);
                        assert_eq!(self.lane.state.overlay_bytes(), 0);
                        self.frozen = Some((frozen, segment));
                        self.frozen_model = self.model.clone();
                    }
                }
            }
            Step::Write => {
                if let Some((frozen, segment)) = self.frozen.take() {
                    self.written = Some(self.lane.checkpointer.write(frozen, segment).unwrap());
                    self.durable_model = self.frozen_model.clone();
                }
            }
            Step::Checkpointed => {
                if let Some(written) = self.written.take() {
                    let segment = written.segment();
                    self.lane.state.checkpointed(written);
                    self.lane.wal.drop_before(segment).unwrap();
                }
            }
            Step::View(number) => {
                let view = self.lane.state.view(table(number)).unwrap();
                self.views.push((view, all(&self.model, table(number))));
            }
            Step::Reopen => {
                self.views.clear();
                (self.frozen, self.written) = (None, None);
                self.disk = self.disk.after_power_loss(&mut || false);
                self.lane = open(&self.disk, None).unwrap();
                self.model = self.durable_model.clone();
            }
        }
    }

    fn check(&self) {
        for number in 0..3 {
            let table = table(number);
            let expected = all(&self.model, table);
            assert_eq!(all(&self.lane.state, table), expected);
            let part = |state: &dyn State| collect(|visit| state.range(table, &key(13), Some(&key(7)), visit));
            assert_eq!(part(&self.lane.state), part(&self.model));
            for place in 0..24 {
                let (found, wanted) = (self.lane.state.get(table, &key(place)), self.model.get(table, &key(place)));
                assert_eq!(found, wanted);
            }
            let mut first = None;
            let visit: Visit<'_> = &mut |key, _| {
                assert_eq!(first.replace(key.to_vec()), None, "Break ends the walk");
                ControlFlow::Break(())
            };
            self.lane.state.range(table, b"", None, visit).unwrap();
            assert_eq!(first.as_ref(), expected.first().map(|(key, _)| key));
        }
        for (view, expected) in &self.views {
            assert_eq!(&collect(|visit| view.range(b"", visit)), expected, "a view does not move");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_lane_reads_like_a_map_through_freezes_checkpoints_and_restarts(
        steps in prop::collection::vec(step(), 1..120)
    ) {
        let mut pair = Pair::new();
        for step in steps {
            pair.step(step);
            pair.check();
        }
    }
}

#[test]
fn the_overlay_counts_its_bytes_exactly() {
    let mut lane = open(&Arc::new(MemoryDisk::default()), None).unwrap();
    let state = &mut lane.state;
    assert_eq!(state.overlay_bytes(), 0);
    state.put(table(1), key(1), Bytes::from_static(b"12345"));
    let one = state.overlay_bytes();
    state.put(table(1), key(1), Bytes::from_static(b"123"));
    assert_eq!(state.overlay_bytes(), one - 2);
    state.delete(table(1), key(1));
    assert_eq!(state.overlay_bytes(), one - 5);
    state.put(table(1), key(2), Bytes::from_static(b"12345"));
    state.clear(table(1));
    let cleared = state.overlay_bytes();
    state.put(table(1), key(1), Bytes::from_static(b"12345"));
    assert_eq!(state.overlay_bytes(), one);
    state.delete(table(1), key(1));
    assert_eq!(state.overlay_bytes(), cleared, "nothing lies below a cleared table, so no tombstone is kept");
}

#[test]
fn the_same_steps_make_the_same_files() {
    let run = || {
        let disk = Arc::new(MemoryDisk::default());
        let mut lane = open(&disk, None).unwrap();
        for turn in 0..20u32 {
            for place in 0..200u32 {
                let name = (place * 7919 + turn) % 1000;
                lane.state.put(table((place % 5) as u8), name.to_be_bytes().to_vec().into(), vec![7; 300].into());
            }
            checkpoint(&mut lane);
        }
        drop(lane);
        let names = disk.names();
        names.into_iter().map(|name| (name.clone(), disk.read(&name))).collect::<BTreeMap<_, _>>()
    };
    assert!(run() == run());
}

#[test]
fn a_lane_that_fell_behind_its_mark_must_not_vote() {
    let disk = Arc::new(MemoryDisk::default());
    let mut lane = open(&disk, None).unwrap();
    let early = disk.after_kill();
    lane.state.put(table(1), key(1), Bytes::from_static(b"value"));
    let mark = checkpoint(&mut lane);
    drop(lane);
    assert_eq!(open(&disk.after_kill(), Some(mark)).unwrap().mark, mark);

    // An older copy of both; of the redb file alone; of the WAL alone; each gone; all gone.
    let wal = "lane-0/wal-0000000000000002";
    let store = "lane-0/state.redb";
    let refused = |what: &str, disk: &Arc<MemoryDisk>| match open(disk, Some(mark)) {
        Err(Error::LostState { lane: 0, .. }) => {}
        other => panic!("{what}: {other:?}"),
    };
    refused("an older copy", &early);
    let older_store = disk.after_kill();
    older_store.write(store, early.read(store));
    refused("an older redb file", &older_store);
    let older_wal = disk.after_kill();
    older_wal.remove(wal).unwrap();
    refused("an older WAL", &older_wal);
    let no_store = disk.after_kill();
    no_store.remove(store).unwrap();
    refused("no redb file", &no_store);
    refused("an empty volume", &Arc::new(MemoryDisk::default()));
}

#[test]
fn a_crash_in_the_middle_of_making_a_lane_leaves_one_that_opens() {
    let disk = Arc::new(MemoryDisk::default());
    drop(open(&disk, None).unwrap());
    let crashes: [&[&str]; 3] =
        [&["lane-0/wal-0000000000000001"], &["lane-0/wal-0000000000000001", "lane-0/state.redb"], &[]];
    for missing in crashes {
        let disk = disk.after_kill();
        for name in missing {
            disk.remove(name).unwrap();
        }
        disk.write("lane-0/state.redb.new", b"unfinished".to_vec());
        open(&disk, None).unwrap();
    }
}

#[test]
fn a_flipped_byte_in_a_stored_value_is_never_read_as_a_value() {
    let disk = Arc::new(MemoryDisk::default());
    let mut lane = open(&disk, None).unwrap();
    for place in 0..200u8 {
        lane.state.put(table(1), key(place), vec![0xee; 200].into());
    }
    let mark = checkpoint(&mut lane);
    drop(lane);
    let bytes = disk.read("lane-0/state.redb");
    let mut refused = 0;
    for offset in (0..bytes.len()).step_by(97) {
        let disk = disk.after_kill();
        let mut damaged = bytes.clone();
        damaged[offset] ^= 4;
        disk.write("lane-0/state.redb", damaged);
        match open(&disk, Some(mark)) {
            Err(_) => refused += 1,
            Ok(lane) => assert!(all(&lane.state, table(1)).len() == 200, "byte {offset} was believed"),
        }
    }
    assert!(refused > 0);
}

fn identity() -> Identity {
    Identity::new(MemberId::new(0xabc).unwrap(), "node-1".to_owned(), 2)
}

#[test]
fn an_identity_is_read_back_with_its_marks_and_its_cluster() {
    let disk = Arc::new(MemoryDisk::default());
    assert!(IdentityFile::open(as_disk(&disk)).unwrap().is_none());
    let file = IdentityFile::create(as_disk(&disk), identity()).unwrap();
    let mark = Mark { checkpoint: 3, segment: 4, sequence: 50 };
    file.set_mark(1, mark).unwrap();
    file.set_mark(1, Mark { checkpoint: 2, ..mark }).unwrap();
    file.set_cluster(ClusterId([7; 16])).unwrap();
    let found = IdentityFile::open(as_disk(&disk)).unwrap().unwrap().get();
    assert_eq!(found, Identity { cluster: Some(ClusterId([7; 16])), marks: vec![None, Some(mark)], ..identity() });
}

#[test]
fn a_damaged_identity_is_refused_whichever_byte_it_is() {
    let disk = Arc::new(MemoryDisk::default());
    IdentityFile::create(as_disk(&disk), identity()).unwrap();
    let bytes = disk.read("identity");
    for offset in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[offset] ^= 1;
        disk.write("identity", damaged);
        assert!(matches!(IdentityFile::open(as_disk(&disk)), Err(Error::Corrupt { .. })), "byte {offset}");
        disk.write("identity", bytes[..offset].to_vec());
        assert!(matches!(IdentityFile::open(as_disk(&disk)), Err(Error::Corrupt { .. })), "cut at {offset}");
    }
}

#[test]
fn a_newer_identity_is_refused_with_both_versions() {
    let disk = Arc::new(MemoryDisk::default());
    IdentityFile::create(as_disk(&disk), identity()).unwrap();
    let mut bytes = disk.read("identity");
    bytes[8] = 9;
    let checked = bytes.len() - 4;
    let checksum = crc32fast::hash(&bytes[..checked]).to_le_bytes();
    bytes[checked..].copy_from_slice(&checksum);
    disk.write("identity", bytes);
    let error = IdentityFile::open(as_disk(&disk)).unwrap_err().to_string();
    assert!(error.contains('9') && error.contains('1'), "{error}");
}

#[test]
fn lanes_without_an_identity_are_lost_state() {
    let disk = Arc::new(MemoryDisk::default());
    drop(open(&disk, None).unwrap());
    assert!(matches!(IdentityFile::open(as_disk(&disk)), Err(Error::LostState { lane: 0, .. })));
}

#[test]
fn a_volume_is_held_by_one_opener_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("volume");
    let first = Directory::open(&root).unwrap();
    let error = Directory::open(&root).unwrap_err();
    assert!(error.to_string().contains(&root.display().to_string()), "{error}");
    drop(first);
    let disk: Arc<dyn Disk> = Arc::new(Directory::open(&root).unwrap());
    let mut lane = open_lane(&disk, 0, None, &Options::default()).unwrap();
    lane.state.put(table(1), key(1), Bytes::from_static(b"value"));
    let mark = checkpoint(&mut lane);
    drop(lane);
    let lane = open_lane(&disk, 0, Some(mark), &Options::default()).unwrap();
    assert_eq!(lane.state.get(table(1), &key(1)).unwrap(), Some(Bytes::from_static(b"value")));
}
