//! Watches where the messages of an HTTP/1 connection begin and end, for the faults that hyper lets through.
//!
//! hyper answers a request that carries both `Content-Length` and `Transfer-Encoding`, or the same `Content-Length` twice,
//! as if nothing was wrong, and drops the header that would tell. A proxy before us may read such a request otherwise
//! than we do, and that is how requests are smuggled. So the bytes are looked at on their way into hyper, and never
//! changed: hyper stays the one parser; this only counts heads and remembers the first fault.
//!
//! ```text
//!          ┌───────────── no body ─────────────┐
//!          ▼                                   │
//!        Head ──length──▶ Body(n) ─────────────┤
//!          │                                   │
//!          └──chunked──▶ ChunkSize ─▶ ChunkData(n) ─▶ ChunkEnd
//!                            │  ▲───────────────────────┘
//!                            └─0──▶ Trailer ───▶ Head
//! ```
//!
//! Whatever it does not understand makes it blind: hyper refuses such a message and closes the connection.

/// A fault of a request head that hyper would let through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// `Content-Length` and `Transfer-Encoding` together.
    LengthAndEncoding,
    /// `Content-Length` more than once.
    RepeatedLength,
    /// `Transfer-Encoding` more than once.
    RepeatedEncoding,
}

/// No head line that hyper accepts is longer: its heads are limited to less.
const MAX_LINE_BYTES: usize = 128 * 1024;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Head,
    Body(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailer,
    Blind,
}

/// Follows one HTTP/1 connection.
#[derive(Debug)]
pub(super) struct Framing {
    state: State,
    /// The beginning of a line whose end has not come yet.
    line: Vec<u8>,
    head: Head,
    /// Heads that have ended.
    heads: u64,
    /// The first fault, and which head it was in, counted from 1.
    fault: Option<(u64, Fault)>,
}

#[derive(Debug, Default)]
struct Head {
    request_line: bool,
    lengths: u32,
    length: Option<u64>,
    encodings: u32,
}

impl Framing {
    pub(super) fn new() -> Self {
        Self { state: State::Head, line: Vec::new(), head: Head::default(), heads: 0, fault: None }
    }

    /// How many request heads have arrived whole.
    pub(super) fn heads(&self) -> u64 {
        self.heads
    }

    /// Whether a head has begun to arrive and has not ended.
    pub(super) fn is_mid_head(&self) -> bool {
        self.state == State::Head && (self.head.request_line || !self.line.is_empty())
    }

    /// The fault of the `n`th request, counted from 1.
    pub(super) fn fault(&self, n: u64) -> Option<Fault> {
        self.fault.filter(|(at, _)| *at == n).map(|(_, fault)| fault)
    }

    /// Looks at the next bytes of the connection.
    pub(super) fn scan(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.state {
                State::Blind => return,
                State::Body(left) => bytes = self.skip(bytes, left, State::Body, State::Head),
                State::ChunkData(left) => bytes = self.skip(bytes, left, State::ChunkData, State::ChunkEnd),
                State::Head | State::ChunkSize | State::ChunkEnd | State::Trailer => bytes = self.scan_line(bytes),
            }
        }
    }

    fn skip<'a>(&mut self, bytes: &'a [u8], left: u64, more: fn(u64) -> State, then: State) -> &'a [u8] {
        let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let left = left - here as u64;
        self.state = if left == 0 { then } else { more(left) };
        &bytes[here..]
    }

    fn scan_line<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
            if self.line.len() + bytes.len() > MAX_LINE_BYTES {
                self.state = State::Blind;
            } else {
                self.line.extend_from_slice(bytes);
            }
            return &[];
        };
        let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
        if self.line.is_empty() {
            self.end_line(line);
        } else {
            let mut whole = std::mem::take(&mut self.line);
            whole.extend_from_slice(line);
            self.end_line(&whole);
            whole.clear();
            self.line = whole;
        }
        rest
    }

    fn end_line(&mut self, line: &[u8]) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match self.state {
            State::Head if !line.is_empty() => self.head.line(line),
            // Empty lines before the request line are allowed, and hyper skips them.
            State::Head if !self.head.request_line => {}
            State::Head => self.end_head(),
            State::ChunkSize => {
                self.state = match chunk_size(line) {
                    None => State::Blind,
                    Some(0) => State::Trailer,
                    Some(size) => State::ChunkData(size),
                }
            }
            State::ChunkEnd => self.state = if line.is_empty() { State::ChunkSize } else { State::Blind },
            State::Trailer if line.is_empty() => self.state = State::Head,
            State::Trailer => {}
            State::Body(_) | State::ChunkData(_) | State::Blind => unreachable!("these have no lines"),
        }
    }

    fn end_head(&mut self) {
        let head = std::mem::take(&mut self.head);
        self.heads += 1;
        let fault = match head {
            Head { lengths: 1.., encodings: 1.., .. } => Some(Fault::LengthAndEncoding),
            Head { lengths: 2.., .. } => Some(Fault::RepeatedLength),
            Head { encodings: 2.., .. } => Some(Fault::RepeatedEncoding),
            _ => None,
        };
        self.fault = self.fault.or(fault.map(|fault| (self.heads, fault)));
        self.state = match head {
            // The connection is closed after the answer; what follows is never a request.
            _ if fault.is_some() => State::Blind,
            Head { encodings: 1.., .. } => State::ChunkSize,
            Head { lengths: 1, length: None, .. } => State::Blind,
            Head { length: Some(length @ 1..), .. } => State::Body(length),
            _ => State::Head,
        };
    }
}

