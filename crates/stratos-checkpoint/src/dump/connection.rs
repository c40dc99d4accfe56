//! The one connection that a process may have: that on which it waits for an answer. It has sent its request and received
//! nothing, so that another connection to the same address can take its place, with the answer coming unasked.

use std::fs::File;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;

use rustix::net::SocketAddrAny;
use rustix::net::sockopt::{self, Timeout};
use stratos_sys::ptrace::{Registers, Tracee};
use stratos_sys::socket::{is_established, unconfirmed_bytes};

use super::descriptors::Open;
use super::{DumpError, Park, While as _};
use crate::image::{ConnectionOptions, Object};

/// Most descriptors that a poll(2) is looked through for.
const MOST_POLLED: u64 = 1024;

/// A TCP connection, by both its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// The process's own address.
    pub local: SocketAddrV4,
    /// Where it is connected to.
    pub peer: SocketAddrV4,
}

impl Connection {
    /// Whether a socket of the process is this connection.
    pub(super) fn is(&self, socket: &OwnedFd) -> bool {
        let local = rustix::net::getsockname(socket).ok();
        let peer = rustix::net::getpeername(socket).ok().flatten();
        let is = |address: Option<SocketAddrAny>, expected: SocketAddrV4| {
            address.and_then(|address| SocketAddr::try_from(address).ok()) == Some(expected.into())
        };
        is(local, self.local) && is(peer, self.peer)
    }

    /// One of the threads must be waiting to receive on it, and what was sent must have arrived.
    pub(super) fn check_awaited(
        &self,
        numbers: &[u32],
        socket: &OwnedFd,
        stopped: &[Tracee],
        memory: &File,
    ) -> Result<(), DumpError> {
        let during = || "look at its connection".to_owned();
        let refused = |what: &str| DumpError::refused(format!("its connection to {} {what}", self.peer));
        if !is_established(socket).during(during)? {
            return Err(refused("has ended"));
        }
        if rustix::io::ioctl_fionread(socket).map_err(Into::into).during(during)? > 0 {
            return Err(refused("has received bytes that it has not read"));
        }
        let waits = stopped.iter().any(|tracee| waits(tracee.stopped(), numbers, memory));
        // The other side's kernel may take its time to confirm what has arrived.
        match waits && unconfirmed_bytes(socket).during(during)? == 0 {
            true => Ok(()),
            false => Err(DumpError::NotParked { park: Park::Answer(*self) }),
        }
    }

    /// What is written down of it.
    pub(super) fn describe(&self, entry: &Open, socket: &OwnedFd) -> Result<Object, DumpError> {
        let during = || format!("look at its socket {}", entry.number);
        for timeout in [Timeout::Recv, Timeout::Send] {
            if sockopt::socket_timeout(socket, timeout).map_err(Into::into).during(during)?.is_some() {
                return Err(entry.refuse("is a connection with a timeout of its own (SO_RCVTIMEO)"));
            }
        }
        let seconds = |value: rustix::io::Result<std::time::Duration>| {
            value.map(|value| value.as_secs() as u32).map_err(Into::into).during(during)
        };
        let options = ConnectionOptions {
            no_delay: sockopt::tcp_nodelay(socket).map_err(Into::into).during(during)?,
            keep_alive: sockopt::socket_keepalive(socket).map_err(Into::into).during(during)?,
            keep_idle: seconds(sockopt::tcp_keepidle(socket))?,
            keep_interval: seconds(sockopt::tcp_keepintvl(socket))?,
            keep_count: sockopt::tcp_keepcnt(socket).map_err(Into::into).during(during)?,
            user_timeout: sockopt::tcp_user_timeout(socket).map_err(Into::into).during(during)?,
        };
        let flags = (entry.flags() & libc::O_NONBLOCK).cast_unsigned();
        Ok(Object::Connection { local: self.local, peer: self.peer, flags, options })
    }
}

