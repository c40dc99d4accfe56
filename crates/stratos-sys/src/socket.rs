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
    let info = tcp_info(socket)?;
    Ok(u32::from_ne_bytes(info[SACKED..SACKED + 4].try_into().map_err(io::Error::other)?))
}

/// Whether a TCP connection is open in both directions.
///
/// # Errors
/// When it is no TCP socket.
pub fn is_established(socket: impl AsFd) -> io::Result<bool> {
    const TCP_ESTABLISHED: u8 = 1;
    Ok(tcp_info(socket)?[0] == TCP_ESTABLISHED)
}

/// The beginning of `struct tcp_info`.
fn tcp_info(socket: impl AsFd) -> io::Result<[u8; 104]> {
    let mut info = [0_u8; 104];
    let mut bytes = libc::socklen_t::try_from(info.len()).map_err(io::Error::other)?;
    let (socket, buffer) = (socket.as_fd().as_raw_fd(), info.as_mut_ptr().cast());
    // SAFETY: the buffer and its length live over the call, and the kernel writes no more than that length.
    let got = unsafe { libc::getsockopt(socket, libc::IPPROTO_TCP, libc::TCP_INFO, buffer, &raw mut bytes) };
    if got == 0 { Ok(info) } else { Err(io::Error::last_os_error()) }
}

/// Bytes that were written to a TCP connection and that the other side's kernel has not confirmed (SIOCOUTQ, tcp(7)).
///
/// # Errors
/// When it is no connection.
pub fn unconfirmed_bytes(socket: impl AsFd) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes one integer, which lives over the call. SIOCOUTQ has the number of TIOCOUTQ.
    let failed = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if failed == 0 { u64::try_from(bytes).map_err(io::Error::other) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{Shutdown, TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_tells_how_it_is() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        assert!(!is_established(&listener).unwrap() && is_established(&client).unwrap());
        assert_eq!(unconfirmed_bytes(&client).unwrap(), 0);
        // More than the receiver takes, which does not read.
        client.set_nonblocking(true).unwrap();
        let chunk = [0; 1 << 16];
        while client.write(&chunk).is_ok() {}
        assert!(unconfirmed_bytes(&client).unwrap() > 0);
        server.shutdown(Shutdown::Write).unwrap();
        while is_established(&client).unwrap() {
            std::thread::yield_now();
        }
        assert!(listen_backlog(&listener).unwrap() > 0);
    }
}
