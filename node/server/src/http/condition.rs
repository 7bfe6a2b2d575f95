//! `If-Match` and `If-None-Match`, read into what they mean here. Entity tags are versions: `"17"`.

use annulus_core::partition::Condition;

use super::problem::{Kind, Problem};

/// The condition of a write.
pub(super) fn of_write(if_match: Option<&[u8]>, if_none_match: Option<&[u8]>) -> Result<Condition, Problem> {
    match (if_match, if_none_match) {
        (None, None) => Ok(Condition::Always),
        (Some(b"*"), None) => Ok(Condition::Exists),
        (Some(tag), None) => version(tag)
            .map(Condition::Version)
            .ok_or_else(|| refuse("`If-Match` of a write is `*` or one version in double quotes, such as \"17\"")),
        (None, Some(b"*")) => Ok(Condition::Absent),
        (None, Some(_)) => Err(refuse("`If-None-Match` of a write can only be `*`")),
        (Some(_), Some(_)) => Err(refuse("a write takes one of `If-Match` and `If-None-Match`, not both")),
    }
}

/// Which versions a read is not interested in, because the client has them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Known {
    /// None: no header.
    Nothing,
    /// Any version.
    Anything,
    /// These.
    Versions(Vec<u64>),
}

impl Known {
    /// Whether the client has this version already.
    pub(super) fn has(&self, version: u64) -> bool {
        match self {
            Self::Nothing => false,
            Self::Anything => true,
            Self::Versions(versions) => versions.contains(&version),
        }
    }
}

/// The condition of a read. A tag that is well-formed but no version of ours matches nothing.
pub(super) fn of_read(if_match: Option<&[u8]>, if_none_match: Option<&[u8]>) -> Result<Known, Problem> {
    if if_match.is_some() {
        return Err(refuse("a read takes `If-None-Match`, not `If-Match`"));
    }
    match if_none_match {
        None => Ok(Known::Nothing),
        Some(b"*") => Ok(Known::Anything),
        Some(list) => tags(list)
            .map(Known::Versions)
            .ok_or_else(|| refuse("`If-None-Match` is `*` or a list of versions in double quotes, such as \"17\"")),
    }
}

fn refuse(detail: &'static str) -> Problem {
    Problem::new(Kind::InvalidCondition, detail)
}

fn version(tag: &[u8]) -> Option<u64> {
    let digits = tag.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    plain.then(|| std::str::from_utf8(digits).ok()?.parse().ok()).flatten()
}

fn tags(list: &[u8]) -> Option<Vec<u64>> {
    let mut versions = Vec::new();
    for tag in list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
        // Reads compare weakly (RFC 9110, 13.1.2), so a weak tag is as good as a strong one.
        let tag = tag.strip_prefix(b"W/").unwrap_or(tag);
        let quoted = tag.len() >= 2 && tag.starts_with(b"\"") && tag.ends_with(b"\"");
        if !quoted {
            return None;
        }
        versions.extend(version(tag));
    }
    Some(versions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_conditional_on_one_version_on_any_or_on_none() {
        assert_eq!(of_write(None, None).unwrap(), Condition::Always);
        assert_eq!(of_write(Some(b"\"17\""), None).unwrap(), Condition::Version(17));
        assert_eq!(of_write(Some(b"*"), None).unwrap(), Condition::Exists);
        assert_eq!(of_write(None, Some(b"*")).unwrap(), Condition::Absent);
    }

    #[test]
    fn a_condition_that_cannot_be_kept_is_refused_and_never_dropped() {
        for tag in
            ["17", "\"\"", "\"x\"", "\"-1\"", "\"+1\"", "W/\"17\"", "\"1\", \"2\"", "\"18446744073709551616\"", ""]
        {
            assert!(of_write(Some(tag.as_bytes()), None).is_err(), "{tag}");
        }
        assert!(of_write(None, Some(b"\"17\"")).is_err());
        assert!(of_write(Some(b"*"), Some(b"*")).is_err());
        assert!(of_read(Some(b"\"1\""), None).is_err());
        assert!(of_read(None, Some(b"1")).is_err());
        assert!(of_read(None, Some(b"\"")).is_err());
    }

    #[test]
    fn a_read_names_the_versions_that_the_client_has() {
        let known = of_read(None, Some(b"\"17\", W/\"18\" ,\"other\"")).unwrap();
        assert_eq!(known, Known::Versions(vec![17, 18]));
        assert!(known.has(17) && !known.has(19));
        assert!(of_read(None, Some(b"*")).unwrap().has(1));
        assert!(!of_read(None, None).unwrap().has(1));
    }
}
