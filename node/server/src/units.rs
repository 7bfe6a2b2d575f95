//! Durations and sizes as people write them: `30s`, `64MiB`. A number without a unit is refused, because everybody
//! reads another unit into it.

use std::time::Duration;

/// Why a text is not a duration or a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It does not begin with a whole number.
    #[error("it must be a whole number with a unit, such as {example}")]
    NoNumber {
        /// One that is right.
        example: &'static str,
    },
    /// A number, and no unit.
    #[error("a unit is missing; write one of {units} after the number, such as {example}")]
    NoUnit {
        /// The units there are.
        units: &'static str,
        /// One that is right.
        example: &'static str,
    },
    /// A unit that is not one.
    #[error("the unit is unknown; the units are {units}")]
    UnknownUnit {
        /// The units there are.
        units: &'static str,
    },
    /// More than fits into 64 bits.
    #[error("the number is too large")]
    TooLarge,
}

/// The units of durations.
pub const DURATION_UNITS: &str = "ms, s, m, h, d";
/// The units of sizes.
pub const SIZE_UNITS: &str = "B, KiB, MiB, GiB";

/// Reads a duration such as `500ms`, `30s`, `5m`, `2h`, `1d`.
pub fn duration(text: &str) -> Result<Duration, Error> {
    let table = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    number_with_unit(text, &table, DURATION_UNITS, "30s").map(Duration::from_millis)
}

/// Reads a size in bytes such as `512B`, `16KiB`, `64MiB`, `1GiB`.
pub fn size(text: &str) -> Result<u64, Error> {
    let table = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    number_with_unit(text, &table, SIZE_UNITS, "64MiB")
}

/// Writes a duration in the largest unit that loses nothing. What is below a millisecond is dropped.
pub fn write_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];
    let unit = units.into_iter().find(|(_, size)| millis > 0 && millis.is_multiple_of(*size)).unwrap_or(("ms", 1));
    format!("{}{}", millis / unit.1, unit.0)
}

/// Writes a size in the largest unit that loses nothing.
pub fn write_size(bytes: u64) -> String {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let unit = units.into_iter().find(|(_, size)| bytes > 0 && bytes.is_multiple_of(*size)).unwrap_or(("B", 1));
    format!("{}{}", bytes / unit.1, unit.0)
}

fn number_with_unit(
    text: &str,
    table: &[(&str, u64)],
    units: &'static str,
    example: &'static str,
) -> Result<u64, Error> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(Error::NoNumber { example });
    }
    if unit.is_empty() {
        return Err(Error::NoUnit { units, example });
    }
    let (_, factor) = table.iter().find(|(name, _)| *name == unit).ok_or(Error::UnknownUnit { units })?;
    let number: u64 = number.parse().map_err(|_| Error::TooLarge)?;
    number.checked_mul(*factor).ok_or(Error::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_read_with_their_unit_and_written_back() {
        for (text, millis) in [("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("2h", 7_200_000), ("0ms", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)));
            assert_eq!(write_duration(Duration::from_millis(millis)), text);
        }
        for (text, bytes) in [("512B", 512), ("16KiB", 16384), ("64MiB", 64 << 20), ("1GiB", 1 << 30), ("0B", 0)] {
            assert_eq!(size(text), Ok(bytes));
            assert_eq!(write_size(bytes), text);
        }
    }

    #[test]
    fn what_is_not_a_number_with_a_unit_is_refused_by_its_fault() {
        assert_eq!(duration("30"), Err(Error::NoUnit { units: DURATION_UNITS, example: "30s" }));
        for text in ["", "s", "-1s", "+1s", "NaN", " 1s", "0x1s"] {
            assert!(matches!(duration(text), Err(Error::NoNumber { .. } | Error::UnknownUnit { .. })), "{text}");
        }
        for text in ["1.5s", "1 s", "1S", "1sec", "1s1s"] {
            assert!(matches!(duration(text), Err(Error::UnknownUnit { .. })), "{text}");
        }
        assert_eq!(duration("18446744073709551616ms"), Err(Error::TooLarge));
        assert_eq!(duration("18446744073709551615d"), Err(Error::TooLarge));
        assert!(matches!(size("64MB"), Err(Error::UnknownUnit { .. })));
        assert!(matches!(size("64"), Err(Error::NoUnit { .. })));
    }
}
