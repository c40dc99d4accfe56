//! Quantities with their units.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// An amount of memory: whole MiB, 32 MiB to 64 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemorySize(u32);

/// Why a text is not an amount of memory.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not an amount of memory from 32MB to 64GB, such as \"128MB\"")]
pub struct MemoryError(String);

impl MemorySize {
    const MIN_MIB: u64 = 32;
    const MAX_MIB: u64 = 64 << 10;

    /// An amount in MiB; `None` outside 32 to 65536.
    pub const fn from_mib(mib: u64) -> Option<Self> {
        if mib >= Self::MIN_MIB && mib <= Self::MAX_MIB { Some(Self(mib as u32)) } else { None }
    }

    /// The amount in MiB.
    pub const fn mib(self) -> u32 {
        self.0
    }

    /// The amount in bytes.
    pub const fn bytes(self) -> u64 {
        (self.0 as u64) << 20
    }
}

impl FromStr for MemorySize {
    type Err = MemoryError;

    /// Takes `128MB`, `128MiB`, `128M`, `1GB`, `1GiB`, `1G`; as everywhere in this field, MB means MiB here.
    fn from_str(text: &str) -> Result<Self, MemoryError> {
        let error = || MemoryError(text.chars().take(40).collect());
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let unit = match text[digits.len()..].trim_start() {
            "M" | "MB" | "MiB" => 1,
            "G" | "GB" | "GiB" => 1024,
            _ => return Err(error()),
        };
        let number = whole_number(digits).ok_or_else(error)?;
        number.checked_mul(unit).and_then(Self::from_mib).ok_or_else(error)
    }
}

/// Digits only: the standard library would take a `+`, too.
fn whole_number(digits: &str) -> Option<u64> {
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
}

impl fmt::Display for MemorySize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}MB", self.0))
    }
}

/// How long an invocation may take, from its arrival to the end of its answer: 1 ms to 15 min.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timeout(Duration);

/// Why a text is not a timeout.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a time from 1ms to 15m, such as \"30s\"")]
pub struct TimeoutError(String);

impl Timeout {
    const MAX: Duration = Duration::from_secs(15 * 60);

    /// A timeout; `None` outside 1 ms to 15 min.
    pub fn new(duration: Duration) -> Option<Self> {
        (duration >= Duration::from_millis(1) && duration <= Self::MAX).then_some(Self(duration))
    }

    /// The time itself.
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl FromStr for Timeout {
    type Err = TimeoutError;

    /// Takes whole numbers of `ms`, `s` or `m`.
    fn from_str(text: &str) -> Result<Self, TimeoutError> {
        let error = || TimeoutError(text.chars().take(40).collect());
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let unit_ms = match text[digits.len()..].trim_start() {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            _ => return Err(error()),
        };
        let number = whole_number(digits).ok_or_else(error)?;
        number.checked_mul(unit_ms).and_then(|ms| Self::new(Duration::from_millis(ms))).ok_or_else(error)
    }
}

impl fmt::Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        f.pad(&if ms.is_multiple_of(1000) { format!("{}s", ms / 1000) } else { format!("{ms}ms") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_print_as_they_mean() {
        for (text, mib) in [("32MB", 32), ("128 MiB", 128), ("1G", 1024), ("64GB", 65536)] {
            assert_eq!(text.parse::<MemorySize>().unwrap().mib(), mib, "{text}");
        }
        for wrong in ["", "31MB", "65GB", "128", "-1MB", "+128MB", "1TB", "99999999999999999999GB", "1.5GB"] {
            assert!(wrong.parse::<MemorySize>().is_err(), "{wrong}");
        }
        for (text, means) in [("1ms", "1ms"), ("30s", "30s"), ("15m", "900s"), ("1500 ms", "1500ms")] {
            assert_eq!(text.parse::<Timeout>().unwrap().to_string(), means);
        }
        for wrong in ["", "0s", "16m", "1h", "s", "+1s", "18446744073709551615m"] {
            assert!(wrong.parse::<Timeout>().is_err(), "{wrong}");
        }
    }
}
