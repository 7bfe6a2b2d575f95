//! What a request asks for, read from its path and its query. Pure. Whom that is asked of, and how safe it is to ask twice, say
//! `relay.rs` and, for locks, `locks/asked.rs`:
//!
//! | request | who is asked | asked twice |
//! | --- | --- | --- |
//! | `GET /v1/kv/{key}`, `/v1/locks/{name}` | the leader; with `consistency=stale` whoever holds it | at will |
//! | lists, `/v1/txn/{id}`, `/v1/txns`, `/v1/ring`, `/openapi.json` | anybody | at will |
//! | `PUT`, `DELETE` of a key | the leader | under its `Idempotency-Key`, which is added where there is none |
//! | `POST /v1/txn` | the leader of its first key | under its `id`, which is added where there is none |
//! | `POST /v1/locks/{name}`, `…/renew`, `DELETE` | the leader of the lock | a wish under its name; the others do the same once more |
//! | `POST /v1/renewals` | anybody: each lock has a leader of its own | the same once more |
//!
//! A path that is none of these is not sent on: the sidecar is no way to anything but the API.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use percent_encoding::percent_decode_str;

/// What a path stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Route {
    /// One key.
    Key,
    /// The keys under a prefix.
    List,
    /// One lock.
    Lock,
    /// The lease of one lock.
    LockRenew,
    /// The locks under a prefix.
    Locks,
    /// The leases of many locks.
    Renewals,
    /// A transaction that is to happen.
    NewTxn,
    /// What became of one transaction.
    Txn,
    /// The transactions that are open.
    Txns,
    /// Members and assignments.
    Ring,
    /// The description of the API.
    OpenApi,
    /// Whether the process lives.
    Health,
    /// Whether the store can be reached.
    Ready,
    /// What it counts.
    Metrics,
    /// The locks that are kept.
    Kept,
    /// Nothing.
    Unknown,
}

/// The port that a request came in on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Port {
    /// For the application.
    Application,
    /// For whoever watches it: takes no requests for the store.
    Status,
}

/// How many routes there are.
pub(super) const ROUTES: usize = 16;

/// Name, methods, and whether the status port has it too, in the order of [`Route`].
const TABLE: [(&str, &str, bool); ROUTES] = [
    ("key", "GET, HEAD, PUT, DELETE", false),
    ("list", "GET, HEAD", false),
    ("lock", "GET, HEAD, POST, DELETE", false),
    ("lock_renew", "POST", false),
    ("locks", "GET, HEAD", false),
    ("renewals", "POST", false),
    ("new_txn", "POST", false),
    ("txn", "GET, HEAD", false),
    ("txns", "GET, HEAD", false),
    ("ring", "GET, HEAD", false),
    ("openapi", "GET, HEAD", false),
    ("health", "GET, HEAD", true),
    ("ready", "GET, HEAD", true),
    ("metrics", "GET, HEAD", true),
    ("kept", "GET, HEAD", true),
    ("unknown", "", true),
];

impl Route {
    /// What a path stands for on this port.
    pub(super) fn of(port: Port, path: &str) -> Self {
        let route = Self::of_any(path);
        let is_here = port == Port::Application && route != Self::Kept || port == Port::Status && route.row().2;
        if is_here { route } else { Self::Unknown }
    }

    fn of_any(path: &str) -> Self {
        if path.starts_with(KEY_PREFIX) {
            return Self::Key;
        }
        if let Some(rest) = path.strip_prefix(LOCK_PREFIX) {
            return match rest.split_once('/') {
                None => Self::Lock,
                Some((name, "renew")) if !name.is_empty() => Self::LockRenew,
                Some(_) => Self::Unknown,
            };
        }
        if let Some(rest) = path.strip_prefix("/v1/txn/") {
            return if rest.contains('/') { Self::Unknown } else { Self::Txn };
        }
        match path {
            "/v1/kv" => Self::List,
            "/v1/locks" => Self::Locks,
            "/v1/renewals" => Self::Renewals,
            "/v1/txn" => Self::NewTxn,
            "/v1/txns" => Self::Txns,
            "/v1/ring" => Self::Ring,
            "/openapi.json" => Self::OpenApi,
            "/healthz" => Self::Health,
            "/readyz" => Self::Ready,
            "/metrics" => Self::Metrics,
            "/sidecar/locks" => Self::Kept,
            _ => Self::Unknown,
        }
    }

    fn row(self) -> (&'static str, &'static str, bool) {
        TABLE[self as usize]
    }

