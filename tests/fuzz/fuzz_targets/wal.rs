//! The payload of a WAL record: in each version, any bytes are read or refused, and what is read is written and read back the same.

#![no_main]

use annulus_core::codec::Writer;
use annulus_core::codec::wal::{VERSION, read_groups, write_groups};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for version in 1..=VERSION {
        let Ok(groups) = read_groups(Bytes::copy_from_slice(bytes), version) else { continue };
        let mut writer = Writer::default();
        write_groups(&mut writer, &groups);
        assert_eq!(read_groups(writer.finish(), VERSION), Ok(groups));
    }
});
