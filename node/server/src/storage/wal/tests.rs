//! The WAL under every way that a disk can end it: cut anywhere, torn, flipped, filled, recycled.

use std::sync::Arc;

use annulus_core::id::GroupId;
use annulus_core::lane::GroupWrite;
use proptest::prelude::*;
use raft::eraftpb::Entry;

use super::*;
use crate::storage::memory_disk::MemoryDisk;
use crate::storage::{Error, OpenedLane, Options, open_lane};

const OPTIONS: Options = Options { cache_bytes: 1 << 20, wal_step_bytes: 1024, wal_spares: 1 };
const FIRST: &str = "lane-0/wal-0000000000000001";

fn open(disk: &Arc<MemoryDisk>) -> Result<OpenedLane> {
    let disk: Arc<dyn Disk> = Arc::clone(disk) as Arc<dyn Disk>;
    open_lane(&disk, 0, None, &OPTIONS)
}

/// A round that can be told from others, with a payload of this many bytes.
fn round(index: u64, bytes: usize) -> Vec<GroupWrite> {
    let mut write = GroupWrite::new(GroupId(1));
    write.entries.push(Entry { index, term: 1, data: vec![0xa5; bytes].into(), ..Entry::default() });
    vec![write]
}

/// The indices of the rounds that were read back; bases say nothing here.
fn indices(opened: &OpenedLane) -> Vec<u64> {
    opened.replay.iter().flatten().flat_map(|write| &write.entries).map(|entry| entry.index).collect()
}

/// Rounds 1 to `count`, each synced, and where each ends.
fn written(count: u64, bytes: usize) -> (Arc<MemoryDisk>, Vec<usize>) {
    let disk = Arc::new(MemoryDisk::default());
    let mut lane = open(&disk).unwrap();
    let mut ends = vec![usize::try_from(lane.wal.end).unwrap()];
    for index in 1..=count {
        lane.wal.append(&round(index, bytes)).unwrap();
        lane.wal.sync().unwrap();
        ends.push(usize::try_from(lane.wal.end).unwrap());
    }
    (disk, ends)
}

#[test]
fn what_was_synced_is_read_back_and_goes_on() {
    let (disk, _) = written(3, 10);
    let mut lane = open(&disk).unwrap();
    assert_eq!(indices(&lane), [1, 2, 3]);
    lane.wal.append(&round(4, 10)).unwrap();
    lane.wal.sync().unwrap();
    assert_eq!(indices(&open(&disk).unwrap()), [1, 2, 3, 4]);
}

#[test]
fn a_file_cut_anywhere_in_the_last_record_loses_that_record_alone() {
    let (disk, ends) = written(3, 40);
    for length in ends[2]..ends[3] {
        let disk = disk.after_kill();
        let mut bytes = disk.read(FIRST);
        bytes.truncate(length);
        disk.write(FIRST, bytes);
        let mut lane = open(&disk).unwrap();
        assert_eq!(indices(&lane), [1, 2], "cut at {length}");
        lane.wal.append(&round(9, 5)).unwrap();
        lane.wal.sync().unwrap();
        assert_eq!(indices(&open(&disk).unwrap()), [1, 2, 9], "cut at {length}");
    }
}

#[test]
fn a_flipped_byte_is_damage_when_a_later_record_shows_that_it_was_durable() {
    let (disk, ends) = written(4, 40);
    for offset in 0..ends[4] {
        let disk = disk.after_kill();
        let mut bytes = disk.read(FIRST);
        bytes[offset] ^= 0x10;
        disk.write(FIRST, bytes);
        match open(&disk) {
            Err(Error::Corrupt { offset: told, .. }) => {
                assert!(told <= offset as u64, "byte {offset} was told as {told}");
                assert!(offset < ends[3], "byte {offset} is in the last record");
            }
            Ok(lane) => {
                assert!(offset >= ends[3], "byte {offset} was durable and is not missed");
                assert_eq!(indices(&lane), [1, 2, 3]);
            }
            // The base of the lane's first segment: the lane is known to be younger than its first checkpoint.
            Err(error) => panic!("byte {offset}: {error}"),
        }
    }
}

#[test]
fn a_missing_segment_is_lost_state() {
    let (disk, _) = written(2, 40);
    let mut lane = open(&disk).unwrap();
    lane.wal.rotate(&[]).unwrap();
    lane.wal.rotate(&[]).unwrap();
    disk.remove("lane-0/wal-0000000000000002").unwrap();
    let error = open(&disk).unwrap_err();
    assert!(error.to_string().contains("wal-0000000000000002"), "{error}");
    assert!(matches!(error, Error::LostState { .. }));
}

#[test]
fn a_tail_that_went_missing_before_a_later_segment_is_damage() {
    let (disk, ends) = written(2, 40);
    let mut lane = open(&disk).unwrap();
    lane.wal.rotate(&[]).unwrap();
    let mut bytes = disk.read(FIRST);
    bytes.truncate(ends[1]);
    disk.write(FIRST, bytes);
    assert!(matches!(open(&disk).unwrap_err(), Error::Corrupt { .. }));
}

#[test]
fn a_segment_whose_base_never_became_whole_was_never_begun() {
    let (disk, _) = written(2, 40);
    let mut lane = open(&disk).unwrap();
    lane.wal.rotate(&round(7, 40)).unwrap();
    let second = "lane-0/wal-0000000000000002";
    let whole = disk.read(second);
    for length in [0, 1, 30, usize::try_from(lane.wal.end).unwrap() - 1] {
        let disk = disk.after_kill();
        disk.write(second, whole[..length].to_vec());
        let mut lane = open(&disk).unwrap();
        assert_eq!(indices(&lane), [1, 2]);
        lane.wal.rotate(&[]).unwrap();
        assert_eq!(indices(&open(&disk).unwrap()), [1, 2]);
    }
}

