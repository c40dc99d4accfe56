//! Swapping on and off.

use std::ffi::CStr;
use std::io;

/// Lets the kernel swap to a device that carries a swap header.
///
/// # Errors
/// `EINVAL` without a header, `EPERM` without CAP_SYS_ADMIN, `ENOSYS` when the kernel has no swap.
pub fn on(device: &CStr) -> io::Result<()> {
    // SAFETY: the path ends with zero and is only read.
    let failed = unsafe { libc::swapon(device.as_ptr(), 0) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Brings everything back into memory and stops swapping to a device. Takes as long as that takes.
///
/// # Errors
/// `ENOMEM` when memory does not suffice for what is swapped out, `EINVAL` when the device is no swap.
pub fn off(device: &CStr) -> io::Result<()> {
    // SAFETY: the path ends with zero and is only read.
    let failed = unsafe { libc::swapoff(device.as_ptr()) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
