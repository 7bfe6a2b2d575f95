//! The request headers that mean something here, found in one pass.

use http::header::{CONTENT_LENGTH, HOST, IF_MATCH, IF_NONE_MATCH, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderValue, Version};

use annulus_core::partition::MAX_IDEMPOTENCY_KEY_BYTES;

use super::framing::Fault;
use super::problem::{Kind, Problem};

/// Says which operator speaks, so that one that was replaced is not listened to any more.
const OPERATOR_FENCE: &str = "annulus-operator-fence";
/// Says under which lock a write is done.
pub(super) const FENCE: &str = "annulus-fence";

/// Says which store is meant, so that none is taken for another at the same address.
pub(super) const CLUSTER: &str = "annulus-cluster";

/// The headers of one request. Each stands there at most once.
#[derive(Default, Debug)]
pub(super) struct Headers<'a> {
    pub(super) if_match: Option<&'a [u8]>,
    pub(super) if_none_match: Option<&'a [u8]>,
    pub(super) idempotency_key: Option<&'a [u8]>,
    /// Still to be read, by whoever takes one.
    pub(super) fence: Option<&'a [u8]>,
    /// Which store is meant.
    pub(super) cluster: Option<&'a [u8]>,
    operator_fence: Option<&'a [u8]>,
    host: Option<&'a [u8]>,
}

impl<'a> Headers<'a> {
    /// Reads the headers of a request, or says what is wrong with its head.
    pub(super) fn read(parts: &'a Parts, fault: Option<Fault>) -> Result<Self, Problem> {
        if let Some(fault) = fault {
            return Err(malformed(match fault {
                Fault::LengthAndEncoding => "it has both `Content-Length` and `Transfer-Encoding`",
                Fault::RepeatedLength => "it has `Content-Length` more than once",
                Fault::RepeatedEncoding => "it has `Transfer-Encoding` more than once",
            }));
        }
        let mut headers = Self::default();
        for (name, value) in &parts.headers {
            if name == HOST {
                once(&mut headers.host, "host", value).map_err(|_| malformed("it has `Host` more than once"))?;
            } else if name == IF_MATCH {
                once(&mut headers.if_match, "if-match", value)?;
            } else if name == IF_NONE_MATCH {
                once(&mut headers.if_none_match, "if-none-match", value)?;
            } else if name == TRANSFER_ENCODING && !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                return Err(malformed("the only `Transfer-Encoding` taken is `chunked`"));
            } else if name == "idempotency-key" {
                once(&mut headers.idempotency_key, "idempotency-key", value)?;
            } else if name == OPERATOR_FENCE {
                once(&mut headers.operator_fence, OPERATOR_FENCE, value)?;
            } else if name == FENCE {
                once(&mut headers.fence, FENCE, value)?;
            } else if name == CLUSTER {
                once(&mut headers.cluster, CLUSTER, value)?;
            } else if name.as_str().starts_with("annulus-") && name != super::EPOCH_HEADER {
                // A header of ours that asks for something unknown must not be taken for one that asks for nothing.
                let detail = format!("`{name}` is not a header that this version knows");
                return Err(Problem::new(Kind::InvalidHeader, detail).with("header", name.as_str()));
            }
        }
        headers.check(parts)
    }

    /// Refuses an operator's fence where nothing is fenced: it must not be taken for something that holds.
    pub(super) fn no_operator_fence(&self) -> Result<(), Problem> {
        self.operator_fence.map_or(Ok(()), |_| {
            let detail = "`Annulus-Operator-Fence` means something on the admin port only";
            Err(Problem::new(Kind::InvalidHeader, detail).with("header", OPERATOR_FENCE))
        })
    }

    /// Refuses a lock's fence where nothing is fenced.
    pub(super) fn no_fence(&self) -> Result<(), Problem> {
        self.fence.map_or(Ok(()), |_| {
            let detail = "`Annulus-Fence` means something on `PUT` and `DELETE` of a key and on `POST /v1/txn` only";
            Err(Problem::new(Kind::InvalidHeader, detail).with("header", FENCE))
        })
    }

    /// Refuses a condition where none is looked at.
    pub(super) fn no_condition(&self) -> Result<(), Problem> {
        self.if_match.or(self.if_none_match).map_or(Ok(()), |_| {
            let detail = "what changes a lock takes neither `If-Match` nor `If-None-Match`; its token is the condition";
            Err(Problem::new(Kind::InvalidCondition, detail))
        })
    }

    /// Refuses what a transaction says in its body.
    pub(super) fn nothing_for_a_transaction(&self) -> Result<(), Problem> {
        if self.if_match.or(self.if_none_match).is_some() {
            let detail = "a transaction takes neither `If-Match` nor `If-None-Match`; its `if` has the conditions";
            return Err(Problem::new(Kind::InvalidCondition, detail));
        }
        self.idempotency_key.map_or(Ok(()), |_| {
            let detail = "a transaction takes no `Idempotency-Key`; its `id` is its name";
            Err(Problem::new(Kind::InvalidHeader, detail).with("header", "idempotency-key"))
        })
    }

    /// The lease generation of the operator that speaks; 0 for a person, who sends none.
    pub(super) fn operator_fence(&self) -> Result<u64, Problem> {
        let Some(value) = self.operator_fence else { return Ok(0) };
        let digits = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        digits.and_then(|digits| digits.parse().ok()).ok_or_else(|| {
            let detail = format!("`Annulus-Operator-Fence` must be a whole number from 0 to {}", u64::MAX);
            Problem::new(Kind::InvalidHeader, detail).with("header", OPERATOR_FENCE)
        })
    }

    fn check(self, parts: &Parts) -> Result<Self, Problem> {
        let named = self.host.is_some() || parts.uri.authority().is_some() || parts.version < Version::HTTP_11;
        if !named {
            return Err(malformed("it has no `Host`"));
        }
        match self.idempotency_key {
            Some(key) if key.is_empty() || key.len() > MAX_IDEMPOTENCY_KEY_BYTES => {
                let detail = format!("`Idempotency-Key` must have 1 to {MAX_IDEMPOTENCY_KEY_BYTES} bytes");
                Err(Problem::new(Kind::InvalidHeader, detail).with("limit", MAX_IDEMPOTENCY_KEY_BYTES))
            }
            _ => Ok(self),
        }
    }
}

/// The length that a request declares for its body.
pub(super) fn declared_length(parts: &Parts) -> Option<u64> {
    parts.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok())
}

fn once<'a>(slot: &mut Option<&'a [u8]>, name: &'static str, value: &'a HeaderValue) -> Result<(), Problem> {
    match slot.replace(value.as_bytes()) {
        None => Ok(()),
        Some(_) => Err(Problem::new(Kind::InvalidHeader, format!("`{name}` stands there twice")).with("header", name)),
    }
}

fn malformed(fault: &'static str) -> Problem {
    Problem::new(Kind::MalformedRequest, format!("the request is refused: {fault}")).closing()
}
