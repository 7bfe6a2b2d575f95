//! Amounts as Kubernetes writes them, as far as sizes of volumes need it.

/// How many bytes a quantity is, rounded up; `None`: it is none.
///
/// Source of the grammar: Kubernetes' `resource.Quantity`. Exponents (`1e3`) are not taken.
pub fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.contains('.') || (number.contains('.') && fraction.is_empty()) {
        return None;
    }
    let (times, divided) = match suffix {
        "" => (1, 1),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1000_u128.pow(2), 1),
        "G" => (1000_u128.pow(3), 1),
        "T" => (1000_u128.pow(4), 1),
        "P" => (1000_u128.pow(5), 1),
        "E" => (1000_u128.pow(6), 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => return None,
    };
    // What is behind the ninth digit is less than a byte of anything that fits.
    let fraction = &fraction[..fraction.len().min(9)];
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let parts = whole.parse::<u128>().ok()?.checked_mul(scale)?;
    let parts = if fraction.is_empty() { parts } else { parts + fraction.parse::<u128>().ok()? };
    u64::try_from(parts.checked_mul(times)?.div_ceil(scale * divided)).ok()
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_are_read_as_kubernetes_reads_them() {
        for (text, size) in [
            ("1", 1),
            ("1k", 1000),
            ("1Ki", 1024),
            ("1.5Gi", 1_610_612_736),
            ("10Gi", 10_737_418_240),
            ("0.5", 1),
            ("1500m", 2),
            ("7Ei", 7 << 60),
        ] {
            assert_eq!(bytes(text), Some(size), "{text}");
        }
        for text in ["", "Gi", "1.", ".5", "1..5", "1.2.3", "-1", "+1", "1e3", "1 Gi", "1gi", "99999999999999999999Ei"]
        {
            assert_eq!(bytes(text), None, "{text}");
        }
    }
}