    /// Its name in the metrics.
    pub(super) fn name(self) -> &'static str {
        self.row().0
    }

    /// The methods that it takes.
    pub(super) fn methods(self) -> &'static str {
        self.row().1
    }

    /// Whether it takes this method.
    pub(super) fn takes(self, method: &Method) -> bool {
        self.methods().split(", ").any(|name| name == method.as_str())
    }

    /// Whether the sidecar answers it by itself.
    #[cfg(test)]
    pub(super) fn is_own(self) -> bool {
        matches!(self, Self::Health | Self::Ready | Self::Metrics | Self::Kept)
    }

    /// Whether a request writes under a fence, if it names a lock.
    pub(super) fn is_fenced(self, method: &Method) -> bool {
        self == Self::NewTxn || self == Self::Key && [Method::PUT, Method::DELETE].contains(method)
    }

    /// The key or the name of a lock that the path names, still encoded.
    pub(super) fn named(self, path: &str) -> &str {
        match self {
            Self::Key => path.strip_prefix(KEY_PREFIX).unwrap_or_default(),
            Self::Lock => path.strip_prefix(LOCK_PREFIX).unwrap_or_default(),
            Self::LockRenew => {
                path.strip_prefix(LOCK_PREFIX).and_then(|rest| rest.strip_suffix("/renew")).unwrap_or_default()
            }
            _ => "",
        }
    }
}

const KEY_PREFIX: &str = "/v1/kv/";
const LOCK_PREFIX: &str = "/v1/locks/";

/// The bytes that percent-encoded text stands for, as a node reads it. Wrong encoding is for the node to refuse: it goes to
/// anybody then.
pub(super) fn decoded(text: &str) -> Bytes {
    match Cow::from(percent_decode_str(text)) {
        Cow::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
        Cow::Owned(bytes) => Bytes::from(bytes),
    }
}

/// Whether a `%` stands there that is not followed by two hexadecimal digits.
pub(super) fn is_broken(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    (0..bytes.len()).any(|at| bytes[at] == b'%' && !(is_hex(at + 1) && is_hex(at + 2)))
}

/// The value of a parameter of a query; `None` if it is not there.
pub(super) fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    query?.split('&').filter_map(|pair| pair.split_once('=')).find(|(known, _)| *known == name).map(|(_, value)| value)
}

/// A query without one parameter, with a question mark before it if something is left.
pub(super) fn without(query: Option<&str>, name: &str) -> String {
    let pairs = query.unwrap_or_default().split('&');
    let others =
        pairs.filter(|pair| pair.split_once('=').map_or(*pair, |(known, _)| known) != name && !pair.is_empty());
    let others = others.collect::<Vec<_>>().join("&");
    if others.is_empty() { others } else { format!("?{others}") }
}

/// `timeout=5s`, if it is one that a node takes: from 1 ms to a minute. Any other is for the node to refuse.
pub(super) fn timeout(query: Option<&str>) -> Option<Duration> {
    let text = parameter(query, "timeout")?;
    let digits = text.find(|sign: char| !sign.is_ascii_digit())?;
    let number: u64 = text[..digits].parse().ok()?;
    let unit_ms = match &text[digits..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return None,
    };
    let timeout = Duration::from_millis(number.checked_mul(unit_ms)?);
    (Duration::from_millis(1)..=Duration::from_secs(60)).contains(&timeout).then_some(timeout)
}

