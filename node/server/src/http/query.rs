//! Keys and parameters out of a request target. Nothing here normalises a path: `..`, `%2F` and `%00` are bytes of keys.

use std::borrow::Cow;
use std::time::Duration;

use annulus_core::partition::lock::Name;
use annulus_core::partition::{Consistency, Key, KeyError, MAX_KEY_BYTES, MAX_SCAN_KEYS, MAX_TTL_MS};
use bytes::Bytes;

use super::lock;
use super::problem::{Kind, Problem};
use crate::units;

/// The key that the rest of a path stands for.
pub(super) fn key(path: &str) -> Result<Key, Problem> {
    Key::new(path_bytes(path)?).map_err(|error| {
        let kind = match error {
            KeyError::Empty => Kind::EmptyKey,
            KeyError::TooLong(_) => Kind::KeyTooLong,
        };
        Problem::new(kind, error.to_string()).with("limit", MAX_KEY_BYTES)
    })
}

/// The lock that a segment of a path stands for.
pub(super) fn lock_name(segment: &str) -> Result<Name, Problem> {
    Name::new(path_bytes(segment)?).map_err(lock::invalid_name)
}

fn path_bytes(path: &str) -> Result<Bytes, Problem> {
    percent_decoded(path).map_err(|fault| Problem::new(Kind::InvalidPercentEncoding, fault))
}

/// The bytes that percent-encoded text stands for, or what is wrong with it.
pub(super) fn percent_decoded(text: &str) -> Result<Bytes, String> {
    if text.contains('%') { decode(text, false).map(Bytes::from) } else { Ok(Bytes::copy_from_slice(text.as_bytes())) }
}

/// The text that a segment of a path stands for.
pub(super) fn segment(segment: &str) -> Result<Cow<'_, str>, Problem> {
    let refuse = |fault: String| Problem::new(Kind::InvalidPercentEncoding, fault);
    if !segment.contains('%') {
        return Ok(Cow::Borrowed(segment));
    }
    let text = String::from_utf8(decode(segment, false).map_err(refuse)?);
    text.map(Cow::Owned).map_err(|_| refuse(format!("`{segment}` does not stand for UTF-8")))
}

/// The values of the parameters named in `known`, in their order. Any other parameter is refused, and so is one that
/// stands there twice: a misspelt condition must never be taken for none.
pub(super) fn parameters<'a, const N: usize>(
    query: Option<&'a str>,
    known: [&'static str; N],
) -> Result<[Option<&'a str>; N], Problem> {
    let mut values = [None; N];
    for pair in query.unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let Some(at) = known.iter().position(|known| *known == name) else {
            let there_are = if N == 0 { "this path takes none".to_owned() } else { known.join(", ") };
            let detail = format!("`{name}` is not a parameter here; known: {there_are}");
            return Err(Problem::new(Kind::UnknownParameter, detail).with("parameter", name));
        };
        if values[at].replace(value).is_some() {
            return Err(invalid(known[at], "it stands there twice"));
        }
    }
    Ok(values)
}

/// The problem with a parameter.
pub(super) fn invalid(parameter: &'static str, fault: impl std::fmt::Display) -> Problem {
    Problem::new(Kind::InvalidParameter, format!("`{parameter}`: {fault}")).with("parameter", parameter)
}

/// The bytes that a parameter's value stands for, as HTML forms write them: `+` is a space.
pub(super) fn bytes(parameter: &'static str, value: &str) -> Result<Vec<u8>, Problem> {
    decode(value, true).map_err(|fault| invalid(parameter, fault))
}

fn text<'a>(parameter: &'static str, value: &'a str) -> Result<Cow<'a, str>, Problem> {
    if !value.contains(['%', '+']) {
        return Ok(Cow::Borrowed(value));
    }
    let text = String::from_utf8(bytes(parameter, value)?).map_err(|_| invalid(parameter, "it is not UTF-8"))?;
    Ok(Cow::Owned(text))
}

