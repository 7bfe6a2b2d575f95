//! A small volume that an earlier build wrote is still read, byte for byte as `docs/storage.md` says.
//!
//! `ANNULUS_WRITE_FIXTURES=1 cargo test -p annulus-node --test storage_formats` writes the volume of the current
//! version anew. Do so only before that version is released; a later form gets a version and a folder of its own.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use annulus_core::id::{ClusterId, GroupId, MemberId};
use annulus_core::lane::{GroupWrite, Installed, LogPosition, Staged};
use annulus_core::state::{State, TableId};
use annulus_node::storage::{Directory, Disk, Identity, IdentityFile, Options, open_lane};
use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, HardState};

const OPTIONS: Options = Options { cache_bytes: 1 << 20, wal_step_bytes: 1024, wal_spares: 0 };
const TABLE: TableId = TableId { group: GroupId(7), generation: 2 };

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1")
}

fn identity() -> Identity {
    let mut identity = Identity::new(MemberId::new(0x0123_4567_89ab_cdef).unwrap(), "node-1".to_owned(), 1);
    identity.cluster = Some(ClusterId(*b"0123456789abcdef"));
    identity
}

/// One of everything that a round can write.
fn everything() -> Vec<GroupWrite> {
    let mut write = GroupWrite::new(GroupId(7));
    let position = LogPosition { index: 40, term: 3 };
    write.staged.push(Staged {
        generation: 2,
        first: true,
        records: vec![(Bytes::from_static(b"key"), Bytes::from_static(b"staged"))],
    });
    let conf_state = ConfState { voters: vec![1, 2, 3], learners: vec![4], ..ConfState::default() };
    write.installed = Some(Installed { generation: 2, position, conf_state });
    write.log_start = Some(position);
    write.hard_state = Some(HardState { term: 3, vote: 2, commit: 40, ..HardState::default() });
    write.entries.push(Entry { index: 41, term: 3, data: Bytes::from_static(b"entry"), ..Entry::default() });
    vec![write]
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
    let segment = lane.wal.rotate(&everything()).unwrap();
    let frozen = lane.state.freeze().unwrap();
    let checkpointed = lane.checkpointer.write(frozen, segment).unwrap();
    identity.set_mark(0, lane.wal.mark(&checkpointed)).unwrap();
    lane.state.checkpointed(checkpointed);
    lane.wal.drop_before(segment).unwrap();
    lane.wal.append(&everything()).unwrap();
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

#[test]
fn a_volume_of_version_1_is_read_back() {
    let scratch = tempfile::tempdir().unwrap();
    if std::env::var_os("ANNULUS_WRITE_FIXTURES").is_some() {
        write_volume(scratch.path());
        fs::remove_file(scratch.path().join("lock")).unwrap();
        let _ = fs::remove_dir_all(fixture());
        copy(scratch.path(), &fixture());
    }
    copy(&fixture(), scratch.path());
    let disk: Arc<dyn Disk> = Arc::new(Directory::open(scratch.path()).unwrap());
    let found = IdentityFile::open(Arc::clone(&disk)).unwrap().expect("the volume has an identity").get();
    let mark = found.marks[0].expect("the lane has a mark");
    assert_eq!(Identity { marks: vec![None], ..found }, identity());

    let lane = open_lane(&disk, 0, Some(mark), &OPTIONS).unwrap();
    assert_eq!(lane.replay, [everything(), everything(), Vec::new()]);
    let mut found = Vec::new();
    let mut visit = |key: &[u8], value: &[u8]| {
        found.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    };
    lane.state.range(TABLE, b"", None, &mut visit).unwrap();
    assert_eq!(found, records());
}

#[test]
fn the_files_that_are_written_today_are_the_fixture() {
    let scratch = tempfile::tempdir().unwrap();
    write_volume(scratch.path());
    for name in ["identity", "lane-0/wal-0000000000000002"] {
        let (written, kept) = (fs::read(scratch.path().join(name)).unwrap(), fs::read(fixture().join(name)).unwrap());
        assert!(written == kept, "{name} is not as version 1 wrote it: a new form needs a new version");
    }
}