/// Whether an attempt may say in `timeout` how long it may take: there is none yet, or one that a node takes. Else it stays as it
/// is, for the node to refuse.
pub(super) fn is_timed(query: Option<&str>) -> bool {
    let pairs = query.unwrap_or_default().split('&');
    match pairs.filter(|pair| pair.split_once('=').map_or(*pair, |(known, _)| known) == "timeout").count() {
        0 => true,
        1 => timeout(query).is_some(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_path_is_found_and_nothing_else_is() {
        for (path, route, named) in [
            ("/v1/kv/a", Route::Key, "a"),
            ("/v1/kv/", Route::Key, ""),
            ("/v1/kv/a/../b%2F", Route::Key, "a/../b%2F"),
            ("/v1/kv", Route::List, ""),
            ("/v1/locks", Route::Locks, ""),
            ("/v1/locks/", Route::Lock, ""),
            ("/v1/locks/renew", Route::Lock, "renew"),
            ("/v1/locks/a%2Frenew", Route::Lock, "a%2Frenew"),
            ("/v1/locks/renew/renew", Route::LockRenew, "renew"),
            ("/v1/locks//renew", Route::Unknown, ""),
            ("/v1/locks/a/b", Route::Unknown, ""),
            ("/v1/locks/a/renew/", Route::Unknown, ""),
            ("/v1/renewals", Route::Renewals, ""),
            ("/v1/txn", Route::NewTxn, ""),
            ("/v1/txn/", Route::Txn, ""),
            ("/v1/txn/~1", Route::Txn, ""),
            ("/v1/txn/a/b", Route::Unknown, ""),
            ("/v1/txns", Route::Txns, ""),
            ("/v1/ring", Route::Ring, ""),
            ("/openapi.json", Route::OpenApi, ""),
            ("/admin/v1/status", Route::Unknown, ""),
            ("/admin/v1/members", Route::Unknown, ""),
            ("/sidecar/locks", Route::Unknown, ""),
            ("//v1/kv/a", Route::Unknown, ""),
            ("", Route::Unknown, ""),
            ("*", Route::Unknown, ""),
        ] {
            let found = Route::of(Port::Application, path);
            assert_eq!((found, found.named(path)), (route, named), "{path}");
        }
    }

    #[test]
    fn the_status_port_takes_no_request_for_the_store() {
        for (path, route) in [
            ("/healthz", Route::Health),
            ("/readyz", Route::Ready),
            ("/metrics", Route::Metrics),
            ("/sidecar/locks", Route::Kept),
        ] {
            assert_eq!(Route::of(Port::Status, path), route);
            assert!(route.is_own() && route.takes(&Method::GET) && !route.takes(&Method::POST));
        }
        for path in ["/v1/kv/a", "/v1/kv", "/v1/locks/a", "/v1/txn", "/v1/ring", "/openapi.json", "/v1/renewals"] {
            assert_eq!(Route::of(Port::Status, path), Route::Unknown);
        }
    }

    #[test]
    fn only_writes_are_fenced() {
        for method in [Method::PUT, Method::DELETE] {
            assert!(Route::Key.is_fenced(&method));
        }
        assert!(Route::NewTxn.is_fenced(&Method::POST));
        assert!(!Route::Key.is_fenced(&Method::GET) && !Route::Lock.is_fenced(&Method::DELETE));
    }

    #[test]
    fn a_timeout_is_read_as_a_node_reads_it() {
        for (query, expected) in [
            ("timeout=5s", Some(5000)),
            ("a=1&timeout=250ms", Some(250)),
            ("timeout=1m&a=1", Some(60_000)),
            ("timeout=61s", None),
            ("timeout=0s", None),
            ("timeout=5", None),
            ("timeout=", None),
            ("timeout=99999999999999999999s", None),
            ("timeout=18446744073709551615m", None),
            ("xtimeout=5s", None),
            ("", None),
        ] {
            assert_eq!(timeout(Some(query)), expected.map(Duration::from_millis), "{query}");
        }
        assert_eq!(without(Some("a=1&timeout=5s&b"), "timeout"), "?a=1&b");
        assert_eq!(without(Some("timeout=5s"), "timeout"), "");
        assert_eq!(without(None, "timeout"), "");
    }

    #[test]
    fn a_timeout_is_replaced_only_where_a_node_would_take_it() {
        for (query, expected) in [
            ("", true),
            ("a=1", true),
            ("timeout=5s", true),
            ("a=1&timeout=5s", true),
            ("timeout=61s", false),
            ("timeout=", false),
            ("timeout", false),
            ("timeout=1s&timeout=2s", false),
            ("timeout=1s&timeout", false),
        ] {
            assert_eq!(is_timed(Some(query)), expected, "{query}");
        }
        assert!(is_timed(None));
    }

    proptest! {
        #[test]
        fn whatever_the_path_nothing_panics_and_what_is_named_is_part_of_it(path in "(/v1/(kv|locks|txn)?)?.{0,20}") {
            for port in [Port::Application, Port::Status] {
                let route = Route::of(port, &path);
                prop_assert!(path.contains(route.named(&path)));
                prop_assert!(port == Port::Application || route.is_own() || route == Route::Unknown);
                let _ = (decoded(&path), timeout(Some(&path)), parameter(Some(&path), "a"));
            }
        }

        #[test]
        fn bytes_come_back_from_their_encoding_whatever_they_are(bytes in prop::collection::vec(any::<u8>(), 0..50)) {
            let encoded = percent_encoding::percent_encode(&bytes, percent_encoding::NON_ALPHANUMERIC).to_string();
            prop_assert!(!is_broken(&encoded));
            prop_assert_eq!(&decoded(&encoded)[..], &bytes[..]);
        }
    }
}
