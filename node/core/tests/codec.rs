//! The codec's promises: what is written is read back, and no bytes whatsoever make reading panic or ask for much memory.
//!
//! `ANNULUS_CODEC_CASES` is how many values each property is tried on (default 256).

mod values;

use annulus_core::codec::frame::{FrameWriter, HEADER_BYTES, MAX_PAYLOAD_BYTES, read_header, read_payload};
use annulus_core::codec::message::{
    Body, Chunk, PeerMessage, Stream, read_message, write_conf_state, write_position, write_records,
};
use annulus_core::codec::wal::{self, read_groups, write_groups};
use annulus_core::codec::{Error, Reader, Writer};
use annulus_core::id::GroupId;
use annulus_core::lane::LogPosition;
use annulus_core::map::change::Entry as MapEntry;
use annulus_core::map::{Map, RECORD_KEY, machine::Machine};
use annulus_core::partition::Entry;
use annulus_core::replica::{Configuration, GroupRecord};
use annulus_core::state::{MemoryState, State, TableId};
use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::Config;
use raft::eraftpb::ConfState;

const TABLE: TableId = TableId { group: GroupId::MAP, generation: 1 };

#[allow(clippy::disallowed_methods, reason = "a test asks how long it is to run; the core does not")]
fn cases() -> Config {
    let cases = std::env::var("ANNULUS_CODEC_CASES").ok().and_then(|cases| cases.parse().ok());
    Config::with_cases(cases.unwrap_or(256))
}

/// All the ways in which bytes from elsewhere are read.
fn read_everything(bytes: &Bytes) {
    let _ = read_payload(bytes.clone(), crc32fast::hash(bytes));
    for version in 1..=wal::VERSION {
        let _ = read_groups(bytes.clone(), version);
    }
    let _ = Entry::decode(bytes.clone());
    let _ = MapEntry::decode(bytes.clone());
    read_map_group(bytes);
    let _ = GroupRecord::decode(bytes.clone());
    if let Ok(map) = Map::decode(bytes.clone()) {
        map.check();
    }
    if let Some(header) = bytes.first_chunk::<HEADER_BYTES>() {
        let _ = read_header(*header);
    }
}

/// The map group's table with these bytes for an event of its history.
fn read_map_group(bytes: &Bytes) {
    let mut state = MemoryState::default();
    state.put(TABLE, [&b"history/"[..], &7u64.to_be_bytes()].concat().into(), bytes.clone());
    let machine = Machine::load(&state, TABLE).expect("a table without a map");
    let _ = (machine.events(&state), machine.map_at(&state, 7));
    state.put(TABLE, Bytes::from_static(RECORD_KEY), bytes.clone());
    let _ = Machine::load(&state, TABLE);
}

