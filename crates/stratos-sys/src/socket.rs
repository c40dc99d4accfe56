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

/// How many connections may wait on a listening TCP socket (the argument of listen(2)). The kernel tells it in a field of
/// `struct tcp_info` that means something else for a connection.
///
/// # Errors
/// When it is no TCP socket.
pub fn listen_backlog(socket: impl AsFd) -> io::Result<u32> {
    // Eight single bytes and five words come before tcpi_sacked.
    const SACKED: usize = 8 + 5 * 4;
    let mut info = [0_u8; 104];
    let mut bytes = libc::socklen_t::try_from(info.len()).map_err(io::Error::other)?;
    let (socket, buffer) = (socket.as_fd().as_raw_fd(), info.as_mut_ptr().cast());
    // SAFETY: the buffer and its length live over the call, and the kernel writes no more than that length.
    let got = unsafe { libc::getsockopt(socket, libc::IPPROTO_TCP, libc::TCP_INFO, buffer, &raw mut bytes) };
    match got {
        0 => Ok(u32::from_ne_bytes(info[SACKED..SACKED + 4].try_into().map_err(io::Error::other)?)),
        _ => Err(io::Error::last_os_error()),
    }
}
