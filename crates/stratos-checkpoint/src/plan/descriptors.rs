//! Opening again what was open.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::net::SocketAddr;

use stratos_restorer::abi::{self, Call};

use super::{Arena, call};
use crate::image::{ConnectionOptions, Descriptor, Object};

const RESOLVE_NO_MAGICLINKS: u64 = 2;
const RESOLVE_NO_SYMLINKS: u64 = 4;
const AT_FDCWD: u64 = -100_i64 as u64;
/// Where a new descriptor waits to be moved to its number: it is above all those of the process.
const PARKED: u64 = 520;

/// The calls that open the descriptors of an image, in a process whose descriptors `0..inherited` are open and no others
/// below [`abi::TARGET_FDS`].
pub(super) fn reopen(descriptors: &[Descriptor], inherited: u32, arena: &mut Arena) -> Vec<Call> {
    let mut plan = Plan { arena, calls: Vec::new(), pairs: BTreeMap::new() };
    for number in 0..inherited {
        if !descriptors.iter().any(|d| d.number == number && d.object == Object::Inherited) {
            plan.calls.push(call(libc::SYS_close, [u64::from(number)]));
        }
    }
    for descriptor in descriptors {
        plan.open(descriptor, descriptors);
    }
    // What is registered is open by now, with a higher number than the epoll's own perhaps.
    for descriptor in descriptors {
        if let Object::Epoll { entries } = &descriptor.object {
            entries.iter().for_each(|entry| plan.register(descriptor.number, *entry));
        }
    }
    plan.calls
}

struct Plan<'a> {
    arena: &'a mut Arena,
    calls: Vec<Call>,
    /// The first end of each pipe and pair that was seen.
    pairs: BTreeMap<(bool, u32), u32>,
}

