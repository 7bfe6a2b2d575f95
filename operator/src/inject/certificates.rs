//! What is to be done about the webhook's certificates. Pure: what there is and the time in, one step out.
//!
//! ```text
//!  no Secret ──Begin──▶ an authority ──Trust──▶ the API server trusts it ──Issue──▶ it serves ──┐
//!                           ▲                                                     ▲             │ after 2/3
//!                           └────────────── Begin: one more authority ──── Issue ─┴─────────────┘
//! ```
//!
//! No certificate is issued by an authority that the API server does not trust yet, and none is forgotten while what it has signed may
//! still be served: at every step, what each replica serves is trusted.

use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

/// For how long an authority is valid.
pub const AUTHORITY_S: i64 = 10 * 365 * 24 * 3600;
/// For how long a certificate is.
pub const SERVING_S: i64 = 90 * 24 * 3600;
/// Both are valid from so long ago: clocks differ.
pub const BACKDATED_S: i64 = 3600;
/// API servers hear of a changed configuration within a second or two; until then nothing is served that they can't know.
pub const HEARD_S: i64 = 10;
/// Every replica has heard of a new certificate by then.
const SERVED_S: i64 = 3600;
/// However settled it is, it is looked at again: clocks are set, and machines sleep.
const LOOK_S: i64 = 3600;
/// Authorities that are trusted beside the newest. More are somebody else's, or of replacements that were broken off.
const OLD_AUTHORITIES: usize = 3;

/// A certificate, in DER.
pub type Der = Vec<u8>;

/// What is kept in the Secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// Authorities, the newest first.
    pub authorities: Vec<Der>,
    /// Whether the newest one's key is there and belongs to it.
    pub has_key: bool,
    /// What is served; `None`: nothing, or nothing that could be.
    pub serving: Option<Der>,
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make an authority, and keep these beside it.
    Begin {
        /// Authorities whose certificates may still be served.
        beside: Vec<Der>,
    },
    /// Have the API server trust all authorities that are kept, and no other.
    Trust,
    /// Have the newest authority issue what is served.
    Issue,
    /// Keep only the newest authority.
    Forget,
    /// Nothing, for so many seconds.
    Wait(i64),
}

/// What is to be done. `trusted` is what each webhook's configuration has as its `caBundle`; `trusted_for_s` for how long it has been
/// seen to be all that is kept; `names` those that the certificate has to be for.
pub fn decide(kept: Option<&Kept>, trusted: &[Vec<Der>], trusted_for_s: i64, now_s: i64, names: &[String]) -> Step {
    let of_configuration = || trusted.iter().flatten();
    let Some(kept) = kept else { return begin(of_configuration(), now_s) };
    let newest = kept.authorities.first().filter(|newest| kept.has_key && is_authority(newest, now_s));
    let Some(newest) = newest else {
        return begin(kept.authorities.iter().chain(of_configuration()), now_s);
    };
    if trusted.iter().any(|bundle| *bundle != kept.authorities) {
        return Step::Trust;
    }
    let serving = kept.serving.as_ref().filter(|serving| is_served_well(serving, newest, now_s, names));
    let Some(serving) = serving else {
        // Where there is another authority, something of it may be served, and something that only some API servers trust would be worse.
        let wait = HEARD_S - trusted_for_s;
        return if kept.authorities.len() > 1 && wait > 0 { Step::Wait(wait) } else { Step::Issue };
    };
    let Some((serving_due_s, issued_s)) = due(serving).zip(valid(serving).map(|(from, _)| from + BACKDATED_S)) else {
        return Step::Issue;
    };
    let authority_due_s = due(newest).unwrap_or(now_s);
    if now_s >= authority_due_s {
        return begin(kept.authorities.iter(), now_s);
    }
    if now_s >= serving_due_s {
        return Step::Issue;
    }
    let forget_s = issued_s + SERVED_S;
    match kept.authorities.len() {
        1 => {}
        _ if now_s >= forget_s => return Step::Forget,
        _ => return Step::Wait((forget_s - now_s).clamp(1, LOOK_S)),
    }
    Step::Wait((serving_due_s.min(authority_due_s) - now_s).clamp(1, LOOK_S))
}

fn begin<'a>(known: impl Iterator<Item = &'a Der>, now_s: i64) -> Step {
    let mut beside: Vec<Der> = Vec::new();
    for authority in known.filter(|authority| is_authority(authority, now_s)) {
        if beside.len() < OLD_AUTHORITIES && !beside.contains(authority) {
            beside.push(authority.clone());
        }
    }
    Step::Begin { beside }
}

/// From when and until when a certificate is valid, in seconds since 1970.
fn valid(certificate: &Der) -> Option<(i64, i64)> {
    let (_, read) = X509Certificate::from_der(certificate).ok()?;
    Some((read.validity().not_before.timestamp(), read.validity().not_after.timestamp()))
}

/// When another one is to be made: after two thirds of its time.
fn due(certificate: &Der) -> Option<i64> {
    valid(certificate).map(|(from, until)| from + (until - from) / 3 * 2)
}

fn is_valid(read: &X509Certificate<'_>, now_s: i64) -> bool {
    (read.validity().not_before.timestamp()..read.validity().not_after.timestamp()).contains(&now_s)
}

fn is_authority(certificate: &Der, now_s: i64) -> bool {
    let Ok((_, read)) = X509Certificate::from_der(certificate) else { return false };
    is_valid(&read, now_s) && read.is_ca()
}

/// Whether what is served is valid, by the newest authority, and for all these names.
fn is_served_well(serving: &Der, newest: &Der, now_s: i64, names: &[String]) -> bool {
    let (Ok((_, read)), Ok((_, authority))) = (X509Certificate::from_der(serving), X509Certificate::from_der(newest))
    else {
        return false;
    };
    let extensions = read.extensions().iter().filter_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(alternative) => Some(&alternative.general_names),
        _ => None,
    });
    let found: Vec<&str> = extensions
        .flatten()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(*name),
            _ => None,
        })
        .collect();
    is_valid(&read, now_s)
        && names.iter().all(|name| found.contains(&name.as_str()))
        && read.verify_signature(Some(authority.public_key())).is_ok()
}

/// The certificates of a text in PEM; what is none is passed over.
pub fn read_pem(text: &[u8]) -> Vec<Der> {
    let blocks = Pem::iter_from_buffer(text).map_while(Result::ok);
    blocks.filter(|block| block.label == "CERTIFICATE").map(|block| block.contents).collect()
}
