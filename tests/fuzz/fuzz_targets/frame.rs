//! A peer's frame: any bytes are read or refused, and what is read is written and read back the same.

#![no_main]

use annulus_core::codec::frame::{FrameWriter, HEADER_BYTES, Item, read_header, read_payload};
use annulus_core::map::Map;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(header) = bytes.first_chunk::<HEADER_BYTES>() {
        let _ = read_header(*header);
    }
    let Ok(items) = read_payload(Bytes::copy_from_slice(bytes), crc32fast::hash(bytes)) else { return };
    let mut frame = FrameWriter::default();
    for item in &items {
        frame.push(item);
        if let Item::Map(map) = item
            && let Ok(map) = Map::decode(map.clone())
        {
            map.check();
            assert_eq!(Map::decode(map.encode()), Ok(map));
        }
    }
    let mut written = frame.finish();
    let header = written.split_to(HEADER_BYTES);
    let (length, checksum) = read_header(header[..].try_into().expect("a whole header")).expect("a header");
    assert_eq!(length, written.len());
    assert_eq!(read_payload(written, checksum), Ok(items));
});