impl Plan<'_> {
    fn open(&mut self, descriptor: &Descriptor, all: &[Descriptor]) {
        match &descriptor.object {
            Object::Inherited => self.flags_of_inherited(descriptor),
            Object::Duplicate { of } => {
                self.calls.push(call(
                    libc::SYS_dup3,
                    [u64::from(*of), u64::from(descriptor.number), close_on_exec(descriptor)],
                ));
            }
            Object::File { path, flags, position } => {
                let path = self.text(path);
                // It is the path of what was open, not of a link to it, and must not become one: this is not done with the
                // program's own privileges (`struct open_how` of openat2(2)).
                let how =
                    self.arena.words(&[u64::from(*flags), 0, RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS]);
                self.calls.push(call(libc::SYS_openat2, [AT_FDCWD, path, how, 24]).keep(0));
                self.place(descriptor);
                if *position > 0 {
                    let number = u64::from(descriptor.number);
                    self.calls.push(call(libc::SYS_lseek, [number, *position, 0]).exact(*position));
                }
            }
            Object::EventFd { count, flags } => {
                self.calls.push(call(libc::SYS_eventfd2, [*count, u64::from(*flags)]).keep(0));
                self.place(descriptor);
            }
            Object::Epoll { .. } => {
                self.calls.push(call(libc::SYS_epoll_create1, [0]).keep(0));
                self.place(descriptor);
            }
            Object::Pipe { pipe, .. } => {
                if let Some(other) = self.other_end(true, *pipe, descriptor.number, all) {
                    self.pipe(descriptor, other);
                }
            }
            Object::SocketPair { pair, socket_type, .. } => {
                if let Some(other) = self.other_end(false, *pair, descriptor.number, all) {
                    self.socket_pair(descriptor, other, *socket_type);
                }
            }
            Object::Listener { .. } => self.listener(descriptor),
            Object::Connection { .. } => self.connection(descriptor),
        }
    }

    /// Those that are given to it are not closed on exec, unless the program had it otherwise.
    fn flags_of_inherited(&mut self, descriptor: &Descriptor) {
        if descriptor.close_on_exec {
            let number = u64::from(descriptor.number);
            self.calls.push(call(libc::SYS_fcntl, [number, libc::F_SETFD as u64, libc::FD_CLOEXEC as u64]));
        }
    }

    /// The descriptor of the other end, when this one is the first of the two.
    fn other_end<'d>(
        &mut self,
        pipe: bool,
        id: u32,
        number: u32,
        all: &'d [Descriptor],
    ) -> Option<&'d Descriptor> {
        if self.pairs.insert((pipe, id), number).is_some() {
            return None;
        }
        all.iter().find(|d| {
            d.number != number
                && match d.object {
                    Object::Pipe { pipe: other, .. } => pipe && other == id,
                    Object::SocketPair { pair: other, .. } => !pipe && other == id,
                    _ => false,
                }
        })
    }

    /// Moves the descriptor in slot 0 to its number. It goes by way of a number that is out of the way, for it might have
    /// its own number already, and dup3 refuses that.
    fn place(&mut self, descriptor: &Descriptor) {
        self.place_from(0, descriptor);
    }

    fn place_from(&mut self, slot: usize, descriptor: &Descriptor) {
        let number = u64::from(descriptor.number);
        self.calls.push(call(libc::SYS_dup3, [0, PARKED, 0]).with(0, slot));
        self.calls.push(call(libc::SYS_close, [0]).with(0, slot));
        self.calls.push(call(libc::SYS_dup3, [PARKED, number, close_on_exec(descriptor)]));
    }

    /// Two ends that the kernel writes to memory.
    fn both(&mut self, make: Call, scratch: u64, first: &Descriptor, second: &Descriptor) {
        self.calls.push(make);
        self.calls.push(Call::new(abi::LOAD, [scratch, 0, 0, 0, 0, 0]).keep(0));
        self.calls.push(Call::new(abi::LOAD, [scratch + 4, 0, 0, 0, 0, 0]).keep(1));
        // The second goes out of the way first: its number may be the one that the first is to have.
        self.calls.push(call(libc::SYS_dup3, [0, PARKED + 1, 0]).with(0, 1));
        self.calls.push(call(libc::SYS_close, [0]).with(0, 1));
        self.place_from(0, first);
        let number = u64::from(second.number);
        self.calls.push(call(libc::SYS_dup3, [PARKED + 1, number, close_on_exec(second)]));
        self.calls.push(call(libc::SYS_close, [PARKED + 1]));
    }

    fn pipe(&mut self, one: &Descriptor, other: &Descriptor) {
        let writes = |d: &Descriptor| matches!(d.object, Object::Pipe { flags, .. } if flags & 3 == 1);
        let (read, write) = if writes(one) { (other, one) } else { (one, other) };
        let scratch = self.arena.words(&[0]);
        self.both(call(libc::SYS_pipe2, [scratch, 0]), scratch, read, write);
        for end in [read, write] {
            let Object::Pipe { flags, contents, .. } = &end.object else { continue };
            if !contents.is_empty() {
                let bytes = contents.len() as u64;
                let contents = self.arena.put(contents);
                let number = u64::from(write.number);
                self.calls.push(call(libc::SYS_write, [number, contents, bytes]).exact(bytes));
            }
            self.status_flags(end.number, *flags);
        }
    }

    fn socket_pair(&mut self, one: &Descriptor, other: &Descriptor, socket_type: u32) {
        let scratch = self.arena.words(&[0]);
        let make = call(libc::SYS_socketpair, [libc::AF_UNIX as u64, u64::from(socket_type), 0, scratch]);
        self.both(make, scratch, one, other);
        for end in [one, other] {
            if let Object::SocketPair { flags, .. } = end.object {
                self.status_flags(end.number, flags);
            }
        }
    }

    fn status_flags(&mut self, number: u32, flags: u32) {
        let settable = (libc::O_NONBLOCK | libc::O_APPEND | libc::O_DIRECT).cast_unsigned();
        if flags & settable != 0 {
            let set = u64::from(flags & settable);
            self.calls.push(call(libc::SYS_fcntl, [u64::from(number), libc::F_SETFL as u64, set]));
        }
    }

    fn listener(&mut self, descriptor: &Descriptor) {
        let Object::Listener { address, backlog, flags, only_v6, reuse_address, reuse_port } =
            &descriptor.object
        else {
            return;
        };
        let number = u64::from(descriptor.number);
        let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let nonblock = u64::from(flags & libc::O_NONBLOCK.cast_unsigned());
        self.calls
            .push(call(libc::SYS_socket, [family as u64, libc::SOCK_STREAM as u64 | nonblock, 0]).keep(0));
        self.place(descriptor);
        let one = self.arena.put(&1_u32.to_le_bytes());
        let zero = self.arena.put(&0_u32.to_le_bytes());
        let mut set = |level: i32, name: i32, value: u64| {
            self.calls.push(call(libc::SYS_setsockopt, [number, level as u64, name as u64, value, 4]));
        };
        if *reuse_address {
            set(libc::SOL_SOCKET, libc::SO_REUSEADDR, one);
        }
        if *reuse_port {
            set(libc::SOL_SOCKET, libc::SO_REUSEPORT, one);
        }
        if address.is_ipv6() {
            set(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, if *only_v6 { one } else { zero });
        }
        let (address, bytes) = self.socket_address(address);
        self.calls.push(call(libc::SYS_bind, [number, address, bytes]));
        self.calls.push(call(libc::SYS_listen, [number, u64::from(*backlog)]));
    }

    /// Connects anew, from the same port: who accepts it knows what it is, and the process the address that it had. No code
    /// of the process has run by then, so that it is the first to be accepted.
    fn connection(&mut self, descriptor: &Descriptor) {
        let Object::Connection { local, peer, flags, options } = &descriptor.object else { return };
        let ConnectionOptions { no_delay, keep_alive, keep_idle, keep_interval, keep_count, user_timeout } =
            *options;
        let number = u64::from(descriptor.number);
        let kind = libc::SOCK_STREAM as u64;
        self.calls.push(call(libc::SYS_socket, [libc::AF_INET as u64, kind, 0]).keep(0));
        self.place(descriptor);
        for (level, name, value) in [
            (libc::IPPROTO_TCP, libc::TCP_NODELAY, u32::from(no_delay)),
            (libc::SOL_SOCKET, libc::SO_KEEPALIVE, u32::from(keep_alive)),
            (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, keep_idle),
            (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, keep_interval),
            (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, keep_count),
            (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, user_timeout),
        ] {
            let value = self.arena.put(&value.to_le_bytes());
            self.calls.push(call(libc::SYS_setsockopt, [number, level as u64, name as u64, value, 4]));
        }
        for (number_of_call, address) in [(libc::SYS_bind, local), (libc::SYS_connect, peer)] {
            let (address, bytes) = self.socket_address(&SocketAddr::V4(*address));
            self.calls.push(call(number_of_call, [number, address, bytes]));
        }
        self.status_flags(descriptor.number, *flags);
    }

    /// `struct sockaddr_in` or `sockaddr_in6`.
    fn socket_address(&mut self, address: &SocketAddr) -> (u64, u64) {
        let mut bytes = Vec::with_capacity(28);
        match address {
            SocketAddr::V4(v4) => {
                bytes.extend_from_slice(&(libc::AF_INET as u16).to_le_bytes());
                bytes.extend_from_slice(&v4.port().to_be_bytes());
                bytes.extend_from_slice(&v4.ip().octets());
                bytes.extend_from_slice(&[0; 8]);
            }
            SocketAddr::V6(v6) => {
                bytes.extend_from_slice(&(libc::AF_INET6 as u16).to_le_bytes());
                bytes.extend_from_slice(&v6.port().to_be_bytes());
                bytes.extend_from_slice(&v6.flowinfo().to_be_bytes());
                bytes.extend_from_slice(&v6.ip().octets());
                bytes.extend_from_slice(&v6.scope_id().to_le_bytes());
            }
        }
        (self.arena.put(&bytes), bytes.len() as u64)
    }

    fn register(&mut self, epoll: u32, (number, events, data): (u32, u32, u64)) {
        // `struct epoll_event` is packed on x86-64.
        let mut event = events.to_le_bytes().to_vec();
        event.extend_from_slice(&data.to_le_bytes());
        let event = self.arena.put(&event);
        let add = libc::EPOLL_CTL_ADD as u64;
        self.calls.push(call(libc::SYS_epoll_ctl, [u64::from(epoll), add, u64::from(number), event]));
    }

    fn text(&mut self, text: &str) -> u64 {
        // The check of the metadata has refused zeros.
        let text = CString::new(text).unwrap_or_default();
        self.arena.text(&text)
    }
}

