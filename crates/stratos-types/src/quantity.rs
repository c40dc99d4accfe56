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

/// A share of the machine's processors: 0.05 to 1024 CPUs, to the thousandth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuShare(u32);

/// Why a text is not a share of processors.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a number of CPUs from 0.05 to 1024, such as \"0.5\"")]
pub struct CpuShareError(String);

impl CpuShare {
    const MIN_MILLIS: u32 = 50;
    const MAX_MILLIS: u32 = 1024 * 1000;

    /// Thousandths of a CPU; `None` outside 50 to 1,024,000.
    pub const fn from_millis(millis: u32) -> Option<Self> {
        if millis >= Self::MIN_MILLIS && millis <= Self::MAX_MILLIS { Some(Self(millis)) } else { None }
    }

    /// Thousandths of a CPU.
    pub const fn millis(self) -> u32 {
        self.0
    }
}

impl FromStr for CpuShare {
    type Err = CpuShareError;

    /// Takes digits with at most three more behind a point.
    fn from_str(text: &str) -> Result<Self, CpuShareError> {
        let error = || CpuShareError(text.chars().take(40).collect());
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(fraction) || whole.len() > 4 || fraction.len() > 3 {
            return Err(error());
        }
        let millis: u32 = format!("{whole}{fraction:0<3}").parse().map_err(|_| error())?;
        Self::from_millis(millis).ok_or_else(error)
    }
}

impl fmt::Display for CpuShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.0 / 1000, self.0 % 1000);
        let text = format!("{whole}.{fraction:03}");
        f.pad(text.trim_end_matches('0').trim_end_matches('.'))
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
        for (text, means) in
            [("0.05", "0.05"), ("0.5", "0.5"), ("2", "2"), ("10.250", "10.25"), ("1024", "1024")]
        {
            let share: CpuShare = text.parse().unwrap();
            assert_eq!(share.to_string(), means);
            assert_eq!(Some(share), CpuShare::from_millis(share.millis()));
        }
        assert_eq!("1.025".parse::<CpuShare>().unwrap().millis(), 1025);
        for wrong in
            ["", "0", "0.049", "1024.001", ".5", "1.", "-1", "+1", "1e3", "0.0501", "00001", "a", "1,5"]
        {
            assert!(wrong.parse::<CpuShare>().is_err(), "{wrong}");
        }
        for (text, means) in [("1ms", "1ms"), ("30s", "30s"), ("15m", "900s"), ("1500 ms", "1500ms")] {
            assert_eq!(text.parse::<Timeout>().unwrap().to_string(), means);
        }
        for wrong in ["", "0s", "16m", "1h", "s", "+1s", "18446744073709551615m"] {
            assert!(wrong.parse::<Timeout>().is_err(), "{wrong}");
        }
    }
}