/// `ttl=30s`, in milliseconds.
pub(super) fn ttl_ms(value: &str) -> Result<u64, Problem> {
    let refuse = |fault: &dyn std::fmt::Display| {
        let detail = format!("`ttl`: {fault}; it must be from 1ms to {}d", MAX_TTL_MS / 86_400_000);
        Problem::new(Kind::InvalidTtl, detail).with("minimum_ms", 1).with("maximum_ms", MAX_TTL_MS)
    };
    let ttl = units::duration(&text("ttl", value)?).map_err(|error| refuse(&error))?;
    let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    if (1..=MAX_TTL_MS).contains(&ttl_ms) { Ok(ttl_ms) } else { Err(refuse(&"it is out of range")) }
}

/// A duration such as `timeout=5s` that is not zero and at most `max`.
pub(super) fn duration(parameter: &'static str, value: &str, max: Duration) -> Result<Duration, Problem> {
    let duration = units::duration(&text(parameter, value)?).map_err(|error| invalid(parameter, error))?;
    if duration.is_zero() || duration > max {
        return Err(invalid(parameter, format_args!("it must be from 1ms to {}", units::write_duration(max))));
    }
    Ok(duration)
}

/// A whole number in digits and nothing else.
pub(super) fn whole_number(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| plain)
}

/// `epoch=13`.
pub(super) fn epoch(value: &str) -> Result<u64, Problem> {
    whole_number(value).ok_or_else(|| invalid("epoch", "it must be the whole number of an epoch"))
}

/// `token=7`, which must be there.
pub(super) fn token(value: Option<&str>) -> Result<u64, Problem> {
    value.and_then(whole_number).ok_or_else(|| invalid("token", "it must be there, the whole number that was granted"))
}

/// `consistency=linearizable|quorum|stale`.
pub(super) fn consistency(value: Option<&str>) -> Result<Consistency, Problem> {
    match value {
        None | Some("linearizable") => Ok(Consistency::Linearizable),
        Some("quorum") => Ok(Consistency::Quorum),
        Some("stale") => Ok(Consistency::Stale),
        Some(_) => Err(invalid("consistency", "it must be linearizable, quorum or stale")),
    }
}

/// `limit=100`: how many keys a page holds at most.
pub(super) fn limit(value: Option<&str>) -> Result<usize, Problem> {
    let Some(value) = value else { return Ok(100) };
    let plain = value.bytes().all(|byte| byte.is_ascii_digit());
    let limit = value.parse().ok().filter(|limit| plain && (1..=MAX_SCAN_KEYS as usize).contains(limit));
    limit.ok_or_else(|| {
        invalid("limit", format_args!("it must be a whole number from 1 to {MAX_SCAN_KEYS}"))
            .with("minimum", 1)
            .with("maximum", MAX_SCAN_KEYS)
    })
}

/// `values=true|false`.
pub(super) fn flag(parameter: &'static str, value: Option<&str>) -> Result<bool, Problem> {
    match value {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(invalid(parameter, "it must be true or false")),
    }
}

