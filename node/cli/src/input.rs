//! Reading what the command line names: keys, values, durations, sizes.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use annulus_client::Version;

use crate::args::KeyValue;
use crate::exit::Failure;

/// The bytes of an argument, whatever they are.
pub(crate) fn bytes(argument: &OsStr) -> &[u8] {
    argument.as_bytes()
}

/// Reads a value from an argument, a file, or stdin (`-`). Fails before anything is sent.
pub(crate) fn value(argument: Option<OsString>, file: Option<&Path>, max: u64) -> Result<Vec<u8>, Failure> {
    let value = match (argument, file) {
        (Some(argument), None) if argument == "-" => read(&mut io::stdin().lock(), "stdin", max)?,
        (Some(argument), None) => argument.into_vec(),
        (None, Some(path)) => read_file(path, max)?,
        _ => return Err(Failure::Usage("give one VALUE, or --file FILE, or - to read it from stdin".into())),
    };
    if value.len() as u64 > max { Err(too_large("the value", Some(value.len() as u64), max)) } else { Ok(value) }
}

/// Reads a document from a file, or from stdin (`-`). Fails before anything is sent.
pub(crate) fn document(file: &Path, what: &str, max: u64) -> Result<Vec<u8>, Failure> {
    let read = |from: &mut dyn Read| {
        let mut document = Vec::new();
        from.take(max + 1).read_to_end(&mut document).map(|_| document)
    };
    let document = match file == Path::new("-") {
        true => read(&mut io::stdin().lock()),
        false => File::open(file).and_then(|mut file| read(&mut file)),
    };
    let document = document.map_err(|error| {
        Failure::Usage(format!("{what} can't be read from `{}`: {error}. Nothing was sent.", file.display()))
    })?;
    if document.len() as u64 > max {
        return Err(Failure::Usage(format!("{what} has more than {max} bytes. Nothing was sent.")));
    }
    Ok(document)
}

fn read_file(path: &Path, max: u64) -> Result<Vec<u8>, Failure> {
    let what = format!("the file `{}`", path.display());
    let failed = |error: io::Error| Failure::Usage(format!("{what} can't be read: {error}. Nothing was sent."));
    let mut file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_file() && metadata.len() > max {
        return Err(too_large(&what, Some(metadata.len()), max));
    }
    read(&mut file, &what, max)
}

/// Reads to the end, but never much more than `max`.
fn read(from: &mut dyn Read, what: &str, max: u64) -> Result<Vec<u8>, Failure> {
    let mut value = Vec::new();
    let read = from.take(max + 1).read_to_end(&mut value);
    read.map_err(|error| Failure::Usage(format!("{what} can't be read: {error}. Nothing was sent.")))?;
    if value.len() as u64 > max { Err(too_large(what, None, max)) } else { Ok(value) }
}

fn too_large(what: &str, bytes: Option<u64>, max: u64) -> Failure {
    let has = bytes.map_or_else(|| format!("more than {max}"), |bytes| bytes.to_string());
    Failure::Usage(format!(
        "{what} has {has} bytes, and a value may have {max}. Nothing was sent.\n  If the store is configured for larger \
         values, raise --max-value (up to 8MiB)."
    ))
}

impl FromStr for KeyValue {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Self { key: key.into(), value: value.into() }),
            _ => Err("write KEY=VALUE; for a key with = in it, write a FILE"),
        }
    }
}

/// Reads a key and a version, such as `alice=5`.
pub(crate) fn key_version(text: &str) -> Result<(String, u64), String> {
    let pair = text.rsplit_once('=').and_then(|(key, version)| Some((key, version.parse::<Version>().ok()?)));
    match pair {
        Some((key, version)) if !key.is_empty() => Ok((key.to_owned(), version.0)),
        _ => Err("write KEY=VERSION, such as alice=5".to_owned()),
    }
}

/// Reads a duration such as `500ms`, `30s`, `5m`, `2h` or `1d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    match with_unit(text, &units) {
        Some(ms) if ms > 0 => Ok(Duration::from_millis(ms)),
        _ => Err("write a whole number above 0 with a unit (ms, s, m, h, d), such as 30s".to_owned()),
    }
}

/// Reads a size such as `512B`, `16KiB` or `8MiB`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("B", 1), ("", 1)];
    with_unit(text, &units).ok_or_else(|| "write a whole number with a unit (B, KiB, MiB), such as 8MiB".to_owned())
}

fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = units.iter().find(|(name, _)| *name == unit)?.1;
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_need_a_unit_that_we_know() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("1d"), Ok(Duration::from_secs(86_400)));
        for text in ["", "30", "s", "-1s", "+1s", "1.5s", "1 s", "0s", "99999999999999999999s", "9999999999999999d"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!((size("8MiB"), size("100")), (Ok(8 << 20), Ok(100)));
        assert!(size("8MB").is_err());
    }

    #[test]
    fn a_value_that_is_missing_or_too_large_is_a_usage_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("value");
        let usage = |file: &Path| match value(None, Some(file), 3) {
            Err(Failure::Usage(text)) => text,
            other => panic!("{other:?}"),
        };
        assert!(usage(&path).contains("No such file"));
        assert!(usage(folder.path()).contains("can't be read"));
        std::fs::write(&path, "four").unwrap();
        assert!(usage(&path).contains("4 bytes"));
        // It tells no size of its own, and never ends.
        assert!(usage(Path::new("/dev/zero")).contains("more than 3 bytes"));
        assert_eq!(value(Some("-5".into()), None, 3).unwrap(), b"-5");
        assert!(matches!(value(None, None, 3), Err(Failure::Usage(_))));
    }
}