impl Head {
    fn line(&mut self, line: &[u8]) {
        if !self.request_line {
            self.request_line = true;
            return;
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            self.lengths += 1;
            self.length = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.encodings += 1;
        }
    }
}

fn chunk_size(line: &[u8]) -> Option<u64> {
    let size = line.split(|byte| *byte == b';').next()?.trim_ascii();
    let plain = !size.is_empty() && size.iter().all(u8::is_ascii_hexdigit);
    plain.then(|| u64::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The framing after these bytes, which must not depend on how they are cut into reads.
    fn after(bytes: &[u8]) -> Framing {
        let mut whole = Framing::new();
        whole.scan(bytes);
        for size in [1, 2, 3, 7] {
            let mut cut = Framing::new();
            bytes.chunks(size).for_each(|chunk| cut.scan(chunk));
            assert_eq!((cut.heads, cut.fault, cut.is_mid_head()), (whole.heads, whole.fault, whole.is_mid_head()));
        }
        whole
    }

    #[test]
    fn requests_are_counted_over_bodies_that_look_like_heads() {
        let body = "GET / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n";
        let sized = format!("PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let chunked = format!(
            "PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{:x};x=y\r\n{body}\r\n0\r\ntrailer: 1\r\n\r\n",
            body.len()
        );
        let get = "\r\nGET /b HTTP/1.1\nhost: a\n\n";
        let framing = after([sized.as_str(), &chunked, get, &sized, get].concat().as_bytes());
        assert_eq!((framing.heads(), framing.fault, framing.is_mid_head()), (5, None, false));
    }

    #[test]
    fn what_says_twice_where_a_body_ends_is_a_fault_of_its_request() {
        let get = "GET /b HTTP/1.1\r\nhost: a\r\n\r\n";
        for (headers, fault) in [
            ("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", Fault::LengthAndEncoding),
            ("transfer-encoding: chunked\r\nCONTENT-LENGTH: x\r\n", Fault::LengthAndEncoding),
            ("Content-Length: 1\r\nContent-Length: 1\r\n", Fault::RepeatedLength),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Fault::RepeatedEncoding),
        ] {
            let framing = after(format!("{get}PUT /a HTTP/1.1\r\n{headers}\r\n").as_bytes());
            assert_eq!((framing.fault(1), framing.fault(2)), (None, Some(fault)), "{headers}");
        }
    }

    #[test]
    fn a_head_that_has_begun_and_not_ended_is_seen() {
        assert!(!after(b"").is_mid_head());
        assert!(after(b"G").is_mid_head());
        assert!(after(b"GET / HTTP/1.1\r\nHost: a\r\n").is_mid_head());
        assert!(!after(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").is_mid_head());
        assert!(!after(b"PUT / HTTP/1.1\r\nContent-Length: 9\r\n\r\n123").is_mid_head());
    }
}