#[test]
fn a_full_disk_adds_nothing_and_passes() {
    let (disk, ends) = written(1, 40);
    let mut lane = open(&disk).unwrap();
    disk.settings().capacity = Some(disk.read(FIRST).len());
    let error = lane.wal.append(&round(2, 4000)).unwrap_err();
    assert!(error.is_disk_full(), "{error}");
    assert_eq!(lane.wal.segment_bytes(), ends[1] as u64);
    assert!(lane.wal.rotate(&round(2, 4000)).unwrap_err().is_disk_full());
    lane.wal.append(&round(2, 10)).unwrap();
    lane.wal.sync().unwrap();
    assert_eq!(indices(&open(&disk.after_kill()).unwrap()), [1, 2]);
    disk.settings().capacity = None;
    lane.wal.append(&round(3, 4000)).unwrap();
    lane.wal.rotate(&round(4, 4000)).unwrap();
    assert_eq!(indices(&open(&disk).unwrap()), [1, 2, 3, 4]);
}

#[test]
fn a_failed_sync_is_never_tried_again() {
    let (disk, _) = written(1, 40);
    let mut lane = open(&disk).unwrap();
    lane.wal.append(&round(2, 40)).unwrap();
    disk.settings().syncs_fail = true;
    assert!(matches!(lane.wal.sync(), Err(Error::Io { .. })));
    disk.settings().syncs_fail = false;
    assert!(matches!(lane.wal.sync(), Err(Error::Poisoned { .. })));
    assert!(matches!(lane.wal.append(&round(3, 1)), Err(Error::Poisoned { .. })));
    assert!(matches!(lane.wal.rotate(&[]), Err(Error::Poisoned { .. })));
}

#[test]
fn a_recycled_segment_shows_nothing_of_its_earlier_life() {
    let disk = Arc::new(MemoryDisk::default());
    let mut lane = open(&disk).unwrap();
    for index in 1..=20 {
        lane.wal.append(&round(index, 40)).unwrap();
    }
    for life in 0..6u64 {
        let segment = lane.wal.rotate(&[]).unwrap();
        let frozen = lane.state.freeze().unwrap();
        let checkpointed = lane.checkpointer.write(frozen, segment).unwrap();
        lane.state.checkpointed(checkpointed);
        lane.wal.drop_before(segment).unwrap();
        for index in 0..life {
            lane.wal.append(&round(100 * life + index, 40)).unwrap();
        }
        lane.wal.sync().unwrap();
        let expected: Vec<u64> = (0..life).map(|index| 100 * life + index).collect();
        assert_eq!(indices(&open(&disk.after_kill()).unwrap()), expected);
    }
    let segments: Vec<String> = disk.names().into_iter().filter(|name| name.contains("wal-")).collect();
    assert_eq!(segments, ["lane-0/wal-0000000000000006", "lane-0/wal-0000000000000007"], "one spare, one in use");
}

#[derive(Debug, Clone)]
enum Step {
    Append(usize),
    Sync,
    Rotate,
    /// The power goes; each byte decides for one sector that was not synced.
    PowerLoss(Vec<bool>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..1500usize).prop_map(Step::Append),
        3 => Just(Step::Sync),
        1 => Just(Step::Rotate),
        2 => prop::collection::vec(any::<bool>(), 1..12).prop_map(Step::PowerLoss),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever part of the unsynced bytes survives: all synced rounds are there, and behind them only rounds that
    /// were appended, in order, without a gap. No power loss is ever taken for damage.
    #[test]
    fn a_power_loss_keeps_what_was_synced_and_is_never_taken_for_damage(
        steps in prop::collection::vec(step(), 1..60)
    ) {
        let mut disk = Arc::new(MemoryDisk::default());
        let mut lane = open(&disk).unwrap();
        let (mut appended, mut synced, mut next) = (Vec::new(), 0, 1);
        for step in steps {
            match step {
                Step::Append(bytes) => {
                    lane.wal.append(&round(next, bytes)).unwrap();
                    appended.push(next);
                    next += 1;
                }
                Step::Sync => {
                    lane.wal.sync().unwrap();
                    synced = appended.len();
                }
                Step::Rotate => {
                    lane.wal.rotate(&[]).unwrap();
                    synced = appended.len();
                }
                Step::PowerLoss(choices) => {
                    // As if the sync had written and the power had gone before it was done.
                    let pending = std::mem::take(&mut lane.wal.pending);
                    lane.wal.file.write_at(lane.wal.end, &pending).unwrap();
                    let mut choices = choices.iter().cycle();
                    disk = disk.after_power_loss(&mut || *choices.next().unwrap());
                    lane = open(&disk).unwrap();
                    let found = indices(&lane);
                    prop_assert!(found.len() >= synced);
                    prop_assert_eq!(&found[..], &appended[..found.len()]);
                    appended = found;
                    synced = appended.len();
                }
            }
        }
    }

    /// Any number of damaged bytes: an error, or the rounds from the first on, never anything else.
    #[test]
    fn damage_never_brings_up_anything_that_was_not_written(
        flips in prop::collection::vec((0..600usize, 1..=255u8), 1..6)
    ) {
        let (disk, _) = written(6, 40);
        let mut bytes = disk.read(FIRST);
        for (offset, flip) in flips {
            bytes[offset] ^= flip;
        }
        disk.write(FIRST, bytes);
        if let Ok(lane) = open(&disk) {
            let found = indices(&lane);
            prop_assert_eq!(&found[..], &[1, 2, 3, 4, 5, 6][..found.len()]);
        }
    }
}
