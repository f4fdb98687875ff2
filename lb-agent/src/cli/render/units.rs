//! Numbers as people read them.

use std::time::Duration;

/// A duration by its two largest units: `3m12s`, `2h5m`, `4d1h`, `850ms`.
#[must_use]
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds == 0 && !duration.is_zero() {
        return format!("{}ms", duration.as_millis());
    }
    let (large, large_unit, small, small_unit) = match seconds {
        0..60 => return format!("{seconds}s"),
        60..3_600 => (seconds / 60, 'm', seconds % 60, 's'),
        3_600..86_400 => (seconds / 3_600, 'h', seconds % 3_600 / 60, 'm'),
        _ => (seconds / 86_400, 'd', seconds % 86_400 / 3_600, 'h'),
    };
    if small == 0 {
        format!("{large}{large_unit}")
    } else {
        format!("{large}{large_unit}{small}{small_unit}")
    }
}

/// [`duration`] of a number of seconds.
#[must_use]
pub fn seconds(seconds: u64) -> String {
    duration(Duration::from_secs(seconds))
}

/// Bytes by powers of 1024: `512 B`, `4.0 KiB`, `48.0 MiB`.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut unit, mut name) = (1024_u64, "KiB");
    for larger in ["MiB", "GiB"] {
        if bytes / unit >= 1024 {
            unit = unit.saturating_mul(1024);
            name = larger;
        }
    }
    let tenths = bytes.saturating_mul(10) / unit;
    format!("{}.{} {name}", tenths / 10, tenths % 10)
}

/// A fraction as a percentage with one digit: `33.5 %`.
#[must_use]
pub fn percent(fraction: f64) -> String {
    format!("{:.1} %", fraction * 100.0)
}

/// Seconds since the Unix epoch as RFC 3339 in UTC.
#[must_use]
pub fn timestamp(unix_seconds: u64) -> String {
    let (days, rest) = (unix_seconds / 86_400, unix_seconds % 86_400);
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        rest / 3_600,
        rest % 3_600 / 60,
        rest % 60
    )
}

/// Year, month and day of a number of days since 1970-01-01 (Gregorian).
fn civil(days: u64) -> (u64, u64, u64) {
    let mut days = days;
    let mut year = 1970;
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

const fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most() {
        for (milliseconds, expected) in [
            (0, "0s"),
            (850, "850ms"),
            (59_000, "59s"),
            (60_000, "1m"),
            (192_000, "3m12s"),
            (7_500_000, "2h5m"),
            (349_200_000, "4d1h"),
        ] {
            assert_eq!(duration(Duration::from_millis(milliseconds)), expected);
        }
    }

    #[test]
    fn sizes_have_binary_units() {
        for (size, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (4096, "4.0 KiB"),
            (50_331_648, "48.0 MiB"),
            (3_221_225_472, "3.0 GiB"),
            (5_497_558_138_880, "5120.0 GiB"),
        ] {
            assert_eq!(bytes(size), expected);
        }
    }

    #[test]
    fn timestamps_are_utc() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_827_696, "2000-02-29T12:34:56Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (1_767_225_600, "2026-01-01T00:00:00Z"),
        ] {
            assert_eq!(timestamp(seconds), expected);
        }
    }
}
