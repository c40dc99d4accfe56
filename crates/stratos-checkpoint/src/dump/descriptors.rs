//! What is open, from /proc/PID/fd and fdinfo, and for pipes and sockets from the files themselves.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::sockopt;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use stratos_restorer::abi;
use stratos_sys::pagemap::same_open_file;
use stratos_sys::ptrace::Tracee;

use super::{Connection, DumpError, Park, While as _, link, read};
use crate::image::{Descriptor, Object, REOPENED, may_be_opened};

/// What a new pipe holds.
const MOST_PIPE_CONTENTS: usize = 64 << 10;

/// A descriptor as /proc shows it.
pub(super) struct Open {
    pub(super) number: u32,
    target: String,
    info: String,
}

impl Open {
    fn info(&self, name: &str) -> Option<&str> {
        let line = self.info.lines().find(|line| line.split(':').next() == Some(name))?;
        line.split_once(':').map(|(_, value)| value.trim())
    }

    pub(super) fn flags(&self) -> i32 {
        self.info("flags").and_then(|text| i32::from_str_radix(text, 8).ok()).unwrap_or(0)
    }

    pub(super) fn refuse(&self, what: &str) -> DumpError {
        DumpError::refused(format!("its descriptor {} ({}) {what}", self.number, self.target))
    }
}

/// `connection`: the only one that it may have.
pub(super) fn describe(
    pid: i32,
    inherited: u32,
    connection: Option<Connection>,
) -> Result<Vec<Descriptor>, DumpError> {
    let open = list(pid)?;
    let context = Context { pid, pidfd: open_process(pid)?, open: &open, connection };
    let mut described: Vec<Descriptor> = Vec::with_capacity(open.len());
    let mut known = Known::default();
    for entry in &open {
        let object = if entry.number < inherited {
            context.inherited(entry)?
        } else if let Some(of) = context.duplicate_of(entry)? {
            Object::Duplicate { of }
        } else {
            context.object(entry, &mut known)?
        };
        let close_on_exec = entry.flags() & libc::O_CLOEXEC != 0;
        described.push(Descriptor { number: entry.number, close_on_exec, object });
    }
    refuse_watched_connection(&open, &described)?;
    Ok(described)
}

/// What epoll(7) has told of a connection, and what it still will, is bound to the connection that is lost.
fn refuse_watched_connection(open: &[Open], described: &[Descriptor]) -> Result<(), DumpError> {
    let Some(connection) = described.iter().find(|d| matches!(d.object, Object::Connection { .. })) else {
        return Ok(());
    };
    let is_it = |number: u32| {
        let duplicate = Object::Duplicate { of: connection.number };
        number == connection.number || described.iter().any(|d| d.number == number && d.object == duplicate)
    };
    let watches = |d: &&Descriptor| matches!(&d.object, Object::Epoll { entries } if entries.iter().any(|(number, ..)| is_it(*number)));
    let watching = described.iter().find(watches);
    match watching.and_then(|d| open.iter().find(|entry| entry.number == d.number)) {
        Some(entry) => Err(entry.refuse("watches the connection on which it waits for an answer")),
        None => Ok(()),
    }
}

/// One of the threads must wait for an answer on the connection.
pub(super) fn check_awaited(
    pid: i32,
    connection: &Connection,
    stopped: &[Tracee],
    memory: &File,
) -> Result<(), DumpError> {
    let open = list(pid)?;
    let context = Context { pid, pidfd: open_process(pid)?, open: &open, connection: None };
    let mut numbers = Vec::new();
    let mut socket = None;
    for entry in open.iter().filter(|entry| entry.target.starts_with("socket:[")) {
        let copy = context.copy(entry)?;
        if connection.is(&copy) {
            numbers.push(entry.number);
            socket = Some(copy);
        }
    }
    let socket = socket.ok_or(DumpError::NotParked { park: Park::Answer(*connection) })?;
    connection.check_awaited(&numbers, &socket, stopped, memory)
}

fn open_process(pid: i32) -> Result<OwnedFd, DumpError> {
    let process = Pid::from_raw(pid).ok_or_else(|| DumpError::refused("it has no number"))?;
    pidfd_open(process, PidfdFlags::empty()).map_err(Into::into).during(|| "open it".to_owned())
}