/// `O_CLOEXEC` for dup3.
fn close_on_exec(descriptor: &Descriptor) -> u64 {
    if descriptor.close_on_exec { libc::O_CLOEXEC as u64 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It blocks until it is connected, and is what it was only then.
    #[test]
    fn a_connection_is_made_from_its_old_port_and_then_what_it_was() {
        let options = ConnectionOptions {
            no_delay: true,
            keep_alive: true,
            keep_idle: 60,
            keep_interval: 5,
            keep_count: 3,
            user_timeout: 0,
        };
        let object = Object::Connection {
            local: "127.0.0.1:40000".parse().unwrap(),
            peer: "127.0.0.1:9001".parse().unwrap(),
            flags: libc::O_NONBLOCK.cast_unsigned(),
            options,
        };
        let descriptor = Descriptor { number: 7, close_on_exec: true, object };
        let mut arena = Arena::new(abi::PLAN);
        let calls = reopen(&[descriptor], 0, &mut arena);
        let memory = arena.into_bytes();
        let at = |address: u64, bytes: usize| {
            let at = (address - abi::PLAN) as usize;
            memory[at..at + bytes].to_vec()
        };
        let of = |number: i64| {
            let calls = calls.iter().enumerate().filter(move |(_, call)| i64::from(call.number) == number);
            calls.map(|(index, call)| (index, call.args)).collect::<Vec<_>>()
        };
        let address = |port: u16| [&[2, 0], &port.to_be_bytes()[..], &[127, 0, 0, 1], &[0; 8]].concat();
        let (bind, connect) = (of(libc::SYS_bind)[0], of(libc::SYS_connect)[0]);
        assert_eq!((bind.1[0], at(bind.1[1], 16)), (7, address(40_000)));
        assert_eq!((connect.1[0], at(connect.1[1], 16)), (7, address(9001)));
        assert_eq!(of(libc::SYS_socket)[0].1[..3], [2, 1, 0]);
        let set: Vec<_> =
            of(libc::SYS_setsockopt).iter().map(|(_, a)| (a[1], a[2], at(a[3], 4)[0])).collect();
        assert_eq!(set, [(6, 1, 1), (1, 9, 1), (6, 4, 60), (6, 5, 5), (6, 6, 3), (6, 18, 0)]);
        let (blocks, nonblock) = (connect.0, of(libc::SYS_fcntl)[0]);
        assert_eq!(nonblock.1[..3], [7, libc::F_SETFL as u64, libc::O_NONBLOCK as u64]);
        assert!(bind.0 < blocks && blocks < nonblock.0);
        let placed = of(libc::SYS_dup3).last().unwrap().1;
        assert_eq!(placed[1..3], [7, libc::O_CLOEXEC as u64]);
    }
}
