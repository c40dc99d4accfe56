//! Moving the wall clock without a jump.

use std::io;
use std::time::Duration;

/// Corrects the wall clock by at most half a second, slowly (500 ppm), so that it never goes backwards.
///
/// # Errors
/// `EPERM` without CAP_SYS_TIME.
pub fn slew(forwards: bool, by: Duration) -> io::Result<()> {
    // SAFETY: `timex` is a plain C structure for which all zeros is a valid value.
    let mut change: libc::timex = unsafe { std::mem::zeroed() };
    change.modes = libc::ADJ_OFFSET_SINGLESHOT;
    let micros = by.as_micros().min(500_000) as libc::c_long;
    change.offset = if forwards { micros } else { -micros };
    // SAFETY: the call reads and writes the one structure.
    let state = unsafe { libc::adjtimex(&raw mut change) };
    if state < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