fn list(pid: i32) -> Result<Vec<Open>, DumpError> {
    let path = format!("/proc/{pid}/fd");
    let mut open = Vec::new();
    for entry in std::fs::read_dir(&path).during(|| format!("list {path}"))? {
        let name = entry.during(|| format!("list {path}"))?.file_name();
        let Some(number) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        let target = link(pid, &format!("fd/{number}"))?;
        let info = read(format!("/proc/{pid}/fdinfo/{number}"))?;
        open.push(Open { number, target, info });
    }
    open.sort_unstable_by_key(|entry| entry.number);
    match open.last() {
        Some(last) if last.number >= abi::TARGET_FDS.cast_unsigned() => Err(DumpError::refused(format!(
            "it has descriptors from {} on, the highest is {}",
            abi::TARGET_FDS,
            last.number
        ))),
        _ => Ok(open),
    }
}

/// Pipes and pairs that were met, by their number in the image.
#[derive(Default)]
struct Known {
    pipes: BTreeMap<String, u32>,
    /// By the number of the second descriptor: the pair that the first one began.
    pairs: BTreeMap<u32, u32>,
    pair_count: u32,
}

struct Context<'a> {
    pid: i32,
    pidfd: OwnedFd,
    open: &'a [Open],
    /// The one that is written down.
    connection: Option<Connection>,
}

