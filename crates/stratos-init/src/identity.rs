//! Who the node is: machine id, host name; and its clock before anything is configured.

use std::path::Path;
use std::time::UNIX_EPOCH;

use rustix::rand::{GetRandomFlags, getrandom};

use crate::boot::Node;
use crate::clock;
use crate::error::InitError;
use crate::files;
use crate::phase::Outcome;

/// Where the machine id is kept.
const KEPT: &str = "/var/lib/stratos/machine-id";
/// Where it is read: /etc/machine-id is a link to this.
const SHOWN: &str = "/run/stratos/machine-id";
/// Name of a node that was given none.
const HOSTNAME: &str = "stratos";
/// Seconds since 1970 as the hardware has them.
pub const HARDWARE_CLOCK: &str = "/sys/class/rtc/rtc0/since_epoch";
/// How far the wall clock may be from the hardware's, which has whole seconds.
const TOLERANCE_MS: u64 = 1500;
/// This system was made after it, in ms since 1970: the beginning of 2026. A hardware clock before it has lost its
/// battery.
pub(crate) const EARLIEST_MS: u64 = 1_767_225_600_000;

/// Reads or makes the machine id.
///
/// # Errors
/// When it cannot be kept or shown; it is another one after the next boot then.
pub fn machine_id(_: &mut Node) -> Result<Outcome, InitError> {
    let kept = files::read_value(KEPT).ok().filter(|id| is_machine_id(id));
    let new = kept.is_none();
    let id = match kept {
        Some(id) => id,
        None => new_machine_id()?,
    };
    let text = format!("{id}\n");
    files::folder("/run/stratos")?;
    files::replace(SHOWN, text.as_bytes(), 0o444)?;
    if new {
        files::replace(KEPT, text.as_bytes(), 0o444)?;
    }
    Outcome::done(if new { "made" } else { "kept" })
}

fn is_machine_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// 128 random bits in the form of a random UUID, as machine-id(5) asks for.
fn new_machine_id() -> Result<String, InitError> {
    let mut bytes = [0_u8; 16];
    // Never waits: a kernel whose generator is not seeded yet gives what it has. The id is no secret.
    let got = getrandom(&mut bytes, GetRandomFlags::INSECURE)
        .map_err(|errno| InitError::system("make a machine id", errno))?;
    if got != bytes.len() {
        return Err(InitError::missing("random bytes"));
    }
    let number = u128::from_be_bytes(bytes) & !(0xf << 76) & !(0b11 << 62) | 0x4 << 76 | 0b10 << 62;
    Ok(format!("{number:032x}"))
}

/// Sets the configured host name.
///
/// # Errors
/// What the kernel says.
pub fn hostname(node: &mut Node) -> Result<Outcome, InitError> {
    let name = node.config.hostname.as_deref().unwrap_or(HOSTNAME);
    rustix::system::sethostname(name.as_bytes())
        .map_err(|errno| InitError::system("set the host name", errno))?;
    Outcome::done(name)
}

/// Sets the clock from the hardware's, if the kernel has not; and in no case to a time before this system was built or
/// last ran.
///
/// # Errors
/// When the clock cannot be set.
pub fn wall_clock(_: &mut Node) -> Result<Outcome, InitError> {
    let modified = |path: &str| {
        let time = std::fs::metadata(path).ok()?.modified().ok()?;
        u64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
    };
    let built = modified("/etc/os-release").unwrap_or(0).max(EARLIEST_MS);
    let hardware = hardware_ms();
    let floor = match hardware {
        // A clock that stands in the future once must not do so for ever: the hardware's is believed.
        Some(hardware) if hardware >= built => built,
        _ => modified("/var/lib/stratos/boots").unwrap_or(0).max(built),
    };
    match corrected(clock::wall_ms(), hardware, floor) {
        Some(ms) => {
            clock::set_wall_ms(ms)?;
            Outcome::done(format!("set to {}", clock::rfc3339(ms)))
        }
        None if hardware.is_some() => Outcome::done("the kernel has set it"),
        None => Outcome::skipped("there is no hardware clock"),
    }
}

/// The hardware's clock, if there is one.
pub fn hardware_ms() -> Option<u64> {
    files::read_value(Path::new(HARDWARE_CLOCK)).ok()?.parse::<u64>().ok()?.checked_mul(1000)
}

/// What the wall clock has to be set to, if it has to be.
fn corrected(wall: u64, hardware: Option<u64>, floor: u64) -> Option<u64> {
    let right = hardware.filter(|hardware| hardware.abs_diff(wall) > TOLERANCE_MS).unwrap_or(wall).max(floor);
    (right != wall).then_some(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_id_is_random_and_of_the_right_form() {
        let id = new_machine_id().unwrap();
        assert!(is_machine_id(&id), "{id}");
        assert_eq!(&id[12..13], "4");
        assert!(matches!(&id[16..17], "8" | "9" | "a" | "b"), "{id}");
        assert_ne!(id, new_machine_id().unwrap());
        for wrong in ["", "0123", &"A".repeat(32), &"g".repeat(32)] {
            assert!(!is_machine_id(wrong));
        }
    }

    #[test]
    fn the_clock_follows_the_hardware_and_never_goes_before_the_build() {
        assert_eq!(corrected(5_000, None, 0), None);
        assert_eq!(corrected(5_000, None, 9_000), Some(9_000));
        assert_eq!(corrected(5_000, Some(6_000), 0), None);
        assert_eq!(corrected(5_000, Some(60_000), 0), Some(60_000));
        assert_eq!(corrected(60_000, Some(5_000), 0), Some(5_000));
        assert_eq!(corrected(5_000, Some(60_000), 90_000), Some(90_000));
    }
}
