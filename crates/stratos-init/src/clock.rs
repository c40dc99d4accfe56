//! Times: since the kernel started, and on the wall.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use crate::error::InitError;

/// Microseconds since the kernel started, sleep included.
pub fn boot_us() -> u64 {
    micros(clock_gettime(ClockId::Boottime))
}

/// Time since the kernel started: what deadlines are counted in.
pub fn now() -> Duration {
    Duration::from_micros(boot_us())
}

/// Milliseconds since 1970 on the wall clock, as far as it is right.
pub fn wall_ms() -> u64 {
    micros(clock_gettime(ClockId::Realtime)) / 1000
}

/// Sets the wall clock.
///
/// # Errors
/// Without CAP_SYS_TIME, or for a time that the kernel cannot represent.
pub fn set_wall_ms(ms: u64) -> Result<(), InitError> {
    let seconds = i64::try_from(ms / 1000).unwrap_or(i64::MAX);
    let time = Timespec { tv_sec: seconds, tv_nsec: (ms % 1000 * 1_000_000) as _ };
    clock_settime(ClockId::Realtime, time).map_err(|errno| InitError::system("set the clock", errno))
}

fn micros(time: Timespec) -> u64 {
    u64::try_from(time.tv_sec).unwrap_or(0).saturating_mul(1_000_000) + (time.tv_nsec as u64) / 1000
}

/// A time on the wall as RFC 3339 with milliseconds, UTC.
pub fn rfc3339(ms: u64) -> String {
    let (days, day_ms) = (ms / 86_400_000, ms % 86_400_000);
    let (year, month, day) = civil(days);
    let (seconds, millis) = (day_ms / 1000, day_ms % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Year, month and day of a number of days since 1970 (proleptic Gregorian calendar; the year begins in March here, so
/// that the leap day is its last).
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days.saturating_add(719_468);
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_calendar_has_them() {
        for (ms, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_001, "2024-02-29T23:59:59.001Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(ms), expected);
        }
    }

    #[test]
    fn time_since_the_kernel_started_goes_on() {
        let first = boot_us();
        assert!(first > 0 && boot_us() >= first);
    }
}
