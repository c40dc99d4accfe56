//! Events of watched cgroups, read by a thread of their own from the ring that programs write to.

use std::io::{self, PipeReader, PipeWriter, pipe};
use std::os::fd::AsFd as _;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use libbpf_rs::{MapHandle, RingBufferBuilder};
use rustix::event::{PollFd, PollFlags, poll};

use crate::CgroupId;
use crate::layout::{EVENT_BYTES, Fields};

/// Something that happened in a watched cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When, since the machine's start without suspends (CLOCK_MONOTONIC).
    pub at: Duration,
    /// Where.
    pub cgroup: CgroupId,
    /// The process, as the host numbers it.
    pub pid: u32,
    /// Name of its main thread, at most 15 bytes.
    pub name: String,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// It executes a program.
    Exec,
    /// A seccomp filter kills it for a system call.
    Denied {
        /// The call's number.
        number: u32,
        /// It is that of another architecture, such as of 32-bit programs.
        foreign: bool,
    },
    /// It ended.
    Exit {
        /// What it gave to exit(3), when it was not killed.
        code: Option<i32>,
        /// The signal that killed it.
        signal: Option<i32>,
        /// The kernel had chosen it for lack of memory.
        out_of_memory: bool,
        /// Most memory it has had, mapped files included, KiB.
        max_rss_kib: u64,
    },
}

impl Event {
    fn read(bytes: &[u8]) -> Option<Self> {
        const EXEC: u32 = 1;
        const EXIT: u32 = 2;
        const DENIED: u32 = 3;
        const OUT_OF_MEMORY: u32 = 1;
        const FOREIGN: u32 = 2;
        if bytes.len() < EVENT_BYTES {
            return None;
        }
        let mut fields = Fields(bytes);
        let at = Duration::from_nanos(fields.u64());
        let cgroup = CgroupId(fields.u64());
        let (kind, flags, pid, status) = (fields.u32(), fields.u32(), fields.u32(), fields.u32());
        let max_rss_kib = fields.u64() * (rustix::param::page_size() as u64 / 1024);
        let name: [u8; 16] = fields.bytes();
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        // As wait(2) gives it: the signal in the low bits, else the code above them.
        let signal = (status & 0x7f).cast_signed();
        let what = match kind {
            EXEC => What::Exec,
            DENIED => What::Denied { number: status, foreign: flags & FOREIGN != 0 },
            EXIT => What::Exit {
                code: (signal == 0).then_some(((status >> 8) & 0xff).cast_signed()),
                signal: (signal != 0).then_some(signal),
                out_of_memory: flags & OUT_OF_MEMORY != 0,
                max_rss_kib,
            },
            _ => return None,
        };
        Some(Self { at, cgroup, pid, name: String::from_utf8_lossy(name).into_owned(), what })
    }
}

/// The reading of events, by a thread of its own. Dropping it ends that, once the event that is told now is told.
pub struct Events {
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Events {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the reader of events panicked");
        }
    }
}

/// Reads the ring and tells each event.
pub(crate) fn read(map: MapHandle, tell: impl FnMut(Event) + Send + 'static) -> io::Result<Events> {
    let (stopped, stop) = pipe()?;
    let thread = thread::Builder::new().name("events".into()).spawn(move || {
        if let Err(error) = pump(&map, tell, &stopped) {
            tracing::error!(%error, "the kernel's events cannot be read any more");
        }
    })?;
    Ok(Events { stop: Some(stop), thread: Some(thread) })
}

/// Tells events until the pipe is closed.
fn pump(map: &MapHandle, mut tell: impl FnMut(Event), stopped: &PipeReader) -> io::Result<()> {
    let mut builder = RingBufferBuilder::new();
    let pass_on = |bytes: &[u8]| {
        if let Some(event) = Event::read(bytes) {
            tell(event);
        }
        0
    };
    builder.add(map, pass_on).map_err(io::Error::other)?;
    let ring = builder.build().map_err(io::Error::other)?;
    loop {
        let (events, stop) = (map.as_fd(), stopped.as_fd());
        let mut waits = [PollFd::new(&events, PollFlags::IN), PollFd::new(&stop, PollFlags::IN)];
        match poll(&mut waits, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if !waits[1].revents().is_empty() {
            return Ok(());
        }
        ring.consume().map_err(io::Error::other)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: u32, flags: u32, status: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(7_u64.to_ne_bytes());
        bytes.extend(99_u64.to_ne_bytes());
        for field in [kind, flags, 1234, status] {
            bytes.extend(field.to_ne_bytes());
        }
        bytes.extend(2_u64.to_ne_bytes());
        bytes.extend(b"worker\0\0\0\0\0\0\0\0\0\0");
        bytes
    }

    #[test]
    fn events_are_read_as_they_are_written() {
        let exec = Event::read(&event(1, 0, 0)).unwrap();
        assert_eq!((exec.cgroup, exec.pid, exec.name.as_str()), (CgroupId(99), 1234, "worker"));
        assert_eq!((exec.at, exec.what), (Duration::from_nanos(7), What::Exec));
        let page = rustix::param::page_size() as u64 / 1024;
        let exit = |flags, status| Event::read(&event(2, flags, status)).unwrap().what;
        let what =
            |code, signal, out_of_memory| What::Exit { code, signal, out_of_memory, max_rss_kib: 2 * page };
        assert_eq!(exit(0, 3 << 8), what(Some(3), None, false));
        assert_eq!(exit(1, 9), what(None, Some(9), true));
        let denied = |flags| Event::read(&event(3, flags, 165)).unwrap().what;
        assert_eq!(denied(0), What::Denied { number: 165, foreign: false });
        assert_eq!(denied(2), What::Denied { number: 165, foreign: true });
        // With a core dump.
        assert_eq!(exit(0, 11 | 0x80), what(None, Some(11), false));
        assert_eq!(Event::read(&event(9, 0, 0)), None);
        assert_eq!(Event::read(&event(1, 0, 0)[..55]), None);
    }
}
