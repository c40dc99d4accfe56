//! Options of sockets that rustix lacks.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Ties a socket to an interface: it sends and receives through that one alone.
///
/// # Errors
/// `ENODEV` when there is none of that name, `EINVAL` for a name of more than 15 bytes.
pub fn bind_to_interface(socket: impl AsFd, interface: &str) -> io::Result<()> {
    let length = interface.len();
    if length >= libc::IFNAMSIZ {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel reads `length` bytes, which the text has.
    let failed = unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            interface.as_ptr().cast(),
            length as libc::socklen_t,
        )
    };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