impl Context<'_> {
    /// A copy of one of its descriptors.
    fn copy(&self, entry: &Open) -> Result<OwnedFd, DumpError> {
        pidfd_getfd(&self.pidfd, entry.number.cast_signed(), PidfdGetfdFlags::empty())
            .map_err(Into::into)
            .during(|| format!("copy its descriptor {}", entry.number))
    }

    /// The program may have put something else in the place of what it was given.
    fn inherited(&self, entry: &Open) -> Result<Object, DumpError> {
        let expected =
            if entry.number == 0 { entry.target == "/dev/null" } else { entry.target.starts_with("pipe:[") };
        if expected { Ok(Object::Inherited) } else { Err(entry.refuse("is not what it was given")) }
    }

    fn duplicate_of(&self, entry: &Open) -> Result<Option<u32>, DumpError> {
        let before = self.open.iter().take_while(|other| other.number < entry.number);
        for other in before.filter(|other| other.target == entry.target) {
            let (one, two) = (other.number.cast_signed(), entry.number.cast_signed());
            let same = same_open_file((self.pid, one), (self.pid, two));
            if same.during(|| "compare its descriptors (CONFIG_KCMP)".to_owned())? {
                return Ok(Some(other.number));
            }
        }
        Ok(None)
    }

    fn object(&self, entry: &Open, known: &mut Known) -> Result<Object, DumpError> {
        let target = entry.target.as_str();
        if target.starts_with("pipe:[") {
            return self.pipe(entry, &mut known.pipes);
        }
        if target.starts_with("socket:[") {
            return self.socket(entry, known);
        }
        match target {
            "anon_inode:[eventfd]" => return event_fd(entry),
            "anon_inode:[eventpoll]" => return epoll(entry),
            _ => {}
        }
        if let Some(kind) = target.strip_prefix("anon_inode:") {
            let kind = kind.trim_matches(['[', ']']);
            return Err(entry.refuse(&format!("is of a kind that a checkpoint cannot hold: {kind}")));
        }
        file(entry)
    }

    fn pipe(&self, entry: &Open, pipes: &mut BTreeMap<String, u32>) -> Result<Object, DumpError> {
        let of_it: Vec<_> = self.open.iter().filter(|other| other.target == entry.target).collect();
        let accesses: Vec<_> = of_it.iter().map(|other| other.flags() & libc::O_ACCMODE).collect();
        if !accesses.contains(&libc::O_RDONLY) || !accesses.contains(&libc::O_WRONLY) {
            return Err(entry.refuse("is a pipe to another process"));
        }
        let known = pipes.len() as u32;
        let pipe = *pipes.entry(entry.target.clone()).or_insert(known);
        let flags = entry.flags() & (libc::O_ACCMODE | libc::O_NONBLOCK | libc::O_DIRECT);
        let contents =
            if flags & libc::O_ACCMODE == libc::O_RDONLY { self.contents(entry)? } else { Vec::new() };
        Ok(Object::Pipe { pipe, flags: flags.cast_unsigned(), contents })
    }

    /// What is in a pipe, which stays in it.
    fn contents(&self, entry: &Open) -> Result<Vec<u8>, DumpError> {
        let end = self.copy(entry)?;
        let waiting = rustix::io::ioctl_fionread(&end)
            .map_err(Into::into)
            .during(|| "look into its pipe".to_owned())?;
        if waiting == 0 {
            return Ok(Vec::new());
        }
        if waiting > MOST_PIPE_CONTENTS as u64 {
            return Err(entry.refuse("holds more than a new pipe can"));
        }
        let during = || "copy what is in its pipe".to_owned();
        let (read, write) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(Into::into).during(during)?;
        let flags = rustix::pipe::SpliceFlags::NONBLOCK;
        let teed =
            rustix::pipe::tee(&end, &write, waiting as usize, flags).map_err(Into::into).during(during)?;
        let mut contents = vec![0; teed];
        let got = rustix::io::read(&read, &mut contents).map_err(Into::into).during(during)?;
        if got as u64 != waiting {
            return Err(entry.refuse("could not be looked into as a whole"));
        }
        Ok(contents)
    }

    fn socket(&self, entry: &Open, known: &mut Known) -> Result<Object, DumpError> {
        let socket = self.copy(entry)?;
        let during = || format!("look at its socket {}", entry.number);
        let domain = sockopt::socket_domain(&socket).map_err(Into::into).during(during)?;
        let inet = [rustix::net::AddressFamily::INET, rustix::net::AddressFamily::INET6].contains(&domain);
        let stream = sockopt::socket_type(&socket).map_err(Into::into).during(during)?
            == rustix::net::SocketType::STREAM;
        let listens = sockopt::socket_acceptconn(&socket).map_err(Into::into).during(during)?;
        match (inet, stream, listens) {
            (true, true, true) => listener(entry, socket),
            (true, true, false) => match self.connection {
                Some(connection) if connection.is(&socket) => connection.describe(entry, &socket),
                _ => Err(entry.refuse("is a TCP socket that does not listen, such as an open connection")),
            },
            (true, false, _) => Err(entry.refuse("is a UDP socket")),
            (false, true, false) if domain == rustix::net::AddressFamily::UNIX => {
                self.socket_pair(entry, &socket, known)
            }
            (false, ..) => Err(entry.refuse("is a socket of a kind that a checkpoint cannot hold")),
        }
    }

    /// One of two connected Unix sockets, as event loops use them to wake themselves.
    fn socket_pair(&self, entry: &Open, socket: &OwnedFd, known: &mut Known) -> Result<Object, DumpError> {
        let flags = (entry.flags() & libc::O_NONBLOCK).cast_unsigned();
        let socket_type = libc::SOCK_STREAM.cast_unsigned();
        if let Some(pair) = known.pairs.remove(&entry.number) {
            return Ok(Object::SocketPair { pair, socket_type, flags });
        }
        let other = self.other_end(entry, socket)?;
        let pair = known.pair_count;
        known.pair_count += 1;
        known.pairs.insert(other, pair);
        Ok(Object::SocketPair { pair, socket_type, flags })
    }

    /// The descriptor of the other end. No call tells it, but what is sent here arrives there: a byte, which is taken out
    /// again before the process goes on. There is nobody else to whom it could go, since the process is alone and its
    /// network is empty.
    fn other_end(&self, entry: &Open, socket: &OwnedFd) -> Result<u32, DumpError> {
        let during = || format!("look for the other end of its socket {}", entry.number);
        let waiting = |fd: &OwnedFd| rustix::io::ioctl_fionread(fd).map_err(Into::into).during(during);
        let after = self.open.iter().filter(|other| other.number > entry.number);
        let mut candidates = Vec::new();
        for other in
            after.filter(|other| other.target.starts_with("socket:[") && other.target != entry.target)
        {
            let copy = self.copy(other)?;
            let domain = sockopt::socket_domain(&copy).map_err(Into::into).during(during)?;
            if domain == rustix::net::AddressFamily::UNIX && waiting(&copy)? == 0 {
                candidates.push((other.number, copy));
            }
        }
        if waiting(socket)? != 0 || candidates.is_empty() {
            return Err(entry.refuse("is a socket with something on its way, or without another end here"));
        }
        let flags = rustix::net::SendFlags::NOSIGNAL | rustix::net::SendFlags::DONTWAIT;
        rustix::net::send(socket, b"?", flags).map_err(Into::into).during(during)?;
        for (number, candidate) in &candidates {
            if waiting(candidate)? == 1 {
                let mut byte = [0];
                let flags = rustix::net::RecvFlags::DONTWAIT;
                rustix::net::recv(candidate, &mut byte, flags).map_err(Into::into).during(during)?;
                return Ok(*number);
            }
        }
        Err(entry.refuse("is a socket without another end here"))
    }
}

