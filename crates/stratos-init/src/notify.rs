//! Readiness as sd_notify(3) tells it: `READY=1` to a datagram socket, with the sender's id from the kernel.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::Pid;

use crate::error::InitError;

/// Where services tell.
pub const SOCKET: &str = "/run/stratos/notify";
/// Longest message.
const LONGEST: usize = 4096;

/// Opens the socket; for root alone.
///
/// # Errors
/// When it cannot be made.
pub fn open(path: &Path) -> Result<OwnedFd, InitError> {
    drop(std::fs::remove_file(path));
    let open = || {
        let socket = UnixDatagram::bind(path)?;
        socket.set_nonblocking(true)?;
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        rustix::net::sockopt::set_socket_passcred(&socket, true)?;
        Ok(OwnedFd::from(socket))
    };
    open().map_err(|source: std::io::Error| InitError::file("make", path, source))
}

/// The next message: who sent it, and whether it says `READY=1`. `None` when there is none.
pub fn receive(socket: &OwnedFd) -> Option<(Pid, bool)> {
    let mut bytes = [0; LONGEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let got = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags).ok()?;
    let sender = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmCredentials(credentials) => Some(credentials.pid),
        _ => None,
    })?;
    Some((sender, says_ready(bytes.get(..got.bytes)?)))
}

fn says_ready(message: &[u8]) -> bool {
    message.split(|byte| *byte == b'\n').any(|line| line == b"READY=1")
}

/// Tells PID 1 that this process is ready, when it was started to do so.
///
/// # Errors
/// When PID 1 does not listen.
pub fn ready() -> Result<(), InitError> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let send = || UnixDatagram::unbound()?.send_to(b"READY=1\n", &path).map(drop);
    send().map_err(|source| InitError::system("tell PID 1", source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_who_is_ready() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = open(&path).unwrap();
        assert_eq!(receive(&socket), None);
        let sender = UnixDatagram::unbound().unwrap();
        sender.send_to(b"STATUS=warming\n", &path).unwrap();
        sender.send_to(b"STATUS=up\nREADY=1", &path).unwrap();
        let own = rustix::process::getpid();
        assert_eq!(receive(&socket), Some((own, false)));
        assert_eq!(receive(&socket), Some((own, true)));
        assert_eq!(receive(&socket), None);
    }

    #[test]
    fn only_the_whole_line_counts() {
        for (message, expected) in [
            (&b"READY=1"[..], true),
            (b"X=1\nREADY=1\n", true),
            (b"READY=10", false),
            (b"", false),
            (b"NOT_READY=1", false),
        ] {
            assert_eq!(says_ready(message), expected);
        }
    }
}