/// A byte string in which one byte differs, or which ends early, or goes on.
fn damaged(bytes: &Bytes, place: prop::sample::Index, change: u8) -> Vec<Bytes> {
    let mut flipped = bytes.to_vec();
    let at = place.index(bytes.len());
    flipped[at] ^= change.max(1);
    let mut longer = bytes.to_vec();
    longer.push(change);
    vec![flipped.into(), bytes.slice(..at), longer.into()]
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn a_frame_is_read_back_as_it_was_written(items in vec(values::item(), 0..6)) {
        let mut frame = FrameWriter::default();
        prop_assert!(frame.is_empty());
        items.iter().for_each(|item| frame.push(item));
        prop_assert_eq!(frame.is_empty(), items.is_empty());
        let length = frame.len();
        let mut bytes = frame.finish();
        prop_assert_eq!(bytes.len(), length);
        let header = bytes.split_to(HEADER_BYTES);
        let (length, checksum) = read_header(header[..].try_into().expect("eight bytes")).expect("a header");
        prop_assert_eq!(bytes.len(), length);
        prop_assert_eq!(read_payload(bytes, checksum), Ok(items));
    }

    #[test]
    fn a_damaged_frame_is_refused(item in values::item(), place: prop::sample::Index, change: u8) {
        let mut frame = FrameWriter::default();
        frame.push(&item);
        let mut bytes = frame.finish();
        let header = bytes.split_to(HEADER_BYTES);
        let (_, checksum) = read_header(header[..].try_into().expect("eight bytes")).expect("a header");
        for damaged in damaged(&bytes, place, change) {
            prop_assert_eq!(read_payload(damaged.clone(), checksum), Err(Error::Checksum));
            read_everything(&damaged);
        }
    }

    #[test]
    fn a_wal_record_is_read_back_as_it_was_written(
        groups in vec(values::group_write(), 0..4),
        place: prop::sample::Index,
        change: u8,
    ) {
        let mut writer = Writer::default();
        write_groups(&mut writer, &groups);
        let bytes = writer.finish();
        prop_assert_eq!(read_groups(bytes.clone(), wal::VERSION), Ok(groups));
        damaged(&bytes, place, change).iter().for_each(read_everything);
    }

    #[test]
    fn an_entry_is_read_back_as_it_was_written(entry in values::entry(), place: prop::sample::Index, change: u8) {
        let bytes = entry.encode();
        prop_assert_eq!(Entry::decode(bytes.clone()), Ok(entry));
        damaged(&bytes, place, change).iter().for_each(read_everything);
    }

    #[test]
    fn an_entry_of_the_map_group_is_read_back_as_it_was_written(
        entry in values::map_entry(),
        place: prop::sample::Index,
        change: u8,
    ) {
        let bytes = entry.encode();
        prop_assert_eq!(MapEntry::decode(bytes.clone()), Ok(entry));
        damaged(&bytes, place, change).iter().for_each(read_everything);
    }

    /// Any change that can be read can be applied to any map, or is refused; what comes of it keeps the rules.
    #[test]
    fn a_change_makes_a_map_that_keeps_the_rules_or_none(map in values::map(), mut change in values::map_change()) {
        change.base = map.epoch;
        if let Some(next) = change.apply(&map) {
            next.check();
            prop_assert_eq!(next.epoch, map.epoch + 1);
        }
    }

    #[test]
    fn a_groups_record_is_read_back_as_it_was_written(
        record in values::group_record(),
        place: prop::sample::Index,
        change: u8,
    ) {
        let bytes = record.encode();
        prop_assert_eq!(GroupRecord::decode(bytes.clone()), Ok(record));
        damaged(&bytes, place, change).iter().for_each(read_everything);
    }

    #[test]
    fn a_map_is_read_back_as_it_was_written_and_a_damaged_one_keeps_the_rules(
        map in values::map(),
        place: prop::sample::Index,
        change: u8,
    ) {
        let bytes = map.encode();
        prop_assert_eq!(Map::decode(bytes.clone()), Ok(map));
        damaged(&bytes, place, change).iter().for_each(read_everything);
    }

    #[test]
    fn no_bytes_make_reading_panic(bytes in vec(any::<u8>(), 0..2048)) {
        read_everything(&bytes.into());
    }

    /// Behind a version and an id that are known, more of the reading is reached.
    #[test]
    fn no_bytes_behind_a_known_beginning_make_reading_panic(
        version in 0u8..3,
        id in 0u8..12,
        group in 0u32..3,
        body in 0u8..5,
        rest in vec(prop_oneof![Just(0u8), Just(1), Just(255), any::<u8>()], 0..512),
    ) {
        let mut writer = Writer::default();
        writer.u8(version);
        writer.u8(id);
        writer.u32(group);
        writer.u8(body);
        writer.raw(&rest);
        read_everything(&writer.finish());
    }

    /// A count or a length says how much would follow; only what is there counts.
    #[test]
    fn a_forged_count_asks_for_no_memory(count in 1000u32.., rest in vec(any::<u8>(), 0..999)) {
        let mut writer = Writer::default();
        writer.u32(count);
        writer.raw(&rest);
        let bytes = writer.finish();
        let truncated = Err(Error::Truncated { what: "list" });
        prop_assert_eq!(Reader::new(bytes.clone(), "list").list(Reader::u8), truncated.map(|(): ()| vec![]));
        prop_assert_eq!(Reader::new(bytes.clone(), "list").bytes(), truncated.map(|(): ()| Bytes::new()));
        prop_assert!(read_groups(bytes, wal::VERSION).is_err());
    }

    #[test]
    fn a_frame_that_says_it_is_too_long_is_refused_before_it_is_read(length: u32, checksum: u32) {
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&length.to_le_bytes());
        header[4..].copy_from_slice(&checksum.to_le_bytes());
        let fits = length > 0 && length as usize <= MAX_PAYLOAD_BYTES;
        prop_assert_eq!(read_header(header).ok(), fits.then_some((length as usize, checksum)));
    }
}

/// Before groups followed the map, the last chunk of a snapshot told who votes and who learns, and of no epoch.
#[test]
fn a_chunk_without_an_epoch_is_still_read() {
    let stream = Stream { term: 3, position: LogPosition { index: 40, term: 2 }, attempt: 1 };
    let state = ConfState { voters: vec![1, 2, 3], learners: vec![4], ..ConfState::default() };
    let records = vec![(Bytes::from_static(b"key"), Bytes::from_static(b"value"))];
    let mut writer = Writer::default();
    writer.u32(7);
    writer.u8(2);
    writer.u64(stream.term);
    write_position(&mut writer, stream.position);
    writer.u32(stream.attempt);
    writer.u32(5);
    write_records(&mut writer, &records);
    writer.option(Some(&state), write_conf_state);
    let mut reader = Reader::new(writer.finish(), "message");
    let last = Some(Configuration { state, epoch: 0 });
    let chunk = Chunk { stream, number: 5, records, last };
    assert_eq!(read_message(&mut reader), Ok(PeerMessage { group: GroupId(7), body: Body::Chunk(chunk) }));
    assert_eq!(reader.end(), Ok(()));
}