fn listener(entry: &Open, socket: impl AsFd) -> Result<Object, DumpError> {
    let during = || format!("look at its socket {}", entry.number);
    let address = rustix::net::getsockname(&socket).map_err(Into::into).during(during)?;
    let address =
        SocketAddr::try_from(address).map_err(|_| entry.refuse("listens on an unknown kind of address"))?;
    let flag = |value: rustix::io::Result<bool>| value.map_err(Into::into).during(during);
    Ok(Object::Listener {
        address,
        backlog: stratos_sys::socket::listen_backlog(&socket).during(during)?,
        flags: (entry.flags() & libc::O_NONBLOCK).cast_unsigned(),
        only_v6: address.is_ipv6() && flag(sockopt::ipv6_v6only(&socket))?,
        reuse_address: flag(sockopt::socket_reuseaddr(&socket))?,
        reuse_port: flag(sockopt::socket_reuseport(&socket))?,
    })
}

fn event_fd(entry: &Open) -> Result<Object, DumpError> {
    let count = entry.info("eventfd-count").and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    let count = count.filter(|count| u32::try_from(*count).is_ok());
    let count = count.ok_or_else(|| entry.refuse("is an event descriptor with an unknown count"))?;
    let semaphore = entry.info("eventfd-semaphore") == Some("1");
    let nonblock = entry.flags() & libc::O_NONBLOCK;
    let flags = nonblock | if semaphore { libc::EFD_SEMAPHORE } else { 0 };
    Ok(Object::EventFd { count, flags: flags.cast_unsigned() })
}

/// Lines such as `tfd:       13 events:       19 data:               13  pos:0 ino:1 sdev:2`.
fn epoll(entry: &Open) -> Result<Object, DumpError> {
    let mut entries = Vec::new();
    for line in entry.info.lines().filter(|line| line.starts_with("tfd:")) {
        let words: Vec<_> = line.split([':', ' ']).filter(|word| !word.is_empty()).collect();
        let after = |name: &str| words.iter().position(|word| *word == name).and_then(|at| words.get(at + 1));
        let number = after("tfd").and_then(|text| text.parse().ok());
        let events = after("events").and_then(|text| u32::from_str_radix(text, 16).ok());
        let data = after("data").and_then(|text| u64::from_str_radix(text, 16).ok());
        match (number, events, data) {
            (Some(number), Some(events), Some(data)) => entries.push((number, events, data)),
            _ => return Err(entry.refuse("watches what the kernel does not tell")),
        }
    }
    Ok(Object::Epoll { entries })
}

fn file(entry: &Open) -> Result<Object, DumpError> {
    let path = entry.target.clone();
    if path.ends_with(" (deleted)") || !path.starts_with('/') {
        return Err(entry.refuse("is a file that has no name any more"));
    }
    if !may_be_opened(&path) {
        return Err(entry.refuse("is a file that another instance does not have"));
    }
    let position = entry.info("pos").and_then(|text| text.parse().ok());
    let position = position.ok_or_else(|| entry.refuse("has an unknown position"))?;
    Ok(Object::File { path, flags: (entry.flags() & REOPENED).cast_unsigned(), position })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(target: &str, info: &str) -> Open {
        Open { number: 9, target: target.to_owned(), info: info.to_owned() }
    }

    #[test]
    fn descriptors_are_read_as_the_kernel_shows_them() {
        let info = "pos:\t0\nflags:\t02\nmnt_id:\t16\nino:\t2\n\
                    tfd:       13 events:       19 data:               d  pos:0 ino:1 sdev:2\n\
                    tfd:        5 events: 80000001 data: ffffffff00000005  pos:0 ino:1 sdev:2\n";
        let entries = vec![(13, 0x19, 13), (5, 0x8000_0001, 0xffff_ffff_0000_0005)];
        assert_eq!(epoll(&open("anon_inode:[eventpoll]", info)).unwrap(), Object::Epoll { entries });
        let info = "pos:\t0\nflags:\t02004002\neventfd-count:                3\neventfd-id: 4\neventfd-semaphore: 1\n";
        let event = event_fd(&open("anon_inode:[eventfd]", info)).unwrap();
        assert_eq!(event, Object::EventFd { count: 3, flags: 0o4001 });
        let info = "pos:\t17\nflags:\t0102000\n";
        let plain = file(&open("/var/task/data", info)).unwrap();
        assert_eq!(plain, Object::File { path: "/var/task/data".to_owned(), flags: 0o2000, position: 17 });
    }

    #[test]
    fn files_that_another_instance_lacks_are_refused() {
        for path in ["/tmp/x", "/var/x (deleted)", "/proc/self/status", "memfd:x"] {
            assert!(file(&open(path, "pos:\t0\n")).is_err(), "{path}");
        }
    }
}
