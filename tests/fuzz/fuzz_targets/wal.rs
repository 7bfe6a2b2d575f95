//! The payload of a WAL record: any bytes are read or refused, and what is read is written and read back the same.

#![no_main]

use annulus_core::codec::Writer;
use annulus_core::codec::wal::{read_groups, write_groups};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(groups) = read_groups(Bytes::copy_from_slice(bytes)) else { return };
    let mut writer = Writer::default();
    write_groups(&mut writer, &groups);
    assert_eq!(read_groups(writer.finish()), Ok(groups));
});