fn decode(text: &str, plus_is_space: bool) -> Result<Vec<u8>, String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        match byte {
            b'%' => {
                let value = after.get(..2).and_then(|digits| Some((hex(digits[0])? << 4) | hex(digits[1])?));
                let Some(value) = value else {
                    let at = text.len() - after.len() - 1;
                    return Err(format!("the % at byte {at} is not followed by two hexadecimal digits"));
                };
                decoded.push(value);
                rest = &after[2..];
            }
            b'+' if plus_is_space => decoded.push(b' '),
            byte => decoded.push(*byte),
        }
    }
    Ok(decoded)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_bytes(path: &str) -> Result<Vec<u8>, Kind> {
        key(path).map(|key| key.bytes().to_vec()).map_err(|problem| problem.kind())
    }

    #[test]
    fn a_key_is_the_rest_of_the_path_decoded_and_never_normalised() {
        assert_eq!(key_bytes("a/b"), Ok(b"a/b".to_vec()));
        assert_eq!(key_bytes("../a//./b/"), Ok(b"../a//./b/".to_vec()));
        assert_eq!(key_bytes("a%2Fb%00%ff%C3%A9+"), Ok(b"a/b\0\xff\xc3\xa9+".to_vec()));
    }

    #[test]
    fn a_key_that_is_empty_too_long_or_wrongly_encoded_is_refused() {
        assert_eq!(key_bytes(""), Err(Kind::EmptyKey));
        assert_eq!(key_bytes(&"k".repeat(4096)).map(|key| key.len()), Ok(4096));
        assert_eq!(key_bytes(&"k".repeat(4097)), Err(Kind::KeyTooLong));
        for path in ["%zz", "%", "a%2", "%+1", "%%20"] {
            assert_eq!(key_bytes(path), Err(Kind::InvalidPercentEncoding), "{path}");
        }
    }

    #[test]
    fn the_name_of_a_lock_is_a_segment_decoded() {
        let name =
            |segment: &str| lock_name(segment).map(|name| name.bytes().to_vec()).map_err(|problem| problem.kind());
        assert_eq!(name("jobs%2Fnightly%00%ff+"), Ok(b"jobs/nightly\0\xff+".to_vec()));
        assert_eq!(name(&"%6c".repeat(512)).map(|name| name.len()), Ok(512));
        assert_eq!(name(&"l".repeat(513)), Err(Kind::InvalidLockName));
        assert_eq!(name(""), Err(Kind::InvalidLockName));
        assert_eq!(name("%2"), Err(Kind::InvalidPercentEncoding));
        assert_eq!(token(Some("18446744073709551615")).unwrap(), u64::MAX);
        for value in [None, Some(""), Some("-1"), Some("+1"), Some("7.0"), Some("18446744073709551616")] {
            assert_eq!(token(value).unwrap_err().kind(), Kind::InvalidParameter, "{value:?}");
        }
    }

    #[test]
    fn parameters_are_known_and_stand_there_once() {
        assert_eq!(parameters(None, ["a"]).unwrap(), [None]);
        assert_eq!(parameters(Some("b=2&a=1"), ["a", "b"]).unwrap(), [Some("1"), Some("2")]);
        assert_eq!(parameters(Some("&a&"), ["a"]).unwrap(), [Some("")]);
        assert_eq!(parameters(Some("c=1"), ["a"]).unwrap_err().kind(), Kind::UnknownParameter);
        assert_eq!(parameters(Some("c=1"), []).unwrap_err().kind(), Kind::UnknownParameter);
        assert_eq!(parameters(Some("a=1&a=1"), ["a"]).unwrap_err().kind(), Kind::InvalidParameter);
    }

    #[test]
    fn a_time_to_live_has_a_unit_and_a_range() {
        assert_eq!(ttl_ms("30s").unwrap(), 30_000);
        assert_eq!(ttl_ms("3650d").unwrap(), MAX_TTL_MS);
        for value in ["0s", "-1s", "30", "NaN", "18446744073709551616ms", "3651d", "", "%zz"] {
            let kind = ttl_ms(value).unwrap_err().kind();
            assert!(matches!(kind, Kind::InvalidTtl | Kind::InvalidParameter), "{value}");
        }
    }

    #[test]
    fn limits_timeouts_and_flags_are_read_strictly() {
        assert_eq!(limit(None).unwrap(), 100);
        assert_eq!(limit(Some("1000")).unwrap(), 1000);
        for value in ["-1", "0", "1001", "+1", "", "ten", "99999999999999999999"] {
            assert_eq!(limit(Some(value)).unwrap_err().kind(), Kind::InvalidParameter, "{value}");
        }
        let max = Duration::from_secs(60);
        assert_eq!(duration("timeout", "60s", max).unwrap(), max);
        assert!(["0s", "61s", "5", ""].iter().all(|value| duration("timeout", value, max).is_err()));
        assert_eq!(epoch("18446744073709551615").unwrap(), u64::MAX);
        for value in ["", "-1", "+1", "0x5", "5.0", "1e3", " 5", "5%20", "NaN", "18446744073709551616", "AAAABQ=="] {
            assert_eq!(epoch(value).unwrap_err().kind(), Kind::InvalidParameter, "{value}");
        }
        assert!(flag("values", Some("true")).unwrap() && !flag("values", None).unwrap());
        assert!(flag("values", Some("1")).is_err());
        assert!(consistency(Some("eventual")).is_err());
        assert_eq!(bytes("prefix", "a+b%2B%00").unwrap(), b"a b+\0");
    }
}
