//! The one bounded codec: peer frames, log entries, WAL records and stored records are all made of these few forms.
//!
//! Integers are little-endian and fixed in width. Byte strings carry a 32-bit length. Every kind of thing has a stable
//! id byte that is never reused. Decoding never panics, never allocates more than the input is long, and refuses what
//! it does not know. What is stored is laid out byte for byte in `docs/storage.md`.

pub mod frame;
pub mod message;
pub mod request;
pub mod wal;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes that are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The input ended early.
    #[error("{what} is cut short")]
    Truncated {
        /// What was being read.
        what: &'static str,
    },
    /// An id or a flag that this version does not know.
    #[error("{what} has the unknown id {id}")]
    UnknownId {
        /// What was being read.
        what: &'static str,
        /// The id that stood there.
        id: u8,
    },
    /// Written by a newer program.
    #[error("{what} has format version {found}, and this program reads up to {known}")]
    NewerVersion {
        /// What was being read.
        what: &'static str,
        /// Its version.
        found: u8,
        /// The newest version that is known here.
        known: u8,
    },
    /// A field has a value that it can't have.
    #[error("{what} is out of range")]
    OutOfRange {
        /// What was being read.
        what: &'static str,
    },
    /// Bytes are left over at the end.
    #[error("{0} bytes are left over")]
    Trailing(usize),
    /// The checksum does not fit the bytes.
    #[error("the checksum does not fit")]
    Checksum,
}

/// The result of decoding.
pub type Result<T> = std::result::Result<T, Error>;

/// Writes the forms of the codec to the end of a buffer.
#[derive(Debug, Default)]
pub struct Writer {
    buffer: BytesMut,
}

impl Writer {
    /// An empty buffer with room for this many bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { buffer: BytesMut::with_capacity(bytes) }
    }

    /// How many bytes were written.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.buffer.put_u8(value);
    }

    /// Two bytes.
    pub fn u16(&mut self, value: u16) {
        self.buffer.put_u16_le(value);
    }

    /// Four bytes.
    pub fn u32(&mut self, value: u32) {
        self.buffer.put_u32_le(value);
    }

    /// Eight bytes.
    pub fn u64(&mut self, value: u64) {
        self.buffer.put_u64_le(value);
    }

    /// A flag.
    pub fn bool(&mut self, value: bool) {
        self.buffer.put_u8(u8::from(value));
    }

    /// A byte string with its length.
    pub fn bytes(&mut self, value: &[u8]) {
        self.buffer.put_u32_le(u32::try_from(value.len()).expect("no byte string is 4 GiB long"));
        self.buffer.put_slice(value);
    }

    /// Bytes as they are; the reader must know how many.
    pub fn raw(&mut self, value: &[u8]) {
        self.buffer.put_slice(value);
    }

    /// A flag, then the value if there is one.
    pub fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.bool(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }

    /// A count, then each value.
    pub fn list<T>(&mut self, values: &[T], mut write: impl FnMut(&mut Self, &T)) {
        self.u32(u32::try_from(values.len()).expect("no list has 2^32 values"));
        for value in values {
            write(self, value);
        }
    }

    /// Everything written so far, for patching a length or checksum in afterwards.
    pub fn written(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    /// The finished bytes.
    pub fn finish(self) -> Bytes {
        self.buffer.freeze()
    }
}

/// Reads the forms of the codec from the front of a buffer. Byte strings share the buffer, they are not copied.
#[derive(Debug)]
pub struct Reader {
    buffer: Bytes,
    what: &'static str,
}

impl Reader {
    /// Reads `buffer`, which should hold `what`.
    pub fn new(buffer: Bytes, what: &'static str) -> Self {
        Self { buffer, what }
    }

    /// How many bytes are left.
    pub fn remaining(&self) -> usize {
        self.buffer.len()
    }

    fn need(&self, bytes: usize) -> Result<()> {
        if self.buffer.len() < bytes { Err(Error::Truncated { what: self.what }) } else { Ok(()) }
    }

    /// The error for a value that can't be.
    pub fn out_of_range(&self) -> Error {
        Error::OutOfRange { what: self.what }
    }

    /// The error for an id that nobody knows.
    pub fn unknown(&self, id: u8) -> Error {
        Error::UnknownId { what: self.what, id }
    }

    /// The version that a form begins with: one that is known here (1 to `known`).
    pub fn version(&mut self, known: u8) -> Result<u8> {
        match self.u8()? {
            0 => Err(self.unknown(0)),
            found if found > known => Err(Error::NewerVersion { what: self.what, found, known }),
            found => Ok(found),
        }
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8> {
        self.need(1)?;
        Ok(self.buffer.get_u8())
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Result<u16> {
        self.need(2)?;
        Ok(self.buffer.get_u16_le())
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32> {
        self.need(4)?;
        Ok(self.buffer.get_u32_le())
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64> {
        self.need(8)?;
        Ok(self.buffer.get_u64_le())
    }

    /// A flag: 0 or 1, nothing else.
    pub fn bool(&mut self) -> Result<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            id => Err(self.unknown(id)),
        }
    }

    /// A byte string.
    pub fn bytes(&mut self) -> Result<Bytes> {
        let length = self.u32()? as usize;
        self.raw(length)
    }

    /// This many bytes as they are.
    pub fn raw(&mut self, length: usize) -> Result<Bytes> {
        self.need(length)?;
        Ok(self.buffer.split_to(length))
    }

    /// A text.
    pub fn text(&mut self) -> Result<String> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| self.out_of_range())
    }

    /// A flag, then a value if it was set.
    pub fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<Option<T>> {
        if self.bool()? { read(self).map(Some) } else { Ok(None) }
    }

    /// A count, then that many values. Each value takes at least one byte, so a forged count cannot make it allocate.
    pub fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let count = self.u32()? as usize;
        self.need(count)?;
        let mut values = Vec::with_capacity(count.min(4096));
        for _ in 0..count {
            values.push(read(self)?);
        }
        Ok(values)
    }

    /// Nothing may be left.
    pub fn end(self) -> Result<()> {
        if self.buffer.is_empty() { Ok(()) } else { Err(Error::Trailing(self.buffer.len())) }
    }
}