/// Whether a thread was stopped in a call that waits to receive on one of these descriptors, which are the same. When it
/// goes on it makes the call again, or finds that it was interrupted and makes it again by itself (poll(2)).
fn waits(registers: &Registers, numbers: &[u32], memory: &File) -> bool {
    const ERESTARTSYS: i64 = -512;
    const ERESTARTNOHAND: i64 = -514;
    const ERESTART_RESTARTBLOCK: i64 = -516;
    let is_it = |number: u64| u32::try_from(number).is_ok_and(|number| numbers.contains(&number));
    match (registers.orig_rax.cast_signed(), registers.rax.cast_signed()) {
        (libc::SYS_read | libc::SYS_readv | libc::SYS_recvfrom | libc::SYS_recvmsg, ERESTARTSYS) => {
            is_it(registers.rdi)
        }
        (libc::SYS_poll | libc::SYS_ppoll, ERESTARTNOHAND | ERESTART_RESTARTBLOCK)
            if registers.rsi <= MOST_POLLED =>
        {
            let mut polled = vec![0; registers.rsi as usize * size_of::<libc::pollfd>()];
            // What cannot be read now is not awaited.
            memory.read_exact_at(&mut polled, registers.rdi).is_ok()
                && polled.chunks_exact(size_of::<libc::pollfd>()).any(|polled| is_polled(polled, &is_it))
        }
        _ => false,
    }
}

/// `struct pollfd`: the descriptor, then what is asked about it.
fn is_polled(polled: &[u8], is_it: &impl Fn(u64) -> bool) -> bool {
    let number = u32::from_ne_bytes([polled[0], polled[1], polled[2], polled[3]]);
    let events = i16::from_ne_bytes([polled[4], polled[5]]);
    events & libc::POLLIN != 0 && is_it(number.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn registers(call: i64, result: i64, first: u64, second: u64) -> Registers {
        let mut all = stopped_in_nothing();
        (all.orig_rax, all.rax) = (call.cast_unsigned(), result.cast_unsigned());
        (all.rdi, all.rsi) = (first, second);
        all
    }

    fn stopped_in_nothing() -> Registers {
        Registers {
            r15: 0,
            r14: 0,
            r13: 0,
            r12: 0,
            rbp: 0,
            rbx: 0,
            r11: 0,
            r10: 0,
            r9: 0,
            r8: 0,
            rax: 0,
            rcx: 0,
            rdx: 0,
            rsi: 0,
            rdi: 0,
            orig_rax: u64::MAX,
            rip: 0,
            cs: 0,
            eflags: 0,
            rsp: 0,
            ss: 0,
            fs_base: 0,
            gs_base: 0,
            ds: 0,
            es: 0,
            fs: 0,
            gs: 0,
        }
    }

    #[test]
    fn a_thread_waits_only_in_a_call_that_receives_on_it() {
        // Two `struct pollfd` at 16: descriptor 5 to write to, descriptor 9 to read from.
        let mut memory = tempfile::tempfile().unwrap();
        memory.write_all(&[0; 16]).unwrap();
        memory.write_all(&[5, 0, 0, 0, 4, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0]).unwrap();
        let cases = [
            (libc::SYS_recvfrom, -512, 9, 0, 9, true),
            (libc::SYS_read, -512, 9, 0, 9, true),
            (libc::SYS_read, -512, 3, 0, 9, false),
            // It has received something, or was interrupted for good.
            (libc::SYS_recvfrom, 12, 9, 0, 9, false),
            (libc::SYS_recvfrom, -4, 9, 0, 9, false),
            (libc::SYS_sendto, -512, 9, 0, 9, false),
            (libc::SYS_poll, -516, 16, 2, 9, true),
            (libc::SYS_ppoll, -514, 16, 2, 9, true),
            (libc::SYS_poll, -516, 16, 1, 9, false),
            (libc::SYS_poll, -516, 16, 2, 5, false),
            (libc::SYS_poll, -516, 16, 2000, 9, false),
            (libc::SYS_poll, -516, 1 << 40, 2, 9, false),
            (libc::SYS_epoll_wait, -4, 9, 0, 9, false),
        ];
        for (call, result, first, second, number, expected) in cases {
            let registers = registers(call, result, first, second);
            let waits = waits(&registers, &[7, number], &memory);
            assert_eq!(waits, expected, "{call} {result} {first} {second} {number}");
        }
    }
}
